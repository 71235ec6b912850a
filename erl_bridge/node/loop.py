"""The one thread that reads what comes in: waits for sockets, serves them, then lets what they sent go out.

Rule of this file: only the thread of the loop touches the poll; others hand it functions to call.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections import deque
from threading import get_ident

from ..transports.spinner import PREEMPTED, Spinner

try:
    from ..transports._spin import spin as compiled_spin
except ImportError:  # there was no compiler
    _HAS_SPIN = False
else:
    _HAS_SPIN = True

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Source(Protocol):
        """What can be waited for."""

        def on_ready(self, event: int) -> None: ...


PREEMPTED_NS = round(PREEMPTED * 1e9)
_MOST = 64  # descriptors that a spin looks at


class Loop:
    """Serves sources until :meth:`stop`. ``busy()`` says whether other threads of the process are at work."""

    def __init__(self, busy: Callable[[], bool], spin: float) -> None:
        self.thread = 0
        self.is_crowded = False  # set by a source that was asked more than one thing at once
        self._busy = busy
        self._sources: dict[int, Source] = {}
        self._calls: deque[Callable[[], object]] = deque()
        self._after: list[Callable[[], object]] = []
        self._running = True
        self._poll = select.poll()
        self._wakeup, self._waker = os.pipe()
        for end in (self._wakeup, self._waker):
            os.set_blocking(end, False)
        self._poll.register(self._wakeup, select.POLLIN)
        self._inputs: tuple[int, ...] = (self._wakeup,)  # whose input somebody wants
        self._ready: list[tuple[int, int]] = []
        self._spin_ns = round(spin * 1e9)
        self._spinner = Spinner(self._look, self._take, spin, look=self._look_quickly if _HAS_SPIN else None)

    def run(self) -> None:
        """Serve, in this thread."""
        self.thread = get_ident()
        sources, wait, busy = self._sources, self._spinner.wait, self._busy
        while self._running:
            # A spin is for the next call of one who waits for each. Where many call, they need the processors.
            alone = not self.is_crowded and not busy()
            self.is_crowded = False
            for fd, event in wait(alone):
                if fd == self._wakeup:
                    self._wake_up()
                elif (source := sources.get(fd)) is not None:
                    source.on_ready(event)
            for function in self._after:
                function()
            self._after.clear()

    def _look(self, timeout: float) -> bool:
        """Whether something is ready, which is kept for :meth:`_take`."""
        self._ready = self._poll.poll(timeout)
        return bool(self._ready)

    def _look_quickly(self) -> int:
        """Look for input, and for nothing else, as long as a spin lasts; what is ready is kept for :meth:`_take`."""
        outcome, self._ready = compiled_spin(self._inputs[:_MOST], self._spin_ns, PREEMPTED_NS)
        return outcome

    def _take(self) -> list[tuple[int, int]]:
        """What is ready, as soon as something is."""
        ready, self._ready = self._ready, []
        return ready or self._poll.poll()

    def stop(self) -> None:
        """Make :meth:`run` return, from any thread."""
        self.call(self._stop)

    def call(self, function: Callable[[], object]) -> None:
        """Call a function in the thread of the loop, soon."""
        self._calls.append(function)
        with contextlib.suppress(BlockingIOError):  # it has been woken often enough
            os.write(self._waker, b"x")

    def after(self, function: Callable[[], object]) -> None:
        """In the thread of the loop: call a function when all that is ready has been served."""
        self._after.append(function)

    def watch(self, fd: int, source: Source, events: int) -> None:
        """In the thread of the loop: tell a source when one of the events happens on its descriptor."""
        self._sources[fd] = source
        self._poll.register(fd, events)
        self._want(fd, bool(events & select.POLLIN))

    def forget(self, fd: int) -> None:
        """In the thread of the loop: watch a descriptor no more."""
        if self._sources.pop(fd, None) is not None:
            self._poll.unregister(fd)
            self._want(fd, False)

    def _want(self, fd: int, wanted: bool) -> None:
        self._inputs = (*(other for other in self._inputs if other != fd), *((fd,) if wanted else ()))

    def _stop(self) -> None:
        self._running = False

    def _wake_up(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wakeup, 4096)
        while self._calls:
            self._calls.popleft()()
