defmodule ErlBridge.Program.Diff do
  @moduledoc """
  What one program has otherwise than another, as plain data: only what differs is in the map, so
  that of equal programs is empty.

    * `:module`, `:instructions`, `:score`, `:metric`, `:scored_on` - the pair of both values
    * `:input_fields`, `:output_fields` - the pair of both lists of fields
    * `:predictors` - by the name of each predictor that differs, the pair of its `:instructions`,
      and its `:demos`: those `added` and `removed`, whatever their order

  A predictor that has no instructions of its own has those of the signature. What the versions
  are, and the fingerprint that follows from the rest, is not compared.

      iex> alias ErlBridge.{Program, Signature}
      iex> before = Signature.new(inputs: [:q], outputs: [:a], instructions: "Answer.")
      iex> learned = %{name: "self", instructions: "In one word.", demos: [%{q: "2+2", a: "four"}]}
      iex> program = %{format: 2, module: :predict, signature: Signature.to_map(before), predictors: [learned]}
      iex> diff = Program.diff(before, program)
      %{
        predictors: %{
          "self" => %{
            instructions: {"Answer.", "In one word."},
            demos: %{added: [%{q: "2+2", a: "four"}], removed: []}
          }
        }
      }
      iex> Program.Diff.text(diff)
      \"""
      self: instructions: "Answer." -> "In one word."
      self: demos: 1 added, 0 removed
        + a: "four", q: "2+2"
      \"""
  """

  alias ErlBridge.{Program, Signature}

  @type change :: {before :: term, later :: term}

  @type learned :: %{
          optional(:instructions) => change,
          optional(:demos) => %{added: [map], removed: [map]}
        }

  @type t :: %{
          optional(:module) => change,
          optional(:instructions) => change,
          optional(:input_fields) => change,
          optional(:output_fields) => change,
          optional(:score) => change,
          optional(:metric) => change,
          optional(:scored_on) => change,
          optional(:predictors) => %{String.t() => learned}
        }

  @values [:module, :instructions, :input_fields, :output_fields, :score, :metric, :scored_on]
  @shown 160

  @doc "What `later` has otherwise than `before`. Each is a program or a signature."
  @spec between(Program.t() | Signature.t() | map, Program.t() | Signature.t() | map) :: t
  def between(before, later) do
    {before, later} = {facts(before), facts(later)}

    for key <- @values,
        known?(before, later, key),
        before[key] != later[key],
        into: predictors(before, later) do
      {key, {before[key], later[key]}}
    end
  end

  @doc "A diff as lines for people; long values are cut."
  @spec text(t) :: String.t()
  def text(diff) when diff == %{}, do: "no difference\n"

  def text(diff) do
    values = for key <- @values, change = diff[key], do: "#{key}: #{pair(change)}\n"
    learned = diff |> Map.get(:predictors, %{}) |> Enum.sort() |> Enum.map(&learned_text/1)
    Enum.join(values ++ learned)
  end

  # A signature says nothing of a module or a score, so there is nothing to compare.
  defp known?(before, later, key), do: is_map_key(before, key) and is_map_key(later, key)

  defp facts(target) do
    signature = target |> Signature.from_map() |> Map.from_struct()
    Map.merge(signature, made(target, Program.get(target, :predictors)))
  end

  defp made(_signature, nil), do: %{predictors: []}

  defp made(program, predictors) do
    [:module, :score, :metric, :scored_on]
    |> Map.new(&{&1, Program.get(program, &1)})
    |> Map.put(:predictors, predictors)
  end

  defp predictors(before, later) do
    {old, new} = {learned(before), learned(later)}

    changed =
      for name <- Enum.uniq(Map.keys(old) ++ Map.keys(new)),
          change = change(old[name] || untaught(before), new[name] || untaught(later)),
          change != %{},
          into: %{},
          do: {name, change}

    if changed == %{}, do: %{}, else: %{predictors: changed}
  end

  defp learned(facts) do
    Map.new(facts.predictors, fn predictor ->
      instructions = Program.get(predictor, :instructions) || facts.instructions
      {Program.get(predictor, :name), {instructions, Program.get(predictor, :demos)}}
    end)
  end

  defp untaught(facts), do: {facts.instructions, []}

  defp change({told, demos}, {now_told, now_demos}) do
    told = if told == now_told, do: %{}, else: %{instructions: {told, now_told}}

    case %{added: now_demos -- demos, removed: demos -- now_demos} do
      %{added: [], removed: []} -> told
      changed -> Map.put(told, :demos, changed)
    end
  end

  defp pair({before, later}), do: "#{shown(before)} -> #{shown(later)}"

  defp learned_text({name, change}) do
    told = if pair = change[:instructions], do: "#{name}: instructions: #{pair(pair)}\n"
    "#{told}#{demos_text(name, change[:demos])}"
  end

  defp demos_text(_name, nil), do: ""

  defp demos_text(name, %{added: added, removed: removed}) do
    lines =
      for {sign, demos} <- [{"-", removed}, {"+", added}],
          demo <- demos,
          do: "  #{sign} #{shown(demo)}\n"

    "#{name}: demos: #{length(added)} added, #{length(removed)} removed\n#{Enum.join(lines)}"
  end

  # A demonstration, by name: a map has an order of its own in each version of OTP.
  defp shown(%{} = demo) when not is_struct(demo) do
    demo
    |> Enum.map(fn {name, value} ->
      "#{name}: #{inspect(value, limit: 20, printable_limit: @shown)}"
    end)
    |> Enum.sort()
    |> Enum.join(", ")
    |> cut()
  end

  defp shown(value), do: value |> inspect(limit: 20, printable_limit: @shown) |> cut()

  defp cut(text) do
    if String.length(text) > @shown, do: String.slice(text, 0, @shown - 3) <> "...", else: text
  end
end
