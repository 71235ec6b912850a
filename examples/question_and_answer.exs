# Questions and answers, from some that were answered before.
lm = System.get_env("LM", "local/nearest-demo")
{:ok, bridge} = ErlBridge.start_link()

answered = [
  %{question: "When do you open on weekdays?", answer: "At nine."},
  %{question: "When do you open on Sundays?", answer: "We are closed on Sundays."},
  %{question: "Where can I park my car?", answer: "Behind the house, two hours are free."},
  %{question: "Can I pay with a credit card?", answer: "Yes, from ten euros on."},
  %{question: "How do I return a book?", answer: "Put it into the box at the entrance."}
]

# The answered questions become demonstrations: no optimizer is shorter.
{:ok, %{program: program}} = ErlBridge.train(bridge, "question -> answer", answered, lm: lm)

questions = ["Is there a place to park?", "Are you open on Sundays?", "May I pay by card?"]

# A list of inputs is worked on all at once, and each row has a result of its own.
{:ok, results} = ErlBridge.predict(bridge, program, for(question <- questions, do: %{question: question}), lm: lm)

for {question, {:ok, outputs}} <- Enum.zip(questions, results), do: IO.puts("#{question} #{outputs["answer"]}")
ErlBridge.stop(bridge)
