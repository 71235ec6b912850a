defmodule ErlBridge.DemoTest do
  @moduledoc "The demo on a few rows, with the real Python, and its command line."
  use ExUnit.Case, async: true

  import ExUnit.CaptureIO

  alias ErlBridge.{Demo, Live}
  alias ErlBridge.Demo.{Dataset, Report}
  alias Mix.Tasks.ErlBridge, as: Tasks

  test "a score before, a program of each optimizer, its score after, and progress all the while" do
    bridge = Live.start!()
    {:ok, rows} = Dataset.load()

    settings = %{
      lm: "local/nearest-demo",
      seed: 0,
      optimizers: ["bootstrap_few_shot", "labeled_few_shot"]
    }

    test = self()

    demo =
      Demo.run(bridge, Enum.take_every(rows, 4), settings, fn title, event ->
        send(test, {title, event})
      end)

    assert %{before: %{total: 50}, runs: [first, second]} = demo

    assert %{optimizer: "bootstrap_few_shot", test: %{total: 50}, demos: [_ | _], program: %{}} =
             first

    assert second.optimizer == "labeled_few_shot"
    assert Demo.risen?(demo)
    assert Report.result(demo, settings.lm, 1) =~ "labeled_few_shot"

    titles = for {title, %{kind: :progress}} <- Live.mailbox(), uniq: true, do: title
    assert ["score the signature as it is", "optimize with bootstrap_few_shot" | _] = titles
  end

  # Whether or not that is an atom already, which `OptionParser` cares for.
  _atom = :sed

  for task <- [Tasks.Bench, Tasks.Demo, Tasks.Doctor, Tasks.Run, Tasks.Setup] do
    test "#{inspect(task)} explains itself and refuses what it does not know" do
      task = unquote(task)

      assert capture_io(fn -> task.run(["--help"]) end) =~ "## Options"

      assert_raise Mix.Error, ~r/unknown option --sed; see --help/, fn ->
        task.run(["--sed", "1"])
      end

      assert_raise Mix.Error, ~r/unexpected argument now; see --help/, fn -> task.run(["now"]) end
    end
  end

  test "mix erl_bridge.run keeps a bridge until the end of its input" do
    output = capture_io("some\nlines\n", fn -> Mix.Tasks.ErlBridge.Run.run(["--no-preload"]) end)

    assert output =~ "protocol 1"
    assert output =~ "request types: ping, health_check"
    assert output =~ "max_frame_bytes"
  end

  test "mix erl_bridge.run says why Python does not start" do
    assert_raise Mix.Error, ~r/process_crashed: Python/, fn ->
      capture_log(fn -> Mix.Tasks.ErlBridge.Run.run(["--python", "/no/such/python"]) end)
    end
  end

  defp capture_log(fun), do: ExUnit.CaptureLog.capture_log(fun)
end
