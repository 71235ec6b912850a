defmodule ErlBridge.Demo.Dataset do
  @moduledoc """
  Rows for the demo from what every Elixir machine has: the documentation of the standard library.

  Each row is a sentence and the name of the module whose documentation it is from. Blocks of code,
  links and headings are taken out, and the modules' own names are replaced by "…", since they
  would give the answer away.

      iex> markdown = \"""
      ...> Opens the `path`. See [the manual](https://example.org) for more, e.g. for modes.
      ...>
      ...> ## Examples
      ...>
      ...>     iex> File.open("a")
      ...>
      ...>   * `:read` - the file must exist
      ...> \"""
      iex> ErlBridge.Demo.Dataset.sentences(markdown)
      ["Opens the path.", "See the manual for more, e.g. for modes.", ":read - the file must exist"]
  """

  @modules [DateTime, Enum, File, String, Supervisor]

  # Shorter sentences say little about their module; there are not many longer ones.
  @fewest_words 6
  @most_words 40

  # So that the demo takes seconds also where the documentation has grown.
  @most_rows_of_a_module 80

  @typedoc "A sentence and the module it is about."
  @type row :: %{sentence: String.t(), module: String.t()}

  @type split :: %{train: [row], validation: [row], test: [row]}

  @doc "The modules whose documentation is read, as the names the rows have."
  @spec modules() :: [String.t()]
  def modules, do: Enum.map(@modules, &inspect/1)

  @doc """
  All rows of this machine's documentation, in one fixed order, and as many of each module.

  The error is a sentence: some packages of Elixir leave the documentation out.
  """
  @spec load() :: {:ok, [row]} | {:error, String.t()}
  def load do
    case Enum.find(@modules, &(texts(&1) == [])) do
      nil -> {:ok, rows(for module <- @modules, do: {inspect(module), texts(module)})}
      module -> {:error, no_docs(module)}
    end
  end

  @doc """
  The rows that these Markdown texts give: a list of module names, each with its texts.

  A sentence that two modules share belongs to neither. Each module gives as many rows as the
  poorest one has, taken evenly from its whole.
  """
  @spec rows([{String.t(), [String.t()]}]) :: [row]
  def rows(texts) do
    names = Enum.map(texts, &elem(&1, 0))

    found =
      for {name, markdowns} <- texts,
          markdown <- markdowns,
          sentence <- sentences(markdown),
          sentence = without_names(sentence, names),
          whole?(sentence) do
        %{sentence: sentence, module: name}
      end
      |> Enum.uniq()

    homes = Enum.frequencies_by(found, & &1.sentence)

    found
    |> Enum.filter(&(homes[&1.sentence] == 1))
    |> Enum.group_by(& &1.module)
    |> balance()
  end

  @doc """
  Shuffles the rows by the seed and parts them: a quarter for training, a quarter for validation,
  the rest for the test.
  """
  @spec split([row], integer) :: split
  def split(rows, seed) do
    {shuffled, _state} = shuffle(rows, :rand.seed_s(:exsss, seed))
    quarter = div(length(rows), 4)
    {train, rest} = Enum.split(shuffled, quarter)
    {validation, test} = Enum.split(rest, quarter)
    %{train: train, validation: validation, test: test}
  end

  @doc "The sentences of a Markdown text, without its code, links and headings."
  @spec sentences(String.t()) :: [String.t()]
  def sentences(markdown) do
    markdown
    |> String.replace(~r/^ *(```|~~~).*?^ *\1/ms, "")
    |> String.replace(~r/<!--.*?-->/s, "")
    |> String.split("\n")
    |> Enum.reject(&furniture?/1)
    |> Enum.chunk_while([], &paragraph/2, &{:cont, Enum.reverse(&1), []})
    |> Enum.map(&Enum.join(&1, " "))
    |> Enum.map(&plain/1)
    |> Enum.flat_map(&split_sentences/1)
  end

  # Reading documentation

  defp texts(module) do
    case Code.fetch_docs(module) do
      {:docs_v1, _line, _language, "text/markdown", module_doc, _metadata, docs} ->
        for %{"en" => text} <- [module_doc | Enum.map(docs, &elem(&1, 3))], do: text

      _none ->
        []
    end
  end

  defp no_docs(module) do
    "this Elixir has no documentation of #{inspect(module)}: its .beam files were built without docs. " <>
      "Install Elixir from https://elixir-lang.org/install.html or another package of your system"
  end

  # Rows

  defp without_names(sentence, names) do
    sentence
    |> String.replace(~r/\b(#{Enum.join(names, "|")})s?\b/i, "…")
    |> tidy()
  end

  defp whole?(sentence) do
    sentence =~ ~r/^[[:upper:]].*[.!?]$/ and
      length(String.split(sentence)) in @fewest_words..@most_words
  end

  defp balance(by_module) do
    counts = for {_module, rows} <- by_module, do: length(rows)
    count = Enum.min([@most_rows_of_a_module | counts])
    for {_module, rows} <- Enum.sort(by_module), row <- evenly(rows, count), do: row
  end

  defp evenly(rows, count) do
    rows = List.to_tuple(rows)
    for n <- 0..(count - 1)//1, do: elem(rows, div(n * tuple_size(rows), count))
  end

  defp shuffle(rows, random) do
    {keyed, random} =
      Enum.map_reduce(rows, random, fn row, random ->
        {key, random} = :rand.uniform_s(random)
        {{key, row}, random}
      end)

    {keyed |> Enum.sort() |> Enum.map(&elem(&1, 1)), random}
  end

  # Markdown

  defp code?(line), do: line =~ ~r/^(    |\t)/
  defp furniture?(line), do: line =~ ~r/^\s*(#|\||>|\[[^\]]+\]: |-{3,}|={3,}|!\[)/
  defp list_item?(line), do: line =~ ~r/^\s*([*+-]|\d+\.) /

  # Lines up to an empty one or the next item of a list. Within a paragraph an indented line goes
  # on with it, elsewhere it is code.
  defp paragraph(line, lines) do
    cond do
      String.trim(line) == "" -> {:cont, Enum.reverse(lines), []}
      list_item?(line) -> {:cont, Enum.reverse(lines), [line]}
      lines == [] and code?(line) -> {:cont, []}
      true -> {:cont, [line | lines]}
    end
  end

  defp plain(paragraph) do
    paragraph
    |> String.replace(~r/^\s*([*+-]|\d+\.) +/, "")
    |> String.replace(~r/\[([^\]]*)\]\([^)]*\)/, "\\1")
    |> String.replace(~r/\[([^\]]*)\]\[[^\]]*\]/, "\\1")
    |> String.replace(~r/(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)/, &code/1)
    |> String.replace(~r/https?:\S+/, "")
    |> String.replace(~r/(?<!\w)[*_]{1,2}(\w[^*_]*)[*_]{1,2}(?!\w)/, "\\1")
    |> String.replace(~r/^\s*[-:–] +/, "")
    |> tidy()
  end

  # `Enum.map/2` becomes map: a module's name would give the answer away.
  defp code(quoted) do
    quoted
    |> String.replace("`", "")
    |> String.trim()
    |> String.replace(~r/\b([tc]:)?([A-Z]\w*\.)+(?=[a-z_])/, "")
    |> String.replace(~r/(?<=\w)\/\d+$/, "")
  end

  defp tidy(text) do
    text
    |> String.replace(~r/\s+/, " ")
    |> String.replace(~r/ ([.,;!?)]|:(?!\w))/, "\\1")
    |> String.trim()
  end

  # After a full stop, a capital begins the next; but not after the dots of abbreviations.
  defp split_sentences(paragraph) do
    paragraph
    |> String.split(~r/(?<!e\.g\.|i\.e\.|etc\.)(?<=[.!?])\s+(?=[A-Z"(])/)
    |> Enum.reject(&(not (&1 =~ ~r/[[:alpha:]]/)))
  end
end
