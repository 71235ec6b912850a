defmodule ErlBridge.OsProcessTest do
  use ExUnit.Case, async: true
  doctest ErlBridge.OsProcess

  alias ErlBridge.OsProcess

  test "a process ends by a signal, and is gone then" do
    port = Port.open({:spawn, "sleep 600"}, [:exit_status])
    {:os_pid, os_pid} = Port.info(port, :os_pid)
    assert OsProcess.alive?(os_pid)

    assert :ok = OsProcess.signal(os_pid, "KILL")
    assert_receive {^port, {:exit_status, 137}}
    refute OsProcess.alive?(os_pid)
    assert :ok = OsProcess.signal(os_pid, "KILL")
  end
end
