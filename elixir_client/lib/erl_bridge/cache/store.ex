defmodule ErlBridge.Cache.Store do
  @moduledoc """
  The entries of a cache: an ETS table that every process may read and only its owner writes, with
  limits, an order of use and an order of expiry.

  **Reading** is one lookup in ETS and one write to an atomics array, which notes the time of use
  in the entry's slot. No process is asked, and no lock is taken for writing: a public table and
  `:ets.update_element/3` would take one on each hit. A slot may have gone to another entry
  meanwhile; that one then counts as used a little later than it was, and nothing else happens.

  **Evicting** takes the least recently used entry, exactly. The owner keeps the entries sorted by
  a time of use that may be out of date, but is never later than the true one. The first of them
  is compared with its slot: if it was used since, it is put where it belongs and the next one is
  looked at. An entry moves at most once for each time that it was used, so an eviction costs
  O(log n), beside O(log n) for each entry used since the last one. **Expiring** takes entries
  from the front of an index too. Nothing ever goes through the whole table.

  Values are binaries, opaque here; ETS and messages share them instead of copying. Times are
  integers of one clock that does not go back, and expiries may be `:infinity`.

      iex> alias ErlBridge.Cache.Store
      iex> store = Store.new(2, 1_000)
      iex> {[], store} = Store.put(store, "a", "1", :infinity, 1)
      iex> {[], store} = Store.put(store, "b", "22", 100, 2)
      iex> Store.read(Store.reader(store), "a", 3)
      {:ok, "1"}
      iex> {evicted, store} = Store.put(store, "c", "333", :infinity, 4)
      iex> evicted
      [{"b", 2}]
      iex> {Store.size(Store.reader(store)), store.bytes}
      {2, 4}
  """

  @enforce_keys [:entries, :stamps, :uses, :expiries, :max_entries, :max_bytes]
  defstruct @enforce_keys ++ [bytes: 0, free: [], next_slot: 1]

  @type key :: binary
  @type time :: integer
  @type expiry :: time | :infinity
  @type removed :: {key, bytes :: non_neg_integer}

  @typedoc "What processes that only read need."
  @type reader :: {:ets.table(), :atomics.atomics_ref()}

  @type t :: %__MODULE__{
          entries: :ets.table(),
          stamps: :atomics.atomics_ref(),
          uses: :ets.table(),
          expiries: :ets.table(),
          max_entries: pos_integer,
          max_bytes: pos_integer,
          bytes: non_neg_integer,
          free: [pos_integer],
          next_slot: pos_integer
        }

  @doc "An empty store, owned by the calling process. Takes 8 bytes for each entry that it may get."
  @spec new(pos_integer, pos_integer) :: t
  def new(max_entries, max_bytes) do
    %__MODULE__{
      entries: :ets.new(__MODULE__, [:set, :protected, read_concurrency: true]),
      # One slot more than entries: a new entry comes before an old one goes.
      stamps: :atomics.new(max_entries + 1, []),
      uses: :ets.new(__MODULE__, [:ordered_set, :private]),
      expiries: :ets.new(__MODULE__, [:ordered_set, :private]),
      max_entries: max_entries,
      max_bytes: max_bytes
    }
  end

  @doc "What to give to processes that read."
  @spec reader(t) :: reader
  def reader(%__MODULE__{entries: entries, stamps: stamps}), do: {entries, stamps}

  @doc "The value under a key, which counts as a use; `:error` where there is none or it has expired."
  @spec read(reader, key, time) :: {:ok, binary} | :error
  def read({entries, stamps}, key, now) do
    # An atom is greater than any integer, so `:infinity` is later than now.
    case :ets.lookup(entries, key) do
      [{^key, value, expiry, slot, _indexed}] when expiry > now ->
        :atomics.put(stamps, slot, now)
        {:ok, value}

      _none_or_expired ->
        :error
    end
  end

  @doc "How many entries there are, with those that have expired and were not removed yet."
  @spec size(reader) :: non_neg_integer
  def size({entries, _stamps}), do: :ets.info(entries, :size)

  @doc """
  Puts a value in, in the place of an older one under its key, and gives what was evicted for it.

  A value that is larger than all entries together may be is evicted at once itself.
  """
  @spec put(t, key, binary, expiry, time) :: {[removed], t}
  def put(%__MODULE__{max_bytes: max_bytes} = store, key, value, _expiry, _now)
      when byte_size(value) > max_bytes,
      do: {[{key, byte_size(value)}], delete(store, key)}

  def put(%__MODULE__{} = store, key, value, expiry, now) do
    {slot, store} = slot(store, key)
    :atomics.put(store.stamps, slot, now)
    :ets.insert(store.entries, {key, value, expiry, slot, now})
    :ets.insert(store.uses, {{now, key}})
    if expiry != :infinity, do: :ets.insert(store.expiries, {{expiry, key}})
    evict(%{store | bytes: store.bytes + byte_size(value)}, [])
  end

  @doc "Removes the entry under a key, if there is one."
  @spec delete(t, key) :: t
  def delete(%__MODULE__{} = store, key) do
    case :ets.take(store.entries, key) do
      [entry] -> forget(store, entry)
      [] -> store
    end
  end

  @doc "Removes all entries that have expired, and gives them."
  @spec expire(t, time) :: {[removed], t}
  def expire(%__MODULE__{} = store, now), do: expire(store, now, [])

  @doc "When the next entry expires; `:infinity` for never."
  @spec next_expiry(t) :: expiry
  def next_expiry(%__MODULE__{expiries: expiries}) do
    case :ets.first(expiries) do
      {expiry, _key} -> expiry
      :"$end_of_table" -> :infinity
    end
  end

  @doc "Removes everything."
  @spec clear(t) :: t
  def clear(%__MODULE__{} = store) do
    Enum.each([store.entries, store.uses, store.expiries], &:ets.delete_all_objects/1)
    %{store | bytes: 0, free: [], next_slot: 1}
  end

  @doc "All entries, the least recently used first."
  @spec to_list(t) :: [{key, binary, expiry}]
  def to_list(%__MODULE__{} = store) do
    :ets.tab2list(store.entries)
    |> Enum.sort_by(fn {key, _value, _expiry, slot, _indexed} ->
      {:atomics.get(store.stamps, slot), key}
    end)
    |> Enum.map(fn {key, value, expiry, _slot, _indexed} -> {key, value, expiry} end)
  end

  # An entry that replaces another keeps its slot, and readers find one or the other.
  defp slot(store, key) do
    case :ets.lookup(store.entries, key) do
      [{_key, _value, _expiry, slot, _indexed} = entry] -> {slot, unindex(store, entry)}
      [] -> free_slot(store)
    end
  end

  defp free_slot(%{free: [slot | free]} = store), do: {slot, %{store | free: free}}
  defp free_slot(%{next_slot: slot} = store), do: {slot, %{store | next_slot: slot + 1}}

  defp forget(store, {_key, _value, _expiry, slot, _indexed} = entry),
    do: unindex(%{store | free: [slot | store.free]}, entry)

  defp unindex(store, {key, value, expiry, _slot, indexed}) do
    :ets.delete(store.uses, {indexed, key})
    :ets.delete(store.expiries, {expiry, key})
    %{store | bytes: store.bytes - byte_size(value)}
  end

  defp evict(store, evicted) do
    if size(reader(store)) > store.max_entries or store.bytes > store.max_bytes do
      {key, value} = least_recently_used(store)
      evict(delete(store, key), [{key, byte_size(value)} | evicted])
    else
      {Enum.reverse(evicted), store}
    end
  end

  defp least_recently_used(store) do
    {indexed, key} = :ets.first(store.uses)
    [{^key, value, _expiry, slot, ^indexed}] = :ets.lookup(store.entries, key)

    case :atomics.get(store.stamps, slot) do
      used when used > indexed ->
        :ets.delete(store.uses, {indexed, key})
        :ets.insert(store.uses, {{used, key}})
        :ets.update_element(store.entries, key, {5, used})
        least_recently_used(store)

      _not_used_since ->
        {key, value}
    end
  end

  defp expire(store, now, expired) do
    case :ets.first(store.expiries) do
      {expiry, key} when expiry <= now ->
        [{^key, value, ^expiry, _slot, _indexed}] = :ets.lookup(store.entries, key)
        expire(delete(store, key), now, [{key, byte_size(value)} | expired])

      _later_or_never ->
        {Enum.reverse(expired), store}
    end
  end
end
