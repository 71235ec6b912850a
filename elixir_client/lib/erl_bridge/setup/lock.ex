defmodule ErlBridge.Setup.Lock do
  @moduledoc """
  The lock file of the Python packages, and the part of it that an installation needs.

  The file has every package that the project was tested with, those of its own tests too. Each
  entry says in a comment which packages asked for it, so what a few packages need is found by
  following these comments.

      iex> lock = \"""
      ...> click==8.1 \\\\
      ...>     --hash=sha256:aa
      ...>     # via litellm
      ...> litellm==1.0 \\\\
      ...>     --hash=sha256:bb
      ...>     # via dspy
      ...> pytest==9.0 \\\\
      ...>     --hash=sha256:cc
      ...>     # via
      ...>     #   erl-bridge (pyproject.toml:dev)
      ...>     #   hypothesis
      ...> \"""
      iex> {_text, names} = ErlBridge.Setup.Lock.select(lock, ["litellm"])
      iex> names
      ["click", "litellm"]
  """

  @doc """
  The text of those entries that the packages `roots` are or need, and their names.

  A root that the file does not have is left out.
  """
  @spec select(String.t(), [String.t()]) :: {String.t(), [String.t()]}
  def select(lock, roots) do
    entries = entries(lock)
    needed = closure(roots, needs(entries), MapSet.new())
    chosen = Enum.filter(entries, &(&1.name in needed))
    {Enum.map_join(chosen, & &1.text), Enum.map(chosen, & &1.name)}
  end

  @doc """
  What the entries of a text say of versions, without hashes: what pip takes as constraints.

      iex> ErlBridge.Setup.Lock.versions("click==8.1 --hash=sha256:aa\\ntomli==2.0 ; python_version < '3.11'\\n")
      "click==8.1\\ntomli==2.0\\n"
  """
  @spec versions(String.t()) :: String.t()
  def versions(lock) do
    for %{text: text} <- entries(lock), into: "" do
      [version] = Regex.run(~r/^[^\s;\\\\]+/, text)
      version <> "\n"
    end
  end

  @doc """
  The names of the packages that a project asks for: always, and for some of its extras.

  Gives the extras that `pyproject.toml` does not have as an error.

      iex> project = ~s(dependencies = ["msgspec>=0.19,<1"]\\ndspy = ["dspy-ai>=3.4", "numpy"]\\n)
      iex> ErlBridge.Setup.Lock.roots(project, ["dspy"])
      {:ok, ["msgspec", "dspy-ai", "numpy"]}
      iex> ErlBridge.Setup.Lock.roots(project, ["dsp"])
      {:error, ["dsp"]}
  """
  @spec roots(String.t(), [String.t()]) :: {:ok, [String.t()]} | {:error, [String.t()]}
  def roots(project, extras) do
    lists = Map.new(["dependencies" | extras], &{&1, requirements(project, &1)})

    case Enum.filter(extras, &(lists[&1] == nil)) do
      [] -> {:ok, Enum.flat_map(["dependencies" | extras], &lists[&1])}
      unknown -> {:error, unknown}
    end
  end

  # A list of requirements is one line of pyproject.toml.
  defp requirements(project, name) do
    case Regex.run(~r/^#{Regex.escape(name)} = \[(.*)\]$/m, project) do
      [_line, list] ->
        for [_all, package] <- Regex.scan(~r/"([A-Za-z0-9._-]+)/, list), do: package

      nil ->
        nil
    end
  end

  # An entry begins at the margin; its hashes and comments are indented.
  defp entries(lock) do
    for text <- Regex.split(~r/^(?=[A-Za-z0-9])/m, lock),
        [name | _version] = String.split(text, "==", parts: 2),
        name != text do
      %{name: name, text: text, via: via(text)}
    end
  end

  defp via(text) do
    for [_comment, name] <- Regex.scan(~r/^ +#(?: via)? +([A-Za-z0-9._-]+)/m, text),
        name != "via",
        do: name
  end

  defp needs(entries) do
    pairs = for %{name: name, via: via} <- entries, parent <- via, do: {parent, name}
    Enum.group_by(pairs, &elem(&1, 0), &elem(&1, 1))
  end

  defp closure([], _needs, found), do: found

  defp closure([name | rest], needs, found) do
    if name in found,
      do: closure(rest, needs, found),
      else: closure(Map.get(needs, name, []) ++ rest, needs, MapSet.put(found, name))
  end
end
