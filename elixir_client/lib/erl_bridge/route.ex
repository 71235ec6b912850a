defmodule ErlBridge.Route do
  @moduledoc """
  What a caller must know of a bridge to send it a request, and the way to a worker with room.

  A bridge's pool publishes its route where every caller reads it (`ErlBridge.Routes`), so that a
  request goes straight to its worker. The pool is asked only where no worker has room; then the
  caller waits in its queue.

  A cluster has a route too. Its workers are those of the node's own bridge and, for each other node,
  a process here that takes requests as a worker does; `ErlBridge.Cluster.Choice` chooses.
  """

  alias ErlBridge.Cluster.Choice
  alias ErlBridge.{CircuitBreaker, Deadline, Error, Load, Pool, Routes}
  alias ErlBridge.Recovery.{Budget, Policy}

  @fields [
    :bridge,
    :pool,
    :workers,
    :waiting,
    :limits,
    :queue_timeout,
    :timeout,
    :max_frame,
    :policy,
    :budget,
    :breaker,
    :cache
  ]
  @enforce_keys @fields
  defstruct @fields ++ [:cluster]

  @typedoc """
  A route: the bridge's name or pid, its pool, its workers by number (`nil` for one that is not
  up), how many callers wait, the limits of each worker, the bridge's settings for requests, and
  what their recovery needs.
  """
  @type t :: %__MODULE__{
          bridge: GenServer.server(),
          pool: pid,
          workers: tuple,
          waiting: :atomics.atomics_ref(),
          limits: Load.limits(),
          queue_timeout: timeout,
          timeout: timeout,
          max_frame: pos_integer,
          policy: Policy.t(),
          budget: Budget.t(),
          breaker: CircuitBreaker.handle() | nil,
          cache: GenServer.server() | nil,
          cluster: Choice.members() | nil
        }

  @type worker :: {pid, Load.t()}

  @typedoc """
  Any worker, or the one that all requests of a session meet; of a cluster also one of that node.
  """
  @type wanted :: :any | {:session, term} | {:node, node, :any | {:session, term}}

  @doc "The route of a running bridge."
  @spec lookup(GenServer.server()) :: {:ok, t} | {:error, Error.t()}
  def lookup(bridge) do
    with supervisor when is_pid(supervisor) <- supervisor(bridge),
         %__MODULE__{} = route <- Routes.lookup(supervisor) do
      {:ok, route}
    else
      _not_there -> {:error, Error.not_running(bridge)}
    end
  end

  defp supervisor(bridge) when is_pid(bridge), do: bridge
  defp supervisor(bridge), do: GenServer.whereis(bridge)

  @doc """
  Takes room for a request on a worker: on the least loaded one, or the session's. Waits for it in
  the pool's queue where there is none.

  The wait has an end, at the deadline or the route's `:queue_timeout`. `on_wait` is called with
  the reference to which a message `{reference, :refused, error}` ends it too.
  """
  @spec reserve(t, wanted, non_neg_integer, Deadline.t(), (reference -> any)) ::
          {:ok, worker} | {:error, Error.t()}
  def reserve(%__MODULE__{cluster: nil} = route, wanted, bytes, deadline, on_wait) do
    with true <- :atomics.get(route.waiting, 1) == 0,
         {:ok, worker} <- take(route, wanted, bytes) do
      {:ok, worker}
    else
      _no_room -> Pool.wait(route, wanted, bytes, deadline, on_wait)
    end
  end

  def reserve(%__MODULE__{} = route, wanted, bytes, deadline, on_wait),
    do: Choice.reserve(route, wanted, bytes, deadline, on_wait, :directly)

  @doc """
  As `reserve/5`, for a request whose worker was gone: through the pool, which learns of that as the
  caller did.
  """
  @spec reserve_again(t, wanted, non_neg_integer, Deadline.t(), (reference -> any)) ::
          {:ok, worker} | {:error, Error.t()}
  def reserve_again(%__MODULE__{cluster: nil} = route, wanted, bytes, deadline, on_wait),
    do: Pool.wait(route, wanted, bytes, deadline, on_wait)

  def reserve_again(%__MODULE__{} = route, wanted, bytes, deadline, on_wait),
    do: Choice.reserve(route, wanted, bytes, deadline, on_wait, :through_its_queue)

  @doc "Takes room on any worker that has it now, as `reserve/5` without its wait; `:full` also of a cluster."
  @spec take_at_once(t, non_neg_integer) :: {:ok, worker} | :full
  def take_at_once(%__MODULE__{cluster: nil, waiting: waiting} = route, bytes),
    do: if(:atomics.get(waiting, 1) == 0, do: take(route, :any, bytes), else: :full)

  def take_at_once(%__MODULE__{}, _bytes), do: :full

  @doc "Takes room on a worker that has it now; `:full` where none has."
  @spec take(t, wanted, non_neg_integer) :: {:ok, worker} | :full
  def take(%__MODULE__{} = route, wanted, bytes) do
    with {_pid, load} = worker <- choose(route.workers, wanted),
         true <- Load.take(load, bytes, route.limits) do
      {:ok, worker}
    else
      _none_or_full -> :full
    end
  end

  @doc "Gives back room that was taken for a request which is not sent after all."
  @spec give_back(t, Load.t(), non_neg_integer) :: :ok
  def give_back(%__MODULE__{cluster: nil, pool: pool}, load, bytes) do
    Load.give_back(load, bytes)
    send(pool, :room)
    :ok
  end

  def give_back(%__MODULE__{cluster: %{bridge: bridge}}, load, bytes) do
    case bridge && lookup(bridge) do
      {:ok, own} -> give_back(own, load, bytes)
      _none_whose_queue_waits -> Load.give_back(load, bytes)
    end
  end

  @doc "Any worker that is up, however loaded, for what must get through; `nil` where none is."
  @spec any_worker(t) :: worker | nil
  def any_worker(%__MODULE__{cluster: nil, workers: workers}), do: choose(workers, :any)
  def any_worker(%__MODULE__{} = route), do: Choice.any_worker(route)

  @doc "How many requests a bridge's workers have or are to get, and how many of the workers are up."
  @spec load(t) :: {non_neg_integer, non_neg_integer}
  def load(%__MODULE__{} = route) do
    loads = for {_pid, load} <- Tuple.to_list(route.workers), do: Load.requests(load)
    {Enum.sum(loads) + :atomics.get(route.waiting, 1), length(loads)}
  end

  @doc """
  Has all requests with these options meet one node, where the route is that of a cluster: what is sent
  as a dataset is where it was sent to.
  """
  @spec pin(t, map) :: {:ok, map} | {:error, Error.t()}
  def pin(%__MODULE__{cluster: cluster}, options)
      when cluster == nil or is_map_key(options, :node),
      do: {:ok, options}

  def pin(%__MODULE__{} = route, options) do
    with {:ok, node} <- Choice.node(route), do: {:ok, Map.put(options, :node, node)}
  end

  @doc "The node of the Python behind a worker."
  @spec node_of(t, pid) :: node
  def node_of(%__MODULE__{cluster: nil}, worker), do: node(worker)
  def node_of(%__MODULE__{cluster: cluster}, worker), do: Choice.node_of(cluster, worker)

  # The first of the least loaded: one caller after another meets the same worker, which is warm.
  defp choose({worker}, _wanted), do: worker

  defp choose(workers, {:session, session}),
    do: elem(workers, :erlang.phash2(session, tuple_size(workers)))

  defp choose(workers, :any), do: least(workers, tuple_size(workers) - 1, nil, :none)

  defp least(_workers, -1, best, _requests), do: best

  defp least(workers, index, best, requests) do
    case elem(workers, index) do
      {_pid, load} = worker ->
        # A number is less than any atom.
        own = Load.requests(load)

        if own <= requests,
          do: least(workers, index - 1, worker, own),
          else: least(workers, index - 1, best, requests)

      nil ->
        least(workers, index - 1, best, requests)
    end
  end
end
