defmodule ErlBridge.Telemetry.Summary do
  @moduledoc """
  Adds events up: how many, how long, what failed, what it cost. In a fixed few kilobytes of
  `:counters`, without a process.

      :ok = ErlBridge.Telemetry.Summary.attach()
      IO.puts(ErlBridge.Telemetry.Summary.text())

  Percentiles come from buckets, eight to each power of two, and are right within 7%.

      iex> alias ErlBridge.Telemetry
      iex> Telemetry.Summary.attach(:docs)
      :ok
      iex> Telemetry.retry(%{delay: 0}, %{attempt: 1})
      iex> Telemetry.Summary.get(:docs).events["retry"] >= 1
      true
      iex> Telemetry.Summary.detach(:docs)
      :ok

  For `Telemetry.Metrics` (LiveDashboard, Prometheus...) there is `metrics/1`.
  """

  alias ErlBridge.{Error, Telemetry}
  alias ErlBridge.Telemetry.Events

  @request_stop [:erl_bridge, :request, :stop]
  @optimization [:erl_bridge, :optimization, :stop]

  @error_types [
    :invalid_request,
    :unknown_request,
    :serialization_error,
    :import_error,
    :dspy_optimization_error,
    :lm_error,
    :timeout_error,
    :cancelled,
    :callback_error,
    :transfer_error,
    :overloaded,
    :resource_exhausted,
    :python_runtime_error,
    :process_crashed,
    :not_running,
    :pool_exhausted,
    :circuit_open
  ]

  @times [:duration, :queue_time, :encode_time, :python_time, :decode_time]
  @bytes [:bytes_out, :bytes_in]
  @totals [:lm_calls, :prompt_tokens, :completion_tokens, :cache_hits]
  @buckets_per_power 8
  @buckets 52 * @buckets_per_power
  # A float's exponent and the first three bits of its fraction, as one number, at 1.0.
  @one 1023 * @buckets_per_power
  @nano 1_000_000_000

  # Each thing that is counted and its place in the counters; histograms come behind.
  @slots Enum.with_index(
           Enum.map(Events.all(), &{:event, &1.name}) ++
             Enum.map(@error_types ++ [:other], &{:error, &1}) ++
             Enum.map(@bytes, &{:bytes, &1}) ++
             Enum.map(@totals ++ [:cost_nano_usd], &{:optimization, &1}) ++
             Enum.map(@times, &{:nanoseconds, &1}),
           1
         )
         |> Map.new()

  @histograms Map.new(
                Enum.with_index(@times, fn name, n ->
                  {name, map_size(@slots) + 1 + n * @buckets}
                end)
              )
  @size map_size(@slots) + length(@times) * @buckets

  @doc "Starts to add up, under an id of its own."
  @spec attach(term) :: :ok | {:error, :already_exists}
  def attach(id \\ __MODULE__) do
    counters = :counters.new(@size, [:write_concurrency])

    with :ok <-
           Telemetry.attach(
             {__MODULE__, id},
             Telemetry.events(),
             &__MODULE__.handle_event/4,
             counters
           ),
         do: :persistent_term.put({__MODULE__, id}, counters)
  end

  @doc "Ends the adding up, and forgets."
  @spec detach(term) :: :ok | {:error, :not_found}
  def detach(id \\ __MODULE__) do
    :persistent_term.erase({__MODULE__, id})
    Telemetry.detach({__MODULE__, id})
  end

  @doc """
  What has come so far.

    * `events` - how many of each, by name, such as `"request stop"`; those there were
    * `requests` - `count`, `errors`, `bytes_out`, `bytes_in`
    * `errors` - how many requests ended with each type of error; those that this module does not know are `:other`
    * `times` - for each of `#{inspect(@times)}` of requests that had one: `count`,
      and in milliseconds `mean`, `p50`, `p90`, `p99` and `max`
    * `retries`; `cache` - `hits`, `misses`, and `hit_ratio` (`nil` before the first)
    * `optimizations` - `count`, `cost_usd` (of those with a known price), `lm_calls`, tokens and `cache_hits`

  Raises `ArgumentError` if none is attached under this id.
  """
  @spec get(term) :: map
  def get(id \\ __MODULE__) do
    counters = counters!(id)
    value = &:counters.get(counters, Map.fetch!(@slots, &1))
    event = &value.({:event, [:erl_bridge | &1]})
    errors = for type <- [:other | @error_types], n = value.({:error, type}), n > 0, do: {type, n}
    hits = event.([:cache, :hit])
    misses = event.([:cache, :miss])

    %{
      events:
        for(%{name: [_ | path]} <- Events.all(), n = event.(path), n > 0, do: {words(path), n})
        |> Map.new(),
      requests:
        Map.new(@bytes, &{&1, value.({:bytes, &1})})
        |> Map.merge(%{
          count: event.([:request, :stop]),
          errors: errors |> Keyword.values() |> Enum.sum()
        }),
      errors: Map.new(errors),
      times: Map.new(@times, &{&1, times(counters, &1)}),
      retries: event.([:retry]),
      cache: %{hits: hits, misses: misses, hit_ratio: ratio(hits, hits + misses)},
      optimizations:
        Map.new(@totals, &{&1, value.({:optimization, &1})})
        |> Map.merge(%{
          count: event.([:optimization, :stop]),
          cost_usd: value.({:optimization, :cost_nano_usd}) / @nano
        })
    }
  end

  @doc "The same as a short table."
  @spec text(term) :: String.t()
  def text(id \\ __MODULE__) do
    summary = get(id)

    times =
      for name <- @times, times = summary.times[name], times.count > 0 do
        row(name, for(key <- [:mean, :p50, :p90, :p99, :max], do: "#{key} #{times[key]} ms"))
      end

    rows =
      [row("requests", pairs(summary.requests))] ++
        times ++
        [
          row("errors", pairs(summary.errors)),
          row("retries", [summary.retries]),
          row("cache", pairs(summary.cache)),
          row("optimizations", pairs(summary.optimizations))
        ]

    Enum.join(rows, "\n")
  end

  @doc """
  Definitions for `Telemetry.Metrics`, as data: `{kind, name, options}`.

      for {kind, name, options} <- ErlBridge.Telemetry.Summary.metrics(),
          do: apply(Telemetry.Metrics, kind, [name, options])

  Durations are of the kind `:summary`, for LiveDashboard; Prometheus takes `metrics(:distribution)`,
  with `buckets` in milliseconds.

      iex> {:counter, "erl_bridge.cache.hit.count", options} =
      ...>   List.keyfind(ErlBridge.Telemetry.Summary.metrics(), "erl_bridge.cache.hit.count", 1)
      iex> options[:tags]
      [:bridge]
  """
  @spec metrics(:summary | :distribution) :: [{atom, String.t(), keyword}]
  def metrics(durations \\ :summary) when durations in [:summary, :distribution] do
    for event <- Events.all(),
        {name, unit, doc} <- event.measurements,
        {kind, options} <- List.wrap(metric(unit, name, durations)) do
      {kind, Enum.join(event.name ++ [name], "."),
       options ++
         [
           description: "#{event.doc} #{doc}",
           tags: tag_names(event),
           tag_values: &__MODULE__.tags/1
         ]}
    end
  end

  @doc "An event's metadata as values for tags: a bridge may be a pid, which nobody can print."
  @spec tags(map) :: map
  def tags(%{} = metadata), do: Map.new(metadata, fn {name, value} -> {name, tag(value)} end)

  @doc false
  def handle_event(event, measurements, metadata, counters) do
    add(counters, {:event, event}, 1)
    count(event, measurements, metadata, counters)
  end

  defp count(@request_stop, measurements, metadata, counters) do
    for name <- @bytes, do: add(counters, {:bytes, name}, measurements[name])
    for name <- @times, time = measurements[name], do: add_time(counters, name, time)
    with %{error: %Error{type: type}} <- metadata, do: add_error(counters, type)
  end

  defp count(@optimization, measurements, _metadata, counters) do
    for name <- @totals, do: add(counters, {:optimization, name}, measurements[name])
    cost = measurements[:cost_usd]
    add(counters, {:optimization, :cost_nano_usd}, cost && round(cost * @nano))
  end

  defp count(_event, _measurements, _metadata, _counters), do: :ok

  defp add(_counters, _slot, nil), do: :ok
  defp add(counters, slot, n), do: :counters.add(counters, Map.fetch!(@slots, slot), n)

  defp add_error(counters, type) when type in @error_types, do: add(counters, {:error, type}, 1)
  defp add_error(counters, _type), do: add(counters, {:error, :other}, 1)

  defp add_time(counters, name, time) do
    nanoseconds = max(System.convert_time_unit(time, :native, :nanosecond), 1)
    add(counters, {:nanoseconds, name}, nanoseconds)
    :counters.add(counters, @histograms[name] + bucket(nanoseconds), 1)
  end

  defp bucket(nanoseconds) do
    <<0::1, bucket::14, _rest::49>> = <<nanoseconds::float>>
    min(bucket - @one, @buckets - 1)
  end

  # The middle of a bucket, in milliseconds.
  defp middle(bucket), do: Float.round((edge(bucket) + edge(bucket + 1)) / 2_000_000, 4)

  defp edge(bucket) do
    <<nanoseconds::float>> = <<0::1, bucket + @one::14, 0::49>>
    nanoseconds
  end

  defp times(counters, name) do
    first = @histograms[name]

    filled =
      for bucket <- 0..(@buckets - 1),
          n = :counters.get(counters, first + bucket),
          n > 0,
          do: {bucket, n}

    count = filled |> Enum.map(&elem(&1, 1)) |> Enum.sum()
    sum = :counters.get(counters, Map.fetch!(@slots, {:nanoseconds, name}))
    at = &percentile(filled, ceil(count * &1))

    %{
      count: count,
      mean: ratio(sum / 1_000_000, count),
      p50: at.(0.5),
      p90: at.(0.9),
      p99: at.(0.99),
      max: at.(1)
    }
  end

  defp percentile([], _rank), do: nil
  defp percentile([{bucket, n} | _rest], rank) when rank <= n, do: middle(bucket)
  defp percentile([{_bucket, n} | rest], rank), do: percentile(rest, rank - n)

  defp ratio(_part, 0), do: nil
  defp ratio(part, whole), do: Float.round(part / whole, 4)

  defp counters!(id) do
    :persistent_term.get({__MODULE__, id}, nil) ||
      raise ArgumentError, "no summary is attached as #{inspect(id)}; attach/1 does that"
  end

  defp words(path), do: Enum.join(path, " ")

  defp row(name, facts), do: String.pad_trailing("#{name}", 15) <> Enum.join(facts, ", ")

  defp pairs(map), do: for({name, value} <- Enum.sort(map), do: "#{name} #{value || "-"}")

  @duration_buckets [1, 5, 10, 50, 100, 500, 1000, 5000, 30_000, 300_000]

  defp metric(:native, _name, :summary), do: {:summary, [unit: {:native, :millisecond}]}

  defp metric(:native, _name, :distribution) do
    {:distribution,
     [unit: {:native, :millisecond}, reporter_options: [buckets: @duration_buckets]]}
  end

  defp metric(:byte, _name, _durations), do: {:sum, [unit: :byte]}
  defp metric(:usd, _name, _durations), do: {:sum, []}
  defp metric(:value, _name, _durations), do: {:last_value, []}
  defp metric(:count, :count, _durations), do: {:counter, []}

  defp metric(:count, gauge, _durations) when gauge in [:length, :size, :previous],
    do: {:last_value, []}

  defp metric(:count, _name, _durations), do: {:sum, []}
  defp metric(:time, _name, _durations), do: nil

  # Of few values each, so that no time series of its own is made for each request.
  @tags [:bridge, :request_type, :result, :optimizer, :name, :from, :to]

  defp tag_names(%{metadata: metadata}),
    do: for({name, _doc} <- metadata, name in @tags, do: name)

  defp tag(value) when is_atom(value) or is_binary(value) or is_number(value), do: value
  defp tag(%Error{type: type}), do: type
  defp tag(value), do: inspect(value, limit: 3, printable_limit: 40)
end
