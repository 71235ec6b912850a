defmodule ErlBridge.Deadline do
  @moduledoc """
  The moment by which a request must be answered, in milliseconds of the node's monotonic clock.

  A deadline is given once and travels along: Python gets the time that is left when the request
  is sent to it, and a request that is made inside a function that Python called is over when the
  request that it was called for is.

      iex> ErlBridge.Deadline.remaining(:infinity)
      :infinity
      iex> deadline = ErlBridge.Deadline.after_timeout(60_000)
      iex> ErlBridge.Deadline.remaining(deadline) in 1..60_000
      true
  """

  @type t :: integer | :infinity

  # An atom, which a process's dictionary finds sooner than a tuple.
  @key __MODULE__

  @doc "The deadline `timeout` ms from now, or the one that this process inherited, whichever is earlier."
  @spec after_timeout(timeout) :: t
  def after_timeout(timeout), do: min(own(timeout), Process.get(@key, :infinity))

  @doc "The time until the deadline in milliseconds; 0 when it has passed."
  @spec remaining(t) :: timeout
  def remaining(:infinity), do: :infinity
  def remaining(deadline), do: max(deadline - now(), 0)

  @doc "The deadline a little later."
  @spec postpone(t, non_neg_integer) :: t
  def postpone(:infinity, _ms), do: :infinity
  def postpone(deadline, ms), do: deadline + ms

  @doc "From now on no request of this process lasts longer than this."
  @spec inherit(t) :: :ok
  def inherit(deadline) do
    Process.put(@key, deadline)
    :ok
  end

  # An integer is less than any atom, so `min/2` takes a deadline before `:infinity`.
  defp own(:infinity), do: :infinity
  defp own(timeout), do: now() + timeout

  # Not through `System`: each module that a request comes through is one more that is read from
  # afar, for while Python works the processor forgets the code of the BEAM.
  defp now, do: :erlang.monotonic_time(:millisecond)
end
