defmodule ErlBridge.Recovery.Backoff do
  @moduledoc """
  Exponential backoff with jitter: how long to wait before a retry.

  The ceiling doubles from `:min` up to `:max` milliseconds. The delay is drawn below it, so that
  callers who failed together do not come back together:

    * `:full` jitter draws from 0 up to the ceiling, which spreads the load best
    * `:equal` jitter draws from half the ceiling up to it, for what certainly takes a while

  The random source is a function like `:rand.uniform/1`: given `n`, it returns an integer from 1
  to `n`.

      iex> alias ErlBridge.Recovery.Backoff
      iex> for n <- 0..4, do: Backoff.ceiling([min: 100, max: 1_000], n)
      [100, 200, 400, 800, 1000]
      iex> highest = & &1
      iex> Backoff.delay([min: 100, max: 1_000], 2, :full, highest)
      400
      iex> lowest = fn _n -> 1 end
      iex> {Backoff.delay([min: 100, max: 1_000], 2, :full, lowest), Backoff.delay([min: 100, max: 1_000], 2, :equal, lowest)}
      {0, 200}
  """

  @typedoc "The first and the largest ceiling in milliseconds: `[min: 100, max: 10_000]`."
  @type bounds :: [min: pos_integer, max: pos_integer]

  @type jitter :: :full | :equal
  @type random :: (pos_integer -> pos_integer)

  # So many doublings of one millisecond are more than a day, the largest that options allow.
  @doublings 27

  @doc "The most that the delay after `n` earlier ones may be, in milliseconds."
  @spec ceiling(bounds, non_neg_integer) :: pos_integer
  def ceiling([min: min, max: max], n), do: min(max, Bitwise.bsl(min, min(n, @doublings)))
  def ceiling([max: max, min: min], n), do: ceiling([min: min, max: max], n)

  @doc "The delay after `n` earlier ones, in milliseconds."
  @spec delay(bounds, non_neg_integer, jitter, random) :: non_neg_integer
  def delay(bounds, n, jitter, random) do
    ceiling = ceiling(bounds, n)
    floor = floor(jitter, ceiling)
    floor + random.(ceiling - floor + 1) - 1
  end

  defp floor(:full, _ceiling), do: 0
  defp floor(:equal, ceiling), do: div(ceiling, 2)
end
