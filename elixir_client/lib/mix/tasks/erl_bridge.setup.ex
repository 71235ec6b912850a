defmodule Mix.Tasks.ErlBridge.Setup do
  @shortdoc "Makes the Python environment that bridges run in"

  @moduledoc """
  Makes the Python environment that bridges run in, from the lock file.

      mix erl_bridge.setup [options]

  It needs Python 3.11 to 3.14 with its venv module. When all is there it does nothing. Bridges of
  this project find the environment by themselves; see `ErlBridge.Setup`.

  ## Options

    * `--venv FOLDER` - where it is made; `_build/erl_bridge/venv` unless told
    * `--python PATH` - the interpreter to make it with; the first on the `PATH` that will do
      unless told
    * `--extras NAMES` - the package's extras, separated by commas; `dspy` unless told, `""` for none
    * `--wheels FOLDER` - install from this folder, without network
    * `--download-wheels FOLDER` - also fill a folder for `--wheels`
    * `--source FOLDER` - the root of the Python package; the checkout of this library unless told
    * `--help` - this text

  Ends with status 1 when it cannot be made.
  """

  use Mix.Task

  alias ErlBridge.Setup

  @requirements ["app.config"]
  @switches [
    venv: :string,
    python: :string,
    extras: :string,
    wheels: :string,
    download_wheels: :string,
    source: :string
  ]

  @impl true
  def run(arguments),
    do: Mix.ErlBridge.with_options(arguments, @switches, @moduledoc, &set_up/1)

  defp set_up(options) do
    {folder, options} = Keyword.pop(options, :download_wheels)

    settings =
      options
      |> Keyword.put(
        :extras,
        String.split(Keyword.get(options, :extras, "dspy"), ",", trim: true)
      )
      |> Keyword.put(:on_progress, &show/1)

    case if(folder, do: Setup.download_wheels(folder, settings), else: Setup.run(settings)) do
      {:ok, report} -> Mix.shell().info(report(report))
      {:error, error} -> Mix.raise(Exception.message(error))
    end
  end

  defp show(%{done: _done}), do: :ok
  defp show(%{title: title}), do: Mix.shell().info("#{title} ...")

  defp report(%{venv: venv, changed: changed, facts: facts}) do
    """
    #{if changed, do: "made", else: "nothing to do:"} #{venv}
    Python #{facts["python"]}, erl_bridge #{facts["erl_bridge"]}, DSPy #{facts["dspy"] || "not installed"}, #{facts["codec"]} codec
    """
  end
end
