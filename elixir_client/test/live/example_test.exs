defmodule ErlBridge.ExampleTest do
  @moduledoc "The programs in `examples/` run without a key and print what they are there to show."
  use ExUnit.Case, async: true

  import ExUnit.{CaptureIO, CaptureLog}

  alias ErlBridge.{Error, Live}

  @examples Path.expand("../../../examples", __DIR__)

  # What each prints.
  @printed %{
    "agent_with_tools.exs" => """
    What is the price? price(%{"article" => "lamp"}) -> 24.5
    Now the total. multiply(%{"amount" => 12, "price" => 24.5}) -> 294.0
    I know it. finish(%{}) -> Completed.
    They cost 294.0 euros.
    """,
    "budget.exs" => """
    budget_exhausted after 100 calls for $0.0: 1.0
      plant
    success after 230 calls for $0.0: 1.0
      plant
    """,
    "chain_of_thought.exs" => """
    How many eggs are in 3 boxes of 12?
      3 boxes of 12 are 3 * 12 = 36.
      -> 36, that is 3 dozen and 0
    How many pens are in 7 boxes with 20 each?
      7 boxes of 20 are 7 * 20 = 140.
      -> 140, that is 11 dozen and 8
    """,
    "classification.exs" => """
    right: 83 %, with 95 % confidence 44 to 97 %
    billing -> billing: 2
    technical -> technical: 2
    sales -> technical: 1
    sales -> sales: 1
    """,
    "compare_programs.exs" => """
    2 -> 12 demonstrations: 0.42 -> 1.0, better (p = 0.0)
    10 -> 12 demonstrations: 0.92 -> 1.0, not proven (p = 0.25)
    """,
    "custom_instructions.exs" => """
    plain: normal, normal, normal
    instructed: urgent, normal, urgent
    """,
    "elixir_lm.exs" => """
    100 tokens, 0.02 cents
    You wrote: My card [card] was charged twice
    """,
    "entity_extraction.exs" => """
    person: Weber, Okafor
    place: Lisbon, Porto
    3 days, from a Friday on
    """,
    "gepa_with_feedback.exs" => """
    before 0.33, after 1.0
    Say who should answer the message.
    If it says "error", then team: support
    If it says "license", then team: sales
    If it says "login", then team: support
    If it says "demo", then team: sales
    If it says "quote", then team: sales
    If it says "refund", then team: billing
    If it says "crash", then team: support
    If it says "invoice", then team: billing
    If it says "payment", then team: billing
    """,
    "multi_hop.exs" => """
    In which town was the author born who wrote Faust? Frankfurt
    In which town was the author born who wrote Siddhartha? Calw
    """,
    "optimize_with_metric.exs" => """
    before 0.28, after 1.0
    %{minutes: 90}
    """,
    "pipeline.exs" => """
    before 0.25, after 1.0
    sort: 12 demonstrations
    listen.predict: 12 demonstrations
    billing lead
    """,
    "question_and_answer.exs" => """
    Is there a place to park? Behind the house, two hours are free.
    Are you open on Sundays? We are closed on Sundays.
    May I pay by card? Yes, from ten euros on.
    """,
    "retrieval.exs" => """
    How many days of vacation are there? Each year has thirty days of vacation. (Holidays)
    My laptop is broken, when is it replaced? A broken laptop is replaced the same day. (Devices)
    """,
    "streaming.exs" => """
    On rain

    The rain comes slowly,
    word by word,
    and nobody waits for the end.

    3 lines
    """,
    "two_inputs.exs" => """
    morning, Italian: Buongiorno
    morning, German, formal: Guten Morgen
    evening, Italian: Buonasera
    evening, German, formal: Guten Abend
    payload.inputs.daytime: expected one of :morning, :evening, got :noon
    """
  }

  setup_all do
    System.delete_env("LM")
    %{bridge: start_supervised!({ErlBridge, preload: true})}
  end

  # All but one share a bridge, and so the second that Python takes to import DSPy.
  @start "{:ok, bridge} = ErlBridge.start_link()\n"
  @stop "ErlBridge.stop(bridge)\n"

  defp run(name, bridge) do
    path = Path.join(@examples, name)
    [before, rest] = path |> File.read!() |> String.split(@start)
    [rest, ""] = String.split(rest, @stop)
    capture_io(fn -> Code.eval_string(before <> "\n" <> rest, [bridge: bridge], file: path) end)
  end

  for {name, printed} <- @printed do
    test name, %{bridge: bridge} do
      assert run(unquote(name), bridge) == unquote(printed)
    end
  end

  @crash "resume_after_crash.exs"
  test @crash do
    log =
      capture_log(fn ->
        printed = capture_io(fn -> Code.eval_file(Path.join(@examples, @crash)) end)

        assert printed == """
               killed once: 70 answers paid for, 47 taken from the store
               undisturbed: 69 answers paid for, 8 taken from the store
               the same program: true
               """
      end)

    assert log =~ "starting it anew"
  end

  test "each is run here, has 15 to 40 lines, and is in the table" do
    table = File.read!(Path.join(@examples, "README.md"))
    names = for path <- Path.wildcard(Path.join(@examples, "*.exs")), do: Path.basename(path)
    assert Enum.sort([@crash | Map.keys(@printed)]) == Enum.sort(names)

    for name <- names do
      lines = @examples |> Path.join(name) |> File.stream!() |> Enum.count()
      assert lines in 15..40, "#{name} has #{lines} lines"
      assert table =~ "[`#{name}`](#{name})"
    end
  end

  test "embed_app.py: words to vectors, with progress; what does not fit is refused with the path" do
    bridge = start_supervised!({ErlBridge, Live.options(app: "embed_app:app", cd: @examples)})
    test = self()
    options = [on_event: &send(test, &1)]

    assert {:ok, %{"vectors" => [hello, help]}} =
             ErlBridge.call(bridge, :embed, %{texts: ["hello", "help"]}, options)

    assert length(hello) == 8 and length(help) == 8
    assert [%{done: 1, total: 2}, %{done: 2, total: 2}] = Live.mailbox()

    assert {:error, %Error{type: :invalid_request} = error} =
             ErlBridge.call(bridge, :embed, %{texts: [1]})

    assert Exception.message(error) =~ "payload.texts[0]"
  end
end
