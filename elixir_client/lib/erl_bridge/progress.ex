defmodule ErlBridge.Progress do
  @moduledoc """
  The progress of an optimization or an evaluation, for people who look on.

      {:ok, bar} = ErlBridge.ProgressBar.start_link()

      ErlBridge.optimize(bridge, signature, rows,
        on_progress: &ErlBridge.Progress.show(bar, "optimize the signature", &1)
      )

      iex> event = %{phase: :optimize, trial: 5, trials: 9, best_score: 0.42, lm_calls: 1641, elapsed_ms: 2700}
      iex> ErlBridge.Progress.line(event)
      "  [###########.........]  trial 5 of 9  best 42.0 %  1 641 LM calls  2.7 s"
      iex> ErlBridge.Progress.line(%{phase: :transfer, done: 500, total: 1_000, elapsed_ms: 200})
      "  [##########..........]  row 500 of 1000  0.2 s"
      iex> ErlBridge.Progress.line(Map.put(event, :cost_usd, 0.25))
      "  [###########.........]  trial 5 of 9  best 42.0 %  1 641 LM calls  $0.2500  2.7 s"
  """

  import ErlBridge.Figures, only: [dollars: 1, number: 1, percent: 1, seconds: 1]

  alias ErlBridge.ProgressBar

  @doc "Shows an event of the step with this title."
  @spec show(Agent.agent(), String.t(), map) :: :ok
  def show(bar, title, event), do: ProgressBar.show(bar, title, line(event), milestone(event))

  @doc "One line on how far a step is."
  @spec line(map) :: String.t()
  def line(event) do
    parts = [
      ProgressBar.bar(fraction(event)),
      count(event),
      event[:best_score] && "best #{percent(event.best_score)}",
      event[:lm_calls] && "#{number(event.lm_calls)} LM calls",
      cost(event),
      seconds(event.elapsed_ms)
    ]

    "  " <> Enum.join(Enum.filter(parts, & &1), "  ")
  end

  @doc """
  What an event completes: a trial or all rows of a phase; `nil` when it is one on the way.

      iex> ErlBridge.Progress.milestone(%{phase: :optimize, trial: 5, trials: 9})
      {:trial, 5}
      iex> ErlBridge.Progress.milestone(%{phase: :baseline, done: 5, total: 9})
      nil
  """
  @spec milestone(map) :: {:trial, pos_integer} | {:phase, atom} | nil
  def milestone(%{phase: phase, done: total, total: total}), do: {:phase, phase}
  def milestone(%{trial: trial}) when trial > 0, do: {:trial, trial}
  def milestone(_event), do: nil

  defp fraction(%{trial: trial, trials: trials}), do: trial / trials
  defp fraction(%{done: done, total: total}), do: done / total
  defp fraction(_event), do: 0.0

  # What costs nothing need not be said.
  defp cost(%{cost_usd: cost}) when is_number(cost) and cost > 0, do: dollars(cost)
  defp cost(_event), do: nil

  defp count(%{trial: trial, trials: trials}), do: "trial #{trial} of #{trials}"
  defp count(%{done: done, total: total}), do: "row #{done} of #{total}"
  defp count(_event), do: nil
end
