"""The optimizers: one table from a name to the options it takes and how it is run.

Rule of this file: a new optimizer is a struct of options, a function and a line in :data:`OPTIMIZERS`; validation and
error messages come from there.

``seed`` shuffles the training rows before the optimizer sees them, so each seed is a run of its own and every run can
be repeated; without a seed the rows keep their order. What else these optimizers draw at random, DSPy draws with
fixed seeds.
"""

from __future__ import annotations

import contextlib
import os
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import dspy
from msgspec import Meta, Struct

from ...refusals import invalid
from ...terms import Atom
from ...validation import validate
from .schema import Metric, Positive, Threads
from .signatures import by_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from .metrics import Scorer

DEFAULT = "bootstrap_few_shot"
FEW_SHOT = "labeled_few_shot"  # what trains without asking the model
PATH = "payload.config"

Count = Annotated[int, Meta(ge=0)]


class Options(Struct, kw_only=True):
    """What every optimizer takes."""

    optimizer: str = DEFAULT
    metric: Metric = "exact_match"
    num_threads: Threads | None = None
    seed: int | None = None


class LabeledFewShot(Options, kw_only=True):
    """``labeled_few_shot``: ``max_labeled_demos`` rows of the training data, chosen at random, as demonstrations."""

    max_labeled_demos: Count = 16


class BootstrapFewShot(LabeledFewShot, kw_only=True):
    """``bootstrap_few_shot``: up to ``max_demos`` answers of the model that the metric takes as right (where it is a
    number, at least ``metric_threshold``), and rows of the training data up to ``max_labeled_demos`` in all."""

    max_demos: Count = 4
    max_rounds: Positive = 1
    max_errors: Positive = 10
    metric_threshold: float | None = None


class RandomSearch(BootstrapFewShot, kw_only=True):
    """``bootstrap_few_shot_with_random_search``: the best of ``num_candidates`` such choices and three plain ones, by
    their score on the validation rows; it stops early at ``stop_at_score`` (0.0 to 1.0)."""

    max_demos: Positive = 4
    num_candidates: Positive = 16
    stop_at_score: float | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """What an optimizer is given: a module of DSPy, examples, a metric and options."""

    student: Any
    trainset: list[Any]
    valset: list[Any]
    metric: Scorer
    options: Any
    num_threads: int


@dataclass(frozen=True, slots=True)
class Optimizer:
    """One line of the table. ``trials`` tells how many candidates it scores on the validation rows; None is none."""

    name: str
    options: type[Options]
    compile: Callable[[Task], Any]
    trials: Callable[[Any], int] | None = None
    aliases: tuple[str, ...] = ()


def _labeled_few_shot(task: Task) -> Any:
    optimizer = dspy.LabeledFewShot(k=task.options.max_labeled_demos)
    return optimizer.compile(task.student, trainset=task.trainset)


def _bootstrap_few_shot(task: Task) -> Any:
    optimizer = dspy.BootstrapFewShot(metric=task.metric, **_bootstrap_arguments(task.options))
    return optimizer.compile(task.student, trainset=task.trainset)


def _random_search(task: Task) -> Any:
    optimizer = dspy.BootstrapFewShotWithRandomSearch(
        metric=task.metric,
        num_candidate_programs=task.options.num_candidates,
        num_threads=task.num_threads,
        stop_at_score=None if task.options.stop_at_score is None else 100 * task.options.stop_at_score,
        **_bootstrap_arguments(task.options),
    )
    return optimizer.compile(task.student, trainset=task.trainset, valset=task.valset)


def _bootstrap_arguments(options: BootstrapFewShot) -> dict[str, Any]:
    return {
        "max_bootstrapped_demos": options.max_demos,
        "max_labeled_demos": options.max_labeled_demos,
        "max_rounds": options.max_rounds,
        "max_errors": options.max_errors,
        "metric_threshold": options.metric_threshold,
    }


OPTIMIZERS = (
    Optimizer("labeled_few_shot", LabeledFewShot, _labeled_few_shot),
    Optimizer("bootstrap_few_shot", BootstrapFewShot, _bootstrap_few_shot),
    Optimizer(
        "bootstrap_few_shot_with_random_search",
        RandomSearch,
        _random_search,
        trials=lambda options: options.num_candidates + 3,
        aliases=("random_search",),
    ),
)
_BY_NAME = {name: optimizer for optimizer in OPTIMIZERS for name in (optimizer.name, *optimizer.aliases)}

# Names of DSPy for options that go by another here.
_ALIASES = {"max_bootstrapped_demos": "max_demos", "num_candidate_programs": "num_candidates", "k": "max_labeled_demos"}


def read(config: Any, default: str = DEFAULT) -> tuple[Optimizer, Any]:
    """The optimizer that ``payload.config`` names and an instance of its options. Raises :class:`InvalidRequest`."""
    pairs = by_name({} if config is None else config, PATH)
    name = pairs.get("optimizer", (None, default))[1]
    if not isinstance(name, (Atom, str)) or str(name) not in _BY_NAME:
        raise invalid(f"{PATH}.optimizer", f"one of {', '.join(_BY_NAME)}", name)
    optimizer = _BY_NAME[str(name)]
    taken = optimizer.options.__struct_fields__
    given: dict[Any, Any] = {}
    for text, (key, value) in pairs.items():
        known = _ALIASES.get(text)
        given[known if known in taken and known not in pairs else key] = value
    return optimizer, validate(given, optimizer.options, PATH)


def shuffled(rows: list[Any], seed: int | None) -> list[Any]:
    """The rows in the order that the seed gives them; in their own without one."""
    rows = list(rows)
    if seed is not None:
        random.Random(seed).shuffle(rows)
    return rows


def optimize(optimizer: Optimizer, task: Task) -> Any:
    """The module that the optimizer makes of ``task.student``. Raises whatever DSPy raises."""
    # Optimizers print, and draw bars on standard output whatever they are told.
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        return optimizer.compile(task)
