"""One optimization: score what is there, let an optimizer work, score what it made.

Rule of this file: the same rows and the same metric judge everything, so the scores before and after can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import optimizers, scoring
from .errors import translate_optimizer
from .trials import Trials

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from .metrics import Scorer
    from .models import Model
    from .programs import Program
    from .progress import Progress
    from .rows import Row
    from .run import Run


@dataclass(frozen=True, slots=True)
class Judge:
    """Scores modules of one program on one set of rows."""

    program: Program
    rows: list[Row]
    metric: Scorer
    run: Run
    num_threads: int
    progress: Progress

    def examples(self) -> list[Any]:
        """The rows as DSPy takes them."""
        return [row.example(self.program.signature) for row in self.rows]

    def phase(self, name: str) -> AbstractContextManager[None]:
        """A phase in which every row is scored once, as the client is told of it."""
        return self.progress.phase(name, done=0, total=len(self.rows))

    def outcomes(self, module: Any) -> list[scoring.Outcome]:
        """An outcome for every row, within a :meth:`phase`."""
        return scoring.evaluate(
            self.program, module, self.examples(), self.metric, self.run, self.num_threads, self.progress.row
        )


@dataclass(frozen=True, slots=True)
class Found:
    """What came of an optimization; ``trials`` as terms."""

    program: Program
    score: float
    baseline_score: float
    trials: list[dict[Any, Any]]


@dataclass(frozen=True, slots=True)
class Search:
    """An optimizer with its options, the program it starts from, the rows it learns from, and who judges it."""

    optimizer: optimizers.Optimizer
    options: Any
    program: Program
    training: list[Row]
    judge: Judge

    def run(self, model: Model) -> Found:
        """Do it. Raises :class:`BridgeError` for what made the optimizer give up."""
        judge = self.judge
        trials = Trials(judge.run, judge.progress, self.program, judge.metric)
        with model.in_use(trials):
            module = self.program.build()
            with judge.phase("baseline"):
                baseline = scoring.mean(judge.outcomes(module))
                trials.consider(module, baseline)
            with judge.progress.phase("optimize", **self._trials_to_come()):
                optimized = self._optimize(module, trials)
            score = trials.score_of(optimized)
            if score is None:  # the optimizer did not score it itself
                with judge.phase("evaluate"):
                    score = scoring.mean(judge.outcomes(optimized))
                    trials.add(optimized, score)
        return Found(self.program.after(optimized), score, baseline, trials.wire)

    def _trials_to_come(self) -> dict[str, int]:
        return {} if self.optimizer.trials is None else {"trial": 0, "trials": self.optimizer.trials(self.options)}

    def _optimize(self, module: Any, trials: Trials) -> Any:
        judge = self.judge
        training = [row.example(self.program.signature) for row in self.training]
        task = optimizers.Task(module, training, judge.examples(), judge.metric, self.options, judge.num_threads)
        try:
            return optimizers.optimize(self.optimizer, task)
        except Exception as error:
            raise translate_optimizer(error, self.optimizer.name, trials.last_error) from None
