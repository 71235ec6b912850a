defmodule ErlBridge.GuidesTest do
  @moduledoc "What the guides show can be pasted."
  use ExUnit.Case, async: true

  alias ErlBridge.Options

  @guides Path.wildcard(Path.expand("../../guides/*.md", __DIR__)) ++
            [Path.expand("../../../README.md", __DIR__)]
  @guide File.read!(Path.expand("../../guides/production.md", __DIR__))

  defp blocks(text) do
    for [_all, code] <- Regex.scan(~r/```elixir\n(.*?)```/s, text), do: code
  end

  for path <- @guides do
    test "the code of #{Path.basename(path)} is Elixir, and what it speaks of is there" do
      text = File.read!(unquote(path))

      calls =
        for code <- blocks(text),
            {{:., _, [{:__aliases__, _, [:ErlBridge | _] = names}, name]}, _, arguments} <-
              code |> Code.string_to_quoted!() |> Macro.prewalker() |> Enum.to_list() do
          {Module.concat(names), name, length(arguments)}
        end

      written =
        for [_all, module, name, arity] <-
              Regex.scan(~r"`(ErlBridge[A-Za-z.]*)\.([a-z_]+!?)/(\d)`", text),
            do: {Module.concat([module]), String.to_atom(name), String.to_integer(arity)}

      modules =
        for [_all, module] <- Regex.scan(~r"`(ErlBridge[A-Za-z.]*)`", text),
            do: Module.concat([module])

      for module <- modules, do: assert(Code.ensure_loaded?(module), "no #{inspect(module)}")

      for {module, name, arity} <- calls ++ written do
        Code.ensure_loaded!(module)
        # `&f/1` is a call without arguments for the parser, and a pipe gives one more.
        found = for n <- [arity, arity + 1], function_exported?(module, name, n), do: n
        assert found != [], "no #{inspect(module)}.#{name}/#{arity}"
      end

      for [_all, task] <- Regex.scan(~r/mix (erl_bridge\.[a-z]+)/, text),
          do: assert(Mix.Task.get(task), "no mix #{task}")
    end
  end

  describe "the guide for production:" do
    test "the options of its bridge are options" do
      [children] = Enum.filter(blocks(@guide), &(&1 =~ "children = "))
      {[{ErlBridge, options}], _bindings} = Code.eval_string(children)
      assert %{pool_size: 2, env: [_ | _]} = Options.validate!(options, :start)
    end

    test "what it runs in a release is Elixir" do
      assert [_one | _more] = scripts = Regex.scan(~r/ eval '(.*?)'/, @guide)
      for [_all, code] <- scripts, do: assert({_call, _, []} = Code.string_to_quoted!(code))
    end

    test "the stages of its Docker file are of one Debian, and the last is not root's" do
      [stages, user] = for name <- ["FROM", "USER"], do: Regex.scan(~r/^#{name} (\S+)/m, @guide)
      assert [[_first, debian], [_last, debian]] = stages
      assert [[_user, "1000"]] = user
    end
  end
end
