defmodule Mix.Tasks.ErlBridge.Run do
  @shortdoc "Launches a bridge and keeps it until Ctrl-C or the end of input"

  @moduledoc """
  Launches a bridge and keeps it: to see that Python starts, what it serves and what it logs.

      mix erl_bridge.run [options]

  Prints what Python said when it started, then its stderr as it comes. On Ctrl-C, `SIGTERM`,
  `SIGHUP`, `SIGQUIT`, or at the end of the input the bridge is stopped, and the status is 0.
  Ctrl-C pressed again ends at once, with status 130.

  ## Options

    * `--python PATH` - the Python interpreter
    * `--app MODULE:NAME` - handlers of your own
    * `--cd FOLDER` - the folder in which Python runs
    * `--no-preload` - import DSPy at its first request, not at once
    * `--help` - this text
  """

  use Mix.Task

  alias ErlBridge.Signals

  @requirements ["app.start"]
  @switches [python: :string, app: :string, cd: :string, preload: :boolean]

  @impl true
  def run(arguments),
    do: Mix.ErlBridge.with_options(arguments, @switches, @moduledoc, &keep/1)

  # Asked to end while Python starts, it waits for that, and ends it in order.
  defp keep(options) do
    keeper = self()
    Signals.during(fn -> start_and_wait(options) end, fn _signal -> send(keeper, :stop) end)
  end

  defp start_and_wait(options) do
    case ErlBridge.start_link(options) do
      {:ok, bridge} ->
        {:ok, hello} = ErlBridge.hello(bridge)
        Mix.shell().info(facts(hello))
        wait()
        ErlBridge.stop(bridge)

      {:error, error} ->
        Mix.raise(Exception.message(error))
    end
  end

  defp facts(hello) do
    limits =
      Enum.map_join(Enum.sort(hello.limits), ", ", fn {name, value} -> "#{name} #{value}" end)

    """
    erl_bridge #{hello.version}, protocol #{hello.protocol}
    Python #{hello.python}, OS process #{hello.os_pid}
    request types: #{Enum.map_join(hello.request_types, ", ", &to_string/1)}
    limits: #{limits}
    """
  end

  defp wait do
    keeper = self()
    spawn_link(fn -> send(keeper, read_to_end()) end)
    receive do: (reason when reason in [:stop, :end_of_input] -> :ok)
  end

  defp read_to_end do
    case IO.read(:stdio, :line) do
      line when is_binary(line) -> read_to_end()
      _end -> :end_of_input
    end
  end
end
