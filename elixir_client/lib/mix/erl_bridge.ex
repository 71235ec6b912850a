defmodule Mix.ErlBridge do
  @moduledoc """
  What the tasks of this library have in common.
  """

  @help {:help, :boolean}

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

      {_options, [extra | _], _invalid} ->
        Mix.raise("unexpected argument #{extra}; see --help")

      {_options, [], [{flag, _value} | _]} ->
        Mix.raise("unknown or wrong option #{flag}; see --help")
    end
  end
end
