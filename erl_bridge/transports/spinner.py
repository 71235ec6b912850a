"""Waiting for input without going to sleep, where the next bytes are likely to come at once.

Rule of this file: no I/O and no clock of its own. It is given a ``poll`` and a ``clock``, and decides only how often
they are called.

To be woken takes longer than most requests do: a bounded spin takes that out of back-to-back calls. It is tried only
when the wait before was short, and where it fails, or finds that others want the processor, it is left out for a number
of waits that doubles each time.
"""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    Ready: TypeAlias = list[tuple[int, int]]  # as select.poll() gives it

SPIN_US = 60
SOON = 4  # a wait was short when it took at most so many times the limit: being woken is part of it
PREEMPTED = 20e-6  # seconds; a poll that takes longer was kept from the processor
FIRST_PAUSE, LONGEST_PAUSE = 32, 1024  # waits


class Spinner:
    """Waits with ``poll``, at first without sleeping for at most ``limit`` seconds; 0 is for sleeping at once.

    ``poll(0)`` returns what is ready, ``poll(None)`` waits for it; ``clock()`` is in seconds.

    >>> Spinner(lambda timeout: [(3, 1)], 0.0).wait(alone=True)
    [(3, 1)]
    """

    def __init__(
        self, poll: Callable[[float | None], Ready], limit: float, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._poll = poll
        self._limit = limit
        self._clock = clock
        self._last_was_short = False
        self._left_out = 0  # waits that are still to be without a spin
        self._pause = FIRST_PAUSE

    def wait(self, alone: bool) -> Ready:
        """What is ready, as soon as something is.

        ``alone`` says that no other thread of the process has work: a spin would take the interpreter lock from it.
        """
        if not self._limit:
            return self._poll(None)
        begin = self._clock()
        if alone and self._last_was_short:
            if self._left_out:
                self._left_out -= 1
            elif ready := self._spin(begin):
                return ready
        ready = self._poll(None)
        self._last_was_short = self._clock() - begin <= SOON * self._limit
        return ready

    def _spin(self, begin: float) -> Ready:
        """What came within the limit, or nothing."""
        ready = self._poll(0)
        if ready:
            return ready  # it was there already, which says nothing about spinning
        now = self._clock()
        until = begin + self._limit
        while now < until:
            ready = self._poll(0)
            before, now = now, self._clock()
            if ready:
                self._learn(worth_it=now - before < PREEMPTED)
                return ready
        self._learn(worth_it=False)
        return []

    def _learn(self, worth_it: bool) -> None:
        if worth_it:
            self._pause = max(FIRST_PAUSE, self._pause // 2)
        else:
            self._left_out = self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
