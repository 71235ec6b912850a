# Answers from passages that a function of Elixir finds.
words = fn text -> for word <- Regex.scan(~r/\w{3,}/, String.downcase(text)), into: MapSet.new(), do: hd(word) end
shared = fn one, other -> MapSet.size(MapSet.intersection(words.(one), words.(other))) end

# LM=openai/gpt-4o-mini takes a real model in the place of this stand-in, which says the best sentence that it reads.
stand_in =
  ErlBridge.Testing.model(fn %{"question" => question, "passages" => passages} ->
    sentences = Regex.split(~r/(?<=\.) /, String.replace(passages, ~r/^\[\d+\] /m, ""))
    %{answer: Enum.max_by(sentences, &shared.(&1, question))}
  end)

handbook = [
  "Holidays. Each year has thirty days of vacation. Ask for vacation two weeks before it begins.",
  "Travel. Trains are booked in second class. Send receipts of the travel within a month.",
  "Devices. A broken laptop is replaced the same day. Lost phones are reported to the help desk."
]

# In an application: Ecto, a search engine, a store of vectors.
search = fn %{"question" => question} -> handbook |> Enum.sort_by(&shared.(&1, question), :desc) |> Enum.take(1) end

steps = [
  %{name: :search, signature: "question -> passages: list[str]", callback: search},
  %{name: :answer, signature: "question, passages: list[str] -> answer"}
]

{:ok, bridge} = ErlBridge.start_link()

for question <- ["How many days of vacation are there?", "My laptop is broken, when is it replaced?"] do
  # The passages are an output too, so that an answer can show its source.
  %{"answer" => answer, "passages" => [passage | _]} =
    ErlBridge.predict!(bridge, "question -> answer, passages: list[str]", %{"question" => question},
      module: steps,
      lm: System.get_env("LM") || stand_in
    )

  IO.puts("#{question} #{answer} (#{hd(String.split(passage, "."))})")
end

ErlBridge.stop(bridge)
