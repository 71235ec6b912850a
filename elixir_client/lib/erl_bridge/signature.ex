defmodule ErlBridge.Signature do
  @moduledoc """
  What is to be predicted from what, as a struct.

      iex> alias ErlBridge.Signature
      iex> signature =
      ...>   Signature.new(
      ...>     inputs: [ticket: :str],
      ...>     outputs: [queue: {:literal, [:billing, :technical]}],
      ...>     instructions: "Sort the ticket."
      ...>   )
      iex> Signature.notation(signature)
      "ticket -> queue: Literal['billing', 'technical']"

  `ErlBridge.optimize/4`, `ErlBridge.evaluate/4` and `ErlBridge.predict/4` take it, as they take
  DSPy's notation (`"ticket -> queue"`) and the plain map that `to_map/1` gives, which is what goes
  to Python.

  A field has a name, a type and a description that the language model reads. Fields named with
  atoms give outputs named with atoms, those named with strings give strings. Python knows which
  names and types DSPy can use and refuses the others, with the path to them.

  ## Types

    * `:str`, `:int`, `:float`, `:bool`, `:any`, `:list`, `:dict`
    * `{:list, type}`, `{:dict, key, value}`, `{:optional, type}`
    * `{:literal, [:billing, :technical]}` - one of these; atoms come back as atoms
    * `{:map, [title: :str, year: {:optional, :int}]}` - a map with these fields, which may have
      descriptions as those of a signature have
    * `:date`, `:time`, `:datetime` - structs, or text as ISO 8601 has it
    * `{:code, :elixir}` - text without the fences that models put around code
    * only for inputs: `:image` (a URL, or `%{data: bytes, type: "image/png"}`), `:audio`
      (`%{data: bytes, format: "wav"}`), `:file` (`%{data: bytes, type: "application/pdf"}`) and
      `:history` (the conversation so far, a list of maps with fields of the signature)
  """

  alias ErlBridge.Program

  @enforce_keys [:input_fields, :output_fields]
  defstruct [:input_fields, :output_fields, :instructions]

  @type name :: atom | String.t()

  @type type ::
          atom
          | {:list, type}
          | {:dict, type, type}
          | {:optional, type}
          | {:literal, [term, ...]}
          | {:map, [field | {name, type}, ...]}
          | {:code, atom | String.t()}
          | String.t()

  @type field :: %{
          required(:name) => name,
          optional(:type) => type,
          optional(:description) => String.t() | nil
        }

  @type t :: %__MODULE__{
          input_fields: [field, ...],
          output_fields: [field, ...],
          instructions: String.t() | nil
        }

  @options [:inputs, :outputs, :instructions]
  @field_keys [:name, :type, :description]

  @doc """
  A signature from its `:inputs`, its `:outputs` and, if wished, its `:instructions`.

  A field is a name (of type `:str` then), `{name, type}`, or what `field/3` gives. Raises
  `ArgumentError` for what is no field.

      iex> ErlBridge.Signature.new(inputs: [:question], outputs: [answer: :float])
      %ErlBridge.Signature{
        input_fields: [%{name: :question, type: :str}],
        output_fields: [%{name: :answer, type: :float}],
        instructions: nil
      }

      iex> ErlBridge.Signature.new(inputs: [:question], outputs: [])
      ** (ArgumentError) expected :outputs to be a list of at least one field, got: []
  """
  @spec new(keyword) :: t
  def new(options) do
    for {name, _value} <- options, name not in @options do
      raise ArgumentError, "unknown option #{inspect(name)}. The options are #{listed(@options)}"
    end

    %__MODULE__{
      input_fields: fields!(options, :inputs),
      output_fields: fields!(options, :outputs),
      instructions: text!(options[:instructions], ":instructions")
    }
  end

  @doc """
  A field, with what the language model is told of it.

      iex> ErlBridge.Signature.field(:score, :float, "from 0 to 10")
      %{name: :score, type: :float, description: "from 0 to 10"}
  """
  @spec field(name, type, String.t() | nil) :: field
  def field(name, type \\ :str, description \\ nil)
  def field(name, type, nil), do: %{name: name!(name), type: type!(type)}

  def field(name, type, description) do
    about = "the description of #{inspect(name)}"
    %{name: name!(name), type: type!(type), description: text!(description, about)}
  end

  # Fields within types in the long form; what else a type may be, Python knows.
  defp type!({:map, [_ | _] = fields}), do: {:map, Enum.map(fields, &field!/1)}
  defp type!({form, type}) when form in [:list, :optional], do: {form, type!(type)}
  defp type!({:dict, key, type}), do: {:dict, key, type!(type)}
  defp type!(type), do: type

  @doc """
  The signature that a map or a program holds. The keys may be strings, as they are after JSON.

      iex> map = %{"input_fields" => [%{"name" => "q"}], "output_fields" => [%{"name" => "a"}]}
      iex> ErlBridge.Signature.from_map(map) == ErlBridge.Signature.new(inputs: ["q"], outputs: ["a"])
      true
  """
  @spec from_map(t | map) :: t
  def from_map(%__MODULE__{} = signature), do: signature
  def from_map(%{signature: %{} = signature}), do: from_map(signature)
  def from_map(%{"signature" => %{} = signature}), do: from_map(signature)

  def from_map(%{} = map) do
    new(
      inputs: Program.get(map, :input_fields),
      outputs: Program.get(map, :output_fields),
      instructions: Program.get(map, :instructions)
    )
  end

  @doc """
  The plain map that the protocol has for a signature.

      iex> ErlBridge.Signature.to_map(ErlBridge.Signature.new(inputs: [:q], outputs: [:a]))
      %{input_fields: [%{name: :q, type: :str}], output_fields: [%{name: :a, type: :str}]}
  """
  @spec to_map(t) :: map
  def to_map(%__MODULE__{instructions: nil} = signature),
    do: signature |> Map.from_struct() |> Map.delete(:instructions)

  def to_map(%__MODULE__{} = signature), do: Map.from_struct(signature)

  @doc """
  The fields in DSPy's notation, for people. Atoms in a literal are shown as strings.

      iex> alias ErlBridge.Signature
      iex> Signature.notation(Signature.new(inputs: [:q, context: {:list, :str}], outputs: [a: {:optional, :float}]))
      "q, context: list[str] -> a: Optional[float]"
  """
  @spec notation(t) :: String.t()
  def notation(%__MODULE__{input_fields: inputs, output_fields: outputs}),
    do: Enum.map_join([inputs, outputs], " -> ", &Enum.map_join(&1, ", ", fn f -> noted(f) end))

  defp noted(%{name: name, type: type}) when type in [:str, "str"], do: to_string(name)
  defp noted(%{name: name, type: type}), do: "#{name}: #{noted_type(type)}"

  defp noted_type({:list, type}), do: "list[#{noted_type(type)}]"
  defp noted_type({:dict, key, value}), do: "dict[#{noted_type(key)}, #{noted_type(value)}]"
  defp noted_type({:optional, type}), do: "Optional[#{noted_type(type)}]"

  defp noted_type({:literal, values}) when is_list(values),
    do: "Literal[#{Enum.map_join(values, ", ", &noted_value/1)}]"

  defp noted_type({:map, fields}) when is_list(fields),
    do: "{#{Enum.map_join(fields, ", ", fn f -> "#{f.name}: #{noted_type(f.type)}" end)}}"

  defp noted_type({:code, language}), do: "Code['#{language}']"

  defp noted_type(type) when type in [:image, :audio, :file, :history],
    do: type |> to_string() |> String.capitalize()

  defp noted_type(:any), do: "Any"
  defp noted_type(type) when is_atom(type) or is_binary(type), do: to_string(type)
  defp noted_type(other), do: inspect(other)

  defp noted_value(value) when is_atom(value), do: noted_value(to_string(value))
  defp noted_value(value) when is_binary(value), do: "'#{String.replace(value, "'", "\\'")}'"
  defp noted_value(value), do: inspect(value)

  # Fields

  # For the arguments of tools, which are fields too.
  @doc false
  @spec to_field(term) :: field
  def to_field(field), do: field!(field)

  defp fields!(options, option) do
    case options[option] do
      [_ | _] = fields ->
        Enum.map(fields, &field!/1)

      other ->
        raise ArgumentError,
              "expected #{inspect(option)} to be a list of at least one field, got: #{inspect(other)}"
    end
  end

  defp field!({name, type}), do: field(name, type)

  defp field!(%{} = map) when not is_struct(map) do
    known = Map.new(@field_keys, &{to_string(&1), &1})
    named = Map.new(map, fn {key, value} -> {Map.get(known, key, key), value} end)

    case Map.keys(named) -- @field_keys do
      [] ->
        field(named[:name], Map.get(named, :type, :str), named[:description])

      [key | _] ->
        raise ArgumentError, "a field has no #{inspect(key)}, only #{listed(@field_keys)}"
    end
  end

  defp field!(name), do: field(name)

  defp name!(name) when is_binary(name) or (is_atom(name) and name not in [nil, true, false]),
    do: name

  defp name!(other),
    do:
      raise(
        ArgumentError,
        "expected a field's name to be an atom or a string, got: #{inspect(other)}"
      )

  defp text!(text, _about) when is_binary(text) or is_nil(text), do: text

  defp text!(other, about),
    do: raise(ArgumentError, "expected #{about} to be a string, got: #{inspect(other)}")

  defp listed(names), do: Enum.map_join(names, ", ", &inspect/1)
end
