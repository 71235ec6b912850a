defmodule ErlBridge.InflightTest do
  use ExUnit.Case, async: true
  doctest ErlBridge.Inflight

  alias ErlBridge.{Inflight, Protocol}

  test "each request gets an id of its own" do
    {ids, _inflight} =
      Enum.map_reduce(1..100, Inflight.new(), fn _n, inflight ->
        {id, inflight} = Inflight.add(inflight, request())
        {id, inflight}
      end)

    assert ids == Enum.to_list(256..355)
  end

  test "ids start again after the last, past those still taken" do
    {first, inflight} = Inflight.add(Inflight.new(), request())
    {last, inflight} = Inflight.add(%{inflight | next_id: 0x7FFFFFFF}, request())
    {next, _inflight} = Inflight.add(inflight, request())

    assert {first, last, next} == {Protocol.first_id(), 0x7FFFFFFF, Protocol.first_id() + 1}
  end

  test "a request is found by where its reply goes" do
    request = request()
    {id, inflight} = Inflight.add(Inflight.new(), request)

    assert Inflight.id_of(inflight, request.reply_to) == id
    assert Inflight.awaited(inflight) == [request]
  end

  test "a finished request leaves nothing behind but who asked, and that for a while" do
    {id, inflight} = Inflight.add(Inflight.new(), request())
    inflight = Inflight.add_task(inflight, self(), id, 1)
    {_request, [_task], inflight} = Inflight.finish(inflight, id)

    assert Inflight.forget_idle(inflight) == %{Inflight.new() | next_id: id + 1}
  end

  test "an abandoned request keeps its id, and nothing else, until Python has answered" do
    request = request()
    {id, inflight} = Inflight.add(Inflight.new(), request)

    assert {^request, [], inflight} = Inflight.abandon(inflight, id)
    assert Inflight.request(inflight, id) == nil
    assert Inflight.awaited(inflight) == []
    assert Inflight.id_of(inflight, request.reply_to) == nil

    assert {other, inflight} = Inflight.add(%{inflight | next_id: id}, request())
    assert other != id

    assert {%{bytes: 10}, [], inflight} = Inflight.finish(inflight, id)
    assert {^id, _inflight} = Inflight.add(%{inflight | next_id: id}, request())
  end

  test "a reply to nothing known changes nothing" do
    {_id, inflight} = Inflight.add(Inflight.new(), request())

    assert Inflight.finish(inflight, 9999) == {nil, [], inflight}
  end

  test "tasks belong to their request and end with it" do
    [one, two, other] = for _n <- 1..3, do: spawn(fn -> :ok end)
    {id, inflight} = Inflight.add(Inflight.new(), request())
    {other_id, inflight} = Inflight.add(inflight, request())

    inflight =
      inflight
      |> Inflight.add_task(one, id, 1)
      |> Inflight.add_task(two, id, 2)
      |> Inflight.add_task(other, other_id, 3)

    assert {2, inflight} = Inflight.pop_task(inflight, two)
    assert {nil, inflight} = Inflight.pop_task(inflight, two)
    assert {_request, [^one], inflight} = Inflight.finish(inflight, id)
    assert {nil, inflight} = Inflight.pop_task(inflight, one)
    assert {3, _inflight} = Inflight.pop_task(inflight, other)
  end

  test "the worker's own requests are awaited by nobody" do
    {id, inflight} = Inflight.add(Inflight.new(), %{bytes: nil})

    assert Inflight.request(inflight, id) == nil
    assert Inflight.awaited(inflight) == []
    assert {%{bytes: nil}, [], inflight} = Inflight.finish(inflight, id)
    assert inflight == %{Inflight.new() | next_id: id + 1}
  end

  describe "a caller" do
    test "is monitored once, however many requests it has, and they are found by it" do
      caller = caller()
      {ids, inflight} = Enum.map_reduce([caller, caller], Inflight.new(), &ask(&2, &1))
      {_another, inflight} = ask(inflight, caller())
      {_own, inflight} = Inflight.add(inflight, %{bytes: nil})

      assert Enum.count(monitored(), &(&1 == caller)) == 1
      assert {^ids, inflight} = Inflight.ended(inflight, caller)
      assert {^ids, _inflight} = Inflight.ended(inflight, caller)
    end

    test "that has nothing under way ends without having had to" do
      caller = caller()
      inflight = asked(Inflight.new(), caller)

      assert monitored() == [caller]
      assert {[], inflight} = Inflight.ended(inflight, caller)
      assert Inflight.forget_idle(inflight) == inflight
    end

    test "is forgotten when it is idle, and a DOWN of it that has come already" do
      [idle, busy] = [caller(), caller()]
      {_id, inflight} = Inflight.new() |> asked(idle) |> ask(busy)
      monitor = Process.monitor(idle)
      send(idle, :end)
      assert_receive {:DOWN, ^monitor, :process, ^idle, _reason}

      assert {[_busy], _inflight} = inflight |> Inflight.forget_idle() |> Inflight.ended(busy)
      assert monitored() == [busy]
      refute_received {:DOWN, _monitor, :process, _pid, _reason}
    end

    test "that comes once is not kept when many do, and those that are busy do not make each newcomer look at all" do
      inflight = Enum.reduce(1..200, Inflight.new(), fn _n, all -> asked(all, caller()) end)
      assert length(monitored()) in 1..64

      inflight = Enum.reduce(1..100, inflight, fn _n, all -> all |> ask(caller()) |> elem(1) end)
      assert length(monitored()) in 100..200

      Inflight.forget_idle(inflight)
      assert length(monitored()) == 100
    end

    test "is forgotten when everything is over at once" do
      {_id, inflight} = ask(Inflight.new(), caller())

      assert {[_request], [], _inflight} = Inflight.drain(inflight)
      assert monitored() == []
    end
  end

  defp caller, do: spawn_link(fn -> receive(do: (:end -> :ok)) end)

  defp ask(inflight, caller), do: Inflight.add(inflight, %{request() | caller: caller})

  defp asked(inflight, caller) do
    {id, inflight} = ask(inflight, caller)
    {_request, [], inflight} = Inflight.finish(inflight, id)
    inflight
  end

  defp monitored do
    {:monitors, monitors} = Process.info(self(), :monitors)
    for {:process, pid} <- monitors, do: pid
  end

  defp request do
    %{
      reply_to: make_ref(),
      caller: self(),
      bytes: 10,
      events?: false,
      callbacks: %{},
      deadline: :infinity
    }
  end
end
