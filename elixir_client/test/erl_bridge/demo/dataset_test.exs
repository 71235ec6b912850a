defmodule ErlBridge.Demo.DatasetTest do
  use ExUnit.Case, async: true
  doctest ErlBridge.Demo.Dataset

  alias ErlBridge.Demo.Dataset

  describe "sentences of Markdown" do
    @cases [
      {"two sentences", "One is here. Two is there.", ["One is here.", "Two is there."]},
      {"a sentence over two lines", "One is\nhere.", ["One is here."]},
      {"paragraphs", "One\n\nTwo", ["One", "Two"]},
      {"abbreviations", "Use it, e.g. As here. Or not, i.e. Never.",
       ["Use it, e.g. As here.", "Or not, i.e. Never."]},
      {"headings", "# Title\n\nText.\n\n## Examples", ["Text."]},
      {"indented code", "Text.\n\n    iex> 1 + 1\n    2\n\nMore.", ["Text.", "More."]},
      {"fenced code", "Text.\n\n```elixir\nNot. This.\n```\n\nMore.", ["Text.", "More."]},
      {"code in a line", "Returns `:ok` or an error.", ["Returns :ok or an error."]},
      {"code with backticks", "Use ``a `b` c`` here.", ["Use a b c here."]},
      {"names of functions", "See `Enum.map/2`, `c:GenServer.init/1` and `my_own_fun/1`.",
       ["See map, init and my_own_fun."]},
      {"links", "See [the guide](g.html), [this][ref] or https://x.org now.",
       ["See the guide, this or now."]},
      {"emphasis", "It is *very* **good** and _new_.", ["It is very good and new."]},
      {"lists", "Options:\n\n  * `:a` - the first one\n    goes on\n  * the second. Really.",
       [
         "Options:",
         ":a - the first one goes on",
         "the second.",
         "Really."
       ]},
      {"numbered lists", "1. First.\n2. Second.", ["First.", "Second."]},
      {"tables and quotes", "| a | b |\n\n> Note this.\n\nText.", ["Text."]},
      {"comments", "Text. <!-- Not this. -->More.", ["Text.", "More."]},
      {"nothing", "", []}
    ]

    for {name, markdown, sentences} <- @cases do
      test name do
        assert Dataset.sentences(unquote(markdown)) == unquote(sentences)
      end
    end
  end

  describe "rows" do
    test "name their module, and no module by name" do
      texts = [
        {"Enum", ["An Enum is not one of the strings that we want."]},
        {"String", ["A string is one of the enums that nobody has."]}
      ]

      assert Dataset.rows(texts) == [
               %{module: "Enum", sentence: "An … is not one of the … that we want."},
               %{module: "String", sentence: "A … is one of the … that nobody has."}
             ]
    end

    test "are whole sentences of some length" do
      texts = [
        {"Enum",
         ["Too short.", "no capital at the start of this.", "No end to this one sentence"]}
      ]

      assert Dataset.rows(texts) == []
    end

    test "that two modules share are left out, and each row is there once" do
      shared = "This sentence is in both of them."
      twice = "This sentence is in one of them."

      texts = [
        {"Enum", [shared, twice, twice]},
        {"File", [shared, "This sentence is in the other one."]}
      ]

      assert Enum.map(Dataset.rows(texts), & &1.sentence) == [
               twice,
               "This sentence is in the other one."
             ]
    end

    test "are as many for each module" do
      many = for n <- 1..9, do: "This is the sentence of the number #{n}."
      few = for n <- 1..3, do: "That is the sentence of the number #{n}."
      rows = Dataset.rows([{"Enum", many}, {"File", few}])

      assert Enum.frequencies_by(rows, & &1.module) == %{"Enum" => 3, "File" => 3}

      assert for(%{module: "Enum", sentence: s} <- rows, do: s) ==
               Enum.map([0, 3, 6], &Enum.at(many, &1))
    end
  end

  describe "this machine's documentation" do
    setup do
      {:ok, rows} = Dataset.load()
      %{rows: rows}
    end

    test "has over 250 rows, balanced over five modules, each once", %{rows: rows} do
      assert length(rows) > 250
      assert [_, _, _, _, _] = counts = Map.values(Enum.frequencies_by(rows, & &1.module))
      assert Enum.uniq(counts) |> length() == 1
      assert Enum.uniq_by(rows, & &1.sentence) == rows
    end

    test "gives the same rows each time, none of which says the answer", %{rows: rows} do
      assert Dataset.load() == {:ok, rows}

      for %{sentence: sentence} <- rows do
        refute sentence =~ ~r/\b(#{Enum.join(Dataset.modules(), "|")})\b|`|\]\(/i
      end
    end
  end

  describe "a split" do
    @rows for n <- 1..10, do: %{sentence: "s#{n}", module: "Enum"}

    test "has a quarter, a quarter and the rest, and loses no row" do
      split = Dataset.split(@rows, 1)

      assert {2, 2, 6} = {length(split.train), length(split.validation), length(split.test)}
      assert Enum.sort(split.train ++ split.validation ++ split.test) == Enum.sort(@rows)
    end

    test "is the same for the same seed and another for another" do
      assert Dataset.split(@rows, 1) == Dataset.split(@rows, 1)
      assert Dataset.split(@rows, 1) != Dataset.split(@rows, 2)
    end
  end
end
