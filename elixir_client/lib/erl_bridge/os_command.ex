defmodule ErlBridge.OsCommand do
  @moduledoc """
  A program of the operating system that is run to its end and heard line by line. When the calling
  process ends first, or the node, so does the program, with all that it has started.

      iex> test = self()
      iex> ErlBridge.OsCommand.run("sh", ["-c", "echo one; echo two >&2; exit 3"], &send(test, &1))
      {3, ["one", "two"]}
      iex> receive do line -> line end
      "one"
  """

  # The port's process leads a group of its own, and its input ends with the port.
  @guarded """
  exec 3<&0
  "$@" </dev/null 3<&- &
  program=$!
  { read -r _; kill -KILL -$$; } <&3 >/dev/null 2>&1 &
  wait $program
  status=$?
  kill $!
  exit $status
  """

  @kept 200
  @longest_line 4096

  @doc """
  Runs a program and calls `on_line` with each line that it prints, on stdout or stderr.

  Gives its exit status and its last lines, oldest first; 127 for a program that is not there.
  """
  @spec run(String.t(), [String.t()], (String.t() -> any), keyword) ::
          {non_neg_integer, [String.t()]}
  def run(program, arguments, on_line \\ fn _line -> :ok end, options \\ []) do
    case System.find_executable(program) do
      nil -> {127, ["#{program}: not an executable file"]}
      path -> path |> open(arguments, options) |> hear(on_line, [])
    end
  end

  defp open(path, arguments, options) do
    arguments = ["-c", @guarded, "sh", path | arguments]

    Port.open(
      {:spawn_executable, "/bin/sh"},
      [:binary, :exit_status, :hide, :stderr_to_stdout, {:line, @longest_line}, args: arguments] ++
        options
    )
  end

  defp hear(port, on_line, lines) do
    receive do
      {^port, {:data, {_eol, line}}} ->
        on_line.(line)
        hear(port, on_line, Enum.take([line | lines], @kept))

      {^port, {:exit_status, status}} ->
        {status, Enum.reverse(lines)}
    end
  end
end
