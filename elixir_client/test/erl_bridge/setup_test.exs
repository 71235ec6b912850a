defmodule ErlBridge.SetupTest do
  use ExUnit.Case, async: true
  doctest ErlBridge.OsCommand
  doctest ErlBridge.Setup.Interpreter
  doctest ErlBridge.Setup.Lock

  import ErlBridge.Scratch

  alias ErlBridge.{Error, Installation, OsCommand, OsProcess, Setup}
  alias ErlBridge.Setup.{FileLock, Interpreter, Lock}

  @root Path.expand("../../..", __DIR__)

  defp python, do: System.get_env("ERL_BRIDGE_PYTHON") || System.find_executable("python3")

  test "what DSPy needs is a part of the project's own lock, without what tests it" do
    {:ok, roots} = Lock.roots(File.read!(Path.join(@root, "pyproject.toml")), ["dspy"])
    {_text, names} = Lock.select(File.read!(Path.join(@root, "requirements.lock")), roots)

    assert ["dspy", "litellm", "msgspec", "openai"] -- names == []
    assert Enum.filter(["mypy", "pytest", "ruff", "hypothesis"], &(&1 in names)) == []
  end

  test "a program ends with the process that runs it, and so does what it has started" do
    pipe = Path.join(folder("pipe"), "held")
    {_output, 0} = System.cmd("mkfifo", [pipe])

    reader =
      Port.open({:spawn_executable, System.find_executable("cat")}, [:exit_status, args: [pipe]])

    script = "exec 9> #{pipe}; sleep 600 & echo up; wait"
    test = self()
    runner = spawn(fn -> OsCommand.run("sh", ["-c", script], &send(test, &1)) end)
    assert_receive "up"
    Process.exit(runner, :kill)

    # The end of all that could write to it.
    assert_receive {^reader, {:exit_status, 0}}
  end

  test "what one installs besides changes no version of the lock" do
    {text, names} = Lock.select(File.read!(Path.join(@root, "requirements.lock")), ["dspy"])
    versions = String.split(Lock.versions(text), "\n", trim: true)
    assert for(line <- versions, do: hd(String.split(line, "=="))) == names
    assert Enum.all?(versions, &(&1 =~ ~r/^[A-Za-z0-9._-]+==[^\s;]+$/))
  end

  test "an extra that there is not is named" do
    assert {:error, %Error{type: :setup_error, message: message}} = Setup.run(extras: ["dsp"])
    assert message =~ "there is no extra dsp"
  end

  test "a folder without the package, one without wheels, and one that is no environment are left alone" do
    folder = folder("empty")
    assert {:error, %Error{message: source}} = Setup.run(source: folder)
    assert source =~ "the Python package is not in #{folder}"

    assert {:error, %Error{message: wheels}} = Setup.run(wheels: folder)
    assert wheels =~ "no wheels are in #{folder}"

    none = Path.join(folder, "requirements.txt")
    assert {:error, %Error{message: own}} = Setup.run(requirements: none)
    assert own =~ "there is no file #{none}"

    mine = Path.join(folder, "mine")
    kept = Path.join(mine, "kept")
    File.mkdir!(mine)
    File.write!(kept, "mine")
    assert {:error, %Error{message: venv}} = Setup.run(venv: mine, python: python())
    assert venv =~ "is no virtual environment"
    assert File.read!(kept) == "mine"
  end

  test "a Python that is too old, lacks a module or is none says so, with the cure" do
    folder = folder("pythons")

    old = program(Path.join(folder, "old"), ~S(printf '3.9.2\n/usr/bin/python3.9\n\n'))
    assert {:error, %Error{message: message}} = Interpreter.find(old)

    assert message =~
             "/usr/bin/python3.9 is Python 3.9.2, and one of 3.11, 3.12, 3.13, 3.14 is needed"

    bare =
      program(Path.join(folder, "bare"), ~S(printf '3.11.2\n/usr/bin/python3\nvenv ensurepip\n'))

    assert {:error, %Error{message: message}} = Interpreter.find(bare)

    assert message =~
             "lacks the module venv, ensurepip; install it: `apt-get install python3.11-venv`"

    none = program(Path.join(folder, "none"), "exit 1")
    assert {:error, %Error{message: message}} = Interpreter.find(none)
    assert message =~ "is not a Python that can be run"
  end

  describe "the lock" do
    # Holds the lock until it is told to end, and tells each thing that happens.
    defp holder(path, name) do
      test = self()

      spawn_link(fn ->
        on_wait = fn -> send(test, {name, :waits}) end

        FileLock.hold(python(), path, on_wait, fn ->
          send(test, {name, :holds})
          receive do: (:end -> :ok)
        end)

        send(test, {name, :gone})
      end)
    end

    test "is held by one at a time, and the other is told that it waits" do
      path = Path.join(folder("lock"), "venv.lock")
      first = holder(path, :first)
      assert_receive {:first, :holds}
      second = holder(path, :second)
      assert_receive {:second, :waits}
      refute_received {:second, :holds}

      send(first, :end)
      assert_receive {:second, :holds}
      send(second, :end)
      assert_receive {:second, :gone}
    end

    test "goes to the next when its holder is killed" do
      path = Path.join(folder("lock"), "venv.lock")
      first = holder(path, :first)
      assert_receive {:first, :holds}
      holder(path, :second)
      assert_receive {:second, :waits}

      Process.unlink(first)
      Process.exit(first, :kill)
      assert_receive {:second, :holds}
    end

    test "gives what the work gives, and goes when it raises" do
      path = Path.join(folder("lock"), "venv.lock")
      hold = &FileLock.hold(python(), path, fn -> :waits end, &1)

      assert hold.(fn -> :done end) == :done
      assert_raise RuntimeError, fn -> hold.(fn -> raise "no" end) end
      assert hold.(fn -> :done end) == :done
    end

    test "whose Python is killed does not stop the work" do
      path = Path.join(folder("lock"), "venv.lock")
      before = Port.list()

      result =
        FileLock.hold(python(), path, fn -> flunk("nobody else has it") end, fn ->
          {:links, links} = Process.info(self(), :links)
          [port] = Enum.filter(links, &is_port/1) -- before
          {:os_pid, os_pid} = Port.info(port, :os_pid)
          monitor = Port.monitor(port)
          OsProcess.signal(os_pid, "KILL")
          assert_receive {:DOWN, ^monitor, :port, ^port, _reason}
          :done
        end)

      assert result == :done
      refute_received {_port, {:exit_status, _status}}
    end

    test "that cannot be made is an error" do
      never = fn -> flunk("nobody can have it") end
      missing = Path.join(folder("lock"), "no/venv.lock")
      assert {:error, %Error{message: message}} = FileLock.hold(python(), missing, never, never)
      assert message =~ "#{missing} cannot be locked: FileNotFoundError"
    end
  end

  describe "mix erl_bridge.setup" do
    # Whatever the user's own settings of pip are.
    @environment [{"MIX_ENV", "test"}, {"PIP_CONFIG_FILE", "/dev/null"}, {"PIP_FIND_LINKS", nil}]

    defp mix(arguments) do
      arguments = ["erl_bridge.setup" | arguments]
      System.cmd("mix", arguments, env: @environment, stderr_to_stdout: true)
    end

    test "ends with status 1 and the reason" do
      assert {output, 1} = mix(["--extras", "dsp"])
      assert output =~ "setup_error: there is no extra dsp"
    end

    test "prints what pip said when it fails, and what to do" do
      folder = folder("wheels")
      File.write!(Path.join(folder, "other-1.0-py3-none-any.whl"), "")
      venv = Path.join(folder, "venv")
      assert {output, 1} = mix(["--venv", venv, "--wheels", folder, "--python", python()])

      assert [steps, error] = String.split(output, "** (Mix) ")
      assert steps =~ "making #{venv} with Python"
      assert steps =~ "Looking in links: #{folder}\n"
      assert error =~ "installing pip failed with status 1"
      assert error =~ "or it or the folder of wheels lacks it"
    end
  end

  test "the facts of what is installed come from the Python that a bridge would start" do
    assert {:ok, facts} = Installation.facts()
    assert facts["erl_bridge"] == Installation.version()
    assert Interpreter.supported?(facts["python"])

    assert {:error, %Error{type: :setup_error, message: message}} =
             Installation.facts(python: "/no/such/python")

    assert message =~ "/no/such/python is not an executable file"
  end
end
