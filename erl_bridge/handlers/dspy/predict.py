"""``:predict``: a program at work on new inputs.

Rule of this file: it validates everything first, then works; a row that fails says why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...error_map import error_map
from ...errors import InvalidRequest
from ...terms import Atom
from ...validation import validate
from . import models, programs, schema, scoring
from .errors import at_work
from .rows import read_inputs
from .run import Run

if TYPE_CHECKING:
    from ...context import Context
    from .programs import Program


def predict(payload: Any, context: Context) -> Any:
    """``:predict``: the outputs of a program for one map of inputs, or for each of a list of them.

    For a map the result is a map of outputs, or the error of the request. For a list it is a list in the same order of
    ``{:ok, outputs}`` and ``{:error, error}``, where ``error`` is an error map as in any reply.
    """
    request = validate(payload, schema.Predict)
    if request.stream:
        raise InvalidRequest("payload.stream: streaming is not supported by this version; leave it out")
    program = programs.from_payload_of(request)
    inputs = _read_all_inputs(request.inputs, program)
    run = Run(context)
    with at_work():
        model = models.build(request.lm, run)
        with model.in_use():
            outcomes = scoring.predict(program, program.ready(), inputs, model.threads(request.config))
    if isinstance(request.inputs, list):
        return [_tagged(outcome) for outcome in outcomes]
    if outcomes[0].error is not None:
        raise outcomes[0].error
    return outcomes[0].outputs


def _read_all_inputs(value: Any, program: Program) -> list[dict[str, Any]]:
    fields = program.signature.inputs
    if isinstance(value, list):
        return [read_inputs(row, fields, f"payload.inputs[{index}]") for index, row in enumerate(value)]
    return [read_inputs(value, fields, "payload.inputs")]


def _tagged(outcome: scoring.Outcome) -> tuple[Atom, Any]:
    if outcome.error is None:
        return Atom("ok"), outcome.outputs
    return Atom("error"), error_map(outcome.error)
