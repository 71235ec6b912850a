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

  @doc "From now on the process `os_pid` ends with the calling process, unless it is released."
  @spec watch(pos_integer) :: reference
  def watch(os_pid), do: GenServer.call(__MODULE__, {:watch, os_pid})

  @doc "What was watched has ended."
  @spec release(reference) :: :ok
  def release(watch), do: GenServer.cast(__MODULE__, {:release, watch})

  @impl true
  def init(nil), do: {:ok, %{}}

  @impl true
  def handle_call({:watch, os_pid}, {worker, _tag}, watched) do
    monitor = Process.monitor(worker)
    {:reply, monitor, Map.put(watched, monitor, os_pid)}
  end

  @impl true
  def handle_cast({:release, monitor}, watched) do
    Process.demonitor(monitor, [:flush])
    {:noreply, Map.delete(watched, monitor)}
  end

  @impl true
  def handle_info({:DOWN, monitor, :process, _worker, _reason}, watched) do
    {os_pid, watched} = Map.pop!(watched, monitor)
    if OsProcess.alive?(os_pid), do: Process.send_after(self(), {:kill, os_pid}, @grace_ms)
    {:noreply, watched}
  end

  def handle_info({:kill, os_pid}, watched) do
    OsProcess.signal(os_pid, "KILL")
    {:noreply, watched}
  end
end
