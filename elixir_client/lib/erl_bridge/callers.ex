defmodule ErlBridge.Callers do
  @moduledoc """
  The processes that wait for what a worker has under way, each under one monitor of the calling
  process.

  A caller that has nothing under way any more stays monitored for a while, since the next request
  of most is not far: a monitor for each request would wake its caller once more, and be two signals.
  `forget_idle/1` ends these, and `join/2` does it by itself when there are many.

      iex> alias ErlBridge.Callers
      iex> caller = spawn(fn -> receive do: (:end -> :ok) end)
      iex> callers = Callers.new() |> Callers.join(caller) |> Callers.leave(caller)
      iex> Callers.count(callers)
      1
      iex> Callers.new() |> Callers.join(caller) |> Callers.forget_idle() |> Callers.count()
      1
      iex> callers |> Callers.forget_idle() |> Callers.count()
      0
  """

  # So many are no burden, whether they are idle or not.
  @few 64

  defstruct monitors: %{}, sweep_at: @few

  @opaque t :: %__MODULE__{
            monitors: %{optional(pid) => {reference, non_neg_integer}},
            sweep_at: pos_integer
          }

  @spec new() :: t
  def new, do: %__MODULE__{}

  @doc "A request of this process begins."
  @spec join(t, pid) :: t
  def join(%__MODULE__{monitors: monitors} = callers, caller) do
    case monitors do
      %{^caller => {monitor, requests}} ->
        %{callers | monitors: %{monitors | caller => {monitor, requests + 1}}}

      _stranger when map_size(monitors) >= callers.sweep_at ->
        callers |> sweep() |> welcome(caller)

      _stranger ->
        welcome(callers, caller)
    end
  end

  @doc "A request of this process is over."
  @spec leave(t, pid) :: t
  def leave(%__MODULE__{monitors: monitors} = callers, caller) do
    case monitors do
      %{^caller => {monitor, requests}} ->
        %{callers | monitors: %{monitors | caller => {monitor, requests - 1}}}

      _ended ->
        callers
    end
  end

  @doc "This process has ended: whether it had requests under way."
  @spec ended(t, pid) :: {boolean, t}
  def ended(%__MODULE__{monitors: monitors} = callers, caller) do
    case Map.pop(monitors, caller) do
      {{_monitor, requests}, monitors} -> {requests > 0, %{callers | monitors: monitors}}
      {nil, _monitors} -> {false, callers}
    end
  end

  @doc "Ends the monitors of those that have nothing under way."
  @spec forget_idle(t) :: t
  def forget_idle(%__MODULE__{monitors: monitors} = callers) do
    {idle, busy} =
      Enum.split_with(monitors, fn {_caller, {_monitor, requests}} -> requests == 0 end)

    for {_caller, {monitor, 0}} <- idle, do: Process.demonitor(monitor, [:flush])
    %{callers | monitors: Map.new(busy), sweep_at: @few}
  end

  @doc "How many processes are monitored."
  @spec count(t) :: non_neg_integer
  def count(%__MODULE__{monitors: monitors}), do: map_size(monitors)

  defp welcome(callers, caller),
    do: %{callers | monitors: Map.put(callers.monitors, caller, {Process.monitor(caller), 1})}

  # The next time when they are twice as many as are left, or each newcomer would look at all.
  defp sweep(callers) do
    callers = forget_idle(callers)
    %{callers | sweep_at: max(@few, 2 * count(callers))}
  end
end
