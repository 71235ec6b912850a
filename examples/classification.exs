# Texts into classes, and what is taken for what.
lm = System.get_env("LM", "local/nearest-demo")
{:ok, bridge} = ErlBridge.start_link()

signature = %{
  instructions: "Sort the ticket into a queue.",
  input_fields: [%{name: :ticket}],
  output_fields: [%{name: :queue, type: {:literal, [:billing, :technical, :sales]}}]
}

tickets = fn tickets -> for {queue, texts} <- tickets, text <- texts, do: %{ticket: text, queue: queue} end

training =
  tickets.(
    billing: ["The invoice is wrong", "I paid twice", "Please refund the money"],
    technical: ["The app crashes at the start", "Login fails on Linux", "An error when I save"],
    sales: ["How much for ten licences?", "Is there a discount for schools?", "We want a demo of it"]
  )

test =
  tickets.(
    billing: ["There is a wrong sum on my invoice", "You took the money twice"],
    technical: ["It crashes when I save a file", "My login fails"],
    sales: ["A discount for twenty licences?", "Do you sell an app for Linux?"]
  )

%{program: program} = ErlBridge.train!(bridge, signature, training, lm: lm)
%{score: score, interval: [low, high], confusion: confusion} = ErlBridge.evaluate!(bridge, program, test, lm: lm)

IO.puts("right: #{round(score * 100)} %, with 95 % confidence #{round(low * 100)} to #{round(high * 100)} %")
for %{expected: right, predicted: got, count: count} <- confusion.queue, do: IO.puts("#{right} -> #{got}: #{count}")
ErlBridge.stop(bridge)
