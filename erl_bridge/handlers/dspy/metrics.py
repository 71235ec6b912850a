"""Metrics: how right a prediction is, as a number from 0.0 (wrong) to 1.0 (right), and what to say about it.

Rule of this file: a metric that returns no number ends the run and says so. DSPy would take nil for a crash of the
row and let NaN spoil the score.

A metric is written as a name of :data:`METRICS`, or as a map that one of these keys tells apart (:data:`_FORMS`)::

    %{metric: :passage_match, answer: :answer, context: :passages}   a name, with options
    %{fields: %{title: :f1, year: %{tolerance: 1}}}                  each output by its own metric; the mean of them
    %{tolerance: 0.01, relative: true}                               numbers that are near enough
    %{judge: "Is the answer polite?", lm: "openai/gpt-4o-mini"}      a language model says how right it is
    %{weighted: [%{metric: :f1, weight: 3}, %{metric: ..., weight: 1}]}
    %{callback: :my_metric, trace: true}                             a function of the client

A metric of the client may return other numbers; a score is then their mean.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

import dspy
from dspy.evaluate import metrics as dspy_metrics
from msgspec import Meta, Struct

from ...errors import CallbackError, InvalidRequest, OptimizationError
from ...refusals import invalid, show, unknown_name
from ...terms import Atom
from ...validation import validate
from ...vocabulary import named
from . import models
from .field_types import OneOf
from .rows import example_map
from .signatures import by_name, write_fields, write_value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from .programs import Program
    from .run import Run
    from .signatures import Field

    ByField = Callable[[Field, Any, Any], float]
    Judged = Callable[[Any, Any, "Occasion"], "Verdict"]

MAX_PARTS = 64  # of a weighted sum
MAX_DEPTH = 8  # of sums within sums


@dataclass(frozen=True, slots=True)
class Verdict:
    """A score, and in words what was wrong, where the metric knows."""

    score: float
    feedback: str | None = None


@dataclass(frozen=True, slots=True)
class Occasion:
    """What a metric may know besides example and prediction: the steps of the program as ``(predictor, inputs,
    outputs)``, and which predictor an optimizer asks about."""

    trace: Any = None
    predictor: str | None = None


@dataclass(frozen=True, slots=True)
class Scorer:
    """A metric at work on one program. DSPy calls it with an example, a prediction and, at times, a trace."""

    judge: Judged
    wire: Any  # the metric as it is named in programs and results

    def verdict(self, example: Any, prediction: Any) -> Verdict:
        return self.judge(example, prediction, Occasion())

    def __call__(self, example: Any, prediction: Any, trace: Any = None) -> float:
        return self.judge(example, prediction, Occasion(trace)).score

    def with_feedback(
        self, example: Any, prediction: Any, trace: Any = None, pred_name: Any = None, pred_trace: Any = None
    ) -> Any:
        """The score and what to say about it, as GEPA asks for them."""
        found = self.judge(example, prediction, Occasion(pred_trace or trace, pred_name))
        return dspy.Prediction(score=found.score, feedback=found.feedback or f"The score is {found.score}.")


@dataclass(frozen=True, slots=True)
class _Task:
    """What a metric is built for: it may need the program's fields, the run, and to say where it stands."""

    program: Program
    run: Run
    path: str
    depth: int = 0

    def within(self, path: str) -> _Task:
        if self.depth == MAX_DEPTH:
            raise InvalidRequest(f"{path}: metrics may be nested {MAX_DEPTH} deep, no deeper")
        return _Task(self.program, self.run, path, self.depth + 1)


def build(value: Any, program: Program, run: Run, path: str = "payload.config.metric") -> Scorer:
    """The metric that a payload names. Raises :class:`InvalidRequest` for one that is none."""
    return _build(value, _Task(program, run, path))


def _build(value: Any, task: _Task) -> Scorer:
    if isinstance(value, (Atom, str)) and str(value) in METRICS:
        value = {"metric": value}
    keys = [str(key) for key in value] if isinstance(value, dict) else []
    form = next((form for form in _FORMS if form in keys), None)
    if form is None:
        raise unknown_name(task.path, METRICS, value, f", or a map with one of the keys {', '.join(_FORMS)}")
    schema, make = _FORMS[form]
    return make(validate(value, schema, task.path), task)


