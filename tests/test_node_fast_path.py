"""The compiled fast path of a node against the Python that it stands for: the same bytes for the same calls."""

from __future__ import annotations

import itertools
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import a, request
from test_etf_roundtrip import terms
from test_fast_path import app

from erl_bridge import Pid, Reference, etf
from erl_bridge.app import table
from erl_bridge.dispatch import Dispatcher
from erl_bridge.framing import FrameReader
from erl_bridge.handlers import builtin
from erl_bridge.jobs.runner import JobRunner
from erl_bridge.node.bridge import NodeBridge
from erl_bridge.node.connection import Connection
from erl_bridge.node.loop import Loop
from erl_bridge.node.meet import Met
from erl_bridge.node.node import Node, Settings
from erl_bridge.timers import Timers
from erl_bridge.wire import capabilities, dist, gen
from erl_bridge.wire.handshake import Peer

pytestmark = pytest.mark.skipif(etf.backend != "compiled", reason="the fast path is not built")

PEER, OWN, NAME = a("ex@127.0.0.1"), "py@127.0.0.1", a("erl_bridge")
CALLER = Pid(PEER, 100, 0, 7)
ALL = capabilities.OURS
FLAGS = {
    "all": ALL,
    "no ALTACT_SIG": ALL & ~capabilities.ALTACT_SIG,
    "no ALIAS": ALL & ~capabilities.ALTACT_SIG & ~capabilities.ALIAS,
}


class Socket:
    """Gives the bytes that it has and keeps those that it gets."""

    def __init__(self) -> None:
        self.given = b""
        self.got: list[bytes] = []

    def setblocking(self, blocking: bool) -> None:
        assert not blocking

    def fileno(self) -> int:
        return 0

    def recv(self, size: int) -> bytes:
        data, self.given = self.given, b""
        return data

    def send(self, data: bytes) -> int:
        self.got.append(bytes(data))
        return len(data)

    def sendmsg(self, parts: list[bytes]) -> int:
        return sum(map(self.send, parts))

    def close(self) -> None:
        self.given = b""


class Served:
    """A node that one other is connected to, without an operating system."""

    def __init__(self, quick: bool, flags: int = ALL) -> None:
        timers = Timers()
        self.dispatcher = Dispatcher(table(builtin(dspy=False), app), jobs=JobRunner(timers, dspy=False), timers=timers)
        self.loop = Loop(lambda: False, 0.0)
        self.node = Node(Settings(OWN, b"cookie", use_epmd=False), self.loop, timers, on_up=lambda: self.bridge.begin())
        self.bridge = NodeBridge(self.node, self.dispatcher, {})
        self.node._become(OWN, 5)
        self.socket = Socket()
        self.loop.call(self._connect)
        self.flags = flags
        self._serve()
        assert (self.bridge._fast_path is not None) == (etf.backend == "compiled")
        if not quick:
            self.bridge._fast_path = None

    def _connect(self) -> None:
        self.loop.watch = lambda *_: None  # type: ignore[method-assign]
        self.node._install(Met(self.socket, Peer(str(PEER), self.flags, 7, OWN, 5), b""))  # type: ignore[arg-type]

    def _serve(self) -> None:
        """What is to be done in the loop, until it is stopped by what comes last."""
        self.loop.stop()
        self.loop._running = True
        self.loop.run()

    @property
    def connection(self) -> Connection:
        found = self.node.connection(PEER)
        assert found is not None
        return found

    def answers(self, *calls: bytes) -> list[bytes]:
        """The frames that answer those of calls."""
        self.socket.got.clear()
        self.socket.given = b"".join(calls)
        connection = self.connection
        self.loop.call(lambda: connection.on_ready(1))
        self._serve()
        return [frame for frame in FrameReader().feed(b"".join(self.socket.got)) if isinstance(frame, bytes)]


def call(asked: Any, number: int = 1) -> bytes:
    """The frames of a call: what it asks is a term, or the bytes of one without a version byte."""
    reference = Reference(PEER, 7, (number, 2, 3))
    head = etf.encode((gen.CALL, (CALLER, gen.alias_tag(reference)), None))[:-5]
    payload = head + (asked if isinstance(asked, bytes) else etf.encode(asked)[1:])
    return b"".join(
        b"".join(dist.frames(ALL, etf.encode(control), data, 1))
        for control, data in (((19, CALLER, NAME, reference), b""), ((6, CALLER, a(""), NAME), payload))
    )


