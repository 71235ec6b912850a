defmodule ErlBridge.Live do
  @moduledoc """
  The bridge that live tests share, and bridges of a test's own.

  The shared one serves `test/support/bridge_app.py` and has not imported DSPy. No test may stop
  it or keep it busy.
  """

  import ExUnit.Assertions
  import ExUnit.Callbacks

  @shared ErlBridge.Live.Shared
  @support Path.expand(".", __DIR__)

  @spec shared() :: module
  def shared, do: @shared

  @doc "Starts the shared bridge for the whole run; tells why when Python is not there."
  @spec start_shared!() :: pid
  def start_shared! do
    case ErlBridge.start_link(options(name: @shared)) do
      {:ok, bridge} ->
        bridge

      {:error, error} ->
        Mix.raise(
          "the live tests need Python (`make setup` installs it): " <> Exception.message(error)
        )
    end
  end

  @doc "A bridge of this test alone, which ends with it."
  @spec start!(keyword) :: pid
  def start!(options \\ []),
    do: start_supervised!({ErlBridge, options(options)}, restart: :temporary)

  @doc """
  Starts `erl_bridge tcp` with the shared bridge's handlers, for this test or all tests of a module.
  Its process is a port of this one, which gets its exit status.
  """
  @spec tcp_server!([String.t()]) :: %{
          tcp_port: pos_integer,
          tcp_os_pid: pos_integer,
          tcp_process: port
        }
  def tcp_server!(arguments \\ []) do
    usual = ["-m", "erl_bridge", "tcp", "--app", "bridge_app:app", "--no-preload"]

    port =
      Port.open({:spawn_executable, System.fetch_env!("ERL_BRIDGE_PYTHON")}, [
        :binary,
        :exit_status,
        line: 1_000,
        cd: @support,
        args: usual ++ arguments
      ])

    {:os_pid, os_pid} = Port.info(port, :os_pid)
    # Its stdin and stdout close with this process; only a signal ends it.
    on_exit(fn -> ErlBridge.OsProcess.signal(os_pid, "TERM") end)

    assert_receive {^port, {:data, {:eol, "ready tcp " <> place}}}
    [_host, number] = String.split(place)
    %{tcp_port: String.to_integer(number), tcp_os_pid: os_pid, tcp_process: port}
  end

  @spec options(keyword) :: keyword
  def options(options) do
    Keyword.merge(
      [app: "bridge_app:app", cd: @support, preload: false, log_level: :debug],
      options
    )
  end

  @doc "The OS process of a bridge's Python."
  @spec os_pid(ErlBridge.bridge()) :: pos_integer
  def os_pid(bridge) do
    {:ok, %{os_pid: os_pid}} = ErlBridge.hello(bridge)
    os_pid
  end

  @doc "Returns when there is no such OS process any more."
  @spec await_ended(pos_integer) :: :ok
  def await_ended(os_pid) do
    script = "while kill -0 #{os_pid} 2>/dev/null; do sleep 0.05; done"
    watcher = Port.open({:spawn_executable, "/bin/sh"}, [:exit_status, args: ["-c", script]])
    assert_receive {^watcher, {:exit_status, 0}}
    :ok
  end

  @doc "A folder of this test alone, which is removed after it: import it and `setup :tmp_dir`."
  @spec tmp_dir(map) :: %{tmp_dir: Path.t()}
  def tmp_dir(_context) do
    name = "erl_bridge-test-#{System.pid()}-#{System.unique_integer([:positive])}"
    path = Path.join(System.tmp_dir!(), name)
    File.mkdir_p!(path)
    on_exit(fn -> File.rm_rf!(path) end)
    %{tmp_dir: path}
  end

  @doc """
  A task whose request is under way in Python, known by the task's pid, and does not end by itself.
  """
  @spec wait(ErlBridge.bridge(), keyword) :: Task.t()
  def wait(bridge, options \\ []) do
    test = self()

    task =
      Task.async(fn ->
        on_event = fn _event -> send(test, {:waiting, self()}) end
        usual = [id: self(), on_event: on_event, metadata: %{"label" => "wait"}]
        ErlBridge.call(bridge, :wait, %{}, Keyword.merge(usual, options))
      end)

    pid = task.pid
    assert_receive {:waiting, ^pid}
    task
  end

  @doc "The messages that lie in this process's mailbox."
  @spec mailbox() :: [term]
  def mailbox do
    {:messages, messages} = Process.info(self(), :messages)
    messages
  end
end
