defmodule ErlBridge.CircuitBreakerTest do
  use ExUnit.Case, async: true
  import ExUnit.CaptureLog
  doctest ErlBridge.CircuitBreaker

  alias ErlBridge.{CircuitBreaker, Error}

  @crash Error.crashed(1, 139, [])
  @soon [min: 1, max: 1]
  @late [min: 60_000, max: 60_000]

  describe "what an outcome says of the bridge" do
    @table [
      failure: [:process_crashed, :not_running, :timeout_error, :resource_exhausted],
      success:
        [:lm_error, :python_runtime_error, :dspy_optimization_error, :callback_error] ++
          [:import_error, :unknown_request, :transfer_error],
      unknown:
        [:invalid_request, :serialization_error, :cancelled, :overloaded] ++
          [:pool_exhausted, :circuit_open, :of_another_version]
    ]

    for {outcome, types} <- @table, type <- types do
      test "#{type}: #{outcome}" do
        error = %Error{type: unquote(type), message: ""}
        assert CircuitBreaker.outcome(error) == unquote(outcome)
      end
    end

    test "a result: success" do
      assert CircuitBreaker.outcome(:ok) == :success
    end
  end

  test "it opens, tries and closes, and tells of each change" do
    breaker = start!(failures: 2, successes: 1, cool_down: @soon)

    assert CircuitBreaker.ask(breaker) == :ok
    CircuitBreaker.report(breaker, @crash)
    CircuitBreaker.report(breaker, Error.crashed(2, 139, []))
    assert_receive {:closed, :open}
    assert_receive {:open, :half_open}
    assert CircuitBreaker.state(breaker) == :half_open

    assert CircuitBreaker.ask(breaker) == :ok
    CircuitBreaker.report(breaker, :ok)
    assert_receive {:half_open, :closed}
    assert CircuitBreaker.state(breaker) == :closed
  end

  test "an open one refuses at once, and says until when" do
    breaker = open!(cool_down: @late)

    assert {:error, %Error{} = error} = CircuitBreaker.ask(breaker)
    assert {error.type, error.strategy} == {:circuit_open, :retry}
    assert error.retry_after_ms in 1..60_000

    assert Exception.message(error) =~
             "circuit_open: the circuit breaker lets no request pass after too many failures; try again in #{error.retry_after_ms} ms"
  end

  test "what ended by one crash counts once, be it of a Python or of its worker" do
    breaker = start!(failures: 4, cool_down: @late)
    killed = Error.worker_ended(:killed, self())
    for crash <- [@crash, killed], _n <- 1..100, do: CircuitBreaker.report(breaker, crash)
    CircuitBreaker.report(breaker, Error.timed_out(1))
    counted(breaker)
    assert CircuitBreaker.state(breaker) == :closed
    CircuitBreaker.report(breaker, Error.timed_out(1))
    assert_receive {:closed, :open}
  end

  test "while it is closed callers send it failures, and nothing else" do
    {:ok, breaker} = CircuitBreaker.handle(start_supervised!(CircuitBreaker))
    :sys.suspend(breaker.pid)

    for outcome <- [:ok, lm_error(), %Error{type: :cancelled, message: "cancelled"}] do
      assert CircuitBreaker.ask(breaker) == :ok
      CircuitBreaker.report(breaker, outcome)
    end

    assert Process.info(breaker.pid, :message_queue_len) == {:message_queue_len, 0}
    CircuitBreaker.report(breaker, @crash)
    assert Process.info(breaker.pid, :message_queue_len) == {:message_queue_len, 1}
  end

  test "while it is open callers send it nothing" do
    breaker = open!(cool_down: @late)
    :sys.suspend(breaker.pid)
    assert {:error, _circuit_open} = CircuitBreaker.ask(breaker)
    for outcome <- [:ok, @crash], do: CircuitBreaker.report(breaker, outcome)

    assert Process.info(breaker.pid, :message_queue_len) == {:message_queue_len, 0}
  end

  test "an answer with an error is a success of a probe, and what says nothing gives its place back" do
    breaker = half_open!(successes: 1)

    assert CircuitBreaker.ask(breaker) == :ok
    CircuitBreaker.report(breaker, %Error{type: :cancelled, message: "cancelled"})
    counted(breaker)
    assert CircuitBreaker.ask(breaker) == :ok
    CircuitBreaker.report(breaker, lm_error())
    assert_receive {:half_open, :closed}
  end

  test "while a probe is under way the others are refused, for no longer than a short cool-down" do
    breaker = half_open!(probe_timeout: 60_000)
    assert CircuitBreaker.ask(breaker) == :ok

    assert {:error, %Error{type: :circuit_open, retry_after_ms: 1}} = CircuitBreaker.ask(breaker)
  end

  test "a probe's caller that dies makes room for the next" do
    breaker = half_open!(probe_timeout: 60_000)
    pid = breaker.pid
    :erlang.trace(pid, true, [:receive])
    caller = spawn(fn -> :ok = CircuitBreaker.ask(breaker) end)
    assert_receive {:trace, ^pid, :receive, {:DOWN, _monitor, :process, ^caller, :normal}}
    counted(breaker)

    assert CircuitBreaker.ask(breaker) == :ok
  end

  test "of many callers at once exactly one is the probe, each time" do
    breaker = half_open!(successes: 10, probe_timeout: 60_000)

    for round <- 1..10 do
      answers = ask_at_once(breaker, 200)
      assert {round, Enum.count(answers, &match?({_pid, :ok}, &1))} == {round, 1}
      {probe, :ok} = Enum.find(answers, &match?({_pid, :ok}, &1))

      for {pid, _answer} <- answers,
          do: send(pid, {:report, if(pid == probe, do: :ok, else: @crash)})

      for {pid, _answer} <- answers, do: assert_receive({:reported, ^pid})
      counted(breaker)
    end

    assert_received {:half_open, :closed}
    refute_received {:half_open, :open}
  end

  test "one that is gone lets everything pass, whatever its state was" do
    breaker = half_open!([])
    :ok = stop_supervised!(CircuitBreaker)

    assert CircuitBreaker.ask(breaker) == :ok
    assert CircuitBreaker.report(breaker, @crash) == :ok

    assert {:error, %Error{type: :not_running}} = CircuitBreaker.handle(breaker.pid)
  end

  test "it is found by its name" do
    start_supervised!({CircuitBreaker, name: __MODULE__.Named})
    assert {:ok, breaker} = CircuitBreaker.handle(__MODULE__.Named)
    assert CircuitBreaker.state(breaker) == :closed
    assert {:error, %Error{} = error} = CircuitBreaker.handle(__MODULE__.Nobody)

    assert Exception.message(error) =~
             "no circuit breaker is running as ErlBridge.CircuitBreakerTest.Nobody"
  end

  test "it survives an on_change that raises" do
    me = self()

    on_change = fn _from, to ->
      send(me, to)
      raise "no"
    end

    log =
      capture_log(fn ->
        pid =
          start_supervised!({CircuitBreaker, on_change: on_change, failures: 1, cool_down: @late})

        {:ok, breaker} = CircuitBreaker.handle(pid)
        CircuitBreaker.report(breaker, @crash)
        assert_receive :open
        assert {:ok, ^breaker} = CircuitBreaker.handle(pid)
        assert {:error, %Error{type: :circuit_open}} = CircuitBreaker.ask(breaker)
      end)

    assert log =~ "on_change of a circuit breaker: ** (RuntimeError) no"
  end

  test "a wrong option is named" do
    assert_raise ArgumentError,
                 ~r/expected :failures to be an integer from 1 to 1000, got: 0/,
                 fn ->
                   CircuitBreaker.start_link(failures: 0)
                 end
  end

  defp start!(options) do
    me = self()
    options = Keyword.put(options, :on_change, &send(me, {&1, &2}))
    {:ok, breaker} = CircuitBreaker.handle(start_supervised!({CircuitBreaker, options}))
    breaker
  end

  defp open!(options) do
    breaker = start!([failures: 1] ++ options)
    CircuitBreaker.report(breaker, @crash)
    assert_receive {:closed, :open}
    breaker
  end

  defp half_open!(options) do
    breaker = open!([cool_down: @soon] ++ options)
    assert_receive {:open, :half_open}
    breaker
  end

  # What was sent to the breaker before this has been dealt with when it answers.
  defp counted(breaker), do: {:ok, ^breaker} = CircuitBreaker.handle(breaker.pid)

  defp lm_error, do: %Error{type: :lm_error, message: "slow down", strategy: :retry}

  # Each caller asks once all have been started, and lives until it was told what to report.
  defp ask_at_once(breaker, callers) do
    me = self()
    pids = for _caller <- 1..callers, do: spawn_link(fn -> caller(breaker, me) end)
    for pid <- pids, do: send(pid, :ask)

    for pid <- pids do
      assert_receive {:answer, ^pid, answer}
      {pid, answer}
    end
  end

  defp caller(breaker, parent) do
    receive do: (:ask -> send(parent, {:answer, self(), CircuitBreaker.ask(breaker)}))

    receive do
      {:report, outcome} ->
        CircuitBreaker.report(breaker, outcome)
        send(parent, {:reported, self()})
    end
  end
end
