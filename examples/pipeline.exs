# A program of several steps, two of a model and one of Elixir, optimized as a whole.
lm = System.get_env("LM", "local/nearest-demo")
{:ok, bridge} = ErlBridge.start_link()

topic = "topic: Literal['billing', 'technical']"
tone = "tone: Literal['calm', 'angry']"
team = fn %{"topic" => topic, "tone" => tone} -> if tone == "angry", do: "#{topic} lead", else: topic end

steps = [
  %{name: :sort, signature: "message -> #{topic}"},
  %{name: :listen, signature: "message, #{topic} -> #{tone}", module: :chain_of_thought},
  %{name: :assign, signature: "#{topic}, #{tone} -> team", callback: team}
]

things = [{"billing", ["invoice", "refund", "payment"]}, {"technical", ["login", "update", "screen"]}]

rows =
  for {topic, names} <- things, name <- names, {tone, text} <- [{"calm", "please see"}, {"angry", "I am fed up with"}] do
    %{"message" => "#{text} the #{name}", "topic" => topic, "tone" => tone, "team" => team.(%{"topic" => topic, "tone" => tone})}
  end

{:ok, %{program: program, optimization_metrics: metrics}} =
  ErlBridge.optimize(bridge, "message -> #{topic}, #{tone}, team", rows,
    module: steps,
    optimizer: :bootstrap_few_shot,
    config: [max_labeled_demos: 12],
    callbacks: %{assign: team},
    lm: lm
  )

IO.puts("before #{Float.round(metrics.baseline_score, 2)}, after #{Float.round(metrics.score, 2)}")
for predictor <- program.predictors, do: IO.puts("#{predictor.name}: #{length(predictor.demos)} demonstrations")

# The program is data; the function is given again where it is used.
inputs = %{"message" => "I am really fed up, the payment failed"}
IO.puts(ErlBridge.predict!(bridge, program, inputs, callbacks: %{assign: team}, lm: lm)["team"])
ErlBridge.stop(bridge)
