defmodule ErlBridge.Cluster.Gauge do
  @moduledoc """
  What is known of the Pythons of another node, where all callers can see it: whether it answers, how
  many workers it has, and how many requests it has from others than this node.

      iex> alias ErlBridge.Cluster.Gauge
      iex> gauge = Gauge.new()
      iex> Gauge.read(gauge)
      {:down, 0, 0}
      iex> Gauge.up(gauge, 7, 2)
      iex> Gauge.read(gauge)
      {:up, 7, 2}
      iex> Gauge.silent(gauge)
      iex> Gauge.read(gauge)
      {:silent, 7, 2}
      iex> Gauge.down(gauge)
      iex> Gauge.read(gauge)
      {:down, 7, 2}
  """

  @state 1
  @foreign 2
  @workers 3

  @type t :: :atomics.atomics_ref()

  @typedoc "`:silent` is one that has not answered for too long."
  @type state :: :down | :up | :silent

  @spec new() :: t
  def new, do: :atomics.new(3, signed: true)

  @doc "It has answered: so many requests of others, so many workers."
  @spec up(t, non_neg_integer, pos_integer) :: :ok
  def up(gauge, foreign, workers) do
    :atomics.put(gauge, @foreign, foreign)
    :atomics.put(gauge, @workers, workers)
    :atomics.put(gauge, @state, 1)
  end

  @spec silent(t) :: :ok
  def silent(gauge), do: :atomics.put(gauge, @state, 2)

  @spec down(t) :: :ok
  def down(gauge), do: :atomics.put(gauge, @state, 0)

  @spec read(t) :: {state, non_neg_integer, non_neg_integer}
  def read(gauge) do
    {state(:atomics.get(gauge, @state)), :atomics.get(gauge, @foreign),
     :atomics.get(gauge, @workers)}
  end

  defp state(0), do: :down
  defp state(1), do: :up
  defp state(2), do: :silent
end
