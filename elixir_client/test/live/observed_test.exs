defmodule ErlBridge.ObservedTest do
  @moduledoc "What a bridge tells of itself, and what it does by itself: telemetry, the cache, recovery."
  use ExUnit.Case, async: true

  alias ErlBridge.{Error, Live, OsProcess, Telemetry, TraceContext}
  alias ErlBridge.Recovery.Budget

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
      if metadata[:bridge] == bridge or event == [:erl_bridge, :callback, :stop],
        do: send(test, {:event, event, measurements, metadata})
    end

    :ok = Telemetry.attach(id, events, handler, nil)
    on_exit(fn -> Telemetry.detach(id) end)
  end
end
