"""The compiled fast path of a Port against the Python that it stands for: the same answers to the same bytes."""

from __future__ import annotations

import fcntl
import gc
import itertools
import os
import select
import signal
import termios
import threading
import tracemalloc
import tty
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import DEADLINE, BridgeProcess, a, keys, request
from test_etf_roundtrip import terms

from erl_bridge import Bridge, Context, etf
from erl_bridge.app import table
from erl_bridge.dispatch import Dispatcher
from erl_bridge.error_map import MESSAGE
from erl_bridge.framing import FrameReader, pack
from erl_bridge.handlers import builtin
from erl_bridge.jobs.runner import JobRunner
from erl_bridge.session import Session
from erl_bridge.timers import Timers
from erl_bridge.transports import fast_path
from erl_bridge.transports.base import WRITE_SIZE, Outbox, serve
from erl_bridge.transports.port import LARGE_READ_SIZE, PortTransport, processors
from erl_bridge.transports.spinner import FIRST_PAUSE

MAX_FRAME = 200_000

pytestmark = pytest.mark.skipif(etf.backend != "compiled", reason="the fast path is not built")

app = Bridge()


@app.handler("echo", run="inline")
def echo(payload: Any, context: Context) -> Any:
    return payload


@app.handler("large", run="inline")
def large(payload: Any, context: Context) -> bytes:
    return b"\xff" * int(payload[a("size")])


@app.handler("fail", run="inline")
def fail(payload: Any, context: Context) -> None:
    context.checkpoint(payload)
    raise ValueError("no")


@app.handler("invent", run="inline")
def invent(payload: Any, context: Context) -> Any:
    return {"deep": [a("an atom that nobody sent")]}


@app.handler("object", run="inline")
def an_object(payload: Any, context: Context) -> Any:
    return [object()]


@app.handler("tell", run="inline")
def tell(payload: Any, context: Context) -> str:
    context.progress(done=1, total=2)
    context.log("info", "half")
    return "told"


@app.handler("ask", run="inline")
def ask(payload: Any, context: Context) -> Any:
    return context.call("f", [payload])


kept: list[Context] = []


@app.handler("keep", run="inline")
def keep(payload: Any, context: Context) -> None:
    kept.append(context)


@app.handler("use_kept", run="inline")
def use_kept(payload: Any, context: Context) -> Any:
    """Tell something of a request that has been answered."""
    kept.pop().progress(done=1)


@app.handler("see", run="inline")
def see(payload: Any, context: Context) -> Any:
    due = context.remaining()
    return [context.message_id, context.request_type, context.metadata, due is not None and due > 0, context.trace]


def answers(data: bytes, quick: bool, spin_us: int = 0) -> list[bytes]:
    """The frames that a bridge gives for the bytes, after hello; those of one request in their order."""
    (ours, theirs), (back, away) = os.pipe(), os.pipe()
    timers = Timers()
    dispatcher = Dispatcher(
        table(builtin(dspy=False), app), jobs=JobRunner(timers, dspy=False), timers=timers, on_shutdown=lambda: None
    )
    transport = PortTransport(ours, away, spin_us)
    got: list[bytes] = []
    threads = [threading.Thread(target=send, args=(theirs, data)), threading.Thread(target=collect, args=(back, got))]
    for thread in threads:
        thread.start()
    ways = {"fast_path": partial(fast_path.of, transport)} if quick else {}
    serve(transport, Session(max_frame=MAX_FRAME), dispatcher, {}, **ways)
    os.close(away)
    for thread in threads:
        thread.join(DEADLINE)
    for descriptor in (ours, back):
        os.close(descriptor)
    frames = FrameReader(MAX_FRAME + 100_000).feed(b"".join(got))
    return [frame for frame in frames if isinstance(frame, bytes)][1:]


