defmodule ErlBridge.RequestNameTest do
  use ExUnit.Case, async: true
  doctest ErlBridge.Request.Name

  alias ErlBridge.Request.Name

  setup do
    {:ok, name} = Name.take(self(), :job)
    %{name: name}
  end

  test "a cancel reaches what waits, and what waits only then", %{name: name} do
    alive = :erlang.alias()
    Name.waits(name, alive)
    assert Name.cancel(self(), :job) == :cancelled
    assert_received {^alive, :refused, %{type: :cancelled}}
    Name.waits(name, alive)
    assert_received {^alive, :refused, %{type: :cancelled}}
    refute Name.claim(name)
  end

  test "what came back from where it was sent to can be cancelled again", %{name: name} do
    place = {self(), make_ref()}
    assert Name.claim(name)
    Name.sent(name, place)
    assert Name.cancel(self(), :job) == {:sent, place}
    Name.come_back(name)
    assert Name.claim(name)
    Name.come_back(name)
    assert Name.cancel(self(), :job) == :cancelled
    # It stays so.
    Name.come_back(name)
    refute Name.claim(name)
  end

  test "a pause ends with the cancel, and leaves nothing behind", %{name: name} do
    assert :ok = Name.pause(name, 1)
    assert :cancelled = Name.cancel(self(), :job)
    assert {:error, %{type: :cancelled}} = Name.pause(name, 86_400_000)
    assert {:messages, []} = Process.info(self(), :messages)
  end
end
