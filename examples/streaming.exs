# Outputs field by field while the model writes.
# LM=openai/gpt-4o-mini takes a real model in the place of this stand-in.
stand_in =
  ErlBridge.Testing.model(fn %{"topic" => topic} ->
    %{title: "On #{topic}", poem: "The #{topic} comes slowly,\nword by word,\nand nobody waits for the end."}
  end)

{:ok, bridge} = ErlBridge.start_link()

show = fn
  %{kind: :stream, done: true} -> IO.write("\n\n")
  %{kind: :stream, text: text} -> IO.write(text)
  _other -> :ok
end

{:ok, %{"poem" => poem}} =
  ErlBridge.predict(bridge, "topic -> title, poem", %{"topic" => "rain"},
    stream: true,
    on_event: show,
    lm: System.get_env("LM") || stand_in
  )

IO.puts("#{length(String.split(poem, "\n"))} lines")
ErlBridge.stop(bridge)
