defmodule ErlBridge.ProgramLiveTest do
  @moduledoc "Programs and signatures with the real Python, and a file read by another Elixir."
  use ExUnit.Case, async: true

  alias ErlBridge.{Live, Program, Signature}

  @moduletag :tmp_dir

  @lm "local/nearest-demo"
  @rows for {mood, words} <- [happy: ~w(sun smile laugh joy), sad: ~w(rain tears cry grief)],
            word <- words,
            do: %{sentence: "so much #{word}", mood: mood}

  # What another node does with the file: it knows no field's name before it reads it.
  @reader """
  [path, name] = System.argv()
  {:error, error} = ErlBridge.Program.load(path)
  {:ok, program} = ErlBridge.Program.load(path, safe: false)
  {:ok, bridge} = ErlBridge.start_link(log_level: :none)
  inputs = %{String.to_existing_atom(name) => "tears again"}
  {:ok, outputs} = ErlBridge.predict(bridge, program, inputs, lm: "local/nearest-demo")
  ErlBridge.stop(bridge)
  IO.puts(Base.encode64(:erlang.term_to_binary({error.message, program, Map.to_list(outputs)})))
  """

  setup_all do
    %{bridge: start_supervised!({ErlBridge, Live.options(preload: true)})}
  end

  defp signature(input \\ :sentence) do
    Signature.new(
      inputs: [Signature.field(input, :str, "what somebody said")],
      outputs: [mood: {:literal, [:happy, :sad]}],
      instructions: "Tell the mood of the sentence."
    )
  end

  defp optimize!(bridge, signature, rows) do
    ErlBridge.optimize!(bridge, signature, rows, optimizer: :labeled_few_shot, lm: @lm)
  end

  test "a signature's struct does what its map does", %{bridge: bridge} do
    by_struct = optimize!(bridge, signature(), @rows).program
    assert optimize!(bridge, Signature.to_map(signature()), @rows).program == by_struct
    assert Signature.from_map(by_struct) == signature()

    assert {:ok, %{score: _score}} = ErlBridge.evaluate(bridge, signature(), @rows, lm: @lm)

    assert {:ok, %{mood: :happy}} =
             ErlBridge.predict(bridge, by_struct, %{sentence: "joy"}, lm: @lm)

    assert {:ok, %{mood: _mood}} =
             ErlBridge.predict(bridge, signature(), %{sentence: "joy"}, lm: @lm)
  end

  test "Python reads the notation", %{bridge: bridge} do
    signature =
      Signature.new(
        inputs: [{"q", :str}, {"context", {:list, :str}}, {"more", {:dict, :str, :any}}],
        outputs: [{"a", {:optional, :float}}, {"b", {:literal, ["it's", 2]}}]
      )

    row = %{"q" => "?", "context" => [], "more" => %{}, "a" => nil, "b" => 2}
    read = optimize!(bridge, Signature.notation(signature), [row]).program
    assert Signature.notation(Signature.from_map(read)) == Signature.notation(signature)
  end

  test "the diff of signature and program is what the optimizer did, the summary what came of it",
       %{bridge: bridge} do
    %{program: program, optimization_metrics: %{score: score}} =
      optimize!(bridge, signature(), @rows)

    [%{demos: demos}] = program.predictors

    assert Program.diff(signature(), program) == %{
             predictors: %{"self" => %{demos: %{added: demos, removed: []}}}
           }

    assert %{
             signature: "sentence -> mood: Literal['happy', 'sad']",
             instructions: "Tell the mood of the sentence.",
             predictors: ["self"],
             demos: 8,
             augmented: 0,
             score: ^score,
             versions: %{dspy: _dspy, erl_bridge: _version}
           } = Program.summary(program)
  end

  test "another Elixir reads what was saved, and predicts with it", %{
    bridge: bridge,
    tmp_dir: folder
  } do
    path = Path.join(folder, "mood.program")
    name = "utterance_nobody_else_names"
    rows = for row <- @rows, do: %{String.to_atom(name) => row.sentence, mood: row.mood}
    %{program: program} = optimize!(bridge, signature(String.to_atom(name)), rows)
    assert Program.save(program, path) == :ok

    {output, 0} =
      System.cmd("elixir", [
        "-pa",
        Application.app_dir(:erl_bridge, "ebin"),
        "-e",
        "Application.ensure_all_started(:erl_bridge)",
        "-e",
        @reader,
        path,
        name
      ])

    {refused, loaded, outputs} =
      output |> String.trim() |> Base.decode64!() |> :erlang.binary_to_term()

    assert refused =~ "load it with `safe: false`"
    assert loaded == program
    assert outputs == [mood: :sad]
  end
end
