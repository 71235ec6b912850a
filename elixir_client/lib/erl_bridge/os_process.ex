defmodule ErlBridge.OsProcess do
  @moduledoc """
  Processes of the operating system: signals to them, and the shell's commands.

      iex> ErlBridge.OsProcess.alive?(String.to_integer(System.pid()))
      true
      iex> ErlBridge.OsProcess.cpu_time(String.to_integer(System.pid())) != nil
      true
  """

  @doc "Sends a signal; nothing happens when the process is gone."
  @spec signal(pos_integer, String.t()) :: :ok
  def signal(os_pid, name) do
    kill(os_pid, name)
    :ok
  end

  @doc "Whether there is such a process."
  @spec alive?(pos_integer) :: boolean
  def alive?(os_pid), do: kill(os_pid, "0")

  @doc """
  How much processor time a process has used so far, to be compared with an earlier answer only:
  the system's ticks from `/proc`, the text of `ps` where there is no `/proc` (macOS), or `nil` where
  there is neither, for a process that is gone, and for `nil`, which is one of another host.
  """
  @spec cpu_time(pos_integer | nil, Path.t()) :: non_neg_integer | String.t() | nil
  def cpu_time(os_pid, proc \\ "/proc")
  def cpu_time(nil, _proc), do: nil

  def cpu_time(os_pid, proc) do
    case File.read(Path.join([proc, "#{os_pid}", "stat"])) do
      {:ok, stat} -> user_and_system(stat)
      {:error, _reason} -> if not File.exists?(proc), do: time_of_ps(os_pid)
    end
  end

  # proc(5): the 14th and 15th field. The second is the program's name in brackets, which may hold
  # blanks and brackets.
  defp user_and_system(stat) do
    [_pid_and_name, rest] = Regex.run(~r/^(.*\)) (.*)$/s, stat, capture: :all_but_first)
    [user, system] = rest |> String.split() |> Enum.slice(11, 2) |> Enum.map(&String.to_integer/1)
    user + system
  end

  defp time_of_ps(os_pid) do
    case shell("ps -o time= -p #{os_pid}") do
      "" -> nil
      time -> time
    end
  end

  # The shell's own `kill`: the program of that name is missing from small containers.
  defp kill(os_pid, signal), do: shell("kill -#{signal} #{os_pid} && echo sent") == "sent"

  @doc """
  What a command of the shell prints to stdout, without blanks around it.

      iex> ErlBridge.OsProcess.shell("echo one; echo two >&2")
      "one"
  """
  # Not System.cmd/3, which leaves an exit of its port with a caller that traps exits.
  @spec shell(String.t()) :: String.t()
  def shell(command),
    do: "(#{command}) 2>/dev/null" |> to_charlist() |> :os.cmd() |> to_string() |> String.trim()
end
