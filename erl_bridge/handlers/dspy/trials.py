"""The candidates of an optimizer: each one's score, the best program so far, and whether the models still answer.

Rule of this file: whenever a program scores higher than all before it, it becomes the checkpoint of the request, so
that a cancel or a deadline does not lose it. A model that is out of order ends the run: DSPy's optimizers take its
errors for wrong answers and go on.

It sees the candidates as a callback of DSPy, which runs ``Evaluate`` for most of them; :meth:`Trials.watched` is for an
optimizer that does not. A score over a part of the validation rows, or over training rows, counts as the lower end of
its confidence interval.
"""

from __future__ import annotations

import threading
from statistics import fmean
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from dspy.utils.callback import BaseCallback

from ...vocabulary import named
from . import confidence
from .errors import translate
from .scoring import OUTAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .metrics import Scorer
    from .programs import Program
    from .progress import Progress
    from .run import Run


class Trials(BaseCallback):  # type: ignore[misc]
    """What an optimizer tried. ``last_error`` is the last failure of a call of the program."""

    def __init__(
        self, run: Run, progress: Progress, program: Program, metric: Scorer, rows: Sequence[Any], lm: str
    ) -> None:
        self._run = run
        self._progress = progress
        self._program = program
        self._metric = metric
        self._lm = lm
        self._rows = {id(row) for row in rows}
        self._lock = threading.RLock()
        self._tried: list[dict[str, Any]] = []
        self._scores: dict[str, float] = {}  # over all rows, by the fingerprint of the program
        self._best: float | None = None
        self.best: tuple[Program, float] | None = None  # and its score
        self._evaluating: dict[str, Any] = {}
        self._by_hand: WeakKeyDictionary[Any, list[float]] = WeakKeyDictionary()
        self._here = threading.local()
        self.models = Models(run)
        self.last_error: Exception | None = None

    @property
    def wire(self) -> list[dict[Any, Any]]:
        """``[%{trial: 1, score: 0.5, rows: 25}, ...]``"""
        return [named(trial) for trial in self._tried]

    def add(self, module: Any, scores: Sequence[float]) -> None:
        """A candidate was scored: a module as an optimizer has it, on so many rows."""
        self.add_program(self._program.after(module), scores)

    def add_program(self, program: Program, scores: Sequence[float]) -> None:
        """The same, for a program."""
        with self._lock:
            score = fmean(scores)
            self._tried.append({"trial": len(self._tried) + 1, "score": score, "rows": len(scores)})
            self.consider(program, scores)
            self._progress.note(trial=len(self._tried), score=score)

    def consider(self, program: Program, scores: Sequence[float]) -> None:
        """A program was scored, candidate or not; if it is the best so far, it becomes the checkpoint."""
        score, worth = fmean(scores), fmean(scores)
        if len(scores) == len(self._rows):
            self._scores[program.fingerprint()] = score
        else:
            worth = (confidence.interval(scores) or [score])[0]
        if self._best is not None and worth <= self._best:
            return
        self._best, self.best = worth, (program, score)
        kept = program.to_map(score, self._metric.wire, self.scored_on(len(scores)))
        self._run.context.checkpoint(named({"score": score, "rows": len(scores), "program": kept}))
        self._progress.note(best_score=score)

    def scored_on(self, rows: int, model: str | None = None) -> dict[Any, Any]:
        """On what a score was reached: so many rows, and a language model."""
        return named({"rows": rows, "lm": model or self._lm})

    def score_of(self, program: Program) -> float | None:
        """The score of a program over all rows, None where it was not scored on them."""
        return self._scores.get(program.fingerprint())

    # -- told by DSPy ------------------------------------------------------------------------------------------------

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.models.asked(call_id, instance)

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        self.models.ended(call_id, exception)

    def on_adapter_parse_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.models.reading(call_id, inputs["signature"])

    def on_adapter_parse_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        self.models.read(call_id, exception)

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        if hasattr(instance, "simba_idx"):
            self._here.candidate = instance

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        if isinstance(exception, Exception):
            self.last_error = exception

    def on_evaluate_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        rows = inputs.get("devset") or instance.devset
        if all(id(row) in self._rows for row in rows):  # rows to learn from say nothing
            self._evaluating[call_id] = inputs["program"]

    def on_evaluate_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        module = self._evaluating.pop(call_id, None)
        if module is not None and exception is None:
            self.add(module, [_number(score) for *_, score in outputs.results])

    # -- an optimizer that scores by itself --------------------------------------------------------------------------

    def watched(self, metric: Scorer, size: int) -> Callable[..., float]:
        """``metric`` for SIMBA, which scores each candidate on ``size`` rows, one after the other or all at once."""

        def scored(example: Any, prediction: Any, trace: Any = None) -> float:
            score = metric(example, prediction, trace)
            with self._lock:
                scores = self._by_hand.setdefault(self._here.candidate, [])
                scores.append(score)
                if len(scores) == size:
                    self._add_new(self._here.candidate, scores)
            return score

        return scored

    def _add_new(self, module: Any, scores: Sequence[float]) -> None:
        program = self._program.after(module)
        if program.fingerprint() not in self._scores:  # the same candidate comes again, to be scored on all rows
            self._scores.setdefault(f"part of {program.fingerprint()}", fmean(scores))
            self.add_program(program, scores)


class Models:
    """Whether the language models of a run answer: it ends when one of them only fails.

    :data:`OUTAGE` failures in a row end it at once, of any model; :meth:`check` ends it when one never answered, or
    nothing that DSPy could read. (DSPy asks a second time, for JSON, so each question may have two such answers.)
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._calls: dict[str, Any] = {}
        self._failures: dict[Any, int] = {}  # in a row
        self._answered: set[Any] = set()
        self._errors: dict[Any, BaseException] = {}
        self._here = threading.local()
        self._readings: dict[str, tuple[Any, ...]] = {}
        self._understood: set[Any] = set()  # models, and the outputs that somebody was asked for
        self._unread: dict[Any, BaseException] = {}

    def asked(self, call_id: str, lm: Any) -> None:
        self._calls[call_id] = (lm.model, lm.kwargs.get("api_base"))

    def ended(self, call_id: str, exception: BaseException | None) -> None:
        with self._lock:
            model = self._calls.pop(call_id)
            if exception is None:
                self._here.model = model
                self._answered.add(model)
                self._failures[model] = 0
                return
            self._failures[model] = self._failures.get(model, 0) + 1
            self._errors[model] = exception
            over = self._failures[model] >= OUTAGE
        if over and isinstance(exception, Exception):
            self._run.abort(translate(exception))

    def reading(self, call_id: str, signature: Any) -> None:
        """An answer is read in the thread in which it came."""
        self._readings[call_id] = (getattr(self._here, "model", None), *signature.output_fields)

    def read(self, call_id: str, exception: BaseException | None) -> None:
        about = self._readings.pop(call_id)
        with self._lock:
            if exception is None:
                self._understood.update(about)
            else:
                self._unread.update(dict.fromkeys(about, exception))

    def check(self, output: str | None = None) -> None:
        """Raise the error of a model that was asked and has not answered once, or never so that it could be read.

        The same for ``output``, an output without which the optimizer can do nothing.
        """
        silent = [error for model, error in self._errors.items() if model not in self._answered]
        unread = [
            self._unread[about]
            for about in (*self._answered, output)
            if about in self._unread and about not in self._understood
        ]
        for error in (*silent, *unread):
            if isinstance(error, Exception):
                raise translate(error)


def _number(score: Any) -> float:
    """A score as an optimizer has it: GEPA's come with feedback."""
    return float(score.score if hasattr(score, "score") else score)
