defmodule ErlBridge.SignatureTest do
  use ExUnit.Case, async: true
  doctest ErlBridge.Signature

  alias ErlBridge.{Payload, Signature}

  @signature Signature.new(
               inputs: [
                 :text,
                 Signature.field(:notes, {:optional, {:list, :str}}, "from the agent")
               ],
               outputs: [counts: {:dict, :str, :int}, queue: {:literal, [:"it's", 2]}],
               instructions: "Sort the ticket."
             )
  @map %{
    input_fields: [
      %{name: :text, type: :str},
      %{name: :notes, type: {:optional, {:list, :str}}, description: "from the agent"}
    ],
    output_fields: [
      %{name: :counts, type: {:dict, :str, :int}},
      %{name: :queue, type: {:literal, [:"it's", 2]}}
    ],
    instructions: "Sort the ticket."
  }

  test "it is the plain map of the protocol, there and back" do
    assert Signature.to_map(@signature) == @map
    assert Signature.from_map(@map) == @signature
    assert Signature.from_map(@signature) == @signature
    assert Signature.from_map(%{signature: @map, demos: []}) == @signature
  end

  test "payloads have the plain map, wherever a signature is taken" do
    assert %{signature: @map} = Payload.optimize(@signature, [], %{})
    assert %{signature: @map} = Payload.evaluate(@signature, [], %{})
    assert %{signature: @map} = payload = Payload.predict(@signature, %{}, %{})
    refute is_struct(payload.signature)
  end

  test "the notation shows each type" do
    assert Signature.notation(@signature) ==
             ~S(text, notes: Optional[list[str]] -> counts: dict[str, int], queue: Literal['it\'s', 2])

    assert Signature.notation(Signature.new(inputs: [q: :any], outputs: [{"a", "float"}])) ==
             "q: Any -> a: float"
  end

  test "maps in types are fields, with descriptions or short" do
    people =
      {:list, {:map, [Signature.field(:name, :str, "the full name"), age: {:optional, :int}]}}

    signature = Signature.new(inputs: [photo: :image, on: :date], outputs: [people: people])

    assert [%{type: {:list, {:map, [%{name: :name, description: _}, %{name: :age}]}}}] =
             signature.output_fields

    assert Signature.notation(signature) ==
             "photo: Image, on: date -> people: list[{name: str, age: Optional[int]}]"

    assert Signature.from_map(Signature.to_map(signature)) == signature

    assert Signature.notation(Signature.new(inputs: [:q], outputs: [c: {:code, :elixir}])) ==
             "q -> c: Code['elixir']"
  end

  test "what is no field, no name and no text is refused" do
    for {options, message} <- [
          {[inputs: :q, outputs: [:a]],
           "expected :inputs to be a list of at least one field, got: :q"},
          {[inputs: [:q]], "expected :outputs to be a list of at least one field, got: nil"},
          {[inputs: [5], outputs: [:a]],
           "expected a field's name to be an atom or a string, got: 5"},
          {[inputs: [%{name: :q, kind: :str}], outputs: [:a]],
           "a field has no :kind, only :name, :type, :description"},
          {[inputs: [%{type: :str}], outputs: [:a]],
           "expected a field's name to be an atom or a string, got: nil"},
          {[inputs: [:q], outputs: [:a], instructions: :no],
           "expected :instructions to be a string, got: :no"},
          {[input: [:q]],
           "unknown option :input. The options are :inputs, :outputs, :instructions"}
        ] do
      assert_raise ArgumentError, message, fn -> Signature.new(options) end
    end

    assert_raise ArgumentError, "expected the description of :q to be a string, got: 1", fn ->
      Signature.field(:q, :str, 1)
    end
  end
end