def send(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.close(descriptor)


def collect(descriptor: int, into: list[bytes]) -> None:
    while data := os.read(descriptor, 1 << 20):
        into.append(data)


def by_request(frames: list[bytes]) -> dict[Any, list[Any]]:
    """The answers by the id of their request: requests may be answered in any order."""
    found: dict[Any, list[Any]] = {}
    for frame in frames:
        tag, message_id, *rest = etf.decode(frame)
        found.setdefault(repr(message_id), []).append((tag, *rest))
    return found


def agree(*requests: Any, tail: bytes = b"") -> dict[Any, list[Any]]:
    """The answers to requests (terms, or the bytes of frames), which are the same with the fast path and without."""
    data = b"".join(one if isinstance(one, bytes) else pack(etf.encode(one)) for one in requests) + tail
    fast = by_request(answers(data, quick=True))
    assert fast == by_request(answers(data, quick=False))
    return fast


def test_what_is_answered_at_once_is_answered_alike() -> None:
    got = agree(
        request(1, "ping", {a("a"): [1, "two", b"\xff"]}),
        request((a("x"), 2), "echo", {"text": "text"}),
        {a("message_id"): 3, a("request_type"): a("echo"), a("payload"): {}},
        {**request(4, "see", timeout_ms=60_000, traceparent="00-1"), a("timestamp"): 5},
        request(None, "echo"),
    )
    assert got["1"] == [(a("ok"), {a("a"): [1, "two", b"\xff"]})]
    assert got["4"] == [
        (a("ok"), [4, "see", {a("timeout_ms"): 60_000, a("traceparent"): "00-1"}, True, {"traceparent": "00-1"}])
    ]


def test_what_is_no_common_request_is_refused_or_served_alike() -> None:
    whole = request(1, "echo", {"n": 1})
    got = agree(
        [1, 2],
        {},
        {"message_id": 2, "request_type": "echo", "payload": {"n": 1}},
        {**whole, a("message_id"): 3, a("more"): 1},
        {**whole, a("message_id"): 4, a("payload"): 5},
        {**whole, a("message_id"): 5, a("payload"): None},
        {**whole, a("message_id"): 6, a("metadata"): "none"},
        {**whole, a("message_id"): 7, a("metadata"): None},
        {**whole, a("message_id"): 8, a("request_type"): 8},
        {**whole, a("message_id"): 9, a("request_type"): ""},
        *({**whole, a("message_id"): n, a("metadata"): {a("timeout_ms"): given}} for n, given in TIMEOUTS.items()),
        {**whole, a("message_id"): 30, a("metadata"): {"timeout_ms": "soon"}},
        {**whole, a("message_id"): 31, a("metadata"): {"timeout_ms": 60_000}},
        {key: value for key, value in whole.items() if key is not a("message_id")},
        request(32, "nowhere"),
        request(33, "cancel", {"message_id": 99}),
        request(34, "cancel", {"wrong": 99}),
    )
    assert {number: reply[0][0] for number, reply in got.items()} == {
        "None": a("error"),
        **{
            str(number): a("ok" if number in SERVED else "error")
            for number in (*range(2, 10), *TIMEOUTS, *range(30, 35))
        },
    }


TIMEOUTS = dict(enumerate([0, 1, 2**32 - 1, 2**32, -1, 2**70, 1.5, True, "1", None], 10))
SERVED = {2, 5, 7, 11, 12, 19, 31, 33}


def test_what_a_handler_does_wrong_is_told_alike() -> None:
    wrong = [request(1, "fail", {"best": 1}), request(2, "invent"), request(3, "object"), request(4, "ask")]
    got = agree(*wrong, request(5, "keep"), request(6, "use_kept"), request(7, "echo"))
    told = {number: reply[0] for number, (reply,) in got.items()}
    assert told == dict.fromkeys("12346", a("error")) | dict.fromkeys("57", a("ok"))
    assert keys(keys(got["1"][0][1])["context"])["best"] == {"best": 1}


def test_events_of_a_request_go_before_its_answer() -> None:
    got = agree(request(1, "echo"), request(2, "tell"), request(3, "tell"))
    assert [kind for kind, _ in got["2"]] == [a("event"), a("event"), a("ok")] == [kind for kind, _ in got["3"]]


@pytest.mark.parametrize("size", [0, 1, WRITE_SIZE - 1, WRITE_SIZE, 3 * WRITE_SIZE])
def test_large_results_and_many_of_them_arrive_whole(size: int) -> None:
    got = agree(*(request(n, "large", {a("size"): size}) for n in range(20)))
    assert [len(got[str(n)][0][1]) for n in range(20)] == [size] * 20


def test_frames_that_come_in_pieces_are_served_like_whole_ones() -> None:
    """More than one read takes, so that one begins in one read and ends in the next."""
    many = [request(n, "echo", {"text": "x" * (n % 7000)}) for n in range(300)]
    assert len(agree(*many, request(300, "echo", {"data": b"\xff" * 150_000}), *many[:5])) == 301


def test_frames_over_the_limit_and_bytes_that_are_no_term_cost_themselves_alone() -> None:
    def frame_of(size: int) -> bytes:
        empty = len(etf.encode(request(7, "echo", {"data": b""})))
        return pack(etf.encode(request(7, "echo", {"data": b"\xff" * (size - empty)})))

    assert len(frame_of(MAX_FRAME)) == MAX_FRAME + 4
    got = agree(
        request(1, "echo"),
        pack(b"no term"),
        pack(b""),
        request(2, "echo"),
        frame_of(MAX_FRAME),
        frame_of(MAX_FRAME + 1),
        request(3, "echo"),
    )
    assert [got[str(n)][0][0] for n in (1, 2, 3, 7)] == [a("ok")] * 4
    assert len(got["None"]) == 3
    assert b"in the middle of a frame" in b"".join(answers(pack(etf.encode(request(1, "ping")))[:-1], quick=True))
    agree(request(1, "echo"), tail=b"\0\0")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["ping", "echo", "see", "cancel", "nowhere"]), terms(), terms()), max_size=6),
    st.binary(max_size=40),
)
def test_any_requests_and_any_bytes_are_answered_alike(requests: list[tuple[str, Any, Any]], noise: bytes) -> None:
    made = [request(n, name, {"payload": payload}, extra=extra) for n, (name, payload, extra) in enumerate(requests)]
    agree(*made, pack(noise), *made[:1], tail=noise)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_requests_are_answered_alike(data: st.DataObject) -> None:
    frame = bytearray(etf.encode(request(1, "echo", {"n": 1.5, a("list"): [1, "two", None]}, timeout_ms=9)))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    agree(pack(bytes(frame)), request(2, "echo"))


