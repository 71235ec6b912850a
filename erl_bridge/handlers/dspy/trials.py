"""The candidates of an optimizer: each one's score, and the best program so far.

Rule of this file: whenever a program scores higher than all before it, it becomes the checkpoint of the request, so
that a cancel or a deadline does not lose it. It sees the candidates as a callback of DSPy, which runs ``Evaluate``
for each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dspy.utils.callback import BaseCallback

from ...vocabulary import named
from .errors import translate

if TYPE_CHECKING:
    from .metrics import Scorer
    from .programs import Program
    from .progress import Progress
    from .run import Run


class Trials(BaseCallback):  # type: ignore[misc]
    """What an optimizer tried. ``last_error`` is the last failure of a call of the program."""

    def __init__(self, run: Run, progress: Progress, program: Program, metric: Scorer) -> None:
        self._run = run
        self._progress = progress
        self._program = program
        self._metric = metric
        self._scored: list[tuple[Any, float]] = []
        self._best: float | None = None
        self._evaluating: dict[str, tuple[Any, int, int]] = {}
        self.last_error: Exception | None = None

    @property
    def wire(self) -> list[dict[Any, Any]]:
        """``[%{trial: 1, score: 0.5}, ...]``"""
        return [named({"trial": number, "score": score}) for number, (_, score) in enumerate(self._scored, start=1)]

    def add(self, module: Any, score: float) -> None:
        """A candidate was scored."""
        self._scored.append((module, score))
        self.consider(module, score)
        self._progress.note(trial=len(self._scored), score=score)

    def consider(self, module: Any, score: float) -> None:
        """A program was scored, candidate or not; if it is the best so far, it becomes the checkpoint."""
        if self._best is not None and score <= self._best:
            return
        self._best = score
        program = self._program.after(module).to_map(score, self._metric.wire)
        self._run.context.checkpoint(named({"score": score, "program": program}))
        self._progress.note(best_score=score)

    def score_of(self, module: Any) -> float | None:
        """The score of a candidate, None if this module was none."""
        return next((score for candidate, score in self._scored if candidate is module), None)

    # -- told by DSPy ------------------------------------------------------------------------------------------------

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        if isinstance(exception, Exception):
            self.last_error = exception

    def on_evaluate_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        meter = self._run.meter
        self._evaluating[call_id] = (inputs["program"], meter.calls, meter.errors)

    def on_evaluate_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        module, calls, errors = self._evaluating.pop(call_id)
        if exception is not None:
            return
        calls, errors = self._run.meter.calls - calls, self._run.meter.errors - errors
        if calls and calls == errors and self.last_error is not None:
            # DSPy scores a row that failed 0 and goes on. With nothing but failures the model is out of order.
            self._run.abort(translate(self.last_error))
        scores = [score for *_, score in outputs.results]
        self.add(module, sum(scores) / len(scores))
