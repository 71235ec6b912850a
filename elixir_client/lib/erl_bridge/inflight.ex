defmodule ErlBridge.Inflight do
  @moduledoc """
  What a worker has under way, as a value: requests that wait for their reply, the processes that
  wait for them, and callbacks that run for them.

  A request lives from `add/2` to `finish/2`, which is when its one final reply has come. In
  between its caller may lose interest (`abandon/2`): then nobody waits, but the id stays taken
  until Python has answered, so that no reply can ever be mistaken for another's.

  Each caller is under one monitor of the calling process, also for a while after its last reply, since
  the next request of most is not far: a monitor for each request would wake its caller once more, and be
  two signals. `forget_idle/1` ends these, and `add/2` does it by itself when there are many.

      iex> alias ErlBridge.Inflight
      iex> request = %{reply_to: make_ref(), caller: self(), bytes: 100, events?: false, callbacks: %{}, deadline: :infinity}
      iex> {id, inflight} = Inflight.add(Inflight.new(), request)
      iex> Inflight.id_of(inflight, request.reply_to) == id
      true
      iex> {^request, [], inflight} = Inflight.finish(inflight, id)
      iex> Inflight.id_of(inflight, request.reply_to)
      nil
  """

  alias ErlBridge.{Deadline, Line, Protocol}

  # So many callers are no burden, whether they are idle or not.
  @few 64

  defstruct next_id: Protocol.first_id(), requests: %{}, tasks: %{}, callers: %{}

  @typedoc """
  A request: the alias to which its reply goes, or the slot for it, and the reference that tells it there, who waits for it,
  the room it takes of the worker's load in bytes (`nil` for none), whether events are wanted, the
  functions Python may call meanwhile, and the deadline for them.
  """
  @type request :: %{
          :reply_to => reference,
          optional(:alias) => reference,
          optional(:slot) => Line.slot(),
          :caller => pid,
          :bytes => non_neg_integer | nil,
          :events? => boolean,
          :callbacks => ErlBridge.Callback.t() | {pid, term} | %{},
          :deadline => Deadline.t()
        }

  @typedoc "A request whose reply nobody waits for."
  @type unawaited :: %{bytes: non_neg_integer | nil}

  @opaque t :: %__MODULE__{
            next_id: Protocol.id(),
            requests: %{optional(Protocol.id()) => request | unawaited},
            tasks: %{optional(pid) => {Protocol.id(), term}},
            callers: %{optional(pid) => reference}
          }

  @spec new() :: t
  def new, do: %__MODULE__{}

  @doc "Takes in a request under a fresh id, and watches its caller."
  @spec add(t, request | unawaited) :: {Protocol.id(), t}
  def add(%__MODULE__{next_id: id, requests: requests} = inflight, request)
      when is_map_key(requests, id),
      do: add(%{inflight | next_id: Protocol.next_id(id)}, request)

  def add(%__MODULE__{callers: callers} = inflight, %{caller: caller} = request)
      when not is_map_key(callers, caller),
      do: inflight |> watch(caller) |> add(request)

  def add(%__MODULE__{next_id: id, requests: requests} = inflight, request) do
    requests = Map.put(requests, id, request)
    {id, %{inflight | next_id: Protocol.next_id(id), requests: requests}}
  end

  # Where most of many have nothing under way; looking at all pays only then.
  defp watch(%__MODULE__{callers: callers, requests: requests} = inflight, caller)
       when map_size(callers) >= @few and map_size(callers) >= 2 * map_size(requests),
       do: inflight |> forget_idle() |> monitor(caller)

  defp watch(inflight, caller), do: monitor(inflight, caller)

  defp monitor(%__MODULE__{callers: callers} = inflight, caller),
    do: %{inflight | callers: Map.put(callers, caller, Process.monitor(caller))}

  @doc "Ends the monitors of those that have nothing under way."
  @spec forget_idle(t) :: t
  def forget_idle(%__MODULE__{callers: callers} = inflight) do
    busy = for %{caller: caller} <- awaited(inflight), do: caller
    {kept, idle} = Map.split(callers, busy)
    for {_caller, monitor} <- idle, do: Process.demonitor(monitor, [:flush])
    %{inflight | callers: kept}
  end

  @doc "This process has ended: gives the ids of what it waited for."
  @spec ended(t, pid) :: {[Protocol.id()], t}
  def ended(%__MODULE__{requests: requests, callers: callers} = inflight, caller) do
    ids = for {id, %{caller: ^caller}} <- requests, do: id
    {ids, %{inflight | callers: Map.delete(callers, caller)}}
  end

  @doc "The request that waits under this id; `nil` when there is none or nobody waits any more."
  @spec request(t, Protocol.id()) :: request | nil
  def request(%__MODULE__{requests: requests}, id) do
    case requests do
      %{^id => %{reply_to: _} = request} -> request
      _nobody -> nil
    end
  end

  @doc """
  The id of the awaited request whose reply goes there, for the few that end before it.

  Looks through all that is in flight: what is rare pays, not what is frequent.
  """
  @spec id_of(t, reference) :: Protocol.id() | nil
  def id_of(%__MODULE__{requests: requests}, reply_to) do
    Enum.find_value(requests, fn
      {id, %{reply_to: ^reply_to}} -> id
      _another -> nil
    end)
  end

  @doc "The final reply has come: gives the request back (`nil` if it is unknown), and the tasks that still run for it."
  @spec finish(t, Protocol.id()) :: {request | unawaited | nil, [pid], t}
  def finish(%__MODULE__{} = inflight, id) do
    case inflight.requests do
      %{^id => request} = requests ->
        {tasks, inflight} = drop_tasks(inflight, id)
        {request, tasks, %{inflight | requests: Map.delete(requests, id)}}

      _unknown ->
        {nil, [], inflight}
    end
  end

  @doc "The caller went away or gave up: the reply still to come is nobody's. Gives what `finish/2` gives."
  @spec abandon(t, Protocol.id()) :: {request, [pid], t}
  def abandon(%__MODULE__{} = inflight, id) do
    request = Map.fetch!(inflight.requests, id)
    {tasks, inflight} = drop_tasks(inflight, id)
    requests = Map.put(inflight.requests, id, Map.take(request, [:bytes]))
    {request, tasks, %{inflight | requests: requests}}
  end

  @doc "Notes that the process `task` computes the answer to a call of Python's."
  @spec add_task(t, pid, Protocol.id(), term) :: t
  def add_task(%__MODULE__{} = inflight, task, id, call_id),
    do: %{inflight | tasks: Map.put(inflight.tasks, task, {id, call_id})}

  @doc "Whether the task still works for a request."
  @spec task?(t, pid) :: boolean
  def task?(%__MODULE__{tasks: tasks}, task), do: is_map_key(tasks, task)

  @doc "The task is done: gives the call it worked for, or `nil` if its request is over."
  @spec pop_task(t, pid) :: {term | nil, t}
  def pop_task(%__MODULE__{} = inflight, task) do
    case Map.pop(inflight.tasks, task) do
      {nil, _tasks} -> {nil, inflight}
      {{_id, call_id}, tasks} -> {call_id, %{inflight | tasks: tasks}}
    end
  end

  @doc "Everything is over at once: gives all requests and all tasks that there were."
  @spec drain(t) :: {[request | unawaited], [pid], t}
  def drain(%__MODULE__{} = inflight) do
    emptied = forget_idle(%{inflight | requests: %{}, tasks: %{}})
    {Map.values(inflight.requests), Map.keys(inflight.tasks), emptied}
  end

  @doc "All requests somebody waits for."
  @spec awaited(t) :: [request]
  def awaited(%__MODULE__{requests: requests}),
    do: for({_id, %{reply_to: _} = request} <- requests, do: request)

  @doc "Whether nothing is under way."
  @spec idle?(t) :: boolean
  def idle?(%__MODULE__{requests: requests}), do: requests == %{}

  defp drop_tasks(%__MODULE__{tasks: tasks} = inflight, _id) when tasks == %{},
    do: {[], inflight}

  defp drop_tasks(%__MODULE__{tasks: tasks} = inflight, id) do
    ended = for {task, {^id, _call_id}} <- tasks, do: task
    {ended, %{inflight | tasks: Map.drop(tasks, ended)}}
  end
end
