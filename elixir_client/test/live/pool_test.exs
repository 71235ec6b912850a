defmodule ErlBridge.PoolTest do
  @moduledoc "A bridge with several Pythons: where requests go, how they wait, what replaces what."
  use ExUnit.Case, async: true

  alias ErlBridge.{Error, Live, OsProcess}

  describe "workers" do
    test "each is a Python of its own, and requests go to the one with the least to do" do
      bridge = Live.start!(pool_size: 2)
      [first, second] = await_all_up(bridge)
      waiting = Live.wait(bridge)

      assert [%{in_flight: 1}, %{in_flight: 0}] = workers(bridge)
      assert {:ok, ^second} = os_pid(bridge)
      assert {:ok, true} = ErlBridge.cancel(bridge, waiting.pid)
      assert {:error, %Error{type: :cancelled}} = Task.await(waiting, :infinity)
      assert first != second
    end

    test "those of a session meet the same one" do
      bridge = Live.start!(pool_size: 3)
      await_all_up(bridge)

      met =
        for session <- 1..12,
            _n <- 1..3,
            uniq: true,
            do: {session, os_pid!(bridge, session: session)}

      assert length(met) == 12
      assert met |> Enum.map(&elem(&1, 1)) |> Enum.uniq() |> length() > 1
    end

    @tag :capture_log
    test "one that dies costs what it had in flight and nothing else" do
      bridge = Live.start!(pool_size: 2)
      [first, second] = await_all_up(bridge)
      on_first = Live.wait(bridge)
      on_second = Live.wait(bridge)
      OsProcess.signal(first, "KILL")

      assert {:error, %Error{type: :process_crashed}} = Task.await(on_first, :infinity)
      assert {:ok, true} = ErlBridge.cancel(bridge, on_second.pid)
      assert {:error, %Error{type: :cancelled}} = Task.await(on_second, :infinity)
      assert [again, ^second] = await_all_up(bridge)
      assert again != first
    end

    test "an id is one for all workers" do
      bridge = Live.start!(pool_size: 2)
      await_all_up(bridge)
      waiting = Live.wait(bridge)

      assert {:error, %Error{type: :invalid_request}} =
               ErlBridge.call(bridge, :echo, %{}, id: waiting.pid)

      assert {:ok, true} = ErlBridge.cancel(bridge, waiting.pid)
    end
  end

  describe "the queue" do
    test "takes what no worker has room for, and gives it room when there is" do
      bridge = Live.start!(max_in_flight: 1)
      waiting = Live.wait(bridge)
      queued = for n <- 1..5, do: Task.async(fn -> ErlBridge.call(bridge, :echo, %{"n" => n}) end)
      await_queue(bridge, 5)

      assert {:ok, true} = ErlBridge.cancel(bridge, waiting.pid)
      assert Task.await_many(queued, :infinity) == for(n <- 1..5, do: {:ok, %{"n" => n}})
      await_idle(bridge)
    end

    test "has an end" do
      bridge = Live.start!(max_in_flight: 1, max_queue: 1)
      waiting = Live.wait(bridge)
      queued = Task.async(fn -> ErlBridge.call(bridge, :echo, %{}) end)
      await_queue(bridge, 1)

      assert {:error, %Error{type: :pool_exhausted, strategy: :retry} = error} =
               ErlBridge.call(bridge, :echo, %{})

      assert Exception.message(error) =~ "1 requests wait for a worker, which is the limit"
      assert {:ok, true} = ErlBridge.cancel(bridge, waiting.pid)
      assert {:ok, %{}} = Task.await(queued, :infinity)
    end

    test "is waited in for so long and no longer" do
      bridge = Live.start!(max_in_flight: 1, queue_timeout: 1)
      waiting = Live.wait(bridge)

      assert {:error, %Error{type: :pool_exhausted}} = ErlBridge.call(bridge, :echo, %{})
      await_queue(bridge, 0)
      assert {:ok, true} = ErlBridge.cancel(bridge, waiting.pid)
      assert {:error, %Error{type: :cancelled}} = Task.await(waiting, :infinity)
      # Room is made when the answer has been given.
      await_idle(bridge)
      assert {:ok, %{}} = ErlBridge.call(bridge, :echo, %{})
    end

    test "is left by a caller that dies, and by a request that is cancelled" do
      bridge = Live.start!(max_in_flight: 1)
      waiting = Live.wait(bridge)
      {dying, monitor} = spawn_monitor(fn -> ErlBridge.call(bridge, :echo, %{}) end)
      cancelled = Task.async(fn -> ErlBridge.call(bridge, :echo, %{}, id: :queued) end)
      await_queue(bridge, 2)

      Process.exit(dying, :kill)
      assert_receive {:DOWN, ^monitor, :process, ^dying, :killed}
      assert {:ok, true} = ErlBridge.cancel(bridge, :queued)
      assert {:error, %Error{type: :cancelled}} = Task.await(cancelled, :infinity)
      await_queue(bridge, 0)

      assert {:ok, true} = ErlBridge.cancel(bridge, waiting.pid)
      assert {:error, %Error{type: :cancelled}} = Task.await(waiting, :infinity)
      assert {:ok, %{}} = ErlBridge.call(bridge, :echo, %{})
      await_idle(bridge)
    end

    test "is no obstacle to a health check" do
      bridge = Live.start!(max_in_flight: 1)
      waiting = Live.wait(bridge)

      assert {:ok, :healthy} = ErlBridge.health_check(bridge)
      assert {:ok, true} = ErlBridge.cancel(bridge, waiting.pid)
    end

    test "counts bytes, too, but lets through what is alone" do
      bridge = Live.start!(max_bytes_in_flight: 1_000)
      large = %{"large" => :binary.copy("x", 10_000)}

      assert {:ok, ^large} = ErlBridge.call(bridge, :echo, large)
      waiting = Live.wait(bridge)
      queued = Task.async(fn -> ErlBridge.call(bridge, :echo, large) end)
      await_queue(bridge, 1)

      assert {:ok, true} = ErlBridge.cancel(bridge, waiting.pid)
      assert {:ok, ^large} = Task.await(queued, :infinity)
    end
  end

  describe "changing a running bridge" do
    test "more workers, and fewer again" do
      bridge = Live.start!()
      [first] = await_all_up(bridge)

      assert :ok = ErlBridge.resize(bridge, 3)
      assert [^first, second, third] = await_all_up(bridge)

      assert :ok = ErlBridge.resize(bridge, 1)
      assert [^first] = await_all_up(bridge)
      assert ErlBridge.ping!(bridge, %{n: 1}) == %{n: 1}
      await_ended([second, third])
    end

    test "a size that is none" do
      assert_raise ArgumentError, ~r/expected :pool_size to be a positive integer, got: 0/, fn ->
        ErlBridge.resize(Live.shared(), 0)
      end
    end

    test "a rolling restart replaces every Python, and no request notices" do
      bridge = Live.start!(pool_size: 2)
      before = await_all_up(bridge)

      asking =
        for n <- 1..4 do
          Task.async(fn ->
            for m <- 1..200, do: ErlBridge.call!(bridge, :echo, %{"n" => {n, m}})
          end)
        end

      assert :ok = ErlBridge.rolling_restart(bridge)

      for {answers, n} <- Enum.with_index(Task.await_many(asking, :infinity), 1),
          do: assert(answers == for(m <- 1..200, do: %{"n" => {n, m}}))

      assert Enum.all?(await_all_up(bridge), &(&1 not in before))
      await_ended(before)
    end
  end

  describe "health checks" do
    @tag :capture_log
    test "kill a Python that answers none and does nothing" do
      bridge = Live.start!(health_interval: 10, health_timeout: 500)
      [os_pid] = await_all_up(bridge)
      waiting = Live.wait(bridge)
      OsProcess.signal(os_pid, "STOP")

      assert {:error, %Error{type: :process_crashed}} = Task.await(waiting, :infinity)
      assert ErlBridge.ping!(bridge, %{n: 1}) == %{n: 1}
    end

    test "leave one alone that is busy" do
      bridge = Live.start!(health_interval: 1, health_timeout: 400)
      [os_pid] = await_all_up(bridge)

      # An inline handler holds up the thread that answers health checks, for several checks' time.
      assert {:ok, ^os_pid} = ErlBridge.call(bridge, :compute, %{"seconds" => 1.5})
    end
  end

  describe "cast" do
    test "sends what nobody waits for" do
      bridge = Live.start!()
      assert :ok = ErlBridge.cast(bridge, :fill, %{"value" => 7})
      assert {:ok, 7} = ErlBridge.call(bridge, :filled)
      assert Live.mailbox() == []
    end
  end

  describe "a stream" do
    test "gives the events and then the reply" do
      stream = ErlBridge.stream(Live.shared(), :count, %{"to" => 3})

      assert [{:event, %{"n" => 0}}, {:event, %{"n" => 1}}, {:event, %{"n" => 2}}, last, reply] =
               Enum.to_list(stream)

      assert last == {:event, %{kind: :stream, text: "last"}}
      assert reply == {:ok, "counted"}
      assert Live.mailbox() == []
    end

    test "that is abandoned cancels its request" do
      bridge = Live.start!()
      stream = ErlBridge.stream(bridge, :wait, %{}, metadata: %{"label" => "streamed"})

      assert [{:event, %{"waiting" => true}}] = Enum.take(stream, 1)
      assert {:ok, "streamed"} = ErlBridge.call(bridge, :stopped)
      assert Live.mailbox() == []
    end

    test "of a bridge that is not there gives the error" do
      assert [{:error, %Error{type: :not_running}}] = Enum.to_list(ErlBridge.stream(:nobody, :x))
    end
  end

  test "a request made in a callback ends by the deadline of the request it is made for" do
    ask = fn ->
      {:ok, request} = ErlBridge.async(Live.shared(), :echo, %{}, timeout: :infinity)
      {:ok, %{}} = ErlBridge.await(request)
      request.deadline - System.monotonic_time(:millisecond)
    end

    assert {:ok, left} =
             ErlBridge.call(Live.shared(), :ask, %{"name" => "ask", "args" => []},
               callbacks: %{"ask" => ask},
               timeout: 60_000
             )

    assert left <= 60_000
  end

  defp workers(bridge) do
    {:ok, workers} = ErlBridge.workers(bridge)
    workers
  end

  defp os_pid(bridge, options \\ []) do
    with {:ok, %{os_pid: os_pid}} <- ErlBridge.call(bridge, :health_check, %{}, options),
         do: {:ok, os_pid}
  end

  defp os_pid!(bridge, options) do
    {:ok, os_pid} = os_pid(bridge, options)
    os_pid
  end

  # Asks until it is so: each question is answered after the pool has read what it was told before.
  defp await_all_up(bridge) do
    workers = workers(bridge)

    if Enum.all?(workers, &(&1.phase == :up)),
      do: Enum.map(workers, & &1.os_pid),
      else: await_all_up(bridge)
  end

  defp await_queue(bridge, length) do
    {:ok, route} = ErlBridge.Route.lookup(bridge)
    if :atomics.get(route.waiting, 1) != length, do: await_queue(bridge, length)
  end

  defp await_idle(bridge) do
    if Enum.any?(workers(bridge), &(&1.in_flight > 0)), do: await_idle(bridge)
  end

  defp await_ended(os_pids) do
    if Enum.any?(os_pids, &OsProcess.alive?/1), do: await_ended(os_pids)
  end
end
