defmodule ErlBridge.ChaosTest do
  @moduledoc "What nobody hopes for, at the worst moment: nothing may hang, leak or be answered wrongly."
  use ExUnit.Case, async: false

  alias ErlBridge.{Error, Live, OsProcess, Route, Telemetry}

  @moduletag :capture_log

  @seconds String.to_integer(System.get_env("CHAOS_SECONDS", "6"))
  @callers 200

  # What a request may come to when any Python may be killed, suspended, retired or replaced; and what
  # only some may.
  @outcomes ~w(ok cancelled not_running pool_exhausted process_crashed timeout_error)a
  @outcomes_of %{ask: [:callback_error | @outcomes], cast: ~w(ok not_running pool_exhausted)a}

  @asked [:double, :echo, :ask, :stream, :cast, :die, :send_and_die, :cancel]

  @storms [
    {"once", false, [max_retries: 0]},
    {"retried", false, [idempotent: true, max_retries: 3]},
    {"behind a breaker", [cool_down: [min: 50, max: 200]], [idempotent: true, max_retries: 3]}
  ]

  for {name, breaker, options} <- @storms do
    @tag timeout: (@seconds + 120) * 1_000
    @tag breaker: breaker
    test "a storm, requests #{name}: each caller gets its answer or one error, and nothing is left",
         %{breaker: breaker} do
      seed = String.to_integer(System.get_env("CHAOS_SEED", "#{:rand.uniform(1_000_000)}"))
      IO.puts("\nchaos: CHAOS_SECONDS=#{@seconds} CHAOS_SEED=#{seed}")
      :rand.seed(:exsss, seed)
      options = [timeout: 5_000] ++ unquote(options)
      before = node_size()

      bridge =
        Live.start!(
          pool_size: 3,
          health_interval: 200,
          health_timeout: 300,
          shutdown_timeout: 1_000,
          circuit_breaker: breaker
        )

      os_pids = await_all_up(bridge, 3)
      until = now() + div(@seconds * 1_000, 2)

      callers =
        for n <- 1..@callers do
          Task.async(fn ->
            :rand.seed(:exsss, {seed, n, 0})
            keep_asking(bridge, n, options, until, %{})
          end)
        end

      seen = harm(bridge, until, MapSet.new(os_pids))

      counts =
        callers
        |> Task.await_many(:infinity)
        |> Enum.reduce(&Map.merge(&1, &2, fn _k, a, b -> a + b end))

      assert Enum.any?(counts, &match?({{_what, :ok}, _count}, &1))

      for what <- @asked do
        seen = for {{^what, outcome}, _count} <- counts, do: outcome
        allowed = Map.get(@outcomes_of, what, @outcomes)
        # A cast, a stream and what is sent by `async/4` are no matter of the breaker.
        refused =
          if breaker && what in [:double, :echo, :ask, :die], do: [:circuit_open], else: []

        assert seen -- (allowed ++ refused) == []
      end

      assert :ok = ErlBridge.resize(bridge, 3)
      left = await_all_up(bridge, 3)
      await_idle(bridge)
      await_queue(bridge, 0)
      await_workers(bridge, 3)
      for os_pid <- seen, os_pid not in left, do: await(fn -> not OsProcess.alive?(os_pid) end)
      assert Registry.match(ErlBridge.Registry, {pool(bridge), :request, :_}, :_) == []
      assert Live.mailbox() == []

      stop_supervised!(ErlBridge)
      await(fn -> node_size().ports <= before.ports end)
      # The test's own supervisor is left.
      await(fn -> node_size().processes <= before.processes + 1 end)
      Enum.each(Process.list(), &:erlang.garbage_collect/1)
      assert node_size().memory - before.memory < 50_000_000
    end
  end

  defp node_size do
    %{
      ports: length(Port.list()),
      processes: length(Process.list()),
      memory: :erlang.memory(:total)
    }
  end

  defp keep_asking(bridge, n, options, until, counts) do
    if now() < until do
      what = Enum.random(@asked)
      outcome = ask(what, bridge, n, options)
      assert Live.mailbox() == []
      keep_asking(bridge, n, options, until, Map.update(counts, {what, outcome}, 1, &(&1 + 1)))
    else
      counts
    end
  end

  defp ask(:double, bridge, n, options),
    do: outcome(ErlBridge.call(bridge, :double, %{"n" => n}, options), 2 * n)

  defp ask(:echo, bridge, n, options) do
    payload = %{"n" => n, "x" => if(rem(n, 20) == 0, do: large(), else: "")}
    outcome(ErlBridge.call(bridge, :echo, payload, options), payload)
  end

  # A request nested in a callback.
  defp ask(:ask, bridge, n, options) do
    nested = fn m -> ErlBridge.call!(bridge, :double, %{"n" => m}, timeout: 2_000) end
    options = [callbacks: %{"nested" => nested}] ++ options
    payload = %{"name" => "nested", "args" => [n]}
    outcome(ErlBridge.call(bridge, :ask, payload, options), 2 * n)
  end

  defp ask(:stream, bridge, _n, _options) do
    case bridge |> ErlBridge.stream(:count, %{"to" => 50}, timeout: 5_000) |> Enum.take(1) do
      [{:event, %{"n" => 0}}] -> :ok
      [{:error, %Error{type: type}}] -> type
    end
  end

  defp ask(:cast, bridge, n, _options) do
    with {:error, %Error{type: type}} <- ErlBridge.cast(bridge, :echo, %{"n" => n}), do: type
  end

  # The caller dies, and its request with it: under way in Python, or wherever it is when it has been sent.
  defp ask(:die, bridge, n, _options) do
    asking = self()

    {pid, monitor} =
      spawn_monitor(fn ->
        on_event = fn _event -> send(asking, {:under_way, self()}) end
        options = [timeout: 5_000, on_event: on_event, metadata: %{"label" => n}]
        {:error, %Error{type: type}} = ErlBridge.call(bridge, :wait, %{}, options)
        exit({:outcome, type})
      end)

    receive do
      {:under_way, ^pid} ->
        Process.exit(pid, :kill)
        assert_receive {:DOWN, ^monitor, :process, ^pid, ended}
        died(ended, pid)

      {:DOWN, ^monitor, :process, ^pid, {:outcome, type}} ->
        type
    end
  end

  defp ask(:send_and_die, bridge, n, _options) do
    {_pid, monitor} =
      spawn_monitor(fn ->
        exit(ErlBridge.async(bridge, :wait, %{}, metadata: %{"label" => n}))
      end)

    receive do
      {:DOWN, ^monitor, :process, _pid, {:ok, _request}} -> :ok
      {:DOWN, ^monitor, :process, _pid, {:error, %Error{type: type}}} -> type
    end
  end

  defp ask(:cancel, bridge, n, _options) do
    options = [timeout: 5_000, metadata: %{"label" => n}]

    with {:ok, request} <- ErlBridge.async(bridge, :wait, %{}, options) do
      ErlBridge.cancel(bridge, request)
      {:error, %Error{type: type}} = ErlBridge.await(request)
      type
    else
      {:error, %Error{type: type}} -> type
    end
  end

  # One that is tried again, or had its error just then, is no less dead.
  defp died(:killed, pid) do
    receive do
      {:under_way, ^pid} -> died(:killed, pid)
    after
      0 -> :ok
    end
  end

  defp died({:outcome, type}, pid) do
    :ok = died(:killed, pid)
    type
  end

  defp outcome({:ok, answer}, expected) do
    assert answer == expected
    :ok
  end

  defp outcome({:error, %Error{type: type}}, _expected), do: type

  # Gives the OS processes that it has seen.
  defp harm(bridge, until, seen) do
    {:ok, workers} = ErlBridge.workers(bridge)
    os_pids = for %{phase: :up, os_pid: os_pid} <- workers, do: os_pid
    seen = Enum.into(os_pids, seen)

    if now() < until do
      harm_one(Enum.random([:kill, :stop, :stop_and_go, :resize, :roll]), bridge, os_pids)
      Process.sleep(:rand.uniform(300))
      harm(bridge, until, seen)
    else
      seen
    end
  end

  defp harm_one(:resize, bridge, _os_pids), do: :ok = ErlBridge.resize(bridge, Enum.random(2..4))
  defp harm_one(:roll, bridge, _os_pids), do: spawn(fn -> ErlBridge.rolling_restart(bridge) end)
  defp harm_one(_signal, _bridge, []), do: :none_is_up
  defp harm_one(:kill, _bridge, os_pids), do: OsProcess.signal(Enum.random(os_pids), "KILL")
  defp harm_one(:stop, _bridge, os_pids), do: OsProcess.signal(Enum.random(os_pids), "STOP")

  defp harm_one(:stop_and_go, _bridge, os_pids) do
    os_pid = Enum.random(os_pids)
    OsProcess.signal(os_pid, "STOP")
    Process.sleep(:rand.uniform(200))
    OsProcess.signal(os_pid, "CONT")
  end

  defp now, do: System.monotonic_time(:millisecond)

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
      assert :ok = Task.await(rolling, :infinity)
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
      for _n <- 1..8, do: send(stuck, {:cast, %{bytes: nil}, body})
      await(fn -> Process.info(stuck, :status) == {:status, :suspended} end)

      assert :ok = ErlBridge.resize(bridge, 1)
      await(fn -> not Process.alive?(stuck) end)
      await(fn -> not OsProcess.alive?(suspended) end)
      assert [^kept] = await_all_up(bridge, 1)
    end
  end

  test "a Python that is stopped does not make the node grow, whatever is asked of it" do
    bridge =
      Live.start!(health_interval: :infinity, max_bytes_in_flight: 10_000_000, queue_timeout: 1)

    os_pid = Live.os_pid(bridge)
    before = node_size().memory
    OsProcess.signal(os_pid, "STOP")

    casts = for _n <- 1..100, do: ErlBridge.cast(bridge, :echo, %{"x" => large()})
    assert :ok in casts

    calls =
      for _n <- 1..100 do
        Task.async(fn ->
          ErlBridge.call(bridge, :echo, %{"x" => large()}, timeout: 200, max_retries: 0)
        end)
      end

    for refused <- Task.await_many(calls, :infinity) ++ casts, refused != :ok do
      assert {:error, %Error{type: type}} = refused
      assert type in [:pool_exhausted, :timeout_error]
    end

    Enum.each(Process.list(), &:erlang.garbage_collect/1)
    assert node_size().memory - before < 40_000_000

    OsProcess.signal(os_pid, "CONT")
    assert {:ok, %{"n" => 1}} = ErlBridge.call(bridge, :echo, %{"n" => 1}, max_retries: 100)
    await_idle(bridge)
    Enum.each(Process.list(), &:erlang.garbage_collect/1)
    assert node_size().memory - before < 20_000_000
  end

  describe "a request that waits" do
    test "gets one answer where it is granted room and cancelled at once" do
      bridge = Live.start!(max_in_flight: 1)
      waiting = hold(bridge)
      test = self()

      queued =
        Task.async(fn ->
          result = ErlBridge.call(bridge, :echo, %{}, id: :queued)
          send(test, {:mailbox, Live.mailbox()})
          result
        end)

      await_queue(bridge, 1)
      :erlang.suspend_process(queued.pid)
      assert {:ok, true} = ErlBridge.cancel(bridge, :queued)
      assert {:ok, true} = ErlBridge.cancel(bridge, :held)
      assert {:error, %Error{type: :cancelled}} = Task.await(waiting, :infinity)
      await_queue(bridge, 0)
      :erlang.resume_process(queued.pid)

      assert {:error, %Error{type: :cancelled}} = Task.await(queued, :infinity)
      assert_receive {:mailbox, []}
      await_idle(bridge)
    end

    test "is cancelled also when it has been granted room and does not know it yet" do
      bridge = Live.start!(max_in_flight: 1)
      waiting = hold(bridge)
      queued = Task.async(fn -> ErlBridge.call(bridge, :echo, %{}, id: :queued) end)
      await_queue(bridge, 1)
      :erlang.suspend_process(queued.pid)
      assert {:ok, true} = ErlBridge.cancel(bridge, :held)
      assert {:error, %Error{type: :cancelled}} = Task.await(waiting, :infinity)
      await_queue(bridge, 0)
      assert {:ok, true} = ErlBridge.cancel(bridge, :queued)
      :erlang.resume_process(queued.pid)

      assert {:error, %Error{type: :cancelled}} = Task.await(queued, :infinity)
      await_idle(bridge)
    end

    test "is cancelled or sent, never both, wherever the cancel meets it" do
      bridge = Live.start!(max_in_flight: 1)

      for n <- 1..200 do
        hold =
          Task.async(fn ->
            ErlBridge.call(bridge, :wait, %{}, id: :held, metadata: %{"label" => n})
          end)

        await(fn -> [%{in_flight: 1}] == in_flight(bridge) end)
        queued = Task.async(fn -> ErlBridge.call(bridge, :fill, %{"value" => n}, id: :queued) end)
        await_queue(bridge, 1)

        freeing =
          Task.async(fn -> await(fn -> ErlBridge.cancel(bridge, :held) == {:ok, true} end) end)

        cancelled = ErlBridge.cancel(bridge, :queued)
        Task.await(freeing, :infinity)
        assert {:error, %Error{type: :cancelled}} = Task.await(hold, :infinity)

        case Task.await(queued, :infinity) do
          {:ok, nil} ->
            assert cancelled == {:ok, false}
            assert ErlBridge.call(bridge, :filled) == {:ok, n}

          {:error, %Error{type: :cancelled}} ->
            assert cancelled == {:ok, true}
        end
      end

      await_idle(bridge)
    end

    test "for its next attempt is cancelled at once" do
      bridge = Live.start!()
      test = self()
      on_retry = fn _event, _measurements, _metadata, _config -> send(test, :waits) end
      Telemetry.attach(:cancelled_retry, [:erl_bridge, :retry], on_retry, nil)
      on_exit(fn -> Telemetry.detach(:cancelled_retry) end)

      asking =
        Task.async(fn ->
          options = [id: :again, idempotent: true, backoff: [min: 86_400_000, max: 86_400_000]]
          ErlBridge.call(bridge, :die, %{}, [timeout: :infinity] ++ options)
        end)

      assert_receive :waits
      assert {:ok, true} = ErlBridge.cancel(bridge, :again)
      assert {:error, %Error{type: :cancelled}} = Task.await(asking, :infinity)
      assert {:ok, false} = ErlBridge.cancel(bridge, :again)
      assert Registry.match(ErlBridge.Registry, {pool(bridge), :request, :_}, :_) == []
    end

    test "gets the room that callers took who died before they sent" do
      bridge = Live.start!(max_in_flight: 1, health_interval: 10)
      {:ok, route} = Route.lookup(bridge)
      assert {:ok, _worker} = Route.take(route, :any, 1)

      assert {:ok, %{}} = ErlBridge.call(bridge, :echo, %{})
      await_idle(bridge)
    end
  end

  test "a request whose worker is gone is not there to be cancelled" do
    bridge = Live.start!()
    {:ok, request} = ErlBridge.async(bridge, :wait, %{}, metadata: %{"label" => "gone"})
    monitor = Process.monitor(request.worker)
    Process.exit(request.worker, :kill)
    worker = request.worker
    assert_receive {:DOWN, ^monitor, :process, ^worker, :killed}

    assert {:ok, false} = ErlBridge.cancel(bridge, request)

    assert {:error, %Error{type: :process_crashed, context: %{worker: ^worker}}} =
             ErlBridge.await(request)

    assert Live.mailbox() == []
    await_idle(bridge)
  end

  test "a bridge is stopped also while it starts anew" do
    bridge = Live.start!()
    monitor = Process.monitor(bridge)
    os_pid = Live.os_pid(bridge)
    Process.exit(pool(bridge), :kill)

    assert :ok = ErlBridge.stop(bridge)
    assert_receive {:DOWN, ^monitor, :process, ^bridge, :normal}
    await(fn -> not OsProcess.alive?(os_pid) end)
    assert :ok = ErlBridge.stop(bridge)
    assert :ok = ErlBridge.stop(self())
  end

  for part <- [:pool, :worker, :supervisor] do
    test "a bridge survives the death of its #{part}" do
      bridge = Live.start!(pool_size: 2, shutdown_timeout: 500)
      await_all_up(bridge, 2)

      calls =
        for n <- 1..50,
            do: Task.async(fn -> {n, ErlBridge.call(bridge, :double, %{"n" => n})} end)

      Process.exit(part(bridge, unquote(part)), :kill)

      for {n, result} <- Task.await_many(calls, :infinity), do: assert_answer(result, 2 * n)
      await(fn -> ErlBridge.ping(bridge) == {:ok, %{}} end)
      await_all_up(bridge, 2)
      await_idle(bridge)
    end
  end

  defp part(bridge, :pool), do: pool(bridge)
  defp part(bridge, :supervisor), do: GenServer.whereis(ErlBridge.Worker.supervisor(bridge))

  defp part(bridge, :worker) do
    {:ok, %Route{workers: {{worker, _load}, _other}}} = Route.lookup(bridge)
    worker
  end

  defp assert_answer({:ok, answer}, expected), do: assert(answer == expected)
  defp assert_answer(failed, _expected), do: assert({:error, %Error{}} = failed)

  defp hold(bridge) do
    test = self()
    on_event = fn _event -> send(test, :held) end

    task =
      Task.async(fn ->
        ErlBridge.call(bridge, :wait, %{},
          id: :held,
          on_event: on_event,
          metadata: %{"label" => "held"}
        )
      end)

    assert_receive :held
    task
  end

  defp await_queue(bridge, length) do
    {:ok, route} = Route.lookup(bridge)
    await(fn -> :atomics.get(route.waiting, 1) == length end)
  end

  defp in_flight(bridge) do
    {:ok, workers} = ErlBridge.workers(bridge)
    Enum.map(workers, &Map.take(&1, [:in_flight]))
  end

  defp await_idle(bridge) do
    await(fn ->
      with {:ok, workers} <- ErlBridge.workers(bridge),
           do: Enum.all?(workers, &(&1.in_flight == 0))
    end)
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
