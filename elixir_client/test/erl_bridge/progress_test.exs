defmodule ErlBridge.ProgressTest do
  use ExUnit.Case, async: true
  doctest ErlBridge.Figures
  doctest ErlBridge.Progress

  import ExUnit.CaptureIO

  alias ErlBridge.{Progress, ProgressBar}

  test "a line, for all that may be known of it" do
    assert Progress.line(%{phase: :evaluate, done: 30, total: 40, lm_calls: 30, elapsed_ms: 50}) ==
             "  [###############.....]  row 30 of 40  30 LM calls  0.1 s"

    assert Progress.line(%{phase: :optimize, best_score: 0.5, lm_calls: 9, elapsed_ms: 0}) ==
             "  [....................]  best 50.0 %  9 LM calls  0.0 s"
  end

  test "milestones are trials and ends of phases" do
    assert Progress.milestone(%{phase: :evaluate, done: 9, total: 9, trial: 1}) ==
             {:phase, :evaluate}

    assert Progress.milestone(%{phase: :optimize, trial: 0, trials: 9}) == nil
    assert Progress.milestone(%{phase: :optimize}) == nil
  end

  test "where there is no terminal, steps and milestones are lines" do
    events =
      for {title, done} <- [{"one", 1}, {"one", 2}, {"one", 2}, {"two", 2}],
          do: {title, %{phase: :evaluate, done: done, total: 2, lm_calls: done, elapsed_ms: 100}}

    output =
      capture_io(fn ->
        {:ok, progress} = ProgressBar.start_link(nil)
        for {title, event} <- events, do: :ok = Progress.show(progress, title, event)
      end)

    milestone = "  [####################]  row 2 of 2  2 LM calls  0.1 s\n"
    assert output == "one\n#{milestone}two\n#{milestone}"
  end
end
