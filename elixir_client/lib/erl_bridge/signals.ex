defmodule ErlBridge.Signals do
  @moduledoc """
  Lets work that takes long end in order when it is asked to.

  `SIGTERM`, `SIGHUP` and `SIGQUIT` end a node at once or stop all its applications. While
  `during/2` runs its function they call another one instead, and so does Ctrl-C on a terminal; see
  `ErlBridge.Terminal`. Ctrl-C pressed again, or a second `SIGQUIT`, ends the node at once with
  status 130.
  """

  @behaviour :gen_event

  alias ErlBridge.Terminal

  @signals [:sigterm, :sighup, :sigquit]
  @server :erl_signal_server
  @default :erl_signal_handler

  # As shells have it for a program that Ctrl-C ended.
  @interrupted 130

  @doc "Runs `work`; each of the signals calls `on_signal`, which must not take long, meanwhile."
  @spec during((() -> result), (atom -> any)) :: result when result: term
  def during(work, on_signal) do
    :os.set_signal(:sighup, :handle)
    terminal = Terminal.claim()
    handler = {__MODULE__, {on_signal, terminal}}
    :ok = :gen_event.swap_handler(@server, {@default, []}, handler)

    try do
      work.()
    after
      Terminal.release(terminal)
      :ok = :gen_event.swap_handler(@server, {__MODULE__, []}, {@default, []})
      :os.set_signal(:sighup, :default)
    end
  end

  @impl true
  def init({{on_signal, terminal}, _what_the_default_left}) do
    {:ok, default} = @default.init([])
    {:ok, %{on_signal: on_signal, terminal: terminal, asked?: false, default: default}}
  end

  @impl true
  def handle_event(:sigquit, %{asked?: true} = state) do
    # The shell that goes on then must not find the keys as they are now.
    Terminal.release(state.terminal)
    :erlang.halt(@interrupted, flush: false)
    {:ok, state}
  end

  def handle_event(signal, state) when signal in @signals do
    state.on_signal.(signal)
    {:ok, %{state | asked?: state.asked? or signal == :sigquit}}
  end

  def handle_event(signal, state) do
    {:ok, default} = @default.handle_event(signal, state.default)
    {:ok, %{state | default: default}}
  end

  @impl true
  def handle_call(_request, state), do: {:ok, :ok, state}
end
