defmodule ErlBridge.Setup.Interpreter do
  @moduledoc """
  The Python that an environment can be made with.

  It is looked for on the `PATH` unless its path is given. What is found is the interpreter itself,
  not a version manager's shim nor another environment's.
  """

  alias ErlBridge.Error

  @type t :: %{executable: Path.t(), version: String.t()}

  @supported ["3.11", "3.12", "3.13", "3.14"]
  @names ["python3" | Enum.map(["3.13", "3.12", "3.11", "3.14"], &"python#{&1}")]

  # Runs on any Python 3, however old.
  @question """
  import importlib.util, sys
  wanted = ("venv", "ensurepip", "ssl", "sqlite3")
  print("%d.%d.%d" % sys.version_info[:3])
  print(getattr(sys, "_base_executable", sys.executable))
  print(" ".join(name for name in wanted if not importlib.util.find_spec(name)))
  """

  @doc "The versions of Python that will do."
  @spec supported() :: [String.t()]
  def supported, do: @supported

  @doc """
  Whether a version will do.

      iex> ErlBridge.Setup.Interpreter.supported?("3.12.4")
      true
      iex> ErlBridge.Setup.Interpreter.supported?("3.9.2")
      false
  """
  @spec supported?(String.t()) :: boolean
  def supported?(version), do: Enum.any?(@supported, &String.starts_with?(version, &1 <> "."))

  @doc """
  The Python at a path, or without one the first on the `PATH` that will do.

  The error says what each one lacks and what to do.
  """
  @spec find(Path.t() | nil) :: {:ok, t} | {:error, Error.t()}
  def find(nil) do
    answers = Enum.map(@names, &ask/1)

    Enum.find_value(answers, &usable/1) || {:error, error(Enum.reject(answers, &(&1 == :none)))}
  end

  def find(path) do
    case ask(path) do
      :none -> {:error, Error.setup("#{path} is not a Python that can be run", cure(nil))}
      answer -> usable(answer) || {:error, error([answer])}
    end
  end

  defp usable({:ok, %{missing: [], version: version} = found}) do
    if supported?(version), do: {:ok, Map.delete(found, :missing)}
  end

  defp usable(_answer), do: nil

  defp ask(name) do
    with path when path != nil <- System.find_executable(name),
         {output, 0} <- System.cmd(path, ["-c", @question], stderr_to_stdout: true),
         [version, executable, missing | _] <- String.split(output, "\n") do
      {:ok, %{version: version, executable: executable, missing: String.split(missing)}}
    else
      _no_python -> :none
    end
  end

  defp error([]), do: Error.setup("no python3 is on the PATH", cure(nil))

  defp error(answers) do
    found = answers |> Enum.map(fn {:ok, found} -> found end) |> Enum.uniq()
    almost = Enum.find(found, &supported?(&1.version))
    Error.setup(Enum.map_join(found, "; ", &lacks/1), cure(almost))
  end

  defp lacks(%{version: version, executable: executable, missing: missing}) do
    if supported?(version),
      do: "#{executable} lacks the module #{Enum.join(missing, ", ")}",
      else: "#{executable} is Python #{version}, and #{versions()} is needed"
  end

  defp cure(nil) do
    "install one of them (`apt-get install python3 python3-venv`, `brew install python@3.13`), or name one: " <>
      "--python /path/to/python3.12"
  end

  defp cure(%{version: version}) do
    short = version |> String.split(".") |> Enum.take(2) |> Enum.join(".")
    "install it: `apt-get install python#{short}-venv`, or name another Python with --python"
  end

  defp versions, do: "one of #{Enum.join(@supported, ", ")}"
end
