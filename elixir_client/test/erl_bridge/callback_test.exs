defmodule ErlBridge.CallbackTest do
  use ExUnit.Case, async: true
  doctest ErlBridge.Callback

  alias ErlBridge.Callback

  test "a name is the same as an atom and as a string" do
    assert Callback.run(%{score: fn -> 1 end}, "score", []) == {:ok, 1}
    assert Callback.run(%{"score" => fn -> 1 end}, :score, []) == {:ok, 1}
  end

  test "an unknown name is answered with those there are" do
    assert Callback.run(%{:a => fn -> 1 end, "b" => fn -> 2 end}, :c, []) ==
             {:error,
              %{message: "there is no callback named c; the request has a, b", missing: true}}
  end

  test "a raise, a throw, an exit and a wrong number of arguments are errors" do
    callbacks = %{
      raise: fn -> raise ArgumentError, "bad" end,
      throw: fn -> throw(:ball) end,
      exit: fn -> exit(:gone) end,
      two: fn _a, _b -> 0 end
    }

    message = fn {:error, failure} -> failure.message end
    assert message.(Callback.run(callbacks, :raise, [])) == "** (ArgumentError) bad"
    assert message.(Callback.run(callbacks, :throw, [])) == "** (throw) :ball"
    assert message.(Callback.run(callbacks, :exit, [])) == "** (exit) :gone"
    assert "** (BadArityError)" <> _rest = message.(Callback.run(callbacks, :two, [1]))

    assert {:error, %{stacktrace: stacktrace}} = Callback.run(callbacks, :raise, [])
    assert stacktrace =~ "callback_test.exs"
  end

  test "what cannot be a name is an error too" do
    assert {:error, %{message: "** (Protocol.UndefinedError)" <> _rest}} =
             Callback.run(%{a: fn -> 1 end}, {:a}, [])
  end
end
