defmodule ErlBridge.Worker do
  @moduledoc """
  The process that owns the port to one Python: it puts ids on requests, sees whom each frame is
  for, and hands it on.

  What is under way is a value, `ErlBridge.Inflight`; frames are built and read by `ErlBridge.Protocol`.
  Terms pass by this process: callers encode their requests and decode their replies themselves. It
  watches its callers, so that work for a dead one is cancelled; it runs the functions that Python
  calls, each in a linked process of its own; and when Python dies it tells everybody who waits and
  ends. Its pool starts another then.

  It is a special process of OTP and no `GenServer`, as the way through one was a sixth of what the client adds
  to a short request; `:sys` and supervisors find what they find there.

  Messages it takes, beside those of its port (`ErlBridge.Request` and `ErlBridge.Pool` send them):

    * `{:request, request, body}` - send this
    * `{:cast, request, body}` - send this, nobody waits for the reply
    * `{:cancel, request, reply_to}` - ask Python to cancel the request whose reply goes there
    * `{:abandon, reply_to}` - nobody waits for that request any more
    * `:tidy` - forget load that nobody will give back
    * `:drain` - finish what is in flight, and end

  and those it gives, to the `alias` of a request, or to its caller once where it has a `slot`: `{reply_to, :event | :final, frame}`,
  `{reply_to, :done, result}` where this side made the answer, or `{reply_to, :not_taken}` where
  the request was not sent to Python and another worker should have it. To its pool it says
  `{:up, worker, hello}` once, and `:room` when it has room again and somebody waits.
  """

  alias ErlBridge.{Callback, Error, Inflight, Line, Load, Protocol, Python, Vocabulary}

  require Logger

  # What a draining server gets to say goodbye, beyond the time its requests have.
  @goodbye_ms 1_000

  # A heap that need not grow and be collected again and again where many requests come at once.
  @heap_words 10_000

  # What `terminate/1` takes at most, beyond the time that requests have to finish.
  @ending_ms 4_000

  # Not all options: they may hold keys of a provider, and `:sys` shows a state to whoever asks.
  defstruct [
    :parent,
    :python,
    :post,
    :shutdown_timeout,
    :idle_at,
    inflight: Inflight.new()
  ]

  @typedoc "Where a worker belongs: its pool, its load, and the count of the callers that wait for room."
  @type post :: %{pool: pid, load: Load.t(), waiting: :atomics.atomics_ref()}

  ## What others call

  @doc """
  Starts a worker, this one or `ErlBridge.Bert.Worker`, under the supervisor of a bridge's workers. It says `{:up, worker, hello}` to its
  pool when Python is ready; when that cannot be, it ends with `{:shutdown, error}`.
  """
  @spec start_under(pid, module, {(() -> map), post}, timeout) :: {:ok, pid}
  def start_under(bridge, module, arguments, shutdown_timeout) do
    spec = Map.put(module.child_spec(arguments), :shutdown, ends_within(shutdown_timeout))
    {:ok, _worker} = DynamicSupervisor.start_child(supervisor(bridge), spec)
  end

  @doc "The name of the supervisor of a bridge's workers."
  @spec supervisor(pid) :: {:via, module, term}
  def supervisor(bridge), do: {:via, Registry, {ErlBridge.Registry, {bridge, :workers}}}

  @doc "How long a worker takes to end at most, when its requests get `shutdown_timeout` ms to finish."
  @spec ends_within(pos_integer) :: pos_integer
  def ends_within(shutdown_timeout), do: shutdown_timeout + @ending_ms

  @doc "Has a worker finish what it has in flight, within its `:shutdown_timeout`, and end."
  @spec drain(pid) :: :ok
  def drain(worker) do
    send(worker, :drain)
    :ok
  end

  @doc "Gives back the room of a request that is answered; `bytes` is `nil` for one that took none."
  @spec make_room(post, non_neg_integer | nil) :: :ok
  def make_room(_post, nil), do: :ok

  def make_room(%{load: load} = post, bytes) do
    # Not of health checks, which come between any two looks at an idle worker.
    Load.answered(load, bytes)
    tell_waiting(post)
  end

  @doc """
  Forgets load that is counted while nothing was in flight, twice in a row and with no answer in
  between: callers took it that were killed before they could send.

  Takes and gives the count of answers at the last such look.
  """
  @spec forget_load(post, boolean, integer | nil) :: integer | nil
  def forget_load(%{load: load} = post, nothing_in_flight?, idle_at) do
    idle? = nothing_in_flight? and Load.requests(load) > 0
    answers = Load.answers(load)

    if idle? and idle_at == answers do
      Load.clear(load)
      tell_waiting(post)
    end

    if idle?, do: answers
  end

  defp tell_waiting(post) do
    if :atomics.get(post.waiting, 1) > 0, do: send(post.pool, :room)
    :ok
  end

  @doc "Answers a request with a result that this side made."
  @spec answer(map | nil, {:ok, term} | {:error, Error.t()}) :: :ok
  def answer(%{reply_to: reply_to} = request, result),
    do: tell(request, {reply_to, :done, result})

  def answer(_nobody, _result), do: :ok

  @doc "Hands a frame on to who waits for it, or what a node that is Python sent in the place of one."
  @spec forward(map | nil, :event | :final, binary | map) :: :ok
  def forward(%{reply_to: reply_to} = request, kind, frame),
    do: tell(request, {reply_to, kind, frame})

  def forward(_nobody, _kind, _frame), do: :ok

  @doc "Has another worker take a request, which this one did not send."
  @spec refuse(map | nil) :: :ok
  def refuse(%{reply_to: reply_to} = request), do: tell(request, {reply_to, :not_taken})
  def refuse(_nobody), do: :ok

  defp tell(%{slot: slot, caller: caller}, message) do
    if Line.take(slot), do: send(caller, message)
    :ok
  end

  defp tell(%{alias: alias}, message) do
    send(alias, message)
    :ok
  end

  @doc "Has others take the requests that the calling process has not seen yet."
  @spec refuse_unsent() :: :ok
  def refuse_unsent do
    receive do
      {:request, request, _body} ->
        refuse(request)
        refuse_unsent()
    after
      0 -> :ok
    end
  end

  @doc false
  def child_spec(arguments),
    do: %{id: __MODULE__, start: {__MODULE__, :start_link, [arguments]}, restart: :temporary}

  @doc false
  def start_link(arguments) do
    options = [min_heap_size: @heap_words]
    :proc_lib.start_link(__MODULE__, :init, [self(), arguments], :infinity, options)
  end

  ## The process

  @doc false
  def init(parent, {options_in, post}) do
    Process.flag(:trap_exit, true)
    Vocabulary.atoms()
    :proc_lib.init_ack({:ok, self()})
    options = options_in.()

    case Python.start(options) do
      {:ok, python} ->
        Process.send_after(self(), {:no_hello, options.start_timeout}, options.start_timeout)
        timeout = options.shutdown_timeout
        serve(%__MODULE__{parent: parent, post: post, python: python, shutdown_timeout: timeout})

      {:error, error} ->
        exit({:shutdown, error})
    end
  end

  defp serve(%{parent: parent, python: %{port: port}} = state) do
    receive do
      {:request, request, body} ->
        state |> send_request(request, body) |> serve()

      {^port, {:data, frame}} ->
        state |> take_frame(frame) |> go_on()

      {:EXIT, ^parent, reason} ->
        stop(reason, state)

      {:system, from, request} ->
        :sys.handle_system_msg(request, from, parent, __MODULE__, [], state)

      message ->
        message |> handle(state) |> go_on()
    end
  end

  defp go_on({:stop, reason, state}), do: stop(reason, state)
  defp go_on(state), do: serve(state)

  defp stop(reason, state) do
    terminate(state)
    exit(reason)
  end

  @doc false
  def system_continue(_parent, _debug, state), do: serve(state)

  @doc false
  def system_terminate(reason, _parent, _debug, state), do: stop(reason, state)

  @doc false
  def system_get_state(state), do: {:ok, state}

  @doc false
  def system_replace_state(replace, state) do
    state = replace.(state)
    {:ok, state, state}
  end

  @doc false
  def system_code_change(state, _module, _old_version, _extra), do: {:ok, state}

  defp take_frame(%{python: %{hello: nil} = python} = state, frame) do
    case Python.greet(python, frame) do
      {:ok, python} ->
        send(state.post.pool, {:up, self(), python.hello})
        %{state | python: python}

      {:error, error} ->
        {:stop, {:shutdown, error}, %{state | python: nil}}
    end
  end

  defp take_frame(state, frame), do: handle_frame(state, Protocol.peek(frame), frame)

  # The state after another message, or how it ends.
  defp handle({:cast, request, body}, state), do: send_own(state, body, request.bytes)

  defp handle({:cancel, request, reply_to}, state) do
    case Inflight.id_of(state.inflight, reply_to) do
      nil ->
        answer(request, {:ok, %{cancelled: false}})
        state

      id ->
        send_request(state, request, cancellation(id))
    end
  end

  defp handle({:abandon, reply_to}, state),
    do: abandon(state, Inflight.id_of(state.inflight, reply_to))

  defp handle({:DOWN, _monitor, :process, caller, _reason}, state),
    do: caller_died(state, caller)

  defp handle({port, {:exit_status, status}}, %{python: %{port: port}} = state),
    do: python_died(state, status)

  # Without an exit status: writing to a Python that reads no more closes the port first.
  defp handle({:EXIT, port, _reason}, %{python: %{port: port}} = state),
    do: python_died(state, nil)

  defp handle({:piece, task, body}, state), do: pass_on(state, task, body)

  defp handle({:answer, task, body}, state), do: answer_call(state, task, body)

  defp handle(:tidy, state), do: tidy(state)

  defp handle(:drain, state), do: {:stop, :shutdown, state}

  defp handle({:no_hello, timeout}, %{python: %{hello: nil}} = state) do
    error = Error.no_hello(timeout, Python.kill(state.python))
    {:stop, {:shutdown, error}, %{state | python: nil}}
  end

  defp handle({:EXIT, stderr, reason}, %{python: %{stderr: stderr}} = state),
    do: {:stop, reason, state}

  defp handle({:EXIT, task, reason}, state) when is_pid(task),
    do: task_died(state, task, reason)

  defp handle(_late_message_of_a_closed_port, state), do: state

  # Requests

  defp send_request(state, request, body) do
    {id, inflight} = Inflight.add(state.inflight, request)
    Python.write(state.python, Protocol.frame(id, body))
    %{state | inflight: inflight}
  end

  defp send_own(state, body, bytes \\ nil) do
    {id, inflight} = Inflight.add(state.inflight, %{bytes: bytes})
    Python.write(state.python, Protocol.frame(id, body))
    %{state | inflight: inflight}
  end

  defp abandon(state, nil), do: state

  defp abandon(state, id) do
    {_request, tasks, inflight} = Inflight.abandon(state.inflight, id)
    kill(tasks)
    send_own(%{state | inflight: inflight}, cancellation(id))
  end

  defp caller_died(state, caller) do
    {ids, inflight} = Inflight.ended(state.inflight, caller)
    Enum.reduce(ids, %{state | inflight: inflight}, &abandon(&2, &1))
  end

  defp cancellation(id), do: own_body(:cancel, %{message_id: id})
  defp own_body(type, payload), do: Protocol.body(Protocol.encode(type, payload), %{})

  defp kill([]), do: :ok
  defp kill(tasks), do: Enum.each(tasks, &Process.exit(&1, :kill))

  defp tidy(state) do
    idle_at = forget_load(state.post, Inflight.idle?(state.inflight), state.idle_at)
    %{state | idle_at: idle_at, inflight: Inflight.forget_idle(state.inflight)}
  end

  # Frames

  defp handle_frame(state, {:final, id}, frame) do
    {request, tasks, inflight} = Inflight.finish(state.inflight, id)
    forward(request, :final, frame)
    make_room(state.post, request && request.bytes)
    kill(tasks)
    %{state | inflight: inflight}
  end

  defp handle_frame(state, {:event, id}, frame) do
    request = Inflight.request(state.inflight, id)
    if request && request.events?, do: forward(request, :event, frame)
    state
  end

  defp handle_frame(state, {:call, call_id, id}, frame) do
    case Inflight.request(state.inflight, id) do
      nil ->
        state

      request ->
        max_frame = state.python.hello.limits.max_frame_bytes
        task = Callback.start_link(request, frame, max_frame)
        %{state | inflight: Inflight.add_task(state.inflight, task, id, call_id)}
    end
  end

  defp handle_frame(state, {:refused, error}, _frame) do
    Logger.error("Python could not read a frame: #{Exception.message(error)}")
    state
  end

  defp handle_frame(state, :unreadable, frame) do
    Logger.error("a frame of #{byte_size(frame)} bytes from Python cannot be read; it is ignored")
    state
  end

  # Functions that Python calls

  defp pass_on(state, task, body) do
    if Inflight.task?(state.inflight, task) do
      state = send_own(state, body)
      send(task, {:told, self()})
      state
    else
      state
    end
  end

  defp answer_call(state, task, body) do
    case Inflight.pop_task(state.inflight, task) do
      {nil, _inflight} -> state
      {_call_id, inflight} -> send_own(%{state | inflight: inflight}, body)
    end
  end

  defp task_died(state, task, reason) do
    case Inflight.pop_task(state.inflight, task) do
      {nil, _inflight} ->
        state

      {call_id, inflight} ->
        send_own(%{state | inflight: inflight}, Callback.died(call_id, reason))
    end
  end

  # The end

  defp python_died(state, status) do
    error = Python.crashed(state.python, status)
    Load.close(state.post.load)
    answer_awaited(state, error)
    settle(state)
    {:stop, {:shutdown, error}, %{state | python: nil}}
  end

  defp answer_awaited(state, error),
    do: Enum.each(Inflight.awaited(state.inflight), &answer(&1, {:error, error}))

  defp terminate(%{python: nil}), do: :ok

  defp terminate(%{python: %{hello: nil} = python}), do: Python.kill(python)

  defp terminate(state) do
    deadline = System.monotonic_time(:millisecond) + state.shutdown_timeout + @goodbye_ms
    Load.close(state.post.load)

    state
    |> send_own(own_body(:shutdown, %{drain_ms: state.shutdown_timeout}))
    |> drain_until(deadline)
  end

  # Replies that still come are still delivered, and functions still run.
  defp drain_until(%{python: %{port: port} = python} = state, deadline) do
    receive do
      {:request, request, _body} ->
        refuse(request)
        drain_until(state, deadline)

      {^port, {:exit_status, status}} ->
        ended(state, Error.crashed(python.os_pid, status, Python.close(python)))

      {:EXIT, ^port, _reason} ->
        ended(state, Error.crashed(python.os_pid, nil, Python.kill(python)))

      {^port, {:data, frame}} ->
        state |> take_frame(frame) |> drain_until(deadline)

      message ->
        message |> handle(state) |> still() |> drain_until(deadline)
    after
      max(deadline - System.monotonic_time(:millisecond), 0) ->
        Python.kill(python)
        refuse_unsent()
    end
  end

  # A Python that ends as it should has answered everything.
  defp ended(state, error) do
    answer_awaited(state, error)
    settle(state)
  end

  defp settle(state) do
    refuse_unsent()
    Load.settle(state.post.load)
  end

  # It ends already.
  defp still({:stop, _reason, state}), do: state
  defp still(state), do: state
end
