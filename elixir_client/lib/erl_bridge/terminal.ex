defmodule ErlBridge.Terminal do
  @moduledoc """
  Makes Ctrl-C a signal that a node can handle.

  The virtual machine keeps `SIGINT` to itself, for its menu. So while a node works, the key that
  sends it sends `SIGQUIT` instead; see `ErlBridge.Signals`. Afterwards the keys are what they were,
  also when the node is killed: a shell waits for the end of its input and sees to it. (Processes
  that a node starts have a session of their own, which no key of the terminal reaches.)
  """

  alias ErlBridge.OsProcess

  @enforce_keys [:path, :interrupt, :quit, :guard]
  defstruct @enforce_keys

  @type t :: %__MODULE__{path: Path.t(), interrupt: String.t(), quit: String.t(), guard: port}

  # A line means that nothing is left to be done. The path is one of the node, and goes with it.
  @guard ~S(exec 3< "$1"; read -r _ || stty intr "$2" quit "$3" <&3)

  @doc "Has the key for interrupts send `SIGQUIT`; `nil` where the node has no terminal, or is in its background."
  @spec claim() :: t | nil
  def claim do
    with path when path != nil <- path(),
         settings = OsProcess.shell("stty -a < #{path}"),
         <<"^", _>> = interrupt <- key(settings, "intr"),
         quit when quit != nil <- key(settings, "quit") do
      terminal = %__MODULE__{
        path: path,
        interrupt: interrupt,
        quit: quit,
        guard: guard([path, interrupt, quit])
      }

      set(terminal, "undef", interrupt)
      terminal
    else
      _no_terminal -> nil
    end
  end

  @doc "Gives the keys back. Any process may do it."
  @spec release(t | nil) :: :ok
  def release(nil), do: :ok

  def release(%__MODULE__{guard: guard} = terminal) do
    set(terminal, terminal.interrupt, terminal.quit)
    Port.command(guard, "done\n")
    :ok
  rescue
    # Somebody has killed the guard, or this is the second time.
    ArgumentError -> :ok
  end

  @doc "The terminal that this node is in the foreground of, if any. Without `/proc` (macOS), `ps` knows it."
  @spec path(Path.t()) :: Path.t() | nil
  def path(proc \\ "/proc") do
    case File.read(Path.join(proc, "self/stat")) do
      {:ok, stat} -> path_of_stat(stat, "#{proc}/#{System.pid()}/fd")
      {:error, _no_proc} -> path_of_ps()
    end
  end

  # proc(5): of those behind the program's name, the 3rd field is the process group, the 6th the one
  # in the foreground.
  defp path_of_stat(stat, descriptors) do
    fields = stat |> String.split(")") |> List.last() |> String.split()

    if Enum.at(fields, 2) == Enum.at(fields, 5) do
      0..2
      |> Enum.map(&"#{descriptors}/#{&1}")
      |> Enum.find(&(OsProcess.shell("test -t 0 < #{&1} && echo yes") == "yes"))
    end
  end

  defp path_of_ps do
    case String.split(OsProcess.shell("ps -o pgid=,tpgid=,tty= -p #{System.pid()}")) do
      [group, group, name] -> "/dev/#{name}"
      _in_the_background -> nil
    end
  end

  # As `stty -a` writes it: "intr = ^C; quit = <undef>;".
  defp key(settings, name) do
    case Regex.run(~r/\b#{name} = (\^[@-_?]|<undef>);/, settings) do
      [_all, "<undef>"] -> "undef"
      [_all, key] -> key
      nil -> nil
    end
  end

  defp set(terminal, interrupt, quit),
    do: OsProcess.shell("stty intr '#{interrupt}' quit '#{quit}' < #{terminal.path}")

  defp guard(arguments) do
    Port.open({:spawn_executable, "/bin/sh"}, [:hide, args: ["-c", @guard, "sh" | arguments]])
  end
end
