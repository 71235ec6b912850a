"""Conversations of BERT-RPC without any I/O: every packet of the specification, and what is none."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from bert_client import call, cast, info
from hypothesis import given
from hypothesis import strategies as st
from support import a

from erl_bridge import etf
from erl_bridge.berp import MAX_AUTH_FRAME, Asked, Conversation, Rules
from erl_bridge.errors import HandlerError, OptimizationError
from erl_bridge.framing import FrameReader, pack
from erl_bridge.messages import Call, Failure, Reply
from erl_bridge.wire.bert_rpc import PacketError, expose

ROOMS = {"app": [("embed", None), ("shop.price", 60), ("shop.stock", "validate")]}
PING = call("app", "embed", {"n": 1})


def conversation(**rules: Any) -> Conversation:
    rules = {"token": b"", "max_frame": 1000, **rules}
    ids = itertools.count(1)
    return Conversation(Rules(expose(None, ROOMS), **rules), lambda: next(ids))


def frames(*terms: Any) -> bytes:
    return b"".join(pack(etf.encode(term)) for term in terms)


def said(talk: Conversation, data: bytes) -> list[Asked | PacketError]:
    """All that comes of bytes, until nothing does or the connection is lost."""
    talk.feed(data)
    found: list[Asked | PacketError] = []
    while True:
        try:
            asked = talk.next()
        except PacketError as error:
            found.append(error)
            if error.fatal:
                return found
            continue
        if asked is None:
            return found
        found.append(asked)


def asked(*terms: Any, **rules: Any) -> Asked:
    (one,) = said(conversation(**rules), frames(*terms))
    assert isinstance(one, Asked), one
    return one


def refused(*terms: Any, **rules: Any) -> PacketError:
    (one,) = said(conversation(**rules), frames(*terms))
    assert isinstance(one, PacketError), one
    return one


def packets(data: bytes | None) -> list[Any]:
    assert data is not None
    return [etf.decode(frame) for frame in FrameReader().feed(data) if isinstance(frame, bytes)]


def answer(one: Asked, result: Any) -> list[Any]:
    return packets(one.final(Reply(None, result), one.request.atoms))


# -- calls and casts -------------------------------------------------------------------------------------------


def test_a_call_is_a_request_and_its_reply_a_reply() -> None:
    one = asked(call("app", "embed", {a("texts"): ["x"]}))
    assert (one.cast, one.request.request_type, one.request.payload) == (False, "embed", {a("texts"): ["x"]})
    assert answer(one, 5) == [(a("reply"), (a("ok"), 5))]
    assert answer(one, a("texts")) == [(a("reply"), (a("ok"), a("texts")))]
    assert asked(call("app", "embed")).request.payload == {}


def test_a_cast_is_a_request_too() -> None:
    assert asked(cast("shop", "price", {})).cast


def test_a_dictionary_of_bert_is_a_payload() -> None:
    given_dict = (a("bert"), a("dict"), [("n", (a("bert"), None))])
    assert asked(call("app", "embed", given_dict)).request.payload == {"n": None}


@pytest.mark.parametrize("args", [[1], [{}, {}], ["text"], [[("a", 1)]]])
def test_other_arguments_are_refused(args: list[Any]) -> None:
    error = refused((a("call"), a("app"), a("embed"), args))
    assert (error.type, error.code, error.fatal) == ("protocol", 0, False)
    assert "expected the arguments to be [Payload] with a map, got " in error.detail


def test_failures_are_errors_or_for_those_who_take_them_maps() -> None:
    failure = Failure(None, OptimizationError("gave up", context={a("best"): {"score": 0.5}}))
    plain = asked(PING)
    expected = (a("error"), (a("user"), 0, "dspy_optimization_error", "gave up", []))
    assert packets(plain.final(failure, set())) == [expected]
    whole = asked(info("accept", a("errors")), call("app", "embed", {a("best"): 1}))
    ((reply, (error, fields)),) = packets(whole.final(failure, {a("best")}))
    assert (reply, error) == (a("reply"), a("error"))
    found = dict(fields[2])
    assert found[a("error_type")] is a("dspy_optimization_error")
    assert found[a("recovery_strategy")] is a("fallback")
    assert dict(found[a("context")][2])[a("best")] == (a("bert"), a("dict"), [("score", 0.5)])


def test_a_result_that_cannot_be_sent_is_an_error_with_its_path() -> None:
    ((_, (kind, code, name, detail, _)),) = answer(asked(PING), {"x": [float("inf")]})
    assert (kind, code, name) == (a("user"), 0, "serialization_error")
    assert detail == "cannot encode float inf at result.x[0]: floats of the BEAM are finite"


def test_an_error_that_cannot_be_sent_whole_is_sent_without_its_context() -> None:
    one = asked(info("accept", a("errors")), PING)
    failure = Failure(None, HandlerError("odd", context={"o": object()}))
    ((_, (_, fields)),) = packets(one.final(failure, set()))
    assert dict(fields[2])[a("message")] == "odd"


# -- info --------------------------------------------------------------------------------------------------------


def test_a_callback_is_called_with_the_result() -> None:
    mfa = (a("mfa"), a("shop"), a("told"), [1, a("x")])
    one = asked(info("callback", (a("service"), "localhost:9"), mfa), cast("app", "embed", {}))
    assert one.callback is not None
    assert (one.callback.service, one.callback.mfa[2]) == ("localhost:9", [1, a("x")])
    atoms = one.request.atoms
    told = packets(one.callback_frame(Reply(None, "done"), atoms))
    assert told == [(a("cast"), a("shop"), a("told"), [1, a("x"), (a("ok"), "done")])]
    ((_, _, _, args),) = packets(one.callback_frame(Failure(None, HandlerError("no")), atoms))
    assert args[2][0] is a("error")
    ((_, _, _, args),) = packets(one.callback_frame(Reply(None, object()), atoms))
    assert dict(args[2][1][2])[a("error_type")] is a("serialization_error")


def test_a_callback_may_name_its_function_in_one_tuple() -> None:
    mfa = (a("mfa"), (a("shop"), a("told"), []))
    one = asked(info("callback", (a("service"), "h:1"), mfa), cast("app", "embed", {}))
    assert one.callback is not None
    assert one.callback.mfa[1] is a("told")


def test_results_that_may_be_kept_say_for_how_long() -> None:
    told, reply = answer(asked(call("shop", "price", {})), 5)
    assert told == (a("info"), a("cache"), [(a("access"), a("public")), (a("expiration"), 60)])
    assert reply == (a("reply"), (a("ok"), 5))


def test_results_are_validated_by_their_token() -> None:
    (_, _, pairs), reply = answer(asked(call("shop", "stock", {})), 5)
    assert reply == (a("reply"), (a("ok"), 5))
    token = dict(pairs)[a("validation")]
    again = asked(info("cache", (a("validation"), token)), call("shop", "stock", {}))
    assert answer(again, 5) == [(a("info"), a("valid"), []), (a("noreply"),)]
    (_, _, pairs), _ = answer(again, 6)
    assert dict(pairs)[a("validation")] != token
    as_atom = asked((a("info"), a("cache"), [a("validation"), a(token.decode("latin-1"))]), call("shop", "stock", {}))
    assert answer(as_atom, 5) == [(a("info"), a("valid"), []), (a("noreply"),)]


def test_who_asks_with_a_token_is_answered_so_whatever_the_function() -> None:
    for flat in ([a("validation"), "old"], [(a("validation"), "old")]):
        one = asked((a("info"), a("cache"), flat), PING)
        (_, _, pairs), _ = answer(one, 1)
        assert a("validation") in dict(pairs)


def test_ruby_sends_its_info_as_a_list_and_ernie_knows_priorities() -> None:
    assert asked([a("info"), a("cache"), [a("validation"), "t"]], PING)
    assert asked(info("priority", a("high")), PING)
    assert asked([a("info"), a("priority"), [a("low")]], PING)


# As the sources of the clients write them: the gem bertrpc, BERT-JS, bert.erl, bertrpc of PyPI.
CALL = "8368046400046361 6c6c640003617070 640005656d626564"
ONE = "6c00000001 6803 640004 62657274 640004 64696374 6c00000001 6802 6d00000001 6e 6101 6a 6a"
CACHE, VALIDATION = "640004 696e666f 640005 6361636865", "64000a 76616c69646174696f6e"
CAPTURED = {
    "ruby, with a token": (
        ["836c00000003" + CACHE + "6c00000002" + VALIDATION + "6d00000001 74 6a 6a", CALL + ONE],
        {"n": 1},
        True,
    ),
    "ruby, whose pairs are lists": (
        [CALL + "6c00000001 6803 640004 62657274 640004 64696374 6c00000001 6c00000002 6d00000001 6e 6101 6a 6a 6a"],
        {"n": 1},
        False,
    ),
    "javascript, with a float as text": (
        [CALL + "6c00000001 6803 640004 62657274 640004 64696374 6c00000001 6802 6d00000001 6e 63"
         + b"1.50000000000000000000e+00\0\0\0\0\0".hex() + "6a 6a"],
        {"n": 1.5},
        False,
    ),
    "erlang, without arguments": ([CALL + "6802 640004 62657274 640003 6e696c"], {}, False),
    "erlang, of OTP 26 and later": (
        [CALL.replace("6400", "77") + "6c00000001 7400000001 7701 6e 6101 6a"],
        {a("n"): 1},
        False,
    ),
    "python, whose token is an atom": (
        ["836803" + CACHE + "6c00000002" + VALIDATION + "640002 74ff 6a", CALL + ONE],
        {"n": 1},
        True,
    ),
    "python, with text that is not ascii": (
        [CALL + "6c00000001 6803 640004 62657274 640004 64696374 6c00000001 6802 6d00000001 6e 6804 640004 62657274"
         " 640006 737472696e67 640005 5554462d38 6d00000002 c3b6 6a 6a"],
        {"n": "ö"},
        False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CAPTURED)
def test_what_the_clients_there_are_send_is_understood(name: str) -> None:
    sent, payload, token = CAPTURED[name]
    talk = conversation()
    talk.feed(b"".join(pack(bytes.fromhex(packet)) for packet in sent))
    one = talk.next()
    assert isinstance(one, Asked)
    assert (one.request.request_type, one.request.payload) == ("embed", payload)
    # Who shows a token, a wrong one here, is told the right one.
    assert len(answer(one, 1)) == (2 if token else 1)
    assert answer(one, 1)[-1] == (a("reply"), (a("ok"), 1))


def test_bert_erl_makes_nil_of_every_empty_list() -> None:
    mfa = (a("mfa"), a("shop"), a("told"), (a("bert"), None))
    one = asked(info("callback", (a("service"), "here:1"), mfa), cast("app", "embed", {}))
    assert one.callback is not None
    assert one.callback.mfa == (a("shop"), a("told"), [])


def test_a_stream_comes_in_with_its_request() -> None:
    data = frames(info("stream"), call("app", "embed", {"n": 1})) + pack(b"abc") + pack(b"\x83 no term") + bytes(4)
    for cut in range(len(data)):
        talk = conversation()
        assert said(talk, data[:cut]) == []
        (one,) = said(talk, data[cut:])
        assert isinstance(one, Asked)
        assert one.request.payload == {"n": 1, "stream": b"abc\x83 no term"}
        assert not talk.begun


def test_a_stream_for_a_request_that_is_refused_is_read_to_its_end_first() -> None:
    data = frames(info("stream"), call("app", "no", {})) + pack(b"abc")
    talk = conversation()
    assert said(talk, data) == []
    assert talk.begun
    error, one = said(talk, bytes(4) + frames(PING))
    assert isinstance(error, PacketError)
    assert (error.code, error.fatal) == (2, False)
    assert isinstance(one, Asked)


def test_a_stream_has_a_limit_and_needs_its_place_in_the_payload() -> None:
    start = frames(info("stream"), PING)
    (one,) = said(conversation(max_stream=5), start + pack(b"abc") + pack(b"de") + bytes(4))
    assert isinstance(one, Asked)
    (error,) = said(conversation(max_stream=5), start + pack(b"abc") + pack(b"def"))
    assert isinstance(error, PacketError)
    assert error.fatal
    assert "a stream of more than 5 bytes" in error.detail
    (error,) = said(conversation(), frames(info("stream"), call("app", "embed", {a("stream"): 1})) + bytes(4))
    assert isinstance(error, PacketError)
    assert 'without the key "stream"' in error.detail


def test_a_stream_goes_out_in_chunks_to_those_who_take_it() -> None:
    one = asked(info("accept", a("streams")), PING)
    event = {a("kind"): a("stream"), a("text"): "größe"}
    found = FrameReader().feed(one.event(event, set()))
    assert [etf.decode(frame) for frame in found[:2]] == [  # type: ignore[arg-type]
        (a("info"), a("stream"), []),
        (a("reply"), (a("ok"), (a("bert"), None))),
    ]
    assert found[2] == "größe".encode()
    assert one.event({a("kind"): a("stream"), a("chunk"): b"\xff"}, set()) == pack(b"\xff")
    assert one.event({a("kind"): a("stream"), a("chunk"): b""}, set()) == b""
    assert one.event({a("kind"): a("progress")}, set()) == b""
    assert one.final(Reply(None, 5), set()) == bytes(4)
    assert one.final(Failure(None, HandlerError("no")), set()) is None


def test_events_go_to_those_who_take_them() -> None:
    event = {a("kind"): a("progress"), "n": 1}
    assert asked(PING).event(event, set()) == b""
    one = asked(info("accept", a("events"), a("errors")), PING)
    ((_, command, fields),) = packets(one.event(event, set()))
    assert command is a("event")
    assert dict(fields[2]) == {a("kind"): a("progress"), "n": 1}
    casted = asked(info("accept", a("events"), a("streams")), cast("app", "embed", {}))
    assert casted.event(event, set()) == b""


def test_calls_go_to_those_who_take_them_and_answers_and_cancels_come_before_the_next_request() -> None:
    assert not asked(PING).takes_calls
    assert not asked(info("accept", a("calls")), cast("app", "embed", {})).takes_calls
    talk = conversation()
    talk.feed(frames(info("accept", a("calls")), PING))
    one = talk.next()
    assert one is not None
    assert one.takes_calls
    ((_, command, fields),) = packets(one.call(Call(7, None, "double", [None]), set()))
    assert command is a("call")
    nil = (a("bert"), None)
    assert dict(fields[2]) == {a("call_id"): 7, a("name"): "double", a("args"): [nil]}
    answer = (a("info"), a("answer"), {a("call_id"): 7, a("result"): (a("ok"), 14)})
    talk.feed(frames(answer, info("cancel"), PING, answer, info("cancel")))
    taken = talk.next_meanwhile()
    assert taken is not None
    assert (taken.request_type, taken.payload) == ("callback_result", answer[2])
    assert taken.atoms == {a("info"), a("answer"), a("call_id"), a("result"), a("ok")}
    cancel = talk.next_meanwhile()
    assert cancel is not None
    assert cancel.request_type == "cancel"
    assert (talk.next_meanwhile(), talk.holds_next, talk.begun) == (None, True, True)
    assert isinstance(talk.next(), Asked)
    assert (talk.next(), talk.begun) == (None, False)  # the second of each is late, and no fault


def test_metadata_are_those_of_the_next_request() -> None:
    given_info = info("metadata", (a("timeout_ms"), 50), ("traceparent", "00-1-2-03"), (a("message_id"), {"my": 1}))
    first, second = said(conversation(), frames(given_info, PING, PING))
    assert isinstance(first, Asked)
    assert isinstance(second, Asked)
    assert (first.request.message_id, first.request.timeout_ms) == ({"my": 1}, 50)
    assert first.request.metadata == {"timeout_ms": 50, "traceparent": "00-1-2-03"}
    assert (second.request.message_id, second.request.timeout_ms) == ((a("bert"), 1), None)


def test_a_request_gets_no_more_time_than_the_server_gives() -> None:
    timeout = info("metadata", (a("timeout_ms"), 50))
    assert asked(PING, max_timeout_ms=20).request.timeout_ms == 20
    assert asked(timeout, PING, max_timeout_ms=20).request.timeout_ms == 20
    assert asked(timeout, PING, max_timeout_ms=60).request.timeout_ms == 50


@pytest.mark.parametrize(
    ("packet", "detail"),
    [
        (
            info("unheard_of"),
            "info expected one of auth, accept, callback, cache, stream, metadata, answer, cancel, priority, got",
        ),
        ((a("info"), a("cache"), 5), "info cache: expected a list of pairs, got 5"),
        (info("callback", (a("service"), "h:1")), "info callback: expected [{service"),
        (info("callback", (a("service"), 1), (a("mfa"), a("m"), a("f"), [])), "info callback: expected [{service"),
        (info("callback", (a("service"), "h:1"), (a("mfa"), "m", a("f"), [])), "info callback: expected [{service"),
        (
            info("accept", a("everything")),
            "info accept: expected some of calls, errors, events, streams, got [:everything]",
        ),
        ((a("info"), a("accept"), 1), "info accept: expected some of calls, errors, events, streams, got 1"),
        (info("metadata", (a("timeout_ms"), 0)), "info metadata.timeout_ms: expected an integer from 1 to 4294967295"),
        ((a("info"), 5, []), "info expected one of auth"),
    ],
)
def test_a_bad_info_is_told_as_the_answer_to_the_request_after_it(packet: Any, detail: str) -> None:
    error, one = said(conversation(), frames(packet, PING, PING))
    assert isinstance(error, PacketError)
    assert error.detail.startswith(detail)
    assert (error.type, error.fatal) == ("protocol", False)
    assert isinstance(one, Asked)


# -- tokens ------------------------------------------------------------------------------------------------------


def auth(token: Any) -> Any:
    return info("auth", (a("token"), token))


def test_with_a_token_a_connection_begins_with_it() -> None:
    first, second = said(conversation(token=b"s3cret"), frames(auth("s3cret"), PING, PING))
    assert isinstance(first, Asked)
    assert isinstance(second, Asked)
    assert asked(auth(b"\xff"), PING, token=b"\xff")
    assert asked(auth("any"), PING)  # where none is wanted


@pytest.mark.parametrize(
    "packet", [PING, auth("s3cre"), auth("s3cret2"), auth(""), auth(5), info("stream"), info("auth"), 5]
)
def test_without_it_nothing_is_done(packet: Any) -> None:
    error, *more = said(conversation(token=b"s3cret"), frames(packet, PING))
    assert isinstance(error, PacketError)
    if not error.fatal:  # an auth without a token in it is a bad info, and then the call comes without any
        (error,) = more  # type: ignore[assignment]
        assert isinstance(error, PacketError)
    assert (error.type, error.code, error.name, error.fatal) == ("server", 0, "unauthorized", True)
    assert "s3cre" not in error.detail


def test_before_it_no_large_frame_is_taken_and_after_it_one_is() -> None:
    large = call("app", "embed", {"x": "x" * MAX_AUTH_FRAME})
    error = refused(large, token=b"t", max_frame=10_000)
    assert error.name == "unauthorized"
    assert asked(auth("t"), large, token=b"t", max_frame=10_000)


# -- what is no packet -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "term",
    [5, (), [], (a("call"),), (a("call"), a("app"), a("embed")), [*PING], (a("reply"), 1), ("call", 1, 2, 3), {}, None],
)
def test_a_term_that_is_no_packet_is_refused_and_the_next_is_served(term: Any) -> None:
    error, one = said(conversation(), frames(term, PING))
    assert isinstance(error, PacketError)
    assert (error.type, error.code) == ("protocol", 0)
    assert error.detail.startswith("expected {call, Module, Function, Args}, {cast, ")
    assert isinstance(one, Asked)


@pytest.mark.parametrize("data", [b"", b"garbage", b"\x83", b"\x83j\x00", etf.encode((a("bert"), a("no")))])
def test_a_frame_that_is_no_term_costs_the_connection(data: bytes) -> None:
    (error,) = said(conversation(), pack(data) + frames(PING))
    assert isinstance(error, PacketError)
    assert (error.type, error.code, error.fatal) == ("protocol", 2, True)


def test_a_frame_over_the_limit_costs_the_connection_before_it_has_come() -> None:
    at_limit = call("app", "embed", {"x": "x" * (200 - len(etf.encode(call("app", "embed", {"x": ""}))))})
    assert len(etf.encode(at_limit)) == 200
    assert asked(at_limit, max_frame=200)
    (error,) = said(conversation(max_frame=200), bytes([0, 0, 0, 201]))
    assert isinstance(error, PacketError)
    assert (error.type, error.code, error.fatal) == ("protocol", 1, True)


@given(st.lists(st.sampled_from([PING, info("stream"), cast("app", "embed", {}), (1, 2)]), max_size=5), st.data())
def test_the_same_is_asked_however_the_bytes_are_cut(terms: list[Any], data: st.DataObject) -> None:
    stream = frames(*terms) + bytes(4)
    whole = [describe(one) for one in said(conversation(), stream)]
    talk, parts = conversation(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        parts += [describe(one) for one in said(talk, stream[:size])]
        stream = stream[size:]
    assert parts[: len(whole)] == whole


def describe(one: Asked | PacketError) -> Any:
    return (one.cast, one.request) if isinstance(one, Asked) else str(one)


def test_no_bytes_raise_anything_else() -> None:
    chance = random.Random(7)
    known = [PING, auth("t"), info("callback", (a("service"), "h:1"), (a("mfa"), a("m"), a("f"), [])), info("stream")]
    known.append(call("app", "embed", (a("bert"), a("dict"), [("n", (a("bert"), a("time"), 1, 2, 3))])))
    for _ in range(3000):
        body = bytearray(etf.encode(chance.choice(known)))
        for _ in range(chance.randint(1, 4)):
            body[chance.randrange(len(body))] = chance.choice([0, 255, 131, 104, 108, 116, chance.randrange(256)])
        for one in said(conversation(token=chance.choice([b"", b"t"])), pack(bytes(body)) + frames(PING)):
            assert isinstance(one, Asked) or packets(pack(one.external()))
