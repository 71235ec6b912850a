defmodule Mix.ErlBridge do
  @moduledoc """
  What the tasks of this library have in common.
  """

  @help {:help, :boolean}
  @types %{integer: "an integer", float: "a number", string: "a text", boolean: "no value"}

  @doc """
  Calls `run` with the options of a command line. `--help` prints `text` instead; what the
  switches do not allow raises `Mix.Error`.
  """
  @spec with_options([String.t()], keyword, String.t(), (keyword -> result)) :: result | :ok
        when result: var
  def with_options(arguments, switches, text, run) do
    case OptionParser.parse(arguments, strict: [@help | switches]) do
      {options, [], []} ->
        if options[:help], do: Mix.shell().info(text), else: run.(options)

      # First: what follows an unknown option is an argument only where its name is an atom already.
      {_options, _extra, [invalid | _]} ->
        Mix.raise("#{invalid(invalid, switches)}; see --help")

      {_options, [extra | _], []} ->
        Mix.raise("unexpected argument #{extra}; see --help")
    end
  end

  @doc """
  What is wrong with an option that `OptionParser` calls invalid.

      iex> Mix.ErlBridge.invalid({"--seed", "one"}, seed: :integer)
      ~s(--seed: expected an integer, got "one")
      iex> Mix.ErlBridge.invalid({"--sed", nil}, seed: :integer)
      "unknown option --sed"
  """
  @spec invalid({String.t(), String.t() | nil}, keyword) :: String.t()
  def invalid({flag, value}, switches) do
    case Enum.find(switches, fn {name, _type} -> flag(name) == flag end) do
      nil ->
        "unknown option #{flag}"

      {_name, type} ->
        "#{flag}: expected #{@types[type]}, got #{if value, do: inspect(value), else: "nothing"}"
    end
  end

  @doc "An option as it is written."
  @spec flag(atom) :: String.t()
  def flag(name), do: "--" <> String.replace(Atom.to_string(name), "_", "-")
end
