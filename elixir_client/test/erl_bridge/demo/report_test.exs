defmodule ErlBridge.Demo.ReportTest do
  use ExUnit.Case, async: true

  alias ErlBridge.Demo
  alias ErlBridge.Demo.Report

  defp evaluation(answers) do
    results =
      for {answer, n} <- Enum.with_index(answers) do
        %{
          inputs: %{sentence: "sentence #{n}"},
          expected: %{module: "Enum"},
          prediction: answer && %{module: answer},
          score: answer && if(answer == "Enum", do: 1.0, else: 0.0)
        }
      end

    correct = Enum.count(answers, &(&1 == "Enum"))

    %{
      score: correct / length(answers),
      correct: correct,
      total: length(answers),
      results: results,
      usage: %{lm_calls: 4, duration_ms: 100}
    }
  end

  defp run(optimizer, validation, answers) do
    %{
      optimizer: optimizer,
      validation: validation,
      test: evaluation(answers),
      demos: for(n <- 1..10, do: %{sentence: "demo #{n}", module: "File"}),
      lm_calls: 1234,
      duration_ms: 2500
    }
  end

  defp demo(runs) do
    %{
      split: %{train: [1, 2], validation: [1], test: [1, 2, 3, 4]},
      before: evaluation(["Enum", "File", "File", nil]),
      baseline: 0.2,
      runs: runs
    }
  end

  @first {"first", 0.4, ["Enum", "Enum", "Enum", "File"]}
  @second {"second", 0.5, ["Enum", "Enum", "File", "File"]}

  defp demo_of(runs),
    do: demo(Enum.map(runs, fn {name, score, answers} -> run(name, score, answers) end))

  test "the table has counts and percentages in columns" do
    assert Report.scores(demo_of([@first, @second])) == """
           2 rows for training, 1 for validation, 4 for the test

                        validation   test, never shown   LM calls    time
             as it is       20.0 %         1/4  25.0 %          4   0.1 s
             first          40.0 %         3/4  75.0 %      1 234   2.5 s
             second         50.0 %         2/4  50.0 %      1 234   2.5 s
           """
  end

  test "the choice is made on the validation rows, not on the test's" do
    demo = demo_of([@first, @second])

    assert Demo.chosen(demo).optimizer == "second"
    assert Demo.risen?(demo)
    assert Report.verdict(demo, Demo.chosen(demo)) =~ "is right on 2 of 4 rows that it never saw"
  end

  test "a score that does not rise is said to" do
    demo = demo_of([{"only", 0.9, ["Enum", "File", "File", "File"]}])

    refute Demo.risen?(demo)

    text = Report.verdict(demo, Demo.chosen(demo))
    assert text =~ "The score did not rise: only, the best on the validation rows"
    assert text =~ "right on 1 of 4 rows that it never saw; the signature as it is on 1."
  end

  test "examples are rows answered otherwise than before, for better or worse" do
    before = evaluation(["File", "Enum", "Enum", nil, "File"])
    later = evaluation(["Enum", "Enum", "File", "Enum", "String"])

    assert Report.examples(before, later) == """
           Answers before and after:

             sentence 0
               File (wrong) -> Enum (right), and it is Enum
             sentence 2
               Enum (right) -> File (wrong), and it is Enum
             sentence 3
               no answer (wrong) -> Enum (right), and it is Enum
           """

    assert Report.examples(before, before) ==
             "No row of the test is answered otherwise than before.\n"
  end

  test "of many demonstrations the first are shown" do
    text = Report.demos(run("first", 0.4, ["Enum"]))

    assert text =~ "Demonstrations that first chose:\n\n  File        demo 1\n"
    assert text =~ "demo 8\n  ... and 2 more\n"
  end

  test "the whole says what local/nearest-demo is and how to run a real model" do
    text = Report.result(demo_of([@first]), "local/nearest-demo", 12_345)

    assert text =~ "It has no weights and understands nothing"
    assert text =~ "--lm openai/gpt-4o-mini"
    assert text =~ "All in 12.3 s."
    refute Report.result(demo_of([@first]), "openai/gpt-4o-mini", 1) =~ "nearest-demo"
  end
end
