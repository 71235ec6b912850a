defmodule ErlBridge.Telemetry do
  @moduledoc """
  Everything that this library tells of itself.

  Where the host application has [`:telemetry`](https://hexdocs.pm/telemetry), events go there, and
  handlers attached there get them. Where it has not, they go to a table of our own, with the same
  shapes. `attach/4` and `detach/1` use whichever it is.

      :ok =
        ErlBridge.Telemetry.attach("slow", [:erl_bridge, :request, :stop], &MyApp.Slow.handle/4, nil)

  A handler runs in the process that the event happens in. One that fails is detached, and an error
  logged. An event that nobody listens to costs a lookup:

      iex> ErlBridge.Telemetry.attach(:docs, [:erl_bridge, :retry], fn _, measurements, _, pid -> send(pid, measurements) end, self())
      :ok
      iex> ErlBridge.Telemetry.retry(%{delay: 5}, %{attempt: 2})
      iex> receive do measurements -> measurements end
      %{delay: 5}
      iex> ErlBridge.Telemetry.detach(:docs)
      :ok
      iex> ErlBridge.Telemetry.enabled?([:erl_bridge, :retry])
      false

  There is a function for each event, named after it. `ErlBridge.Telemetry.Logger` writes events to
  the log, `ErlBridge.Telemetry.Summary` adds them up.

  ## Events

  #{ErlBridge.Telemetry.Events.markdown()}
  """

  alias ErlBridge.Telemetry.{Events, Handlers}

  @type event :: [atom]
  @type handler :: (event, measurements :: map, metadata :: map, config :: term -> any)

  @optimization [:erl_bridge, :optimization, :stop]

  for event <- Events.all() do
    @doc "Emits `#{inspect(event.name)}`. #{event.doc}"
    @spec unquote(event.function)(map, map) :: :ok
    def unquote(event.function)(measurements, metadata),
      do: execute(unquote(event.name), measurements, metadata)
  end

  @doc """
  Emits `#{inspect(@optimization)}` for a result of `ErlBridge.optimize/4`.

  What the result does not say, such as the price of an unknown model, is left out. `metadata` has
  the `bridge`.
  """
  @spec optimization(map, map) :: :ok
  def optimization(%{optimization_metrics: metrics} = result, metadata) do
    if enabled?(@optimization) do
      optimization_stop(
        optimization_measurements(metrics),
        Map.merge(
          %{optimizer: metrics[:optimizer], signature_hash: signature_hash(result)},
          metadata
        )
      )
    else
      :ok
    end
  end

  # An answer of `ErlBridge.Testing` may have no figures.
  def optimization(_result, _metadata), do: :ok

  @lm_usage [:erl_bridge, :lm, :usage]
  @spent [
    :lm_calls,
    :lm_errors,
    :lm_retries,
    :prompt_tokens,
    :completion_tokens,
    :cost_usd,
    :cache_hits
  ]

  @doc """
  Emits `#{inspect(@lm_usage)}` for what a prediction or an evaluation spent. `metadata` has the
  `bridge` and the `request_type`.
  """
  @spec usage(map, map) :: :ok
  def usage(spent, metadata) do
    figures = spent |> Map.take(@spent) |> Map.reject(fn {_name, value} -> is_nil(value) end)
    lm_usage(figures, Map.put(metadata, :errors_by_kind, Map.get(spent, :errors_by_kind, %{})))
  end

  @doc "Whether a handler is attached to this event: if not, what only it needs need not be measured."
  @spec enabled?(event) :: boolean
  def enabled?(event) do
    {_executor, {module, function}} = backend()
    apply(module, function, [event]) != []
  end

  @requests for name <- [:start, :stop, :exception], do: [:erl_bridge, :request, name]

  @doc "Whether a handler is attached to an event of a request."
  @spec requests?() :: boolean
  def requests? do
    case backend() do
      {Handlers, _list} -> Handlers.any?() and Enum.any?(@requests, &enabled?/1)
      _telemetry -> Enum.any?(@requests, &enabled?/1)
    end
  end

  @doc "The names of all events."
  @spec events() :: [event]
  def events, do: Enum.map(Events.all(), & &1.name)

  @doc """
  Calls `fun.(event, measurements, metadata, config)` with each event of that name, or of that list of names.

  Raises `ArgumentError` for an event that there is not.
  """
  @spec attach(term, event | [event], handler, term) :: :ok | {:error, :already_exists}
  def attach(id, [name | _] = event, fun, config) when is_atom(name),
    do: attach(id, [event], fun, config)

  def attach(id, events, fun, config) when is_list(events) and is_function(fun, 4) do
    Enum.each(events, &Events.fetch!/1)
    executor = executor()
    # It is no dependency of this library, so nobody may have started it yet.
    if executor == :telemetry, do: {:ok, _started} = Application.ensure_all_started(:telemetry)
    executor.attach_many(id, events, fun, config)
  end

  @doc "Takes a handler off all its events."
  @spec detach(term) :: :ok | {:error, :not_found}
  def detach(id), do: executor().detach(id)

  defp execute(event, measurements, metadata) do
    if enabled?(event), do: executor().execute(event, measurements, metadata), else: :ok
  end

  defp executor, do: elem(backend(), 0)

  # Who runs handlers, and the function that lists those of an event. Found out once.
  defp backend do
    case :persistent_term.get(__MODULE__, nil) do
      nil ->
        :persistent_term.put(__MODULE__, find_backend())
        backend()

      backend ->
        backend
    end
  end

  defp find_backend do
    if Code.ensure_loaded?(:telemetry),
      do: {:telemetry, telemetry_list()},
      else: {Handlers, {Handlers, :list_for_event}}
  end

  # What :telemetry itself looks handlers up with; its public function goes through all of them.
  defp telemetry_list do
    Code.ensure_loaded(:telemetry_handler_table)

    if function_exported?(:telemetry_handler_table, :list_for_event, 1),
      do: {:telemetry_handler_table, :list_for_event},
      else: {:telemetry, :list_handlers}
  end

  @same [:lm_calls, :prompt_tokens, :completion_tokens, :cache_hits, :cost_usd]

  defp optimization_measurements(metrics) do
    metrics
    |> Map.take(@same)
    |> Map.merge(%{
      accuracy: metrics[:score],
      baseline: metrics[:baseline_score],
      duration: metrics[:duration_ms] && native(metrics.duration_ms)
    })
    |> Map.reject(fn {_name, value} -> is_nil(value) end)
  end

  defp native(milliseconds),
    do: System.convert_time_unit(round(milliseconds * 1000), :microsecond, :native)

  # The same for the same signature on any node.
  defp signature_hash(%{program: %{signature: signature}}) do
    signature
    |> :erlang.term_to_binary([:deterministic])
    |> :erlang.md5()
    |> Base.encode16(case: :lower)
  end

  defp signature_hash(_no_program), do: nil
end
