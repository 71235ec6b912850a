"""Metrics: how right a prediction is, as a number from 0.0 (wrong) to 1.0 (right).

Rule of this file: a metric that returns no number ends the run and says so. DSPy would take nil for a crash of the
row and let NaN spoil the score.

A metric of the client may return other numbers; a score is then their mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dspy.evaluate.metrics import f1_score, normalize_text

from ...errors import CallbackError
from ...refusals import invalid, show
from ...terms import Atom
from ...vocabulary import named
from .field_types import OneOf
from .rows import example_map
from .schema import CallbackMap
from .signatures import write_fields, write_value

if TYPE_CHECKING:
    from collections.abc import Callable

    from .programs import Program
    from .run import Run
    from .schema import Metric
    from .signatures import Field

    Answers = list[tuple[Field, Any, Any]]


@dataclass(frozen=True, slots=True)
class Scorer:
    """A metric at work on one program: called by DSPy with an example, a prediction and, at times, a trace."""

    score: Callable[[Any, Any], float]
    wire: Any  # the metric as it is named in programs and results

    def __call__(self, example: Any, prediction: Any, trace: Any = None) -> float:
        return self.score(example, prediction)


def build(metric: Metric, program: Program, run: Run, path: str = "payload.config.metric") -> Scorer:
    """The metric that a payload names: one of :data:`METRICS`, or a function of the client.

    A function is called with two maps, the example (all columns of the row) and the prediction (all outputs), and
    returns a number or a boolean. Raises :class:`InvalidRequest` for a name that is none.
    """
    if isinstance(metric, CallbackMap):
        return _of_client(metric.callback, program, run, f"{path}.callback")
    if metric not in METRICS:
        raise invalid(path, f"one of {', '.join(METRICS)}, or %{{callback: name}}", metric)
    by_fields = METRICS[metric]
    fields = program.signature.outputs

    def score(example: Any, prediction: Any) -> float:
        return by_fields([(f, write_value(f, example[f.name]), write_value(f, prediction[f.name])) for f in fields])

    return Scorer(score, metric)


# -- by name: from (field, expected, got) for every output to a number ------------------------------------------------


def exact_match(answers: Answers) -> float:
    """1.0 if every output is the expected one. Of text, case, punctuation, articles and spacing do not count, as in
    DSPy's own exact match; values of a Literal must be the same."""
    return float(all(_same(field, expected, got) for field, expected, got in answers))


def f1(answers: Answers) -> float:
    """How many words the answer shares with the expected one (F1 of the words), the mean over the outputs.

    What is no text counts 1.0 if it is the same and 0.0 if not.
    """
    return sum(_overlap(field, expected, got) for field, expected, got in answers) / len(answers)


METRICS: dict[str, Callable[[Answers], float]] = {"exact_match": exact_match, "f1": f1}


def _same(field: Field, expected: Any, got: Any) -> bool:
    if not _is_text(field, expected, got):
        return bool(expected == got)
    wanted = normalize_text(expected)
    if not wanted:  # "+" and "-" would have nothing left to compare
        return bool(expected.strip() == got.strip())
    return bool(normalize_text(got) == wanted)


def _overlap(field: Field, expected: Any, got: Any) -> float:
    if not _is_text(field, expected, got) or not normalize_text(expected):
        return float(_same(field, expected, got))
    return float(f1_score(got, expected))


def _is_text(field: Field, expected: Any, got: Any) -> bool:
    return not isinstance(field.type, OneOf) and isinstance(expected, str) and isinstance(got, str)


# -- a function of the client -----------------------------------------------------------------------------------------


def _of_client(name: Any, program: Program, run: Run, path: str) -> Scorer:
    if not isinstance(name, (Atom, str)):
        raise invalid(path, "the name of a function, an atom or a string", name)

    def score(example: Any, prediction: Any) -> float:
        run.check()
        try:
            answer = run.context.call(
                name, [example_map(program.signature, example), write_fields(program.outputs, prediction)]
            )
        except CallbackError as error:
            run.abort(error)
        number = _number(answer)
        if number is None:
            what = f"the client's function {name}, called as the metric"
            run.abort(CallbackError(f"{what}: expected a number or a boolean, got {show(answer)}"))
        return number

    return Scorer(score, named({"callback": name}))


def _number(answer: Any) -> float | None:
    try:
        return float(answer) if isinstance(answer, (bool, int, float)) and math.isfinite(answer) else None
    except OverflowError:  # an integer that no float can hold
        return None
