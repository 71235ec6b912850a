defmodule ErlBridge.CircuitBreaker.State do
  @moduledoc """
  The circuit breaker as a value. All times are milliseconds of one monotonic clock, and given.

      closed ── failures within the window ──▶ open ── cool-down is over ──▶ half-open
        ▲                                       ▲                              │  │
        │                                       └──────── a probe fails ───────┘  │
        └──────────────────── enough probes succeed ──────────────────────────────┘

    * **closed**: everything may pass; failures are kept for as long as the window is. Those of one
      cause count once: a Python that dies is one failure, however many requests it takes along
    * **open**: nothing may pass until the cool-down is over, which doubles each time that a probe
      fails, up to its maximum
    * **half-open**: a few probes at a time may pass; their outcomes decide. A probe that has no
      outcome after `:probe_timeout` still counts when it has one, but no longer keeps others out

  A probe is known by any term: its caller's pid, or here an atom. So is a cause; without one
  (`nil`) a failure counts for itself.

      iex> alias ErlBridge.CircuitBreaker.State
      iex> state = State.new(failures: 2, successes: 1, cool_down: [min: 100, max: 400])
      iex> state = state |> State.report(:a, :failure, 0, :crash) |> State.report(:b, :failure, 0, :crash)
      iex> state = State.report(state, :b, :failure, 10)
      iex> {State.name(state), State.ask_from(state)}
      {:open, 110}
      iex> {:refused, state} = State.ask(state, :c, 50)
      iex> {:ok, state} = State.ask(state, :c, 110)
      iex> {:refused, state} = State.ask(state, :d, 111)
      iex> state |> State.report(:c, :success, 120) |> State.name()
      :closed
      iex> state |> State.report(:c, :failure, 120) |> State.ask_from()
      320
  """

  alias ErlBridge.Options
  alias ErlBridge.Recovery.Backoff

  @enforce_keys [:failures, :window, :cool_down, :probes, :successes, :probe_timeout]
  defstruct @enforce_keys ++ [phase: {:closed, []}, openings: 0]

  @type name :: :closed | :open | :half_open

  @typedoc "What the outcome of a request says of the bridge: that it works, that it does not, or nothing."
  @type outcome :: :success | :failure | :unknown

  @typedoc """
  Closed with the instants of the last failures and their causes, the newest first; open until an instant; or
  half-open since an instant, with the instant until which each probe keeps its place, and how
  many have succeeded.
  """
  @type phase ::
          {:closed, [{integer, term}]}
          | {:open, integer}
          | {:half_open, integer, %{optional(term) => integer}, non_neg_integer}

  @type t :: %__MODULE__{
          failures: pos_integer,
          window: pos_integer,
          cool_down: Backoff.bounds(),
          probes: pos_integer,
          successes: pos_integer,
          probe_timeout: pos_integer,
          phase: phase,
          openings: non_neg_integer
        }

  @doc "A closed breaker. The options are those of `ErlBridge.CircuitBreaker.start_link/1`."
  @spec new(keyword) :: t
  def new(options \\ []), do: struct(__MODULE__, Options.validate!(options, :circuit_breaker))

  @doc "Which of the three states it is in."
  @spec name(t) :: name
  def name(%__MODULE__{phase: phase}), do: elem(phase, 0)

  @doc "Whether a request of `who` may pass. In the half-open state it is a probe if it may."
  @spec ask(t, term, integer) :: {:ok | :refused, t}
  def ask(%__MODULE__{} = state, who, now), do: state |> tick(now) |> admit(who, now)

  @doc "The instant from which a request may pass, unless something happens before. `nil`: always."
  @spec ask_from(t) :: integer | nil
  def ask_from(%__MODULE__{phase: {:closed, _failures}}), do: nil
  def ask_from(%__MODULE__{phase: {:open, until}}), do: until

  def ask_from(%__MODULE__{phase: {:half_open, since, probes, _succeeded}} = state) do
    case map_size(probes) - state.probes do
      excess when excess < 0 -> since
      excess -> probes |> Map.values() |> Enum.sort() |> Enum.at(excess)
    end
  end

  @doc """
  What became of a request of `who`, and the cause of a failure that others may have, too.
  `:unknown`, or the death of `who`, gives a probe's place back
  and decides nothing.

  Only failures count while it is closed, and only probes while it is half-open: what was sent
  before it opened says nothing of the bridge now.
  """
  @spec report(t, term, outcome, integer, term) :: t
  def report(state, who, outcome, now, cause \\ nil)

  def report(%__MODULE__{phase: {:closed, failures}} = state, _who, :failure, now, cause) do
    recent = count(recent(failures, now - state.window), now, cause)

    if length(recent) >= state.failures,
      do: open(state, now),
      else: %{state | phase: {:closed, recent}}
  end

  def report(
        %__MODULE__{phase: {:half_open, since, probes, succeeded}} = state,
        who,
        outcome,
        now,
        _cause
      )
      when is_map_key(probes, who),
      do: settle(state, outcome, {:half_open, since, Map.delete(probes, who), succeeded}, now)

  def report(%__MODULE__{} = state, _who, _outcome, _now, _cause), do: state

  @doc "Half-open, if it is open and the cool-down is over."
  @spec tick(t, integer) :: t
  def tick(%__MODULE__{phase: {:open, until}} = state, now) when now >= until,
    do: %{state | phase: {:half_open, now, %{}, 0}}

  def tick(%__MODULE__{} = state, _now), do: state

  @doc "Who has a probe under way."
  @spec probing(t) :: [term]
  def probing(%__MODULE__{phase: {:half_open, _since, probes, _succeeded}}), do: Map.keys(probes)
  def probing(%__MODULE__{}), do: []

  defp recent(failures, since), do: Enum.filter(failures, fn {at, _cause} -> at > since end)

  defp count(failures, now, cause) do
    if cause != nil and List.keymember?(failures, cause, 1),
      do: failures,
      else: [{now, cause} | failures]
  end

  defp admit(%{phase: {:closed, _failures}} = state, _who, _now), do: {:ok, state}
  defp admit(%{phase: {:open, _until}} = state, _who, _now), do: {:refused, state}

  defp admit(%{phase: {:half_open, since, probes, succeeded}} = state, who, now) do
    if now >= ask_from(state) do
      probes = Map.put(probes, who, now + state.probe_timeout)
      {:ok, %{state | phase: {:half_open, since, probes, succeeded}}}
    else
      {:refused, state}
    end
  end

  defp settle(state, :failure, _phase, now), do: open(state, now)
  defp settle(state, :unknown, phase, _now), do: %{state | phase: phase}

  defp settle(state, :success, {:half_open, since, probes, succeeded}, _now) do
    if succeeded + 1 >= state.successes,
      do: %{state | phase: {:closed, []}, openings: 0},
      else: %{state | phase: {:half_open, since, probes, succeeded + 1}}
  end

  defp open(state, now) do
    until = now + Backoff.ceiling(state.cool_down, state.openings)
    %{state | phase: {:open, until}, openings: state.openings + 1}
  end
end
