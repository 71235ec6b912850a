defmodule ErlBridge.PipelineTest do
  @moduledoc "Pipelines through the real Python, with the language model that needs no key."
  use ExUnit.Case, async: true
  doctest ErlBridge.Pipeline
  doctest ErlBridge.Pipeline.Handler

  import ErlBridge.Live, only: [tmp_dir: 1]

  alias ErlBridge.{Config, DataFile, Error, Live, Pipeline, Testing}

  @moods ["happy", "sad"]
  @rows for {mood, words} <- [
              {"happy", ~w(sun smile laugh joy)},
              {"sad", ~w(rain tears cry grief)}
            ],
            word <- words,
            place <- ~w(today here),
            do: %{"sentence" => "so much #{word} #{place}", "mood" => mood}

  @step %{
    "name" => "dspy_step",
    "type" => "dspy_claude",
    "dspy_signature" => %{
      "instructions" => "Tell the mood of the sentence.",
      "input_fields" => ["sentence"],
      "output_fields" => [%{"name" => "mood", "type" => ["literal", @moods]}]
    },
    "training_data" => @rows
  }
  @upcase %{
    "name" => "loud",
    "type" => "upcase",
    "inputs" => %{"text" => "$dspy_step.mood", "of" => "$inputs.sentence"}
  }

  setup_all do
    %{bridge: start_supervised!({ErlBridge, Live.options(preload: true)})}
  end

  setup :tmp_dir

  defp workflow(steps, more \\ %{}),
    do: %{"workflow" => Map.merge(%{"lm" => "local/nearest-demo", "steps" => steps}, more)}

  defp handlers do
    %{"upcase" => fn %{"text" => text}, _context -> {:ok, %{"text" => String.upcase(text)}} end}
  end

  test "full pipeline execution with DSPy optimization", %{tmp_dir: tmp_dir} do
    path = Path.join(tmp_dir, "pipeline.yaml")

    csv = for %{"sentence" => sentence, "mood" => mood} <- @rows, do: "#{sentence},#{mood}\n"
    File.write!(Path.join(tmp_dir, "rows.csv"), ["sentence,mood\n" | csv])

    File.write!(path, """
    workflow:
      name: dspy_enhanced_pipeline
      lm: local/nearest-demo
      dspy_config:
        python_bridge:
          pool_size: 1
          cache_ttl: 3600
          max_retries: 3
          timeout: 30000
        optimization:
          enabled: true
          strategy: "bootstrap_few_shot"
          max_demos: 4
      steps:
        - name: dspy_step
          type: dspy_claude
          dspy_signature:
            instructions: Tell the mood of the sentence.
            input_fields: [sentence]
            output_fields:
              - {name: mood, type: "Literal['happy', 'sad']"}
          training_data: rows.csv
        - name: loud
          type: upcase
          inputs: {text: $dspy_step.mood}
    """)

    options = [inputs: %{sentence: "nothing but tears"}, handlers: handlers()]
    assert {:ok, result} = Pipeline.execute(path, options)
    assert result["dspy_step"]["dspy_optimization_applied"] == true
    assert result["dspy_step"]["success"] == true
    assert result["dspy_step"]["outputs"] == %{"mood" => "sad"}
    assert %{baseline_score: 0.5, score: score} = result["dspy_step"]["optimization_metrics"]
    assert score > 0.5

    assert %{"success" => true, "outputs" => %{"text" => "SAD"}, "error" => nil} = result["loud"]
    assert result["loud"]["dspy_optimization_applied"] == false
    assert is_integer(result["loud"]["duration_ms"])
    assert Live.mailbox() == []
  end

  test "the guide's pipeline does what the guide says", %{tmp_dir: tmp_dir} do
    guide = File.read!(Path.expand("../../guides/pipelines.md", __DIR__))

    [csv, yaml, code] =
      for language <- ~w(csv yaml elixir) do
        [_all, block] = Regex.run(~r/```#{language}\n(.*?)```/s, guide)
        block
      end

    path = Path.join(tmp_dir, "pipeline.yaml")
    File.write!(path, yaml)
    File.write!(Path.join(tmp_dir, "tickets.csv"), csv)
    {_value, variables} = code |> String.replace("pipeline.yaml", path) |> Code.eval_string()
    assert %{"success" => true} = variables[:result]["send"]
  end

  test "the guide's modules are modules of steps", %{tmp_dir: tmp_dir} do
    guide = File.read!(Path.expand("../../guides/pipelines.md", __DIR__))
    step = %{"name" => "a", "type" => "dspy", "dspy_signature" => "question -> answer"}

    blocks =
      for [_all, "module:" <> _ = block] <- Regex.scan(~r/```yaml\n(.*?)```/s, guide), do: block

    assert length(blocks) == 3

    for block <- blocks do
      path = Path.join(tmp_dir, "module.yaml")
      File.write!(path, block)
      {:ok, module} = DataFile.read(path)
      assert {:ok, %{steps: [_step]}} = Config.parse(workflow([Map.merge(step, module)]))
    end
  end

  test "a step without optimization asks the signature as it is", %{bridge: bridge} do
    workflow = workflow([@step], %{"dspy_config" => %{"optimization" => %{"enabled" => false}}})
    options = [bridge: bridge, inputs: %{"sentence" => "tears"}]
    assert {:ok, %{"dspy_step" => step}} = Pipeline.execute(workflow, options)
    assert %{"success" => true, "dspy_optimization_applied" => false, "error" => nil} = step
    assert step["outputs"]["mood"] in @moods
  end

  test "a later step of DSPy's uses outputs and reasoning of an earlier one", %{bridge: bridge} do
    steps = [
      %{
        "name" => "think",
        "type" => "dspy",
        "dspy_signature" => "question -> answer",
        "module" => "chain_of_thought"
      },
      %{
        "name" => "check",
        "type" => "dspy",
        "dspy_signature" => "answer, reasoning, hints: list[str] -> ok: bool",
        "inputs" => %{
          "answer" => "$think.answer",
          "reasoning" => "$think.reasoning",
          "hints" => ["$inputs.question", "$$1"]
        },
        "lm" => %{"callback" => "judge"}
      }
    ]

    test = self()

    judge = fn request ->
      send(test, {:asked, inspect(request)})
      "[[ ## ok ## ]]\nTrue\n\n[[ ## completed ## ]]"
    end

    assert {:ok, %{"check" => %{"outputs" => %{"ok" => true}}}} =
             Pipeline.execute(workflow(steps),
               bridge: bridge,
               inputs: %{question: "why?"},
               callbacks: %{judge: judge}
             )

    assert_receive {:asked, request}
    assert request =~ "why?" and request =~ "$1"
  end

  test "a step may have any module, with its options, functions by name and steps of its own", %{
    bridge: bridge
  } do
    steps = [
      %{
        "name" => "agent",
        "type" => "dspy",
        "dspy_signature" => "question -> answer",
        "module" => %{
          "name" => "react",
          "max_iters" => 2,
          "tools" => [%{"name" => "add", "args" => [%{"name" => "a", "type" => "int"}, "b"]}]
        }
      },
      %{
        "name" => "best",
        "type" => "dspy",
        "dspy_signature" => "answer -> text",
        "inputs" => %{"answer" => "$agent.answer"},
        "module" => %{
          "name" => "best_of_n",
          "n" => 2,
          "threshold" => 1,
          "module" => "chain_of_thought",
          "reward" => %{"callback" => "long"}
        }
      },
      %{
        "name" => "several",
        "type" => "dspy",
        "dspy_signature" => "text, reasoning -> loud",
        "inputs" => %{"text" => "$best.text", "reasoning" => "$best.reasoning"},
        "module" => [
          %{"name" => "upcase", "signature" => "text -> big", "callback" => "upcase"},
          %{
            "name" => "end",
            "signature" => %{"input_fields" => ["word"], "output_fields" => ["loud"]},
            "module" => %{"name" => "ensemble", "members" => ["predict", "predict"]},
            "inputs" => %{"word" => "upcase.big"}
          }
        ]
      }
    ]

    {:ok, attempts} = Agent.start_link(fn -> 0 end)

    model =
      Testing.model(fn
        %{"observation_0" => sum}, ["reasoning", "answer"] ->
          %{reasoning: "", answer: sum}

        %{"observation_0" => _}, _ ->
          %{next_thought: "", next_tool_name: :finish, next_tool_args: %{}}

        %{"question" => _}, _ ->
          %{next_thought: "", next_tool_name: :add, next_tool_args: %{a: 4, b: "2"}}

        %{"answer" => _}, _ ->
          %{reasoning: "so", text: "attempt #{Agent.get_and_update(attempts, &{&1 + 1, &1 + 1})}"}

        %{"word" => word}, _ ->
          %{loud: "#{word}!"}
      end)

    assert {:ok, result} =
             Pipeline.execute(workflow(steps, %{"lm" => %{"callback" => "model"}}),
               bridge: bridge,
               inputs: %{question: "4 and 2?"},
               callbacks: %{
                 model: model,
                 add: fn %{"a" => a, "b" => b} -> a + String.to_integer(b) end,
                 long: fn _inputs, %{"text" => text} -> text == "attempt 2" end,
                 upcase: fn %{"text" => text} -> String.upcase(text) end
               }
             )

    assert %{"answer" => "6", "trajectory" => [%{tool_name: "add"} | _]} =
             result["agent"]["outputs"]

    assert %{"text" => "attempt 2", "reasoning" => "so"} = result["best"]["outputs"]
    assert %{"loud" => "ATTEMPT 2!"} = result["several"]["outputs"]
  end

  test "a bridge keeps the program, with callbacks by their key" do
    bridge = Live.start!(preload: true)
    options = [bridge: bridge, inputs: %{sentence: "tears"}]
    callbacks = [callbacks: %{score: fn _example, _prediction -> true end}]

    for more <- [[], [], callbacks, callbacks ++ [cache_key: 1], callbacks ++ [cache_key: 1]] do
      assert {:ok, %{"dspy_step" => %{"dspy_optimization_applied" => true}}} =
               Pipeline.execute(workflow([@step]), more ++ options)
    end

    assert {:ok, %{misses: 2, hits: 2}} = ErlBridge.cache_stats(bridge)
  end

  # A field of the rows' that is not there: Python refuses the optimization.
  @failing Map.put(@step, "training_data", [%{"sentence" => "no mood"}])

  test "a step of DSPy's that fails is given to the handler of its type", %{bridge: bridge} do
    handler = fn %{"sentence" => "tears"}, %{error: error, results: %{}} ->
      {:ok, %{"mood" => "unknown, as #{error.type}"}}
    end

    assert {:ok, result} =
             Pipeline.execute(workflow([@failing, @upcase]),
               bridge: bridge,
               inputs: %{sentence: "tears"},
               handlers: Map.put(handlers(), "dspy_claude", handler)
             )

    assert %{"success" => true, "dspy_optimization_applied" => false} = result["dspy_step"]
    assert %Error{type: :invalid_request, message: message} = result["dspy_step"]["error"]
    assert message =~ "training_data[0]"
    assert result["loud"]["outputs"]["text"] == "UNKNOWN, AS INVALID_REQUEST"
  end

  test "without one the pipeline ends, with the results so far", %{bridge: bridge} do
    first = %{"name" => "first", "type" => "upcase", "inputs" => %{"text" => "a"}}

    assert {:error, %Error{type: :invalid_request, context: context}} =
             Pipeline.execute(workflow([first, @failing, @upcase]),
               bridge: bridge,
               inputs: %{sentence: "tears"},
               handlers: handlers()
             )

    assert context.step == "dspy_step"
    assert %{"first" => %{"success" => true}, "dspy_step" => failed} = context.results
    assert %{"success" => false, "outputs" => nil, "error" => %Error{}} = failed
    refute Map.has_key?(context.results, "loud")
  end

  test "a handler that raises or gives no map ends the pipeline, as a module does that is none" do
    step = [%{"name" => "first", "type" => "x"}]

    for {handler, message} <- [
          {fn _inputs, _context -> raise "no room" end, "no room"},
          {fn _inputs, _context -> exit(:gone) end, "gone"},
          {fn _inputs, _context -> :ok end, "expected {:ok, outputs}"},
          {fn _inputs, _context -> {:ok, ~D[2024-01-01]} end, "expected {:ok, outputs}"},
          {NoSuchModule, "NoSuchModule.handle/2 is undefined"}
        ] do
      assert {:error, %Error{type: :callback_error} = error} =
               Pipeline.execute(workflow(step), handlers: %{"x" => handler})

      assert error.message =~ message
    end
  end

  test "an output that a handler did not give is named" do
    steps = [
      %{"name" => "first", "type" => "x"},
      %{"name" => "second", "type" => "x", "inputs" => %{"a" => "$first.b"}}
    ]

    assert {:error, %Error{message: message}} =
             Pipeline.execute(workflow(steps),
               handlers: %{"x" => fn _inputs, _context -> {:ok, %{c: 1}} end}
             )

    assert message =~ ~s($first.b is not among the outputs of first: "c")
  end

  test "what is missing is found before anything runs" do
    test = self()
    handlers = %{"upcase" => fn _inputs, _context -> send(test, :ran) end}
    first = %{"name" => "first", "type" => "upcase"}
    options = [handlers: handlers, config: [bridge: [python: "/no/python"]]]

    assert {:error, %Error{type: :invalid_request, message: message}} =
             Pipeline.execute(workflow([first, @step]), options)

    assert message ==
             "workflow.steps[1].inputs: the pipeline has no input sentence; give it with :inputs"

    assert {:error, %Error{message: message}} =
             Pipeline.execute(workflow([first, %{"name" => "b", "type" => "upkase"}]), options)

    assert message == ~s(workflow.steps[1].type: no handler for "upkase", did you mean "upcase"?)
    refute_received :ran
  end

  @tag :capture_log
  test "without a Python the handlers still answer, and without them its error says why" do
    options = [inputs: %{sentence: "tears"}, config: [bridge: [python: "/no/python"]]]

    assert {:error, %Error{type: :process_crashed, context: %{step: "dspy_step"}}} =
             Pipeline.execute(workflow([@step]), options)

    handlers = %{"dspy_claude" => fn _inputs, _context -> {:ok, %{"mood" => "sad"}} end}

    assert {:ok, %{"dspy_step" => %{"success" => true, "error" => %Error{}}}} =
             Pipeline.execute(workflow([@step]), [handlers: handlers] ++ options)
  end

  test "a configuration is taken as it is, and its own bridge is gone afterwards, unheard" do
    Process.flag(:trap_exit, true)
    {:ok, config} = Config.parse(workflow([@step]), bridge: [name: __MODULE__.Own])
    assert {:ok, _result} = Pipeline.execute(config, inputs: %{sentence: "tears"})
    assert Process.whereis(__MODULE__.Own) == nil
    refute Enum.any?(Live.mailbox(), &match?({:EXIT, bridge, _reason} when is_pid(bridge), &1))
  end

  test "a wrong option is refused" do
    assert_raise ArgumentError, ~r/expected :handlers to be a map of strings/, fn ->
      Pipeline.execute(%{}, handlers: %{upcase: & &1})
    end
  end
end
