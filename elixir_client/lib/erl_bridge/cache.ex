defmodule ErlBridge.Cache do
  @moduledoc """
  A cache of results that are dear: an optimization takes minutes and many calls of a language
  model, and the same request gives as good a result the next time.

      children = [
        {ErlBridge, name: MyApp.Bridge},
        {ErlBridge.Cache, name: MyApp.Cache, ttl: :timer.hours(24), file: "/var/lib/my_app/optimizations"}
      ]

  `fetch/4` gives what is there, or has it computed once, however many ask for it at a time:

      iex> {:ok, cache} = ErlBridge.Cache.start_link(max_entries: 100)
      iex> key = ErlBridge.Cache.key(%{signature: "question -> answer", rows: [%{question: "2+2?", answer: "4"}]})
      iex> ErlBridge.Cache.fetch(cache, key, fn -> {:ok, "computed"} end)
      {:ok, "computed"}
      iex> ErlBridge.Cache.fetch(cache, key, fn -> {:ok, "not computed again"} end)
      {:ok, "computed"}
      iex> {:ok, %{hits: 1, misses: 1, entries: 1}} = ErlBridge.Cache.stats(cache)

  ## How it behaves

    * **A hit asks no process.** The caller reads the ETS table itself, and decodes the result.
    * **One computes, the others wait.** The first caller that misses runs the function, in its own
      process. Those that ask for the same key meanwhile get its result.
    * **Errors are not kept.** An error goes to all who wait. Not so `:timeout_error` and
      `:cancelled`, which say something of one caller's request only: then the caller that has
      waited longest computes, as it does when the computing one dies or raises.
    * **Time to live, and limits.** An expired result is never given. When there are too many, or
      they are too large, the least recently used ones are removed.
    * **Deleting wins.** What was being computed when its key was deleted goes to those who wait
      for it, and is not kept.
    * **A refresh** computes while others still get the old result, and replaces it. It joins a
      computation of its key that is under way. If it fails, the old result stays.

  ## The file

  With `:file` every result is on the disk when `put/4` or `fetch/4` returns, so it survives a
  restart, a crash and `kill -9`. Only digests and results are in it, never a request, and only its
  owner may read it. A damaged file is moved to the same name with `.damaged` at its end, with a
  warning; the cache goes on with all entries that are whole. A file that is not one of a cache is left
  alone, and is an error. A disk that is full costs a warning,
  not the result. The results are decoded when they are used, with the atoms they were written
  with: the file is trusted as your own files are. Two nodes must not share one.

  ## Events

  `:on_event` is called as `on_event.(event, measurements, %{cache: name_or_pid, key: key})`, by
  the caller for the first three events, and by the cache's process for the others, which it holds
  up meanwhile:

    * `:hit` - a result was there: `%{bytes: bytes}`
    * `:miss` - there was none, or it is to be refreshed: `%{}`. A `fetch/4` that computes now
    * `:wait` - a result of another caller's came: `%{bytes: bytes, duration: native_time}`
    * `:put`, `:evict`, `:expire` - a result was put in, had to go, was too old: `%{bytes: bytes}`

  ## Options

  #{ErlBridge.Options.docs(:cache)}
  """

  alias ErlBridge.Cache.{Key, Meter, Server, Store}
  alias ErlBridge.{Error, Options}

  @typedoc "A running cache of this node: its pid or its name."
  @type cache :: GenServer.server()

  @typedoc "What `key/1` gives; any binary will do."
  @type key :: binary

  @typedoc "What computes a result. With an argument it is told how many milliseconds the caller has left."
  @type computation :: (() -> outcome) | (timeout -> outcome)
  @type outcome :: {:ok, term} | {:error, term}

  # These are about one caller's request, not about what was asked for.
  @own_errors [:timeout_error, :cancelled]

  @doc """
  A child specification, for `{ErlBridge.Cache, options}` in a list of children.

      iex> ErlBridge.Cache.child_spec(name: MyApp.Cache).id
      MyApp.Cache
  """
  @spec child_spec(keyword) :: Supervisor.child_spec()
  def child_spec(options) do
    Options.validate!(options, :cache)

    %{
      id: Keyword.get(options, :name, ErlBridge.Cache),
      start: {ErlBridge.Cache, :start_link, [options]}
    }
  end

  @doc """
  Starts a cache, linked to the calling process. Returns when its file has been read.

  Raises `ArgumentError` for a wrong option. A file that cannot be used, or that another cache has,
  is an error. The options are listed in the [module's documentation](#module-options).
  """
  @spec start_link(keyword) :: {:ok, pid} | {:error, Error.t() | {:already_started, pid}}
  def start_link(options \\ []), do: Server.start_link(Options.validate!(options, :cache))

  @doc """
  The key of a request: a digest of all that its result depends on, the same on every node and
  after every restart.

  Give whatever tells two requests apart: signature, module, rows or the dataset's id, validation
  rows, optimizer, metric, configuration, language model, the versions in `ErlBridge.hello/1`. A
  key of an API may be among them; nobody can get it back out of the digest.

  Of `callbacks`, a map of functions, the names are part of the key and the functions are not:
  code is no data. Whoever changes what a callback does adds something of their own, a version for
  example, to have another key.

  Raises `ArgumentError` for a pid, a port, a reference or any other local function, with the path
  to it.

      iex> parts = %{signature: "question -> answer", lm: "openai/gpt-4o-mini", callbacks: %{score: fn _example, _prediction -> 1.0 end}}
      iex> key = ErlBridge.Cache.key(parts)
      iex> byte_size(key)
      64
      iex> key == ErlBridge.Cache.key(%{parts | callbacks: %{score: fn _example, _prediction -> 0.0 end}})
      true
      iex> key == ErlBridge.Cache.key(Map.put(parts, :cache_key, "score 2"))
      false
      iex> ErlBridge.Cache.key(%{config: %{owner: self()}})
      ** (ArgumentError) cannot make a cache key: config.owner is a pid, which means nothing to another node or after a restart; give its name or its version instead
  """
  @spec key(map) :: key
  def key(%{callbacks: callbacks} = parts) when is_map(callbacks) do
    # `:score` and `"score"` are one name to Python.
    names = callbacks |> Map.keys() |> Enum.map(&to_string/1) |> Enum.sort()
    Key.digest(%{parts | callbacks: names})
  end

  def key(parts) when is_map(parts), do: Key.digest(parts)

  @doc """
  The result under a key, or what `compute` gives, which is kept if it is `{:ok, result}`.

  Only one of many concurrent callers computes, in its own process; what it raises is raised there,
  and the next one tries. A caller that waits longer than `:timeout` gets a `:timeout_error`; the
  computation goes on without it. A function with one argument is told what is left of that time.

  Raises `ArgumentError` for a wrong option, when `compute` gives something else, and when it asks
  for its own key.

  #{Options.docs(:cache_fetch)}
  """
  @spec fetch(cache, key, computation, keyword) :: {:ok, term} | {:error, Error.t() | term}
  def fetch(cache, key, compute, options \\ [])
      when is_binary(key) and (is_function(compute, 0) or is_function(compute, 1)) do
    options = Options.validate!(options, :cache_fetch)

    with {:ok, handle} <- Server.lookup(cache) do
      case not options.refresh && hit(handle, key) do
        {:ok, result} -> {:ok, result}
        _absent -> join(handle, key, compute, options)
      end
    end
  end

  @doc """
  The result under a key; `:miss` where there is none, or where it has expired.

      iex> {:ok, cache} = ErlBridge.Cache.start_link()
      iex> ErlBridge.Cache.get(cache, "key")
      :miss
  """
  @spec get(cache, key) :: {:ok, term} | :miss | {:error, Error.t()}
  def get(cache, key) when is_binary(key) do
    with {:ok, handle} <- Server.lookup(cache) do
      with :error <- hit(handle, key), do: miss(handle, key)
    end
  end

  @doc """
  Puts a result in, in the place of the one that is there.

  #{Options.docs(:cache_put)}

      iex> {:ok, cache} = ErlBridge.Cache.start_link()
      iex> ErlBridge.Cache.put(cache, "key", %{score: 0.9}, ttl: 60_000)
      :ok
      iex> ErlBridge.Cache.get(cache, "key")
      {:ok, %{score: 0.9}}
  """
  @spec put(cache, key, term, keyword) :: :ok | {:error, Error.t()}
  def put(cache, key, result, options \\ []) when is_binary(key) do
    options = Options.validate!(options, :cache_put)

    with {:ok, handle} <- Server.lookup(cache),
         do: ask(handle, {:put, key, encode(result), ttl(handle, options)})
  end

  @doc "Removes the result under a key, also from the file. What is being computed for it will not be kept."
  @spec delete(cache, key) :: :ok | {:error, Error.t()}
  def delete(cache, key) when is_binary(key) do
    with {:ok, handle} <- Server.lookup(cache), do: ask(handle, {:delete, key})
  end

  @doc "Removes all results, also from the file. What is being computed will not be kept."
  @spec clear(cache) :: :ok | {:error, Error.t()}
  def clear(cache) do
    with {:ok, handle} <- Server.lookup(cache), do: ask(handle, :clear)
  end

  @doc "How many results there are."
  @spec size(cache) :: {:ok, non_neg_integer} | {:error, Error.t()}
  def size(cache) do
    with {:ok, handle} <- Server.lookup(cache), do: {:ok, Store.size(handle.reader)}
  end

  @doc """
  What has happened since the cache was started: `hits`, `misses`, `waits`, `puts`, `evictions`,
  `expirations`; and what there is now: `entries` and their `bytes`.

      iex> {:ok, cache} = ErlBridge.Cache.start_link()
      iex> ErlBridge.Cache.put(cache, "key", "result")
      iex> ErlBridge.Cache.stats(cache)
      {:ok, %{hits: 0, misses: 0, waits: 0, puts: 1, evictions: 0, expirations: 0, entries: 1, bytes: 12}}
  """
  @spec stats(cache) :: {:ok, %{required(atom) => non_neg_integer}} | {:error, Error.t()}
  def stats(cache) do
    with {:ok, handle} <- Server.lookup(cache) do
      {:ok, Map.put(Meter.counts(handle.meter), :entries, Store.size(handle.reader))}
    end
  end

  # Reading

  defp hit(handle, key) do
    with {:ok, value} <- read(handle.reader, key), do: found(handle, key, value)
  end

  defp read(reader, key) do
    Store.read(reader, key, Server.now())
  rescue
    # The table went with its process, after the lookup.
    ArgumentError -> :error
  end

  defp found(handle, key, value) do
    Meter.note(handle.meter, :hit, key, %{bytes: byte_size(value)})
    {:ok, decode(value)}
  end

  defp miss(handle, key) do
    Meter.note(handle.meter, :miss, key, %{})
    :miss
  end

  # Computing, or waiting for who does

  defp join(handle, key, compute, options) do
    started = Server.now()
    deadline = deadline(options.timeout)
    ref = make_ref()

    case ask(handle, {:join, key, ref, options.refresh}, options.timeout) do
      :compute ->
        miss(handle, key)
        compute(handle, ref, fn -> run(compute, deadline) end, ttl(handle, options))

      {:found, value} ->
        found(handle, key, value)

      {:result, value} ->
        measurements = %{bytes: byte_size(value), duration: Server.now() - started}
        Meter.note(handle.meter, :wait, key, measurements)
        {:ok, decode(value)}

      :computing_itself ->
        raise ArgumentError,
              "the computation for the key #{inspect(key)} asks for that key itself"

      :timeout ->
        leave(handle, ref)
        {:error, Error.timed_out(options.timeout)}

      {:error, error} ->
        {:error, error}
    end
  end

  defp compute(handle, ref, run, ttl) do
    outcome = run.()
    finish(handle, ref, outcome, ttl)
    outcome
  catch
    kind, reason ->
      leave(handle, ref)
      :erlang.raise(kind, reason, __STACKTRACE__)
  end

  defp run(compute, _deadline) when is_function(compute, 0), do: compute.()
  defp run(compute, deadline) when is_function(compute, 1), do: compute.(remaining(deadline))

  # A cache that ended meanwhile takes nothing from who has the result.
  defp finish(handle, ref, {:ok, result}, ttl),
    do: ask(handle, {:finish, ref, {:ok, encode(result), ttl}})

  defp finish(handle, ref, {:error, %Error{type: type}}, _ttl) when type in @own_errors,
    do: leave(handle, ref)

  defp finish(handle, ref, {:error, error}, _ttl),
    do: ask(handle, {:finish, ref, {:error, error}})

  defp finish(_handle, _ref, other, _ttl) do
    raise ArgumentError,
          "expected {:ok, result} or {:error, error} of the function given to fetch/4, " <>
            "got: #{inspect(other, limit: 5)}"
  end

  defp leave(handle, ref), do: GenServer.cast(handle.server, {:leave, ref})

  defp ask(%{server: server}, request, timeout \\ :infinity) do
    GenServer.call(server, request, timeout)
  catch
    :exit, {:timeout, _call} -> :timeout
    :exit, _ended -> {:error, Server.not_running(server)}
  end

  defp deadline(:infinity), do: :infinity
  defp deadline(timeout), do: System.monotonic_time(:millisecond) + timeout

  defp remaining(:infinity), do: :infinity
  defp remaining(deadline), do: max(deadline - System.monotonic_time(:millisecond), 1)

  defp ttl(handle, options), do: Map.get(options, :ttl, handle.ttl)

  # The minor version that all releases of OTP from 25 on read and write alike.
  defp encode(result), do: :erlang.term_to_binary(result, minor_version: 2)
  defp decode(value), do: :erlang.binary_to_term(value)
end
