defmodule ErlBridge.ChaosTest do
  @moduledoc "What nobody hopes for, at the worst moment: nothing may hang, leak or be answered wrongly."
  use ExUnit.Case, async: true

  alias ErlBridge.{Live, OsProcess, Route}

  @moduletag :capture_log

  describe "resize" do
    test "again before those that it started are up, and back" do
      bridge = Live.start!(pool_size: 1)
      pool = pool(bridge)

      for size <- [3, 1, 3, 2, 3, 1, 3], do: assert(:ok = ErlBridge.resize(bridge, size))
      await_all_up(bridge, 3)
      for size <- [1, 2], do: assert(:ok = ErlBridge.resize(bridge, size))
      await_all_up(bridge, 2)

      assert pool(bridge) == pool
      await_workers(bridge, 2)
    end

    test "during a rolling restart: what is replaced may be gone by then" do
      bridge = Live.start!(pool_size: 3)
      await_all_up(bridge, 3)
      pool = pool(bridge)
      rolling = Task.async(fn -> ErlBridge.rolling_restart(bridge) end)
      # A fourth worker: the replacement of the first is under way.
      await_workers(bridge, 4)

      assert :ok = ErlBridge.resize(bridge, 1)
      assert :ok = Task.await(rolling, 20_000)
      await_workers(bridge, 1)
      assert pool(bridge) == pool
      assert {:ok, :healthy} = ErlBridge.health_check(bridge)
    end

    test "gets rid of a worker that is stuck in a write to a suspended Python" do
      bridge = Live.start!(pool_size: 2, shutdown_timeout: 1)
      [kept, suspended] = await_all_up(bridge, 2)
      {:ok, %Route{workers: {_kept, {stuck, _load}}}} = Route.lookup(bridge)
      OsProcess.signal(suspended, "STOP")

      # More than the pipe holds, for a worker that has nothing to do with the queue.
      body = ErlBridge.Protocol.body(ErlBridge.Protocol.encode(:echo, %{x: large()}), %{})
      for _n <- 1..8, do: send(stuck, {:cast, nil, body})
      await(fn -> Process.info(stuck, :status) == {:status, :suspended} end)

      assert :ok = ErlBridge.resize(bridge, 1)
      await(fn -> not Process.alive?(stuck) end)
      await(fn -> not OsProcess.alive?(suspended) end)
      assert [^kept] = await_all_up(bridge, 1)
    end
  end

  defp large, do: :binary.copy("x", 1_000_000)

  defp pool(bridge) do
    {:ok, %Route{pool: pool}} = Route.lookup(bridge)
    pool
  end

  defp await_all_up(bridge, size) do
    await(fn ->
      {:ok, workers} = ErlBridge.workers(bridge)
      length(workers) == size and Enum.all?(workers, &(&1.phase == :up))
    end)

    {:ok, workers} = ErlBridge.workers(bridge)
    Enum.map(workers, & &1.os_pid)
  end

  # Those that leave count, too.
  defp await_workers(bridge, count) do
    await(fn ->
      DynamicSupervisor.count_children(ErlBridge.Worker.supervisor(bridge)).active == count
    end)
  end

  # Until it is so; the test's own timeout is the end of it.
  defp await(so?) do
    unless so?.() do
      Process.sleep(5)
      await(so?)
    end
  end
end
