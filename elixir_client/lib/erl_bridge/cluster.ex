defmodule ErlBridge.Cluster do
  @moduledoc """
  The Pythons of many nodes as one: requests go to the node's own bridge first, and to the least loaded
  of all others when that has more to do.

  Start one beside the bridge, on every node, under the same name:

      children = [
        {ErlBridge, name: MyApp.Bridge},
        {ErlBridge.Cluster,
         name: MyApp.Cluster, bridge: MyApp.Bridge, python_nodes: [:"py1@10.0.0.7"]}
      ]

  and give its name where a bridge is taken:

      {:ok, vectors} = ErlBridge.call(MyApp.Cluster, :embed, %{texts: texts})
      {:ok, %{program: program}} = ErlBridge.optimize(MyApp.Cluster, signature, rows, lm: lm)

  Two kinds of nodes serve:

    * nodes of Elixir that run this too, with a `:bridge`: they find each other with `:pg`, as soon as
      they are connected, whoever connects them; those in `:nodes` are connected to from here, and again
      when the connection was lost
    * nodes that are Python (`python -m erl_bridge node --name py1@10.0.0.7`), which are named in
      `:python_nodes` and connected to from here, again and again with longer pauses if need be

  A node needs no Python of its own: without a `:bridge` it only uses the others.

  All that holds for a bridge holds here: events come to the caller and functions run on its node, a
  deadline goes along and ends the work where it is, a caller that dies cancels its request, and all of
  a session meet one Python, as long as its node is there. When a node goes away, those that wait for
  it get a `:process_crashed` at once, and what may be repeated (`idempotent: true`, which predictions
  and evaluations are) goes to another one. `hello/1`, `workers/1`, `resize/2` and `rolling_restart/1`
  are of a bridge alone.

  The guide "A cluster" tells more.

  ## Options

  #{ErlBridge.Options.docs(:cluster)}
  """

  use Supervisor

  alias ErlBridge.Cluster.{Choice, Connector, Door, Members, Pulse}
  alias ErlBridge.{Bridge, Error, Options, Route}

  @doc """
  A child specification, for `{ErlBridge.Cluster, options}` in a list of children, behind the bridge.

      iex> ErlBridge.Cluster.child_spec(name: MyApp.Cluster, shutdown_timeout: 1_000).id
      MyApp.Cluster
  """
  @spec child_spec(keyword) :: Supervisor.child_spec()
  def child_spec(options) do
    %{name: name} = validate!(options)
    %{id: name, start: {__MODULE__, :start_link, [options]}, type: :supervisor}
  end

  @doc """
  Joins the cluster of that name. Returns when it is known of each other node whether it is there,
  which need not be so.

  Raises `ArgumentError` for a wrong option.
  """
  @spec start_link(keyword) :: {:ok, pid} | {:error, Error.t() | {:already_started, pid}}
  def start_link(options) do
    options = validate!(options)

    with {:ok, cluster} <- Supervisor.start_link(__MODULE__, nil, name: options.name) do
      case Bridge.start_children(cluster, children(cluster, options)) do
        :ok ->
          {:ok, %Route{pool: members}} = Route.lookup(cluster)
          Members.await_start(members)
          {:ok, cluster}

        {:error, error} ->
          Bridge.give_up(cluster, error)
      end
    end
  end

  @doc """
  The nodes that there are, this one first if it has a bridge: maps of `node`, `kind` (`:local`,
  `:bridge` or `:python`), `phase` (`:up`, `:down`, or `:silent` for one that has not answered for
  `:silent_after`), `in_flight` (requests from this node), `load` (from all nodes, as far as is known here)
  and `workers`.
  """
  @spec nodes(ErlBridge.bridge()) :: {:ok, [map]} | {:error, Error.t()}
  def nodes(cluster) do
    with {:ok, %Route{cluster: %{} = members}} <- Route.lookup(cluster) do
      {:ok, Choice.nodes(members)}
    else
      {:ok, _bridge} ->
        {:error, Error.invalid("#{inspect(cluster)} is a bridge, no cluster", %{})}

      {:error, error} ->
        {:error, error}
    end
  end

  defp validate!(options) do
    options = Options.validate!(options, :cluster)

    if not is_map_key(options, :name), do: raise(ArgumentError, "the option :name must be given")
    options
  end

  @impl true
  def init(nil), do: Supervisor.init([], strategy: :one_for_all)

  defp children(cluster, options) do
    scope = Module.concat(options.name, Scope)
    peers = {:via, Registry, {ErlBridge.Registry, {cluster, :peers}}}

    home = %{
      cluster: cluster,
      supervisor: peers,
      scope: scope,
      cache: if(options.cache, do: Bridge.cache(cluster))
    }

    Bridge.cache_children(cluster, options) ++
      [
        %{id: :pg, start: {:pg, :start_link, [scope]}},
        {DynamicSupervisor, name: peers, strategy: :one_for_one},
        {Members, {home, options}},
        {Connector, Map.take(options, [:nodes, :reconnect])},
        {Pulse, options.python_nodes}
      ] ++ doors(scope, options)
  end

  # The last to start is the first to end: others are served as long as all else is there.
  defp doors(scope, %{bridge: bridge} = options),
    do: [{Door, %{bridge: bridge, scope: scope, shutdown_timeout: options.shutdown_timeout}}]

  defp doors(_scope, _no_bridge), do: []
end
