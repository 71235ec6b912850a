defmodule ErlBridge.LiveBertTest do
  @moduledoc "A bridge over BERT-RPC, where it is not as one over a Port: connections, servers that go, TLS."
  use ExUnit.Case, async: true

  import ErlBridge.Live, only: [tmp_dir: 1, tcp_server!: 0, tcp_server!: 1]

  alias ErlBridge.{Dataset, Error, Live, OsProcess}

  doctest ErlBridge.Bert

  setup :tmp_dir

  defp start!(server, options \\ []) do
    options = Keyword.merge([connect: [port: server.tcp_port]], options)
    start_supervised!({ErlBridge, options}, restart: :temporary, id: make_ref())
  end

  test "casts, streams and the server's own facts are as over a Port" do
    server = tcp_server!()
    bridge = start!(server)

    assert :ok = ErlBridge.cast(bridge, :fill, %{"value" => 7})
    assert {:ok, 7} = ErlBridge.call(bridge, :filled)

    assert [{:event, %{"n" => 0}}, {:event, %{kind: :stream, text: "last"}}, {:ok, "counted"}] =
             Enum.to_list(ErlBridge.stream(bridge, :count, %{"to" => 1}))

    os_pid = server.tcp_os_pid
    assert {:ok, %{os_pid: nil, server_os_pid: ^os_pid, protocol: 1}} = ErlBridge.hello(bridge)
    assert {:ok, %{os_pid: ^os_pid}} = ErlBridge.info(bridge)
    assert {:ok, [%{phase: :up, os_pid: nil}]} = ErlBridge.workers(bridge)
  end

  test "stopping a bridge leaves the server as it is, and ends what was asked of it" do
    server = tcp_server!()
    bridge = start!(server, shutdown_timeout: 50)
    other = start!(server)
    Live.wait(bridge, metadata: %{"label" => "its bridge stopped"})

    assert :ok = ErlBridge.stop(bridge)
    assert {:ok, "its bridge stopped"} = ErlBridge.call(other, :stopped)
  end

  @tag :capture_log
  test "what is under way when the server dies is an error; what comes then waits for the next one" do
    server = tcp_server!()
    bridge = start!(server)
    waiting = Live.wait(bridge)

    OsProcess.signal(server.tcp_os_pid, "KILL")
    assert {:error, %Error{type: :process_crashed} = error} = Task.await(waiting, :infinity)
    assert Exception.message(error) =~ "the connection to 127.0.0.1:#{server.tcp_port} was closed"

    process = server.tcp_process
    # Until then its port still takes connections.
    assert_receive {^process, {:exit_status, _killed}}

    # It finds no server, and waits in the queue for as long as it may.
    assert {:error, %Error{type: type, context: %{sent: false}}} =
             ErlBridge.call(bridge, :ping, %{n: 1}, timeout: 1, max_retries: 0)

    assert type in [:not_running, :pool_exhausted]

    next = Task.async(fn -> ErlBridge.ping(bridge, %{n: 2}) end)
    tcp_server!(["--port", "#{server.tcp_port}"])
    assert {:ok, %{n: 2}} = Task.await(next, :infinity)
  end

  test "a server that is not there, and one that wants a token, are errors of the start" do
    Process.flag(:trap_exit, true)
    # Nobody else gets a port that is taken, also where nobody listens on it.
    {:ok, socket} = :socket.open(:inet, :stream)
    :ok = :socket.bind(socket, %{family: :inet, addr: {127, 0, 0, 1}, port: 0})
    {:ok, %{port: free}} = :socket.sockname(socket)

    assert {:error, %Error{type: :process_crashed, context: %{sent: false}} = error} =
             ErlBridge.start_link(connect: [port: free])

    assert Exception.message(error) =~ "127.0.0.1:#{free} cannot be made: connection refused"

    assert_raise ArgumentError, ~r/expected :port to be an integer from 1 to 65535/, fn ->
      ErlBridge.start_link(connect: [port: 0])
    end
  end

  test "a token lets in who shows it", %{tmp_dir: folder} do
    file = Path.join(folder, "token")
    File.write!(file, "open sesame\n")
    server = tcp_server!(["--token-file", file])
    connect = [port: server.tcp_port, token: "open sesame"]
    assert ErlBridge.ping!(start!(server, connect: connect), %{n: 1}) == %{n: 1}

    Process.flag(:trap_exit, true)

    for wrong <- [[port: server.tcp_port], [port: server.tcp_port, token: "sesame"]] do
      assert {:error, %Error{type: :invalid_request} = error} =
               ErlBridge.start_link(connect: wrong)

      assert Exception.message(error) =~ "this server wants a token"
    end
  end

  describe "past a limit of the server" do
    test "a frame is an error for its request, however large it is" do
      bridge = start!(tcp_server!(["--max-frame", "10000"]))

      for bytes <- [10_000, 2_000_000] do
        assert {:error, %Error{type: :serialization_error} = error} =
                 ErlBridge.call(bridge, :echo, %{large: :binary.copy("x", bytes)}, max_retries: 0)

        assert Exception.message(error) =~ "over the limit of 10000 bytes (--max-frame)"
      end

      assert ErlBridge.ping!(bridge, %{large: :binary.copy("x", 9_000)}).large =~ "xxx"
    end

    test "requests and connections are overload, which may be tried again" do
      bridge = start!(tcp_server!(["--max-in-flight", "1"]))
      waiting = Live.wait(bridge, id: :waiting)

      assert {:error, %Error{type: :overloaded, strategy: :retry}} =
               ErlBridge.call(bridge, :stopped, %{}, max_retries: 0)

      assert {:ok, true} = ErlBridge.cancel(bridge, :waiting)
      assert {:error, %Error{type: :cancelled}} = Task.await(waiting, :infinity)

      bridge = start!(tcp_server!(["--max-connections", "1"]))
      waiting = Live.wait(bridge, id: :waiting)

      assert {:error, %Error{type: :overloaded, strategy: :retry}} =
               ErlBridge.call(bridge, :stopped, %{}, max_retries: 0)

      assert {:ok, true} = ErlBridge.cancel(bridge, :waiting)
      assert {:error, %Error{type: :cancelled}} = Task.await(waiting, :infinity)
      assert ErlBridge.ping!(bridge, %{n: 1}) == %{n: 1}
    end
  end

  describe "a server that breaks the protocol" do
    @nonsense [
      "no term": "abc",
      "no packet": :erlang.term_to_binary({:hello, :world}),
      "an atom that this node does not know":
        <<131, 104, 2, 100, 0, 5, "reply", 100, 0, 6, "né?!1">>,
      "nothing at all": ""
    ]

    for {name, packet} <- @nonsense do
      test "is an error for the request, and for no other: #{name}" do
        bridge = start!(%{tcp_port: fake_server(unquote(packet))})

        assert {:error, %Error{type: :serialization_error}} =
                 ErlBridge.call(bridge, :echo, %{"n" => 1}, max_retries: 0)

        assert {:ok, %{status: :healthy}} = ErlBridge.info(bridge)
      end
    end

    @tag :capture_log
    test "with a length that no frame may have is left" do
      bridge = start!(%{tcp_port: fake_server({:raw, <<255, 255, 255, 255, 131>>})})

      assert {:error, %Error{type: :process_crashed}} =
               ErlBridge.call(bridge, :echo, %{"n" => 1}, max_retries: 0)

      assert {:ok, %{status: :healthy}} = ErlBridge.info(bridge)
    end

    test "and never says anything, is left in time" do
      Process.flag(:trap_exit, true)
      {:ok, listener} = :gen_tcp.listen(0, ip: {127, 0, 0, 1})
      {:ok, port} = :inet.port(listener)

      assert {:error, %Error{type: :process_crashed} = error} =
               ErlBridge.start_link(connect: [port: port, connect_timeout: 20], start_timeout: 20)

      assert Exception.message(error) =~ "127.0.0.1:#{port} brought no answer"
    end
  end

  # Answers health checks and all else with that.
  defp fake_server(answer) do
    {:ok, listener} = :gen_tcp.listen(0, [:binary, packet: 4, active: false, ip: {127, 0, 0, 1}])
    {:ok, port} = :inet.port(listener)
    {:ok, server} = Task.start_link(fn -> accept(listener, answer) end)
    :ok = :gen_tcp.controlling_process(listener, server)
    port
  end

  defp accept(listener, answer) do
    {:ok, socket} = :gen_tcp.accept(listener)
    pid = spawn_link(fn -> receive do: (:go -> converse(socket, answer)) end)
    :ok = :gen_tcp.controlling_process(socket, pid)
    send(pid, :go)
    accept(listener, answer)
  end

  @health %{status: :healthy, version: "1", python: "3", os_pid: 1}

  defp converse(socket, answer) do
    with {:ok, packet} <- :gen_tcp.recv(socket, 0) do
      case :erlang.binary_to_term(packet) do
        {:info, _command, _options} -> :ok
        {:call, :erl_bridge, :health_check, _} -> say(socket, {:reply, {:ok, @health}})
        {:call, :erl_bridge, :echo, _} -> say(socket, answer)
      end

      converse(socket, answer)
    end
  end

  defp say(socket, {:raw, bytes}) do
    :inet.setopts(socket, packet: 0)
    :gen_tcp.send(socket, bytes)
  end

  defp say(socket, packet) when is_binary(packet), do: :gen_tcp.send(socket, packet)
  defp say(socket, term), do: say(socket, :erlang.term_to_binary(term))

  test "a connection that is slow to be made holds up nobody" do
    bridge = start!(tcp_server!())
    waiting = Live.wait(bridge, id: :waiting)
    [worker] = workers(bridge)

    # What connects from now on has to wait for this test.
    test = self()

    :sys.replace_state(worker, fn state ->
      connect = state.connect

      slow = fn ->
        send(test, {:connects, self()})
        receive do: (:go -> connect.())
      end

      %{state | connect: slow}
    end)

    slow = Task.async(fn -> ErlBridge.ping!(bridge, %{n: 1}) end)
    assert_receive {:connects, channel}
    assert {:ok, true} = ErlBridge.cancel(bridge, :waiting)
    assert {:error, %Error{type: :cancelled}} = Task.await(waiting, :infinity)
    assert ErlBridge.ping!(bridge, %{n: 2}) == %{n: 2}
    send(channel, :go)
    assert Task.await(slow, :infinity) == %{n: 1}
  end

  defp workers(bridge) do
    for {_id, pid, :worker, _} <-
          DynamicSupervisor.which_children(ErlBridge.Worker.supervisor(bridge)),
        do: pid
  end

  test "TLS with certificates on both sides", %{tmp_dir: folder} do
    make_certificates(folder)
    file = &Path.join(folder, &1)

    server =
      tcp_server!(
        ["--tls-cert", file.("server.pem"), "--tls-key", file.("server.key")] ++
          ["--tls-ca", file.("ca.pem")]
      )

    known = [
      cacertfile: file.("ca.pem"),
      certfile: file.("client.pem"),
      keyfile: file.("client.key")
    ]

    connect = [host: "localhost", port: server.tcp_port, ssl: known]
    bridge = start!(server, connect: connect)
    large = :binary.copy("x", 200_000)
    assert ErlBridge.call!(bridge, :echo, %{"large" => large}) == %{"large" => large}

    Process.flag(:trap_exit, true)
    stranger = Keyword.put(connect, :ssl, cacertfile: file.("ca.pem"))
    unknown = Keyword.put(connect, :ssl, cacertfile: file.("client.pem"))
    no_tls = Keyword.delete(connect, :ssl)
    elsewhere = Keyword.put(known, :server_name_indication, ~c"example.org")

    for wrong <- [stranger, unknown, no_tls, Keyword.put(connect, :ssl, elsewhere)] do
      assert {:error, %Error{type: :process_crashed} = error} =
               ErlBridge.start_link(connect: wrong, start_timeout: 2_000)

      assert Exception.message(error) =~ "the connection to localhost:#{server.tcp_port}"
    end

    sites = Keyword.put(known, :server_name_indication, ~c"a.sites.test")
    bridge = start!(server, connect: Keyword.put(connect, :ssl, sites))
    assert ErlBridge.ping!(bridge, %{n: 1}) == %{n: 1}
  end

  test "IPv6, where there is a loopback of it" do
    case :gen_tcp.listen(0, [:inet6, ip: {0, 0, 0, 0, 0, 0, 0, 1}]) do
      {:ok, listener} ->
        :gen_tcp.close(listener)
        server = tcp_server!(["--host", "::1"])
        connect = [host: "::1", port: server.tcp_port]
        assert ErlBridge.ping!(start!(server, connect: connect), %{n: 1}) == %{n: 1}

      {:error, reason} ->
        assert reason in [:eaddrnotavail, :eafnosupport]
    end
  end

  test "a dataset is sent over many connections, and used over others" do
    server = tcp_server!()
    bridge = start!(server)
    rows = for n <- 1..20_000, do: %{"n" => n, "text" => "some text #{n}"}

    assert {:ok, %Dataset{} = dataset} = ErlBridge.put_dataset(bridge, rows, chunk_bytes: 65_536)

    another = start!(server)
    reference = Dataset.ref(dataset)

    assert {:ok, %{"count" => 20_000, "sum" => 200_010_000}} =
             ErlBridge.call(another, :rows, %{"rows" => reference})
  end

  test "a signature is optimized and predicts" do
    bridge = start!(tcp_server!())
    rows = for {word, label} <- [{"good", "yes"}, {"bad", "no"}], do: %{text: word, label: label}
    lm = "local/nearest-demo"
    events = self()
    metric = fn example, prediction -> example["label"] == prediction["label"] end

    assert {:ok, %{status: :success, program: program}} =
             ErlBridge.optimize(bridge, "text -> label", rows ++ rows,
               lm: lm,
               optimizer: :labeled_few_shot,
               metric: metric,
               on_event: &send(events, &1)
             )

    assert {:ok, %{"label" => "no"}} = ErlBridge.predict(bridge, program, %{text: "bad"}, lm: lm)
    assert_received %{kind: :progress}
  end

  # As tests/certificates.py makes them.
  defp make_certificates(folder) do
    names = "DNS:localhost,IP:127.0.0.1,DNS:*.sites.test"
    make(folder, "ca", ["-addext", "basicConstraints=critical,CA:TRUE"])
    signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "subjectAltName=#{names}"]
    for name <- ["server", "client"], do: make(folder, name, signed)
  end

  defp make(folder, name, arguments) do
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = ["-keyout", "#{name}.key", "-out", "#{name}.pem"]
    usual = ["req", "-x509", "-days", "2", "-subj", "/CN=#{name}"]

    {_said, 0} =
      System.cmd("openssl", usual ++ key ++ files ++ arguments, cd: folder, stderr_to_stdout: true)
  end
end
