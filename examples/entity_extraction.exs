# People, places and days out of a text, as Elixir's own maps, atoms and dates.
# LM=openai/gpt-4o-mini takes a real model in the place of this stand-in, which knows some patterns.
stand_in =
  ErlBridge.Testing.model(fn %{"text" => text} ->
    find = fn pattern -> for [_all, found] <- Regex.scan(pattern, text), do: found end
    people = for name <- find.(~r/(?:Ms|Mr) ([A-Z]\w+)/), do: %{kind: :person, name: name}
    places = for name <- find.(~r/in ([A-Z]\w+)/), do: %{kind: :place, name: name}
    %{entities: people ++ places, days: find.(~r/(\d{4}-\d\d-\d\d)/)}
  end)

signature =
  ErlBridge.Signature.new(
    inputs: [:text],
    outputs: [
      entities: {:list, {:map, [kind: {:literal, [:person, :place]}, name: :str]}},
      days: {:list, :date}
    ],
    instructions: "Find the people, the places and the days in the text."
  )

{:ok, bridge} = ErlBridge.start_link()
text = "Ms Weber meets Mr Okafor in Lisbon on 2024-05-03; on 2024-05-06 both are in Porto."
found = ErlBridge.predict!(bridge, signature, %{text: text}, lm: System.get_env("LM") || stand_in)

names = Enum.group_by(found.entities, & &1.kind, & &1.name)
for {kind, names} <- Enum.sort(names), do: IO.puts("#{kind}: #{Enum.join(names, ", ")}")
[first, last] = Enum.sort(found.days, Date)
IO.puts("#{Date.diff(last, first)} days, from a #{Calendar.strftime(first, "%A")} on")
ErlBridge.stop(bridge)
