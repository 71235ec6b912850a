"""``:predict``: a program at work on new inputs.

Rule of this file: it validates everything first, then works; a row that fails says why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...context import dataset_of
from ...error_map import error_map
from ...terms import Atom
from ...validation import validate
from ...vocabulary import named
from . import models, programs, schema, scoring
from .errors import at_work
from .rows import read_inputs
from .run import Run
from .streaming import Sink

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...context import Context
    from .programs import Program

_THREADS = 64  # rows at once, of a model that is somewhere else


def predict(payload: Any, context: Context) -> Any:
    """``:predict``: the outputs of a program for one map of inputs, or for each of a list or dataset of them.

    For a map the result is a map of outputs, or the error of the request. For many it is a list in the same order of
    ``{:ok, outputs}`` and ``{:error, error}``, where ``error`` is an error map as in any reply.

    With ``stream: true`` the fields come piece by piece before that, see :mod:`.streaming`. What was spent comes as a
    ``kind: :usage`` event, the last one, unless the model is local.
    """
    request = validate(payload, schema.Predict)
    program = programs.from_payload_of(request)
    rows, fields = _many(request.inputs, program, context), program.signature.inputs
    if rows is None:
        inputs = [read_inputs(request.inputs, fields, "payload.inputs")]
    else:
        inputs = [read_inputs(row, fields, f"payload.inputs[{index}]") for index, row in enumerate(rows)]
    run = Run(context, budget=request.budget, alone=True)
    with at_work():
        model = models.build(request.lm, run)
        threads = model.threads(request.config, _THREADS)
        sinks = _sinks(program, context, None if rows is None else len(rows)) if request.stream else None
        try:
            with model.in_use():
                outcomes = scoring.predict(program, program.ready(), inputs, threads, sinks)
        finally:
            if not model.local:
                context.event("usage", named(run.spent()))
    if rows is not None:
        return [_tagged(outcome) for outcome in outcomes]
    if outcomes[0].error is not None:
        raise outcomes[0].error
    return outcomes[0].outputs


def _many(value: Any, program: Program, context: Context) -> Sequence[Any] | None:
    """The rows of a list or a dataset, or None for one map of inputs, of which one may be named ``dataset``."""
    if isinstance(value, list):
        return value
    if dataset_of(value) is None or any(field.name == "dataset" for field in program.signature.inputs):
        return None
    return context.rows(value, "payload.inputs")


def _sinks(program: Program, context: Context, rows: int | None) -> list[Sink]:
    """Where the answers of each row go, or those of the one row there is."""
    labels = {field.name: field.label for field in program.outputs}
    return [Sink(context, labels)] if rows is None else [Sink(context, labels, row) for row in range(rows)]


def _tagged(outcome: scoring.Outcome) -> tuple[Atom, Any]:
    if outcome.error is None:
        return Atom("ok"), outcome.outputs
    return Atom("error"), error_map(outcome.error)
