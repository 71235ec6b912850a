defmodule ErlBridge.ProgressBar do
  @moduledoc """
  Progress of work that has several steps, on a terminal or in a log.

  On a terminal the progress of a step is one line, drawn again each time. Elsewhere each milestone
  of a step adds a line.

      {:ok, bar} = ErlBridge.ProgressBar.start_link()
      ErlBridge.ProgressBar.show(bar, "installing packages", "  [####....]  3 of 6")
      ErlBridge.ProgressBar.stop(bar)
  """

  @width 20

  @doc """
  A bar that shows a fraction.

      iex> ErlBridge.ProgressBar.bar(5 / 9)
      "[###########.........]"
      iex> ErlBridge.ProgressBar.bar(1)
      "[####################]"
  """
  @spec bar(number) :: String.t()
  def bar(fraction) do
    full = min(round(fraction * @width), @width)
    "[#{String.duplicate("#", full)}#{String.duplicate(".", @width - full)}]"
  end

  @doc """
  Starts a printer to the caller's output.

  `columns` is the width of the terminal, `nil` for none; found out unless told.
  """
  @spec start_link(pos_integer | nil) :: Agent.on_start()
  def start_link(columns \\ columns()) do
    Agent.start_link(fn -> %{columns: columns, title: nil, milestone: nil, drawn: false} end)
  end

  @doc """
  Shows how far the step `title` is: a new title is a line of its own, then comes `line`, if any.

  A `milestone` is any term that differs from the last one; without one a line is for terminals
  only.
  """
  @spec show(Agent.agent(), String.t(), String.t() | nil, term) :: :ok
  def show(bar, title, line \\ nil, milestone \\ nil) do
    Agent.update(bar, fn state ->
      state |> begin(title) |> draw(line, milestone)
    end)
  end

  @doc "Ends the line that is drawn, and the printer."
  @spec stop(Agent.agent()) :: :ok
  def stop(bar) do
    Agent.update(bar, &end_line/1)
    Agent.stop(bar)
  end

  defp begin(%{title: title} = state, title), do: state

  defp begin(state, title) do
    state = end_line(state)
    IO.puts(title)
    %{state | title: title, milestone: nil}
  end

  defp draw(state, nil, _milestone), do: state

  defp draw(%{columns: nil} = state, line, milestone) do
    if milestone in [nil, state.milestone] do
      state
    else
      IO.puts(line)
      %{state | milestone: milestone}
    end
  end

  defp draw(state, line, _milestone) do
    IO.write(["\r", IO.ANSI.clear_line(), String.slice(line, 0, state.columns - 1)])
    %{state | drawn: true}
  end

  defp end_line(%{drawn: false} = state), do: state

  defp end_line(state) do
    IO.puts("")
    %{state | drawn: false}
  end

  defp columns do
    case :io.columns() do
      {:ok, columns} when columns > 1 -> columns
      _no_terminal -> nil
    end
  end
end
