defmodule ErlBridge.Installation do
  @moduledoc """
  What is installed on the Python side, as `erl_bridge info` tells it.
  """

  alias ErlBridge.{Command, Error}

  @doc """
  The facts by their names: `"erl_bridge"`, `"python"`, `"executable"`, `"codec"`, `"home"`, the folder for data, and, where it is
  installed, `"dspy"`.

  Asks the Python that a bridge with the same `:python` would start.
  """
  @spec facts(keyword) :: {:ok, %{String.t() => String.t()}} | {:error, Error.t()}
  def facts(options \\ []) do
    environment = Command.environment(%{python: options[:python], env: []})

    case ErlBridge.OsCommand.run(Command.launcher(), ["info"], &ignore/1, env: environment) do
      {0, lines} ->
        {:ok, Map.new(lines, &fact/1)}

      {_status, lines} ->
        {:error, Error.setup(List.last(lines, "Python said nothing"), cure(options[:python]))}
    end
  end

  @doc "The version of this library, which the Python package must have too."
  @spec version() :: String.t()
  def version, do: to_string(Application.spec(:erl_bridge, :vsn))

  @setup "run `mix erl_bridge.setup`; in a release, build it with `ErlBridge.Release.copy_python/1`"

  @doc """
  What to do about a Python that lacks something: the option `:python`, when it is given, and what
  else says which Python it is, stand above the environment that a setup makes.

      iex> ErlBridge.Installation.cure("/usr/bin/python3")
      "name another Python with `:python` (`--python`), or none and run `mix erl_bridge.setup`; in a release, build it with `ErlBridge.Release.copy_python/1`"
  """
  @spec cure(Path.t() | nil) :: String.t()
  def cure(python) do
    cond do
      python ->
        "name another Python with `:python` (`--python`), or none and #{@setup}"

      Application.get_env(:erl_bridge, :python) ->
        "name another Python in `config :erl_bridge, python: ...`, or none and #{@setup}"

      System.get_env("ERL_BRIDGE_PYTHON") ->
        "name another Python in ERL_BRIDGE_PYTHON, or `unset ERL_BRIDGE_PYTHON` and #{@setup}"

      true ->
        @setup
    end
  end

  defp ignore(_line), do: :ok

  defp fact(line) do
    [name | value] = String.split(line, " ", parts: 2)
    {name, Enum.join(value)}
  end
end
