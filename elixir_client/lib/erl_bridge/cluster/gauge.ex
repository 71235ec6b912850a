defmodule ErlBridge.Cluster.Gauge do
  @moduledoc """
  What is known of the Pythons of another node, where all callers can see it: whether it answers, how
  many workers it has, and how many requests it has from others than this node.

  Whoever reads it sees how old that is. So a node that is cut off is silent also where the process
  that asks it waits, because nothing more goes to that node.

      iex> alias ErlBridge.Cluster.Gauge
      iex> gauge = Gauge.new(60_000)
      iex> Gauge.read(gauge)
      {:down, 0, 0}
      iex> Gauge.up(gauge, 7, 2)
      iex> Gauge.read(gauge)
      {:up, 7, 2}
      iex> Gauge.down(gauge)
      iex> Gauge.read(gauge)
      {:down, 7, 2}
      iex> impatient = Gauge.new(0)
      iex> Gauge.up(impatient, 7, 2)
      iex> Gauge.read(impatient)
      {:silent, 7, 2}
  """

  @up? 1
  @foreign 2
  @workers 3
  @heard_at 4

  @typedoc "What is known, and how old it may be in milliseconds."
  @type t :: {:atomics.atomics_ref(), non_neg_integer}

  @typedoc "`:silent` is one that has not answered for too long."
  @type state :: :down | :up | :silent

  @spec new(non_neg_integer) :: t
  def new(patience), do: {:atomics.new(4, signed: true), patience}

  @doc "It has answered: so many requests of others, so many workers."
  @spec up(t, non_neg_integer, pos_integer) :: :ok
  def up({atomics, _patience}, foreign, workers) do
    :atomics.put(atomics, @foreign, foreign)
    :atomics.put(atomics, @workers, workers)
    :atomics.put(atomics, @heard_at, now())
    :atomics.put(atomics, @up?, 1)
  end

  @spec down(t) :: :ok
  def down({atomics, _patience}), do: :atomics.put(atomics, @up?, 0)

  @spec read(t) :: {state, non_neg_integer, non_neg_integer}
  def read({atomics, _patience} = gauge),
    do: {state(gauge), :atomics.get(atomics, @foreign), :atomics.get(atomics, @workers)}

  defp state({atomics, patience}) do
    cond do
      :atomics.get(atomics, @up?) == 0 -> :down
      now() - :atomics.get(atomics, @heard_at) >= patience -> :silent
      true -> :up
    end
  end

  defp now, do: System.monotonic_time(:millisecond)
end
