"""Threads that handlers run in, a lane for each kind, so that waiting jobs never hold up quick handlers.

Rule of this file: a lane is bounded; what does not fit waits in line, in order.
"""

from __future__ import annotations

import threading
from _queue import SimpleQueue  # the module queue takes 3 ms to import
from collections import deque

from .errors import Overloaded
from .terms import Atom

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from typing import Any


MAX_WAITING = 64 * 1024 * 1024


class Lane:
    """At most ``size`` pieces of work at once; :attr:`running` and :attr:`waiting` count them.

    A piece that waits for others may :meth:`lend` its place meanwhile, since they may wait for the place.

    No ThreadPoolExecutor: that takes a Future for each piece, and longer than all else here.
    """

    def __init__(self, name: str, size: int) -> None:
        self.running = 0
        self.waiting = 0
        self._name = name
        self._size = size
        self._lock = threading.Lock()
        self._threads = 0
        self._queue: SimpleQueue[tuple[Callable[[Any], None], Any]] = SimpleQueue()

    def submit(self, function: Callable[[Any], None], work: Any) -> None:
        """Call ``function(work)`` in a thread of the lane as soon as one is free.

        Raises RuntimeError when the system has no thread for it.
        """
        with self._lock:
            if self.running + self.waiting >= self._threads < self._size:  # before anything is noted: it may fail
                threading.Thread(target=self._serve, name=self._name, daemon=True).start()
                self._threads += 1
            self.waiting += 1
        self._queue.put((function, work))

    def lend(self) -> None:
        """Let one more run, until :meth:`take_back`."""
        with self._lock:
            self._size += 1
            if self.running + self.waiting > self._threads < self._size:
                try:
                    threading.Thread(target=self._serve, name=self._name, daemon=True).start()
                    self._threads += 1
                except RuntimeError:  # the system has no thread for it: it waits on
                    pass

    def take_back(self) -> None:
        """End what :meth:`lend` began. What runs meanwhile runs to its end."""
        with self._lock:
            self._size -= 1

    def _serve(self) -> None:
        while self._serve_next():
            pass

    def _serve_next(self) -> bool:
        """False when this thread is one too many."""
        function, work = self._queue.get()
        with self._lock:
            self.waiting -= 1
            self.running += 1
        try:
            function(work)
        except BaseException:  # which ends this thread and no other
            with self._lock:
                self.running -= 1
                self._threads -= 1
            raise
        with self._lock:
            self.running -= 1
            too_many = self._threads > self._size
            self._threads -= too_many
        return not too_many


class OrderedLane:
    """At most ``size`` pieces of work at once, and of those with the same key one after the other, as they came.

    ``order(work)`` gives the key and how many bytes the work takes. What would make those of all that waits for its
    turn more than ``max_waiting`` is refused, unless nothing waits.
    """

    def __init__(self, name: str, size: int, order: Callable[[Any], tuple[Hashable, int]], max_waiting: int) -> None:
        self._name = name
        self._size = size
        self._order = order
        self._max_waiting = max_waiting
        self._bytes = 0
        self._changed = threading.Condition()
        self._queues: dict[Hashable, deque[tuple[Callable[[Any], None], Any, int]]] = {}
        self._ready: deque[Hashable] = deque()  # keys that have work and no thread
        self._threads = 0
        self._idle = 0

    def submit(self, function: Callable[[Any], None], work: Any) -> None:
        """Call ``function(work)`` in a thread of the lane in its turn. Raises :class:`Overloaded`."""
        key, size = self._order(work)
        with self._changed:
            if self._bytes and self._bytes + size > self._max_waiting:
                raise Overloaded(
                    f"{self._bytes} bytes wait to be handled, and at most {self._max_waiting} may; send the next when "
                    "those before are answered, or raise --max-waiting",
                    context={Atom("limit"): self._max_waiting},
                )
            if len(self._ready) >= self._idle and self._threads < self._size:  # before anything is noted: it may fail
                threading.Thread(target=self._serve, name=self._name, daemon=True).start()
                self._threads += 1
            self._bytes += size
            queue = self._queues.get(key)
            if queue is None:
                queue = self._queues[key] = deque()
                self._ready.append(key)
                self._changed.notify()
            queue.append((function, work, size))

    def _serve(self) -> None:
        try:
            while True:
                self._serve_next()
        finally:  # what was called raised, which ends this thread and no other
            with self._changed:
                self._threads -= 1

    def _serve_next(self) -> None:
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._ready)
            self._idle -= 1
            key = self._ready.popleft()
            function, work, size = self._queues[key].popleft()
            self._bytes -= size  # before the answer, after which the client may send as much again
        try:
            function(work)
        finally:
            with self._changed:
                if self._queues[key]:
                    self._ready.append(key)
                    self._changed.notify()
                else:
                    del self._queues[key]
