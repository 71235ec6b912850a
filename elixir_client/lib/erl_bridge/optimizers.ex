defmodule ErlBridge.Optimizers do
  @path Path.expand("../../priv/optimizers.eterm", __DIR__)
  @external_resource @path
  {:ok, [optimizers]} = :file.consult(@path)

  section = fn %{name: name, aliases: aliases, doc: doc, options: options} ->
    also =
      if aliases == [],
        do: "",
        else: " Also #{Enum.map_join(aliases, ", ", &"`#{inspect(&1)}`")}."

    rows =
      for %{name: option, type: type, default: default, doc: doc} <- options,
          option not in [:metric, :num_threads, :seed],
          do:
            "  * `:#{option}` (#{type}#{if default != "", do: ", `#{default}` unless told"}) - #{doc}\n"

    "## #{name}\n\n#{String.capitalize(String.first(doc))}#{String.slice(doc, 1..-1//1)}.#{also}\n\n#{rows}"
  end

  @moduledoc """
  The optimizers of DSPy and their options, as Python has them.

  `ErlBridge.optimize/4` takes the name as `:optimizer`, the options `:metric`, `:seed`,
  `:num_threads`, `:prompt_model`, `:reflection_lm` and `:teacher` as they are, and all options in
  `:config`:

      ErlBridge.optimize(bridge, signature, rows,
        validation_data: others,
        optimizer: :gepa,
        config: [max_metric_calls: 300],
        reflection_lm: "openai/gpt-4o",
        metric: &MyApp.Judge.score/2,
        lm: "openai/gpt-4o-mini"
      )

  A metric for `:gepa` says what was wrong: `%{score: 0.0, feedback: "The date is missing."}`. The
  guide on optimizing helps to choose one.

  #{Enum.map_join(optimizers, "\n", section)}
  """

  @optimizers optimizers

  @typedoc """
  An optimizer. The `type` and the `default` of an option are text, the default as one writes it in
  Elixir, `""` where there is none.
  """
  @type optimizer :: %{
          name: atom,
          aliases: [atom],
          doc: String.t(),
          options: [%{name: atom, type: String.t(), default: String.t(), doc: String.t()}]
        }

  @doc "All of them."
  @spec all() :: [optimizer]
  def all, do: @optimizers

  @doc """
  Their names and other names.

      iex> :gepa in ErlBridge.Optimizers.names() and :mipro in ErlBridge.Optimizers.names()
      true
  """
  @spec names() :: [atom]
  def names, do: Enum.flat_map(@optimizers, &[&1.name | &1.aliases])

  @doc """
  The names of an optimizer's options, of whichever of its names.

      iex> ErlBridge.Optimizers.options(:knn)
      [:metric, :num_threads, :seed, :k, :vectorizer, :bootstrap, :metric_threshold, :teacher]
  """
  @spec options(atom) :: [atom]
  def options(name) do
    %{options: options} = Enum.find(@optimizers, &(name in [&1.name | &1.aliases]))
    Enum.map(options, & &1.name)
  end
end
