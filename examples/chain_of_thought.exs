# A model that reasons before it answers.
# LM=openai/gpt-4o-mini takes a real one in the place of this stand-in, which can multiply.
stand_in =
  ErlBridge.Testing.model(fn %{"question" => question} ->
    [boxes, each] = for [number] <- Regex.scan(~r/\d+/, question), do: String.to_integer(number)
    %{reasoning: "#{boxes} boxes of #{each} are #{boxes} * #{each} = #{boxes * each}.", answer: boxes * each}
  end)

lm = System.get_env("LM") || stand_in
{:ok, bridge} = ErlBridge.start_link()

for question <- ["How many eggs are in 3 boxes of 12?", "How many pens are in 7 boxes with 20 each?"] do
  {:ok, %{reasoning: reasoning, answer: answer}} =
    ErlBridge.predict(
      bridge,
      ErlBridge.Signature.new(inputs: [:question], outputs: [answer: :int]),
      %{question: question},
      module: :chain_of_thought,
      lm: lm
    )

  # The answer is an integer, checked before it comes.
  IO.puts("#{question}\n  #{reasoning}\n  -> #{answer}, that is #{div(answer, 12)} dozen and #{rem(answer, 12)}")
end

ErlBridge.stop(bridge)
