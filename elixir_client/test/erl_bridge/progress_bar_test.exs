defmodule ErlBridge.ProgressBarTest do
  use ExUnit.Case, async: true
  doctest ErlBridge.ProgressBar

  import ExUnit.CaptureIO

  alias ErlBridge.ProgressBar

  defp printed(columns, shown) do
    capture_io(fn ->
      {:ok, bar} = ProgressBar.start_link(columns)
      Enum.each(shown, &apply(ProgressBar, :show, [bar | &1]))
      ProgressBar.stop(bar)
    end)
  end

  test "on a terminal the line of a step is drawn again, cut to its width" do
    output = printed(10, [["one"], ["two", "1 of 2"], ["two", "2 of 2, and more"], ["three"]])
    clear = IO.ANSI.clear_line()
    assert output == "one\ntwo\n\r#{clear}1 of 2\r#{clear}2 of 2, a\nthree\n"
  end

  test "elsewhere a step is its title and its milestones, each once" do
    shown = [
      ["one", "1 of 3"],
      ["one", "2 of 3", :half],
      ["one", "2 of 3 still", :half],
      ["one", "3 of 3", :whole],
      ["two", "2 of 3", :half],
      ["three"]
    ]

    assert printed(nil, shown) == "one\n2 of 3\n3 of 3\ntwo\n2 of 3\nthree\n"
  end

  test "without anything shown nothing is printed" do
    assert printed(80, []) == ""
  end
end
