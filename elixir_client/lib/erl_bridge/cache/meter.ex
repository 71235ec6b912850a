defmodule ErlBridge.Cache.Meter do
  @moduledoc """
  Counts what happens in a cache, and tells whoever asked to be told.

  The counters are `:counters` with write concurrency: callers that hit on different schedulers do
  not wait for each other.

      iex> alias ErlBridge.Cache.Meter
      iex> meter = Meter.new(MyApp.Cache, fn event, _measurements, _metadata -> send(self(), event) end)
      iex> Meter.note(meter, :hit, "key", %{bytes: 5})
      iex> Meter.counts(meter).hits
      1
      iex> receive do event -> event end
      :hit
  """

  require Logger

  @enforce_keys [:counters, :cache, :on_event]
  defstruct [:counters, :cache, :on_event]

  @type event :: :hit | :miss | :wait | :put | :evict | :expire

  @typedoc "Called with the event, its measurements, and `%{cache: name, key: key}`."
  @type on_event :: (event, measurements :: map, metadata :: map -> term)

  @opaque t :: %__MODULE__{
            counters: :counters.counters_ref(),
            cache: term,
            on_event: on_event | nil
          }

  @names [
    hit: :hits,
    miss: :misses,
    wait: :waits,
    put: :puts,
    evict: :evictions,
    expire: :expirations
  ]

  @indexed Enum.with_index(@names, 1)
  @bytes length(@names) + 1

  @doc "Counters at zero, for the cache of that name or pid."
  @spec new(term, on_event | nil) :: t
  def new(cache, on_event) do
    counters = :counters.new(@bytes, [:write_concurrency])
    %__MODULE__{counters: counters, cache: cache, on_event: on_event}
  end

  @doc """
  Counts one event on a key and hands it on.

  What the function raises is logged, and stays without effect on the cache.
  """
  @spec note(t, event, binary, map, map) :: :ok
  def note(%__MODULE__{} = meter, event, key, measurements, metadata \\ %{}) do
    :counters.add(meter.counters, index(event), 1)
    tell(meter, event, key, measurements, metadata)
  end

  @doc "Notes how many bytes the entries have. For the owner of the cache only."
  @spec put_bytes(t, non_neg_integer) :: :ok
  def put_bytes(%__MODULE__{counters: counters}, bytes),
    do: :counters.put(counters, @bytes, bytes)

  @doc "How often each event has happened, and how many bytes the entries have."
  @spec counts(t) :: %{required(atom) => non_neg_integer}
  def counts(%__MODULE__{counters: counters}) do
    for({{_event, name}, index} <- @indexed, do: {name, :counters.get(counters, index)})
    |> Map.new()
    |> Map.put(:bytes, :counters.get(counters, @bytes))
  end

  for {{event, _name}, index} <- @indexed do
    defp index(unquote(event)), do: unquote(index)
  end

  defp tell(%{on_event: nil}, _event, _key, _measurements, _metadata), do: :ok

  defp tell(meter, event, key, measurements, metadata) do
    meter.on_event.(event, measurements, Map.merge(metadata, %{cache: meter.cache, key: key}))
    :ok
  catch
    kind, reason ->
      banner = Exception.format_banner(kind, reason, __STACKTRACE__)
      Logger.error("the :on_event of the cache #{inspect(meter.cache)} failed: #{banner}")
  end
end
