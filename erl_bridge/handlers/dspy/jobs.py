"""The handlers of this room that score programs and make better ones. Each runs in the main thread of a job process.

Rule of this file: validate everything first, then work; what goes wrong in DSPy leaves as an error of the protocol. All
scores are fractions: the mean of the metric over the rows, 0.0 to 1.0 with the metrics that have a name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...terms import Atom
from ...validation import validate
from ...vocabulary import named
from . import compilers, metrics, models, optimizer_options, optimizers, programs, schema
from .errors import at_work
from .progress import Progress
from .rows import read_rows
from .run import Run
from .search import Judge, Search

if TYPE_CHECKING:
    from ...context import Context


def optimize_signature(payload: Any, context: Context) -> Any:
    """``:optimize_signature``: the program that an optimizer makes of a signature, or of another program.

    The result is ``%{status: :success, optimized_signature, program, model, optimization_metrics}``. ``program`` is
    what ``:predict``, ``:evaluate_pipeline`` and a further ``:optimize_signature`` take; ``optimized_signature`` shows
    the same to people. ``model`` is nil, or the name of the language model that was fine-tuned for the program.
    ``optimization_metrics`` has ``optimizer``, ``metric``, ``baseline_score`` (of what was given) and ``score`` (of
    what is returned), both on the validation rows, or on the training rows where there are none; ``trials``, the score
    of every candidate and on how many rows; ``duration_ms``, ``lm_calls``, ``lm_errors``, ``prompt_tokens``,
    ``completion_tokens``, ``cost_usd`` (nil if no price is known) and ``cache_hits``.

    What is returned is what the optimizer chose, also where its score is no higher than before.
    """
    return _optimize(validate(payload, schema.OptimizeSignature), optimizer_options.DEFAULT, context)


def train_model(payload: Any, context: Context) -> Any:
    """``:train_model``: a program that has learned from rows, by ``method``.

    ``:few_shot`` is ``:optimize_signature`` with ``:labeled_few_shot`` unless the configuration names another
    optimizer: the rows become demonstrations as they are. ``:fine_tune`` is ``:bootstrap_finetune``: the language
    model itself is taught, and the result's ``model`` is its name. The result is the same.
    """
    request = validate(payload, schema.TrainModel)
    return _optimize(request, _METHODS[request.method], context)


_METHODS = {"few_shot": optimizer_options.FEW_SHOT, "fine_tune": optimizer_options.FINE_TUNE}


def _optimize(request: schema.OptimizeSignature, optimizer: str, context: Context) -> Any:
    run = Run(context, budget=request.budget)
    with at_work():
        plan = optimizers.read(request.config, run, optimizer)
        program = programs.from_payload_of(request)
        training = read_rows(request.training_data, program.signature, "payload.training_data", context)
        validation = training
        if request.validation_data is not None:
            validation = read_rows(request.validation_data, program.signature, "payload.validation_data", context)
        metric = metrics.build(plan.options.metric, program, run)
        model = models.build(request.lm, run)
        judge = Judge(program, validation, metric, run, model.threads(plan.options), Progress(run))
        found = Search(plan, program, compilers.shuffled(training, plan.options.seed), judge).run(model)
    scored_on = found.trials.scored_on(len(validation), found.model)
    return named(
        {
            "status": Atom(found.status),
            "optimized_signature": found.program.optimized_signature(),
            "program": found.program.to_map(found.score, metric.wire, scored_on),
            "model": found.model,
            "optimization_metrics": named(
                {
                    "optimizer": plan.optimizer.name,
                    "metric": metric.wire,
                    "baseline_score": found.baseline_score,
                    "score": found.score,
                    "trials": found.trials.wire,
                    **run.spent(),
                }
            ),
        }
    )
