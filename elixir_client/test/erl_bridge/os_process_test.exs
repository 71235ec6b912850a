defmodule ErlBridge.OsProcessTest do
  use ExUnit.Case, async: true
  doctest ErlBridge.OsProcess

  alias ErlBridge.OsProcess

  # Without /proc, `ps` is asked, which small containers lack.
  @procs if System.find_executable("ps"), do: ["/proc", "/no_proc"], else: ["/proc"]

  test "a process ends by a signal, and is gone then" do
    port = Port.open({:spawn, "sleep 600"}, [:exit_status])
    {:os_pid, os_pid} = Port.info(port, :os_pid)
    assert OsProcess.alive?(os_pid)

    assert :ok = OsProcess.signal(os_pid, "KILL")
    assert_receive {^port, {:exit_status, 137}}
    refute OsProcess.alive?(os_pid)
    assert :ok = OsProcess.signal(os_pid, "KILL")
  end

  test "leaves nothing with a caller that traps exits" do
    Process.flag(:trap_exit, true)
    refute OsProcess.alive?(4_194_305)
    refute_received {:EXIT, _port, _reason}
  end

  test "the processor time of a process grows while it works, and is none when it is gone" do
    port = Port.open({:spawn, "sh -c 'while kill -0 $PPID; do :; done'"}, [:exit_status])
    {:os_pid, os_pid} = Port.info(port, :os_pid)
    for proc <- @procs, do: assert(grows?(os_pid, proc, OsProcess.cpu_time(os_pid, proc)))

    OsProcess.signal(os_pid, "KILL")
    assert_receive {^port, {:exit_status, 137}}
    for proc <- @procs, do: assert(OsProcess.cpu_time(os_pid, proc) == nil)
  end

  defp grows?(os_pid, proc, before) when before != nil,
    do: OsProcess.cpu_time(os_pid, proc) > before or grows?(os_pid, proc, before)
end