# -- by field: from a field, what was expected and what came to a number -----------------------------------------------


def _same(field: Field, expected: Any, got: Any) -> float:
    if not _is_text(field, expected, got):
        return float(expected == got)
    wanted = dspy_metrics.normalize_text(expected)
    if not wanted:  # "+" and "-" would have nothing left to compare
        return float(expected.strip() == got.strip())
    return float(dspy_metrics.normalize_text(got) == wanted)


def _overlap(field: Field, expected: Any, got: Any) -> float:
    return _of_words(dspy_metrics.f1_score, field, expected, got)


def _overlap_or_no(field: Field, expected: Any, got: Any) -> float:
    return _of_words(dspy_metrics.hotpot_f1_score, field, expected, got)


def _of_words(score: Callable[[str, str], float], field: Field, expected: Any, got: Any) -> float:
    if not _is_text(field, expected, got) or not dspy_metrics.normalize_text(expected):
        return _same(field, expected, got)
    return float(score(got, expected))


def _is_text(field: Field, expected: Any, got: Any) -> bool:
    return not isinstance(field.type, OneOf) and isinstance(expected, str) and isinstance(got, str)


# -- by name -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric with a name. One that scores each output by itself has that as ``by_field``."""

    about: str
    make: Callable[[Named, _Task], Judged]
    by_field: ByField | None = None


class Named(Struct, kw_only=True):
    """``%{metric: name}``, with the options that some take."""

    metric: str
    answer: str = "answer"
    context: str = "context"
    lm: Any = None


def _passage_match(options: Named, task: _Task) -> Judged:
    expected, passages = _column(options.answer, task), _given_or_made(options.context, task)

    def judge(example: Any, prediction: Any, occasion: Occasion) -> Verdict:
        answer = expected(example)
        found = passages(example, prediction)
        texts = [str(item) for item in found] if isinstance(found, list) else [str(found)]
        wanted = [str(item) for item in answer] if isinstance(answer, list) else [str(answer)]
        right = dspy_metrics.answer_passage_match(dspy.Example(answer=wanted), dspy.Prediction(context=texts))
        return Verdict(float(right), None if right else f"No passage has the answer {show(answer)}.")

    return judge


def _semantic_f1(options: Named, task: _Task) -> Judged:
    module, ask = dspy.evaluate.SemanticF1(), _asked(options.lm, task)

    def judge(example: Any, prediction: Any, occasion: Occasion) -> Verdict:
        asked = dspy.Example(question=_inputs(task, example), response=_expected(task, example))
        with ask():
            return _by_lm(module(asked, dspy.Prediction(response=_answered(task, prediction))).score)

    return judge


def _complete_and_grounded(options: Named, task: _Task) -> Judged:
    module, ask = dspy.evaluate.CompleteAndGrounded(), _asked(options.lm, task)
    context = _given_or_made(options.context, task)

    def judge(example: Any, prediction: Any, occasion: Occasion) -> Verdict:
        asked = dspy.Example(question=_inputs(task, example), response=_expected(task, example))
        answered = dspy.Prediction(response=_answered(task, prediction), context=_text(context(example, prediction)))
        with ask():
            return _by_lm(module(asked, answered).score)

    return judge


def _over_outputs(by_field: ByField, add_up: Callable[[list[float]], float]) -> Callable[[Named, _Task], Judged]:
    def make(options: Named, task: _Task) -> Judged:
        if options != Named(metric=options.metric):
            raise InvalidRequest(f"{task.path}: {options.metric} takes no options")
        return _by_fields([(field, by_field) for field in task.program.signature.outputs], add_up)

    return make


