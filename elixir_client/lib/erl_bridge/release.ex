defmodule ErlBridge.Release do
  @moduledoc """
  Puts the Python environment into a release, so that the release's bridges find it wherever it is
  moved to.

      def project do
        [
          app: :my_app,
          releases: [my_app: [steps: [:assemble, &ErlBridge.Release.copy_python/1]]],
          ...
        ]
      end

      $ mix erl_bridge.setup
      $ MIX_ENV=prod mix release
      $ _build/prod/rel/my_app/bin/my_app eval 'ErlBridge.Doctor.run()'

  A step `:tar` comes after it. It makes copies of the links to the interpreter, which find the rest
  of Python as the links do.

  ## What the host needs

  The packages are in the release, some 400 MB with DSPy, but not Python itself: an environment is
  made of a Python that is installed. The host must have that one, at the same path and of the same
  version: `home` in the environment's `pyvenv.cfg` says where. So build on the same system image
  and with the same Python that the host has. `guides/production.md` has a Docker file.
  """

  alias ErlBridge.{Error, Installation, OsCommand, Setup}

  @doc """
  A step of a release, after `:assemble`: copies the environment that `mix erl_bridge.setup` made
  to where the release's bridges look for it. Gives the release as it is.

  `:venv` names an environment elsewhere: `&ErlBridge.Release.copy_python(&1, venv: "/opt/venv")`.

  What is copied is `lib`, `pyvenv.cfg` and the links to the interpreter in `bin`. Links inside of
  `lib` become what they lead to. Raises `ErlBridge.Error` when there is no such environment, when
  it has another version of the package than this client, and when its package is an editable
  install, which is a pointer into a checkout.
  """
  @spec copy_python(Mix.Release.t(), keyword) :: Mix.Release.t()
  def copy_python(release, options \\ []) do
    venv = Path.expand(Keyword.get_lazy(options, :venv, &Setup.default_venv/0))
    priv = Path.join([release.path, "lib", "erl_bridge-#{Installation.version()}", "priv"])

    with :ok <- movable(venv),
         :ok <- copy(venv, Path.join(priv, "venv")),
         :ok <- same_version(Path.join(priv, "venv")) do
      release
    else
      {:error, error} -> raise error
    end
  end

  defp movable(venv) do
    package = Path.join(venv, "lib/python*/site-packages/erl_bridge/__init__.py")

    cond do
      not File.regular?(Path.join(venv, "pyvenv.cfg")) ->
        {:error, Error.setup("#{venv} is no Python environment", "run `mix erl_bridge.setup`")}

      Path.wildcard(package) == [] ->
        {:error,
         Error.setup(
           "#{venv} has not the package erl_bridge in it, or only as an editable install",
           "make it with `mix erl_bridge.setup`"
         )}

      true ->
        :ok
    end
  end

  defp copy(from, to) do
    File.rm_rf!(to)
    File.mkdir_p!(Path.join(to, "bin"))
    links = Path.wildcard(Path.join(from, "bin/python*"))

    # The interpreter is the system's: what leads to it stays a link.
    with :ok <- cp(["-RP"] ++ links ++ [Path.join(to, "bin")]),
         :ok <- cp([Path.join(from, "pyvenv.cfg"), to]),
         do: cp(["-RL", Path.join(from, "lib"), to])
  end

  defp same_version(venv) do
    with {:ok, %{"erl_bridge" => version}} <- Installation.facts(python: Setup.python(venv)) do
      if version == Installation.version(),
        do: :ok,
        else:
          {:error,
           Error.setup(
             "the environment has erl_bridge #{version}, the client is #{Installation.version()}",
             "run `mix erl_bridge.setup`"
           )}
    end
  end

  # Ten times as fast as `File.cp_r/3`, with its 20,000 files.
  defp cp(arguments) do
    case OsCommand.run("cp", arguments) do
      {0, _lines} -> :ok
      {_status, lines} -> {:error, Error.setup(List.last(lines, "cp failed"), "see there")}
    end
  end
end
