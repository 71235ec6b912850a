defmodule ErlBridge.Demo.Report do
  @moduledoc """
  The demo's output, as text. Nothing is printed here.
  """

  import ErlBridge.Figures, only: [number: 1, percent: 1, seconds: 1, table: 1]

  alias ErlBridge.Demo
  alias ErlBridge.Demo.Dataset

  @examples 3
  @demos 8
  @sentence 96

  @doc "What is about to be done, on what rows."
  @spec head(map, [Dataset.row()]) :: String.t()
  def head(hello, rows) do
    """
    erl_bridge #{hello.version}: Elixir #{System.version()} and Python #{hello.python} (OS process #{hello.os_pid})

    #{length(rows)} sentences from the documentation of #{names(Dataset.modules())}.
    The task: given the sentence, name the module.
    """
  end

  @doc "Everything, once it is done."
  @spec result(Demo.t(), String.t(), non_neg_integer) :: String.t()
  def result(demo, lm, elapsed_ms) do
    chosen = Demo.chosen(demo)

    Enum.join(
      [
        scores(demo),
        examples(demo.before, chosen.test),
        demos(chosen),
        verdict(demo, chosen),
        on_model(lm),
        "All in #{seconds(elapsed_ms)}.\n"
      ],
      "\n"
    )
  end

  @doc "Scores before and after, with counts."
  @spec scores(Demo.t()) :: String.t()
  def scores(demo) do
    sizes = Map.new(demo.split, fn {part, rows} -> {part, length(rows)} end)

    header = ["", "validation", "test, never shown", "LM calls", "time"]
    first = line("as it is", demo.baseline, demo.before, demo.before.usage)
    runs = for run <- demo.runs, do: line(run.optimizer, run.validation, run.test, run)

    """
    #{sizes.train} rows for training, #{sizes.validation} for validation, #{sizes.test} for the test

    #{table([header, first | runs])}
    """
  end

  @doc "Rows of the test that the program answers otherwise than the bare signature."
  @spec examples(map, map) :: String.t()
  def examples(before, later) do
    changed =
      before.results
      |> Enum.zip(later.results)
      |> Enum.filter(fn {old, new} -> answer(old) != answer(new) end)

    case Enum.take(changed, @examples) do
      [] -> "No row of the test is answered otherwise than before.\n"
      some -> "Answers before and after:\n\n#{Enum.map_join(some, "\n", &example/1)}\n"
    end
  end

  @doc "The demonstrations that an optimizer put into the prompt."
  @spec demos(Demo.run()) :: String.t()
  def demos(run) do
    {shown, more} = Enum.split(run.demos, @demos)
    rest = if more == [], do: [], else: ["  ... and #{length(more)} more"]

    """
    Demonstrations that #{run.optimizer} chose:

    #{Enum.join(Enum.map(shown, &demo/1) ++ rest, "\n")}
    """
  end

  @doc "What it comes to."
  @spec verdict(Demo.t(), Demo.run()) :: String.t()
  def verdict(demo, chosen) do
    now = "#{chosen.test.correct} of #{chosen.test.total}"
    before = demo.before.correct

    if Demo.risen?(demo) do
      """
      #{chosen.optimizer}, the best on the validation rows,
      is right on #{now} rows that it never saw; the signature as it is on #{before}.
      """
    else
      """
      The score did not rise: #{chosen.optimizer}, the best on the validation rows,
      is right on #{now} rows that it never saw; the signature as it is on #{before}.
      """
    end
  end

  defp on_model("local/nearest-demo") do
    """
    The language model was local/nearest-demo. It has no weights and understands nothing: it
    answers as the most similar demonstration in its prompt does. The gain is real and measured,
    and comes from the choice of demonstrations; it says nothing about a real model. Try one:

      mix erl_bridge.demo --lm openai/gpt-4o-mini      with OPENAI_API_KEY set
      mix erl_bridge.demo --lm ollama_chat/llama3.2    with Ollama running

    or, where you said make demo, make demo ARGS="--lm openai/gpt-4o-mini".
    """
  end

  defp on_model(lm), do: "The language model was #{lm}.\n"

  # Parts

  defp line(name, validation, test, spent) do
    score = "#{test.correct}/#{test.total}  #{percent(test.score)}"
    [name, percent(validation), score, number(spent.lm_calls), seconds(spent.duration_ms)]
  end

  defp example({old, new}) do
    "  #{shorten(new.inputs.sentence, @sentence)}\n" <>
      "    #{mark(old)} -> #{mark(new)}, and it is #{new.expected.module}"
  end

  defp demo(demo),
    do: "  #{String.pad_trailing(demo.module, 12)}#{shorten(demo.sentence, @sentence - 12)}"

  defp answer(%{prediction: %{module: module}}), do: module
  defp answer(_failed), do: "no answer"

  defp mark(result),
    do: "#{answer(result)} (#{if result.score == 1.0, do: "right", else: "wrong"})"

  defp names(names) do
    {last, others} = List.pop_at(names, -1)
    "#{Enum.join(others, ", ")} and #{last}"
  end

  defp shorten(text, most) do
    if String.length(text) > most, do: String.slice(text, 0, most - 3) <> "...", else: text
  end
end
