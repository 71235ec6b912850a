defmodule ErlBridge.ProgramStoreTest do
  use ExUnit.Case, async: true

  alias ErlBridge.{Error, Program, Signature}
  alias ErlBridge.Program.Store

  @moduletag :tmp_dir

  defp program(demo, score \\ 0.5) do
    %{
      format: 2,
      module: :predict,
      signature: Signature.to_map(Signature.new(inputs: [:q], outputs: [:a])),
      predictors: [%{name: "self", instructions: nil, demos: [%{q: demo, a: "4"}]}],
      fingerprint: "sha256:#{demo}",
      score: score,
      metric: "exact_match",
      scored_on: %{rows: 3, lm: "x/y"}
    }
  end

  defp message({:error, %Error{type: :invalid_request, message: message}}), do: message

  test "versions are counted, and the last one put is the current one", %{tmp_dir: folder} do
    assert Store.list(folder) == {:ok, []}
    assert Store.put(folder, "tickets", program("a")) == {:ok, 1}
    assert Store.put(folder, "tickets", program("b", 0.75)) == {:ok, 2}
    assert Store.put(folder, "mails", program("c")) == {:ok, 1}

    assert Store.get(folder, "tickets") == {:ok, program("b", 0.75)}
    assert Store.get(folder, "tickets", version: 1) == {:ok, program("a")}
    assert Store.list(folder) == {:ok, ["mails", "tickets"]}

    assert {:ok, [second, first]} = Store.versions(folder, "tickets")

    assert %{
             version: 2,
             current: true,
             score: 0.75,
             fingerprint: "sha256:b",
             metric: "exact_match"
           } = second

    assert %{version: 1, current: false, scored_on: %{rows: 3, lm: "x/y"}} = first
    assert DateTime.diff(DateTime.utc_now(), first.saved_at) in 0..60
  end

  test "a program that is the current one is not kept twice", %{tmp_dir: folder} do
    assert Store.put(folder, "p", program("a")) == {:ok, 1}
    assert Store.put(folder, "p", program("a")) == {:ok, 1}
    assert Store.put(folder, "p", program("a", 0.9)) == {:ok, 2}
  end

  test "a roll back goes to the version before, or to a certain one, and removes nothing", %{
    tmp_dir: folder
  } do
    for demo <- ["a", "b", "c"], do: Store.put(folder, "p", program(demo))

    assert Store.rollback(folder, "p") == {:ok, 2}
    assert Store.get(folder, "p") == {:ok, program("b")}
    assert Store.rollback(folder, "p") == {:ok, 1}
    assert message(Store.rollback(folder, "p")) =~ "there is no version before 1"
    assert Store.rollback(folder, "p", to: 3) == {:ok, 3}
    assert message(Store.rollback(folder, "p", to: 9)) =~ "there is no version 9, only 1, 2, 3"

    Store.rollback(folder, "p")
    assert Store.put(folder, "p", program("d")) == {:ok, 4}
    assert Store.rollback(folder, "p") == {:ok, 3}
  end

  test "so many versions are kept, and the current one always", %{tmp_dir: folder} do
    for demo <- ["a", "b", "c", "d"], do: Store.put(folder, "p", program(demo), keep: 2)
    assert {:ok, [%{version: 4}, %{version: 3}]} = Store.versions(folder, "p")
    assert message(Store.get(folder, "p", version: 1)) =~ "there is no version 1, only 3, 4"

    assert Enum.sort(File.ls!(Path.join(folder, "p"))) == [
             "000003.program",
             "000004.program",
             "current"
           ]
  end

  test "processes that put at once get a number each, and nothing is lost", %{tmp_dir: folder} do
    numbers =
      1..20
      |> Task.async_stream(&Store.put(folder, "p", program("#{&1}")), max_concurrency: 20)
      |> Enum.map(fn {:ok, {:ok, number}} -> number end)

    assert Enum.sort(numbers) == Enum.to_list(1..20)

    kept = for n <- 1..20, do: Store.get(folder, "p", version: n)
    assert Enum.sort(kept) == Enum.sort(for(n <- 1..20, do: {:ok, program("#{n}")}))
  end

  test "a folder that was copied is the same store elsewhere", %{tmp_dir: folder} do
    [here, there] = for name <- ["here", "there"], do: Path.join(folder, name)
    for demo <- ["a", "b"], do: Store.put(here, "p", program(demo))
    Store.rollback(here, "p")
    File.cp_r!(here, there)
    assert Store.get(there, "p") == {:ok, program("a")}
    assert Store.versions(there, "p") |> elem(0) == :ok
  end

  test "what is no program and no name is refused, and leaves nothing behind", %{tmp_dir: folder} do
    assert message(Store.put(folder, "p", %{})) =~ "expected a program"
    assert message(Store.put(folder, "p", %{program("a") | score: self()})) =~ "has no place"
    assert message(Store.get(folder, "p")) =~ "there is no program of that name"
    assert message(Store.versions(folder, "p")) =~ "there is no program of that name"
    assert Store.list(folder) == {:ok, []}

    for name <- ["", "../x", "a/b", ".hidden", String.duplicate("x", 129), :p] do
      assert message(Store.put(folder, name, program("a"))) =~ "expected a program's name of"
      assert message(Store.get(folder, name)) =~ "expected a program's name of"
    end

    assert_raise ArgumentError, ~r/:keep/, fn -> Store.put(folder, "p", program("a"), keep: 0) end
  end

  test "a damaged version is an error that says which", %{tmp_dir: folder} do
    Store.put(folder, "p", program("a"))
    path = Path.join([folder, "p", "000001.program"])
    File.write!(path, "PK")
    assert message(Store.get(folder, "p")) =~ "#{path}: no program"
    assert message(Store.versions(folder, "p")) =~ "#{path}: no program"
    assert Store.put(folder, "p", program("b")) == {:ok, 2}
    assert Store.get(folder, "p") == {:ok, program("b")}
  end

  test "makes no atoms that this node does not know unless told", %{tmp_dir: folder} do
    name = "a_metric_nobody_has_named_#{System.unique_integer([:positive])}"
    placeholder = String.duplicate("y", byte_size(name))
    Store.put(folder, "p", %{program("a") | metric: String.to_atom(placeholder)})
    path = Path.join([folder, "p", "000001.program"])
    [_header, body] = :binary.split(File.read!(path), "\n")
    body = String.replace(body, placeholder, name)
    digest = Base.encode16(:crypto.hash(:sha256, body), case: :lower)
    File.write!(path, "erl_bridge program 1 sha256:#{digest}\n#{body}")

    for refused <- [Store.get(folder, "p"), Store.versions(folder, "p")],
        do: assert(message(refused) =~ "load it with `safe: false`")

    assert Store.put(folder, "p", program("b")) == {:ok, 2}
    assert_raise ArgumentError, fn -> String.to_existing_atom(name) end
    assert {:ok, [_second, %{metric: metric}]} = Store.versions(folder, "p", safe: false)
    assert Atom.to_string(metric) == name
  end

  test "what two versions differ in", %{tmp_dir: folder} do
    for demo <- ["a", "b"], do: Store.put(folder, "p", program(demo))
    [old, new] = for n <- 1..2, do: folder |> Store.get("p", version: n) |> elem(1)

    assert %{predictors: %{"self" => %{demos: %{added: [%{q: "b"}], removed: [%{q: "a"}]}}}} =
             Program.diff(old, new)
  end
end
