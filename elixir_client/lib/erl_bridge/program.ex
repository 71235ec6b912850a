defmodule ErlBridge.Program do
  @moduledoc """
  Programs, as `ErlBridge.optimize/4` makes them: to keep in files, to look at and to compare.

      {:ok, %{program: program}} = ErlBridge.optimize(bridge, signature, rows, lm: lm)
      :ok = ErlBridge.Program.save(program, "priv/tickets.program")

      # in production
      {:ok, program} = ErlBridge.Program.load("priv/tickets.program")
      {:ok, %{queue: queue}} = ErlBridge.predict(MyApp.Bridge, program, %{ticket: text}, lm: lm)

  A program is a plain map, not a struct: so it goes through JSON, a database or another language
  and back as what it was, and its fingerprint, which Python checks, is over all of it. These
  functions take it with keys that are atoms or strings.

  `ErlBridge.Program.Store` keeps the versions of programs in a folder, and rolls back.

  ## The file

  A line with the version of the format and the SHA-256 of what follows, then the program in the
  external term format. Equal programs give equal files. What is damaged, foreign or of a newer
  version is refused. Nothing in it is run: functions, processes and ports have no place in it.
  """

  alias ErlBridge.{Error, Options, Signature, Vocabulary}
  alias ErlBridge.Program.Diff

  @typedoc """
  A module of DSPy, the signature it works on, and what each of its predictors has learned:
  demonstrations for its prompt, and instructions where they are not those that the module makes of
  the signature. `score` is what it reached by `metric` on the rows for validation, with the model
  of `scored_on`, from 0.0 to 1.0.
  """
  @type t ::
          %{
            :format => pos_integer,
            :module => atom | map,
            :signature => map,
            :predictors => [predictor],
            optional(:versions) => %{optional(atom) => String.t()},
            optional(:fingerprint) => String.t() | nil,
            optional(:score) => float | nil,
            optional(:metric) => term,
            optional(:scored_on) => map | nil
          }
          | %{String.t() => term}

  @typedoc "A predictor of DSPy under its path in the module: `\"self\"`, `\"predict\"`, `\"draft.predict\"`."
  @type predictor :: %{name: String.t(), instructions: String.t() | nil, demos: [map]}

  @type summary :: %{
          signature: String.t(),
          instructions: String.t() | nil,
          module: atom | String.t(),
          predictors: [String.t()],
          demos: non_neg_integer,
          augmented: non_neg_integer,
          score: float | nil,
          metric: term,
          versions: map
        }

  # Of the file, and of the map in it.
  @version 1
  @format 2

  @magic "erl_bridge program "

  # What makes a map a program for these functions; Python checks what is in it.
  @parts [format: :number, signature: :map, predictors: :list]

  @doc """
  Writes a program to a file, in the place of one that is there.

  The file is whole at any time: it is written beside its place and moved there once it is on the
  disk. Folders that are missing are made.
  """
  @spec save(t, Path.t()) :: :ok | {:error, Error.t()}
  def save(program, path) do
    with :ok <- check(program, path),
         {:error, reason} <- write(path, encode(program)),
         do: {:error, file_error(path, "cannot be written: #{:file.format_error(reason)}")}
  end

  @doc """
  Reads the program in a file.

  The names of fields are atoms or strings, as they were in the signature. Atoms that this node
  does not know yet are not made unless told, since atoms are never freed.

  #{Options.docs(:program_load)}
  """
  @spec load(Path.t(), keyword) :: {:ok, t} | {:error, Error.t()}
  def load(path, options \\ []) do
    options = Options.validate!(options, :program_load)

    with {:ok, content} <- read(path, options.max_bytes),
         {:ok, body} <- body(content, path),
         {:ok, program} <- decode(body, path, options.safe),
         :ok <- check(program, path),
         do: {:ok, program}
  end

  @doc """
  What a program is, in a small map.

      iex> ErlBridge.Program.summary(%{
      ...>   format: 2,
      ...>   module: :predict,
      ...>   signature: %{
      ...>     instructions: "Answer.",
      ...>     input_fields: [%{name: :question, type: :str}],
      ...>     output_fields: [%{name: :answer, type: :float}]
      ...>   },
      ...>   predictors: [
      ...>     %{
      ...>       name: "self",
      ...>       instructions: nil,
      ...>       demos: [%{question: "2+2", answer: 4.0, augmented: true}, %{question: "1+1", answer: 2.0}]
      ...>     }
      ...>   ],
      ...>   versions: %{dspy: "3.4.1", erl_bridge: "0.1.0"},
      ...>   score: 0.5,
      ...>   metric: "exact_match"
      ...> })
      %{
        signature: "question -> answer: float",
        instructions: "Answer.",
        module: :predict,
        predictors: ["self"],
        demos: 2,
        augmented: 1,
        score: 0.5,
        metric: "exact_match",
        versions: %{dspy: "3.4.1", erl_bridge: "0.1.0"}
      }

  `demos` are those of all predictors; `augmented` is how many of them a language model made, the
  others are rows. `instructions` are those of the signature.
  """
  @spec summary(t) :: summary
  def summary(program) do
    signature = Signature.from_map(program)
    predictors = get(program, :predictors)
    demos = Enum.flat_map(predictors, &get(&1, :demos))

    %{
      signature: Signature.notation(signature),
      instructions: signature.instructions,
      module: module_name(get(program, :module)),
      predictors: Enum.map(predictors, &get(&1, :name)),
      demos: length(demos),
      augmented: Enum.count(demos, &get(&1, :augmented)),
      score: get(program, :score),
      metric: get(program, :metric),
      versions: get(program, :versions) || %{}
    }
  end

  defp module_name(%{} = module), do: get(module, :name)
  defp module_name(name), do: name

  @doc """
  What the second of two programs has otherwise than the first; see `ErlBridge.Program.Diff`.

  A signature stands for a program without demonstrations: `diff(signature, program)` is what an
  optimizer did.
  """
  @spec diff(t | Signature.t() | map, t | Signature.t() | map) :: Diff.t()
  defdelegate diff(a, b), to: Diff, as: :between

  # For the modules beside this one: under the name as an atom or, as after JSON, as a string.
  @doc false
  @spec get(map, atom) :: term
  def get(map, key), do: Map.get_lazy(map, key, fn -> Map.get(map, to_string(key)) end)

  # Writing

  defp encode(program) do
    body = :erlang.term_to_binary(program, [:deterministic])
    [@magic, "#{@version} sha256:#{digest(body)}\n", body]
  end

  defp write(path, content) do
    new = "#{path}.#{System.pid()}-#{System.unique_integer([:positive])}.new"

    with :ok <- File.mkdir_p(Path.dirname(path)),
         {:ok, file} <- :file.open(new, [:write, :raw, :binary, :exclusive]) do
      written = write_to_disk(file, content)
      :file.close(file)

      with :ok <- written, :ok <- File.rename(new, path) do
        :ok
      else
        error ->
          File.rm(new)
          error
      end
    end
  end

  defp write_to_disk(file, content) do
    with :ok <- :file.write(file, content), do: :file.sync(file)
  end

  # Reading

  defp read(path, limit) do
    with {:ok, %File.Stat{type: :regular, size: size}} when size <= limit <- File.stat(path),
         {:ok, content} <- File.read(path) do
      {:ok, content}
    else
      {:ok, %File.Stat{type: :regular, size: size}} ->
        {:error, file_error(path, "#{size} bytes are more than the #{limit} of :max_bytes")}

      {:ok, %File.Stat{type: type}} ->
        {:error, file_error(path, "expected a file, got a #{type}")}

      {:error, reason} ->
        {:error, file_error(path, "cannot be read: #{:file.format_error(reason)}")}
    end
  end

  defp body(@magic <> rest, path) do
    with [header, body] <- :binary.split(rest, "\n"),
         [version, "sha256:" <> digest] <- String.split(header, " "),
         {@version, ""} <- Integer.parse(version) do
      if digest(body) == digest,
        do: {:ok, body},
        else:
          {:error,
           file_error(path, "damaged: its content does not have the SHA-256 of its first line")}
    else
      {newer, ""} when newer > @version ->
        {:error,
         file_error(
           path,
           "written by a newer erl_bridge, in version #{newer} of the format; this one reads #{@version}: update it"
         )}

      _cut_off ->
        {:error, file_error(path, "damaged: its first line is not whole")}
    end
  end

  defp body(_foreign, path),
    do: {:error, file_error(path, "no program: expected what ErlBridge.Program.save/2 writes")}

  # What is compressed could be far larger than the file.
  defp decode(<<131, 80, _compressed::binary>>, path, _safe),
    do: {:error, file_error(path, "no program: it is compressed, which save/2 does not do")}

  defp decode(body, path, safe) do
    Vocabulary.atoms()
    {:ok, :erlang.binary_to_term(body, if(safe, do: [:safe], else: []))}
  rescue
    ArgumentError -> {:error, file_error(path, undecodable(safe))}
  end

  defp undecodable(true) do
    "it has atoms that this node does not know yet, as the names of its fields are: load the module that names them " <>
      "before (Code.ensure_loaded!/1), or if you trust the file, load it with `safe: false`"
  end

  defp undecodable(false), do: "no program: its content is no term"

  # Both ways, so what is saved can be loaded.
  defp check(program, path) do
    cond do
      not is_map(program) or is_struct(program) ->
        {:error,
         file_error(path, "expected a program, a map, got: #{inspect(program, limit: 5)}")}

      part = Enum.find(@parts, fn {key, kind} -> not kind?(kind, get(program, key)) end) ->
        {:error, file_error(path, not_whole(part, program))}

      get(program, :format) != @format ->
        {:error, file_error(path, other_format(program))}

      not data?(program) ->
        {:error,
         file_error(path, "a function, process, port or reference has no place in a program")}

      true ->
        :ok
    end
  end

  defp not_whole({key, kind}, program) do
    got = inspect(get(program, key), limit: 5, printable_limit: 80)
    "expected a program, whose #{key} is a #{kind}, got: #{got}"
  end

  defp kind?(:number, value), do: is_integer(value)
  defp kind?(:map, value), do: is_map(value)
  defp kind?(:list, value), do: is_list(value)

  defp other_format(program) do
    versions = for {name, version} <- get(program, :versions) || %{}, do: "#{name} #{version}"
    maker = versions |> Enum.sort() |> Enum.join(", ")

    "expected a program of format #{@format}, got #{inspect(get(program, :format))}, made by #{maker}: " <>
      "use it with that version, or optimize anew"
  end

  defp data?(term) when is_map(term), do: term |> :maps.to_list() |> data?()
  defp data?(term) when is_tuple(term), do: term |> Tuple.to_list() |> data?()
  defp data?([head | tail]), do: data?(head) and data?(tail)

  defp data?(term),
    do: not (is_function(term) or is_pid(term) or is_port(term) or is_reference(term))

  defp file_error(path, what), do: Error.invalid("#{path}: #{what}", %{path: path})

  defp digest(body), do: Base.encode16(:crypto.hash(:sha256, body), case: :lower)
end
