defmodule ErlBridge.Cache.Journal do
  @moduledoc """
  The file of a cache: a log of what was put in and deleted, which only ever grows at its end until
  it is written anew as a whole.

  A record is its size in 8 bytes, the SHA-256 of its content, and its content. It is on the disk
  when `append/2` returns. `write/2` writes a new file beside the old one and puts it in its
  place when it is on the disk, so there is a whole file at any time.

  What `read/1` gives are only entries whose digest is right. A record that was cut off or damaged
  is left out, and those after it are still read where they can be found. Its entry is lost then;
  if it replaced or deleted an older one, that one is back, until its time is over.

  Nothing in a file is run. Values are bytes here; who decodes them makes at most the atoms that a
  value had when it was written. The file is only readable and writable for its owner. It is for
  one cache at a time.

  Entries have their time to live left in milliseconds and the wall clock's time, since no other
  clock goes on over a restart. A wall clock that was put back cannot make them live longer than
  they had left when they were written; one that was put forward makes them expire early.
  """

  # What tells the file of a cache from any other. The number is the version of the format; one that is
  # not this is not read.
  @magic "erl_bridge cache "
  @head @magic <> "1\n"
  @never -1
  @digest_bytes 32

  @enforce_keys [:path, :file, :bytes]
  defstruct @enforce_keys

  @type ttl :: non_neg_integer | :infinity
  @type entry :: {key :: binary, value :: binary, ttl}

  @opaque t :: %__MODULE__{path: Path.t(), file: :file.fd(), bytes: pos_integer}

  @doc """
  The entries of a file that have not expired, in the order they were written, and whether all of
  the file could be read. A file that is not there, or is empty, has none; one that is not the file of
  any cache is left alone.
  """
  @spec read(Path.t()) :: {:ok | :damaged, [entry]} | {:error, File.posix() | :not_of_a_cache}
  def read(path) do
    case File.read(path) do
      {:ok, content} -> parse(content, System.os_time(:millisecond))
      {:error, :enoent} -> {:ok, []}
      {:error, reason} -> {:error, reason}
    end
  end

  @doc "Moves a file out of the way, to the same name with `.damaged` at its end; an older one there is lost."
  @spec set_aside(Path.t()) :: {:ok, Path.t()} | {:error, File.posix()}
  def set_aside(path) do
    aside = path <> ".damaged"
    with :ok <- File.rename(path, aside), do: {:ok, aside}
  end

  @doc "Puts a new file with these entries in the place of the one at this path."
  @spec write(Path.t(), [entry]) :: {:ok, t} | {:error, File.posix()}
  def write(path, entries) do
    new = path <> ".new"
    content = [@head | Enum.map(entries, &record({:put, &1}))]

    with :ok <- File.mkdir_p(Path.dirname(path)),
         {:ok, file} <- :file.open(new, [:write, :raw, :binary]) do
      with :ok <- File.chmod(new, 0o600),
           :ok <- write_to_disk(file, content),
           :ok <- File.rename(new, path) do
        {:ok, %__MODULE__{path: path, file: file, bytes: IO.iodata_length(content)}}
      else
        error ->
          :file.close(file)
          File.rm(new)
          error
      end
    end
  end

  @doc "Adds one record. After an error the file has to be written anew."
  @spec append(t, {:put, entry} | {:delete, binary}) :: {:ok, t} | {:error, File.posix()}
  def append(%__MODULE__{} = journal, change) do
    content = record(change)

    with :ok <- write_to_disk(journal.file, content),
         do: {:ok, %{journal | bytes: journal.bytes + IO.iodata_length(content)}}
  end

  @doc "How many bytes the file has, with those of records that are out of date."
  @spec bytes(t) :: pos_integer
  def bytes(%__MODULE__{bytes: bytes}), do: bytes

  @doc "Closes the file. Nothing is left to be written."
  @spec close(t) :: :ok
  def close(%__MODULE__{file: file}) do
    :file.close(file)
    :ok
  end

  @doc """
  The entries in a file's content, at this time of the wall clock in milliseconds.

      iex> ErlBridge.Cache.Journal.parse("erl_bridge cache 1\\n", 0)
      {:ok, []}
      iex> ErlBridge.Cache.Journal.parse("erl_bridge cache 1\\nsomething else", 0)
      {:damaged, []}
      iex> ErlBridge.Cache.Journal.parse("something else", 0)
      {:error, :not_of_a_cache}
  """
  @spec parse(binary, integer) :: {:ok | :damaged, [entry]} | {:error, :not_of_a_cache}
  def parse(@head <> content, now) do
    {state, changes} = records(content, :ok, [])
    {state, changes |> newest() |> Enum.flat_map(&live(&1, now))}
  end

  def parse("", _now), do: {:ok, []}
  def parse(@magic <> _another_version, _now), do: {:damaged, []}

  def parse(content, _now) do
    if String.starts_with?(@magic, content), do: {:damaged, []}, else: {:error, :not_of_a_cache}
  end

  defp write_to_disk(file, content) do
    with :ok <- :file.write(file, content), do: :file.datasync(file)
  end

  # Records

  defp record(change) do
    content = content(change)
    [<<IO.iodata_length(content)::64>>, :crypto.hash(:sha256, content) | content]
  end

  defp content({:put, {key, value, ttl}}) do
    times = <<System.os_time(:millisecond)::signed-64, ttl_field(ttl)::signed-64>>
    ["p", <<byte_size(key)::32>>, key, times | value]
  end

  defp content({:delete, key}), do: ["d" | key]

  defp ttl_field(:infinity), do: @never
  defp ttl_field(ttl), do: ttl

  # The newest record is the first in what this gives.
  defp records(<<>>, state, changes), do: {state, changes}

  defp records(
         <<size::64, digest::binary-size(@digest_bytes), content::binary-size(size),
           rest::binary>>,
         state,
         changes
       ) do
    if :crypto.hash(:sha256, content) == digest,
      do: records(rest, state, [change(content) | changes]),
      else: records(rest, :damaged, changes)
  end

  defp records(_cut_off, _state, changes), do: {:damaged, changes}

  # Copied, or each value would keep the content of the whole file in memory.
  defp change(
         <<"p", size::32, key::binary-size(size), written::signed-64, ttl::signed-64,
           value::binary>>
       ),
       do: {:binary.copy(key), {written, ttl, value}}

  defp change("d" <> key), do: {:binary.copy(key), :deleted}

  # The last change of each key, in the order of the file.
  defp newest(changes), do: changes |> Enum.uniq_by(&elem(&1, 0)) |> Enum.reverse()

  defp live({_key, :deleted}, _now), do: []
  defp live({key, {_written, @never, value}}, _now), do: [{key, :binary.copy(value), :infinity}]

  defp live({key, {written, ttl, value}}, now) do
    case ttl - max(now - written, 0) do
      left when left > 0 -> [{key, :binary.copy(value), left}]
      _expired -> []
    end
  end
end
