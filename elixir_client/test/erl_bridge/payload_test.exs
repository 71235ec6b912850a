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
end
