defmodule ErlBridge.Signals do
  @moduledoc """
  Lets work that takes long end in order when the operating system asks for it.

  `SIGTERM`, `SIGHUP` and `SIGQUIT` (Ctrl-\\ on a terminal) end a node at once or stop all its
  applications. While `during/2` runs its function they call another one instead. Ctrl-C is none of
  them: it goes to the menu of the virtual machine.
  """

  @behaviour :gen_event

  @signals [:sigterm, :sighup, :sigquit]
  @server :erl_signal_server
  @default :erl_signal_handler

  @doc "Runs `work`; each of the signals calls `on_signal`, which must not take long, meanwhile."
  @spec during((() -> result), (atom -> any)) :: result when result: term
  def during(work, on_signal) do
    :os.set_signal(:sighup, :handle)
    :ok = :gen_event.swap_handler(@server, {@default, []}, {__MODULE__, on_signal})

    try do
      work.()
    after
      :ok = :gen_event.swap_handler(@server, {__MODULE__, []}, {@default, []})
      :os.set_signal(:sighup, :default)
    end
  end

  @impl true
  def init({on_signal, _what_the_default_left}) do
    {:ok, state} = @default.init([])
    {:ok, {on_signal, state}}
  end

  @impl true
  def handle_event(signal, {on_signal, _state} = handler) when signal in @signals do
    on_signal.(signal)
    {:ok, handler}
  end

  def handle_event(signal, {on_signal, state}) do
    {:ok, state} = @default.handle_event(signal, state)
    {:ok, {on_signal, state}}
  end

  @impl true
  def handle_call(_request, handler), do: {:ok, :ok, handler}
end
