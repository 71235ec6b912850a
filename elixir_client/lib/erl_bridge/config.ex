defmodule ErlBridge.Config do
  @moduledoc """
  The configuration of a pipeline, from a YAML or JSON file or from a map of that shape.

      workflow:
        name: tickets
        lm: openai/gpt-4o-mini
        dspy_config:
          python_bridge:
            pool_size: 3
            cache_ttl: 3600       # seconds
            max_retries: 3
            timeout: 30000        # milliseconds, or infinity
          optimization:
            enabled: true
            strategy: bootstrap_few_shot
            max_demos: 4
        steps:
          - name: sort
            type: dspy_claude
            dspy_signature:
              input_fields: [text]
              output_fields: [{name: queue, type: "Literal['billing', 'technical']"}]
            training_data: tickets.jsonl

  What a step may say is in `ErlBridge.Config.Step`, how one uses the outputs of another in
  `ErlBridge.Config.Reference`. Besides those above, `python_bridge` takes `python`, `app`, `cd`,
  `max_in_flight`, `max_jobs`, `max_queue`, `queue_timeout` and `start_timeout` of the [options of a
  bridge](`ErlBridge#module-options-of-a-bridge`), and `optimization` the settings below. The language model may stand in `workflow`, in `dspy_config` and in each step; the
  innermost one is taken.

  What is wrong is an error with its place, what was expected and what came:

      iex> {:error, error} = ErlBridge.Config.parse(%{"workflow" => %{"dspy_config" => %{"python_bridge" => %{"pool_sise" => 3}}}})
      iex> error.message
      ~s(workflow.dspy_config.python_bridge: unknown key "pool_sise", did you mean "pool_size"? The keys are pool_size, max_retries, timeout, app, cd, max_in_flight, max_jobs, max_queue, python, queue_timeout, start_timeout, cache_ttl)

  ## Options

  The same settings may come from `config :erl_bridge` and from code:

      config :erl_bridge, bridge: [pool_size: 3], optimization: [max_demos: 4]

  What is said in the file replaces what the application's environment says, and the options of
  `load/2` and `parse/2` replace both. Only a step's own language model and optimizer stand above.

  #{ErlBridge.Options.docs(:config)}

  ## Settings of the optimization

  One that an optimizer does not know is not given to it.

  #{ErlBridge.Options.docs(:optimization)}
  """

  alias ErlBridge.Config.{Check, Step}
  alias ErlBridge.{DataFile, Error, Options}

  @enforce_keys [:name, :bridge, :cache_ttl, :optimization, :steps]
  defstruct [:name, :bridge, :cache_ttl, :optimization, :steps]

  @typedoc """
  `bridge` is what `ErlBridge.start_link/1` takes, `optimization` the settings with their defaults,
  `cache_ttl` in milliseconds; the bridge's cache has it too.
  """
  @type t :: %__MODULE__{
          name: String.t() | nil,
          bridge: keyword,
          cache_ttl: timeout,
          optimization: map,
          steps: [Step.t(), ...]
        }

  @workflow_keys ~w(name description lm dspy_config steps)
  @dspy_keys ~w(python_bridge optimization lm)
  @bridge_names ~w(pool_size max_retries timeout app cd max_in_flight max_jobs max_queue python queue_timeout start_timeout)a
  @cache_ttl :timer.hours(1)

  @doc """
  Reads a configuration from a file. Needs Python, but no bridge.

  Raises `ArgumentError` for a wrong option. The options are listed in the [module's
  documentation](#module-options).
  """
  @spec load(Path.t(), keyword) :: {:ok, t} | {:error, Error.t()}
  def load(path, options \\ []) do
    options = Keyword.put_new(options, :dir, Path.dirname(path))
    python = Keyword.take(merge(:bridge, Tuple.to_list(layers(options))), [:python])

    with {:ok, document} <- DataFile.read(path, python),
         {:error, error} <- parse(document, options) do
      {:error, %{error | message: "#{Path.basename(path)}: #{error.message}"}}
    end
  end

  @doc """
  Makes a configuration of a map with string keys, of the shape that the file has. The options are
  those of `load/2`; files of rows are relative to `:dir`, or to where the node was started.
  """
  @spec parse(term, keyword) :: {:ok, t} | {:error, Error.t()}
  def parse(map, options \\ []) do
    layers = layers(options)
    Check.run(fn -> build(map, layers) end)
  end

  # What the options say, and what the application's environment does.
  defp layers(options) do
    names = Options.names(:config) -- [:dir]
    env = :erl_bridge |> Application.get_all_env() |> Keyword.take(names)
    {Options.validate!(env, :config), Options.validate!(options, :config)}
  end

  defp build(map, {env, own}) do
    workflow = map |> Check.keys(["workflow"], "the configuration") |> Map.get("workflow")
    Check.keys(workflow, @workflow_keys, "workflow")
    file = settings(workflow)
    ttl = last(:cache_ttl, [env, file, own])
    bridge = :bridge |> merge([env, file, own]) |> keep_for(ttl)
    optimization = Options.validate!(merge(:optimization, [env, file, own]), :optimization)

    settings = %{
      lm: last(:lm, [env, file, own]),
      optimization: optimization,
      dir: Path.expand(Map.get(own, :dir, ".")),
      python: Keyword.take(bridge, [:python])
    }

    %__MODULE__{
      name: Check.optional(workflow, "name", "workflow", &Check.text/2),
      bridge: bridge,
      cache_ttl: ttl || @cache_ttl,
      optimization: optimization,
      steps: Check.required(workflow, "steps", "workflow", &Step.parse_all(&1, &2, settings))
    }
  end

  defp keep_for(bridge, ttl) do
    case Keyword.get(bridge, :cache, []) do
      cache when cache == false or ttl == nil -> bridge
      cache -> Keyword.put(bridge, :cache, Keyword.put_new(cache, :ttl, ttl))
    end
  end

  # What the file says, in the shape of the options.
  defp settings(workflow) do
    lm = Check.optional(workflow, "lm", "workflow", &Step.lm/2)

    dspy =
      Check.optional(workflow, "dspy_config", "workflow", &Check.keys(&1, @dspy_keys, &2), %{})

    path = "workflow.dspy_config"
    {bridge, ttl} = Check.optional(dspy, "python_bridge", path, &python_bridge/2, {[], nil})

    %{
      bridge: bridge,
      cache_ttl: ttl,
      optimization: Check.optional(dspy, "optimization", path, &optimization/2, []),
      lm: Check.optional(dspy, "lm", path, &Step.lm/2, lm)
    }
  end

  # A later layer replaces what an earlier one says.
  defp merge(name, layers), do: Enum.reduce(layers, [], &Keyword.merge(&2, Map.get(&1, name, [])))
  defp last(name, layers), do: Enum.reduce(layers, nil, &(Map.get(&1, name) || &2))

  defp python_bridge(value, path) do
    {ttl, others} = value |> section(path, @bridge_names, ["cache_ttl"]) |> Map.pop("cache_ttl")
    {options(others, path, :start, @bridge_names), ttl && seconds(ttl, "#{path}.cache_ttl")}
  end

  defp optimization(value, path) do
    names = Options.names(:optimization)
    value |> section(path, names, []) |> options(path, :optimization, names)
  end

  defp section(value, path, names, others),
    do: Check.keys(value, Enum.map(names, &Atom.to_string/1) ++ others, path)

  defp options(map, path, schema, names) do
    for name <- names, {:ok, written} <- [Map.fetch(map, Atom.to_string(name))] do
      value = if written == "infinity", do: :infinity, else: written

      with {:error, expected} <- Options.check(schema, name, value),
           do: Check.refuse("#{path}.#{name}", expected, written)

      {name, value}
    end
  end

  defp seconds(ttl, path) do
    if is_number(ttl) and ttl > 0,
      do: max(round(ttl * 1000), 1),
      else: Check.refuse(path, "a number of seconds above 0", ttl)
  end
end
