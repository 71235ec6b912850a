defmodule ErlBridge.Telemetry.Events do
  @moduledoc """
  The table of all events: their names, measurements and metadata. The functions of
  `ErlBridge.Telemetry`, the log lines, the metrics and the guide all come from it.

      iex> ErlBridge.Telemetry.Events.fetch!([:erl_bridge, :cache, :hit]).function
      :cache_hit
  """

  @prefix :erl_bridge

  @typedoc "What a number counts. `:native` is a duration in native time units, as of `System.monotonic_time/0`."
  @type unit :: :native | :time | :byte | :usd | :count | :value

  @typedoc "A line of the table. `level` is that of a log line where nothing failed."
  @type t :: %{
          name: [atom],
          function: atom,
          doc: String.t(),
          level: :debug | :info | :warning | :error,
          measurements: [{atom, unit, String.t()}],
          metadata: [{atom, String.t()}]
        }

  @bridge {:bridge, "the bridge: its name or pid"}
  @cluster {:bridge, "the name of the cluster"}
  @node {:node, "the other node"}
  @python_node {:node, "the node of the Python"}
  @kind {:kind, "`:bridge`, or `:python` for a node that is Python itself"}
  @worker {:worker, "the pid of the worker"}
  @request_type {:request_type, "the request type, an atom"}
  @id {:id, "the id of the request for `ErlBridge.cancel/2`"}
  @traceparent {:traceparent, "the W3C `traceparent` that went along, if any"}
  @error {:error, "the `ErlBridge.Error`, `nil` if there is none"}
  @result {:result, "`:ok` or `:error`"}
  @attempt {:attempt, "the number of the attempt, from 1"}
  @key {:key, "a hash of the request"}
  @transfer {:transfer, "the id of the transfer"}

  @duration {:duration, :native, "from start to end"}
  @system_time {:system_time, :time, "`System.system_time/0` at the start"}
  @monotonic_time {:monotonic_time, :time, "`System.monotonic_time/0` then"}
  @bytes {:bytes, :byte, "bytes moved"}
  @size {:bytes, :byte, "of the result"}
  @rows {:rows, :count, "rows moved"}
  @length {:length, :count, "requests that wait"}
  @count {:count, :count, "always 1"}
  @exception [
    kind: "`:error`, `:exit` or `:throw`",
    reason: "what was raised, exited with or thrown",
    stacktrace: "where"
  ]

  # name, level, meaning, measurements, metadata
  @rows_of_table [
    {[:request, :start], :debug, "A request is sent off.", [@system_time, @monotonic_time],
     [@bridge, @request_type, @id, @traceparent]},
    {[:request, :stop], :debug, "A request has its result, of either kind.",
     [
       @duration,
       {:queue_time, :native, "waiting for a worker that is free"},
       {:encode_time, :native, "writing the request as a term"},
       {:python_time, :native, "from the pipe to Python until the reply is out of the pipe"},
       {:decode_time, :native, "reading the reply's term"},
       {:bytes_out, :byte, "the frame of the request"},
       {:bytes_in, :byte, "the frame of the reply"}
     ],
     [
       @bridge,
       @worker,
       @python_node,
       @request_type,
       @id,
       @result,
       @error,
       @attempt,
       @traceparent
     ]},
    {[:request, :exception], :error, "A function of the caller raised during a request.",
     [@duration, @monotonic_time],
     [@bridge, @worker, @python_node, @request_type, @id, @attempt, @traceparent] ++ @exception},
    {[:worker, :up], :info, "A Python has said hello.",
     [{:start_time, :native, "from the start of the OS process to hello"}],
     [
       @bridge,
       @worker,
       {:os_pid, "its OS process"},
       {:version, "the bridge's version"},
       {:python, "Python's version"}
     ]},
    {[:worker, :down], :info, "A Python has ended.", [{:uptime, :native, "since hello"}],
     [
       @bridge,
       @worker,
       {:os_pid, "its OS process"},
       {:reason, "`:normal`, `:shutdown` or the `ErlBridge.Error`"},
       {:exit_status, "its exit status, `nil` if unknown"}
     ]},
    {[:worker, :restart], :warning, "A worker is to be started anew.",
     [{:delay, :native, "until then"}], [@bridge, @attempt]},
    {[:cluster, :node_up], :info, "Another node of a cluster has answered.", [@count],
     [@cluster, @node, @kind]},
    {[:cluster, :node_down], :warning, "Another node of a cluster went away.", [@count],
     [@cluster, @node, @kind, {:reason, "why, as of `Process.monitor/1`"}]},
    {[:pool, :queue], :debug, "The queue of a pool has changed.", [@length], [@bridge]},
    {[:pool, :exhausted], :warning, "A request was refused: the queue is full.", [@length],
     [@bridge]},
    {[:pool, :resize], :info, "A pool has another size.",
     [{:size, :count, "workers now"}, {:previous, :count, "workers before"}],
     [@bridge, {:reason, "why"}]},
    {[:health, :check], :debug, "A worker was asked how it is.",
     [{:latency, :native, "until it answered"}], [@bridge, @worker, @result, @error]},
    {[:cache, :hit], :debug, "A result came from the cache.", [@count, @size], [@bridge, @key]},
    {[:cache, :miss], :debug, "A result was not in the cache.", [@count], [@bridge, @key]},
    {[:cache, :wait], :debug, "A request waited for the result of an equal one.",
     [@count, {:duration, :native, "how long"}, @size], [@bridge, @key]},
    {[:cache, :put], :debug, "A result was put into the cache.", [@count, @size],
     [@bridge, @key]},
    {[:cache, :evict], :debug, "A result gave way to others.", [@count, @size], [@bridge, @key]},
    {[:cache, :expire], :debug, "A result was too old.", [@count, @size], [@bridge, @key]},
    {[:retry], :info, "A request that failed is to be sent again.",
     [{:delay, :native, "until then"}], [@bridge, @request_type, @attempt, @error]},
    {[:fallback], :warning, "Something else stands in for a result.", [@count],
     [@bridge, @request_type, @error]},
    {[:breaker, :change], :warning, "A circuit breaker has another state.", [@count],
     [@bridge, {:from, "`:closed`, `:open` or `:half_open`"}, {:to, "likewise"}]},
    {[:callback, :stop], :debug, "A function that Python called has ended.", [@duration],
     [@bridge, {:name, "the name of the function"}, @result]},
    {[:transfer, :start], :debug, "A dataset begins to move.", [@system_time, @monotonic_time],
     [@bridge, @transfer]},
    {[:transfer, :chunk], :debug, "A part of a dataset has moved.", [@duration, @bytes, @rows],
     [@bridge, @transfer]},
    {[:transfer, :stop], :info, "A dataset has moved, or nothing where Python had it already.",
     [@duration, @bytes, @rows],
     [@bridge, @transfer, @result, @error, {:dataset_id, "the id of the dataset, `nil` if none"}]},
    {[:transfer, :exception], :error, "A transfer raised.", [@duration, @monotonic_time],
     [@bridge, @transfer] ++ @exception},
    {[:lm, :usage], :debug, "A prediction or an evaluation says what its language model took.",
     [
       {:lm_calls, :count, "calls of the language model"},
       {:lm_errors, :count, "calls that failed"},
       {:lm_retries, :count, "of these, how many were tried again"},
       {:prompt_tokens, :count, "tokens sent"},
       {:completion_tokens, :count, "tokens received"},
       {:cost_usd, :usd, "what the calls cost; absent where a price is unknown"},
       {:cache_hits, :count, "answers that were known already"}
     ],
     [
       @bridge,
       @request_type,
       {:errors_by_kind, "how many calls failed by what the error is called, a map"}
     ]},
    {[:optimization, :stop], :info, "DSPy has optimized a signature.",
     [
       @duration,
       {:accuracy, :value, "the score of the program, 0.0 to 1.0 for the built-in metrics"},
       {:baseline, :value, "the score before"},
       {:cost_usd, :usd, "what the model's calls cost; absent where a price is unknown"},
       {:lm_calls, :count, "calls of the language model"},
       {:prompt_tokens, :count, "tokens sent"},
       {:completion_tokens, :count, "tokens received"},
       {:cache_hits, :count, "answers that were known already"}
     ],
     [
       @bridge,
       {:optimizer, "its name"},
       {:signature_hash, "of the fields and instructions of the program's signature"}
     ]}
  ]

  @events for {path, level, doc, measurements, metadata} <- @rows_of_table,
              do: %{
                name: [@prefix | path],
                function: path |> Enum.join("_") |> String.to_atom(),
                level: level,
                doc: doc,
                measurements: measurements,
                metadata: metadata
              }

  @by_name Map.new(@events, &{&1.name, &1})

  @doc "All events, in the order of the guide."
  @spec all() :: [t]
  def all, do: @events

  @doc "The event of that name. Raises `ArgumentError` with the names there are."
  @spec fetch!([atom]) :: t
  def fetch!(name) do
    case @by_name do
      %{^name => event} ->
        event

      _unknown ->
        raise ArgumentError,
              "unknown event #{inspect(name)}; the events are " <>
                Enum.map_join(@events, ", ", &inspect(&1.name))
    end
  end

  @doc "The table of events in Markdown."
  @spec markdown() :: String.t()
  def markdown do
    head = "| event | when | measurements | metadata |\n|---|---|---|---|\n"
    head <> Enum.map_join(@events, "\n", &line/1)
  end

  defp line(event) do
    measurements =
      Enum.map_join(event.measurements, "<br>", fn {name, unit, doc} ->
        "`#{name}` (#{unit(unit)}): #{doc}"
      end)

    metadata = Enum.map_join(event.metadata, "<br>", fn {name, doc} -> "`#{name}`: #{doc}" end)
    "| `#{inspect(event.name)}` | #{event.doc} | #{measurements} | #{metadata} |"
  end

  defp unit(unit) when unit in [:native, :time], do: "native time"
  defp unit(:byte), do: "bytes"
  defp unit(:usd), do: "US dollars"
  defp unit(_number), do: "number"
end
