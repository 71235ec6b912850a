defmodule ErlBridge.Cache.FileTest do
  use ExUnit.Case, async: true

  import ExUnit.CaptureLog

  alias ErlBridge.{Cache, Error}

  setup do
    file = Path.join(System.tmp_dir!(), "erl_bridge-cache-#{System.unique_integer([:positive])}")
    on_exit(fn -> Enum.each(Path.wildcard(file <> "*"), &File.rm!/1) end)
    %{path: file}
  end

  test "results survive a stop, with their order of use", %{path: file} do
    cache = start!(file: file)
    for key <- ~w(a b c), do: :ok = Cache.put(cache, key, %{key => {:result, 1.5}})
    {:ok, _used} = Cache.get(cache, "a")
    stop(cache)

    cache = start!(file: file, max_entries: 2)
    assert Cache.get(cache, "b") == :miss
    assert Cache.get(cache, "a") == {:ok, %{"a" => {:result, 1.5}}}
    assert Cache.get(cache, "c") == {:ok, %{"c" => {:result, 1.5}}}
  end

  test "what was put or fetched survives a kill, what was deleted does not come back", %{
    path: file
  } do
    cache = start!(file: file)
    :ok = Cache.put(cache, "put", 1)
    {:ok, 2} = Cache.fetch(cache, "fetched", fn -> {:ok, 2} end)
    :ok = Cache.put(cache, "deleted", 3)
    :ok = Cache.delete(cache, "deleted")
    kill(cache)

    cache = start!(file: file)

    assert for(key <- ~w(put fetched deleted), do: Cache.get(cache, key)) == [
             {:ok, 1},
             {:ok, 2},
             :miss
           ]

    :ok = Cache.clear(cache)
    kill(cache)
    assert Cache.size(start!(file: file)) == {:ok, 0}
  end

  test "a file cut off by a kill is set aside, and the whole entries are kept", %{path: file} do
    cache = start!(file: file)
    :ok = Cache.put(cache, "whole", 1)
    :ok = Cache.put(cache, "cut", 2)
    kill(cache)
    content = File.read!(file)
    File.write!(file, binary_part(content, 0, byte_size(content) - 1))

    {cache, log} = with_log(fn -> start!(file: file) end)
    assert log =~ "is damaged: 1 entries could be read, the file is kept as #{file}.damaged"
    assert {Cache.get(cache, "whole"), Cache.get(cache, "cut")} == {{:ok, 1}, :miss}
    assert byte_size(File.read!(file <> ".damaged")) == byte_size(content) - 1
  end

  test "a file belongs to one cache", %{path: file} do
    cache = start!(file: file)
    assert {:error, %Error{type: :invalid_request} = error} = Cache.start_link(file: file)
    assert Exception.message(error) =~ "the cache #{inspect(cache)} has the file #{file}"
  end

  test "a file that cannot be is an error at the start", %{path: file} do
    File.write!(file, "no folder")

    assert {:error, %Error{type: :invalid_request} = error} =
             Cache.start_link(file: file <> "/cache")

    assert Exception.message(error) =~ "cannot be used as the file of a cache"
  end

  test "a file of something else is left alone", %{path: file} do
    File.write!(file, "name,price\ntea,3\n")

    assert {:error, %Error{type: :invalid_request} = error} = Cache.start_link(file: file)
    assert Exception.message(error) =~ "#{file} cannot be used as the file of a cache: it holds"
    assert Path.wildcard(file <> "*") == [file]
    assert File.read!(file) == "name,price\ntea,3\n"
  end

  test "an empty file, and one of another version, are taken", %{path: file} do
    File.write!(file, "")
    cache = start!(file: file)
    :ok = Cache.put(cache, "key", 1)
    kill(cache)
    assert Cache.get(start!(file: file), "key") == {:ok, 1}

    other = file <> "-other"
    File.write!(other, "erl_bridge cache 2\n")
    {cache, log} = with_log(fn -> start!(file: other) end)
    assert log =~ "is damaged: 0 entries could be read"
    assert Cache.size(cache) == {:ok, 0}
    assert File.read!(other <> ".damaged") == "erl_bridge cache 2\n"
  end

  test "a file of many replaced results is written anew, and does not grow", %{path: file} do
    cache = start!(file: file)
    large = :binary.copy("x", 300_000)
    for _n <- 1..20, do: :ok = Cache.put(cache, "key", large)
    assert File.stat!(file).size < 3_000_000
    kill(cache)
    assert Cache.get(start!(file: file), "key") == {:ok, large}
  end

  defp start!(options),
    do: start_supervised!({Cache, options}, id: make_ref(), restart: :temporary)

  defp stop(cache), do: GenServer.stop(cache)

  defp kill(cache) do
    monitor = Process.monitor(cache)
    Process.exit(cache, :kill)
    assert_receive {:DOWN, ^monitor, :process, ^cache, :killed}
  end
end
