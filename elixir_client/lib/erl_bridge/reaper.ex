defmodule ErlBridge.Reaper do
  @moduledoc """
  Sees to it that no Python outlives its worker, however that ends.

  A worker that stops ends its Python itself. One that is killed cannot: its port closes, and
  Python ends because its input does. Only a Python that is suspended or stuck may not; such a one
  is killed here, a little later. (When the whole node dies it is the end of the input again that
  ends Python.)
  """

  use GenServer

  alias ErlBridge.OsProcess

  # The protocol gives Python two seconds from the end of its input.
  @grace_ms 2_500

  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc """
  From now on the process `os_pid` ends with the calling process, or is killed `grace` ms later,
  unless it is released.
  """
  @spec watch(pos_integer, non_neg_integer) :: reference
  def watch(os_pid, grace \\ @grace_ms), do: GenServer.call(__MODULE__, {:watch, os_pid, grace})

  @doc "What was watched has ended."
  @spec release(reference) :: :ok
  def release(watch), do: GenServer.cast(__MODULE__, {:release, watch})

  # `doomed` are those whose grace has begun.
  @impl true
  def init(nil) do
    Process.flag(:trap_exit, true)
    {:ok, %{watched: %{}, doomed: MapSet.new()}}
  end

  @impl true
  def handle_call({:watch, os_pid, grace}, {worker, _tag}, state) do
    monitor = Process.monitor(worker)
    {:reply, monitor, put_in(state.watched[monitor], {os_pid, grace})}
  end

  @impl true
  def handle_cast({:release, monitor}, state) do
    Process.demonitor(monitor, [:flush])
    {:noreply, %{state | watched: Map.delete(state.watched, monitor)}}
  end

  @impl true
  def handle_info({:DOWN, monitor, :process, _worker, _reason}, state) do
    {{os_pid, grace}, watched} = Map.pop!(state.watched, monitor)
    state = %{state | watched: watched}

    if OsProcess.alive?(os_pid) do
      Process.send_after(self(), {:kill, os_pid}, grace)
      {:noreply, %{state | doomed: MapSet.put(state.doomed, os_pid)}}
    else
      {:noreply, state}
    end
  end

  def handle_info({:kill, os_pid}, state) do
    OsProcess.signal(os_pid, "KILL")
    {:noreply, %{state | doomed: MapSet.delete(state.doomed, os_pid)}}
  end

  @impl true
  def terminate(_reason, state), do: Enum.each(state.doomed, &OsProcess.signal(&1, "KILL"))
end
