defmodule ErlBridge.Recovery.BudgetTest do
  use ExUnit.Case, async: true
  doctest ErlBridge.Recovery.TokenBucket
  doctest ErlBridge.Recovery.Budget

  alias ErlBridge.Recovery.{Budget, TokenBucket}

  @second 1_000_000

  test "a bucket left alone fills by time, and not above its burst" do
    bucket = empty(share: 0, min_per_second: 4, burst: 8)

    assert for(quarters <- [0, 1, 4, 8, 100], do: TokenBucket.tokens(bucket, quarters * 250_000)) ==
             [0.0, 1.0, 4.0, 8.0, 8.0]
  end

  test "requests cannot save up more than the burst" do
    bucket =
      Enum.reduce(1..1_000, empty(share: 1, burst: 3), fn _n, b -> TokenBucket.deposit(b) end)

    assert TokenBucket.tokens(bucket, 0) == 3.0
    assert {3, _bucket} = drain(bucket, 0)
  end

  # A model that counts tokens as anybody would, in steps of a thousandth.
  for seed <- 1..10 do
    test "random histories agree with plain counting, seed #{seed}" do
      :rand.seed(:exsss, unquote(seed))
      burst = :rand.uniform(20)
      bucket = TokenBucket.new([share: 0.125, min_per_second: 1, burst: burst], 0)

      Enum.reduce(1..1_000, {bucket, burst * 1_000, 0}, fn _step, {bucket, counted, now} ->
        case :rand.uniform(3) do
          1 ->
            {TokenBucket.deposit(bucket), min(counted + 125, burst * 1_000), now}

          2 ->
            {taken, bucket} = take(bucket, now)
            assert taken == counted >= 1_000
            {bucket, if(taken, do: counted - 1_000, else: counted), now}

          3 ->
            passed = :rand.uniform(100)
            {bucket, min(counted + passed, burst * 1_000), now + passed * 1_000}
        end
      end)
    end
  end

  test "however much fails, retries stay a share of the requests" do
    options = [share: 0.1, min_per_second: 1, burst: 10]
    bucket = TokenBucket.new(options, 0)

    {retries, _bucket} =
      Enum.reduce(1..10_000, {0, bucket}, fn n, {retries, bucket} ->
        {taken, bucket} = bucket |> TokenBucket.deposit() |> drain(n * 1_000)
        {retries + taken, bucket}
      end)

    # The burst, a tenth of the requests, and one for each of the ten seconds.
    assert retries in 1_018..1_020
  end

  test "of many processes at once, as many get a token as there are" do
    budget = Budget.new(share: 0, min_per_second: 1, burst: 500)
    begun = System.monotonic_time(:second)

    taken =
      1..8
      |> Enum.map(fn _n ->
        Task.async(fn -> Enum.count(1..200, fn _n -> Budget.withdraw(budget) end) end)
      end)
      |> Task.await_many(:infinity)
      |> Enum.sum()

    assert taken in 500..(501 + System.monotonic_time(:second) - begun)
  end

  test "what many processes pay in at once is all there" do
    budget = Budget.new(share: 0.5, min_per_second: 1, burst: 10_000)
    for _token <- 1..10_000, do: assert(Budget.withdraw(budget))

    1..8
    |> Enum.map(fn _n -> Task.async(fn -> for _n <- 1..1_000, do: Budget.deposit(budget) end) end)
    |> Task.await_many(:infinity)

    assert Budget.tokens(budget) >= 4_000
  end

  test "a wrong option is named" do
    assert_raise ArgumentError, "expected :share to be a number from 0 to 1, got: 2", fn ->
      Budget.new(share: 2)
    end
  end

  defp empty(options) do
    bucket = TokenBucket.new(options, -100 * @second)
    %{bucket | empty_at: 0}
  end

  defp take(bucket, now) do
    case TokenBucket.withdraw(bucket, now) do
      {:ok, bucket} -> {true, bucket}
      :empty -> {false, bucket}
    end
  end

  defp drain(bucket, now, taken \\ 0) do
    case TokenBucket.withdraw(bucket, now) do
      {:ok, bucket} -> drain(bucket, now, taken + 1)
      :empty -> {taken, bucket}
    end
  end
end
