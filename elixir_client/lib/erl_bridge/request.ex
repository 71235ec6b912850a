defmodule ErlBridge.Request do
  @moduledoc """
  The caller's side of a request: it is encoded, sent off, waited for and decoded in the calling
  process.

  Everything that comes back goes to an alias of that process, which the end of the request
  revokes. So nothing late ever lands in a mailbox, whether the request was answered, timed out,
  or its bridge died.
  """

  alias ErlBridge.{Error, Protocol}

  @enforce_keys [:bridge, :worker, :reply_to, :name, :timeout, :deadline, :on_event]
  defstruct [:bridge, :worker, :reply_to, :name, :timeout, :deadline, :on_event]

  @typedoc "A request under way; only the process that started it can await it."
  @type t :: %__MODULE__{
          bridge: GenServer.server(),
          worker: pid,
          reply_to: reference,
          name: term,
          timeout: timeout,
          deadline: integer | :infinity,
          on_event: (map -> any) | nil
        }

  @type result :: {:ok, term} | {:error, Error.t()}

  # How much longer than its deadline a caller waits, so that Python's own :timeout_error arrives,
  # with the best result so far in it.
  @grace_ms 1_000

  @doc "Sends a request off. The options are those of `ErlBridge.call/4`, validated."
  @spec start(GenServer.server(), atom, map, map) :: {:ok, t} | {:error, Error.t()}
  def start(bridge, request_type, payload, options) do
    with {:ok, worker, facts} <- ErlBridge.Worker.lookup(bridge),
         timeout = Map.get(options, :timeout, facts.timeout),
         body = Protocol.body(request_type, payload, metadata(options, timeout)),
         :ok <- check_size(body, facts.max_frame) do
      {:ok, send_off(bridge, worker, timeout, options, &{:request, &1, body})}
    end
  end

  @doc "Asks for the end of the request of that name. The reply is the `:cancel` request's own."
  @spec start_cancel(GenServer.server(), term, map) :: {:ok, t} | {:error, Error.t()}
  def start_cancel(bridge, name, options) do
    with {:ok, worker, facts} <- ErlBridge.Worker.lookup(bridge) do
      timeout = Map.get(options, :timeout, facts.timeout)
      {:ok, send_off(bridge, worker, timeout, options, &{:cancel, &1, name})}
    end
  end

  @doc "Waits for the reply; events that come before it go to the request's `:on_event`."
  @spec await(t) :: result
  def await(%__MODULE__{reply_to: reply_to} = request) do
    receive do
      {^reply_to, :event, frame} ->
        hand_over(request, Protocol.decode(frame))
        await(request)

      {^reply_to, :final, frame} ->
        forget(request)
        result(Protocol.decode(frame))

      {^reply_to, :done, result} ->
        forget(request)
        result

      {:DOWN, ^reply_to, :process, _worker, reason} ->
        {:error, down(reason, request)}
    after
      remaining(request.deadline) ->
        abandon(request)
        {:error, Error.timed_out(request.timeout)}
    end
  end

  defp send_off(bridge, worker, timeout, options, message) do
    reply_to = :erlang.monitor(:process, worker, alias: :demonitor)
    name = Map.get(options, :id, reply_to)

    send(
      worker,
      message.(%{
        reply_to: reply_to,
        caller: self(),
        name: name,
        events?: Map.has_key?(options, :on_event),
        callbacks: Map.get(options, :callbacks, %{})
      })
    )

    %__MODULE__{
      bridge: bridge,
      worker: worker,
      reply_to: reply_to,
      name: name,
      timeout: timeout,
      deadline: deadline(timeout),
      on_event: options[:on_event]
    }
  end

  defp metadata(options, :infinity), do: Map.get(options, :metadata, %{})
  defp metadata(options, timeout), do: Map.put(metadata(options, :infinity), :timeout_ms, timeout)

  defp check_size(body, limit) do
    bytes = Protocol.frame_size(body)
    if bytes > limit, do: {:error, Error.too_large(bytes, limit)}, else: :ok
  end

  defp deadline(:infinity), do: :infinity
  defp deadline(timeout), do: System.monotonic_time(:millisecond) + timeout + @grace_ms

  defp remaining(:infinity), do: :infinity
  defp remaining(deadline), do: max(deadline - System.monotonic_time(:millisecond), 0)

  defp hand_over(%{on_event: nil}, _event), do: :ok

  defp hand_over(request, {:ok, {:event, _id, event}}) do
    request.on_event.(event)
  catch
    kind, reason ->
      abandon(request)
      :erlang.raise(kind, reason, __STACKTRACE__)
  end

  defp hand_over(_request, {:error, _unreadable}), do: :ok

  defp result({:ok, {:ok, _id, result}}), do: {:ok, result}
  defp result({:ok, {:error, _id, error}}), do: {:error, Error.from_wire(error)}
  defp result({:error, error}), do: {:error, error}

  defp down(%Error{} = error, _request), do: error
  defp down(_reason, request), do: Error.not_running(request.bridge)

  defp abandon(request) do
    send(request.worker, {:abandon, request.reply_to})
    forget(request)
  end

  # The alias goes with the monitor; what it has let through already is thrown away.
  defp forget(%{reply_to: reply_to} = request) do
    Process.demonitor(reply_to, [:flush])
    flush(request)
  end

  defp flush(%{reply_to: reply_to} = request) do
    receive do
      {^reply_to, _kind, _content} -> flush(request)
    after
      0 -> :ok
    end
  end
end
