defmodule ErlBridge.Bert do
  @moduledoc """
  BERT-RPC as a client speaks it: packets and values, and no socket.

  A bridge with `connect:` asks a server of BERT-RPC, `python -m erl_bridge tcp`, instead of a
  Python of its own:

      {ErlBridge, name: MyApp.Bridge, connect: [host: "10.0.0.7", port: 8000, token: token, ssl: true]}

  All functions of `ErlBridge` ask over it as they do over a Port, and Python calls functions of
  requests as ever. What is different:

    * Pids, ports, references, functions and bitstrings cannot come back; they may go there.
    * The options that are about starting Python make no difference, and stopping the bridge stops
      no server.
    * `ErlBridge.cancel/3` says `true` when the request was still waited for; it may have been
      answered already.

  BERT-RPC answers one request at a time on a connection, so a worker opens connections as they are
  needed, `:max_in_flight` at most, and keeps them. When the server cannot be reached, it is tried
  again with pauses, as a Python that does not start is, and requests wait; those that had been sent
  get an error of the type `:process_crashed`.

  Where the server was started with `--expose`, `system.health_check` must be among what it exposes.

  ## Options of `connect:`

  #{ErlBridge.Options.docs(:connect)}
  """

  @type kind :: :call | :cast

  # What the server does with each request type, by its name.
  @module :erl_bridge

  # `{info, `, `{info, event, ` and `{info, call, ` as the server writes them.
  @info <<131, 104, 3, 100, 4::16, "info">>
  @event @info <> <<100, 5::16, "event">>
  @call @info <> <<100, 4::16, "call">>
  @error <<131, 104, 2, 100, 5::16, "error">>

  @doc "What a client says first on a connection: who it is, and what it understands."
  @spec greeting(String.t() | nil) :: [binary]
  def greeting(token) do
    auth = if token, do: [{:info, :auth, [token: token]}], else: []
    Enum.map(auth ++ [{:info, :accept, [:calls, :events, :errors]}], &:erlang.term_to_binary/1)
  end

  @doc """
  The packets of a request: its metadata, then the call.

      iex> request = %{request_type: :ping, payload: %{n: 1}, metadata: %{timeout_ms: 50}}
      iex> packets = ErlBridge.Bert.packets(:call, request)
      iex> Enum.map(packets, &:erlang.binary_to_term(IO.iodata_to_binary(&1)))
      [{:info, :metadata, %{timeout_ms: 50}}, {:call, :erl_bridge, :ping, [%{n: 1}]}]
      iex> length(ErlBridge.Bert.packets(:call, %{request | metadata: %{}}))
      1
  """
  @spec packets(kind, map) :: [iodata]
  def packets(kind, %{request_type: type, payload: payload, metadata: metadata}) do
    packet = :erlang.term_to_iovec({kind, @module, type, [payload]})

    if metadata == %{},
      do: [packet],
      else: [:erlang.term_to_binary({:info, :metadata, metadata}), packet]
  end

  @doc "The packet that answers a call of Python's."
  @spec answer(map) :: iodata
  def answer(payload), do: :erlang.term_to_iovec({:info, :answer, payload})

  @doc "The packet that ends the request under way on its connection."
  @spec cancel() :: iodata
  def cancel, do: :erlang.term_to_binary({:info, :cancel, []})

  @doc """
  What a packet of the server is, by its first bytes: an event, a call, another info, or the answer;
  `:refused` is one to what was no request yet, after which the server may close the connection.

      iex> ErlBridge.Bert.peek(<<131, 104, 2, 100, 0, 5, "reply", 106>>)
      :final
  """
  @spec peek(binary) :: :event | :call | :info | :refused | :final
  def peek(@event <> _rest), do: :event
  def peek(@call <> _rest), do: :call
  def peek(@info <> _rest), do: :info
  def peek(@error <> _rest), do: :refused
  def peek(_packet), do: :final

  @doc """
  A packet of the server as a message of the protocol, but for its id; `:error` for what is none.

      iex> ErlBridge.Bert.message({:reply, {:ok, {:bert, :dict, [{:n, {:bert, nil}}]}}})
      {:ok, {:ok, nil, %{n: nil}}}
      iex> ErlBridge.Bert.message({:error, {:server, 2, "no_such_function", "no such function: x", []}})
      {:ok, {:error, nil, %{error_type: :unknown_request, message: "no such function: x"}}}
  """
  @spec message(term) :: {:ok, ErlBridge.Protocol.message()} | :error
  def message({:reply, {:ok, result}}), do: {:ok, {:ok, nil, native(result)}}
  def message({:reply, {:error, error}}), do: {:ok, {:error, nil, native(error)}}
  def message({:info, :event, event}), do: {:ok, {:event, nil, native(event)}}

  def message({:info, :call, call}) do
    %{call_id: call_id, name: name, args: args} = native(call)
    {:ok, {:call, call_id, nil, name, args}}
  end

  def message({:error, {_kind, _code, name, detail, _backtrace}}) when is_binary(detail),
    do: {:ok, {:error, nil, refusal(name, detail)}}

  def message(_other), do: :error

  # What the server says where there is no request yet that could have an error map.
  defp refusal("overloaded", detail),
    do: %{error_type: :overloaded, message: detail, recovery_strategy: :retry}

  defp refusal(name, detail) when name in ["no_such_function", "no_such_module"],
    do: %{error_type: :unknown_request, message: detail}

  defp refusal("frame_too_large", detail),
    do: %{error_type: :serialization_error, message: detail}

  defp refusal(_name, detail), do: %{error_type: :invalid_request, message: detail}

  @doc """
  A value with BERT's tuples replaced by what they stand for.

      iex> ErlBridge.Bert.native([{:bert, true}, {:bert, :time, 1700, 0, 5}])
      [true, ~U[2023-11-14 22:13:20.000005Z]]
  """
  @spec native(term) :: term
  def native({:bert, constant}) when constant in [nil, true, false], do: constant

  def native({:bert, :dict, pairs}),
    do: Map.new(pairs, fn {key, value} -> {native(key), native(value)} end)

  def native({:bert, :time, megaseconds, seconds, microseconds}) do
    seconds = megaseconds * 1_000_000 + seconds
    DateTime.from_unix!(seconds * 1_000_000 + microseconds, :microsecond)
  end

  def native(list) when is_list(list), do: natives(list)

  def native(tuple) when is_tuple(tuple),
    do: tuple |> Tuple.to_list() |> natives() |> List.to_tuple()

  def native(term), do: term

  defp natives([head | tail]), do: [native(head) | natives(tail)]
  defp natives(end_of_list), do: native_tail(end_of_list)

  defp native_tail([]), do: []
  defp native_tail(improper), do: native(improper)

  @doc "What stands for a Python's hello: what a server says of itself at a health check."
  @spec hello(map) :: map
  def hello(health) do
    # Its `os_pid` is one of another host, maybe: nobody here may send it a signal.
    %{
      protocol: 1,
      version: health.version,
      python: health.python,
      os_pid: nil,
      server_os_pid: health.os_pid
    }
  end
end