# -- a bridge that waits -------------------------------------------------------------------------------------------


@contextmanager
def waiting(spin_us: int = 0) -> Iterator[tuple[PortTransport, int, int, list[bytes]]]:
    """A fast path over pipes that somebody may read in another thread; the client's ends of them."""
    (ours, theirs), (back, away) = os.pipe(), os.pipe()
    yield PortTransport(ours, away, spin_us), theirs, back, []
    for descriptor in (ours, theirs, back, away):
        os.close(descriptor)


def a_fast_path(transport: PortTransport) -> Any:
    timers = Timers()
    dispatcher = Dispatcher(table(builtin(dspy=False), app), jobs=JobRunner(timers, dspy=False), timers=timers)
    session = Session()
    outbox = Outbox(transport, session)
    path = fast_path.of(
        transport, session, dispatcher.connect(outbox.send), outbox, lambda received, message=None: None
    )
    assert path is not None
    return path


def test_a_request_whose_id_is_in_flight_is_refused() -> None:
    with BridgeProcess("--no-dspy", "--app", "handlers_app:app", cwd=os.path.dirname(__file__)) as bridge:
        bridge.send("ask_thread", {"n": 1}, message_id=1)
        call = bridge.receive()
        bridge.send("ping", message_id=1)
        refused = bridge.receive()
        assert (refused[0], "in flight already" in refused[2][MESSAGE]) == (a("error"), True)
        bridge.send("ping", {"n": 2}, message_id=2)
        assert bridge.receive() == (a("ok"), 2, {"n": 2})
        assert call[0] is a("call")


def test_nothing_is_kept_of_what_was_served() -> None:
    """Each kind of request 400 times takes no memory, once all that is kept anyhow is there: not 16 bytes a time."""
    kinds = [
        request(1, "echo", {"n": [1, "two", 3.5]}, timeout_ms=9_000),
        request(2, "fail"),
        request(3, "invent"),
        request(4, "tell"),
        request(5, "nowhere"),
        {"message_id": 6, "request_type": "echo"},
        [7],
        request(8, "large", {a("size"): 2 * WRITE_SIZE}),
    ]
    with waiting() as (transport, theirs, back, _):
        path = a_fast_path(transport)

        def serve_all(times: int) -> int:
            reader = threading.Thread(target=drain_until, args=(back, b"enough"))
            reader.start()
            for _ in range(times):
                for kind in kinds:
                    os.write(theirs, pack(etf.encode(kind)) + b"\0\0\0\1?")
                    assert path.read() == b"\0\0\0\1?"
            os.write(transport.fd_out, b"enough")
            reader.join(DEADLINE)
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            sizes = [serve_all(400) for _ in range(5)]
            assert min(later - earlier for earlier, later in itertools.pairwise(sizes)) < 16 * 400
        finally:
            tracemalloc.stop()


def drain_until(descriptor: int, end: bytes) -> None:
    tail = b""
    while not tail.endswith(end):
        tail = (tail + os.read(descriptor, 1 << 20))[-len(end) :]


