defmodule ErlBridge.OptionsTest do
  use ExUnit.Case, async: true
  doctest ErlBridge.Options

  alias ErlBridge.Options

  test "defaults are filled in and given values kept" do
    options = Options.validate!([timeout: :infinity, name: MyApp.Bridge], :start)

    assert %{timeout: :infinity, name: MyApp.Bridge, preload: true, start_timeout: 15_000} =
             options

    refute Map.has_key?(options, :python)
  end

  describe "an unknown option" do
    test "names itself, the nearest option and all others" do
      message = message(fn -> Options.validate!([pyhton: "python3"], :start) end)

      assert message =~
               "unknown option :pyhton, did you mean :python? The options are :name, :pool_size, :python,"

      for name <- Options.names(:start), do: assert(message =~ inspect(name))
    end

    @schemas ~w(start connect call async cast stream optimize train evaluate predict recovery
                retry_budget circuit_breaker cache cache_fetch cache_put data_file dataset cluster)a

    test "is the nearest of each schema when a letter is missing, doubled or has changed places" do
      for schema <- @schemas,
          names = Options.names(schema),
          name <- names,
          typo <- typos(Atom.to_string(name)),
          String.to_atom(typo) not in names do
        assert message(fn -> Options.validate!([{String.to_atom(typo), 1}], schema) end) =~
                 "unknown option :#{typo}, did you mean #{inspect(name)}?"
      end
    end

    # Of a letter inside of a name that is long enough to be known without it.
    defp typos(name) do
      for index <- 1..(String.length(name) - 2)//1,
          {before, <<letter::binary-1, rest::binary>>} = String.split_at(name, index),
          rest != "" and String.length(name) > 3,
          typo <- [
            before <> rest,
            before <> letter <> letter <> rest,
            before <> String.first(rest) <> letter <> String.slice(rest, 1..-1//1)
          ],
          typo != name,
          do: typo
    end

    test "that is like none gets no suggestion" do
      message = message(fn -> Options.validate!([colour: 1], :call) end)

      assert message =~ "unknown option :colour. The options are :timeout,"
    end

    test "gets a suggestion up to a likeness of 0.77 and none below" do
      # The likeness of "tim" and "timeout" is 0.81, that of "tmt" 0.65.
      assert message(fn -> Options.validate!([tim: 1], :call) end) =~ "did you mean :timeout?"
      refute message(fn -> Options.validate!([tmt: 1], :call) end) =~ "did you mean"
    end
  end

  # One wrong value for each type, and what is said to it.
  @wrong [
    {:start, [name: "text"],
     "expected :name to be an atom, {:global, term} or {:via, module, term}, got: \"text\""},
    {:start, [python: ~c"python3"], "expected :python to be a string, got:"},
    {:start, [args: [1]], "expected :args to be a list of strings, got: [1]"},
    {:start, [env: [{"A", 1}]],
     "expected :env to be a list or map of strings to strings or false, got: [{\"A\", 1}]"},
    {:start, [timeout: 0],
     "expected :timeout to be milliseconds, an integer from 1 to 4000000000, or :infinity, got: 0"},
    # A timer takes no more than 2 ** 32 - 1.
    {:start, [health_interval: 4_000_000_001],
     "expected :health_interval to be milliseconds, an integer from 1 to 4000000000, or :infinity, got: 4000000001"},
    {:start, [start_timeout: 86_400_001],
     "expected :start_timeout to be an integer from 1 to 86400000, got: 86400001"},
    {:start, [cache: [ttl: 0]],
     "in :cache: expected :ttl to be a positive integer (milliseconds) or :infinity, got: 0"},
    {:start, [cache: [tll: 1]], "in :cache: unknown option :tll, did you mean :ttl? The options"},
    {:start, [python: "py\0thon"], "expected :python to be a string, got: <<"},
    {:start, [env: [{"A", "b\0"}]], "expected :env to be a list or map of strings"},
    {:start, [env: [{"A=B", "c"}]], "expected :env to be a list or map of strings"},
    {:start, [env: [:a]], "expected :env to be a list or map of strings"},
    {:start, [max_frame: -1], "expected :max_frame to be a positive integer, got: -1"},
    {:start, [preload: :no], "expected :preload to be true or false, got: :no"},
    {:start, [log_level: :loud],
     "expected :log_level to be one of :none, :debug, :info, :notice, :warning, :error, got: :loud"},
    {:call, [on_event: &Kernel.+/2],
     "expected :on_event to be a function of 1 argument, got: &:erlang.+/2"},
    {:call, [callbacks: %{score: 1}],
     "expected :callbacks to be a map of atoms or strings to functions, got: %{score: 1}"},
    {:call, [fallback: NoSuchModule],
     "expected :fallback to be a function of 1 argument or a module with fallback/2, got: NoSuchModule"},
    {:call, [fallback: &Kernel.+/2], "expected :fallback to be a function of 1 argument"},
    {:call, [metadata: []], "expected :metadata to be a map, got: []"},
    {:recovery, [max_retries: 101],
     "expected :max_retries to be an integer from 0 to 100, got: 101"},
    {:recovery, [backoff: [min: 5, max: 4]],
     "expected :backoff to be [min: m, max: n], integers from 1 to 86400000, the first not above the second, got: [min: 5, max: 4]"},
    {:recovery, [backoff: [min: 5]], "expected :backoff to be [min: m, max: n]"},
    {:retry_budget, [share: 1.1], "expected :share to be a number from 0 to 1, got: 1.1"},
    {:circuit_breaker, [on_change: &is_atom/1],
     "expected :on_change to be a function of 2 arguments, got: &:erlang.is_atom/1"},
    {:optimize, [config: 1], "expected :config to be a map or a keyword list, got: 1"},
    {:call, %{timeout: 1}, "expected options as a keyword list, got: %{timeout: 1}"}
  ]

  test "a wrong value is named, with what was expected and what came" do
    for {schema, options, text} <- @wrong do
      assert message(fn -> Options.validate!(options, schema) end) =~ text
    end
  end

  # At the edge of what is allowed.
  @right [
    {:start, name: {:global, "any"}},
    {:start, name: {:via, Registry, {R, 1}}},
    {:start, env: %{"A" => "b", "C" => false}},
    {:start, timeout: 1},
    {:start, log_level: :none},
    {:call, callbacks: %{:score => &Kernel.+/2, "search" => &is_atom/1}},
    {:evaluate, config: [metric: :exact_match]},
    {:recovery, backoff: [max: 5, min: 5]},
    {:recovery, max_retries: 0},
    {:retry_budget, share: 1},
    {:call, id: {:any, "term"}}
  ]

  for {schema, [{name, _value}] = option} <- @right do
    test "#{schema}: #{name} may be #{inspect(option)}" do
      option = unquote(Macro.escape(option))
      assert option[unquote(name)] == Options.validate!(option, unquote(schema))[unquote(name)]
    end
  end

  test "the documentation lists each option with its type and default" do
    docs = Options.docs(:start)

    for name <- Options.names(:start), do: assert(docs =~ "  * `:#{name}` (")

    assert docs =~
             "`:timeout` (milliseconds, an integer from 1 to 4000000000, or :infinity) - how long"

    assert docs =~ "Default: `30000`"
  end

  defp message(fun), do: Exception.message(assert_raise(ArgumentError, fun))
end
