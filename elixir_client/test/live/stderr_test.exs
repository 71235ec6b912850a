defmodule ErlBridge.StderrTest do
  @moduledoc "No process and no pipe is left, whatever dies first, and when."
  # The folder of temporary files is one for all.
  use ExUnit.Case, async: false

  import ErlBridge.Live, only: [tmp_dir: 1]

  alias ErlBridge.{Command, Error, Live, Options, OsProcess, Stderr}

  setup :tmp_dir

  test "a node that is killed before its Python is started leaves neither reader nor pipe" do
    node =
      run_node("""
      {:ok, stderr, pipe} = ErlBridge.Stderr.start_link(:none)
      {:os_pid, os_pid} = Port.info(:sys.get_state(stderr).port, :os_pid)
      IO.puts("#\{os_pid} #\{pipe}")
      """)

    [os_pid, pipe] = String.split(node.line)
    assert File.exists?(pipe)

    kill(node)
    Live.await_ended(String.to_integer(os_pid))
    refute File.exists?(pipe)
  end

  test "a Python whose node is killed before anybody reads its stderr ends", %{tmp_dir: folder} do
    pipe = Path.join(folder, "unread")
    {"", 0} = System.cmd("mkfifo", [pipe])

    node =
      run_node("""
      options = ErlBridge.Options.validate!([preload: false], :start)
      {program, arguments} = ErlBridge.Command.port(options, "#{pipe}")
      {:os_pid, os_pid} = Port.info(Port.open(program, arguments), :os_pid)
      IO.puts(os_pid)
      """)

    kill(node)
    Live.await_ended(String.to_integer(node.line))
  end

  test "a Python starts though nobody reads its stderr", %{tmp_dir: folder} do
    pipe = Path.join(folder, "unread")
    {"", 0} = System.cmd("mkfifo", [pipe])
    {program, arguments} = Command.port(Options.validate!([preload: false], :start), pipe)
    port = Port.open(program, arguments)

    assert_receive {^port, {:data, _hello}}
    Port.close(port)
  end

  # It reads the request, and keeps its processor and its interpreter lock for ten minutes.
  @stuck """
  {:ok, request} = ErlBridge.async(bridge, :compute, %{"seconds" => 600}, timeout: :infinity)
  :sys.get_state(request.worker)
  """

  for {how, script, signal} <- [{"suspended", "", "STOP"}, {"stuck", @stuck, "CONT"}] do
    test "a Python that is #{how} when its node is killed is killed too" do
      node =
        run_node("""
        {:ok, bridge} = ErlBridge.start_link(#{inspect(Live.options(log_level: :none))})
        {:ok, %{os_pid: os_pid}} = ErlBridge.hello(bridge)
        #{unquote(script)}
        IO.puts(os_pid)
        """)

      os_pid = String.to_integer(node.line)
      OsProcess.signal(os_pid, unquote(signal))
      kill(node)
      Live.await_ended(os_pid)
    end
  end

  test "the reader of a Python that is killed is gone, and its pipe", %{tmp_dir: folder} do
    put_tmp_dir(folder)
    {:ok, stderr, pipe} = Stderr.start_link(:none)
    assert Path.dirname(pipe) == folder
    {:os_pid, reader} = Port.info(:sys.get_state(stderr).port, :os_pid)
    assert [] = Stderr.stop(stderr, 0)
    Live.await_ended(reader)
    assert File.ls!(folder) == []
  end

  test "a shell that is killed takes nothing along" do
    bridge = Live.start!()
    {:ok, %{workers: {{worker, _load}}}} = ErlBridge.Route.lookup(bridge)
    stderr = :sys.get_state(worker).python.stderr
    {:os_pid, shell} = Port.info(:sys.get_state(stderr).port, :os_pid)
    OsProcess.signal(shell, "KILL")
    Live.await_ended(shell)

    assert ErlBridge.ping!(bridge, %{n: 1}) == %{n: 1}
    os_pid = Live.os_pid(bridge)
    assert :ok = ErlBridge.stop(bridge)
    refute OsProcess.alive?(os_pid)
  end

  test "a pipe that cannot be made is the error of the start", %{tmp_dir: folder} do
    # A path may have 4,095 bytes.
    long =
      Enum.reduce(1..17, folder, fn _n, path -> Path.join(path, String.duplicate("x", 248)) end)

    long = String.slice(long, 0, 4_080)
    File.mkdir_p!(long)
    put_tmp_dir(long)

    assert {:error, %Error{type: :process_crashed} = error} =
             ErlBridge.start_link(Live.options([]))

    assert Exception.message(error) =~ "no pipe for Python's stderr: mkfifo: "
  end

  defp put_tmp_dir(folder) do
    before = System.get_env("TMPDIR")
    System.put_env("TMPDIR", folder)

    on_exit(fn ->
      if before, do: System.put_env("TMPDIR", before), else: System.delete_env("TMPDIR")
    end)
  end

  # Another node, which runs the script, tells one line of it and waits.
  defp run_node(script) do
    script =
      "{:ok, _apps} = Application.ensure_all_started(:erl_bridge)\n" <>
        script <> "\nProcess.sleep(:infinity)"

    arguments = ["-pa", Application.app_dir(:erl_bridge, "ebin"), "-e", script]

    port =
      Port.open(
        {:spawn_executable, System.find_executable("elixir")},
        [:binary, :exit_status, {:line, 5_000}, args: arguments]
      )

    assert_receive {^port, {:data, {:eol, line}}}
    %{port: port, line: line}
  end

  defp kill(%{port: port}) do
    {:os_pid, os_pid} = Port.info(port, :os_pid)
    OsProcess.signal(os_pid, "KILL")
    assert_receive {^port, {:exit_status, 137}}
  end
end