def test_bytes_are_waited_for_with_a_spin_and_without() -> None:
    for spin_us in (0, 60):
        with waiting(spin_us) as (transport, theirs, back, _):
            path = a_fast_path(transport)
            os.write(theirs, pack(etf.encode(request(1, "ping"))) * (FIRST_PAUSE + 1) + b"\0")
            assert path.read() == b"\0"
            answer = FrameReader().feed(os.read(back, LARGE_READ_SIZE))
            assert [etf.decode(frame)[:2] for frame in answer if isinstance(frame, bytes)] == [(a("ok"), 1)] * (
                FIRST_PAUSE + 1
            )


def a_terminal() -> tuple[int, int]:
    """The descriptors that read and that write it, as it is: one that cannot be read without waiting."""
    theirs, ours = os.openpty()
    tty.setraw(ours)
    return ours, theirs


@pytest.mark.parametrize("ends", [os.pipe, a_terminal])
def test_a_reader_that_spins_answers_one_call_after_the_other(ends: Callable[[], tuple[int, int]]) -> None:
    calls, learned = 20, list[bool]()
    (ours, theirs), (back, away) = ends(), os.pipe()

    def call_and_go() -> None:
        for number in range(calls):
            os.write(theirs, pack(etf.encode(request(number, "echo", {"n": number}))))
            (frame,) = FrameReader().feed(os.read(back, LARGE_READ_SIZE))
            assert isinstance(frame, bytes)
            assert etf.decode(frame) == (a("ok"), number, {"n": number})
        os.close(theirs)

    transport = PortTransport(ours, away, 10_000_000)
    transport.habit.learn = learned.append  # type: ignore[method-assign, assignment]
    path = a_fast_path(transport)
    client = threading.Thread(target=call_and_go)
    client.start()
    assert path.read() == b""
    client.join(DEADLINE)
    assert learned or processors() == 1
    for descriptor in (ours, back, away):
        os.close(descriptor)


class Interrupted(BaseException):
    """What the handler of a signal raises."""


@contextmanager
def signals_once(is_time: Callable[[], object]) -> Iterator[None]:
    """Signals for this thread, whose handler raises, from the moment on when ``is_time`` returns.

    More than one: what comes just before a call to the system is not noticed before that returns.
    """

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        raise Interrupted

    def send_signals() -> None:
        is_time()
        while not over.wait(0.01):
            signal.pthread_kill(main, signal.SIGUSR1)

    main, over = threading.get_ident(), threading.Event()
    before = signal.signal(signal.SIGUSR1, interrupt)
    sender = threading.Thread(target=send_signals)
    sender.start()
    try:
        yield
    finally:
        over.set()
        sender.join(DEADLINE)
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("spin_us", [0, 10_000_000])
def test_a_signal_ends_a_wait(spin_us: int) -> None:
    """As with Ctrl-C: what the handler of a signal raises comes out of the wait."""
    with waiting(spin_us) as (transport, *_):
        path = a_fast_path(transport)
        # The lock is free once it waits.
        once_it_waits = signals_once(lambda: (transport.serving.acquire(), transport.serving.release()))
        with once_it_waits, pytest.raises(Interrupted):
            path.read()


def test_a_signal_ends_a_write_to_a_client_that_reads_nothing() -> None:
    def wait_until_it_is_full() -> None:
        have = array("i", [0])
        while have[0] < PIPE:
            fcntl.ioctl(back, termios.FIONREAD, have)

    with waiting() as (transport, theirs, back, _):
        path = a_fast_path(transport)
        os.write(theirs, pack(etf.encode(request(1, "large", {a("size"): 4 * PIPE}))))
        with signals_once(wait_until_it_is_full), pytest.raises(Interrupted):
            path.read()


PIPE = 64 * 1024  # bytes in a pipe


def test_a_client_that_goes_away_while_it_is_answered_ends_the_input() -> None:
    (ours, theirs), (back, away) = os.pipe(), os.pipe()
    path = a_fast_path(PortTransport(ours, away, 0))
    os.close(back)
    os.write(theirs, pack(etf.encode(request(1, "ping"))))
    os.close(theirs)
    assert path.read() == b""
    for descriptor in (ours, away):
        os.close(descriptor)


def test_a_full_pipe_is_waited_for() -> None:
    with waiting() as (transport, theirs, back, got):
        path = a_fast_path(transport)
        os.write(theirs, pack(etf.encode(request(1, "large", {a("size"): 4 * WRITE_SIZE}))) + b"\0")
        reading = threading.Thread(target=lambda: got.append(read_exactly(back, 4 * WRITE_SIZE)))
        assert not select.select([back], [], [], 0)[0]
        reading.start()
        assert path.read() == b"\0"
        reading.join(DEADLINE)
        assert got


def read_exactly(descriptor: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += os.read(descriptor, size)
    return data
