defmodule ErlBridge.Bert.Worker do
  @moduledoc """
  The process that owns the connections to a server of BERT-RPC: what `ErlBridge.Worker` is to a
  Python of our own, with the same messages to and from callers and the pool.

  A connection has one request under way, or is idle and kept for the next. The packet that ends a
  request is decoded by its caller. A request of a caller that died, or gave up, ends with its
  connection; one is cancelled over another connection.
  """

  use GenServer, restart: :temporary

  alias ErlBridge.{Bert, Error, Options, Protocol, Vocabulary, Worker}
  alias ErlBridge.Bert.Connection

  # `connect` is a function, because its options hold a token, and a state is logged when its
  # process crashes. `idle` and `busy` are by socket; a connection that is busy has the id of its
  # request, and the request.
  defstruct [:connect, :post, :shutdown_timeout, :prefix, :idle_at, next: 1, idle: %{}, busy: %{}]

  @doc false
  def start_link(arguments), do: GenServer.start_link(__MODULE__, arguments)

  @impl true
  def init({options_in, post}) do
    Process.flag(:trap_exit, true)
    Vocabulary.atoms()
    prefix = :crypto.strong_rand_bytes(16)
    {:ok, %__MODULE__{post: post, prefix: prefix}, {:continue, {:start, options_in}}}
  end

  @impl true
  def handle_continue({:start, options_in}, state) do
    options = options_in.()
    server = Options.validate!(options.connect, :connect)
    max_frame = Map.get(options, :max_frame, 64 * 1024 * 1024)

    with {:ok, connection} <- Connection.open(server),
         {:ok, health} <- Connection.ask_health(connection, options.start_timeout) do
      hello = Map.put(Bert.hello(health), :limits, %{max_frame_bytes: max_frame})
      send(state.post.pool, {:up, self(), hello})

      state = %{
        state
        | connect: fn -> Connection.open(server) end,
          shutdown_timeout: options.shutdown_timeout
      }

      {:noreply, rest(state, connection)}
    else
      {:error, error} -> {:stop, {:shutdown, error}, state}
    end
  end

  @impl true
  def handle_info({:request, %{callbacks: callbacks} = request, _body}, state)
      when callbacks != %{} do
    Worker.answer(request, {:error, Bert.no_callbacks()})
    Worker.make_room(state.post, request.bytes)
    {:noreply, state}
  end

  def handle_info({:request, request, body}, state), do: ask(state, :call, request, asked(body))

  def handle_info({:cast, request, body}, state), do: ask(state, :cast, request, asked(body))

  def handle_info({:cancel, request, reply_to}, state) do
    case find(state, :reply_to, reply_to) do
      nil ->
        Worker.answer(request, {:ok, %{cancelled: false}})
        {:noreply, state}

      {_connection, id, _request} ->
        asked = %{request_type: :cancel, payload: %{message_id: id}, metadata: %{}}
        ask(state, :call, request, asked)
    end
  end

  def handle_info({:abandon, reply_to}, state),
    do: {:noreply, abandon(state, find(state, :reply_to, reply_to))}

  def handle_info({:DOWN, monitor, :process, _caller, _reason}, state),
    do: {:noreply, abandon(state, find(state, :monitor, monitor))}

  def handle_info({tag, socket, packet}, state) when tag in [:tcp, :ssl] and is_binary(packet),
    do: {:noreply, take(state, socket, packet)}

  def handle_info({tag, socket}, state) when tag in [:tcp_closed, :ssl_closed],
    do: {:noreply, lost(state, socket, "was closed by the server")}

  def handle_info({tag, socket, reason}, state) when tag in [:tcp_error, :ssl_error],
    do: {:noreply, lost(state, socket, "broke: #{inspect(reason)}")}

  def handle_info(:tidy, state) do
    idle? = state.busy == %{}
    {:noreply, %{state | idle_at: Worker.forget_load(state.post, idle?, state.idle_at)}}
  end

  def handle_info(:drain, state), do: {:stop, :shutdown, state}

  def handle_info(_message_of_a_closed_socket, state), do: {:noreply, state}

  # Requests

  defp asked(body), do: Protocol.term(Protocol.first_id(), body)

  defp ask(state, kind, request, asked) do
    case connection(state) do
      {:ok, connection, state} -> {:noreply, send_to(state, connection, kind, request, asked)}
      {:error, error} -> unreachable(state, request, error)
    end
  end

  defp connection(%{idle: idle} = state) when idle == %{} do
    with {:ok, connection} <- state.connect.(), do: {:ok, connection, state}
  end

  defp connection(%{idle: idle} = state) do
    [{socket, connection}] = Enum.take(idle, 1)
    {:ok, connection, %{state | idle: Map.delete(idle, socket)}}
  end

  # Ours is the last word only while others still get their answers; else the pool starts anew what
  # connects again, and the request waits there.
  defp unreachable(%{busy: busy} = state, request, error) when busy == %{} do
    with %{reply_to: _} <- request, do: Worker.refuse(request)
    {:stop, {:shutdown, error}, state}
  end

  defp unreachable(state, request, error) do
    Worker.answer(request, {:error, error})
    Worker.make_room(state.post, request.bytes)
    {:noreply, state}
  end

  defp send_to(state, connection, kind, request, asked) do
    id = <<state.prefix::binary, state.next::64>>
    request = watch(request)
    busy = Map.put(state.busy, connection.socket, {connection, id, request})
    state = %{state | next: state.next + 1, busy: busy}

    case Connection.write(connection, Bert.packets(kind, asked, id)) do
      :ok ->
        Connection.await(connection)
        state

      {:error, reason} ->
        lost(state, connection.socket, "broke: #{inspect(reason)}")
    end
  end

  defp watch(%{caller: caller} = request), do: %{request | monitor: Process.monitor(caller)}
  defp watch(cast), do: cast

  defp find(state, key, value) do
    Enum.find_value(state.busy, fn
      {_socket, {_connection, _id, %{^key => ^value}} = found} -> found
      _another -> nil
    end)
  end

  # The server cancels a call whose connection is closed.
  defp abandon(state, nil), do: state

  defp abandon(state, {connection, _id, request}) do
    Connection.close(connection)
    finish(%{state | busy: Map.delete(state.busy, connection.socket)}, request)
  end

  defp finish(state, request) do
    with %{monitor: monitor} <- request, do: Process.demonitor(monitor, [:flush])
    Worker.make_room(state.post, request.bytes)
    state
  end

  # Packets

  defp take(state, socket, packet) do
    case state.busy do
      %{^socket => {connection, _id, request}} ->
        take(state, connection, request, Bert.peek(packet), packet)

      # Unasked: it says why the connection ends.
      _idle_or_closed ->
        drop_idle(state, socket)
    end
  end

  defp take(state, connection, request, :final, packet) do
    Worker.forward(request, :final, packet)

    %{state | busy: Map.delete(state.busy, connection.socket)}
    |> finish(request)
    |> rest(connection)
  end

  defp take(state, connection, request, kind, packet) do
    with {:event, %{events?: true}} <- {kind, request},
         do: Worker.forward(request, :event, packet)

    Connection.await(connection)
    state
  end

  # That it is closed is heard of, too.
  defp rest(state, connection) do
    Connection.await(connection)
    %{state | idle: Map.put(state.idle, connection.socket, connection)}
  end

  defp lost(state, socket, why) do
    case Map.pop(state.busy, socket) do
      {nil, _busy} ->
        drop_idle(state, socket)

      {{connection, _id, request}, busy} ->
        Connection.close(connection)
        Worker.answer(request, {:error, Error.disconnected(connection.server, why)})
        %{state | busy: busy} |> drop_idle() |> finish(request)
    end
  end

  # A server that is gone has mostly closed these as well, only that is not heard of yet.
  defp drop_idle(state) do
    Enum.each(state.idle, fn {_socket, connection} -> Connection.close(connection) end)
    %{state | idle: %{}}
  end

  defp drop_idle(state, socket) do
    {connection, idle} = Map.pop(state.idle, socket)
    if connection, do: Connection.close(connection)
    %{state | idle: idle}
  end

  # The end

  @impl true
  def terminate(_reason, state) do
    if state.busy != %{}, do: drain_until(state, now() + state.shutdown_timeout)
    :ok
  end

  # Replies that still come are still delivered. What is left is cancelled as the sockets close.
  defp drain_until(%{busy: busy}, _deadline) when busy == %{}, do: :ok

  defp drain_until(state, deadline) do
    receive do
      {:request, request, _body} ->
        Worker.refuse(request)
        drain_until(state, deadline)

      :drain ->
        drain_until(state, deadline)

      message ->
        {:noreply, state} = handle_info(message, state)
        drain_until(state, deadline)
    after
      max(deadline - now(), 0) -> :ok
    end
  end

  defp now, do: System.monotonic_time(:millisecond)
end
