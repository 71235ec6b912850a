"""The thread that calls functions when their time comes."""

from __future__ import annotations

import queue
import threading
import time

from erl_bridge.timers import Timers


def test_functions_are_called_in_the_order_of_their_times() -> None:
    timers, called = Timers(), queue.SimpleQueue[int]()
    now = time.monotonic()

    def begin() -> None:  # in the thread that calls them, so that none is called before all are there
        for i in (2, 0, 1):
            timers.call_at(now + 0.01 * i, lambda i=i: called.put(i))  # type: ignore[misc]

    timers.call_at(now, begin)
    assert [called.get(timeout=60) for _ in range(3)] == [0, 1, 2]


def test_a_time_that_has_passed_is_now() -> None:
    done = threading.Event()
    Timers().call_at(0.0, done.set)
    assert done.wait(60)


def test_a_cancelled_call_does_not_come() -> None:
    timers, called, done = Timers(), [], threading.Event()
    now = time.monotonic()

    def begin() -> None:  # in the thread that calls them, so that it is not called before it is cancelled
        timers.call_at(now + 0.02, lambda: called.append(1)).cancel()
        timers.call_at(now + 0.03, done.set)

    timers.call_at(now, begin)
    assert done.wait(60)
    assert called == []


def test_cancelled_timers_do_not_pile_up() -> None:
    timers = Timers()
    for _ in range(100_000):
        timers.call_at(time.monotonic() + 3600, lambda: None).cancel()
    assert len(timers._queue) < 5000
