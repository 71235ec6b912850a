defmodule ErlBridge.Installation do
  @moduledoc """
  What is installed on the Python side, as `erl_bridge info` tells it.
  """

  alias ErlBridge.{Command, Error}

  @doc """
  The facts by their names: `"erl_bridge"`, `"python"`, `"executable"`, `"codec"` and, where it is
  installed, `"dspy"`.

  Asks the Python that a bridge with the same `:python` would start.
  """
  @spec facts(keyword) :: {:ok, %{String.t() => String.t()}} | {:error, Error.t()}
  def facts(options \\ []) do
    environment = Command.environment(%{python: options[:python], env: []})

    case ErlBridge.OsCommand.run(Command.launcher(), ["info"], &ignore/1, env: environment) do
      {0, lines} -> {:ok, Map.new(lines, &fact/1)}
      {_status, lines} -> {:error, Error.setup(List.last(lines, "Python said nothing"), cure())}
    end
  end

  @doc "The version of this library, which the Python package must have too."
  @spec version() :: String.t()
  def version, do: to_string(Application.spec(:erl_bridge, :vsn))

  defp ignore(_line), do: :ok

  defp fact(line) do
    [name | value] = String.split(line, " ", parts: 2)
    {name, Enum.join(value)}
  end

  defp cure, do: "run `mix erl_bridge.setup`"
end
