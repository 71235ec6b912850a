defmodule ErlBridge.Cluster.Members do
  @moduledoc """
  The process that knows which nodes a cluster has: it follows the process group of the doors, keeps a
  peer for each other node, and publishes the cluster's `ErlBridge.Route`.

  Requests do not pass through it.
  """

  use GenServer

  alias ErlBridge.Cluster.{Door, Gauge, Peer}
  alias ErlBridge.{Error, Load, Route, Routes}
  alias ErlBridge.Recovery.{Budget, Policy}

  # A peer that failed, which is an error of ours, is started anew after this time.
  @again_ms 1_000

  # How long a start waits for the other nodes to answer.
  @start_timeout 5_000

  defstruct [
    :cluster,
    :supervisor,
    :route,
    :settings,
    :silent_after,
    peers: %{},
    wanted: MapSet.new(),
    unsettled: MapSet.new(),
    starters: []
  ]

  @typedoc "Whose they are: the cluster's supervisor, that of its peers, its scope, and how its cache is called."
  @type home :: %{
          cluster: pid,
          supervisor: GenServer.server(),
          scope: atom,
          cache: GenServer.server() | nil
        }

  @spec start_link({home, map}) :: GenServer.on_start()
  def start_link({_home, _options} = arguments), do: GenServer.start_link(__MODULE__, arguments)

  @doc "Returns when it is known of each node whether it is there."
  @spec await_start(pid) :: :ok
  def await_start(members) do
    GenServer.call(members, :await_start, @start_timeout)
  catch
    :exit, {:timeout, _call} -> :ok
  end

  @impl true
  def init({home, options}) do
    {_ref, doors} = :pg.monitor(home.scope, Door.group())
    route = route(home, options)
    :ok = Routes.publish(home.cluster, route)

    state = %__MODULE__{
      cluster: home.cluster,
      supervisor: home.supervisor,
      route: route,
      silent_after: options.silent_after,
      settings: Map.take(options, [:load_interval, :reconnect, :max_frame])
    }

    pythons = for node <- Enum.uniq(options.python_nodes), do: {:python, node}
    {:ok, add(state, pythons ++ of_others(doors))}
  end

  defp route(home, options) do
    %Route{
      bridge: options.name,
      pool: self(),
      workers: {},
      waiting: :atomics.new(1, signed: false),
      limits: %{requests: options.max_in_flight, bytes: options.max_bytes_in_flight},
      queue_timeout: :infinity,
      timeout: options.timeout,
      max_frame: options.max_frame,
      policy: Policy.of(options),
      budget: Budget.new(options.retry_budget),
      breaker: nil,
      cache: home.cache,
      cluster: %{
        bridge: options[:bridge],
        prefer_local: options.prefer_local,
        peers: []
      }
    }
  end

  @impl true
  def handle_call(:await_start, from, state),
    do: {:noreply, tell_starters(%{state | starters: [from | state.starters]})}

  # The questions that a bridge's pool answers.
  def handle_call(_question, _from, state),
    do: {:reply, {:error, Error.is_cluster(state.route.bridge)}, state}

  @impl true
  def handle_info({_group, :join, _name, doors}, state),
    do: {:noreply, add(state, of_others(doors))}

  # The peer of a door ends when that does; until then it finishes what it has.
  def handle_info({_group, :leave, _name, doors}, state) do
    left = of_others(doors)
    peers = Map.reject(state.peers, fn {_pid, {far, _entry}} -> far in left end)
    wanted = MapSet.difference(state.wanted, MapSet.new(left))
    {:noreply, publish(%{state | peers: peers, wanted: wanted})}
  end

  def handle_info({:settled, peer}, state), do: {:noreply, settle(state, peer)}

  def handle_info({:DOWN, _monitor, :process, peer, reason}, state) do
    {entry, peers} = Map.pop(state.peers, peer)

    with {far, _entry} when reason not in [:normal, :shutdown] <- entry,
         do: Process.send_after(self(), {:again, far}, @again_ms)

    {:noreply, %{state | peers: peers} |> publish() |> settle(peer)}
  end

  def handle_info({:again, far}, state),
    do: {:noreply, if(far in state.wanted, do: start(state, far) |> publish(), else: state)}

  defp of_others(doors), do: for(door <- doors, node(door) != node(), do: {:door, door})

  defp add(state, fars) do
    new = Enum.reject(fars, &(&1 in state.wanted))
    state = %{state | wanted: MapSet.union(state.wanted, MapSet.new(new))}
    new |> Enum.reduce(state, &start(&2, &1)) |> publish()
  end

  defp start(state, far) do
    start = %{
      far: far,
      load: Load.new(),
      gauge: Gauge.new(state.settings.load_interval + state.silent_after),
      cluster: state.route.bridge,
      members: self(),
      settings: state.settings
    }

    {:ok, peer} = DynamicSupervisor.start_child(state.supervisor, {Peer, start})
    Process.monitor(peer)

    %{
      state
      | peers: Map.put(state.peers, peer, {far, Peer.entry(peer, start)}),
        unsettled: MapSet.put(state.unsettled, peer)
    }
  end

  # In an order of this node's own: so that nodes with nothing to do do not all take the same one.
  defp publish(state) do
    entries = for {_pid, {_far, entry}} <- state.peers, do: entry
    peers = Enum.sort_by(entries, &:erlang.phash2({node(), &1.node}))
    route = %{state.route | cluster: %{state.route.cluster | peers: peers}}
    :ok = Routes.update(state.cluster, route)
    %{state | route: route}
  end

  defp settle(state, peer),
    do: tell_starters(%{state | unsettled: MapSet.delete(state.unsettled, peer)})

  defp tell_starters(state) do
    if MapSet.size(state.unsettled) == 0 do
      Enum.each(state.starters, &GenServer.reply(&1, :ok))
      %{state | starters: []}
    else
      state
    end
  end
end
