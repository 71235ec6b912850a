defmodule ErlBridge.Bench do
  @moduledoc """
  Measures a bridge on the machine that it runs on: its start, the way there and back, many callers
  at once and large terms. `mix erl_bridge.bench` prints it.

  One Python is measured, with pings, which Python answers without doing anything: what it comes to
  is the price of the bridge, to be added to what your own handlers take.
  """

  alias ErlBridge.Error

  @typedoc "Times are in nanoseconds; those of `:start`, `:ping` and `:term` are sorted."
  @type results :: %{
          start: [pos_integer, ...],
          ping: [pos_integer, ...],
          callers: %{callers: pos_integer, calls: pos_integer, time: pos_integer},
          term: %{bytes: pos_integer, times: [pos_integer, ...]}
        }

  @starts 5
  @warm_up 200
  @pings 2_000
  @callers 16
  @calls_each 1_000
  @term_bytes 10_000_000
  @terms 5

  @row %{text: String.duplicate("forty bytes of text that says nothing. ", 4), score: 0.5}

  @doc """
  Measures everything, in some seconds. `options` are those of a bridge.

  An error is the first that a bridge gives.
  """
  @spec run(keyword) :: {:ok, results} | {:error, Error.t()}
  def run(options \\ []) do
    options = Keyword.merge([preload: false, log_level: :none], options)
    start = Enum.sort(for _n <- 1..@starts, do: time_of_start(options))
    {:ok, options |> start!() |> measure(start)}
  rescue
    error in Error -> {:error, error}
  end

  @doc "The times of so many pings, one after the other: nanoseconds, sorted."
  @spec round_trips(ErlBridge.bridge(), pos_integer) :: [pos_integer, ...]
  def round_trips(bridge, count), do: measured(count, fn -> ErlBridge.ping!(bridge) end)

  @doc """
  The value below or at which this share of sorted values lies.

      iex> ErlBridge.Bench.percentile([10, 20, 30, 40], 0.5)
      20
      iex> ErlBridge.Bench.percentile([10, 20, 30, 40], 0.99)
      40
  """
  @spec percentile([number, ...], float) :: number
  def percentile(sorted, share), do: Enum.at(sorted, max(ceil(length(sorted) * share) - 1, 0))

  @doc """
  The results as a table.

      iex> callers = %{callers: 16, calls: 16_000, time: 400_000_000}
      iex> term = %{bytes: 10_000_000, times: [80_000_000, 90_000_000]}
      iex> ErlBridge.Bench.table(%{start: [38_000_000], ping: [30_000, 61_000], callers: callers, term: term})
      \"""
      start to hello               38.0 ms   p50 of 1
      ping                         30.0 us   p50 of 2, p99 61.0 us
      16 callers                40000.0 calls/s
      10.0 MB there and back       80.0 ms   p50 of 2, 250.0 MB/s
      \"""
  """
  @spec table(results) :: String.t()
  def table(%{start: start, ping: ping, callers: callers, term: term}) do
    p50 = &percentile(&1, 0.5)
    median = &"p50 of #{length(&1)}"
    rate = 2 * term.bytes * 1_000 / p50.(term.times)

    Enum.map_join(
      [
        ["start to hello", p50.(start) / 1.0e6, "ms", median.(start)],
        ["ping", p50.(ping) / 1.0e3, "us", [median.(ping), ", p99 ", us(percentile(ping, 0.99))]],
        ["#{callers.callers} callers", callers.calls * 1.0e9 / callers.time, "calls/s", ""],
        [
          "#{decimal(term.bytes / 1.0e6)} MB there and back",
          p50.(term.times) / 1.0e6,
          "ms",
          [median.(term.times), ", #{decimal(rate)} MB/s"]
        ]
      ],
      &line/1
    )
  end

  defp line([what, value, unit, more]) do
    text = [
      String.pad_trailing(what, 23),
      String.pad_leading(decimal(value), 10),
      " ",
      String.pad_trailing(unit, 5),
      more
    ]

    String.trim_trailing(IO.iodata_to_binary(text)) <> "\n"
  end

  defp us(nanoseconds), do: "#{decimal(nanoseconds / 1.0e3)} us"
  defp decimal(number), do: :erlang.float_to_binary(number / 1, decimals: 1)

  ## Measuring

  defp measure(bridge, start) do
    round_trips(bridge, @warm_up)
    ping = round_trips(bridge, @pings)
    %{start: start, ping: ping, callers: callers(bridge), term: term(bridge)}
  after
    ErlBridge.stop(bridge)
  end

  defp start!(options) do
    case ErlBridge.start_link(options) do
      {:ok, bridge} -> bridge
      {:error, error} -> raise error
    end
  end

  defp time_of_start(options) do
    {time, bridge} = time(fn -> start!(options) end)
    ErlBridge.stop(bridge)
    time
  end

  # All callers are there before the first of them begins.
  defp callers(bridge) do
    tasks =
      for _n <- 1..@callers do
        Task.async(fn ->
          receive do: (:go -> :ok)
          for _call <- 1..@calls_each, do: ErlBridge.ping!(bridge)
        end)
      end

    {time, _results} =
      time(fn ->
        Enum.each(tasks, &send(&1.pid, :go))
        Task.await_many(tasks, :infinity)
      end)

    %{callers: @callers, calls: @callers * @calls_each, time: time}
  end

  defp term(bridge) do
    row = :erlang.external_size([@row, @row]) - :erlang.external_size([@row])
    rows = ceil(@term_bytes / row)
    term = %{rows: List.duplicate(@row, rows)}
    times = measured(@terms, fn -> ErlBridge.ping!(bridge, term) end)
    %{bytes: :erlang.external_size(term), times: times}
  end

  defp measured(count, fun), do: Enum.sort(for _n <- 1..count, do: elem(time(fun), 0))

  defp time(fun) do
    started = System.monotonic_time(:nanosecond)
    result = fun.()
    {System.monotonic_time(:nanosecond) - started, result}
  end
end
