# Calls a node of ours so many times and tells what memory it takes on the way: `elixir --name N soak.exs NODE CALLS`
# Prints "CALLS <tab> BYTES <tab> IN FLIGHT" ten times.
# Of a hundred calls one is a request by a process that dies, one is an :erpc, and one monitors and sends plain messages.
defmodule Soak do
  @callers 16

  def memory(server) do
    {:ok, health} = GenServer.call(server, %{request_type: :health_check})
    {health.memory_bytes, health.requests_in_flight}
  end

  def call({_, node} = server, number) do
    case rem(number, 100) do
      0 ->
        {pid, ref} = spawn_monitor(fn -> :gen_server.send_request(server, request()) end)
        receive do: ({:DOWN, ^ref, _, ^pid, _} -> :ok)

      1 ->
        {:ok, %{n: 1}} = :erpc.call(node, :erl_bridge, :call, [request()])

      2 ->
        ref = Process.monitor(server)
        send(server, Map.put(request(), :message_id, ref))
        receive do: ({:erl_bridge, ^ref, {:ok, %{n: 1}}} -> :ok)
        Process.demonitor(ref, [:flush])

      _ ->
        {:ok, %{n: 1}} = GenServer.call(server, request(), :infinity)
    end
  end

  defp request, do: %{request_type: :ping, payload: %{n: 1}}

  def run(server, calls) do
    1..@callers
    |> Enum.map(fn _ ->
      Task.async(fn -> for(n <- 1..div(calls, @callers), do: call(server, n)) end)
    end)
    |> Task.await_many(:infinity)
  end
end

[node, calls] = System.argv()
server = {:erl_bridge, String.to_atom(node)}
calls = String.to_integer(calls)
Soak.run(server, div(calls, 10))

for part <- 1..10 do
  {memory, in_flight} = Soak.memory(server)
  IO.puts("#{div(calls * part, 10)}\t#{memory}\t#{in_flight}")
  if part < 10, do: Soak.run(server, div(calls, 10))
end

System.halt(0)
