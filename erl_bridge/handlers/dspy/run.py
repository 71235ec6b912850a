"""One request at work: what it has spent, and how it is stopped.

Rule of this file: DSPy swallows every ``Exception`` that a metric or a model raises and counts the row as wrong. What
must end a run therefore leaves as :class:`Abort`, a ``BaseException``, and every other thread of the run ends at its
next call.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from . import budget as budgets

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import NoReturn

    from ...context import Context
    from ...errors import BridgeError
    from .schema import Budget


class Abort(BaseException):
    """Carries ``error`` out of DSPy. Not an ``Exception``, or DSPy would take it for a wrong answer."""

    def __init__(self, error: BridgeError) -> None:
        super().__init__(error)
        self.error = error


class Meter:
    """Counts the calls of a language model. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.calls = 0
        self.errors = 0
        self.retries = 0
        self.hits = 0
        self.cost: float | None = 0.0
        self._prompt_tokens = 0
        self._completion_tokens = 0
        self._kinds: Counter[str] = Counter()

    @property
    def tokens(self) -> int:
        """All tokens so far, of prompts and of answers."""
        return self._prompt_tokens + self._completion_tokens

    def started(self, refuse: Callable[[], BridgeError | None] = lambda: None) -> BridgeError | None:
        """A call is made, unless ``refuse`` has something against it, which is returned."""
        with self._lock:
            refusal = refuse()
            self.calls += refusal is None
            return refusal

    def failed(self, kind: str = "other", *, again: bool = False) -> None:
        """A call raised an error. ``again`` if it is tried again."""
        with self._lock:
            self.errors += 1
            self.retries += again
            self._kinds[kind] += 1

    def answered(self, usage: Mapping[str, Any], cost: float | None) -> None:
        """A call was answered; ``cost`` is in US dollars, None where nobody knows the price."""
        with self._lock:
            self._prompt_tokens += usage.get("prompt_tokens") or 0
            self._completion_tokens += usage.get("completion_tokens") or 0
            self.cost = None if cost is None or self.cost is None else self.cost + cost

    def hit(self) -> None:
        """An answer came from the store."""
        with self._lock:
            self.hits += 1

    def summary(self) -> dict[str, Any]:
        """What was spent, by the names of the protocol. ``cost_usd`` is None once a call had no known price."""
        with self._lock:
            return {
                "lm_calls": self.calls,
                "lm_errors": self.errors,
                "lm_retries": self.retries,
                "errors_by_kind": dict(self._kinds),
                "prompt_tokens": self._prompt_tokens,
                "completion_tokens": self._completion_tokens,
                "cost_usd": self.cost,
                "cache_hits": self.hits,
            }


class Run:
    """A request at work, shared by the models, metrics and callbacks that serve it.

    ``budget`` is what it may spend. With ``alone`` each row stands for itself, as in a prediction: what its model
    refuses is its error and does not end the others.
    """

    def __init__(
        self,
        context: Context,
        clock: Callable[[], float] = time.monotonic,
        *,
        budget: Budget | None = None,
        alone: bool = False,
    ) -> None:
        self.context = context
        self.meter = Meter()
        self.clock = clock
        self.on_call: Callable[[], None] = self.check  # what happens with every call of the model
        self._started = clock()
        self._failure: BridgeError | None = None
        self._budget = budget
        self._alone = alone

    @property
    def elapsed_ms(self) -> int:
        """Milliseconds since the work began."""
        return round((self.clock() - self._started) * 1000)

    def check(self) -> None:
        """Raise :class:`Abort` or :class:`Stopped` if the run is over."""
        if self._failure is not None:
            raise Abort(self._failure)
        self.context.check()

    def abort(self, error: BridgeError) -> NoReturn:
        """End the run with ``error``, whichever thread this is."""
        self._failure = self._failure or error
        raise Abort(self._failure)

    def spent(self) -> dict[str, Any]:
        """What the run took so far, by the names of the protocol."""
        return {"duration_ms": self.elapsed_ms, **self.meter.summary()}

    # -- told by the model -----------------------------------------------------------------------------------------

    def begin_call(self) -> None:
        """A call of the model is about to be made. Raises when the budget has nothing left for it."""
        refusal = self.meter.started(self._refusal)
        if refusal is None:
            return
        if self._alone:
            raise refusal
        self.abort(refusal)

    def _refusal(self) -> BridgeError | None:
        return None if self._budget is None else budgets.exhausted(self._budget, self.meter)
