defmodule ErlBridge.Cluster.Door do
  @moduledoc """
  Lets the other nodes of a cluster use this node's bridge. It is a member of the cluster's process
  group, so the nodes find each other by it.

  Each request has a process of its own here, which is a caller of the bridge like any other: it waits
  in the pool's queue, and when it is killed, because nobody waits any more, its work is cancelled.
  Frames are passed on as they are.

  Messages it takes, all from an `ErlBridge.Cluster.Peer`: `{:request, peer, id, asked}`, `{:cancel,
  peer, id, of}`, `{:abandon, peer, id}` and `{:load, peer}`.

  When it ends, it takes no more requests and waits for those it has, for the `:shutdown_timeout`.
  """

  use GenServer

  alias ErlBridge.{Error, Request, Route}

  @group :bridges
  @cancel_timeout 5_000

  defstruct [:bridge, :scope, :shutdown_timeout, couriers: %{}, ids: %{}, peers: %{}]

  @doc "The process group that doors are in."
  @spec group() :: atom
  def group, do: @group

  @spec child_spec(map) :: Supervisor.child_spec()
  def child_spec(options) do
    %{
      id: __MODULE__,
      start: {__MODULE__, :start_link, [options]},
      shutdown: options.shutdown_timeout + 1_000
    }
  end

  @spec start_link(%{bridge: GenServer.server(), scope: atom, shutdown_timeout: pos_integer}) ::
          GenServer.on_start()
  def start_link(options), do: GenServer.start_link(__MODULE__, options)

  @impl true
  def init(options) do
    Process.flag(:trap_exit, true)
    :ok = :pg.join(options.scope, @group, self())
    {:ok, struct!(__MODULE__, options)}
  end

  @impl true
  def handle_info({:request, peer, id, asked}, %{bridge: bridge} = state),
    do: {:noreply, start(state, peer, id, fn -> relay(bridge, peer, id, asked) end)}

  def handle_info({:cancel, peer, id, of}, %{bridge: bridge} = state),
    do: {:noreply, start(state, peer, id, fn -> cancel(bridge, peer, id, of) end)}

  def handle_info({:abandon, peer, id}, state) do
    with %{{^peer, ^id} => courier} <- state.ids, do: Process.exit(courier, :kill)
    {:noreply, state}
  end

  def handle_info({:load, peer}, state) do
    tell_aside(peer, :load, {:ok, health(state.bridge)})
    {:noreply, state}
  end

  def handle_info({:EXIT, courier, reason}, state) do
    case Map.pop(state.couriers, courier) do
      {nil, _couriers} ->
        {:noreply, state}

      {{peer, id}, couriers} ->
        # One that was killed, because nobody waits, is not waited for either.
        if reason != :normal,
          do: tell_aside(peer, id, {:done, {:error, Error.worker_ended(reason, courier)}})

        {:noreply, %{state | couriers: couriers, ids: Map.delete(state.ids, {peer, id})}}
    end
  end

  def handle_info({:DOWN, _monitor, :process, peer, _reason}, state) do
    for {courier, {^peer, _id}} <- state.couriers, do: Process.exit(courier, :kill)
    {:noreply, %{state | peers: Map.delete(state.peers, peer)}}
  end

  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state) do
    :pg.leave(state.scope, @group, self())
    drain(state, now() + state.shutdown_timeout)
  end

  defp drain(%{couriers: couriers}, _until) when couriers == %{}, do: :ok

  defp drain(state, until) do
    receive do
      {:request, peer, id, _asked} ->
        tell_aside(peer, id, :not_taken)
        drain(state, until)

      {:load, peer} ->
        tell_aside(peer, :load, {:ok, %{status: :draining}})
        drain(state, until)

      message ->
        {:noreply, state} = handle_info(message, state)
        drain(state, until)
    after
      max(until - now(), 0) -> :ok
    end
  end

  defp start(state, peer, id, work) do
    courier = spawn_link(work)

    %{
      state
      | couriers: Map.put(state.couriers, courier, {peer, id}),
        ids: Map.put(state.ids, {peer, id}, courier),
        peers: Map.put_new_lazy(state.peers, peer, fn -> Process.monitor(peer) end)
    }
  end

  # Never waits: a node that reads slowly, or is cut off, must not hold up what others ask for.
  defp tell_aside(peer, id, content) do
    message = {:erl_bridge, id, content}

    if Process.send(peer, message, [:noconnect, :nosuspend]) == :nosuspend,
      do: spawn(fn -> tell(peer, id, content) end)
  end

  defp health(bridge) do
    case Route.lookup(bridge) do
      {:ok, route} ->
        {load, workers} = Route.load(route)
        %{status: :healthy, requests_in_flight: load, workers: workers}

      {:error, _not_running} ->
        %{status: :healthy, requests_in_flight: 0, workers: 0}
    end
  end

  ## In the process of a request

  defp relay(bridge, peer, id, asked) do
    case Request.relay(bridge, asked.encoded, options(peer, id, asked)) do
      {:ok, request} -> forward(request, peer, id)
      {:error, error} -> tell(peer, id, failed(error))
    end
  end

  defp options(peer, id, asked) do
    options = %{
      id: {peer, id},
      metadata: asked.metadata,
      timeout: asked.left,
      callbacks: if(asked.callbacks?, do: {peer, id}, else: %{})
    }

    options = if asked.events?, do: Map.put(options, :on_event, :forward), else: options

    case asked.wanted do
      {:session, session} -> Map.put(options, :session, session)
      :any -> options
    end
  end

  defp forward(request, peer, id) do
    case Request.next_frame(request) do
      {:event, frame, request} ->
        tell(peer, id, {:event, frame})
        forward(request, peer, id)

      {:final, frame, _request} ->
        tell(peer, id, {:final, frame})

      {:done, {:error, error}, _request} ->
        tell(peer, id, failed(error))
    end
  end

  # A bridge that is not there, or has no Python, is no reason for another node not to serve it.
  defp failed(%Error{type: :not_running, context: %{sent: false}}), do: :not_taken
  defp failed(error), do: {:done, {:error, error}}

  defp cancel(bridge, peer, id, of) do
    result = Request.cancel(bridge, {peer, of}, %{timeout: @cancel_timeout})

    case result do
      {:ok, cancelled} -> tell(peer, id, {:done, {:ok, %{cancelled: cancelled}}})
      {:error, error} -> tell(peer, id, {:done, {:error, error}})
    end
  end

  defp tell(peer, id, content), do: Process.send(peer, {:erl_bridge, id, content}, [:noconnect])

  defp now, do: System.monotonic_time(:millisecond)
end
