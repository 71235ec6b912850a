defmodule ErlBridge.Request do
  @moduledoc """
  The caller's side of a request: it is encoded, sent off, waited for and decoded in the calling
  process.

  Everything that comes back goes to an alias of that process, which the end of the request
  revokes, or is one reply for which there is a slot (`ErlBridge.Line`). So nothing late ever lands
  in a mailbox, whether the request was answered, timed out, or its bridge died.

  A request that its worker had not sent to Python when it ended goes to another worker.
  """

  alias ErlBridge.{
    Callback,
    Deadline,
    Error,
    Line,
    Load,
    Protocol,
    Route,
    Telemetry,
    TraceContext
  }

  alias ErlBridge.Request.{Name, Span}

  @enforce_keys [:route, :encoded, :bytes, :options, :timeout, :deadline]
  defstruct [
    :route,
    :encoded,
    :body,
    :left,
    :bytes,
    :options,
    :timeout,
    :deadline,
    :worker,
    :reply_to,
    :monitor,
    :line,
    :span
  ]

  @typedoc """
  A request under way; only the process that started it can await it. Its `body` says that so many
  milliseconds are `left`. Messages with `reply_to` come for it: to the alias that its `monitor` of the
  worker is too, or one by the slot of a `line`, beside which is the load of its worker.
  """
  @type t :: %__MODULE__{
          route: Route.t(),
          encoded: Protocol.encoded() | nil,
          body: Protocol.body() | nil,
          left: timeout | nil,
          bytes: pos_integer,
          options: map,
          timeout: timeout,
          deadline: Deadline.t(),
          worker: pid | nil,
          reply_to: reference | nil,
          monitor: reference | nil,
          line: {Line.slot(), Load.t()} | nil,
          span: Span.t()
        }

  @type result :: {:ok, term} | {:error, Error.t()}

  # How much longer than its deadline a caller waits, so that Python's own :timeout_error arrives,
  # with the best result so far in it.
  @grace_ms 1_000

  # Until then a caller does not ask whether its worker is alive. What ends while it is, Python above
  # all, it is told at once.
  @soon_ms 100

  @doc """
  Sends a request off. The options are those of `ErlBridge.call/4`, validated.

  With `reserve: false` it goes to a worker whatever it has in flight.
  """
  @spec start(GenServer.server(), atom, Protocol.payload(), map) :: {:ok, t} | {:error, Error.t()}
  def start(bridge, request_type, payload, options) do
    with {:ok, request, worker, bytes} <-
           begin(Route.lookup(bridge), bridge, request_type, payload, options),
         do: {:ok, send_to(request, worker, watch(worker), bytes)}
  end

  @doc """
  Sends a request by a route that was looked up and waits for its reply: `start/4` and `await/1` in one,
  with less to do, and no look at the messages that the caller has already. Those are spared where the
  function that waits for a reference has made it.
  """
  @spec call({:ok, Route.t()} | {:error, Error.t()}, GenServer.server(), atom, map, map) :: result
  def call(found, bridge, request_type, payload, options) do
    with {:ok, request, worker, bytes} <- begin(found, bridge, request_type, payload, options) do
      reply_to = :erlang.monitor(:process, worker, alias: :demonitor)
      %{deadline: deadline} = request = send_to(request, worker, reply_to, bytes)

      receive do
        {^reply_to, kind, content} -> conclude(came(kind, content, request))
        {^reply_to, :not_taken} -> conclude(send_again(request))
        {:DOWN, ^reply_to, :process, _worker, reason} -> conclude(down(reason, request))
      after
        patience(deadline) -> conclude(too_late(request))
      end
    end
  end

  @doc """
  As `call/5`, the shortest way: for a request that has a deadline and nothing else of what a request
  may have, where a worker has room. `:not_plain`, and nothing done, for others.

  Most are like that, and most are answered soon: only one that is not is made a value of this module,
  and only then its worker is monitored.
  """
  @spec call_plainly(
          {Route.t(), Line.slot()},
          GenServer.server(),
          atom,
          map,
          map,
          {timeout, Deadline.t()}
        ) :: result | :not_plain
  def call_plainly({route, slot}, bridge, request_type, payload, options, times) do
    {timeout, deadline} = times

    with true <- plain?(payload, options, deadline),
         began = if(Telemetry.requests?(), do: Span.now()),
         left = Deadline.remaining(deadline),
         body = Protocol.body(Protocol.encode(request_type, payload), metadata(%{}, left)),
         bytes = Protocol.frame_size(body),
         true <- bytes <= route.max_frame,
         {:ok, {worker, _load} = taken} <- Route.take_at_once(route, bytes) do
      span = began && plain_span(began, bytes, worker, route, bridge, request_type)
      reply_to = make_ref()
      sent = to_worker(reply_to, slot, bytes, deadline)
      Line.expect(slot)
      send(worker, {:request, sent, body})

      receive do
        {^reply_to, :final, frame} ->
          {:done, result} = answered(span && Span.received(span, frame), frame)
          result

        {^reply_to, kind, content} ->
          conclude(came(kind, content, value(route, taken, sent, body, timeout, span)))

        {^reply_to, :not_taken} ->
          conclude(send_again(value(route, taken, sent, body, timeout, span)))
      after
        min(left, @soon_ms) ->
          conclude(next_frame(value(route, taken, sent, body, timeout, span)))
      end
    else
      _rare -> :not_plain
    end
  end

  # It is told of only now, since it may have come to nothing before.
  defp plain_span(began, bytes, worker, route, bridge, request_type) do
    encoded = Span.now()

    # Who hears of it may make requests itself.
    Line.aside(fn -> Span.start(bridge, request_type, %{}, began) end)
    |> Span.encoded(bytes, encoded)
    |> Span.sent(worker, route)
  end

  # It takes the line of its process with it, so that no other request uses that.
  defp value(route, {worker, load}, sent, body, timeout, span) do
    Line.hold()

    %__MODULE__{
      route: route,
      encoded: Protocol.encoded(body),
      body: body,
      bytes: sent.bytes,
      options: %{timeout: timeout, deadline: sent.deadline},
      timeout: timeout,
      deadline: sent.deadline,
      worker: worker,
      reply_to: sent.reply_to,
      monitor: Process.monitor(worker),
      line: {sent.slot, load},
      span: span
    }
  end

  defp plain?(%{}, %{callbacks: callbacks, metadata: metadata} = options, deadline)
       when is_integer(deadline) and callbacks == %{} and metadata == %{} and
              (map_size(options) == 2 or
                 (map_size(options) == 3 and is_map_key(options, :timeout))),
       do: not TraceContext.any?()

  defp plain?(_payload, _options, _deadline), do: false

  # A request that has its name, a worker for it, and the bytes that it takes of that one's load.
  defp begin(found, bridge, request_type, payload, options) do
    options = trace(options)
    span = if Telemetry.requests?(), do: Span.start(bridge, request_type, options)

    with {:ok, route} <- found,
         {:ok, request} <- new(route, Protocol.encode(request_type, payload), options, span),
         {:ok, request} <- take_name(request),
         {:ok, {worker, _load}, bytes} <- take_place(request) do
      {:ok, request, worker, bytes}
    else
      {:error, error} ->
        Span.stop(span, {:error, error})
        {:error, error}
    end
  end

  defp take_place(request) do
    with {:error, error} <- reserve(request, &Route.reserve/5) do
      forget_name(request)
      {:error, error}
    end
  end

  @doc """
  Sends off a request that was encoded elsewhere, of which nothing is told. What comes of it is for
  `next_frame/1`.
  """
  @spec relay(GenServer.server(), Protocol.encoded(), map) :: {:ok, t} | {:error, Error.t()}
  def relay(bridge, encoded, options) do
    with {:ok, route} <- Route.lookup(bridge),
         {:ok, request} <- new(route, encoded, options, nil),
         {:ok, request} <- take_name(request),
         {:ok, {worker, _load}, bytes} <- take_place(request),
         do: {:ok, send_to(request, worker, watch(worker), bytes)}
  end

  defp trace(options) do
    given = given_metadata(options)

    case TraceContext.inject(given, given_trace(options)) do
      ^given -> options
      metadata -> Map.put(options, :metadata, metadata)
    end
  end

  @doc "Sends a request off whose reply nobody waits for."
  @spec cast(GenServer.server(), atom, map, map) :: :ok | {:error, Error.t()}
  def cast(bridge, request_type, payload, options) do
    with {:ok, route} <- Route.lookup(bridge),
         {:ok, request} <-
           new(route, Protocol.encode(request_type, payload), trace(options), nil),
         {:ok, {worker, _load}, _bytes} <- reserve(request, &Route.reserve/5) do
      cast = %{bytes: request.bytes, deadline: request.deadline, wanted: session(options)}
      send(worker, {:cast, cast, body(request)})
      :ok
    end
  end

  @doc """
  Asks for the end of a request, or of the one of that name. `true` when there was one.

  The reply that a cancelled request still gets is its own affair.
  """
  @spec cancel(GenServer.server(), t | term, map) :: {:ok, boolean} | {:error, Error.t()}
  def cancel(bridge, request_or_name, options) do
    with {:ok, route} <- Route.lookup(bridge) do
      deadline = Deadline.after_timeout(options.timeout)
      cancel_in(route, request_or_name, Map.put(options, :deadline, deadline))
    end
  end

  defp cancel_in(route, %__MODULE__{worker: worker, reply_to: reply_to}, options),
    do: cancel_at(route, {worker, reply_to}, options)

  defp cancel_in(route, name, options) do
    case Name.cancel(route.pool, name) do
      :none -> {:ok, false}
      :cancelled -> {:ok, true}
      :soon -> cancel_soon(route, name, options)
      {:sent, place} -> cancel_sent(route, place, name, options)
    end
  end

  # Its caller is between two steps.
  defp cancel_soon(route, name, options) do
    receive do
    after
      1 -> :ok
    end

    if Deadline.remaining(options.deadline) > 0,
      do: cancel_in(route, name, options),
      else: {:error, Error.timed_out(options.timeout)}
  end

  # One that is not there any more may have been sent elsewhere meanwhile.
  defp cancel_sent(route, place, name, options) do
    with {:ok, false} <- cancel_at(route, place, options) do
      case Name.cancel(route.pool, name) do
        :cancelled -> {:ok, true}
        {:sent, another} when another != place -> cancel_sent(route, another, name, options)
        :soon -> cancel_soon(route, name, options)
        _over -> {:ok, false}
      end
    end
  end

  defp cancel_at(route, {worker, reply_to}, options) do
    request = %__MODULE__{
      route: route,
      encoded: nil,
      bytes: 0,
      options: options,
      timeout: options.timeout,
      deadline: options.deadline
    }

    own = watch(worker)
    send(worker, {:cancel, to_worker(own), reply_to})
    cancelled(await(sent(request, worker, own)))
  end

  defp cancelled({:ok, %{cancelled: cancelled}}), do: {:ok, cancelled}
  defp cancelled({:error, error}), do: {:error, error}

  @doc "Waits for the reply; events that come before it go to the request's `:on_event`."
  @spec await(t) :: result
  def await(%__MODULE__{} = request), do: conclude(next_frame(request))

  # What a request comes to after this.
  defp conclude(frame) do
    case read(frame) do
      {:done, result} ->
        result

      {:event, event, request} ->
        hand_over(request, event)
        await(request)
    end
  end

  @doc "Waits for what comes next: an event, or the reply, which is the end of the request."
  @spec next(t) :: {:event, map, t} | {:done, result}
  def next(%__MODULE__{} = request), do: read(next_frame(request))

  defp read({:final, frame, request}), do: answered(request.span, frame)
  defp read({:done, result, request}), do: done(request.span, result)
  defp read({:event, %{} = event, request}), do: {:event, event, request}
  defp read({:event, frame, request}), do: next_event(Protocol.decode(frame), request)

  defp next_event({:ok, {:event, _id, event}}, request), do: {:event, event, request}
  defp next_event({:error, _unreadable}, request), do: next(request)

  @doc """
  As `next/1`, but gives what comes as it comes: `:event` and `:final` with a frame (`:event` from a
  Python node with the event itself), and `:done` with a result that this side made.
  """
  @spec next_frame(t) ::
          {:event, binary | map, t} | {:final, binary, t} | {:done, result, t}
  def next_frame(%__MODULE__{reply_to: reply_to, monitor: monitor, deadline: deadline} = request) do
    receive do
      {^reply_to, kind, content} -> came(kind, content, request)
      {^reply_to, :not_taken} -> send_again(request)
      {:DOWN, ^monitor, :process, _worker, reason} -> down(reason, request)
    after
      patience(deadline) -> too_late(request)
    end
  end

  defp patience(deadline), do: Deadline.remaining(Deadline.postpone(deadline, @grace_ms))

  defp came(:final, frame, request) do
    # Nothing comes after it.
    hang_up(request)
    forget_name(request)
    {:final, frame, received(request, frame)}
  end

  defp came(:event, frame, request), do: {:event, frame, request}

  defp came(:done, result, request) do
    forget(request)
    {:done, result, request}
  end

  # It was gone before it could see the request. Where it was not monitored before, it has told that
  # it had an answer for each that it saw.
  defp down(:noproc, %{line: nil} = request), do: send_again(request)

  defp down(:noproc, %{line: {_slot, load}} = request) do
    if Load.settled?(load), do: send_again(request), else: down(:killed, request)
  end

  defp down(reason, request) do
    forget(request)
    {:done, {:error, ended(reason, request)}, request}
  end

  defp too_late(%{line: {slot, _load}} = request) do
    # Somebody else has it: the reply is there, or about to be.
    if Line.take(slot), do: timed_out(request), else: next_frame(%{request | deadline: :infinity})
  end

  defp too_late(request), do: timed_out(request)

  defp timed_out(request) do
    give_up(request)
    {:done, {:error, Error.timed_out(request.timeout)}, request}
  end

  defp received(%{span: nil} = request, _frame), do: request

  defp received(request, frame),
    do: %{request | span: Span.received(request.span, frame)}

  defp answered(span, frame), do: done(span, result(Protocol.decode(frame)))

  defp done(nil, result), do: {:done, result}

  defp done(span, result) do
    Span.stop(span, result)
    {:done, result}
  end

  @doc "Gives a request up: Python is told to stop, and nothing comes of it any more."
  @spec abandon(t) :: :ok
  def abandon(%__MODULE__{} = request) do
    give_up(request)
    Span.stop(request.span, {:error, Error.abandoned()})
  end

  defp give_up(request) do
    send(request.worker, {:abandon, request.reply_to})
    forget(request)
  end

  # Sending

  defp new(route, encoded, options, span) do
    {timeout, deadline} = times(options, route)
    left = Deadline.remaining(deadline)
    body = Protocol.body(encoded, metadata(options, left))
    # The time that is left when it is sent may be less, and takes no more bytes.
    bytes = Protocol.frame_size(body)

    if bytes > route.max_frame do
      {:error, Error.too_large(bytes, route.max_frame)}
    else
      {:ok,
       %__MODULE__{
         route: route,
         encoded: encoded,
         body: body,
         left: left,
         bytes: bytes,
         options: options,
         timeout: timeout,
         deadline: deadline,
         span: span && Span.encoded(span, bytes)
       }}
    end
  end

  defp times(%{timeout: timeout, deadline: deadline}, _route), do: {timeout, deadline}

  defp times(options, route) do
    timeout = Map.get(options, :timeout, route.timeout)
    {timeout, Map.get_lazy(options, :deadline, fn -> Deadline.after_timeout(timeout) end)}
  end

  # A worker that is gone has nothing left to cancel.
  defp send_again(%{encoded: nil} = request) do
    forget(request)
    {:done, {:ok, %{cancelled: false}}, request}
  end

  defp send_again(request) do
    hang_up(request)
    request = %{request | line: nil, options: Map.delete(request.options, :reserve)}

    case reserve(request, &Route.reserve_again/5) do
      {:ok, {worker, _load}, bytes} ->
        next_frame(send_to(request, worker, watch(worker), bytes))

      {:error, error} ->
        forget_name(request)
        {:done, {:error, error}, request}
    end
  end

  # A worker, and the bytes of its load that are taken.
  defp reserve(request, reserve)

  defp reserve(%{options: %{reserve: false} = options} = request, reserve) do
    case Route.any_worker(request.route) do
      nil -> reserve(%{request | options: Map.delete(options, :reserve)}, reserve)
      worker -> {:ok, worker, nil}
    end
  end

  defp reserve(%{route: route, options: options, bytes: bytes} = request, reserve) do
    on_wait = &waits(options, &1)

    with {:ok, worker} <-
           reserve.(route, wanted(route, options), bytes, request.deadline, on_wait),
         do: claim(request, worker)
  end

  defp wanted(%Route{cluster: %{}}, %{node: node} = options),
    do: {:node, node, session(options)}

  defp wanted(_route, options), do: session(options)

  defp session(%{session: session}), do: {:session, session}
  defp session(_options), do: :any

  # Where it did not wait, what it says of the time that is left is still right.
  defp body(%{left: told} = request) do
    case Deadline.remaining(request.deadline) do
      ^told -> request.body
      left -> Protocol.body(request.encoded, metadata(request.options, left))
    end
  end

  defp metadata(options, :infinity), do: given_metadata(options)

  # Python knows no deadline that has passed already.
  defp metadata(options, left),
    do: Map.put(given_metadata(options), :timeout_ms, max(left, 1))

  defp given_trace(%{trace: trace}), do: trace
  defp given_trace(_options), do: nil

  defp given_metadata(%{metadata: metadata}), do: metadata
  defp given_metadata(_options), do: %{}

  # The reply comes to it, until the monitor is ended.
  defp watch(worker), do: :erlang.monitor(:process, worker, alias: :demonitor)

  defp send_to(request, worker, reply_to, bytes) do
    sent = %{
      to_worker(reply_to, bytes, request.deadline)
      | events?: is_map_key(request.options, :on_event),
        callbacks: callbacks(request.options, request.route),
        wanted: session(request.options)
    }

    send(worker, {:request, sent, body(request)})
    with %{name: name} <- request.options, do: Name.sent(name, {worker, reply_to})
    span = request.span && Span.sent(request.span, worker, request.route)
    sent(%{request | span: span}, worker, reply_to)
  end

  defp sent(request, worker, reply_to),
    do: %{request | worker: worker, reply_to: reply_to, monitor: reply_to}

  @doc """
  A request of the calling process as workers take it, with its reply to go there, and all else as
  usual.
  """
  @spec to_worker(reference) :: map
  def to_worker(reply_to), do: to_worker(reply_to, nil, :infinity)

  defp to_worker(reply_to, bytes, deadline) do
    {_no_slot, sent} = Map.pop!(to_worker(reply_to, nil, bytes, deadline), :slot)
    Map.put(sent, :alias, reply_to)
  end

  defp to_worker(reply_to, slot, bytes, deadline) do
    %{
      reply_to: reply_to,
      slot: slot,
      caller: self(),
      bytes: bytes,
      events?: false,
      callbacks: %{},
      deadline: deadline,
      wanted: :any
    }
  end

  # A tuple says which node has them.
  defp callbacks(%{callbacks: functions} = options, route)
       when is_map(functions) and functions != %{},
       do: %Callback{
         functions: functions,
         bridge: route.bridge,
         metadata: given_metadata(options)
       }

  defp callbacks(%{callbacks: callbacks}, _route), do: callbacks
  defp callbacks(_options, _route), do: %{}

  # Names

  @doc """
  Has all requests that `fun` makes, given these options, be one of the `:id` in them: it is cancelled
  also between two of them. Cancelled it has no other result.
  """
  @spec named(Route.t(), map, (map -> result)) :: result
  def named(route, %{id: id} = options, fun) do
    with {:ok, name} <- Name.take(route.pool, id) do
      try do
        result = fun.(Map.put(options, :name, %{name | lasting?: true}))
        # From here on it can be cancelled no more.
        if Name.claim(name), do: result, else: {:error, Error.cancelled()}
      after
        Name.release(name)
      end
    end
  end

  defp take_name(%{options: %{name: _lasting}} = request), do: {:ok, request}

  defp take_name(%{options: %{id: id} = options, route: route} = request) do
    with {:ok, name} <- Name.take(route.pool, id),
         do: {:ok, %{request | options: Map.put(options, :name, name)}}
  end

  defp take_name(request), do: {:ok, request}

  defp waits(%{name: name}, ref), do: Name.waits(name, ref)
  defp waits(_options, _ref), do: :ok

  defp claim(%{options: %{name: name}} = request, {_pid, load} = worker) do
    if Name.claim(name) do
      {:ok, worker, request.bytes}
    else
      Route.give_back(request.route, load, request.bytes)
      {:error, Error.cancelled()}
    end
  end

  defp claim(request, worker), do: {:ok, worker, request.bytes}

  defp forget_name(%{options: %{name: %Name{lasting?: true} = name}}), do: Name.come_back(name)
  defp forget_name(%{options: %{name: name}}), do: Name.release(name)
  defp forget_name(_request), do: :ok

  # Receiving

  defp hand_over(%{options: %{on_event: on_event}} = request, event) do
    on_event.(event)
  catch
    kind, reason ->
      give_up(request)
      Span.exception(request.span, kind, reason, __STACKTRACE__)
      :erlang.raise(kind, reason, __STACKTRACE__)
  end

  defp hand_over(_request, _event), do: :ok

  defp result({:ok, {:ok, _id, result}}), do: {:ok, result}
  defp result({:ok, {:error, _id, error}}), do: {:error, Error.from_wire(error)}
  defp result({:error, error}), do: {:error, error}

  defp ended({:shutdown, %Error{} = error}, _request), do: error

  defp ended(reason, request) when reason in [:normal, :shutdown],
    do: Error.stopped(request.route.bridge)

  defp ended(reason, request), do: Error.worker_ended(reason, request.worker)

  # What has come already is thrown away.
  defp forget(request) do
    hang_up(request)
    forget_name(request)
    flush(request.reply_to)
  end

  # Its alias goes with the monitor.
  defp hang_up(%{monitor: monitor}), do: Process.demonitor(monitor, [:flush])

  defp flush(reply_to) do
    receive do
      {^reply_to, _kind, _content} -> flush(reply_to)
      {^reply_to, :not_taken} -> flush(reply_to)
    after
      0 -> :ok
    end
  end
end
