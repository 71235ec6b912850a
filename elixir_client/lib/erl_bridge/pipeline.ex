defmodule ErlBridge.Pipeline do
  @moduledoc """
  Runs the steps of a configuration one after the other: those of DSPy's are optimized and asked,
  all others are done by handlers of yours.

      {:ok, result} =
        ErlBridge.Pipeline.execute("pipeline.yaml",
          inputs: %{text: "I paid twice"},
          handlers: %{"insert" => MyApp.Insert}
        )

      %{"success" => true, "dspy_optimization_applied" => true, "outputs" => %{"queue" => "billing"}} = result["sort"]

  The result has a map for each step, under its name:

    * `"success"` - whether it has outputs
    * `"dspy_optimization_applied"` - whether an optimized program gave them
    * `"outputs"` - a map with strings as keys; `nil` without success
    * `"error"` - the `ErlBridge.Error` why there are none, or why the handler had to give them
    * `"optimization_metrics"` - what `ErlBridge.optimize/4` says of its scores, or `nil`
    * `"duration_ms"` - how long the step took, its optimization too

  An optimized program is kept in the bridge's cache. So a bridge of the application's (`:bridge`)
  optimizes a step once, while one that is started for the pipeline does it anew, unless the cache
  has a file.

  ## When a step fails

  A step of DSPy's that fails, also for want of a running Python, is given to the handler of its
  type, where there is one. Otherwise the pipeline ends with the error: its context has the `:step`
  and in `:results` the results so far.

  Nothing runs before all is known to fit: the configuration, a handler for each type, and what
  steps refer to as `$inputs`.

  ## Options

  #{ErlBridge.Options.docs(:pipeline)}
  """

  alias ErlBridge.{Config, Error, Options}
  alias ErlBridge.Config.{Reference, Step}
  alias ErlBridge.Pipeline.Handler

  @type source :: Config.t() | Path.t() | map
  @type results :: %{String.t() => %{String.t() => term}}

  @doc """
  Runs a pipeline, given as a configuration, as the path of its file, or as a map of that shape.

  Raises `ArgumentError` for a wrong option. The options are listed in the [module's
  documentation](#module-options).

      iex> steps = [%{"name" => "loud", "type" => "upcase", "inputs" => %{"text" => "$inputs.text"}}]
      iex> upcase = fn %{"text" => text}, _context -> {:ok, %{"text" => String.upcase(text)}} end
      iex> {:ok, result} =
      ...>   ErlBridge.Pipeline.execute(%{"workflow" => %{"steps" => steps}},
      ...>     inputs: %{text: "hello"},
      ...>     handlers: %{"upcase" => upcase}
      ...>   )
      iex> result["loud"]["outputs"]
      %{"text" => "HELLO"}
  """
  @spec execute(source, keyword) :: {:ok, results} | {:error, Error.t()}
  def execute(source, options \\ []) do
    options = Options.validate!(options, :pipeline)
    inputs = Map.new(options.inputs, fn {name, value} -> {to_string(name), value} end)

    with {:ok, config} <- config(source, options.config),
         :ok <- each(config.steps, &check_handler(&1, options.handlers)),
         :ok <- each(config.steps, &check_inputs(&1, inputs)) do
      with_bridge(config, options, fn bridge ->
        run_steps(config.steps, inputs, %{bridge: bridge, options: options})
      end)
    end
  end

  # Before anything runs

  defp config(%Config{} = config, _options), do: {:ok, config}
  defp config(path, options) when is_binary(path), do: Config.load(path, options)
  defp config(map, options), do: Config.parse(map, options)

  defp each(steps, check) do
    Enum.find_value(steps, :ok, fn step -> with :ok <- check.(step), do: nil end)
  end

  defp check_handler(%Step{dspy?: true}, _handlers), do: :ok

  defp check_handler(%Step{type: type, path: path}, handlers) do
    if is_map_key(handlers, type), do: :ok, else: {:error, no_handler(type, path, handlers)}
  end

  defp no_handler(type, path, handlers) do
    near = Options.nearest(type, Map.keys(handlers))
    hint = if near, do: ", did you mean #{inspect(near)}?", else: "; give one with :handlers"
    Error.invalid("#{path}.type: no handler for #{inspect(type)}#{hint}", %{path: path})
  end

  defp check_inputs(%Step{inputs: wanted, path: path}, inputs) do
    missing =
      for {:reference, "inputs", name} <- Reference.all(wanted),
          not is_map_key(inputs, name),
          do: name

    case missing do
      [] -> :ok
      [name | _] -> {:error, missing_input(path, name)}
    end
  end

  defp missing_input(path, name) do
    Error.invalid(
      "#{path}.inputs: the pipeline has no input #{name}; give it with :inputs",
      %{path: path, expected: name}
    )
  end

  # The bridge

  defp with_bridge(_config, %{bridge: bridge}, fun), do: fun.({:ok, bridge})

  defp with_bridge(config, _options, fun) do
    if Enum.any?(config.steps, & &1.dspy?),
      do: with_own_bridge(ErlBridge.start_link(config.bridge), fun),
      else: fun.(:none)
  end

  defp with_own_bridge({:ok, bridge}, fun) do
    fun.({:ok, bridge})
  after
    stop(bridge)
  end

  defp with_own_bridge({:error, {:already_started, bridge}}, fun), do: fun.({:ok, bridge})
  defp with_own_bridge({:error, error}, fun), do: fun.({:error, error})

  # A caller that traps exits is to hear nothing of it.
  defp stop(bridge) do
    Process.unlink(bridge)
    ErlBridge.stop(bridge)

    receive do
      {:EXIT, ^bridge, _reason} -> :ok
    after
      0 -> :ok
    end
  end

  # The steps

  defp run_steps(steps, inputs, run) do
    start = {%{}, %{"inputs" => inputs}}

    outcome =
      Enum.reduce_while(steps, start, fn step, {results, sources} ->
        result = run_step(step, sources, results, run)
        results = Map.put(results, step.name, result)

        if result["success"],
          do: {:cont, {results, Map.put(sources, step.name, result["outputs"])}},
          else: {:halt, ended(step, result["error"], results)}
      end)

    with {results, _sources} when is_map(results) <- outcome, do: {:ok, results}
  end

  defp ended(step, error, results) do
    context = Map.merge(error.context, %{step: step.name, results: results})
    {:error, %{error | context: context}}
  end

  defp run_step(step, sources, results, run) do
    started = System.monotonic_time(:millisecond)
    done = attempt(step, sources, results, run)

    %{
      "success" => done.outputs != nil,
      "dspy_optimization_applied" => done.metrics != nil,
      "outputs" => done.outputs,
      "error" => done.error,
      "optimization_metrics" => done.metrics,
      "duration_ms" => System.monotonic_time(:millisecond) - started
    }
  end

  defp attempt(step, sources, results, run) do
    context = %{step: step, results: results, error: nil}

    with {:ok, inputs} <- resolve(step, sources),
         {:ok, outputs, metrics, error} <- perform(step, inputs, context, run) do
      %{outputs: outputs, metrics: metrics, error: error}
    else
      {:error, error} -> %{outputs: nil, metrics: nil, error: error}
    end
  end

  defp resolve(step, sources) do
    with {:error, {:reference, source, field}} <- Reference.resolve(step.inputs, sources) do
      known = sources[source] |> Map.keys() |> Enum.map_join(", ", &inspect/1)

      {:error,
       Error.invalid(
         "#{step.path}.inputs: $#{source}.#{field} is not among the outputs of #{source}: #{known}",
         %{path: step.path, expected: field}
       )}
    end
  end

  defp perform(%Step{dspy?: true} = step, inputs, context, run) do
    with {:error, error} <- ask(step, inputs, run) do
      case Map.fetch(run.options.handlers, step.type) do
        {:ok, handler} -> handle(handler, inputs, %{context | error: error})
        :error -> {:error, error}
      end
    end
  end

  defp perform(step, inputs, context, run),
    do: handle(Map.fetch!(run.options.handlers, step.type), inputs, context)

  defp handle(handler, inputs, context) do
    with {:ok, outputs} <- Handler.run(handler, inputs, context),
         do: {:ok, outputs, nil, context.error}
  end

  defp ask(step, inputs, run) do
    with {:ok, bridge} <- run.bridge,
         {:ok, target, options, metrics} <- target(bridge, step, run),
         {:ok, outputs} <- ErlBridge.predict(bridge, target, inputs, called(options, run)),
         do: {:ok, outputs, metrics, nil}
  end

  defp target(_bridge, %Step{optimize: nil} = step, _run),
    do: {:ok, step.signature, step.predict, nil}

  defp target(bridge, step, run) do
    cached = run.options |> Map.take([:cache_key]) |> Keyword.new()
    options = called(step.optimize, run) ++ cached ++ [timeout: run.options.optimize_timeout]

    with {:ok, %{program: program, optimization_metrics: metrics}} <-
           ErlBridge.optimize(bridge, step.signature, step.training_data, options),
         do: {:ok, program, Keyword.take(step.predict, [:lm]), metrics}
  end

  defp called(options, %{options: %{callbacks: callbacks}}),
    do: Keyword.put(options, :callbacks, callbacks)
end
