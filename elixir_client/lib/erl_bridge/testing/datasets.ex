defmodule ErlBridge.Testing.Datasets do
  @moduledoc false

  # The datasets of a bridge without Python, as a value: what came, in memory.

  alias ErlBridge.Dataset.Batches
  alias ErlBridge.Error

  @requests [:dataset_begin, :data_chunk, :dataset_status, :dataset_drop]

  defstruct transfers: %{}, datasets: %{}

  @type t :: %__MODULE__{}

  @doc "Whether this is a request about datasets."
  defguard is_request(type) when type in @requests

  @doc "Answers a request."
  @spec answer(t, atom, map) :: {{:ok, map} | {:error, Error.t()}, t}
  def answer(state, :dataset_begin, %{transfer_id: id} = payload) do
    case state.datasets[payload[:dataset_id]] do
      nil ->
        new = %{compression: payload[:compression] || :none, chunks: %{}, last: nil}
        state = put_in(state.transfers[id], Map.get(state.transfers, id, new))
        {{:ok, status(id, state.transfers[id])}, state}

      dataset ->
        {{:ok, Map.merge(facts(dataset), %{transfer_id: id, received: []})}, state}
    end
  end

  def answer(state, :data_chunk, %{transfer_id: id, chunk_index: index, data: data} = payload) do
    with_transfer(state, id, fn transfer ->
      transfer = put_in(transfer.chunks[index], data)
      transfer = if payload[:is_final], do: %{transfer | last: index}, else: transfer
      state = put_in(state.transfers[id], transfer)

      if transfer.last != nil and map_size(transfer.chunks) == transfer.last + 1,
        do: complete(state, id, transfer),
        else: {{:ok, Map.take(status(id, transfer), [:received, :next])}, state}
    end)
  end

  def answer(state, :dataset_status, %{transfer_id: id}),
    do: with_transfer(state, id, &{{:ok, status(id, &1)}, state})

  def answer(state, :dataset_status, %{dataset_id: id}) do
    none = %{dataset_id: nil, rows: nil, bytes: nil}
    held = state.datasets[id]
    {{:ok, if(held, do: facts(held), else: none)}, state}
  end

  def answer(state, :dataset_status, _all) do
    status = %{
      compression: [:none, :zlib],
      datasets: map_size(state.datasets),
      bytes: state.datasets |> Map.values() |> Enum.map(& &1.bytes) |> Enum.sum(),
      transfers: map_size(state.transfers),
      limits: %{}
    }

    {{:ok, status}, state}
  end

  def answer(state, :dataset_drop, %{transfer_id: id}) do
    {dropped, transfers} = Map.pop(state.transfers, id)
    {{:ok, %{dropped: dropped != nil}}, %{state | transfers: transfers}}
  end

  @doc "A payload with rows in the place of the ids of datasets."
  @spec rows(t, map) :: map
  def rows(state, payload) do
    Map.new(payload, fn
      {key, %{dataset: id} = ref} when map_size(ref) == 1 ->
        held = state.datasets[id]
        {key, if(held, do: held.list, else: ref)}

      other ->
        other
    end)
  end

  defp with_transfer(state, id, fun) do
    case state.transfers do
      %{^id => transfer} -> fun.(transfer)
      _unknown -> {{:error, unknown(id)}, state}
    end
  end

  defp unknown(id) do
    message = "there is no transfer #{inspect(id)}"
    context = %{transfer_id: id, dropped: true}
    %Error{type: :transfer_error, message: message, context: context, strategy: :retry}
  end

  defp complete(state, id, transfer) do
    batches =
      0..transfer.last
      |> Enum.map(&transfer.chunks[&1])
      |> IO.iodata_to_binary()
      |> inflate(transfer.compression)
      |> batches()

    hash = Enum.reduce(batches, Batches.new_hash(), &Batches.update_hash(&2, &1, 0))
    rows = Enum.flat_map(batches, &:erlang.binary_to_term/1)
    bytes = batches |> Enum.map(&(byte_size(&1) - 7)) |> Enum.sum()

    dataset = %{
      dataset_id: Batches.final_hash(hash),
      rows: length(rows),
      bytes: bytes,
      list: rows
    }

    state = %{
      state
      | transfers: Map.delete(state.transfers, id),
        datasets: Map.put(state.datasets, dataset.dataset_id, dataset)
    }

    {{:ok, Map.merge(facts(dataset), %{received: transfer.last + 1, next: transfer.last + 1})},
     state}
  end

  defp facts(dataset), do: Map.take(dataset, [:dataset_id, :rows, :bytes])

  defp status(id, transfer) do
    received = map_size(transfer.chunks)

    %{
      transfer_id: id,
      received: if(received > 0, do: [{0, received - 1}], else: []),
      missing: [],
      next: received,
      chunk_count: transfer.last && transfer.last + 1,
      rows: 0,
      bytes: 0,
      dataset_id: nil
    }
  end

  defp inflate(data, :none), do: data
  defp inflate(data, :zlib), do: :zlib.uncompress(data)
  defp inflate(data, :zstd), do: IO.iodata_to_binary(apply(:zstd, :decompress, [data]))

  defp batches(<<size::32, batch::binary-size(size), rest::binary>>), do: [batch | batches(rest)]
  defp batches(<<>>), do: []
end
