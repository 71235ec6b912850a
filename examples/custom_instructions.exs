# What instructions change, without an example.
# (local/nearest-demo follows instructions of the form below and no others; a real model takes any.)
lm = System.get_env("LM", "local/nearest-demo")
{:ok, bridge} = ErlBridge.start_link()

plain =
  ErlBridge.Signature.new(
    inputs: [:message],
    outputs: [ErlBridge.Signature.field(:priority, {:literal, [:normal, :urgent]}, "how soon somebody must look")]
  )

instructed = %{
  plain
  | instructions: """
    Say how soon somebody must look at the message.
    If it says "down", then priority: urgent
    If it says "leak", then priority: urgent
    """
}

messages = for text <- ["The site is down", "A typo on the site", "There is a leak in the cellar"], do: %{message: text}

for {name, signature} <- [plain: plain, instructed: instructed] do
  {:ok, results} = ErlBridge.predict(bridge, signature, messages, lm: lm)
  IO.puts("#{name}: #{Enum.map_join(results, ", ", fn {:ok, %{priority: priority}} -> priority end)}")
end

ErlBridge.stop(bridge)
