defmodule ErlBridge.Telemetry.Logger do
  @moduledoc """
  Writes events to `Logger`, one line each.

      ErlBridge.Telemetry.Logger.attach(level: :info)

      [warning] request stop duration=30.1ms bytes_out=98 request_type=:embed result=:error error=:timeout_error

  Each event has a level of its own; where something failed it is at least `:warning`. A line has
  what the table of events lists and never a payload or a message, of an error no more than its type.

      iex> ErlBridge.Telemetry.Logger.line([:erl_bridge, :callback, :stop], %{duration: 0}, %{name: :score, result: :ok})
      {:debug, "callback stop duration=0.0ms name=:score result=:ok"}
  """

  require Logger

  alias ErlBridge.{Error, Telemetry}
  alias ErlBridge.Telemetry.Events

  @levels [:debug, :info, :warning, :error]
  @options [:level, :events]
  @longest 80

  @doc """
  Starts to log.

    * `:level` - the least level that is logged, `:info` unless told: #{Enum.map_join(@levels, ", ", &"`#{inspect(&1)}`")}
    * `:events` - the names of the events, all unless told

  Raises `ArgumentError` for an option, a level or an event that there is not.
  """
  @spec attach(keyword) :: :ok | {:error, :already_exists}
  def attach(options \\ []) do
    Enum.each(Keyword.keys(options), &check!(&1, @options, "option"))
    level = Keyword.get(options, :level, :info)
    check!(level, @levels, ":level")
    events = Keyword.get(options, :events, Telemetry.events())
    Telemetry.attach(__MODULE__, events, &__MODULE__.handle_event/4, level)
  end

  @doc "Ends the logging."
  @spec detach() :: :ok | {:error, :not_found}
  def detach, do: Telemetry.detach(__MODULE__)

  @doc false
  def handle_event(event, measurements, metadata, least) do
    {level, line} = line(event, measurements, metadata)
    if Logger.compare_levels(level, least) != :lt, do: Logger.log(level, line)
  end

  @doc "The level and the text of an event."
  @spec line([atom], map, map) :: {Logger.level(), String.t()}
  def line(name, measurements, metadata) do
    event = Events.fetch!(name)

    facts =
      for({name, unit, _doc} <- event.measurements, unit != :time, do: {name, unit, measurements}) ++
        for({name, _doc} <- event.metadata, name != :stacktrace, do: {name, :term, metadata})

    words =
      for {name, unit, %{} = from} <- facts, text = text(unit, from[name]), do: "#{name}=#{text}"

    {level(event, metadata), Enum.join(tl(name) ++ words, " ")}
  end

  defp check!(value, allowed, what) do
    if value not in allowed do
      raise ArgumentError,
            "expected #{what} to be one of #{Enum.map_join(allowed, ", ", &inspect/1)}, got: #{inspect(value)}"
    end
  end

  defp level(%{level: level}, metadata) do
    if failed?(metadata) and Logger.compare_levels(level, :warning) == :lt,
      do: :warning,
      else: level
  end

  defp failed?(%{result: :error}), do: true
  defp failed?(%{error: %Error{}}), do: true
  defp failed?(%{reason: %Error{}}), do: true
  defp failed?(_metadata), do: false

  defp text(_unit, nil), do: nil

  defp text(:native, time),
    do: "#{System.convert_time_unit(time, :native, :microsecond) / 1000}ms"

  defp text(:term, value), do: brief(value)
  defp text(_unit, number), do: to_string(number)

  # What a term is, without what it holds: that may be anybody's data.
  defp brief(%Error{type: type}), do: inspect(type)
  defp brief(%module{}), do: inspect(module)
  defp brief(text) when is_binary(text), do: text |> String.slice(0, @longest) |> inspect()
  defp brief(tuple) when is_tuple(tuple) and tuple_size(tuple) > 0, do: brief_tuple(tuple)
  defp brief(list) when is_list(list), do: "[...]"
  defp brief(map) when is_map(map), do: "%{...}"
  defp brief(simple), do: inspect(simple)

  defp brief_tuple(tuple) when is_atom(elem(tuple, 0)), do: "{#{inspect(elem(tuple, 0))}, ...}"
  defp brief_tuple(_tuple), do: "{...}"
end
