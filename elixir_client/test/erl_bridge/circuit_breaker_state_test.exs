defmodule ErlBridge.CircuitBreaker.StateTest do
  use ExUnit.Case, async: true
  doctest ErlBridge.CircuitBreaker.State

  alias ErlBridge.CircuitBreaker.State

  @options [
    failures: 3,
    window: 100,
    cool_down: [min: 1_000, max: 4_000],
    probes: 1,
    successes: 2,
    probe_timeout: 500
  ]

  # Each step is {instant, what happens, the state after it, and from when on a request may pass}.
  @stories [
    {"failures within the window open it",
     [
       {0, {:report, :a, :failure}, :closed, nil},
       {50, {:report, :b, :failure}, :closed, nil},
       {99, {:report, :c, :failure}, :open, 1_099}
     ]},
    {"failures that the window has left behind do not",
     [
       {0, {:report, :a, :failure}, :closed, nil},
       {50, {:report, :b, :failure}, :closed, nil},
       {100, {:report, :c, :failure}, :closed, nil},
       {149, {:report, :d, :failure}, :open, 1_149}
     ]},
    {"failures of one cause count once, from the first on",
     [
       {0, {:report, :a, {:failure, 4711}}, :closed, nil},
       {50, {:report, :b, {:failure, 4711}}, :closed, nil},
       {50, {:report, :c, {:failure, 4711}}, :closed, nil},
       {50, {:report, :d, {:failure, 4712}}, :closed, nil},
       {100, {:report, :e, {:failure, 4713}}, :closed, nil},
       {100, {:report, :f, {:failure, 4713}}, :closed, nil},
       {101, {:report, :g, {:failure, 4711}}, :open, 1_101}
     ]},
    {"successes and unknown outcomes change nothing while it is closed",
     [
       {0, {:report, :a, :failure}, :closed, nil},
       {1, {:report, :a, :success}, :closed, nil},
       {2, {:report, :a, :failure}, :closed, nil},
       {3, {:report, :a, :unknown}, :closed, nil},
       {4, {:report, :a, :failure}, :open, 1_004}
     ]},
    {"what was sent before it opened changes nothing afterwards",
     [
       {0, :open, :open, 1_000},
       {5, {:report, :a, :failure}, :open, 1_000},
       {6, {:report, :a, :success}, :open, 1_000},
       {1_000, :tick, :half_open, 1_000},
       {1_001, {:report, :a, :failure}, :half_open, 1_000},
       {1_002, {:report, :a, :success}, :half_open, 1_000}
     ]},
    {"it closes after enough probes, one at a time, have succeeded",
     [
       {0, :open, :open, 1_000},
       {999, {:ask, :a, :refused}, :open, 1_000},
       {1_000, {:ask, :a, :ok}, :half_open, 1_500},
       {1_001, {:ask, :b, :refused}, :half_open, 1_500},
       {1_010, {:report, :a, :success}, :half_open, 1_000},
       {1_011, {:ask, :b, :ok}, :half_open, 1_511},
       {1_012, {:report, :b, :success}, :closed, nil},
       {1_013, {:ask, :c, :ok}, :closed, nil}
     ]},
    {"the cool-down doubles up to its maximum, and starts anew once it was closed",
     [
       {0, :open, :open, 1_000},
       {1_000, {:ask, :a, :ok}, :half_open, 1_500},
       {1_000, {:report, :a, :failure}, :open, 3_000},
       {3_000, {:ask, :a, :ok}, :half_open, 3_500},
       {3_000, {:report, :a, :failure}, :open, 7_000},
       {7_000, {:ask, :a, :ok}, :half_open, 7_500},
       {7_000, {:report, :a, :failure}, :open, 11_000},
       {11_000, {:ask, :a, :ok}, :half_open, 11_500},
       {11_000, {:report, :a, :success}, :half_open, 11_000},
       {11_000, {:ask, :a, :ok}, :half_open, 11_500},
       {11_000, {:report, :a, :success}, :closed, nil},
       {11_000, :open, :open, 12_000}
     ]},
    {"a probe that says nothing gives its place back",
     [
       {0, :open, :open, 1_000},
       {1_000, {:ask, :a, :ok}, :half_open, 1_500},
       {1_001, {:report, :a, :unknown}, :half_open, 1_000},
       {1_002, {:ask, :b, :ok}, :half_open, 1_502}
     ]},
    {"a probe without an outcome keeps others out for its time only, and still counts",
     [
       {0, :open, :open, 1_000},
       {1_000, {:ask, :a, :ok}, :half_open, 1_500},
       {1_499, {:ask, :b, :refused}, :half_open, 1_500},
       {1_500, {:ask, :b, :ok}, :half_open, 2_000},
       {1_501, {:ask, :c, :refused}, :half_open, 2_000},
       {1_502, {:report, :a, :success}, :half_open, 2_000},
       {1_503, {:report, :b, :success}, :closed, nil}
     ]}
  ]

  for {name, steps} <- @stories do
    test name do
      Enum.reduce(unquote(Macro.escape(steps)), State.new(@options), fn step, state ->
        {now, happens, name, ask_from} = step
        state = happen(state, happens, now)
        assert {step, State.name(state), State.ask_from(state)} == {step, name, ask_from}
        state
      end)
    end
  end

  test "as many probes at a time as the options say" do
    state = State.new(Keyword.merge(@options, probes: 2, failures: 1))
    state = State.report(state, :a, :failure, 0)
    {:ok, state} = State.ask(state, :a, 1_000)
    {:ok, state} = State.ask(state, :b, 1_100)
    {:refused, state} = State.ask(state, :c, 1_200)

    assert Enum.sort(State.probing(state)) == [:a, :b]
    assert State.ask_from(state) == 1_500
  end

  # Whatever happens in whatever order, these hold.
  for seed <- 1..20 do
    test "random histories keep the rules, seed #{seed}" do
      :rand.seed(:exsss, unquote(seed))
      options = Keyword.merge(@options, probes: :rand.uniform(3), successes: :rand.uniform(3))

      Enum.reduce(1..500, {State.new(options), 0}, fn _step, {state, now} ->
        now = now + :rand.uniform(400) - 1
        next = random_step(state, now)
        check(state, next, now)
        {next, now}
      end)
    end
  end

  defp happen(state, {:report, who, {outcome, cause}}, now),
    do: State.report(state, who, outcome, now, cause)

  defp happen(state, {:report, who, outcome}, now), do: State.report(state, who, outcome, now)
  defp happen(state, :tick, now), do: State.tick(state, now)

  defp happen(state, :open, now),
    do: Enum.reduce(1..3, state, fn _n, state -> State.report(state, :before, :failure, now) end)

  defp happen(state, {:ask, who, answer}, now) do
    assert {^answer, state} = State.ask(state, who, now)
    state
  end

  defp random_step(state, now) do
    who = Enum.random(1..5)

    case :rand.uniform(3) do
      1 ->
        State.tick(state, now)

      2 ->
        State.report(state, who, random_outcome(), now, Enum.random([nil, nil, :crash, :other]))

      3 ->
        ask(state, who, now)
    end
  end

  defp random_outcome, do: Enum.random([:success, :failure, :failure, :unknown])

  defp ask(state, who, now) do
    {answer, next} = State.ask(state, who, now)
    from = State.ask_from(State.tick(state, now))
    assert answer == if(from == nil or now >= from, do: :ok, else: :refused)
    next
  end

  @moves [
    closed: :closed,
    closed: :open,
    open: :open,
    open: :half_open,
    half_open: :half_open,
    half_open: :open,
    half_open: :closed
  ]

  defp check(state, next, now) do
    assert {State.name(state), State.name(next)} in @moves
    check_phase(next, next.phase, now)
  end

  defp check_phase(state, {:closed, failures}, now) do
    assert length(failures) < state.failures
    assert Enum.all?(failures, fn {at, _cause} -> at <= now end)
    causes = for {_at, cause} <- failures, cause != nil, do: cause
    assert causes == Enum.uniq(causes)
  end

  defp check_phase(state, {:open, until}, now),
    do: assert(until - now <= state.cool_down[:max])

  defp check_phase(state, {:half_open, since, probes, succeeded}, now) do
    assert since <= now
    assert succeeded < state.successes
    assert Enum.count(probes, fn {_who, due} -> due > now end) <= state.probes
  end
end
