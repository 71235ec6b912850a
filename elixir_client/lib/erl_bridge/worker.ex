defmodule ErlBridge.Worker do
  @moduledoc """
  The process that owns the port to one Python: it puts ids on requests, sees whom each frame is
  for, and hands it on.

  What is under way is a value, `ErlBridge.Inflight`; frames are built and read by
  `ErlBridge.Protocol`. Terms pass by this process: callers encode their requests and decode their
  replies themselves. It watches its callers, so that work for a dead one is cancelled; it runs
  the functions that Python calls, each in a linked process of its own; and when Python dies it
  tells everybody who waits and stops, for its supervisor to start anew.

  Messages it takes, beside those of its port (`ErlBridge.Request` sends them):

    * `{:request, request, body}` - send this
    * `{:cancel, request, name}` - ask Python to cancel the request of that name
    * `{:abandon, reply_to}` - nobody waits for that request any more

  and those it gives, to the `reply_to` of a request: `{reply_to, :event | :final, frame}`, or
  `{reply_to, :done, result}` where this side made the answer.
  """

  use GenServer, restart: :permanent

  alias ErlBridge.{Callback, Error, Inflight, OsProcess, Protocol, Python, Vocabulary}

  require Logger

  # What a draining server gets to say goodbye, beyond the time its requests have.
  @goodbye_ms 1_000

  # What `terminate/2` takes at most, beyond the time that requests have to finish.
  @ending_ms 4_000

  # Not all options: they may hold keys of a provider, and a state is logged when its process
  # crashes.
  defstruct [:python, :shutdown_timeout, inflight: Inflight.new()]

  @typedoc "What callers must know of a bridge: the default timeout, the largest frame, hello, and how long a stop takes at most."
  @type facts :: %{timeout: timeout, max_frame: pos_integer, hello: map, stop_within: pos_integer}

  @doc "Starts a worker, given validated options; returns when Python has said hello, or the error that came instead."
  @spec start_link(map) :: {:ok, pid} | {:error, Error.t() | {:already_started, pid}}
  def start_link(options) do
    name = Enum.to_list(Map.take(options, [:name]))

    case GenServer.start_link(__MODULE__, {self(), options}, name) do
      {:error, {:shutdown, %Error{} = error}} -> {:error, error}
      other -> other
    end
  end

  @doc """
  The worker behind a bridge, and what its callers must know of it: default timeout, largest
  frame, hello.

  Read from the registry, not asked of the worker.
  """
  @spec lookup(GenServer.server()) ::
          {:ok, pid, facts} | {:error, Error.t()}
  def lookup(bridge) do
    with worker when is_pid(worker) <- GenServer.whereis(bridge),
         [{^worker, facts}] <- Registry.lookup(ErlBridge.Registry, worker) do
      {:ok, worker, facts}
    else
      _not_there -> {:error, Error.not_running(bridge)}
    end
  end

  @doc """
  Stops a worker; returns when its Python is gone.

  One that does not stop in time is stuck writing to a Python that does not read: both are killed
  then.
  """
  @spec stop(GenServer.server()) :: :ok
  def stop(bridge) do
    case lookup(bridge) do
      {:ok, worker, facts} -> stop(worker, facts)
      {:error, _not_running} -> :ok
    end
  end

  defp stop(worker, facts) do
    GenServer.stop(worker, :normal, facts.stop_within)
  catch
    :exit, {:timeout, _call} ->
      OsProcess.signal(facts.hello.os_pid, "KILL")
      Process.exit(worker, :kill)
      :ok

    :exit, _gone_already ->
      :ok
  end

  @impl true
  def init({parent, options}) do
    Process.flag(:trap_exit, true)
    Vocabulary.atoms()

    case Python.start(options) do
      {:ok, python} ->
        {:ok, _owner} = Registry.register(ErlBridge.Registry, self(), facts(python, options))
        {:ok, %__MODULE__{python: python, shutdown_timeout: options.shutdown_timeout}}

      {:error, error} ->
        # The error is for the caller of start_link to handle; it must not be killed by it.
        Process.unlink(parent)
        {:stop, {:shutdown, error}}
    end
  end

  defp facts(%Python{hello: hello}, options) do
    %{
      timeout: options.timeout,
      hello: hello,
      max_frame: hello.limits.max_frame_bytes,
      stop_within: options.shutdown_timeout + @ending_ms
    }
  end

  @impl true
  def handle_info({:request, request, body}, state),
    do: {:noreply, send_request(state, request, body)}

  def handle_info({:cancel, request, name}, state) do
    case Inflight.id_named(state.inflight, name) do
      nil ->
        answer(request, {:ok, %{cancelled: false}})
        {:noreply, state}

      id ->
        {:noreply, send_request(state, request, cancellation(id))}
    end
  end

  def handle_info({:abandon, reply_to}, state),
    do: {:noreply, abandon(state, Inflight.id_named(state.inflight, reply_to))}

  def handle_info({:DOWN, monitor, :process, _caller, _reason}, state),
    do: {:noreply, abandon(state, Inflight.id_watched_by(state.inflight, monitor))}

  def handle_info({port, {:data, frame}}, %{python: %{port: port}} = state),
    do: {:noreply, handle_frame(state, Protocol.peek(frame), frame)}

  def handle_info({port, {:exit_status, status}}, %{python: %{port: port}} = state),
    do: python_died(state, status)

  # Without an exit status: writing to a Python that reads no more closes the port first.
  def handle_info({:EXIT, port, _reason}, %{python: %{port: port}} = state),
    do: python_died(state, nil)

  def handle_info({:answer, task, body}, state), do: {:noreply, answer_call(state, task, body)}

  def handle_info({:EXIT, stderr, reason}, %{python: %{stderr: stderr}} = state),
    do: {:stop, reason, state}

  def handle_info({:EXIT, task, reason}, state) when is_pid(task),
    do: {:noreply, task_died(state, task, reason)}

  def handle_info(_late_message_of_a_closed_port, state), do: {:noreply, state}

  # Requests

  defp send_request(state, request, body) do
    monitor = Process.monitor(request.caller)

    case Inflight.add(state.inflight, Map.put(request, :monitor, monitor)) do
      {:ok, id, inflight} ->
        Python.write(state.python, Protocol.frame(id, body))
        %{state | inflight: inflight}

      {:error, :duplicate} ->
        Process.demonitor(monitor, [:flush])
        answer(request, {:error, Error.duplicate_id(request.name)})
        state
    end
  end

  defp send_own(state, body) do
    {id, inflight} = Inflight.add_unawaited(state.inflight)
    Python.write(state.python, Protocol.frame(id, body))
    %{state | inflight: inflight}
  end

  defp abandon(state, nil), do: state

  defp abandon(state, id) do
    {request, tasks, inflight} = Inflight.abandon(state.inflight, id)
    release(request, tasks)
    send_own(%{state | inflight: inflight}, cancellation(id))
  end

  defp cancellation(id), do: Protocol.body(:cancel, %{message_id: id}, %{})

  defp release(request, tasks) do
    request && Process.demonitor(request.monitor, [:flush])
    Enum.each(tasks, &Process.exit(&1, :kill))
  end

  # Frames

  defp handle_frame(state, {:final, id}, frame) do
    {request, tasks, inflight} = Inflight.finish(state.inflight, id)
    release(request, tasks)
    forward(request, :final, frame)
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
        task = run(request, frame, state)
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

  defp forward(nil, _kind, _frame), do: :ok
  defp forward(%{reply_to: reply_to}, kind, frame), do: send(reply_to, {reply_to, kind, frame})

  defp answer(%{reply_to: reply_to}, result), do: send(reply_to, {reply_to, :done, result})

  # Functions that Python calls

  defp run(%{callbacks: callbacks, caller: caller}, frame, state) do
    worker = self()
    max_frame = state.python.hello.limits.max_frame_bytes

    spawn_link(fn ->
      Process.put(:"$callers", [caller])
      send(worker, {:answer, self(), Callback.answer(callbacks, frame, max_frame)})
    end)
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

    Enum.each(Inflight.awaited(state.inflight), &answer(&1, {:error, error}))
    {:stop, error, %{state | python: nil}}
  end

  @impl true
  def terminate(_reason, %{python: nil}), do: :ok

  def terminate(_reason, state) do
    deadline = System.monotonic_time(:millisecond) + state.shutdown_timeout + @goodbye_ms

    state
    |> send_own(Protocol.body(:shutdown, %{drain_ms: state.shutdown_timeout}, %{}))
    |> drain(deadline)
  end

  # Replies that still come are still delivered, and functions still run. Requests that come now
  # are not taken: their callers see this process end.
  defp drain(%{python: %{port: port} = python} = state, deadline) do
    receive do
      {^port, {:data, frame}} ->
        state |> handle_frame(Protocol.peek(frame), frame) |> drain(deadline)

      {:answer, task, body} ->
        state |> answer_call(task, body) |> drain(deadline)

      {^port, {:exit_status, _status}} ->
        Python.close(python)

      {:EXIT, ^port, _reason} ->
        Python.kill(python)
    after
      max(deadline - System.monotonic_time(:millisecond), 0) -> Python.kill(python)
    end
  end
end
