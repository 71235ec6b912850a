defmodule ErlBridge.BenchTest do
  @moduledoc "The measurements of a real bridge; not how fast it is."
  use ExUnit.Case, async: true
  doctest ErlBridge.Bench

  alias ErlBridge.{Bench, Error}

  test "everything is measured, and the table tells it" do
    assert {:ok, results} = Bench.run()
    assert %{callers: %{callers: 16, calls: calls, time: time}, term: %{bytes: bytes}} = results
    assert calls > 0 and time > 0 and bytes > 10_000_000

    for times <- [results.start, results.ping, results.term.times] do
      assert times == Enum.sort(times) and hd(times) > 0
    end

    # A start is more than a ping, whatever the machine.
    assert hd(results.start) > hd(results.ping)

    assert [start, ping, callers, term] =
             results |> Bench.table() |> String.split("\n", trim: true)

    assert start =~ ~r"^start to hello +[0-9.]+ ms   p50 of 5$"
    assert ping =~ ~r"^ping +[0-9.]+ us   p50 of 2000, p99 [0-9.]+ us$"
    assert callers =~ ~r"^16 callers +[0-9.]+ calls/s$"
    assert term =~ ~r"^10.0 MB there and back +[0-9.]+ ms   p50 of 5, [0-9.]+ MB/s$"
  end

  test "a bridge that does not start is an error" do
    assert {:error, %Error{type: :process_crashed, message: message}} =
             Bench.run(python: "/no/such/python")

    assert message =~ "/no/such/python is not an executable file"
  end
end
