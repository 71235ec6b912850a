defmodule ErlBridge do
  @moduledoc """
  A bridge from Elixir to a Python process: DSPy's optimizers as function calls, and any Python of
  your own.

  Start one under a supervisor:

      children = [{ErlBridge, name: MyApp.Bridge}]
      Supervisor.start_link(children, strategy: :one_for_one)

  (`ErlBridge.Cluster` makes the bridges of many nodes one.)

  Then optimize a signature and predict with the result:

      signature = %{
        instructions: "Answer the question.",
        input_fields: [%{name: :question, type: :str}],
        output_fields: [%{name: :answer, type: :str}]
      }

      training_data = [%{question: "What is 2+2?", answer: "4"}, ...]

      {:ok, %{program: program}} =
        ErlBridge.optimize(MyApp.Bridge, signature, training_data,
          lm: "openai/gpt-4o-mini",
          optimizer: :bootstrap_few_shot,
          metric: :exact_match,
          on_progress: &IO.inspect/1
        )

      {:ok, %{answer: answer}} =
        ErlBridge.predict(MyApp.Bridge, program, %{question: "What is 3+3?"}, lm: "openai/gpt-4o-mini")

  The program is plain data: keep it in a file (`ErlBridge.Program`) or a database, send it to
  another node, use it in any bridge; `ErlBridge.Program.Store` keeps versions. `ErlBridge.Signature` makes such signatures shorter, and
  `mix erl_bridge.optimize` does all that from the command line.

  Elixir terms go to Python and come back as native terms: integers of any size, atoms, binaries,
  tuples, maps, dates, pids. A handler of your own (`@app.handler("embed")` in Python, `app:
  "my_module:app"` here) is called with `call/4`:

      {:ok, vectors} = ErlBridge.call(MyApp.Bridge, :embed, %{texts: ["one", "two"]})

  Every function returns `{:ok, result}` or `{:error, %ErlBridge.Error{}}`; those that end in `!`
  return the result or raise the error. Many requests may be under way on one bridge, from as many
  processes; each caller gets its own answer. A request of a caller that dies is cancelled.

  A bridge has `:pool_size` Python processes. When one dies, all who wait for it get an error of
  the type `:process_crashed` at once, and it is started anew. When the bridge stops, or the whole
  node dies, Python ends.

  ## Options of a bridge

  #{ErlBridge.Options.docs(:start)}

  ## Options of a request

  All functions that ask Python for something take these:

  #{ErlBridge.Options.docs(:call)}
  """

  alias ErlBridge.{
    Bridge,
    Cache,
    CircuitBreaker,
    Dataset,
    Deadline,
    Error,
    Line,
    Options,
    Payload,
    Pool
  }

  alias ErlBridge.{Recovery, Request, Route, Telemetry, Worker}
  alias ErlBridge.Dataset.{Rows, Transfer}
  alias ErlBridge.Recovery.{Budget, Policy}
  alias ErlBridge.Request.Name

  @typedoc "A running bridge, its pid or its name; or an `ErlBridge.Cluster`, which stands for many."
  @type bridge :: GenServer.server()

  @type result :: {:ok, term} | {:error, Error.t()}

  # Those of a call without any, put together once.
  @no_options Options.validate!([], :call)

  # Answered by the thread that reads requests, so a Python that takes longer is not well.
  @health_timeout 5_000

  ## Starting and stopping

  @doc """
  A child specification, for `{ErlBridge, options}` in a list of children.

      iex> ErlBridge.child_spec(name: MyApp.Bridge, shutdown_timeout: 1_000)
      %{
        id: MyApp.Bridge,
        start: {ErlBridge, :start_link, [[name: MyApp.Bridge, shutdown_timeout: 1_000]]},
        type: :supervisor,
        shutdown: 6_000
      }
  """
  @spec child_spec(keyword) :: Supervisor.child_spec()
  def child_spec(options) do
    %{shutdown_timeout: drain} = Options.validate!(options, :start)

    %{
      id: Keyword.get(options, :name, ErlBridge),
      start: {ErlBridge, :start_link, [options]},
      type: :supervisor,
      # The requests' time to finish, then Python's to obey signals, then the supervisors'.
      shutdown: Worker.ends_within(drain) + 1_000
    }
  end

  @doc """
  Starts a bridge and its Pythons, linked to the calling process. Returns when the first of them
  is ready to take requests.

  Raises `ArgumentError` for a wrong option. When Python cannot be started the error holds what it
  wrote to stderr. The options are listed in the [module's
  documentation](#module-options-of-a-bridge).
  """
  @spec start_link(keyword) :: {:ok, pid} | {:error, Error.t() | {:already_started, pid}}
  def start_link(options \\ []), do: Bridge.start_link(Options.validate!(options, :start))

  @doc """
  Stops a bridge. Returns when its Python processes are gone; a bridge that does not run is stopped
  already.

  Requests in flight have the bridge's `:shutdown_timeout` to finish and are cancelled then. A
  supervisor starts the bridge anew: stop it there instead, with `Supervisor.terminate_child/2`.
  """
  @spec stop(bridge) :: :ok
  def stop(bridge), do: Bridge.stop(bridge)

  @doc """
  What Python said when it started: `protocol`, `version`, `python`, `os_pid`, `request_types` and
  `limits`. With several workers, what the first of those that are up said.
  """
  @spec hello(bridge) :: {:ok, map} | {:error, Error.t()}
  def hello(bridge) do
    with {:ok, route} <- Route.lookup(bridge), do: Pool.hello(route)
  end

  @doc "Like `hello/1`, but returns the facts or raises the error."
  @spec hello!(bridge) :: map
  def hello!(bridge), do: bang!(hello(bridge))

  @doc """
  What the bridge's workers are doing: a list of maps with `worker` (its number), `phase` (`:up`,
  `:starting` or `:down`), `os_pid`, `in_flight` and `failures` since it last was well.
  """
  @spec workers(bridge) :: {:ok, [map]} | {:error, Error.t()}
  def workers(bridge) do
    with {:ok, route} <- Route.lookup(bridge), do: Pool.status(route)
  end

  @doc "Like `workers/1`, but returns the list or raises the error."
  @spec workers!(bridge) :: [map]
  def workers!(bridge), do: bang!(workers(bridge))

  @doc """
  What the bridge's cache of optimizations has done: `hits`, `misses`, `entries`, `bytes`...; see
  `ErlBridge.Cache.stats/1`.
  """
  @spec cache_stats(bridge) :: {:ok, map} | {:error, Error.t()}
  def cache_stats(bridge), do: with_cache(bridge, &Cache.stats/1)

  @doc "Like `cache_stats/1`, but returns the counts or raises the error."
  @spec cache_stats!(bridge) :: map
  def cache_stats!(bridge), do: bang!(cache_stats(bridge))

  @doc "Forgets all optimizations that the bridge's cache holds."
  @spec clear_cache(bridge) :: :ok | {:error, Error.t()}
  def clear_cache(bridge), do: with_cache(bridge, &Cache.clear/1)

  @doc "Like `clear_cache/1`, but returns `:ok` or raises the error."
  @spec clear_cache!(bridge) :: :ok
  def clear_cache!(bridge), do: bang!(clear_cache(bridge))

  defp with_cache(bridge, fun) do
    case Route.lookup(bridge) do
      {:ok, %{cache: nil}} -> {:error, Error.no_cache(bridge)}
      {:ok, %{cache: cache}} -> fun.(cache)
      {:error, error} -> {:error, error}
    end
  end

  @doc """
  Changes the number of workers of a running bridge. New ones are started; of those that are too
  many, each ends when what it has in flight is done or the bridge's `:shutdown_timeout` is over.
  """
  @spec resize(bridge, pos_integer) :: :ok | {:error, Error.t()}
  def resize(bridge, size) do
    %{pool_size: size} = Options.validate!([pool_size: size], :start)
    with {:ok, route} <- Route.lookup(bridge), do: Pool.resize(route, size)
  end

  @doc "Like `resize/2`, but returns `:ok` or raises the error."
  @spec resize!(bridge, pos_integer) :: :ok
  def resize!(bridge, size), do: bang!(resize(bridge, size))

  @doc """
  Replaces the Pythons of a running bridge one after the other, for new code of yours or to give
  memory back: a new one is up before the old one gets no more requests.

  Returns when all are replaced. A new one that does not start ends it with its error; those not
  replaced go on. What an old one has in flight has the bridge's `:shutdown_timeout` to finish.
  """
  @spec rolling_restart(bridge) :: :ok | {:error, Error.t()}
  def rolling_restart(bridge) do
    with {:ok, route} <- Route.lookup(bridge), do: Pool.rolling_restart(route)
  end

  @doc "Like `rolling_restart/1`, but returns `:ok` or raises the error."
  @spec rolling_restart!(bridge) :: :ok
  def rolling_restart!(bridge), do: bang!(rolling_restart(bridge))

  ## Requests

  @doc """
  Sends a request and waits for its reply.

  The request type is one of the protocol's or the name of a handler of yours.

      {:ok, result} = ErlBridge.call(bridge, :embed, %{texts: texts}, timeout: 60_000)

  Python can call functions of the request while it works on it, several at once; what they raise
  is an error for Python and for nobody else:

      ErlBridge.call(bridge, :rank, %{candidates: list},
        callbacks: %{score: fn candidate -> MyApp.score(candidate) end}
      )

  Events come to `:on_event` in this process, in order, all of them before the reply:

      ErlBridge.call(bridge, :crawl, %{}, on_event: fn %{kind: :progress} = event -> IO.inspect(event) end)

  A deadline is kept by Python, which then answers with a `:timeout_error` and the best result so
  far, if there is one, in its context. The options are listed in the [module's
  documentation](#module-options-of-a-request).
  """
  @spec call(bridge, atom, map, keyword) :: result
  def call(bridge, request_type, payload \\ %{}, options \\ [])

  def call(bridge, request_type, payload, []),
    do: request(bridge, request_type, payload, @no_options)

  def call(bridge, request_type, payload, options),
    do: request(bridge, request_type, payload, Options.validate!(options, :call))

  @doc "Like `call/4`, but returns the result or raises the error."
  @spec call!(bridge, atom, map, keyword) :: term
  def call!(bridge, request_type, payload \\ %{}, options \\ []),
    do: bang!(call(bridge, request_type, payload, options))

  @doc """
  Sends a request and returns at once. The reply is for `await/1`, in the same process.

      {:ok, request} = ErlBridge.async(bridge, :embed, %{texts: texts})
      ...
      {:ok, vectors} = ErlBridge.await(request)
  """
  @spec async(bridge, atom, map, keyword) :: {:ok, Request.t()} | {:error, Error.t()}
  def async(bridge, request_type, payload \\ %{}, options \\ []) do
    options = Options.validate!(options, :async)

    with {:ok, request} <- Request.start(bridge, request_type, payload, options) do
      Process.put(awaits(request), true)
      {:ok, request}
    end
  end

  @doc "Like `async/4`, but returns the request or raises the error."
  @spec async!(bridge, atom, map, keyword) :: Request.t()
  def async!(bridge, request_type, payload \\ %{}, options \\ []),
    do: bang!(async(bridge, request_type, payload, options))

  # Nothing would ever come for a request of another process, or that has its reply.
  defp awaits(request), do: {__MODULE__, request.reply_to}

  @doc """
  Waits for the reply to a request of `async/4`. Its events come to `:on_event` only now.

  Raises `ArgumentError` for a request that another process has started, or that was awaited before.
  """
  @spec await(Request.t()) :: result
  def await(%Request{} = request) do
    if Process.delete(awaits(request)) == nil do
      raise ArgumentError,
            "a request is awaited once, by the process that started it with ErlBridge.async/4"
    end

    Request.await(request)
  end

  @doc """
  Sends a request and returns at once; nobody hears of its reply, and the end of the calling
  process does not cancel it.

  `:ok` says that a worker has it, not that it will succeed.

      :ok = ErlBridge.cast(bridge, :log_feedback, %{id: 7, good: true})
  """
  @spec cast(bridge, atom, map, keyword) :: :ok | {:error, Error.t()}
  def cast(bridge, request_type, payload \\ %{}, options \\ []),
    do: Request.cast(bridge, request_type, payload, Options.validate!(options, :cast))

  @doc "Like `cast/4`, but returns `:ok` or raises the error."
  @spec cast!(bridge, atom, map, keyword) :: :ok
  def cast!(bridge, request_type, payload \\ %{}, options \\ []),
    do: bang!(cast(bridge, request_type, payload, options))

  @doc """
  A lazy stream of a request's events, and its reply as the last element: `{:event, event}`,
  then `{:ok, result}` or `{:error, error}`.

  The request is sent when the stream is run, and cancelled when it is not run to its end. Events come
  as fast as Python makes them: those that are not read yet wait in the mailbox of the process that runs
  the stream, which should be quick or have Python make fewer.

      bridge
      |> ErlBridge.stream(:crawl, %{url: url})
      |> Stream.take_while(fn {kind, _} -> kind == :event end)
      |> Enum.each(fn {:event, event} -> IO.inspect(event) end)
  """
  @spec stream(bridge, atom, map, keyword) :: Enumerable.t()
  def stream(bridge, request_type, payload \\ %{}, options \\ []) do
    options = Options.validate!(options, :stream) |> Map.put(:on_event, :stream)

    Stream.resource(
      fn -> Request.start(bridge, request_type, payload, options) end,
      &next_element/1,
      fn
        {:ok, request} -> Request.abandon(request)
        _ended -> :ok
      end
    )
  end

  defp next_element(:ended), do: {:halt, :ended}
  defp next_element({:error, error}), do: {[{:error, error}], :ended}

  defp next_element({:ok, request}) do
    case Request.next(request) do
      {:event, event, request} -> {[{:event, event}], {:ok, request}}
      {:done, result} -> {[result], :ended}
    end
  end

  @doc "Like `await/1`, but returns the result or raises the error."
  @spec await!(Request.t()) :: term
  def await!(%Request{} = request), do: bang!(await(request))

  @doc """
  Cancels a request: one of `async/4`, or the one whose `:id` this is, whichever process waits for
  it.

  The request is answered with an error of the type `:cancelled`, also where it waits for room or for
  its next attempt, or its rows are still on their way, and is not sent then. Gives `false` when there is
  no such request.

      ErlBridge.optimize(bridge, signature, rows, id: :nightly)   # in one process
      {:ok, true} = ErlBridge.cancel(bridge, :nightly)            # in another
  """
  @spec cancel(bridge, Request.t() | term) :: {:ok, boolean} | {:error, Error.t()}
  def cancel(bridge, request_or_id),
    do: Request.cancel(bridge, request_or_id, %{timeout: @health_timeout})

  @doc "Like `cancel/2`, but returns whether there was one or raises the error."
  @spec cancel!(bridge, Request.t() | term) :: boolean
  def cancel!(bridge, request_or_id), do: bang!(cancel(bridge, request_or_id))

  @doc "Sends a map to Python and back."
  @spec ping(bridge, map) :: result
  def ping(bridge, payload \\ %{}), do: call(bridge, :ping, payload)

  @doc "Like `ping/2`, but returns the map or raises the error."
  @spec ping!(bridge, map) :: map
  def ping!(bridge, payload \\ %{}), do: bang!(ping(bridge, payload))

  @doc """
  Whether Python answers and is well. A Python that is busy with long requests answers at once.
  """
  @spec health_check(bridge) :: {:ok, :healthy} | {:error, Error.t()}
  def health_check(bridge) do
    case info(bridge) do
      {:ok, %{status: :healthy}} ->
        {:ok, :healthy}

      {:ok, %{status: status}} ->
        {:error, %Error{type: :overloaded, message: "Python is #{status}", strategy: :retry}}

      {:error, error} ->
        {:error, error}
    end
  end

  @doc "Like `health_check/1`, but returns `:healthy` or raises the error."
  @spec health_check!(bridge) :: :healthy
  def health_check!(bridge), do: bang!(health_check(bridge))

  @doc "All that Python says of its health: version, `os_pid`, `uptime_ms`, `requests_in_flight`, `memory_bytes`..."
  @spec info(bridge) :: {:ok, map} | {:error, Error.t()}
  def info(bridge) do
    # Neither tried again nor counted, for it asks whether Python is well.
    options = %{timeout: @health_timeout, reserve: false}
    Request.call(Route.lookup(bridge), bridge, :health_check, %{}, options)
  end

  @doc "Like `info/1`, but returns the map or raises the error."
  @spec info!(bridge) :: map
  def info!(bridge), do: bang!(info(bridge))

  ## DSPy

  @doc """
  Optimizes a signature, or a program further, with DSPy on rows of examples.

  Gives `%{status: :success, program: program, optimized_signature: ..., optimization_metrics:
  ...}`; the program is what `predict/4` and `evaluate/4` take. An optimization takes as long as
  it takes: without a `:timeout` there is no deadline.

  #{Options.docs(:optimize)}
  """
  @spec optimize(bridge, Payload.program() | Payload.signature(), Payload.rows(), keyword) ::
          result
  def optimize(bridge, signature, training_data, options \\ []) do
    options = options |> work_options(:optimize) |> stay_with([training_data])
    payload = Payload.optimize(signature, training_data, options)
    optimized(bridge, :optimize_signature, payload, options)
  end

  @doc """
  Trains a signature on rows of examples. By the method `:few_shot` they become demonstrations,
  without the language model being asked for more than the scores before and after.

  Gives what `optimize/4` gives, of which it is the shortest way.

      {:ok, %{program: program}} = ErlBridge.train(bridge, "question -> answer", rows, lm: lm)

  By the method `:fine_tune` the language model itself is taught, through the provider that DSPy has
  for it, and the result has its name:

      {:ok, %{program: program, model: model}} =
        ErlBridge.train(bridge, signature, rows, method: :fine_tune, config: [data: :rows], lm: lm)

      ErlBridge.predict(bridge, program, inputs, lm: model)

  #{Options.docs(:train)}
  """
  @spec train(bridge, Payload.program() | Payload.signature(), Payload.rows(), keyword) :: result
  def train(bridge, signature, training_data, options \\ []) do
    options = options |> work_options(:train) |> stay_with([training_data])
    payload = Payload.train(signature, training_data, options)
    optimized(bridge, :train_model, payload, options)
  end

  @doc "Like `train/4`, but returns the result or raises the error."
  @spec train!(bridge, Payload.program() | Payload.signature(), Payload.rows(), keyword) :: map
  def train!(bridge, signature, training_data, options \\ []),
    do: bang!(train(bridge, signature, training_data, options))

  defp optimized(bridge, request_type, payload, options) do
    with {:ok, route} <- Route.lookup(bridge),
         # What a fallback gives is no optimization: the cache must not keep it.
         once = Map.delete(options, :fallback),
         work = &optimize_once(route, bridge, request_type, payload, &1),
         {:ok, result} <- named(route, once, &Rows.place(route, payload, &1, work)) do
      {:ok, result}
    else
      {:error, error} ->
        Recovery.fall_back(error, fallback(bridge, request_type, payload, options))
    end
  end

  defp optimize_once(route, bridge, request_type, payload, options) do
    with {:ok, payload, unsent, options} <- Rows.name(bridge, payload, options) do
      cached(route, {request_type, payload}, options, fn timeout ->
        options = %{options | timeout: timeout}
        optimize_now(route, bridge, request_type, payload, unsent, options)
      end)
    end
  end

  defp optimize_now(route, bridge, request_type, payload, unsent, options) do
    with {:ok, options} <- Rows.put(bridge, unsent, options),
         {:ok, result} <- recovered(route, bridge, request_type, payload, options) do
      Telemetry.optimization(result, %{bridge: bridge})
      {:ok, result}
    end
  end

  # What a callback does is no data, so the cache cannot know whether it is still the same.
  defp cached(%{cache: cache}, request, options, optimize) do
    no_code? = options.callbacks == %{} or Map.has_key?(options, :cache_key)

    if cache != nil and Map.get(options, :cache, no_code?) do
      names = options.callbacks |> Map.keys() |> Enum.map(&to_string/1) |> Enum.sort()

      key =
        Cache.key(%{
          request: request,
          callback_names: names,
          cache_key: options[:cache_key],
          version: Application.spec(:erl_bridge, :vsn)
        })

      fetched(cache, key, optimize, options)
    else
      optimize.(options.timeout)
    end
  end

  # What a spent budget left unfinished is nothing to keep.
  defp fetched(cache, key, optimize, options) do
    whole = fn left ->
      with {:ok, %{status: :budget_exhausted} = unfinished} <- optimize.(left),
           do: {:error, {:unfinished, unfinished}}
    end

    settings = [timeout: options.timeout, refresh: options.refresh]

    with {:error, {:unfinished, result}} <- Cache.fetch(cache, key, whole, settings),
         do: {:ok, result}
  end

  @doc "Like `optimize/4`, but returns the result or raises the error."
  @spec optimize!(bridge, Payload.program() | Payload.signature(), Payload.rows(), keyword) :: map
  def optimize!(bridge, signature, training_data, options \\ []),
    do: bang!(optimize(bridge, signature, training_data, options))

  @doc """
  Scores a program, or a signature as it is, on rows.

  Gives the `score`, its 95 % confidence `interval`, the `results` of all rows with what failed, and
  for outputs to choose from the `confusion`: how often what was taken for what. Without a
  `:timeout` there is no deadline.

  #{Options.docs(:evaluate)}
  """
  @spec evaluate(bridge, Payload.program() | Payload.signature(), Payload.rows(), keyword) ::
          result
  def evaluate(bridge, program_or_signature, data, options \\ []) do
    options = options |> work_options(:evaluate) |> stay_with([data])
    evaluated(bridge, Payload.evaluate(program_or_signature, data, options), options)
  end

  defp evaluated(bridge, payload, options) do
    options = Map.put_new(options, :idempotent, true)

    with {:ok, route} <- Route.lookup(bridge),
         once = Map.delete(options, :fallback),
         work = &evaluate_once(route, bridge, payload, &1),
         {:ok, result} <- named(route, once, &Rows.place(route, payload, &1, work)) do
      {:ok, result}
    else
      {:error, error} ->
        Recovery.fall_back(error, fallback(bridge, :evaluate_pipeline, payload, options))
    end
  end

  defp evaluate_once(route, bridge, payload, options) do
    with {:ok, payload, unsent, options} <- Rows.name(bridge, payload, options),
         {:ok, options} <- Rows.put(bridge, unsent, options),
         {:ok, result} <- recovered(route, bridge, :evaluate_pipeline, payload, options) do
      with %{usage: %{} = spent} <- result,
           do: Telemetry.usage(spent, %{bridge: bridge, request_type: :evaluate_pipeline})

      {:ok, result}
    end
  end

  @doc """
  Scores two programs, or signatures as they are, on the same rows, and says whether the second is
  better or only luckier.

  Gives what `evaluate/4` gives of the second, and as `comparison` a map of `baseline_score` (that of
  the first), `difference`, its 95 % confidence `interval`, how many rows are `better`, `worse` and
  `equal`, and the `p_value`; `significant` where that is below 0.05.

      {:ok, %{score: 0.81, comparison: %{difference: 0.12, significant: true}}} =
        ErlBridge.compare(bridge, old_program, new_program, rows, lm: lm)

  The options are those of `evaluate/4`.
  """
  @spec compare(
          bridge,
          Payload.program() | Payload.signature(),
          Payload.program() | Payload.signature(),
          Payload.rows(),
          keyword
        ) :: result
  def compare(bridge, baseline, program, data, options \\ []) do
    options = options |> work_options(:evaluate) |> stay_with([data])
    evaluated(bridge, Payload.compare(baseline, program, data, options), options)
  end

  @doc "Like `compare/5`, but returns the result or raises the error."
  @spec compare!(
          bridge,
          Payload.program() | Payload.signature(),
          Payload.program() | Payload.signature(),
          Payload.rows(),
          keyword
        ) :: map
  def compare!(bridge, baseline, program, data, options \\ []),
    do: bang!(compare(bridge, baseline, program, data, options))

  @doc "Like `evaluate/4`, but returns the result or raises the error."
  @spec evaluate!(bridge, Payload.program() | Payload.signature(), Payload.rows(), keyword) :: map
  def evaluate!(bridge, program_or_signature, data, options \\ []),
    do: bang!(evaluate(bridge, program_or_signature, data, options))

  @doc """
  Predicts with a program, or with a signature as it is.

  A map of inputs gives a map of outputs. A list or a dataset of inputs gives a list in the same
  order of `{:ok, outputs}` and `{:error, error}`: a row that fails leaves the others alone.

  #{Options.docs(:predict)}
  """
  @spec predict(bridge, Payload.program() | Payload.signature(), map, keyword) ::
          {:ok, map} | {:error, Error.t()}
  @spec predict(
          bridge,
          Payload.program() | Payload.signature(),
          [map] | Dataset.t(),
          keyword
        ) ::
          {:ok, [{:ok, map} | {:error, Error.t()}]} | {:error, Error.t()}
  def predict(bridge, program_or_signature, inputs, options \\ []) do
    options =
      options
      |> Options.validate!(:predict)
      |> Payload.prepare()
      |> Map.put_new(:idempotent, true)
      |> stay_with([inputs])

    payload = Payload.predict(program_or_signature, inputs, options)
    options = note_usage(bridge, options)

    with {:ok, results} when is_list(results) <- request(bridge, :predict, payload, options),
         do: {:ok, Enum.map(results, &row_result/1)}
  end

  @doc "Like `predict/4`, but returns the outputs or raises the error."
  @spec predict!(bridge, Payload.program() | Payload.signature(), map | [map], keyword) ::
          map | [{:ok, map} | {:error, Error.t()}]
  def predict!(bridge, program_or_signature, inputs, options \\ []),
    do: bang!(predict(bridge, program_or_signature, inputs, options))

  ## Datasets

  @doc """
  Sends rows to Python, which keeps them, and gives the `ErlBridge.Dataset` that stands for them.

      {:ok, dataset} = ErlBridge.put_dataset(bridge, rows)
      {:ok, %{program: program}} = ErlBridge.optimize(bridge, signature, dataset, lm: lm)

  The rows are any enumerable of maps: a list, a lazy stream of any length, a file of JSON Lines or
  CSV (`ErlBridge.DataFile.stream!/2`), a query of Ecto's `Repo.stream/2` in its transaction. A
  stream is run in the calling process, as fast as Python takes it; no more than a few megabytes of
  it are in memory at a time.

  Rows that Python has already are not sent. That is found out before the sending for a list that
  looks like one that was sent from this node before, or for anything with `digest: :first`.

  A Python that dies meanwhile is no error: the next one goes on where it was. What ends it is what
  the rows raise (an `ErlBridge.Error` becomes the error of this function, all else is raised), a
  row that is no map, a limit or a full disk. Then nothing of it is left, nor when the calling
  process dies.

  `optimize/4`, `train/4` and `evaluate/4` do this by themselves for rows that are many or lazy. The
  guide "Datasets" tells more.

  #{Options.docs(:dataset)}
  """
  @spec put_dataset(bridge, Enumerable.t(), keyword) :: {:ok, Dataset.t()} | {:error, Error.t()}
  def put_dataset(bridge, rows, options \\ []),
    do: Transfer.put(bridge, rows, options |> Options.validate!(:dataset) |> hear_progress())

  @doc "Like `put_dataset/3`, but returns the dataset or raises the error."
  @spec put_dataset!(bridge, Enumerable.t(), keyword) :: Dataset.t()
  def put_dataset!(bridge, rows, options \\ []), do: bang!(put_dataset(bridge, rows, options))

  @doc """
  The dataset with this id, or with the id of this dataset; an error of the type
  `:invalid_request` where Python does not have it (any more).
  """
  @spec get_dataset(bridge, String.t() | Dataset.t()) :: {:ok, Dataset.t()} | {:error, Error.t()}
  def get_dataset(bridge, %Dataset{dataset_id: id, node: nil}), do: get_dataset(bridge, id)

  def get_dataset(bridge, %Dataset{} = dataset),
    do: get_dataset(bridge, dataset.dataset_id, dataset.node)

  def get_dataset(bridge, id) when is_binary(id), do: get_dataset(bridge, id, nil)

  @doc "Like `get_dataset/2`, but returns the dataset or raises the error."
  @spec get_dataset!(bridge, String.t() | Dataset.t()) :: Dataset.t()
  def get_dataset!(bridge, id), do: bang!(get_dataset(bridge, id))

  defp get_dataset(bridge, id, node) do
    options = if node, do: [node: node], else: []

    case call(bridge, :dataset_status, %{dataset_id: id}, options) do
      {:ok, %{dataset_id: nil}} -> {:error, Error.no_dataset(id)}
      {:ok, held} -> {:ok, struct!(Dataset, Map.put(held, :node, node))}
      {:error, error} -> {:error, error}
    end
  end

  @doc """
  What Python keeps and may keep: `datasets`, their `bytes`, `transfers` that are open, the
  `compression`s that it knows, and `limits`.
  """
  @spec dataset_store(bridge) :: {:ok, map} | {:error, Error.t()}
  def dataset_store(bridge), do: call(bridge, :dataset_status, %{})

  @doc "Like `dataset_store/1`, but returns the map or raises the error."
  @spec dataset_store!(bridge) :: map
  def dataset_store!(bridge), do: bang!(dataset_store(bridge))

  ## Shared

  # Sends it as often as the bridge's recovery will have it.
  # The usage of a prediction is an event, so that its result can be the outputs alone.
  defp note_usage(bridge, options) do
    if Telemetry.enabled?([:erl_bridge, :lm, :usage]) do
      on_event = Map.get(options, :on_event, fn _event -> :ok end)

      Map.put(options, :on_event, fn event ->
        with %{kind: :usage} <- event,
             do: Telemetry.usage(event, %{bridge: bridge, request_type: :predict})

        on_event.(event)
      end)
    else
      options
    end
  end

  # Most have no option and succeed: for those this is all there is.
  defp request(bridge, request_type, payload, options) do
    with {:ok, {route, _alias} = line} <- Line.open(bridge) do
      {timeout, deadline} = times = times(options, route)

      case CircuitBreaker.closed?(route.breaker) and
             Request.call_plainly(line, bridge, request_type, payload, options, times) do
        {:ok, _result} = ok ->
          Budget.deposit(route.budget)
          ok

        {:error, error} ->
          CircuitBreaker.report(route.breaker, error)
          options = Map.merge(options, %{timeout: timeout, deadline: deadline})
          recover(error, route, bridge, request_type, payload, options)

        _not_plain ->
          options = Map.merge(options, %{timeout: timeout, deadline: deadline})
          recovered(route, bridge, request_type, payload, options)
      end
    else
      # Nothing is tried again where no bridge runs.
      {:error, error} ->
        Recovery.fall_back(error, fallback(bridge, request_type, payload, options))
    end
  end

  # From here on it can be cancelled by its `:id`, whatever it has to do before it is sent.
  defp named(route, %{id: _} = options, work) when not is_map_key(options, :name),
    do: Request.named(route, options, work)

  defp named(_route, options, work), do: work.(options)

  defp recovered(route, bridge, request_type, payload, %{id: _} = options)
       when not is_map_key(options, :name),
       do: named(route, options, &recovered(route, bridge, request_type, payload, &1))

  defp recovered(route, bridge, request_type, payload, %{deadline: _} = options) do
    case attempt({:ok, route}, bridge, route.breaker, request_type, payload, options) do
      {:ok, _result} = ok ->
        Budget.deposit(route.budget)
        ok

      {:error, error} ->
        recover(error, route, bridge, request_type, payload, options)
    end
  end

  defp recovered(route, bridge, request_type, payload, options) do
    {timeout, deadline} = times(options, route)
    options = Map.merge(options, %{timeout: timeout, deadline: deadline})
    recovered(route, bridge, request_type, payload, options)
  end

  defp recover(error, route, bridge, request_type, payload, options) do
    again = fn attempt, _left ->
      options = Map.put(options, :attempt, attempt)
      # Its workers may be others by now.
      attempt(Route.lookup(bridge), bridge, route.breaker, request_type, payload, options)
    end

    recovery = recovery(route, bridge, request_type, payload, options)
    Recovery.after_failure(error, again, recovery)
  end

  defp times(%{timeout: timeout}, _route), do: {timeout, Deadline.after_timeout(timeout)}
  defp times(_options, route), do: {route.timeout, Deadline.after_timeout(route.timeout)}

  defp recovery(route, bridge, request_type, payload, options) do
    about = %{bridge: bridge, request_type: request_type}

    Keyword.merge(fallback(bridge, request_type, payload, options),
      policy: Policy.merge(route.policy, options),
      budget: route.budget,
      deadline: Map.get(options, :deadline, :infinity),
      pause: pause(options),
      on_retry: &tell_retry(&1, about)
    )
  end

  # All that the fallback needs, after which nothing is tried again.
  defp fallback(bridge, request_type, payload, options) do
    about = %{bridge: bridge, request_type: request_type}

    [
      policy: nil,
      fallback: options[:fallback],
      context: %{request_type: request_type, payload: payload},
      on_fallback: &Telemetry.fallback(%{count: 1}, Map.put(about, :error, &1.error))
    ]
  end

  defp pause(%{name: name}), do: &Name.pause(name, &1)
  defp pause(_options), do: nil

  defp tell_retry(%{attempt: attempt, delay_ms: delay, error: error}, about) do
    delay = System.convert_time_unit(delay, :millisecond, :native)
    Telemetry.retry(%{delay: delay}, Map.merge(about, %{attempt: attempt, error: error}))
  end

  defp attempt(found, bridge, breaker, request_type, payload, options) do
    with :ok <- CircuitBreaker.ask(breaker) do
      result = Request.call(found, bridge, request_type, payload, options)
      CircuitBreaker.report(breaker, outcome(result))
      result
    end
  end

  defp outcome({:ok, _result}), do: :ok
  defp outcome({:error, error}), do: error

  defp work_options(options, schema) do
    options
    |> Options.validate!(schema)
    |> Payload.prepare()
    |> Map.put_new(:timeout, :infinity)
    |> hear_progress()
  end

  # What was sent to a node of a cluster is there and nowhere else.
  defp stay_with(options, rows) do
    case Enum.find(
           [options[:validation_data] | rows],
           &match?(%Dataset{node: node} when node != nil, &1)
         ) do
      nil -> options
      dataset -> Map.put_new(options, :node, dataset.node)
    end
  end

  defp hear_progress(%{on_progress: on_progress} = options) do
    on_event = Map.get(options, :on_event, fn _event -> :ok end)

    Map.put(options, :on_event, fn event ->
      if event.kind == :progress, do: on_progress.(event)
      on_event.(event)
    end)
  end

  defp hear_progress(options), do: options

  defp row_result({:ok, outputs}), do: {:ok, outputs}
  defp row_result({:error, error}), do: {:error, Error.from_wire(error)}

  defp bang!(:ok), do: :ok
  defp bang!({:ok, result}), do: result
  defp bang!({:error, error}), do: raise(error)
end
