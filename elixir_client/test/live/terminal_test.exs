defmodule ErlBridge.TerminalTest do
  @moduledoc "Ctrl-C, on real terminals."
  use ExUnit.Case, async: true

  alias ErlBridge.OsProcess

  @moduletag :tmp_dir

  @during ~S"""
  IO.inspect({ErlBridge.Terminal.path(), ErlBridge.Terminal.path("/none")}, label: "path")
  ErlBridge.Signals.during(
    fn -> IO.puts("works"); Process.sleep(:infinity) end,
    fn signal -> IO.puts("asked by #{signal}") end
  )
  """

  test "on Ctrl-C the best program so far is saved", %{tmp_dir: folder} do
    rows = Path.join(folder, "rows.jsonl")
    out = Path.join(folder, "p.etf")
    File.write!(rows, for(n <- 1..1_500, do: ~s({"text": "some #{n}", "odd": "#{rem(n, 2)}"}\n)))
    arguments = ["--signature", "text -> odd", "--data", rows, "--out", out]
    terminal = start(["erl_bridge.optimize", "--optimizer", "random_search" | arguments])
    await(terminal, "best")
    type(terminal, "\x03")

    assert {output, 1} = await_end(terminal)
    assert output =~ "It is the best so far: a score of "
    assert output =~ "keys as before: at once"
    assert {:ok, _program} = ErlBridge.Program.load(out)
  end

  test "Ctrl-C stops a bridge that was kept" do
    terminal = start(["erl_bridge.run", "--no-preload"])
    await(terminal, "limits: ")
    type(terminal, "\x03")

    assert {output, 0} = await_end(terminal)
    assert output =~ "keys as before: at once"
  end

  test "Ctrl-C pressed again ends at once" do
    terminal = start(["run", "-e", @during])
    output = await(terminal, "works")
    assert output =~ ~r"path: \{\"/proc/\d+/fd/0\", "
    if System.find_executable("ps"), do: assert(output =~ ~r"path: .*, \"/dev/pts/\d+\"\}")
    type(terminal, "\x03")
    await(terminal, "asked by sigquit")
    type(terminal, "\x03")

    assert {output, 130} = await_end(terminal)
    assert output =~ "keys as before: at once"
  end

  test "the terminal has its keys back when the node is killed" do
    terminal = start(["run", "-e", @during])
    [_all, os_pid] = Regex.run(~r/pid (\d+)/, await(terminal, "works"))
    OsProcess.signal(String.to_integer(os_pid), "KILL")

    assert {output, 137} = await_end(terminal)
    refute output =~ "never"
  end

  test "a node in the background leaves the terminal alone" do
    script = ~S|IO.inspect({ErlBridge.Terminal.path(), ErlBridge.Terminal.path("/none")})|

    terminal =
      open(["sh", "-c", ~S(set -m; mix run --no-start -e "$1" < /dev/tty & wait), "sh", script])

    assert {output, 0} = await_end(terminal)
    assert output =~ "{nil, nil}"
  end

  defp start(arguments), do: open(["mix" | arguments])

  defp open(command) do
    Port.open({:spawn_executable, System.fetch_env!("ERL_BRIDGE_PYTHON")}, [
      :binary,
      :exit_status,
      args: [Path.expand("../support/terminal.py", __DIR__) | command],
      env: [{~c"MIX_ENV", ~c"test"}]
    ])
  end

  defp type(terminal, keys), do: Port.command(terminal, keys)

  defp await(terminal, text, output \\ "") do
    if output =~ text do
      output
    else
      assert_receive {^terminal, {:data, data}}
      await(terminal, text, output <> data)
    end
  end

  defp await_end(terminal, output \\ "") do
    receive do
      {^terminal, {:data, data}} -> await_end(terminal, output <> data)
      {^terminal, {:exit_status, status}} -> {output, status}
    after
      60_000 -> flunk("no end after: #{output}")
    end
  end
end
