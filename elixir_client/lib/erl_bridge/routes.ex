defmodule ErlBridge.Routes do
  @moduledoc """
  Where every caller finds the route of a bridge or a cluster, by the pid of its supervisor.

  A route is kept in two parts. What stays as it is for as long as a pool lives, which is most of it, is a
  persistent term: a caller reads it without a copy. The workers come and go, and a persistent term that
  changes has the whole node looked through; so they are in a table.

  The process only makes the entries, and takes them away when their pool has ended. It is linked to
  them: without it no route would ever go.

      iex> ErlBridge.Routes.lookup(self())
      nil
  """

  use GenServer

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
    :ok
  end

  @doc "The route of the bridge or cluster of this supervisor; `nil` where there is none."
  @spec lookup(pid) :: Route.t() | nil
  def lookup(supervisor) do
    with [{_supervisor, workers, cluster}] <- :ets.lookup(__MODULE__, supervisor),
         %Route{} = route <- :persistent_term.get({__MODULE__, supervisor}, nil) do
      %Route{route | workers: workers, cluster: cluster}
    else
      _none -> nil
    end
  end

  @impl true
  def init(nil) do
    Process.flag(:trap_exit, true)
    {:ok, %{}}
  end

  @impl true
  def handle_call({:publish, supervisor, route}, _from, supervisors) do
    Process.link(route.pool)
    :persistent_term.put({__MODULE__, supervisor}, route)
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
    :persistent_term.erase({__MODULE__, supervisor})
  end
end
