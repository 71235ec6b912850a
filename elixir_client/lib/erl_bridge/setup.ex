defmodule ErlBridge.Setup do
  @moduledoc """
  Makes the Python environment that bridges run in: a virtual environment with the locked packages
  and the Python package of this library. `mix erl_bridge.setup` is its command line.

  Nothing is done twice: what is there and fits is left alone. What is left half-made is made anew.

  ## Where it is

  `_build/erl_bridge/venv` of the project, which all its Mix environments share and where every
  bridge looks for it. A place of your own (`:venv`) is told to bridges with
  `config :erl_bridge, python: "/that/place/bin/python"`, the option `:python` or the variable
  `ERL_BRIDGE_PYTHON`.

  ## Options

    * `:venv` - the folder of the environment
    * `:python` - the interpreter to make it with; the first on the `PATH` that will do unless told
    * `:extras` - the package's extras, `["dspy"]` unless told
    * `:requirements` - a file of packages of your own, as pip takes it, that of `config :erl_bridge,
      requirements: path` unless told; none of them changes the version of a locked one
    * `:wheels` - a folder of wheels, made by `download_wheels/2`, to install from without network
    * `:source` - the folder of the Python package; the checkout that this library is in unless told
    * `:on_progress` - called with a map for each step: `:title`, and for packages `:done`,
      `:total` and `:unit`
  """

  alias ErlBridge.{Error, Installation, OsCommand}
  alias ErlBridge.Setup.{FileLock, Interpreter, Lock}

  @type report :: %{venv: Path.t(), changed: boolean, facts: %{String.t() => String.t()}}

  @stamp "erl_bridge.stamp"
  @lock "erl_bridge.lock"

  # What the package is built from, in its folder.
  @sources ~w(pyproject.toml setup.py MANIFEST.in README.md LICENSE erl_bridge priv)

  # Installed besides what the package needs: a pip that is faster than the one that comes with
  # Python, and what builds the package.
  @tools ["pip", "setuptools"]

  # What pip's words mean, and what to do. Where no index is in reach, pip says so first, and then
  # that it has not found the package.
  @cures [
    {~r/No space left on device/, "make room on the disk"},
    {~r/DO NOT MATCH THE HASHES/, "the index or the folder has other files than the lock names"},
    {~r/CERTIFICATE_VERIFY_FAILED/,
     "the certificate of the index is signed by nobody whom Python trusts: set PIP_CERT to the file of your authority's certificate"},
    {~r/NewConnectionError|Max retries|name resolution|timed out/,
     "no package index is in reach: set PIP_INDEX_URL or a proxy, or install from a folder with --wheels DIR"},
    {~r/No matching distribution|Could not find a version/,
     "the index is not in reach, or it or the folder of wheels lacks it: a folder is filled by `mix erl_bridge.setup --download-wheels DIR` " <>
       "on a machine with the same system and Python"}
  ]

  @doc """
  Makes or completes the environment. Of several at once on the same folder one works and the others
  wait for it.

  When a program fails, what it printed last is in the error's context as `:output`.
  """
  @spec run(keyword) :: {:ok, report} | {:error, Error.t()}
  def run(options \\ []) do
    with {:ok, plan} <- plan(options), do: alone(plan, fn -> make(plan) end)
  end

  @doc """
  Makes the environment, and fills a folder with all that `run/1` with `:wheels` needs.

  The wheels are those for this system and this version of Python.
  """
  @spec download_wheels(Path.t(), keyword) :: {:ok, report} | {:error, Error.t()}
  def download_wheels(folder, options \\ []) do
    with {:ok, plan} <- plan(options) do
      alone(plan, fn ->
        with {:ok, report} <- make(plan),
             :ok <- pip_locked(plan, "downloading packages", ["download", "--dest", folder]),
             :ok <-
               pip_own(plan, "downloading packages of your own", ["download", "--dest", folder]),
             :ok <- from_source(plan, "building the package", ["wheel", "--wheel-dir", folder]),
             do: {:ok, report}
      end)
    end
  end

  @doc "The place of the environment unless another is told."
  @spec default_venv() :: Path.t()
  def default_venv, do: Path.expand("../../../erl_bridge/venv", :code.lib_dir(:erl_bridge))

  @doc "The interpreter of an environment."
  @spec python(Path.t()) :: Path.t()
  def python(venv), do: Path.join([venv, "bin", "python"])

  ## What is to be done

  defp plan(options) do
    extras = Keyword.get(options, :extras, ["dspy"])

    with {:ok, source} <- source(options[:source]),
         {:ok, roots} <- roots(source, extras),
         {:ok, wheels} <- wheels(options[:wheels]),
         {:ok, own} <-
           own(options[:requirements] || Application.get_env(:erl_bridge, :requirements)),
         {:ok, base} <- Interpreter.find(options[:python]) do
      {lock, names} =
        Lock.select(File.read!(Path.join(source, "requirements.lock")), roots ++ @tools)

      {:ok,
       %{
         venv: Path.expand(Keyword.get_lazy(options, :venv, &default_venv/0)),
         source: source,
         wheels: wheels,
         base: base,
         lock: lock,
         names: names,
         own: own,
         packages_stamp:
           digest([lock, base.executable, base.version, if(own, do: File.read!(own), else: [])]),
         package_stamp: digest(contents(source)),
         on_progress: Keyword.get(options, :on_progress, fn _event -> :ok end)
       }}
    end
  end

  # The client's priv is a symlink into the checkout, so `..` is beside what it leads to.
  defp source(nil), do: source(Path.join(:code.priv_dir(:erl_bridge), ".."))

  defp source(folder) do
    if Enum.all?(["pyproject.toml", "requirements.lock"], &File.regular?(Path.join(folder, &1))) do
      {path, 0} = System.cmd("pwd", ["-P"], cd: folder)
      {:ok, String.trim_trailing(path, "\n")}
    else
      {:error,
       Error.setup(
         "the Python package is not in #{folder}",
         "depend on a checkout of the repository (`path: \".../elixir_client\"`, or `git:` with " <>
           "`subdir: \"elixir_client\"`), or name its root with --source"
       )}
    end
  end

  defp roots(source, extras) do
    with {:error, unknown} <- Lock.roots(File.read!(Path.join(source, "pyproject.toml")), extras) do
      {:error,
       Error.setup(
         "there is no extra #{Enum.join(unknown, ", ")}",
         "see pyproject.toml in #{source}"
       )}
    end
  end

  defp wheels(nil), do: {:ok, nil}

  defp wheels(folder) do
    if Path.wildcard(Path.join(folder, "*.whl")) == [],
      do:
        {:error,
         Error.setup(
           "no wheels are in #{folder}",
           "fill it with `mix erl_bridge.setup --download-wheels #{folder}` where there is a network"
         )},
      else: {:ok, Path.expand(folder)}
  end

  defp own(nil), do: {:ok, nil}

  defp own(path) do
    if File.regular?(path),
      do: {:ok, Path.expand(path)},
      else: {:error, Error.setup("there is no file #{path}", "name one that pip takes with -r")}
  end

  # Whatever else is in that place is not ours to remove.
  defp ours(venv) do
    if File.exists?(venv) and not File.exists?(Path.join(venv, "pyvenv.cfg")) and
         File.ls(venv) != {:ok, []},
       do:
         {:error,
          Error.setup(
            "#{venv} is there and is no virtual environment",
            "name another place with --venv"
          )},
       else: :ok
  end

  defp alone(plan, work) do
    lock = plan.venv <> ".lock"
    waiting = "waiting for another setup of #{plan.venv}"

    case File.mkdir_p(Path.dirname(lock)) do
      :ok ->
        on_wait = fn -> plan.on_progress.(%{title: waiting}) end
        FileLock.hold(plan.base.executable, lock, on_wait, work)

      {:error, reason} ->
        {:error,
         Error.setup(
           "#{Path.dirname(lock)} cannot be made: #{:file.format_error(reason)}",
           "name another place with --venv"
         )}
    end
  end

  defp make(plan) do
    with :ok <- ours(plan.venv),
         {:ok, packages} <- install_packages(plan),
         {:ok, package} <- install_package(plan),
         {:ok, facts} <- Installation.facts(python: python(plan.venv)) do
      {:ok, %{venv: plan.venv, changed: packages or package, facts: facts}}
    end
  end

  ## The two parts: the locked packages, and the package itself

  defp install_packages(plan) do
    if stamp(plan.venv, :packages) == plan.packages_stamp, do: {:ok, false}, else: make_venv(plan)
  end

  defp make_venv(plan) do
    File.rm_rf!(plan.venv)
    title = "making #{plan.venv} with Python #{plan.base.version}"

    with :ok <- step(plan, title, plan.base.executable, ["-m", "venv", plan.venv]),
         :ok <- write_lock(plan),
         :ok <- install_pip(plan),
         :ok <- pip_locked(plan, "installing packages", ["install", "--no-compile"]),
         :ok <- pip_own(plan, "installing packages of your own", ["install", "--no-compile"]),
         :ok <- compile(plan, "compiling packages", "lib") do
      File.write!(Path.join(plan.venv, @stamp), plan.packages_stamp)
      {:ok, true}
    end
  end

  defp install_pip(plan) do
    case Lock.select(plan.lock, ["pip"]) do
      {"", []} ->
        :ok

      {text, ["pip"]} ->
        path = Path.join(plan.venv, "pip.lock")
        File.write!(path, text)
        pip(plan, "installing pip", ["install", "--no-compile", "--require-hashes", "-r", path])
    end
  end

  defp install_package(plan) do
    if stamp(plan.venv, :package) == plan.package_stamp, do: {:ok, false}, else: add_package(plan)
  end

  defp add_package(plan) do
    with :ok <- package(plan, ["install", "--no-compile", "--force-reinstall"]),
         :ok <- compile(plan, "compiling erl_bridge", "lib/python*/site-packages/erl_bridge") do
      stamps = [plan.packages_stamp, "\n", plan.package_stamp]
      File.write!(Path.join(plan.venv, @stamp), stamps)
      {:ok, true}
    end
  end

  defp package(%{wheels: nil} = plan, command),
    do: from_source(plan, "installing erl_bridge", command)

  defp package(plan, command) do
    pip(
      plan,
      "installing erl_bridge",
      command ++ ["--no-deps", "erl_bridge==#{Installation.version()}"]
    )
  end

  # A build writes beside what it builds, so it gets a copy.
  defp from_source(plan, title, command) do
    copy = Path.join(plan.venv, "source")
    File.rm_rf!(copy)
    File.mkdir_p!(copy)

    for name <- @sources, path = Path.join(plan.source, name), File.exists?(path) do
      File.cp_r!(path, Path.join(copy, name))
    end

    result = pip(plan, title, command ++ ["--no-deps", "--no-build-isolation", copy])
    File.rm_rf!(copy)
    result
  end

  defp write_lock(plan) do
    File.write!(Path.join(plan.venv, @lock), plan.lock)
  end

  # Compiled files that say nothing of times stay valid wherever they are copied, also to where
  # nobody may write; otherwise each start of Python would compile anew. That a file does not
  # compile is the business of who imports it: some packages carry files for other Pythons.
  defp compile(plan, title, folder) do
    folders = Path.wildcard(Path.join(plan.venv, folder))
    plan.on_progress.(%{title: title})
    arguments = ~w(-m compileall -qq -f -j 0 --invalidation-mode unchecked-hash) ++ folders
    OsCommand.run(python(plan.venv), arguments)
    :ok
  end

  ## Steps

  # With all of the lock's packages it is a long step, so each package is told.
  defp pip_locked(plan, title, arguments) do
    counter = :counters.new(1, [])
    lock = ["--no-deps", "--require-hashes", "-r", Path.join(plan.venv, @lock)]
    pip(plan, title, arguments ++ lock, &count(&1, counter, plan, title))
  end

  defp pip_own(%{own: nil}, _title, _arguments), do: :ok

  defp pip_own(plan, title, arguments) do
    constraints = Path.join(plan.venv, "constraints.txt")
    File.write!(constraints, Lock.versions(plan.lock))
    pip(plan, title, arguments ++ ["-r", plan.own, "-c", constraints])
  end

  defp pip(plan, title, [command | arguments], on_line \\ fn _line -> :ok end) do
    from = if plan.wheels, do: ["--no-index", "--find-links", plan.wheels], else: []
    options = ~w(--disable-pip-version-check --no-input --progress-bar off)
    all = ["-m", "pip", command] ++ options ++ from ++ arguments
    step(plan, title, python(plan.venv), all, on_line)
  end

  defp step(plan, title, program, arguments, on_line \\ fn _line -> :ok end) do
    plan.on_progress.(%{title: title})

    case OsCommand.run(program, arguments, on_line) do
      {0, _lines} -> :ok
      {status, lines} -> {:error, failed(title, status, lines)}
    end
  end

  # pip takes up each package with one of these lines: it is in an index, in a folder, or not for
  # this system.
  defp count(line, counter, plan, title) do
    if String.starts_with?(line, ["Collecting ", "Processing ", "Ignoring "]) do
      :counters.add(counter, 1, 1)
      total = length(plan.names)
      done = min(:counters.get(counter, 1), total)
      plan.on_progress.(%{title: title, done: done, total: total, unit: "package"})
    end
  end

  defp failed(title, status, lines) do
    output = Enum.join(lines, "\n")
    said = Enum.find(lines, List.last(lines, ""), &(&1 =~ ~r/^(ERROR|Error)/))

    cure =
      Enum.find_value(@cures, "see its output", fn {words, cure} ->
        if output =~ words, do: cure
      end)

    error = Error.setup("#{title} failed with status #{status}: #{said}", cure)
    %{error | context: %{exit_status: status, output: lines}}
  end

  ## Stamps

  defp stamp(venv, part) do
    with true <- File.exists?(python(venv)),
         {:ok, text} <- File.read(Path.join(venv, @stamp)) do
      text |> String.split("\n") |> Enum.at(if(part == :packages, do: 0, else: 1))
    else
      _none -> nil
    end
  end

  defp contents(source) do
    for name <- @sources, path <- files(Path.join(source, name)) do
      [Path.relative_to(path, source), 0, File.read!(path)]
    end
  end

  # Not through symlinks, and not what builds and runs leave behind.
  defp files(path) do
    case File.lstat!(path) do
      %{type: :directory} ->
        path |> File.ls!() |> Enum.sort() |> Enum.flat_map(&files(Path.join(path, &1)))

      %{type: :regular} ->
        if Path.extname(path) in [".so", ".pyc"], do: [], else: [path]

      _symlink ->
        []
    end
  end

  defp digest(data), do: Base.encode16(:crypto.hash(:sha256, data), case: :lower)
end
