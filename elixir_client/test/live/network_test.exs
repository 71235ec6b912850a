defmodule ErlBridge.NetworkTest do
  @moduledoc "Nodes on several hosts, and what becomes of requests when a cable between them is cut, of which nobody is told."
  use ExUnit.Case, async: true

  alias ErlBridge.{ClusterNodes, Error, Hosts}

  import ClusterNodes, only: [on: 4]

  @moduletag skip: ClusterNodes.obstacle() || Hosts.obstacle()
  @cluster ClusterNodes.cluster()

  # Who is cut off is missed after one and a half to two and a half seconds, and tried again all the time.
  @tick_time 2
  @beam ~w(-kernel net_ticktime #{@tick_time} net_setuptime 1 prevent_overlapping_partitions false)
  @python ~w(--tick-time #{@tick_time})
  # Who is silent is not chosen; on a busy machine one is for a while.
  @join [load_interval: 20, silent_after: 1_000, reconnect: [min: 1, max: 50]]
  # Where the end of a connection must come from nothing else.
  @no_tick_time 3_600

  # `a` and `b` are BEAMs with a bridge, each on a host of its own; `c` is one without, on the host of a node that is Python. `out`
  # is a Python on the host of `b` which nobody can connect to; it has dialled `a`, and is used from there alone.
  setup_all do
    hosts = [host_a, host_b, host_c] = Hosts.start!(3)
    epmd = ClusterNodes.start_epmd!(hosts)
    [a, b, c] = for host <- hosts, do: ClusterNodes.start_beam!(epmd, host, @beam)
    [py, out] = [ClusterNodes.python_name(host_c), ClusterNodes.python_name(host_b)]
    ClusterNodes.start_python!(epmd, py, ["--host", host_c.address | @python], host_c)
    ClusterNodes.start_python!(epmd, out, ["--connect", to_string(a.name) | @python], host_b)

    context = %{
      a: a,
      b: b,
      c: c,
      py: py,
      out: out,
      host_a: host_a,
      host_b: host_b,
      host_c: host_c
    }

    join!(context)
    context
  end

  setup %{host_a: host_a, host_b: host_b, host_c: host_c} = context do
    on_exit(fn ->
      for host <- [host_a, host_b, host_c], do: Hosts.plug(host)
      Hosts.part([host_a, host_b], :off)
    end)

    await_nothing_left(context)
    %{held: held_for_others(context)}
  end

  test "a cable that is out for less than the tick time costs nothing", %{a: a, b: b} = context do
    without_ticks([a, b], fn ->
      on(a, ClusterNodes, :wait, [:waiting, [node: b.name]])
      peers = on(a, ClusterNodes, :peers_of, [[b.name]])
      Hosts.unplug(context.host_b)
      on(a, ClusterNodes, :await_phase, [b.name, :silent])
      late = Task.async(fn -> call(a, :echo, %{n: 1}, node: b.name) end)
      Hosts.plug(context.host_b)
      assert {:ok, %{n: 1}} = Task.await(late, :infinity)
      assert {:ok, true} = on(a, ErlBridge, :cancel, [@cluster, :waiting])
      assert {:error, %Error{type: :cancelled}} = on(a, ClusterNodes, :result_of, [:waiting])
      assert stopped(a, b.name, 1) == ["waiting"]
      assert on(a, ClusterNodes, :peers_of, [[b.name]]) == peers
      await_nothing_left(context)
    end)
  end

  test "a BEAM that is cut off: what it had is lost or repeated, and both sides go on", context do
    %{a: a, b: b, c: c, py: py, out: out} = context
    [of_a, of_b] = for beam <- [a, b], do: on(beam, ClusterNodes, :os_pid, [[node: beam.name]])

    on(a, ClusterNodes, :wait, [:once, [node: b.name]])
    on(a, ClusterNodes, :wait, [:flood, [node: b.name], :flood])
    on(a, ClusterNodes, :wait_in_function, [:asked, :function, [node: b.name]])
    on(a, ClusterNodes, :put_endless, [:rows, 1_000, [node: b.name]])
    on(a, ClusterNodes, :wait, [:to_out, [node: out]])
    again(a, b.name, of_b)
    on(b, ClusterNodes, :wait, [:from_b, [node: a.name]])
    on(b, ClusterNodes, :wait, [:from_b_too, [node: py]])
    again(b, a.name, of_a)

    Hosts.unplug(context.host_b)

    for name <- [:once, :flood, :asked],
        do: assert_lost(on(a, ClusterNodes, :result_of, [name]), b.name)

    assert_gone(on(a, ClusterNodes, :result_of, [:rows]), b.name)

    assert_lost(on(a, ClusterNodes, :result_of, [:to_out]), out)
    assert {:ok, os_pid} = on(a, ClusterNodes, :result_of, [:again])
    assert os_pid != of_b
    on(a, ClusterNodes, :await_end, [:function])

    assert_lost(on(b, ClusterNodes, :result_of, [:from_b]), a.name)
    assert_lost(on(b, ClusterNodes, :result_of, [:from_b_too]), py)
    assert {:ok, ^of_b} = on(b, ClusterNodes, :result_of, [:again])

    # Each side has the work of the other one stopped, and serves.
    assert stopped(a, a.name, 2) == ["again", "from_b"]
    assert stopped(b, b.name, 3) == ["again", "flood", "once"]
    assert stopped(c, py, 1) == ["from_b_too"]
    for beam <- [a, c], do: on(beam, ClusterNodes, :await_phase, [b.name, :unknown])
    assert {:ok, %{n: 1}} = call(c, :echo, %{n: 1}, [])

    Hosts.plug(context.host_b)
    await_nothing_left(context)
    assert stopped(a, out, 1) == ["to_out"]
    assert held_for_others(context) == context.held
  end

  test "a Python node that is cut off stops what it cannot give to anybody", context do
    %{a: a, b: b, c: c, py: py} = context
    os_pid = on(a, ClusterNodes, :os_pid, [[node: py]])
    on(a, ClusterNodes, :wait, [:once, [node: py]])
    on(a, ClusterNodes, :wait, [:flood, [node: py], :flood])
    on(a, ClusterNodes, :wait_in_function, [:asked, :function, [node: py]])
    on(a, ClusterNodes, :put_endless, [:rows, 1_000, [node: py]])
    on(b, ClusterNodes, :wait, [:from_b, [node: py]])
    again(a, py, os_pid)
    on(c, ClusterNodes, :wait, [:near, [node: py]])

    Hosts.unplug(context.host_c)

    for name <- [:once, :flood, :asked],
        do: assert_lost(on(a, ClusterNodes, :result_of, [name]), py)

    assert_gone(on(a, ClusterNodes, :result_of, [:rows]), py)

    assert_lost(on(b, ClusterNodes, :result_of, [:from_b]), py)
    assert {:ok, other} = on(a, ClusterNodes, :result_of, [:again])
    assert other != os_pid
    on(a, ClusterNodes, :await_end, [:function])

    assert stopped(c, py, 4) == ["again", "flood", "from_b", "once"]
    assert %{"Connection" => 1} = held_for_others(context)

    Hosts.plug(context.host_c)
    for beam <- [a, b], do: on(beam, ClusterNodes, :await_up, [[py]])
    assert on(a, ClusterNodes, :os_pid, [[node: py]]) == os_pid
    assert {:ok, true} = on(c, ErlBridge, :cancel, [@cluster, :near])
    assert {:error, %Error{type: :cancelled}} = on(c, ClusterNodes, :result_of, [:near])
    assert stopped(c, py, 1) == ["near"]
    await_nothing_left(context)
    assert held_for_others(context) == context.held
  end

  test "a Python node that is cut off while much is sent to it is missed as well", context do
    %{a: a, py: py} = context

    # It is not missed before all this has been done.
    without_ticks([a], fn ->
      Hosts.unplug(context.host_c)
      on(a, ClusterNodes, :send_large, [:sent, 20_000_000, [node: py]])
      on(a, ClusterNodes, :await_peer_suspended, [py])
    end)

    assert_lost(on(a, ClusterNodes, :result_of, [:sent]), py)
    Hosts.plug(context.host_c)
    await_nothing_left(context)
  end

  test "two hosts that do not see each other both serve the one that sees them", context do
    %{a: a, b: b, c: c, py: py} = context
    peers = on(c, ClusterNodes, :peers_of, [[a.name, b.name, py]])
    on(a, ClusterNodes, :wait, [:once, [node: b.name]])
    for node <- [a.name, b.name], do: on(c, ClusterNodes, :wait, [node, [node: node]])

    Hosts.part([context.host_a, context.host_b], :on)
    assert_lost(on(a, ClusterNodes, :result_of, [:once]), b.name)
    on(b, ClusterNodes, :await_phase, [a.name, :unknown])

    for node <- [a.name, b.name, py],
        do: assert({:ok, %{n: 1}} = call(c, :echo, %{n: 1}, node: node))

    for node <- [a.name, b.name] do
      assert {:ok, true} = on(c, ErlBridge, :cancel, [@cluster, node])
      assert {:error, %Error{type: :cancelled}} = on(c, ClusterNodes, :result_of, [node])
    end

    Hosts.part([context.host_a, context.host_b], :off)
    await_nothing_left(context)
    assert on(c, ClusterNodes, :peers_of, [[a.name, b.name, py]]) == peers
    assert stopped(a, a.name, 1) == [to_string(a.name)]
    assert stopped(b, b.name, 2) == Enum.sort(["once", to_string(b.name)])
  end

  test "a host that takes no more holds up no other", %{a: a, b: b, c: c} = context do
    without_ticks([a, b], fn ->
      on(a, ClusterNodes, :wait, [:flood, [node: b.name], :flood])
      Hosts.unplug(context.host_a)
      on(b, ClusterNodes, :await_courier_suspended, [])
      on(b, ClusterNodes, :ask_door, [a.name])
      assert {:ok, %{n: 1}} = call(c, :echo, %{n: 1}, node: b.name, timeout: 10_000)
      Hosts.plug(context.host_a)
      assert {:ok, true} = on(a, ErlBridge, :cancel, [@cluster, :flood])
      assert {:error, %Error{type: :cancelled}} = on(a, ClusterNodes, :result_of, [:flood])
      assert stopped(a, b.name, 1) == ["flood"]
      await_nothing_left(context)
    end)
  end

  test "what still waits to be sent to a host that is cut off goes to another one", context do
    %{a: a, b: b} = context

    without_ticks([a, b], fn ->
      Hosts.unplug(context.host_b)
      on(a, ClusterNodes, :send_large, [:sent, 20_000_000, [node: b.name]])
      on(a, ClusterNodes, :await_peer_suspended, [b.name])
      on(a, ClusterNodes, :await_phase, [b.name, :silent])
      waits = Task.async(fn -> call(a, :echo, %{n: 1}, node: b.name, max_retries: 0) end)
      on(a, ClusterNodes, :await_mailbox, [b.name])
      # What is sent to a node that is being connected again may arrive there.
      on(a, ClusterNodes, :connector, [:suspend])
      true = on(a, Node, :disconnect, [b.name])
      assert_lost(on(a, ClusterNodes, :result_of, [:sent]), b.name)

      assert {:error, %Error{type: :not_running, context: %{sent: false}}} =
               Task.await(waits, :infinity)

      on(a, ClusterNodes, :connector, [:resume])
      Hosts.plug(context.host_b)
      await_nothing_left(context)
    end)
  end

  test "rows of a node that is cut off are sent to another one", %{a: a, b: b, c: c} = context do
    on_exit(fn -> join!(context) end)
    names = [a.name, b.name, c.name]

    for beam <- [b, c],
        do: ClusterNodes.join!(beam, [], [nodes: names, bridge_options: :held] ++ @join)

    ClusterNodes.join!(a, [b.name, c.name], [nodes: names, bridge_options: nil] ++ @join)
    on(a, ClusterNodes, :wait, [:busy, [node: c.name]])
    on(a, ClusterNodes, :evaluate, [:moved, 50])
    assert {b.name, 50} == on(a, ClusterNodes, :held, [:moved, nil])
    Hosts.unplug(context.host_b)
    assert {c.name, 50} == on(a, ClusterNodes, :held, [:moved, b.name])
    Hosts.plug(context.host_b)
    for name <- [:busy, :moved], do: on(a, ClusterNodes, :kill, [name])
  end

  defp join!(%{a: a, b: b, c: c, py: py, out: out} = context) do
    join = [nodes: [a.name, b.name, c.name]] ++ @join
    ClusterNodes.join!(a, [], [python_nodes: [py, out]] ++ join)
    ClusterNodes.join!(b, [], [python_nodes: [py]] ++ join)
    ClusterNodes.join!(c, [], [python_nodes: [py], bridge_options: nil] ++ join)
    await_nothing_left(context)
  end

  # Everybody is there for everybody, and nobody waits for anything.
  defp await_nothing_left(%{a: a, b: b, c: c, py: py, out: out}) do
    nodes = [a.name, b.name, py]
    on(a, ClusterNodes, :await_nothing_left, [[out | nodes]])
    for beam <- [b, c], do: on(beam, ClusterNodes, :await_nothing_left, [nodes])
  end

  # What the node that is Python holds.
  defp held_for_others(%{c: c, py: py}) do
    {:ok, held} = call(c, :held_for_others, %{}, node: py)
    held
  end

  # A request that may be repeated, which is on that node first.
  defp again(beam, node, os_pid) do
    options = [session: home(beam, os_pid), idempotent: true]
    on(beam, ClusterNodes, :wait, [:again, options, :hold, %{"os_pid" => os_pid}])
    assert {:ok, %{os_pid: ^os_pid}} = call(beam, :health_check, %{}, node: node)
  end

  # The next requests that were stopped in the Python of that node.
  defp stopped(beam, node, count) do
    stopped = for _n <- 1..count, do: call(beam, :stopped, %{}, node: node)
    Enum.sort(for {:ok, label} <- stopped, do: label)
  end

  # A session that is that process's, as long as it is there.
  defp home(beam, os_pid) do
    sessions = Enum.to_list(1..64)
    met = on(beam, ClusterNodes, :os_pids, [sessions])
    Enum.at(sessions, Enum.find_index(met, &(&1 == os_pid)))
  end

  defp assert_lost(result, node) do
    assert {:error, %Error{type: :process_crashed, context: %{node: ^node}}} = result
  end

  # The retries of a transfer have found that its node is not there.
  defp assert_gone(result, node) do
    assert {:error, %Error{type: :not_running, context: %{sent: false, nodes: nodes}}} = result
    assert nodes[node] in [:down, nil]
  end

  defp call(beam, request_type, payload, options),
    do: on(beam, ErlBridge, :call, [@cluster, request_type, payload, options])

  # These BEAMs take nobody for gone meanwhile.
  defp without_ticks(beams, run) do
    for beam <- beams, do: on(beam, :net_kernel, :set_net_ticktime, [@no_tick_time, 0])
    run.()
  after
    for beam <- beams, do: on(beam, :net_kernel, :set_net_ticktime, [@tick_time, 0])
  end
end
