defmodule ErlBridge.Testing.Model do
  @moduledoc """
  Between a function from inputs to outputs and what DSPy says to a language model:
  `ErlBridge.Testing.model/1`.

  Rule of this file: it reads the prompts that DSPy's `ChatAdapter` writes, fields under `[[ ##
  name ## ]]`, and answers in that form.

      iex> question = "[[ ## question ## ]]\\n2+2?\\n\\nRespond with the corresponding output fields, " <>
      ...>   "starting with the field `[[ ## answer ## ]]`, and then ending with the marker for `[[ ## completed ## ]]`."
      iex> {%{"question" => "2+2?"}, ["answer"]} = ErlBridge.Testing.Model.read(question)
      iex> ErlBridge.Testing.Model.write(%{answer: [4, "four", nil]}, ["answer"])
      ~s([[ ## answer ## ]]\\n[4, "four", null]\\n\\n[[ ## completed ## ]])
  """

  @header ~r/^\[\[ ## (\w+) ## \]\]\s*$/m
  @request ~r/\n\nRespond with the corresponding output fields, starting with the field /
  @wanted ~r/`\[\[ ## (\w+) ## \]\]`/
  @completed "completed"

  @type inputs :: %{String.t() => String.t()}
  @type outputs :: %{optional(atom | String.t()) => term}

  @doc "The model: a function as `ErlBridge.predict/4` takes it as `:lm`."
  @spec new((inputs -> outputs) | (inputs, [String.t()] -> outputs)) ::
          (map -> String.t() | Enumerable.t())
  def new(fun) do
    fn request ->
      {inputs, wanted} = request.messages |> List.last() |> text() |> read()
      text = inputs |> answer(wanted, fun) |> write(wanted)
      if request[:stream], do: words(text), else: text
    end
  end

  defp answer(inputs, _wanted, fun) when is_function(fun, 1), do: fun.(inputs)
  defp answer(inputs, wanted, fun) when is_function(fun, 2), do: fun.(inputs, wanted)

  defp words(text), do: ~r/(?<=\s)/ |> Regex.split(text) |> Stream.map(& &1)

  # The content of a message with media is a list of its parts.
  defp text(%{"content" => parts}) when is_list(parts),
    do: for(%{"type" => "text", "text" => text} <- parts, into: "", do: text)

  defp text(%{"content" => text}), do: text

  @doc "The fields in a user's message, of two with one name the first, and the names of those that are asked for."
  @spec read(String.t()) :: {inputs, [String.t()]}
  def read(message) do
    [asked | request] = Regex.split(@request, message)

    wanted =
      for [_all, name] <- Regex.scan(@wanted, Enum.join(request)), name != @completed, do: name

    fields =
      asked
      |> String.split(@header, include_captures: true, trim: true)
      |> Enum.chunk_every(2)
      |> Enum.reverse()

    {for([header, value] <- fields, into: %{}, do: {name(header), String.trim(value)}), wanted}
  end

  defp name(header), do: @header |> Regex.run(header) |> List.last()

  @doc "The outputs as DSPy reads them. Raises `ArgumentError` where one of those asked for is not there."
  @spec write(outputs, [String.t()]) :: String.t()
  def write(outputs, wanted) do
    given = Map.new(outputs, fn {name, value} -> {to_string(name), value} end)

    sections =
      for name <- wanted do
        with :error <- Map.fetch(given, name) do
          raise ArgumentError,
                "the model was asked for #{Enum.join(wanted, ", ")}, and its function gave " <>
                  if(given == %{}, do: "nothing", else: Enum.join(Map.keys(given), ", "))
        end

        "[[ ## #{name} ## ]]\n#{plain(given[name])}\n\n"
      end

    "#{sections}[[ ## #{@completed} ## ]]"
  end

  defp plain(text) when is_binary(text), do: text
  defp plain(atom) when is_atom(atom) and atom not in [nil, true, false], do: Atom.to_string(atom)
  defp plain(struct) when is_struct(struct), do: to_string(struct)
  defp plain(value), do: json(value)

  defp json(nil), do: "null"
  defp json(value) when is_number(value) or is_boolean(value), do: to_string(value)
  defp json(list) when is_list(list), do: "[#{Enum.map_join(list, ", ", &json/1)}]"

  defp json(map) when is_map(map) and not is_struct(map) do
    "{#{Enum.map_join(map, ", ", fn {key, value} -> "#{json(to_string(key))}: #{json(value)}" end)}}"
  end

  defp json(value), do: ~s("#{value |> to_string() |> escape()}")

  defp escape(text) do
    String.replace(text, ~r/["\\\x00-\x1f]/, fn
      <<char>> when char in [?", ?\\] -> <<?\\, char>>
      <<char>> -> "\\u" <> String.pad_leading(Integer.to_string(char, 16), 4, "0")
    end)
  end
end
