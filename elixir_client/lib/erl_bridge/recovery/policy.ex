defmodule ErlBridge.Recovery.Policy do
  @moduledoc """
  How a request is retried, as a value.

  Its options, which are those of a bridge and of a request:

  #{ErlBridge.Options.docs(:recovery)}

  A bridge has a policy, and a request may say otherwise:

      iex> alias ErlBridge.Recovery.Policy
      iex> policy = Policy.new(max_retries: 5)
      iex> {policy.max_retries, policy.backoff, policy.idempotent}
      {5, [min: 100, max: 10_000], false}
      iex> Policy.merge(policy, %{idempotent: true, timeout: 1_000}).idempotent
      true
      iex> Policy.new(max_retries: -1)
      ** (ArgumentError) expected :max_retries to be an integer from 0 to 100, got: -1
  """

  alias ErlBridge.Options
  alias ErlBridge.Recovery.Backoff

  @retries [:max_retries, :backoff, :max_retry_after]

  @enforce_keys [:max_retries, :backoff, :max_retry_after, :idempotent]
  defstruct [:max_retries, :backoff, :max_retry_after, :idempotent, random: &:rand.uniform/1]

  @typedoc "The options' values, and the random source of the jitter."
  @type t :: %__MODULE__{
          max_retries: non_neg_integer,
          backoff: Backoff.bounds(),
          max_retry_after: pos_integer,
          idempotent: boolean,
          random: Backoff.random()
        }

  @doc "The policy of these options, with the defaults filled in. Raises `ArgumentError` for a wrong one."
  @spec new(keyword) :: t
  def new(options \\ []), do: struct!(__MODULE__, Options.validate!(options, :recovery))

  @doc "The policy that is in the validated options of a bridge."
  @spec of(map) :: t
  def of(options),
    do: struct!(__MODULE__, [idempotent: false] ++ Map.to_list(Map.take(options, @retries)))

  @doc "The policy, changed by those of the validated options that are a policy's."
  @spec merge(t, map) :: t
  def merge(%__MODULE__{} = policy, options), do: struct(policy, options)
end
