"""One thread that calls functions when their time comes: deadlines, and the last resort after a polite signal.

Rule of this file: a function that is called here returns at once and does not raise.
"""

from __future__ import annotations

import heapq
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


_TIDY_AT = 1024


class Timer:
    """A call to come. :meth:`cancel` makes it not come, unless it already has."""

    __slots__ = ("function", "when")

    def __init__(self, when: float, function: Callable[[], object]) -> None:
        self.when = when
        self.function: Callable[[], object] | None = function

    def cancel(self) -> None:
        """Forget the call. Its place in the queue goes when its time comes."""
        self.function = None

    def __lt__(self, other: Timer) -> bool:
        return self.when < other.when


class Timers:
    """A queue of :class:`Timer` and the thread that serves it, started with the first one."""

    def __init__(self) -> None:
        self._queue: list[Timer] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._tidy_at = _TIDY_AT

    def call_at(self, when: float, function: Callable[[], object]) -> Timer:
        """Call ``function`` at ``when``, a ``time.monotonic()`` value, or at once if that has passed."""
        timer = Timer(when, function)
        with self._changed:
            self._forget_cancelled()
            heapq.heappush(self._queue, timer)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="timers", daemon=True)
                self._thread.start()
            if self._queue[0] is timer:
                self._changed.notify()
        return timer

    def _forget_cancelled(self) -> None:
        """Drop cancelled timers now and then, so that long deadlines of quick requests do not pile up."""
        if len(self._queue) >= self._tidy_at:
            self._queue[:] = [timer for timer in self._queue if timer.function is not None]
            heapq.heapify(self._queue)
            self._tidy_at = max(_TIDY_AT, 2 * len(self._queue))

    def _run(self) -> None:
        while True:
            function = self._next().function
            if function is not None:
                function()

    def _next(self) -> Timer:
        with self._changed:
            while True:
                while self._queue and self._queue[0].function is None:
                    heapq.heappop(self._queue)
                wait = self._queue[0].when - time.monotonic() if self._queue else None
                if wait is not None and wait <= 0:
                    return heapq.heappop(self._queue)
                self._changed.wait(wait)
