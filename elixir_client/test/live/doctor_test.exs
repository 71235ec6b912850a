defmodule ErlBridge.DoctorTest do
  @moduledoc "The checks with the real Python, and with ones that lack something."
  use ExUnit.Case, async: true
  doctest ErlBridge.Doctor
  doctest ErlBridge.Installation

  import ExUnit.CaptureIO

  alias ErlBridge.{Doctor, Scratch, Stderr}

  setup do
    %{folder: Scratch.folder("doctor")}
  end

  # A Python that says this of itself, and is no bridge.
  defp python(folder, facts) do
    script = "[ \"$3\" = info ] || exit 1\ncat <<'END'\n#{facts}\nEND"
    Scratch.program(Path.join(folder, "python"), script)
  end

  defp statuses(checks), do: Map.new(checks, &{&1.name, &1.status})
  defp find(checks, name), do: Enum.find(checks, &(&1.name == name))

  test "with what is installed here nothing fails, and each check is told when it is known" do
    test = self()
    checks = Doctor.checks(on_check: &send(test, &1))

    assert Enum.map(checks, & &1.name) ==
             ~w(Elixir Python package codec DSPy start ping job datasets)

    assert Enum.filter(checks, &(&1.status == :failed)) == []
    assert find(checks, "start").said =~ ~r/^hello after \d+ ms$/
    assert find(checks, "ping").said =~ ~r/^\d+ us there and back$/
    assert find(checks, "job").said =~ "DSPy predicts"
    for check <- checks, do: assert_received(^check)
  end

  test "without a Python the rest is left out" do
    checks = Doctor.checks(python: "/no/such/python")
    assert statuses(checks) == %{"Elixir" => :ok, "Python" => :failed}
    assert find(checks, "Python").said =~ "/no/such/python is not an executable file"
  end

  @tag :capture_log
  test "another version of the package, a slow codec, no DSPy and no bridge", %{folder: folder} do
    facts = "erl_bridge 0.0.9\npython 3.12.1\nexecutable /usr/bin/python3\ncodec pure Python"
    checks = Doctor.checks(python: python(folder, facts))

    assert %{"Python" => :ok, "package" => :failed, "codec" => :warning, "DSPy" => :warning} =
             statuses(checks)

    assert %{"start" => :failed} = statuses(checks)
    assert find(checks, "start").said =~ "exit status 1"
    refute find(checks, "ping")
    refute find(checks, "job")

    for name <- ~w(package codec DSPy start),
        do: assert(find(checks, name).cure =~ "mix erl_bridge.setup")
  end

  test "no folder for temporary files is told, with the cure" do
    assert {:error, why} = Stderr.start_link(:none, nil)
    assert why =~ "set TMPDIR to one, or mount one: `docker run --tmpfs /tmp`"
  end

  test "the cure says what stands above the environment that a setup makes" do
    environment = [{"MIX_ENV", "test"}, {"ERL_BRIDGE_PYTHON", "/no/such/python"}]
    options = [env: environment, stderr_to_stdout: true]
    assert {output, 1} = System.cmd("mix", ["erl_bridge.doctor", "--quiet"], options)
    assert output =~ "or `unset ERL_BRIDGE_PYTHON` and run `mix erl_bridge.setup`"

    assert find(Doctor.checks(python: "/no/such/python"), "Python").said =~
             "name another Python with `:python` (`--python`), or none and run"
  end

  test "a Python that is too old is not asked further", %{folder: folder} do
    facts = "erl_bridge 0.1.0\npython 3.9.2\nexecutable /usr/bin/python3.9\ncodec compiled"
    checks = Doctor.checks(python: python(folder, facts))
    assert %{status: :failed, said: "3.9.2" <> _, cure: cure} = find(checks, "Python")
    assert cure =~ "3.11, 3.12, 3.13, 3.14"
    refute find(checks, "package")
  end

  test "run prints a line for each, quietly only what is not right, and exits with 1" do
    output =
      capture_io(fn ->
        assert catch_exit(Doctor.run(python: "/no/such/python")) == {:shutdown, 1}
      end)

    assert [_elixir, "failed   Python    " <> _] = String.split(output, "\n", trim: true)

    quiet =
      capture_io(fn ->
        assert catch_exit(Doctor.run(python: "/no/such/python", quiet: true)) == {:shutdown, 1}
      end)

    refute quiet =~ ~r/^ok/m
    assert quiet =~ "failed   Python"
  end

  test "the task ends with the status that the checks have, and says where datasets cannot be", %{
    folder: folder
  } do
    blocked = Path.join(folder, "file")
    File.write!(blocked, "")
    environment = [{"MIX_ENV", "test"}, {"ERL_BRIDGE_HOME", Path.join(blocked, "data")}]
    mix = &System.cmd("mix", ["erl_bridge.doctor" | &1], env: environment, stderr_to_stdout: true)

    assert {output, 0} = mix.(["--quiet"])
    assert output =~ "#{blocked} not a directory: set ERL_BRIDGE_HOME"
    assert {output, 1} = mix.(["--quiet", "--python", "/no/such/python"])
    assert output =~ "failed   Python"
  end
end
