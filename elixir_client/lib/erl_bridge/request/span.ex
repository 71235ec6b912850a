defmodule ErlBridge.Request.Span do
  @moduledoc """
  The times of one request, from its start to its end, for `ErlBridge.Telemetry`; `nil` where
  nobody listens, and then it costs nothing.
  """

  alias ErlBridge.{Error, Route, Telemetry}

  @enforce_keys [:bridge, :request_type, :id, :traceparent, :attempt, :began]
  defstruct @enforce_keys ++
              [:worker, :node, :encoded, :sent, :received, bytes_out: 0, bytes_in: 0]

  @type t :: %__MODULE__{} | nil

  @doc "A request begins, or began then, of which somebody wants to know."
  @spec start(GenServer.server(), atom, map, integer) :: t
  def start(bridge, request_type, options, began \\ now()) do
    span = %__MODULE__{
      bridge: bridge,
      request_type: request_type,
      id: options[:id],
      traceparent: options[:metadata][:traceparent],
      attempt: Map.get(options, :attempt, 1),
      began: began
    }

    Telemetry.request_start(
      %{system_time: System.system_time(), monotonic_time: began},
      Map.take(span, [:bridge, :request_type, :id, :traceparent])
    )

    span
  end

  @doc "It is a term of so many bytes now, or was then, and waits for a worker."
  @spec encoded(t, non_neg_integer, integer) :: t
  def encoded(span, bytes, encoded \\ now())
  def encoded(nil, _bytes, _encoded), do: nil
  def encoded(span, bytes, encoded), do: %{span | encoded: encoded, bytes_out: bytes}

  @doc "This worker of the route has it."
  @spec sent(t, pid, Route.t()) :: t
  def sent(nil, _worker, _route), do: nil

  def sent(span, worker, route),
    do: %{span | sent: now(), worker: worker, node: Route.node_of(route, worker)}

  @doc "Its reply has come."
  @spec received(t, binary) :: t
  def received(nil, _frame), do: nil
  def received(span, frame), do: %{span | received: now(), bytes_in: byte_size(frame)}

  @doc "It has its result."
  @spec stop(t, {:ok, term} | {:error, Error.t()}) :: :ok
  def stop(nil, _result), do: :ok

  def stop(span, result) do
    {kind, error} = if match?({:ok, _}, result), do: {:ok, nil}, else: result

    Telemetry.request_stop(
      measurements(span, now()),
      span |> metadata() |> Map.merge(%{result: kind, error: error})
    )
  end

  @doc "A function of the caller raised during it."
  @spec exception(t, :error | :exit | :throw, term, Exception.stacktrace()) :: :ok
  def exception(nil, _kind, _reason, _stacktrace), do: :ok

  def exception(span, kind, reason, stacktrace) do
    ended = now()

    Telemetry.request_exception(
      %{duration: ended - span.began, monotonic_time: ended},
      span |> metadata() |> Map.merge(%{kind: kind, reason: reason, stacktrace: stacktrace})
    )
  end

  @doc "The moment, in the unit of all times here."
  @spec now() :: integer
  def now, do: :erlang.monotonic_time()

  # What did not come to pass is left out.
  defp metadata(%{worker: nil} = span),
    do: Map.take(span, [:bridge, :request_type, :id, :traceparent, :attempt])

  defp metadata(span),
    do: Map.take(span, [:bridge, :request_type, :id, :traceparent, :attempt, :worker, :node])

  # Of nearly all, put together at once.
  defp measurements(%{encoded: encoded, sent: sent, received: received} = span, ended)
       when is_integer(encoded) and is_integer(sent) and is_integer(received) do
    %{
      duration: ended - span.began,
      encode_time: encoded - span.began,
      queue_time: sent - encoded,
      python_time: received - sent,
      decode_time: ended - received,
      bytes_out: span.bytes_out,
      bytes_in: span.bytes_in
    }
  end

  defp measurements(span, ended) do
    times = [
      duration: {span.began, ended},
      encode_time: {span.began, span.encoded},
      queue_time: {span.encoded, span.sent}
    ]

    for {name, {from, to}} when is_integer(from) and is_integer(to) <- times,
        into: %{bytes_out: span.bytes_out, bytes_in: span.bytes_in},
        do: {name, to - from}
  end
end
