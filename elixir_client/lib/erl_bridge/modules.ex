defmodule ErlBridge.Modules do
  @path Path.expand("../../priv/modules.eterm", __DIR__)
  @external_resource @path
  {:ok, [modules]} = :file.consult(@path)

  # Links of the protocol's page lead nowhere here.
  plain = &String.replace(&1, ~r/; see \[.*?\]\(.*?\)/, "")

  adds = fn
    [] -> ""
    :module -> " Adds what its module adds."
    names -> " Adds #{Enum.map_join(names, ", ", &"`#{&1}`")}."
  end

  type = fn
    {:integer, least, most} -> "integer from #{least} to #{most}"
    word -> to_string(word)
  end

  note = fn
    %{required: true} -> ", must be given"
    %{default: ""} -> ""
    %{default: default} -> ", `#{default}` unless told"
  end

  section = fn %{name: name, doc: doc, options: options} = module ->
    rows =
      for option <- options,
          do:
            "  * `:#{option.name}` (#{type.(option.type)}#{note.(option)}) - #{plain.(option.doc)}\n"

    "## #{name}\n\n#{String.capitalize(String.first(doc))}#{String.slice(doc, 1..-1//1)}.#{adds.(module.adds)}\n\n#{rows}"
  end

  @moduledoc """
  The modules of DSPy and their options, as Python has them.

  `ErlBridge.predict/4` and its like take one as `:module`: its name, a map of its name and its
  options, or a list of steps, which is a pipeline:

      module: :chain_of_thought
      module: %{name: :refine, module: :chain_of_thought, reward: %{judge: "Is it polite?"}, n: 5}

  What a module adds are outputs that come besides those of the signature. The guide on modules and
  programs tells more.

  #{Enum.map_join(modules, "\n", section)}
  """

  @modules modules

  @typedoc """
  A module. It `adds` the outputs of these names, or what the module in it adds. The `default` of an option is text,
  `""` where there is none.
  """
  @type dspy_module :: %{
          name: atom,
          adds: [String.t()] | :module,
          doc: String.t(),
          options: [
            %{
              name: atom,
              type: {:integer, integer, integer} | atom,
              required: boolean,
              default: String.t(),
              doc: String.t()
            }
          ]
        }

  @doc """
  All of them.

      iex> Enum.map(ErlBridge.Modules.all(), & &1.name) |> Enum.take(3)
      [:predict, :chain_of_thought, :react]
  """
  @spec all() :: [dspy_module]
  def all, do: @modules
end
