defmodule ErlBridge.Cluster.Pulse do
  @moduledoc """
  Closes the connection to a node that is Python when nothing has come from there for longer than
  Erlang itself bears.

  Erlang misses a hidden node, as these are, only while little waits to be sent to it: what looks after
  the connection sends a tick whenever nothing has come, and where the network takes nothing either,
  waits for that to be sent (`dist_util:need_to_tick/4` of OTP 25 to 29). So a node that is cut off in the
  middle of a dataset would be up until TCP gives up, a quarter of an hour later.

  It is more patient than Erlang, so it closes nothing that Erlang would leave open. Over TLS nobody waits
  so, and there is nothing to close.
  """

  use GenServer

  @look_ms 1_000
  # Erlang closes after one and a quarter of the tick time at the latest.
  @patience 1.75

  @spec start_link([node]) :: GenServer.on_start()
  def start_link(nodes), do: GenServer.start_link(__MODULE__, nodes)

  @impl true
  def init(nodes) do
    again()
    {:ok, %{nodes: nodes, seen: %{}}}
  end

  @impl true
  def handle_info(:look, %{nodes: nodes, seen: seen} = state) do
    again()
    connections = :erlang.system_info(:dist_ctrl)
    ports = for {node, port} when is_port(port) <- connections, node in nodes, do: port
    {:noreply, %{state | seen: Map.new(ports, &{&1, look(&1, seen[&1])})}}
  end

  # What has come so far, and since when it is no more than that.
  defp look(port, seen) do
    case {:inet.getstat(port, [:recv_cnt]), seen} do
      {{:ok, come}, {come, since}} ->
        if now() - since > @patience * tick_ms(), do: close(port)
        {come, since}

      {{:ok, come}, _less} ->
        {come, now()}

      {{:error, _closed}, _seen} ->
        nil
    end
  end

  # Its owner finds it closed, as if the other side had done it.
  defp close(port) do
    Port.close(port)
  rescue
    ArgumentError -> :closed_already
  end

  defp tick_ms do
    case :net_kernel.get_net_ticktime() do
      {:ongoing_change_to, seconds} -> seconds * 1_000
      seconds -> seconds * 1_000
    end
  end

  defp again, do: Process.send_after(self(), :look, @look_ms)
  defp now, do: System.monotonic_time(:millisecond)
end
