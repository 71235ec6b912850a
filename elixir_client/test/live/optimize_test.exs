defmodule ErlBridge.OptimizeTaskTest do
  @moduledoc "`mix erl_bridge.optimize` in this node and as a program of its own."
  use ExUnit.Case, async: true

  import ExUnit.CaptureIO

  alias ErlBridge.{OsProcess, Program, Signals}
  alias Mix.Tasks.ErlBridge.Optimize

  @moduletag :tmp_dir
  doctest Mix.ErlBridge

  @signature ["--signature", "sentence -> mood"]
  @rows for {mood, words} <- [
              {"happy", ~w(sun smile laugh joy)},
              {"sad", ~w(rain tears cry grief)}
            ],
            word <- words,
            place <- ~w(today here),
            do: {"so much #{word} #{place}", mood}

  # Long enough for what comes in between, wherever the tests run.
  @many for n <- 1..1_500, do: {"so much #{rem(n, 2)} #{n}", "#{rem(n, 2)}"}

  setup %{tmp_dir: folder},
    do: %{data: jsonl(folder, "rows.jsonl", @rows), out: Path.join(folder, "new/p.etf")}

  defp jsonl(folder, name, rows) do
    write(
      folder,
      name,
      for({text, mood} <- rows, do: ~s({"sentence": "#{text}", "mood": "#{mood}"}\n))
    )
  end

  defp csv(folder, name, rows),
    do:
      write(folder, name, ["sentence,mood\n" | for({text, mood} <- rows, do: "#{text},#{mood}\n")])

  defp write(folder, name, content) do
    path = Path.join(folder, name)
    File.write!(path, content)
    path
  end

  defp run(arguments), do: capture_io(fn -> Optimize.run(arguments) end)

  defp error(arguments) do
    assert_raise(Mix.Error, fn -> capture_io(fn -> Optimize.run(arguments) end) end).message
  end

  describe "a signature" do
    test "is optimized on rows of a file, scored on those of another, and saved", %{
      tmp_dir: folder,
      data: data,
      out: out
    } do
      validation = csv(folder, "validation.csv", Enum.take_every(@rows, 2))

      options = [
        "--data",
        data,
        "--validation",
        validation,
        "--max-demos",
        "2",
        "--seed",
        "1",
        "--out",
        out
      ]

      output = run(@signature ++ options)

      assert output =~ "16 rows for training, 8 for validation"
      assert output =~ "row 8 of 8"
      assert output =~ ~r/before +after\n  score +0\.0 % +\d/
      assert output =~ "The program is in #{out}"

      assert {:ok, program} = Program.load(out)

      assert %{signature: "sentence -> mood", demos: demos, augmented: 2, score: score} =
               Program.summary(program)

      assert demos > 2 and score > 0.0

      {:ok, bridge} = ErlBridge.start_link(log_level: :none)
      options = [lm: "local/nearest-demo"]

      assert {:ok, %{"mood" => "sad"}} =
               ErlBridge.predict(bridge, program, %{"sentence" => "much cry"}, options)

      ErlBridge.stop(bridge)
    end

    test "--max-demos is of rows where an optimizer takes only rows", %{data: data, out: out} do
      run(
        @signature ++
          ["--data", data, "--optimizer", "labeled_few_shot", "--max-demos", "3", "--out", out]
      )

      assert {:ok, %{predictors: [%{demos: [_, _, _]}]}} = Program.load(out)
    end

    test "out of time without a program is an error, and nothing is saved", %{
      data: data,
      out: out
    } do
      assert error(@signature ++ ["--data", data, "--timeout", "0.001", "--out", out]) =~
               "timeout_error: "

      refute File.exists?(out)
    end

    test "errors say what is wrong", %{tmp_dir: folder, data: data, out: out} do
      wrong =
        write(
          folder,
          "wrong.jsonl",
          ~s({"sentence": "a", "mood": "b"}\n{"sentence": "a", "mood": 5})
        )

      for {arguments, expected} <- [
            {@signature ++ ["--data", Path.join(folder, "none.csv")], "none.csv"},
            {@signature ++ ["--data", write(folder, "map.json", "{}")],
             "map.json: expected a list of rows"},
            {@signature ++ ["--data", write(folder, "none.jsonl", "")],
             "none.jsonl: expected at least one row, got none"},
            {@signature ++ ["--data", data, "--optimizer", "best"],
             "invalid_request: --optimizer: expected one of"},
            {@signature ++ ["--data", data, "--max-demos", "-1"], "--max-demos: expected"},
            {["--signature", "sentence -> mod:", "--data", data],
             "invalid_request: --signature: "},
            {["--signature", "text -> mood", "--data", data],
             "#{data}, row 1: missing field text"},
            {@signature ++ ["--data", data, "--validation", wrong],
             "#{wrong}, row 2.mood: expected str, got 5"},
            {@signature ++ ["--data", data, "--out", folder],
             "#{folder}: is a folder; name a file"},
            {@signature ++ ["--data", data, "--out", Path.join(data, "p")],
             "its folder cannot be made: "}
          ] do
        assert error(["--out", out] ++ arguments) =~ expected
      end
    end
  end

  describe "a workflow" do
    @workflow """
    workflow:
      lm: local/nearest-demo
      dspy_config:
        python_bridge: {pool_size: 1}
        optimization: {strategy: labeled_few_shot, max_labeled_demos: 5}
      steps:
        - name: mood
          type: dspy
          dspy_signature: {input_fields: [sentence], output_fields: [mood]}
          training_data: rows.jsonl
        - name: again
          type: dspy
          dspy_signature: {input_fields: [mood], output_fields: [sentence]}
          inputs: {mood: $mood.mood}
    """

    test "has a program for each step that has training data", %{tmp_dir: folder} do
      workflow = write(folder, "workflow.yaml", @workflow)
      programs = Path.join(folder, "programs")
      output = run([workflow, "--out", programs])

      assert output =~ "mood\n16 rows for training"
      assert File.ls!(programs) == ["mood.etf"]
      assert {:ok, program} = Program.load(Path.join(programs, "mood.etf"))
      assert %{signature: "sentence -> mood", demos: 5} = Program.summary(program)
    end

    test "without training data, or wrong, says so", %{tmp_dir: folder} do
      bare = write(folder, "bare.yaml", String.replace(@workflow, ~r/ +training_data.*\n/, ""))
      assert error([bare]) =~ "bare.yaml: no step is optimized"

      wrong = write(folder, "wrong.yaml", String.replace(@workflow, "strategy", "stratgy"))
      assert error([wrong]) =~ ~s(unknown key "stratgy", did you mean "strategy"?)
    end
  end

  test "the command line explains itself and refuses what it does not know", %{data: data} do
    assert capture_io(fn -> Optimize.run(["--help"]) end) =~ "## Options"

    for {arguments, expected} <- [
          {["--sed", "1"], "unknown option --sed"},
          {@signature ++ ["--max-demos", "few"], ~s(--max-demos: expected an integer, got "few")},
          {["--seed"], "--seed: expected an integer, got nothing"},
          {[], "--signature is missing"},
          {@signature, "--data is missing"},
          {["w.yaml", "x.yaml"], "unexpected argument x.yaml"},
          {["w.yaml", "--data", data], "--data is what the workflow says; leave it out"},
          {@signature ++ ["--data", data, "--timeout", "0"],
           "--timeout: expected a number of seconds above 0"}
        ] do
      assert error(arguments) == expected <> "; see --help"
    end
  end

  describe "as a program of its own" do
    test "it ends with 0 when done and 2 when the command line is wrong", %{data: data, out: out} do
      assert {output, 0} = await_end(start(@signature ++ ["--data", data, "--out", out]))
      assert output =~ "The program is in #{out}"
      assert File.exists?(out)

      assert {output, 2} = await_end(start(["--data", data]))
      assert output =~ "--signature is missing; see --help"
    end

    test "asked to end, it saves the best so far and ends with 1", %{tmp_dir: folder, out: out} do
      many = jsonl(folder, "many.jsonl", @many)
      port = start(@signature ++ ["--data", many, "--optimizer", "random_search", "--out", out])
      output = await_text(port, "best", "")
      {:os_pid, os_pid} = Port.info(port, :os_pid)
      OsProcess.signal(os_pid, "TERM")

      assert {rest, 1} = await_end(port)
      assert output <> rest =~ "It is the best so far: a score of "
      assert rest =~ "cancelled: "
      assert {:ok, %{format: 2}} = Program.load(out)
    end

    defp start(arguments) do
      Port.open({:spawn_executable, System.find_executable("mix")}, [
        :binary,
        :exit_status,
        :stderr_to_stdout,
        args: ["erl_bridge.optimize" | arguments],
        env: [{~c"MIX_ENV", ~c"test"}]
      ])
    end

    defp await_text(port, text, output) do
      if output =~ text do
        output
      else
        assert_receive {^port, {:data, data}}, 60_000
        await_text(port, text, output <> data)
      end
    end

    defp await_end(port, output \\ "") do
      receive do
        {^port, {:data, data}} -> await_end(port, output <> data)
        {^port, {:exit_status, status}} -> {output, status}
      after
        60_000 -> flunk("no end after: #{output}")
      end
    end
  end

  describe "signals" do
    # Not SIGQUIT: ExUnit itself ends on it.
    test "call the function during the work, and only then" do
      test = self()

      result =
        Signals.during(
          fn ->
            for signal <- [:sigterm, :sighup],
                do: :gen_event.sync_notify(:erl_signal_server, signal)

            :gen_event.which_handlers(:erl_signal_server)
          end,
          &send(test, &1)
        )

      assert Signals in result and :erl_signal_handler not in result
      assert_received :sigterm
      assert_received :sighup

      after_work = :gen_event.which_handlers(:erl_signal_server)
      assert :erl_signal_handler in after_work and Signals not in after_work
    end

    test "are the node's again when the work raises" do
      assert_raise RuntimeError, fn ->
        Signals.during(fn -> raise "it" end, fn _signal -> :ok end)
      end

      assert :erl_signal_handler in :gen_event.which_handlers(:erl_signal_server)
    end
  end
end
