defmodule ErlBridge.ClusterTest do
  @moduledoc "BEAMs and Python nodes as one, and what becomes of requests when some of them are killed."
  use ExUnit.Case, async: true

  alias ErlBridge.{Cluster, ClusterNodes, Dataset, Error, OsProcess}

  import ClusterNodes, only: [begin: 4, on: 4]

  @moduletag skip: ClusterNodes.obstacle()
  @cluster ClusterNodes.cluster()

  # Two BEAMs with a bridge, one without, and two nodes that are Python; and two BEAMs that join anew
  # in each test that is about the end of something.
  setup_all do
    epmd = ClusterNodes.start_epmd!()
    [a, b, c, d, e] = for _n <- 1..5, do: ClusterNodes.start_beam!(epmd)
    [py1, py2] = pythons = for _n <- 1..2, do: ClusterNodes.python_name()
    limit = ["--max-frame", "1048576"]
    os_pids = Map.new(pythons, &{&1, ClusterNodes.start_python!(epmd, &1, limit)})

    ClusterNodes.join!(a, pythons, python_nodes: pythons)
    ClusterNodes.join!(b, [a.name | pythons], python_nodes: pythons, connect: [a.name])
    others = [a.name, b.name]
    alone = [bridge_options: nil, python_nodes: pythons, connect: others]
    ClusterNodes.join!(c, others ++ pythons, alone)
    on(a, ClusterNodes, :await_up, [[b.name]])

    %{epmd: epmd, a: a, b: b, c: c, d: d, e: e, py1: py1, py2: py2, os_pids: os_pids}
  end

  describe "the nodes" do
    test "are known on each, with what serves there", %{a: a, b: b, c: c, py1: py1, py2: py2} do
      python = %{py1 => {:python, :up, 1}, py2 => {:python, :up, 1}}
      seen_by_a = %{a.name => {:local, :up, 1}, b.name => {:bridge, :up, 1}}
      seen_by_c = %{a.name => {:bridge, :up, 1}, b.name => {:bridge, :up, 1}}

      assert kinds(a) == Map.merge(python, seen_by_a)
      assert kinds(c) == Map.merge(python, seen_by_c)
    end

    test "are asked one by one for what is of one bridge", %{c: c} do
      for {function, more} <- [hello: [], workers: [], resize: [2], rolling_restart: []] do
        assert {:error, %Error{type: :invalid_request} = error} =
                 on(c, ErlBridge, function, [@cluster | more])

        assert error.message =~ "is a cluster; ask one of its bridges"
      end

      assert {:ok, :healthy} = on(c, ErlBridge, :health_check, [@cluster])
    end
  end

  describe "a request" do
    test "is served by the own bridge first", %{a: a} do
      own = on(a, ClusterNodes, :os_pid, [[node: a.name]])
      for _n <- 1..5, do: assert(on(a, ClusterNodes, :os_pid, [[]]) == own)
    end

    test "gets to every node, and telemetry says to which", context do
      %{a: a, b: b, c: c, py1: py1, py2: py2} = context
      term = %{1 => [self(), make_ref(), 1.5, "é", <<255>>], b: {nil, :é, ~D[2024-02-29]}}

      for node <- [a.name, b.name, py1, py2] do
        assert {{:ok, ^term}, [%{node: ^node, result: :ok, bridge: @cluster}]} =
                 on(c, ClusterNodes, :told, [:echo, term, [node: node]])
      end

      for {node, os_pid} <- context.os_pids,
          do: assert(on(c, ClusterNodes, :os_pid, [[node: node]]) == os_pid)
    end

    test "has its events in order, and nothing comes later", %{b: b, c: c, py1: py1} do
      for node <- [b.name, py1] do
        {result, events, messages} =
          on(c, ClusterNodes, :with_events, [:count, %{"to" => 3}, [node: node]])

        assert result == {:ok, "counted"}
        assert [%{"n" => 0}, %{"n" => 1}, %{"n" => 2}, %{kind: :stream, text: "last"}] = events
        assert messages == 4
      end
    end

    test "has its functions called where its caller is", %{b: b, c: c, py1: py1} do
      callbacks = %{"twice" => &ClusterNodes.twice/1, words: &ClusterNodes.words/1}

      for node <- [b.name, py1] do
        call = &on(c, ErlBridge, :call, [@cluster, &1, &2, [node: node, callbacks: callbacks]])
        each = %{"name" => "twice", "items" => [1, 2, 3]}
        assert {:ok, answers} = call.(:ask_all, each)
        assert answers == for(n <- 1..3, do: {c.name, n * 2})

        missing = %{"name" => "thrice", "args" => [1]}
        assert {:error, %Error{type: :callback_error} = error} = call.(:ask, missing)
        assert error.message =~ "there is no callback named thrice"
      end
    end

    test "that fails in Python has the error of Python", %{b: b, c: c, py1: py1} do
      for node <- [b.name, py1] do
        assert {:error, %Error{type: :python_runtime_error, python_type: "ValueError"}} =
                 call(c, :fail, %{"message" => "no"}, node: node)

        assert {:error, %Error{type: :unknown_request}} = call(c, :nothing, %{}, node: node)
      end

      large = %{"large" => :binary.copy("x", 1_100_000)}
      assert {:error, %Error{type: :serialization_error}} = call(c, :echo, large, node: py1)
      assert {:ok, ^large} = call(c, :echo, large, node: b.name)
    end

    test "ends by its deadline, and the work with it", %{b: b, c: c, py1: py1} do
      for node <- [b.name, py1] do
        expire(c, node, 50)
        assert {:ok, "late"} = call(c, :stopped, %{}, node: node)
      end
    end

    # A handler that has not begun by then is not stopped: it has more time the next time.
    defp expire(beam, node, timeout) do
      options = [node: node, timeout: timeout, metadata: %{"label" => "late"}, max_retries: 0]
      {result, events, _messages} = on(beam, ClusterNodes, :with_events, [:wait, %{}, options])
      assert {:error, %Error{type: :timeout_error}} = result
      if events == [], do: expire(beam, node, 2 * timeout)
    end

    test "of a caller that dies is cancelled", %{b: b, c: c, py1: py1} do
      for node <- [b.name, py1] do
        on(c, ClusterNodes, :wait, [:dying, [node: node]])
        on(c, ClusterNodes, :kill, [:dying])
        assert {:ok, "dying"} = call(c, :stopped, %{}, node: node)
        on(c, ClusterNodes, :await_load, [node, 0])
      end
    end

    test "is cancelled by its name, on the node that it came from", context do
      %{a: a, b: b, c: c, py1: py1} = context

      for node <- [b.name, py1] do
        on(c, ClusterNodes, :wait, [:named, [node: node]])
        assert {:ok, false} = on(a, ErlBridge, :cancel, [@cluster, :named])
        assert {:ok, true} = on(c, ErlBridge, :cancel, [@cluster, :named])
        assert {:error, %Error{type: :cancelled}} = on(c, ClusterNodes, :result_of, [:named])
        assert {:ok, false} = on(c, ErlBridge, :cancel, [@cluster, :named])
        assert {:ok, "named"} = call(c, :stopped, %{}, node: node)
      end
    end

    test "may be one that nobody waits for", %{b: b, c: c, py1: py1} do
      for node <- [b.name, py1] do
        fill = [@cluster, :fill, %{"value" => 7}, [node: node]]
        assert :ok = on(c, ErlBridge, :cast, fill)
        assert {:ok, 7} = call(c, :filled, %{}, node: node)
        on(c, ClusterNodes, :await_load, [node, 0])
      end
    end

    test "for a node that is not there says which ones are", %{c: c, py1: py1} do
      options = [node: :nobody@nowhere, max_retries: 0]
      assert {:error, %Error{type: :not_running} = error} = call(c, :echo, %{}, options)
      assert %{sent: false, nodes: %{^py1 => :up}} = error.context
    end
  end

  describe "load" do
    test "of all nodes counts: the one with the least to do is taken", context do
      %{a: a, b: b, c: c, py1: py1, py2: py2, os_pids: os_pids} = context
      busy = [{:one, a.name}, {:two, b.name}, {:three, py1}]
      for {name, node} <- busy, do: on(b, ClusterNodes, :wait, [name, [node: node]])
      for {_name, node} <- busy, do: on(c, ClusterNodes, :await_load, [node, 1])
      on(c, ClusterNodes, :await_load, [py2, 0])
      for _n <- 1..3, do: assert(on(c, ClusterNodes, :os_pid, [[]]) == os_pids[py2])

      for {name, node} <- busy do
        on(b, ClusterNodes, :kill, [name])
        assert {:ok, _label} = call(c, :stopped, %{}, node: node)
      end
    end

    test "of the own bridge may be so much greater than that of others", %{a: a} = context do
      for node <- [context.b.name, context.py1, context.py2],
          do: on(a, ClusterNodes, :await_load, [node, 0])

      own = on(a, ClusterNodes, :os_pid, [[node: a.name]])
      names = [:w1, :w2, :w3, :w4, :w5]
      for name <- tl(names), do: on(a, ClusterNodes, :wait, [name, [node: a.name]])
      assert on(a, ClusterNodes, :os_pid, [[]]) == own
      on(a, ClusterNodes, :wait, [hd(names), [node: a.name]])
      assert on(a, ClusterNodes, :os_pid, [[]]) != own

      for name <- names do
        on(a, ClusterNodes, :kill, [name])
        assert {:ok, _label} = call(a, :stopped, %{}, node: a.name)
      end
    end
  end

  test "all of a session meet one Python, whichever node they come from", %{a: a, b: b, c: c} do
    sessions = Enum.to_list(1..24)
    [of_a, of_b, of_c] = for beam <- [a, b, c], do: on(beam, ClusterNodes, :os_pids, [sessions])
    assert of_a == of_b and of_b == of_c
    assert of_a |> Enum.uniq() |> length() == 4
  end

  test "a dataset is on one node, and what is given it goes there", context do
    %{a: a, c: c, py1: py1} = context
    rows = for n <- 1..2_000, do: %{"n" => n}

    for node <- [a.name, py1] do
      put = [@cluster, rows, [node: node, digest: :first]]

      assert {:ok, %Dataset{rows: 2_000, node: ^node} = dataset} =
               on(c, ErlBridge, :put_dataset, put)

      assert dataset.sent_bytes > 0
      assert {:ok, %Dataset{rows: 2_000}} = on(c, ErlBridge, :get_dataset, [@cluster, dataset])
      payload = %{"rows" => Dataset.ref(dataset)}
      assert {:ok, 2_000} = call(c, :count_rows, payload, node: node)

      assert {:error, %Error{type: :invalid_request}} =
               call(c, :count_rows, payload, node: context.py2)
    end

    # Without a node the best one gets all of it.
    assert {:ok, %Dataset{node: node} = dataset} =
             on(c, ErlBridge, :put_dataset, [@cluster, [%{"n" => 1}]])

    assert {:ok, 1} = call(c, :count_rows, %{"rows" => Dataset.ref(dataset)}, node: node)
  end

  # A BEAM with a bridge is the other node for one that has none, beside a node that is Python.
  describe "a BEAM with a bridge" do
    setup :leave_each_other

    test "that is killed costs what it had, but what may be repeated", context do
      %{e: e, py1: py1, os_pids: os_pids} = context
      doomed = ClusterNodes.start_beam!(context.epmd)
      pair!(doomed, context)
      hold = %{"os_pid" => on(e, ClusterNodes, :os_pid, [[node: doomed.name]])}
      on(e, ClusterNodes, :wait, [:once, [node: doomed.name]])
      again = [session: home(e, doomed.name), idempotent: true]
      on(e, ClusterNodes, :wait, [:again, again, :hold, hold])
      kill(doomed)

      assert {:error, %Error{type: :process_crashed} = error} =
               on(e, ClusterNodes, :result_of, [:once])

      assert error.context.node == doomed.name
      assert {:ok, os_pids[py1]} == on(e, ClusterNodes, :result_of, [:again])
      assert kinds(e) == %{py1 => {:python, :up, 1}}
    end

    test "that is killed takes no rows with it: they are sent to another one", context do
      %{d: d, e: e} = context
      doomed = ClusterNodes.start_beam!(context.epmd)
      for beam <- [d, doomed], do: ClusterNodes.join!(beam, [], bridge_options: :held)
      both = [doomed.name, d.name]
      ClusterNodes.join!(e, both, bridge_options: nil, connect: both)
      on(e, ClusterNodes, :wait, [:busy, [node: d.name]])
      on(e, ClusterNodes, :evaluate, [:moved, 50])
      assert {doomed.name, 50} == on(e, ClusterNodes, :held, [:moved, nil])
      kill(doomed)
      assert {d.name, 50} == on(e, ClusterNodes, :held, [:moved, doomed.name])
      for name <- [:busy, :moved], do: on(e, ClusterNodes, :kill, [name])
    end

    test "that is killed has what it asked for cancelled", %{d: d, py1: py1} = context do
      doomed = ClusterNodes.start_beam!(context.epmd)
      pair!(d, Map.put(context, :e, doomed))
      asked = [{:gone_here, d.name}, {:gone_there, py1}]
      for {name, node} <- asked, do: on(doomed, ClusterNodes, :wait, [name, [node: node]])
      kill(doomed)
      assert {:ok, "gone_here"} = call(d, :stopped, %{}, [])
      assert {:ok, "gone_there"} = call(context.a, :stopped, %{}, node: py1)
    end

    test "whose Python is killed is one among others", %{d: d, e: e} = context do
      pair!(d, context)
      hold = %{"os_pid" => on(e, ClusterNodes, :os_pid, [[node: d.name]])}
      on(e, ClusterNodes, :wait, [:once, [node: d.name]])
      again = [session: home(e, d.name), idempotent: true]
      on(e, ClusterNodes, :wait, [:again, again, :hold, hold])
      OsProcess.signal(hold["os_pid"], "KILL")
      assert {:error, %Error{type: :process_crashed}} = on(e, ClusterNodes, :result_of, [:once])
      assert {:ok, other} = on(e, ClusterNodes, :result_of, [:again])
      assert other != hold["os_pid"]
      on(e, ClusterNodes, :await_up, [[d.name]])
      new = on(e, ClusterNodes, :os_pid, [[node: d.name]])
      assert new not in [hold["os_pid"] | Map.values(context.os_pids)]
    end

    test "that leaves finishes what it has, and gets no more", %{d: d, e: e} = context do
      pair!(d, context)
      on(e, ClusterNodes, :wait, [:last, [node: d.name]])
      leaving = begin(d, ClusterNodes, :leave, [])
      on(e, ClusterNodes, :await_phase, [d.name, :unknown])

      for _n <- 1..3,
          do: assert(on(e, ClusterNodes, :os_pid, [[]]) == context.os_pids[context.py1])

      assert {:ok, true} = on(e, ErlBridge, :cancel, [@cluster, :last])
      assert {:error, %Error{type: :cancelled}} = on(e, ClusterNodes, :result_of, [:last])
      assert :ok = Task.await(leaving, :infinity)
    end

    test "whose bridge has stopped takes no requests from others", %{d: d, e: e} = context do
      pair!(d, context)
      # Others know of it only when they ask again, and that is not soon.
      ClusterNodes.join!(e, [d.name, context.py1], alone(d, context, load_interval: 86_400_000))
      session = home(e, d.name)
      :ok = on(d, ClusterNodes, :stop_bridge, [])
      # The door has not taken it, so another node has.
      assert on(e, ClusterNodes, :os_pid, [[session: session]]) == context.os_pids[context.py1]

      assert {:error, %Error{type: :not_running} = error} =
               call(e, :echo, %{}, node: d.name, max_retries: 0)

      assert error.context == %{sent: false, nodes: %{d.name => :down, context.py1 => :up}}
    end
  end

  describe "a node that is Python" do
    setup :leave_each_other

    setup %{epmd: epmd, e: e} do
      [one, two] = names = for _n <- 1..2, do: ClusterNodes.python_name()
      [os_pid, other] = for name <- names, do: ClusterNodes.start_python!(epmd, name)

      ClusterNodes.join!(e, names,
        bridge_options: nil,
        python_nodes: names,
        reconnect: [min: 1, max: 20],
        silent_after: 2_000,
        max_in_flight: 2
      )

      %{one: one, two: two, os_pid: os_pid, other: other}
    end

    test "that is killed costs what it had, and is used again when it is back", context do
      %{e: e, one: one, two: two, os_pid: os_pid, other: other} = context
      on(e, ClusterNodes, :wait, [:once, [node: one]])
      again = [session: home(e, one), idempotent: true]
      on(e, ClusterNodes, :wait, [:again, again, :hold, %{"os_pid" => os_pid}])
      OsProcess.signal(os_pid, "KILL")

      assert {:error, %Error{type: :process_crashed, context: %{node: ^one}}} =
               on(e, ClusterNodes, :result_of, [:once])

      assert {:ok, ^other} = on(e, ClusterNodes, :result_of, [:again])
      OsProcess.signal(other, "KILL")
      on(e, ClusterNodes, :await_phase, [two, :down])
      assert {:error, %Error{type: :not_running} = error} = call(e, :echo, %{}, max_retries: 0)
      assert error.context == %{sent: false, nodes: %{one => :down, two => :down}}

      new = ClusterNodes.start_python!(context.epmd, one)
      on(e, ClusterNodes, :await_up, [[one]])
      assert on(e, ClusterNodes, :os_pid, [[]]) == new
    end

    test "that dials out is used as soon as it is there", %{epmd: epmd, e: e} do
      name = ClusterNodes.python_name()
      pause = [min: 3_600_000, max: 3_600_000]
      alone = [bridge_options: nil, python_nodes: [name], reconnect: pause]
      ClusterNodes.join!(e, [], alone)
      on(e, ClusterNodes, :await_phase, [name, :down])
      on(e, ClusterNodes, :hear_of_nodes, [])

      for _n <- 1..2 do
        os_pid = ClusterNodes.start_python!(epmd, name, ["--connect", to_string(e.name)])
        on(e, ClusterNodes, :await_up, [[name]])
        assert on(e, ClusterNodes, :os_pid, [[]]) == os_pid
        OsProcess.signal(os_pid, "KILL")
        on(e, ClusterNodes, :await_phase, [name, :down])
      end

      about = %{bridge: @cluster, node: name, kind: :python}
      told = on(e, ClusterNodes, :told_of_nodes, [4])
      assert [{:node_up, one, ^about}, {:node_down, one, down}, {:node_up, one, ^about}, _] = told
      assert {one, Map.delete(down, :reason)} == {%{count: 1}, about}
      assert is_map_key(down, :reason)
    end

    test "that does not answer is the last to be asked", context do
      %{e: e, one: one, os_pid: os_pid, other: other} = context
      OsProcess.signal(os_pid, "STOP")
      on(e, ClusterNodes, :await_phase, [one, :silent])
      for _n <- 1..3, do: assert(on(e, ClusterNodes, :os_pid, [[]]) == other)
      OsProcess.signal(os_pid, "CONT")
      on(e, ClusterNodes, :await_phase, [one, :up])
    end

    test "has no more from here than it may have", %{e: e, one: one, two: two} do
      waiting = for node <- [one, two], n <- 1..2, do: {:"#{node}#{n}", node}
      for {name, node} <- waiting, do: on(e, ClusterNodes, :wait, [name, [node: node]])

      assert {:error, %Error{type: :overloaded, strategy: :retry} = error} =
               call(e, :echo, %{}, max_retries: 0)

      assert Enum.sort(error.context.nodes) == Enum.sort([one, two])
      assert {:ok, :healthy} = on(e, ErlBridge, :health_check, [@cluster])

      [{name, _node} | _others] = waiting
      on(e, ErlBridge, :cancel, [@cluster, name])
      assert {:ok, %{}} = call(e, :echo, %{}, [])
    end
  end

  defp leave_each_other(%{d: d, e: e}) do
    for beam <- [d, e], do: on(beam, ClusterNodes, :quit, [])
    :ok
  end

  # `d` with a bridge, and the `e` of the context without, which uses that and a node that is Python.
  defp pair!(d, context) do
    ClusterNodes.join!(d, [])
    ClusterNodes.join!(context.e, [d.name, context.py1], alone(d, context, []))
  end

  defp alone(d, context, options),
    do: [bridge_options: nil, python_nodes: [context.py1], connect: [d.name]] ++ options

  defp call(beam, request_type, payload, options),
    do: on(beam, ErlBridge, :call, [@cluster, request_type, payload, options])

  defp kinds(beam) do
    {:ok, nodes} = on(beam, Cluster, :nodes, [@cluster])
    Map.new(nodes, &{&1.node, {&1.kind, &1.phase, &1.workers}})
  end

  # A session that is that node's, as long as it is there.
  defp home(beam, node) do
    os_pid = on(beam, ClusterNodes, :os_pid, [[node: node]])
    sessions = Enum.to_list(1..64)
    met = on(beam, ClusterNodes, :os_pids, [sessions])
    Enum.at(sessions, Enum.find_index(met, &(&1 == os_pid)))
  end

  # The process here that has started it must not end with it.
  defp kill(%{control: control, os_pid: os_pid}) do
    Process.unlink(control)
    OsProcess.signal(os_pid, "KILL")
  end
end
