defmodule ErlBridge.TestingTest do
  use ExUnit.Case, async: true
  doctest ErlBridge.Testing
  doctest ErlBridge.Testing.Model

  alias ErlBridge.{Error, Live, Testing}

  test "every function of a bridge works with it" do
    bridge =
      start!(%{
        predict: fn %{inputs: %{n: n}}, _context -> {:ok, %{twice: n * 2}} end,
        optimize_signature: fn _payload, context ->
          context.event.(%{kind: :progress, done: 1})
          {:ok, %{program: %{}}}
        end,
        ask: fn _payload, context -> context.call.(:score, [3]) end
      })

    test = self()
    assert {:ok, %{twice: 8}} = ErlBridge.predict(bridge, "n -> twice", %{n: 4})
    on_progress = &send(test, {:progress, &1})

    assert {:ok, %{program: %{}}} =
             ErlBridge.optimize(bridge, "a -> b", [], on_progress: on_progress)

    assert_received {:progress, %{done: 1}}

    assert [{:event, %{done: 1}}, {:ok, %{program: %{}}}] =
             Enum.to_list(ErlBridge.stream(bridge, :optimize_signature))

    assert {:ok, 9} = ErlBridge.call(bridge, :ask, %{}, callbacks: %{score: &(&1 * &1)})
    assert {:ok, %{n: 1}} = ErlBridge.ping(bridge, %{n: 1})
    assert {:ok, :healthy} = ErlBridge.health_check(bridge)
    assert {:ok, %{protocol: 1}} = ErlBridge.hello(bridge)
    assert {:ok, [%{phase: :up, in_flight: 0}]} = ErlBridge.workers(bridge)
    assert Live.mailbox() == []
  end

  test "errors, raises, wrong answers and missing handlers are errors" do
    refused = %Error{type: :lm_error, message: "slow down", strategy: :fallback, context: %{a: 1}}

    bridge =
      start!(%{
        refuse: fn _payload, _context -> {:error, refused} end,
        raise: fn _payload, _context -> raise "no" end,
        wrong: fn _payload, _context -> :what end
      })

    assert ErlBridge.call(bridge, :refuse) == {:error, refused}
    assert {:error, %Error{type: :python_runtime_error} = raised} = ErlBridge.call(bridge, :raise)
    assert raised.message == "** (RuntimeError) no"
    assert {:error, %Error{message: wrong}} = ErlBridge.call(bridge, :wrong)
    assert wrong =~ "got: :what"
    assert {:error, %Error{type: :unknown_request}} = ErlBridge.call(bridge, :nothing)
  end

  test "an answer comes when the test gives it, unless the request was cancelled" do
    test = self()

    later = fn _payload, context ->
      send(test, {:asked, context.ref})
      :later
    end

    bridge = start!(%{wait: later})
    {:ok, request} = ErlBridge.async(bridge, :wait)
    assert_receive {:asked, ref}
    assert Testing.reply(bridge, ref, {:ok, 7})
    assert {:ok, 7} = ErlBridge.await(request)

    {:ok, request} = ErlBridge.async(bridge, :wait)
    assert_receive {:asked, ref}
    assert {:ok, true} = ErlBridge.cancel(bridge, request)
    assert {:error, %Error{type: :cancelled}} = ErlBridge.await(request)
    refute Testing.reply(bridge, ref, {:ok, 7})
    assert {:ok, [%{in_flight: 0}]} = ErlBridge.workers(bridge)
  end

  test "bridges know nothing of each other" do
    [one, two] = for n <- 1..2, do: start!(%{n: fn _payload, _context -> {:ok, n} end}, n)

    assert {:ok, 1} = ErlBridge.call(one, :n, %{of: :one})
    assert {:ok, 2} = ErlBridge.call(two, :n)
    assert [%{request_type: :n, payload: %{of: :one}}] = Testing.requests(one)
    assert [%{payload: payload}] = Testing.requests(two)
    assert payload == %{}
  end

  test "one may have a name" do
    start_supervised!(
      {Testing, {%{n: fn _payload, _context -> {:ok, 1} end}, name: __MODULE__.Named}}
    )

    assert {:ok, 1} = ErlBridge.call(__MODULE__.Named, :n)
    assert [%{request_type: :n}] = Testing.requests(__MODULE__.Named)
  end

  test "one function may answer all types" do
    bridge = start!(fn type, payload, _context -> {:ok, {type, payload}} end)
    assert {:ok, {:anything, %{a: 1}}} = ErlBridge.call(bridge, :anything, %{a: 1})
  end

  defp start!(handlers, id \\ 1),
    do: start_supervised!(Supervisor.child_spec({Testing, handlers}, id: id))
end
