"""Progress of a run: events that tell the client how far it is.

Rule of this file: at most ten events a second, whatever happens, and one at the end of each phase.

An event has ``phase`` (``:baseline``, ``:optimize`` or ``:evaluate``), ``elapsed_ms``, what was spent so far
(``lm_calls``, ``lm_errors``, ``prompt_tokens``, ``completion_tokens``, ``cost_usd``, ``cache_hits``), and where they
are known ``done`` and ``total`` (rows of this phase), ``trial`` and ``trials`` (candidates scored, and how many there
will be), ``score`` (of the last candidate) and ``best_score``, all scores from 0.0 to 1.0.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

from ...terms import Atom
from ...vocabulary import named

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .run import Run

INTERVAL = 0.1  # seconds between two events
_SCORES = ("score", "best_score")  # known from one phase to the next


class Progress:
    """Collects what is known and sends it, not too often. Safe to use from many threads."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._next_event = run.clock()
        self._facts: dict[str, Any] = {}
        run.on_call = self.tick

    @contextlib.contextmanager
    def phase(self, name: str, **facts: int) -> Iterator[None]:
        """A phase of the run; ``facts`` are what is known from its start (``total`` rows, ``trials`` candidates)."""
        with self._lock:
            kept = {fact: self._facts[fact] for fact in _SCORES if fact in self._facts}
            self._facts = {"phase": Atom(name), **facts, **kept}
        self.tick()
        yield
        self._send(at_once=True)

    def row(self) -> None:
        """One more row of this phase is done."""
        with self._lock:
            self._facts["done"] += 1
        self.tick()

    def note(self, **facts: float) -> None:
        """Something else is known."""
        with self._lock:
            self._facts |= facts
        self.tick()

    def tick(self) -> None:
        """Something happened: say so, unless the last event was a moment ago. Raises when the run is over."""
        self._run.check()
        self._send(at_once=False)

    def _send(self, at_once: bool) -> None:
        with self._lock:
            now = self._run.clock()
            if not at_once and now < self._next_event:
                return
            self._next_event = now + INTERVAL
            facts = dict(self._facts)
        spent = self._run.meter.summary()
        self._run.context.event("progress", named({**facts, **spent, "elapsed_ms": self._run.elapsed_ms}))
