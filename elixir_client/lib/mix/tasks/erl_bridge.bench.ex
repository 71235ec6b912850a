defmodule Mix.Tasks.ErlBridge.Bench do
  @shortdoc "Measures a bridge on this machine"

  @moduledoc """
  Measures a bridge on this machine.

      mix erl_bridge.bench [options]

  Prints how long Python takes to start, how long a ping takes, how many calls a second many
  callers get and how fast a large term goes there and back; see `ErlBridge.Bench`.

  ## Options

    * `--python PATH` - the Python interpreter; the one that bridges would start unless told
    * `--help` - this text
  """

  use Mix.Task

  alias ErlBridge.Bench

  @requirements ["app.config"]
  @switches [python: :string]

  @impl true
  def run(arguments),
    do: Mix.ErlBridge.with_options(arguments, @switches, @moduledoc, &bench/1)

  defp bench(options) do
    {:ok, _apps} = Application.ensure_all_started(:erl_bridge)

    case Bench.run(options) do
      {:ok, results} -> Mix.shell().info(Bench.table(results))
      {:error, error} -> Mix.raise(Exception.message(error))
    end
  end
end
