defmodule ErlBridge.Pool.Slot do
  @moduledoc """
  One place of a pool, as a value: the worker in it, and how it has been doing.

      iex> alias ErlBridge.Pool.Slot
      iex> slot = Slot.started(%Slot{}, self(), ErlBridge.Load.new(), 0)
      iex> {slot, 0} = slot |> Slot.up(%{os_pid: 1}, 0) |> Slot.failed(1_000)
      iex> {slot, again} = Slot.failed(slot, 2_000)
      iex> {slot.phase, slot.failures, again > 0}
      {:down, 2, true}
  """

  alias ErlBridge.Load

  # A worker that was up for so long had recovered: its next failure is a first one again.
  @recovered_ms 30_000

  # The delays before a start: none after a first failure, then twice as long with each up to the
  # longest, less up to a half by chance, so that workers that fell together do not start together.
  @first_ms 100
  @longest_ms 30_000

  defstruct worker: nil,
            load: nil,
            phase: :down,
            hello: nil,
            started_at: nil,
            up_at: nil,
            failures: 0,
            answers: 0,
            check: nil,
            replacement: nil

  @typedoc """
  The worker and its load; `:down`, `:starting` or `:up`; Python's hello; when it was started and came up (ms);
  failures since it last was well; the answers it had given at the last health check, and the check
  under way; and the worker that is to replace it.
  """
  @type t :: %__MODULE__{
          worker: pid | nil,
          load: Load.t() | nil,
          phase: :down | :starting | :up,
          hello: map | nil,
          started_at: integer | nil,
          up_at: integer | nil,
          failures: non_neg_integer,
          answers: non_neg_integer,
          check: map | nil,
          replacement: {pid, Load.t()} | nil
        }

  @doc "A worker is being started in it, at `now` (ms)."
  @spec started(t, pid, Load.t(), integer) :: t
  def started(%__MODULE__{} = slot, worker, load, now) do
    %{
      slot
      | worker: worker,
        load: load,
        phase: :starting,
        started_at: now,
        check: nil,
        answers: 0
    }
  end

  @doc "Its worker is ready at `now` (ms)."
  @spec up(t, map, integer) :: t
  def up(%__MODULE__{} = slot, hello, now),
    do: %{slot | phase: :up, hello: hello, up_at: now}

  @doc "Its worker ended at `now`: the slot, and the delay in ms before the next start."
  @spec failed(t, integer) :: {t, non_neg_integer}
  def failed(%__MODULE__{} = slot, now) do
    recovered? = slot.phase == :up and now - slot.up_at >= @recovered_ms
    failures = if recovered?, do: 1, else: slot.failures + 1
    slot = %{slot | worker: nil, load: nil, phase: :down, failures: failures, check: nil}
    {slot, delay(failures)}
  end

  @doc "The worker and its load, for callers; `nil` while it is not up."
  @spec route(t) :: {pid, Load.t()} | nil
  def route(%__MODULE__{phase: :up, worker: worker, load: load}), do: {worker, load}
  def route(%__MODULE__{}), do: nil

  defp delay(1), do: 0

  defp delay(failures) do
    longest = min(@longest_ms, @first_ms * Integer.pow(2, min(failures - 2, 20)))
    longest - :rand.uniform(div(longest, 2))
  end
end
