defmodule ErlBridge.Config.Reference do
  @moduledoc """
  Where the inputs of a step come from.

  A string `$step.field` is the output `field` of an earlier step, and `$inputs.name` what the
  pipeline was given under that name; also within lists and maps. Any other value is meant as it
  is; a text that begins with `$` is written with `$$`.

      iex> alias ErlBridge.Config.Reference
      iex> inputs = Reference.parse(%{"a" => "$inputs.text", "b" => ["$sort.queue", "$$5", 1]}, "here")
      %{"a" => {:reference, "inputs", "text"}, "b" => [{:reference, "sort", "queue"}, "$5", 1]}
      iex> Reference.resolve(inputs, %{"inputs" => %{"text" => "Hello"}, "sort" => %{"queue" => "sales"}})
      {:ok, %{"a" => "Hello", "b" => ["sales", "$5", 1]}}
      iex> Reference.resolve(inputs, %{"inputs" => %{"text" => "Hello"}, "sort" => %{}})
      {:error, {:reference, "sort", "queue"}}
  """

  alias ErlBridge.Config.Check

  @type t :: {:reference, source :: String.t(), field :: String.t()}

  @doc "A value with its references read. Throws as `ErlBridge.Config.Check` does."
  @spec parse(term, String.t()) :: term
  def parse("$$" <> rest, _path), do: "$" <> rest

  def parse("$" <> reference = text, path) do
    case String.split(reference, ".", parts: 2) do
      [<<_, _::binary>> = source, <<_, _::binary>> = field] -> {:reference, source, field}
      _other -> Check.refuse(path, "$step.field, $inputs.name, or $$ for a $ that is meant", text)
    end
  end

  def parse(list, path) when is_list(list) do
    for {value, index} <- Enum.with_index(list), do: parse(value, "#{path}[#{index}]")
  end

  def parse(map, path) when is_map(map) and not is_struct(map),
    do: Map.new(map, fn {key, value} -> {key, parse(value, "#{path}.#{key}")} end)

  def parse(value, _path), do: value

  @doc "All references in a value."
  @spec all(term) :: [t]
  def all({:reference, _source, _field} = reference), do: [reference]
  def all(list) when is_list(list), do: Enum.flat_map(list, &all/1)
  def all(map) when is_map(map) and not is_struct(map), do: all(Map.values(map))
  def all(_value), do: []

  @doc "The value with what its references stand for, or the first reference that stands for nothing."
  @spec resolve(term, %{String.t() => map}) :: {:ok, term} | {:error, t}
  def resolve(value, sources) do
    case Enum.find(all(value), &(fetch(&1, sources) == :error)) do
      nil -> {:ok, replace(value, sources)}
      missing -> {:error, missing}
    end
  end

  defp replace({:reference, _source, _field} = reference, sources) do
    {:ok, value} = fetch(reference, sources)
    value
  end

  defp replace(list, sources) when is_list(list), do: Enum.map(list, &replace(&1, sources))

  defp replace(map, sources) when is_map(map) and not is_struct(map),
    do: Map.new(map, fn {key, value} -> {key, replace(value, sources)} end)

  defp replace(value, _sources), do: value

  defp fetch({:reference, source, field}, sources) do
    with {:ok, outputs} <- Map.fetch(sources, source), do: Map.fetch(outputs, field)
  end
end
