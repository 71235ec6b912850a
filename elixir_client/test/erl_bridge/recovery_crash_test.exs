defmodule ErlBridge.RecoveryCrashTest do
  use ExUnit.Case, async: true

  alias ErlBridge.{CircuitBreaker, Error, Live, Recovery}
  alias ErlBridge.Recovery.Policy

  @moduletag :capture_log
  @patient [max_retries: 50, backoff: [min: 100, max: 500]]

  setup %{test: name} do
    start_supervised!({ErlBridge, Live.options(name: name)})
    {:ok, bridge: name}
  end

  test "an idempotent request outlives the death of its Python", %{bridge: bridge} do
    first = Live.os_pid(bridge)

    assert {:ok, %{"n" => 1}} = die_then_echo(bridge, [idempotent: true] ++ @patient)
    assert_received %{attempt: 1, error: %Error{type: :process_crashed}}
    assert Live.os_pid(bridge) != first
  end

  test "any other gets its fallback at once", %{bridge: bridge} do
    assert die_then_echo(bridge, @patient) == {:ok, :process_crashed}
    refute_received %{attempt: 1}
  end

  test "the breaker opens when Python dies, and closes when it answers again", %{bridge: bridge} do
    me = self()
    options = [failures: 1, successes: 1, cool_down: [min: 1, max: 100]]
    options = [on_change: &send(me, {&1, &2})] ++ options
    {:ok, breaker} = CircuitBreaker.handle(start_supervised!({CircuitBreaker, options}))

    policy = Policy.new([idempotent: true] ++ @patient)
    assert {:ok, %{}} = Recovery.run(&guarded(breaker, bridge, &1, &2), policy: policy)

    assert_receive {:closed, :open}
    assert_receive {:half_open, :closed}
  end

  defp die_then_echo(bridge, options) do
    Recovery.run(&request(bridge, &1, &2),
      policy: Policy.new(options),
      on_retry: &send(self(), &1),
      fallback: & &1.type
    )
  end

  defp guarded(breaker, bridge, attempt, timeout) do
    with :ok <- CircuitBreaker.ask(breaker) do
      result = request(bridge, attempt, timeout)
      CircuitBreaker.report(breaker, outcome(result))
      result
    end
  end

  defp outcome({:ok, _result}), do: :ok
  defp outcome({:error, error}), do: error

  defp request(bridge, 1, timeout), do: ErlBridge.call(bridge, :die, %{}, timeout: timeout)

  defp request(bridge, _attempt, timeout),
    do: ErlBridge.call(bridge, :echo, %{"n" => 1}, timeout: timeout)
end
