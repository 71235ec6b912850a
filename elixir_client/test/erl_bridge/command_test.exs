defmodule ErlBridge.CommandTest do
  use ExUnit.Case, async: true
  doctest ErlBridge.Command

  alias ErlBridge.{Command, Options}

  @arguments [
    {[], ["port"]},
    {[app: "shop.app:app"], ["port", "--app", "shop.app:app"]},
    {[nouse_stdio: true], ["port", "--fds", "3,4"]},
    {[preload: false], ["port", "--no-preload"]},
    {[max_frame: 1024, max_jobs: 2], ["port", "--max-frame", "1024", "--max-jobs", "2"]},
    {[args: ["--no-dspy"]], ["port", "--no-dspy"]}
  ]

  for {options, arguments} <- @arguments do
    test "#{inspect(options)} gives #{Enum.join(arguments, " ")}" do
      assert Command.arguments(Options.validate!(unquote(options), :start)) == unquote(arguments)
    end
  end

  test "the interpreter is chosen through the launcher's environment" do
    options = Options.validate!([python: "/opt/py", env: %{"A" => "b", "C" => false}], :start)

    assert Command.environment(options) ==
             [
               {~c"ERL_BRIDGE_LOG_LEVELS", ~c"1"},
               {~c"ERL_BRIDGE_PYTHON", ~c"/opt/py"},
               {~c"A", ~c"b"},
               {~c"C", false}
             ]
  end

  test "the port is one of frames, runs where it is told and on the descriptors it is told" do
    {_executable, port} =
      Command.port(Options.validate!([cd: "/tmp", nouse_stdio: true], :start), "/tmp/pipe")

    assert {:packet, 4} in port and {:cd, ~c"/tmp"} in port and :nouse_stdio in port
    assert :exit_status in port and :binary in port
  end
end
