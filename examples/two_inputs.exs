# An output that depends on two inputs.
lm = System.get_env("LM", "local/nearest-demo")
{:ok, bridge} = ErlBridge.start_link()

signature =
  ErlBridge.Signature.new(
    inputs: [daytime: {:literal, [:morning, :evening]}, language: :str],
    outputs: [:greeting],
    instructions: "Greet somebody at this time of the day in this language."
  )

rows =
  for {language, morning, evening} <- [
        {"Spanish", "Buenos días", "Buenas noches"},
        {"French", "Bonjour", "Bonsoir"},
        {"German", "Guten Morgen", "Guten Abend"},
        {"Italian", "Buongiorno", "Buonasera"}
      ],
      {daytime, greeting} <- [morning: morning, evening: evening],
      do: %{daytime: daytime, language: language, greeting: greeting}

%{program: program} = ErlBridge.train!(bridge, signature, rows, lm: lm)

for daytime <- [:morning, :evening], language <- ["Italian", "German, formal"] do
  inputs = %{daytime: daytime, language: language}
  IO.puts("#{daytime}, #{language}: #{ErlBridge.predict!(bridge, program, inputs, lm: lm).greeting}")
end

# An input that is missing or wrong is an error before any model is asked.
{:error, error} = ErlBridge.predict(bridge, program, %{daytime: :noon, language: "Spanish"}, lm: lm)
IO.puts(error.message)
ErlBridge.stop(bridge)
