defmodule Mix.Tasks.ErlBridge.Doctor do
  @shortdoc "Checks whether all that bridges need is there and works"

  @moduledoc """
  Checks whether all that bridges need is there and works.

      mix erl_bridge.doctor [options]

  Prints a line for each check of `ErlBridge.Doctor` as it is known, with what to do where
  something is not right.

  ## Options

    * `--quiet` - print only what is not right
    * `--python PATH` - the Python interpreter; the one that bridges would start unless told
    * `--help` - this text

  Ends with status 1 when a check has failed.
  """

  use Mix.Task

  @requirements ["app.config"]
  @switches [quiet: :boolean, python: :string]

  @impl true
  def run(arguments),
    do: Mix.ErlBridge.with_options(arguments, @switches, @moduledoc, &ErlBridge.Doctor.run/1)
end
