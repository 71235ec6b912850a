# An optimization that ends when its budget is spent, with the best program so far.
lm = System.get_env("LM", "local/nearest-demo")
{:ok, bridge} = ErlBridge.start_link()
signature = "text -> kind: Literal['animal', 'plant', 'metal']"

rows =
  for {kind, names} <- [animal: ~w(cat dog cow), plant: ~w(oak elm fir), metal: ~w(tin zinc iron)],
      name <- names,
      text <- ["a", "the", "one"],
      do: %{"text" => "#{text} #{name}", "kind" => "#{kind}"}

for budget <- [%{calls: 100, usd: 1.0}, %{calls: 1000, usd: 1.0}] do
  {:ok, %{status: status, program: program, optimization_metrics: metrics}} =
    ErlBridge.optimize(bridge, signature, rows,
      optimizer: :random_search,
      config: [num_candidates: 4],
      budget: budget,
      seed: 1,
      lm: lm
    )

  # What a local model costs is nothing; with another one this is in dollars.
  IO.puts("#{status} after #{metrics.lm_calls} calls for $#{metrics.cost_usd}: #{Float.round(metrics.score, 2)}")
  # The best so far is a program like any other.
  IO.puts("  " <> ErlBridge.predict!(bridge, program, %{"text" => "an old oak"}, lm: lm)["kind"])
end

ErlBridge.stop(bridge)
