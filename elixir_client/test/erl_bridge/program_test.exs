defmodule ErlBridge.ProgramTest do
  use ExUnit.Case, async: true
  doctest ErlBridge.Program
  doctest ErlBridge.Program.Diff

  alias ErlBridge.{Error, Program, Signature}

  @moduletag :tmp_dir

  @program %{
    format: 2,
    module: :predict,
    signature:
      Signature.to_map(Signature.new(inputs: [:q], outputs: [:a], instructions: "Answer.")),
    predictors: [
      %{
        name: "self",
        instructions: nil,
        demos: [%{q: "2+2", a: "4", augmented: true}, %{q: "1+1", a: "2"}]
      }
    ],
    versions: %{dspy: "3.4.1", erl_bridge: "0.1.0"},
    fingerprint: "sha256:00",
    score: 0.5,
    metric: "exact_match"
  }

  defp message({:error, %Error{type: :invalid_request, message: message}}), do: message

  defp file(body, header \\ "erl_bridge program 1"),
    do: "#{header} sha256:#{Base.encode16(:crypto.hash(:sha256, body), case: :lower)}\n#{body}"

  defp texts(%{} = map), do: Map.new(map, fn {key, value} -> {to_string(key), texts(value)} end)
  defp texts(list) when is_list(list), do: Enum.map(list, &texts/1)
  defp texts(atom) when is_atom(atom) and atom not in [nil, true, false], do: to_string(atom)
  defp texts(other), do: other

  defp learned(program, changes),
    do: %{program | predictors: Enum.map(program.predictors, &Map.merge(&1, changes))}

  describe "a file" do
    test "holds a program as it was, also in a folder that is made, also over an older one", %{
      tmp_dir: folder
    } do
      path = Path.join([folder, "new", "a.program"])
      assert Program.save(@program, path) == :ok
      assert Program.load(path) == {:ok, @program}

      later = %{@program | score: 0.75}
      assert Program.save(later, path) == :ok
      assert Program.load(path) == {:ok, later}
      assert File.ls!(Path.dirname(path)) == ["a.program"]
    end

    test "is the same for the same program", %{tmp_dir: folder} do
      [a, b] = for name <- ["a", "b"], do: Path.join(folder, name)
      Program.save(@program, a)
      Program.save(Map.new(Enum.reverse(Map.to_list(@program))), b)
      assert File.read!(a) == File.read!(b)
      assert File.read!(a) =~ ~r/\Aerl_bridge program 1 sha256:[0-9a-f]{64}\n/
    end

    test "with any byte changed, or cut off anywhere, is refused", %{tmp_dir: folder} do
      path = Path.join(folder, "p")
      Program.save(@program, path)
      whole = File.read!(path)

      for at <- 0..(byte_size(whole) - 1) do
        <<head::binary-size(at), byte, tail::binary>> = whole

        for damaged <- [<<head::binary, Bitwise.bxor(byte, 1), tail::binary>>, head] do
          File.write!(path, damaged)
          assert message(Program.load(path)) =~ ~r/damaged|no program|newer/
        end
      end
    end

    test "that is foreign, newer, compressed, too large or not there says so", %{tmp_dir: folder} do
      path = Path.join(folder, "p")
      term = :erlang.term_to_binary(@program)

      for {content, options, expected} <- [
            {"PK", [], "no program: expected what ErlBridge.Program.save/2 writes"},
            {"", [], "no program: expected"},
            {file(term, "erl_bridge program 2"), [],
             "in version 2 of the format; this one reads 1"},
            {"erl_bridge program 1 sha256:0\n", [],
             "damaged: its content does not have the SHA-256"},
            {"erl_bridge program 1", [], "damaged: its first line is not whole"},
            {file(:erlang.term_to_binary(List.duplicate(0, 9_999), [:compressed])), [],
             "it is compressed"},
            {file("no term"), [safe: false], "its content is no term"},
            {file(term), [max_bytes: 10], "bytes are more than the 10 of :max_bytes"}
          ] do
        File.write!(path, content)
        assert message(Program.load(path, options)) =~ expected
        assert message(Program.load(path, options)) =~ path
      end

      assert message(Program.load(path <> "x")) =~ "cannot be read: no such file or directory"
      assert message(Program.load(folder)) =~ "expected a file, got a directory"
    end

    test "with atoms that are new is read only when told, and makes none before", %{
      tmp_dir: folder
    } do
      path = Path.join(folder, "p")
      name = "a_field_that_nobody_has_named_#{System.unique_integer([:positive])}"
      placeholder = String.duplicate("x", byte_size(name))
      known = Map.put(@program, :metric, String.to_atom(placeholder))
      body = String.replace(:erlang.term_to_binary(known, [:deterministic]), placeholder, name)
      File.write!(path, file(body))

      assert message(Program.load(path)) =~ "load it with `safe: false`"
      assert_raise ArgumentError, fn -> String.to_existing_atom(name) end

      assert {:ok, %{metric: metric}} = Program.load(path, safe: false)
      assert Atom.to_string(metric) == name
    end

    test "of something else than a program is neither written nor read", %{tmp_dir: folder} do
      path = Path.join(folder, "p")

      for {term, expected} <- [
            {[], "expected a program, a map, got: []"},
            {Map.delete(@program, :predictors), "whose predictors is a list, got: nil"},
            {%{@program | signature: "q -> a"}, "whose signature is a map, got: \"q -> a\""},
            {%{@program | format: 3}, "got 3, made by dspy 3.4.1, erl_bridge 0.1.0"},
            {put_in(@program.metric, [%{callback: {&String.length/1}} | :tail]),
             "has no place in a program"},
            {%{@program | score: self()}, "a function, process, port or reference"}
          ] do
        assert message(Program.save(term, path)) =~ expected
        refute File.exists?(path)
        File.write!(path, file(:erlang.term_to_binary(term)))
        assert message(Program.load(path)) =~ expected
        File.rm!(path)
      end
    end

    test "that cannot be written leaves nothing behind", %{tmp_dir: folder} do
      File.mkdir_p!(Path.join([folder, "taken", "by a folder"]))
      assert message(Program.save(@program, Path.join(folder, "taken"))) =~ "cannot be written"
      assert File.ls!(folder) == ["taken"]
    end
  end

  describe "a summary" do
    test "is the same of a program whose keys are strings" do
      assert texts(Program.summary(texts(@program))) == texts(Program.summary(@program))
    end
  end

  describe "a diff" do
    test "of equal programs is empty, whatever their versions are" do
      [%{demos: demos}] = @program.predictors

      other =
        learned(%{@program | versions: %{}, fingerprint: nil}, %{demos: Enum.reverse(demos)})

      assert Program.diff(@program, other) == %{}
      assert Program.Diff.text(%{}) == "no difference\n"
    end

    test "has what changed, and nothing else" do
      [%{demos: [first, second]}] = @program.predictors
      third = %{q: "3+3", a: "6"}
      field = %{name: :a, type: :int}

      later = %{
        learned(@program, %{demos: [third, second, second]})
        | module: :chain_of_thought,
          score: 0.75,
          signature: %{@program.signature | output_fields: [field], instructions: "Add."}
      }

      assert diff = Program.diff(@program, later)

      assert diff == %{
               module: {:predict, :chain_of_thought},
               instructions: {"Answer.", "Add."},
               output_fields: {[%{name: :a, type: :str}], [field]},
               score: {0.5, 0.75},
               predictors: %{
                 "self" => %{
                   instructions: {"Answer.", "Add."},
                   demos: %{added: [third, second], removed: [first]}
                 }
               }
             }

      text = Program.Diff.text(diff)

      assert text =~
               "module: :predict -> :chain_of_thought\ninstructions: \"Answer.\" -> \"Add.\"\n"

      assert text =~ "self: demos: 2 added, 1 removed\n  - a: "
    end

    test "of a signature and its program is what the optimizer did" do
      signature = @program.signature
      [%{demos: demos}] = @program.predictors

      assert Program.diff(signature, @program) == %{
               predictors: %{"self" => %{demos: %{added: demos, removed: []}}}
             }

      assert Program.diff(Signature.from_map(signature), @program) ==
               Program.diff(signature, @program)
    end

    test "long values are cut in the text" do
      later = learned(@program, %{instructions: String.duplicate("word ", 500)})

      assert [line] =
               String.split(Program.Diff.text(Program.diff(@program, later)), "\n", trim: true)

      assert String.length(line) < 400
    end
  end
end
