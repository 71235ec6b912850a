defmodule ErlBridge.CacheLiveTest do
  @moduledoc "A real optimization, computed once and given again without any Python."
  use ExUnit.Case, async: true

  alias ErlBridge.{Cache, Live, Route}

  @lm "local/nearest-demo"
  @rows for {mood, words} <- [{"happy", ~w(sun smile laugh)}, {"sad", ~w(rain tears cry)}],
            word <- words,
            do: %{sentence: "so much #{word}", mood: mood}
  @signature %{
    instructions: "Tell the mood of the sentence.",
    input_fields: [%{name: :sentence, type: :str}],
    output_fields: [%{name: :mood, type: {:literal, ["happy", "sad"]}}]
  }

  test "an optimization is cached, over a stop of its bridge and a restart of the cache" do
    file = Path.join(System.tmp_dir!(), "erl_bridge-live-#{System.unique_integer([:positive])}")
    on_exit(fn -> Enum.each(Path.wildcard(file <> "*"), &File.rm!/1) end)
    bridge = Live.start!()
    cache = start_supervised!({Cache, file: file}, id: :first)
    {:ok, hello} = ErlBridge.hello(bridge)
    key = Cache.key(%{signature: @signature, rows: @rows, lm: @lm, version: hello.version})

    compute = fn -> optimize(bridge, cache: false) end

    assert {:ok, %{program: _program} = result} = Cache.fetch(cache, key, compute)
    :ok = ErlBridge.stop(bridge)
    assert {:error, _not_running} = compute.()
    assert Cache.fetch(cache, key, compute) == {:ok, result}

    :ok = stop_supervised(:first)
    cache = start_supervised!({Cache, file: file}, id: :second)
    assert Cache.fetch(cache, key, compute) == {:ok, result}
  end

  test "an optimization that ends while its bridge is stopped is kept" do
    file = Path.join(System.tmp_dir!(), "erl_bridge-stop-#{System.unique_integer([:positive])}")
    on_exit(fn -> Enum.each(Path.wildcard(file <> "*"), &File.rm!/1) end)
    bridge = Live.start!(cache: [file: file], shutdown_timeout: 60_000)

    # Its pool has gone, and the worker waits for what is in flight.
    on_progress = fn _event ->
      with {:ok, _route} <- Route.lookup(bridge) do
        spawn(fn -> ErlBridge.stop(bridge) end)
        await(fn -> match?({:error, _not_running}, Route.lookup(bridge)) end)
      end
    end

    assert {:ok, %{program: program}} = optimize(bridge, on_progress: on_progress)
    await(fn -> not Process.alive?(bridge) end)

    again = Live.start!(cache: [file: file])
    assert {:ok, %{program: ^program}} = optimize(again, [])
    assert {:ok, %{hits: 1}} = ErlBridge.cache_stats(again)
  end

  defp optimize(bridge, options) do
    usual = [optimizer: :labeled_few_shot, lm: @lm]
    ErlBridge.optimize(bridge, @signature, @rows, usual ++ options)
  end

  # Until it is so; the test's own timeout is the end of it.
  defp await(so?), do: so?.() or await(so?)
end
