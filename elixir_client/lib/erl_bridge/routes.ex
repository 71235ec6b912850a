defmodule ErlBridge.Routes do
  @moduledoc """
  Where every caller finds the route of a bridge or a cluster, by the pid of its supervisor.

  A route is kept in two parts. What stays as it is for as long as a pool lives, which is most of it, is a
  persistent term: a caller reads it without a copy. The workers come and go, and a persistent term that
  changes has the whole node looked through; so they are in a table.

  Who keeps a route asks before each use whether it is still the `current?/1` one, for which each has an
  edition.

  The process only makes the entries, and takes them away when their pool has ended. It is linked to
  them: without it no route would ever go.

      iex> ErlBridge.Routes.lookup(self())
      nil
  """

  use GenServer

  @typedoc "What tells a route from what it becomes by an update, and from that of another pool."
  @opaque edition :: {:atomics.atomics_ref(), non_neg_integer}

  alias ErlBridge.Route

  @doc "Makes the table. It belongs to the calling process."
  @spec init_table() :: :ok
  def init_table do
    :ets.new(__MODULE__, [:named_table, :public, :set, read_concurrency: true])
    :ok
  end

  @spec start_link(term) :: GenServer.on_start()
  def start_link(_arguments), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc "Publishes the route that the calling process, its pool, has for a supervisor."
  @spec publish(pid, Route.t()) :: :ok
  def publish(supervisor, %Route{pool: pool} = route) when pool == self(),
    do: GenServer.call(__MODULE__, {:publish, supervisor, route}, :infinity)

  @doc "Publishes what has changed of it: its workers, or a cluster's nodes."
  @spec update(pid, Route.t()) :: :ok
  def update(supervisor, %Route{} = route) do
    true = :ets.update_element(__MODULE__, supervisor, [{2, route.workers}, {3, route.cluster}])
    outdate(supervisor)
  end

  @doc "The route of the bridge or cluster of this supervisor; `nil` where there is none."
  @spec lookup(pid) :: Route.t() | nil
  def lookup(supervisor) do
    with {route, _edition} <- find(supervisor), do: route
  end

  @doc "As `lookup/1`, with its edition."
  @spec find(pid) :: {Route.t(), edition} | nil
  def find(supervisor) do
    with {%Route{} = route, editions} <- :persistent_term.get({__MODULE__, supervisor}, nil),
         # Before the workers: what changes meanwhile must show.
         edition = :atomics.get(editions, 1),
         [{_supervisor, workers, cluster}] <- :ets.lookup(__MODULE__, supervisor) do
      {%Route{route | workers: workers, cluster: cluster}, {editions, edition}}
    else
      _none -> nil
    end
  end

  @doc "Whether the route of this edition is what `lookup/1` would give."
  @spec current?(edition) :: boolean
  def current?({editions, edition}), do: :atomics.get(editions, 1) == edition

  defp outdate(supervisor) do
    {_route, editions} = :persistent_term.get({__MODULE__, supervisor})
    :atomics.add(editions, 1, 1)
  end

  @impl true
  def init(nil) do
    Process.flag(:trap_exit, true)
    {:ok, %{}}
  end

  @impl true
  def handle_call({:publish, supervisor, route}, _from, supervisors) do
    Process.link(route.pool)
    if :ets.member(__MODULE__, supervisor), do: outdate(supervisor)
    :persistent_term.put({__MODULE__, supervisor}, {route, :atomics.new(1, signed: false)})
    :ets.insert(__MODULE__, {supervisor, route.workers, route.cluster})
    {:reply, :ok, Map.put(supervisors, route.pool, supervisor)}
  end

  @impl true
  def handle_info({:EXIT, pool, _reason}, supervisors) do
    {supervisor, others} = Map.pop!(supervisors, pool)
    # The next pool of that supervisor may have been quicker.
    if supervisor not in Map.values(others), do: withdraw(supervisor)
    {:noreply, others}
  end

  defp withdraw(supervisor) do
    :ets.delete(__MODULE__, supervisor)
    outdate(supervisor)
    :persistent_term.erase({__MODULE__, supervisor})
  end
end
