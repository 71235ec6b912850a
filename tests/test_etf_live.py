"""A real Erlang and a real Elixir against the codec.

Each starts Python as a port with packets of 4 bytes and sends it terms, and bytes that may be none; Python decodes what
comes and sends it back encoded, or says why it refuses it. The BEAM compares what comes back with ``=:=``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from erl_bridge.etf import backends

ECHO = """
import sys
from erl_bridge.etf import DecodeError, backends

codec = backends.load(sys.argv[1])
read, write = sys.stdin.buffer.read, sys.stdout.buffer.write
while head := read(4):
    try:
        answer = b"y" + codec.encode(codec.decode(read(int.from_bytes(head, "big"))))
    except DecodeError as error:
        answer = b"n" + str(error).encode()
    write(len(answer).to_bytes(4, "big") + answer)
    sys.stdout.buffer.flush()
"""

ERLANG = r"""
main([Python, Echo, Codec, Terms, Mutations]) ->
    Port = open_port({spawn_executable, Python}, [{args, [Echo, Codec]}, {packet, 4}, binary, exit_status]),
    rand:seed(exsss, {1, 2, 3}),
    Funs = funs(),
    Bad = [terms(Port, Funs) || _ <- lists:seq(1, list_to_integer(Terms))],
    Wrong = [mutation(Port) || _ <- lists:seq(1, list_to_integer(Mutations))],
    {Accepted, Refused} = {length([a || accepted <- Wrong]), length([r || refused <- Wrong])},
    case {[B || B <- Bad, B =/= ok], [W || W <- Wrong, W =/= accepted, W =/= refused]} of
        {[], []} -> io:format("~p terms ~p accepted ~p refused~n", [length(Bad), Accepted, Refused]);
        {B, W} ->
            [Smallest | _] = lists:sort(fun(X, Y) -> erts_debug:flat_size(X) =< erts_debug:flat_size(Y) end, B ++ W),
            io:format("~p are wrong, one of them: ~0tp~n", [length(B ++ W), Smallest]),
            halt(1)
    end.

%% A random term, written in one of the ways there are, must come back as it went.
terms(Port, Funs) ->
    Term = term(4, Funs),
    Options = pick([[], [compressed], [{minor_version, 0}], [{minor_version, 1}], [{minor_version, 2}]]),
    case ask(Port, term_to_binary(Term, Options)) of
        <<"y", Back/binary>> ->
            case binary_to_term(Back) of
                Term -> ok;
                Other -> {sent, Term, came, Other}
            end;
        <<"n", Why/binary>> -> {sent, Term, refused, Why}
    end.

%% Bytes with some of them changed: Python accepts what the BEAM accepts, as the same term, and refuses what it refuses.
%% Not compared: bytes after a term, which the BEAM ignores, also after and in a compressed one; tags 73 to 76, by which
%% it refers to its own tables; and what is of this node, of which it knows what there can be.
mutation(Port) ->
    Data = mutated(rand:uniform(3), term_to_binary(term(3, none), pick([[], [compressed], [{minor_version, 2}]]))),
    case {ask(Port, Data), try binary_to_term(Data, [used]) catch error:badarg -> refused end} of
        {<<"n", _/binary>>, refused} -> refused;
        {<<"n", _/binary>>, {_, Used}} when Used =/= byte_size(Data) -> refused;
        {<<"n", Why/binary>>, {Term, _}} ->
            Internal = binary:match(Why, [<<"format, got 7", Digit>> || Digit <- "3456"]),
            case Data of
                <<131, 80, _/binary>> -> refused;
                _ when Internal =/= nomatch -> refused;
                _ -> {mutated, Data, refused, Why, but, Term}
            end;
        {<<"y", Back/binary>>, {Term, _}} ->
            case {binary_to_term(Back), binary_to_term(Data)} of
                {Term, _} -> accepted;
                {_, Again} when Again =/= Term -> accepted;  % see external/1
                {Other, _} -> {mutated, Data, is, Term, came, Other}
            end;
        {<<"y", _/binary>>, refused} -> {mutated, Data, accepted}
    end.

mutated(0, Data) -> Data;
mutated(N, Data) ->
    At = rand:uniform(byte_size(Data) - 1),
    <<Before:At/binary, Old, After/binary>> = Data,
    New = pick([rand:uniform(256) - 1, Old bxor (1 bsl (rand:uniform(8) - 1)), 0, 255, 106, pick(lists:seq(97, 120))]),
    mutated(N - 1, <<Before/binary, New, After/binary>>).

ask(Port, Data) ->
    port_command(Port, Data),
    receive
        {Port, {data, Answer}} -> Answer;
        {Port, {exit_status, Status}} -> io:format("Python ended with ~p at ~0p~n", [Status, Data]), halt(1)
    end.

