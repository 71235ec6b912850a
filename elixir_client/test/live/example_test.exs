defmodule ErlBridge.ExampleTest do
  @moduledoc "The example of a handler in Python, called as its docstring says."
  use ExUnit.Case, async: true

  alias ErlBridge.{Error, Live}

  @examples Path.expand("../../../examples", __DIR__)

  setup_all do
    %{bridge: start_supervised!({ErlBridge, Live.options(app: "embed_app:app", cd: @examples)})}
  end

  test "words to vectors, with progress", %{bridge: bridge} do
    test = self()
    options = [on_event: &send(test, &1)]

    assert {:ok, %{"vectors" => [hello, help]}} =
             ErlBridge.call(bridge, :embed, %{texts: ["hello", "help"]}, options)

    assert length(hello) == 8 and length(help) == 8
    assert [%{done: 1, total: 2}, %{done: 2, total: 2}] = Live.mailbox()
  end

  test "its schema refuses what does not fit, with the path", %{bridge: bridge} do
    assert {:error, %Error{type: :invalid_request} = error} =
             ErlBridge.call(bridge, :embed, %{texts: [1]})

    assert Exception.message(error) =~ "payload.texts[0]"
  end
end
