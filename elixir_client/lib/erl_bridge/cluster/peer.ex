defmodule ErlBridge.Cluster.Peer do
  @moduledoc """
  The process that takes requests for the Pythons of one other node, with the messages that
  `ErlBridge.Worker` takes and gives.

  The other side is a bridge's `ErlBridge.Cluster.Door`, or a node that is Python itself. Both are
  sent messages with an id, and what they send back has it: `{:erl_bridge, id, content}`. Functions that
  Python calls are run here, on the node of the caller. So the functions of a request, and where its
  reply goes, never leave the node.

  When the connection is lost, everybody who waits gets an error at once. The process for a door ends
  then; the one for a Python node tries again and again.
  """

  use GenServer, restart: :temporary

  alias ErlBridge.{Deadline, Error, Inflight, Load, Telemetry, Vocabulary, Worker}
  alias ErlBridge.Cluster.{Choice, Far, Gauge}
  alias ErlBridge.Recovery.Backoff

  defstruct [
    :far,
    :node,
    :load,
    :gauge,
    :about,
    :settings,
    :members,
    :monitor,
    phase: :connecting,
    asked?: false,
    failures: 0,
    idle_ticks: 0,
    inflight: Inflight.new()
  ]

  @typedoc "What a peer is told when it starts."
  @type start :: %{
          far: Far.t(),
          load: Load.t(),
          gauge: Gauge.t(),
          cluster: term,
          members: pid,
          settings: %{
            load_interval: pos_integer,
            reconnect: keyword,
            max_frame: pos_integer
          }
        }

  # A caller needs no longer from its taking room to its sending.
  @idle_ticks 3

  @doc "Starts the process for another node. It says `{:settled, pid}` when it knows whether that is there."
  @spec start_link(start) :: GenServer.on_start()
  def start_link(start), do: GenServer.start_link(__MODULE__, start)

  @doc "What a route needs to know of it."
  @spec entry(pid, start) :: Choice.peer()
  def entry(pid, start) do
    %{
      node: Far.node(start.far),
      kind: Far.kind(start.far),
      worker: pid,
      load: start.load,
      gauge: start.gauge
    }
  end

  @impl true
  def init(start) do
    Process.flag(:trap_exit, true)
    Vocabulary.atoms()
    node = Far.node(start.far)

    state = %__MODULE__{
      far: start.far,
      node: node,
      load: start.load,
      gauge: start.gauge,
      settings: start.settings,
      members: start.members,
      about: %{bridge: start.cluster, node: node, kind: Far.kind(start.far)}
    }

    # A Python may connect to this node itself, and is not to wait for the next attempt then.
    if state.about.kind == :python, do: :net_kernel.monitor_nodes(true, node_type: :hidden)
    Process.send_after(self(), :tick, start.settings.load_interval)
    {:ok, connect(state)}
  end

  # The monitor connects the nodes, and its message says when that failed.
  defp connect(state) do
    ask_load(%{state | phase: :connecting, monitor: Process.monitor(Far.address(state.far))})
  end

  ## What callers send

  @impl true
  def handle_info({:request, request, body}, state) do
    {:noreply, begin(state, request, &Far.request(state.far, &1, request, body))}
  end

  def handle_info({:cast, request, body}, %{phase: :up} = state) do
    {id, inflight} = Inflight.add(state.inflight, Map.take(request, [:bytes]))
    Far.cast(state.far, id, request, body)
    {:noreply, %{state | inflight: inflight}}
  end

  def handle_info({:cast, request, _body}, state) do
    give_back(state, request)
    {:noreply, state}
  end

  def handle_info({:cancel, request, reply_to}, state) do
    case Inflight.id_of(state.inflight, reply_to) do
      nil ->
        Worker.answer(request, {:ok, %{cancelled: false}})
        {:noreply, state}

      of ->
        {:noreply, begin(state, request, &Far.cancel(state.far, &1, of))}
    end
  end

  def handle_info({:abandon, reply_to}, state),
    do: {:noreply, abandon(state, Inflight.id_of(state.inflight, reply_to))}

  ## What the other side sends

  def handle_info({:erl_bridge, :load, content}, state),
    do: {:noreply, hear_load(%{state | asked?: false}, content)}

  def handle_info({:erl_bridge, id, content}, state), do: {:noreply, hear(state, id, content)}

  # The answer to a call, which has the call's tag.
  def handle_info({{:erl_bridge, id}, result}, state), do: {:noreply, hear(state, id, result)}

  def handle_info({:DOWN, monitor, :process, _it, reason}, %{monitor: monitor} = state),
    do: lose(state, reason)

  def handle_info({:DOWN, _monitor, :process, caller, _reason}, state) do
    {ids, inflight} = Inflight.ended(state.inflight, caller)
    {:noreply, Enum.reduce(ids, %{state | inflight: inflight}, &abandon(&2, &1))}
  end

  ## What happens here

  def handle_info(:tick, state) do
    Process.send_after(self(), :tick, state.settings.load_interval)
    {:noreply, state |> tidy() |> look()}
  end

  def handle_info(:connect, %{phase: :down} = state), do: {:noreply, connect(state)}

  def handle_info({:nodeup, node, _info}, %{node: node, phase: :down} = state),
    do: {:noreply, connect(state)}

  def handle_info({:EXIT, task, reason}, state) do
    case Inflight.pop_task(state.inflight, task) do
      {nil, _inflight} ->
        {:noreply, state}

      {call_id, inflight} ->
        if reason != :normal, do: Far.died(state.far, call_id, reason)
        {:noreply, %{state | inflight: inflight}}
    end
  end

  def handle_info(_late, state), do: {:noreply, state}

  # Requests

  defp begin(%{phase: :up} = state, request, send_off) do
    {id, inflight} = Inflight.add(state.inflight, request)
    state = %{state | inflight: inflight}
    if send_off.(id) == :noconnect, do: not_taken(state, id), else: state
  end

  # It went away meanwhile: another one is to have the request.
  defp begin(state, request, _send_off) do
    give_back(state, request)
    Worker.refuse(request)
    state
  end

  defp abandon(state, nil), do: state

  defp abandon(state, id) do
    {_request, tasks, inflight} = Inflight.abandon(state.inflight, id)
    kill(tasks)
    Far.abandon(state.far, id)
    %{state | inflight: inflight}
  end

  defp kill(tasks), do: Enum.each(tasks, &Process.exit(&1, :kill))

  defp give_back(state, request) do
    with %{bytes: bytes} when is_integer(bytes) <- request,
         do: Load.give_back(state.load, bytes)
  end

  # Answers

  defp hear(state, id, {:final, frame}), do: finish(state, id, &Worker.forward(&1, :final, frame))
  defp hear(state, id, {:done, result}), do: finish(state, id, &Worker.answer(&1, result))
  defp hear(state, id, {:ok, result}), do: finish(state, id, &Worker.answer(&1, {:ok, result}))

  defp hear(state, id, {:error, error}),
    do: finish(state, id, &Worker.answer(&1, {:error, Error.from_wire(error)}))

  defp hear(state, id, :not_taken), do: not_taken(state, id)

  defp hear(state, id, {:event, event}) do
    with %{events?: true} = request <- Inflight.request(state.inflight, id),
         do: Worker.forward(request, :event, event)

    state
  end

  defp hear(state, id, call) do
    case Inflight.request(state.inflight, id) do
      nil -> state
      request -> run(state, id, request, call)
    end
  end

  # Until it says how it is, nobody else is sent there.
  defp not_taken(state, id) do
    Gauge.down(state.gauge)
    finish(state, id, &Worker.refuse/1)
  end

  defp finish(state, id, tell) do
    {request, tasks, inflight} = Inflight.finish(state.inflight, id)
    kill(tasks)
    give_back(state, request)
    tell.(request)
    %{state | inflight: inflight}
  end

  # Functions that Python calls

  defp run(%{far: far, settings: settings} = state, id, request, call) do
    task =
      spawn_link(fn ->
        Process.put(:"$callers", [request.caller])
        Deadline.inherit(request.deadline)
        Far.run(far, request.callbacks, call, settings.max_frame)
      end)

    %{state | inflight: Inflight.add_task(state.inflight, task, id, Far.call_id(call))}
  end

  # How the other side is

  defp look(%{phase: :down} = state), do: state
  defp look(%{asked?: true} = state), do: state
  defp look(state), do: ask_load(state)

  defp ask_load(state) do
    Far.ask_load(state.far)
    %{state | asked?: true}
  end

  # From before it went away.
  defp hear_load(%{phase: :down} = state, _health), do: state

  defp hear_load(state, {:ok, %{status: :healthy} = health}) do
    workers = Map.get(health, :workers, 1)
    others = health.requests_in_flight - Load.requests(state.load)

    if workers > 0,
      do: Gauge.up(state.gauge, max(others, 0), workers),
      else: Gauge.down(state.gauge)

    come_up(state)
  end

  # It ends: what it has it finishes.
  defp hear_load(state, _draining) do
    Gauge.down(state.gauge)
    come_up(state)
  end

  defp come_up(%{phase: :up} = state), do: state

  defp come_up(state) do
    Telemetry.cluster_node_up(%{count: 1}, state.about)
    send(state.members, {:settled, self()})
    %{state | phase: :up, failures: 0}
  end

  defp lose(state, reason) do
    # Before anybody hears of it: who tries again must not be sent here.
    Gauge.down(state.gauge)
    {requests, tasks, inflight} = Inflight.drain(state.inflight)
    error = Error.node_lost(state.node, reason)

    for request <- requests do
      give_back(state, request)
      Worker.answer(request, {:error, error})
    end

    kill(tasks)
    tell_down(state, reason)
    send(state.members, {:settled, self()})
    reconnect(%{state | phase: :down, asked?: false, inflight: inflight})
  end

  defp tell_down(%{phase: :up} = state, reason),
    do: Telemetry.cluster_node_down(%{count: 1}, Map.put(state.about, :reason, reason))

  defp tell_down(_never_up, _reason), do: :ok

  defp reconnect(%{far: {:door, _pid}} = state) do
    Worker.refuse_unsent()
    {:stop, :normal, state}
  end

  defp reconnect(%{failures: failures} = state) do
    delay = Backoff.delay(state.settings.reconnect, failures, :equal, &:rand.uniform/1)
    Process.send_after(self(), :connect, delay)
    {:noreply, %{state | failures: failures + 1}}
  end

  # Room that is taken while nothing is in flight was taken by a caller that was killed before it
  # could send.
  defp tidy(state) do
    state = %{state | inflight: Inflight.forget_idle(state.inflight)}

    if Inflight.idle?(state.inflight) and Load.requests(state.load) > 0 do
      if state.idle_ticks + 1 == @idle_ticks, do: Load.clear(state.load)
      %{state | idle_ticks: rem(state.idle_ticks + 1, @idle_ticks)}
    else
      %{state | idle_ticks: 0}
    end
  end
end
