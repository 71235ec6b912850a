defmodule ErlBridge.Stderr do
  @moduledoc """
  Python's stderr, line by line: each line goes to `Logger`, and the last ones are kept for error
  messages. What Python's `logging` wrote has a level of its own.

  A port cannot tell a program's stderr from its stdout, and leaves it to the terminal of the
  node. So Python writes its stderr into a named pipe, and a second port reads that pipe through
  `cat`. This process owns the second port: a flood of lines holds up neither the worker nor
  Python, and nothing is written to disk. The pipe has a name only until both ends have opened it.
  """

  use GenServer

  alias ErlBridge.Reaper

  require Logger

  @kept 50
  @longest_line 4096

  @doc "Makes the named pipe, readable by this user only."
  @spec make_pipe() :: {:ok, Path.t()} | {:error, String.t()}
  def make_pipe do
    name = "erl_bridge-#{System.pid()}-#{System.unique_integer([:positive])}.stderr"
    path = Path.join(System.tmp_dir!(), name)

    case System.cmd("mkfifo", ["-m", "600", path], stderr_to_stdout: true) do
      {_output, 0} -> {:ok, path}
      {output, _status} -> {:error, String.trim(output)}
    end
  end

  @doc "Removes the pipe's name, which is needed only until both ends have opened it."
  @spec remove_pipe(Path.t()) :: :ok
  def remove_pipe(path) do
    _gone_already = File.rm(path)
    :ok
  end

  @doc "Starts reading the pipe; lines are logged at `level` under `name`, or not at all for `:none`."
  @spec start_link(Path.t(), Logger.level() | :none, String.t()) :: {:ok, pid}
  def start_link(pipe, level, name), do: GenServer.start_link(__MODULE__, {pipe, level, name})

  @doc """
  Ends the reading and gives the last lines, oldest first.

  Waits up to `timeout` ms for the writers to close the pipe, so that nothing they wrote is lost.
  """
  @spec stop(pid, non_neg_integer) :: [String.t()]
  def stop(stderr, timeout), do: GenServer.call(stderr, {:stop, timeout}, :infinity)

  @impl true
  def init({pipe, level, name}) do
    # The name may be gone before it is read, when Python is stopped as it starts.
    arguments = ["-c", ~S(exec cat "$1" 2>/dev/null), "stderr", pipe]
    options = [:binary, :exit_status, :hide, {:line, @longest_line}, args: arguments]
    port = Port.open({:spawn_executable, System.find_executable("sh")}, options)
    # It waits for ever to open a pipe whose writer died before it had opened its own end.
    with {:os_pid, os_pid} <- Port.info(port, :os_pid), do: Reaper.watch(os_pid, 0)
    {:ok, %{port: port, level: level, name: name, lines: [], open?: true, stopping: nil}}
  end

  @impl true
  def handle_call({:stop, _timeout}, _from, %{open?: false} = state),
    do: {:stop, :normal, Enum.reverse(state.lines), state}

  def handle_call({:stop, timeout}, from, state) do
    Process.send_after(self(), :stop, timeout)
    {:noreply, %{state | stopping: from}}
  end

  @impl true
  def handle_info({port, {:data, {_eol, text}}}, %{port: port} = state) do
    lines =
      for line <- text |> printable() |> String.split("\r", trim: true), do: level(line, state)

    if state.level != :none, do: Enum.each(lines, &log(&1, state))
    kept = Enum.reverse(Enum.map(lines, &elem(&1, 1))) ++ state.lines
    {:noreply, %{state | lines: Enum.take(kept, @kept)}}
  end

  def handle_info({port, {:exit_status, _status}}, %{port: port, stopping: nil} = state),
    do: {:noreply, %{state | open?: false}}

  def handle_info({port, {:exit_status, _status}}, %{port: port} = state), do: answer(state)

  def handle_info(:stop, state), do: answer(state)

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
