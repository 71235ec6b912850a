defmodule ErlBridge.Cache.KeyTest do
  use ExUnit.Case, async: true
  doctest ErlBridge.Cache.Key

  alias ErlBridge.Cache.Key

  test "a map has one key, in whatever order it was made and however large it is" do
    for size <- [2, 32, 33, 1_000] do
      pairs = for n <- 1..size, do: {{:field, n}, n}
      assert Key.digest(Map.new(pairs)) == Key.digest(Map.new(Enum.reverse(pairs)))
    end
  end

  test "keys of known terms never change" do
    assert Key.digest(:a) == sha256(["a", <<1::64>>, "a"])
    assert Key.digest(-7) == sha256(["i", <<2::64>>, "-7"])

    assert Key.digest({"x", 1.5}) ==
             sha256(["t", <<2::64>>, "b", <<1::64>>, "x", "f", <<1.5::float>>])

    assert Key.digest(%{}) == sha256(["m", <<0::64>>])
    assert Key.digest(<<5::3>>) == sha256(["B", <<3::64>>, <<5::3, 0::5>>])
  end

  test "terms that differ have different keys" do
    terms = [
      1,
      1.0,
      0.0,
      -0.0,
      :a,
      "a",
      ~c"a",
      [:a],
      {:a},
      %{a: nil},
      %{"a" => nil},
      %{},
      [],
      {},
      nil,
      "nil",
      <<1::1>>,
      <<1::2>>,
      <<1>>,
      <<0x80>>,
      [1 | 2],
      [1, 2],
      [[1], 2],
      [1, [2]],
      %{a: 1, b: 2},
      %{a: 2, b: 1},
      MapSet.new(),
      MapSet.new([1]),
      MapSet.new([2, 1]),
      ~D[2024-01-01],
      &String.length/1,
      &String.upcase/1,
      {String, :length, 1},
      2 ** 64,
      2 ** 64 + 1,
      %{1 => %{}},
      %{1 => []}
    ]

    assert terms |> Enum.map(&Key.digest/1) |> Enum.uniq() |> length() == length(terms)
  end

  test "a set has one key, in whatever order it was made" do
    assert Key.digest(MapSet.new(1..100)) == Key.digest(MapSet.new(100..1//-1))
  end

  test "what names nothing outside this node is refused with the path to it" do
    port = hd(Port.list())

    for {term, what} <- [
          {self(), "a pid"},
          {make_ref(), "a reference"},
          {port, "a port"},
          {fn -> :ok end, "a local function"}
        ] do
      error = assert_raise ArgumentError, fn -> Key.digest(%{rows: [1, %{"x" => {:a, term}}]}) end
      assert Exception.message(error) =~ "rows.1.x.1 is #{what}, which means nothing"
    end

    assert_raise ArgumentError, ~r/the term is a pid/, fn -> Key.digest(self()) end
  end

  test "another node makes the same key" do
    term = %{zebra: 1, apple: [:kiwi, 2.5], nested: %{b: "x", a: {nil, true}}}
    code = "IO.write(ErlBridge.Cache.Key.digest(#{inspect(term)}))"
    paths = Enum.flat_map([:erl_bridge], &["-pa", Application.app_dir(&1, "ebin")])

    assert {Key.digest(term), 0} == System.cmd("elixir", paths ++ ["-e", code])
  end

  defp sha256(form),
    do: :crypto.hash(:sha256, ["erl_bridge cache key 1" | form]) |> Base.encode16(case: :lower)
end
