defmodule ErlBridge.Recovery.Budget do
  @moduledoc """
  The retry budget of a bridge: an `ErlBridge.Recovery.TokenBucket` that many processes share.

  Callers read and update it themselves; there is no process to ask and no lock to wait for. It
  lives as long as anybody holds it.

      iex> alias ErlBridge.Recovery.Budget
      iex> budget = Budget.new(burst: 2)
      iex> for _retry <- 1..3, do: Budget.withdraw(budget)
      [true, true, false]
  """

  alias ErlBridge.Recovery.TokenBucket

  @enforce_keys [:bucket, :empty_at]
  defstruct [:bucket, :empty_at]

  @opaque t :: %__MODULE__{bucket: TokenBucket.t(), empty_at: :atomics.atomics_ref()}

  @doc "A full budget. The options are those of `ErlBridge.Recovery.TokenBucket.new/2`."
  @spec new(keyword) :: t
  def new(options \\ []) do
    bucket = TokenBucket.new(options, now())
    empty_at = :atomics.new(1, [])
    :atomics.put(empty_at, 1, bucket.empty_at)
    %__MODULE__{bucket: bucket, empty_at: empty_at}
  end

  @doc "A request is begun: its share goes in."
  @spec deposit(t) :: :ok
  def deposit(%__MODULE__{} = budget),
    do: :atomics.sub(budget.empty_at, 1, budget.bucket.deposit)

  @doc "Takes a token for a retry; `false` when there is none."
  @spec withdraw(t) :: boolean
  def withdraw(%__MODULE__{} = budget),
    do: withdraw(budget, :atomics.get(budget.empty_at, 1))

  @doc "How many tokens there are."
  @spec tokens(t) :: float
  def tokens(%__MODULE__{} = budget),
    do: TokenBucket.tokens(bucket(budget, :atomics.get(budget.empty_at, 1)), now())

  defp withdraw(budget, seen) do
    case TokenBucket.withdraw(bucket(budget, seen), now()) do
      {:ok, bucket} -> put(budget, seen, bucket.empty_at)
      :empty -> false
    end
  end

  # Somebody else may have been quicker; then their value is the one to start from.
  defp put(budget, seen, empty_at) do
    case :atomics.compare_exchange(budget.empty_at, 1, seen, empty_at) do
      :ok -> true
      newer -> withdraw(budget, newer)
    end
  end

  defp bucket(budget, empty_at), do: %{budget.bucket | empty_at: empty_at}

  defp now, do: System.monotonic_time(:microsecond)
end
