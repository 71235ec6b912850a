"""Bytes to requests and messages to bytes, without any I/O."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import a, keys, request

from erl_bridge import etf
from erl_bridge.errors import BridgeError, InvalidRequest
from erl_bridge.framing import pack
from erl_bridge.messages import Call, Event, Failure, Hello, Reply, Request
from erl_bridge.session import Session


def frame(term: Any) -> bytes:
    return pack(etf.encode(term))


def receive(data: bytes, **options: Any) -> list[Request | Failure]:
    return list(Session(**options).receive_data(data))


def sent(message: Any, atoms: frozenset[Any] = frozenset()) -> Any:
    header, body = Session().send(message, atoms)
    assert header + body == pack(body)
    return etf.decode(body)


def refused(term: Any) -> Failure:
    (failure,) = receive(frame(term))
    assert isinstance(failure, Failure), failure
    return failure


def test_a_request_is_read_whole() -> None:
    term = request(a("an_id"), "predict", {a("inputs"): {a("question"): "why?"}}, timeout_ms=500, source="test")
    (got,) = receive(frame(term))
    assert isinstance(got, Request)
    assert got.message_id is a("an_id")
    assert got.request_type == "predict"
    assert got.payload == {a("inputs"): {a("question"): "why?"}}
    assert got.timeout_ms == 500
    assert {a("an_id"), a("question"), a("predict")} <= got.atoms


def test_request_keys_and_the_type_may_be_strings() -> None:
    (got,) = receive(frame({"message_id": 1, "request_type": "ping", "payload": None, "metadata": {"timeout_ms": 5}}))
    assert got == Request(1, "ping", {}, metadata={"timeout_ms": 5}, timeout_ms=5)


@given(st.lists(st.sampled_from([1, "two", (3,)]), max_size=5), st.data())
def test_requests_come_out_the_same_however_the_bytes_are_cut(ids: list[Any], data: st.DataObject) -> None:
    stream = b"".join(frame(request(one, "ping")) for one in ids)
    session, out = Session(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        out += session.receive_data(stream[:size])
        stream = stream[size:]
    assert [one.message_id for one in out] == ids
    assert session.receive_end() is None


@pytest.mark.parametrize(
    ("term", "message_id", "message"),
    [
        (a("ok"), None, "request: expected a map, got :ok"),
        ([1, 2], None, "request: expected a map, got [1, 2]"),
        ({a("message_id"): 7}, 7, "request: the required key request_type is missing"),
        ({a("request_type"): a("ping")}, None, "request: the required key message_id is missing"),
        (
            {**request(7, "ping"), a("metadta"): {}},
            7,
            'request: unknown key "metadta" (did you mean "metadata"?); '
            "the keys are message_id, request_type, payload, timestamp, metadata",
        ),
        ({**request(7, "ping"), a("request_type"): 5}, 7, "request_type: expected an atom or a string, got 5"),
        (request(7, "ping", [1]), 7, "payload: expected a map, got [1]"),
        ({**request(7, "ping"), a("metadata"): "m"}, 7, 'metadata: expected a map, got "m"'),
        (request(7, "ping", timeout_ms=0), 7, "metadata.timeout_ms: expected an integer from 1 to 4294967295, got 0"),
        (
            request(7, "ping", timeout_ms=2**32),
            7,
            "metadata.timeout_ms: expected an integer from 1 to 4294967295, got 4294967296",
        ),
        (
            request(7, "ping", timeout_ms=1.5),
            7,
            "metadata.timeout_ms: expected an integer from 1 to 4294967295, got 1.5",
        ),
        (
            request(7, "ping", timeout_ms=True),
            7,
            "metadata.timeout_ms: expected an integer from 1 to 4294967295, got true",
        ),
    ],
)
def test_a_term_that_is_no_request_is_refused_with_the_id_it_had(term: Any, message_id: Any, message: str) -> None:
    failure = refused(term)
    assert failure.message_id == message_id
    assert isinstance(failure.error, InvalidRequest)
    assert failure.error.message == message


def test_garbage_is_refused_and_the_next_frame_is_served() -> None:
    good = frame(request(1, "ping"))
    out = receive(pack(b"garbage") + good + pack(b"") + pack(etf.encode(1) + b"\0") + good)
    assert [type(one) for one in out] == [Failure, Request, Failure, Failure, Request]
    for failure in (out[0], out[2], out[3]):
        assert isinstance(failure, Failure)
        assert failure.message_id is None
        assert failure.error.error_type == "serialization_error"
        assert failure.error.message.startswith("the frame is not a term: ")


def test_a_frame_over_the_limit_is_refused_and_the_next_one_is_served() -> None:
    good = frame(request(1, "ping"))
    out = receive(pack(b"x" * 2000) + good, max_frame=1000)
    assert [type(one) for one in out] == [Failure, Request]


@given(st.binary(max_size=60))
def test_no_bytes_raise(data: bytes) -> None:
    for received in receive(pack(data)):
        assert isinstance(received, (Request, Failure))


@pytest.mark.parametrize("cut", range(1, 20))
def test_an_input_that_ends_inside_a_frame_is_an_error(cut: int) -> None:
    session = Session()
    assert list(session.receive_data(frame(request(1, "ping"))[:cut])) == []
    failure = session.receive_end()
    assert failure is not None
    assert failure.error.message == f"the input ended in the middle of a frame ({cut} bytes of it came)"


def test_every_message_is_a_term_of_the_protocol() -> None:
    assert sent(Hello({"a": 1})) == (a("hello"), {"a": 1})
    assert sent(Reply(1, "x")) == (a("ok"), 1, "x")
    assert sent(Event(1, {a("kind"): a("progress")})) == (a("event"), 1, {a("kind"): a("progress")})
    assert sent(Call(5, 1, "f", [2])) == (a("call"), 5, 1, "f", [2])


def test_an_error_is_always_the_same_seven_keys() -> None:
    tag, message_id, error = sent(Failure(1, BridgeError("m", context={"k": 1}, retry_after_ms=5)))
    assert (tag, message_id) == (a("error"), 1)
    assert keys(error) == {
        "error_type": a("python_runtime_error"),
        "message": "m",
        "python_type": None,
        "traceback": None,
        "context": {"k": 1},
        "recovery_strategy": a("fallback"),
        "retry_after_ms": 5,
    }


def test_a_result_that_cannot_be_sent_is_an_error_with_its_path() -> None:
    tag, message_id, error = sent(Reply(1, {"metrics": {"score": float("nan")}}))
    assert (tag, message_id) == (a("error"), 1)
    assert error[a("error_type")] is a("serialization_error")
    assert "nan" in error[a("message")]
    assert "result.metrics.score" in error[a("message")]


def test_an_atom_that_the_client_may_not_know_is_never_sent() -> None:
    _, _, error = sent(Reply(1, {"x": a("invented_here")}))
    assert error[a("error_type")] is a("serialization_error")
    assert "invented_here" in error[a("message")]
    assert sent(Reply(1, a("invented_there")), frozenset({a("invented_there")}))[2] is a("invented_there")


def test_an_error_whose_context_cannot_be_sent_is_sent_without_it() -> None:
    _, _, error = sent(Failure(1, InvalidRequest("m", context={"k": object()})))
    assert (error[a("message")], error[a("context")]) == ("m", {})


def test_an_event_that_cannot_be_sent_raises() -> None:
    with pytest.raises(etf.EncodeError):
        Session().send(Event(1, {"k": object()}))


@pytest.mark.parametrize("timeout_ms", [1, 2**32 - 1])
def test_a_deadline_at_either_limit_is_taken(timeout_ms: int) -> None:
    (got,) = receive(frame(request(7, "ping", timeout_ms=timeout_ms)))
    assert isinstance(got, Request)
    assert got.timeout_ms == timeout_ms


def test_running_out_of_memory_over_one_frame_costs_that_frame_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*_: Any, **__: Any) -> Any:
        raise MemoryError

    session = Session()
    with monkeypatch.context() as patch:
        patch.setattr(etf, "decode", decode)
        (failure,) = session.receive_data(frame(request(1, "ping")))
    assert isinstance(failure, Failure)
    assert failure.error.error_type == "resource_exhausted"
    (good,) = session.receive_data(frame(request(1, "ping")))
    assert isinstance(good, Request)
