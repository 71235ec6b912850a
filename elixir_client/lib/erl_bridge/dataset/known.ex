defmodule ErlBridge.Dataset.Known do
  @moduledoc """
  Which lists were sent before, by a guess.

  To find out whether Python has a list of rows costs writing all of them as terms, without sending
  one meanwhile. So that is done only for a list that looks like one that was sent: the same length,
  and some rows alike. A wrong guess costs that time and nothing else, for it is the digest of all
  rows that decides.

      iex> alias ErlBridge.Dataset.Known
      iex> rows = for n <- 1..1_000, do: %{known_of_the_docs: n}
      iex> look = Known.look(rows)
      iex> {Known.member?(look), Known.add(look), Known.member?(look), Known.member?(Known.look(tl(rows)))}
      {false, :ok, true, false}
  """

  # A place in the table takes some ten words.
  @most 10_000

  @sample 32

  @typedoc "How long a list is, and a hash of some of its rows."
  @type look :: {non_neg_integer, non_neg_integer}

  @doc "Makes the table. It belongs to the calling process."
  @spec init() :: :ok
  def init do
    :ets.new(__MODULE__, [:named_table, :public, :set, read_concurrency: true])
    :ok
  end

  @doc "What a list looks like. It walks through all of it."
  @spec look([map]) :: look
  def look(rows) do
    length = length(rows)
    {length, rows |> sample(max(div(length, @sample), 1), length) |> :erlang.phash2(0x100000000)}
  end

  @doc "Notes that a list like this was sent."
  @spec add(look) :: :ok
  def add(look) do
    if :ets.info(__MODULE__, :size) >= @most, do: :ets.delete_all_objects(__MODULE__)
    :ets.insert(__MODULE__, {look})
    :ok
  end

  @doc "Whether a list that looks like this was sent."
  @spec member?(look) :: boolean
  def member?(look), do: :ets.member(__MODULE__, look)

  defp sample([row | _] = rows, step, left) when left > step,
    do: [row | sample(:lists.nthtail(step, rows), step, left - step)]

  defp sample(rows, _step, _left), do: Enum.take(rows, 1)
end
