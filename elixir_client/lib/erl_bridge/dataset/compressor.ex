defmodule ErlBridge.Dataset.Compressor do
  @moduledoc """
  The bytes of a transfer, made smaller as they flow: one row of a table for each compression.

      iex> alias ErlBridge.Dataset.Compressor
      iex> {:ok, compressor} = Compressor.open(:zlib, 1)
      iex> compressed = [Compressor.put(compressor, "aaaa"), Compressor.put(compressor, "bbbb"), Compressor.finish(compressor)]
      iex> compressed |> IO.iodata_to_binary() |> :zlib.uncompress()
      "aaaabbbb"

  zstd is that of OTP 28 and newer. A compressor belongs to the process that opened it, and goes
  with it.
  """

  alias ErlBridge.Error

  @type compression :: :none | :zlib | :zstd
  @opaque t :: {compression, term}

  @doc """
  What `:auto` is, for a Python of the same host as for one behind a network of a gigabit a second.

  zlib takes longer at its fastest level than the pipe for ten times the bytes, and about as long
  as such a network for those that it saves.
  """
  @spec resolve(compression | :auto) :: compression
  def resolve(:auto), do: :none
  def resolve(compression), do: compression

  @doc "A compressor at this level, or at its own when that is `nil`; an error where this OTP has none."
  @spec open(compression, pos_integer | nil) :: {:ok, t} | {:error, Error.t()}
  def open(:none, _level), do: {:ok, {:none, nil}}

  def open(:zlib, level) do
    stream = :zlib.open()
    :zlib.deflateInit(stream, level || 1)
    {:ok, {:zlib, stream}}
  end

  def open(:zstd, level) do
    if Code.ensure_loaded?(:zstd) do
      {:ok, context} = apply(:zstd, :context, [:compress, %{compressionLevel: level || 1}])
      {:ok, {:zstd, context}}
    else
      otp = System.otp_release()
      message = "compression: :zstd needs OTP 28 or newer, and this is OTP #{otp}; take :zlib"
      {:error, Error.invalid(message, %{path: "compression", expected: ":none or :zlib"})}
    end
  end

  @doc "Takes bytes in, and gives what has come out by now."
  @spec put(t, iodata) :: iodata
  def put({:none, nil}, data), do: data
  def put({:zlib, stream}, data), do: :zlib.deflate(stream, data)

  def put({:zstd, context}, data) do
    case apply(:zstd, :stream, [context, data]) do
      {:continue, compressed} -> compressed
      {:continue, rest, compressed} -> [compressed, put({:zstd, context}, rest)]
    end
  end

  @doc "Gives the rest, and ends."
  @spec finish(t) :: iodata
  def finish({:none, nil}), do: []

  def finish({:zlib, stream}) do
    rest = :zlib.deflate(stream, [], :finish)
    :zlib.close(stream)
    rest
  end

  def finish({:zstd, context}) do
    {:done, rest} = apply(:zstd, :finish, [context, []])
    rest
  end
end
