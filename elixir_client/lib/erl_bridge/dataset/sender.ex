defmodule ErlBridge.Dataset.Sender do
  @moduledoc """
  The process between the rows of a transfer and the bridge, so that the next rows are encoded
  while these are compressed and the ones before are on their way.

  It takes batches, cuts what they become into chunks, and has so many chunks under way and no
  more: as they are answered, it lets go of them and tells its owner, who makes the next. When
  Python died it asks the next one what is missing, and sends that again. When its owner dies, or
  says so, the transfer is dropped.

  All requests of a transfer meet the same worker: they are a session.

  To its owner it says, each time with its reference in front: `:begun` (rows may come), `:room` (a
  batch has been taken), `{:acknowledged, rows, bytes}` and `{:done, result}`, which is its end.
  """

  alias ErlBridge.Dataset.{Batches, Compressor}
  alias ErlBridge.{Deadline, Error, Recovery, Request, Route, Telemetry}

  @typedoc """
  What is to be done: for which bridge, as which transfer, how, until when; the id where the owner
  knows it already, and what goes along with each request.
  """
  @type job :: %{
          bridge: GenServer.server(),
          route: Route.t(),
          transfer_id: binary,
          dataset_id: String.t() | nil,
          compression: Compressor.compression(),
          level: pos_integer | nil,
          chunk_bytes: pos_integer,
          window: pos_integer,
          keep_alive: pos_integer,
          timeout: timeout,
          deadline: Deadline.t(),
          policy: Recovery.Policy.t(),
          metadata: map
        }

  @typedoc "A completed dataset, as Python tells of it, and how many bytes were sent."
  @type done :: %{dataset_id: String.t(), rows: integer, bytes: integer, sent_bytes: integer}

  # A drop is a courtesy to the server, which forgets idle transfers anyway.
  @drop_timeout 1_000

  defstruct [
    :job,
    :owner,
    :reply_to,
    :compressor,
    :hash,
    :result,
    index: 0,
    rows: 0,
    sent_rows: 0,
    pending: [],
    pending_bytes: 0,
    sent_bytes: 0,
    in_flight: :queue.new(),
    retries: 0
  ]

  ## What its owner calls

  @doc "Starts a sender for the calling process. The reference is an alias and a monitor."
  @spec start(job) :: {pid, reference}
  def start(job) do
    owner = self()
    callers = [owner | Process.get(:"$callers", [])]

    sender =
      spawn(fn ->
        Process.put(:"$callers", callers)
        monitor = Process.monitor(owner)

        receive do
          {:start, reply_to} -> run(%__MODULE__{job: job, owner: monitor, reply_to: reply_to})
          {:DOWN, ^monitor, :process, _owner, _reason} -> :ok
        end
      end)

    reply_to = :erlang.monitor(:process, sender, alias: :demonitor)
    send(sender, {:start, reply_to})
    {sender, reply_to}
  end

  @doc "Gives it a batch of so many rows."
  @spec put(pid, Batches.batch(), pos_integer) :: :ok
  def put(sender, batch, count) do
    send(sender, {:batch, batch, count})
    :ok
  end

  @doc "There are no more rows."
  @spec finish(pid) :: :ok
  def finish(sender) do
    send(sender, :finish)
    :ok
  end

  @doc "There will be no dataset: what was sent is dropped."
  @spec abort(pid) :: :ok
  def abort(sender) do
    send(sender, :abort)
    :ok
  end

  ## The process

  defp run(state) do
    tell(state, {:done, transfer(state)})
  catch
    {:failed, error} ->
      if error.context[:dropped] != true, do: drop(state)
      tell(state, {:done, {:error, error}})

    :aborted ->
      drop(state)
  end

  defp transfer(%{job: job} = state) do
    with {:ok, compressor} <- Compressor.open(job.compression, job.level) do
      case begin(state) do
        %{dataset_id: id} = held when is_binary(id) ->
          {:ok, done(held, 0)}

        _begun ->
          tell(state, :begun)
          hash = if job.dataset_id == nil, do: Batches.new_hash()
          state = receive_rows(%{state | compressor: compressor, hash: hash})
          {:ok, done(state.result, state.sent_bytes)}
      end
    end
  end

  defp begin(%{job: job} = state) do
    payload = %{
      transfer_id: job.transfer_id,
      format: :etf,
      compression: job.compression,
      dataset_id: job.dataset_id
    }

    ask = fn _attempt, _left -> ask(state, :dataset_begin, payload) end

    tell_retry = &retry(state, :dataset_begin, &1)

    case Recovery.run(ask, policy: job.policy, deadline: job.deadline, on_retry: tell_retry) do
      {:ok, reply} -> reply
      {:error, error} -> throw({:failed, error})
    end
  end

  defp done(reply, sent_bytes),
    do: reply |> Map.take([:dataset_id, :rows, :bytes]) |> Map.put(:sent_bytes, sent_bytes)

  defp receive_rows(%{owner: owner} = state) do
    receive do
      {:batch, batch, count} ->
        state = take(state, batch, count)
        tell(state, :room)
        receive_rows(state)

      :finish ->
        finish_transfer(state)

      :abort ->
        throw(:aborted)

      {:DOWN, ^owner, :process, _owner, _reason} ->
        throw(:aborted)
    after
      min(state.job.keep_alive, Deadline.remaining(state.job.deadline)) ->
        state |> keep_alive() |> receive_rows()
    end
  end

  # A server forgets a transfer of which it hears nothing, and rows may take their time.
  defp keep_alive(state) do
    in_time!(state)
    state = settle(state)

    case ask(state, :dataset_status, %{transfer_id: state.job.transfer_id}) do
      {:ok, _status} -> state
      {:error, error} -> resume(state, [], error)
    end
  end

  defp in_time!(%{job: job}) do
    if Deadline.remaining(job.deadline) == 0, do: throw({:failed, Error.timed_out(job.timeout)})
  end

  ## From batches to chunks

  defp take(state, batch, count) do
    hash = state.hash && Batches.update_hash(state.hash, batch, count)
    out = Compressor.put(state.compressor, [<<byte_size(batch)::32>>, batch])

    %{state | hash: hash, rows: state.rows + count} |> pend(out) |> cut()
  end

  defp pend(%{pending: pending, pending_bytes: bytes} = state, out),
    do: %{state | pending: [pending | out], pending_bytes: bytes + IO.iodata_length(out)}

  # What is not compressed goes batch by batch, so that each chunk begins where a batch does.
  defp cut(%{job: job} = state) do
    if state.pending_bytes >= job.chunk_bytes or job.compression == :none do
      {chunks, state} = chunks(state)
      Enum.reduce(chunks, state, &send_chunk(&2, &1, %{}))
    else
      state
    end
  end

  # Chunks are not much more than they should be: the last batch may be a row longer.
  defp chunks(%{job: job, pending: pending, pending_bytes: bytes} = state) do
    most = 2 * job.chunk_bytes

    chunks =
      if bytes <= most,
        do: [{pending, bytes}],
        else: pending |> IO.iodata_to_binary() |> pieces(most)

    {chunks, %{state | pending: [], pending_bytes: 0}}
  end

  defp pieces(data, most) when byte_size(data) <= most, do: [{data, byte_size(data)}]

  defp pieces(data, most) do
    {piece, rest} = :erlang.split_binary(data, most)
    [{piece, most} | pieces(rest, most)]
  end

  defp finish_transfer(%{job: job} = state) do
    rest = Compressor.finish(state.compressor)
    {chunks, state} = state |> pend(rest) |> chunks()
    {last, others} = List.pop_at(chunks, -1)
    state = Enum.reduce(others, state, &send_chunk(&2, &1, %{}))
    id = job.dataset_id || Batches.final_hash(state.hash)
    state |> send_chunk(last, %{is_final: true, dataset_id: id}) |> settle() |> complete!()
  end

  defp complete!(%{result: nil}) do
    throw({:failed, Error.unreadable("Python has all of a dataset, and does not say so")})
  end

  defp complete!(state), do: state

  ## Chunks under way

  defp send_chunk(state, {data, bytes}, about) do
    state = make_room(state)
    about = Map.merge(about, %{transfer_id: state.job.transfer_id, chunk_index: state.index})

    chunk = %{
      payload: {about, {:data, data}},
      index: state.index,
      bytes: bytes,
      rows: state.rows - state.sent_rows,
      rows_so_far: state.rows,
      request: nil,
      sent_at: nil
    }

    dispatch(%{state | index: state.index + 1, sent_rows: state.rows}, [chunk])
  end

  defp make_room(state) do
    if :queue.len(state.in_flight) >= state.job.window, do: await_oldest(state), else: state
  end

  # All that is under way is answered.
  defp settle(state) do
    if :queue.is_empty(state.in_flight), do: state, else: state |> await_oldest() |> settle()
  end

  defp dispatch(state, []), do: state

  defp dispatch(state, [chunk | rest] = chunks) do
    case start_request(state, chunk) do
      {:ok, request} ->
        chunk = %{chunk | request: request, sent_at: System.monotonic_time()}
        sent_bytes = state.sent_bytes + chunk.bytes
        in_flight = :queue.in(chunk, state.in_flight)
        dispatch(%{state | in_flight: in_flight, sent_bytes: sent_bytes}, rest)

      {:error, error} ->
        {state, failed, errors} = await_all(state)
        resume(state, failed ++ chunks, worst([error | errors]))
    end
  end

  defp await_oldest(state) do
    {{:value, chunk}, in_flight} = :queue.out(state.in_flight)
    state = %{state | in_flight: in_flight}

    case Request.await(chunk.request) do
      {:ok, reply} ->
        acknowledged(state, chunk, reply)

      {:error, error} ->
        {state, failed, errors} = await_all(state)
        resume(state, [chunk | failed], worst([error | errors]))
    end
  end

  # Those that failed, in their order, and why.
  defp await_all(state) do
    Enum.reduce(:queue.to_list(state.in_flight), {%{state | in_flight: :queue.new()}, [], []}, fn
      chunk, {state, failed, errors} ->
        case Request.await(chunk.request) do
          {:ok, reply} -> {acknowledged(state, chunk, reply), failed, errors}
          {:error, error} -> {state, failed ++ [chunk], errors ++ [error]}
        end
    end)
  end

  # What says why a transfer is gone says more than that it is.
  defp worst([first | _] = errors), do: Enum.find(errors, first, &(&1.strategy == :fatal))

  defp acknowledged(state, chunk, reply) do
    tell(state, {:acknowledged, chunk.rows_so_far, chunk.bytes})
    duration = System.monotonic_time() - chunk.sent_at
    about = %{bridge: state.job.bridge, transfer: state.job.transfer_id}
    Telemetry.transfer_chunk(%{duration: duration, bytes: chunk.bytes, rows: chunk.rows}, about)
    result = if is_binary(reply[:dataset_id]), do: reply, else: state.result
    %{state | retries: 0, result: result}
  end

  ## After a failure

  defp resume(_state, _chunks, %{context: %{dropped: true}} = error), do: throw({:failed, error})

  defp resume(%{job: job} = state, chunks, error) do
    progress = %{retries: state.retries, deadline: job.deadline, budget: :left}

    case Recovery.decide(error, progress, job.policy, System.monotonic_time(:millisecond)) do
      {:retry, delay} ->
        state = %{state | retries: state.retries + 1}
        retry(state, :data_chunk, %{attempt: state.retries, delay_ms: delay, error: error})
        wait(state, delay)
        ask_again(state, chunks)

      _no_more ->
        throw({:failed, error})
    end
  end

  defp ask_again(state, chunks) do
    case ask(state, :dataset_status, %{transfer_id: state.job.transfer_id}) do
      {:ok, status} -> send_again(state, chunks, status)
      {:error, error} -> resume(state, chunks, error)
    end
  end

  defp send_again(state, _chunks, %{dataset_id: id} = status) when is_binary(id),
    do: %{state | result: status}

  defp send_again(state, chunks, status) do
    {come, missing} = Enum.split_with(chunks, &received?(&1.index, status.received))
    first = if missing == [], do: state.index, else: hd(missing).index
    if status.next < first, do: throw({:failed, lost(status.next)})
    come |> Enum.reduce(state, &acknowledged(&2, &1, %{})) |> dispatch(missing)
  end

  defp received?(index, ranges),
    do: Enum.any?(ranges, fn {first, last} -> index in first..last end)

  defp lost(index) do
    message = "chunk #{index} of the transfer had come, and is not there any more"
    context = %{chunk_index: index, dropped: false}
    %Error{type: :transfer_error, message: message, context: context, strategy: :retry}
  end

  # The owner's end is worth no waiting.
  defp wait(%{owner: owner}, delay) do
    receive do
      {:DOWN, ^owner, :process, _owner, _reason} -> throw(:aborted)
      :abort -> throw(:aborted)
    after
      delay -> :ok
    end
  end

  ## Requests

  defp ask(state, request_type, payload) do
    with {:ok, request} <- start(state, request_type, payload, most(state)),
         do: Request.await(request)
  end

  # The last one is answered when all is synced to the disk, which takes as long as it takes.
  defp start_request(state, %{payload: {%{is_final: true}, _data} = payload}),
    do: start(state, :data_chunk, payload, Deadline.remaining(state.job.deadline))

  defp start_request(state, %{payload: payload}),
    do: start(state, :data_chunk, payload, most(state))

  defp most(%{job: job}), do: min(job.route.timeout, Deadline.remaining(job.deadline))

  defp start(%{job: job}, request_type, payload, timeout),
    do: Request.start(job.bridge, request_type, payload, request_options(job, timeout))

  defp drop(%{job: job}) do
    payload = %{transfer_id: job.transfer_id}
    Request.cast(job.bridge, :dataset_drop, payload, request_options(job, @drop_timeout))
  end

  defp request_options(job, timeout) do
    timeout = if timeout == :infinity, do: :infinity, else: max(timeout, 1)
    options = %{timeout: timeout, session: job.transfer_id, metadata: job.metadata, trace: false}
    Map.merge(options, Map.take(job, [:node]))
  end

  defp retry(%{job: job}, request_type, %{delay_ms: delay} = retry) do
    about = %{bridge: job.bridge, request_type: request_type}
    delay = System.convert_time_unit(delay, :millisecond, :native)
    Telemetry.retry(%{delay: delay}, Map.merge(about, Map.take(retry, [:attempt, :error])))
  end

  defp tell(%{reply_to: reply_to}, what) do
    send(reply_to, {reply_to, what})
    :ok
  end
end
