defmodule ErlBridge.ClusterOfOneTest do
  @moduledoc "What of a cluster needs no other node: its options, how it chooses, and that it is a bridge to its callers."
  use ExUnit.Case, async: true

  alias ErlBridge.Cluster.{Choice, Gauge}
  alias ErlBridge.{Cluster, Dataset, Error, Load, Options, Route, Testing}

  doctest ErlBridge.Cluster
  doctest ErlBridge.Cluster.Gauge

  # Only what a choice needs.
  @route struct(Route, bridge: __MODULE__)

  describe "options" do
    test "name what is wrong" do
      assert_raise ArgumentError, "the option :name must be given", fn ->
        Cluster.start_link(bridge: MyApp.Bridge)
      end

      assert_raise ArgumentError, ~r/expected :python_nodes to be a list of atoms/, fn ->
        Cluster.start_link(name: __MODULE__, python_nodes: ["py1@127.0.0.1"])
      end
    end
  end

  test "what the guide shows can be pasted" do
    guide = File.read!(Path.expand("../../guides/cluster.md", __DIR__))
    [children | calls] = for [_all, code] <- Regex.scan(~r/```elixir\n(.*?)```/s, guide), do: code
    {[{ErlBridge, bridge}, {Cluster, cluster}], _bindings} = Code.eval_string(children)
    assert %{pool_size: 2} = Options.validate!(bridge, :start)

    assert %{name: MyApp.Cluster, python_nodes: [_one, _two]} =
             Options.validate!(cluster, :cluster)

    for code <- calls, do: Code.string_to_quoted!(code)

    for [_all, name] <- Regex.scan(~r/`([a-z_]+):`/, guide) do
      known = Options.names(:cluster) ++ Options.names(:call)
      assert String.to_existing_atom(name) in known, "there is no option #{name}"
    end
  end

  describe "the choice" do
    test "is the one with the fewest requests for each worker, of this and of other nodes" do
      route = route(a: {3, 0, 1}, b: {0, 5, 4}, c: {0, 2, 1})
      assert {:ok, :b} = Choice.node(route)
      # Taking room counts at once.
      for _n <- 1..3, do: assert(chosen(route, :any) == :b)
      assert Enum.sort(for _n <- 1..2, do: chosen(route, :any)) == [:b, :c]
    end

    test "is one that is silent only where no other is up, and never one that is down" do
      route = route(a: {0, 0, 1}, b: {9, 0, 1}, c: {0, 0, 1})
      route = silent(route, :a)
      Gauge.down(peer(route, :c).gauge)
      assert {:ok, :b} = Choice.node(route)
      Gauge.down(peer(route, :b).gauge)
      assert {:ok, :a} = Choice.node(route)
      Gauge.down(peer(route, :a).gauge)
      assert {:error, %Error{type: :not_running, context: context}} = Choice.node(route)
      assert context == %{sent: false, nodes: %{a: :down, b: :down, c: :down}}
      assert Choice.any_worker(route) == nil
    end

    test "of a session changes only where its node goes" do
      nodes = [:a, :b, :c, :d]
      route = route(for node <- nodes, do: {node, {0, 0, 1}})
      home = fn session -> chosen(route, {:session, session}) end
      before = Map.new(1..200, &{&1, home.(&1)})
      assert before |> Map.values() |> Enum.uniq() |> Enum.sort() == nodes

      Gauge.down(peer(route, :c).gauge)

      for {session, node} <- before do
        now = home.(session)
        if node == :c, do: assert(now in [:a, :b, :d]), else: assert(now == node)
      end
    end

    test "has a limit for each node, in requests" do
      route = %{route(a: {0, 0, 1}, b: {1, 0, 1}) | limits: %{requests: 2, bytes: 1_000}}
      assert for(_n <- 1..3, do: chosen(route, :any)) |> Enum.sort() == [:a, :a, :b]
      assert {:error, %Error{type: :overloaded, context: %{sent: false}}} = reserve(route, :any)
      assert {:error, %Error{type: :overloaded}} = reserve(route, {:node, :a, :any})
      assert {:error, %Error{type: :not_running}} = reserve(route, {:node, :nobody, :any})
    end
  end

  describe "a cluster of one" do
    setup do
      optimize = fn payload, _context ->
        {:ok, %{program: %{rows: length(payload.training_data)}, optimization_metrics: %{}}}
      end

      bridge = start_supervised!({Testing, %{optimize_signature: optimize}})
      name = :"#{__MODULE__}.#{System.unique_integer([:positive])}"
      Process.register(bridge, name)
      cluster = Module.concat(name, Cluster)
      start_supervised!({Cluster, name: cluster, bridge: name})
      %{bridge: bridge, cluster: cluster}
    end

    test "is the bridge that it has", %{cluster: cluster} do
      assert ErlBridge.ping!(cluster, %{n: 1}) == %{n: 1}
      assert {:ok, :healthy} = ErlBridge.health_check(cluster)

      assert {:ok, [%{node: node, kind: :local, phase: :up, in_flight: 0}]} =
               Cluster.nodes(cluster)

      assert node == node()
      assert {:ok, [{:ok, %{}}]} = {:ok, Enum.to_list(ErlBridge.stream(cluster, :ping))}
      {:ok, request} = ErlBridge.async(cluster, :ping, %{n: 2})
      assert {:ok, %{n: 2}} = ErlBridge.await(request)
    end

    test "sends many rows and the request that needs them to one node", context do
      %{cluster: cluster, bridge: bridge} = context
      rows = for n <- 1..50, do: %{question: n, answer: n}

      assert {:ok, %{program: %{rows: 50}}} =
               ErlBridge.optimize(cluster, "question -> answer", rows, dataset_above: 100)

      types = for request <- Testing.requests(bridge), uniq: true, do: request.request_type
      assert types == [:dataset_begin, :data_chunk, :optimize_signature]

      here = node()
      assert {:ok, %Dataset{node: ^here} = dataset} = ErlBridge.put_dataset(cluster, rows)

      assert {:ok, %{program: %{rows: 50}}} =
               ErlBridge.optimize(cluster, "question -> answer", dataset)

      assert {:error, %Error{type: :not_running}} =
               ErlBridge.optimize(cluster, "question -> answer", %{dataset | node: :gone},
                 max_retries: 0,
                 refresh: true
               )
    end

    test "keeps its optimizations in a cache of its own", %{cluster: cluster, bridge: bridge} do
      for _n <- 1..2 do
        assert {:ok, %{program: %{rows: 1}}} =
                 ErlBridge.optimize(cluster, "question -> answer", [%{question: 1, answer: 1}])
      end

      assert [%{request_type: :optimize_signature}] = Testing.requests(bridge)
      assert {:ok, %{hits: 1, misses: 1}} = ErlBridge.cache_stats(cluster)
    end

    test "says that a bridge is none", %{bridge: bridge} do
      assert {:error, %Error{type: :invalid_request}} = Cluster.nodes(bridge)
      assert {:error, %Error{type: :not_running}} = Cluster.nodes(:nobody)
    end
  end

  # A route to nodes with so many requests from here and from others, and so many workers.
  defp route(nodes) do
    peers =
      for {node, {own, foreign, workers}} <- nodes do
        [load, gauge] = [Load.new(), Gauge.new(60_000)]
        for _n <- 1..own//1, do: Load.take(load, 0, %{requests: 1_000, bytes: 1_000})
        Gauge.up(gauge, foreign, workers)
        pid = spawn_link(fn -> Process.sleep(:infinity) end)
        %{node: node, kind: :python, worker: pid, load: load, gauge: gauge}
      end

    members = %{bridge: nil, prefer_local: 0, peers: peers}
    %{@route | cluster: members, limits: %{requests: 1_000, bytes: 1_000}}
  end

  defp peer(route, node), do: Enum.find(route.cluster.peers, &(&1.node == node))

  # What is known of that node is always too old.
  defp silent(route, node) do
    impatient = Gauge.new(0)
    Gauge.up(impatient, 0, 1)

    peers =
      Enum.map(route.cluster.peers, fn
        %{node: ^node} = peer -> %{peer | gauge: impatient}
        other -> other
      end)

    put_in(route.cluster.peers, peers)
  end

  defp reserve(route, wanted),
    do: Choice.reserve(route, wanted, 0, :infinity, fn _ref -> :ok end, :directly)

  defp chosen(route, wanted) do
    {:ok, {worker, _load}} = reserve(route, wanted)
    Choice.node_of(route.cluster, worker)
  end
end
