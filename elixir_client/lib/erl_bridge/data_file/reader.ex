defmodule ErlBridge.DataFile.Reader do
  @moduledoc """
  The process between a file's Python and the process that wants what is in it.

  It owns the port, so no message of a port gets into anybody's mailbox, and it watches its
  consumer: when that dies, Python ends. Frames pass by it undecoded.
  """

  use GenServer, restart: :temporary

  alias ErlBridge.{Error, Python, Stderr, Vocabulary}

  # `frame` has come and is not fetched yet, `from` waits for one; never both.
  defstruct [:python, :consumer, :timeout, :frame, :from, :error, open?: false]

  @type part :: {:rows, [term]} | :done | {:document, term} | {:error, Error.t()}

  @doc "Starts a Python that reads `path` for the calling process. `options` are those of `:data_file`."
  @spec start(Path.t(), map) :: {:ok, pid} | {:error, Error.t()}
  def start(path, options) do
    with {:ok, path} <- plain(path),
         {:error, {:shutdown, error}} <-
           GenServer.start(__MODULE__, {self(), Map.merge(options, python_options(path))}) do
      {:error, error}
    end
  end

  @doc "The next part of the file. After `:done`, a document or an error there is none."
  @spec next(pid) :: part
  def next(reader) do
    with {:ok, frame} <- GenServer.call(reader, :next, :infinity), do: decode(frame)
  end

  @doc "Ends Python, wherever in the file it is. Returns when it is gone."
  @spec close(pid) :: :ok
  def close(reader), do: GenServer.stop(reader)

  # A port takes no null byte, and no file has one in its name.
  defp plain(path) do
    path = IO.chardata_to_string(path)

    if String.contains?(path, <<0>>),
      do: {:error, Error.invalid("#{inspect(path)} is not a path: it holds a null byte", %{})},
      else: {:ok, Path.expand(path)}
  end

  defp python_options(path), do: %{read: path, env: [], nouse_stdio: false, log_level: :none}

  defp decode(frame) do
    case :erlang.binary_to_term(frame, [:safe]) do
      {:chunk, rows} -> {:rows, rows}
      {:done, _number} -> :done
      {:ok, document} -> {:document, document}
      {:error, error} -> {:error, Error.from_wire(error)}
    end
  end

  ## The process

  @impl true
  def init({consumer, options}) do
    Process.flag(:trap_exit, true)
    Vocabulary.atoms()

    case Python.start(options) do
      {:ok, python} ->
        consumer = Process.monitor(consumer)
        {:ok, %__MODULE__{python: python, consumer: consumer, timeout: options.timeout}}

      {:error, error} ->
        {:stop, {:shutdown, error}}
    end
  end

  @impl true
  def handle_call(:next, _from, %{frame: frame} = state) when is_binary(frame),
    do: {:reply, {:ok, frame}, ask(%{state | frame: nil})}

  def handle_call(:next, _from, %{error: %Error{} = error} = state),
    do: {:reply, {:error, error}, state}

  def handle_call(:next, from, state), do: {:noreply, %{state | from: from}, state.timeout}

  # The first frame says that both ends of Python's stderr are open.
  @impl true
  def handle_info(
        {port, {:data, _frame}} = message,
        %{open?: false, python: %{port: port}} = state
      ) do
    Stderr.opened(state.python.stderr)
    handle_info(message, %{state | open?: true})
  end

  def handle_info({port, {:data, frame}}, %{python: %{port: port}, from: nil} = state),
    do: {:noreply, %{state | frame: frame}}

  def handle_info({port, {:data, frame}}, %{python: %{port: port}} = state),
    do: {:noreply, state |> answer({:ok, frame}) |> ask()}

  def handle_info({port, {:exit_status, status}}, %{python: %{port: port}} = state),
    do: {:noreply, python_ended(state, Python.crashed(state.python, status))}

  # Without an exit status: writing to a Python that reads no more closes the port first.
  def handle_info({:EXIT, port, _reason}, %{python: %{port: port}} = state),
    do: {:noreply, python_ended(state, Python.crashed(state.python, nil))}

  def handle_info(:timeout, state) do
    Python.kill(state.python)
    {:noreply, python_ended(state, Error.timed_out(state.timeout))}
  end

  def handle_info({:DOWN, consumer, :process, _pid, _reason}, %{consumer: consumer} = state),
    do: {:stop, :normal, state}

  def handle_info(_of_a_closed_port, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, %{python: nil}), do: :ok
  def terminate(_reason, state), do: Python.kill(state.python)

  # The first frame comes unasked for. The next is asked for when one is handed over, so that Python
  # reads on while the consumer is at work.
  defp ask(%{python: nil} = state), do: state

  defp ask(state) do
    Python.write(state.python, "")
    state
  end

  defp python_ended(state, error),
    do: answer(%{state | python: nil, error: error}, {:error, error})

  defp answer(%{from: nil} = state, _answer), do: state

  defp answer(state, answer) do
    GenServer.reply(state.from, answer)
    %{state | from: nil}
  end
end
