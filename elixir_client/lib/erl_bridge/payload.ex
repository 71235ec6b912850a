defmodule ErlBridge.Payload do
  @moduledoc """
  The payloads of the DSPy requests, from arguments and options.

      iex> ErlBridge.Payload.predict("question -> answer", %{question: "why?"}, %{lm: "local/nearest-demo"})
      %{signature: "question -> answer", inputs: %{question: "why?"}, lm: "local/nearest-demo"}

      iex> ErlBridge.Payload.optimize("q -> a", [%{q: "1", a: "2"}], %{optimizer: :bootstrap_few_shot, config: [max_demos: 2]})
      %{signature: "q -> a", training_data: [%{q: "1", a: "2"}], config: %{optimizer: :bootstrap_few_shot, max_demos: 2}}
  """

  alias ErlBridge.{Dataset, Program, Signature}

  # Language models besides that of the request, and where a function may stand for its name.
  @models [:prompt_model, :reflection_lm, :teacher]
  @functions [:lm, :metric, :reward, :vectorizer | @models]
  @fields [:args, :input_fields, :output_fields]
  @with_functions [:lm, :metric, :module, :tools, :config | @models]

  @typedoc """
  What is to be predicted from what: DSPy's own notation (`"question -> answer: float"`), an
  `ErlBridge.Signature`, or the map that it stands for: `%{input_fields: [field], output_fields:
  [field], instructions: "..."}` with `field = %{name: atom | string, type: type, description:
  string}`.
  """
  @type signature :: String.t() | Signature.t() | map

  @typedoc "A program as `ErlBridge.optimize/4` gives it: plain data."
  @type program :: Program.t()

  @typedoc """
  Rows: a list or any other enumerable of maps, a lazy stream for example; or a dataset that Python
  holds, or its id.
  """
  @type rows :: Enumerable.t() | Dataset.t() | %{dataset: String.t()}

  @doc """
  The options as Python takes them: functions that stand where a callback's name may go to
  `:callbacks`.

  That is: `:lm`, `:metric` and the other language models, the `reward:` of a module, the
  `vectorizer:` of an optimizer, or the `callback:` in a map in such a place; and, in a step or a tool,
  the `callback:` beside its `name:`. A second
  function of the same name gets another one. Short fields and signatures' structs become plain maps.

      iex> tool = %{name: :add, args: [a: :int, b: :int], callback: &(&1.a + &1.b)}
      iex> options = ErlBridge.Payload.prepare(%{tools: [tool], metric: &==/2, callbacks: %{}})
      iex> options.tools
      [%{name: :add, args: [%{name: :a, type: :int}, %{name: :b, type: :int}], callback: :add}]
      iex> options.metric
      %{callback: :metric}
      iex> options.callbacks.add.(%{a: 1, b: 2})
      3
      iex> ErlBridge.Payload.prepare(%{lm: &hd/1, metric: %{judge: "Is it polite?", lm: &tl/1}})
      %{
        lm: %{callback: :lm},
        metric: %{judge: "Is it polite?", lm: %{callback: "lm_2"}},
        callbacks: %{:lm => &hd/1, "lm_2" => &tl/1}
      }
  """
  @spec prepare(map) :: map
  def prepare(options) do
    own = Map.get(options, :callbacks, %{})

    {plain, functions} =
      options |> Map.take(@with_functions) |> config_as_map() |> plain_data(own)

    options = Map.merge(options, plain)
    if functions == own, do: options, else: Map.put(options, :callbacks, functions)
  end

  defp config_as_map(%{config: config} = options), do: %{options | config: Map.new(config)}
  defp config_as_map(options), do: options

  # A term without functions and structs, and the functions by name, with those that were in it.
  defp plain_data(%Signature{} = signature, functions),
    do: {Signature.to_map(signature), functions}

  defp plain_data(%{callback: fun, name: name} = map, functions) when is_function(fun) do
    {name, functions} = put_function(functions, name, fun)
    plain_data(%{map | callback: name}, functions)
  end

  defp plain_data(%{} = map, functions) when not is_struct(map) do
    # In the order of the keys, for the names not to depend on the version of OTP.
    {pairs, functions} =
      map |> Enum.sort_by(&elem(&1, 0)) |> Enum.map_reduce(functions, &plain_pair/2)

    {Map.new(pairs), functions}
  end

  defp plain_data(list, functions) when is_list(list),
    do: Enum.map_reduce(list, functions, &plain_data/2)

  defp plain_data(other, functions), do: {other, functions}

  defp plain_pair({key, fun}, functions) when key in @functions and is_function(fun) do
    {name, functions} = put_function(functions, key, fun)
    # A metric that takes the trace too is told of it.
    trace = if key == :metric and is_function(fun, 3), do: %{trace: true}, else: %{}
    {{key, Map.put(trace, :callback, name)}, functions}
  end

  # A function with settings beside it: `lm: %{callback: &complete/1, cache_key: 1}`.
  defp plain_pair({key, %{callback: fun} = map}, functions)
       when is_function(fun) and not is_map_key(map, :name) do
    {name, functions} = put_function(functions, key, fun)
    plain_pair({key, %{map | callback: name}}, functions)
  end

  defp plain_pair({key, [_ | _] = fields}, functions) when key in @fields,
    do: {{key, Enum.map(fields, &field/1)}, functions}

  defp plain_pair({key, value}, functions) do
    {value, functions} = plain_data(value, functions)
    {{key, value}, functions}
  end

  defp field(%{} = map), do: map
  defp field(short), do: Signature.to_field(short)

  # Two functions may stand in places of one name.
  defp put_function(functions, name, fun) do
    names = [name | Enum.map(2..(map_size(functions) + 2), &"#{name}_#{&1}")]
    taken = Map.new(functions, fn {name, fun} -> {to_string(name), fun} end)
    name = Enum.find(names, &(Map.get(taken, to_string(&1), fun) == fun))
    {name, Map.put(functions, name, fun)}
  end

  @doc "The payload of `:optimize_signature`."
  @spec optimize(program | signature, rows, map) :: map
  def optimize(target, training_data, options) do
    target(target)
    |> Map.put(:training_data, rows(training_data))
    |> take_module(options)
    |> take(options, [:validation_data, :lm, :budget])
    |> Map.replace_lazy(:validation_data, &rows/1)
    |> put_config(options, [:optimizer, :metric, :seed | @models])
  end

  @doc "The payload of `:train_model`."
  @spec train(program | signature, rows, map) :: map
  def train(target, training_data, options),
    do: target |> optimize(training_data, options) |> take(options, [:method])

  @doc "The payload of `:evaluate_pipeline`."
  @spec evaluate(program | signature, rows, map) :: map
  def evaluate(target, data, options) do
    target(target)
    |> Map.put(:data, rows(data))
    |> take_module(options)
    |> take(options, [:lm, :budget])
    |> put_config(options, [:metric])
  end

  @doc "The payload of `:evaluate_pipeline` that also compares with a baseline."
  @spec compare(program | signature, program | signature, rows, map) :: map
  def compare(baseline, target, data, options),
    do: target |> evaluate(data, options) |> Map.put(:baseline, target(baseline))

  @doc "The payload of `:predict`."
  @spec predict(program | signature, map | [map] | Dataset.t(), map) :: map
  def predict(target, inputs, options) do
    target(target)
    |> Map.put(:inputs, rows(inputs))
    |> take_module(options)
    |> take(options, [:lm, :budget, :stream])
    |> put_config(options, [])
  end

  # A signature is text or says what its fields are; any other map is a program.
  defp target(signature) when is_binary(signature), do: %{signature: signature}
  defp target(%{input_fields: _fields} = signature), do: %{signature: plain(signature)}
  defp target(%{"input_fields" => _fields} = signature), do: %{signature: signature}
  defp target(program) when is_map(program), do: %{program: program}

  defp plain(signature) do
    {signature, _functions} = plain_data(signature, %{})
    signature
  end

  # A program has its tools; what was given again is only who answers for them.
  defp take_module(%{program: _program} = payload, options), do: take(payload, options, [:module])
  defp take_module(payload, options), do: take(payload, options, [:module, :tools])

  defp rows(%Dataset{} = dataset), do: Dataset.ref(dataset)
  defp rows(rows), do: rows

  defp take(payload, options, names), do: Map.merge(payload, Map.take(options, names))

  defp put_config(payload, options, names) do
    case Map.merge(Map.new(Map.get(options, :config, %{})), Map.take(options, names)) do
      none when none == %{} -> payload
      config -> Map.put(payload, :config, config)
    end
  end
end
