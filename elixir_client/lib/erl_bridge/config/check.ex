defmodule ErlBridge.Config.Check do
  @moduledoc """
  Checks of a configuration that somebody wrote. What does not fit is thrown, with its place, and
  `run/1` makes an error of it.

      iex> alias ErlBridge.Config.Check
      iex> {:error, error} = Check.run(fn -> Check.keys(%{"naem" => 1}, ["name"], "workflow") end)
      iex> error.message
      ~s(workflow: unknown key "naem", did you mean "name"? The keys are name)
  """

  alias ErlBridge.{Error, Options}

  @doc "What `fun` returns, or the error that it threw."
  @spec run((() -> result)) :: {:ok, result} | {:error, Error.t()} when result: term
  def run(fun) do
    {:ok, fun.()}
  catch
    {__MODULE__, error} -> {:error, error}
  end

  @doc "Throws that `path` has `got` where `expected` should be."
  @spec refuse(String.t(), String.t(), term) :: no_return
  def refuse(path, expected, got) do
    fail("#{path}: expected #{expected}, got: #{inspect(got, limit: 20)}", %{
      path: path,
      expected: expected,
      got: got
    })
  end

  @doc "Throws an error in words of its own."
  @spec fail(String.t(), map) :: no_return
  def fail(message, context), do: throw({__MODULE__, Error.invalid(message, context)})

  @doc "A map with string keys."
  @spec map(term, String.t()) :: map
  def map(value, path) do
    if is_map(value) and Enum.all?(Map.keys(value), &is_binary/1),
      do: value,
      else: refuse(path, "a map with strings as keys", value)
  end

  @doc "A map that has no other keys than these."
  @spec keys(term, [String.t()], String.t()) :: map
  def keys(value, known, path) do
    map = map(value, path)

    case Enum.sort(Map.keys(map) -- known) do
      [] -> map
      [unknown | _] -> unknown_key(unknown, known, path)
    end
  end

  @doc "The value of a key, checked by a function of it and its path; `default` where there is none."
  @spec optional(map, String.t(), String.t(), (term, String.t() -> value), default) ::
          value | default
        when value: term, default: term
  def optional(map, key, path, check, default \\ nil) do
    case map do
      %{^key => value} when value != nil -> check.(value, "#{path}.#{key}")
      _none -> default
    end
  end

  @doc "The same for a key that must be there."
  @spec required(map, String.t(), String.t(), (term, String.t() -> value)) :: value
        when value: term
  def required(map, key, path, check), do: check.(Map.get(map, key), "#{path}.#{key}")

  @doc "A text that is not empty."
  @spec text(term, String.t()) :: String.t()
  def text(value, path),
    do: if(is_binary(value) and value != "", do: value, else: refuse(path, "a text", value))

  @doc "A list with at least one element, each checked."
  @spec list(term, String.t(), String.t(), (term, String.t() -> element)) :: [element]
        when element: term
  def list([_ | _] = values, path, _of, check) do
    for {value, index} <- Enum.with_index(values), do: check.(value, "#{path}[#{index}]")
  end

  def list(value, path, of, _check), do: refuse(path, "a list of #{of}", value)

  @doc "One of these texts."
  @spec one_of(term, [String.t()], String.t()) :: String.t()
  def one_of(value, known, path) do
    if value in known do
      value
    else
      near = if is_binary(value), do: Options.nearest(value, known)
      refuse(path, "one of #{Enum.join(known, ", ")}#{near && " (#{near}?)"}", value)
    end
  end

  defp unknown_key(key, known, path) do
    near = Options.nearest(key, known)
    hint = if near, do: ", did you mean #{inspect(near)}?", else: "."
    keys = "The keys are #{Enum.join(known, ", ")}"
    fail("#{path}: unknown key #{inspect(key)}#{hint} #{keys}", %{path: path, got: key})
  end
end
