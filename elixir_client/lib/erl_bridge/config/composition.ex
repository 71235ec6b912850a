defmodule ErlBridge.Config.Composition do
  @moduledoc """
  The module of a step: its name, a map of its name and its options, or a list of steps.

      module: chain_of_thought

      module:
        name: best_of_n
        n: 5
        module: chain_of_thought
        reward: {judge: Is the answer polite?}

      module:
        - {name: outline, signature: "topic -> points: list[str]"}
        - {name: write, signature: "topic, points: list[str] -> text", module: chain_of_thought}

  `ErlBridge.Modules` has all of them. A function is given by its name, `callback: search`, and stands in
  the `:callbacks` of whoever runs the pipeline.

      iex> alias ErlBridge.Config.{Check, Composition}
      iex> Composition.parse(%{"name" => "multi_chain_comparison", "n" => 5}, "module")
      %{"name" => "multi_chain_comparison", "n" => 5}
      iex> Composition.adds("chain_of_thought")
      ["reasoning"]
      iex> {:error, error} = Check.run(fn -> Composition.parse(%{"name" => "multi_chain_comparison", "n" => 0}, "module") end)
      iex> error.message
      "module.n: expected an integer from 1 to 32, got: 0"
  """

  alias ErlBridge.Config.{Check, Signature}
  alias ErlBridge.Modules

  @type t :: String.t() | map | [map]

  @kinds Map.new(Modules.all(), &{Atom.to_string(&1.name), &1})
  @names Enum.map(Modules.all(), &Atom.to_string(&1.name))
  @step_keys ~w(name signature module callback inputs)
  @tool_keys ~w(name description args callback)

  @doc "The module as Python takes it. Throws as `ErlBridge.Config.Check` does."
  @spec parse(term, String.t()) :: t
  def parse(steps, path) when is_list(steps), do: value(:steps, steps, path)

  def parse(name, path) when is_binary(name) do
    options(name, %{}, path, path)
    name
  end

  def parse(value, path) when is_map(value) do
    given = Check.map(value, path)
    options(name(given), Map.delete(given, "name"), "#{path}.name", path)
  end

  def parse(value, path),
    do: Check.refuse(path, "a module: its name, a map with its name, or a list of steps", value)

  @doc "The names of the outputs that a module adds to those of its signature."
  @spec adds(t | nil) :: [String.t()]
  def adds(name) when is_binary(name), do: adds(%{"name" => name})

  def adds(%{} = module) do
    case @kinds[name(module)].adds do
      :module -> adds(module["module"])
      names -> names
    end
  end

  def adds(_none_or_steps), do: []

  # A map without a name is one of these, as in Python.
  defp name(%{"name" => name}), do: name
  defp name(%{"steps" => _steps}), do: "pipeline"
  defp name(%{"callback" => _name}), do: "callback"
  defp name(_map), do: nil

  defp options(name, given, name_path, path) do
    kind = @kinds[Check.one_of(name, @names, name_path)]
    Check.keys(given, Enum.map(kind.options, &Atom.to_string(&1.name)), path)

    for option <- kind.options, value = option(option, given, path), into: %{"name" => name} do
      {Atom.to_string(option.name), value}
    end
  end

  defp option(%{name: name, type: type, required: required?}, given, path) do
    get = if required?, do: &Check.required/4, else: &Check.optional/4
    get.(given, Atom.to_string(name), path, &value(type, &1, &2))
  end

  defp value({:integer, least, most}, value, path) do
    if is_integer(value) and value in least..most,
      do: value,
      else: Check.refuse(path, "an integer from #{least} to #{most}", value)
  end

  defp value(:number, value, path),
    do: if(is_number(value), do: value, else: Check.refuse(path, "a number", value))

  defp value(:callback, value, path), do: Check.text(value, path)
  defp value(:module, value, path), do: parse(value, path)
  defp value(:modules, value, path), do: Check.list(value, path, "modules", &parse/2)
  defp value(:steps, value, path), do: Check.list(value, path, "steps", &step/2)
  defp value(:tools, value, path), do: Check.list(value, path, "tools", &tool/2)
  defp value(:vectorizer, "words", _path), do: "words"
  defp value(:vectorizer, value, path), do: one_text(value, ["callback"], path)
  defp value(:reward, value, path), do: one_text(value, ["judge", "callback"], path)

  defp one_text(value, keys, path) do
    given = Check.keys(value, keys, path)
    expected = Enum.map_join(keys, " or ", &"{#{&1}: text}")
    if map_size(given) != 1, do: Check.refuse(path, expected, value)
    for {key, text} <- given, into: %{}, do: {key, Check.text(text, "#{path}.#{key}")}
  end

  defp step(value, path) do
    step = Check.keys(value, @step_keys, path)
    Check.required(step, "name", path, &Check.text/2)
    {signature, inputs, _outputs} = Check.required(step, "signature", path, &Signature.parse/2)
    Check.optional(step, "callback", path, &Check.text/2)
    Check.optional(step, "inputs", path, &Check.keys(&1, inputs, &2))

    step
    |> Map.put("signature", signature)
    |> Map.replace_lazy("module", &parse(&1, "#{path}.module"))
  end

  defp tool(value, path) do
    tool = Check.keys(value, @tool_keys, path)
    Check.required(tool, "name", path, &Check.text/2)
    for key <- ["description", "callback"], do: Check.optional(tool, key, path, &Check.text/2)

    Map.replace_lazy(tool, "args", &fields(&1, "#{path}.args"))
  end

  defp fields(notation, _path) when is_binary(notation), do: notation
  defp fields(list, path), do: Signature.fields(list, path)
end
