# Calls processes on other nodes in turn: `elixir --name N client.exs ROUNDS NODE|SERVER|NAME ...`
# Prints "NAME <tab> WORK <tab> MEDIAN <tab> P99 <tab> RATE" for each, in microseconds and calls a second.
defmodule Client do
  @callers 16

  def payloads do
    nested = %{
      text: String.duplicate("What is the capital of France? ", 8),
      options: %{temperature: 0.5, max_tokens: 256, stop: ["\n", "."], seed: 7},
      rows: for(n <- 1..10, do: %{id: n, score: n / 7, tags: ["geography", "europe"]}),
      user: "u-000123"
    }

    [
      {"tiny", %{}, 300},
      {"1 KB nested map", nested, 300},
      {"1 MB binary", %{data: :binary.copy(<<255>>, 1_000_000)}, 20}
    ]
  end

  def request(payload), do: %{message_id: 7, request_type: :ping, payload: payload}

  def call(server, payload),
    do: {:ok, _} = GenServer.call(server, request(payload), :infinity)

  def latencies(server, payload, calls) do
    for _ <- 1..calls do
      begin = System.monotonic_time(:nanosecond)
      call(server, payload)
      System.monotonic_time(:nanosecond) - begin
    end
  end

  def rate(server, payload, calls) do
    {microseconds, _} =
      :timer.tc(fn ->
        1..@callers
        |> Enum.map(fn _ ->
          Task.async(fn -> for(_ <- 1..calls, do: call(server, payload)) end)
        end)
        |> Task.await_many(:infinity)
      end)

    @callers * calls * 1_000_000 / microseconds
  end

  def wait(node, tries \\ 200) do
    case Node.ping(node) do
      :pong -> :ok
      :pang when tries > 0 -> Process.sleep(50) && wait(node, tries - 1)
      :pang -> raise "#{node} does not answer"
    end
  end
end

[rounds | specs] = System.argv()

systems =
  for spec <- specs do
    [node, server, name] = String.split(spec, "|")
    node = String.to_atom(node)
    Client.wait(node)
    {name, {String.to_atom(server), node}}
  end

for {work, payload, calls} <- Client.payloads() do
  for {_, server} <- systems, do: Client.latencies(server, payload, calls)

  turns = for _ <- 1..String.to_integer(rounds), system <- systems, do: system
  latencies = for {name, server} <- turns, do: {name, Client.latencies(server, payload, calls)}
  rates = for {name, server} <- turns, do: {name, Client.rate(server, payload, div(calls, 2))}

  for {name, _} <- systems do
    times = for({^name, times} <- latencies, do: times) |> List.flatten() |> Enum.sort()
    rates = for({^name, rate} <- rates, do: rate) |> Enum.sort()
    at = fn share -> Enum.at(times, trunc(length(times) * share)) / 1000 end
    row = [name, work, at.(0.5), at.(0.99), Enum.at(rates, div(length(rates), 2))]
    IO.puts(Enum.join(row, "\t"))
  end
end

System.halt(0)
