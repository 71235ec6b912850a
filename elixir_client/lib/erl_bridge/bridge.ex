defmodule ErlBridge.Bridge do
  @moduledoc """
  The supervisor of one bridge: its circuit breaker, its workers, and the pool that keeps them.

  What keeps the bridge together shares its fate: when the pool crashes, the workers end too, and
  all of it starts anew. A worker that ends is the pool's affair.
  """

  use Supervisor

  alias ErlBridge.{CircuitBreaker, Error, OsProcess, Pool, Route, Worker}

  @doc """
  Starts a bridge, given validated options; returns when its first Python is ready, or the error
  that came instead.
  """
  @spec start_link(map) :: {:ok, pid} | {:error, Error.t() | {:already_started, pid}}
  def start_link(options) do
    name = Enum.to_list(Map.take(options, [:name]))

    with {:ok, bridge} <- Supervisor.start_link(__MODULE__, fn -> options end, name) do
      case Pool.await_start(pool(bridge)) do
        :ok -> {:ok, bridge}
        {:error, error} -> give_up(bridge, error)
      end
    end
  end

  # The error is for the caller of start_link to handle; it must not be killed by it.
  defp give_up(bridge, error) do
    Process.unlink(bridge)
    Supervisor.stop(bridge)

    receive do
      {:EXIT, ^bridge, _reason} -> :ok
    after
      0 -> :ok
    end

    {:error, error}
  end

  @doc """
  Stops a bridge; returns when its Pythons are gone.

  A worker that is stuck writing to a Python that does not read is killed when its time is over,
  and that Python with it.
  """
  @spec stop(GenServer.server()) :: :ok
  def stop(bridge) do
    with {:ok, route} <- Route.lookup(bridge),
         {:ok, workers} <- Pool.status(route),
         pid when is_pid(pid) <- GenServer.whereis(bridge) do
      os_pids = for %{os_pid: os_pid} when is_integer(os_pid) <- workers, do: os_pid
      Supervisor.stop(pid)
      for os_pid <- os_pids, OsProcess.alive?(os_pid), do: OsProcess.signal(os_pid, "KILL")
    end

    :ok
  catch
    :exit, _gone_already -> :ok
  end

  @impl true
  def init(options_in) do
    bridge = self()

    children =
      breaker(bridge, options_in.().circuit_breaker) ++
        [
          {DynamicSupervisor, name: Worker.supervisor(bridge), strategy: :one_for_one},
          {Pool, {bridge, options_in}}
        ]

    Supervisor.init(children, strategy: :one_for_all)
  end

  defp breaker(_bridge, false), do: []

  defp breaker(bridge, options),
    do: [{CircuitBreaker, Keyword.put(options, :name, CircuitBreaker.name(bridge))}]

  defp pool(bridge) do
    [{pool, _route}] = Registry.lookup(ErlBridge.Registry, bridge)
    pool
  end
end
