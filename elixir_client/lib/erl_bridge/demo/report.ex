defmodule ErlBridge.Demo.Report do
  @moduledoc """
  The demo's output, as text. Nothing is printed here.

      iex> event = %{phase: :optimize, trial: 5, trials: 9, best_score: 0.42, lm_calls: 1641, elapsed_ms: 2700}
      iex> ErlBridge.Demo.Report.progress(event)
      "  [###########.........]  trial 5 of 9  best 42.0 %  1 641 LM calls  2.7 s"
  """

  alias ErlBridge.{Demo, ProgressBar}
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

  @doc "One line on how far a step is."
  @spec progress(map) :: String.t()
  def progress(event) do
    parts = [
      ProgressBar.bar(fraction(event)),
      count(event),
      event[:best_score] && "best #{percent(event.best_score)}",
      "#{number(event.lm_calls)} LM calls",
      seconds(event.elapsed_ms)
    ]

    "  " <> Enum.join(Enum.filter(parts, & &1), "  ")
  end

  @doc """
  What an event completes: a trial or all rows of a phase; `nil` when it is one on the way.

      iex> ErlBridge.Demo.Report.milestone(%{phase: :optimize, trial: 5, trials: 9})
      {:trial, 5}
      iex> ErlBridge.Demo.Report.milestone(%{phase: :baseline, done: 5, total: 9})
      nil
  """
  @spec milestone(map) :: {:trial, pos_integer} | {:phase, atom} | nil
  def milestone(%{phase: phase, done: total, total: total}), do: {:phase, phase}
  def milestone(%{trial: trial}) when trial > 0, do: {:trial, trial}
  def milestone(_event), do: nil

  @doc "Everything, once it is done."
  @spec result(Demo.t(), String.t(), non_neg_integer) :: String.t()
  def result(demo, lm, elapsed_ms) do
    chosen = Demo.chosen(demo)

    Enum.join(
      [
        table(demo),
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
  @spec table(Demo.t()) :: String.t()
  def table(demo) do
    sizes = Map.new(demo.split, fn {part, rows} -> {part, length(rows)} end)

    header = ["", "validation", "test, never shown", "LM calls", "time"]
    first = line("as it is", demo.baseline, demo.before, demo.before.usage)
    runs = for run <- demo.runs, do: line(run.optimizer, run.validation, run.test, run)

    """
    #{sizes.train} rows for training, #{sizes.validation} for validation, #{sizes.test} for the test

    #{columns([header, first | runs])}
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

  # Progress

  defp fraction(%{trial: trial, trials: trials}), do: trial / trials
  defp fraction(%{done: done, total: total}), do: done / total
  defp fraction(_event), do: 0.0

  defp count(%{trial: trial, trials: trials}), do: "trial #{trial} of #{trials}"
  defp count(%{done: done, total: total}), do: "row #{done} of #{total}"
  defp count(_event), do: nil

  # Parts

  defp line(name, validation, test, spent) do
    score = "#{test.correct}/#{test.total}  #{percent(test.score)}"
    [name, percent(validation), score, number(spent.lm_calls), seconds(spent.duration_ms)]
  end

  # The first column to the left, the others to the right.
  defp columns(lines) do
    widths =
      lines
      |> Enum.zip_with(& &1)
      |> Enum.map(fn cells -> cells |> Enum.map(&String.length/1) |> Enum.max() end)

    Enum.map_join(lines, "\n", fn [name | cells] ->
      [width | others] = widths

      right =
        Enum.zip_with(cells, others, fn cell, width -> String.pad_leading(cell, width + 3) end)

      "  #{String.pad_trailing(name, width)}#{right}"
    end)
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

  defp percent(score), do: "#{decimal(score * 100)} %"
  defp seconds(ms), do: "#{decimal(ms / 1000)} s"
  defp decimal(float), do: :erlang.float_to_binary(float / 1, decimals: 1)

  # 12345 as 12 345
  defp number(integer), do: String.replace(to_string(integer), ~r/(?<=\d)(?=(\d{3})+$)/, " ")

  defp shorten(text, most) do
    if String.length(text) > most, do: String.slice(text, 0, most - 3) <> "...", else: text
  end
end
