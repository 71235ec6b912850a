defmodule ErlBridge.BridgeTest do
  @moduledoc "A bridge and its Python: starting, asking, ending."
  use ExUnit.Case, async: true
  doctest ErlBridge

  import ExUnit.CaptureLog

  alias ErlBridge.{Error, Live, OsProcess}

  @bridge Live.shared()

  describe "starting" do
    test "python process starts and responds to health check" do
      {:ok, bridge} = ErlBridge.start_link(preload: false)

      assert {:ok, :healthy} = ErlBridge.health_check(bridge)
      assert :ok = ErlBridge.stop(bridge)
    end

    test "Python's hello and health are there to read" do
      {:ok, hello} = ErlBridge.hello(@bridge)

      assert %{protocol: 1, version: "0.1.0", os_pid: os_pid, limits: %{max_frame_bytes: _}} =
               hello

      assert :optimize_signature in hello.request_types
      assert "echo" in hello.request_types

      assert {:ok, %{status: :healthy, os_pid: ^os_pid, memory_bytes: memory}} =
               ErlBridge.info(@bridge)

      assert memory > 1_000_000
    end

    test "over file descriptors 3 and 4, with stdin and stdout left alone" do
      bridge = Live.start!(nouse_stdio: true)

      assert ErlBridge.ping!(bridge, %{n: 1}) == %{n: 1}
      assert {:ok, nil} = ErlBridge.call(bridge, :print, %{"stdout" => "out", "stderr" => "err"})
      assert ErlBridge.ping!(bridge, %{n: 2}) == %{n: 2}
    end

    test "a Python that is not there" do
      assert {:error, %Error{type: :process_crashed} = error} =
               ErlBridge.start_link(python: "/no/such/python", log_level: :none)

      assert error.context.exit_status in [126, 127]
      assert Enum.join(error.context.stderr) =~ "/no/such/python"
    end

    test "an application that is not there: the error has what Python said" do
      assert {:error, %Error{type: :process_crashed} = error} =
               ErlBridge.start_link(preload: false, app: "no_such_module:app", log_level: :none)

      assert error.context.exit_status == 1
      assert Exception.message(error) =~ "no_such_module"
    end

    test "in a folder that is not there is an error that names it" do
      assert {:error, %Error{type: :process_crashed, message: message}} =
               ErlBridge.start_link(cd: "/no/such/folder")

      assert message == "there is no folder /no/such/folder for Python to run in (:cd)"
    end

    test "a Python that says nothing is given up, and ended" do
      {error, os_pid, timeout} = start_silent(100)

      assert Exception.message(error) =~
               "did not say hello within #{timeout} ms; its last words: pid #{os_pid}"

      refute OsProcess.alive?(String.to_integer(os_pid))
    end

    # One that has not begun by then has more time the next time.
    defp start_silent(timeout) do
      silent = Path.join(__DIR__, "../support/silent_python")
      options = [python: silent, start_timeout: timeout, log_level: :none]
      assert {:error, %Error{type: :timeout_error} = error} = ErlBridge.start_link(options)

      case error.context.stderr do
        ["pid " <> os_pid] -> {error, os_pid, timeout}
        [] -> start_silent(2 * timeout)
      end
    end

    test "what cannot be started does not end its starter, and leaves nothing in its mailbox" do
      {:error, _error} = ErlBridge.start_link(python: "/no/such/python", log_level: :none)
      assert Live.mailbox() == []
    end

    @tag :capture_log
    test "a cache that cannot be is the error, and does not end its starter" do
      for start <- [
            &ErlBridge.start_link/1,
            &ErlBridge.Cluster.start_link([name: :cacheless] ++ &1)
          ] do
        assert {:error, %Error{type: :invalid_request} = error} =
                 start.(cache: [file: System.tmp_dir!()])

        assert Exception.message(error) =~ "cannot be used as the file of a cache"
        assert Live.mailbox() == []
      end
    end

    @tag :capture_log
    test "a part that fails in any other way is an error, too" do
      {:ok, supervisor} = Supervisor.start_link([], strategy: :one_for_all)
      broken = %{id: :broken, start: {Agent, :start_link, [fn -> raise "no room" end]}}

      assert {:error, %Error{type: :process_crashed} = error} =
               ErlBridge.Bridge.start_children(supervisor, [broken])

      assert Exception.message(error) =~ "no room"
    end

    test "the name nil is none" do
      bridge = Live.start!(name: nil)
      assert {:ok, :healthy} = ErlBridge.health_check(bridge)
      ErlBridge.stop(bridge)
      assert_raise Error, ~r/no bridge is running as #PID/, fn -> ErlBridge.ping!(bridge) end
    end

    test "a name that is taken" do
      pid = Process.whereis(@bridge)

      assert {:error, {:already_started, ^pid}} =
               ErlBridge.start_link(Live.options(name: @bridge))
    end

    test "a bridge that does not run" do
      assert {:error, %Error{type: :not_running, strategy: :retry}} = ErlBridge.ping(:nobody)
      assert {:error, %Error{type: :not_running}} = ErlBridge.ping(self())
      assert {:error, %Error{type: :not_running}} = ErlBridge.hello(:nobody)
      assert {:error, %Error{type: :not_running}} = ErlBridge.cancel(:nobody, :any)
      assert_raise Error, ~r/no bridge is running as :nobody/, fn -> ErlBridge.ping!(:nobody) end
    end
  end

  describe "the twins with a !" do
    @twins [
      hello: [],
      workers: [],
      cache_stats: [],
      clear_cache: [],
      rolling_restart: [],
      resize: [1],
      async: [:echo],
      cast: [:echo],
      cancel: [:no_such_request],
      health_check: [],
      info: [],
      get_dataset: ["no such dataset"],
      dataset_store: [],
      call: [:echo],
      ping: []
    ]

    test "give the result or raise the error" do
      bridge = Live.start!()

      for {name, arguments} <- @twins do
        ask = fn name, bridge -> apply(ErlBridge, name, [bridge | arguments]) end
        twin = :"#{name}!"

        case ask.(name, bridge) do
          :ok ->
            assert ask.(twin, bridge) == :ok

          {:ok, %struct{}} ->
            assert is_struct(ask.(twin, bridge), struct)

          {:ok, %{} = map} ->
            assert Map.keys(ask.(twin, bridge)) == Map.keys(map)

          {:ok, result} ->
            assert ask.(twin, bridge) == result

          {:error, %Error{type: type}} ->
            assert %{type: ^type} = assert_raise(Error, fn -> ask.(twin, bridge) end)
        end

        assert {:error, %Error{type: :not_running}} = ask.(name, :nobody)
        assert_raise Error, ~r/no bridge is running as :nobody/, fn -> ask.(twin, :nobody) end
      end
    end

    test "are there for all that gives a result or an error" do
      names = for {name, _arity} <- ErlBridge.__info__(:functions), uniq: true, do: "#{name}"

      without =
        for name <- names, not String.ends_with?(name, "!"), "#{name}!" not in names, do: name

      assert without == ~w(child_spec start_link stop stream)
    end
  end

  describe "ending" do
    test "stop leaves no OS process" do
      bridge = Live.start!()
      os_pid = Live.os_pid(bridge)
      assert OsProcess.alive?(os_pid)

      assert :ok = ErlBridge.stop(bridge)
      refute OsProcess.alive?(os_pid)
    end

    test "a supervisor's stop leaves no OS process" do
      {:ok, supervisor} =
        Supervisor.start_link([{ErlBridge, Live.options(name: :supervised)}],
          strategy: :one_for_one
        )

      os_pid = Live.os_pid(:supervised)

      Supervisor.stop(supervisor)
      refute OsProcess.alive?(os_pid)
    end

    test "stop lets requests in flight finish" do
      bridge = Live.start!()
      {:ok, request} = ErlBridge.async(bridge, :count, %{"to" => 3})

      assert :ok = ErlBridge.stop(bridge)
      assert {:ok, "counted"} = ErlBridge.await(request)
    end

    test "stop cancels what does not finish in time" do
      bridge = Live.start!(shutdown_timeout: 50)
      waiting = Live.wait(bridge)

      assert :ok = ErlBridge.stop(bridge)
      assert {:error, %Error{type: :cancelled}} = Task.await(waiting, :infinity)
    end

    test "a stopped (SIGSTOP) Python is killed" do
      bridge = Live.start!(shutdown_timeout: 50)
      os_pid = Live.os_pid(bridge)
      OsProcess.signal(os_pid, "STOP")

      assert :ok = ErlBridge.stop(bridge)
      refute OsProcess.alive?(os_pid)
    end

    test "kill -9 of Python: all in flight get :process_crashed, and the bridge starts it anew" do
      bridge = Live.start!(name: :killed)
      os_pid = Live.os_pid(:killed)
      waiting = for _n <- 1..5, do: Live.wait(:killed)

      log =
        capture_log(fn ->
          OsProcess.signal(os_pid, "KILL")

          for error <- Task.await_many(waiting, :infinity) do
            assert {:error, %Error{type: :process_crashed, strategy: :restart_process} = error} =
                     error

            assert %{exit_status: 137, os_pid: ^os_pid} = error.context
          end

          # Who asks while it starts waits for it.
          assert ErlBridge.ping!(:killed, %{n: 1}) == %{n: 1}
        end)

      assert log =~ "was killed by signal 9"
      assert Process.whereis(:killed) == bridge
      refute Live.os_pid(:killed) == os_pid
    end

    @tag :capture_log
    test "the error has Python's exit status and its last words" do
      bridge = Live.start!()

      assert {:error, %Error{type: :process_crashed} = error} = ErlBridge.call(bridge, :die)
      assert error.context.exit_status == 3
      assert List.last(error.context.stderr) == "this is the end"
    end

    test "a Python that does not read is killed, also when its worker is stuck writing to it" do
      bridge = Live.start!(shutdown_timeout: 1)
      os_pid = Live.os_pid(bridge)
      OsProcess.signal(os_pid, "STOP")
      {:ok, request} = ErlBridge.async(bridge, :ping, %{much: :binary.copy("x", 10_000_000)})

      assert :ok = ErlBridge.stop(bridge)
      assert {:error, %Error{type: :process_crashed}} = ErlBridge.await(request)
      Live.await_ended(os_pid)
    end

    test "what has ended is stopped already" do
      assert :ok = ErlBridge.stop(:nobody)
    end

    @tag :capture_log
    test "a bridge that is killed takes a suspended Python along" do
      bridge = Live.start!()
      os_pid = Live.os_pid(bridge)
      OsProcess.signal(os_pid, "STOP")

      Process.exit(bridge, :kill)
      Live.await_ended(os_pid)
    end

    @tag :capture_log
    test "a bridge that is killed takes its Python along" do
      bridge = Live.start!()
      os_pid = Live.os_pid(bridge)

      Process.exit(bridge, :kill)
      Live.await_ended(os_pid)
    end
  end

  describe "the end of the whole node" do
    # Another node, which is killed while its Python optimizes.
    @script """
    {:ok, _apps} = Application.ensure_all_started(:erl_bridge)
    {:ok, bridge} = ErlBridge.start_link(preload: false, log_level: :none)
    {:ok, %{os_pid: os_pid}} = ErlBridge.hello(bridge)

    ErlBridge.optimize(bridge, "question -> answer", [%{"question" => "a", "answer" => "b"}],
      lm: %{callback: :stuck},
      callbacks: %{
        stuck: fn _request ->
          IO.puts(os_pid)
          Process.sleep(:infinity)
        end
      }
    )
    """

    test "kill -9 leaves no Python, and no job process of Python" do
      elixir = System.find_executable("elixir")
      arguments = ["-pa", Application.app_dir(:erl_bridge, "ebin"), "-e", @script]
      node = Port.open({:spawn_executable, elixir}, [:binary, :exit_status, args: arguments])

      assert_receive {^node, {:data, line}}
      python = String.to_integer(String.trim(line))
      pythons = [python | descendants(python)]
      {:os_pid, os_pid} = Port.info(node, :os_pid)

      OsProcess.signal(os_pid, "KILL")
      assert_receive {^node, {:exit_status, 137}}
      Enum.each(pythons, &Live.await_ended/1)
    end

    # The processes below a process; where there is no /proc, none are known.
    defp descendants(os_pid) do
      children =
        for path <- Path.wildcard("/proc/#{os_pid}/task/*/children"),
            {:ok, pids} = File.read(path),
            pid <- String.split(pids),
            do: String.to_integer(pid)

      children ++ Enum.flat_map(children, &descendants/1)
    end
  end

  describe "stderr" do
    test "goes to Logger line by line, and so does what is printed to stdout" do
      bridge = Live.start!(log_level: :error)

      log =
        capture_log(fn ->
          {:ok, nil} =
            ErlBridge.call(bridge, :print, %{
              "stdout" => "to stdout",
              "stderr" => "to stderr\nand more"
            })

          ErlBridge.stop(bridge)
        end)

      assert log =~ ~r/\[python \d+\] to stdout/
      assert log =~ "] to stderr"
      assert log =~ "] and more"
    end
  end

  describe "logging" do
    test "goes to Logger at its level" do
      bridge = Live.start!(log_level: :info)

      log =
        capture_log(fn ->
          {:ok, nil} = ErlBridge.call(bridge, :log, %{"level" => "WARNING", "text" => "look out"})

          {:ok, nil} =
            ErlBridge.call(bridge, :log, %{"level" => "CRITICAL", "text" => "too late"})

          ErlBridge.stop(bridge)
        end)

      assert log =~ ~r/\[warn(ing)?\] \[python \d+\] shop: look out/
      assert log =~ ~r/\[critical\] \[python \d+\] shop: too late/
    end
  end
end
