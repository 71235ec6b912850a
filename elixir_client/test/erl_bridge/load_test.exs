defmodule ErlBridge.LoadTest do
  use ExUnit.Case, async: true
  doctest ErlBridge.Load

  alias ErlBridge.Load

  test "an answer gives back what its request took, and is counted" do
    load = Load.new()
    assert Load.take(load, 60, %{requests: 1, bytes: 100})
    refute Load.take(load, 10, %{requests: 1, bytes: 100})

    :ok = Load.answered(load, 60)
    assert Load.answers(load) == 1
    assert Load.take(load, 100, %{requests: 1, bytes: 100})
  end
end