pick(List) -> lists:nth(rand:uniform(length(List)), List).

many(Most, Make) -> [Make() || _ <- lists:seq(1, rand:uniform(Most + 1) - 1)].

term(0, Funs) -> leaf(rand:uniform(16), Funs);
term(Depth, Funs) ->
    Inner = fun() -> term(Depth - 1, Funs) end,
    case rand:uniform(10) of
        1 -> many(5, Inner);
        2 -> list_to_tuple(many(5, Inner));
        3 -> maps:from_list(many(5, fun() -> {Inner(), Inner()} end));
        4 -> [Inner(), Inner() | leaf(rand:uniform(13), Funs)];
        5 -> many(20, fun() -> rand:uniform(256) - 1 end);
        6 -> maps:from_list(many(rand:uniform(40), fun() -> {leaf(rand:uniform(16), Funs), Depth} end));
        7 -> lists:duplicate(rand:uniform(20), leaf(rand:uniform(16), Funs));
        _ -> leaf(rand:uniform(16), Funs)
    end.

leaf(1, _) -> rand:uniform(600) - 300;
leaf(2, _) -> sign() * rand:uniform(1 bsl rand:uniform(70));
leaf(3, _) -> sign() * rand:uniform(1 bsl rand:uniform(3000));
leaf(4, _) -> sign() * rand:uniform();
leaf(5, _) -> sign() * (1 + rand:uniform()) * math:pow(2, rand:uniform(2000) - 1000);
leaf(6, _) -> pick([true, false, nil, undefined, ok, '', 'λ', 'ä', 'Elixir.Enum', '__struct__', 'a b']);
leaf(7, _) -> list_to_atom(many(4, fun() -> pick([0, 16#3B1, 16#1F600]) + rand:uniform(20) end));
leaf(8, _) -> list_to_binary(many(20, fun() -> rand:uniform(256) - 1 end));
leaf(9, _) -> unicode:characters_to_binary(many(10, fun() -> pick("abcżółć日本🐍") end));
leaf(10, _) -> Size = rand:uniform(30), <<(rand:uniform(1 bsl Size)):Size>>;
leaf(11, none) -> external(rand:uniform(7));
leaf(11, _) -> pick([make_ref(), self(), hd(erlang:ports()), external(rand:uniform(7))]);
leaf(12, _) -> pick([1, 1.0, true, 0, 0.0, false, <<"a">>, a]);
leaf(13, _) -> pick([1 bsl 31, -(1 bsl 31), (1 bsl 31) - 1, 255, 256, -1, 1 bsl 63, 1 bsl 64, 1 bsl 2040, 1.0e-310]);
leaf(14, none) -> external(rand:uniform(7));
leaf(14, Funs) ->
    Make = pick(Funs),
    Make(pick([1, "ab", [], #{a => [1.5]}, {<<"x">>, make_ref()}, fun lists:map/2, Make(2)]));
leaf(15, _) -> pick([fun lists:map/2, fun erlang:now/0, fun 'Elixir.Foo':bar/255]);
leaf(16, _) -> pick([[], {}, #{}, "", "abc", [0], [256]]).

sign() -> pick([1, -1]).
word() -> pick([rand:uniform(1 bsl 32) - 1, 0, 1 bsl 18, 1 bsl 28]).

%% Pids, ports and references of other nodes, with the tags of all ages. No references of one word: OTP 25 does not find
%% those again in maps of more than 32 keys, so that a map that it reads twice is not equal to itself.
external(Kind) ->
    Node = pick([<<100, 0, 3, "n@h">>, <<115, 3, "n@h">>, <<119, 5, 195, 164, "@h", 49>>, <<118, 0, 3, "m@h">>]),
    Words = [<<(word()):32>> || _ <- lists:seq(0, rand:uniform(4))],
    OldWords = [<<(rand:uniform(1 bsl 18) - 1):32>> | tl(Words)],
    Data = case Kind of
        1 -> [88, Node, <<(word()):32, (word()):32, (word()):32>>];
        2 -> [103, Node, <<(word()):32, (word()):32, 3>>];
        3 -> [89, Node, <<(word()):32, (word()):32>>];
        4 -> [120, Node, <<(word()):32, (word()):32, (word()):32>>];
        5 -> [102, Node, <<(word()):32, 2>>];
        6 -> [<<90, (length(Words)):16>>, Node, <<(word()):32>>, Words];
        7 -> [<<114, (length(OldWords)):16>>, Node, 1, OldWords]
    end,
    binary_to_term(iolist_to_binary([131, Data])).

%% Closures of a module that is compiled here, so that their environments are small.
funs() ->
    Text = ["-module(closures).", "-export([funs/0]).",
            "funs() -> [fun(X) -> fun(Y) -> {X, Y} end end, fun(X) -> fun() -> X end end,"
            "           fun(X) -> fun(A, B) -> [X, A | B] end end]."],
    Forms = [begin
                 {ok, Tokens, _} = erl_scan:string(Line),
                 {ok, Form} = erl_parse:parse_form(Tokens),
                 Form
             end || Line <- Text],
    {ok, closures, Code} = compile:forms(Forms),
    {module, closures} = code:load_binary(closures, "closures.beam", Code),
    closures:funs().
"""

ELIXIR = r"""
[python, echo, codec] = System.argv()
port = Port.open({:spawn_executable, python}, [{:args, [echo, codec]}, {:packet, 4}, :binary, :exit_status])

defmodule User do
  defstruct [:name, :born]
end

zone = %{time_zone: "Europe/Warsaw", zone_abbr: "CEST", utc_offset: 3600, std_offset: 3600}
warsaw = Map.merge(~U[2024-07-01 10:00:00.123Z], zone)

terms = [
  ~D[2024-02-29], ~D[-0001-01-01], ~D[9999-12-31], ~T[23:59:59], ~T[01:02:03.4], ~T[00:00:00.000000],
  ~N[2024-01-01 00:00:00], ~N[2024-01-01 00:00:00.12], ~N[0000-01-01 00:00:00], ~U[2024-01-01 00:00:00Z],
  DateTime.utc_now(), DateTime.utc_now() |> DateTime.truncate(:millisecond), warsaw, NaiveDateTime.utc_now(),
  MapSet.new(), MapSet.new([1, :a, "b", {1, 2}]), MapSet.new([1, 1.0]), MapSet.new([[1], %{}]),
  MapSet.new([MapSet.new([1])]), MapSet.new([:__struct__, :map]), 1..10, 1..10//3, 10..1//-1, 1..0//1, 5..1,
  struct(User, name: "x", born: ~D[2000-01-01]), %{~D[2024-01-01] => 1, ~U[2024-01-01 00:00:00Z] => 2},
  %{~U[2024-01-01 00:00:00Z] => 1, ~U[2024-01-01 00:00:00.000Z] => 2}, Time.utc_now(), [{:a, 1}, b: 2],
  'charlist', ~r/a+/, %{:a => 1, "a" => 2, 'a' => 3}, &String.upcase/1, self(), make_ref(), URI.parse("http://a/b"),
  Date.range(~D[2024-01-01], ~D[2024-01-02]), ~D[2024-01-01] |> Map.put(:calendar, Other),
  %{~T[12:00:00] | second: 60}, "\xFF" <> "żółć", <<1::3>>, -0.0, nil
]

for term <- terms do
  Port.command(port, :erlang.term_to_binary(term))
  receive do
    {^port, {:data, "y" <> back}} ->
      came = :erlang.binary_to_term(back)
      if came !== term, do: exit({:sent, term, :came, came})

    {^port, {:data, "n" <> why}} -> exit({:sent, term, :refused, why})
    {^port, other} -> exit({:sent, term, other})
  end
end

IO.puts("#{length(terms)} terms")
"""

each_codec = pytest.mark.parametrize("codec", backends.names())


def run(tmp_path: Path, program: str, script: str, suffix: str, *arguments: str) -> str:
    (tmp_path / "echo.py").write_text(ECHO, encoding="utf-8")
    (tmp_path / f"live.{suffix}").write_text(script, encoding="utf-8")
    command = [program, str(tmp_path / f"live.{suffix}"), sys.executable, str(tmp_path / "echo.py"), *arguments]
    result = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", timeout=100, env=ENVIRONMENT
    )
    assert result.returncode == 0, f"{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    return result.stdout


PROJECT = Path(backends.__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONIOENCODING": "utf-8", "LC_ALL": "C.UTF-8"}


@pytest.mark.skipif(not shutil.which("escript"), reason="no Erlang")
@each_codec
def test_random_terms_of_a_real_erlang(codec: str, tmp_path: Path) -> None:
    script = f"#!/usr/bin/env escript\n%% -*- coding: utf-8 -*-\n%%! -hidden\n-mode(compile).\n{ERLANG}"
    counts = run(tmp_path, "escript", script, "escript", codec, "2000", "4000").split()
    assert (counts[0], int(counts[2]) > 1000, int(counts[4]) > 1000) == ("2000", True, True)


@pytest.mark.skipif(not shutil.which("elixir"), reason="no Elixir")
@each_codec
def test_the_structs_of_a_real_elixir(codec: str, tmp_path: Path) -> None:
    assert run(tmp_path, "elixir", ELIXIR, "exs", codec).split()[1] == "terms"
