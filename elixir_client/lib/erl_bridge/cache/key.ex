defmodule ErlBridge.Cache.Key do
  @moduledoc """
  One digest for one term, whatever the node, the release of OTP or the order of a map's keys.

  The digest is SHA-256 over a canonical form of this module's own. Neither `term_to_binary/1` nor
  its option `:deterministic` will do: OTP promises the same bytes within one release only, and
  the fields of some structs differ from release to release of Elixir.

  In the canonical form every term is a letter for its type, its length and its content. A map is
  its pairs, sorted by their canonical forms; a `MapSet` is its elements, sorted likewise. Terms
  that are equal (`===`) have the same form, terms that are not have different ones: `1` and
  `1.0`, `:a` and `"a"`.

      iex> ErlBridge.Cache.Key.digest(%{b: 1, a: 2}) == ErlBridge.Cache.Key.digest(%{a: 2, b: 1})
      true
      iex> ErlBridge.Cache.Key.digest([1, 2])
      "7dbaea6c791a4a53585a1ae321a5e7d2107c89cbd9e8deed10809a05a3ca8760"
  """

  # Begins what is hashed, so that keys of another form can never meet these.
  @version "erl_bridge cache key 1"

  @doc """
  The digest of a term, as 64 hexadecimal digits.

  Raises `ArgumentError` with the path to a pid, port, reference or local function: such terms
  name nothing outside this run of this node. A function captured by name (`&Module.name/2`) is
  that name.
  """
  @spec digest(term) :: String.t()
  def digest(term) do
    :crypto.hash(:sha256, [@version | canonical(term, [])]) |> Base.encode16(case: :lower)
  end

  defp canonical(term, _path) when is_atom(term), do: sized("a", Atom.to_string(term))
  defp canonical(term, _path) when is_integer(term), do: sized("i", Integer.to_string(term))
  defp canonical(term, _path) when is_float(term), do: ["f", <<term::float>>]
  defp canonical(term, _path) when is_binary(term), do: sized("b", term)

  defp canonical(term, _path) when is_bitstring(term) do
    padding = 8 - rem(bit_size(term), 8)
    ["B", <<bit_size(term)::64>>, <<term::bitstring, 0::size(padding)>>]
  end

  defp canonical(term, path) when is_list(term), do: list(term, path, 0, [])

  defp canonical(term, path) when is_tuple(term) do
    elements = Tuple.to_list(term)
    counted("t", length(elements), elements(elements, path))
  end

  defp canonical(%MapSet{} = set, path),
    do: counted("s", MapSet.size(set), Enum.sort(binaries(set, path)))

  defp canonical(term, path) when is_map(term) do
    pairs =
      for {key, value} <- :maps.to_list(term),
          do: IO.iodata_to_binary([canonical(key, path), canonical(value, [key | path])])

    counted("m", map_size(term), Enum.sort(pairs))
  end

  defp canonical(term, path) when is_function(term) do
    case Function.info(term, :type) do
      {:type, :external} -> ["e" | canonical(capture(term), path)]
      {:type, :local} -> refuse!("a local function", path)
    end
  end

  defp canonical(term, path) when is_pid(term), do: refuse!("a pid", path)
  defp canonical(term, path) when is_port(term), do: refuse!("a port", path)
  defp canonical(term, path) when is_reference(term), do: refuse!("a reference", path)

  # An improper list is told from a proper one by what follows its elements.
  defp list([head | tail], path, count, forms),
    do: list(tail, path, count + 1, [canonical(head, [count | path]) | forms])

  defp list([], _path, count, forms), do: counted("l", count, Enum.reverse(forms))

  defp list(tail, path, count, forms),
    do: counted("L", count, [Enum.reverse(forms) | canonical(tail, path)])

  defp elements(elements, path) do
    for {element, index} <- Enum.with_index(elements), do: canonical(element, [index | path])
  end

  defp binaries(set, path), do: for(term <- set, do: IO.iodata_to_binary(canonical(term, path)))

  defp sized(letter, content), do: [letter, <<byte_size(content)::64>>, content]
  defp counted(letter, count, forms), do: [letter, <<count::64>> | forms]

  defp capture(fun) do
    {:module, module} = Function.info(fun, :module)
    {:name, name} = Function.info(fun, :name)
    {:arity, arity} = Function.info(fun, :arity)
    {module, name, arity}
  end

  defp refuse!(what, path) do
    raise ArgumentError,
          "cannot make a cache key: #{where(path)} is #{what}, which means nothing to another node " <>
            "or after a restart; give its name or its version instead"
  end

  defp where([]), do: "the term"
  defp where(path), do: path |> Enum.reverse() |> Enum.map_join(".", &step/1)

  defp step(key) when is_atom(key) or is_binary(key), do: to_string(key)
  defp step(key), do: inspect(key, limit: 5)
end
