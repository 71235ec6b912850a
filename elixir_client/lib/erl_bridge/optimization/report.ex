defmodule ErlBridge.Optimization.Report do
  @moduledoc """
  What `mix erl_bridge.optimize` says of its work, as text. Nothing is printed here.
  """

  import ErlBridge.Figures

  alias ErlBridge.Program

  @doc """
  What is about to be optimized, on how many rows.

      iex> ErlBridge.Optimization.Report.head("question -> answer", 80, nil, "openai/gpt-4o-mini")
      \"""
      question -> answer
      80 rows for training, which also give the scores: name others for validation
      \"""
  """
  @spec head(String.t(), non_neg_integer, non_neg_integer | nil, term) :: String.t()
  def head(signature, training, validation, lm),
    do: "#{signature}\n#{number(training)} rows for training, #{judges(validation)}\n#{on_lm(lm)}"

  @doc """
  The scores before and after, and what was spent, of a result of `ErlBridge.optimize/4`.
  """
  @spec result(map) :: String.t()
  def result(%{program: program, optimization_metrics: metrics}) do
    before =
      table(
        [["", "before", "after"], scores(metrics), ["demonstrations", "0", demos(program)]] ++
          instructions(program)
      )

    spent = [
      ["LM calls", number(metrics.lm_calls)],
      ["LM errors", number(metrics.lm_errors)],
      ["tokens in", number(metrics.prompt_tokens)],
      ["tokens out", number(metrics.completion_tokens)],
      ["cost", dollars(metrics.cost_usd)],
      ["time", seconds(metrics.duration_ms)]
    ]

    "#{before}\n\n#{table(spent)}\n"
  end

  @doc """
  Where a program is, and how it is used.

      iex> ErlBridge.Optimization.Report.saved("program.etf")
      \"""
      The program is in program.etf: read it with ErlBridge.Program.load("program.etf").
      \"""
  """
  @spec saved(Path.t()) :: String.t()
  def saved(path),
    do: "The program is in #{path}: read it with ErlBridge.Program.load(#{inspect(path)}).\n"

  @doc "What is kept of an optimization that ended early; `best` is the `:best` in its error's context."
  @spec best(%{program: Program.t(), score: number}) :: String.t()
  def best(%{program: program, score: score}) do
    "It is the best so far: a score of #{percent(score)} with #{demos(program)} demonstrations.\n"
  end

  defp scores(metrics), do: ["score", percent(metrics.baseline_score), percent(metrics.score)]

  defp instructions(%{predictors: predictors}) do
    case Enum.count(predictors, & &1[:instructions]) do
      0 -> []
      count -> [["instructions", "given", "#{number(count)} new"]]
    end
  end

  defp demos(program), do: number(Program.summary(program).demos)

  defp judges(nil), do: "which also give the scores: name others for validation"
  defp judges(rows), do: "#{number(rows)} for validation"

  defp on_lm("local/nearest-demo") do
    "\nlocal/nearest-demo understands nothing: it answers as the most similar demonstration does.\n"
  end

  defp on_lm(_lm), do: ""
end
