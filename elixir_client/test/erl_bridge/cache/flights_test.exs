defmodule ErlBridge.Cache.FlightsTest do
  use ExUnit.Case, async: true
  doctest ErlBridge.Cache.Flights

  alias ErlBridge.Cache.Flights

  setup do
    [one, two, three] = for _n <- 1..3, do: %{ref: make_ref(), pid: self()}
    %{one: one, two: two, three: three}
  end

  test "the longest waiting one inherits, and those that left do not", %{
    one: one,
    two: two,
    three: three
  } do
    {:compute, flights} = Flights.join(Flights.new(), "key", one)
    {:wait, flights} = Flights.join(flights, "key", two)
    {:wait, flights} = Flights.join(flights, "key", three)

    assert {^two, nil, flights} = Flights.leave(flights, two.ref)
    assert {^one, ^three, flights} = Flights.leave(flights, one.ref)
    assert {nil, nil, ^flights} = Flights.leave(flights, one.ref)
    assert {^three, nil, flights} = Flights.leave(flights, three.ref)
    assert flights == Flights.new()
  end

  test "a detached flight is not kept, and does not disturb the one after it", %{
    one: one,
    two: two
  } do
    {:compute, flights} = Flights.join(Flights.new(), "key", one)
    flights = Flights.detach(flights, "key")
    assert Flights.leader(flights, "key") == nil
    assert {:compute, flights} = Flights.join(flights, "key", two)

    assert {"key", false, [^one], flights} = Flights.finish(flights, one.ref)
    assert {"key", true, [^two], flights} = Flights.finish(flights, two.ref)
    assert flights == Flights.new()
    assert Flights.finish(flights, two.ref) == nil
  end
end
