defmodule ErlBridge.Stderr do
  @moduledoc """
  Python's stderr, line by line: each line goes to `Logger`, and the last ones are kept for error
  messages. What Python's `logging` wrote has a level of its own.

  A port cannot tell a program's stderr from its stdout, and leaves it to the terminal of the
  node. So Python writes its stderr into a named pipe, and a second port reads that pipe. This process
  owns the second port: a flood of lines holds up neither the worker nor Python, and nothing is
  written to disk.

  The program of the second port, a shell, also sees to it that nothing is left, whatever dies first
  and when, the whole node too: it makes the pipe, holds both ends of it until Python has opened it, so
  that nobody ever waits for the other end, takes its name away, and kills a Python that lives on for
  three seconds after the owner of its port, being suspended or stuck. (Others end by themselves then,
  because their input does.)
  """

  use GenServer

  require Logger

  @kept 50
  @longest_line 4096

  # It hears words from its input, and knows by the end of it that this process is gone. Only `cat`
  # keeps its output, so that the end of that is the end of Python's stderr.
  @script ~S"""
  trap '' PIPE
  mkfifo -m 600 "$1" 2>&1 && exec 3<>"$1" 4<"$1" || exit
  echo ready
  cat <&4 3>&- 2>/dev/null &
  exec >/dev/null 2>&1 4<&-

  opened() {
    rm -f "$1"
    exec 3>&-
  }

  python=
  while read -r word; do
    case $word in
      opened) opened "$1" ;;
      over) python= ;;
      *) python=$word ;;
    esac
  done

  opened "$1"
  if [ -n "$python" ]; then
    for second in 1 2 3; do
      ! kill -0 "$python" || sleep 1
    done
    kill -KILL "$python"
  fi
  kill $!
  wait
  """

  @doc """
  Starts it, for a process that traps exits; what comes is logged at `level` unless it says otherwise,
  or not at all for `:none`. Gives also the name of the pipe, readable by this user only, that
  Python's stderr is to go into. It is in `folder`; `nil` says that there is none for such a thing.
  """
  @spec start_link(Logger.level() | :none, Path.t() | nil) ::
          {:ok, pid, Path.t()} | {:error, String.t()}
  def start_link(level, folder \\ System.tmp_dir())

  def start_link(_level, nil) do
    {:error,
     "there is no folder for temporary files that can be written; set TMPDIR to one, or mount one: " <>
       "`docker run --tmpfs /tmp`"}
  end

  def start_link(level, folder) do
    case GenServer.start_link(__MODULE__, {level, folder}) do
      {:ok, stderr} -> {:ok, stderr, GenServer.call(stderr, :pipe)}
      {:error, {:shutdown, why}} -> {:error, why}
    end
  end

  @doc "Says which OS process writes into the pipe. It is killed if it outlives this process for long."
  @spec written_by(pid, pos_integer) :: :ok
  def written_by(stderr, os_pid), do: GenServer.cast(stderr, {:written_by, os_pid})

  @doc "Says that Python has opened the pipe, which needs no name any more."
  @spec opened(pid) :: :ok
  def opened(stderr), do: GenServer.cast(stderr, :opened)

  @doc """
  Ends the reading, when Python has ended, and gives the last lines, oldest first.

  Waits up to `timeout` ms for other writers to close the pipe, so that nothing they wrote is lost.
  """
  @spec stop(pid, non_neg_integer) :: [String.t()]
  def stop(stderr, timeout), do: GenServer.call(stderr, {:stop, timeout}, :infinity)

  @impl true
  def init({level, folder}) do
    # To write to a shell that was killed ends the port, which is not to end this process.
    Process.flag(:trap_exit, true)
    name = "erl_bridge-#{System.pid()}-#{System.unique_integer([:positive])}.stderr"
    path = Path.join(folder, name)
    arguments = ["-c", @script, "stderr", path]
    options = [:binary, :eof, :exit_status, :hide, {:line, @longest_line}, args: arguments]
    port = Port.open({:spawn_executable, System.find_executable("sh")}, options)
    state = %{port: port, pipe: path, level: level, name: "python", lines: [], open?: true}

    receive do
      {^port, {:data, {:eol, "ready"}}} -> {:ok, Map.put(state, :stopping, nil)}
      {^port, {:data, {_eol, why}}} -> {:stop, {:shutdown, why}}
      {^port, :eof} -> {:stop, {:shutdown, "#{path} cannot be opened"}}
    end
  end

  @impl true
  def handle_call(:pipe, _from, state), do: {:reply, state.pipe, state}

  def handle_call({:stop, _timeout}, _from, %{open?: false} = state) do
    tell(state, "over")
    {:stop, :normal, Enum.reverse(state.lines), state}
  end

  def handle_call({:stop, timeout}, from, state) do
    tell(state, "opened\nover")
    Process.send_after(self(), :stop, timeout)
    {:noreply, %{state | stopping: from}}
  end

  @impl true
  def handle_cast({:written_by, os_pid}, state) do
    tell(state, "#{os_pid}")
    {:noreply, %{state | name: "python #{os_pid}"}}
  end

  def handle_cast(:opened, state) do
    tell(state, "opened")
    {:noreply, state}
  end

  # A port is closed when its shell was killed.
  defp tell(state, words) do
    Port.command(state.port, words <> "\n")
  rescue
    ArgumentError -> :gone
  end

  @impl true
  def handle_info({port, {:data, {_eol, text}}}, %{port: port} = state) do
    lines =
      for line <- text |> printable() |> String.split("\r", trim: true), do: level(line, state)

    if state.level != :none, do: Enum.each(lines, &log(&1, state))
    kept = Enum.reverse(Enum.map(lines, &elem(&1, 1))) ++ state.lines
    {:noreply, %{state | lines: Enum.take(kept, @kept)}}
  end

  def handle_info({port, :eof}, %{port: port} = state), do: ended(state)

  # Of a shell that was killed.
  def handle_info({port, {:exit_status, _status}}, %{port: port} = state), do: {:noreply, state}

  def handle_info({:EXIT, port, _reason}, %{port: port} = state), do: ended(state)

  def handle_info(:stop, state), do: answer(state)

  defp ended(%{stopping: nil} = state), do: {:noreply, %{state | open?: false}}
  defp ended(state), do: answer(state)

  defp answer(state) do
    GenServer.reply(state.stopping, Enum.reverse(state.lines))
    {:stop, :normal, state}
  end

  # Python's `logging` tells the level of a line as sd-daemon(3) does.
  @syslog {:emergency, :alert, :critical, :error, :warning, :notice, :info, :debug}

  defp level(<<?<, digit, ?>, line::binary>>, _state) when digit in ?0..?7,
    do: {elem(@syslog, digit - ?0), line}

  defp level(line, state), do: {state.level, line}

  defp log({level, line}, state), do: Logger.log(level, "[#{state.name}] #{line}")

  defp printable(text) do
    if String.valid?(text), do: text, else: :unicode.characters_to_binary(text, :latin1)
  end
end
