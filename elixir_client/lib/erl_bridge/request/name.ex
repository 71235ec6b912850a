defmodule ErlBridge.Request.Name do
  @moduledoc """
  The name of a request, by which any process cancels it: from before it is sent first to its end, over
  all its attempts.

  While it is not sent, because it waits for room or for its next attempt, a cancel and its sending meet
  at one flag, and the first of them wins: what was cancelled is not sent, and what was sent is
  cancelled where it was sent to.

      iex> alias ErlBridge.Request.Name
      iex> {:ok, name} = Name.take(self(), :nightly)
      iex> {:error, %ErlBridge.Error{type: :invalid_request}} = Name.take(self(), :nightly)
      iex> Name.cancel(self(), :nightly)
      :cancelled
      iex> {Name.claim(name), Name.release(name), Name.cancel(self(), :nightly)}
      {false, :ok, :none}

      iex> {:ok, name} = ErlBridge.Request.Name.take(self(), :nightly)
      iex> ErlBridge.Request.Name.claim(name)
      true
      iex> ErlBridge.Request.Name.cancel(self(), :nightly)
      :soon
      iex> ErlBridge.Request.Name.sent(name, {self(), make_ref()})
      iex> {:sent, {_worker, _reply_to}} = ErlBridge.Request.Name.cancel(self(), :nightly)
  """

  alias ErlBridge.Error

  @free 0
  @sent 1
  @cancelled 2

  @enforce_keys [:key, :flag]
  defstruct [:key, :flag, lasting?: false]

  @typedoc "A name that is taken; a lasting one is that of all attempts of a request."
  @type t :: %__MODULE__{
          key: {pid, :request, term},
          flag: :atomics.atomics_ref(),
          lasting?: boolean
        }

  @typedoc "Where a request was sent to: its worker, and where its reply goes."
  @type place :: {pid, reference}

  @doc "Takes a name of the requests of this pool, for a request of the calling process."
  @spec take(pid, term) :: {:ok, t} | {:error, Error.t()}
  def take(pool, name) do
    key = {pool, :request, name}
    flag = :atomics.new(1, signed: false)

    case Registry.register(ErlBridge.Registry, key, {flag, :nowhere}) do
      {:ok, _owner} -> {:ok, %__MODULE__{key: key, flag: flag}}
      {:error, {:already_registered, _caller}} -> {:error, Error.duplicate_id(name)}
    end
  end

  @doc "The request waits, and a message `{reference, :refused, error}` says that it is cancelled."
  @spec waits(t, reference) :: :ok
  def waits(%__MODULE__{} = name, ref) do
    note(name, {:waiting, ref})
    if cancelled?(name), do: tell(ref)
    :ok
  end

  @doc "The request is to be sent now; false where it is cancelled."
  @spec claim(t) :: boolean
  def claim(%__MODULE__{flag: flag}),
    do: :atomics.compare_exchange(flag, 1, @free, @sent) == :ok

  @doc "The request has been sent there."
  @spec sent(t, place) :: :ok
  def sent(%__MODULE__{} = name, place), do: note(name, place)

  @doc "What was sent has come to nothing, or to an end that is not the request's."
  @spec come_back(t) :: :ok
  def come_back(%__MODULE__{flag: flag} = name) do
    note(name, :nowhere)
    :atomics.compare_exchange(flag, 1, @sent, @free)
    :ok
  end

  @doc "Waits so many milliseconds, or until the request is cancelled."
  @spec pause(t, non_neg_integer) :: :ok | {:error, Error.t()}
  def pause(%__MODULE__{} = name, delay) do
    ref = :erlang.alias()
    waits(name, ref)

    result =
      receive do
        {^ref, :refused, error} -> {:error, error}
      after
        delay -> :ok
      end

    :erlang.unalias(ref)

    receive do
      {^ref, :refused, _error} -> result
    after
      0 -> result
    end
  end

  @doc "Whether the request was cancelled while it was not sent."
  @spec cancelled?(t) :: boolean
  def cancelled?(%__MODULE__{flag: flag}), do: :atomics.get(flag, 1) == @cancelled

  @doc "The request is over."
  @spec release(t) :: :ok
  def release(%__MODULE__{key: key}), do: Registry.unregister(ErlBridge.Registry, key)

  @doc """
  Cancels the request of that name if it is not sent. Else gives where it was sent to; `:soon` for one
  that is being sent just now.
  """
  @spec cancel(pid, term) :: :cancelled | :none | :soon | {:sent, place}
  def cancel(pool, name) do
    key = {pool, :request, name}

    case lookup(key) do
      nil -> :none
      {flag, target} -> cancel(:atomics.compare_exchange(flag, 1, @free, @cancelled), target, key)
    end
  end

  # It may wait elsewhere by now; if it does so only later, it sees then that it is cancelled.
  defp cancel(:ok, _target, key) do
    with {_flag, {:waiting, ref}} <- lookup(key), do: tell(ref)
    :cancelled
  end

  defp cancel(@cancelled, _target, _key), do: :cancelled
  defp cancel(@sent, {worker, _reply_to} = place, _key) when is_pid(worker), do: {:sent, place}
  defp cancel(@sent, _before, _key), do: :soon

  defp tell(ref) do
    send(ref, {ref, :refused, Error.cancelled()})
    :ok
  end

  defp lookup(key) do
    case Registry.lookup(ErlBridge.Registry, key) do
      [{_caller, entry}] -> entry
      [] -> nil
    end
  end

  defp note(%__MODULE__{key: key, flag: flag}, target) do
    Registry.update_value(ErlBridge.Registry, key, fn _before -> {flag, target} end)
    :ok
  end
end
