defmodule ErlBridge.Protocol do
  @moduledoc """
  Frames as binaries, messages as terms, and nothing else: no process, no port.

  A request is encoded in steps, so that the process that owns the port never handles the terms
  of a request. The caller encodes what it asks (`encode/2`), adds the metadata once it is about to
  send (`body/2`), because they hold the time that is left; and the worker puts the id in front
  (`frame/2`), a small integer of its own.

      iex> body = ErlBridge.Protocol.body(ErlBridge.Protocol.encode(:ping, %{n: 1}), %{})
      iex> frame = IO.iodata_to_binary(ErlBridge.Protocol.frame(300, body))
      iex> %{message_id: 300, request_type: :ping, payload: %{n: 1}} = :erlang.binary_to_term(frame)
      iex> ErlBridge.Protocol.peek(:erlang.term_to_binary({:ok, 300, "pong"}))
      {:final, 300}
      iex> ErlBridge.Protocol.decode(:erlang.term_to_binary({:ok, 300, "pong"}))
      {:ok, {:ok, 300, "pong"}}

  What comes back is read in two steps for the same reason: `peek/1` finds out for the worker what
  a frame is and whose, by its first bytes; `decode/1` reads it whole where it is wanted.
  """

  alias ErlBridge.{Bert, Error}

  @typedoc "Every id on the wire is of this range: the external term format has one way to write it, in five bytes."
  @type id :: 256..0x7FFFFFFF

  @typedoc "What a request is about; as a pair, with one key more whose value is a binary in pieces."
  @type payload :: map | {map, {atom, iodata}}

  @typedoc "An encoded request that lacks its id and its metadata."
  @type encoded :: iodata

  @typedoc "An encoded request that lacks its id."
  @type body :: iodata

  @type message ::
          {:hello, map}
          | {:ok, id | nil, term}
          | {:error, id | nil, map}
          | {:event, id | nil, map}
          | {:call, term, id, term, [term]}

  @type glimpse ::
          {:final, id} | {:event, id} | {:call, term, id} | {:refused, Error.t()} | :unreadable

  # What takes no more bytes is encoded in one piece.
  @copied 65_536

  @first_id 256
  @last_id 0x7FFFFFFF
  @version 131
  @map 116
  @integer 98
  @small_integer 97
  @binary 109

  without_version = fn term ->
    encoded = :erlang.term_to_binary(term)
    binary_part(encoded, 1, byte_size(encoded) - 1)
  end

  # Keys of every request map.
  @message_id without_version.(:message_id)
  @metadata without_version.(:metadata)
  @payload without_version.(:payload)

  # Metadata of one key, up to the value, an integer as `@integer` has it: from 256 on, the terms
  # below have a shorter form.
  @only_timeout <<@map, 1::32, without_version.(:timeout_ms)::binary, @integer>>

  # What `frame/2` puts before a body: the version, the map, its first key and the id.
  @head_size 6 + byte_size(@message_id) + 5

  # "{tag, ": a tuple of so many elements and its first, in the two ways that an atom is written.
  atom_forms = fn tag ->
    name = Atom.to_string(tag)
    [<<119, byte_size(name), name::binary>>, <<100, byte_size(name)::16, name::binary>>]
  end

  @doc "The first id to use."
  @spec first_id() :: id
  def first_id, do: @first_id

  @doc "The id after this one; past the last comes the first again."
  @spec next_id(id) :: id
  def next_id(@last_id), do: @first_id
  def next_id(id), do: id + 1

  @doc """
  Encodes what is asked for.

  Of a payload that is a pair, the second part is one key more, whose value is a binary in pieces:
  they go out as they are, and nobody puts them together before.

      iex> encoded = ErlBridge.Protocol.encode(:data_chunk, {%{chunk_index: 0}, {:data, ["in ", ["pieces"]]}})
      iex> ErlBridge.Protocol.term(300, ErlBridge.Protocol.body(encoded, %{})).payload
      %{chunk_index: 0, data: "in pieces"}
  """
  @spec encode(atom, payload) :: encoded
  def encode(request_type, {payload, {key, pieces}}) do
    {1, about} = pairs(%{request_type: request_type})
    {count, pairs} = pairs(payload)
    size = IO.iodata_length(pieces)
    head = [@payload, <<@map, count + 1::32>>, without_version(key), <<@binary, size::32>>]
    [about, head, pieces | pairs]
  end

  def encode(request_type, payload) do
    {2, pairs} = pairs(%{request_type: request_type, payload: payload})
    pairs
  end

  # The pieces are so that no large binary is copied. But each of more than 64 bytes would be one.
  defp pairs(map) do
    if :erlang.external_size(map) <= @copied do
      <<@version, @map, count::32, pairs::binary>> = :erlang.term_to_binary(map)
      {count, pairs}
    else
      [<<@version, @map, count::32, pairs::binary>> | rest] = :erlang.term_to_iovec(map)
      {count, [pairs | rest]}
    end
  end

  defp without_version(term) do
    <<@version, encoded::binary>> = :erlang.term_to_binary(term)
    encoded
  end

  @doc "What the request asks, of which `body/2` was made."
  @spec encoded(body) :: encoded
  def encoded([@metadata, _metadata | encoded]), do: encoded

  @doc """
  The two parts that `body/2` was made of.

      iex> encoded = ErlBridge.Protocol.encode(:ping, %{})
      iex> ErlBridge.Protocol.split(ErlBridge.Protocol.body(encoded, %{timeout_ms: 5})) == {encoded, %{timeout_ms: 5}}
      true
  """
  @spec split(body) :: {encoded, map}
  def split([@metadata, metadata | encoded]),
    do: {encoded, :erlang.binary_to_term(<<@version, metadata::binary>>)}

  @doc "The request itself, for a server that is sent terms."
  @spec term(id, body) :: map
  def term(id, body), do: id |> frame(body) |> IO.iodata_to_binary() |> :erlang.binary_to_term()

  @doc "A request, all but its id: three pairs of a map."
  @spec body(encoded, map) :: body
  # Most requests have nothing but their deadline along.
  def body(encoded, %{timeout_ms: left} = metadata)
      when map_size(metadata) == 1 and left in 256..0x7FFFFFFF,
      do: [@metadata, <<@only_timeout, left::32>> | encoded]

  def body(encoded, metadata), do: [@metadata, without_version(metadata) | encoded]

  @doc "The whole frame of a request: a map of four pairs, of which the first is the id."
  @spec frame(id, body) :: iodata
  def frame(id, body), do: [<<@version, @map, 4::32, @message_id, @integer, id::32>> | body]

  @doc "The size in bytes of the frame that a body becomes."
  @spec frame_size(body) :: pos_integer
  def frame_size(body), do: @head_size + IO.iodata_length(body)

  @doc """
  What a frame is and whose, without decoding it where its first bytes say so.

  `:final` is a reply of either kind, `:refused` the answer to a frame in which Python found no
  request. A server that writes its terms in some other valid way is understood too, at the price
  of decoding.
  """
  @spec peek(binary) :: glimpse
  for {tag, kind} <- [ok: :final, error: :final, event: :event], atom <- atom_forms.(tag) do
    def peek(<<@version, 104, 3, unquote(atom), @integer, id::32, _rest::binary>>),
      do: {unquote(kind), id}
  end

  for atom <- atom_forms.(:call) do
    def peek(
          <<@version, 104, 5, unquote(atom), @small_integer, call, @integer, id::32,
            _rest::binary>>
        ),
        do: {:call, call, id}

    def peek(
          <<@version, 104, 5, unquote(atom), @integer, call::32, @integer, id::32, _rest::binary>>
        ),
        do: {:call, call, id}
  end

  def peek(frame) do
    case decode(frame) do
      {:ok, {:event, id, _event}} -> {:event, id}
      {:ok, {:call, call_id, id, _name, _args}} -> {:call, call_id, id}
      {:ok, {:error, nil, error}} -> {:refused, Error.from_wire(error)}
      {:ok, {tag, id, _result}} when tag in [:ok, :error] -> {:final, id}
      _anything_else -> :unreadable
    end
  end

  @doc "Decodes a frame, of the Port or of BERT-RPC. Atoms that do not exist in this node make it unreadable."
  @spec decode(binary) :: {:ok, message} | {:error, Error.t()}
  def decode(frame) do
    classify(:erlang.binary_to_term(frame, [:safe]))
  rescue
    ArgumentError ->
      {:error,
       Error.unreadable(
         "a frame of #{byte_size(frame)} bytes is no term, or holds atoms unknown here"
       )}
  end

  defp classify({:ok, _id, _result} = message), do: {:ok, message}
  defp classify({:hello, facts} = message) when is_map(facts), do: {:ok, message}
  defp classify({:error, _id, error} = message) when is_map(error), do: {:ok, message}
  defp classify({:event, _id, event} = message) when is_map(event), do: {:ok, message}
  defp classify({:call, _, _, _name, args} = message) when is_list(args), do: {:ok, message}

  defp classify(other) do
    with :error <- Bert.message(other) do
      what = inspect(other, limit: 20)
      {:error, Error.unreadable("expected a message of the protocol, got: #{what}")}
    end
  end
end
