# The language model is a function of Elixir: your client, your keys, your rules of what may leave the node.
defmodule ElixirLM do
  # Card numbers never reach the provider; what it takes is counted and paid for here.
  def complete(%{messages: messages}) do
    messages = for message <- messages, do: %{message | "content" => mask(message["content"])}
    text = provider(messages)
    usage = %{prompt_tokens: messages |> Enum.map(&words(&1["content"])) |> Enum.sum(), completion_tokens: words(text)}
    %{text: text, usage: usage, cost_usd: 0.000002 * usage.prompt_tokens}
  end

  # In an application: MyApp.LLM.chat(messages). This one says what it has seen, in the form that DSPy asks for.
  defp provider(messages) do
    [_all, seen] = Regex.run(~r/\[\[ ## message ## \]\]\n(.*)/, List.last(messages)["content"])
    "[[ ## reply ## ]]\nYou wrote: #{seen}\n\n[[ ## completed ## ]]"
  end

  defp mask(text), do: String.replace(text, ~r/\b\d{4}([ -]?)\d{4}\1\d{4}\1\d{4}\b/, "[card]")
  defp words(text), do: text |> String.split() |> length()
end

{:ok, bridge} = ErlBridge.start_link()

{:ok, %{"reply" => reply}} =
  ErlBridge.predict(bridge, "message -> reply", %{"message" => "My card 4111 1111 1111 1111 was charged twice"},
    lm: &ElixirLM.complete/1,
    on_event: fn
      %{kind: :usage} = used -> IO.puts("#{used.prompt_tokens} tokens, #{Float.round(used.cost_usd * 100, 3)} cents")
      _other -> :ok
    end
  )

IO.puts(reply)
ErlBridge.stop(bridge)
