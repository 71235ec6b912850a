defmodule ErlBridge.Application do
  @moduledoc false

  # What all bridges share. The registry holds what callers must know of a running bridge (its
  # default timeout, its limits, its hello), so that no call has to ask the worker for it. An
  # entry goes when its worker does.

  use Application

  @impl true
  def start(_type, _args) do
    # It lives as long as this process does, which is as long as the application.
    ErlBridge.Dataset.Known.init()
    children = [{Registry, keys: :unique, name: ErlBridge.Registry}, ErlBridge.Reaper]
    Supervisor.start_link(children, strategy: :one_for_one, name: ErlBridge.Supervisor)
  end
end
