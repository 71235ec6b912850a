defmodule ErlBridge.Options do
  @moduledoc """
  All options of this library: one schema per function, which validates them and writes their
  documentation.

      iex> ErlBridge.Options.validate!([timeot: 5], :call)
      ** (ArgumentError) unknown option :timeot, did you mean :timeout? The options are :timeout, :id, :on_event, :session, :node, :callbacks, :metadata, :trace, :fallback, :max_retries, :backoff, :max_retry_after and :idempotent

      iex> ErlBridge.Options.validate!([timeout: "5"], :call)
      ** (ArgumentError) expected :timeout to be milliseconds, an integer from 1 to 4000000000, or :infinity, got: "5"
  """

  @type schema ::
          :start
          | :connect
          | :call
          | :async
          | :cast
          | :stream
          | :optimize
          | :train
          | :evaluate
          | :predict
          | :recovery
          | :retry_budget
          | :circuit_breaker
          | :cache
          | :cache_fetch
          | :cache_put
          | :data_file
          | :config
          | :optimization
          | :pipeline
          | :provider
          | :program_load
          | :program_put
          | :program_get
          | :program_versions
          | :program_rollback
          | :dataset
          | :cluster

  # How like two names must be for one to be offered for the other (1.0: the same).
  @alike 0.77

  @levels [:debug, :info, :notice, :warning, :error]

  # The longest wait, in milliseconds; a timer takes no more than some fifty of them.
  @day 86_400_000

  # The longest timeout: a caller waits a little longer than its deadline.
  @longest 4_000_000_000

  @retries [
    max_retries: [
      type: {:integer, 0..100},
      default: 3,
      doc: "how often a request that failed is tried again"
    ],
    backoff: [
      type: {:bounds, 1..@day},
      default: [min: 100, max: 10_000],
      doc:
        "the delay before a retry in milliseconds: drawn below `:min`, then below twice that, up to `:max`"
    ],
    max_retry_after: [
      type: {:integer, 1..@day},
      default: 60_000,
      doc: "how many milliseconds of an error's `:retry_after_ms` are waited for at most"
    ]
  ]

  @idempotent [
    idempotent: [
      type: :boolean,
      default: false,
      doc: "whether a request may be repeated that was perhaps done already, before Python died"
    ]
  ]

  @start [
    name: [type: :name, doc: "the name to register the bridge under"],
    pool_size: [
      type: :pos_integer,
      default: 1,
      doc: "how many Python processes serve the bridge"
    ],
    python: [
      type: :string,
      doc:
        "the Python interpreter; without it that of `config :erl_bridge, python: path`, " <>
          "`$ERL_BRIDGE_PYTHON`, the one that `mix erl_bridge.setup` made, or `python3`"
    ],
    app: [
      type: :string,
      doc: "handlers of your own, as `\"package.module:app\"`"
    ],
    connect: [
      type: {:options, :connect},
      doc:
        "a server of BERT-RPC to ask, `python -m erl_bridge tcp` on this host or another, instead of a Python " <>
          "of our own, `[host: \"10.0.0.7\", port: 8000]`: `ErlBridge.Bert`"
    ],
    cd: [type: :string, doc: "the folder in which Python runs"],
    env: [
      type: :env,
      default: [],
      doc: "environment variables for Python, `[{\"NAME\", \"value\"}]`; `false` unsets one"
    ],
    args: [type: :strings, default: [], doc: "further arguments for `erl_bridge port`"],
    timeout: [
      type: :timeout,
      default: 30_000,
      doc: "how long a request may take unless it says otherwise"
    ],
    max_in_flight: [
      type: :pos_integer,
      default: 256,
      doc: "how many requests each worker may have in flight; further ones wait in the queue"
    ],
    max_bytes_in_flight: [
      type: :pos_integer,
      default: 256 * 1024 * 1024,
      doc: "how many bytes these requests may have; a larger one is sent when it is the only one"
    ],
    max_queue: [
      type: :non_neg_integer,
      default: 1_000,
      doc: "how many requests may wait in the queue; past it they get `:pool_exhausted`"
    ],
    queue_timeout: [
      type: :timeout,
      default: 5_000,
      doc: "how long a request may wait in the queue"
    ],
    health_interval: [
      type: :timeout,
      default: 5_000,
      doc: "how often a worker that was silent is asked for its health"
    ],
    health_timeout: [
      type: {:integer, 1..@day},
      default: 5_000,
      doc:
        "how many milliseconds it gets to answer, twice; a Python that did nothing at all meanwhile is killed"
    ],
    start_timeout: [
      type: {:integer, 1..@day},
      default: 15_000,
      doc: "how many milliseconds Python may take to say hello"
    ],
    shutdown_timeout: [
      type: {:integer, 1..@day},
      default: 5_000,
      doc: "how many milliseconds requests in flight get to finish when the bridge is stopped"
    ],
    preload: [
      type: :boolean,
      default: true,
      doc: "import DSPy right after the start, not at its first request"
    ],
    max_frame: [
      type: :pos_integer,
      doc: "the largest frame in bytes that Python accepts; 64 MiB unless told"
    ],
    max_jobs: [type: :pos_integer, doc: "how many job processes may run at once"],
    nouse_stdio: [
      type: :boolean,
      default: false,
      doc: "speak on file descriptors 3 and 4 and leave stdin and stdout alone"
    ],
    log_level: [
      type: {:in, [:none | @levels]},
      default: :info,
      doc:
        "the level at which Python's stderr goes to `Logger`, but for what `logging` gave a level; `:none` for nothing at all"
    ],
    retry_budget: [
      type: {:options, :retry_budget},
      default: [],
      doc: "how many retries there may be in all: `ErlBridge.Recovery.Budget`"
    ],
    cache: [
      type: {:options_or_false, :cache},
      default: [],
      doc:
        "the cache of optimizations, `ErlBridge.Cache`: `[ttl: 3_600_000, max_entries: 1_000, file: path]`; `false` for none"
    ],
    circuit_breaker: [
      type: {:options_or_false, :circuit_breaker},
      default: [],
      doc: "when requests are refused for a while, `ErlBridge.CircuitBreaker`; `false` for never"
    ]
  ]

  @connect [
    host: [type: :string, default: "127.0.0.1", doc: "its name or its address"],
    port: [type: {:integer, 1..65_535}, default: 8000, doc: "its port"],
    token: [type: :string, doc: "the token that it wants to see (`--token-file`)"],
    ssl: [
      type: :any,
      default: false,
      doc:
        "`true` or options of `:ssl`, `[cacertfile: path, certfile: path, keyfile: path]`; the server's " <>
          "certificate is checked, by the system's authorities unless told"
    ],
    connect_timeout: [
      type: {:integer, 1..@day},
      default: 5_000,
      doc: "how many milliseconds a connection may take to be there"
    ]
  ]

  @call [
    timeout: [
      type: :timeout,
      doc: "the request's deadline, which Python keeps too; the bridge's `:timeout` unless told"
    ],
    id: [type: :any, doc: "any term that names the request for `ErlBridge.cancel/2`"],
    on_event: [
      type: {:function, 1},
      doc: "called in the calling process with each event, in order, before the reply"
    ],
    session: [
      type: :any,
      doc:
        "any term: all requests with it meet the same worker, for as long as the pool keeps its size and that Python lives"
    ],
    node: [
      type: :atom,
      doc: "of a cluster: the node whose Python gets the request, and no other"
    ],
    callbacks: [
      type: :callbacks,
      default: %{},
      doc: "functions that Python may call while it works, by name: `%{score: &score/2}`"
    ],
    metadata: [
      type: :map,
      default: %{},
      doc: "goes along with the request; a handler in Python reads it as `context.metadata`"
    ],
    trace: [
      type: :any,
      doc:
        "the W3C trace context that goes along: an `ErlBridge.TraceContext`, a `traceparent`, or `false` for none; else the process's own"
    ]
  ]

  @recovery @retries ++ @idempotent

  @retry_budget [
    share: [type: :share, default: 0.1, doc: "how many retries each request pays for"],
    min_per_second: [
      type: {:integer, 1..1_000},
      default: 1,
      doc: "how many retries a second there are besides"
    ],
    burst: [
      type: {:integer, 1..10_000},
      default: 100,
      doc: "how many retries can be saved up, and there are at the start"
    ]
  ]

  @circuit_breaker [
    name: [type: :name, doc: "the name to register the breaker under"],
    failures: [
      type: {:integer, 1..1_000},
      default: 5,
      doc: "so many failures within the `:window` open the breaker"
    ],
    window: [
      type: {:integer, 1..@day},
      default: 10_000,
      doc: "for how many milliseconds a failure counts"
    ],
    cool_down: [
      type: {:bounds, 1..@day},
      default: [min: 1_000, max: 60_000],
      doc:
        "how many milliseconds it stays open: `:min`, and twice as long each time that a probe fails, up to `:max`"
    ],
    probes: [
      type: {:integer, 1..100},
      default: 1,
      doc: "how many requests at a time try whether the bridge is well again"
    ],
    successes: [
      type: {:integer, 1..100},
      default: 2,
      doc: "so many of them must succeed for it to close"
    ],
    probe_timeout: [
      type: {:integer, 1..@day},
      default: 30_000,
      doc: "after so many milliseconds another one is let through beside one without a result"
    ],
    on_change: [
      type: {:function, 2},
      doc: "called in the breaker's process with the old and the new state"
    ]
  ]

  # What `call/4` and the functions over it take besides; a cast or an `async/4` is sent once.
  @recovered [
               fallback: [
                 type: :fallback,
                 doc:
                   "what answers when Python cannot: a function of the error, or a module of the behaviour `ErlBridge.Fallback`"
               ]
             ] ++
               (for {name, field} <- @retries ++ @idempotent do
                  {name, Keyword.delete(field, :default)}
                end)

  @language_model [
    lm: [
      type: :any,
      doc:
        "the language model: `\"openai/gpt-4o-mini\"`, `%{model: ..., api_base: ...}`, " <>
          "`%{callback: name}` or `\"local/nearest-demo\"`; see the guide on language models"
    ],
    budget: [
      type: :map,
      doc:
        "what may be spent on the language model, `%{usd: 1.5, calls: 100, tokens: 50_000}`, any of them"
    ]
  ]

  @streamed [
    stream: [
      type: :boolean,
      doc: "whether the fields come piece by piece before the result, as events of kind `:stream`"
    ]
  ]

  @module [
    module: [
      type: :any,
      doc:
        "the DSPy module for a signature: `:predict`, `:chain_of_thought`, `%{name: :react, max_iters: 5}`, " <>
          "a list of steps... `ErlBridge.Modules` has all, the guide on modules and programs tells more"
    ],
    tools: [
      type: :any,
      doc:
        "the functions that an agent may call: `[%{name: :search, description: \"...\", args: [query: :str], " <>
          "callback: &MyApp.search/1}]`"
    ]
  ]

  @progress [
    on_progress: [
      type: {:function, 1},
      doc: "as `:on_event`, but only for events of the kind `:progress`"
    ]
  ]

  @metric [
    metric: [
      type: :any,
      doc:
        "what an answer is worth: `:exact_match`, `:f1`, `%{fields: %{title: :f1, year: %{tolerance: 1}}}`, " <>
          "`%{judge: \"Is it polite?\"}`, `%{weighted: [%{metric: :f1, weight: 2}, ...]}`..., or a function of the " <>
          "example and the prediction, of three arguments also of the trace, that gives a number, a boolean or " <>
          "`%{score: number, feedback: text}`"
    ]
  ]

  @config [
    config: [
      type: :config,
      default: %{},
      doc: "further settings of the work, as a map or keyword list: `[num_threads: 4]`"
    ]
  ]

  @cached [
    cache: [
      type: :boolean,
      doc:
        "whether the bridge's cache may answer; unless told, it may where no `:callbacks` are given"
    ],
    cache_key: [
      type: :any,
      doc: "a term that tells apart what the cache cannot: the version of a callback's code"
    ],
    refresh: [
      type: :boolean,
      default: false,
      doc: "optimize anew, and put the result into the cache in place of what is there"
    ]
  ]

  @rows [
    dataset_above: [
      type: :limit,
      default: 262_144,
      doc:
        "lists of rows with more bytes than this are sent as a dataset first (`ErlBridge.put_dataset/3`), and so is every lazy stream; `:infinity` to send all lists with the request. From about the default on, a second request with the same rows is faster with a dataset, and from about 5 MB on the first one is too"
    ]
  ]

  @optimize @module ++
              [
                optimizer: [
                  type: :any,
                  doc:
                    "the optimizer, `:bootstrap_few_shot` unless told; `ErlBridge.Optimizers` has all, and the options " <>
                      "that each takes in `:config`"
                ],
                validation_data: [
                  type: :any,
                  doc: "rows, or `%{dataset: id}`, on which candidates are compared"
                ],
                seed: [
                  type: :any,
                  doc:
                    "an integer: another order of the rows and other draws; the same seed gives the same program"
                ],
                prompt_model: [
                  type: :any,
                  doc: "the language model that writes instructions, as `:lm`; that unless told"
                ],
                reflection_lm: [
                  type: :any,
                  doc:
                    "the language model that reads what went wrong, for `:gepa`, as `:lm`; that unless told"
                ],
                teacher: [
                  type: :any,
                  doc:
                    "the language model that makes demonstrations or answers to learn from, as `:lm`; that unless told"
                ]
              ] ++
              @metric ++
              @config ++
              @language_model ++ @rows ++ @progress ++ @call ++ @recovered ++ @cached

  @dataset [
             timeout: [
               type: :timeout,
               default: :infinity,
               doc: "how long the whole transfer may take"
             ],
             compression: [
               type: {:in, [:auto, :none, :zlib, :zstd]},
               default: :auto,
               doc:
                 "how the rows are compressed on their way: `:none`, `:zlib`, `:zstd` (from OTP 28 on); `:auto` is `:none`, which is fastest but for a network of less than about half a gigabit a second"
             ],
             level: [
               type: {:integer, 1..9},
               doc: "how hard to compress; 1 unless told, the fastest"
             ],
             digest: [
               type: {:in, [:auto, :first, :last]},
               default: :auto,
               doc:
                 "`:first` runs through the rows once before they are sent, to learn whether Python has them; `:last` never does; `:auto` does it for a list that looks like one that was sent before"
             ],
             chunk_bytes: [
               type: {:integer, 1_024..16_777_216},
               default: 262_144,
               doc: "how many bytes are sent at a time"
             ],
             window: [
               type: {:integer, 1..256},
               default: 8,
               doc: "how many chunks may be under way at once"
             ],
             keep_alive: [
               type: {:integer, 1..@day},
               default: 60_000,
               doc:
                 "after how many milliseconds without a row Python is told that there will be more; it forgets transfers that are idle"
             ]
           ] ++
             @progress ++
             Keyword.take(@call, [:node, :metadata, :trace]) ++
             Keyword.drop(@recovered, [:fallback, :idempotent])

  @cache [
    name: [type: :name, doc: "the name to register the cache under"],
    ttl: [
      type: :lifetime,
      default: 3_600_000,
      doc: "how long a result is kept; one that is older is never given"
    ],
    max_entries: [
      type: :pos_integer,
      default: 1_000,
      doc: "how many results are kept; the least recently used one goes first"
    ],
    max_bytes: [
      type: :pos_integer,
      default: 268_435_456,
      doc: "how many bytes of external term format all results together may have"
    ],
    file: [
      type: :string,
      doc: "the file that keeps the results over a restart; one cache of one node may have it"
    ],
    on_event: [
      type: {:function, 3},
      doc: "called with each event of the cache, its measurements and its metadata"
    ]
  ]

  @cache_put [
    ttl: [type: :lifetime, doc: "how long this result is kept; the cache's `:ttl` unless told"]
  ]

  @cache_fetch [
                 timeout: [
                   type: :timeout,
                   default: :infinity,
                   doc: "how long to wait for the computation of another caller"
                 ],
                 refresh: [
                   type: :boolean,
                   default: false,
                   doc: "compute anew, and replace what is there"
                 ]
               ] ++ @cache_put

  @data_file [
    python: Keyword.fetch!(@start, :python),
    format: [
      type: {:in, [:yaml, :json, :jsonl, :csv]},
      doc: "the format of a file whose name does not end in it"
    ],
    max_file: [
      type: :pos_integer,
      doc: "the most bytes that a YAML or JSON file may have; 64 MiB unless told"
    ],
    max_row: [
      type: :pos_integer,
      doc: "the most bytes that a row of another file may have; 16 MiB unless told"
    ],
    timeout: [
      type: :timeout,
      default: 60_000,
      doc: "how long Python may take for a document or for the next batch of rows"
    ]
  ]

  @optimization [
    enabled: [
      type: :boolean,
      default: true,
      doc: "whether steps that have training data are optimized"
    ],
    strategy: [
      type: {:in, Enum.map(ErlBridge.Optimizers.names(), &Atom.to_string/1)},
      default: "bootstrap_few_shot",
      doc: "the optimizer of steps that name none"
    ],
    max_demos: [type: :pos_integer, doc: "how many answers of the model become demonstrations"],
    max_labeled_demos: [type: :pos_integer, doc: "how many demonstrations there are in all"],
    num_candidates: [type: :pos_integer, doc: "how many programs a random search compares"],
    num_threads: [type: {:integer, 1..256}, doc: "how many rows are worked on at once"],
    seed: [type: :non_neg_integer, doc: "shuffles the training data"]
  ]

  @config_options [
    bridge: [
      type: {:options, :start},
      default: [],
      doc: "options of the bridge, as `ErlBridge.start_link/1` takes them"
    ],
    cache_ttl: [
      type: :lifetime,
      doc: "how many milliseconds the bridge's cache keeps an optimized program"
    ],
    optimization: [
      type: {:options, :optimization},
      default: [],
      doc: "settings of the optimization"
    ],
    lm: [type: :any, doc: "the language model of steps that name none"],
    dir: [
      type: :string,
      doc: "the folder that files of rows are relative to; that of the YAML file unless told"
    ]
  ]

  @pipeline [
    inputs: [
      type: :map,
      default: %{},
      doc: "what steps refer to as `$inputs.name`, by name (an atom or a string)"
    ],
    handlers: [
      type: :handlers,
      default: %{},
      doc:
        "what does the steps of a type: `%{\"type\" => fun_or_module}`, `ErlBridge.Pipeline.Handler`"
    ],
    bridge: [type: :any, doc: "a running bridge; without it one is started for the pipeline"],
    callbacks: Keyword.fetch!(@call, :callbacks),
    cache_key: Keyword.fetch!(@cached, :cache_key),
    optimize_timeout: [
      type: :timeout,
      default: :infinity,
      doc: "how long the optimization of one step may take"
    ],
    config: [
      type: {:options, :config},
      default: [],
      doc: "the options of `ErlBridge.Config.load/2`, where a file or a map is given"
    ]
  ]

  @provider [
    bridge: [type: :any, doc: "the running bridge that is asked; must be given"],
    fallback: [
      type: :module,
      doc: "the provider that answers when DSPy is not asked for or fails"
    ],
    callbacks: Keyword.fetch!(@call, :callbacks),
    cache_key: Keyword.fetch!(@cached, :cache_key),
    optimize_timeout: Keyword.fetch!(@pipeline, :optimize_timeout),
    lm: [type: :any, doc: "the language model of queries that name none"]
  ]

  @program_put [
    keep: [
      type: :pos_integer,
      doc:
        "how many versions are kept; the oldest ones go, but never the current one. All unless told"
    ]
  ]

  @program_versions [
    safe: [
      type: :boolean,
      default: true,
      doc: "refuse a file with atoms that this node does not know yet"
    ]
  ]

  @program_get [
                 version: [type: :pos_integer, doc: "another version than the current one"]
               ] ++ @program_versions

  @program_rollback [
    to: [
      type: :pos_integer,
      doc: "the version to go to; the one before the current one unless told"
    ]
  ]

  @program_load @program_versions ++
                  [
                    max_bytes: [
                      type: :pos_integer,
                      default: 67_108_864,
                      doc: "how large the file may be"
                    ]
                  ]

  @cluster [
             name: [
               type: :atom,
               doc: "the name of the cluster, the same on all of its nodes; must be given"
             ],
             bridge: [
               type: :name,
               doc:
                 "the name of this node's bridge, which all nodes use; without it this node only uses others"
             ],
             nodes: [
               type: :atoms,
               default: [],
               doc:
                 "the nodes of Elixir to connect to, and again whenever the connection is lost: `[:\"app@10.0.0.5\"]`; this one may be among them"
             ],
             python_nodes: [
               type: :atoms,
               default: [],
               doc: "the nodes that are Python: `[:\"py1@10.0.0.7\"]`"
             ],
             prefer_local: [
               type: :non_neg_integer,
               default: 4,
               doc:
                 "how many requests for each worker the own bridge may have more than another node before that is taken"
             ],
             load_interval: [
               type: {:integer, 10..@day},
               default: 1_000,
               doc: "how often in milliseconds each other node is asked how much it has to do"
             ],
             silent_after: [
               type: {:integer, 10..@day},
               default: 2_000,
               doc:
                 "after how many milliseconds without an answer to that a node comes after all others"
             ],
             reconnect: [
               type: {:bounds, 1..@day},
               default: [min: 500, max: 30_000],
               doc:
                 "the pause before a node that is away is tried again, in milliseconds: `:min`, then twice that, up to `:max`"
             ],
             max_in_flight: [
               type: :pos_integer,
               default: 1_024,
               doc: "how many requests from here each other node may have at once"
             ],
             shutdown_timeout: [
               type: {:integer, 1..@day},
               default: 5_000,
               doc:
                 "how many milliseconds requests of other nodes get to finish when this one leaves"
             ],
             max_frame: [
               type: :pos_integer,
               default: 64 * 1024 * 1024,
               doc: "the largest request in bytes"
             ]
           ] ++
             Keyword.take(@start, [:timeout, :max_bytes_in_flight, :retry_budget, :cache]) ++
             @retries

  @schemas %{
    start: @start ++ @retries,
    call: @call ++ @recovered,
    async: @call,
    cast: Keyword.take(@call, [:timeout, :session, :node, :metadata, :trace]),
    stream: Keyword.delete(@call, :on_event),
    optimize: @optimize,
    train:
      [
        method: [
          type: {:in, [:few_shot, :fine_tune]},
          doc:
            "how to learn: `:few_shot`, from rows as examples, or `:fine_tune`, which teaches the language model itself"
        ]
      ] ++
        @optimize,
    evaluate:
      @module ++
        @metric ++ @config ++ @language_model ++ @rows ++ @progress ++ @call ++ @recovered,
    predict: @module ++ @config ++ @language_model ++ @streamed ++ @call ++ @recovered,
    recovery: @recovery,
    retry_budget: @retry_budget,
    circuit_breaker: @circuit_breaker,
    cache: @cache,
    connect: @connect,
    cache_fetch: @cache_fetch,
    cache_put: @cache_put,
    data_file: @data_file,
    config: @config_options,
    optimization: @optimization,
    pipeline: @pipeline,
    provider: @provider,
    program_load: @program_load,
    program_put: @program_put,
    program_versions: @program_versions,
    program_get: @program_get,
    program_rollback: @program_rollback,
    dataset: @dataset,
    cluster: @cluster
  }

  # Made once: each request asks for them, and most give few options or none.
  @defaults Map.new(@schemas, fn {schema, fields} ->
              defaults =
                for {name, field} <- fields, {:ok, value} <- [Keyword.fetch(field, :default)] do
                  {name, value}
                end

              {schema, Map.new(defaults)}
            end)

  @doc """
  The options as a map, with the defaults filled in.

  Raises `ArgumentError` that names the option at fault, what was expected and what came.
  """
  @spec validate!(keyword, schema) :: map
  def validate!([], schema), do: Map.fetch!(@defaults, schema)

  def validate!(options, schema) do
    fields = Map.fetch!(@schemas, schema)

    if not Keyword.keyword?(options) do
      raise ArgumentError, "expected options as a keyword list, got: #{inspect(options)}"
    end

    Enum.each(options, &check!(&1, fields))
    Map.merge(Map.fetch!(@defaults, schema), Map.new(options))
  end

  @doc """
  Whether a value is right for an option: `:ok`, or what was expected.

      iex> ErlBridge.Options.check(:start, :pool_size, 0)
      {:error, "a positive integer"}
  """
  @spec check(schema, atom, term) :: :ok | {:error, String.t()}
  def check(schema, name, value) do
    type = @schemas |> Map.fetch!(schema) |> Keyword.fetch!(name) |> Keyword.fetch!(:type)
    if valid?(type, value), do: :ok, else: {:error, expected(type)}
  end

  @doc """
  The name that is meant, where one of them is like enough.

      iex> ErlBridge.Options.nearest("pool_sise", ["pool_size", "timeout"])
      "pool_size"
  """
  @spec nearest(name, [name]) :: name | nil when name: atom | String.t()
  def nearest(name, names) do
    likeness = &String.jaro_distance(to_string(name), to_string(&1))

    # Likeness alone is not the same in each Elixir, and takes :sart_timeout for :health_timeout.
    names
    |> Enum.filter(&(likeness.(&1) >= @alike))
    |> Enum.min_by(&{edits(to_string(name), to_string(&1)), -likeness.(&1)}, fn -> nil end)
  end

  # So many letters to take away or to put in.
  defp edits(one, other) do
    for {kind, letters} when kind != :eq <- String.myers_difference(one, other), reduce: 0 do
      count -> count + String.length(letters)
    end
  end

  @doc "The names of a schema's options."
  @spec names(schema) :: [atom]
  def names(schema), do: Keyword.keys(Map.fetch!(@schemas, schema))

  @doc "The options of a schema as a Markdown list."
  @spec docs(schema) :: String.t()
  def docs(schema) do
    Enum.map_join(Map.fetch!(@schemas, schema), "\n", fn {name, field} ->
      "  * `:#{name}` (#{expected(field[:type])}) - #{field[:doc]}#{default(field)}"
    end)
  end

  defp default(field) do
    case Keyword.fetch(field, :default) do
      {:ok, value} when value not in [[], %{}] -> ". Default: `#{inspect(value)}`"
      _none_worth_a_word -> ""
    end
  end

  defp check!({name, value}, fields) do
    case Keyword.fetch(fields, name) do
      {:ok, field} -> valid_in?(name, field[:type], value) || wrong!(name, field[:type], value)
      :error -> unknown!(name, Keyword.keys(fields))
    end
  end

  # What is wrong in the options of an option is said with its name.
  defp valid_in?(name, type, value) do
    valid?(type, value)
  rescue
    error in ArgumentError ->
      reraise ArgumentError, "in #{inspect(name)}: " <> Exception.message(error), __STACKTRACE__
  end

  defp wrong!(name, type, value) do
    raise ArgumentError,
          "expected #{inspect(name)} to be #{expected(type)}, got: #{inspect(value)}"
  end

  defp unknown!(name, names) do
    hint =
      case nearest(name, names) do
        nil -> ""
        near -> ", did you mean #{inspect(near)}?"
      end

    raise ArgumentError,
          "unknown option #{inspect(name)}#{hint}#{if hint == "", do: "."} #{available(names)}"
  end

  defp available([name]), do: "The option is #{inspect(name)}"

  defp available(names) do
    {last, others} = List.pop_at(Enum.map(names, &inspect/1), -1)
    "The options are #{Enum.join(others, ", ")} and #{last}"
  end

  defp valid?(:any, _value), do: true
  # What goes to another program ends at a null byte.
  defp valid?(:string, value), do: is_binary(value) and not String.contains?(value, <<0>>)
  defp valid?(:strings, value), do: is_list(value) and Enum.all?(value, &valid?(:string, &1))
  defp valid?(:atom, value), do: is_atom(value)
  defp valid?(:atoms, value), do: is_list(value) and Enum.all?(value, &is_atom/1)
  defp valid?(:boolean, value), do: is_boolean(value)
  defp valid?(:pos_integer, value), do: is_integer(value) and value > 0
  defp valid?(:non_neg_integer, value), do: is_integer(value) and value >= 0
  defp valid?({:integer, range}, value), do: is_integer(value) and value in range
  defp valid?(:share, value), do: is_number(value) and value >= 0 and value <= 1
  defp valid?(:limit, value), do: value == :infinity or valid?(:pos_integer, value)
  defp valid?(:timeout, value), do: value == :infinity or valid?({:integer, 1..@longest}, value)
  defp valid?(:lifetime, value), do: value == :infinity or valid?(:pos_integer, value)
  defp valid?(:map, value), do: is_map(value)
  defp valid?(:config, value), do: is_map(value) or Keyword.keyword?(value)
  defp valid?({:in, values}, value), do: value in values
  defp valid?({:function, arity}, value), do: is_function(value, arity)

  defp valid?({:bounds, range}, value) do
    Keyword.keyword?(value) and Enum.sort(Keyword.keys(value)) == [:max, :min] and
      Enum.all?(Keyword.values(value), &valid?({:integer, range}, &1)) and
      value[:min] <= value[:max]
  end

  defp valid?(:name, {:global, _name}), do: true
  defp valid?(:name, {:via, module, _name}), do: is_atom(module)
  defp valid?(:name, value), do: is_atom(value)

  defp valid?(:env, env) do
    (is_list(env) or is_map(env)) and
      Enum.all?(
        env,
        fn
          {name, value} -> variable?(name) and (value == false or valid?(:string, value))
          _no_pair -> false
        end
      )
  end

  # One that is not there would be missed only when it is needed.
  defp valid?(:fallback, nil), do: true

  defp valid?(:fallback, value) do
    is_function(value, 1) or
      (is_atom(value) and Code.ensure_loaded?(value) and function_exported?(value, :fallback, 2))
  end

  defp valid?({:options_or_false, _schema}, false), do: true
  defp valid?({:options_or_false, schema}, value), do: valid?({:options, schema}, value)

  # Names the option that is wrong in it.
  defp valid?({:options, schema}, value),
    do: Keyword.keyword?(value) and is_map(validate!(value, schema))

  defp valid?(:callbacks, callbacks) do
    is_map(callbacks) and
      Enum.all?(callbacks, fn {name, fun} ->
        (is_atom(name) or is_binary(name)) and is_function(fun)
      end)
  end

  defp valid?(:module, value), do: is_atom(value)

  defp valid?(:handlers, handlers) do
    is_map(handlers) and
      Enum.all?(handlers, fn {type, handler} ->
        is_binary(type) and (is_function(handler, 2) or is_atom(handler))
      end)
  end

  defp variable?(name),
    do: valid?(:string, name) and name != "" and not String.contains?(name, "=")

  defp expected(:any), do: "any term"
  defp expected(:string), do: "a string"
  defp expected(:strings), do: "a list of strings"
  defp expected(:atom), do: "an atom"
  defp expected(:atoms), do: "a list of atoms"
  defp expected(:boolean), do: "true or false"
  defp expected(:pos_integer), do: "a positive integer"
  defp expected(:non_neg_integer), do: "a whole number, 0 or more"
  defp expected({:integer, first..last//_step}), do: "an integer from #{first} to #{last}"
  defp expected(:share), do: "a number from 0 to 1"

  defp expected({:bounds, first..last//_step}),
    do: "[min: m, max: n], integers from #{first} to #{last}, the first not above the second"

  defp expected(:timeout), do: "milliseconds, an integer from 1 to #{@longest}, or :infinity"
  defp expected(:lifetime), do: "a positive integer (milliseconds) or :infinity"
  defp expected(:limit), do: "a positive integer or :infinity"
  defp expected(:map), do: "a map"
  defp expected(:config), do: "a map or a keyword list"
  defp expected({:in, values}), do: "one of #{Enum.map_join(values, ", ", &inspect/1)}"
  defp expected({:function, 1}), do: "a function of 1 argument"
  defp expected({:function, arity}), do: "a function of #{arity} arguments"
  defp expected(:name), do: "an atom, {:global, term} or {:via, module, term}"
  defp expected(:env), do: "a list or map of strings to strings or false"
  defp expected(:fallback), do: "a function of 1 argument or a module with fallback/2"
  defp expected({:options, _schema}), do: "a keyword list of its options"
  defp expected({:options_or_false, _schema}), do: "a keyword list of its options, or false"
  defp expected(:module), do: "a module"
  defp expected(:handlers), do: "a map of strings to functions of 2 arguments or modules"
  defp expected(:callbacks), do: "a map of atoms or strings to functions"
end
