"""The handlers of this room that score programs and make better ones. Each runs in the main thread of a job process.

Rule of this file: validate everything first, then work; what goes wrong in DSPy leaves as an error of the protocol. All
scores are fractions: the mean of the metric over the rows, 0.0 to 1.0 with the metrics that have a name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...refusals import invalid
from ...terms import Atom
from ...validation import validate
from ...vocabulary import named
from . import metrics, models, optimizers, programs, schema
from .errors import at_work
from .progress import Progress
from .rows import read_rows
from .run import Run
from .search import Judge, Search

if TYPE_CHECKING:
    from ...context import Context
    from .optimizers import Optimizer


def optimize_signature(payload: Any, context: Context) -> Any:
    """``:optimize_signature``: the program that an optimizer makes of a signature, or of another program.

    The result is ``%{status: :success, optimized_signature, program, optimization_metrics}``. ``program`` is what
    ``:predict``, ``:evaluate_pipeline`` and a further ``:optimize_signature`` take; ``optimized_signature`` shows the
    same to people. ``optimization_metrics`` has ``optimizer``, ``metric``, ``baseline_score`` (of what was given) and
    ``score`` (of what is returned), both on the validation rows, or on the training rows where there are none;
    ``trials``, the score of every candidate; ``duration_ms``, ``lm_calls``, ``lm_errors``, ``prompt_tokens``,
    ``completion_tokens``, ``cost_usd`` (nil if no price is known) and ``cache_hits``.

    What is returned is what the optimizer chose, also where its score is no higher than before.
    """
    request = validate(payload, schema.OptimizeSignature)
    return _optimize(request, *optimizers.read(request.config), context)


def train_model(payload: Any, context: Context) -> Any:
    """``:train_model``: a program that has learned from rows, by ``method`` ``:few_shot``, the one there is.

    It is ``:optimize_signature`` with ``:labeled_few_shot`` unless the configuration names another optimizer: the rows
    become demonstrations as they are. The result is the same.
    """
    request = validate(payload, schema.TrainModel)
    if request.method != "few_shot":
        raise invalid("payload.method", "few_shot (this version changes no model's weights)", request.method)
    return _optimize(request, *optimizers.read(request.config, optimizers.FEW_SHOT), context)


def _optimize(request: schema.OptimizeSignature, optimizer: Optimizer, options: Any, context: Context) -> Any:
    program = programs.from_payload_of(request)
    training = read_rows(request.training_data, program.signature, "payload.training_data", context)
    validation = training
    if request.validation_data is not None:
        validation = read_rows(request.validation_data, program.signature, "payload.validation_data", context)
    run = Run(context, budget=request.budget)
    metric = metrics.build(options.metric, program, run)
    with at_work():
        model = models.build(request.lm, run)
        judge = Judge(program, validation, metric, run, model.threads(options), Progress(run))
        training = optimizers.shuffled(training, options.seed)
        found = Search(optimizer, options, program, training, judge).run(model)
    return named(
        {
            "status": Atom("success"),
            "optimized_signature": found.program.optimized_signature(),
            "program": found.program.to_map(found.score, metric.wire),
            "optimization_metrics": named(
                {
                    "optimizer": optimizer.name,
                    "metric": metric.wire,
                    "baseline_score": found.baseline_score,
                    "score": found.score,
                    "trials": found.trials,
                    **run.spent(),
                }
            ),
        }
    )
