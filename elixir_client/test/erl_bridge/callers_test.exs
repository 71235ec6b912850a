defmodule ErlBridge.CallersTest do
  use ExUnit.Case, async: true
  doctest ErlBridge.Callers

  alias ErlBridge.Callers

  test "a caller is monitored once, however many requests it has" do
    caller = caller()

    callers =
      Enum.reduce(1..3, Callers.new(), fn _n, callers -> Callers.join(callers, caller) end)

    assert monitored() == [caller]
    assert {true, callers} = callers |> Callers.leave(caller) |> Callers.ended(caller)
    assert Callers.count(callers) == 0
  end

  test "one that has nothing under way ends without having had to" do
    caller = caller()
    callers = Callers.new() |> Callers.join(caller) |> Callers.leave(caller)

    assert {false, callers} = Callers.ended(callers, caller)
    assert Callers.leave(callers, caller) == callers
    assert {false, ^callers} = Callers.ended(callers, caller)
  end

  test "the idle are forgotten, the busy are not, and a DOWN that has come already neither stays" do
    [idle, busy] = [caller(), caller()]
    callers = Callers.new() |> Callers.join(idle) |> Callers.join(busy) |> Callers.leave(idle)
    monitor = Process.monitor(idle)
    send(idle, :end)
    assert_receive {:DOWN, ^monitor, :process, ^idle, _reason}

    callers = Callers.forget_idle(callers)

    assert Callers.count(callers) == 1
    assert monitored() == [busy]
    refute_received {:DOWN, _monitor, :process, _pid, _reason}
  end

  test "many that come once each are not kept, and those that are busy do not make each newcomer look at all" do
    idle = for _n <- 1..200, do: caller()

    callers =
      Enum.reduce(idle, Callers.new(), fn caller, callers ->
        callers |> Callers.join(caller) |> Callers.leave(caller)
      end)

    assert Callers.count(callers) <= 64
    assert length(monitored()) == Callers.count(callers)

    busy = for _n <- 1..100, do: caller()
    callers = Enum.reduce(busy, callers, &Callers.join(&2, &1))
    assert Callers.count(callers) in 100..200
    assert Callers.count(Callers.forget_idle(callers)) == 100
  end

  defp caller, do: spawn_link(fn -> receive(do: (:end -> :ok)) end)

  defp monitored do
    {:monitors, monitors} = Process.info(self(), :monitors)
    for {:process, pid} <- monitors, do: pid
  end
end
