defmodule ErlBridge.Line do
  @moduledoc """
  What a process keeps, in its dictionary, from one request to the next: the route of the bridge that it
  asked last, and the alias at which the replies come.

  To look a route up and to make an alias and a monitor would be a quarter more of what the client adds to a short
  request. Most processes that send more than one send them to one bridge.

  A line is for one request at a time, and only while each is answered soon. One that is not takes the line
  with it (`hold/0`), and ends its alias when it is over: so nothing late comes by it.

      iex> ErlBridge.Line.open(:no_bridge)
      {:error, ErlBridge.Error.not_running(:no_bridge)}
  """

  alias ErlBridge.{Error, Route, Routes}

  @doc "The route of a running bridge, and the alias of the calling process for the reply to its next request."
  @spec open(GenServer.server()) :: {:ok, {Route.t(), reference}} | {:error, Error.t()}
  def open(bridge) when is_pid(bridge) do
    case Process.get(__MODULE__) do
      {^bridge, edition, route, reply_alias} ->
        if Routes.current?(edition),
          do: {:ok, {route, reply_alias}},
          else: connect(bridge, reply_alias)

      {_another, _edition, _route, reply_alias} ->
        connect(bridge, reply_alias)

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

  defp connect(bridge, reply_alias) do
    case Routes.find(bridge) do
      {route, edition} ->
        reply_alias = reply_alias || :erlang.alias()
        Process.put(__MODULE__, {bridge, edition, route, reply_alias})
        {:ok, {route, reply_alias}}

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

    with {_bridge, _edition, _route, another} <- Process.put(__MODULE__, line),
         do: :erlang.unalias(another)

    result
  end

  @doc "Takes the line out of the dictionary, so that no other request uses its alias."
  @spec hold() :: :ok
  def hold do
    Process.delete(__MODULE__)
    :ok
  end
end
