# GEPA writes instructions from what the metric says.
lm = System.get_env("LM", "local/nearest-demo")
{:ok, bridge} = ErlBridge.start_link()

signature = %{
  instructions: "Say who should answer the message.",
  input_fields: [%{name: :message}],
  output_fields: [%{name: :team, type: {:literal, [:sales, :billing, :support]}}]
}

rows =
  for {team, words} <- [sales: ~w(quote demo license), billing: ~w(invoice refund payment), support: ~w(crash error login)],
      word <- words,
      text <- ["there is a question about the #{word}", "please look at my #{word}"],
      do: %{message: text, team: team}

{training, validation} = Enum.split_with(rows, &String.starts_with?(&1.message, "please"))

judge = fn example, prediction ->
  right? = example.team == prediction.team
  said = ~s(team: expected "#{example.team}", got "#{prediction.team}". It is about: #{example.message})
  %{score: if(right?, do: 1.0, else: 0.0), feedback: if(right?, do: "Right.", else: said)}
end

{:ok, %{optimized_signature: optimized, optimization_metrics: metrics}} =
  ErlBridge.optimize(bridge, signature, training,
    validation_data: validation,
    optimizer: :gepa,
    config: [max_metric_calls: 120],
    reflection_lm: System.get_env("REFLECTION_LM", lm),
    metric: judge,
    seed: 1,
    lm: lm
  )

IO.puts("before #{Float.round(metrics.baseline_score, 2)}, after #{Float.round(metrics.score, 2)}")
IO.puts(optimized.instructions)
ErlBridge.stop(bridge)
