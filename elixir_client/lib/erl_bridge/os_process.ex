defmodule ErlBridge.OsProcess do
  @moduledoc """
  Signals to processes of the operating system.

      iex> ErlBridge.OsProcess.alive?(String.to_integer(System.pid()))
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
  def alive?(os_pid), do: kill(os_pid, "0") == 0

  # The shell's own `kill`: the program of that name is missing from small containers.
  defp kill(os_pid, signal) do
    {_complaint, status} =
      System.cmd("sh", ["-c", "kill -#{signal} #{os_pid}"], stderr_to_stdout: true)

    status
  end
end
