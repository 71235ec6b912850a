defmodule ErlBridge.DataFile do
  @moduledoc """
  Files of data as Elixir terms: YAML, JSON, JSON Lines and CSV, read by Python.

      {:ok, config} = ErlBridge.DataFile.read("pipeline.yaml")
      {:ok, rows} = ErlBridge.DataFile.read("train.jsonl")

      "train.csv" |> ErlBridge.DataFile.stream!() |> Stream.take(100) |> Enum.to_list()

  Keys are strings, and so is each cell of a CSV file; the first line of one names the columns. YAML
  is that of PyYAML's safe loader. A key that is there twice, a key that is no string, NaN, infinity
  and what is not UTF-8 are errors, which name the file, the line and what to do.

  No bridge is needed: each file is read by a Python of its own, which is gone afterwards. It is the
  interpreter that a bridge would start.

  ## Options

  #{ErlBridge.Options.docs(:data_file)}
  """

  alias ErlBridge.DataFile.Reader
  alias ErlBridge.{Error, Options}

  @doc """
  All that is in a file: the document of a YAML or JSON file, the list of rows of a JSON Lines or
  CSV file.

  Raises `ArgumentError` for a wrong option. The options are listed in the [module's
  documentation](#module-options).

      iex> path = Path.join(System.tmp_dir!(), "erl_bridge-example-read.yaml")
      iex> File.write!(path, "name: tickets\\nsteps: [sort, send]")
      iex> ErlBridge.DataFile.read(path)
      {:ok, %{"name" => "tickets", "steps" => ["sort", "send"]}}
      iex> File.rm!(path)
      :ok
  """
  @spec read(Path.t(), keyword) :: {:ok, term} | {:error, Error.t()}
  def read(path, options \\ []) do
    with {:ok, reader} <- Reader.start(path, Options.validate!(options, :data_file)) do
      try do
        collect(reader, [])
      after
        Reader.close(reader)
      end
    end
  end

  @doc """
  A lazy stream of the rows of a JSON Lines or CSV file.

  Rows come in batches of some 256 KiB, and only as they are asked for: a file of any length takes
  no more memory than that. The file is opened when the stream is run, and closed when it ends,
  when it is not run to its end, and when the process that runs it dies.

  Running it raises `ErlBridge.Error` where the file is wrong, after the rows of the batches before.
  The options are those of `read/2`.

      iex> path = Path.join(System.tmp_dir!(), "erl_bridge-example-stream.csv")
      iex> File.write!(path, "name,age\\nAda,36\\nAlan,41\\n")
      iex> path |> ErlBridge.DataFile.stream!() |> Enum.map(& &1["name"])
      ["Ada", "Alan"]
      iex> File.rm!(path)
      :ok
  """
  @spec stream!(Path.t(), keyword) :: Enumerable.t()
  def stream!(path, options \\ []) do
    options = Options.validate!(options, :data_file)
    Stream.resource(fn -> open!(path, options) end, &next_rows!(&1, path), &Reader.close/1)
  end

  defp collect(reader, batches) do
    case Reader.next(reader) do
      {:rows, rows} -> collect(reader, [rows | batches])
      :done -> {:ok, batches |> Enum.reverse() |> Enum.concat()}
      {:document, document} -> {:ok, document}
      {:error, error} -> {:error, error}
    end
  end

  defp open!(path, options) do
    case Reader.start(path, options) do
      {:ok, reader} -> reader
      {:error, error} -> raise error
    end
  end

  defp next_rows!(reader, path) do
    case Reader.next(reader) do
      {:rows, rows} -> {rows, reader}
      :done -> {:halt, reader}
      {:document, _document} -> raise no_rows(path)
      {:error, error} -> raise error
    end
  end

  defp no_rows(path) do
    Error.invalid(
      "#{Path.basename(path)}: expected the rows of a JSON Lines or CSV file, got a document; " <>
        "read it with ErlBridge.DataFile.read/2",
      %{path: path}
    )
  end
end