def agree(*asked: Any, flags: int = ALL) -> list[Any]:
    """The answers to calls, which are the same bytes with the fast path and without."""
    frames = [call(one, number) for number, one in enumerate(asked, 1)]
    fast = Served(True, flags).answers(*frames)
    assert fast == Served(False, flags).answers(*frames)
    reader = dist.Receiver(a(OWN), flags, 1 << 24)
    return [signal.payload() for frame in fast if (signal := reader.receive(frame)) is not None]


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
def test_calls_that_are_answered_at_once_are_answered_alike(flags: int) -> None:
    without_id = {a("request_type"): a("ping"), a("payload"): {"n": 1}}
    got = agree(
        request(7, "ping"),
        without_id,
        {"message_id": 1, **without_id},
        request(8, "see", timeout_ms=5_000),
        flags=flags,
    )
    assert [answer[1][0] for answer in got] == [a("ok")] * 4
    assert [gen.reference_in(tag) for tag, _ in got] == [Reference(PEER, 7, (n, 2, 3)) for n in range(1, 5)]


def test_calls_that_are_no_common_requests_are_refused_alike() -> None:
    whole = request(1, "echo")
    odd = [{a("more"): 1}, {a("payload"): 5}, {a("metadata"): 5}]
    got = agree([1], {}, 7, request(1, "nowhere"), *({**whole, **one} for one in odd), b"m\0")
    assert [answer[1][0] for answer in got] == [a("error")] * 8


def test_what_handlers_do_wrong_is_told_alike() -> None:
    wrong = [request(1, "fail", {"best": 1}), request(2, "invent"), request(3, "object")]
    got = agree(*wrong, request(4, "echo", {"n": 2}))
    assert [answer[1][0] for answer in got] == [a("error"), a("error"), a("error"), a("ok")]


def test_events_of_a_request_go_before_its_answer() -> None:
    got = agree(request(1, "tell"), request(2, "echo"))
    assert [message[0] for message in got[:2]] == [a("erl_bridge")] * 2
    assert [message[1] for message in got[2:]] == [(a("ok"), "told"), (a("ok"), {})]


@pytest.mark.parametrize("size", [0, 4000, 65_500, 65_528, 65_529, 65_530, 65_531, 65_532, 65_540, 200_000])
def test_large_answers_go_in_fragments_alike(size: int) -> None:
    [(_, answer)] = agree(request(1, "large", {a("size"): size}))
    assert len(answer[1]) == size


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["ping", "echo", "see", "nowhere"]), terms()), max_size=4))
def test_any_calls_are_answered_alike(calls: list[tuple[str, Any]]) -> None:
    agree(*(request(n, name, {"payload": payload}) for n, (name, payload) in enumerate(calls)))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_calls_are_answered_alike(data: st.DataObject) -> None:
    asked = bytearray(etf.encode(request(1, "echo", {"n": 1.5, a("list"): [1, "two", None]}))[1:])
    for _ in range(data.draw(st.integers(1, 3))):
        asked[data.draw(st.integers(0, len(asked) - 1))] = data.draw(st.integers(0, 255))
    agree(bytes(asked), request(2, "echo"))


@pytest.fixture
def served() -> Served:
    return Served(True)


def test_a_server_that_drains_takes_no_inline_requests(served: Served) -> None:
    served.dispatcher._stop_taking()
    reader = dist.Receiver(a(OWN), ALL, 1 << 20)
    frames = served.answers(call(request(1, "echo")), call(request(2, "ping")))
    assert [signal.payload()[1][0] for frame in frames if (signal := reader.receive(frame))] == [a("error"), a("ok")]


def test_nothing_is_kept_of_what_was_answered(served: Served) -> None:
    calls = [
        call(asked)
        for asked in (
            request(1, "echo", {"n": [1, "two"]}),
            {a("request_type"): a("ping")},
            request(2, "fail"),
            request(3, "nowhere"),
            request(4, "large", {a("size"): 200_000}),
            [5],
        )
    ]

    def serve_all() -> int:
        for _ in range(200):
            assert len(served.answers(*calls)) >= len(calls)
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        sizes = [serve_all() for _ in range(5)]
        assert min(later - earlier for earlier, later in itertools.pairwise(sizes)) < 16 * 200
    finally:
        tracemalloc.stop()
