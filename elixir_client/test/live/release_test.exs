defmodule ErlBridge.ReleaseTest do
  @moduledoc """
  A release of another project, moved to where it was not built and started there with its own
  Python.
  """
  use ExUnit.Case, async: true

  alias ErlBridge.{Error, Release, Scratch}

  @client Path.expand("../..", __DIR__)
  @package Path.expand("../../../erl_bridge", __DIR__)

  # Nothing that tells a release where this repository's Python is.
  @environment [{"MIX_ENV", "prod"}, {"ERL_BRIDGE_PYTHON", nil}, {"MIX_BUILD_PATH", nil}]

  @project """
  defmodule Host.MixProject do
    use Mix.Project

    def project do
      [
        app: :host,
        version: "0.1.0",
        deps: [{:erl_bridge, path: #{inspect(@client)}}],
        releases: [host: [steps: [:assemble, &ErlBridge.Release.copy_python/1]]]
      ]
    end

    def application, do: [extra_applications: [:logger]]
  end
  """

  @program """
  {:ok, _apps} = Application.ensure_all_started(:erl_bridge)
  {:ok, facts} = ErlBridge.Installation.facts()
  {:ok, bridge} = ErlBridge.start_link(log_level: :none)
  pong = ErlBridge.ping!(bridge, %{answer: {42, "yes"}})

  rows = [%{text: "I paid twice", queue: "billing"}, %{text: "it crashes", queue: "technical"}]
  program = ErlBridge.optimize!(bridge, "text -> queue", rows, lm: "local/nearest-demo", optimizer: :labeled_few_shot).program
  outputs = ErlBridge.predict!(bridge, program, %{text: "it crashes"}, lm: "local/nearest-demo")
  own = [app: "own:app", cd: Application.app_dir(:host, "priv/python"), preload: false]
  {:ok, handlers} = ErlBridge.start_link(own)
  outputs = Map.merge(outputs, ErlBridge.call!(handlers, :own))
  IO.inspect({facts["executable"], pong, outputs}, width: :infinity)
  """

  @own """
  from erl_bridge import Bridge

  app = Bridge()


  @app.handler("own")
  def own(payload, context):
      return {"own": True}
  """

  # An environment as `mix erl_bridge.setup` makes it, without installing: its packages are links
  # to those of the Python that the tests run with, its own package is a copy.
  defp make_venv(venv) do
    python = System.get_env("ERL_BRIDGE_PYTHON", "python3")
    question = "import sys, sysconfig; print(sys._base_executable, sysconfig.get_path('purelib'))"
    [base, packages] = python |> run!(["-c", question]) |> String.split()
    run!(base, ["-m", "venv", "--without-pip", venv])
    [site] = Path.wildcard(Path.join(venv, "lib/python*/site-packages"))

    for name <- File.ls!(packages),
        name =~ ~r/^(?!erl_bridge$|__editable__|mypy|[0-9a-f]{20}__)/ do
      File.ln_s!(Path.join(packages, name), Path.join(site, name))
    end

    run!("cp", ["-RL", @package, Path.join(site, "erl_bridge")])
  end

  defp run!(program, arguments, options \\ []) do
    {output, status} = System.cmd(program, arguments, [stderr_to_stdout: true] ++ options)
    assert status == 0, "#{program} ended with #{status}:\n#{output}"
    output
  end

  @tag timeout: 300_000
  test "a release that was moved pings and predicts with the Python in it" do
    folder = Scratch.folder("release")
    host = Path.join(folder, "host")
    File.mkdir_p!(Path.join(host, "lib"))
    File.write!(Path.join(host, "mix.exs"), @project)
    File.mkdir_p!(Path.join(host, "priv/python"))
    File.write!(Path.join(host, "priv/python/own.py"), @own)
    make_venv(Path.join(host, "_build/erl_bridge/venv"))
    run!("mix", ["release"], cd: host, env: @environment)

    moved = Path.join(folder, "elsewhere/app")
    File.mkdir_p!(Path.dirname(moved))
    File.rename!(Path.join(host, "_build/prod/rel/host"), moved)
    File.rm_rf!(host)

    # A service may have no home.
    started = [cd: System.tmp_dir!(), env: [{"HOME", nil} | @environment]]
    output = run!(Path.join(moved, "bin/host"), ["eval", @program], started)
    venv = Path.join(moved, "lib/erl_bridge-0.1.0/priv/venv")

    expected =
      {venv <> "/bin/python", %{answer: {42, "yes"}}, %{"own" => true, "queue" => "technical"}}

    assert output =~ inspect(expected, width: :infinity)

    # Nothing but the interpreter leads out of it.
    links = String.split(run!("find", [venv, "-type", "l"]), "\n", trim: true)
    assert Enum.all?(links, &(Path.dirname(&1) == Path.join(venv, "bin")))

    run!(Path.join(moved, "bin/host"), ["eval", "ErlBridge.Doctor.run(quiet: true)"], started)
  end

  test "what is no environment, or a pointer into a checkout, is refused with the cure" do
    folder = Scratch.folder("venv")
    release = %{path: Path.join(folder, "rel")}

    assert_raise Error, ~r/#{folder} is no Python environment; run `mix erl_bridge.setup`/, fn ->
      Release.copy_python(release, venv: folder)
    end

    File.write!(Path.join(folder, "pyvenv.cfg"), "")

    assert_raise Error, ~r/only as an editable install; make it with/, fn ->
      Release.copy_python(release, venv: folder)
    end

    refute File.exists?(release.path)
  end
end
