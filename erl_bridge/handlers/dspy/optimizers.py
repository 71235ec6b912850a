"""The optimizers: one table from a name to the options it takes, what it needs and how it is run.

Rule of this file: a new optimizer is a struct of options (``optimizer_options.py``), a function that runs it
(``compilers.py``) and a line in :data:`OPTIMIZERS`; validation, error messages and documentation
(``docs/optimizers.md``, ``priv/optimizers.eterm``) come from there.

``seed`` makes runs repeatable: it shuffles the training rows before the optimizer sees them, and it is the seed of what
the optimizer draws itself. Without one the rows keep their order, and DSPy's own fixed seeds hold.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...error_map import missing_package
from ...errors import InvalidRequest
from ...refusals import unknown_name
from ...terms import Atom
from ...validation import validate
from . import compilers, models, programs
from . import optimizer_options as opts
from .compilers import PATH, Plan, Task
from .signatures import by_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .programs import Program
    from .run import Run

_MODELS = ("prompt_model", "reflection_lm", "teacher")  # options that are settings of a language model
_OF_THE_WHOLE = ("metric", "num_threads", "seed")  # what an optimizer within another one takes from that


@dataclass(frozen=True, slots=True)
class Optimizer:
    """One line of the table.

    ``compile`` gives the module that it made, or a whole program where that has other modules than the student
    (``reshapes``). ``trials`` tells how many candidates it scores on the validation rows, None where nobody knows.
    """

    name: str
    about: str
    options: type[opts.Options]
    compile: Callable[[Task], Any]
    trials: Callable[[Task], int | None] = lambda task: None
    check: Callable[[Any, str], None] = lambda options, path: None
    aliases: tuple[str, ...] = ()
    package: str | None = None
    reshapes: bool = False
    asks: str | None = None


@dataclass(frozen=True, slots=True)
class Compiled:
    """What an optimizer made: a program, and the module of DSPy that works as it does. ``model`` is the name of the
    language model that goes with it, where that was made too."""

    program: Program
    module: Any
    model: str | None = None


def optimize(task: Task) -> Compiled:
    """Let an optimizer work. Raises whatever DSPy raises."""
    random.seed(task.options.seed or 0)  # for whoever draws without a seed of its own
    # Optimizers print, and draw bars on standard output whatever they are told.
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        made = task.plan.optimizer.compile(task)
    if isinstance(made, programs.Program):
        return Compiled(made, made.build())
    tuned = {predictor.lm.model for predictor in made.predictors() if predictor.lm is not None} - {task.lm.model}
    return Compiled(task.program.after(made), made, next(iter(tuned), None))


OPTIMIZERS = (
    Optimizer(
        "labeled_few_shot",
        "rows of the training data, chosen at random, become demonstrations; the model is not asked",
        opts.LabeledFewShot,
        compilers.labeled_few_shot,
    ),
    Optimizer(
        "bootstrap_few_shot",
        "answers of the model that the metric takes as right become demonstrations, and rows fill up the rest",
        opts.BootstrapFewShot,
        compilers.bootstrap_few_shot,
    ),
    Optimizer(
        "bootstrap_few_shot_with_random_search",
        "the best of many such choices by their score on the validation rows",
        opts.RandomSearch,
        compilers.random_search,
        trials=lambda task: task.options.num_candidates + 3,
        aliases=("random_search",),
    ),
    Optimizer(
        "bootstrap_few_shot_with_optuna",
        "for each predictor the one demonstration that Optuna finds best on the validation rows",
        opts.WithOptuna,
        compilers.with_optuna,
        trials=lambda task: task.options.num_candidates,
        aliases=("optuna",),
        package="optuna",
    ),
    Optimizer(
        "knn_few_shot",
        "each prediction shows the training rows that are most like its input; the rows become part of the program. "
        "Give validation rows of their own: a training row finds itself",
        opts.KnnFewShot,
        compilers.knn,
        check=compilers.check_knn,
        aliases=("knn",),
        package="numpy",
        reshapes=True,
    ),
    Optimizer(
        "copro",
        "a language model writes instructions, round after round from the scores of those before, on the validation "
        "rows; it sees no rows",
        opts.Copro,
        compilers.copro,
        trials=compilers.copro_trials,
    ),
    Optimizer(
        "mipro_v2",
        "a language model writes instructions for the data, and Optuna finds the best of them together with the best "
        "demonstrations, on the validation rows",
        opts.Mipro,
        compilers.mipro,
        trials=compilers.mipro_trials,
        check=compilers.check_mipro,
        aliases=("mipro", "miprov2"),
        package="optuna",
    ),
    Optimizer(
        "simba",
        "step by step, from rows that go well at one time and badly at another: advice of a language model is added to "
        "the instructions, or a good answer to the demonstrations",
        opts.Simba,
        compilers.simba,
        package="numpy",
    ),
    Optimizer(
        "gepa",
        "a language model reads what went wrong, in the feedback of the metric, and writes better instructions; "
        "candidates that are best at some validation row are bred further",
        opts.Gepa,
        compilers.gepa,
        check=compilers.check_gepa,
        package="gepa",
        asks="new_instruction",
    ),
    Optimizer(
        "infer_rules",
        "demonstrations as `bootstrap_few_shot`, and rules that a language model finds in the rows, the best set of "
        "them on the validation rows",
        opts.InferRules,
        compilers.infer_rules,
        trials=lambda task: task.options.num_candidates,
    ),
    Optimizer(
        "better_together",
        "other optimizers one after the other, of prompts (`p`) and of weights (`w`) by turns; the best after any step",
        opts.BetterTogether,
        compilers.better_together,
        check=compilers.check_better_together,
    ),
    Optimizer(
        "ensemble",
        "several programs that vote: those given, or new ones",
        opts.Ensemble,
        compilers.ensemble,
        reshapes=True,
    ),
    Optimizer(
        "bootstrap_finetune",
        "teaches the language model itself, through the provider that DSPy has for it; the result's `model` is the "
        "name to give as `lm` from then on",
        opts.BootstrapFinetune,
        compilers.finetune,
        aliases=("fine_tune",),
    ),
)
_BY_NAME = {name: optimizer for optimizer in OPTIMIZERS for name in (optimizer.name, *optimizer.aliases)}

# Names of DSPy for options that go by another here.
ALIASES = {
    "max_bootstrapped_demos": "max_demos",
    "num_candidate_programs": "num_candidates",
    "k": "max_labeled_demos",
    "bsize": "batch_size",
}


# -- from payloads -----------------------------------------------------------------------------------------------------


def read(
    config: Any, run: Run, default: str = opts.DEFAULT, path: str = PATH, whole: Mapping[str, Any] | None = None
) -> Plan:
    """The optimizer that a configuration names, with its options read. Raises :class:`InvalidRequest`.

    ``whole`` are the options of the optimizer that this one works for.
    """
    pairs = by_name({} if config is None else config, path)
    name = pairs.get("optimizer", (None, default))[1]
    if not isinstance(name, (Atom, str)) or str(name) not in _BY_NAME:
        raise unknown_name(f"{path}.optimizer", _BY_NAME, name)
    optimizer = _BY_NAME[str(name)]
    if whole is not None and (optimizer.reshapes or optimizer.options is opts.BetterTogether):
        raise InvalidRequest(f"{path}.optimizer: {optimizer.name} is no step of another optimizer")
    for own in _OF_THE_WHOLE if whole is not None else ():
        if own in pairs:
            raise InvalidRequest(f"{path}.{own}: it is that of the whole; leave it out")
    options = validate({**_our_names(pairs, optimizer), **(whole or {})}, optimizer.options, path)
    optimizer.check(options, path)
    _check_package(optimizer)
    given = {option: getattr(options, option, None) for option in _MODELS}
    lms = {option: models.build(lm, run, f"{path}.{option}").lm for option, lm in given.items() if lm is not None}
    shared = {option: getattr(options, option) for option in _OF_THE_WHOLE}
    parts = {
        part: read(value, run, path=f"{path}.{place}", whole=shared)
        for part, (place, value) in _parts(options, path).items()
    }
    return Plan(optimizer, options, lms, parts)


def _our_names(pairs: Mapping[str, tuple[Any, Any]], optimizer: Optimizer) -> dict[Any, Any]:
    taken = optimizer.options.__struct_fields__
    found: dict[Any, Any] = {}
    for text, (key, value) in pairs.items():
        known = ALIASES.get(text)
        found[known if known in taken and known not in pairs and text not in taken else key] = value
    return found


def _parts(options: Any, path: str) -> dict[str, tuple[str, Any]]:
    """Configurations within this one, by the name of the part: its place and what is there."""
    if isinstance(options, opts.BetterTogether):
        steps = by_name(compilers.steps_of(options), f"{path}.steps")
        return {name: (f"steps.{name}", value) for name, (_, value) in steps.items()}
    if isinstance(options, opts.Ensemble) and options.programs is None:
        return {"member": ("member", options.member)}
    return {}


def _check_package(optimizer: Optimizer) -> None:
    package = optimizer.package
    if package is not None and importlib.util.find_spec(package) is None:
        raise missing_package(ModuleNotFoundError(f"the optimizer {optimizer.name} needs {package}", name=package))
