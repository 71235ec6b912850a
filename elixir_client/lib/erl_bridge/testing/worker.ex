defmodule ErlBridge.Testing.Worker do
  @moduledoc false

  # Takes the messages of ErlBridge.Worker and the questions of ErlBridge.Pool, and gives what they give.

  use GenServer

  alias ErlBridge.{
    Callback,
    Deadline,
    Error,
    Inflight,
    Load,
    Options,
    Protocol,
    Route,
    Routes,
    Vocabulary,
    Worker
  }

  alias ErlBridge.Recovery.{Budget, Policy}
  alias ErlBridge.Testing.Datasets

  require Datasets

  @max_frame 64 * 1024 * 1024

  defstruct [
    :handlers,
    :load,
    inflight: Inflight.new(),
    tasks: %{},
    received: [],
    datasets: %Datasets{}
  ]

  @spec start_link({pid, ErlBridge.Testing.handlers()}) :: GenServer.on_start()
  def start_link({_bridge, _handlers} = arguments),
    do: GenServer.start_link(__MODULE__, arguments)

  @impl true
  def init({bridge, handlers}) do
    Process.flag(:trap_exit, true)
    Vocabulary.atoms()
    load = Load.new()
    :ok = Routes.publish(bridge, route(bridge, load))
    {:ok, %__MODULE__{handlers: handlers, load: load}}
  end

  defp route(bridge, load) do
    options = Options.validate!([], :start)

    %Route{
      bridge: bridge,
      pool: self(),
      workers: {{self(), load}},
      waiting: :atomics.new(1, signed: false),
      limits: %{requests: 1_000_000, bytes: 1_000_000_000_000},
      queue_timeout: options.queue_timeout,
      timeout: options.timeout,
      max_frame: @max_frame,
      policy: Policy.of(options),
      budget: Budget.new(options.retry_budget),
      breaker: nil,
      cache: nil
    }
  end

  @impl true
  def handle_call(:requests, _from, state), do: {:reply, Enum.reverse(state.received), state}

  def handle_call({:reply, ref, answer}, _from, state) do
    case Inflight.id_of(state.inflight, ref) do
      nil -> {:reply, false, state}
      id -> {:reply, true, finish(state, id, answer)}
    end
  end

  def handle_call(:status, _from, state) do
    in_flight = Load.requests(state.load)

    {:reply, {:ok, [%{worker: 0, phase: :up, os_pid: nil, in_flight: in_flight, failures: 0}]},
     state}
  end

  def handle_call(:hello, _from, state) do
    limits = %{max_frame_bytes: @max_frame}

    {:reply,
     {:ok, %{protocol: 1, os_pid: nil, request_types: types(state.handlers), limits: limits}},
     state}
  end

  def handle_call({:resize, _size}, _from, state), do: {:reply, :ok, state}
  def handle_call(:rolling_restart, _from, state), do: {:reply, :ok, state}

  @impl true
  def handle_info({:request, request, body}, state), do: {:noreply, run(state, request, body)}

  def handle_info({:cast, request, body}, state),
    do: {:noreply, run(state, Map.take(request, [:bytes]), body)}

  def handle_info({:cancel, request, reply_to}, state) do
    id = Inflight.id_of(state.inflight, reply_to)
    Worker.answer(request, {:ok, %{cancelled: id != nil}})
    error = %Error{type: :cancelled, message: "the request was cancelled"}
    {:noreply, if(id, do: finish(state, id, {:error, error}), else: state)}
  end

  def handle_info({:abandon, reply_to}, state),
    do: {:noreply, drop(state, Inflight.id_of(state.inflight, reply_to))}

  def handle_info({:DOWN, _monitor, :process, caller, _reason}, state) do
    {ids, inflight} = Inflight.ended(state.inflight, caller)
    {:noreply, Enum.reduce(ids, %{state | inflight: inflight}, &drop(&2, &1))}
  end

  def handle_info({:answer, task, answer}, state), do: {:noreply, answered(state, task, answer)}

  # A handler that ended without an answer was killed.
  def handle_info({:EXIT, task, reason}, state),
    do: {:noreply, answered(state, task, {:error, failed(Exception.format_exit(reason))})}

  def handle_info(_other, state), do: {:noreply, state}

  # From here on there is no room, as with a worker of Python's: who asks hears that nothing runs.
  @impl true
  def terminate(_reason, state), do: Load.close(state.load)

  defp run(state, request, body) do
    {id, inflight} = Inflight.add(state.inflight, request)
    frame = IO.iodata_to_binary(Protocol.frame(id, body))
    received = Map.take(:erlang.binary_to_term(frame), [:request_type, :payload, :metadata])
    state = %{state | inflight: inflight, received: [received | state.received]}

    if own_dataset?(state.handlers, received.request_type) do
      {answer, datasets} =
        Datasets.answer(state.datasets, received.request_type, received.payload)

      finish(%{state | datasets: datasets}, id, answer)
    else
      received = %{received | payload: Datasets.rows(state.datasets, received.payload)}
      task = start(state.handlers, request, received, id)
      %{state | tasks: Map.put(state.tasks, task, id)}
    end
  end

  # A function for all types knows of its own only.
  defp own_dataset?(handlers, type) when Datasets.is_request(type),
    do: is_function(handlers) or not Map.has_key?(handlers, type)

  defp own_dataset?(_handlers, _type), do: false

  defp start(handlers, request, received, id) do
    worker = self()

    spawn_link(fn ->
      Process.put(:"$callers", Enum.filter([request[:caller]], & &1))
      Deadline.inherit(Map.get(request, :deadline, :infinity))
      send(worker, {:answer, self(), handle(handlers, received, context(request, received, id))})
    end)
  end

  defp handle(handlers, %{request_type: type, payload: payload}, context) do
    cond do
      is_function(handlers) -> handlers.(type, payload, context)
      handler = handlers[type] -> handler.(payload, context)
      true -> own(type, payload, types(handlers))
    end
  rescue
    error -> {:error, failed(Exception.format_banner(:error, error, __STACKTRACE__))}
  end

  defp own(:ping, payload, _types), do: {:ok, payload}
  defp own(:health_check, _payload, _types), do: {:ok, %{status: :healthy, os_pid: nil}}

  defp own(type, _payload, types) do
    message = "no handler for #{inspect(type)}; there are handlers for #{inspect(types)}"
    {:error, %Error{type: :unknown_request, message: message}}
  end

  defp types(handlers) when is_map(handlers), do: Map.keys(handlers)
  defp types(_function), do: []

  defp failed(message),
    do: %Error{type: :python_runtime_error, message: message, strategy: :fallback}

  defp context(request, received, id) do
    %{
      ref: request[:reply_to],
      metadata: received.metadata,
      event: &event(request, id, &1),
      call: &call(Map.get(request, :callbacks, %{}), &1, &2)
    }
  end

  defp event(%{events?: true} = request, id, event),
    do: Worker.forward(request, :event, :erlang.term_to_binary({:event, id, event}))

  defp event(_nobody_listens, _id, _event), do: :ok

  defp call(callbacks, name, args),
    do: callbacks |> Callback.run(name, wired(args)) |> wired()

  defp wired(term), do: :erlang.binary_to_term(:erlang.term_to_binary(term))

  defp answered(state, task, answer) do
    case Map.pop(state.tasks, task) do
      {nil, _tasks} -> state
      {_id, tasks} when answer == :later -> %{state | tasks: tasks}
      {id, tasks} -> finish(%{state | tasks: tasks}, id, answer)
    end
  end

  defp drop(state, nil), do: state
  defp drop(state, id), do: finish(state, id, {:ok, nil})

  defp finish(state, id, answer) do
    {request, _tasks, inflight} = Inflight.finish(state.inflight, id)
    {ended, tasks} = Enum.split_with(state.tasks, fn {_task, of} -> of == id end)
    for {task, _id} <- ended, do: Process.exit(task, :kill)
    with %{bytes: bytes} when is_integer(bytes) <- request, do: Load.give_back(state.load, bytes)

    Worker.forward(request, :final, frame(id, answer))
    %{state | inflight: inflight, tasks: Map.new(tasks)}
  end

  defp frame(id, {:ok, result}), do: :erlang.term_to_binary({:ok, id, result})

  defp frame(id, {:error, %Error{} = error}) do
    :erlang.term_to_binary(
      {:error, id,
       %{
         error_type: error.type,
         message: error.message,
         python_type: error.python_type,
         traceback: error.traceback,
         context: error.context,
         recovery_strategy: error.strategy,
         retry_after_ms: error.retry_after_ms
       }}
    )
  end

  defp frame(id, other) do
    expected = "expected a handler to return {:ok, result}, {:error, error} or :later"
    frame(id, {:error, failed("#{expected}, got: #{inspect(other)}")})
  end
end
