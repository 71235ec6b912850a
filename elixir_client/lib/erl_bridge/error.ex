defmodule ErlBridge.Error do
  @moduledoc """
  The one error of this library: what a server answered with, or what this side found out about
  the server.

    * `:type` - what happened; the types of the protocol, and `:not_running` when there is no
      bridge to ask
    * `:message` - a whole sentence for people
    * `:python_type`, `:traceback` - the exception in Python, where there was one
    * `:context` - a map of terms for programs: `:path`, `:best` (the best result so far),
      `:exit_status`, `:stderr`... `sent: false` says that Python never got the request, which may
      be repeated therefore
    * `:strategy` - what to do about it: `:retry`, `:fallback`, `:restart_process` or `:fatal`
    * `:retry_after_ms` - how long to wait before a retry, where somebody said so

  These types are made on this side:

    * `:process_crashed` - Python died; its exit status and last lines of stderr are in the context
    * `:timeout_error` - no answer in time, also where Python itself did not say so
    * `:not_running` - there is no bridge, or none of its Pythons is up
    * `:pool_exhausted` - no worker had room in time, or too many requests wait for it
    * `:circuit_open` - the bridge's `ErlBridge.CircuitBreaker` lets no request pass
    * `:setup_error` - the Python side is not, or not rightly, installed

      iex> error = ErlBridge.Error.from_wire(%{error_type: :lm_error, message: "slow down", recovery_strategy: :retry})
      iex> {error.type, error.strategy, Exception.message(error)}
      {:lm_error, :retry, "lm_error: slow down"}
  """

  @type strategy :: :retry | :fallback | :restart_process | :fatal

  @type t :: %__MODULE__{
          type: atom,
          message: String.t(),
          python_type: String.t() | nil,
          traceback: String.t() | nil,
          context: map,
          strategy: strategy,
          retry_after_ms: non_neg_integer | nil
        }

  defexception [
    :type,
    :message,
    :python_type,
    :traceback,
    :retry_after_ms,
    context: %{},
    strategy: :fatal
  ]

  @impl true
  def message(%__MODULE__{python_type: nil} = error), do: "#{error.type}: #{error.message}"

  def message(%__MODULE__{} = error),
    do: "#{error.type} (#{error.python_type}): #{error.message}"

  @doc "The error that an error map of the protocol is."
  @spec from_wire(term) :: t
  def from_wire(%{error_type: type, message: message} = map)
      when is_atom(type) and is_binary(message) do
    %__MODULE__{
      type: type,
      message: message,
      python_type: map[:python_type],
      traceback: map[:traceback],
      context: map[:context] || %{},
      strategy: map[:recovery_strategy] || :fatal,
      retry_after_ms: map[:retry_after_ms]
    }
  end

  def from_wire(other), do: unreadable("expected an error map, got: #{inspect(other, limit: 20)}")

  @doc "Python ended by itself, with this exit status (`nil` if unknown) and these last lines of stderr."
  @spec crashed(pos_integer | nil, non_neg_integer | nil, [String.t()]) :: t
  def crashed(os_pid, status, stderr) do
    %__MODULE__{
      type: :process_crashed,
      message: "Python#{process(os_pid)} #{ending(status)}#{last_words(stderr)}",
      context: %{os_pid: os_pid, exit_status: status, stderr: stderr},
      strategy: :restart_process
    }
  end

  # It may have ended before anybody could ask.
  defp process(nil), do: ""
  defp process(os_pid), do: " (OS process #{os_pid})"

  @doc "A connection to a server ended under a request, or could not be made (`sent: false`)."
  @spec disconnected(String.t(), term, map) :: t
  def disconnected(server, reason, context \\ %{}) do
    %__MODULE__{
      type: :process_crashed,
      message: "the connection to #{server} #{reason}",
      context: context,
      strategy: :restart_process
    }
  end

  @doc "Python could not be started at all."
  @spec not_started(String.t()) :: t
  def not_started(why) do
    %__MODULE__{type: :process_crashed, message: why, strategy: :restart_process}
  end

  @doc "The worker of a request ended, and not because Python did."
  @spec worker_ended(term, pid) :: t
  def worker_ended(reason, worker) do
    %__MODULE__{
      type: :process_crashed,
      message: "the worker ended: #{Exception.format_exit(reason)}",
      context: %{worker: worker},
      strategy: :restart_process
    }
  end

  @doc "So many callers wait for room on a worker already."
  @spec queue_full(pos_integer) :: t
  def queue_full(limit) do
    %__MODULE__{
      type: :pool_exhausted,
      message: "#{limit} requests wait for a worker, which is the limit (:max_queue)",
      context: %{limit: limit, sent: false},
      strategy: :retry
    }
  end

  @doc "No worker had room within `waited` ms."
  @spec pool_exhausted(non_neg_integer) :: t
  def pool_exhausted(waited) do
    %__MODULE__{
      type: :pool_exhausted,
      message:
        "no worker had room within #{waited} ms (:max_in_flight, :pool_size, :queue_timeout)",
      context: %{waited_ms: waited, sent: false},
      strategy: :retry
    }
  end

  @doc "No worker was up within `waited` ms; the last of them ended with this error."
  @spec none_up(term, non_neg_integer, t | nil) :: t
  def none_up(bridge, waited, last_error) do
    why = if last_error, do: ": " <> last_error.message, else: ""

    %__MODULE__{
      type: :not_running,
      message: "#{inspect(bridge)} had no Python running within #{waited} ms#{why}",
      context: %{waited_ms: waited, sent: false},
      strategy: :retry
    }
  end

  @doc "The other node, or what served requests there, went away before it had an answer."
  @spec node_lost(node, term) :: t
  def node_lost(node, reason) do
    %__MODULE__{
      type: :process_crashed,
      message: "#{node} went away: #{inspect(reason, limit: 20)}",
      context: %{node: node, reason: reason},
      strategy: :restart_process
    }
  end

  @doc "No node of a cluster can take the request; `nodes` are those there are, and how they are."
  @spec no_node(term, %{optional(node) => atom}) :: t
  def no_node(cluster, nodes) do
    %__MODULE__{
      type: :not_running,
      message: "#{inspect(cluster)} has no node that could take this: #{inspect(nodes)}",
      context: %{nodes: nodes, sent: false},
      strategy: :retry
    }
  end

  @doc "Each of the nodes of a cluster that are up has as much from here as it may have."
  @spec nodes_full(term, [node]) :: t
  def nodes_full(cluster, nodes) do
    %__MODULE__{
      type: :overloaded,
      message: "no node of #{inspect(cluster)} has room (:max_in_flight): #{inspect(nodes)}",
      context: %{nodes: nodes, sent: false},
      strategy: :retry
    }
  end

  @doc "What is asked for is a matter of one bridge."
  @spec is_cluster(term) :: t
  def is_cluster(cluster),
    do: invalid("#{inspect(cluster)} is a cluster; ask one of its bridges for this", %{})

  @doc "What was asked for waits for something else to end."
  @spec busy(String.t()) :: t
  def busy(why), do: %__MODULE__{type: :overloaded, message: why, strategy: :retry}

  @doc "The request was cancelled before it was sent."
  @spec cancelled() :: t
  def cancelled, do: %__MODULE__{type: :cancelled, message: "cancelled before it was sent"}

  @doc "Python did not say hello within `timeout` ms of its start."
  @spec no_hello(timeout, [String.t()]) :: t
  def no_hello(timeout, stderr) do
    %__MODULE__{
      type: :timeout_error,
      message: "Python did not say hello within #{timeout} ms#{last_words(stderr)}",
      context: %{stderr: stderr},
      strategy: :restart_process
    }
  end

  @doc "No answer came within the `timeout` ms of the request."
  @spec timed_out(non_neg_integer) :: t
  def timed_out(timeout) do
    %__MODULE__{
      type: :timeout_error,
      message: "no answer within #{timeout} ms",
      strategy: :retry
    }
  end

  @doc "There is no bridge under that name or pid, or it ended before the request was sent."
  @spec not_running(term) :: t
  def not_running(bridge) do
    %__MODULE__{
      type: :not_running,
      message: "no bridge is running as #{inspect(bridge)}",
      context: %{sent: false},
      strategy: :retry
    }
  end

  @doc "The bridge, or the worker of the request, was stopped before it had an answer."
  @spec stopped(term) :: t
  def stopped(bridge) do
    %__MODULE__{
      type: :not_running,
      message:
        "#{inspect(bridge)}, or the worker of this request, was stopped before it answered",
      strategy: :retry
    }
  end

  @doc "What was given does not fit; `context` is for programs: `:path`, `:expected`, `:got`."
  @spec invalid(String.t(), map) :: t
  def invalid(message, context),
    do: %__MODULE__{type: :invalid_request, message: message, context: context}

  @doc "Python has no dataset of that id."
  @spec no_dataset(String.t()) :: t
  def no_dataset(id) do
    message = "there is no dataset #{id}; it was never sent, or gave way to others"
    invalid(message, %{path: "dataset_id", dataset_id: id})
  end

  @doc "A function or a module of the user's failed, or gave what it must not."
  @spec callback_failed(String.t()) :: t
  def callback_failed(why), do: %__MODULE__{type: :callback_error, message: why}

  @doc "Another request with this id is in flight."
  @spec duplicate_id(term) :: t
  def duplicate_id(id) do
    %__MODULE__{
      type: :invalid_request,
      message: "id: a request with the id #{inspect(id)} is in flight already"
    }
  end

  @doc "So many bytes are more than a frame may have."
  @spec too_large(pos_integer, pos_integer) :: t
  def too_large(bytes, limit) do
    %__MODULE__{
      type: :serialization_error,
      message: "#{bytes} bytes are more than the #{limit} that a frame may have (:max_frame)",
      context: %{frame_bytes: bytes, limit: limit}
    }
  end

  @doc "The Python side is not as it must be; `cure` is what to do about it."
  @spec setup(String.t(), String.t()) :: t
  def setup(what, cure), do: %__MODULE__{type: :setup_error, message: "#{what}; #{cure}"}

  @doc "The bridge was started with `cache: false`."
  @spec no_cache(term) :: t
  def no_cache(bridge) do
    %__MODULE__{
      type: :invalid_request,
      message: "#{inspect(bridge)} has no cache; it was started with cache: false"
    }
  end

  @doc "The caller of a stream ran it no further."
  @spec abandoned() :: t
  def abandoned, do: %__MODULE__{type: :cancelled, message: "nobody waits for it any more"}

  @doc "Something came that this side cannot read."
  @spec unreadable(String.t()) :: t
  def unreadable(why), do: %__MODULE__{type: :serialization_error, message: why}

  # What a shell makes of a death by signal: 128 and the signal's number.
  defp ending(nil), do: "closed its input and output"
  defp ending(status) when status > 128, do: "was killed by signal #{status - 128}"
  defp ending(status), do: "ended with exit status #{status}"

  defp last_words([]), do: ""
  defp last_words(lines), do: "; its last words: " <> List.last(lines)
end
