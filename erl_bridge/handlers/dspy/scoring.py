"""Rows through a program: one outcome each, in the order of the rows, several at once.

Rule of this file: a row that failed says why. It is never a silent zero, and when nothing but failures comes back the
work ends with the error instead of a score.

DSPy's own ``Evaluate`` forgets errors, and sends a slow row a second time.
"""

from __future__ import annotations

import contextvars
import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import translate
from .signatures import write_fields

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ...errors import BridgeError
    from .metrics import Scorer, Verdict
    from .programs import Program
    from .run import Run
    from .streaming import Sink

    A = TypeVar("A")
    B = TypeVar("B")

OUTAGE = 10  # failed rows, without one that went well, after which a model counts as out of order


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a row: its ``outputs`` (a map for the client), ``score`` and ``feedback``, or the ``error``."""

    outputs: dict[Any, Any] | None = None
    score: float | None = None
    error: BridgeError | None = None
    feedback: str | None = None


def predict(
    program: Program,
    module: Any,
    inputs: Sequence[dict[str, Any]],
    num_threads: int,
    sinks: Sequence[Sink] | None = None,
) -> list[Outcome]:
    """An outcome for each row of inputs. The answers for a row go to its sink, if there are ``sinks``."""
    if sinks is None:
        return each(lambda row: _outcome(program, module, row), inputs, num_threads)

    def one(pair: tuple[dict[str, Any], Sink]) -> Outcome:
        with pair[1].open():
            return _outcome(program, module, pair[0])

    return each(one, list(zip(inputs, sinks, strict=True)), num_threads)


def evaluate(
    program: Program,
    module: Any,
    examples: Sequence[Any],
    metric: Scorer,
    run: Run,
    num_threads: int,
    on_row: Callable[[], None] = lambda: None,
) -> list[Outcome]:
    """An outcome with a score for each example. ``on_row`` is called after each, from any thread.

    Aborts the run with a row's error when the first :data:`OUTAGE` rows to end all failed, or all that there are.
    """
    watch = _Watch(run, min(OUTAGE, len(examples)))

    def one(example: Any) -> Outcome:
        outcome = _outcome(program, module, example.inputs(), lambda prediction: metric.verdict(example, prediction))
        watch.saw(outcome)
        on_row()
        return outcome

    return each(one, examples, num_threads)


def scores(outcomes: Sequence[Outcome]) -> list[float]:
    """The score of each row, 0.0 where it failed."""
    return [outcome.score or 0.0 for outcome in outcomes]


def mean(outcomes: Sequence[Outcome]) -> float:
    """The score of all rows together, those that failed counted as 0.0."""
    return sum(scores(outcomes)) / len(outcomes)


def each(work: Callable[[A], B], items: Sequence[A], num_threads: int) -> list[B]:
    """``work`` for every item, in threads that see the same ``dspy.context``; the results in the items' order."""
    if min(num_threads, len(items)) <= 1:
        return [work(item) for item in items]
    pool = ThreadPoolExecutor(num_threads)
    try:
        futures = [pool.submit(contextvars.copy_context().run, work, item) for item in items]
        wait(futures, return_when=FIRST_EXCEPTION)
        for future in futures:
            if future.done():
                future.result()
        return [future.result() for future in futures]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _outcome(program: Program, module: Any, inputs: Any, judge: Callable[[Any], Verdict] | None = None) -> Outcome:
    try:
        prediction = module(**inputs)
        outputs = write_fields(program.outputs, prediction)
        if judge is None:
            return Outcome(outputs)
        verdict = judge(prediction)
        return Outcome(outputs, verdict.score, feedback=verdict.feedback)
    except Exception as error:
        return Outcome(error=translate(error))


class _Watch:
    """Ends a run whose first rows all fail."""

    def __init__(self, run: Run, limit: int) -> None:
        self._run = run
        self._limit = limit
        self._failed = 0
        self._went_well = False
        self._lock = threading.Lock()

    def saw(self, outcome: Outcome) -> None:
        with self._lock:
            self._went_well = self._went_well or outcome.error is None
            self._failed += outcome.error is not None
            over = not self._went_well and self._failed >= self._limit
        if over and outcome.error is not None:
            self._run.abort(outcome.error)
