defmodule ErlBridge.ModuleLiveTest do
  @moduledoc "DSPy's modules with functions of Elixir in them: agents with tools, retrievers, rewards, pipelines."
  use ExUnit.Case, async: true

  alias ErlBridge.{Error, Live, Program, Signature, Testing}

  @lm "local/nearest-demo"

  setup_all do
    %{bridge: start_supervised!({ErlBridge, Live.options(preload: true)})}
  end

  # What a language model says in the form that DSPy asks for.
  defp say(fields) do
    Enum.map_join(fields, "\n\n", fn {name, text} -> "[[ ## #{name} ## ]]\n#{text}" end) <>
      "\n\n[[ ## completed ## ]]"
  end

  # A language model that gives one answer after the other, in whichever process it is asked.
  defp model(answers) do
    {:ok, agent} = Agent.start_link(fn -> answers end)
    fn _request -> Agent.get_and_update(agent, fn [answer | more] -> {answer, more} end) end
  end

  defp call(tool, args),
    do: say(next_thought: "hm", next_tool_name: tool, next_tool_args: args)

  defp question do
    Signature.new(inputs: [:question], outputs: [:answer], instructions: "Answer.")
  end

  defp search(fun),
    do: %{name: :search, description: "Looks it up.", args: [query: :str], callback: fun}

  @finish [
    "[[ ## next_thought ## ]]\nhm\n\n[[ ## next_tool_name ## ]]\nfinish\n\n[[ ## next_tool_args ## ]]\n{}\n\n[[ ## completed ## ]]",
    "[[ ## reasoning ## ]]\nseen\n\n[[ ## answer ## ]]\nParis\n\n[[ ## completed ## ]]"
  ]

  test "an agent calls functions of Elixir with native maps", %{bridge: bridge} do
    test = self()

    search =
      search(fn %{query: query} ->
        send(test, {:searched, query})
        [%{title: "France", capital: :Paris, since: ~D[0987-01-01]}]
      end)

    assert {:ok,
            %{answer: "Paris", reasoning: "seen", trajectory: [turn, %{tool_name: "finish"}]}} =
             ErlBridge.predict(bridge, question(), %{question: "capital?"},
               module: :react,
               tools: [search],
               lm: model([call("search", ~s({"query": "France"})) | @finish])
             )

    assert_received {:searched, "France"}

    assert %{
             thought: "hm",
             tool_name: "search",
             tool_args: %{"query" => "France"},
             observation: [
               %{"title" => "France", "capital" => "Paris", "since" => "0987-01-01"}
             ]
           } = turn
  end

  test "what a tool raises is what the model observes", %{bridge: bridge} do
    assert {:ok, %{answer: "Paris", trajectory: [%{observation: observation} | _]}} =
             ErlBridge.predict(bridge, question(), %{question: "capital?"},
               module: :react,
               tools: [search(fn _args -> raise "no such page" end)],
               lm: model([call("search", ~s({"query": "France"})) | @finish])
             )

    assert observation =~ "** (RuntimeError) no such page"
  end

  test "a stand-in for a model is a function from inputs to outputs of any type", %{
    bridge: bridge
  } do
    signature =
      Signature.new(
        inputs: [:text, tags: {:list, :str}],
        outputs: [
          count: :int,
          sure: :bool,
          note: {:optional, :str},
          mood: {:literal, [:good, :bad]},
          on: :date,
          people: {:list, {:map, [name: :str, since: :date]}}
        ]
      )

    outputs = %{
      count: 3,
      sure: true,
      note: nil,
      mood: :bad,
      on: ~D[2024-02-29],
      people: [%{name: ~s(An "A"\n\\ Ω\t), since: ~D[2020-01-02]}]
    }

    test = self()

    model =
      Testing.model(fn inputs, wanted ->
        send(test, {:asked, inputs, wanted})
        outputs
      end)

    inputs = %{text: "x [[ ## y ## ]]\n\nz", tags: ["a", "b"]}
    assert {:ok, ^outputs} = ErlBridge.predict(bridge, signature, inputs, lm: model)
    assert_received {:asked, asked, ~w(count sure note mood on people)}
    assert asked == %{"text" => inputs.text, "tags" => ~s(["a", "b"])}

    assert {:error, %Error{type: :callback_error, message: message}} =
             ErlBridge.predict(bridge, signature, inputs,
               lm: Testing.model(fn _ -> %{count: 3} end)
             )

    assert message =~
             "the model was asked for count, sure, note, mood, on, people, and its function gave count"
  end

  test "a tool that nobody answers for ends the request", %{bridge: bridge} do
    {:ok, %{program: program}} =
      ErlBridge.train(bridge, question(), [%{question: "q", answer: "a"}],
        module: %{name: :react, tools: [search(fn _args -> "" end)], max_iters: 1},
        lm: @lm
      )

    assert %{name: :react, max_iters: 1, tools: [%{name: :search, callback: :search}]} =
             program.module

    answers = [call("search", ~s({"query": "x"})) | @finish]

    assert {:error, %Error{type: :callback_error} = error} =
             ErlBridge.predict(bridge, program, %{question: "?"}, lm: model(answers))

    assert Exception.message(error) =~ "there is no callback named search; the request has lm"

    # given again, a tool is only who answers for it
    answers = [call("search", ~s({"query": "x"})), List.last(@finish)]

    assert {:ok, %{trajectory: [%{observation: "found"}]}} =
             ErlBridge.predict(bridge, program, %{question: "?"},
               lm: model(answers),
               tools: [search(fn _args -> "found" end)]
             )
  end

  test "an exception in a function reaches Python, and comes back with its stack", %{
    bridge: bridge
  } do
    assert {:error, %Error{type: :callback_error, context: context}} =
             ErlBridge.predict(bridge, question(), %{question: "?"},
               lm: fn _request -> raise ArgumentError, "no key" end
             )

    assert context.reason == "** (ArgumentError) no key"
    assert context.stacktrace =~ "module_test.exs"
  end

  test "a cancel ends an agent in the middle of a tool", %{bridge: bridge} do
    test = self()

    stuck = fn _args ->
      send(test, {:stuck, self()})
      Process.sleep(:infinity)
    end

    task =
      Task.async(fn ->
        ErlBridge.predict(bridge, question(), %{question: "?"},
          module: :react,
          id: :agent,
          tools: [search(stuck)],
          lm: model([call("search", ~s({"query": "x"})) | @finish])
        )
      end)

    assert_receive {:stuck, tool}
    monitor = Process.monitor(tool)
    assert {:ok, true} = ErlBridge.cancel(bridge, :agent)
    assert {:error, %Error{type: :cancelled}} = Task.await(task, :infinity)
    assert_receive {:DOWN, ^monitor, :process, ^tool, :killed}
  end

  test "the best of several attempts, by a reward of Elixir's", %{bridge: bridge} do
    attempts = for answer <- ["Rome", "Paris", "Oslo"], do: say(answer: answer)

    assert {:ok, %{answer: "Paris"}} =
             ErlBridge.predict(bridge, question(), %{question: "capital of France?"},
               module: %{
                 name: :best_of_n,
                 module: :predict,
                 n: 3,
                 threshold: 1.0,
                 reward: fn %{question: _}, %{answer: answer} -> answer == "Paris" end
               },
               lm: model(attempts)
             )
  end

  # Which category a word is of, by way of what a retriever of Elixir's finds.
  @pipeline [
    %{name: :hint, signature: "word -> letters"},
    %{name: :look, signature: "word -> facts: list[str]", callback: :facts},
    %{
      name: :sort,
      module: :chain_of_thought,
      signature: "word, facts: list[str] -> kind: Literal['animal', 'plant']"
    }
  ]
  @words for {kind, words} <- [
               {"animal", ~w(cat dog cow pig hen)},
               {"plant", ~w(oak elm fir ash yew)}
             ],
             word <- words,
             do: %{"word" => word, "kind" => kind}

  test "optimizing a pipeline with a retriever optimizes all of its predictors", %{bridge: bridge} do
    callbacks = %{
      facts: fn %{"word" => word} ->
        if word in ~w(cat dog cow pig hen), do: ["it moves"], else: ["it has leaves"]
      end
    }

    signature = "word -> kind: Literal['animal', 'plant']"
    options = [lm: @lm, callbacks: callbacks]

    assert {:ok, %{program: program, optimization_metrics: metrics}} =
             ErlBridge.optimize(bridge, signature, @words, [module: @pipeline] ++ options)

    assert metrics.score > metrics.baseline_score

    assert [%{name: "hint", demos: [_ | _]}, %{name: "sort.predict", demos: [_ | _]}] =
             program.predictors

    assert {:ok, %{"kind" => "plant"}} =
             ErlBridge.predict(bridge, program, %{"word" => "tulip"}, options)

    assert %{predictors: ["hint", "sort.predict"], module: :pipeline} = Program.summary(program)

    assert %{"hint" => _, "sort.predict" => %{demos: %{added: [_ | _], removed: []}}} =
             Program.diff(signature_map(program), program).predictors
  end

  defp signature_map(program), do: program.signature

  test "a retriever that fails fails its row and no other", %{bridge: bridge} do
    facts = fn %{"word" => word} -> if word == "cat", do: raise("no cats"), else: ["it moves"] end

    assert {:ok, [{:error, %Error{type: :callback_error} = error}, {:ok, %{"kind" => "animal"}}]} =
             ErlBridge.predict(
               bridge,
               "word -> kind: Literal['animal', 'plant']",
               [%{"word" => "cat"}, %{"word" => "dog"}],
               module: @pipeline,
               lm: @lm,
               callbacks: %{facts: facts}
             )

    assert error.context.reason == "** (RuntimeError) no cats"
  end

  test "steps that do not fit are refused with the path", %{bridge: bridge} do
    steps = [%{name: :sort, signature: "wrd -> kind"}]

    assert {:error, %Error{type: :invalid_request} = error} =
             ErlBridge.predict(bridge, "word -> kind", %{"word" => "cat"}, module: steps, lm: @lm)

    assert Exception.message(error) =~
             "payload.module.steps[0]: nothing gives the input wrd"
  end

  test "fields of maps, dates and code come as Elixir's own", %{bridge: bridge} do
    signature =
      Signature.new(
        inputs: [text: :str, on: :date],
        outputs: [
          people: {:list, {:map, [name: :str, since: :date, role: {:literal, [:boss, :clerk]}]}},
          script: {:code, :elixir}
        ]
      )

    answer =
      say(
        people: ~s([{"name": "Ann", "since": "2020-02-29", "role": "boss"}]),
        script: "```elixir\nIO.puts(1)\n```"
      )

    assert {:ok,
            %{people: [%{name: "Ann", since: ~D[2020-02-29], role: :boss}], script: "IO.puts(1)"}} =
             ErlBridge.predict(bridge, signature, %{text: "x", on: ~D[2024-01-01]},
               lm: fn _request -> answer end
             )

    assert {:error, %Error{type: :invalid_request} = error} =
             ErlBridge.predict(bridge, signature, %{text: "x", on: "today"}, lm: @lm)

    assert Exception.message(error) =~ "payload.inputs.on: expected date, got \"today\""
  end

  @guide File.read!(Path.expand("../../guides/modules_and_programs.md", __DIR__))

  defmodule Guide do
    def handbook(_query, _limit), do: "a page"
    def search(_query), do: ["a page"]
  end

  test "what the guide shows can be pasted", %{bridge: bridge} do
    code =
      for [_all, code] <- Regex.scan(~r/```elixir\n(.*?)```/s, @guide) do
        code
        |> String.replace("MyApp.Handbook.search(", "ErlBridge.ModuleLiveTest.Guide.handbook(")
        |> String.replace("MyApp.Search.find(", "ErlBridge.ModuleLiveTest.Guide.search(")
      end

    [modules, tools, refine, pipeline, _programs, _store] = code
    binding = [bridge: bridge, lm: @lm, signature: question(), inputs: %{question: "?"}]

    for {block, more} <- [
          {modules, []},
          {tools, [lm: model(@finish)]},
          {refine, [lm: model([say(reasoning: "so", answer: "short")])]},
          {pipeline, [rows: [%{question: "q", answer: "unknown"}]]}
        ] do
      Code.eval_string(block, Keyword.merge(binding, more))
    end
  end

  @tag :tmp_dir
  test "what the guide shows of programs can be pasted", %{bridge: bridge, tmp_dir: folder} do
    [programs, store] =
      for [_all, code] <- Regex.scan(~r/```elixir\n(.*?)```/s, @guide),
          code =~ "ErlBridge.Program.",
          do:
            code
            |> String.replace("/var/lib/my_app", folder)
            |> String.replace("priv/", "#{folder}/")

    rows = [%{question: "q", answer: "a"}]
    {:ok, %{program: older}} = ErlBridge.train(bridge, question(), rows, lm: @lm)
    {:ok, %{program: program}} = ErlBridge.train(bridge, question(), rows ++ rows, lm: @lm)
    Program.Store.put(Path.join(folder, "programs"), "answers", older)

    assert ExUnit.CaptureIO.capture_io(fn ->
             Code.eval_string(programs, program: program, older: older)
           end) =~ "self: demos: 1 added"

    {_older, binding} = Code.eval_string(store, program: program)
    assert binding[:version] == 2
    assert binding[:older] == 1
  end
end
