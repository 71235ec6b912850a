defmodule ErlBridge.ProtocolTest do
  use ExUnit.Case, async: true
  doctest ErlBridge.Protocol
  doctest ErlBridge.Vocabulary

  alias ErlBridge.{Error, Protocol}

  describe "a request" do
    test "is encoded in one piece where it is short, and a large binary in it is not copied" do
      assert is_binary(Protocol.encode(:ping, %{text: String.duplicate("x", 1_000)}))

      large = String.duplicate("x", 100_000)
      assert [_before, ^large | _after] = Protocol.encode(:ping, %{text: large})
    end

    test "is a map of four keys with the id put in later" do
      request = decode(Protocol.frame(77_777, body(:embed, %{texts: ["a"]}, %{timeout_ms: 5})))

      assert %{
               message_id: 77_777,
               request_type: :embed,
               payload: %{texts: ["a"]},
               metadata: %{timeout_ms: 5}
             } = request

      assert map_size(request) == 4
    end

    test "says how long is left as any other metadata" do
      for left <- [1, 255, 256, 30_000, 0x7FFFFFFF, 0x80000000] do
        metadata = %{timeout_ms: left}
        assert decode(Protocol.frame(256, body(:ping, %{}, metadata))).metadata == metadata

        <<131, written::binary>> = :erlang.term_to_binary(metadata)
        assert [_key, ^written | _encoded] = body(:ping, %{}, metadata)
      end
    end

    test "carries the first and the last id" do
      for id <- [Protocol.first_id(), 0x7FFFFFFF] do
        assert decode(Protocol.frame(id, body(:ping, %{}))).message_id == id
      end

      assert Protocol.next_id(0x7FFFFFFF) == Protocol.first_id()
    end

    test "refers to a large binary rather than copying it" do
      large = :binary.copy("x", 100_000)

      assert Enum.any?(body(:ping, %{large: large}), &(&1 == large))
    end

    test "knows the size of its frame" do
      body = body(:ping, %{list: Enum.to_list(1..1000)})
      assert Protocol.frame_size(body) == IO.iodata_length(Protocol.frame(999, body))
    end
  end

  # Every kind of frame, in every way the external term format has to write its head.
  @frames [
    {{:ok, 256, [1, 2]}, {:final, 256}},
    {{:ok, 0x7FFFFFFF, nil}, {:final, 0x7FFFFFFF}},
    {{:error, 300, %{error_type: :cancelled, message: "m"}}, {:final, 300}},
    {{:event, 300, %{kind: :progress}}, {:event, 300}},
    {{:call, 1, 300, :score, [1]}, {:call, 1, 300}},
    {{:call, 256, 300, "score", []}, {:call, 256, 300}},
    {{:call, "c-1", 300, "score", []}, {:call, "c-1", 300}},
    {{:ok, 7, nil}, {:final, 7}},
    {{:ok, 300}, :unreadable},
    {{:hello, %{}}, :unreadable}
  ]

  for {message, glimpse} <- @frames, version <- [1, 2] do
    test "peek at #{inspect(message)}, written by minor version #{version}" do
      frame =
        :erlang.term_to_binary(unquote(Macro.escape(message)), minor_version: unquote(version))

      assert Protocol.peek(frame) == unquote(Macro.escape(glimpse))
    end
  end

  test "peek at a compressed frame" do
    frame = :erlang.term_to_binary({:ok, 300, List.duplicate("same", 500)}, [:compressed])
    assert <<131, 80, _rest::binary>> = frame
    assert Protocol.peek(frame) == {:final, 300}
  end

  test "peek at the answer to a frame that was no request" do
    wire = %{error_type: :serialization_error, message: "no term"}

    assert {:refused, %Error{type: :serialization_error, message: "no term"}} =
             Protocol.peek(:erlang.term_to_binary({:error, nil, wire}))
  end

  test "every prefix of a frame is unreadable or rightly recognized" do
    frame = :erlang.term_to_binary({:ok, 300, %{a: [1, 2.5, "text"]}})

    for size <- 0..(byte_size(frame) - 1) do
      prefix = binary_part(frame, 0, size)
      assert Protocol.peek(prefix) in [:unreadable, {:final, 300}]
      assert {:error, %Error{type: :serialization_error}} = Protocol.decode(prefix)
    end
  end

  test "atoms that do not exist here are not made" do
    name = "no_such_atom_#{System.unique_integer([:positive])}"
    frame = <<131, 104, 3, 119, 2, "ok", 98, 300::32, 119, byte_size(name), name::binary>>

    assert {:error, %Error{type: :serialization_error}} = Protocol.decode(frame)
    assert_raise ArgumentError, fn -> String.to_existing_atom(name) end
  end

  test "what is no message of the protocol is refused with what it is" do
    assert {:error, error} = Protocol.decode(:erlang.term_to_binary({:surprise, 1}))
    assert Exception.message(error) =~ "expected a message of the protocol, got: {:surprise, 1}"
  end

  defp body(type, payload, metadata \\ %{}),
    do: Protocol.body(Protocol.encode(type, payload), metadata)

  defp decode(iodata), do: :erlang.binary_to_term(IO.iodata_to_binary(iodata))
end
