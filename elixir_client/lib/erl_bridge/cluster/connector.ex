defmodule ErlBridge.Cluster.Connector do
  @moduledoc """
  Connects this node to others and, when a connection is lost, again, which Erlang itself does not.

  A node that was away is tried again after longer and longer pauses. They begin anew when a
  connection has lasted for as long as the longest of them: where something ends connections as soon as
  they are made, as `:global` does when others cannot see each other, that must not go on all the time.
  """

  use GenServer

  alias ErlBridge.Recovery.Backoff

  @spec start_link(%{nodes: [node], reconnect: Backoff.bounds()}) :: GenServer.on_start()
  def start_link(options), do: GenServer.start_link(__MODULE__, options)

  @impl true
  def init(%{nodes: nodes, reconnect: reconnect}) do
    for node <- Enum.uniq(nodes), node != node(), do: send(self(), {:connect, node, 0})
    {:ok, %{reconnect: reconnect, monitors: %{}}}
  end

  # The monitor connects the nodes, and its message says that it failed, or when the connection is lost.
  @impl true
  def handle_info({:connect, node, failures}, state) do
    monitor = Process.monitor({:net_kernel, node})
    {:noreply, put_in(state.monitors[monitor], {node, failures, now()})}
  end

  def handle_info({:DOWN, monitor, :process, _net_kernel, _reason}, state) do
    {{node, failures, since}, monitors} = Map.pop!(state.monitors, monitor)
    failures = if now() - since >= Keyword.fetch!(state.reconnect, :max), do: 0, else: failures
    delay = Backoff.delay(state.reconnect, failures, :equal, &:rand.uniform/1)
    Process.send_after(self(), {:connect, node, failures + 1}, delay)
    {:noreply, %{state | monitors: monitors}}
  end

  defp now, do: System.monotonic_time(:millisecond)
end
