defmodule ErlBridge.Pool do
  @moduledoc """
  The process that keeps a bridge's workers: starts them, replaces those that end, asks them for
  their health, and lets callers wait for room.

  It publishes what callers must know as an `ErlBridge.Route`. Requests do not pass through it.

  A Python that dies is started anew after a delay that doubles with each failure. One that does
  not answer a health check, and used no processor time meanwhile, is killed; one that is busy is
  left alone.
  """

  use GenServer

  alias ErlBridge.{
    Bridge,
    CircuitBreaker,
    Deadline,
    Error,
    Load,
    OsProcess,
    Protocol,
    Request,
    Route,
    Routes,
    Telemetry,
    Worker
  }

  alias ErlBridge.Pool.{Queue, Slot}
  alias ErlBridge.Recovery.{Budget, Policy}

  require Logger

  # Of the options only what is no secret is kept in the state.
  @settings [:max_queue, :health_interval, :health_timeout, :start_timeout, :shutdown_timeout]

  # What Python accepts unless told.
  @max_frame 64 * 1024 * 1024

  # A Python that answered nothing and used no processor time for so many `:health_timeout`s in a
  # row is dead. One such period may be the system's fault.
  @idle_periods 2

  defstruct [
    :bridge,
    :options,
    :settings,
    :route,
    slots: %{},
    workers: %{},
    queue: Queue.new(),
    granted: %{},
    callers: %{},
    starters: [],
    rolling: nil,
    last_error: nil
  ]

  ## What others call

  @doc """
  Starts the pool of the bridge whose supervisor is `bridge`; `workers` names the supervisor of its
  workers.

  The options come in a function, because they may hold keys of a provider: the arguments and the
  state of a process are logged when it crashes.
  """
  @spec start_link({pid, (() -> map)}) :: GenServer.on_start()
  def start_link({_bridge, _options} = arguments), do: GenServer.start_link(__MODULE__, arguments)

  @doc "Returns when the first worker is up, or with the error when none could be started."
  @spec await_start(pid) :: :ok | {:error, Error.t()}
  def await_start(pool), do: GenServer.call(pool, :await_start, :infinity)

  @doc "What each worker is doing, by its number."
  @spec status(Route.t()) :: {:ok, [map]} | {:error, Error.t()}
  def status(route), do: ask_pool(route, :status)

  @doc "What the first of the workers that are up said when it started."
  @spec hello(Route.t()) :: {:ok, map} | {:error, Error.t()}
  def hello(route), do: ask_pool(route, :hello)

  @doc "Changes the number of workers. Those that are too many finish what they have."
  @spec resize(Route.t(), pos_integer) :: :ok | {:error, Error.t()}
  def resize(route, size), do: ask_pool(route, {:resize, size})

  @doc "Replaces the workers one by one, each by one that is up before it goes."
  @spec rolling_restart(Route.t()) :: :ok | {:error, Error.t()}
  def rolling_restart(route), do: ask_pool(route, :rolling_restart)

  # What it answers with comes from itself; only that it ended meanwhile does not.
  defp ask_pool(route, question) do
    GenServer.call(route.pool, question, :infinity)
  catch
    :exit, _it_ended -> {:error, Error.stopped(route.bridge)}
  end

  @doc "Waits in the queue; see `ErlBridge.Route.reserve/5`."
  @spec wait(
          Route.t(),
          Route.wanted(),
          non_neg_integer,
          Deadline.t(),
          (reference -> any)
        ) :: {:ok, Route.worker()} | {:error, Error.t()}
  def wait(%Route{} = route, wanted, bytes, deadline, on_wait) do
    ref = :erlang.monitor(:process, route.pool, alias: :demonitor)
    on_wait.(ref)
    send(route.pool, {:wait, ref, %{caller: self(), wanted: wanted, bytes: bytes}})
    within = min(route.queue_timeout, Deadline.remaining(deadline))
    result = await_room(ref, route, within)
    Process.demonitor(ref, [:flush])
    flush(ref)
    result
  end

  # A cancel and a grant may have crossed.
  defp flush(ref) do
    receive do
      {^ref, _what, _content} -> flush(ref)
    after
      0 -> :ok
    end
  end

  defp await_room(ref, route, within) do
    receive do
      {^ref, :granted, worker} ->
        granted(ref, route, worker)

      {^ref, :refused, error} ->
        send(route.pool, {:leave, ref})
        {:error, error}

      {:DOWN, ^ref, :process, _pool, _reason} ->
        {:error, Error.not_running(route.bridge)}
    after
      within ->
        # The pool refuses now, unless it has granted meanwhile.
        send(route.pool, {:give_up, ref, within})
        await_room(ref, route, :infinity)
    end
  end

  # A cancel that came behind the grant counts, since who cancelled was told that it does.
  defp granted(ref, route, worker) do
    receive do
      {^ref, :refused, error} ->
        send(route.pool, {:leave, ref})
        {:error, error}
    after
      0 ->
        send(route.pool, {:taken, ref})
        {:ok, worker}
    end
  end

  ## The process

  @impl true
  def init({bridge, options_in}) do
    options = options_in.()

    route = %Route{
      bridge: Map.get(options, :name, bridge),
      pool: self(),
      workers: {},
      waiting: :atomics.new(1, signed: false),
      limits: %{requests: options.max_in_flight, bytes: options.max_bytes_in_flight},
      queue_timeout: options.queue_timeout,
      timeout: options.timeout,
      max_frame: Map.get(options, :max_frame, @max_frame),
      policy: Policy.of(options),
      budget: Budget.new(options.retry_budget),
      breaker: breaker(bridge, options),
      cache: if(options.cache, do: Bridge.cache(bridge))
    }

    :ok = Routes.publish(bridge, route)

    state = %__MODULE__{
      bridge: bridge,
      options: options_in,
      settings: options |> Map.take(@settings) |> Map.put(:worker, worker_module(options)),
      route: route
    }

    {:ok, set_size(state, options.pool_size)}
  end

  @impl true
  def handle_call(:await_start, from, state),
    do: {:noreply, tell_starters(%{state | starters: [from | state.starters]})}

  def handle_call(:status, _from, state) do
    status = for {index, slot} <- Enum.sort(state.slots), do: status(index, slot)
    {:reply, {:ok, status}, state}
  end

  def handle_call(:hello, _from, state) do
    case Enum.find(Enum.sort(state.slots), fn {_index, slot} -> slot.phase == :up end) do
      {_index, slot} -> {:reply, {:ok, slot.hello}, state}
      nil -> {:reply, {:error, Error.none_up(state.route.bridge, 0, state.last_error)}, state}
    end
  end

  def handle_call({:resize, size}, _from, state) do
    sizes = %{size: size, previous: map_size(state.slots)}
    Telemetry.pool_resize(sizes, Map.put(about(state), :reason, :asked))
    {:reply, :ok, set_size(state, size)}
  end

  def handle_call(:rolling_restart, _from, %{rolling: %{}} = state),
    do: {:reply, {:error, Error.busy("a rolling restart is under way")}, state}

  def handle_call(:rolling_restart, from, state) do
    rolling = %{from: from, slots: Enum.sort(Map.keys(state.slots))}
    {:noreply, roll(%{state | rolling: rolling})}
  end

  @impl true
  def handle_info({:wait, ref, entry}, state), do: {:noreply, enqueue(state, ref, entry)}
  def handle_info({:taken, ref}, state), do: {:noreply, settle(state, ref)}
  def handle_info({:leave, ref}, state), do: {:noreply, leave(state, ref)}
  def handle_info({:give_up, ref, within}, state), do: {:noreply, give_up(state, ref, within)}
  def handle_info(:room, state), do: {:noreply, serve(state)}

  def handle_info({:up, worker, hello}, state) do
    case Map.fetch(state.workers, worker) do
      {:ok, {role, index}} -> {:noreply, worker_up(state, role, index, hello)}
      :error -> {:noreply, state}
    end
  end

  def handle_info({:start, index}, state) do
    case state.slots do
      %{^index => %Slot{phase: :down}} -> {:noreply, start(state, index)}
      _started_or_gone -> {:noreply, state}
    end
  end

  def handle_info({:overstayed, worker}, state) do
    if Map.has_key?(state.workers, worker), do: Process.exit(worker, :kill)
    {:noreply, state}
  end

  def handle_info({:check, index, worker}, state) do
    case state.slots do
      %{^index => %Slot{worker: ^worker, phase: :up} = slot} ->
        {:noreply, check(state, index, slot)}

      _another_by_now ->
        {:noreply, state}
    end
  end

  def handle_info({:overdue, index, ref}, state) do
    case state.slots do
      %{^index => %Slot{check: %{ref: ^ref}} = slot} -> {:noreply, overdue(state, index, slot)}
      _answered -> {:noreply, state}
    end
  end

  def handle_info({ref, :final, _frame}, state) when is_reference(ref),
    do: {:noreply, checked(state, ref)}

  def handle_info({:DOWN, monitor, :process, pid, reason}, state) do
    case Map.pop(state.workers, pid) do
      {nil, _workers} ->
        {:noreply, leave(state, state.callers[monitor])}

      {{role, index}, workers} ->
        {:noreply, worker_down(%{state | workers: workers}, role, index, error(reason, pid))}
    end
  end

  def handle_info(_answer_of_one_that_is_gone, state), do: {:noreply, state}

  defp worker_module(%{connect: _server}), do: ErlBridge.Bert.Worker
  defp worker_module(_a_python_of_our_own), do: Worker

  defp breaker(_bridge, %{circuit_breaker: false}), do: nil

  defp breaker(bridge, _options) do
    {:ok, handle} = CircuitBreaker.handle(CircuitBreaker.name(bridge))
    handle
  end

  ## Workers

  defp set_size(state, size) do
    {kept, ended} = Enum.split_with(state.slots, fn {index, _slot} -> index < size end)
    new = Enum.reject(0..(size - 1), &Map.has_key?(state.slots, &1))
    slots = Map.new(kept ++ Enum.map(new, &{&1, %Slot{}}))

    new
    |> Enum.reduce(retire(%{state | slots: slots}, ended), &start(&2, &1))
    |> publish()
    |> serve()
  end

  # A rolling restart that waits for a replacement goes on when that has gone.
  defp retire(state, slots) do
    Enum.reduce(slots, state, fn {_index, slot}, state ->
      {replacement, _load} = slot.replacement || {nil, nil}
      state |> dismiss(slot.worker, :retired) |> dismiss(replacement, :leaving)
    end)
  end

  # It finishes what it has. One that is stuck, writing to a Python that reads no more, is killed.
  defp dismiss(state, nil, _role), do: state

  defp dismiss(state, worker, role) do
    Worker.drain(worker)
    within = Worker.ends_within(state.settings.shutdown_timeout)
    Process.send_after(self(), {:overstayed, worker}, within)
    update_in(state.workers[worker], fn {_role, index} -> {role, index} end)
  end

  defp start(state, index) do
    {worker, load} = start_worker(state)

    state
    |> put_in([Access.key!(:workers), worker], {:current, index})
    |> update_slot(index, &Slot.started(&1, worker, load, now()))
  end

  defp start_worker(%{route: route} = state) do
    load = Load.new()
    post = %{pool: self(), load: load, waiting: route.waiting}

    {:ok, worker} =
      Worker.start_under(
        state.bridge,
        state.settings.worker,
        {state.options, post},
        state.settings.shutdown_timeout
      )

    Process.monitor(worker)
    {worker, load}
  end

  defp worker_up(state, :current, index, hello) do
    state
    |> update_slot(index, &Slot.up(&1, hello, now()))
    |> welcome(index)
  end

  defp worker_up(state, :replacement, index, hello) do
    %Slot{worker: old, replacement: {worker, load}} = slot = state.slots[index]
    state = dismiss(state, old, :leaving)
    state = put_in(state.workers[worker], {:current, index})
    slot = %{Slot.started(slot, worker, load, now()) | replacement: nil}
    state = state |> put_slot(index, Slot.up(slot, hello, now())) |> welcome(index)
    # The next one goes when the old one has gone.
    if old, do: state, else: roll_on(state)
  end

  defp worker_up(state, _leaving_or_retired, _index, _hello), do: state

  defp welcome(state, index) do
    schedule_check(state, index)
    slot = state.slots[index]
    facts = Map.take(slot.hello, [:os_pid, :version, :python])
    times = %{start_time: native(slot.up_at - slot.started_at)}

    Telemetry.worker_up(
      times,
      state |> about() |> Map.put(:worker, slot.worker) |> Map.merge(facts)
    )

    %{state | last_error: nil}
    |> publish()
    |> tell_starters()
    |> serve()
  end

  defp worker_down(state, :retired, _index, _error), do: state
  defp worker_down(state, :leaving, _index, _error), do: roll_on(state)

  defp worker_down(state, :replacement, index, error) do
    state = update_slot(state, index, &%{&1 | replacement: nil})
    end_roll(state, {:error, error})
  end

  defp worker_down(state, :current, index, error) do
    restart(%{state | last_error: error}, index, state.slots[index])
  end

  defp restart(state, index, slot) do
    {failed, delay} = Slot.failed(slot, now())
    Process.send_after(self(), {:start, index}, delay)
    report(state, slot, delay)
    attempt = Map.put(about(state), :attempt, failed.failures)
    Telemetry.worker_restart(%{delay: native(delay)}, attempt)

    %{state | slots: Map.put(state.slots, index, failed)}
    |> publish()
    |> tell_starters()
  end

  # Who started the bridge gets the error of a first start that failed; nobody else need hear of it.
  defp report(%{starters: [_ | _]}, _slot, _delay), do: :ok

  defp report(state, slot, delay) do
    tell_down(state, slot, state.last_error)

    Logger.error(
      "#{inspect(state.route.bridge)}: #{state.last_error.message}; starting it anew in #{delay} ms"
    )
  end

  defp tell_down(state, slot, reason) do
    uptime = if slot.phase == :up, do: native(now() - slot.up_at), else: 0

    Telemetry.worker_down(
      %{uptime: uptime},
      Map.merge(about(state), %{
        worker: slot.worker,
        os_pid: slot.hello && slot.hello.os_pid,
        reason: reason,
        exit_status: reason.context[:exit_status]
      })
    )
  end

  defp tell_starters(%{starters: []} = state), do: state

  defp tell_starters(state) do
    phases = for {_index, slot} <- state.slots, do: slot.phase

    cond do
      :up in phases -> answer_starters(state, :ok)
      :starting in phases or state.last_error == nil -> state
      true -> answer_starters(state, {:error, state.last_error})
    end
  end

  defp answer_starters(state, answer) do
    Enum.each(state.starters, &GenServer.reply(&1, answer))
    %{state | starters: []}
  end

  ## Rolling restart

  defp roll_on(%{rolling: nil} = state), do: state
  defp roll_on(state), do: roll(state)

  defp roll(%{rolling: %{slots: []}} = state), do: end_roll(state, :ok)

  defp roll(%{rolling: %{slots: [index | rest]} = rolling} = state) do
    state = %{state | rolling: %{rolling | slots: rest}}

    if Map.has_key?(state.slots, index) do
      {worker, load} = start_worker(state)
      workers = Map.put(state.workers, worker, {:replacement, index})
      update_slot(%{state | workers: workers}, index, &%{&1 | replacement: {worker, load}})
    else
      roll(state)
    end
  end

  defp end_roll(%{rolling: nil} = state, _answer), do: state

  defp end_roll(state, answer) do
    GenServer.reply(state.rolling.from, answer)
    %{state | rolling: nil}
  end

  ## Health

  defp schedule_check(%{settings: %{health_interval: :infinity}}, _index), do: :never

  defp schedule_check(state, index) do
    message = {:check, index, state.slots[index].worker}
    Process.send_after(self(), message, state.settings.health_interval)
  end

  # One that has answered since the last time is well; only one that was silent is asked.
  defp check(state, index, slot) do
    send(slot.worker, :tidy)

    case Load.answers(slot.load) do
      answers when answers == slot.answers ->
        ask(state, index, slot)

      answers ->
        schedule_check(state, index)
        put_slot(state, index, %{slot | answers: answers})
    end
  end

  defp ask(state, index, slot) do
    ref = :erlang.alias([:reply])
    body = Protocol.body(Protocol.encode(:health_check, %{}), %{})
    send(slot.worker, {:request, Request.to_worker(ref), body})
    cpu_time = OsProcess.cpu_time(slot.hello.os_pid)
    put_slot(state, index, %{slot | check: expect(state, index, ref, cpu_time, 0)})
  end

  defp expect(state, index, ref, cpu_time, idle) do
    Process.send_after(self(), {:overdue, index, ref}, state.settings.health_timeout)
    %{ref: ref, cpu_time: cpu_time, idle: idle, asked_at: now()}
  end

  defp tell_health(state, slot, result, error) do
    Telemetry.health_check(
      %{latency: native(now() - slot.check.asked_at)},
      Map.merge(about(state), %{worker: slot.worker, result: result, error: error})
    )
  end

  defp checked(state, ref) do
    case Enum.find(state.slots, fn {_index, slot} -> match?(%{ref: ^ref}, slot.check) end) do
      nil ->
        state

      {index, slot} ->
        schedule_check(state, index)
        tell_health(state, slot, :ok, nil)
        put_slot(state, index, %{slot | check: nil, answers: Load.answers(slot.load)})
    end
  end

  defp overdue(state, index, %Slot{check: check} = slot) do
    cpu_time = OsProcess.cpu_time(slot.hello.os_pid)
    tell_health(state, slot, :error, Error.timed_out(state.settings.health_timeout))

    # Where the system does not tell the processor time, silence is idleness.
    idle = if cpu_time == check.cpu_time, do: check.idle + 1, else: 0

    if idle == @idle_periods do
      end_silent(slot.hello.os_pid, slot.worker)
      state
    else
      put_slot(state, index, %{slot | check: expect(state, index, check.ref, cpu_time, idle)})
    end
  end

  defp end_silent(nil, worker) do
    Logger.error("a server answers no health check: all connections to it are closed")
    Process.exit(worker, :kill)
  end

  defp end_silent(os_pid, _worker) do
    Logger.error(
      "Python (OS process #{os_pid}) answers no health check and does nothing: it is killed"
    )

    OsProcess.signal(os_pid, "KILL")
  end

  ## The queue

  defp enqueue(state, ref, entry) do
    :atomics.add(state.route.waiting, 1, 1)

    if Queue.length(state.queue) < state.settings.max_queue do
      monitor = Process.monitor(entry.caller)
      queue = Queue.push(state.queue, ref, Map.put(entry, :monitor, monitor))
      Telemetry.pool_queue(%{length: Queue.length(queue)}, about(state))
      serve(%{state | queue: queue, callers: Map.put(state.callers, monitor, ref)})
    else
      :atomics.sub(state.route.waiting, 1, 1)
      Telemetry.pool_exhausted(%{length: state.settings.max_queue}, about(state))
      send(ref, {ref, :refused, Error.queue_full(state.settings.max_queue)})
      state
    end
  end

  defp serve(state) do
    {served, queue} = Queue.serve(state.queue, &offer(state.route, &1))
    :atomics.sub(state.route.waiting, 1, length(served))

    for {ref, _entry, worker} <- served, do: send(ref, {ref, :granted, worker})
    granted = Map.new(served, fn {ref, entry, worker} -> {ref, {entry, worker}} end)
    %{state | queue: queue, granted: Map.merge(state.granted, granted)}
  end

  defp offer(route, entry) do
    case Route.take(route, entry.wanted, entry.bytes) do
      {:ok, worker} -> {:ok, worker}
      :full when entry.wanted == :any -> :stop
      :full -> :skip
    end
  end

  # The caller has heard of the room it was granted.
  defp settle(state, ref) do
    case Map.pop(state.granted, ref) do
      {nil, _granted} -> state
      {{entry, _worker}, granted} -> forget(%{state | granted: granted}, entry)
    end
  end

  # The caller waits no more, and never hears of room that it was granted meanwhile.
  defp leave(state, ref) do
    case Map.pop(state.granted, ref) do
      {nil, _granted} ->
        elem(leave_queue(state, ref), 1)

      {{entry, {_worker, load}}, granted} ->
        Load.give_back(load, entry.bytes)
        %{state | granted: granted} |> forget(entry) |> serve()
    end
  end

  defp give_up(state, ref, within) do
    case leave_queue(state, ref) do
      {true, state} ->
        send(ref, {ref, :refused, refusal(state, within)})
        state

      {false, state} ->
        state
    end
  end

  defp leave_queue(state, ref) do
    case Queue.pop(state.queue, ref) do
      {nil, _queue} ->
        {false, state}

      {entry, queue} ->
        :atomics.sub(state.route.waiting, 1, 1)
        {true, forget(%{state | queue: queue}, entry)}
    end
  end

  defp forget(state, entry) do
    Process.demonitor(entry.monitor, [:flush])
    %{state | callers: Map.delete(state.callers, entry.monitor)}
  end

  defp refusal(state, within) do
    if Enum.any?(state.slots, fn {_index, slot} -> slot.phase == :up end),
      do: Error.pool_exhausted(within),
      else: Error.none_up(state.route.bridge, within, state.last_error)
  end

  ## Shared

  defp publish(state) do
    route = %{
      state.route
      | workers:
          state.slots |> Enum.sort() |> Enum.map(&Slot.route(elem(&1, 1))) |> List.to_tuple()
    }

    :ok = Routes.update(state.bridge, route)
    %{state | route: route}
  end

  defp status(index, slot) do
    %{
      worker: index,
      phase: slot.phase,
      os_pid: slot.hello && slot.hello.os_pid,
      in_flight: if(slot.load, do: Load.requests(slot.load), else: 0),
      failures: slot.failures
    }
  end

  defp error({:shutdown, %Error{} = error}, _worker), do: error
  defp error(reason, worker), do: Error.worker_ended(reason, worker)

  defp put_slot(state, index, slot), do: %{state | slots: Map.put(state.slots, index, slot)}
  defp update_slot(state, index, fun), do: put_slot(state, index, fun.(state.slots[index]))

  defp about(state), do: %{bridge: state.route.bridge}

  defp native(ms), do: System.convert_time_unit(ms, :millisecond, :native)

  defp now, do: System.monotonic_time(:millisecond)
end
