defmodule Mix.Tasks.ErlBridge.Demo do
  @shortdoc "Optimizes a DSPy signature on real input, before your eyes"

  @moduledoc """
  Optimizes a DSPy signature on real input, and shows what it gains.

      mix erl_bridge.demo [options]

  The rows are sentences of the documentation of Elixir's standard library; the task is to name
  the module that a sentence is about. The signature is scored as it is, optimized twice, and
  scored again on rows that no optimizer has seen.

  Without options it needs no key, no network and no model: `local/nearest-demo` answers by the
  most similar demonstration in its prompt. With a real model it makes some 1,900 short calls.

  ## Options

    * `--lm NAME` - the language model, `openai/gpt-4o-mini` or `ollama_chat/llama3.2` for example
    * `--optimizer NAME` - the optimizer to compare with `bootstrap_few_shot`;
      `bootstrap_few_shot_with_random_search` unless told
    * `--seed N` - how the rows are shuffled; 0 unless told
    * `--help` - this text

  Ends with status 1 when the score does not rise.
  """

  use Mix.Task

  alias ErlBridge.{Demo, Progress, ProgressBar}
  alias ErlBridge.Demo.{Dataset, Report}

  @requirements ["app.start"]
  @switches [lm: :string, optimizer: :string, seed: :integer]

  @impl true
  def run(arguments),
    do: Mix.ErlBridge.with_options(arguments, @switches, @moduledoc, &demo(settings(&1)))

  defp settings(options) do
    second = Keyword.get(options, :optimizer, "bootstrap_few_shot_with_random_search")

    %{
      lm: Keyword.get(options, :lm, "local/nearest-demo"),
      optimizers: Enum.uniq(["bootstrap_few_shot", second]),
      seed: Keyword.get(options, :seed, 0)
    }
  end

  defp demo(settings) do
    started = System.monotonic_time(:millisecond)
    rows = or_raise(Dataset.load())
    bridge = or_raise(ErlBridge.start_link(log_level: :none))
    {:ok, hello} = ErlBridge.hello(bridge)
    Mix.shell().info(Report.head(hello, rows))

    demo = work(bridge, rows, settings)
    elapsed = System.monotonic_time(:millisecond) - started
    ErlBridge.stop(bridge)

    Mix.shell().info(["\n", Report.result(demo, settings.lm, elapsed)])
    unless Demo.risen?(demo), do: exit({:shutdown, 1})
  end

  defp work(bridge, rows, settings) do
    {:ok, bar} = ProgressBar.start_link()
    demo = Demo.run(bridge, rows, settings, &Progress.show(bar, &1, &2))
    ProgressBar.stop(bar)
    demo
  rescue
    error in ErlBridge.Error -> Mix.raise(Exception.message(error))
  end

  defp or_raise({:ok, value}), do: value
  defp or_raise({:error, %ErlBridge.Error{} = error}), do: Mix.raise(Exception.message(error))
  defp or_raise({:error, message}), do: Mix.raise(message)
end
