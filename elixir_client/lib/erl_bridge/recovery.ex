defmodule ErlBridge.Recovery do
  @moduledoc """
  What becomes of a request that failed: another attempt, its fallback, or the error.

  Each error brings its strategy, and `decide/4` is a function of the error, the attempts so far,
  the policy and the time:

  | strategy | what is done |
  |---|---|
  | `:retry` | retried, then the fallback |
  | `:restart_process` | retried if the request is idempotent, for Python is started anew meanwhile; then the fallback |
  | `:fallback` | the fallback at once |
  | `:fatal` | the error at once: a request that is wrong or was cancelled needs no other answer |

  Whether a request may be repeated depends on how far it came:

    * `:overloaded`, `:pool_exhausted`, `:circuit_open`, and any error whose context has `sent:
      false`, were made before the work began: repeating is always safe
    * after `:process_crashed`, `:not_running`, `:timeout_error` and everything of the strategy
      `:restart_process`, the work may have been done, in part or whole: only requests with
      `idempotent: true` are repeated
    * in other errors Python itself says that a retry is right

  A retry needs one of the `:max_retries` left, a token of the budget, and a delay that ends
  before the deadline. The delay is `ErlBridge.Recovery.Backoff`'s, or the error's
  `:retry_after_ms` (up to `:max_retry_after`) if that is longer. While Python restarts, the
  jitter is `:equal`, so that the retries are not used up before it is back.

  `run/2` does it in the calling process: no other process, no message.
  """

  alias ErlBridge.{Error, Fallback}
  alias ErlBridge.Recovery.{Backoff, Budget, Policy}

  @enforce_keys [:policy]
  defstruct [
    :policy,
    :budget,
    :fallback,
    :pause,
    :on_retry,
    :on_fallback,
    deadline: :infinity,
    context: %{}
  ]

  @typedoc """
  What has been done so far: how many retries, until when (monotonic milliseconds) there is time,
  and whether the budget has a token.
  """
  @type progress :: %{
          retries: non_neg_integer,
          deadline: integer | :infinity,
          budget: :left | :spent
        }

  @type decision :: {:retry, non_neg_integer} | :fallback | :give_up
  @type result :: {:ok, term} | {:error, Error.t()}

  @not_begun [:overloaded, :pool_exhausted, :circuit_open]
  @restarting [:process_crashed, :not_running]
  @may_be_done [:timeout_error | @restarting]

  @doc """
  What to do about an error, at the time `now` in monotonic milliseconds.

      iex> alias ErlBridge.{Error, Recovery}
      iex> policy = %{Recovery.Policy.new() | random: fn highest -> highest end}
      iex> first = %{retries: 0, deadline: 1_000, budget: :left}
      iex> busy = %Error{type: :lm_error, message: "slow down", strategy: :retry}
      iex> Recovery.decide(busy, first, policy, 0)
      {:retry, 100}
      iex> Recovery.decide(%{busy | retry_after_ms: 750}, first, policy, 0)
      {:retry, 750}
      iex> Recovery.decide(%{busy | retry_after_ms: 750}, first, policy, 250)
      :fallback
      iex> Recovery.decide(busy, %{first | retries: 3}, policy, 0)
      :fallback
      iex> Recovery.decide(Error.crashed(1, 139, []), first, policy, 0)
      :fallback
      iex> Recovery.decide(Error.crashed(1, 139, []), first, %{policy | idempotent: true}, 0)
      {:retry, 100}
      iex> Recovery.decide(Error.duplicate_id(:nightly), first, policy, 0)
      :give_up
  """
  @spec decide(Error.t(), progress, Policy.t(), integer) :: decision
  def decide(%Error{strategy: :fatal}, _progress, _policy, _now), do: :give_up

  def decide(%Error{} = error, progress, %Policy{} = policy, now) do
    if progress.retries < policy.max_retries and progress.budget == :left and
         repeatable?(error, policy),
       do: in_time(delay(error, progress.retries, policy), progress.deadline, now),
       else: :fallback
  end

  @doc """
  Calls `fun` until it gives a result or there is nothing left to try.

  `fun` gets the number of the attempt, from 1, and how many milliseconds are left (`:infinity`
  without a deadline); it returns `{:ok, result}` or `{:error, %ErlBridge.Error{}}`. The first
  attempt is always made. What `fun` or a hook raises is the caller's.

    * `:policy` - an `ErlBridge.Recovery.Policy`; required
    * `:deadline` - in monotonic milliseconds, or `:infinity`, the default
    * `:budget` - the bridge's `ErlBridge.Recovery.Budget`; without one, retries are not counted
    * `:fallback` - a function or module: see `ErlBridge.Fallback`; without one, the last error is
      the result
    * `:pause` - waits so many milliseconds before a retry and gives `:ok`, or the error with which all
      is over; without one, nothing ends the wait
    * `:context` - the map that a fallback module gets with the error, default `%{}`
    * `:on_retry` - called before each wait with `%{attempt: n, delay_ms: ms, error: error}`, where
      `n` is the attempt that failed
    * `:on_fallback` - called after the fallback with `%{attempts: n, error: error, result:
      result}`

  The result of a fallback looks like any other to the caller:

      iex> alias ErlBridge.{Error, Recovery}
      iex> flaky = fn
      ...>   1, _timeout -> {:error, %Error{type: :overloaded, message: "busy", strategy: :retry}}
      ...>   attempt, _timeout -> {:ok, attempt}
      ...> end
      iex> policy = Recovery.Policy.new(backoff: [min: 1, max: 1])
      iex> Recovery.run(flaky, policy: policy)
      {:ok, 2}
      iex> Recovery.run(flaky, policy: %{policy | max_retries: 0}, fallback: fn error -> error.type end)
      {:ok, :overloaded}
  """
  @spec run((pos_integer, timeout -> result), keyword) :: result
  def run(fun, options) when is_function(fun, 2) do
    deadline = Keyword.get(options, :deadline, :infinity)

    case fun.(1, remaining(deadline)) do
      {:ok, _result} = ok ->
        options[:budget] && Budget.deposit(options[:budget])
        ok

      {:error, %Error{} = error} ->
        after_failure(error, fun, options)
    end
  end

  @doc "Goes on where the first attempt has failed, given its error and what `run/2` is given."
  @spec after_failure(Error.t(), (pos_integer, timeout -> result), keyword) :: result
  def after_failure(%Error{} = error, fun, options) do
    plan = struct!(__MODULE__, options)
    plan.budget && Budget.deposit(plan.budget)
    recover(decision(error, 1, plan), error, fun, 1, plan)
  end

  @doc "The fallback's answer to an error, where there is a fallback and the error is not fatal; else the error."
  @spec fall_back(Error.t(), keyword) :: result
  def fall_back(%Error{strategy: :fatal} = error, _options), do: {:error, error}
  def fall_back(%Error{} = error, options), do: fall_back(error, 1, struct!(__MODULE__, options))

  defp repeatable?(%Error{strategy: strategy}, _policy)
       when strategy not in [:retry, :restart_process],
       do: false

  defp repeatable?(%Error{}, %Policy{idempotent: true}), do: true
  defp repeatable?(%Error{type: type}, _policy) when type in @not_begun, do: true
  defp repeatable?(%Error{context: %{sent: false}}, _policy), do: true

  defp repeatable?(error, _policy),
    do: error.strategy == :retry and error.type not in @may_be_done

  defp delay(error, retries, policy) do
    backoff = Backoff.delay(policy.backoff, retries, jitter(error), policy.random)
    max(backoff, min(error.retry_after_ms || 0, policy.max_retry_after))
  end

  defp jitter(%Error{strategy: :restart_process}), do: :equal
  defp jitter(%Error{type: type}) when type in @restarting, do: :equal
  defp jitter(_error), do: :full

  defp in_time(delay, :infinity, _now), do: {:retry, delay}
  defp in_time(delay, deadline, now) when now + delay < deadline, do: {:retry, delay}
  defp in_time(_delay, _deadline, _now), do: :fallback

  defp attempt(fun, attempt, plan) do
    case fun.(attempt, remaining(plan.deadline)) do
      {:ok, _result} = ok ->
        ok

      {:error, %Error{} = error} ->
        recover(decision(error, attempt, plan), error, fun, attempt, plan)
    end
  end

  # A token is taken only for a retry that nothing else forbids.
  defp decision(error, attempt, plan) do
    progress = %{retries: attempt - 1, deadline: plan.deadline, budget: :left}

    with {:retry, _delay} = retry <- decide(error, progress, plan.policy, now()) do
      if plan.budget == nil or Budget.withdraw(plan.budget),
        do: retry,
        else: decide(error, %{progress | budget: :spent}, plan.policy, now())
    end
  end

  defp recover({:retry, delay}, error, fun, attempt, plan) do
    notify(plan.on_retry, %{attempt: attempt, delay_ms: delay, error: error})

    with :ok <- (plan.pause || (&wait/1)).(delay) do
      if plan.deadline == :infinity or now() < plan.deadline,
        do: attempt(fun, attempt + 1, plan),
        else: fall_back(error, attempt, plan)
    end
  end

  defp recover(:fallback, error, _fun, attempt, plan), do: fall_back(error, attempt, plan)
  defp recover(:give_up, error, _fun, _attempt, _plan), do: {:error, error}

  defp fall_back(error, _attempt, %{fallback: nil}), do: {:error, error}

  defp fall_back(error, attempt, plan) do
    result = Fallback.run(plan.fallback, error, plan.context)
    notify(plan.on_fallback, %{attempts: attempt, error: error, result: result})
    result
  end

  defp notify(nil, _event), do: :ok
  defp notify(hook, event), do: hook.(event)

  # Matches no message, so the mailbox stays as it is.
  defp wait(delay) do
    receive do
    after
      delay -> :ok
    end
  end

  defp remaining(:infinity), do: :infinity
  defp remaining(deadline), do: max(deadline - now(), 1)

  defp now, do: System.monotonic_time(:millisecond)
end
