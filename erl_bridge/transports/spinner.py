"""Waiting for input without going to sleep, where the next bytes are likely to come at once.

Rule of this file: no I/O and no clock of its own. It is given a ``poll``, a ``read`` and a ``clock``, and decides only
how often they are called. Where there is compiled code for it, that looks for input itself (``_spin.h``); whether it
should is decided here.

To be woken takes longer than most requests do: a bounded spin takes that out of back-to-back calls. It is tried only
when the wait before was short, and where it fails, or finds that others want the processor, it is left out for a number
of waits that doubles each time.
"""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SPIN_US = 60
SOON = 4  # a wait was short when it took at most so many times the limit: being woken is part of it
PREEMPTED = 20e-6  # seconds; a poll that takes longer was kept from the processor
# Waits. One spin in fifty fails between back-to-back calls, where the BEAM collects garbage or others want the
# processor: a first pause of 32 left two fifths of them without any.
FIRST_PAUSE, LONGEST_PAUSE = 2, 1024
THERE_BEFORE, IN_VAIN, WORTH_IT = range(3)  # what comes of a spin, as in _spin.h; anything else is as if preempted


class Habit:
    """Whether the next wait, which may spin for at most ``limit`` seconds, should.

    >>> habit = Habit(60e-6)
    >>> habit.waited(10e-6)
    >>> habit.spins(alone=True), habit.spins(alone=False)
    (True, False)
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._last_was_short = False
        self._left_out = 0  # waits that are still to be without a spin
        self._pause = FIRST_PAUSE

    def spins(self, alone: bool) -> bool:
        """Whether to spin now. ``alone`` says that no other thread of the process has work."""
        if not (alone and self._last_was_short):
            return False
        if self._left_out:
            self._left_out -= 1
            return False
        return True

    def learn(self, worth_it: bool) -> None:
        """A spin has ended: with bytes and without having been kept from the processor, or not."""
        if worth_it:
            self._pause = max(FIRST_PAUSE, self._pause // 2)
        else:
            self._left_out = self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def waited(self, seconds: float) -> None:
        """A wait has ended that slept."""
        self._last_was_short = seconds <= SOON * self.limit


class Spinner:
    """Reads, at first without sleeping for at most ``limit`` seconds; 0 is for sleeping at once.

    ``poll(0)`` says whether there is something to read, ``read()`` waits for it; ``clock()`` is in seconds. ``look``,
    where it is given, does all the polls of a spin: what came of them is as in ``_spin.h``.

    >>> Spinner(lambda timeout: [(3, 1)], lambda: b"bytes", 0.0).wait(alone=True)
    b'bytes'
    """

    def __init__(
        self,
        poll: Callable[[float], object],
        read: Callable[[], Any],
        limit: float,
        clock: Callable[[], float] = time.perf_counter,
        look: Callable[[], int] | None = None,
    ) -> None:
        self._poll = poll
        self._read = read
        self.habit = Habit(limit)
        self._clock = clock
        self._look = look

    def wait(self, alone: bool) -> Any:
        """What is read, as soon as something can be.

        ``alone`` says that no other thread of the process has work: a spin would take the interpreter lock from it.
        """
        if not self.habit.limit:
            return self._read()
        begin = self._clock()
        if self.habit.spins(alone) and self._spin(begin):
            return self._read()
        data = self._read()
        self.habit.waited(self._clock() - begin)
        return data

    def _spin(self, begin: float) -> bool:
        """Whether something came within the limit."""
        if self._look is not None:
            outcome = self._look()
            if outcome != THERE_BEFORE:
                self.habit.learn(outcome == WORTH_IT)
            return outcome != IN_VAIN
        if self._poll(0):
            return True  # it was there already, which says nothing about spinning
        now = self._clock()
        until = begin + self.habit.limit
        while now < until:
            ready = self._poll(0)
            before, now = now, self._clock()
            if ready:
                self.habit.learn(worth_it=now - before < PREEMPTED)
                return True
        self.habit.learn(worth_it=False)
        return False
