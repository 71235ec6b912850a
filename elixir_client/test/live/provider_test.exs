defmodule ErlBridge.ProviderTest do
  @moduledoc "A provider over the real Python, and one that it falls back on."
  use ExUnit.Case, async: false

  import ExUnit.CaptureLog

  alias ErlBridge.{CircuitBreaker, Error, Live}

  @bridge __MODULE__.Bridge
  @lm "local/nearest-demo"

  @rows for {mood, words} <- [
              {"happy", ~w(sun smile laugh joy)},
              {"sad", ~w(rain tears cry grief)}
            ],
            word <- words,
            do: %{"sentence" => "so much #{word}", "mood" => mood}

  @options %{
    "dspy_optimization" => true,
    "dspy_signature" => "sentence -> mood: Literal['happy', 'sad']",
    "training_data" => @rows,
    "optimizer" => "labeled_few_shot",
    "lm" => @lm
  }

  defmodule Other do
    @behaviour ErlBridge.Provider
    @impl true
    def query(prompt, options), do: {:ok, {:other, prompt, options["model"]}}
  end

  defmodule Full do
    use ErlBridge.Provider,
      bridge: ErlBridge.ProviderTest.Bridge,
      fallback: ErlBridge.ProviderTest.Other
  end

  defmodule Alone do
    use ErlBridge.Provider, bridge: ErlBridge.ProviderTest.Bridge, lm: "local/nearest-demo"
  end

  setup_all do
    start_supervised!({ErlBridge, Live.options(name: @bridge, preload: true)})
    :ok
  end

  setup do
    :ok = ErlBridge.clear_cache(@bridge)
    {:ok, before} = ErlBridge.cache_stats(@bridge)
    %{before: before}
  end

  test "DSPy answers with a program that is optimized once", %{before: before} do
    for {prompt, mood} <- [{"tears again", "sad"}, {"a smile", "happy"}] do
      assert {:ok, answer} = Full.query(prompt, @options)
      assert %{"success" => true, "dspy_optimization_applied" => true} = answer
      assert %{"text" => ^mood, "outputs" => %{"mood" => ^mood}} = answer
    end

    assert {:ok, now} = ErlBridge.cache_stats(@bridge)
    assert {now.misses - before.misses, now.hits - before.hits} == {1, 1}
  end

  test "a ready program answers, of fields with strings or atoms as names" do
    strings = @options["dspy_signature"]

    atoms = %{
      input_fields: [%{name: :sentence}],
      output_fields: [%{name: :mood, type: {:literal, [:happy, :sad]}}]
    }

    for {signature, mood, text} <- [{strings, "sad", "sad"}, {atoms, :sad, ":sad"}] do
      program =
        ErlBridge.optimize!(@bridge, signature, @rows, lm: @lm, optimizer: :labeled_few_shot).program

      options = %{"dspy_optimization" => true, "program" => program}
      assert {:ok, %{"text" => ^text, "outputs" => outputs}} = Alone.query("tears", options)
      assert Map.values(outputs) == [mood]
    end
  end

  test "other inputs come with the options" do
    options =
      Map.merge(@options, %{
        "dspy_signature" => "sentence, place -> mood",
        "training_data" => Enum.map(@rows, &Map.put(&1, "place", "here")),
        "inputs" => %{"place" => "there"}
      })

    assert {:ok, %{"text" => "sad"}} = Alone.query("tears", options)

    assert {:error, %Error{message: message}} =
             Alone.query("tears", Map.delete(options, "inputs"))

    assert message =~ "no input place"
  end

  test "without being asked for, DSPy is left alone", %{before: before} do
    for options <- [%{"model" => "m"}, %{@options | "dspy_optimization" => false}] do
      assert Full.query("hello", options) == {:ok, {:other, "hello", options["model"]}}
    end

    assert ErlBridge.cache_stats(@bridge) == {:ok, before}
    assert {:error, %Error{type: :invalid_request}} = Alone.query("hello", %{})
  end

  @failures [
    {%{"dspy_signature" => "sentence"}, "dspy_signature: expected"},
    {%{"training_data" => [%{"sentence" => "no mood"}]}, "training_data[0]"},
    {%{"lm" => nil}, "expected a language model"},
    {%{"program" => %{"signature" => 1}}, "program: expected what optimize/4 gave"}
  ]

  for {change, message} <- @failures do
    test "when DSPy fails the fallback answers, with a warning: #{message}" do
      options = Map.merge(@options, unquote(Macro.escape(change)))

      log =
        capture_log(fn ->
          assert Full.query("hello", options) == {:ok, {:other, "hello", nil}}
        end)

      assert log =~ "DSPy failed, ErlBridge.ProviderTest.Other answers"
      assert log =~ unquote(message)
    end
  end

  @tag :capture_log
  test "when the bridge is not there, has no room, or its breaker is open, the fallback answers at once" do
    name = __MODULE__.Unusable
    ask = fn -> ErlBridge.Provider.query("hello", @options, bridge: name, fallback: Other) end
    assert fallback_for(ask) == "not_running"

    Live.start!(
      name: name,
      max_in_flight: 1,
      max_queue: 1,
      queue_timeout: 1,
      max_retries: 0,
      circuit_breaker: [failures: 1, cool_down: [min: 60_000, max: 60_000]]
    )

    working = Live.wait(name)
    assert fallback_for(ask) == "pool_exhausted"

    {:ok, true} = ErlBridge.cancel(name, working.pid)
    Task.await(working, :infinity)

    breaker = CircuitBreaker.name(Process.whereis(name))
    {:ok, handle} = CircuitBreaker.handle(breaker)
    CircuitBreaker.report(handle, Error.timed_out(1))
    # A report is a cast; the answer to this says that it has come.
    {:ok, ^handle} = CircuitBreaker.handle(breaker)
    assert fallback_for(ask) == "circuit_open"
  end

  # The type of the error in the log, when the fallback has answered.
  defp fallback_for(ask) do
    log = capture_log(fn -> assert ask.() == {:ok, {:other, "hello", nil}} end)
    [_all, type] = Regex.run(~r/answers: (\w+):/, log)
    type
  end

  test "without a fallback the error is the answer" do
    assert {:error, %Error{message: message}} =
             Alone.query("hello", %{"dspy_optimization" => true, "lm" => @lm})

    assert message =~ ~s("training_data" or a "program")
  end

  test "a provider without a bridge, or with a wrong option, is refused" do
    assert_raise ArgumentError, ~r/needs :bridge/, fn ->
      ErlBridge.Provider.query("hello", %{}, [])
    end

    assert_raise ArgumentError, ~r/did you mean :fallback/, fn ->
      ErlBridge.Provider.query("hello", %{}, fallbak: Other)
    end
  end
end
