# An agent whose tools are functions of Elixir.
# LM=openai/gpt-4o-mini takes a real model in the place of this stand-in, which plans by what it has seen.
stand_in =
  ErlBridge.Testing.model(fn
    %{"observation_1" => total}, ["reasoning", "answer"] ->
      %{reasoning: "The price and the amount are known.", answer: "They cost #{total} euros."}

    %{"observation_1" => _total}, _wanted ->
      %{next_thought: "I know it.", next_tool_name: :finish, next_tool_args: %{}}

    %{"observation_0" => price}, _wanted ->
      args = %{amount: 12, price: String.to_float(price)}
      %{next_thought: "Now the total.", next_tool_name: :multiply, next_tool_args: args}

    _inputs, _wanted ->
      %{next_thought: "What is the price?", next_tool_name: :price, next_tool_args: %{article: "lamp"}}
  end)

prices = %{"lamp" => 24.5, "chair" => 79.0}
price = fn %{article: article} -> Map.fetch!(prices, article) end
multiply = fn %{amount: amount, price: price} -> amount * price end

tools = [
  %{name: :price, description: "The price of an article in euros.", args: [article: :str], callback: price},
  %{name: :multiply, description: "An amount times a price.", args: [amount: :int, price: :float], callback: multiply}
]

{:ok, bridge} = ErlBridge.start_link()
options = [module: %{name: :react, max_iters: 5}, tools: tools, lm: System.get_env("LM") || stand_in]
result = ErlBridge.predict!(bridge, "question -> answer", %{"question" => "What do 12 lamps cost?"}, options)

for turn <- result["trajectory"] do
  IO.puts("#{turn.thought} #{turn.tool_name}(#{inspect(turn.tool_args)}) -> #{turn.observation}")
end

IO.puts(result["answer"])
ErlBridge.stop(bridge)
