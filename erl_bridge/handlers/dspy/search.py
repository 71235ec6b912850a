"""One optimization: score what is there, let an optimizer work, score what it made.

Rule of this file: the same rows and the same metric judge everything, so the scores before and after can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from . import compilers, optimizers, scoring
from .budget import BudgetExhausted
from .errors import translate_optimizer
from .run import Abort
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
    """What came of an optimization; ``model`` is the name of the language model if that was made.

    ``status`` is ``budget_exhausted`` where that ended it and this is the best so far.
    """

    program: Program
    score: float
    baseline_score: float
    trials: Trials
    model: str | None
    status: str = "success"


@dataclass(frozen=True, slots=True)
class Search:
    """A plan, the program it starts from, the rows it learns from, and who judges it."""

    plan: compilers.Plan
    program: Program
    training: list[Row]
    judge: Judge

    def run(self, model: Model) -> Found:
        """Do it. Raises :class:`BridgeError` for what made the optimizer give up."""
        judge = self.judge
        examples = judge.examples()
        trials = Trials(judge.run, judge.progress, self.program, judge.metric, examples, model.lm.model)
        with model.in_use(trials):
            with judge.phase("baseline"):
                before = scoring.scores(judge.outcomes(self.program.build()))
                trials.consider(self.program, before)
            try:
                made, score = self._improve(self._task(model, examples, trials))
            except Abort as abort:
                if trials.best is None or not isinstance(abort.error, BudgetExhausted):
                    raise
                return Found(*trials.best, fmean(before), trials, None, status="budget_exhausted")
        return Found(made.program, score, fmean(before), trials, made.model)

    def _improve(self, task: compilers.Task) -> tuple[optimizers.Compiled, float]:
        """What the optimizer makes of it, and its score."""
        judge, trials = self.judge, task.trials
        with judge.progress.phase("optimize", **self._trials_to_come(task)):
            made = self._optimize(task)
        trials.models.check(self.plan.optimizer.asks)
        score = None if made.model else trials.score_of(made.program)
        if score is None:  # the optimizer did not score it itself
            with judge.phase("evaluate"):
                after = scoring.scores(judge.outcomes(made.module))
                score = fmean(after)
                trials.add_program(made.program, after)
        return made, score

    def _task(self, model: Model, examples: list[Any], trials: Trials) -> compilers.Task:
        return compilers.Task(
            self.program,
            self.program.build(),
            [row.example(self.program.signature) for row in self.training],
            examples,
            self.judge.metric,
            self.plan,
            self.judge.num_threads,
            model.lm,
            trials,
        )

    def _trials_to_come(self, task: compilers.Task) -> dict[str, int]:
        count = self.plan.optimizer.trials(task)
        return {} if count is None else {"trial": 0, "trials": count}

    def _optimize(self, task: compilers.Task) -> optimizers.Compiled:
        try:
            return optimizers.optimize(task)
        except Exception as error:
            task.trials.models.check()
            raise translate_optimizer(error, self.plan.optimizer.name, task.trials.last_error) from None
