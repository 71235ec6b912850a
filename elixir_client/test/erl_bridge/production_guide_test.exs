defmodule ErlBridge.ProductionGuideTest do
  @moduledoc "What the guide shows can be pasted."
  use ExUnit.Case, async: true

  alias ErlBridge.Options

  @guide File.read!(Path.expand("../../guides/production.md", __DIR__))

  defp blocks do
    for [_all, code] <- Regex.scan(~r/```elixir\n(.*?)```/s, @guide), do: code
  end

  test "its code is Elixir, and what it calls is there" do
    calls =
      for code <- blocks(),
          {{:., _, [{:__aliases__, _, [:ErlBridge | _] = names}, name]}, _, arguments} <-
            code |> Code.string_to_quoted!() |> Macro.prewalker() |> Enum.to_list() do
        {Module.concat(names), name, length(arguments)}
      end

    written =
      for [_all, module, name, arity] <-
            Regex.scan(~r"`(ErlBridge[A-Za-z.]*)\.([a-z_]+)/(\d)`", @guide),
          do: {Module.concat([module]), String.to_atom(name), String.to_integer(arity)}

    assert {ErlBridge, :health_check, 1} in calls and {ErlBridge, :workers, 1} in written

    # `&f/1` is a call without arguments for the parser.
    for {module, name, arity} <- calls ++ written, name != :copy_python or arity == 1 do
      Code.ensure_loaded!(module)
      assert function_exported?(module, name, arity), "no #{inspect(module)}.#{name}/#{arity}"
    end
  end

  test "the options of its bridge are options" do
    [children] = Enum.filter(blocks(), &(&1 =~ "children = "))
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
