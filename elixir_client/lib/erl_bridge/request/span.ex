defmodule ErlBridge.Request.Span do
  @moduledoc """
  The times of one request, from its start to its end, for `ErlBridge.Telemetry`; `nil` where
  nobody listens, and then it costs nothing.
  """

  alias ErlBridge.{Error, Route, Telemetry}

  @enforce_keys [:metadata, :began]
  defstruct [:metadata, :began, :encoded, :sent, :received, bytes_out: 0, bytes_in: 0]

  @type t :: %__MODULE__{} | nil

  @doc "A request begins, of which somebody wants to know."
  @spec start(GenServer.server(), atom, map) :: t
  def start(bridge, request_type, options) do
    began = now()

    metadata = %{
      bridge: bridge,
      request_type: request_type,
      id: options[:id],
      traceparent: options[:metadata][:traceparent]
    }

    times = %{system_time: System.system_time(), monotonic_time: began}
    Telemetry.request_start(times, metadata)
    metadata = Map.put(metadata, :attempt, Map.get(options, :attempt, 1))
    %__MODULE__{metadata: metadata, began: began}
  end

  @doc "It is a term of so many bytes now, and waits for a worker."
  @spec encoded(t, non_neg_integer) :: t
  def encoded(nil, _bytes), do: nil
  def encoded(span, bytes), do: %{span | encoded: now(), bytes_out: bytes}

  @doc "This worker of the route has it."
  @spec sent(t, pid, Route.t()) :: t
  def sent(nil, _worker, _route), do: nil

  def sent(span, worker, route) do
    where = %{worker: worker, node: Route.node_of(route, worker)}
    %{span | sent: now(), metadata: Map.merge(span.metadata, where)}
  end

  @doc "Its reply has come."
  @spec received(t, binary) :: t
  def received(nil, _frame), do: nil
  def received(span, frame), do: %{span | received: now(), bytes_in: byte_size(frame)}

  @doc "It has its result."
  @spec stop(t, {:ok, term} | {:error, Error.t()}) :: :ok
  def stop(nil, _result), do: :ok

  def stop(span, result) do
    {kind, error} = if match?({:ok, _}, result), do: {:ok, nil}, else: result
    metadata = Map.merge(span.metadata, %{result: kind, error: error})
    Telemetry.request_stop(measurements(span, now()), metadata)
  end

  @doc "A function of the caller raised during it."
  @spec exception(t, :error | :exit | :throw, term, Exception.stacktrace()) :: :ok
  def exception(nil, _kind, _reason, _stacktrace), do: :ok

  def exception(span, kind, reason, stacktrace) do
    ended = now()

    Telemetry.request_exception(
      %{duration: ended - span.began, monotonic_time: ended},
      Map.merge(span.metadata, %{kind: kind, reason: reason, stacktrace: stacktrace})
    )
  end

  # What did not come to pass is left out.
  defp measurements(span, ended) do
    times = [
      duration: {span.began, ended},
      encode_time: {span.began, span.encoded},
      queue_time: {span.encoded, span.sent},
      python_time: {span.sent, span.received},
      decode_time: {span.received, span.received && ended}
    ]

    for {name, {from, to}} when is_integer(from) and is_integer(to) <- times,
        into: %{bytes_out: span.bytes_out, bytes_in: span.bytes_in},
        do: {name, to - from}
  end

  defp now, do: System.monotonic_time()
end
