defmodule ErlBridge.RecoveryTest do
  use ExUnit.Case, async: true
  doctest ErlBridge.Recovery
  doctest ErlBridge.Recovery.Backoff
  doctest ErlBridge.Recovery.Policy
  doctest ErlBridge.Fallback

  alias ErlBridge.{Error, Recovery}
  alias ErlBridge.Recovery.{Backoff, Budget, Policy}

  defmodule Cached do
    @behaviour ErlBridge.Fallback

    @impl true
    def fallback(error, context), do: {:ok, {error.type, context}}
  end

  @busy %Error{type: :overloaded, message: "busy", strategy: :retry}
  @limited %Error{type: :lm_error, message: "slow down", strategy: :retry}
  @quick [min: 1, max: 1]

  describe "decide/4" do
    # {type, strategy}, then the decisions for a request that is not idempotent and for one that is.
    @table [
      {{:lm_error, :retry}, :retry, :retry},
      {{:transfer_error, :retry}, :retry, :retry},
      {{:overloaded, :retry}, :retry, :retry},
      {{:pool_exhausted, :retry}, :retry, :retry},
      {{:circuit_open, :retry}, :retry, :retry},
      {{:not_running, :retry}, :fallback, :retry},
      {{:timeout_error, :retry}, :fallback, :retry},
      {{:process_crashed, :restart_process}, :fallback, :retry},
      {{:resource_exhausted, :restart_process}, :fallback, :retry},
      {{:lm_error, :fallback}, :fallback, :fallback},
      {{:overloaded, :fallback}, :fallback, :fallback},
      {{:python_runtime_error, :fallback}, :fallback, :fallback},
      {{:cancelled, :fatal}, :give_up, :give_up},
      {{:invalid_request, :fatal}, :give_up, :give_up},
      {{:lm_error, :of_another_version}, :fallback, :fallback}
    ]

    for {{type, strategy}, once, again} <- @table do
      test "#{type} with the strategy #{strategy}: #{once}, if idempotent #{again}" do
        error = %Error{type: unquote(type), message: "", strategy: unquote(strategy)}
        assert kind(decide(error)) == unquote(once)
        assert kind(decide(error, %{}, idempotent: true)) == unquote(again)
      end
    end

    test "what was never sent is repeated, whatever it is" do
      assert decide(Error.not_running(:a)) == {:retry, 100}
      assert kind(decide(Error.stopped(:a))) == :fallback
    end

    test "the ceiling of the delay doubles with each retry" do
      delays = for n <- 0..3, do: decide(@busy, %{retries: n}, max_retries: 4)
      assert delays == [{:retry, 100}, {:retry, 200}, {:retry, 400}, {:retry, 800}]
    end

    test "no retry without one left, without a token, or too late" do
      assert decide(@busy, %{retries: 2}) == {:retry, 400}
      assert decide(@busy, %{retries: 3}) == :fallback
      assert decide(@busy, %{budget: :spent}) == :fallback
      assert decide(@busy, %{deadline: 101}) == {:retry, 100}
      assert decide(@busy, %{deadline: 100}) == :fallback
    end

    test "retry_after_ms is kept if it is longer, up to the policy's longest" do
      assert decide(%{@busy | retry_after_ms: 99}) == {:retry, 100}
      assert decide(%{@busy | retry_after_ms: 101}) == {:retry, 101}
      assert decide(%{@busy | retry_after_ms: 9_000}, %{}, max_retry_after: 500) == {:retry, 500}
    end

    test "while Python restarts, half the delay is certain" do
      lowest = %{Policy.new(idempotent: true) | random: fn _n -> 1 end}
      first = %{retries: 0, deadline: :infinity, budget: :left}

      assert Recovery.decide(@busy, first, lowest, 0) == {:retry, 0}
      assert Recovery.decide(Error.crashed(1, 9, []), first, lowest, 0) == {:retry, 50}
      assert Recovery.decide(Error.not_running(:a), first, lowest, 0) == {:retry, 50}
    end
  end

  test "a drawn delay lies between the floor of its jitter and the ceiling" do
    :rand.seed(:exsss, 1)

    for _case <- 1..1_000 do
      [min, max] = Enum.sort([:rand.uniform(5_000), :rand.uniform(5_000)])
      n = :rand.uniform(200) - 1
      bounds = Enum.random([[min: min, max: max], [max: max, min: min]])
      ceiling = Backoff.ceiling(bounds, n)

      assert ceiling in min..max
      assert Backoff.delay(bounds, n, :full, &:rand.uniform/1) in 0..ceiling
      assert Backoff.delay(bounds, n, :equal, &:rand.uniform/1) in div(ceiling, 2)..ceiling
    end
  end

  describe "run/2" do
    test "gives the first result, and asks for nothing else" do
      assert run([{:ok, 1}], fallback: fn _error -> flunk("not wanted") end) == {:ok, 1}
      assert_received {:attempt, 1, :infinity}
      refute_received {:attempt, 2, _timeout}
    end

    test "retries as often as the policy says, then gives the last error" do
      last = %{@busy | message: "last"}

      assert run([{:error, @busy}, {:error, @busy}, {:error, @busy}, {:error, last}]) ==
               {:error, last}

      assert_received {:attempt, 4, :infinity}
    end

    test "tells of each retry before it waits" do
      assert run([{:error, @busy}, {:error, @limited}, {:ok, 1}], on_retry: &send(self(), &1)) ==
               {:ok, 1}

      assert_received %{attempt: 1, error: @busy, delay_ms: first} when first in 0..1
      assert_received %{attempt: 2, error: @limited, delay_ms: second} when second in 0..1
    end

    test "each attempt gets the time that is left until the one deadline" do
      deadline = now() + 60_000
      assert run([{:error, @busy}, {:ok, 1}], deadline: deadline) == {:ok, 1}
      assert_received {:attempt, 1, first} when first in 1..60_000
      assert_received {:attempt, 2, second} when second in 1..first//1
    end

    test "makes the first attempt however late it is, and no other" do
      assert run([{:error, @busy}], deadline: now() - 5) == {:error, @busy}
      assert_received {:attempt, 1, 1}
    end

    test "does not begin an attempt when the deadline passes during the wait" do
      # The hook takes the time that the wait was to leave.
      deadline = now() + 20
      late = fn _retry -> wait_until(deadline) end

      assert run([{:error, @busy}], deadline: deadline, on_retry: late, fallback: & &1.type) ==
               {:ok, :overloaded}
    end

    test "takes no message out of the mailbox" do
      send(self(), :mine)
      send(self(), {make_ref(), :ok})
      assert run([{:error, @busy}, {:ok, 1}]) == {:ok, 1}
      assert_received :mine
      assert_received {ref, :ok} when is_reference(ref)
    end

    test "each request pays in, each retry takes out, and without a token there is none" do
      budget = Budget.new(share: 0, burst: 2)

      assert run([{:error, @busy}, {:error, @busy}, {:error, @busy}], budget: budget) ==
               {:error, @busy}

      refute Budget.withdraw(budget)

      assert run([{:ok, 1}], budget: generous = Budget.new(share: 1, burst: 1)) == {:ok, 1}
      assert Budget.withdraw(generous)
    end

    test "an error that is not retried costs no token" do
      budget = Budget.new(share: 0, burst: 1)
      fatal = Error.duplicate_id(1)
      assert run([{:error, fatal}], budget: budget) == {:error, fatal}

      assert run([{:error, @busy}], budget: budget, policy: Policy.new(max_retries: 0)) ==
               {:error, @busy}

      assert Budget.withdraw(budget)
    end

    test "what the function raises is the caller's" do
      assert_raise RuntimeError, "mine", fn ->
        Recovery.run(fn _attempt, _timeout -> raise "mine" end, policy: Policy.new())
      end
    end
  end

  describe "a fallback" do
    @broken %Error{type: :python_runtime_error, message: "no", strategy: :fallback}

    # What it returns, and what the caller gets.
    @returns [
      {{:ok, 1}, {:ok, 1}},
      {{:error, @limited}, {:error, @limited}},
      {"a value", {:ok, "a value"}},
      {nil, {:ok, nil}}
    ]

    for {returned, result} <- @returns do
      test "that returns #{inspect(returned)}" do
        fallback = fn @broken -> unquote(Macro.escape(returned)) end
        assert run([{:error, @broken}], fallback: fallback) == unquote(Macro.escape(result))
      end
    end

    test "can be a module, which gets the request" do
      context = %{request_type: :predict, payload: %{inputs: %{}}}

      assert run([{:error, @broken}], fallback: Cached, context: context) ==
               {:ok, {:python_runtime_error, context}}
    end

    test "is told of, with its result" do
      run([{:error, @broken}], fallback: fn _error -> 1 end, on_fallback: &send(self(), &1))
      assert_received %{attempts: 1, error: @broken, result: {:ok, 1}}
    end

    @failures [
      {quote(do: fn _error -> raise "no cache" end), "** (RuntimeError) no cache"},
      {quote(do: fn _error -> throw(:no) end), "** (throw) :no"},
      {quote(do: fn _error -> exit(:no) end), "** (exit) :no"},
      {quote(do: fn _error -> {:error, :no} end), "got: {:error, :no}"},
      {quote(do: ErlBridge.NoSuchFallback), "UndefinedFunctionError"}
    ]

    for {fallback, text} <- @failures do
      test "that fails leaves the error, and what became of it: #{text}" do
        assert {:error, error} = run([{:error, @broken}], fallback: unquote(fallback))
        assert %{error | context: %{}} == @broken
        assert error.context.fallback_error =~ unquote(text)
      end
    end

    test "is not asked for a fatal error" do
      fatal = Error.duplicate_id(1)

      assert run([{:error, fatal}], fallback: fn _error -> flunk("not wanted") end) ==
               {:error, fatal}
    end
  end

  # Answers each attempt with the next of `results`; more attempts than results are a failure.
  defp run(results, options \\ []) do
    options = Keyword.put_new(options, :policy, Policy.new(backoff: @quick))

    Recovery.run(
      fn attempt, timeout ->
        send(self(), {:attempt, attempt, timeout})
        Enum.fetch!(results, attempt - 1)
      end,
      options
    )
  end

  defp decide(error, progress \\ %{}, options \\ []) do
    policy = %{Policy.new(options) | random: fn highest -> highest end}
    progress = Map.merge(%{retries: 0, deadline: :infinity, budget: :left}, progress)
    Recovery.decide(error, progress, policy, 0)
  end

  defp kind({:retry, _delay}), do: :retry
  defp kind(decision), do: decision

  defp wait_until(deadline) do
    receive do
    after
      max(deadline - now(), 0) -> :ok
    end
  end

  defp now, do: System.monotonic_time(:millisecond)
end
