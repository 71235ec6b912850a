"""``:evaluate_pipeline``: how right a program is on rows with known answers, and whether it is better than another.

Rule of this file: a score never stands alone. With it come the result of every row, what failed, how sure it is, and
for outputs to choose from a table, what was taken for what.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from ...error_map import error_map
from ...validation import validate
from ...vocabulary import named
from . import confidence, metrics, models, programs, schema, scoring
from .errors import at_work
from .field_types import OneOf
from .progress import Progress
from .rows import read_rows
from .run import Run
from .search import Judge
from .signatures import write_fields, write_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...context import Context
    from .programs import Program
    from .rows import Row

SIGNIFICANT = 0.05  # the p-value below which a difference is no luck


def evaluate_pipeline(payload: Any, context: Context) -> Any:
    """The result is ``%{score, interval, correct, total, errors, metric, results, confusion, comparison, usage}``.

    ``score`` is the mean over all rows, those that failed (``errors`` of them) counted 0.0, and ``interval`` is
    ``[low, high]``, in which it is with 95 % confidence (nil where one row says nothing of others). ``correct`` is how
    many rows reached 1.0. ``results`` has one map for each row in their order: ``%{row, inputs, expected, prediction,
    score, feedback, error}``, where ``row`` counts from 0 and either ``prediction`` and ``score`` or ``error`` (an
    error map) is nil. ``confusion`` has for each output with a type of literals the rows by what was expected and what
    came, ``[%{expected, predicted, count}]``, ``predicted`` nil where the row failed. ``usage`` is what it took, as in
    ``optimization_metrics``.

    With a ``baseline`` the same rows go through that too, and ``comparison`` says whether the difference is more than
    luck: see :func:`_comparison`. Without one it is nil.

    When all rows fail, or the first ten, that is the error of the request.
    """
    request = validate(payload, schema.EvaluatePipeline)
    config = request.config or schema.EvaluateConfig()
    program = programs.from_payload_of(request)
    baseline = None if request.baseline is None else programs.from_payload_of(request.baseline, "payload.baseline")
    rows = read_rows(request.data, program.signature, "payload.data", context)
    rows_of_baseline = None
    if baseline is not None:
        rows_of_baseline = read_rows(request.data, baseline.signature, "payload.data", context)
    run = Run(context, budget=request.budget)
    with at_work():
        model = models.build(request.lm, run)
        progress, threads = Progress(run), model.threads(config)
        judge = Judge(program, rows, metrics.build(config.metric, program, run), run, threads, progress)
        compared = None
        with model.in_use():
            if baseline is not None and rows_of_baseline is not None:
                metric = metrics.build(config.metric, baseline, run)
                other = Judge(baseline, rows_of_baseline, metric, run, threads, progress)
                with other.phase("baseline"):
                    compared = other.outcomes(baseline.build())
            with judge.phase("evaluate"):
                outcomes = judge.outcomes(program.build())
    scores = scoring.scores(outcomes)
    return named(
        {
            "score": scoring.mean(outcomes),
            "interval": confidence.interval(scores),
            "correct": sum(score >= 1.0 for score in scores),
            "total": len(rows),
            "errors": sum(outcome.error is not None for outcome in outcomes),
            "metric": judge.metric.wire,
            "results": [
                _result(number, *pair, program) for number, pair in enumerate(zip(rows, outcomes, strict=True))
            ],
            "confusion": _confusion(program, rows, outcomes),
            "comparison": None if compared is None else _comparison(scores, scoring.scores(compared)),
            "usage": named(run.spent()),
        }
    )


def _result(number: int, row: Row, outcome: scoring.Outcome, program: Program) -> dict[Any, Any]:
    return named(
        {
            "row": number,
            "inputs": write_fields(program.signature.inputs, row.values),
            "expected": write_fields(program.signature.outputs, row.values),
            "prediction": outcome.outputs,
            "score": outcome.score,
            "feedback": outcome.feedback,
            "error": None if outcome.error is None else error_map(outcome.error),
        }
    )


def _confusion(program: Program, rows: Sequence[Row], outcomes: Sequence[scoring.Outcome]) -> dict[Any, Any]:
    """For each output to choose from: how often each value was expected, and what came, in the order of the values."""
    return {
        field.label: _table(field, rows, outcomes)
        for field in program.signature.outputs
        if isinstance(field.type, OneOf)
    }


def _table(field: Any, rows: Sequence[Row], outcomes: Sequence[scoring.Outcome]) -> list[dict[Any, Any]]:
    counts = Counter(
        (write_value(field, row.values[field.name]), None if outcome.outputs is None else outcome.outputs[field.label])
        for row, outcome in zip(rows, outcomes, strict=True)
    )
    values = [*field.type.values, None]
    pairs = sorted(counts, key=lambda pair: tuple(values.index(value) for value in pair))
    return [
        named({"expected": expected, "predicted": came, "count": counts[expected, came]}) for expected, came in pairs
    ]


def _comparison(scores: Sequence[float], before: Sequence[float]) -> dict[Any, Any]:
    """``%{baseline_score, difference, interval, better, worse, equal, p_value, significant}``: the rows on which the
    program is better or worse than the baseline, and how likely such a difference is between two that are equally
    good. ``interval`` is that of the ``difference``, with 95 % confidence."""
    differences = [after - earlier for after, earlier in zip(scores, before, strict=True)]
    p_value = confidence.p_value(differences)
    return named(
        {
            "baseline_score": sum(before) / len(before),
            "difference": sum(differences) / len(differences),
            "interval": confidence.interval_of_difference(differences),
            "better": sum(difference > 0 for difference in differences),
            "worse": sum(difference < 0 for difference in differences),
            "equal": sum(difference == 0 for difference in differences),
            "p_value": p_value,
            "significant": p_value < SIGNIFICANT,
        }
    )
