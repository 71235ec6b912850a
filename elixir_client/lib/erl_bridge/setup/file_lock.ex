defmodule ErlBridge.Setup.FileLock do
  @moduledoc """
  Lets one OS process at a time do something, however it ends.

  The operating system holds the lock (`flock`) for a Python that waits for the end of its input,
  and gives it to the next when that Python is gone, as it is when the BEAM ends.
  """

  alias ErlBridge.Error

  @holder """
  import fcntl, sys
  file = open(sys.argv[1], "a")
  try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
      print("waiting", flush=True)
      fcntl.flock(file, fcntl.LOCK_EX)
  print("locked", flush=True)
  sys.stdin.read()
  """

  @doc """
  Calls `work` while this process has the lock on the file `path`, which is made, and gives what it
  gives.

  Any Python 3 will do. When another has the lock, `on_wait` is called once, and this waits.
  """
  @spec hold(Path.t(), Path.t(), (() -> any), (() -> result)) :: result | {:error, Error.t()}
        when result: var
  def hold(python, path, on_wait, work) do
    port =
      Port.open({:spawn_executable, python}, [
        :binary,
        :exit_status,
        :hide,
        :stderr_to_stdout,
        {:line, 1024},
        args: ["-c", @holder, path]
      ])

    case wait(port, path, on_wait, nil) do
      :locked ->
        try do
          work.()
        after
          unlock(port)
        end

      {:error, error} ->
        {:error, error}
    end
  end

  defp wait(port, path, on_wait, said) do
    receive do
      {^port, {:data, {:eol, "locked"}}} ->
        :locked

      {^port, {:data, {:eol, "waiting"}}} ->
        on_wait.()
        wait(port, path, on_wait, said)

      {^port, {:data, {_eol, line}}} ->
        wait(port, path, on_wait, line)

      {^port, {:exit_status, _status}} ->
        {:error,
         Error.setup("#{path} cannot be locked: #{said}", "name another place with --venv")}
    end
  end

  # Its Python may have been killed meanwhile; then there is no port, and perhaps word of its end.
  defp unlock(port) do
    if Port.info(port), do: Port.close(port)

    receive do
      {^port, {:exit_status, _status}} -> :ok
    after
      0 -> :ok
    end
  end
end
