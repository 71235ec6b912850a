defmodule ErlBridge.PayloadTest do
  use ExUnit.Case, async: true
  doctest ErlBridge.Payload

  alias ErlBridge.Payload

  @signature %{input_fields: [%{name: :q}], output_fields: [%{name: :a}]}
  @program %{version: 1, signature: @signature}

  test "optimize: what is not given is not sent" do
    assert Payload.optimize(@signature, [], %{}) == %{signature: @signature, training_data: []}
  end

  test "optimize: optimizer and metric go into the configuration, over what it has" do
    options = %{
      module: :chain_of_thought,
      validation_data: %{dataset: "d"},
      lm: "x/y",
      config: %{seed: 3, metric: :f1},
      metric: :exact_match,
      optimizer: :copro,
      timeout: 5
    }

    assert Payload.optimize("q -> a", %{dataset: "t"}, options) == %{
             signature: "q -> a",
             training_data: %{dataset: "t"},
             validation_data: %{dataset: "d"},
             module: :chain_of_thought,
             lm: "x/y",
             config: %{seed: 3, metric: :exact_match, optimizer: :copro}
           }
  end

  test "a signature is told from a program" do
    for signature <- ["q -> a", @signature, %{"input_fields" => [], "output_fields" => []}] do
      assert Payload.predict(signature, %{}, %{}) == %{signature: signature, inputs: %{}}
      assert Payload.evaluate(signature, [], %{}) == %{signature: signature, data: []}
    end

    assert Payload.predict(@program, [], %{}) == %{program: @program, inputs: []}

    assert Payload.evaluate(@program, [], %{config: [metric: :f1]}) ==
             %{program: @program, data: [], config: %{metric: :f1}}
  end

  test "functions in several places of one name have names of their own" do
    [one, two, three] = for n <- 1..3, do: fn _inputs, _outputs -> n end
    given = fn _inputs, _outputs -> 0 end
    attempt = &%{name: :best_of_n, module: :predict, reward: &1}

    prepared =
      Payload.prepare(%{
        callbacks: %{"reward" => given},
        metric: %{weighted: [%{metric: one}, %{metric: two}, %{metric: one}]},
        module: [
          %{name: :a, signature: "q -> b", module: attempt.(two)},
          %{name: :b, signature: "b -> a", module: attempt.(three)},
          %{name: :metric, signature: "a -> c", callback: three}
        ]
      })

    assert %{weighted: [first, second, first]} = prepared.metric

    assert {first, second} ==
             {%{metric: %{callback: :metric}}, %{metric: %{callback: "metric_2"}}}

    assert [%{module: %{reward: a}}, %{module: %{reward: b}}, %{callback: "metric_3"}] =
             prepared.module

    assert {a, b} == {%{callback: "reward_2"}, %{callback: "reward_3"}}

    assert prepared.callbacks == %{
             :metric => one,
             "metric_2" => two,
             "metric_3" => three,
             "reward" => given,
             "reward_2" => two,
             "reward_3" => three
           }
  end

  test "a function may have settings beside it" do
    fun = fn _request -> "" end
    map = &%{callback: &1, cache_key: 1}

    prepared =
      Payload.prepare(%{lm: map.(fun), module: %{callback: fun}, config: [teacher: map.(fun)]})

    assert prepared == %{
             lm: map.(:lm),
             module: %{callback: :module},
             config: %{teacher: map.(:teacher)},
             callbacks: %{lm: fun, module: fun, teacher: fun}
           }
  end

  test "fields of a signature may be short" do
    long = %{input_fields: [%{name: :q, type: :str}], output_fields: [%{name: :n, type: :int}]}
    short = %{input_fields: [:q], output_fields: [n: :int]}
    assert Payload.predict(short, %{}, %{}).signature == long
    step = &%{name: :a, signature: &1}
    assert Payload.prepare(%{module: [step.(short)]}).module == [step.(long)]
  end
end
