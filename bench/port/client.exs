# Measures systems in turn: `elixir -pa EBIN client.exs ROUNDS CALLS "name|kind|program|argument|..." ...`
# Prints "name median p99 calls_per_second ratio" for each, in microseconds. The ratio is to the first of them, and is the
# median of those of the rounds.
defmodule Client do
  @callers 16
  @payload %{
    text: String.duplicate("What is the capital of France? ", 4),
    options: %{temperature: 0.5, max_tokens: 256},
    tags: ["geography", "europe"],
    stream: false,
    user: "u-000123",
    locale: "en-GB"
  }
  @large :binary.copy(<<255>>, 20_000_000)
  @json ~s({"text": "#{@payload.text}", "options": {"temperature": 0.5, "max_tokens": 256}, ) <>
          ~s("tags": ["geography", "europe"], "stream": false, "user": "u-000123", "locale": "en-GB"})

  def open([name, kind | arguments]) when kind in ["call", "told"] do
    options = [app: "peers:app", cd: __DIR__, preload: false, args: ["--no-dspy" | arguments]]
    {:ok, bridge} = ErlBridge.start_link(options)

    %{
      name: name,
      call: fn -> {:ok, _} = ErlBridge.call(bridge, :echo, @payload) end,
      port: nil,
      kind: kind
    }
  end

  def open([name, kind, program | arguments]) do
    port = Port.open({:spawn_executable, program}, [:binary, {:packet, 4}, args: arguments])

    if kind in ["ping", "inline", "erl_in", "erl_out"],
      do: receive(do: ({^port, {:data, _hello}} -> :ok))

    move(port, System.get_env("MOVE_TO"))
    call = fn -> Port.command(port, encode(kind)) && take(kind, port) end
    %{name: name, call: call, port: port, kind: kind}
  end

  defp move(_port, nil), do: :ok

  defp move(port, processor) do
    {:os_pid, os_pid} = Port.info(port, :os_pid)
    {_said, 0} = System.cmd("taskset", ["-pc", processor, "#{os_pid}"])
  end

  defp encode("c_in"), do: @large
  defp encode("c_out"), do: <<131, 106>>
  defp encode("erl_in"), do: request(:take, %{data: @large})
  defp encode("erl_out"), do: request(:give, %{})
  defp encode("ping"), do: request(:ping)
  defp encode("inline"), do: request(:echo)
  defp encode("json"), do: @json
  defp encode("echo"), do: :erlang.term_to_binary(@payload)

  defp request(type, payload \\ @payload) do
    :erlang.term_to_binary(%{
      message_id: 300,
      request_type: type,
      payload: payload,
      metadata: %{}
    })
  end

  defp take(kind, port), do: receive(do: ({^port, {:data, data}} -> decode(kind, data)))

  defp decode(kind, data) when kind in ["json", "c_in", "c_out"], do: data
  defp decode(_kind, data), do: :erlang.binary_to_term(data)

  def latencies(%{call: call}, calls) do
    for _ <- 1..calls do
      begin = System.monotonic_time(:nanosecond)
      call.()
      System.monotonic_time(:nanosecond) - begin
    end
  end

  # What takes milliseconds is not asked for how often it can be had.
  def rate(%{kind: kind}, _calls) when kind in ["c_in", "c_out", "erl_in", "erl_out"], do: 0.0

  def rate(system, calls) do
    {microseconds, :ok} = :timer.tc(fn -> load(system, calls) end)
    calls * 1_000_000 / microseconds
  end

  # With somebody who listens to its requests, or with nobody.
  def heard(%{kind: "told"}, work) do
    listener = fn _event, _measurements, _metadata, _config -> :ok end
    :ok = ErlBridge.Telemetry.attach(:bench, [:erl_bridge, :request, :stop], listener, nil)
    work.()
    ErlBridge.Telemetry.detach(:bench)
  end

  def heard(_system, work), do: work.()

  defp load(%{port: nil, call: call}, calls) do
    1..@callers
    |> Enum.map(fn _ ->
      Task.async(fn -> for(_ <- 1..div(calls, @callers), do: call.()) && :ok end)
    end)
    |> Enum.each(&Task.await(&1, :infinity))
  end

  defp load(%{port: port, kind: kind}, calls) do
    for _ <- 1..@callers, do: Port.command(port, encode(kind))

    for at <- 1..calls do
      take(kind, port)
      if at <= calls - @callers, do: Port.command(port, encode(kind))
    end

    :ok
  end
end

[rounds, calls | specs] = System.argv()
{rounds, calls} = {String.to_integer(rounds), String.to_integer(calls)}
Application.ensure_all_started(:erl_bridge)
systems = Enum.map(specs, &Client.open(String.split(&1, "|")))

# Kept out of the heap of this process, which calls: the collections of a large one would be measured with the calls.
latencies = :ets.new(:latencies, [])
rates = :ets.new(:rates, [:duplicate_bag])

# The latencies of a round come right after each other: a machine has quick and slow phases, and those are to be of one.
for round <- 1..rounds do
  for system <- systems do
    Client.heard(system, fn ->
      :ets.insert(latencies, {{system.name, round}, Client.latencies(system, calls)})
    end)

    :erlang.garbage_collect()
  end

  for system <- systems do
    Client.heard(system, fn ->
      :ets.insert(rates, {system.name, Client.rate(system, 16 * calls)})
    end)

    :erlang.garbage_collect()
  end
end

quantile = fn numbers, share -> Enum.at(Enum.sort(numbers), trunc(length(numbers) * share)) end
round_of = fn name, round -> :ets.lookup_element(latencies, {name, round}, 2) end
[%{name: first} | _] = systems

for %{name: name} <- systems do
  times = Enum.flat_map(1..rounds, &round_of.(name, &1))

  ratios =
    for round <- 1..rounds,
        do: quantile.(round_of.(name, round), 0.5) / quantile.(round_of.(first, round), 0.5)

  rate = rates |> :ets.lookup(name) |> Enum.map(&elem(&1, 1)) |> quantile.(0.5)
  [median, p99] = for share <- [0.5, 0.99], do: quantile.(times, share) / 1000
  IO.puts(Enum.join([name, median, p99, rate, quantile.(ratios, 0.5)], "\t"))
end

System.halt(0)