METRICS: dict[str, Metric] = {
    "exact_match": Metric(
        "1.0 if every output is the expected one. Of text, case, punctuation, articles and spacing do not count, as in "
        "DSPy's own exact match; values of a literal must be the same",
        _over_outputs(_same, min),
        _same,
    ),
    "f1": Metric(
        "how many words the answer shares with the expected one (F1 of the words), the mean over the outputs; what is "
        "no text counts 1.0 if it is the same and 0.0 if not",
        _over_outputs(_overlap, fmean),
        _overlap,
    ),
    "hotpot_f1": Metric(
        "as `f1`, but an answer of `yes`, `no` or `noanswer` is right or wrong as a whole",
        _over_outputs(_overlap_or_no, fmean),
        _overlap_or_no,
    ),
    "passage_match": Metric(
        "1.0 if one of the passages in the field `context` has the `answer` of the row; the options `answer` and "
        "`context` name other fields",
        _passage_match,
    ),
    "semantic_f1": Metric(
        "a language model says how much of the expected answer is covered, and how much of the answer is expected; the "
        "option `lm` names the model, else it is that of the request",
        _semantic_f1,
    ),
    "complete_and_grounded": Metric(
        "a language model says how complete the answer is, and how much of it the field `context` supports; options "
        "`context` and `lm`",
        _complete_and_grounded,
    ),
}


def _named(options: Named, task: _Task) -> Scorer:
    metric = METRICS.get(options.metric)
    if metric is None:
        raise unknown_name(f"{task.path}.metric", METRICS, options.metric)
    columns = {name: getattr(options, name) for name in ("answer", "context")}
    moved = {name: column for name, column in columns.items() if name != column}
    return Scorer(metric.make(options, task), named({"metric": options.metric, **moved}) if moved else options.metric)


# -- each output by its own metric ---------------------------------------------------------------------------------


class Fields(Struct, kw_only=True):
    """``%{fields: %{title: :f1, year: %{tolerance: 1}}}``"""

    fields: Any


class Tolerance(Struct, kw_only=True):
    """``%{tolerance: 0.01}``: numbers that differ by no more, of the expected one if ``relative``."""

    tolerance: Annotated[float, Meta(ge=0)]
    relative: bool = False


def _of_fields(options: Fields, task: _Task) -> Scorer:
    outputs = {field.name: field for field in task.program.signature.outputs}
    path = f"{task.path}.fields"
    parts, wires = [], {}
    for name, (key, value) in by_name(options.fields, path).items():
        if name not in outputs:
            raise invalid(path, f"outputs of the signature ({', '.join(outputs)})", key)
        by_field, wires[key] = _by_field(value, f"{path}.{name}")
        parts.append((outputs[name], by_field))
    if not parts:
        raise InvalidRequest(f"{path}: expected at least one field, got none")
    return Scorer(_by_fields(parts, fmean), named({"fields": wires}))


def _by_field(value: Any, path: str) -> tuple[ByField, Any]:
    """A metric for one field, and its name."""
    if isinstance(value, dict):
        options = validate(value, Tolerance, path)
        return _near(options), _wire(options)
    known = {name: metric.by_field for name, metric in METRICS.items() if metric.by_field is not None}
    by_field = known.get(str(value)) if isinstance(value, (Atom, str)) else None
    if by_field is None:
        raise unknown_name(path, known, value, ", or %{tolerance: number}")
    return by_field, str(value)


def _of_numbers(options: Tolerance, task: _Task) -> Scorer:
    parts = [(field, _near(options)) for field in task.program.signature.outputs]
    return Scorer(_by_fields(parts, min), _wire(options))


def _wire(options: Tolerance) -> Any:
    return named({"tolerance": options.tolerance, **({"relative": True} if options.relative else {})})


def _near(options: Tolerance) -> ByField:
    def near(field: Field, expected: Any, got: Any) -> float:
        wanted, came = _number(expected), _number(got)
        if wanted is None or came is None or isinstance(expected, bool) or isinstance(got, bool):
            return _same(field, expected, got)
        return float(abs(came - wanted) <= options.tolerance * (abs(wanted) if options.relative else 1.0))

    return near


def _by_fields(parts: list[tuple[Field, ByField]], add_up: Callable[[list[float]], float]) -> Judged:
    def judge(example: Any, prediction: Any, occasion: Occasion) -> Verdict:
        scores, wrong = [], []
        for field, by_field in parts:
            expected, got = write_value(field, example[field.name]), write_value(field, prediction[field.name])
            scores.append(by_field(field, expected, got))
            if scores[-1] < 1.0:
                wrong.append(f"{field.name}: expected {_quoted(expected)}, got {_quoted(got)}.")
        return Verdict(add_up(scores), " ".join(wrong) or "This is right.")

    return judge


