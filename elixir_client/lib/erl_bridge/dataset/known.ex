defmodule ErlBridge.Dataset.Known do
  @moduledoc """
  Which lists were sent before, by a guess.

  To find out whether Python has a list of rows costs writing all of them as terms, without sending
  one meanwhile. So that is done only for a list that looks like one that was sent: the same length,
  and some rows alike. A wrong guess costs that time and nothing else, for it is the digest of all
  rows that decides.

      iex> alias ErlBridge.Dataset.Known
      iex> rows = for n <- 1..1_000, do: %{known_of_the_docs: n}
      iex> {Known.member?(rows), Known.add(rows), Known.member?(rows), Known.member?(tl(rows))}
      {false, :ok, true, false}
  """

  # A place in the table takes some ten words.
  @most 10_000

  @sample 32

  @doc "Makes the table. It belongs to the calling process."
  @spec init() :: :ok
  def init do
    :ets.new(__MODULE__, [:named_table, :public, :set, read_concurrency: true])
    :ok
  end

  @doc "Notes that this list was sent."
  @spec add([map]) :: :ok
  def add(rows) do
    if :ets.info(__MODULE__, :size) >= @most, do: :ets.delete_all_objects(__MODULE__)
    :ets.insert(__MODULE__, {look(rows)})
    :ok
  end

  @doc "Whether a list that looks like this one was sent."
  @spec member?([map]) :: boolean
  def member?(rows), do: :ets.member(__MODULE__, look(rows))

  defp look(rows) do
    length = length(rows)
    {length, rows |> sample(max(div(length, @sample), 1), length) |> :erlang.phash2(0x100000000)}
  end

  defp sample([row | _] = rows, step, left) when left > step,
    do: [row | sample(:lists.nthtail(step, rows), step, left - step)]

  defp sample(rows, _step, _left), do: Enum.take(rows, 1)
end
