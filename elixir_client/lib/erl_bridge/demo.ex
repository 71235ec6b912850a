defmodule ErlBridge.Demo do
  @moduledoc """
  The main job on real input: can a language model name the module that a sentence of
  documentation is about, before and after optimizing?

  It scores the signature as it is, optimizes it with one optimizer after the other, and scores
  each program, all on rows that no optimizer has seen. `mix erl_bridge.demo` runs it and prints
  what comes of it.
  """

  alias ErlBridge.Demo.Dataset

  # Enough demonstrations to tell five modules apart, few enough for the prompt of a real model.
  @demos %{max_demos: 8, max_labeled_demos: 32}
  @candidates 6

  @typedoc "What an optimizer made: its program, and how that does on the rows for validation and on those for the test."
  @type run :: %{
          optimizer: String.t(),
          program: map,
          demos: [map],
          validation: float,
          test: map,
          lm_calls: non_neg_integer,
          duration_ms: non_neg_integer
        }

  @type t :: %{split: Dataset.split(), before: map, baseline: float, runs: [run, ...]}

  @doc """
  Does the job. `on_progress` is called with the name of each step and its events.

  Raises `ErlBridge.Error` when Python refuses, for want of an API key for example.
  """
  @spec run(ErlBridge.bridge(), [Dataset.row()], map, (String.t(), map -> any)) :: t
  def run(bridge, rows, %{lm: lm, optimizers: optimizers, seed: seed}, on_progress) do
    split = Dataset.split(rows, seed)

    evaluate = fn target, title ->
      ErlBridge.evaluate!(bridge, target, split.test,
        lm: lm,
        metric: :exact_match,
        on_progress: &on_progress.(title, &1)
      )
    end

    optimize = fn optimizer ->
      ErlBridge.optimize!(bridge, signature(), split.train,
        optimizer: optimizer,
        validation_data: split.validation,
        metric: :exact_match,
        config: config(optimizer, seed),
        lm: lm,
        on_progress: &on_progress.("optimize with #{optimizer}", &1)
      )
    end

    before = evaluate.(signature(), "score the signature as it is")

    optimized =
      for optimizer <- optimizers do
        result = optimize.(optimizer)
        {optimizer, result, evaluate.(result.program, "score its program")}
      end

    [{_optimizer, %{optimization_metrics: %{baseline_score: baseline}}, _test} | _] = optimized
    %{split: split, before: before, baseline: baseline, runs: Enum.map(optimized, &run/1)}
  end

  @doc "The run whose program is best on the rows for validation: the choice one would make without a test."
  @spec chosen(t) :: run
  def chosen(%{runs: runs}), do: Enum.max_by(runs, & &1.validation)

  @doc "Whether the chosen program is right on more of the test's rows than the signature was as it is."
  @spec risen?(t) :: boolean
  def risen?(demo), do: chosen(demo).test.score > demo.before.score

  @doc "The task as a signature of DSPy."
  @spec signature() :: map
  def signature do
    %{
      instructions: "Name the module of Elixir's standard library that the sentence is about.",
      input_fields: [
        %{name: :sentence, type: :str, description: "from the module's documentation"}
      ],
      output_fields: [%{name: :module, type: {:literal, Dataset.modules()}}]
    }
  end

  defp config("bootstrap_few_shot_with_random_search", seed),
    do: Map.merge(@demos, %{seed: seed, num_candidates: @candidates})

  defp config("bootstrap_few_shot", seed), do: Map.put(@demos, :seed, seed)
  defp config(_optimizer, seed), do: %{seed: seed}

  defp run({optimizer, %{program: program, optimization_metrics: metrics} = result, test}) do
    %{
      optimizer: optimizer,
      program: program,
      demos: result.optimized_signature.demos,
      validation: metrics.score,
      test: test,
      lm_calls: metrics.lm_calls,
      duration_ms: metrics.duration_ms
    }
  end
end
