defmodule ErlBridge.CircuitBreaker do
  @moduledoc """
  The circuit breaker of a bridge: after several failures within a short time it lets no request
  pass for a while. Callers learn at once what they would have waited for, and a Python that is
  starting or overloaded gets the time to recover.

  `ErlBridge.CircuitBreaker.State` decides; this process keeps the state, the timer and an eye on
  the callers whose requests are probes. Callers do not ask it: they read what it has published.
  As long as the breaker is closed, `ask/1` and the `report/2` of a success are one read of an
  atomic integer each. Only a failure, and a probe, is a message.

  What an outcome says of the bridge's health:

  | outcome | type of the error | counts as |
  |---|---|---|
  | Python died, hangs, or is out of memory | `:process_crashed` `:not_running` `:resource_exhausted`, a `:timeout_error` that this side made | failure |
  | Python answered, be it with an error | `{:ok, _}`, a `:timeout_error` of Python's, `:lm_error` `:python_runtime_error` `:dspy_optimization_error` `:callback_error` `:import_error` `:unknown_request` `:transfer_error` | success |
  | the request perhaps never came to Python, or was given up | `:invalid_request` `:serialization_error` `:cancelled` `:overloaded` `:pool_exhausted` `:circuit_open`, and any other | neither |

  A crash is one failure, however many requests end by it: errors with the same `:os_pid` or
  `:worker` in their context count once.

  A breaker that is gone lets everything pass: it may cost a bridge its protection, never its work.

      iex> alias ErlBridge.{CircuitBreaker, Error}
      iex> me = self()
      iex> {:ok, pid} = CircuitBreaker.start_link(failures: 1, on_change: &send(me, {&1, &2}))
      iex> {:ok, breaker} = CircuitBreaker.handle(pid)
      iex> CircuitBreaker.ask(breaker)
      :ok
      iex> CircuitBreaker.report(breaker, Error.crashed(1, 139, []))
      :ok
      iex> receive do change -> change end
      {:closed, :open}
      iex> {:error, error} = CircuitBreaker.ask(breaker)
      iex> {error.type, error.strategy, error.retry_after_ms in 1..1_000}
      {:circuit_open, :retry, true}
  """

  use GenServer

  alias ErlBridge.CircuitBreaker.State
  alias ErlBridge.{Error, Options}

  require Logger

  @enforce_keys [:pid, :published, :patience]
  defstruct [:pid, :published, :patience]

  @typedoc "What callers need, without asking: keep it with the bridge."
  @opaque handle :: %__MODULE__{
            pid: pid,
            published: :atomics.atomics_ref(),
            patience: pos_integer
          }

  # The published integers: the state, and the instant from which it is worth asking the process.
  @state 1
  @ask_from 2

  @names {:closed, :open, :half_open}
  @codes %{closed: 0, open: 1, half_open: 2}

  @failures [:process_crashed, :not_running, :timeout_error, :resource_exhausted]
  @successes [
    :lm_error,
    :python_runtime_error,
    :dspy_optimization_error,
    :callback_error,
    :import_error,
    :unknown_request,
    :transfer_error
  ]

  @doc """
  Starts a breaker, closed. It should outlive the bridge's worker, whose crashes it counts.

  #{Options.docs(:circuit_breaker)}
  """
  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(options \\ []) do
    state = State.new(options)
    GenServer.start_link(__MODULE__, {state, options[:on_change]}, Keyword.take(options, [:name]))
  end

  @doc "The name of the breaker of the bridge whose supervisor is `bridge`."
  @spec name(pid) :: {:via, module, term}
  def name(bridge), do: {:via, Registry, {ErlBridge.Registry, {bridge, :breaker}}}

  @doc "The handle of a running breaker."
  @spec handle(GenServer.server()) :: {:ok, handle} | {:error, Error.t()}
  def handle(breaker) do
    {:ok, GenServer.call(breaker, :handle)}
  catch
    :exit, _gone ->
      {:error,
       %Error{
         type: :not_running,
         message: "no circuit breaker is running as #{inspect(breaker)}",
         strategy: :retry
       }}
  end

  @doc "Whether every request may be sent, so that only a failure of one need be told."
  @spec closed?(handle | nil) :: boolean
  def closed?(nil), do: true
  def closed?(%__MODULE__{published: published}), do: :atomics.get(published, @state) == 0

  @doc """
  Whether a request may be sent; always where there is no breaker (`nil`). If so, `report/2` what became
  of it, from the same process.

  The error is `:circuit_open`, with the milliseconds after which it is worth trying again.
  """
  @spec ask(handle | nil) :: :ok | {:error, Error.t()}
  def ask(nil), do: :ok

  def ask(%__MODULE__{published: published} = handle) do
    case elem(@names, :atomics.get(published, @state)) do
      :closed -> :ok
      name -> ask_again(handle, name, :atomics.get(handle.published, @ask_from) - now())
    end
  end

  @doc "Tells what became of a request: `:ok`, or its error."
  @spec report(handle | nil, :ok | Error.t()) :: :ok
  def report(nil, _outcome), do: :ok

  def report(%__MODULE__{} = handle, :ok) do
    # Most requests succeed while it is closed, which says nothing new.
    if state(handle) == :half_open, do: cast(handle, :success, nil), else: :ok
  end

  def report(%__MODULE__{} = handle, outcome),
    do: tell(handle, state(handle), outcome(outcome), cause(outcome))

  @doc "What an outcome says of the bridge's health, by the table above."
  @spec outcome(:ok | Error.t()) :: State.outcome()
  def outcome(:ok), do: :success
  # Python kept the deadline, so it is well.
  def outcome(%Error{type: :timeout_error, context: %{timeout_ms: _}}), do: :success
  def outcome(%Error{type: type}) when type in @failures, do: :failure
  def outcome(%Error{type: type}) when type in @successes, do: :success
  def outcome(%Error{}), do: :unknown

  defp cause(%Error{context: %{os_pid: os_pid}}), do: os_pid
  defp cause(%Error{context: %{worker: worker}}), do: worker
  defp cause(_own), do: nil

  @doc "The state of a breaker. An open one is half-open as soon as its cool-down is over."
  @spec state(handle) :: State.name()
  def state(%__MODULE__{published: published}), do: elem(@names, :atomics.get(published, @state))

  ## The caller's side

  defp ask_again(handle, name, wait) when wait > 0, do: refuse(handle, name, wait)

  defp ask_again(%{pid: pid} = handle, _name, _over) do
    case GenServer.call(pid, :ask) do
      :ok -> :ok
      {:refused, name, wait} -> refuse(handle, name, wait)
    end
  catch
    :exit, _gone -> :ok
  end

  defp refuse(_handle, :open, wait), do: {:error, circuit_open("after too many failures", wait)}

  # A probe is mostly answered long before its time is over.
  defp refuse(%{patience: patience}, :half_open, wait) when is_integer(patience),
    do: {:error, circuit_open("while others are being tried", min(wait, patience))}

  defp circuit_open(why, wait) do
    %Error{
      type: :circuit_open,
      message: "the circuit breaker lets no request pass #{why}; try again in #{wait} ms",
      strategy: :retry,
      retry_after_ms: wait
    }
  end

  # While it is closed only failures count, while it is open nothing does.
  defp tell(handle, :closed, :failure, cause), do: cast(handle, :failure, cause)
  defp tell(handle, :half_open, outcome, cause), do: cast(handle, outcome, cause)
  defp tell(_handle, _state, _outcome, _cause), do: :ok

  defp cast(%{pid: pid}, outcome, cause),
    do: GenServer.cast(pid, {:report, self(), outcome, cause})

  ## The process

  @impl true
  def init({state, on_change}) do
    handle = %__MODULE__{
      pid: self(),
      published: :atomics.new(2, []),
      patience: state.cool_down[:min]
    }

    {:ok, %{state: state, handle: handle, on_change: on_change, monitors: %{}}}
  end

  @impl true
  def handle_call(:handle, _from, data), do: {:reply, data.handle, data}

  def handle_call(:ask, {caller, _tag}, data) do
    now = now()
    {answer, state} = State.ask(data.state, caller, now)
    {:reply, answer(answer, state, now), become(data, state)}
  end

  @impl true
  def handle_cast({:report, caller, outcome, cause}, data),
    do: {:noreply, become(data, State.report(data.state, caller, outcome, now(), cause))}

  @impl true
  def handle_info(:tick, data), do: {:noreply, become(data, State.tick(data.state, now()))}

  def handle_info({:DOWN, _monitor, :process, caller, _reason}, data),
    do: {:noreply, become(data, State.report(data.state, caller, :unknown, now()))}

  defp answer(:ok, _state, _now), do: :ok

  defp answer(:refused, state, now),
    do: {:refused, State.name(state), State.ask_from(state) - now}

  defp become(data, state) do
    publish(data.handle.published, state)
    if State.name(data.state) != State.name(state), do: changed(data, state)
    watch(%{data | state: state}, State.probing(state))
  end

  # Who sees the new state must find the instant that belongs to it.
  defp publish(published, state) do
    :atomics.put(published, @ask_from, State.ask_from(state) || 0)
    :atomics.put(published, @state, @codes[State.name(state)])
  end

  defp changed(data, state) do
    with {:open, until} <- state.phase, do: Process.send_after(self(), :tick, until, abs: true)
    tell_change(data.on_change, State.name(data.state), State.name(state))
  end

  defp tell_change(nil, _from, _to), do: :ok

  # The breaker must hold also when what listens to it does not.
  defp tell_change(on_change, from, to) do
    on_change.(from, to)
  catch
    kind, reason ->
      Logger.error(
        "on_change of a circuit breaker: " <> Exception.format(kind, reason, __STACKTRACE__)
      )
  end

  defp watch(data, probing) do
    {kept, over} = Map.split(data.monitors, probing)
    Enum.each(over, fn {_caller, monitor} -> Process.demonitor(monitor, [:flush]) end)

    begun =
      for caller <- probing -- Map.keys(kept), into: %{}, do: {caller, Process.monitor(caller)}

    %{data | monitors: Map.merge(kept, begun)}
  end

  defp now, do: System.monotonic_time(:millisecond)
end
