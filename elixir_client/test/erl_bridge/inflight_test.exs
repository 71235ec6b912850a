defmodule ErlBridge.InflightTest do
  use ExUnit.Case, async: true
  doctest ErlBridge.Inflight

  alias ErlBridge.{Inflight, Protocol}

  test "each request gets an id of its own" do
    {ids, _inflight} =
      Enum.map_reduce(1..100, Inflight.new(), fn _n, inflight ->
        {id, inflight} = Inflight.add(inflight, request())
        {id, inflight}
      end)

    assert ids == Enum.to_list(256..355)
  end

  test "ids start again after the last, past those still taken" do
    {first, inflight} = Inflight.add(Inflight.new(), request())
    {last, inflight} = Inflight.add(%{inflight | next_id: 0x7FFFFFFF}, request())
    {next, _inflight} = Inflight.add(inflight, request())

    assert {first, last, next} == {Protocol.first_id(), 0x7FFFFFFF, Protocol.first_id() + 1}
  end

  test "a request is found by where its reply goes, and by its caller's monitor" do
    request = request()
    {id, inflight} = Inflight.add(Inflight.new(), request)

    assert Inflight.id_of(inflight, :reply_to, request.reply_to) == id
    assert Inflight.id_of(inflight, :monitor, request.monitor) == id
    assert Inflight.awaited(inflight) == [request]
  end

  test "all that a process waits for is found by it" do
    {one, inflight} = Inflight.add(Inflight.new(), request())
    {_other, inflight} = Inflight.add(inflight, %{request() | caller: spawn(fn -> :ok end)})
    {two, inflight} = Inflight.add(inflight, request())
    {_own, inflight} = Inflight.add(inflight, %{bytes: nil})

    assert Enum.sort(Inflight.ids_of(inflight, self())) == [one, two]
  end

  test "a finished request leaves nothing behind" do
    {id, inflight} = Inflight.add(Inflight.new(), request())
    inflight = Inflight.add_task(inflight, self(), id, 1)
    {_request, [_task], inflight} = Inflight.finish(inflight, id)

    assert inflight == %{Inflight.new() | next_id: id + 1}
  end

  test "an abandoned request keeps its id, and nothing else, until Python has answered" do
    request = request()
    {id, inflight} = Inflight.add(Inflight.new(), request)

    assert {^request, [], inflight} = Inflight.abandon(inflight, id)
    assert Inflight.request(inflight, id) == nil
    assert Inflight.awaited(inflight) == []
    assert Inflight.id_of(inflight, :reply_to, request.reply_to) == nil

    assert {other, inflight} = Inflight.add(%{inflight | next_id: id}, request())
    assert other != id

    assert {%{bytes: 10}, [], inflight} = Inflight.finish(inflight, id)
    assert {^id, _inflight} = Inflight.add(%{inflight | next_id: id}, request())
  end

  test "a reply to nothing known changes nothing" do
    {_id, inflight} = Inflight.add(Inflight.new(), request())

    assert Inflight.finish(inflight, 9999) == {nil, [], inflight}
  end

  test "tasks belong to their request and end with it" do
    [one, two, other] = for _n <- 1..3, do: spawn(fn -> :ok end)
    {id, inflight} = Inflight.add(Inflight.new(), request())
    {other_id, inflight} = Inflight.add(inflight, request())

    inflight =
      inflight
      |> Inflight.add_task(one, id, 1)
      |> Inflight.add_task(two, id, 2)
      |> Inflight.add_task(other, other_id, 3)

    assert {2, inflight} = Inflight.pop_task(inflight, two)
    assert {nil, inflight} = Inflight.pop_task(inflight, two)
    assert {_request, [^one], inflight} = Inflight.finish(inflight, id)
    assert {nil, inflight} = Inflight.pop_task(inflight, one)
    assert {3, _inflight} = Inflight.pop_task(inflight, other)
  end

  test "the worker's own requests are awaited by nobody" do
    {id, inflight} = Inflight.add(Inflight.new(), %{bytes: nil})

    assert Inflight.request(inflight, id) == nil
    assert Inflight.awaited(inflight) == []
    assert {%{bytes: nil}, [], inflight} = Inflight.finish(inflight, id)
    assert inflight == %{Inflight.new() | next_id: id + 1}
  end

  defp request do
    %{
      reply_to: make_ref(),
      caller: self(),
      monitor: make_ref(),
      bytes: 10,
      events?: false,
      callbacks: %{},
      deadline: :infinity
    }
  end
end
