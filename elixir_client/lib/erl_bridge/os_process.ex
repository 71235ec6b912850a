defmodule ErlBridge.OsProcess do
  @moduledoc """
  Signals to processes of the operating system.

      iex> ErlBridge.OsProcess.alive?(String.to_integer(System.pid()))
      true
      iex> is_integer(ErlBridge.OsProcess.cpu_time(String.to_integer(System.pid())))
      File.exists?("/proc/self/stat")
  """

  @doc "Sends a signal; nothing happens when the process is gone."
  @spec signal(pos_integer, String.t()) :: :ok
  def signal(os_pid, name) do
    kill(os_pid, name)
    :ok
  end

  @doc "Whether there is such a process."
  @spec alive?(pos_integer) :: boolean
  def alive?(os_pid), do: kill(os_pid, "0") == 0

  @doc """
  The processor time that a process has used so far, in the system's ticks; `nil` where the system
  does not tell (Linux does).
  """
  @spec cpu_time(pos_integer) :: non_neg_integer | nil
  def cpu_time(os_pid) do
    case File.read("/proc/#{os_pid}/stat") do
      {:ok, stat} -> user_and_system(stat)
      {:error, _reason} -> nil
    end
  end

  # proc(5): the 14th and 15th field. The second is the program's name in brackets, which may hold
  # blanks and brackets.
  defp user_and_system(stat) do
    [_pid_and_name, rest] = Regex.run(~r/^(.*\)) (.*)$/s, stat, capture: :all_but_first)
    [user, system] = rest |> String.split() |> Enum.slice(11, 2) |> Enum.map(&String.to_integer/1)
    user + system
  end

  # The shell's own `kill`: the program of that name is missing from small containers.
  defp kill(os_pid, signal) do
    {_complaint, status} =
      System.cmd("sh", ["-c", "kill -#{signal} #{os_pid}"], stderr_to_stdout: true)

    status
  end
end
