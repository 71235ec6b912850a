defmodule ErlBridge.Provider do
  @moduledoc """
  A provider of answers to prompts, which asks DSPy where it is told to and another provider
  otherwise.

      defmodule MyApp.DSPyProvider do
        use ErlBridge.Provider, bridge: MyApp.Bridge, fallback: MyApp.ClaudeProvider
      end

      MyApp.DSPyProvider.query("I paid twice", %{
        "dspy_optimization" => true,
        "dspy_signature" => "text -> queue: Literal['billing', 'technical']",
        "training_data" => "tickets.jsonl",
        "lm" => "openai/gpt-4o-mini"
      })

  Without `"dspy_optimization" => true` the fallback is asked. It is asked too when DSPy fails,
  whatever the reason, which is logged as a warning. Without a fallback the error is the answer.

  A program is optimized by the first query that wants it; the next ones have it from the bridge's
  cache. With `:callbacks` that needs a `:cache_key`.

  ## Options of a query

  A map with strings as keys. Others than these are for the fallback.

    * `"dspy_optimization"` - `true` to ask DSPy
    * `"dspy_signature"`, `"training_data"`, `"validation_data"`, `"module"`, `"metric"`,
      `"optimizer"`, `"lm"` - as in a step of a pipeline, `ErlBridge.Config.Step`
    * `"program"` - a program of `ErlBridge.optimize/4`, in place of signature and training data
    * `"inputs"` - the other inputs, by name: the prompt is the first input field

  ## Options of `use`

  #{ErlBridge.Options.docs(:provider)}
  """

  alias ErlBridge.{Config, Error, Options, Pipeline}
  alias ErlBridge.Config.{Check, Signature}

  require Logger

  @typedoc """
  DSPy's answers are `%{"success" => true, "dspy_optimization_applied" => true, "text" => text,
  "outputs" => outputs}`, where the text is the first output; a fallback's are its own.
  """
  @type response :: term

  @doc "Answers a prompt."
  @callback query(prompt :: String.t(), options :: map) :: {:ok, response} | {:error, term}

  @step_keys ~w(dspy_signature training_data validation_data module metric optimizer lm)

  @doc false
  defmacro __using__(settings) do
    quote do
      @behaviour ErlBridge.Provider

      @impl true
      def query(prompt, options), do: ErlBridge.Provider.query(prompt, options, unquote(settings))

      defoverridable query: 2
    end
  end

  @doc """
  What `use ErlBridge.Provider` makes `query/2` do; `settings` are its options.

  Raises `ArgumentError` for a wrong one of these.
  """
  @spec query(String.t(), map, keyword) :: {:ok, response} | {:error, term}
  def query(prompt, options, settings) when is_binary(prompt) and is_map(options) do
    settings = Options.validate!(settings, :provider)
    is_map_key(settings, :bridge) || raise ArgumentError, "use ErlBridge.Provider needs :bridge"

    if options["dspy_optimization"] == true,
      do: optimized(prompt, options, settings),
      else: other(prompt, options, settings)
  end

  defp optimized(prompt, options, settings) do
    with {:error, error} <- ask(prompt, options, settings),
         do: fall_back(prompt, options, settings, error)
  end

  defp fall_back(prompt, options, %{fallback: fallback}, error) do
    Logger.warning("DSPy failed, #{inspect(fallback)} answers: #{Exception.message(error)}")
    fallback.query(prompt, options)
  end

  defp fall_back(_prompt, _options, _settings, error), do: {:error, error}

  defp other(prompt, options, %{fallback: fallback}), do: fallback.query(prompt, options)

  defp other(_prompt, _options, _settings) do
    {:error,
     Error.invalid(~s(expected "dspy_optimization" => true, as there is no fallback), %{
       path: "options"
     })}
  end

  defp ask(prompt, %{"program" => program} = options, settings) do
    lm = options["lm"] || settings[:lm]

    with {:ok, fields} <- program_fields(program),
         inputs = inputs(fields.inputs, prompt, options),
         called = [lm: lm, callbacks: settings.callbacks],
         {:ok, outputs} <- ErlBridge.predict(settings.bridge, program, inputs, called),
         do: {:ok, response(outputs, fields.outputs)}
  end

  defp ask(prompt, %{"training_data" => _rows} = options, settings) do
    with {:ok, fields} <- signature_fields(options["dspy_signature"]),
         {:ok, config} <- config(options, settings),
         inputs = inputs(fields.inputs, prompt, options),
         {:ok, %{"query" => %{"outputs" => outputs}}} <- execute(config, inputs, settings),
         do: {:ok, response(outputs, fields.outputs)}
  end

  defp ask(_prompt, _options, _settings) do
    {:error, Error.invalid(~s(expected "training_data" or a "program"), %{path: "options"})}
  end

  defp config(options, settings) do
    step = options |> Map.take(@step_keys) |> Map.merge(%{"name" => "query", "type" => "dspy"})

    own =
      settings |> Map.take([:lm]) |> Keyword.new() |> Keyword.put(:optimization, enabled: true)

    Config.parse(%{"workflow" => %{"steps" => [step]}}, own)
  end

  defp execute(config, inputs, settings) do
    own = Map.take(settings, [:bridge, :callbacks, :cache_key, :optimize_timeout])
    Pipeline.execute(config, [inputs: inputs] ++ Keyword.new(own))
  end

  defp signature_fields(signature) do
    Check.run(fn ->
      {_signature, inputs, outputs} = Signature.parse(signature, "dspy_signature")
      %{inputs: inputs, outputs: outputs}
    end)
  end

  # Its fields are named with atoms or strings, and so are its keys after a way through JSON.
  defp program_fields(program) do
    with %{} = signature <- get(program, :signature),
         [_ | _] = inputs <- get(signature, :input_fields),
         [_ | _] = outputs <- get(signature, :output_fields) do
      {:ok,
       %{inputs: Enum.map(inputs, &get(&1, :name)), outputs: Enum.map(outputs, &get(&1, :name))}}
    else
      _other ->
        {:error, Error.invalid("program: expected what optimize/4 gave", %{path: "program"})}
    end
  end

  defp get(map, key) when is_map(map), do: Map.get(map, key) || Map.get(map, to_string(key))
  defp get(_other, _key), do: nil

  defp inputs([first | _others], prompt, options),
    do: options |> Map.get("inputs", %{}) |> Map.put(first, prompt)

  defp response(outputs, [first | _others]) do
    %{
      "success" => true,
      "dspy_optimization_applied" => true,
      "text" => text(Map.fetch!(outputs, first)),
      "outputs" => outputs
    }
  end

  defp text(value), do: if(is_binary(value), do: value, else: inspect(value))
end
