defmodule ErlBridge.Cache.Server do
  @moduledoc """
  The process that owns a cache: it writes, evicts and expires entries, keeps the file, and sees
  to it that one caller computes while the others wait.

  Its callers read by themselves, with what `lookup/1` gives them. Values pass by it as binaries,
  which callers encode and decode, so it never copies one. What it has under way is a value,
  `ErlBridge.Cache.Flights`; its entries are an `ErlBridge.Cache.Store`.
  """

  use GenServer, restart: :permanent

  alias ErlBridge.Cache.{Flights, Journal, Meter, Store}
  alias ErlBridge.Error

  require Logger

  # A file is written anew when it is this much larger than twice its entries.
  @slack_bytes 1_048_576

  # The longest that a timer is set for.
  @day_ms 86_400_000

  @enforce_keys [:store, :meter, :file, :journal]
  defstruct @enforce_keys ++ [timer: nil, flights: Flights.new()]

  @typedoc "What callers must know of a cache: its process, how to read it, its counters, its time to live."
  @type handle :: %{
          server: pid,
          reader: Store.reader(),
          meter: Meter.t(),
          ttl: pos_integer | :infinity
        }

  @doc "Starts a cache, given validated options; returns when its file has been read."
  @spec start_link(map) :: {:ok, pid} | {:error, Error.t() | {:already_started, pid}}
  def start_link(options) do
    name = Enum.to_list(Map.take(options, [:name]))

    case GenServer.start_link(__MODULE__, {self(), options}, name) do
      {:error, {:shutdown, %Error{} = error}} -> {:error, error}
      other -> other
    end
  end

  @doc "What callers must know of a cache. Read from the registry, not asked of the process."
  @spec lookup(GenServer.server()) :: {:ok, handle} | {:error, Error.t()}
  def lookup(cache) do
    with server when is_pid(server) <- GenServer.whereis(cache),
         [{^server, {__MODULE__, handle}}] <- Registry.lookup(ErlBridge.Registry, server) do
      {:ok, handle}
    else
      _not_there -> {:error, not_running(cache)}
    end
  end

  @doc "The error for a cache that is not there, or ended before it answered."
  @spec not_running(term) :: Error.t()
  def not_running(cache) do
    %Error{
      type: :not_running,
      message: "no cache is running as #{inspect(cache)}",
      strategy: :retry
    }
  end

  @doc "The present time of the clock that entries are kept by, in its native unit."
  @spec now() :: integer
  def now, do: System.monotonic_time()

  @impl true
  def init({parent, options}) do
    Process.flag(:trap_exit, true)
    store = Store.new(options.max_entries, options.max_bytes)
    meter = Meter.new(Map.get(options, :name, self()), options[:on_event])
    file = options[:file] && Path.expand(options.file)
    state = %__MODULE__{store: store, meter: meter, file: file, journal: nil}

    case load(state) do
      {:ok, state} ->
        {:ok, _owner} = Registry.register(ErlBridge.Registry, self(), facts(state, options))
        {:ok, settle(state)}

      {:error, error} ->
        # The error is for the caller of start_link to handle; it must not be killed by it.
        Process.unlink(parent)
        {:stop, {:shutdown, error}}
    end
  end

  defp facts(state, options) do
    handle = %{
      server: self(),
      reader: Store.reader(state.store),
      meter: state.meter,
      ttl: options.ttl
    }

    {__MODULE__, handle}
  end

  # Requests of `ErlBridge.Cache`

  @impl true
  def handle_call({:join, key, ref, refresh?}, from, state) do
    state = state |> expire() |> settle()

    case not refresh? && Store.read(Store.reader(state.store), key, now()) do
      {:ok, value} -> {:reply, {:found, value}, state}
      _absent -> join(state, key, ref, from)
    end
  end

  def handle_call({:finish, ref, outcome}, _from, state) do
    case Flights.finish(state.flights, ref) do
      {key, keep?, [leader | others], flights} ->
        state = keep(%{state | flights: flights}, key, outcome, keep?)
        Process.demonitor(leader.monitor, [:flush])
        Enum.each(others, &dismiss(&1, for_others(outcome)))
        {:reply, :ok, state}

      nil ->
        {:reply, :ok, state}
    end
  end

  def handle_call({:put, key, value, ttl}, _from, state),
    do: {:reply, :ok, put(state, key, value, ttl)}

  def handle_call({:delete, key}, _from, state) do
    flights = Flights.detach(state.flights, key)
    state = %{state | store: Store.delete(state.store, key), flights: flights}
    {:reply, :ok, state |> record({:delete, key}) |> settle()}
  end

  def handle_call(:clear, _from, state) do
    flights = Flights.detach_all(state.flights)
    state = %{state | store: Store.clear(state.store), flights: flights}
    {:reply, :ok, state |> write_file() |> settle()}
  end

  @impl true
  def handle_cast({:leave, ref}, state), do: {:noreply, leave(state, ref)}

  @impl true
  def handle_info({{:gone, ref}, _monitor, :process, _pid, _reason}, state),
    do: {:noreply, leave(state, ref)}

  def handle_info({:timeout, timer, :expire}, %{timer: {timer, _due}} = state),
    do: {:noreply, %{state | timer: nil} |> expire() |> settle()}

  def handle_info(_timer_that_was_cancelled, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state) do
    %{journal: journal} = write_file(state)
    journal && Journal.close(journal)
  end

  # One computes, the others wait

  defp join(state, key, ref, {pid, _tag} = from) do
    if Flights.leader(state.flights, key) == pid do
      {:reply, :computing_itself, state}
    else
      monitor = :erlang.monitor(:process, pid, tag: {:gone, ref})
      member = %{ref: ref, pid: pid, from: from, monitor: monitor}
      {role, flights} = Flights.join(state.flights, key, member)
      begin(role, %{state | flights: flights})
    end
  end

  defp begin(:compute, state), do: {:reply, :compute, state}
  defp begin(:wait, state), do: {:noreply, state}

  defp leave(state, ref) do
    {member, heir, flights} = Flights.leave(state.flights, ref)
    member && Process.demonitor(member.monitor, [:flush])
    heir && GenServer.reply(heir.from, :compute)
    %{state | flights: flights}
  end

  defp keep(state, key, {:ok, value, ttl}, true), do: put(state, key, value, ttl)
  defp keep(state, _key, _error_or_deleted_meanwhile, _keep?), do: state

  defp for_others({:ok, value, _ttl}), do: {:result, value}
  defp for_others({:error, error}), do: {:error, error}

  defp dismiss(member, reply) do
    Process.demonitor(member.monitor, [:flush])
    GenServer.reply(member.from, reply)
  end

  # Entries

  defp put(state, key, value, ttl) do
    Meter.note(state.meter, :put, key, %{bytes: byte_size(value)})
    {evicted, state} = store(state, key, value, ttl)
    # A value too large to be kept has removed the one before it.
    kept? = not List.keymember?(evicted, key, 0)
    change = if kept?, do: {:put, {key, value, ttl}}, else: {:delete, key}
    state |> record(change) |> settle()
  end

  defp store(state, key, value, ttl) do
    now = now()
    {evicted, store} = Store.put(state.store, key, value, expiry(now, ttl), now)
    note(state, :evict, evicted)
    {evicted, %{state | store: store}}
  end

  defp expire(state) do
    {expired, store} = Store.expire(state.store, now())
    note(state, :expire, expired)
    %{state | store: store}
  end

  defp note(state, event, removed) do
    Enum.each(removed, fn {key, bytes} -> Meter.note(state.meter, event, key, %{bytes: bytes}) end)
  end

  # After every change: what others see, and when the next entry expires.
  defp settle(state) do
    Meter.put_bytes(state.meter, state.store.bytes)
    set_timer(state, Store.next_expiry(state.store))
  end

  defp set_timer(%{timer: {_timer, due}} = state, due), do: state

  defp set_timer(state, due) do
    with {timer, _due} <- state.timer, do: :erlang.cancel_timer(timer)
    %{state | timer: start_timer(due)}
  end

  defp start_timer(:infinity), do: nil

  # A timer of whole milliseconds must not be early.
  defp start_timer(due) do
    wait = min(ms(due - now()) + 1, @day_ms)
    {:erlang.start_timer(wait, self(), :expire), due}
  end

  defp expiry(_now, :infinity), do: :infinity
  defp expiry(now, ttl), do: now + System.convert_time_unit(ttl, :millisecond, :native)

  defp ms(native), do: max(System.convert_time_unit(native, :native, :millisecond), 0)

  # The file

  defp load(%{file: nil} = state), do: {:ok, state}

  defp load(%{file: file} = state) do
    with {:ok, _owner} <- Registry.register(ErlBridge.Registry, {__MODULE__, file}, nil),
         {:ok, entries} <- read(file),
         state = Enum.reduce(entries, state, &restore/2),
         {:ok, journal} <- Journal.write(file, entries(state)) do
      {:ok, %{state | journal: journal}}
    else
      {:error, {:already_registered, pid}} -> {:error, in_use(file, pid)}
      {:error, reason} -> {:error, unusable(file, reason)}
    end
  end

  defp restore({key, value, ttl}, state) do
    {_evicted, state} = store(state, key, value, ttl)
    state
  end

  defp read(file) do
    with {:damaged, entries} <- Journal.read(file),
         {:ok, aside} <- Journal.set_aside(file) do
      Logger.warning(
        "the cache file #{file} is damaged: #{length(entries)} entries could be read, " <>
          "the file is kept as #{aside}"
      )

      {:ok, entries}
    end
  end

  defp record(%{file: nil} = state, _change), do: state

  defp record(%{journal: nil} = state, _change), do: write_file(state)

  defp record(state, change) do
    case Journal.append(state.journal, change) do
      {:ok, journal} -> compact(%{state | journal: journal})
      {:error, reason} -> without_file(state, reason)
    end
  end

  defp compact(state) do
    if Journal.bytes(state.journal) > 2 * state.store.bytes + @slack_bytes,
      do: write_file(state),
      else: state
  end

  defp write_file(%{file: nil} = state), do: state

  defp write_file(state) do
    case Journal.write(state.file, entries(state)) do
      {:ok, journal} ->
        state.journal && Journal.close(state.journal)
        %{state | journal: journal}

      {:error, reason} ->
        without_file(state, reason)
    end
  end

  # Whatever the file has at its end now, the next change writes it anew.
  defp without_file(state, reason) do
    Logger.warning(
      "the cache file #{state.file} cannot be written: #{:file.format_error(reason)}"
    )

    state.journal && Journal.close(state.journal)
    %{state | journal: nil}
  end

  defp entries(state) do
    now = now()
    for {key, value, expiry} <- Store.to_list(state.store), do: {key, value, left(expiry, now)}
  end

  defp left(:infinity, _now), do: :infinity
  defp left(expiry, now), do: ms(expiry - now)

  defp in_use(file, pid) do
    %Error{
      type: :invalid_request,
      message: "file: the cache #{inspect(pid)} has the file #{file}; give each cache its own"
    }
  end

  defp unusable(file, reason) do
    %Error{
      type: :invalid_request,
      message: "file: #{file} cannot be used as the file of a cache: #{why(reason)}"
    }
  end

  defp why(:not_of_a_cache),
    do: "it holds something else; give the cache a name of its own, or remove that file"

  defp why(reason), do: "#{:file.format_error(reason)}"
end
