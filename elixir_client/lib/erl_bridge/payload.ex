defmodule ErlBridge.Payload do
  @moduledoc """
  The payloads of the DSPy requests, from arguments and options.

      iex> ErlBridge.Payload.predict("question -> answer", %{question: "why?"}, %{lm: "local/nearest-demo"})
      %{signature: "question -> answer", inputs: %{question: "why?"}, lm: "local/nearest-demo"}

      iex> ErlBridge.Payload.optimize("q -> a", [%{q: "1", a: "2"}], %{optimizer: :bootstrap_few_shot, config: [max_demos: 2]})
      %{signature: "q -> a", training_data: [%{q: "1", a: "2"}], config: %{optimizer: :bootstrap_few_shot, max_demos: 2}}
  """

  alias ErlBridge.{Program, Signature}

  @typedoc """
  What is to be predicted from what: DSPy's own notation (`"question -> answer: float"`), an
  `ErlBridge.Signature`, or the map that it stands for: `%{input_fields: [field], output_fields:
  [field], instructions: "..."}` with `field = %{name: atom | string, type: type, description:
  string}`.
  """
  @type signature :: String.t() | Signature.t() | map

  @typedoc "A program as `ErlBridge.optimize/4` gives it: plain data."
  @type program :: Program.t()

  @typedoc "Rows, or the id of a dataset that Python holds."
  @type rows :: [map] | %{dataset: String.t()}

  @doc "The payload of `:optimize_signature`."
  @spec optimize(signature, rows, map) :: map
  def optimize(signature, training_data, options) do
    %{signature: plain(signature), training_data: training_data}
    |> take(options, [:module, :validation_data, :lm])
    |> put_config(options, [:optimizer, :metric])
  end

  @doc "The payload of `:train_model`."
  @spec train(signature, rows, map) :: map
  def train(signature, training_data, options),
    do: signature |> optimize(training_data, options) |> take(options, [:method])

  @doc "The payload of `:evaluate_pipeline`."
  @spec evaluate(program | signature, rows, map) :: map
  def evaluate(target, data, options) do
    target(target)
    |> Map.put(:data, data)
    |> take(options, [:module, :lm])
    |> put_config(options, [:metric])
  end

  @doc "The payload of `:predict`."
  @spec predict(program | signature, map | [map], map) :: map
  def predict(target, inputs, options) do
    target(target)
    |> Map.put(:inputs, inputs)
    |> take(options, [:module, :lm])
    |> put_config(options, [])
  end

  # A signature is text or says what its fields are; any other map is a program.
  defp target(signature) when is_binary(signature), do: %{signature: signature}
  defp target(%{input_fields: _fields} = signature), do: %{signature: plain(signature)}
  defp target(%{"input_fields" => _fields} = signature), do: %{signature: signature}
  defp target(program) when is_map(program), do: %{program: program}

  defp plain(%Signature{} = signature), do: Signature.to_map(signature)
  defp plain(signature), do: signature

  defp take(payload, options, names), do: Map.merge(payload, Map.take(options, names))

  defp put_config(payload, options, names) do
    case Map.merge(Map.new(Map.get(options, :config, %{})), Map.take(options, names)) do
      none when none == %{} -> payload
      config -> Map.put(payload, :config, config)
    end
  end
end
