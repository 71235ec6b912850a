defmodule ErlBridge.Recovery.TokenBucket do
  @moduledoc """
  The retry budget as a value: a bucket of tokens, of which each retry takes one.

  Each request puts a share of a token in, and time puts in a few per second, so that a bridge
  with little traffic can retry too. So retries stay a share of the requests, however much fails.
  The bucket starts full.

  All that changes is one integer, `:empty_at`: the instant in microseconds at which the bucket,
  filled by time alone, would have been empty. A deposit moves it back, a withdrawal forward, and
  there is a token as long as it lies a token's time in the past. One integer can be updated
  without a lock: see `ErlBridge.Recovery.Budget`.

      iex> alias ErlBridge.Recovery.TokenBucket
      iex> bucket = TokenBucket.new([share: 0.5, min_per_second: 1, burst: 1], 0)
      iex> {:ok, bucket} = TokenBucket.withdraw(bucket, 0)
      iex> TokenBucket.withdraw(bucket, 0)
      :empty
      iex> bucket = bucket |> TokenBucket.deposit() |> TokenBucket.deposit()
      iex> {:ok, bucket} = TokenBucket.withdraw(bucket, 0)
      iex> {TokenBucket.tokens(bucket, 0), TokenBucket.tokens(bucket, 1_000_000)}
      {0.0, 1.0}
  """

  alias ErlBridge.Options

  @enforce_keys [:token, :deposit, :capacity, :empty_at]
  defstruct [:token, :deposit, :capacity, :empty_at]

  @typedoc "A token, a request's deposit and the whole bucket, each as the microseconds in which time fills it."
  @type t :: %__MODULE__{
          token: pos_integer,
          deposit: non_neg_integer,
          capacity: pos_integer,
          empty_at: integer
        }

  @doc """
  A full bucket at the instant `now`, in microseconds of any clock that does not go back.

  #{Options.docs(:retry_budget)}
  """
  @spec new(keyword, integer) :: t
  def new(options, now) do
    %{share: share, min_per_second: rate, burst: burst} =
      Options.validate!(options, :retry_budget)

    token = div(1_000_000, rate)

    %__MODULE__{
      token: token,
      deposit: round(share * token),
      capacity: burst * token,
      empty_at: now - burst * token
    }
  end

  @doc "Puts a request's share in. What is too much for the bucket is poured off at the next withdrawal."
  @spec deposit(t) :: t
  def deposit(%__MODULE__{} = bucket), do: %{bucket | empty_at: bucket.empty_at - bucket.deposit}

  @doc "Takes a token out, if there is one."
  @spec withdraw(t, integer) :: {:ok, t} | :empty
  def withdraw(%__MODULE__{} = bucket, now) do
    empty_at = poured_off(bucket, now) + bucket.token
    if empty_at <= now, do: {:ok, %{bucket | empty_at: empty_at}}, else: :empty
  end

  @doc "How many tokens there are."
  @spec tokens(t, integer) :: float
  def tokens(%__MODULE__{} = bucket, now),
    do: max(now - poured_off(bucket, now), 0) / bucket.token

  defp poured_off(bucket, now), do: max(bucket.empty_at, now - bucket.capacity)
end
