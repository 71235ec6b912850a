defmodule ErlBridge.Callback do
  @moduledoc """
  Runs one of a request's functions for Python and turns whatever happens into an answer.

  The arguments are decoded and the result is encoded where the function runs, in a process of its
  own.

      iex> ErlBridge.Callback.run(%{add: &+/2}, "add", [1, 2])
      {:ok, 3}
      iex> ErlBridge.Callback.run(%{}, :add, [1, 2])
      {:error, %{message: "there is no callback named add; the request has none", missing: true}}
      iex> {:error, failure} = ErlBridge.Callback.run(%{fail: fn -> raise "no" end}, :fail, [])
      iex> failure.message
      "** (RuntimeError) no"

  What fails has its `stacktrace` beside the message, and Python has both.
  """

  alias ErlBridge.{Deadline, Error, Protocol, Telemetry, TraceContext}

  @enforce_keys [:functions, :bridge, :metadata]
  defstruct [:functions, :bridge, :metadata]

  @typedoc "The functions of a request, and whose they are."
  @type t :: %__MODULE__{functions: callbacks, bridge: GenServer.server(), metadata: map}

  @type callbacks :: %{optional(atom | String.t()) => fun}
  @type failure :: %{
          required(:message) => String.t(),
          optional(:stacktrace) => String.t(),
          optional(:missing) => true
        }
  @type answer :: {:ok, term} | {:error, failure | String.t()}

  @doc """
  Runs the function that a frame asks for in a process linked to the calling one, a worker, which is sent
  `{:piece, process, body}` for each element of a stream, and must send `{:told, self()}` back, and
  `{:answer, process, body}`.
  """
  @spec start_link(map, binary, pos_integer) :: pid
  def start_link(request, frame, max_frame) do
    worker = self()

    spawn_link(fn ->
      Process.put(:"$callers", [request.caller])
      Deadline.inherit(request.deadline)
      body = answer(request.callbacks, frame, max_frame, &send_piece(worker, &1))
      send(worker, {:answer, self(), body})
    end)
  end

  # One after the other, so that a stream is not faster than the pipe.
  defp send_piece(worker, body) do
    send(worker, {:piece, self(), body})

    receive do
      {:told, ^worker} -> :ok
    end
  end

  @doc """
  The encoded answer to a call, given its frame. An answer that is larger than a frame may be is an
  error instead.

  Where the function returns a stream, `tell` gets its elements before, encoded, one by one.

  The functions of a request from another node stay there: an `ErlBridge.Cluster.Peer` has them run,
  and what comes from it is encoded already.
  """
  @spec answer(t | {pid, term}, binary, pos_integer, (Protocol.body() -> term)) ::
          Protocol.body()
  def answer({peer, id}, frame, max_frame, tell) do
    send(peer, {:erl_bridge, id, {:run, self(), frame, max_frame}})
    pass_on(tell)
  end

  def answer(callbacks, frame, max_frame, tell) do
    {:call, call_id, _id} = Protocol.peek(frame)
    tell_piece = fn piece -> tell.(piece(call_id, piece, max_frame)) end

    answer =
      case Protocol.decode(frame) do
        {:ok, {:call, _call_id, _id, name, args}} -> measure(callbacks, name, args, tell_piece)
        {:error, error} -> {:error, Exception.message(error)}
      end

    # Python would skip a frame that is too large, and wait for the answer for ever.
    body = body(call_id, answer)
    bytes = Protocol.frame_size(body)

    if bytes > max_frame,
      do: body(call_id, {:error, Exception.message(Error.too_large(bytes, max_frame))}),
      else: body
  end

  # The process that runs the function is linked to this one, so that neither outlives the other.
  defp pass_on(tell) do
    receive do
      {:piece, runner, body} ->
        tell.(body)
        send(runner, {:told, self()})
        pass_on(tell)

      {:answer, body} ->
        body
    end
  end

  @doc "The encoded answer to a call whose process ended before it had one."
  @spec died(term, term) :: Protocol.body()
  def died(call_id, reason), do: body(call_id, {:error, ended(reason)})

  @doc "What is said of it then."
  @spec ended(term) :: String.t()
  def ended(reason), do: "the process of the callback ended: #{Exception.format_exit(reason)}"

  @doc """
  Applies the function of that name to the arguments. `:score` and `"score"` are one name.

  A raise, a throw or an exit is an answer too. A stream is run here: `tell` gets its elements, and
  the answer is `nil`.

      iex> ErlBridge.Callback.run(%{ask: fn -> Stream.map(["for", "ty"], & &1) end}, :ask, [], &send(self(), &1))
      {:ok, nil}
      iex> {receive(do: (piece -> piece)), receive(do: (piece -> piece))}
      {"for", "ty"}
  """
  @spec run(callbacks | t, atom | String.t(), [term], (term -> term)) :: answer
  def run(callbacks, name, args, tell \\ & &1)

  def run(%__MODULE__{functions: functions}, name, args, tell),
    do: run(functions, name, args, tell)

  def run(callbacks, name, args, tell) do
    case find(callbacks, name) do
      nil -> {:error, missing(callbacks, name)}
      fun -> {:ok, fun |> apply(args) |> run_stream(tell)}
    end
  catch
    kind, reason ->
      message = Exception.format_banner(kind, reason, __STACKTRACE__)
      {:error, %{message: message, stacktrace: Exception.format_stacktrace(__STACKTRACE__)}}
  end

  defp run_stream(stream, tell) when is_struct(stream, Stream) or is_function(stream, 2) do
    Enum.each(stream, tell)
    nil
  end

  defp run_stream(value, _tell), do: value

  defp piece(call_id, piece, max_frame) do
    body = body(call_id, {:more, piece})
    bytes = Protocol.frame_size(body)
    if bytes > max_frame, do: raise(Error.too_large(bytes, max_frame)), else: body
  end

  defp missing(callbacks, name) do
    said = "there is no callback named #{name}; the request has #{names(callbacks)}"
    %{message: said, missing: true}
  end

  @doc "As `run/4`, in the trace of the request, and tells telemetry of it."
  @spec measure(t | %{}, atom | String.t(), [term], (term -> term)) :: answer
  def measure(%__MODULE__{} = callbacks, name, args, tell) do
    TraceContext.continue(callbacks.metadata)
    began = System.monotonic_time()
    {result, _value} = answer = run(callbacks, name, args, tell)
    duration = System.monotonic_time() - began
    about = %{bridge: callbacks.bridge, name: name, result: result}
    Telemetry.callback_stop(%{duration: duration}, about)
    answer
  end

  # The request has none.
  def measure(none, name, args, tell), do: run(none, name, args, tell)

  defp body(call_id, answer),
    do:
      Protocol.body(
        Protocol.encode(:callback_result, %{call_id: call_id, result: answer}),
        %{}
      )

  defp find(callbacks, name) do
    Enum.find_value(callbacks, fn {key, fun} -> to_string(key) == to_string(name) && fun end)
  end

  defp names(callbacks) when callbacks == %{}, do: "none"
  defp names(callbacks), do: callbacks |> Map.keys() |> Enum.map_join(", ", &to_string/1)
end
