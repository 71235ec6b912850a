defmodule ErlBridge.Bridge do
  @moduledoc """
  The supervisor of one bridge: its circuit breaker, its cache, its workers, and the pool that keeps them.

  What keeps the bridge together shares its fate: when the pool crashes, the workers end too, and
  all of it starts anew. A worker that ends is the pool's affair.
  """

  use Supervisor

  alias ErlBridge.{Cache, CircuitBreaker, Error, OsProcess, Pool, Route, Telemetry, Worker}

  @doc """
  Starts a bridge, given validated options; returns when its first Python is ready, or the error
  that came instead.
  """
  @spec start_link(map) :: {:ok, pid} | {:error, Error.t() | {:already_started, pid}}
  def start_link(%{name: nil} = options), do: options |> Map.delete(:name) |> start_link()

  def start_link(options) do
    name = Enum.to_list(Map.take(options, [:name]))

    with {:ok, bridge} <- Supervisor.start_link(__MODULE__, nil, name) do
      with :ok <- start_children(bridge, children(bridge, options)),
           :ok <- Pool.await_start(pool(bridge)) do
        {:ok, bridge}
      else
        {:error, error} -> give_up(bridge, error)
      end
    end
  end

  @doc """
  Starts these children, or gives the error of the first that cannot be.

  They are not those that the supervisor starts with, because an error would end that, and who started it.
  """
  @spec start_children(pid, [Supervisor.child_spec() | {module, term}]) ::
          :ok | {:error, Error.t()}
  def start_children(supervisor, children) do
    Enum.find_value(children, :ok, fn child ->
      case Supervisor.start_child(supervisor, child) do
        {:ok, _pid} -> nil
        {:error, {%Error{} = error, _child}} -> {:error, error}
        {:error, {reason, _child}} -> {:error, Error.not_started(Exception.format_exit(reason))}
      end
    end)
  end

  @doc "Ends what cannot be. The error is for the caller of start_link to handle; it must not be killed by it."
  @spec give_up(pid, Error.t()) :: {:error, Error.t()}
  def give_up(bridge, error) do
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
    pid = GenServer.whereis(bridge)

    if is_pid(pid) and bridge?(:proc_lib.translate_initial_call(pid)) do
      os_pids = os_pids(bridge)
      Supervisor.stop(pid)
      for os_pid <- os_pids, OsProcess.alive?(os_pid), do: OsProcess.signal(os_pid, "KILL")
    end

    :ok
  catch
    :exit, _gone_already -> :ok
  end

  defp bridge?({:supervisor, module, 1}), do: module in [__MODULE__, ErlBridge.Testing]
  defp bridge?(_initial_call), do: false

  # None where the pool is just being started anew: then it has no workers either.
  defp os_pids(bridge) do
    with {:ok, route} <- Route.lookup(bridge),
         {:ok, workers} <- Pool.status(route) do
      for %{os_pid: os_pid} when is_integer(os_pid) <- workers, do: os_pid
    else
      {:error, _not_running} -> []
    end
  end

  @impl true
  def init(nil), do: Supervisor.init([], strategy: :one_for_all)

  # The last to start is the first to end: the cache still takes the results of what ends with the pool.
  defp children(bridge, options) do
    breaker(bridge, options) ++
      cache_children(bridge, options) ++
      [
        {DynamicSupervisor, name: Worker.supervisor(bridge), strategy: :one_for_one},
        # It may hold keys of a provider, and arguments are logged when a process crashes.
        {Pool, {bridge, fn -> options end}}
      ]
  end

  @doc "The name of the cache of the bridge whose supervisor is `bridge`."
  @spec cache(pid) :: {:via, module, term}
  def cache(bridge), do: {:via, Registry, {ErlBridge.Registry, {bridge, :cache}}}

  defp breaker(_bridge, %{circuit_breaker: false}), do: []

  defp breaker(bridge, %{circuit_breaker: own} = options) do
    about = Map.get(options, :name, bridge)
    report = &Telemetry.breaker_change(%{count: 1}, %{bridge: about, from: &1, to: &2})

    [
      {CircuitBreaker,
       [on_change: report]
       |> Keyword.merge(own)
       |> Keyword.put(:name, CircuitBreaker.name(bridge))}
    ]
  end

  @doc "The cache as a list of children, of the bridge or the cluster whose supervisor is `bridge`."
  @spec cache_children(pid, map) :: [{module, keyword}]
  def cache_children(_bridge, %{cache: false}), do: []

  def cache_children(bridge, %{cache: own} = options) do
    about = Map.get(options, :name, bridge)
    report = &cache_event(&1, &2, %{bridge: about, key: &3.key})
    [{Cache, [on_event: report] |> Keyword.merge(own) |> Keyword.put(:name, cache(bridge))}]
  end

  defp cache_event(event, measurements, metadata) do
    measurements = Map.put_new(measurements, :count, 1)

    case event do
      :hit -> Telemetry.cache_hit(measurements, metadata)
      :miss -> Telemetry.cache_miss(measurements, metadata)
      :wait -> Telemetry.cache_wait(measurements, metadata)
      :put -> Telemetry.cache_put(measurements, metadata)
      :evict -> Telemetry.cache_evict(measurements, metadata)
      :expire -> Telemetry.cache_expire(measurements, metadata)
    end
  end

  defp pool(bridge) do
    {:ok, %Route{pool: pool}} = Route.lookup(bridge)
    pool
  end
end
