defmodule ErlBridge.Application do
  @moduledoc false

  # What all bridges share: the names of their parts, and the routes that callers take.

  use Application

  @impl true
  def start(_type, _args) do
    # Tables live as long as this process does, which is as long as the application.
    ErlBridge.Dataset.Known.init()
    ErlBridge.Routes.init_table()

    children = [
      {Registry, keys: :unique, name: ErlBridge.Registry},
      ErlBridge.Routes
    ]

    Supervisor.start_link(children, strategy: :one_for_one, name: ErlBridge.Supervisor)
  end
end
