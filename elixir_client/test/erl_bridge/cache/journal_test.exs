defmodule ErlBridge.Cache.JournalTest do
  use ExUnit.Case, async: true
  doctest ErlBridge.Cache.Journal

  alias ErlBridge.Cache.Journal

  @entries [{"one", "first value", 60_000}, {"two", "", :infinity}, {"three", <<0, 255>>, 90_000}]

  setup do
    path =
      Path.join(System.tmp_dir!(), "erl_bridge-journal-#{System.unique_integer([:positive])}")

    on_exit(fn -> Enum.each(Path.wildcard(path <> "*"), &File.rm!/1) end)
    %{path: path}
  end

  test "what was written is read, in order, without what was deleted or replaced", %{path: path} do
    {:ok, journal} = Journal.write(path, @entries)
    {:ok, journal} = Journal.append(journal, {:put, {"one", "newer", :infinity}})
    {:ok, journal} = Journal.append(journal, {:delete, "three"})
    assert Journal.bytes(journal) == File.stat!(path).size
    :ok = Journal.close(journal)

    assert Journal.read(path) == {:ok, [{"two", "", :infinity}, {"one", "newer", :infinity}]}
  end

  test "only its owner may read it, and nothing is left beside it", %{path: path} do
    {:ok, journal} = Journal.write(path, @entries)
    :ok = Journal.close(journal)
    assert Bitwise.band(File.stat!(path).mode, 0o777) == 0o600
    assert Path.wildcard(path <> "*") == [path]
  end

  test "a file that is not there is empty; a folder is an error", %{path: path} do
    assert Journal.read(path) == {:ok, []}
    assert Journal.read(System.tmp_dir!()) == {:error, :eisdir}
    assert {:error, _reason} = Journal.write(System.tmp_dir!(), [])
    File.rm(System.tmp_dir!() <> ".new")
  end

  test "cut off at any byte, it gives the entries that are whole", %{path: path} do
    content = content(path)

    for size <- 0..(byte_size(content) - 1) do
      {state, entries} = Journal.parse(binary_part(content, 0, size), now())
      assert keys(entries) == Enum.take(~w(one two three), length(entries))
      # At the end of a record nothing can be missed, nor is an empty file.
      assert state == :damaged or size == 0 or byte_size(content(path, length(entries))) == size
    end
  end

  test "with any one byte changed, it gives no entry that was not written", %{path: path} do
    content = content(path)

    for offset <- 0..(byte_size(content) - 1) do
      <<before::binary-size(offset), byte, rest::binary>> = content
      damaged = <<before::binary, Bitwise.bxor(byte, 0xFF), rest::binary>>

      case Journal.parse(damaged, now()) do
        {:damaged, entries} ->
          assert keys(entries) -- ~w(one two three) == []
          assert length(entries) < 3

        # It says no more that it is the file of a cache.
        {:error, :not_of_a_cache} ->
          assert offset < byte_size("erl_bridge cache ")
      end
    end
  end

  test "a damaged value costs its own entry only", %{path: path} do
    damaged = String.replace(content(path), "first value", "worst value")
    assert {:damaged, entries} = Journal.parse(damaged, now())
    assert keys(entries) == ~w(two three)
  end

  test "time that has passed is taken off, and a clock put back adds none", %{path: path} do
    content = content(path)
    assert {:ok, [{"two", "", :infinity}]} = Journal.parse(content, now() + 1_000_000)
    assert {:ok, [{"one", _, 60_000}, _two, _three]} = Journal.parse(content, 0)
    {:ok, [{"two", _, :infinity}, {"three", _, left}]} = Journal.parse(content, now() + 70_000)
    assert left in 0..20_000
  end

  test "a damaged file is set aside as it was", %{path: path} do
    File.write!(path, "erl_bridge cache 1\ngarbage")
    assert Journal.read(path) == {:damaged, []}
    assert Journal.set_aside(path) == {:ok, path <> ".damaged"}
    assert File.read!(path <> ".damaged") == "erl_bridge cache 1\ngarbage"
    refute File.exists?(path)
  end

  defp content(path, count \\ length(@entries)) do
    {:ok, journal} = Journal.write(path, Enum.take(@entries, count))
    :ok = Journal.close(journal)
    File.read!(path)
  end

  defp keys(entries), do: Enum.map(entries, &elem(&1, 0))
  defp now, do: System.os_time(:millisecond)
end
