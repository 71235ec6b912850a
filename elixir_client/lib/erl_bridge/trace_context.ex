defmodule ErlBridge.TraceContext do
  @moduledoc """
  [W3C trace context](https://www.w3.org/TR/trace-context/): which trace a request belongs to.

      iex> alias ErlBridge.TraceContext
      iex> {:ok, context} = TraceContext.parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
      iex> {context.trace_id, context.sampled?}
      {"0af7651916cd43dd8448eb211c80319c", true}
      iex> TraceContext.format(context)
      "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

  `inject/2` adds it to a request's metadata, where a handler in Python finds it as
  `context.trace`. It is taken from, in this order: the metadata itself, the request's own trace,
  the current span of OpenTelemetry where the host application has it, and what `put/2` left in the
  calling process.
  """

  alias ErlBridge.Error

  @enforce_keys [:trace_id, :span_id]
  defstruct [:trace_id, :span_id, :tracestate, sampled?: true]

  @typedoc "The ids are lower-case hexadecimal, of 32 and 16 digits."
  @type t :: %__MODULE__{
          trace_id: String.t(),
          span_id: String.t(),
          tracestate: String.t() | nil,
          sampled?: boolean
        }

  @traceparent ~r/\A([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?\z/

  # Longer ones need not be passed on.
  @longest_state 512
  @most_members 32
  @member ~r/\A[ \t]*([a-z0-9][a-z0-9_\-*\/@]{0,255})=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e][ \t]*\z/

  @doc "The start of a trace, with random ids."
  @spec new() :: t
  def new, do: %__MODULE__{trace_id: random_id(16), span_id: random_id(8)}

  @doc "A new span of the same trace."
  @spec child(t) :: t
  def child(%__MODULE__{} = context), do: %{context | span_id: random_id(8)}

  @doc """
  Reads a `traceparent` and its `tracestate`.

  A later version than 00 is read as 00, as far as that goes. A `tracestate` that is wrong, or
  longer than #{@longest_state} bytes, is left out, as the specification has it.

      iex> {:error, error} = ErlBridge.TraceContext.parse("00-abc-01")
      iex> Exception.message(error)
      ~s(invalid_request: traceparent: expected "00-<32 hex digits>-<16 hex digits>-<2 hex digits>", no id all zero, got: "00-abc-01")
  """
  @spec parse(String.t(), String.t() | nil) :: {:ok, t} | {:error, Error.t()}
  def parse(traceparent, tracestate \\ nil) do
    with true <- is_binary(traceparent),
         [_all, version, trace_id, span_id, flags | rest] <-
           Regex.run(@traceparent, traceparent),
         true <- readable?(version, rest) do
      {:ok,
       %__MODULE__{
         trace_id: trace_id,
         span_id: span_id,
         sampled?: rem(String.to_integer(flags, 16), 2) == 1,
         tracestate: if(valid_state?(tracestate), do: tracestate)
       }}
    else
      _wrong -> {:error, invalid(traceparent)}
    end
  end

  @doc "The `traceparent` of a context, of version 00."
  @spec format(t) :: String.t()
  def format(%__MODULE__{} = context),
    do: "00-#{context.trace_id}-#{context.span_id}-#{if context.sampled?, do: "01", else: "00"}"

  @doc """
  Makes this the calling process's context: a context, or the headers of the request it serves.

  It is this process's alone; a task that it starts gets `current/0` from it and puts it anew.
  """
  @spec put(t | String.t(), String.t() | nil) :: {:ok, t} | {:error, Error.t()}
  def put(context, tracestate \\ nil)

  def put(%__MODULE__{} = context, _tracestate) do
    Process.put(__MODULE__, context)
    {:ok, context}
  end

  def put(traceparent, tracestate) do
    with {:ok, context} <- parse(traceparent, tracestate), do: put(context)
  end

  @doc "The calling process's context, `nil` if it has none."
  @spec current() :: t | nil
  def current, do: Process.get(__MODULE__)

  @doc "Whether a request of the calling process may belong to a trace, unless it says so itself."
  @spec any?() :: boolean
  def any?, do: current() != nil or open_telemetry?()

  @doc """
  Has the calling process work on the trace of a request with this metadata: functions that Python
  calls are spans of the request that they are called for, and so are requests that they make.
  """
  @spec continue(map) :: :ok
  def continue(metadata) do
    given = &(metadata[&1] || metadata[Atom.to_string(&1)])

    with {:ok, context} <- put(given.(:traceparent), given.(:tracestate)),
         true <- open_telemetry?() do
      headers = for {name, value} <- fields(context), do: {Atom.to_string(name), value}
      apply(:otel_propagator_text_map, :extract, [headers])
    end

    :ok
  end

  @doc "Ends what `put/2` began."
  @spec clear() :: :ok
  def clear do
    Process.delete(__MODULE__)
    :ok
  end

  @doc """
  A request's metadata with `:traceparent`, and `:tracestate` where there is one.

  `trace` is a context or a `traceparent` of the request's own, `false` for none at all. The
  request is a span of its own, the child of the one it was made in; OpenTelemetry's is passed on
  as it is. Metadata that have a `traceparent` already stay as they are.

      iex> ErlBridge.TraceContext.inject(%{label: 1})
      %{label: 1}
  """
  @spec inject(map, t | String.t() | false | nil) :: map
  def inject(metadata, trace \\ nil)
  def inject(metadata, false), do: metadata
  def inject(%{traceparent: _given} = metadata, _trace), do: metadata
  def inject(%{"traceparent" => _given} = metadata, _trace), do: metadata

  def inject(metadata, nil) do
    case open_telemetry() || current() do
      nil -> metadata
      %__MODULE__{} = context -> inject(metadata, context)
      fields -> Map.merge(metadata, fields)
    end
  end

  def inject(metadata, %__MODULE__{} = context),
    do: Map.merge(metadata, context |> child() |> fields())

  def inject(metadata, traceparent) do
    case parse(traceparent) do
      {:ok, context} -> inject(metadata, context)
      {:error, error} -> raise ArgumentError, error.message
    end
  end

  defp fields(context) do
    state = if context.tracestate, do: %{tracestate: context.tracestate}, else: %{}
    Map.put(state, :traceparent, format(context))
  end

  # The propagator that the host application has configured; it may well speak another format.
  defp open_telemetry do
    if open_telemetry?() do
      headers = Map.new(apply(:otel_propagator_text_map, :inject, [[]]))

      case parse(headers["traceparent"], headers["tracestate"]) do
        {:ok, context} -> fields(context)
        {:error, _none} -> nil
      end
    end
  end

  # Once: a module that is not there is searched for on disk each time.
  defp open_telemetry? do
    case :persistent_term.get(__MODULE__, nil) do
      nil ->
        :persistent_term.put(__MODULE__, Code.ensure_loaded?(:otel_propagator_text_map))
        open_telemetry?()

      loaded? ->
        loaded?
    end
  end

  # Version 00 ends after the flags; ff is none.
  defp readable?("00", rest), do: rest == []
  defp readable?(version, _rest), do: version != "ff"

  defp valid_state?(state) when is_binary(state) and byte_size(state) in 1..@longest_state do
    # Empty members are allowed and say nothing.
    members = state |> String.split(",") |> Enum.reject(&(String.trim(&1) == ""))
    keys = Enum.map(members, &key/1)

    length(keys) in 1..@most_members and nil not in keys and keys == Enum.uniq(keys)
  end

  defp valid_state?(_none), do: false

  defp key(member) do
    case Regex.run(@member, member) do
      [_all, key] -> key
      nil -> nil
    end
  end

  defp random_id(bytes) do
    id = :rand.bytes(bytes)

    if id == <<0::size(bytes)-unit(8)>>,
      do: random_id(bytes),
      else: Base.encode16(id, case: :lower)
  end

  defp invalid(traceparent) do
    %Error{
      type: :invalid_request,
      message:
        "traceparent: expected \"00-<32 hex digits>-<16 hex digits>-<2 hex digits>\", no id all zero, " <>
          "got: #{inspect(traceparent, printable_limit: 80)}"
    }
  end
end
