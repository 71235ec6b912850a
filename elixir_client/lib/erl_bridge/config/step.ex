defmodule ErlBridge.Config.Step do
  @moduledoc """
  One step of a pipeline.

  A step whose type is `dspy` or begins with `dspy_` is one of DSPy's. It has:

    * `dspy_signature` - see `ErlBridge.Config.Signature`
    * `inputs` - a map from input fields to values, see `ErlBridge.Config.Reference`; a field that is
      not in it is `$inputs.` and its name
    * `training_data`, `validation_data` - a list of rows, or the path of a file of them
    * `lm` - the language model, a text or a map
    * `module` - a module of DSPy with its options, see `ErlBridge.Config.Composition`
    * `metric` - `exact_match`, `f1`, ..., `{callback: name}`, or another map that
      `ErlBridge.evaluate/4` takes
    * `optimizer` - the optimizer, in place of `optimization.strategy`: see `ErlBridge.Optimizers`

  It is optimized when it has training data and optimization is enabled. A step of any other type is
  the handler's of that type: of its keys only `name`, `type` and `inputs` mean something here; the
  others are in `options`.
  """

  alias ErlBridge.Config.{Check, Composition, Reference, Signature}
  alias ErlBridge.{DataFile, Error, Optimizers, Options}

  @keys ~w(name type dspy_signature inputs training_data validation_data lm module metric optimizer)
  @common_keys ~w(name type inputs)
  @metrics ~w(exact_match f1 hotpot_f1 passage_match semantic_f1 complete_and_grounded)

  # What each optimizer takes of the settings of all.
  @settings Map.new(Optimizers.names(), &{Atom.to_string(&1), Optimizers.options(&1)})

  @enforce_keys [:name, :type, :path]
  defstruct [
    :name,
    :type,
    :path,
    :signature,
    :training_data,
    :optimize,
    dspy?: false,
    outputs: :any,
    inputs: %{},
    predict: [],
    options: %{}
  ]

  @typedoc """
  `outputs` are the names of the fields that it gives, `:any` for a handler's; `inputs` what it is
  given, with references; `predict` the options of `ErlBridge.predict/4`; `optimize` those of
  `ErlBridge.optimize/4`, `nil` for a step that is not optimized; `path` its place in the
  configuration.
  """
  @type t :: %__MODULE__{
          name: String.t(),
          type: String.t(),
          path: String.t(),
          dspy?: boolean,
          signature: ErlBridge.Payload.signature() | nil,
          outputs: [String.t()] | :any,
          inputs: map,
          training_data: [map] | nil,
          predict: keyword,
          optimize: keyword | nil,
          options: map
        }

  @doc "Reads all steps. `settings` has `:lm`, `:optimization`, `:dir`, and in `:python` the options of `ErlBridge.DataFile.read/2`. Throws as `ErlBridge.Config.Check` does."
  @spec parse_all(term, String.t(), map) :: [t]
  def parse_all(value, path, settings) do
    value
    |> Check.list(path, "steps", &parse(&1, &2, settings))
    |> Enum.reduce([], &check_beside(&1, &2))
    |> Enum.reverse()
  end

  defp parse(value, path, settings) do
    step = Check.map(value, path)
    type = Check.required(step, "type", path, &Check.text/2)
    name = Check.required(step, "name", path, &name/2)
    common = %__MODULE__{name: name, type: type, path: path}
    if dspy?(type), do: dspy(common, step, settings), else: other(common, step)
  end

  defp dspy?(type), do: type == "dspy" or String.starts_with?(type, "dspy_")

  defp name(value, path) do
    if is_binary(value) and value =~ ~r/\A[A-Za-z0-9_-]+\z/ and value != "inputs",
      do: value,
      else: Check.refuse(path, ~s(a name of letters, digits, _ and -, other than "inputs"), value)
  end

  defp other(common, step) do
    inputs = Check.optional(step, "inputs", common.path, &inputs/2, %{})
    %{common | inputs: inputs, options: Map.drop(step, @common_keys)}
  end

  defp dspy(%{path: path} = common, step, settings) do
    Check.keys(step, @keys, path)

    {signature, input_fields, output_fields} =
      Check.required(step, "dspy_signature", path, &Signature.parse/2)

    given = Check.optional(step, "inputs", path, &inputs/2, %{})
    Check.keys(given, input_fields, "#{path}.inputs")
    module = Check.optional(step, "module", path, &Composition.parse/2)
    rows = &rows(&1, &2, settings)
    training_data = Check.optional(step, "training_data", path, rows)
    predict = present(lm: lm(step, path, settings), module: module)

    %{
      common
      | dspy?: true,
        signature: signature,
        outputs: output_fields ++ Composition.adds(module),
        inputs: Map.merge(Map.new(input_fields, &{&1, {:reference, "inputs", &1}}), given),
        training_data: training_data,
        predict: predict,
        optimize: predict ++ optimize(step, path, settings)
    }
    |> unless_optimized(settings)
  end

  defp unless_optimized(step, %{optimization: %{enabled: enabled}}) do
    if enabled and step.training_data, do: step, else: %{step | optimize: nil}
  end

  defp optimize(step, path, %{optimization: optimization} = settings) do
    names = Map.keys(@settings)
    given = Check.optional(step, "optimizer", path, &Check.one_of(&1, names, &2))
    optimizer = given || optimization.strategy

    present(
      optimizer: optimizer,
      metric: Check.optional(step, "metric", path, &metric/2),
      validation_data: Check.optional(step, "validation_data", path, &rows(&1, &2, settings)),
      config: Map.take(optimization, @settings[optimizer])
    )
  end

  defp present(options), do: Enum.reject(options, fn {_name, value} -> value == nil end)

  defp inputs(value, path), do: value |> Check.map(path) |> Reference.parse(path)

  defp metric(%{"callback" => name} = metric, path) do
    Check.keys(metric, ["callback"], path)
    Check.text(name, "#{path}.callback")
    metric
  end

  defp metric(%{} = metric, _path), do: metric
  defp metric(value, path), do: Check.one_of(value, @metrics, path)

  defp lm(step, path, settings) do
    case Check.optional(step, "lm", path, &lm/2) || settings.lm do
      nil -> Check.refuse("#{path}.lm", "a language model here or for the whole workflow", nil)
      lm -> lm
    end
  end

  @doc "A language model as a workflow or a step names it. Throws as `ErlBridge.Config.Check` does."
  @spec lm(term, String.t()) :: String.t() | map
  def lm(value, path) when is_map(value), do: Check.map(value, path)
  def lm(value, path), do: Check.text(value, path)

  # Rows

  defp rows(file, path, settings) when is_binary(file) do
    case DataFile.read(Path.expand(file, settings.dir), settings.python) do
      {:ok, rows} -> rows(rows, "#{path} (#{file})", settings)
      {:error, %Error{} = error} -> Check.fail("#{path}: #{error.message}", error.context)
    end
  end

  defp rows(value, path, _settings), do: Check.list(value, path, "rows or a file", &Check.map/2)

  # What one step says of others

  defp check_beside(step, earlier) do
    if Enum.any?(earlier, &(&1.name == step.name)),
      do: Check.refuse("#{step.path}.name", "a name that no other step has", step.name)

    Enum.each(Reference.all(step.inputs), &check_reference(&1, step, earlier))
    [step | earlier]
  end

  defp check_reference({:reference, "inputs", _name}, _step, _earlier), do: :ok

  defp check_reference({:reference, source, field}, step, earlier) do
    case Enum.find(earlier, &(&1.name == source)) do
      nil ->
        refuse_reference(step, "an earlier step", source, Enum.map(earlier, & &1.name))

      %{outputs: :any} ->
        :ok

      %{outputs: known} ->
        field in known or refuse_reference(step, "a field of #{source}", field, known)
    end
  end

  defp refuse_reference(step, what, got, known) do
    near = Options.nearest(got, known)
    known = if known == [], do: "none", else: Enum.join(Enum.reverse(known), ", ")
    expected = "a reference to #{what} (#{known})#{near && ", did you mean #{near}?"}"
    Check.refuse("#{step.path}.inputs", expected, got)
  end
end
