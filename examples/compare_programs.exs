# Is the new program better, or only luckier?
lm = System.get_env("LM", "local/nearest-demo")
{:ok, bridge} = ErlBridge.start_link()
signature = "animal -> legs: int"

legs = [dog: 4, cat: 4, horse: 4, cow: 4, hen: 2, duck: 2, goose: 2, owl: 2, ant: 6, bee: 6, wasp: 6, fly: 6]
rows = fn texts -> for {animal, legs} <- legs, text <- texts, do: %{animal: "#{text} #{animal}", legs: legs} end

learn = fn count ->
  config = [max_labeled_demos: count]
  ErlBridge.train!(bridge, signature, rows.(["a"]), config: config, seed: 3, lm: lm).program
end

[few, some, many] = Enum.map([2, 10, 12], learn)

for {name, before, program} <- [{"2 -> 12", few, many}, {"10 -> 12", some, many}] do
  result = ErlBridge.compare!(bridge, before, program, rows.(["one", "the", "my"]), lm: lm)
  %{baseline_score: was, significant: significant?, p_value: p_value} = result.comparison
  verdict = if significant?, do: "better", else: "not proven"

  scores = "#{Float.round(was, 2)} -> #{Float.round(result.score, 2)}"
  IO.puts("#{name} demonstrations: #{scores}, #{verdict} (p = #{Float.round(p_value, 3)})")
end

ErlBridge.stop(bridge)
