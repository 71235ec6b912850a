defmodule ErlBridge.Optimization.ReportTest do
  use ExUnit.Case, async: true
  doctest ErlBridge.Optimization.Report

  alias ErlBridge.Optimization.Report

  @program %{
    format: 2,
    module: :predict,
    signature: %{input_fields: [%{name: :q}], output_fields: [%{name: :a}]},
    predictors: [%{name: "self", demos: [%{q: "1", a: "2"}, %{q: "2", a: "4"}]}]
  }

  defp metrics(cost) do
    %{
      baseline_score: 0.25,
      score: 0.875,
      lm_calls: 1234,
      lm_errors: 1,
      prompt_tokens: 56_789,
      completion_tokens: 451,
      cost_usd: cost,
      duration_ms: 2_540
    }
  end

  test "the head says how many rows there are, and what local/nearest-demo is" do
    head = Report.head("q -> a", 8_000, 20, "local/nearest-demo")
    assert head =~ "q -> a\n8 000 rows for training, 20 for validation\n"
    assert head =~ "local/nearest-demo understands nothing"
  end

  test "scores before and after, and what was spent" do
    assert Report.result(%{program: @program, optimization_metrics: metrics(0.01234)}) == """
                              before    after
             score            25.0 %   87.5 %
             demonstrations        0        2

             LM calls       1 234
             LM errors          1
             tokens in     56 789
             tokens out       451
             cost         $0.0123
             time           2.5 s
           """
  end

  test "instructions that an optimizer wrote are counted" do
    [predictor] = @program.predictors
    told = %{@program | predictors: [Map.put(predictor, :instructions, "Be exact."), predictor]}

    assert Report.result(%{program: told, optimization_metrics: metrics(0.0)}) =~
             ~r/instructions +given +1 new\n/
  end

  test "a cost that nobody knows is said to be unknown" do
    assert Report.result(%{program: @program, optimization_metrics: metrics(nil)}) =~
             ~r/cost +unknown\n/
  end

  test "the best so far has a score and demonstrations" do
    assert Report.best(%{program: @program, score: 0.5}) ==
             "It is the best so far: a score of 50.0 % with 2 demonstrations.\n"
  end
end
