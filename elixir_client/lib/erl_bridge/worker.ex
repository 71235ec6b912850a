defmodule ErlBridge.Worker do
  @moduledoc """
  The process that owns the port to one Python: it puts ids on requests, sees whom each frame is
  for, and hands it on.

  What is under way is a value, `ErlBridge.Inflight`, and so is who waits for it, `ErlBridge.Callers`; frames are built and read by
  `ErlBridge.Protocol`. Terms pass by this process: callers encode their requests and decode their
  replies themselves. It watches its callers, so that work for a dead one is cancelled; it runs
  the functions that Python calls, each in a linked process of its own; and when Python dies it
  tells everybody who waits and ends. Its pool starts another then.

  Messages it takes, beside those of its port (`ErlBridge.Request` and `ErlBridge.Pool` send them):

    * `{:request, request, body}` - send this
    * `{:cast, request, body}` - send this, nobody waits for the reply
    * `{:cancel, request, reply_to}` - ask Python to cancel the request whose reply goes there
    * `{:abandon, reply_to}` - nobody waits for that request any more
    * `:tidy` - forget load that nobody will give back
    * `:drain` - finish what is in flight, and end

  and those it gives, to the `alias` of a request: `{reply_to, :event | :final, frame}`,
  `{reply_to, :done, result}` where this side made the answer, or `{reply_to, :not_taken}` where
  the request was not sent to Python and another worker should have it. To its pool it says
  `{:up, worker, hello}` once, and `:room` when it has room again and somebody waits.
  """

  use GenServer, restart: :temporary

  alias ErlBridge.{Callback, Callers, Error, Inflight, Load, Protocol, Python, Vocabulary}

  require Logger

  # What a draining server gets to say goodbye, beyond the time its requests have.
  @goodbye_ms 1_000

  # A heap that need not grow and be collected again and again where many requests come at once.
  @heap_words 10_000

  # What `terminate/2` takes at most, beyond the time that requests have to finish.
  @ending_ms 4_000

  # Not all options: they may hold keys of a provider, and a state is logged when its process
  # crashes.
  defstruct [
    :python,
    :post,
    :shutdown_timeout,
    :idle_at,
    inflight: Inflight.new(),
    callers: Callers.new()
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
  def answer(%{reply_to: reply_to, alias: alias}, result) do
    send(alias, {reply_to, :done, result})
    :ok
  end

  def answer(_nobody, _result), do: :ok

  @doc "Hands a frame on to who waits for it, or what a node that is Python sent in the place of one."
  @spec forward(map | nil, :event | :final, binary | map) :: :ok
  def forward(%{reply_to: reply_to, alias: alias}, kind, frame) do
    send(alias, {reply_to, kind, frame})
    :ok
  end

  def forward(_nobody, _kind, _frame), do: :ok

  @doc "Has another worker take a request, which this one did not send."
  @spec refuse(map | nil) :: :ok
  def refuse(%{reply_to: reply_to, alias: alias}) do
    send(alias, {reply_to, :not_taken})
    :ok
  end

  def refuse(_nobody), do: :ok

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
  def start_link(arguments),
    do: GenServer.start_link(__MODULE__, arguments, spawn_opt: [min_heap_size: @heap_words])

  ## The process

  @impl true
  def init({options_in, post}) do
    Process.flag(:trap_exit, true)
    Vocabulary.atoms()
    {:ok, %__MODULE__{post: post}, {:continue, {:start, options_in}}}
  end

  @impl true
  def handle_continue({:start, options_in}, state) do
    options = options_in.()

    case Python.start(options) do
      {:ok, python} ->
        Process.send_after(self(), {:no_hello, options.start_timeout}, options.start_timeout)
        {:noreply, %{state | python: python, shutdown_timeout: options.shutdown_timeout}}

      {:error, error} ->
        {:stop, {:shutdown, error}, state}
    end
  end

  @impl true
  def handle_info({:request, request, body}, state),
    do: {:noreply, send_request(state, request, body)}

  def handle_info({port, {:data, frame}}, %{python: %{port: port, hello: nil}} = state) do
    case Python.greet(state.python, frame) do
      {:ok, python} ->
        send(state.post.pool, {:up, self(), python.hello})
        {:noreply, %{state | python: python}}

      {:error, error} ->
        {:stop, {:shutdown, error}, %{state | python: nil}}
    end
  end

  def handle_info({port, {:data, frame}}, %{python: %{port: port}} = state),
    do: {:noreply, handle_frame(state, Protocol.peek(frame), frame)}

  def handle_info({:cast, request, body}, state),
    do: {:noreply, send_own(state, body, request.bytes)}

  def handle_info({:cancel, request, reply_to}, state) do
    case Inflight.id_of(state.inflight, :reply_to, reply_to) do
      nil ->
        answer(request, {:ok, %{cancelled: false}})
        {:noreply, state}

      id ->
        {:noreply, send_request(state, request, cancellation(id))}
    end
  end

  def handle_info({:abandon, reply_to}, state),
    do: {:noreply, abandon(state, Inflight.id_of(state.inflight, :reply_to, reply_to))}

  def handle_info({:DOWN, _monitor, :process, caller, _reason}, state),
    do: {:noreply, caller_died(state, caller)}

  def handle_info({port, {:exit_status, status}}, %{python: %{port: port}} = state),
    do: python_died(state, status)

  # Without an exit status: writing to a Python that reads no more closes the port first.
  def handle_info({:EXIT, port, _reason}, %{python: %{port: port}} = state),
    do: python_died(state, nil)

  def handle_info({:piece, task, body}, state), do: {:noreply, pass_on(state, task, body)}

  def handle_info({:answer, task, body}, state), do: {:noreply, answer_call(state, task, body)}

  def handle_info(:tidy, state), do: {:noreply, tidy(state)}

  def handle_info(:drain, state), do: {:stop, :shutdown, state}

  def handle_info({:no_hello, timeout}, %{python: %{hello: nil}} = state) do
    error = Error.no_hello(timeout, Python.kill(state.python))
    {:stop, {:shutdown, error}, %{state | python: nil}}
  end

  def handle_info({:EXIT, stderr, reason}, %{python: %{stderr: stderr}} = state),
    do: {:stop, reason, state}

  def handle_info({:EXIT, task, reason}, state) when is_pid(task),
    do: {:noreply, task_died(state, task, reason)}

  def handle_info(_late_message_of_a_closed_port, state), do: {:noreply, state}

  # Requests

  defp send_request(state, request, body) do
    callers = Callers.join(state.callers, request.caller)
    {id, inflight} = Inflight.add(state.inflight, request)
    Python.write(state.python, Protocol.frame(id, body))
    %{state | inflight: inflight, callers: callers}
  end

  defp send_own(state, body, bytes \\ nil) do
    {id, inflight} = Inflight.add(state.inflight, %{bytes: bytes})
    Python.write(state.python, Protocol.frame(id, body))
    %{state | inflight: inflight}
  end

  defp abandon(state, nil), do: state

  defp abandon(state, id) do
    {request, tasks, inflight} = Inflight.abandon(state.inflight, id)
    callers = release(state.callers, request, tasks)
    send_own(%{state | inflight: inflight, callers: callers}, cancellation(id))
  end

  defp caller_died(state, caller) do
    {waited?, callers} = Callers.ended(state.callers, caller)
    ids = if waited?, do: Inflight.ids_of(state.inflight, caller), else: []
    Enum.reduce(ids, %{state | callers: callers}, &abandon(&2, &1))
  end

  defp cancellation(id), do: own_body(:cancel, %{message_id: id})
  defp own_body(type, payload), do: Protocol.body(Protocol.encode(type, payload), %{})

  defp release(callers, request, tasks) do
    if tasks != [], do: Enum.each(tasks, &Process.exit(&1, :kill))

    case request do
      %{caller: caller} -> Callers.leave(callers, caller)
      _nobody -> callers
    end
  end

  defp tidy(state) do
    idle_at = forget_load(state.post, Inflight.idle?(state.inflight), state.idle_at)
    %{state | idle_at: idle_at, callers: Callers.forget_idle(state.callers)}
  end

  # Frames

  defp handle_frame(state, {:final, id}, frame) do
    {request, tasks, inflight} = Inflight.finish(state.inflight, id)
    forward(request, :final, frame)
    make_room(state.post, request && request.bytes)
    %{state | inflight: inflight, callers: release(state.callers, request, tasks)}
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

  @impl true
  def terminate(_reason, %{python: nil}), do: :ok

  def terminate(_reason, %{python: %{hello: nil} = python}), do: Python.kill(python)

  def terminate(_reason, state) do
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

      message ->
        message |> handle_info(state) |> elem_state() |> drain_until(deadline)
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

  defp elem_state({:noreply, state}), do: state
  defp elem_state({:stop, _reason, state}), do: state
end
