# Sends a node of ours a large binary and has it back, while another process calls: `elixir --name N large.exs NODE BYTES`
# Prints "SECONDS <tab> CALLS <tab> LONGEST <tab> MEDIAN <tab> STAYED": how long it took, how many calls were answered
# meanwhile, the longest and the median of them in milliseconds, and whether the connection was there all the time.
[node, size] = System.argv()
node = String.to_atom(node)
bridge = {:erl_bridge, node}
ping = fn payload -> GenServer.call(bridge, %{request_type: :ping, payload: payload}, :infinity) end
{:ok, %{}} = ping.(%{})
Node.monitor(node, true)
data = :binary.copy(<<255>>, String.to_integer(size))

pinging = fn pinging, times ->
  begin = System.monotonic_time(:microsecond)
  {:ok, %{}} = ping.(%{})
  times = [System.monotonic_time(:microsecond) - begin | times]

  receive do
    :stop -> times
  after
    20 -> pinging.(pinging, times)
  end
end

others = Task.async(fn -> pinging.(pinging, []) end)
{microseconds, {:ok, %{data: ^data}}} = :timer.tc(fn -> ping.(%{data: data}) end)
send(others.pid, :stop)
times = others |> Task.await(:infinity) |> Enum.sort()

stayed =
  receive do
    {:nodedown, ^node} -> false
  after
    0 -> true
  end

median = Enum.at(times, div(length(times), 2)) / 1000
row = [microseconds / 1.0e6, length(times), List.last(times) / 1000, median, stayed]
IO.puts(Enum.join(row, "\t"))
System.halt(0)
