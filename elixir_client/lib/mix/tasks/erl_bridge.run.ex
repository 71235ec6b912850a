defmodule Mix.Tasks.ErlBridge.Run do
  @shortdoc "Launches a bridge and keeps it until Ctrl-C or the end of input"

  @moduledoc """
  Launches a bridge and keeps it: to see that Python starts, what it serves and what it logs.

      mix erl_bridge.run [options]

  Prints what Python said when it started, then its stderr as it comes. Ends on Ctrl-C or at the
  end of the input.

  ## Options

    * `--python PATH` - the Python interpreter
    * `--app MODULE:NAME` - handlers of your own
    * `--cd FOLDER` - the folder in which Python runs
    * `--no-preload` - import DSPy at its first request, not at once
    * `--help` - this text
  """

  use Mix.Task

  @requirements ["app.start"]
  @switches [python: :string, app: :string, cd: :string, preload: :boolean]

  @impl true
  def run(arguments),
    do: Mix.ErlBridge.with_options(arguments, @switches, @moduledoc, &keep/1)

  defp keep(options) do
    case ErlBridge.start_link(options) do
      {:ok, bridge} ->
        {:ok, hello} = ErlBridge.hello(bridge)
        Mix.shell().info(facts(hello))
        wait_for_end_of_input()
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

  defp wait_for_end_of_input do
    case IO.read(:stdio, :line) do
      line when is_binary(line) -> wait_for_end_of_input()
      _end -> :ok
    end
  end
end
