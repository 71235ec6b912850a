defmodule ErlBridge.Pool.Queue do
  @moduledoc """
  The callers that wait for room on a worker, in the order in which they came, as a value.

      iex> alias ErlBridge.Pool.Queue
      iex> [a, b, c] = for _ <- 1..3, do: make_ref()
      iex> queue = Enum.reduce([{a, :any}, {b, 1}, {c, 2}], Queue.new(), fn {ref, wanted}, queue ->
      ...>   Queue.push(queue, ref, wanted)
      ...> end)
      iex> {served, queue} = Queue.serve(queue, fn wanted -> if wanted != 1, do: {:ok, wanted}, else: :skip end)
      iex> served == [{a, :any, :any}, {c, 2, 2}]
      true
      iex> Queue.pop(queue, b) |> elem(0)
      1
  """

  defstruct order: :gb_trees.empty(), places: %{}, next: 0

  @opaque t :: %__MODULE__{}

  @spec new() :: t
  def new, do: %__MODULE__{}

  @spec length(t) :: non_neg_integer
  def length(%__MODULE__{places: places}), do: map_size(places)

  @doc "Puts an entry under its reference at the end."
  @spec push(t, reference, term) :: t
  def push(%__MODULE__{next: place} = queue, ref, entry) do
    %{
      queue
      | order: :gb_trees.insert(place, {ref, entry}, queue.order),
        places: Map.put(queue.places, ref, place),
        next: place + 1
    }
  end

  @doc "Takes out the entry of that reference; `nil` when it is not there."
  @spec pop(t, reference) :: {term | nil, t}
  def pop(%__MODULE__{} = queue, ref) do
    case Map.pop(queue.places, ref) do
      {nil, _places} ->
        {nil, queue}

      {place, places} ->
        {{^ref, entry}, order} = :gb_trees.take(place, queue.order)
        {entry, %{queue | places: places, order: order}}
    end
  end

  @doc """
  Offers the entries in their order: `fun` gives `{:ok, value}` to take one out, `:skip` to leave
  it, `:stop` to leave it and all behind it.

  Gives `{reference, entry, value}` of each that was taken out.
  """
  @spec serve(t, (term -> {:ok, value} | :skip | :stop)) :: {[{reference, term, value}], t}
        when value: term
  def serve(%__MODULE__{order: order} = queue, fun) do
    served = served(:gb_trees.next(:gb_trees.iterator(order)), fun)
    {served, Enum.reduce(served, queue, fn {ref, _, _}, queue -> elem(pop(queue, ref), 1) end)}
  end

  defp served(:none, _fun), do: []

  defp served({_place, {ref, entry}, iterator}, fun) do
    case fun.(entry) do
      {:ok, value} -> [{ref, entry, value} | served(:gb_trees.next(iterator), fun)]
      :skip -> served(:gb_trees.next(iterator), fun)
      :stop -> []
    end
  end
end
