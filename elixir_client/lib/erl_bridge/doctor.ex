defmodule ErlBridge.Doctor do
  @moduledoc """
  Checks whether all that bridges need is there and works, on the machine that it runs on.

      mix erl_bridge.doctor
      bin/my_app eval 'ErlBridge.Doctor.run()'

  Each check is a line: `ok`, `warning` for what works but could be better, or `failed`, with what
  to do about it. A check that needs what has failed is left out.

  The versions of Elixir and OTP, the Python that bridges would start, the package in it, its codec
  and DSPy are looked at. Then a bridge is started, a ping goes there and back a hundred times, and
  DSPy predicts with a model that needs no network. The last check is the folder for datasets.

  ## Options

    * `:python` - the interpreter, as the option of bridges
    * `:on_check` - called with each check as soon as it is known
  """

  alias ErlBridge.{Bench, Error, Installation, OsCommand}
  alias ErlBridge.Setup.Interpreter

  @typedoc "What was looked at, how it is, and what to do about it where that is not `:ok`."
  @type check :: %{
          name: String.t(),
          status: :ok | :warning | :failed,
          said: String.t(),
          cure: String.t() | nil
        }

  @otp 25
  @elixir "1.14.0"
  @pings 100
  # The first job imports DSPy, which a cold disk makes long.
  @job_timeout 120_000
  @low_space 1024 * 1024 * 1024

  # In this order: each finds in the state what those before it found.
  @checks [
    {"Elixir", :elixir},
    {"Python", :python},
    {"package", :package},
    {"codec", :codec},
    {"DSPy", :dspy},
    {"start", :start},
    {"ping", :ping},
    {"job", :job},
    {"datasets", :datasets}
  ]

  @doc """
  Prints every check. Ends the process with the status 1 when one has failed: `mix` and `eval` make
  it the exit status of the OS process.

  With `quiet: true` it prints only what is not `:ok`. Takes the options of `checks/1` besides.
  """
  @spec run(keyword) :: :ok | no_return
  def run(options \\ []) do
    {quiet, options} = Keyword.pop(options, :quiet, false)
    print = &unless(quiet and &1.status == :ok, do: IO.puts(line(&1)))

    if Enum.any?(checks([on_check: print] ++ options), &(&1.status == :failed)),
      do: exit({:shutdown, 1}),
      else: :ok
  end

  @doc "All checks, in the order in which they were made."
  @spec checks(keyword) :: [check]
  def checks(options \\ []) do
    {:ok, _apps} = Application.ensure_all_started(:erl_bridge)
    on_check = Keyword.get(options, :on_check, fn _check -> :ok end)
    state = %{python: options[:python], facts: nil, bridge: nil}

    {checks, state} =
      Enum.flat_map_reduce(@checks, state, fn {name, key}, state ->
        {found, changes} = found(name, look(key, state))
        Enum.each(found, on_check)
        {found, Map.merge(state, changes)}
      end)

    if state.bridge, do: ErlBridge.stop(state.bridge)
    checks
  end

  @doc """
  A check as a line.

      iex> ErlBridge.Doctor.line(%{name: "DSPy", status: :ok, said: "3.4.1", cure: nil})
      "ok       DSPy      3.4.1"
      iex> ErlBridge.Doctor.line(%{name: "codec", status: :warning, said: "pure Python", cure: "install gcc"})
      "warning  codec     pure Python: install gcc"
  """
  @spec line(check) :: String.t()
  def line(%{name: name, status: status, said: said, cure: cure}) do
    cure = if cure, do: ": #{cure}", else: ""
    "#{String.pad_trailing("#{status}", 9)}#{String.pad_trailing(name, 10)}#{said}#{cure}"
  end

  defp found(_name, :left_out), do: {[], %{}}
  defp found(name, {:ok, said}), do: found(name, {:ok, said, %{}})
  defp found(name, {:ok, said, changes}), do: {[check(name, :ok, said, nil)], changes}
  defp found(name, {status, said, cure}), do: {[check(name, status, said, cure)], %{}}

  defp check(name, status, said, cure),
    do: %{name: name, status: status, said: said, cure: cure}

  ## The checks

  # What each gives: how it is and what is said of it; with changes of the state, or with the cure;
  # `:left_out` where it needs what is not there.

  defp look(:elixir, _state) do
    said = "#{System.version()} on OTP #{System.otp_release()}"

    if Version.compare(System.version(), @elixir) != :lt and
         String.to_integer(System.otp_release()) >= @otp,
       do: {:ok, said},
       else: {:failed, said, "install Elixir #{@elixir} with OTP #{@otp} or newer"}
  end

  defp look(:python, state) do
    case Installation.facts(python: state.python) do
      {:ok, facts} -> python(facts, state)
      {:error, %Error{message: message}} -> {:failed, message, nil}
    end
  end

  defp look(_key, %{facts: nil}), do: :left_out

  defp look(:package, %{facts: facts} = state) do
    if facts["erl_bridge"] == Installation.version(),
      do: {:ok, "erl_bridge #{facts["erl_bridge"]}, as the client"},
      else:
        {:failed, "erl_bridge #{facts["erl_bridge"]}, the client is #{Installation.version()}",
         setup(state)}
  end

  defp look(:codec, %{facts: %{"codec" => "compiled"}}), do: {:ok, "compiled"}

  defp look(:codec, %{facts: %{"codec" => codec}} = state) do
    {:warning, "#{codec}, some 20 times slower with large terms",
     "install a C compiler and Python's headers (`apt-get install gcc python3-dev`), remove the " <>
       "environment and #{setup(state)}"}
  end

  defp look(:dspy, %{facts: %{"dspy" => version}}), do: {:ok, version}

  defp look(:dspy, state),
    do: {:warning, "not installed, so there is no predict, evaluate and optimize", setup(state)}

  defp look(:start, state) do
    options = [python: state.python, preload: false, log_level: :none]
    given = Enum.reject(options, &match?({_name, nil}, &1))
    {us, started} = :timer.tc(fn -> ErlBridge.start_link(given) end)

    case started do
      {:ok, bridge} -> {:ok, "hello after #{div(us, 1_000)} ms", %{bridge: bridge}}
      {:error, %Error{} = error} -> {:failed, Exception.message(error), cure(error, state)}
    end
  end

  defp look(:ping, %{bridge: nil}), do: :left_out

  defp look(:ping, %{bridge: bridge} = state) do
    median = bridge |> Bench.round_trips(@pings) |> Bench.percentile(0.5)
    {:ok, "#{div(median, 1_000)} us there and back"}
  rescue
    error in Error -> {:failed, Exception.message(error), setup(state)}
  end

  defp look(:job, %{bridge: bridge, facts: facts})
       when bridge == nil or not is_map_key(facts, "dspy"),
       do: :left_out

  defp look(:job, %{bridge: bridge} = state) do
    inputs = %{question: "Is it well?"}
    options = [lm: "local/nearest-demo", timeout: @job_timeout]

    {us, result} =
      :timer.tc(fn -> ErlBridge.predict(bridge, "question -> answer", inputs, options) end)

    case result do
      {:ok, %{"answer" => _answer}} -> {:ok, "DSPy predicts; the first took #{div(us, 1_000)} ms"}
      {:error, error} -> {:failed, Exception.message(error), setup(state)}
    end
  end

  defp look(:datasets, %{facts: %{"home" => folder}}) do
    existing = existing(folder)

    with :ok <- writable(existing), {:ok, free} when free < @low_space <- free_space(existing) do
      {:warning, "#{folder} has #{mib(free)} MiB left", "make room, or set ERL_BRIDGE_HOME"}
    else
      {:ok, free} ->
        {:ok, "#{folder}, #{mib(free)} MiB free"}

      {:error, why} ->
        {:warning, "#{folder}: #{why}", "set ERL_BRIDGE_HOME to a folder that can be written"}
    end
  end

  # A Python of another version says nothing of it.
  defp look(:datasets, _state), do: :left_out

  defp python(%{"python" => version, "executable" => executable} = facts, state) do
    if Interpreter.supported?(version),
      do: {:ok, "#{version}, #{executable}", %{facts: facts}},
      else:
        {:failed, "#{version}, #{executable}",
         "install one of #{Enum.join(Interpreter.supported(), ", ")}, and #{setup(state)}"}
  end

  # Of a Python that was started there are its last words; else the message says what to do.
  defp cure(%Error{context: %{stderr: _lines}}, state), do: setup(state)
  defp cure(%Error{}, _state), do: nil

  defp setup(state), do: Installation.cure(state.python)

  # The folder is made when there is something to put into it.
  defp existing(folder),
    do: if(File.exists?(folder), do: folder, else: existing(Path.dirname(folder)))

  defp writable(folder) do
    probe = Path.join(folder, ".erl_bridge-doctor-#{System.pid()}")

    case File.write(probe, "") do
      :ok -> File.rm(probe)
      {:error, reason} -> {:error, "#{folder} #{:file.format_error(reason)}"}
    end
  end

  # POSIX: a line of headers, then device, size, used, free in KiB and the percentage that is used.
  defp free_space(folder) do
    with {0, lines} <- OsCommand.run("df", ["-Pk", folder]),
         [_all, free] <- Regex.run(~r/ (\d+) +\d+% /, List.last(lines, "")) do
      {:ok, String.to_integer(free) * 1024}
    else
      _other -> {:error, "df does not tell how much is free"}
    end
  end

  defp mib(bytes), do: div(bytes, 1024 * 1024)
end
