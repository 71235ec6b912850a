defmodule ErlBridge.RoutesTest do
  use ExUnit.Case, async: true
  doctest ErlBridge.Routes

  alias ErlBridge.{Route, Routes}

  setup do
    {:ok, bridge} = ErlBridge.Testing.start_link(%{})
    {:ok, route} = Route.lookup(bridge)
    %{template: route}
  end

  test "a route is found as it was published, and as it was updated", %{template: template} do
    route = %{template | pool: self()}
    :ok = Routes.publish(self(), route)
    assert Routes.lookup(self()) == route

    updated = %{route | workers: {nil, nil}, cluster: %{peers: []}}
    :ok = Routes.update(self(), updated)
    assert Routes.lookup(self()) == updated
  end

  test "a route goes with its pool, and leaves nothing", %{template: template} do
    supervisor = self()
    pool = pool(supervisor, template)
    assert %Route{pool: ^pool} = Routes.lookup(supervisor)

    stop(pool)
    assert Routes.lookup(supervisor) == nil
    assert :persistent_term.get({Routes, supervisor}, nil) == nil
  end

  test "the route of the pool that took its place stays", %{template: template} do
    supervisor = self()
    [first, second] = [pool(supervisor, template), pool(supervisor, template)]

    stop(first)
    assert %Route{pool: ^second} = Routes.lookup(supervisor)
    stop(second)
    assert Routes.lookup(supervisor) == nil
  end

  defp pool(supervisor, template) do
    parent = self()

    pool =
      spawn(fn ->
        :ok = Routes.publish(supervisor, %{template | pool: self()})
        send(parent, {:published, self()})
        receive(do: (:end -> :ok))
      end)

    assert_receive {:published, ^pool}
    pool
  end

  defp stop(pool) do
    send(pool, :end)
    await_withdrawn(pool)
  end

  defp await_withdrawn(pool),
    do: if(Map.has_key?(:sys.get_state(Routes), pool), do: await_withdrawn(pool))
end
