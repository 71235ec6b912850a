defmodule ErlBridge.ObservedTest do
  @moduledoc "What a bridge tells of itself, and what it does by itself: telemetry, the cache, recovery."
  use ExUnit.Case, async: true

  alias ErlBridge.{Bridge, Cache, Error, Live, OsProcess, Telemetry, TraceContext}
  alias ErlBridge.Recovery.Budget
  alias ErlBridge.Telemetry.Events

  @signature "question -> answer"
  @rows [%{"question" => "2+2", "answer" => "4"}, %{"question" => "3+3", "answer" => "6"}]
  @options [lm: "local/nearest-demo", optimizer: :labeled_few_shot, metric: :exact_match]

  test "a request has its times and bytes" do
    bridge = Live.start!()
    listen([[:erl_bridge, :request, :start], [:erl_bridge, :request, :stop]], bridge)

    assert {:ok, %{}} = ErlBridge.call(bridge, :echo, %{"n" => 1}, id: :mine)
    assert_receive {:event, [_, :request, :start], %{system_time: _}, %{request_type: :echo}}
    assert_receive {:event, [_, :request, :stop], measured, about}

    assert %{request_type: :echo, id: :mine, result: :ok, error: nil, attempt: 1} = about

    parts =
      for name <- [:encode_time, :queue_time, :python_time, :decode_time], do: measured[name]

    assert Enum.all?(parts, &(&1 >= 0))
    assert Enum.sum(parts) == measured.duration
    assert measured.bytes_out > 50 and measured.bytes_in > 10
  end

  test "workers, the queue and callbacks are told of" do
    bridge = Live.start!(name: __MODULE__.Workers)
    [up, down, restart] = for what <- [:up, :down, :restart], do: [:erl_bridge, :worker, what]
    listen([up, down, restart, [:erl_bridge, :callback, :stop]], __MODULE__.Workers)
    os_pid = Live.os_pid(bridge)

    ask = %{"name" => "add", "args" => [1, 2]}
    assert {:ok, 3} = ErlBridge.call(__MODULE__.Workers, :ask, ask, callbacks: %{"add" => &+/2})

    ExUnit.CaptureLog.capture_log(fn ->
      OsProcess.signal(os_pid, "KILL")
      assert_receive {:event, ^down, %{uptime: _}, %{os_pid: ^os_pid, exit_status: 137}}
      assert_receive {:event, ^restart, %{delay: 0}, %{attempt: 1}}
      assert_receive {:event, ^up, %{start_time: time}, %{os_pid: again}}
      assert time > 0 and again != os_pid
    end)
  end

  test "the trace context of the process goes along" do
    trace = TraceContext.new()
    TraceContext.put(trace)
    assert {:ok, %{"traceparent" => sent}} = ErlBridge.call(Live.shared(), :trace)
    assert sent =~ trace.trace_id
    assert {:ok, none} = ErlBridge.call(Live.shared(), :trace, %{}, trace: false)
    assert none == %{}
  end

  test "a function that Python calls works on the trace of its request" do
    {:ok, context} =
      TraceContext.put("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "a=1")

    on_exit(&TraceContext.clear/0)

    ask = fn -> {TraceContext.current().span_id, ErlBridge.call!(Live.shared(), :trace)} end
    asked = %{"name" => "ask", "args" => []}

    assert {:ok, {span, trace}} =
             ErlBridge.call(Live.shared(), :ask, asked, callbacks: %{ask: ask})

    assert %{"tracestate" => "a=1"} = trace
    assert {:ok, inner} = TraceContext.parse(trace["traceparent"])
    assert inner.trace_id == context.trace_id
    assert Enum.uniq([span, inner.span_id, context.span_id]) |> length() == 3
  end

  # Those of clusters are in their own tests.
  @not_here [[:erl_bridge, :cluster, :node_up], [:erl_bridge, :cluster, :node_down]]

  @everything __MODULE__.Everything

  @tag :capture_log
  test "every event has the measurements and metadata that the page says, and no others" do
    seen = :ets.new(:seen, [:public])
    heard = self()

    note = fn event, measurements, metadata, _config ->
      if metadata[:bridge] == @everything do
        names = Map.keys(measurements) ++ Map.keys(metadata)
        :ets.insert(seen, for(name <- names, do: {{event, name}}))
        send(heard, {:told, event})
      end
    end

    :ok = Telemetry.attach(seen, Telemetry.events() -- @not_here, note, nil)
    everything_happens()
    :ok = Telemetry.detach(seen)

    for event <- Events.all(), event.name not in @not_here do
      said = Enum.map(event.measurements, &elem(&1, 0)) ++ Enum.map(event.metadata, &elem(&1, 0))
      told = List.flatten(:ets.match(seen, {{event.name, :"$1"}}))
      assert {event.name, Enum.sort(told)} == {event.name, Enum.sort(said)}
    end
  end

  # So that every event is told once at least.
  defp everything_happens do
    bridge = @everything

    Live.start!(
      name: bridge,
      max_in_flight: 1,
      max_queue: 1,
      health_interval: 20,
      cache: [max_entries: 2],
      circuit_breaker: [failures: 1]
    )

    assert_receive {:told, [_, :health, :check]}

    assert {:ok, 2} =
             ErlBridge.call(bridge, :ask, %{"name" => "f", "args" => []},
               callbacks: %{f: fn -> 2 end}
             )

    assert_raise RuntimeError, fn ->
      ErlBridge.put_dataset(bridge, Stream.map([1], fn _ -> raise "no" end))
    end

    dataset = ErlBridge.put_dataset!(bridge, @rows)

    assert_raise RuntimeError, fn ->
      ErlBridge.call(bridge, :count, %{"to" => 1}, on_event: fn _ -> raise "no" end)
    end

    optimize = fn -> ErlBridge.optimize(bridge, @signature, dataset, @options) end
    assert {:ok, %{program: program}} = optimize.()
    assert {:ok, _from_the_cache} = optimize.()
    assert {:ok, _scores} = ErlBridge.evaluate(bridge, program, dataset, lm: "local/nearest-demo")
    fill_cache(Bridge.cache(Process.whereis(bridge)))

    # One request works, one waits, and a third is too many.
    working = Live.wait(bridge)
    Live.mailbox() |> Enum.each(fn message -> receive(do: (^message -> :forgotten)) end)
    waiting = Task.async(fn -> ErlBridge.call(bridge, :echo, %{}) end)
    assert_receive {:told, [_, :pool, :queue]}

    assert {:ok, :instead} =
             ErlBridge.call(bridge, :echo, %{},
               max_retries: 1,
               fallback: fn _error -> :instead end
             )

    assert {:ok, true} = ErlBridge.cancel(bridge, working.pid)
    assert {:ok, %{}} = Task.await(waiting, :infinity)
    Task.await(working, :infinity)

    assert :ok = ErlBridge.resize(bridge, 2)
    assert {:error, %Error{type: :process_crashed}} = ErlBridge.call(bridge, :die)
    assert_receive {:told, [_, :worker, :restart]}
    assert_receive {:told, [_, :breaker, :change]}
  end

  defp fill_cache(cache) do
    test = self()
    :ok = Cache.put(cache, "old", 1, ttl: 1)
    assert_receive {:told, [_, :cache, :expire]}

    slow = fn ->
      send(test, {:computes, self()})
      receive do: (:go -> {:ok, 1})
    end

    first = Task.async(fn -> Cache.fetch(cache, "slow", slow) end)
    assert_receive {:computes, computing}
    second = Task.async(fn -> Cache.fetch(cache, "slow", slow) end)
    wait_for_members(cache, 2)
    send(computing, :go)
    assert [{:ok, 1}, {:ok, 1}] = Task.await_many([first, second], :infinity)

    for key <- ["one", "two", "three"], do: :ok = Cache.put(cache, key, 1)
    assert_receive {:told, [_, :cache, :evict]}
  end

  defp wait_for_members(cache, count) do
    if map_size(:sys.get_state(cache).flights.members) < count,
      do: wait_for_members(cache, count)
  end

  describe "an optimization" do
    test "is told of, and comes from the cache the second time" do
      bridge = Live.start!()
      listen([[:erl_bridge, :optimization, :stop], [:erl_bridge, :cache, :hit]], bridge)

      assert {:ok, result} = ErlBridge.optimize(bridge, @signature, @rows, @options)
      assert_receive {:event, [_, :optimization, :stop], %{duration: _, accuracy: _}, _about}

      assert {:ok, ^result} = ErlBridge.optimize(bridge, @signature, @rows, @options)
      assert_receive {:event, [_, :cache, :hit], %{count: 1}, %{bridge: ^bridge}}
      refute_received {:event, [_, :optimization, :stop], _, _}

      assert {:ok, _anew} =
               ErlBridge.optimize(bridge, @signature, @rows, [refresh: true] ++ @options)

      assert_receive {:event, [_, :optimization, :stop], _, _}
    end

    test "with functions is made anew, unless a key says that they are the same" do
      bridge = Live.start!()
      listen([[:erl_bridge, :optimization, :stop]], bridge)

      options =
        Keyword.merge(@options,
          metric: %{callback: :score},
          callbacks: %{score: fn _example, _prediction -> 1.0 end}
        )

      for _n <- 1..2, do: {:ok, _result} = ErlBridge.optimize(bridge, @signature, @rows, options)
      for _n <- 1..2, do: assert_receive({:event, [_, :optimization, :stop], _, _})

      keyed = [cache_key: 1] ++ options
      for _n <- 1..2, do: {:ok, _result} = ErlBridge.optimize(bridge, @signature, @rows, keyed)
      assert_receive {:event, [_, :optimization, :stop], _, _}
      refute_received {:event, [_, :optimization, :stop], _, _}
    end

    test "whose fallback answers is not kept" do
      bridge = Live.start!()

      options =
        [timeout: 1, fallback: fn %Error{type: :timeout_error} -> :instead end] ++ @options

      assert {:ok, :instead} = ErlBridge.optimize(bridge, @signature, @rows, options)
      assert {:ok, %{puts: 0}} = ErlBridge.cache_stats(bridge)
    end
  end

  describe "recovery" do
    test "may retry more when requests succeed" do
      bridge = Live.start!(retry_budget: [share: 1, min_per_second: 1, burst: 5])
      {:ok, %{budget: budget}} = ErlBridge.Route.lookup(bridge)
      for _token <- 1..5, do: assert(Budget.withdraw(budget))

      for _n <- 1..3, do: {:ok, _} = ErlBridge.call(bridge, :echo, %{})
      for _token <- 1..3, do: assert(Budget.withdraw(budget))
    end

    @tag :capture_log
    test "sends a request that may be repeated again when Python died" do
      bridge = Live.start!()
      listen([[:erl_bridge, :retry]], bridge)
      os_pid = Live.os_pid(bridge)

      task =
        Task.async(fn ->
          ErlBridge.call(bridge, :die_once, %{"os_pid" => os_pid}, idempotent: true)
        end)

      assert {:ok, again} = Task.await(task, :infinity)
      assert again != os_pid
      assert_receive {:event, [_, :retry], %{delay: _}, %{attempt: 1, request_type: :die_once}}
    end

    @tag :capture_log
    test "to a bridge that does not run is its fallback's" do
      fallback = fn %Error{type: :not_running} -> :later end
      rows = [%{question: "1+1?", answer: "2"}]

      for ask <- [
            &ErlBridge.call(:nobody, :echo, %{}, &1),
            &ErlBridge.predict(:nobody, "question -> answer", %{question: "2+2?"}, &1),
            &ErlBridge.optimize(:nobody, "question -> answer", rows, &1),
            &ErlBridge.train(:nobody, "question -> answer", rows, &1),
            &ErlBridge.evaluate(:nobody, "question -> answer", rows, &1)
          ] do
        assert {:ok, :later} = ask.(fallback: fallback)
        assert {:error, %Error{type: :not_running}} = ask.([])
      end
    end

    test "sends no other again, but asks its fallback" do
      bridge = Live.start!()
      assert {:error, %Error{type: :process_crashed}} = ErlBridge.call(bridge, :die)
      fallback = fn %Error{type: :process_crashed} -> %{answer: "later"} end
      assert {:ok, %{answer: "later"}} = ErlBridge.call(bridge, :die, %{}, fallback: fallback)
    end
  end

  # Only what is told of this bridge.
  defp listen(events, bridge) do
    test = self()
    id = make_ref()

    handler = fn event, measurements, metadata, _config ->
      if metadata[:bridge] == bridge, do: send(test, {:event, event, measurements, metadata})
    end

    :ok = Telemetry.attach(id, events, handler, nil)
    on_exit(fn -> Telemetry.detach(id) end)
  end
end