def _quoted(value: Any) -> str:
    return show(str(value) if isinstance(value, Atom) else value, 500)


# -- sums --------------------------------------------------------------------------------------------------------------


class Part(Struct, kw_only=True):
    """One metric of a sum."""

    metric: Any
    weight: Annotated[float, Meta(gt=0)] = 1.0


class Weighted(Struct, kw_only=True):
    """``%{weighted: [%{metric: ..., weight: 2.0}, ...]}``: the mean of several metrics, by their weights."""

    weighted: Annotated[list[Part], Meta(min_length=1, max_length=MAX_PARTS)]


def _weighted(options: Weighted, task: _Task) -> Scorer:
    parts = [
        (_build(part.metric, task.within(f"{task.path}.weighted[{index}].metric")), part.weight)
        for index, part in enumerate(options.weighted)
    ]
    total = sum(weight for _, weight in parts)

    def judge(example: Any, prediction: Any, occasion: Occasion) -> Verdict:
        found = [(scorer.judge(example, prediction, occasion), weight) for scorer, weight in parts]
        said = [verdict.feedback for verdict, _ in found if verdict.feedback]
        return Verdict(sum(verdict.score * weight for verdict, weight in found) / total, " ".join(said) or None)

    wires = [named({"metric": scorer.wire, "weight": weight}) for scorer, weight in parts]
    return Scorer(judge, named({"weighted": wires}))


# -- a language model --------------------------------------------------------------------------------------------------


class Judge(Struct, kw_only=True):
    """``%{judge: instructions}``: a language model gives the score. ``lm`` is as in a request; unless told, the
    request's own."""

    judge: Annotated[str, Meta(min_length=1, max_length=20_000)]
    lm: Any = None


def _judge(options: Judge, task: _Task) -> Scorer:
    fields = {
        "inputs": (str, dspy.InputField(desc="what was asked")),
        "expected": (str, dspy.InputField(desc="what was expected as the answer")),
        "answer": (str, dspy.InputField(desc="the answer to be judged")),
        "feedback": (str, dspy.OutputField(desc="what is wrong with the answer, in a sentence or two")),
        "score": (float, dspy.OutputField(desc="from 0.0 (wrong) to 1.0 (right)")),
    }
    predictor = dspy.Predict(dspy.make_signature(fields, options.judge))
    ask = _asked(options.lm, task)

    def judge(example: Any, prediction: Any, occasion: Occasion) -> Verdict:
        with ask():
            said = predictor(
                inputs=_inputs(task, example),
                expected=_expected(task, example),
                answer=_answered(task, prediction),
            )
        return Verdict(_by_lm(said.score).score, said.feedback)

    # Which model judges is no part of what a program keeps: there may be a key in it.
    return Scorer(judge, named({"judge": options.judge}))


def _asked(lm: Any, task: _Task) -> Callable[[], AbstractContextManager[Any]]:
    """A context in which the judge is asked: its own model, or the one at work, and nobody's trace."""
    if lm is None:
        return lambda: dspy.context(trace=None)
    model = models.build(lm, task.run, f"{task.path}.lm")
    return lambda: dspy.context(trace=None, lm=model.lm)


def _by_lm(score: Any) -> Verdict:
    number = _number(score)
    if number is None or not 0.0 <= number <= 1.0:
        raise OptimizationError(f"the language model that judges answered {show(score)}, no score from 0.0 to 1.0")
    return Verdict(number)


def _inputs(task: _Task, example: Any) -> str:
    return _lines(task.program.signature.inputs, example)


def _expected(task: _Task, example: Any) -> str:
    return _lines(task.program.signature.outputs, example)


def _answered(task: _Task, prediction: Any) -> str:
    return _lines(task.program.signature.outputs, prediction)


def _lines(fields: tuple[Field, ...], values: Mapping[str, Any]) -> str:
    """The value of the only field, or a line for each of several."""
    texts = [(field.name, _text(write_value(field, values[field.name]))) for field in fields]
    return texts[0][1] if len(texts) == 1 else "\n".join(f"{name}: {text}" for name, text in texts)


