"""Threads for handlers: in order where that is asked for, and never more waiting than may be."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from erl_bridge.errors import Overloaded
from erl_bridge.lanes import Lane, OrderedLane

DEADLINE = 30.0


class Work:
    """Something to do that waits until it is let go."""

    def __init__(self, key: Any, size: int = 0) -> None:
        self.key, self.size = key, size
        self.started, self.go = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.started.set()
        assert self.go.wait(DEADLINE)


def lane(size: int = 4, max_waiting: int = 100) -> OrderedLane:
    return OrderedLane("test", size, lambda work: (work.key, work.size), max_waiting)


def test_what_has_one_key_is_done_in_order_and_one_at_a_time() -> None:
    ordered, done, at_once = lane(max_waiting=1000), queue.SimpleQueue[Any](), []
    running: dict[str, int] = {"a": 0, "b": 0}

    def run(work: Any) -> None:
        running[work.key] += 1
        at_once.append(running[work.key])
        running[work.key] -= 1
        done.put((work.key, work.size))

    for number in range(200):
        for key in ("a", "b"):
            ordered.submit(run, Work(key, number % 2))
    found = [done.get(timeout=DEADLINE) for _ in range(400)]
    for key in ("a", "b"):
        assert [size for k, size in found if k == key] == [number % 2 for number in range(200)]
    assert set(at_once) == {1}


def test_other_keys_do_not_wait() -> None:
    ordered = lane()
    first, second, other = Work("a"), Work("a"), Work("b")
    for work in (first, second, other):
        ordered.submit(Work.__call__, work)
    assert first.started.wait(DEADLINE)
    assert other.started.wait(DEADLINE)
    assert not second.started.is_set()
    first.go.set()
    assert second.started.wait(DEADLINE)
    for work in (second, other):
        work.go.set()


def test_no_more_threads_than_may_be() -> None:
    ordered = lane(size=2)
    works = [Work(key) for key in range(3)]
    for work in works:
        ordered.submit(Work.__call__, work)
    assert works[0].started.wait(DEADLINE)
    assert works[1].started.wait(DEADLINE)
    assert not works[2].started.is_set()
    works[1].go.set()
    assert works[2].started.wait(DEADLINE)
    for work in works:
        work.go.set()


def test_bytes_that_wait_are_limited() -> None:
    ordered, running = lane(max_waiting=100), Work("a", 1000)
    ordered.submit(Work.__call__, running)
    assert running.started.wait(DEADLINE)  # so it waits no more
    waiting = [Work("a", 60), Work("a", 40), Work("a", 0)]
    for work in waiting:
        ordered.submit(Work.__call__, work)
    with pytest.raises(Overloaded, match="100 bytes wait to be handled, and at most 100 may"):
        ordered.submit(Work.__call__, Work("b", 1))
    running.go.set()
    assert waiting[0].started.wait(DEADLINE)
    other = Work("b", 60)
    ordered.submit(Work.__call__, other)
    assert other.started.wait(DEADLINE)
    for work in (*waiting, other):
        work.go.set()


def test_one_that_is_too_large_by_itself_is_taken_when_nothing_waits() -> None:
    ordered, first, large = lane(max_waiting=10), Work("a"), Work("a", 1000)
    ordered.submit(Work.__call__, first)
    ordered.submit(Work.__call__, large)
    with pytest.raises(Overloaded):
        ordered.submit(Work.__call__, Work("a", 1))
    first.go.set()
    assert large.started.wait(DEADLINE)
    large.go.set()


def test_what_fails_does_not_hold_up_what_comes_after(monkeypatch: pytest.MonkeyPatch) -> None:
    ordered, done = lane(size=1), threading.Event()
    seen = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda arguments: seen.set())

    def fail(work: Any) -> None:
        raise ValueError

    ordered.submit(fail, Work("a", 5))
    assert seen.wait(DEADLINE)
    ordered.submit(lambda work: done.set(), Work("a", 5))
    assert done.wait(DEADLINE)


# -- without an order -------------------------------------------------------------------------------------------------


def until(condition: Callable[[], bool]) -> None:
    """Wait for what a thread does in a moment."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end


def test_a_lane_has_as_many_threads_as_it_needs_and_no_more_than_may_be() -> None:
    plain = Lane("test", 2)
    works = [Work(None) for _ in range(3)]
    for work in works:
        plain.submit(Work.__call__, work)
    assert works[0].started.wait(DEADLINE)
    assert works[1].started.wait(DEADLINE)
    assert not works[2].started.is_set()
    assert (plain.running, plain.waiting) == (2, 1)
    works[0].go.set()
    assert works[2].started.wait(DEADLINE)
    works[1].go.set()
    works[2].go.set()


def test_a_thread_that_is_free_takes_the_next() -> None:
    plain, done = Lane("test", 8), queue.SimpleQueue[Any]()
    names = set()
    for _ in range(20):
        plain.submit(lambda work: done.put(threading.current_thread().name), None)
        names.add(done.get(timeout=DEADLINE))
        until(lambda: plain.running == 0)
    assert names == {"test"}
    assert plain._threads == 1


def test_a_place_that_is_lent_is_for_one_more_and_comes_back() -> None:
    plain = Lane("test", 1)
    first, second, third = works = [Work(None) for _ in range(3)]
    for work in works:
        plain.submit(Work.__call__, work)
    assert first.started.wait(DEADLINE)
    plain.lend()
    assert second.started.wait(DEADLINE)
    assert not third.started.is_set()
    plain.take_back()
    first.go.set()
    until(lambda: plain.running == 1)
    assert (plain._threads, plain.waiting) == (1, 1)
    second.go.set()
    assert third.started.wait(DEADLINE)
    third.go.set()


def test_a_place_is_lent_before_it_is_wanted() -> None:
    plain = Lane("test", 1)
    first, second = works = [Work(None) for _ in range(2)]
    plain.submit(Work.__call__, first)
    assert first.started.wait(DEADLINE)
    plain.lend()
    plain.submit(Work.__call__, second)
    assert second.started.wait(DEADLINE)
    for work in works:
        work.go.set()


def test_a_lane_goes_on_after_what_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, done = Lane("test", 1), threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)

    def fail(work: Any) -> None:
        raise ValueError

    plain.submit(fail, None)
    until(lambda: plain._threads == 0)
    plain.submit(lambda work: done.set(), None)
    assert done.wait(DEADLINE)
    until(lambda: (plain.running, plain.waiting) == (0, 0))


def test_a_lane_that_gets_no_thread_has_taken_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    plain = Lane("test", 1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError):
            plain.submit(lambda work: None, None)
    assert (plain.running, plain.waiting, plain._threads) == (0, 0, 0)
