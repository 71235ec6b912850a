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
    assert {:error, %Error{type: :process_crashed} = error} = Task.await(waiting)
    assert Exception.message(error) =~ "the connection to 127.0.0.1:#{server.tcp_port} was closed"

    process = server.tcp_process
    # Until then its port still takes connections.
    assert_receive {^process, {:exit_status, _killed}}

    # It finds no server, and waits in the queue.
    {:error, %Error{type: :not_running, context: %{sent: false}}} =
      ErlBridge.call(bridge, :ping, %{n: 1}, timeout: 1, max_retries: 0)

    next = Task.async(fn -> ErlBridge.ping(bridge, %{n: 2}) end)
    tcp_server!(["--port", "#{server.tcp_port}"])
    assert {:ok, %{n: 2}} = Task.await(next, 10_000)
  end

  test "a server that is not there, and one that wants a token, are errors of the start" do
    Process.flag(:trap_exit, true)
    {:ok, listener} = :gen_tcp.listen(0, ip: {127, 0, 0, 1})
    {:ok, free} = :inet.port(listener)
    :gen_tcp.close(listener)

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

    for wrong <- [stranger, unknown] do
      assert {:error, %Error{type: :process_crashed}} = ErlBridge.start_link(connect: wrong)
    end
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

    assert {:ok, %{status: :success, program: program}} =
             ErlBridge.optimize(bridge, "text -> label", rows ++ rows,
               lm: lm,
               optimizer: :labeled_few_shot,
               metric: :exact_match,
               on_event: &send(events, &1)
             )

    assert {:ok, %{"label" => "no"}} = ErlBridge.predict(bridge, program, %{text: "bad"}, lm: lm)
    assert_received %{kind: :progress}
  end

  # As tests/certificates.py makes them.
  defp make_certificates(folder) do
    names = "DNS:localhost,IP:127.0.0.1"
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
