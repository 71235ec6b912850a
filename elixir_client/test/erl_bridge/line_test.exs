defmodule ErlBridge.LineTest do
  @moduledoc "What a process keeps between its requests, and that nothing of one comes to another."
  use ExUnit.Case, async: true
  doctest ErlBridge.Line

  alias ErlBridge.{Error, Line, Live, Load, Request, Route, Testing, Worker}

  defp answering(answer),
    do:
      start_supervised!({Testing, fn _type, _payload, _context -> {:ok, answer} end}, id: answer)

  # Its handler tells the test which request came, and leaves its answer to it.
  defp waiting do
    test = self()

    start_supervised!(
      {Testing,
       fn _type, _payload, context ->
         send(test, {:asked, context.ref})
         :later
       end}
    )
  end

  defp line, do: Process.get(Line)

  defp slot_of({_bridge, _edition, _route, slot}), do: slot

  defp worker(bridge) do
    {:ok, %Route{workers: {{worker, _load}}}} = Route.lookup(bridge)
    worker
  end

  defp await_monitored(pid, monitored),
    do: await(pid, :monitors, &({:process, monitored} in &1))

  # Nobody tells when that is so.
  defp await(pid, item, so?) do
    {^item, now} = Process.info(pid, item)
    unless so?.(now), do: await(pid, item, so?)
  end

  test "requests to one bridge keep the line, those to another the slot" do
    [one, other] = [answering(:one), answering(:other)]

    assert ErlBridge.call(one, :ask) == {:ok, :one}
    first = line()
    assert ErlBridge.call(one, :ask, %{}, timeout: 5_000) == {:ok, :one}
    assert line() == first

    assert ErlBridge.call(other, :ask) == {:ok, :other}
    assert {^other, _edition, _route, _slot} = line()
    assert slot_of(line()) == slot_of(first)
    assert ErlBridge.call(one, :ask) == {:ok, :one}
  end

  test "a bridge that has ended is not asked any more, nor one that has lost its name" do
    bridge = fn answer ->
      {:ok, bridge} = Testing.start_link(fn _type, _payload, _context -> {:ok, answer} end)
      bridge
    end

    [first, second, third] = Enum.map([:first, :second, :third], bridge)
    name = :line_test_bridge
    Process.register(first, name)
    assert ErlBridge.call(name, :ask) == {:ok, :first}

    :ok = ErlBridge.stop(name)
    assert {:error, %Error{type: :not_running}} = ErlBridge.call(name, :ask)
    assert {:error, %Error{type: :not_running}} = ErlBridge.call(first, :ask)

    Process.register(second, name)
    assert ErlBridge.call(name, :ask) == {:ok, :second}
    Process.unregister(name)
    Process.register(third, name)
    assert ErlBridge.call(name, :ask) == {:ok, :third}
  end

  test "a request that is not answered soon takes the line with it" do
    bridge = waiting()
    task = Task.async(fn -> {ErlBridge.call(bridge, :ask), line(), Live.mailbox()} end)
    assert_receive {:asked, ref}
    await_monitored(task.pid, worker(bridge))

    assert Testing.reply(bridge, ref, {:ok, :at_last})
    assert Task.await(task, :infinity) == {{:ok, :at_last}, nil, []}
  end

  test "the answer to one that timed out comes to nobody, nor to the next one" do
    bridge = waiting()
    assert {:error, %Error{type: :timeout_error}} = ErlBridge.call(bridge, :ask, %{}, timeout: 1)
    assert_received {:asked, late}
    assert line() == nil

    task = Task.async(fn -> ErlBridge.call(bridge, :ask) end)
    assert_receive {:asked, next}
    assert Testing.reply(bridge, next, {:ok, :mine})
    assert Task.await(task, :infinity) == {:ok, :mine}

    refute Testing.reply(bridge, late, {:ok, :late})
    assert Live.mailbox() == []
  end

  test "a handler that hears of a request and makes another takes nothing from it" do
    {outer, inner} = {answering(:outer), waiting()}
    test = self()

    # The inner one is not answered soon.
    hear = fn _event, _measurements, %{bridge: bridge}, _config ->
      if bridge == outer, do: send(test, {:inner, ErlBridge.call(inner, :ask)})
    end

    :ok = ErlBridge.Telemetry.attach(:line_test, [:erl_bridge, :request, :start], hear, nil)
    task = Task.async(fn -> ErlBridge.call(outer, :ask) end)
    assert_receive {:asked, ref}
    await_monitored(task.pid, worker(inner))
    assert Testing.reply(inner, ref, {:ok, :at_last})

    assert Task.await(task, :infinity) == {:ok, :outer}
    assert_received {:inner, {:ok, :at_last}}
    ErlBridge.Telemetry.detach(:line_test)
  end

  describe "a request that has waited until its deadline" do
    setup do
      {:ok, {route, slot}} = Line.open(answering(:too_late))
      Line.expect(slot)
      reply_to = make_ref()

      request = %Request{
        route: route,
        encoded: [],
        bytes: 1,
        options: %{},
        timeout: 1,
        deadline: System.monotonic_time(:millisecond) - 60_000,
        worker: self(),
        reply_to: reply_to,
        monitor: make_ref(),
        line: {slot, Load.new()}
      }

      %{request: request, sent: %{reply_to: reply_to, slot: slot, caller: self()}}
    end

    test "still gets the reply that somebody was about to send", %{request: request, sent: sent} do
      assert Line.take(sent.slot)

      spawn_link(fn ->
        await(sent.caller, :status, &(&1 == :waiting))
        send(sent.caller, {sent.reply_to, :done, {:ok, :in_time}})
      end)

      assert Request.await(request) == {:ok, :in_time}
    end

    test "gets none that is sent later", %{request: request, sent: sent} do
      assert {:error, %Error{type: :timeout_error}} = Request.await(request)
      assert_received {:abandon, _reply_to}
      Worker.answer(sent, {:ok, :late})
      assert Live.mailbox() == []
    end
  end

  describe "a worker that is gone" do
    setup do
      bridge = Live.start!()
      {:ok, route} = Route.lookup(bridge)
      {gone, monitor} = spawn_monitor(fn -> :ok end)
      assert_receive {:DOWN, ^monitor, :process, ^gone, :normal}
      load = Load.new()
      %{route: %{route | workers: {{gone, load}}}, gone: gone, load: load, bridge: bridge}
    end

    defp call_plainly(route, bridge) do
      {:ok, {_route, slot}} = Line.open(bridge)
      options = %{callbacks: %{}, metadata: %{}}
      deadline = ErlBridge.Deadline.after_timeout(30_000)
      times = {30_000, deadline}
      Request.call_plainly({route, slot}, bridge, :ping, %{n: 1}, options, times)
    end

    test "and had an answer for all that came to it has its request sent to another", context do
      Load.settle(context.load)
      assert call_plainly(context.route, context.bridge) == {:ok, %{n: 1}}
      assert {line(), Live.mailbox()} == {nil, []}
    end

    test "and had not may have done what it was asked", %{gone: gone} = context do
      assert {:error, %Error{type: :process_crashed, context: %{worker: ^gone}}} =
               call_plainly(context.route, context.bridge)

      assert {line(), Live.mailbox()} == {nil, []}
    end

    test "is asked nothing more once it has begun to end", context do
      Load.close(context.load)
      assert call_plainly(context.route, context.bridge) == :not_plain
    end
  end

  test "a worker that is killed at work is heard of" do
    bridge = Live.start!()
    worker = worker(bridge)
    task = Task.async(fn -> ErlBridge.call(bridge, :wait, %{}) end)
    await_monitored(task.pid, worker)
    Process.exit(worker, :kill)

    assert {:error, %Error{type: :process_crashed, context: %{worker: ^worker}}} =
             Task.await(task, :infinity)
  end

  test "a worker that fails is heard of, by who waits and in the log" do
    bridge = Live.start!()
    worker = worker(bridge)

    log =
      ExUnit.CaptureLog.capture_log(fn ->
        task = Task.async(fn -> ErlBridge.call(bridge, :wait, %{}) end)
        await_monitored(task.pid, worker)
        :sys.replace_state(worker, &%{&1 | inflight: :broken})
        send(worker, {:abandon, make_ref()})

        assert {:error, %Error{type: :process_crashed, context: %{worker: ^worker}}} =
                 Task.await(task, 60_000)

        assert {:ok, %{n: 1}} = ErlBridge.call(bridge, :ping, %{n: 1}, idempotent: true)
      end)

    assert log =~ "the worker ended: an exception was raised"
  end
end
