# An optimizer whose metric is a function of Elixir.
lm = System.get_env("LM", "local/nearest-demo")
{:ok, bridge} = ErlBridge.start_link()

signature = %{
  instructions: "Estimate how long the task takes.",
  input_fields: [%{name: :task}],
  output_fields: [%{name: :minutes, type: :int}]
}

rows =
  for {what, minutes} <- ["write an email": 5, "fix a typo": 2, "review a change": 30, "plan a sprint": 90],
      when_it_is <- ["today", "on Monday"],
      do: %{task: "#{what} #{when_it_is}", minutes: minutes}

{training, validation} = Enum.split_with(rows, &String.ends_with?(&1.task, "today"))

# Half as long or twice as long is half as good, and so on.
close = fn %{minutes: expected}, %{minutes: got} ->
  1 / (1 + abs(:math.log2(max(got, 1) / expected)))
end

{:ok, %{program: program, optimization_metrics: metrics}} =
  ErlBridge.optimize(bridge, signature, training,
    validation_data: validation,
    optimizer: :bootstrap_few_shot,
    metric: close,
    # What becomes a demonstration must be nearly right.
    config: [metric_threshold: 0.9],
    seed: 1,
    lm: lm
  )

IO.puts("before #{Float.round(metrics.baseline_score, 2)}, after #{Float.round(metrics.score, 2)}")
IO.inspect(ErlBridge.predict!(bridge, program, %{task: "plan a sprint tomorrow"}, lm: lm))
ErlBridge.stop(bridge)
