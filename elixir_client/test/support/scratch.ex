defmodule ErlBridge.Scratch do
  @moduledoc "Folders for what a test writes."

  import ExUnit.Callbacks

  @doc "A new folder, which goes when the test ends."
  @spec folder(String.t()) :: Path.t()
  def folder(name) do
    unique = "erl_bridge-#{name}-#{System.pid()}-#{System.unique_integer([:positive])}"
    path = Path.join(System.tmp_dir!(), unique)
    File.mkdir_p!(path)
    on_exit(fn -> File.rm_rf!(path) end)
    path
  end

  @doc "Writes a shell script that can be run, and gives its path."
  @spec program(Path.t(), String.t()) :: Path.t()
  def program(path, script) do
    File.write!(path, "#!/bin/sh\n#{script}\n")
    File.chmod!(path, 0o755)
    path
  end
end
