defmodule ErlBridge.ReaperTest do
  use ExUnit.Case, async: true

  alias ErlBridge.{OsProcess, Reaper, Stderr}

  # An OS process that never ends by itself, and a process that has the reaper of that name watch it.
  defp watched(reaper, grace) do
    port = Port.open({:spawn, "sleep 600"}, [:exit_status])
    {:os_pid, os_pid} = Port.info(port, :os_pid)
    test = self()

    owner =
      spawn(fn ->
        send(test, {:watch, GenServer.call(reaper, {:watch, os_pid, grace})})
        receive do: (:end -> :ok)
      end)

    assert_receive {:watch, watch}
    %{owner: owner, os_pid: os_pid, port: port, watch: watch}
  end

  test "what is watched is killed when its owner has ended and its grace is over" do
    %{owner: owner, port: port} = watched(Reaper, 0)
    send(owner, :end)
    assert_receive {^port, {:exit_status, 137}}
  end

  test "what is released outlives its owner" do
    %{owner: owner, os_pid: os_pid, port: port, watch: watch} = watched(Reaper, 0)
    Reaper.release(watch)
    send(owner, :end)
    assert %{watched: watched} = :sys.get_state(Reaper)
    refute is_map_key(watched, watch)
    assert OsProcess.alive?(os_pid)
    OsProcess.signal(os_pid, "KILL")
    assert_receive {^port, {:exit_status, 137}}
  end

  test "what waits for its grace is killed when the reaper stops" do
    {:ok, reaper} = GenServer.start_link(Reaper, nil)
    %{owner: owner, port: port} = watched(reaper, 600_000)
    send(owner, :end)
    await(fn -> MapSet.size(:sys.get_state(reaper).doomed) == 1 end)
    GenServer.stop(reaper)
    assert_receive {^port, {:exit_status, 137}}
  end

  test "a reader of a pipe that nobody opens is gone with who reads" do
    {:ok, pipe} = Stderr.make_pipe()
    {:ok, stderr} = Stderr.start_link(pipe, :none, "nobody")
    {:os_pid, reader} = Port.info(:sys.get_state(stderr).port, :os_pid)
    assert [] = Stderr.stop(stderr, 0)
    Stderr.remove_pipe(pipe)
    await(fn -> not OsProcess.alive?(reader) end)
  end

  # Until it is so; the test's own timeout is the end of it.
  defp await(so?), do: so?.() or await(so?)
end
