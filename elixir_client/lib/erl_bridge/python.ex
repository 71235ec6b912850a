defmodule ErlBridge.Python do
  @moduledoc """
  A Python process: started, greeted, written to, and seen to its end.

  The process that starts it owns the port and calls all of these: a worker of a bridge, or the
  reader of a file.
  """

  alias ErlBridge.{Command, Error, OsProcess, Protocol, Stderr}

  @enforce_keys [:port, :os_pid, :stderr]
  defstruct [:port, :os_pid, :stderr, :hello]

  @type t :: %__MODULE__{
          port: port,
          os_pid: pos_integer | nil,
          stderr: pid,
          hello: map | nil
        }

  # How long the last lines of stderr may take to arrive once Python is dead.
  @last_words_ms 300

  # How long Python may take to die of a signal.
  @signal_ms 1_000

  @doc "Starts Python. Its first frame is its hello, for `greet/2`."
  @spec start(map) :: {:ok, t} | {:error, Error.t()}
  def start(options) do
    with :ok <- check_folder(options[:cd]),
         do: start(options, Stderr.start_link(options.log_level))
  end

  defp start(options, {:ok, stderr, pipe}), do: {:ok, open(options, stderr, pipe)}

  defp start(_options, {:error, why}),
    do: {:error, Error.not_started("no pipe for Python's stderr: #{why}")}

  # The process that starts Python would only say so on the node's own stderr.
  defp check_folder(folder) do
    if folder == nil or File.dir?(folder),
      do: :ok,
      else: {:error, Error.not_started("there is no folder #{folder} for Python to run in (:cd)")}
  end

  @doc "Reads Python's first frame. A Python that says something else is ended."
  @spec greet(t, binary) :: {:ok, t} | {:error, Error.t()}
  def greet(%__MODULE__{} = python, frame) do
    case Protocol.decode(frame) do
      {:ok, {:hello, %{protocol: 1, limits: %{max_frame_bytes: _}} = hello}} ->
        Stderr.opened(python.stderr)
        {:ok, %{python | hello: hello}}

      other ->
        kill(python)
        why = "expected hello of protocol 1, got: #{inspect(other, limit: 20)}"
        {:error, Error.unreadable(why)}
    end
  end

  @doc "Writes a frame. When Python is gone nothing happens: the port's own message says so."
  @spec write(t, iodata) :: :ok
  def write(%__MODULE__{port: port}, frame) do
    Port.command(port, frame)
    :ok
  rescue
    ArgumentError -> :ok
  end

  @doc """
  The error for those who wait on a Python that ended with this exit status.

  `nil` is for a port that closed without one: then Python reads no more, and must not live on
  unheard.
  """
  @spec crashed(t, non_neg_integer | nil) :: Error.t()
  def crashed(%__MODULE__{} = python, status) do
    if status == nil, do: signal(python, "KILL")
    Error.crashed(python.os_pid, status, close(python))
  end

  @doc """
  Ends a Python that does not end by itself: a signal that it may obey, then one that it cannot
  refuse.

  Returns the last lines of its stderr when it is gone.
  """
  @spec kill(t) :: [String.t()]
  def kill(%__MODULE__{} = python) do
    Enum.find(["TERM", "KILL"], fn signal ->
      signal(python, signal)
      ended?(python)
    end)

    close(python)
  end

  @doc "Puts away what is left of a Python that has ended. Returns the last lines of its stderr."
  @spec close(t) :: [String.t()]
  def close(%__MODULE__{} = python) do
    close_port(python.port)
    Stderr.stop(python.stderr, @last_words_ms)
  end

  defp close_port(port) do
    Port.close(port)
  rescue
    ArgumentError -> :closed_already
  end

  defp open(options, stderr, pipe) do
    {executable, port_options} = Command.port(options, pipe)
    port = Port.open(executable, port_options)
    os_pid = os_pid(Port.info(port, :os_pid))
    if os_pid, do: Stderr.written_by(stderr, os_pid)
    %__MODULE__{port: port, os_pid: os_pid, stderr: stderr}
  end

  # It has ended already: where there is no Python to run, that is quick.
  defp os_pid(nil), do: nil
  defp os_pid({:os_pid, os_pid}), do: os_pid

  defp signal(%__MODULE__{os_pid: nil}, _signal), do: :ok
  defp signal(%__MODULE__{os_pid: os_pid}, signal), do: OsProcess.signal(os_pid, signal)

  defp ended?(%__MODULE__{port: port}) do
    receive do
      {^port, {:exit_status, _status}} -> true
      {:EXIT, ^port, _reason} -> true
    after
      @signal_ms -> false
    end
  end
end
