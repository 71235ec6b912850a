# Python is killed in the middle of an optimization. It goes on where it was: no answer that came is paid for twice.
{:ok, bridge} = ErlBridge.start_link()
{:ok, %{os_pid: python}} = ErlBridge.hello(bridge)
paid = :counters.new(1, [])
vowels = fn word -> word |> String.graphemes() |> Enum.count(&(&1 in ~w(a e i o u))) end

# This model counts what it is paid for. When it is asked for the fortieth time, somebody kills Python.
model =
  ErlBridge.Testing.model(fn %{"word" => word} ->
    :counters.add(paid, 1, 1)
    if :counters.get(paid, 1) == 40, do: System.cmd("kill", ["-9", "#{python}"])
    %{vowels: vowels.(word)}
  end)

signature = ErlBridge.Signature.new(inputs: [:word], outputs: [vowels: :int])
rows = for word <- ~w(tree house banana sky area idea rhythm queue), do: %{word: word, vowels: vowels.(word)}

optimize = fn title, key ->
  before = :counters.get(paid, 1)

  {:ok, %{program: program, optimization_metrics: metrics}} =
    ErlBridge.optimize(bridge, signature, rows,
      optimizer: :random_search,
      config: [num_candidates: 4, num_threads: 1],
      # The answers of a function are kept only under a key, for its code may change.
      lm: %{callback: model, cache_key: key},
      # It may be sent again when Python dies.
      idempotent: true
    )

  IO.puts("#{title}: #{:counters.get(paid, 1) - before} answers paid for, #{metrics.cache_hits} taken from the store")
  program.fingerprint
end

# A run without a crash, under another key, pays for one less: the answer that was under way when Python died.
[first, second] = for title <- ["killed once", "undisturbed"], do: optimize.(title, "#{title} #{System.os_time()}")
IO.puts("the same program: #{first == second}")
ErlBridge.stop(bridge)
