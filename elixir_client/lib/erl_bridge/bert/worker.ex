defmodule ErlBridge.Bert.Worker do
  @moduledoc """
  The process that has the connections to a server of BERT-RPC: what `ErlBridge.Worker` is to a
  Python of our own, with the same messages to and from callers and the pool.

  Each connection is an `ErlBridge.Bert.Channel`. It has one request under way, or is idle and kept
  for the next. The packet that ends a request is decoded by its caller. A request of a caller that
  died, or gave up, ends with its connection.
  """

  use GenServer, restart: :temporary

  alias ErlBridge.{Bert, Callback, Error, Load, Options, Protocol, Vocabulary, Worker}
  alias ErlBridge.Bert.{Channel, Connection}

  # `connect` is a function, because its options hold a token, and a state is logged when its
  # process crashes. `busy` has by channel its request, and whether the channel is open; `tasks` has by process the channel and the call that it answers.
  defstruct [
    :connect,
    :server,
    :post,
    :shutdown_timeout,
    :max_frame,
    :idle_at,
    idle: [],
    busy: %{},
    tasks: %{}
  ]

  @doc false
  def start_link(arguments), do: GenServer.start_link(__MODULE__, arguments)

  @impl true
  def init({options_in, post}) do
    Process.flag(:trap_exit, true)
    Vocabulary.atoms()
    {:ok, %__MODULE__{post: post}, {:continue, {:start, options_in}}}
  end

  @impl true
  def handle_continue({:start, options_in}, state) do
    options = options_in.()
    connect = Options.validate!(options.connect, :connect)
    Process.send_after(self(), :no_hello, connect.connect_timeout + options.start_timeout)

    state = %{
      state
      | connect: fn -> Connection.open(connect) end,
        server: "#{connect.host}:#{connect.port}",
        shutdown_timeout: options.shutdown_timeout,
        max_frame: Map.get(options, :max_frame, 64 * 1024 * 1024)
    }

    {:noreply, ask(state, :call, :hello, own_body(:health_check, %{}))}
  end

  @impl true
  def handle_info({:request, request, body}, state),
    do: {:noreply, ask(state, :call, watch(request), body)}

  def handle_info({:cast, request, body}, state), do: {:noreply, ask(state, :cast, request, body)}

  def handle_info({:cancel, request, reply_to}, state) do
    found = find(state, :reply_to, reply_to)
    with {channel, _entry} <- found, do: send(channel, :cancel)
    Worker.answer(request, {:ok, %{cancelled: found != nil}})
    {:noreply, state}
  end

  def handle_info({:abandon, reply_to}, state),
    do: {:noreply, abandon(state, find(state, :reply_to, reply_to))}

  def handle_info({:DOWN, monitor, :process, _caller, _reason}, state),
    do: {:noreply, abandon(state, find(state, :monitor, monitor))}

  def handle_info({:opened, channel}, state) when is_map_key(state.busy, channel),
    do: {:noreply, put_in(state.busy[channel].open?, true)}

  def handle_info({:unreachable, channel, error}, state) when is_map_key(state.busy, channel),
    do: unreachable(state, channel, error)

  def handle_info({:packet, channel, packet}, state) when is_map_key(state.busy, channel),
    do: take(state, channel, state.busy[channel].request, Bert.peek(packet), packet)

  # Unasked: it says why the connection ends.
  def handle_info({:packet, channel, _packet}, state), do: {:noreply, drop_idle(state, channel)}

  def handle_info({:lost, channel, why}, state) when is_map_key(state.busy, channel),
    do: lost(state, channel, Error.disconnected(state.server, why))

  def handle_info({:lost, channel, _why}, state), do: {:noreply, drop_idle(state, channel)}

  def handle_info({kind, task, body}, state)
      when kind in [:piece, :answer] and is_map_key(state.tasks, task) do
    {channel, _call_id} = state.tasks[task]
    send(channel, {:answer, task, body})
    {:noreply, if(kind == :answer, do: forget_task(state, task), else: state)}
  end

  def handle_info({:EXIT, task, reason}, state) when is_map_key(state.tasks, task) do
    {channel, call_id} = state.tasks[task]
    send(channel, {:answer, task, Callback.died(call_id, reason)})
    {:noreply, forget_task(state, task)}
  end

  # Of a channel that failed by itself, or of one or a task that is over.
  def handle_info({:EXIT, channel, reason}, state) when is_map_key(state.busy, channel),
    do: lost(state, channel, Error.disconnected(state.server, "broke: #{inspect(reason)}"))

  def handle_info({:EXIT, channel, _reason}, state),
    do: {:noreply, %{state | idle: List.delete(state.idle, channel)}}

  def handle_info(:no_hello, state) do
    case find(state, :request, :hello) do
      nil ->
        {:noreply, state}

      {channel, _entry} ->
        Channel.close(channel)
        lost(state, channel, Error.disconnected(state.server, "brought no answer"))
    end
  end

  def handle_info(:tidy, state) do
    idle? = state.busy == %{}
    {:noreply, %{state | idle_at: Worker.forget_load(state.post, idle?, state.idle_at)}}
  end

  def handle_info(:drain, state), do: {:stop, :shutdown, state}

  def handle_info(_of_a_task_that_is_over, state), do: {:noreply, state}

  # Requests

  defp own_body(type, payload), do: Protocol.body(Protocol.encode(type, payload), %{})

  defp watch(%{caller: caller} = request),
    do: Map.put(request, :monitor, Process.monitor(caller))

  defp ask(state, kind, request, body) do
    {channel, open?, idle} = channel(state)
    send(channel, {:ask, kind, body})
    busy = Map.put(state.busy, channel, %{request: request, open?: open?})
    %{state | idle: idle, busy: busy}
  end

  defp channel(%{idle: []} = state), do: {Channel.start_link(state.connect), false, []}
  defp channel(%{idle: [channel | idle]}), do: {channel, true, idle}

  defp find(state, :request, :hello),
    do: Enum.find(state.busy, fn {_channel, entry} -> entry.request == :hello end)

  defp find(state, key, value),
    do: Enum.find(state.busy, &match?({_channel, %{request: %{^key => ^value}}}, &1))

  # The server cancels a call whose connection is closed.
  defp abandon(state, nil), do: state

  defp abandon(state, {channel, _entry}) do
    Channel.close(channel)
    {_request, state} = finish(state, channel)
    state
  end

  # The request is over: its place is free, and nothing runs for it any more.
  defp finish(state, channel) do
    {%{request: request}, busy} = Map.pop!(state.busy, channel)

    with %{monitor: monitor} <- request, do: Process.demonitor(monitor, [:flush])
    with %{bytes: bytes} <- request, do: Worker.make_room(state.post, bytes)

    {over, tasks} =
      Enum.split_with(state.tasks, fn {_task, {its_channel, _call_id}} ->
        its_channel == channel
      end)

    Enum.each(over, fn {task, _call} -> Process.exit(task, :kill) end)
    {request, %{state | busy: busy, tasks: Map.new(tasks)}}
  end

  # Packets

  defp take(state, channel, :hello, kind, packet) when kind in [:final, :refused] do
    with {:ok, {:ok, _id, health}} <- Protocol.decode(packet) do
      hello = Map.put(Bert.hello(health), :limits, %{max_frame_bytes: state.max_frame})
      send(state.post.pool, {:up, self(), hello})
      {:hello, state} = finish(state, channel)
      {:noreply, %{state | idle: [channel]}}
    else
      {:ok, {:error, _id, error}} -> {:stop, {:shutdown, Error.from_wire(error)}, state}
      {:error, error} -> {:stop, {:shutdown, error}, state}
    end
  end

  defp take(state, channel, request, :final, packet) do
    Worker.forward(request, :final, packet)
    {_request, state} = finish(state, channel)
    {:noreply, %{state | idle: [channel | state.idle]}}
  end

  defp take(state, channel, request, :refused, packet) do
    Worker.forward(request, :final, packet)
    Channel.close(channel)
    {_request, state} = finish(state, channel)
    {:noreply, state}
  end

  defp take(state, channel, %{callbacks: _} = request, :call, packet) do
    {:call, call_id, _id} = Protocol.peek(packet)
    task = Callback.start_link(request, packet, state.max_frame)
    {:noreply, put_in(state.tasks[task], {channel, call_id})}
  end

  defp take(state, _channel, request, kind, packet) do
    with {:event, %{events?: true}} <- {kind, request},
         do: Worker.forward(request, :event, packet)

    {:noreply, state}
  end

  defp forget_task(state, task), do: %{state | tasks: Map.delete(state.tasks, task)}

  # Connections that end

  # Ours is the last word only while others still get their answers; else the pool starts anew what
  # connects again, and the requests wait there.
  defp unreachable(state, channel, error) do
    if Enum.any?(state.busy, &sent?/1),
      do: lost(state, channel, error),
      else: {:stop, {:shutdown, error}, state}
  end

  defp lost(state, channel, error) do
    case finish(state, channel) do
      {:hello, state} ->
        {:stop, {:shutdown, error}, state}

      {request, state} ->
        Worker.answer(request, {:error, error})
        # A server that is gone has mostly closed these as well, only that is not heard of yet.
        Enum.each(state.idle, &Channel.close/1)
        {:noreply, %{state | idle: []}}
    end
  end

  defp drop_idle(state, channel) do
    Channel.close(channel)
    %{state | idle: List.delete(state.idle, channel)}
  end

  # The end

  @impl true
  def terminate(_reason, state) do
    {open, sent_nothing} = Enum.split_with(state.busy, fn {_channel, entry} -> entry.open? end)

    for {_channel, %{request: %{reply_to: _} = request}} <- sent_nothing,
        do: Worker.refuse(request)

    Load.close(state.post.load)
    drain_until(%{state | busy: Map.new(open)}, now() + (state.shutdown_timeout || 0))
  end

  defp sent?({_channel, entry}), do: entry.open? and entry.request != :hello

  # Replies that still come are still delivered, and functions still run. What is left is cancelled
  # as the channels end with this process.
  defp drain_until(%{busy: busy} = state, _deadline) when busy == %{} do
    Worker.refuse_unsent()
    Load.settle(state.post.load)
  end

  defp drain_until(state, deadline) do
    receive do
      {:request, request, _body} ->
        Worker.refuse(request)
        drain_until(state, deadline)

      message ->
        message |> handle_info(state) |> elem_state() |> drain_until(deadline)
    after
      max(deadline - now(), 0) -> :ok
    end
  end

  defp elem_state({:noreply, state}), do: state
  defp elem_state({:stop, _reason, state}), do: state

  defp now, do: System.monotonic_time(:millisecond)
end
