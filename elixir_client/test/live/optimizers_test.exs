defmodule ErlBridge.OptimizersTest do
  @moduledoc "Optimizers, metrics and comparisons with functions of Elixir in them, without a key."
  use ExUnit.Case, async: true

  doctest ErlBridge.Optimizers

  alias ErlBridge.{Error, Live, Optimizers, Program}

  @lm "local/nearest-demo"
  @signature %{
    instructions: "Tell the mood of the sentence.",
    input_fields: [%{name: :sentence}],
    output_fields: [%{name: :mood, type: {:literal, [:happy, :sad]}}]
  }
  @rows for {mood, words} <- [happy: ~w(sun smile laugh joy), sad: ~w(rain tears cry grief)],
            word <- words,
            place <- ~w(today here),
            do: %{sentence: "so much #{word} #{place}", mood: mood}
  @train Enum.filter(@rows, &String.ends_with?(&1.sentence, "today"))
  @test @rows -- @train

  setup_all do
    home =
      Path.join(System.tmp_dir!(), "erl_bridge_optimizers_#{System.unique_integer([:positive])}")

    on_exit(fn -> File.rm_rf!(home) end)
    options = Live.options(preload: true, env: [{"ERL_BRIDGE_HOME", home}])
    %{bridge: start_supervised!({ErlBridge, options})}
  end

  defp optimize(bridge, options) do
    ErlBridge.optimize(
      bridge,
      @signature,
      @train,
      Keyword.merge([validation_data: @test, lm: @lm, seed: 1], options)
    )
  end

  @runs [
    optuna: [num_candidates: 2],
    knn: [k: 1],
    copro: [breadth: 2, depth: 1],
    mipro: [num_candidates: 3, num_trials: 2],
    simba: [batch_size: 2, num_candidates: 2, max_steps: 1],
    gepa: [max_metric_calls: 30],
    infer_rules: [num_candidates: 1],
    ensemble: [size: 2],
    better_together: [
      strategy: "p -> w",
      steps: %{p: %{optimizer: :labeled_few_shot}, w: %{optimizer: :fine_tune}}
    ]
  ]

  for {name, config} <- @runs do
    test "#{name} makes a program that another bridge predicts with", %{bridge: bridge} do
      test = self()
      options = [optimizer: unquote(name), config: unquote(Macro.escape(config))]

      assert {:ok, %{program: program, optimization_metrics: metrics}} =
               optimize(bridge, [on_progress: &send(test, &1)] ++ options)

      assert metrics.score >= metrics.baseline_score
      assert %{prompt_tokens: _, cost_usd: cost, lm_errors: 0} = List.last(Live.mailbox())
      assert cost == 0.0

      stored = :erlang.binary_to_term(:erlang.term_to_binary(program))
      assert Program.summary(stored).score == metrics.score

      assert {:ok, %{mood: mood}} =
               ErlBridge.predict(Live.shared(), stored, %{sentence: "rain again"}, lm: @lm)

      assert mood in [:happy, :sad]
    end
  end

  test "GEPA reads what a metric of Elixir says", %{bridge: bridge} do
    test = self()

    metric = fn example, prediction, circumstances ->
      send(test, {:judged, circumstances})
      right? = example.mood == prediction.mood
      said = ~s(mood: expected "#{example.mood}", got "#{prediction.mood}". Think!)
      %{score: if(right?, do: 1.0, else: 0.0), feedback: said}
    end

    assert {:ok, %{optimized_signature: signature, optimization_metrics: metrics}} =
             optimize(bridge, optimizer: :gepa, config: [max_metric_calls: 80], metric: metric)

    assert metrics.baseline_score == 0.5
    assert metrics.score > 0.5
    assert signature.instructions =~ ~r/If it says "\w+", then mood: (sad|happy)/
    assert metrics.metric == %{callback: :metric, trace: true}
    assert_received {:judged, %{predictor: nil, trace: []}}
    assert_received {:judged, %{trace: [%{inputs: %{sentence: _}, outputs: %{mood: _}}]}}
  end

  test "a language model of Elixir's reflects", %{bridge: bridge} do
    test = self()

    reflect = fn %{messages: messages} ->
      send(test, {:asked, List.last(messages)["content"]})
      ~s({"new_instruction": "If it says \\"so\\", then mood: sad"})
    end

    assert {:ok, %{optimized_signature: _signature}} =
             optimize(bridge,
               optimizer: :gepa,
               config: [max_metric_calls: 30],
               reflection_lm: reflect
             )

    assert_received {:asked, prompt}
    assert prompt =~ "examples_with_feedback"
  end

  test "a function of Elixir makes the vectors of the nearest rows", %{bridge: bridge} do
    embed = fn texts -> Enum.map(texts, &[String.length(&1), 1]) end
    config = [k: 1, vectorizer: embed]

    assert {:ok, %{program: program}} = optimize(bridge, optimizer: :knn, config: config)
    assert %{name: :nearest, k: 1, vectorizer: %{callback: :vectorizer}} = program.module

    assert {:ok, %{mood: _}} =
             ErlBridge.predict(bridge, program, %{sentence: "joy"},
               lm: @lm,
               callbacks: %{vectorizer: embed}
             )
  end

  test "the same seed gives the same program", %{bridge: bridge} do
    options = [optimizer: :mipro, config: [num_candidates: 3, num_trials: 2], cache: false]
    {:ok, first} = optimize(bridge, options)
    {:ok, second} = optimize(bridge, options)
    assert first.program.fingerprint == second.program.fingerprint
  end

  test "a model that was fine-tuned answers without being shown anything", %{bridge: bridge} do
    assert {:ok, %{program: program, model: "local/nearest-demo:" <> _ = model}} =
             ErlBridge.train(bridge, @signature, @train,
               method: :fine_tune,
               config: [data: :rows],
               lm: @lm
             )

    assert Program.summary(program).demos == 0
    sentence = %{sentence: "much grief"}
    assert ErlBridge.predict!(bridge, program, sentence, lm: model) == %{mood: :sad}
    assert ErlBridge.predict!(bridge, program, sentence, lm: @lm) == %{mood: :happy}
  end

  describe "an evaluation" do
    test "says how sure it is and what was taken for what", %{bridge: bridge} do
      assert {:ok, result} = ErlBridge.evaluate(bridge, @signature, @rows, lm: @lm)
      assert %{score: 0.5, interval: [low, high], errors: 0} = result
      assert low > 0.2 and high < 0.8

      assert result.confusion == %{
               mood: [
                 %{expected: :happy, predicted: :happy, count: 8},
                 %{expected: :sad, predicted: :happy, count: 8}
               ]
             }
    end

    test "compares two programs", %{bridge: bridge} do
      {:ok, %{program: program}} = optimize(bridge, optimizer: :labeled_few_shot)

      assert {:ok, %{score: score, comparison: comparison}} =
               ErlBridge.compare(bridge, @signature, program, @rows, lm: @lm)

      assert %{baseline_score: 0.5, better: better, worse: 0, significant: true} = comparison
      assert comparison.p_value < 0.05
      assert_in_delta comparison.difference, score - 0.5, 1.0e-9
      assert better == round((score - 0.5) * length(@rows))

      assert %{difference: difference, significant: false, p_value: 1.0} =
               ErlBridge.compare!(bridge, program, program, @rows, lm: @lm).comparison

      assert difference == 0
    end

    test "by a sum of metrics, one of them in Elixir", %{bridge: bridge} do
      metric = %{
        weighted: [
          %{metric: :exact_match, weight: 1},
          %{metric: %{callback: :short}, weight: 3}
        ]
      }

      short = fn _example, prediction -> %{score: 1, feedback: "#{prediction.mood} is short"} end

      assert {:ok, %{score: 0.875, results: [row | _]}} =
               ErlBridge.evaluate(bridge, @signature, @rows,
                 lm: @lm,
                 metric: metric,
                 callbacks: %{short: short}
               )

      assert row.feedback =~ "happy is short"
    end

    test "two functions in one metric, and a judge beside the model, are told apart", %{
      bridge: bridge
    } do
      say = fn fields ->
        fn _request ->
          Enum.map_join(fields, "\n\n", fn {name, text} -> "[[ ## #{name} ## ]]\n#{text}" end)
        end
      end

      metric = %{
        weighted: [
          %{metric: fn _example, _prediction -> 1.0 end, weight: 1},
          %{metric: fn _example, _prediction -> 0.0 end, weight: 1},
          %{
            metric: %{judge: "Is it a mood?", lm: say.(feedback: "half", score: "0.5")},
            weight: 2
          }
        ]
      }

      assert {:ok, %{score: 0.5, errors: 0, results: [%{prediction: %{mood: :sad}} | _]}} =
               ErlBridge.evaluate(bridge, @signature, @test, metric: metric, lm: say.(mood: "sad"))
    end

    test "with a metric that gives nonsense is an error that says so", %{bridge: bridge} do
      for {value, shown} <- [
            {nil, "nil"},
            {"good", ~s("good")},
            {%{score: :high}, "%{:score => :high}"}
          ] do
        assert {:error, %Error{type: :callback_error} = error} =
                 ErlBridge.evaluate(bridge, @signature, @rows,
                   lm: @lm,
                   metric: fn _example, _prediction -> value end
                 )

        assert Exception.message(error) =~ "called as the metric"
        assert Exception.message(error) =~ shown
      end
    end
  end

  @tag :tmp_dir
  test "the guide does what it says", %{tmp_dir: home} do
    guide = File.read!(Path.expand("../../guides/optimizing.md", __DIR__))
    code = for [_all, block] <- Regex.scan(~r/```elixir\n(.*?)```/s, guide), do: block
    start = ~s(start_link(log_level: :none, env: [{"ERL_BRIDGE_HOME", #{inspect(home)}}]\))
    code = code |> Enum.join() |> String.replace("start_link()", start)

    progress =
      ExUnit.CaptureIO.capture_io(fn ->
        {_value, variables} = Code.eval_string(code)
        send(self(), {:variables, variables})
      end)

    assert progress =~ "progress: %{"
    assert_received {:variables, variables}
    assert "local/nearest-demo:" <> _ = variables[:model]
    assert variables[:reflected].optimization_metrics.score > 0.5
  end

  test "the table that Elixir has is the one of Python", %{bridge: bridge} do
    assert {:error, %Error{type: :invalid_request} = error} = optimize(bridge, optimizer: :none)
    for name <- Optimizers.names(), do: assert(Exception.message(error) =~ Atom.to_string(name))

    assert {:error, error} = optimize(bridge, optimizer: :gepa, config: [nonsense: 1])
    message = Exception.message(error)
    for name <- Optimizers.options(:gepa), do: assert(message =~ Atom.to_string(name))
  end
end
