# A question that takes two searches, the second one for what the first one found.
# LM=openai/gpt-4o-mini takes a real model in the place of this stand-in: it says the last name that it reads.
stand_in =
  ErlBridge.Testing.model(fn inputs, wanted ->
    text = inputs["found"] || inputs["passages"] || inputs["question"]
    name = ~r/\b[A-Z]\w+/ |> Regex.scan(text) |> List.last() |> hd()
    Map.new(wanted, &{&1, name})
  end)

passages = [
  "The novel Siddhartha was written by Hesse",
  "The play Faust was written by Goethe",
  "The writer Hesse was born in Calw",
  "The writer Goethe was born in Frankfurt"
]

search = fn %{"query" => query} -> Enum.filter(passages, &(&1 =~ ~r/The \w+ #{query}/)) end

hops = [
  %{name: :ask, signature: "question -> query"},
  %{name: :search, signature: "query -> passages: list[str]", callback: search},
  %{name: :ask_again, signature: "question, passages: list[str] -> query"},
  %{name: :search_again, signature: "query -> found: list[str]", callback: search},
  %{name: :answer, signature: "question, passages: list[str], found: list[str] -> answer"}
]

{:ok, bridge} = ErlBridge.start_link()

for work <- ["Faust", "Siddhartha"] do
  inputs = %{"question" => "In which town was the author born who wrote #{work}?"}
  options = [module: hops, lm: System.get_env("LM") || stand_in]
  %{"answer" => town} = ErlBridge.predict!(bridge, "question -> answer", inputs, options)
  IO.puts("#{inputs["question"]} #{town}")
end

ErlBridge.stop(bridge)
