defmodule ErlBridge.Load do
  @moduledoc """
  How much one worker has in flight: requests and their bytes, counted where all callers can see.

  A caller takes room before it sends; the worker gives it back when the reply has come. So what
  lies in a worker's mailbox, in its port and in Python is bounded, also while Python does not
  read.

      iex> alias ErlBridge.Load
      iex> load = Load.new()
      iex> limits = %{requests: 2, bytes: 100}
      iex> for bytes <- [60, 60, 30, 1], do: Load.take(load, bytes, limits)
      [true, false, true, false]
      iex> Load.requests(load)
      2
      iex> Load.answered(load, 60)
      iex> {Load.requests(load), Load.answers(load)}
      {1, 1}

  A worker with nothing else to do takes a request of any size, and one that ends takes none:

      iex> alias ErlBridge.Load
      iex> load = Load.new()
      iex> Load.close(load)
      iex> {Load.take(load, 1, %{requests: 2, bytes: 100}), Load.requests(load)}
      {false, 0}
  """

  @requests 1
  @bytes 2
  @answered 3
  @settled 4

  # More than any limit.
  @closed 0x1000_0000_0000

  @type t :: :atomics.atomics_ref()
  @type limits :: %{requests: pos_integer, bytes: pos_integer}

  @spec new() :: t
  def new, do: :atomics.new(4, signed: true)

  @doc "Takes room for a request of so many bytes; false, and nothing taken, where there is none."
  @spec take(t, non_neg_integer, limits) :: boolean
  def take(load, bytes, limits) do
    requests = :atomics.add_get(load, @requests, 1)
    total = :atomics.add_get(load, @bytes, bytes)
    room? = requests <= limits.requests and (total <= limits.bytes or requests == 1)
    if not room?, do: give_back(load, bytes)
    room?
  end

  @doc "Gives back what `take/3` took."
  @spec give_back(t, non_neg_integer) :: :ok
  def give_back(load, bytes) do
    :atomics.sub(load, @requests, 1)
    :atomics.sub(load, @bytes, bytes)
  end

  @doc "Notes that Python has answered a request that was counted, and gives back what it took."
  @spec answered(t, non_neg_integer) :: :ok
  def answered(load, bytes) do
    :atomics.add(load, @answered, 1)
    give_back(load, bytes)
  end

  @doc "How many requests that were counted Python has answered."
  @spec answers(t) :: non_neg_integer
  def answers(load), do: :atomics.get(load, @answered)

  @doc "Requests in flight."
  @spec requests(t) :: non_neg_integer
  def requests(load) do
    case :atomics.get(load, @requests) do
      closed when closed > div(@closed, 2) -> max(closed - @closed, 0)
      requests -> max(requests, 0)
    end
  end

  @doc """
  Forgets what is counted.

  For a worker that has nothing in flight: a caller that was killed between taking room and
  sending has left its room taken.
  """
  @spec clear(t) :: :ok
  def clear(load) do
    :atomics.sub(load, @requests, requests(load))
    :atomics.put(load, @bytes, 0)
  end

  @doc "The worker ends: from now on there is no room on it, and who waits for some asks its pool."
  @spec close(t) :: :ok
  def close(load), do: :atomics.add(load, @requests, @closed)

  @doc "The worker has ended, and has answered or refused all that ever came to it."
  @spec settle(t) :: :ok
  def settle(load), do: :atomics.put(load, @settled, 1)

  @doc "Whether what a worker did not answer did not come to it."
  @spec settled?(t) :: boolean
  def settled?(load), do: :atomics.get(load, @settled) == 1
end
