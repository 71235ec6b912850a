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
    * `--requirements FILE` - packages of your own besides, as pip takes them with `-r`; the file of
      `config :erl_bridge, requirements: "requirements.txt"` unless told
    * `--wheels FOLDER` - install from this folder, without network
    * `--download-wheels FOLDER` - also fill a folder for `--wheels`
    * `--source FOLDER` - the root of the Python package; the checkout of this library unless told
    * `--help` - this text

  Ends with status 1 when it cannot be made.
  """

  use Mix.Task

  alias ErlBridge.{ProgressBar, Setup}

  @requirements ["app.config"]
  @switches [
    venv: :string,
    python: :string,
    extras: :string,
    requirements: :string,
    wheels: :string,
    download_wheels: :string,
    source: :string
  ]

  @impl true
  def run(arguments),
    do: Mix.ErlBridge.with_options(arguments, @switches, @moduledoc, &set_up/1)

  defp set_up(options) do
    {:ok, bar} = ProgressBar.start_link()
    {folder, options} = Keyword.pop(options, :download_wheels)
    {extras, options} = Keyword.pop(options, :extras, "dspy")
    extras = String.split(extras, ",", trim: true)
    settings = options ++ [extras: extras, on_progress: &show(bar, &1)]
    result = if folder, do: Setup.download_wheels(folder, settings), else: Setup.run(settings)
    ProgressBar.stop(bar)

    case result do
      {:ok, report} -> Mix.shell().info(report(report))
      {:error, error} -> fail(error)
    end
  end

  defp show(bar, %{title: title} = event), do: ProgressBar.show(bar, title, progress(event))

  defp progress(%{done: done, total: total, unit: unit}),
    do: "  #{ProgressBar.bar(done / total)}  #{unit} #{done} of #{total}"

  defp progress(_event), do: nil

  defp fail(error) do
    for line <- Map.get(error.context, :output, []), do: Mix.shell().error(line)
    Mix.raise(Exception.message(error))
  end

  defp report(%{venv: venv, changed: changed, facts: facts}) do
    """
    #{if changed, do: "made", else: "nothing to do:"} #{venv}
    Python #{facts["python"]}, erl_bridge #{facts["erl_bridge"]}, DSPy #{facts["dspy"] || "not installed"}, #{facts["codec"]} codec
    """
  end
end
