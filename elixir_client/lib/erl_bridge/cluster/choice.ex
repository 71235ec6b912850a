defmodule ErlBridge.Cluster.Choice do
  @moduledoc """
  Which node of a cluster gets a request: the node's own bridge, or the one with the least to do.

  What counts is the number of requests in flight for each worker. That of the own bridge is known
  exactly. Of another node it is what was sent there from here and is not answered, and what others
  had there when it was last asked, at most one `:load_interval` ago. The own bridge is taken until
  it has `:prefer_local` requests for each worker more than another node.

  A node that has not answered for `:silent_after` comes after all others, and one that is away is not
  there. All requests of a session meet one node, as long as that is there, and the nodes of a
  cluster agree which (rendezvous hashing): so nodes that come and go take no sessions from others.

  It is worked out in the calling process; no other is asked.
  """

  alias ErlBridge.Cluster.Gauge
  alias ErlBridge.{Deadline, Error, Load, Route}

  @typedoc "Another node: what it is, the process here that takes requests for it, and its load."
  @type peer :: %{
          node: node,
          kind: :bridge | :python,
          worker: pid,
          load: Load.t(),
          gauge: Gauge.t()
        }

  @typedoc "All nodes of a cluster, seen from this one: its own bridge, if it has one, and the others."
  @type members :: %{
          bridge: GenServer.server() | nil,
          prefer_local: non_neg_integer,
          peers: [peer]
        }

  @typedoc "How the own bridge is asked: whoever has room, or through its queue (`Route.reserve_again/5`)."
  @type how :: :directly | :through_its_queue

  # What puts a node behind all those that are well.
  @behind 1.0e9

  @doc """
  Takes room for a request on the best node that has it. Where none has, waits in the queue of the own
  bridge, if there is one.
  """
  @spec reserve(
          Route.t(),
          Route.wanted(),
          non_neg_integer,
          Deadline.t(),
          (reference -> any),
          how
        ) :: {:ok, Route.worker()} | {:error, Error.t()}
  def reserve(route, wanted, bytes, deadline, on_wait, how) do
    {candidates, wanted} = route.cluster |> candidates() |> narrow(wanted)
    wait = &wait(how, &1.route, wanted, bytes, deadline, on_wait)

    take = fn
      %{route: local} when how == :directly -> take_own(local, wanted, bytes)
      %{route: _local} = own -> wait.(own)
      %{peer: peer} -> take(peer, bytes, route.limits)
    end

    with nil <- Enum.find_value(candidates, take) do
      case Enum.find(candidates, &is_map_key(&1, :route)) do
        nil -> {:error, refusal(candidates, route)}
        own -> wait.(own)
      end
    end
  end

  defp wait(:directly, route, wanted, bytes, deadline, on_wait),
    do: Route.reserve(route, wanted, bytes, deadline, on_wait)

  defp wait(:through_its_queue, route, wanted, bytes, deadline, on_wait),
    do: Route.reserve_again(route, wanted, bytes, deadline, on_wait)

  defp take_own(route, wanted, bytes) do
    with true <- :atomics.get(route.waiting, 1) == 0,
         {:ok, worker} <- Route.take(route, wanted, bytes) do
      {:ok, worker}
    else
      _no_room -> nil
    end
  end

  defp take(peer, bytes, limits),
    do: if(Load.take(peer.load, bytes, limits), do: {:ok, {peer.worker, peer.load}})

  defp refusal([], route), do: none(route)

  defp refusal(candidates, route),
    do: Error.nodes_full(route.bridge, Enum.map(candidates, & &1.node))

  @doc "A worker of the best node, however loaded; `nil` where none is up."
  @spec any_worker(Route.t()) :: Route.worker() | nil
  def any_worker(route) do
    Enum.find_value(candidates(route.cluster), fn
      %{route: local} -> Route.any_worker(local)
      %{peer: peer} -> {peer.worker, peer.load}
    end)
  end

  @doc "The best node."
  @spec node(Route.t()) :: {:ok, node} | {:error, Error.t()}
  def node(route) do
    case candidates(route.cluster) do
      [best | _others] -> {:ok, best.node}
      [] -> {:error, none(route)}
    end
  end

  @doc "The node of the Python behind a worker."
  @spec node_of(members, pid) :: node
  def node_of(%{peers: peers}, worker) do
    case Enum.find(peers, &(&1.worker == worker)) do
      nil -> Kernel.node(worker)
      peer -> peer.node
    end
  end

  @doc "All nodes and what is known of them, the own one first."
  @spec nodes(members) :: [map]
  def nodes(members) do
    own(members) ++
      for peer <- members.peers do
        {phase, foreign, workers} = Gauge.read(peer.gauge)
        in_flight = Load.requests(peer.load)

        %{
          node: peer.node,
          kind: peer.kind,
          phase: phase,
          in_flight: in_flight,
          load: in_flight + foreign,
          workers: workers
        }
      end
  end

  defp own(%{bridge: nil}), do: []

  defp own(%{bridge: bridge}) do
    {load, workers} =
      case Route.lookup(bridge) do
        {:ok, route} -> Route.load(route)
        {:error, _not_running} -> {0, 0}
      end

    phase = if workers > 0, do: :up, else: :down
    own = %{node: Kernel.node(), kind: :local, phase: phase, in_flight: load}
    [Map.merge(own, %{load: load, workers: workers})]
  end

  # The best first.
  defp candidates(members) do
    peers = for peer <- members.peers, candidate = candidate(peer), do: candidate
    Enum.sort_by(local(members) ++ peers, & &1.cost)
  end

  defp local(%{bridge: nil}), do: []

  defp local(%{bridge: bridge} = members) do
    case Route.lookup(bridge) do
      {:ok, route} ->
        cost =
          case Route.load(route) do
            {_waiting, 0} -> 2 * @behind
            {load, workers} -> load / workers - members.prefer_local
          end

        [%{node: Kernel.node(), cost: cost, route: route}]

      {:error, _not_running} ->
        []
    end
  end

  defp candidate(peer) do
    case Gauge.read(peer.gauge) do
      {:down, _foreign, _workers} ->
        nil

      {state, foreign, workers} ->
        cost = (Load.requests(peer.load) + foreign) / workers
        cost = if state == :silent, do: cost + @behind, else: cost
        %{node: peer.node, cost: cost, peer: peer}
    end
  end

  defp narrow(candidates, :any), do: {candidates, :any}

  defp narrow([], wanted), do: {[], wanted}

  defp narrow(candidates, {:session, session} = wanted),
    do: {[Enum.max_by(candidates, &:erlang.phash2({session, &1.node}))], wanted}

  defp narrow(candidates, {:node, node, wanted}),
    do: {Enum.filter(candidates, &(&1.node == node)), wanted}

  defp none(route) do
    phases = for node <- nodes(route.cluster), do: {node.node, node.phase}
    Error.no_node(route.bridge, Map.new(phases))
  end
end
