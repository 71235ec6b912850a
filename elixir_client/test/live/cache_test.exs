defmodule ErlBridge.CacheLiveTest do
  @moduledoc "A real optimization, computed once and given again without any Python."
  use ExUnit.Case, async: true

  alias ErlBridge.{Cache, Live}

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

    compute = fn ->
      ErlBridge.optimize(bridge, @signature, @rows, optimizer: :labeled_few_shot, lm: @lm)
    end

    assert {:ok, %{program: _program} = result} = Cache.fetch(cache, key, compute)
    :ok = ErlBridge.stop(bridge)
    assert {:error, _not_running} = compute.()
    assert Cache.fetch(cache, key, compute) == {:ok, result}

    :ok = stop_supervised(:first)
    cache = start_supervised!({Cache, file: file}, id: :second)
    assert Cache.fetch(cache, key, compute) == {:ok, result}
  end
end
