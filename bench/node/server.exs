# A node with a GenServer that answers as the bridge answers a ping.
defmodule Server do
  use GenServer
  def init(_), do: {:ok, nil}
  def handle_call(%{payload: payload}, _from, state), do: {:reply, {:ok, payload}, state}
end

{:ok, _} = GenServer.start(Server, nil, name: :erl_bridge)
IO.puts("ready")
IO.gets("")
System.halt(0)
