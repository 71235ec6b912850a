defmodule ErlBridge.Dataset.Known do
  @moduledoc """
  Which lists were sent before, by a guess.

  To find out whether Python has a list of rows costs writing all of them as terms, without sending
  one meanwhile. So that is done only for a list that looks like one that was sent: it begins with
  the same rows, and is as long. A wrong guess costs that time and nothing else, for it is the digest
  of all rows that decides. A list that begins otherwise is not walked through.

      iex> alias ErlBridge.Dataset.Known
      iex> rows = for n <- 1..1_000, do: %{known_of_the_docs: n}
      iex> {Known.member?(rows), Known.add(rows, 1_000), Known.member?(rows), Known.member?(tl(rows))}
      {false, :ok, true, false}
  """

  # A place in the table takes some ten words, and a list two of them.
  @most 20_000

  # How many rows of a list are looked at.
  @first 32

  @doc "Makes the table. It belongs to the calling process."
  @spec init() :: :ok
  def init do
    :ets.new(__MODULE__, [:named_table, :public, :set, read_concurrency: true])
    :ok
  end

  @doc "Notes that this list of so many rows was sent."
  @spec add([map], non_neg_integer) :: :ok
  def add(rows, count) do
    if :ets.info(__MODULE__, :size) >= @most, do: :ets.delete_all_objects(__MODULE__)
    look = look(rows)
    :ets.insert(__MODULE__, [{look}, {{look, count}}])
    :ok
  end

  @doc "Whether a list that looks like this one was sent."
  @spec member?([map]) :: boolean
  def member?(rows) do
    look = look(rows)
    :ets.member(__MODULE__, look) and :ets.member(__MODULE__, {look, length(rows)})
  end

  defp look(rows), do: rows |> Enum.take(@first) |> :erlang.phash2(0x100000000)
end