def _text(value: Any) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def _column(name: str, task: _Task) -> Callable[[Any], Any]:
    """A value of the row: a field of the signature or another column."""

    def value(example: Any) -> Any:
        columns = {str(key): item for key, item in example_map(task.program.signature, example).items()}
        if name not in columns:
            raise InvalidRequest(f"{task.path}: the rows have no column {name}")
        return columns[name]

    return value


def _given_or_made(name: str, task: _Task) -> Callable[[Any, Any], Any]:
    """A value of the prediction if the program has such an output, else of the row."""
    outputs = {field.name: field for field in task.program.outputs}
    column = _column(name, task)
    if name in outputs:
        return lambda example, prediction: write_value(outputs[name], prediction[name])
    return lambda example, prediction: column(example)


# -- a function of the client ------------------------------------------------------------------------------------------


class Callback(Struct, kw_only=True):
    """``%{callback: name}``: a function of the client."""

    callback: Any
    trace: bool = False


def _of_client(options: Callback, task: _Task) -> Scorer:
    """It is called with two maps, the example (all columns of the row) and the prediction (all outputs), with ``trace``
    also with ``%{trace: [%{inputs:, outputs:}], predictor: name | nil}``. It returns a number, a boolean or
    ``%{score: number, feedback: text}``."""
    name, program, run = options.callback, task.program, task.run
    if not isinstance(name, (Atom, str)):
        raise invalid(f"{task.path}.callback", "the name of a function, an atom or a string", name)

    def judge(example: Any, prediction: Any, occasion: Occasion) -> Verdict:
        run.check()
        arguments = [example_map(program.signature, example), write_fields(program.outputs, prediction)]
        if options.trace:
            arguments.append(_circumstances(program, occasion))
        try:
            answer = run.context.call(name, arguments)
        except CallbackError as error:
            run.abort(error)
        found = _read_verdict(answer)
        if found is None:
            run.abort(
                CallbackError(
                    f"the client's function {name}, called as the metric: expected a number, a boolean or "
                    f"%{{score: number, feedback: text}}, got {show(answer)}"
                )
            )
        return found

    return Scorer(judge, named({"callback": name, **({"trace": True} if options.trace else {})}))


def _circumstances(program: Program, occasion: Occasion) -> dict[Any, Any]:
    steps = [
        named({"inputs": _plain(program, inputs), "outputs": _plain(program, outputs)})
        for _, inputs, outputs in occasion.trace or ()
    ]
    return named({"trace": steps, "predictor": occasion.predictor})


def _plain(program: Program, values: Any) -> dict[Any, Any]:
    """The values of a step: fields of the program as terms, those within it as text."""
    fields = {field.name: field for field in program.fields}
    pairs = values.items() if hasattr(values, "items") else ()
    return {
        (fields[name].label if name in fields else name): (
            write_value(fields[name], value) if name in fields else _simple(value)
        )
        for name, value in pairs
    }


def _simple(value: Any) -> Any:
    return value if value is None or isinstance(value, (str, bool, int)) else str(value)


def _read_verdict(answer: Any) -> Verdict | None:
    if not isinstance(answer, dict):
        number = _number(answer)
        return None if number is None else Verdict(number)
    fields = {str(key): value for key, value in answer.items()}
    number, feedback = _number(fields.pop("score", None)), fields.pop("feedback", None)
    if number is None or fields or not (feedback is None or isinstance(feedback, str)):
        return None
    return Verdict(number, feedback)


def _number(answer: Any) -> float | None:
    with contextlib.suppress(OverflowError):  # an integer that no float can hold
        return float(answer) if isinstance(answer, (bool, int, float)) and math.isfinite(answer) else None
    return None


# The key that tells a form apart -> its schema, and what makes a metric of it.
_FORMS: dict[str, tuple[type[Struct], Callable[[Any, _Task], Scorer]]] = {
    "callback": (Callback, _of_client),
    "weighted": (Weighted, _weighted),
    "fields": (Fields, _of_fields),
    "judge": (Judge, _judge),
    "tolerance": (Tolerance, _of_numbers),
    "metric": (Named, _named),
}
