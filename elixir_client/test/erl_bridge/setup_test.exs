defmodule ErlBridge.SetupTest do
  use ExUnit.Case, async: true
  doctest ErlBridge.OsCommand
  doctest ErlBridge.Setup.Interpreter
  doctest ErlBridge.Setup.Lock

  import ErlBridge.Scratch

  alias ErlBridge.{Error, Installation, Setup}
  alias ErlBridge.Setup.{Interpreter, Lock}

  @root Path.expand("../../..", __DIR__)

  test "what DSPy needs is a part of the project's own lock, without what tests it" do
    {:ok, roots} = Lock.roots(File.read!(Path.join(@root, "pyproject.toml")), ["dspy"])
    {_text, names} = Lock.select(File.read!(Path.join(@root, "requirements.lock")), roots)

    assert ["dspy", "litellm", "msgspec", "openai"] -- names == []
    assert Enum.filter(["mypy", "pytest", "ruff", "hypothesis"], &(&1 in names)) == []
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

    kept = Path.join(folder, "kept")
    File.write!(kept, "mine")
    python = System.fetch_env!("ERL_BRIDGE_PYTHON")
    assert {:error, %Error{message: venv}} = Setup.run(venv: folder, python: python)
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

  test "the facts of what is installed come from the Python that a bridge would start" do
    assert {:ok, facts} = Installation.facts()
    assert facts["erl_bridge"] == Installation.version()
    assert Interpreter.supported?(facts["python"])

    assert {:error, %Error{type: :setup_error, message: message}} =
             Installation.facts(python: "/no/such/python")

    assert message =~ "/no/such/python is not an executable file"
  end
end
