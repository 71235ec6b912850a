defmodule ErlBridge.Inflight do
  @moduledoc """
  What a worker has under way, as a value: requests that wait for their reply and callbacks that
  run for them.

  A request lives from `add/2` to `finish/2`, which is when its one final reply has come. In
  between its caller may lose interest (`abandon/2`): then nobody waits, but the id stays taken
  until Python has answered, so that no reply can ever be mistaken for another's.

      iex> alias ErlBridge.Inflight
      iex> request = %{reply_to: make_ref(), caller: self(), monitor: make_ref(), name: :nightly, events?: false, callbacks: %{}}
      iex> {:ok, id, inflight} = Inflight.add(Inflight.new(), request)
      iex> Inflight.add(inflight, request)
      {:error, :duplicate}
      iex> Inflight.id_named(inflight, :nightly) == id
      true
      iex> {^request, [], inflight} = Inflight.finish(inflight, id)
      iex> Inflight.id_named(inflight, :nightly)
      nil
  """

  alias ErlBridge.Protocol

  defstruct next_id: Protocol.first_id(), requests: %{}, names: %{}, monitors: %{}, tasks: %{}

  @typedoc """
  A request: where its reply goes, who waits for it (and the worker's monitor on that process),
  the name that `ErlBridge.cancel/2` knows it by, whether events are wanted, and the functions
  Python may call meanwhile.
  """
  @type request :: %{
          reply_to: reference,
          caller: pid,
          monitor: reference,
          name: term,
          events?: boolean,
          callbacks: %{optional(atom | String.t()) => fun}
        }

  @opaque t :: %__MODULE__{
            next_id: Protocol.id(),
            requests: %{optional(Protocol.id()) => request | :nobody},
            names: %{optional(term) => Protocol.id()},
            monitors: %{optional(reference) => Protocol.id()},
            tasks: %{optional(pid) => {Protocol.id(), term}}
          }

  @spec new() :: t
  def new, do: %__MODULE__{}

  @doc "Takes in a request under a fresh id, unless its name is taken."
  @spec add(t, request) :: {:ok, Protocol.id(), t} | {:error, :duplicate}
  def add(%__MODULE__{names: names}, %{name: name}) when is_map_key(names, name),
    do: {:error, :duplicate}

  def add(%__MODULE__{} = inflight, request) do
    {id, inflight} = put(inflight, request)

    {:ok, id,
     %{
       inflight
       | names: Map.merge(inflight.names, %{request.name => id, request.reply_to => id}),
         monitors: Map.put(inflight.monitors, request.monitor, id)
     }}
  end

  @doc "A fresh id for a request of the worker's own, whose reply nobody waits for."
  @spec add_unawaited(t) :: {Protocol.id(), t}
  def add_unawaited(%__MODULE__{} = inflight), do: put(inflight, :nobody)

  @doc "The request that waits under this id; `nil` when there is none or nobody waits any more."
  @spec request(t, Protocol.id()) :: request | nil
  def request(%__MODULE__{requests: requests}, id) do
    case requests do
      %{^id => %{} = request} -> request
      _nobody -> nil
    end
  end

  @doc "The id of the awaited request of this name, or whose reply goes to this reference."
  @spec id_named(t, term) :: Protocol.id() | nil
  def id_named(%__MODULE__{names: names}, name), do: names[name]

  @doc "The id of the awaited request whose caller this monitor watches."
  @spec id_watched_by(t, reference) :: Protocol.id() | nil
  def id_watched_by(%__MODULE__{monitors: monitors}, monitor), do: monitors[monitor]

  @doc "The final reply has come: gives the request back (`nil` if nobody waits), and the tasks that still run for it."
  @spec finish(t, Protocol.id()) :: {request | nil, [pid], t}
  def finish(%__MODULE__{} = inflight, id) do
    {request, tasks, inflight} = release(inflight, id)
    {request, tasks, %{inflight | requests: Map.delete(inflight.requests, id)}}
  end

  @doc "The caller went away or gave up: the reply still to come is nobody's. Gives what `finish/2` gives."
  @spec abandon(t, Protocol.id()) :: {request | nil, [pid], t}
  def abandon(%__MODULE__{} = inflight, id) do
    {request, tasks, inflight} = release(inflight, id)
    {request, tasks, %{inflight | requests: Map.replace(inflight.requests, id, :nobody)}}
  end

  @doc "Notes that the process `task` computes the answer to a call of Python's."
  @spec add_task(t, pid, Protocol.id(), term) :: t
  def add_task(%__MODULE__{} = inflight, task, id, call_id),
    do: %{inflight | tasks: Map.put(inflight.tasks, task, {id, call_id})}

  @doc "The task is done: gives the call it worked for, or `nil` if its request is over."
  @spec pop_task(t, pid) :: {term | nil, t}
  def pop_task(%__MODULE__{} = inflight, task) do
    case Map.pop(inflight.tasks, task) do
      {nil, _tasks} -> {nil, inflight}
      {{_id, call_id}, tasks} -> {call_id, %{inflight | tasks: tasks}}
    end
  end

  @doc "All requests somebody waits for."
  @spec awaited(t) :: [request]
  def awaited(%__MODULE__{requests: requests}),
    do: for({_id, %{} = request} <- requests, do: request)

  defp put(%__MODULE__{next_id: id, requests: requests} = inflight, request)
       when is_map_key(requests, id),
       do: put(%{inflight | next_id: Protocol.next_id(id)}, request)

  defp put(%__MODULE__{next_id: id} = inflight, request) do
    {id,
     %{
       inflight
       | next_id: Protocol.next_id(id),
         requests: Map.put(inflight.requests, id, request)
     }}
  end

  defp release(inflight, id) do
    request = request(inflight, id)
    tasks = for {pid, {^id, _call_id}} <- inflight.tasks, do: pid

    {request, tasks,
     %{
       inflight
       | tasks: Map.drop(inflight.tasks, tasks),
         names: Map.drop(inflight.names, [request[:name], request[:reply_to]]),
         monitors: Map.delete(inflight.monitors, request[:monitor])
     }}
  end
end
