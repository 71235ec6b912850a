defmodule ErlBridge.Program.Diff do
  @moduledoc """
  What one program has otherwise than another, as plain data: only what differs is in the map, so
  that of equal programs is empty.

    * `:module`, `:instructions`, `:score`, `:metric` - the pair of both values
    * `:input_fields`, `:output_fields` - the pair of both lists of fields
    * `:demos` - the demonstrations `added` and `removed`; their order does not count

  What the versions are, and the fingerprint that follows from the rest, is not compared.

      iex> alias ErlBridge.{Program, Signature}
      iex> before = Signature.new(inputs: [:q], outputs: [:a], instructions: "Answer.")
      iex> signature = %{Signature.to_map(before) | instructions: "Answer in one word."}
      iex> program = %{format: 1, module: :predict, signature: signature, demos: [%{q: "2+2", a: "four"}]}
      iex> diff = Program.diff(before, program)
      %{
        instructions: {"Answer.", "Answer in one word."},
        demos: %{added: [%{q: "2+2", a: "four"}], removed: []}
      }
      iex> Program.Diff.text(diff)
      \"""
      instructions: "Answer." -> "Answer in one word."
      demos: 1 added, 0 removed
        + a: "four", q: "2+2"
      \"""
  """

  alias ErlBridge.{Program, Signature}

  @type change :: {before :: term, later :: term}

  @type t :: %{
          optional(:module) => change,
          optional(:instructions) => change,
          optional(:input_fields) => change,
          optional(:output_fields) => change,
          optional(:score) => change,
          optional(:metric) => change,
          optional(:demos) => %{added: [map], removed: [map]}
        }

  @values [:module, :instructions, :input_fields, :output_fields, :score, :metric]
  @shown 160

  @doc "What `later` has otherwise than `before`. Each is a program or a signature."
  @spec between(Program.t() | Signature.t() | map, Program.t() | Signature.t() | map) :: t
  def between(before, later) do
    {before, later} = {facts(before), facts(later)}

    for key <- @values,
        known?(before, later, key),
        before[key] != later[key],
        into: demos(before, later) do
      {key, {before[key], later[key]}}
    end
  end

  @doc "A diff as lines for people; long values are cut."
  @spec text(t) :: String.t()
  def text(diff) when diff == %{}, do: "no difference\n"

  def text(diff) do
    values = for key <- @values, change = diff[key], do: "#{key}: #{pair(change)}\n"
    Enum.join(values) <> demos_text(diff[:demos])
  end

  # A signature says nothing of a module or a score, so there is nothing to compare.
  defp known?(before, later, key), do: is_map_key(before, key) and is_map_key(later, key)

  defp facts(target) do
    signature = target |> Signature.from_map() |> Map.from_struct()
    Map.merge(signature, made(target, Program.get(target, :demos)))
  end

  defp made(_signature, nil), do: %{demos: []}

  defp made(program, _demos),
    do: Map.new([:module, :score, :metric, :demos], &{&1, Program.get(program, &1)})

  defp demos(before, later) do
    case %{added: later.demos -- before.demos, removed: before.demos -- later.demos} do
      %{added: [], removed: []} -> %{}
      changed -> %{demos: changed}
    end
  end

  defp pair({before, later}), do: "#{shown(before)} -> #{shown(later)}"

  defp demos_text(nil), do: ""

  defp demos_text(%{added: added, removed: removed}) do
    lines =
      for {sign, demos} <- [{"-", removed}, {"+", added}],
          demo <- demos,
          do: "  #{sign} #{shown(demo)}\n"

    "demos: #{length(added)} added, #{length(removed)} removed\n#{Enum.join(lines)}"
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
