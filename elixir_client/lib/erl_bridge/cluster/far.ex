defmodule ErlBridge.Cluster.Far do
  @moduledoc """
  The two kinds of other side that an `ErlBridge.Cluster.Peer` has: the door of a bridge, and a Python
  node. What is said to each of them, and nothing else; all of it never waits.

  A door is sent what the caller encoded, and a Python node terms, which the nodes encode themselves.
  """

  alias ErlBridge.{Callback, Deadline, Error, Protocol}

  @type t :: {:door, pid} | {:python, node}

  @typedoc "`:noconnect`: it was not sent, because there is no connection to the node any more."
  @type sent :: :ok | :noconnect

  @spec node(t) :: node
  def node({:door, door}), do: Kernel.node(door)
  def node({:python, node}), do: node

  @spec kind(t) :: :bridge | :python
  def kind({:door, _door}), do: :bridge
  def kind({:python, _node}), do: :python

  @doc "What takes messages there."
  @spec address(t) :: pid | {:erl_bridge, node}
  def address({:door, door}), do: door
  def address({:python, node}), do: {:erl_bridge, node}

  @doc "Asks how much it has to do; the answer comes under the id `:load`."
  @spec ask_load(t) :: sent
  def ask_load({:door, _door} = far), do: tell(far, {:load, self()})

  def ask_load(far),
    do: tell(far, %{message_id: :load, request_type: :health_check, payload: %{}})

  @doc "Sends a request of this process."
  @spec request(t, Protocol.id(), map, Protocol.body()) :: sent
  def request({:door, _door} = far, id, request, body) do
    {encoded, metadata} = Protocol.split(body)

    asked = %{
      encoded: encoded,
      metadata: metadata,
      left: Deadline.remaining(request.deadline),
      wanted: request.wanted,
      events?: request.events?,
      callbacks?: request.callbacks != %{}
    }

    tell(far, {:request, self(), id, asked})
  end

  # A call, because one that is too large to be read is answered too, by its tag.
  def request(far, id, _request, body),
    do: tell(far, {:"$gen_call", {self(), {:erl_bridge, id}}, Protocol.term(id, body)})

  @doc "Sends a request of which nobody wants to hear."
  @spec cast(t, Protocol.id(), map, Protocol.body()) :: sent
  def cast(far, id, request, body),
    do: request(far, id, Map.merge(request, %{events?: false, callbacks: %{}}), body)

  @doc "Asks for the end of the request `of`, in a request of its own."
  @spec cancel(t, Protocol.id(), Protocol.id()) :: sent
  def cancel({:door, _door} = far, id, of), do: tell(far, {:cancel, self(), id, of})

  def cancel(far, id, of),
    do: tell(far, %{message_id: id, request_type: :cancel, payload: %{message_id: of}})

  @doc "Nobody waits for a request any more."
  @spec abandon(t, Protocol.id()) :: sent
  def abandon({:door, _door} = far, id), do: tell(far, {:abandon, self(), id})

  def abandon(far, id),
    do: note(far, %{request_type: :cancel, payload: %{message_id: id}})

  @doc "What a call is known by, when the process that answers it dies."
  @spec call_id(tuple) :: term
  def call_id({:run, _task, _frame, _max_frame}), do: :known_there
  def call_id({:call, call_id, _name, _args}), do: call_id

  @doc "Runs the function that is called, in the calling process, and sends what comes of it."
  @spec run(t, Callback.callbacks(), tuple, pos_integer) :: term
  def run({:door, _door}, callbacks, {:run, task, frame, max_frame}, _own_limit) do
    Process.link(task)

    tell = fn piece ->
      send(task, {:piece, self(), piece})

      receive do
        {:told, ^task} -> :ok
      end
    end

    send(task, {:answer, Callback.answer(callbacks, frame, max_frame, tell)})
    Process.unlink(task)
  end

  def run({:python, _node} = far, callbacks, {:call, call_id, name, args}, max_frame) do
    tell = fn piece ->
      size = :erlang.external_size(piece)
      if size > max_frame, do: raise(Error.too_large(size, max_frame))
      result(far, call_id, {:more, piece})
    end

    answer = Callback.measure(callbacks, name, args, tell)
    size = :erlang.external_size(answer)
    too_large = {:error, Exception.message(Error.too_large(size, max_frame))}
    result(far, call_id, if(size > max_frame, do: too_large, else: answer))
  end

  @doc "The process that ran the function of a call ended before it had an answer."
  @spec died(t, term, term) :: sent
  def died({:door, _linked_to_it}, _call_id, _reason), do: :ok

  def died(far, call_id, reason),
    do: result(far, call_id, {:error, Callback.ended(reason)})

  defp result(far, call_id, result) do
    note(far, %{request_type: :callback_result, payload: %{call_id: call_id, result: result}})
  end

  # A cast, to which nothing comes back.
  defp note(far, request), do: tell(far, {:"$gen_cast", request})

  # Where the connection is lost, the monitor says so.
  defp tell(far, message), do: Process.send(address(far), message, [:noconnect])
end
