defmodule ErlBridge.Config.Signature do
  @moduledoc """
  The signature of a step: in DSPy's notation, or as lists of fields.

      dspy_signature: "text -> queue: Literal['billing', 'technical']"

      dspy_signature:
        instructions: Sort the ticket.
        input_fields: [text]
        output_fields:
          - {name: queue, type: "Literal['billing', 'technical']", description: who answers it}

  Python reads the types; here only the names of the fields are needed, for the references of other
  steps.

      iex> ErlBridge.Config.Signature.parse("text, tags: list[str] -> queue: Literal['a, b', 'c'], sure: bool", "here")
      {"text, tags: list[str] -> queue: Literal['a, b', 'c'], sure: bool", ["text", "tags"], ["queue", "sure"]}
      iex> ErlBridge.Config.Signature.parse(%{"input_fields" => ["text"], "output_fields" => [%{"name" => "sure", "type" => "bool"}]}, "here")
      {%{"input_fields" => [%{"name" => "text"}], "output_fields" => [%{"name" => "sure", "type" => "bool"}]}, ["text"], ["sure"]}
  """

  alias ErlBridge.Config.Check
  alias ErlBridge.Payload

  @keys ~w(input_fields output_fields instructions)
  @field_keys ~w(name type description)
  @name ~r/\A[A-Za-z][A-Za-z0-9_]*\z/

  @doc "The signature as Python takes it, and the names of its inputs and outputs. Throws as `ErlBridge.Config.Check` does."
  @spec parse(term, String.t()) :: {Payload.signature(), [String.t()], [String.t()]}
  def parse(notation, path) when is_binary(notation) do
    case notation |> plain() |> String.split("->") do
      [inputs, outputs] ->
        different(
          {notation, names(inputs, notation, path), names(outputs, notation, path)},
          path
        )

      _other ->
        refuse(path, notation)
    end
  end

  def parse(value, path) when is_map(value) do
    signature = Check.keys(value, @keys, path)
    inputs = Check.required(signature, "input_fields", path, &fields/2)
    outputs = Check.required(signature, "output_fields", path, &fields/2)
    Check.optional(signature, "instructions", path, &Check.text/2)

    signature = %{signature | "input_fields" => inputs, "output_fields" => outputs}

    different({signature, Enum.map(inputs, & &1["name"]), Enum.map(outputs, & &1["name"])}, path)
  end

  def parse(value, path), do: refuse(path, value)

  @doc "A list of fields as Python takes it. Throws as `ErlBridge.Config.Check` does."
  @spec fields(term, String.t()) :: [map]
  def fields(value, path), do: Check.list(value, path, "fields", &field/2)

  defp field(name, path) when is_binary(name), do: %{"name" => name(name, path)}

  defp field(value, path) do
    field = Check.keys(value, @field_keys, path)
    Check.required(field, "name", path, &name/2)
    field
  end

  defp name(value, path) do
    if is_binary(value) and value =~ @name,
      do: value,
      else: Check.refuse(path, "a name of letters, digits and underscores", value)
  end

  defp different({_signature, inputs, outputs} = parsed, path) do
    names = inputs ++ outputs

    case names -- Enum.uniq(names) do
      [] -> parsed
      [twice | _] -> Check.refuse(path, "fields of different names", twice)
    end
  end

  # Types may hold commas, colons and arrows, all of them in brackets or quotes.
  defp plain(notation) do
    case String.replace(notation, ~r/"[^"]*"|'[^']*'|\[[^\[\]"']*\]/, "") do
      ^notation -> notation
      shorter -> plain(shorter)
    end
  end

  defp names(fields, notation, path) do
    for field <- String.split(fields, ",") do
      name = field |> String.split(":") |> hd() |> String.trim()
      if name =~ @name, do: name, else: refuse(path, notation)
    end
  end

  defp refuse(path, got) do
    Check.refuse(path, ~s("inputs -> outputs" or a map of input_fields and output_fields), got)
  end
end
