defmodule ErlBridge.TelemetryTest do
  # Handlers belong to the node.
  use ExUnit.Case, async: false
  doctest ErlBridge.Telemetry
  doctest ErlBridge.Telemetry.Events
  doctest ErlBridge.Telemetry.Handlers
  doctest ErlBridge.Telemetry.Logger
  doctest ErlBridge.Telemetry.Summary

  import ExUnit.CaptureLog

  alias ErlBridge.{Error, Telemetry}
  alias ErlBridge.Telemetry.{Events, Summary}

  @retry [:erl_bridge, :retry]

  setup do
    on_exit(fn ->
      Telemetry.detach(:test)
      Telemetry.detach(:other)
      Telemetry.Logger.detach()
      Summary.detach(:test)
    end)
  end

  def forward(event, measurements, metadata, pid),
    do: send(pid, {event, measurements, metadata})

  def fail(_event, _measurements, _metadata, _config), do: raise("broken handler")

  describe "events" do
    test "each has a function, which reaches its handlers in the calling process" do
      :ok = Telemetry.attach(:test, Telemetry.events(), &__MODULE__.forward/4, self())

      for %{name: name, function: function} <- Events.all() do
        assert :ok = apply(Telemetry, function, [%{n: 1}, %{of: name}])
        assert_received {^name, %{n: 1}, %{of: ^name}}
      end
    end

    test "are enabled while a handler is attached" do
      refute Telemetry.enabled?(@retry)
      :ok = Telemetry.attach(:test, @retry, &__MODULE__.forward/4, self())
      assert Telemetry.enabled?(@retry)
      refute Telemetry.enabled?([:erl_bridge, :fallback])
      assert :ok = Telemetry.detach(:test)
      refute Telemetry.enabled?(@retry)

      Telemetry.retry(%{}, %{})
      refute_received {@retry, _measurements, _metadata}
    end

    test "go to all handlers" do
      :ok = Telemetry.attach(:test, @retry, &__MODULE__.forward/4, self())
      :ok = Telemetry.attach(:other, @retry, &__MODULE__.forward/4, self())
      Telemetry.retry(%{}, %{})

      assert_received {@retry, %{}, %{}}
      assert_received {@retry, %{}, %{}}
    end

    test "an id is for one handler" do
      :ok = Telemetry.attach(:test, @retry, &__MODULE__.forward/4, self())

      assert {:error, :already_exists} =
               Telemetry.attach(:test, [[:erl_bridge, :fallback]], &__MODULE__.forward/4, self())

      assert :ok = Telemetry.detach(:test)
      assert {:error, :not_found} = Telemetry.detach(:test)
    end

    test "a handler that fails is detached, and the others are called" do
      :ok = Telemetry.attach(:other, @retry, &__MODULE__.fail/4, nil)
      :ok = Telemetry.attach(:test, @retry, &__MODULE__.forward/4, self())

      log = capture_log(fn -> Telemetry.retry(%{}, %{}) end)

      assert log =~ "broken handler"
      assert_received {@retry, %{}, %{}}
      assert {:error, :not_found} = Telemetry.detach(:other)
      assert :ok = Telemetry.detach(:test)
    end

    test "an event that there is not is refused, with those there are" do
      assert_raise ArgumentError,
                   ~r/unknown event \[:erl_bridge, :rerty\]; the events are .*:retry/,
                   fn ->
                     Telemetry.attach(:test, [:erl_bridge, :rerty], &__MODULE__.forward/4, nil)
                   end
    end

    test "attached at once by many processes are all there" do
      ids = for n <- 1..20, do: {:test, n}

      test = self()

      ids
      |> Enum.map(fn id ->
        Task.async(fn -> Telemetry.attach(id, @retry, &__MODULE__.forward/4, test) end)
      end)
      |> Task.await_many(:infinity)

      for id <- ids, do: assert(:ok = Telemetry.detach(id))
    end
  end

  test "the guide has the table of events" do
    guide = File.read!(Path.expand("../../guides/telemetry.md", __DIR__))
    assert guide =~ Events.markdown()
  end

  test "a real optimization tells its accuracy, cost and tokens" do
    bridge = ErlBridge.Live.start!(timeout: :infinity)

    :ok =
      Telemetry.attach(:test, [:erl_bridge, :optimization, :stop], &__MODULE__.forward/4, self())

    rows = for n <- 1..4, do: %{question: "row #{n}", answer: "answer #{rem(n, 2)}"}

    {:ok, result} =
      ErlBridge.optimize(bridge, "question -> answer", rows,
        lm: "local/nearest-demo",
        optimizer: :labeled_few_shot
      )

    Telemetry.optimization(result, %{bridge: bridge})

    assert_received {[:erl_bridge, :optimization, :stop], measurements, metadata}
    assert measurements.accuracy == result.optimization_metrics.score
    assert measurements.accuracy >= 0.0 and measurements.accuracy <= 1.0
    assert measurements.duration > 0
    assert measurements.lm_calls == result.optimization_metrics.lm_calls
    assert metadata.bridge == bridge
    assert metadata.optimizer == "labeled_few_shot"
    assert metadata.signature_hash =~ ~r/\A[0-9a-f]{32}\z/
  end

  describe "the log" do
    test "has a line for each event of its level and above" do
      :ok = Telemetry.Logger.attach(level: :warning)

      log =
        capture_log(fn ->
          Telemetry.request_stop(%{duration: 0}, %{request_type: :embed, result: :ok})
          Telemetry.breaker_change(%{count: 1}, %{bridge: :lm, from: :closed, to: :open})

          Telemetry.request_stop(%{duration: 0}, %{
            request_type: :ping,
            result: :error,
            error: %Error{type: :timeout_error, message: "secret"}
          })
        end)

      assert log =~ "breaker change count=1 bridge=:lm from=:closed to=:open"

      assert log =~
               "request stop duration=0.0ms request_type=:ping result=:error error=:timeout_error"

      refute log =~ "embed"
      refute log =~ "secret"
    end

    test "never has what a term holds" do
      metadata = %{kind: :error, reason: {:badmatch, "secret"}, id: ["secret"], stacktrace: []}
      {:error, line} = Telemetry.Logger.line([:erl_bridge, :request, :exception], %{}, metadata)

      assert line == "request exception id=[...] kind=:error reason={:badmatch, ...}"
    end

    test "refuses a wrong level or option" do
      assert_raise ArgumentError, ~r/expected :level to be one of :debug, .*got: :loud/, fn ->
        Telemetry.Logger.attach(level: :loud)
      end

      assert_raise ArgumentError,
                   ~r/expected option to be one of :level, :events, got: :lvl/,
                   fn ->
                     Telemetry.Logger.attach(lvl: :debug)
                   end
    end
  end

  describe "the summary" do
    setup do
      :ok = Summary.attach(:test)
    end

    test "adds requests up, with percentiles that are right within 7%" do
      for n <- 1..1000 do
        time = System.convert_time_unit(n, :millisecond, :native)
        measurements = %{duration: time, bytes_out: 10, bytes_in: 20}
        Telemetry.request_stop(measurements, %{result: :ok, error: nil})
      end

      %{requests: requests, times: %{duration: duration, queue_time: queue}} = Summary.get(:test)

      assert requests == %{count: 1000, errors: 0, bytes_out: 10_000, bytes_in: 20_000}
      assert_in_delta duration.mean, 500.5, 0.01

      for {at, ms} <- [p50: 500, p90: 900, p99: 990, max: 1000],
          do: assert_in_delta(duration[at], ms, 0.07 * ms)

      assert queue == %{count: 0, mean: nil, p50: nil, p90: nil, p99: nil, max: nil}
    end

    test "takes the shortest and the longest time" do
      for time <- [0, System.convert_time_unit(1_000_000, :second, :native) * 1000],
          do: Telemetry.request_stop(%{duration: time}, %{})

      assert Summary.get(:test).times.duration.count == 2
    end

    test "knows errors by type" do
      for type <- [:timeout_error, :timeout_error, :lm_error, :never_heard_of],
          do: Telemetry.request_stop(%{}, %{error: %Error{type: type, message: "no"}})

      assert %{errors: errors, requests: %{errors: 4}} = Summary.get(:test)
      assert errors == %{timeout_error: 2, lm_error: 1, other: 1}
    end

    test "has the cache's hit ratio, retries and what optimizations cost" do
      for _n <- 1..3, do: Telemetry.cache_hit(%{count: 1}, %{})
      assert Summary.get(:test).cache.hit_ratio == 1.0
      Telemetry.cache_miss(%{count: 1}, %{})
      Telemetry.retry(%{delay: 1}, %{})
      metrics = %{score: 0.5, cost_usd: 0.25, lm_calls: 3, prompt_tokens: 7}
      Telemetry.optimization(%{optimization_metrics: metrics}, %{})
      Telemetry.optimization(%{optimization_metrics: %{metrics | cost_usd: nil}}, %{})

      summary = Summary.get(:test)
      assert summary.cache == %{hits: 3, misses: 1, hit_ratio: 0.75}
      assert summary.retries == 1
      assert %{count: 2, cost_usd: 0.25, lm_calls: 6, prompt_tokens: 14} = summary.optimizations
      assert Summary.text(:test) =~ "cache          hit_ratio 0.75, hits 3, misses 1"
    end

    test "that is not there is named" do
      assert_raise ArgumentError, ~r/no summary is attached as :nowhere/, fn ->
        Summary.get(:nowhere)
      end
    end

    test "knows every type of error of the protocol" do
      protocol = File.read!(Path.expand("../../../docs/protocol.md", __DIR__))
      [_before, table] = String.split(protocol, "| `error_type` |", parts: 2)

      for [_all, type] <- Regex.scan(~r/^\| `:(\w+)` \|/m, hd(String.split(table, "\n\n"))) do
        type = String.to_existing_atom(type)
        Telemetry.request_stop(%{}, %{error: %Error{type: type, message: "no"}})
        assert %{^type => _some} = Summary.get(:test).errors
      end
    end
  end

  test "metrics have only tags that anything can print" do
    for kind <- [:summary, :distribution], {_kind, name, options} <- Summary.metrics(kind) do
      assert name =~ ~r/\Aerl_bridge(\.[a-z_]+)+\z/

      values =
        options[:tag_values].(%{bridge: self(), result: :ok, error: %Error{type: :x, message: ""}})

      assert is_binary(values.bridge) and values.error == :x
    end
  end
end
