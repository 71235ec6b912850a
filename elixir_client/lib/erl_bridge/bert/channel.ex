defmodule ErlBridge.Bert.Channel do
  @moduledoc """
  The process that has one connection to a server of BERT-RPC: it opens it, writes to it and reads
  from it, so that a server that is slow holds up nobody who asks over another one.

  It does what its owner, an `ErlBridge.Bert.Worker`, says (`{:ask, kind, body}`, `{:answer, task,
  body}`, `:cancel`), in order, once it is open, and tells it:

    * `{:opened, channel}`, or `{:unreachable, channel, error}` at its end
    * `{:packet, channel, packet}` - each packet that comes
    * `{:lost, channel, why}` at its end
  """

  alias ErlBridge.{Bert, Protocol}
  alias ErlBridge.Bert.Connection

  @idle_ms 1_000

  @doc "Starts one, linked to the calling process, its owner. `open` gives the connection."
  @spec start_link((() -> {:ok, Connection.t()} | {:error, ErlBridge.Error.t()})) :: pid
  def start_link(open) do
    owner = self()
    spawn_link(fn -> start(open.(), owner) end)
  end

  @doc "Ends one at once, whatever it does. The server cancels the call that is under way on it."
  @spec close(pid) :: true
  def close(channel) do
    Process.unlink(channel)
    Process.exit(channel, :kill)
  end

  defp start({:ok, connection}, owner) do
    send(owner, {:opened, self()})
    Connection.await(connection)
    serve(connection, owner)
  end

  defp start({:error, error}, owner), do: send(owner, {:unreachable, self(), error})

  @doc false
  @spec serve(Connection.t(), pid) :: term
  def serve(connection, owner) do
    receive do
      {:ask, kind, body} ->
        request = Protocol.term(Protocol.first_id(), body)
        write(connection, owner, Bert.packets(kind, request))

      # Also to the function that waits before it goes on with its stream.
      {:answer, task, body} ->
        %{payload: payload} = Protocol.term(Protocol.first_id(), body)
        write(connection, owner, [Bert.answer(payload)], fn -> send(task, {:told, owner}) end)

      :cancel ->
        write(connection, owner, [Bert.cancel()])

      {tag, _socket, packet} when tag in [:tcp, :ssl] ->
        send(owner, {:packet, self(), packet})
        Connection.await(connection)
        serve(connection, owner)

      {tag, _socket} when tag in [:tcp_closed, :ssl_closed] ->
        send(owner, {:lost, self(), "was closed by the server"})

      {tag, _socket, reason} when tag in [:tcp_error, :ssl_error] ->
        send(owner, {:lost, self(), "broke: #{Connection.explain(connection, reason)}"})
    after
      # What it wrote and read last may be large, and is kept by a process that does nothing.
      @idle_ms -> :erlang.hibernate(__MODULE__, :serve, [connection, owner])
    end
  end

  defp write(connection, owner, packets, written \\ fn -> :ok end) do
    case Connection.write(connection, packets) do
      :ok ->
        written.()
        serve(connection, owner)

      {:error, reason} ->
        tell_last_words(owner)
        send(owner, {:lost, self(), "broke: #{Connection.explain(connection, reason)}"})
    end
  end

  # A server that reads no more may have said why.
  defp tell_last_words(owner) do
    receive do
      {tag, _socket, packet} when tag in [:tcp, :ssl] ->
        send(owner, {:packet, self(), packet})
    after
      0 -> :ok
    end
  end
end
