defmodule ErlBridge.Cache.StoreTest do
  use ExUnit.Case, async: true
  doctest ErlBridge.Cache.Store

  alias ErlBridge.Cache.Store

  @runs 200
  @steps 80

  # The model is a list of entries, the least recently used first: slow, and plainly right.
  test "it does what a simple model does, for random histories" do
    for run <- 1..@runs do
      :rand.seed(:exsss, {run, 2, 3})
      limits = {:rand.uniform(6), 5 + :rand.uniform(40)}
      {max_entries, max_bytes} = limits
      history = for now <- 1..@steps, do: {random_step(), now}

      Enum.reduce(history, {Store.new(max_entries, max_bytes), []}, fn {step, now},
                                                                       {store, model} ->
        {seen, store} = step(store, step, now)
        {expected, model} = model(model, step, now, limits)
        assert {run, step, now, seen} == {run, step, now, expected}
        assert Store.to_list(store) == model
        assert store.bytes == bytes(model)

        assert Store.next_expiry(store) ==
                 model |> Enum.map(&elem(&1, 2)) |> Enum.min(fn -> :infinity end)

        {store, model}
      end)
    end
  end

  test "an expired entry is never read, and goes when entries are expired" do
    {[], store} = Store.put(Store.new(9, 99), "key", "value", 10, 1)
    assert Store.read(Store.reader(store), "key", 9) == {:ok, "value"}
    assert Store.read(Store.reader(store), "key", 10) == :error
    assert {[], ^store} = Store.expire(store, 9)
    assert {[{"key", 5}], store} = Store.expire(store, 10)
    assert {Store.size(Store.reader(store)), store.bytes} == {0, 0}
  end

  test "nothing is left in any table or index when all entries have gone" do
    store =
      Enum.reduce(1..500, Store.new(10, 1_000), fn n, store ->
        {_evicted, store} = Store.put(store, "#{rem(n, 30)}", "value", n + 1_000, n)
        store
      end)

    {expired, store} = Store.expire(store, 9_999)
    assert length(expired) == 10

    for table <- [store.entries, store.uses, store.expiries],
        do: assert(:ets.info(table, :size) == 0)

    assert Enum.sort(store.free) == Enum.to_list(1..11)
  end

  defp random_step do
    key = <<?a + :rand.uniform(8)>>

    case :rand.uniform(10) do
      n when n <= 4 ->
        {:put, key, :binary.copy("x", :rand.uniform(12)), Enum.random([:infinity, 20, 50, 70])}

      n when n <= 8 ->
        {:read, key}

      9 ->
        {:delete, key}

      10 ->
        :expire
    end
  end

  defp step(store, {:put, key, value, expiry}, now), do: Store.put(store, key, value, expiry, now)
  defp step(store, {:read, key}, now), do: {Store.read(Store.reader(store), key, now), store}
  defp step(store, {:delete, key}, _now), do: {:ok, Store.delete(store, key)}
  defp step(store, :expire, now), do: Store.expire(store, now)

  defp model(model, {:put, key, value, expiry}, _now, {_max_entries, max_bytes} = limits) do
    others = List.keydelete(model, key, 0)

    if byte_size(value) > max_bytes,
      do: {[{key, byte_size(value)}], others},
      else: trim(others ++ [{key, value, expiry}], limits, [])
  end

  defp model(model, {:read, key}, now, _limits) do
    case List.keyfind(model, key, 0) do
      {_key, value, expiry} = entry when expiry > now ->
        {{:ok, value}, List.delete(model, entry) ++ [entry]}

      _none_or_expired ->
        {:error, model}
    end
  end

  defp model(model, {:delete, key}, _now, _limits), do: {:ok, List.keydelete(model, key, 0)}

  defp model(model, :expire, now, _limits) do
    {expired, others} = Enum.split_with(model, fn {_key, _value, expiry} -> expiry <= now end)
    gone = Enum.sort_by(expired, fn {key, _value, expiry} -> {expiry, key} end)
    {Enum.map(gone, fn {key, value, _expiry} -> {key, byte_size(value)} end), others}
  end

  defp trim([{key, value, _expiry} | others] = model, {max_entries, max_bytes} = limits, gone) do
    if length(model) > max_entries or bytes(model) > max_bytes,
      do: trim(others, limits, [{key, byte_size(value)} | gone]),
      else: {Enum.reverse(gone), model}
  end

  defp bytes(model), do: model |> Enum.map(&byte_size(elem(&1, 1))) |> Enum.sum()
end
