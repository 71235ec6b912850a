defmodule ErlBridge.Line do
  @moduledoc """
  What a process keeps, in its dictionary, from one request to the next: the route of the bridge that it
  asked last, and a slot for the reply.

  To look a route up and to make an alias and a monitor would be a quarter more of what the client adds to a short
  request. Most processes that send more than one send them to one bridge.

  A slot is for one reply at a time. Who has it to send takes the slot before (`take/1`), and so does the
  process itself when it waits no longer: only the first of them gets it, so nothing comes late. An alias
  would do the same, and take twice as long.

  A line is for one request at a time, and only while each is answered soon. One that is not takes the line
  with it (`hold/0`).

      iex> alias ErlBridge.Line
      iex> {:ok, bridge} = ErlBridge.Testing.start_bridge(%{})
      iex> {:ok, {_route, slot}} = Line.open(bridge)
      iex> Line.expect(slot)
      iex> {Line.take(slot), Line.take(slot)}
      {true, false}

      iex> ErlBridge.Line.open(:no_bridge)
      {:error, ErlBridge.Error.not_running(:no_bridge)}
  """

  alias ErlBridge.{Error, Route, Routes}

  @typedoc "Where one reply may go."
  @opaque slot :: :atomics.atomics_ref()

  @doc "The route of a running bridge, and the slot of the calling process for the reply to its next request."
  @spec open(GenServer.server()) :: {:ok, {Route.t(), slot}} | {:error, Error.t()}
  def open(bridge) when is_pid(bridge) do
    case Process.get(__MODULE__) do
      {^bridge, edition, route, slot} ->
        if Routes.current?(edition),
          do: {:ok, {route, slot}},
          else: connect(bridge, slot)

      {_another, _edition, _route, slot} ->
        connect(bridge, slot)

      nil ->
        connect(bridge, nil)
    end
  end

  # Each time, since a name may be another's by now.
  def open(name) do
    case GenServer.whereis(name) do
      bridge when is_pid(bridge) -> open(bridge)
      _nobody -> {:error, Error.not_running(name)}
    end
  end

  defp connect(bridge, slot) do
    case Routes.find(bridge) do
      {route, edition} ->
        slot = slot || :atomics.new(1, signed: false)
        Process.put(__MODULE__, {bridge, edition, route, slot})
        {:ok, {route, slot}}

      nil ->
        {:error, Error.not_running(bridge)}
    end
  end

  @doc """
  Runs what may make requests itself, between the opening of the line and its use.

      iex> {:ok, bridge} = ErlBridge.Testing.start_bridge(%{})
      iex> {:ok, {_route, ours}} = ErlBridge.Line.open(bridge)
      iex> {:ok, {_route, another}} = ErlBridge.Line.aside(fn -> ErlBridge.Line.open(bridge) end)
      iex> {:ok, {_route, still}} = ErlBridge.Line.open(bridge)
      iex> {ours == another, ours == still}
      {false, true}
  """
  @spec aside((() -> result)) :: result when result: term
  def aside(work) do
    line = Process.delete(__MODULE__)
    result = work.()
    Process.put(__MODULE__, line)
    result
  end

  @doc "From now on one reply may come."
  @spec expect(slot) :: :ok
  def expect(slot), do: :atomics.put(slot, 1, 1)

  @doc "Whether the reply is the caller's to send, or that it waits for one no longer. `true` for one of them, once."
  @spec take(slot) :: boolean
  def take(slot), do: :atomics.exchange(slot, 1, 0) == 1

  @doc "Takes the line out of the dictionary, so that no other request uses its slot."
  @spec hold() :: :ok
  def hold do
    Process.delete(__MODULE__)
    :ok
  end
end
