defmodule ErlBridge.Figures do
  @moduledoc """
  Numbers as people read them, and tables of them.

      iex> alias ErlBridge.Figures
      iex> {Figures.percent(0.425), Figures.seconds(2_700), Figures.number(1_641), Figures.dollars(0.01234)}
      {"42.5 %", "2.7 s", "1 641", "$0.0123"}
  """

  @doc "A fraction as a percentage."
  @spec percent(number) :: String.t()
  def percent(fraction), do: "#{decimal(fraction * 100, 1)} %"

  @doc "Milliseconds as seconds."
  @spec seconds(number) :: String.t()
  def seconds(ms), do: "#{decimal(ms / 1000, 1)} s"

  @doc "An integer, its digits in groups of three."
  @spec number(integer) :: String.t()
  def number(integer), do: String.replace(to_string(integer), ~r/(?<=\d)(?=(\d{3})+$)/, " ")

  @doc "An amount of US dollars; `nil` is one that nobody knows."
  @spec dollars(number | nil) :: String.t()
  def dollars(nil), do: "unknown"
  def dollars(amount), do: "$#{decimal(amount, 4)}"

  @doc """
  Lines of cells in columns, the first to the left and the others to the right.

      iex> table = ErlBridge.Figures.table([["", "LM calls"], ["first", "4"], ["second", "1 234"]])
      iex> String.split(table, "\\n")
      ["           LM calls", "  first           4", "  second      1 234"]
  """
  @spec table([[String.t(), ...]]) :: String.t()
  def table(lines) do
    widths =
      lines
      |> Enum.zip_with(& &1)
      |> Enum.map(fn cells -> cells |> Enum.map(&String.length/1) |> Enum.max() end)

    Enum.map_join(lines, "\n", fn [name | cells] ->
      [width | others] = widths

      right =
        Enum.zip_with(cells, others, fn cell, width -> String.pad_leading(cell, width + 3) end)

      "  #{String.pad_trailing(name, width)}#{right}"
    end)
  end

  defp decimal(number, digits), do: :erlang.float_to_binary(number / 1, decimals: digits)
end
