defmodule ErlBridge.ConfigTest do
  @moduledoc "Configurations from maps and from files; the files are read by the real Python."
  use ExUnit.Case, async: false
  doctest ErlBridge.Config
  doctest ErlBridge.Config.Check
  doctest ErlBridge.Config.Composition
  doctest ErlBridge.Modules
  doctest ErlBridge.Config.Reference
  doctest ErlBridge.Config.Signature

  import ErlBridge.Live, only: [tmp_dir: 1]

  alias ErlBridge.{Config, Error}
  alias ErlBridge.Config.Step

  setup :tmp_dir

  @step %{"name" => "sort", "type" => "dspy_claude", "dspy_signature" => "text -> queue"}
  @workflow %{"lm" => "local/nearest-demo", "steps" => [@step]}

  defp parse(workflow, options \\ []), do: Config.parse(%{"workflow" => workflow}, options)

  defp with_step(changes), do: Map.put(@workflow, "steps", [Map.merge(@step, changes)])
  defp with_section(name, section), do: Map.put(@workflow, "dspy_config", %{name => section})

  test "a workflow without settings has the defaults" do
    assert {:ok, config} = parse(@workflow)
    assert %Config{name: nil, bridge: [], cache_ttl: 3_600_000} = config
    assert config.optimization == %{enabled: true, strategy: "bootstrap_few_shot"}

    assert [%Step{name: "sort", dspy?: true, optimize: nil, outputs: ["queue"]} = step] =
             config.steps

    assert step.inputs == %{"text" => {:reference, "inputs", "text"}}
    assert step.predict == [lm: "local/nearest-demo"]
  end

  test "the application's environment, the file and the options replace each other, in this order" do
    Application.put_env(:erl_bridge, :bridge, pool_size: 2, timeout: 1, max_retries: 1)
    Application.put_env(:erl_bridge, :optimization, max_demos: 2, seed: 2)
    Application.put_env(:erl_bridge, :cache_ttl, 2)

    on_exit(fn ->
      Enum.each([:bridge, :optimization, :cache_ttl], &Application.delete_env(:erl_bridge, &1))
    end)

    assert {:ok, %{cache_ttl: 2}} = parse(@workflow)

    workflow =
      put_in(@workflow["dspy_config"], %{
        "python_bridge" => %{"timeout" => 3, "max_retries" => 3, "cache_ttl" => 0.5},
        "optimization" => %{"seed" => 3, "enabled" => false}
      })

    options = [bridge: [max_retries: 4], optimization: [enabled: true], lm: "openai/gpt"]
    assert {:ok, config} = parse(workflow, options)

    assert Enum.sort(config.bridge) ==
             [cache: [ttl: 500], max_retries: 4, pool_size: 2, timeout: 3]

    assert config.cache_ttl == 500
    assert %{enabled: true, max_demos: 2, seed: 3} = config.optimization
    assert [%{predict: [lm: "openai/gpt"]}] = config.steps
    assert {:ok, %{cache_ttl: 9}} = parse(workflow, cache_ttl: 9)

    for {cache, kept} <- [{false, false}, {[file: "a"], [ttl: 500, file: "a"]}] do
      assert {:ok, config} = parse(workflow, bridge: [cache: cache])
      assert config.bridge[:cache] == kept
    end
  end

  test "the innermost language model is taken" do
    workflow = put_in(@workflow["dspy_config"], %{"lm" => %{"model" => "a/b"}})
    assert {:ok, %{steps: [%{predict: [lm: %{"model" => "a/b"}]}]}} = parse(workflow)
    workflow = put_in(workflow["steps"], [Map.put(@step, "lm", "c/d")])
    assert {:ok, %{steps: [%{predict: [lm: "c/d"]}]}} = parse(workflow, lm: "e/f")
  end

  test "an optimizer gets the settings that it knows, and its rows" do
    rows = [%{"text" => "a", "queue" => "b"}]

    workflow =
      Map.merge(@workflow, %{
        "dspy_config" => %{
          "optimization" => %{"max_demos" => 2, "max_labeled_demos" => 3, "num_candidates" => 4}
        },
        "steps" =>
          for {name, more} <- [
                {"one", %{}},
                {"two",
                 %{"optimizer" => "labeled_few_shot", "metric" => %{"callback" => "score"}}}
              ] do
            @step |> Map.merge(%{"name" => name, "training_data" => rows}) |> Map.merge(more)
          end
      })

    assert {:ok, %{steps: [one, two]}} = parse(workflow)
    assert one.training_data == rows
    assert one.optimize[:optimizer] == "bootstrap_few_shot"
    assert one.optimize[:config] == %{max_demos: 2, max_labeled_demos: 3}
    assert two.optimize[:config] == %{max_labeled_demos: 3}
    assert two.optimize[:metric] == %{"callback" => "score"}

    assert {:ok, %{steps: [%{optimize: nil}, _]}} =
             parse(workflow, optimization: [enabled: false])
  end

  test "a time may be infinity" do
    assert {:ok, %{bridge: bridge}} =
             parse(with_section("python_bridge", %{"timeout" => "infinity"}))

    assert bridge[:timeout] == :infinity
  end

  test "a step of another type keeps its own keys, and refers to earlier ones" do
    other = %{
      "name" => "store",
      "type" => "insert",
      "table" => "tickets",
      "inputs" => %{"queue" => "$sort.queue", "text" => ["$inputs.text"]}
    }

    assert {:ok, %{steps: [_sort, store]}} = parse(put_in(@workflow["steps"], [@step, other]))
    assert %{dspy?: false, outputs: :any, options: %{"table" => "tickets"}} = store

    assert store.inputs == %{
             "queue" => {:reference, "sort", "queue"},
             "text" => [{:reference, "inputs", "text"}]
           }
  end

  @wrong [
    {"no map", [], "workflow: expected a map with strings as keys, got: []"},
    {"an unknown key", quote(do: Map.put(@workflow, "step", [])),
     ~s(workflow: unknown key "step", did you mean "steps"?)},
    {"no steps", quote(do: Map.put(@workflow, "steps", [])),
     "workflow.steps: expected a list of steps, got: []"},
    {"a wrong setting", quote(do: with_section("python_bridge", %{"pool_size" => 0})),
     "workflow.dspy_config.python_bridge.pool_size: expected a positive integer, got: 0"},
    {"a wrong time to live", quote(do: with_section("python_bridge", %{"cache_ttl" => "1h"})),
     "workflow.dspy_config.python_bridge.cache_ttl: expected a number of seconds above 0, got: \"1h\""},
    {"an unknown strategy",
     quote(do: with_section("optimization", %{"strategy" => "gradient_descent"})),
     "workflow.dspy_config.optimization.strategy: expected one of "},
    {"no name", quote(do: with_step(%{"name" => nil})),
     "workflow.steps[0].name: expected a name"},
    {"the name inputs", quote(do: with_step(%{"name" => "inputs"})),
     "workflow.steps[0].name: expected a name"},
    {"a name twice", quote(do: Map.put(@workflow, "steps", [@step, @step])),
     "workflow.steps[1].name: expected a name that no other step has, got: \"sort\""},
    {"no type", quote(do: with_step(%{"type" => nil})),
     "workflow.steps[0].type: expected a text, got: nil"},
    {"an unknown key of a step", quote(do: with_step(%{"metrics" => "f1"})),
     ~s(workflow.steps[0]: unknown key "metrics", did you mean "metric"?)},
    {"no signature", quote(do: with_step(%{"dspy_signature" => nil})),
     "workflow.steps[0].dspy_signature: expected"},
    {"a signature without outputs", quote(do: with_step(%{"dspy_signature" => "text"})),
     ~s(workflow.steps[0].dspy_signature: expected "inputs -> outputs")},
    {"a field that is there twice",
     quote(do: with_step(%{"dspy_signature" => "text, queue -> queue"})),
     ~s(workflow.steps[0].dspy_signature: expected fields of different names, got: "queue")},
    {"a field without a name",
     quote(
       do:
         with_step(%{
           "dspy_signature" => %{"input_fields" => [%{"type" => "str"}], "output_fields" => ["a"]}
         })
     ), "workflow.steps[0].dspy_signature.input_fields[0].name: expected a name"},
    {"an input that is no field", quote(do: with_step(%{"inputs" => %{"txt" => 1}})),
     ~s(workflow.steps[0].inputs: unknown key "txt", did you mean "text"?)},
    {"half a reference", quote(do: with_step(%{"inputs" => %{"text" => "$sort"}})),
     "workflow.steps[0].inputs.text: expected $step.field"},
    {"a reference to itself", quote(do: with_step(%{"inputs" => %{"text" => "$sort.queue"}})),
     "workflow.steps[0].inputs: expected a reference to an earlier step (none), got: \"sort\""},
    {"a reference to no field",
     quote(
       do:
         Map.put(@workflow, "steps", [
           @step,
           %{"name" => "b", "type" => "x", "inputs" => %{"a" => "$sort.queu"}}
         ])
     ),
     "workflow.steps[1].inputs: expected a reference to a field of sort (queue), did you mean queue?"},
    {"a wrong module", quote(do: with_step(%{"module" => "predikt"})),
     "workflow.steps[0].module: expected one of predict, chain_of_thought, react, react_v2, program_of_thought, rlm, best_of_n, refine, multi_chain_comparison, pipeline, callback, nearest, ensemble (predict?), got: \"predikt\""},
    {"a module that is none", quote(do: with_step(%{"module" => 5})),
     "workflow.steps[0].module: expected a module: its name, a map with its name, or a list of steps, got: 5"},
    {"a module without what it needs", quote(do: with_step(%{"module" => "react"})),
     "workflow.steps[0].module.tools: expected a list of tools, got: nil"},
    {"an option that no such module has",
     quote(do: with_step(%{"module" => %{"name" => "multi_chain_comparison", "m" => 3}})),
     ~s(workflow.steps[0].module: unknown key "m". The keys are n, temperature)},
    {"an option out of its bounds",
     quote(do: with_step(%{"module" => %{"name" => "multi_chain_comparison", "n" => 33}})),
     "workflow.steps[0].module.n: expected an integer from 1 to 32, got: 33"},
    {"a wrong module within a module",
     quote(do: with_step(%{"module" => %{"name" => "ensemble", "members" => ["predict", "x"]}})),
     "workflow.steps[0].module.members[1]: expected one of predict"},
    {"two rewards at once",
     quote(
       do:
         with_step(%{
           "module" => %{
             "name" => "refine",
             "module" => "predict",
             "reward" => %{"judge" => "good?", "callback" => "f"}
           }
         })
     ), "workflow.steps[0].module.reward: expected {judge: text} or {callback: text}"},
    {"a wrong signature of a step within a step",
     quote(do: with_step(%{"module" => [%{"name" => "a", "signature" => "text"}]})),
     ~s(workflow.steps[0].module[0].signature: expected "inputs -> outputs")},
    {"an input that a step within a step has not",
     quote(
       do:
         with_step(%{
           "module" => [
             %{"name" => "a", "signature" => "text -> queue", "inputs" => %{"txt" => "text"}}
           ]
         })
     ), ~s(workflow.steps[0].module[0].inputs: unknown key "txt", did you mean "text"?)},
    {"a tool without a name",
     quote(do: with_step(%{"module" => %{"name" => "react", "tools" => [%{"args" => "a"}]}})),
     "workflow.steps[0].module.tools[0].name: expected a text, got: nil"},
    {"a wrong metric", quote(do: with_step(%{"metric" => "f2"})),
     "workflow.steps[0].metric: expected one of exact_match, f1"},
    {"a wrong row", quote(do: with_step(%{"training_data" => [1]})),
     "workflow.steps[0].training_data[0]: expected a map with strings as keys, got: 1"},
    {"no file of rows", quote(do: with_step(%{"training_data" => "none.csv"})),
     "workflow.steps[0].training_data: none.csv: there is no such file"},
    {"no language model", quote(do: Map.delete(@workflow, "lm")),
     "workflow.steps[0].lm: expected a language model"}
  ]

  for {name, workflow, message} <- @wrong do
    test "#{name} is refused with its place" do
      assert {:error, %Error{type: :invalid_request} = error} = parse(unquote(workflow))
      assert String.starts_with?(error.message, unquote(message)), error.message
    end
  end

  test "atoms as keys, and a document that is no map, are refused" do
    assert {:error, %Error{message: message}} = Config.parse(%{workflow: %{}})
    assert message =~ "the configuration: expected a map with strings as keys"
    assert {:error, %Error{}} = Config.parse(nil)
  end

  test "a file's rows are relative to it, and its errors name it", %{tmp_dir: tmp_dir} do
    path = Path.join(tmp_dir, "pipeline.yaml")
    File.write!(Path.join(tmp_dir, "rows.csv"), "text,queue\nI paid twice,billing\n")

    File.write!(path, """
    workflow:
      name: tickets
      lm: local/nearest-demo
      dspy_config:
        python_bridge: {pool_size: 3, cache_ttl: 3600, max_retries: 3, timeout: 30000}
        optimization: {enabled: true, strategy: "bootstrap_few_shot", max_demos: 4}
      steps:
        - name: sort
          type: dspy_claude
          dspy_signature:
            input_fields: [text]
            output_fields: [{name: queue, type: "Literal['billing', 'technical']"}]
          training_data: rows.csv
    """)

    assert {:ok, config} = Config.load(path)
    assert %{name: "tickets", cache_ttl: 3_600_000} = config

    assert Enum.sort(config.bridge) ==
             [cache: [ttl: 3_600_000], max_retries: 3, pool_size: 3, timeout: 30_000]

    assert [%{training_data: [%{"text" => "I paid twice", "queue" => "billing"}]}] = config.steps

    File.write!(path, "workflow: {steps: 1}")
    assert {:error, %Error{message: message}} = Config.load(path)
    assert message == "pipeline.yaml: workflow.steps: expected a list of steps, got: 1"
    assert {:error, %Error{message: message}} = Config.load(path <> "x", [])
    assert message =~ "pipeline.yamlx"
  end
end
