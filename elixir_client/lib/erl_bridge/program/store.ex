defmodule ErlBridge.Program.Store do
  @moduledoc """
  A folder that keeps the versions of programs, so that a worse one can be rolled back.

      folder = "/var/lib/my_app/programs"

      {:ok, %{program: program}} = ErlBridge.optimize(bridge, signature, rows, lm: lm)
      {:ok, 2} = ErlBridge.Program.Store.put(folder, "tickets", program, keep: 10)

      # in production, at each start or now and then
      {:ok, program} = ErlBridge.Program.Store.get(folder, "tickets")

      # it was better before
      {:ok, 1} = ErlBridge.Program.Store.rollback(folder, "tickets")

  What an optimizer changed between two versions:

      {:ok, old} = ErlBridge.Program.Store.get(folder, "tickets", version: 1)
      {:ok, new} = ErlBridge.Program.Store.get(folder, "tickets", version: 2)
      old |> ErlBridge.Program.diff(new) |> ErlBridge.Program.Diff.text() |> IO.puts()

  Each version is a file of `ErlBridge.Program.save/2`, `tickets/000002.program`, and never changes;
  `tickets/current` says which is in use. So the folder can be copied to another host, kept in
  version control, or shared: several processes and hosts may put versions at once, and each gets a
  number of its own.
  """

  alias ErlBridge.{Error, Options, Program}

  @typedoc "What is known of a version without its demonstrations."
  @type version :: %{
          version: pos_integer,
          current: boolean,
          fingerprint: String.t() | nil,
          score: float | nil,
          metric: term,
          scored_on: map | nil,
          saved_at: DateTime.t()
        }

  @name ~r/\A[A-Za-z0-9][A-Za-z0-9._-]{0,127}\z/
  @suffix ".program"

  @doc """
  Keeps a program as a new version and makes it the current one; gives its number.

  A program that is the current one already is not kept twice.

  #{Options.docs(:program_put)}
  """
  @spec put(Path.t(), String.t(), Program.t(), keyword) ::
          {:ok, pos_integer} | {:error, Error.t()}
  def put(folder, name, program, options \\ []) do
    options = Options.validate!(options, :program_put)

    with {:ok, place} <- place(folder, name) do
      with {:ok, number} <- current(place), true <- same?(place, number, program) do
        {:ok, number}
      else
        _another_or_none_yet -> add(place, program, options)
      end
    end
  end

  @doc """
  The current version of a program, or another one.

  #{Options.docs(:program_get)}
  """
  @spec get(Path.t(), String.t(), keyword) :: {:ok, Program.t()} | {:error, Error.t()}
  def get(folder, name, options \\ []) do
    options = Options.validate!(options, :program_get)

    with {:ok, place} <- place(folder, name),
         {:ok, number} <- chosen(place, options[:version]),
         do: Program.load(path(place, number), safe: options.safe)
  end

  @doc "The names of all programs in a folder."
  @spec list(Path.t()) :: {:ok, [String.t()]} | {:error, Error.t()}
  def list(folder) do
    case File.ls(folder) do
      {:ok, names} ->
        {:ok, names |> Enum.filter(&(numbers(Path.join(folder, &1)) != [])) |> Enum.sort()}

      {:error, :enoent} ->
        {:ok, []}

      {:error, reason} ->
        {:error, unreadable(folder, reason)}
    end
  end

  @doc """
  The versions of a program, the newest first.

  #{Options.docs(:program_versions)}
  """
  @spec versions(Path.t(), String.t(), keyword) :: {:ok, [version]} | {:error, Error.t()}
  def versions(folder, name, options \\ []) do
    %{safe: safe} = Options.validate!(options, :program_versions)

    with {:ok, place} <- place(folder, name),
         {:ok, current} <- current(place) do
      described =
        for number <- numbers(place), do: describe(place, number, number == current, safe)

      Enum.find(described, &match?({:error, _error}, &1)) ||
        {:ok, described |> Enum.map(&elem(&1, 1)) |> Enum.reverse()}
    end
  end

  @doc """
  Makes the version before the current one the current one, or the one of `:to`; gives its number.

  Nothing is removed: `rollback(folder, name, to: newest)` undoes it.

  #{Options.docs(:program_rollback)}
  """
  @spec rollback(Path.t(), String.t(), keyword) :: {:ok, pos_integer} | {:error, Error.t()}
  def rollback(folder, name, options \\ []) do
    options = Options.validate!(options, :program_rollback)

    with {:ok, place} <- place(folder, name),
         {:ok, number} <- target(place, options[:to]),
         :ok <- make_current(place, number),
         do: {:ok, number}
  end

  # Numbers

  defp place(folder, name) do
    if is_binary(name) and name =~ @name do
      {:ok, Path.join(folder, name)}
    else
      expected = "a program's name of letters, digits, \".\", \"_\" and \"-\""
      {:error, Error.invalid("expected #{expected}, got: #{inspect(name)}", %{})}
    end
  end

  defp path(place, number),
    do: Path.join(place, String.pad_leading("#{number}", 6, "0") <> @suffix)

  defp numbers(place) do
    case File.ls(place) do
      {:ok, files} ->
        for(file <- files, {number, @suffix} <- [Integer.parse(file)], do: number) |> Enum.sort()

      {:error, _reason} ->
        []
    end
  end

  # A version that is gone, by hand perhaps, is not current: then it is the newest.
  defp current(place) do
    known = numbers(place)

    with {:ok, text} <- File.read(Path.join(place, "current")),
         {number, _rest} <- Integer.parse(text),
         true <- number in known do
      {:ok, number}
    else
      _not_said -> newest(place, known)
    end
  end

  defp newest(place, []), do: {:error, invalid(place, "there is no program of that name")}
  defp newest(_place, known), do: {:ok, List.last(known)}

  defp chosen(place, nil), do: current(place)

  defp chosen(place, number) do
    known = numbers(place)

    if number in known,
      do: {:ok, number},
      else: {:error, invalid(place, "there is no version #{number}, only #{listed(known)}")}
  end

  defp target(place, nil) do
    with {:ok, current} <- current(place) do
      case place |> numbers() |> Enum.filter(&(&1 < current)) |> List.last() do
        nil -> {:error, invalid(place, "there is no version before #{current}")}
        number -> {:ok, number}
      end
    end
  end

  defp target(place, number), do: chosen(place, number)

  # Files

  # Whoever asks for the current version finds it whole at any time.
  defp add(place, program, options) do
    new = Path.join(place, "new-#{System.pid()}-#{System.unique_integer([:positive])}")

    try do
      with :ok <- Program.save(program, new),
           {:ok, number} <- link(place, new, List.last([0 | numbers(place)]) + 1),
           :ok <- make_current(place, number) do
        drop_oldest(place, number, options[:keep])
        {:ok, number}
      end
    after
      File.rm(new)
    end
  end

  # The first number that nobody else has: a link is made or not, in one step.
  defp link(place, new, number) do
    case File.ln(new, path(place, number)) do
      :ok -> {:ok, number}
      {:error, :eexist} -> link(place, new, number + 1)
      {:error, reason} -> {:error, unwritable(path(place, number), reason)}
    end
  end

  defp make_current(place, number) do
    new = Path.join(place, "current-#{System.pid()}-#{System.unique_integer([:positive])}")

    with :ok <- File.write(new, "#{number}\n"),
         :ok <- File.rename(new, Path.join(place, "current")) do
      :ok
    else
      {:error, reason} ->
        File.rm(new)
        {:error, unwritable(Path.join(place, "current"), reason)}
    end
  end

  defp drop_oldest(_place, _current, nil), do: :ok

  defp drop_oldest(place, current, keep) do
    place
    |> numbers()
    |> Enum.drop(-keep)
    |> Enum.reject(&(&1 == current))
    |> Enum.each(&File.rm(path(place, &1)))
  end

  defp same?(place, number, program),
    do: match?({:ok, ^program}, Program.load(path(place, number)))

  defp describe(place, number, current?, safe) do
    file = path(place, number)

    with {:ok, program} <- Program.load(file, safe: safe),
         {:ok, %File.Stat{mtime: seconds}} <- File.stat(file, time: :posix) do
      known =
        Map.new([:fingerprint, :score, :metric, :scored_on], &{&1, Program.get(program, &1)})

      {:ok,
       Map.merge(known, %{
         version: number,
         current: current?,
         saved_at: DateTime.from_unix!(seconds)
       })}
    end
  end

  defp listed(numbers), do: Enum.map_join(numbers, ", ", &to_string/1)

  defp invalid(place, what), do: Error.invalid("#{place}: #{what}", %{path: place})

  defp unreadable(path, reason),
    do: invalid(path, "cannot be read: #{:file.format_error(reason)}")

  defp unwritable(path, reason),
    do: invalid(path, "cannot be written: #{:file.format_error(reason)}")
end
