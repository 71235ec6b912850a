defmodule ErlBridge.Command do
  @moduledoc """
  The command line that starts Python, from the options of a bridge.

      iex> options = ErlBridge.Options.validate!([app: "shop:app", preload: false], :start)
      iex> ErlBridge.Command.arguments(options)
      ["port", "--app", "shop:app", "--no-preload"]
  """

  # Python's stderr goes into the pipe; `exec` makes the shell become the launcher and the
  # launcher become Python, so that the port's OS process is Python itself. To open one end of a pipe
  # waits for the other end, which may be gone with the node: not so to open both.
  @script ~S([ -p "$1" ] && exec 9<>"$1" 2>"$1" 9>&- && shift && exec "$@")

  @doc "What `Port.open/2` takes to start Python with its stderr going into `pipe`."
  @spec port(map, Path.t()) :: {{:spawn_executable, Path.t()}, list}
  def port(options, pipe) do
    arguments = ["-c", @script, "erl_bridge", pipe, launcher() | arguments(options)]

    {{:spawn_executable, System.find_executable("sh")},
     [:binary, :exit_status, :hide, {:packet, 4}, args: arguments, env: environment(options)] ++
       if(options.nouse_stdio, do: [:nouse_stdio], else: [:use_stdio]) ++
       if(options[:cd], do: [cd: String.to_charlist(options.cd)], else: [])}
  end

  @doc """
  The arguments of the launcher, for a bridge, or with `:read` for a reader of that file.

      iex> ErlBridge.Command.arguments(%{read: "/data/train.csv", format: :csv})
      ["read", "/data/train.csv", "--on-demand", "--format", "csv"]
  """
  @spec arguments(map) :: [String.t()]
  def arguments(%{read: path} = options) do
    ["read", path, "--on-demand"] ++
      value("--format", options[:format]) ++
      value("--max-file", options[:max_file]) ++
      value("--max-row", options[:max_row])
  end

  def arguments(options) do
    ["port"] ++
      value("--app", options[:app]) ++
      if(options.nouse_stdio, do: ["--fds", "3,4"], else: []) ++
      if(options.preload, do: [], else: ["--no-preload"]) ++
      value("--max-frame", options[:max_frame]) ++
      value("--max-jobs", options[:max_jobs]) ++
      options.args
  end

  @doc """
  Python's environment, as a port wants it: the chosen interpreter for the launcher, and the
  user's own.

  The interpreter is the bridge's `:python`, or that of `config :erl_bridge, python: path`.
  """
  @spec environment(map) :: [{charlist, charlist | false}]
  def environment(options) do
    python = options[:python] || Application.get_env(:erl_bridge, :python)
    chosen = if python, do: [{"ERL_BRIDGE_PYTHON", python}], else: []

    # Stderr reads the levels.
    own = [{"ERL_BRIDGE_LOG_LEVELS", "1"}]

    for {name, value} <- own ++ chosen ++ Enum.to_list(options.env) do
      {String.to_charlist(name), value && String.to_charlist(value)}
    end
  end

  @doc "The program that becomes Python."
  @spec launcher() :: Path.t()
  def launcher, do: Path.join(:code.priv_dir(:erl_bridge), "erl_bridge")

  defp value(_flag, nil), do: []
  defp value(flag, value), do: [flag, to_string(value)]
end
