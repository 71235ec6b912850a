defmodule ErlBridge.DSPyTest do
  @moduledoc "DSPy through the bridge, with the language model that needs no key, no network and no weights."
  use ExUnit.Case, async: true

  alias ErlBridge.{Error, Live, OsProcess}

  @lm "local/nearest-demo"
  @moods ["happy", "sad"]
  @signature %{
    instructions: "Tell the mood of the sentence.",
    input_fields: [%{name: :sentence, type: :str, description: "what somebody said"}],
    output_fields: [%{name: :mood, type: {:literal, @moods}}]
  }
  @rows for {mood, words} <- [
              {"happy", ~w(sun smile laugh joy)},
              {"sad", ~w(rain tears cry grief)}
            ],
            word <- words,
            place <- ~w(today here),
            do: %{sentence: "so much #{word} #{place}", mood: mood}

  setup_all do
    %{bridge: start_supervised!({ErlBridge, Live.options(preload: true)})}
  end

  test "optimization request returns valid response", %{bridge: bridge} do
    assert {:ok, result} =
             ErlBridge.optimize(bridge, @signature, @rows,
               optimizer: :bootstrap_few_shot,
               lm: @lm
             )

    assert %{status: :success, program: program, optimized_signature: signature} = result
    assert %{score: score, baseline_score: 0.5, trials: [_ | _]} = result.optimization_metrics
    assert score > 0.5

    assert %{
             instructions: "Tell the mood of the sentence.",
             demos: [%{sentence: _, mood: mood} | _]
           } = signature

    assert mood in @moods
    assert is_map(program)
  end

  test "progress comes while it works, up to the last candidate", %{bridge: bridge} do
    test = self()

    assert {:ok, %{optimization_metrics: %{trials: trials, score: score}}} =
             ErlBridge.optimize(bridge, @signature, @rows,
               optimizer: :bootstrap_few_shot_with_random_search,
               config: [num_candidates: 2, max_demos: 2, max_labeled_demos: 4],
               validation_data: @rows,
               metric: :exact_match,
               lm: @lm,
               on_progress: &send(test, &1)
             )

    assert length(trials) >= 5
    events = Live.mailbox()

    assert Enum.all?(
             events,
             &match?(%{kind: :progress, phase: _, lm_calls: _, elapsed_ms: _}, &1)
           )

    assert %{best_score: best, trial: 5, trials: 5} = List.last(events)
    assert best >= score
  end

  test "predict with the returned program in another bridge", %{bridge: bridge} do
    {:ok, %{program: program}} =
      ErlBridge.optimize(bridge, @signature, @rows, optimizer: :labeled_few_shot, lm: @lm)

    stored = :erlang.binary_to_term(:erlang.term_to_binary(program))
    other = Live.start!()

    assert {:ok, %{mood: "sad"}} =
             ErlBridge.predict(other, stored, %{sentence: "tears again"}, lm: @lm)

    assert [{:ok, %{mood: "happy"}}, {:ok, %{mood: "sad"}}] =
             ErlBridge.predict!(other, stored, [%{sentence: "laugh a lot"}, %{sentence: "grief"}],
               lm: @lm
             )
  end

  test "evaluate scores a signature, and the program made of it higher", %{bridge: bridge} do
    options = [lm: @lm, metric: :exact_match]
    assert {:ok, before} = ErlBridge.evaluate(bridge, @signature, @rows, options)

    assert %{
             score: 0.5,
             correct: 8,
             total: 16,
             errors: 0,
             results: [%{row: 0, prediction: %{mood: "happy"}} | _]
           } = before

    program =
      ErlBridge.optimize!(bridge, @signature, @rows, optimizer: :labeled_few_shot, lm: @lm).program

    assert ErlBridge.evaluate!(bridge, program, @rows, options).score > 0.5
  end

  test "a metric and a language model of Elixir's", %{bridge: bridge} do
    callbacks = %{
      half_right: fn example, prediction ->
        if example.mood == prediction.mood, do: 1.0, else: 0.5
      end,
      always_sad: fn _request -> "[[ ## mood ## ]]\nsad\n\n[[ ## completed ## ]]" end
    }

    assert {:ok, %{score: 0.75, correct: 8}} =
             ErlBridge.evaluate(bridge, @signature, @rows,
               lm: %{callback: :always_sad},
               metric: %{callback: :half_right},
               callbacks: callbacks
             )
  end

  test "strings name fields as well as atoms do, and come back as they went", %{bridge: bridge} do
    assert {:ok, %{"answer" => answer}} =
             ErlBridge.predict(bridge, "question -> answer", %{"question" => "why?"}, lm: @lm)

    assert is_binary(answer)
  end

  test "a payload that does not fit is refused with the path", %{bridge: bridge} do
    assert {:error, %Error{type: :invalid_request, strategy: :fatal} = error} =
             ErlBridge.optimize(bridge, @signature, [%{sentence: "no mood"}], lm: @lm)

    assert Exception.message(error) =~ "payload.training_data[0]"

    assert {:error, %Error{type: :invalid_request} = error} =
             ErlBridge.optimize(bridge, @signature, @rows,
               lm: @lm,
               optimizer: :bootstrap_few_shots
             )

    assert Exception.message(error) =~ "payload.config.optimizer"
  end

  test "an optimization is cancelled while it runs", %{bridge: bridge} do
    test = self()

    task =
      Task.async(fn ->
        ErlBridge.optimize(bridge, @signature, @rows,
          id: :nightly,
          lm: %{callback: :stuck},
          callbacks: %{stuck: fn _request -> Process.sleep(:infinity) end},
          on_progress: fn _event -> send(test, :under_way) end
        )
      end)

    assert_receive :under_way
    assert {:ok, true} = ErlBridge.cancel(bridge, :nightly)
    assert {:error, %Error{type: :cancelled}} = Task.await(task, :infinity)
    assert {:ok, :healthy} = ErlBridge.health_check(bridge)
  end

  test "one whose rows are still on their way is cancelled, and does not begin", %{bridge: bridge} do
    test = self()

    rows =
      Stream.map(@rows, fn row ->
        send(test, {:wanted, self()})
        receive(do: (:go_on -> row))
      end)

    for work <- [:optimize, :evaluate] do
      options = [id: :nightly, lm: @lm, timeout: 120_000, on_event: &send(test, {:told, &1})]
      task = Task.async(fn -> apply(ErlBridge, work, [bridge, @signature, rows, options]) end)
      assert_receive {:wanted, sender}, 60_000
      assert {:ok, true} = ErlBridge.cancel(bridge, :nightly)
      for _row <- @rows, do: send(sender, :go_on)
      assert {:error, %Error{type: :cancelled}} = Task.await(task, :infinity)
      told = Live.mailbox()
      assert for({:told, %{phase: phase}} <- told, phase != :transfer, do: phase) == []
      for message <- told, do: assert_received(^message)
    end
  end

  test "training makes demonstrations of the rows" do
    bridge = Live.shared()
    options = [lm: "local/nearest-demo", config: [max_labeled_demos: 2]]
    assert {:ok, %{program: program}} = ErlBridge.train(bridge, @signature, @rows, options)
    assert [%{demos: [_one, _two]}] = program.predictors
  end

  @tag :capture_log
  test "kill -9 of Python during an optimization is an error at once" do
    bridge = Live.start!()
    assert {:ok, _} = ErlBridge.predict(bridge, @signature, %{sentence: "so much sun"}, lm: @lm)
    test = self()

    task =
      Task.async(fn ->
        ErlBridge.optimize(bridge, @signature, @rows,
          lm: %{callback: :stuck},
          callbacks: %{stuck: fn _request -> Process.sleep(:infinity) end},
          on_progress: fn _event -> send(test, :under_way) end
        )
      end)

    assert_receive :under_way
    OsProcess.signal(Live.os_pid(bridge), "KILL")
    assert {:error, %Error{type: :process_crashed}} = Task.await(task, :infinity)
    assert {:ok, :healthy} = ErlBridge.health_check(bridge)
  end
end
