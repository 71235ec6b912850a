"""The whole server in one program, over the in-memory transport that users test with."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from support import DEADLINE, a, request

from erl_bridge import Bridge, Context, Stopped, etf
from erl_bridge.app import table
from erl_bridge.dispatch import Dispatcher
from erl_bridge.framing import FrameReader, pack
from erl_bridge.handlers import builtin, system
from erl_bridge.jobs.runner import JobRunner
from erl_bridge.lanes import Lane
from erl_bridge.messages import Reply
from erl_bridge.session import Session
from erl_bridge.timers import Timers
from erl_bridge.transports.base import WRITE_SIZE, Outbox, serve
from erl_bridge.transports.memory import MemoryTransport, pair


class InMemory:
    """A served application and the client's end of the transport."""

    def __init__(self, app: Bridge) -> None:
        self.server, self.client = pair()
        timers = Timers()
        handlers = table(builtin(dspy=False), app)
        self.dispatcher = Dispatcher(
            handlers, jobs=JobRunner(timers, dspy=False), timers=timers, on_shutdown=self.server.interrupt
        )
        hello = system.hello(handlers, self.dispatcher.capacity, 1000)
        self.thread = threading.Thread(target=serve, args=(self.server, Session(), self.dispatcher, hello), daemon=True)
        self.thread.start()
        self._frames = FrameReader()
        assert self.receive()[0] is a("hello")

    def receive(self) -> Any:
        (frame,) = self._frames.feed(self.client.read())
        assert isinstance(frame, bytes)
        return etf.decode(frame)

    def call(self, name: str, payload: Any = None) -> Any:
        self.client.write(pack(etf.encode(request(1, name, payload))))
        return self.receive()


def test_a_handler_is_served_without_a_process() -> None:
    app = Bridge()

    @app.handler("double")
    def double(payload: Any, context: Any) -> Any:
        return payload["n"] * 2

    served = InMemory(app)
    assert served.call("double", {"n": 21}) == (a("ok"), 1, 42)
    assert served.call("shutdown")[0] is a("ok")
    served.thread.join(DEADLINE)
    assert not served.thread.is_alive()


def test_what_an_inline_handler_tells_goes_out_with_its_answer() -> None:
    app, seen = Bridge(), []

    @app.handler("tell", run="inline")
    def tell(payload: Any, context: Context) -> Any:
        seen.append(context)
        context.progress(trial=1)
        context.stream(text="t")
        return "told"

    served = InMemory(app)
    served.client.write(pack(etf.encode(request(1, "tell"))))
    together = [etf.decode(frame) for frame in FrameReader().feed(served.client.read()) if isinstance(frame, bytes)]
    assert [message[0] for message in together] == [a("event"), a("event"), a("ok")]
    with pytest.raises(Stopped):
        seen[0].progress(trial=2)
    served.client.close()
    served.thread.join(DEADLINE)


def test_an_inline_handler_that_fails_gives_its_best_result_so_far() -> None:
    app = Bridge()

    @app.handler("fail", run="inline")
    def fail(payload: Any, context: Context) -> Any:
        context.checkpoint({"score": 0.5})
        raise ValueError

    served = InMemory(app)
    _, _, error = served.call("fail")
    assert error[a("context")][a("best")] == {"score": 0.5}
    served.client.close()
    served.thread.join(DEADLINE)


def test_what_the_reader_sends_is_held_until_it_is_flushed_or_much_and_what_others_send_is_not() -> None:
    here, there = pair()
    outbox = Outbox(here, Session())

    def sent() -> list[Any]:
        frames = FrameReader().feed(there.read())
        return [etf.decode(frame)[1] for frame in frames if isinstance(frame, bytes)]

    outbox.send(Reply(1, "held"), frozenset())
    other = threading.Thread(target=outbox.send, args=(Reply(2, "at once"), frozenset()))
    other.start()
    other.join(DEADLINE)
    assert sent() == [2]
    outbox.hold(Reply(3, "held"), frozenset())
    outbox.flush()
    assert sent() == [1, 3]
    outbox.send(Reply(4, "x" * WRITE_SIZE), frozenset())
    assert sent() == [4]


def test_a_sleep_lasts_as_long_as_it_should_or_until_the_work_is_stopped() -> None:
    context = Context(None, request_type="test")  # type: ignore[arg-type]
    context.sleep(0)
    timer = threading.Timer(0, context.stop)
    timer.start()
    with pytest.raises(Stopped):
        context.sleep(threading.TIMEOUT_MAX)
    timer.join(DEADLINE)
    with pytest.raises(Stopped):
        context.sleep(threading.TIMEOUT_MAX)


def test_the_end_of_the_input_stops_what_runs() -> None:
    app, started, stopped = Bridge(), threading.Event(), threading.Event()

    @app.handler("wait")
    def wait(payload: Any, context: Any) -> Any:
        started.set()
        try:
            context.call("never_answered", [])
        finally:
            stopped.set()

    served = InMemory(app)
    served.client.write(pack(etf.encode(request(1, "wait"))))
    assert started.wait(DEADLINE)
    served.client.close()
    assert stopped.wait(DEADLINE)
    served.thread.join(DEADLINE)


def test_a_name_may_be_registered_once() -> None:
    app = Bridge()
    app.handler("ping")(lambda payload, context: None)
    with pytest.raises(ValueError, match="there is already a handler named ping"):
        table(builtin(), app)
    with pytest.raises(
        ValueError, match="expected run to be one of inline, thread, job, control, ordered, got 'later'"
    ):
        app.handler("x", run="later")(lambda payload, context: None)


def test_the_two_ends_are_connected_both_ways() -> None:
    here, there = pair()
    assert isinstance(here, MemoryTransport)
    here.write(b"1")
    there.write(b"2")
    assert (there.read(), here.read()) == (b"1", b"2")
    here.interrupt()
    assert here.read() == b""
    here.close()
    assert there.read() == b""


def test_a_request_is_answered_also_when_no_thread_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Bridge()
    app.handler("work")(lambda payload, context: "done")
    served = InMemory(app)

    def submit(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(Lane, "submit", submit)
        _, _, error = served.call("work")
    assert error[a("error_type")] is a("overloaded")
    assert served.call("work") == (a("ok"), 1, "done")
    served.client.close()
    served.thread.join(DEADLINE)


def test_the_reader_is_told_whether_handlers_are_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    app, release = Bridge(), threading.Event()
    app.handler("wait")(lambda payload, context: release.wait(DEADLINE))
    seen: list[bool] = []
    read = MemoryTransport.read

    def recording(self: MemoryTransport, alone: bool = False) -> bytes:
        if threading.current_thread() is not threading.main_thread():
            seen.append(alone)
        return read(self, alone)

    monkeypatch.setattr(MemoryTransport, "read", recording)
    served = InMemory(app)
    served.client.write(pack(etf.encode(request(2, "wait"))))
    assert served.call("ping", {}) == (a("ok"), 1, {})
    assert seen[:2] == [True, False]
    release.set()
    assert served.receive() == (a("ok"), 2, True)
    served.client.close()
    served.thread.join(DEADLINE)
