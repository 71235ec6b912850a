defmodule ErlBridge.Dataset.Batches do
  @moduledoc """
  Rows as batches of bytes, and the digest that names them.

  A batch is a list of rows in external term format. What is lazy is taken row by row and measured
  before it is encoded, so a batch has `size` bytes or one row more, however long the enumerable is.
  A list is there anyway: it is cut into as many rows as had that size in the batch before, which
  takes half the time.

      iex> alias ErlBridge.Dataset.Batches
      iex> rows = Stream.map(1..5, &%{n: &1})
      iex> Batches.reduce(rows, 20, [], fn batch, count, seen -> [{count, :erlang.binary_to_term(batch)} | seen] end)
      [{1, [%{n: 5}]}, {2, [%{n: 3}, %{n: 4}]}, {2, [%{n: 1}, %{n: 2}]}]
      iex> Batches.digest(rows, 20) == Batches.digest(Enum.to_list(rows), 1_000)
      true
  """

  alias ErlBridge.Error

  # The order of a map's keys is then the same in every BEAM of a release.
  @encoding [:deterministic, minor_version: 2]

  # What a batch has around its rows: the version, the tag of a list and its length; its end.
  @head 6
  @tail 1

  # How many rows of a list are tried first.
  @first_count 64

  @type batch :: binary

  @doc """
  Calls `fun` with each batch, the number of its rows, and what it gave for the batch before.

  Raises `ErlBridge.Error` for a row that is no map, and what the enumerable raises.
  """
  @spec reduce(Enumerable.t(), pos_integer, acc, (batch, pos_integer, acc -> acc)) :: acc
        when acc: term
  def reduce([], _size, acc, _fun), do: acc

  def reduce(rows, size, acc, fun) when is_list(rows),
    do: cut(rows, 0, @first_count, size, acc, fun)

  def reduce(rows, size, acc, fun) do
    {_number, kept, _bytes, acc} =
      Enum.reduce(rows, {0, [], 0, acc}, fn row, {number, kept, bytes, acc} ->
        bytes = bytes + measure(row, number)

        if bytes < size,
          do: {number + 1, [row | kept], bytes, acc},
          else: {number + 1, [], 0, flush([row | kept], acc, fun)}
      end)

    if kept == [], do: acc, else: flush(kept, acc, fun)
  end

  @doc "The id of a dataset with these rows. Runs the enumerable, and raises what `reduce/4` raises."
  @spec digest(Enumerable.t(), pos_integer) :: String.t()
  def digest(rows, size),
    do: rows |> reduce(size, new_hash(), &update_hash(&3, &1, &2)) |> final_hash()

  @doc "The beginning of a digest that is made batch by batch."
  @spec new_hash() :: :crypto.hash_state()
  def new_hash, do: :crypto.hash_init(:sha256)

  @doc "The digest with one more batch in it. Only the rows count, not how they are cut."
  @spec update_hash(:crypto.hash_state(), batch, pos_integer) :: :crypto.hash_state()
  def update_hash(hash, batch, _count),
    do: :crypto.hash_update(hash, binary_part(batch, @head, byte_size(batch) - @head - @tail))

  @doc "The digest, as a dataset's id."
  @spec final_hash(:crypto.hash_state()) :: String.t()
  def final_hash(hash), do: hash |> :crypto.hash_final() |> Base.encode16(case: :lower)

  defp cut([], _number, _count, _size, acc, _fun), do: acc

  defp cut(rows, number, count, size, acc, fun) do
    {slice, next, rest} = take(rows, number, number + count, [])
    batch = :erlang.term_to_binary(slice, @encoding)
    taken = next - number
    fitting = max(div(taken * size, byte_size(batch)), 1)

    if byte_size(batch) > 2 * size and taken > 1,
      do: cut(rows, number, min(fitting, div(taken, 2)), size, acc, fun),
      else: cut(rest, next, fitting, size, fun.(batch, taken, acc), fun)
  end

  # The rows up to this number, the number of the one after them, and the rest.
  defp take([row | rest], number, stop, taken) when number < stop and is_map(row),
    do: take(rest, number + 1, stop, [row | taken])

  defp take([row | _rest], number, stop, _taken) when number < stop, do: measure(row, number)
  defp take(rest, number, _stop, taken), do: {:lists.reverse(taken), number, rest}

  defp measure(row, _number) when is_map(row), do: :erlang.external_size(row)

  defp measure(row, number) do
    path = "rows[#{number}]"
    got = inspect(row, limit: 5, printable_limit: 50)
    message = "#{path}: expected a map, got #{got}"
    raise Error.invalid(message, %{path: path, row: number, expected: "a map", got: got})
  end

  defp flush(kept, acc, fun) do
    rows = :lists.reverse(kept)
    fun.(:erlang.term_to_binary(rows, @encoding), length(rows), acc)
  end
end
