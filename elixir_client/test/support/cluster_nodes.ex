defmodule ErlBridge.ClusterNodes do
  @moduledoc """
  Nodes for tests: an EPMD of their own, BEAMs that are told what to do over their standard input, and
  nodes that are Python. The node of the tests itself is none.

  What a test asks of a BEAM is a function of this module or of the library, for the test's own code is
  not there.
  """

  import ExUnit.Callbacks

  alias ErlBridge.{Cluster, Command, Live, OsProcess, Telemetry, Testing}
  alias ErlBridge.Cluster.Connector

  @cluster ErlBridge.ClusterNodes.Cluster
  @bridge ErlBridge.ClusterNodes.Bridge
  @cookie "cookie-of-the-tests"
  @wait 60_000
  @here %{address: "127.0.0.1", command: []}

  # Ends the program when the port is closed, also where this BEAM is killed.
  @script ~S|"$@" & program=$!; echo "pid $program"; cat >/dev/null; kill -9 $program 2>/dev/null|

  @typedoc "Where a node is: the address it is named by, and what a command that is to run there begins with."
  @type host :: %{:address => String.t(), :command => [String.t()], optional(atom) => term}

  @typedoc "A BEAM: how it is told what to do, its name, and its OS process."
  @type beam :: %{control: pid, name: node, os_pid: pos_integer}

  @doc "The name of the cluster on every node."
  @spec cluster() :: module
  def cluster, do: @cluster

  @doc "Why no nodes can be started here; `nil` if they can."
  @spec obstacle() :: String.t() | nil
  def obstacle, do: if(is_nil(epmd()), do: "there is no epmd, so no node can be started")

  ## Starting

  @doc "Starts an EPMD on each of these hosts, on a port of its own, and gives that."
  @spec start_epmd!([host]) :: :inet.port_number()
  def start_epmd!(hosts \\ [@here]) do
    {:ok, socket} = :gen_tcp.listen(0, ip: {127, 0, 0, 1})
    {:ok, port} = :inet.port(socket)
    :ok = :gen_tcp.close(socket)

    for host <- hosts do
      command = host.command ++ [epmd(), "-port", to_string(port)]
      run!(command ++ ["-address", host.address], [])
      await(fn -> listening?(command ++ ["-names"]) end)
    end

    port
  end

  @doc "Starts a BEAM with this library, told more on its command line. It ends with the calling process."
  @spec start_beam!(:inet.port_number(), host, [String.t()]) :: beam
  def start_beam!(epmd, host \\ @here, more \\ []) do
    [program | before] = host.command ++ [Path.join([:code.root_dir(), "bin", "erl"])]
    {:ok, address} = host.address |> String.to_charlist() |> :inet.parse_address()
    listens = inspect(address)

    own = [
      "-setcookie",
      @cookie,
      "-start_epmd",
      "false",
      "-kernel",
      "inet_dist_use_interface",
      listens
    ]

    {:ok, control, name} =
      :peer.start_link(%{
        name: String.to_charlist(unique("ex")),
        host: String.to_charlist(host.address),
        longnames: true,
        connection: :standard_io,
        exec: {String.to_charlist(System.find_executable(program)), charlists(before)},
        wait_boot: @wait,
        args:
          charlists(own ++ more) ++
            Enum.flat_map(:code.get_path(), &[~c"-pa", &1]),
        env: environment(epmd)
      })

    {:ok, _started} = tell(control, Application, :ensure_all_started, [:erl_bridge])
    tell(control, :logger, :set_primary_config, [:level, :none])
    os_pid = control |> tell(System, :pid, []) |> String.to_integer()
    on_exit(fn -> kill(os_pid, name) end)
    %{control: control, name: name, os_pid: os_pid}
  end

  # It ends with its control, but waits for what it has to send before: behind a cut cable for a quarter of an hour.
  defp kill(os_pid, name) do
    with {:ok, command} <- File.read("/proc/#{os_pid}/cmdline"),
         true <- String.contains?(command, to_string(name)),
         do: OsProcess.signal(os_pid, "KILL")
  end

  @doc "Starts a node that is Python, and gives its OS process. It ends with the calling process."
  @spec start_python!(:inet.port_number(), node, [String.t()], host) :: pos_integer
  def start_python!(epmd, name, more \\ [], host \\ @here) do
    cookie =
      Path.join(System.tmp_dir!(), "erl_bridge-cookie-#{System.unique_integer([:positive])}")

    File.write!(cookie, @cookie)
    File.chmod!(cookie, 0o400)
    arguments = ["node", "--name", to_string(name), "--cookie-file", cookie] ++ more

    port =
      run!(
        host.command ++
          [Command.launcher() | arguments ++ ["--app", "bridge_app:app", "--no-dspy"]],
        environment(epmd)
      )

    "pid " <> os_pid = line(port)
    "ready node " <> _name_and_port = line(port)
    File.rm!(cookie)
    String.to_integer(os_pid)
  end

  @doc "A name that no other node has."
  @spec python_name(host) :: node
  def python_name(host \\ @here), do: :"#{unique("py")}@#{host.address}"

  @doc """
  Joins the cluster, with a bridge unless `bridge_options: nil`, and leaves the one that it was in. Waits for these nodes
  to be there.
  """
  @spec join!(beam, [node], keyword) :: :ok
  def join!(beam, others, options \\ []) do
    :ok = on(beam, __MODULE__, :join, [options])
    on(beam, __MODULE__, :await_up, [others])
  end

  @doc "Calls a function on a BEAM."
  @spec on(beam, module, atom, [term]) :: term
  def on(beam, module, function, arguments), do: tell(beam.control, module, function, arguments)

  @doc "Begins to call a function on a BEAM, in a task here."
  @spec begin(beam, module, atom, [term]) :: Task.t()
  def begin(beam, module, function, arguments),
    do: Task.async(fn -> on(beam, module, function, arguments) end)

  @doc "Waits until it is so, for what other programs do and nobody tells."
  @spec await((() -> boolean)) :: :ok
  def await(condition), do: await(condition, System.monotonic_time(:millisecond) + @wait)

  defp await(condition, until) do
    cond do
      condition.() -> :ok
      System.monotonic_time(:millisecond) > until -> raise "it did not happen"
      true -> await(condition, until)
    end
  end

  defp tell(control, module, function, arguments),
    do: :peer.call(control, module, function, arguments, @wait)

  defp unique(name),
    do: "#{name}#{6 |> :crypto.strong_rand_bytes() |> Base.encode16(case: :lower)}"

  # Datasets are kept by host; here each node has a place of its own, as if it were a host.
  defp environment(epmd) do
    home = Path.join(System.fetch_env!("ERL_BRIDGE_HOME"), unique("node"))

    [
      {~c"ERL_EPMD_PORT", Integer.to_charlist(epmd)},
      {~c"ERL_BRIDGE_HOME", String.to_charlist(home)}
    ]
  end

  defp run!(command, environment) do
    port =
      Port.open({:spawn_executable, System.find_executable("sh")}, [
        :binary,
        :stderr_to_stdout,
        {:line, 1_000},
        args: ["-c", @script, "sh" | command],
        env: environment,
        cd: Live.options([])[:cd]
      ])

    on_exit(fn -> if Port.info(port), do: Port.close(port) end)
    port
  end

  defp line(port) do
    receive do
      {^port, {:data, {:eol, line}}} -> line
    after
      @wait -> raise "the program says nothing"
    end
  end

  # An EPMD that answers there.
  defp listening?([program | arguments]),
    do: match?({_names, 0}, System.cmd(program, arguments, stderr_to_stdout: true))

  defp charlists(words), do: Enum.map(words, &String.to_charlist/1)

  defp epmd do
    own = Path.wildcard(Path.join(:code.root_dir(), "erts-*/bin/epmd"))
    List.first(own) || System.find_executable("epmd")
  end

  ## On a BEAM

  @doc false
  def join(options) do
    {others, options} = Keyword.pop(options, :connect, [])
    {bridge, options} = Keyword.pop(options, :bridge_options, Live.options([]))
    for node <- others, do: true = Node.connect(node)

    quit()

    children =
      if bridge,
        do: [bridge(bridge), {Cluster, options(options, bridge: @bridge)}],
        else: [{Cluster, options(options, [])}]

    # Not linked: the process that is told to do this ends.
    {:ok, supervisor} = Supervisor.start_link(children, strategy: :one_for_one)
    Process.register(supervisor, __MODULE__)
    Process.unlink(supervisor)
    :ok
  end

  # Without Python, a function of this module answers.
  defp bridge(:held), do: %{id: @bridge, start: {__MODULE__, :start_held, []}}
  defp bridge(options), do: {ErlBridge, [name: @bridge] ++ options}

  @doc false
  def start_held do
    with {:ok, bridge} <- Testing.start_bridge(&__MODULE__.hold/3) do
      Process.register(bridge, @bridge)
      {:ok, bridge}
    end
  end

  @doc false
  # Says how many rows there are and where, and never answers.
  def hold(_request_type, payload, context) do
    context.event.(%{kind: :log, held: {node(), length(payload[:data] || [])}})
    :later
  end

  defp options(options, own),
    do: Keyword.merge([name: @cluster, load_interval: 20, silent_after: 60_000] ++ own, options)

  @doc "From now on what telemetry tells of other nodes is kept, for `told_of_nodes/1`."
  def hear_of_nodes do
    {:ok, _agent} = Agent.start(fn -> [] end, name: __MODULE__.Heard)
    events = for name <- [:node_up, :node_down], do: [:erl_bridge, :cluster, name]
    Telemetry.attach(__MODULE__, events, &__MODULE__.note/4, nil)
  end

  @doc false
  def note([_, _, name], measurements, metadata, _config),
    do: Agent.update(__MODULE__.Heard, &(&1 ++ [{name, measurements, metadata}]))

  @doc "What was told, once it is that many events."
  def told_of_nodes(count) do
    await(fn -> length(Agent.get(__MODULE__.Heard, & &1)) >= count end)
    Agent.get(__MODULE__.Heard, & &1)
  end

  @doc false
  def await_up(nodes), do: await(fn -> Enum.all?(nodes, &(phase(&1) == :up)) end)

  @doc false
  def await_phase(node, phase), do: await(fn -> phase(node) == phase end)

  defp phase(node) do
    {:ok, nodes} = Cluster.nodes(@cluster)
    Enum.find_value(nodes, :unknown, &(&1.node == node && &1.phase))
  end

  @doc false
  def await_load(node, load) do
    await(fn ->
      {:ok, nodes} = Cluster.nodes(@cluster)
      Enum.any?(nodes, &(&1.node == node and &1.load == load))
    end)
  end

  @doc false
  # The Pythons that answer for these sessions.
  def os_pids(sessions) do
    for session <- sessions do
      {:ok, %{os_pid: os_pid}} = ErlBridge.call(@cluster, :health_check, %{}, session: session)
      os_pid
    end
  end

  @doc false
  def os_pid(options) do
    {:ok, %{os_pid: os_pid}} = ErlBridge.call(@cluster, :health_check, %{}, options)
    os_pid
  end

  @doc false
  # A request with its events and all that came besides.
  def with_events(request_type, payload, options) do
    me = self()
    options = [on_event: &send(me, {:event, &1})] ++ options
    result = ErlBridge.call(@cluster, request_type, payload, options)
    {:messages, messages} = Process.info(self(), :messages)
    {result, for({:event, event} <- messages, do: event), length(messages)}
  end

  @doc false
  # Begins a request that does not end by itself, in a process that `end_waiting/1` ends; its result is
  # there when it has one.
  def wait(name, options, request_type \\ :wait, payload \\ %{}) do
    me = self()

    keep(name, fn ->
      on_event = fn _event -> send(me, {:waiting, name}) end
      usual = [on_event: on_event, metadata: %{"label" => to_string(name)}, id: name]
      ErlBridge.call(@cluster, request_type, payload, Keyword.merge(usual, options))
    end)

    receive do
      {:waiting, ^name} -> :ok
    end
  end

  @doc false
  # Begins a request whose Python calls a function here, which does not end by itself either; that is in a process of the name
  # `function`.
  def wait_in_function(name, function, options) do
    keep(name, fn ->
      payload = %{"name" => "wait", "args" => [to_string(function)]}
      options = [callbacks: %{"wait" => &__MODULE__.wait_here/1}] ++ options
      ErlBridge.call(@cluster, :ask, payload, options)
    end)

    await(fn -> is_pid(Process.whereis(function)) end)
  end

  @doc false
  def wait_here(name) do
    Process.register(self(), String.to_existing_atom(name))
    Process.sleep(:infinity)
  end

  @doc false
  # Begins a request of so many bytes.
  def send_large(name, bytes, options),
    do: keep(name, fn -> ErlBridge.call(@cluster, :echo, large(bytes), options) end)

  defp large(bytes), do: %{"large" => :binary.copy("x", bytes)}

  @doc false
  # Begins to send rows that have no end; returns when so many have been taken.
  def put_endless(name, rows, options) do
    me = self()
    row = %{"text" => String.duplicate("x", 1_000)}

    endless =
      Stream.map(Stream.iterate(1, &(&1 + 1)), fn n ->
        if n == rows, do: send(me, {:waiting, name})
        Map.put(row, "n", n)
      end)

    keep(name, fn -> ErlBridge.put_dataset(@cluster, endless, options) end)

    receive do
      {:waiting, ^name} -> :ok
    end
  end

  # Runs it in a process of that name, which has the result for `result_of/1`.
  defp keep(name, run) do
    {:ok, _pid} =
      Task.start(fn ->
        Process.register(self(), name)
        result = run.()

        receive do
          {:result, from} -> send(from, {:result, name, result})
        end
      end)

    :ok
  end

  @doc false
  def await_end(name), do: await(fn -> Process.whereis(name) == nil end)

  @doc false
  # Waits until these nodes are up and nothing is left of requests: no process of the cluster here has anything, or anybody, to
  # wait for but the other nodes.
  def await_nothing_left(nodes) do
    others = length(nodes) - 1

    await(fn ->
      {:ok, known} = Cluster.nodes(@cluster)
      peers = for peer <- peers(), peer.node in nodes, do: peer.worker

      Enum.all?(nodes, fn node -> Enum.any?(known, &(&1.node == node)) end) and
        Enum.all?(known, &match?(%{phase: :up, in_flight: 0, load: 0}, &1)) and
        Enum.all?(peers, &match?([_the_other_side], monitors(&1))) and
        Enum.all?(doors(), &(length(monitors(&1)) <= others and length(links(&1)) == 1))
    end)
  end

  @doc false
  # Waits until what goes back from here to another node goes no further.
  def await_courier_suspended, do: await(fn -> Enum.any?(couriers(), &suspended?/1) end)

  @doc false
  # Waits until what goes from here to that node goes no further.
  def await_peer_suspended(node) do
    [peer] = peers_of([node])
    await(fn -> suspended?(peer) end)
  end

  defp suspended?(pid), do: Process.info(pid, :status) == {:status, :suspended}

  @doc false
  # After `:suspend` nobody is connected again until `:resume`.
  def connector(act) do
    [connector] = for pid <- Process.list(), initial_call(pid) == {Connector, :init, 1}, do: pid
    apply(:sys, act, [connector])
  end

  defp initial_call(pid), do: pid |> info(:dictionary) |> Keyword.get(:"$initial_call")

  @doc false
  # Asks how much there is to do here, as if that node had.
  def ask_door(node) do
    [door] = doors()
    for {:process, peer} <- monitors(door), node(peer) == node, do: send(door, {:load, peer})
    :ok
  end

  @doc false
  # The processes here that take requests for those nodes.
  def peers_of(nodes), do: for(peer <- peers(), peer.node in nodes, do: peer.worker)

  @doc false
  # Waits until something waits to be sent to that node.
  def await_mailbox(node) do
    [peer] = peers_of([node])
    await(fn -> requests_in(peer) > 0 end)
  end

  defp requests_in(pid),
    do: pid |> info(:messages) |> Enum.count(&match?({:request, _request, _body}, &1))

  defp peers do
    {:ok, route} = ErlBridge.Route.lookup(@cluster)
    route.cluster.peers
  end

  defp doors, do: :pg.get_local_members(Module.concat(@cluster, Scope), Cluster.Door.group())
  defp couriers, do: Enum.flat_map(doors(), &links/1)
  defp monitors(pid), do: info(pid, :monitors)
  defp links(pid), do: info(pid, :links)

  # Nothing of a process that has ended meanwhile.
  defp info(pid, key) do
    with {^key, found} <- Process.info(pid, key), do: found, else: (nil -> [])
  end

  @doc false
  # Begins an evaluation of so many rows, which are sent as a dataset, in a process of that name.
  def evaluate(name, rows) do
    rows = for n <- 1..rows, do: %{question: n, answer: n}

    on_event = fn event ->
      with %{held: held} <- event, do: :persistent_term.put({__MODULE__, name}, held)
    end

    {:ok, _pid} =
      Task.start(fn ->
        Process.register(self(), name)
        options = [dataset_above: 100, on_event: on_event]
        ErlBridge.evaluate(@cluster, "question -> answer", rows, options)
      end)

    :ok
  end

  @doc false
  # The node where it is, and how many rows are there, when that is another node than this.
  def held(name, other_than) do
    held = fn -> :persistent_term.get({__MODULE__, name}, {other_than, 0}) end
    await(fn -> elem(held.(), 0) != other_than end)
    held.()
  end

  @doc false
  def result_of(name) do
    send(name, {:result, self()})

    receive do
      {:result, ^name, result} -> result
    end
  end

  @doc false
  def kill(name) do
    pid = Process.whereis(name)
    monitor = Process.monitor(pid)
    Process.exit(pid, :kill)

    receive do
      {:DOWN, ^monitor, :process, ^pid, :killed} -> :ok
    end
  end

  @doc false
  def leave, do: Supervisor.terminate_child(__MODULE__, @cluster)

  @doc false
  def quit do
    with supervisor when is_pid(supervisor) <- Process.whereis(__MODULE__),
         do: Supervisor.stop(supervisor)
  end

  @doc false
  def stop_bridge, do: Supervisor.terminate_child(__MODULE__, @bridge)

  @doc false
  def twice(n), do: {node(), n * 2}

  @doc false
  def words(text), do: text |> String.split() |> Stream.map(&String.upcase/1)

  @doc false
  # The metadata of the requests that this makes.
  def told(request_type, payload, options) do
    me = self()
    forward = fn _event, _measurements, metadata, _config -> send(me, {:told, metadata}) end
    :ok = ErlBridge.Telemetry.attach(self(), [:erl_bridge, :request, :stop], forward, nil)
    result = ErlBridge.call(@cluster, request_type, payload, options)
    :ok = ErlBridge.Telemetry.detach(self())
    {:messages, messages} = Process.info(self(), :messages)
    {result, for({:told, metadata} <- messages, do: metadata)}
  end
end
