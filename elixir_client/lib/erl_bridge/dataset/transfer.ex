defmodule ErlBridge.Dataset.Transfer do
  @moduledoc """
  The sending of rows, in the process that has them: it runs the enumerable and encodes, and an
  `ErlBridge.Dataset.Sender` does the rest.

  The encoder is a few batches ahead of the sender and no more. So a lazy stream runs as fast as
  Python takes it, and none of it is kept.
  """

  alias ErlBridge.{Dataset, Deadline, Error, Route, Telemetry, TraceContext}
  alias ErlBridge.Dataset.{Batches, Compressor, Known, Sender}
  alias ErlBridge.Recovery.Policy

  # How many batches the encoder is ahead.
  @ahead 4

  # Between two reports of progress, in milliseconds.
  @report_ms 100

  @type result :: {:ok, Dataset.t()} | {:error, Error.t()}

  @doc "Sends rows. The options are those of `ErlBridge.put_dataset/3`, validated."
  @spec put(GenServer.server(), Enumerable.t(), map) :: result
  def put(bridge, rows, options) do
    with {:ok, route} <- Route.lookup(bridge),
         {:ok, options} <- Route.pin(route, options),
         {:ok, id} <- known_id(rows, options) do
      job = job(bridge, route, id, options)

      with {:ok, dataset} <- attempt(job, rows, options, job.policy.max_retries) do
        if is_list(rows), do: Known.add(rows, dataset.rows)
        {:ok, %{dataset | node: route.cluster && options.node}}
      end
    end
  end

  # The digest is known before the rows are sent, where that may spare the sending.
  defp known_id(_rows, %{dataset_id: id}), do: {:ok, id}

  defp known_id(rows, options) do
    if options.digest == :first or (options.digest == :auto and seen?(rows)),
      do: {:ok, Batches.digest(rows, options.chunk_bytes)},
      else: {:ok, nil}
  rescue
    error in Error -> {:error, error}
  end

  defp seen?(rows), do: is_list(rows) and Known.member?(rows)

  defp job(bridge, route, id, options) do
    # Each request of it may be repeated.
    policy = %{Policy.merge(route.policy, options) | idempotent: true}

    options
    |> Map.take([:window, :chunk_bytes, :keep_alive, :timeout, :node])
    |> Map.merge(%{
      bridge: bridge,
      route: route,
      dataset_id: id,
      compression: Compressor.resolve(options.compression),
      level: options[:level],
      deadline: Deadline.after_timeout(options.timeout),
      policy: policy,
      metadata: TraceContext.inject(options.metadata, options[:trace])
    })
  end

  # A list can be sent from its beginning again where a transfer was lost, as one is when the worker
  # that Python belongs to is killed. A stream may not give the same rows twice.
  defp attempt(job, rows, options, retries) do
    case transfer(Map.put(job, :transfer_id, new_id()), rows, options) do
      {:error, %Error{strategy: :retry, context: %{dropped: true}}}
      when is_list(rows) and retries > 0 ->
        attempt(job, rows, options, retries - 1)

      result ->
        result
    end
  end

  defp new_id, do: 16 |> :crypto.strong_rand_bytes() |> Base.encode16(case: :lower)

  # The span of one transfer.
  defp transfer(job, rows, options) do
    about = %{bridge: job.bridge, transfer: job.transfer_id}
    began = System.monotonic_time()
    Telemetry.transfer_start(%{system_time: System.system_time(), monotonic_time: began}, about)

    try do
      run(job, rows, options)
    catch
      kind, reason ->
        ended = System.monotonic_time()
        times = %{duration: ended - began, monotonic_time: ended}
        raised = %{kind: kind, reason: reason, stacktrace: __STACKTRACE__}
        Telemetry.transfer_exception(times, Map.merge(about, raised))
        :erlang.raise(kind, reason, __STACKTRACE__)
    else
      result ->
        measurements = Map.put(moved(result), :duration, System.monotonic_time() - began)
        Telemetry.transfer_stop(measurements, Map.merge(about, outcome(result)))
        result
    end
  end

  defp moved({:ok, dataset}), do: %{bytes: dataset.sent_bytes, rows: dataset.rows}
  defp moved({:error, _error}), do: %{bytes: 0, rows: 0}

  defp outcome({:ok, dataset}), do: %{result: :ok, error: nil, dataset_id: dataset.dataset_id}
  defp outcome({:error, error}), do: %{result: :error, error: error, dataset_id: nil}

  defp run(job, rows, options) do
    {sender, ref} = Sender.start(job)

    link = %{
      sender: sender,
      ref: ref,
      room: @ahead,
      report: options[:on_event],
      total: if(is_list(rows) and options[:on_event], do: length(rows)),
      sent_bytes: 0,
      began: now(),
      reported: now()
    }

    try do
      stream(link, rows, job)
    catch
      # The sender has ended, with this result.
      {^ref, result} -> result
      kind, reason -> abort(link, kind, reason, __STACKTRACE__)
    after
      Process.demonitor(ref, [:flush])
      flush(ref)
    end
  end

  # Rows that cannot be had are an error like others; anything else that is raised is the caller's.
  defp abort(%{sender: sender, ref: ref}, kind, reason, stacktrace) do
    Sender.abort(sender)

    receive do
      {:DOWN, ^ref, :process, ^sender, _reason} -> :ok
    end

    case reason do
      %Error{} when kind == :error -> {:error, reason}
      _other -> :erlang.raise(kind, reason, stacktrace)
    end
  end

  # Where the digest is known, Python may have the rows already: then none is encoded.
  defp stream(link, rows, job) do
    link = if job.dataset_id, do: await(link, :begun), else: link
    link = Batches.reduce(rows, job.chunk_bytes, link, &push/3)
    Sender.finish(link.sender)
    await(link, :done)
  end

  defp push(batch, count, %{room: 0} = link), do: push(batch, count, await(link, :room))

  defp push(batch, count, link) do
    Sender.put(link.sender, batch, count)
    %{link | room: link.room - 1}
  end

  # Waits for this, and takes what comes before.
  defp await(%{ref: ref, sender: sender} = link, wanted) do
    receive do
      {^ref, {:done, result}} ->
        throw({ref, finished(link, result)})

      {^ref, {:acknowledged, rows, bytes}} ->
        link |> report(rows, bytes) |> await(wanted)

      {^ref, what} ->
        link = if what == :room, do: %{link | room: link.room + 1}, else: link
        if what == wanted, do: link, else: await(link, wanted)

      {:DOWN, ^ref, :process, ^sender, reason} ->
        throw({ref, {:error, Error.worker_ended(reason, sender)}})
    end
  end

  defp finished(link, {:ok, done}) do
    tell(%{link | sent_bytes: done.sent_bytes}, done.rows, done.rows)
    {:ok, struct!(Dataset, done)}
  end

  defp finished(_link, {:error, error}), do: {:error, error}

  defp report(link, rows, bytes) do
    link = %{link | sent_bytes: link.sent_bytes + bytes}

    if now() - link.reported >= @report_ms do
      tell(link, rows, link.total)
      %{link | reported: now()}
    else
      link
    end
  end

  defp tell(%{report: nil}, _done, _total), do: :ok

  defp tell(link, done, total) do
    event = %{
      kind: :progress,
      phase: :transfer,
      done: done,
      sent_bytes: link.sent_bytes,
      elapsed_ms: now() - link.began
    }

    link.report.(if total, do: Map.put(event, :total, total), else: event)
  end

  defp flush(ref) do
    receive do
      {^ref, _what} -> flush(ref)
    after
      0 -> :ok
    end
  end

  defp now, do: System.monotonic_time(:millisecond)
end
