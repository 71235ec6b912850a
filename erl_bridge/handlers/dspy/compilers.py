"""How each optimizer of DSPy is run: from a task to the module, or the whole program, that it made.

Rule of this file: each function is one line of the table in ``optimizers.py``, and names the options of its struct;
what DSPy calls otherwise is translated here. What one needs of its options that their types cannot say is a ``check``.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import dspy
from dspy.clients.utils_finetune import TrainDataFormat
from dspy.teleprompt.teleprompt import Teleprompter

from ...errors import InvalidRequest, OptimizationError
from ...refusals import invalid
from . import modules, programs, selecting
from . import optimizer_options as opts
from .signatures import by_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .metrics import Scorer
    from .optimizers import Optimizer
    from .programs import Program
    from .trials import Trials

PATH = "payload.config"


@dataclass(frozen=True, slots=True)
class Plan:
    """An optimizer with its options, the language models they name, and the plans within it."""

    optimizer: Optimizer
    options: Any
    models: Mapping[str, Any]
    parts: Mapping[str, Plan]


@dataclass(frozen=True, slots=True)
class Task:
    """What an optimizer is given: a program and a module of DSPy made of it, examples, a metric, a plan."""

    program: Program
    student: Any
    trainset: list[Any]
    valset: list[Any]
    metric: Scorer
    plan: Plan
    num_threads: int
    lm: Any
    trials: Trials

    @property
    def options(self) -> Any:
        return self.plan.options

    def model(self, name: str) -> Any:
        """The language model of an option, None where it is not set."""
        return self.plan.models.get(name)

    @property
    def teacher_settings(self) -> dict[str, Any]:
        teacher = self.model("teacher")
        return {} if teacher is None else {"lm": teacher}


def shuffled(rows: list[Any], seed: int | None) -> list[Any]:
    """The rows in the order that the seed gives them; in their own without one."""
    rows = list(rows)
    if seed is not None:
        random.Random(seed).shuffle(rows)
    return rows


# -- demonstrations ----------------------------------------------------------------------------------------------------


def labeled_few_shot(task: Task) -> Any:
    optimizer = dspy.LabeledFewShot(k=task.options.max_labeled_demos)
    return optimizer.compile(task.student, trainset=task.trainset)


def bootstrap_few_shot(task: Task) -> Any:
    optimizer = dspy.BootstrapFewShot(metric=task.metric, **_bootstrap_arguments(task))
    return optimizer.compile(task.student, trainset=task.trainset)


def random_search(task: Task) -> Any:
    optimizer = dspy.BootstrapFewShotWithRandomSearch(
        metric=task.metric,
        num_candidate_programs=task.options.num_candidates,
        num_threads=task.num_threads,
        stop_at_score=None if task.options.stop_at_score is None else 100 * task.options.stop_at_score,
        **_bootstrap_arguments(task),
    )
    return optimizer.compile(task.student, trainset=task.trainset, valset=task.valset)


def _bootstrap_arguments(task: Task) -> dict[str, Any]:
    options = task.options
    return {
        "max_bootstrapped_demos": options.max_demos,
        "max_labeled_demos": options.max_labeled_demos,
        "max_rounds": options.max_rounds,
        "max_errors": options.max_errors,
        "metric_threshold": options.metric_threshold,
        "teacher_settings": task.teacher_settings,
    }


def with_optuna(task: Task) -> Any:
    """DSPy's own draws with another seed every time; otherwise it is the same."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    chooser = dspy.BootstrapFewShotWithOptuna(metric=task.metric, num_threads=task.num_threads)
    bootstrap = dspy.BootstrapFewShot(metric=task.metric, **_bootstrap_arguments(task))
    chooser.valset, chooser.student = task.valset, task.student.reset_copy()
    chooser.compiled_teleprompter = bootstrap.compile(task.student, trainset=task.trainset)
    if not all(predictor.demos for predictor in chooser.compiled_teleprompter.predictors()):
        raise OptimizationError("no row became a demonstration, so there is nothing to choose from")
    sampler = optuna.samplers.TPESampler(seed=task.options.seed or 0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(chooser.objective, n_trials=task.options.num_candidates)
    return study.best_trial.user_attrs["program"]


def knn(task: Task) -> Program:
    student, options = task.student, task.options
    if options.bootstrap:
        bootstrap = dspy.BootstrapFewShot(
            metric=task.metric,
            metric_threshold=options.metric_threshold,
            max_bootstrapped_demos=len(task.trainset),
            max_labeled_demos=0,
            teacher_settings=task.teacher_settings,
        )
        student = bootstrap.compile(student, trainset=task.trainset)
        for predictor in student.predictors():
            predictor.demos = [*predictor.demos, *bootstrap.validation]
    else:
        student = dspy.LabeledFewShot(k=len(task.trainset)).compile(student, trainset=task.trainset, sample=False)
    learned, inner = task.program.after(student), task.program.module
    vectorizer = selecting.read_vectorizer(options.vectorizer, f"{PATH}.vectorizer")
    given = {"k": options.k, "vectorizer": vectorizer}
    if inner.kind.name == "nearest":
        return programs.Program(replace(inner, options={**inner.options, **given}), learned.predictors)
    outer = modules.Module(modules.KINDS["nearest"], inner.signature, {**given, "module": inner})
    return programs.compose(outer, {"module": learned})


def check_knn(options: opts.KnnFewShot, path: str) -> None:
    selecting.read_vectorizer(options.vectorizer, f"{path}.vectorizer")


# -- instructions ------------------------------------------------------------------------------------------------------


def copro(task: Task) -> Any:
    options = task.options
    optimizer = dspy.COPRO(
        prompt_model=task.model("prompt_model"),
        metric=task.metric,
        breadth=options.breadth,
        depth=options.depth,
        init_temperature=options.init_temperature,
    )
    # It only scores on the rows it is given, so it is given those for that.
    return optimizer.compile(
        task.student, trainset=task.valset, eval_kwargs={"num_threads": task.num_threads, "display_progress": False}
    )


def copro_trials(task: Task) -> int | None:
    return task.options.breadth * task.options.depth if len(task.program.predictors) == 1 else None


def mipro(task: Task) -> Any:
    options = task.options
    optimizer = dspy.MIPROv2(
        metric=task.metric,
        prompt_model=task.model("prompt_model"),
        teacher_settings=task.teacher_settings,
        max_bootstrapped_demos=options.max_demos,
        max_labeled_demos=options.max_labeled_demos,
        auto=_mipro_auto(options),
        num_candidates=options.num_candidates,
        num_threads=task.num_threads,
        seed=options.seed or 0,
        init_temperature=options.init_temperature,
        metric_threshold=options.metric_threshold,
    )
    return optimizer.compile(
        task.student,
        trainset=task.trainset,
        valset=task.valset,
        num_trials=options.num_trials,
        minibatch=_minibatch(task),
        minibatch_size=min(options.minibatch_size, len(task.valset)),
        minibatch_full_eval_steps=options.minibatch_full_eval_steps,
    )


def _mipro_auto(options: opts.Mipro) -> opts.Auto | None:
    return options.auto or (None if options.num_trials is not None else "light")


def _minibatch(task: Task) -> bool:
    least = dspy.teleprompt.mipro_optimizer_v2.MIN_MINIBATCH_SIZE if _mipro_auto(task.options) else 0
    return bool(len(task.valset) > max(task.options.minibatch_size, least))


def mipro_trials(task: Task) -> int:
    options, auto = task.options, _mipro_auto(task.options)
    trials = options.num_trials
    if auto is not None:  # as MIPROv2 has it
        candidates = dspy.teleprompt.mipro_optimizer_v2.AUTO_RUN_SETTINGS[auto]["n"]
        variables = len(task.program.predictors) * (2 if options.max_demos or options.max_labeled_demos else 1)
        trials = int(max(2 * variables * math.log2(candidates), 1.5 * candidates))
    if not _minibatch(task):
        return int(trials + 1)
    steps = options.minibatch_full_eval_steps
    return int(trials + trials // steps + 1 + (trials % steps != 0))


def check_mipro(options: opts.Mipro, path: str) -> None:
    by_hand = (options.num_candidates, options.num_trials)
    if options.auto is not None and by_hand != (None, None):
        raise InvalidRequest(f"{path}: expected either auto, or num_candidates and num_trials")
    if None in by_hand and by_hand != (None, None):
        raise InvalidRequest(f"{path}: expected num_candidates and num_trials together")


def simba(task: Task) -> Any:
    options = task.options
    size = min(options.batch_size, len(task.trainset))
    optimizer = dspy.SIMBA(
        metric=task.trials.watched(task.metric, size),
        bsize=size,
        num_candidates=options.num_candidates,
        max_steps=options.max_steps,
        max_demos=options.max_demos,
        prompt_model=task.model("prompt_model"),
        teacher_settings=task.teacher_settings or None,
        num_threads=task.num_threads,
    )
    return optimizer.compile(task.student, trainset=task.trainset, seed=options.seed or 0)


def gepa(task: Task) -> Any:
    options = task.options
    budgets = {name: getattr(options, name) for name in ("auto", "max_full_evals", "max_metric_calls")}
    if not any(budgets.values()):
        budgets["auto"] = "light"
    optimizer = dspy.GEPA(
        metric=task.metric.with_feedback,
        **budgets,
        reflection_minibatch_size=options.reflection_minibatch_size,
        candidate_selection_strategy=options.candidate_selection_strategy,
        skip_perfect_score=options.skip_perfect_score,
        use_merge=options.use_merge,
        max_merge_invocations=options.max_merge_invocations,
        num_threads=task.num_threads,
        reflection_lm=task.model("reflection_lm") or task.lm,
        warn_on_score_mismatch=False,
        seed=options.seed or 0,
    )
    return optimizer.compile(task.student, trainset=task.trainset, valset=task.valset)


def check_gepa(options: opts.Gepa, path: str) -> None:
    given = [name for name in ("auto", "max_full_evals", "max_metric_calls") if getattr(options, name) is not None]
    if len(given) > 1:
        raise InvalidRequest(f"{path}: expected one of auto, max_full_evals and max_metric_calls, got {given}")


def infer_rules(task: Task) -> Any:
    optimizer = dspy.InferRules(
        metric=task.metric,
        num_candidates=task.options.num_candidates,
        num_rules=task.options.num_rules,
        num_threads=task.num_threads,
        **_bootstrap_arguments(task),
    )
    return optimizer.compile(task.student, trainset=task.trainset, valset=task.valset)


# -- weights -----------------------------------------------------------------------------------------------------------


class _Finetune(dspy.BootstrapFinetune):  # type: ignore[misc]
    def _prepare_finetune_data(self, *args: Any, **kwargs: Any) -> Any:
        data, kind = super()._prepare_finetune_data(*args, **kwargs)
        if not data:
            raise OptimizationError("no answer was right, so there is nothing to teach the model")
        return data, kind


def finetune(task: Task) -> Any:
    options, student = task.options, task.student
    for predictor in student.predictors():
        predictor.lm = predictor.lm or task.lm
    if options.data == "rows":
        return _taught_rows(task)
    optimizer = _Finetune(
        metric=task.metric,
        train_kwargs=options.train_kwargs,
        exclude_demos=options.exclude_demos,
        num_threads=task.num_threads,
    )
    teacher = student.deepcopy()
    if task.model("teacher") is not None:
        teacher.set_lm(task.model("teacher"))
    return optimizer.compile(student, trainset=task.trainset, teacher=teacher)


def _taught_rows(task: Task) -> Any:
    predictor, *others = task.student.predictors()
    wanted = set(predictor.signature.output_fields)
    if others or not wanted <= {field.name for field in task.program.signature.outputs}:
        raise InvalidRequest(
            f"{PATH}.data: the rows do not have all that the predictors of the module answer; teach it answers instead"
        )
    adapter = dspy.ChatAdapter()
    data = [
        adapter.format_finetune_data(
            signature=predictor.signature,
            demos=[] if task.options.exclude_demos else predictor.demos,
            inputs=dict(example.inputs()),
            outputs={name: example[name] for name in predictor.signature.output_fields},
        )
        for example in task.trainset
    ]
    job = {
        "lm": predictor.lm,
        "train_data": data,
        "train_data_format": TrainDataFormat.CHAT,
        "train_kwargs": task.options.train_kwargs,
    }
    predictor.lm = dspy.BootstrapFinetune.finetune_lms({predictor: job})[predictor]
    if task.options.exclude_demos:
        predictor.demos = []
    return task.student


# -- several together --------------------------------------------------------------------------------------------------


class _Step(Teleprompter):  # type: ignore[misc]
    """A plan as an optimizer of DSPy. It keeps the error that BetterTogether only logs."""

    def __init__(self, task: Task, plan: Plan) -> None:
        self._task = task
        self._plan = plan
        self.error: Exception | None = None

    def compile(self, student: Any, *, trainset: list[Any], valset: list[Any]) -> Any:
        task = replace(self._task, plan=self._plan, student=student, trainset=trainset, valset=valset)
        try:
            return self._plan.optimizer.compile(task)
        except Exception as error:
            self.error = error
            raise


def better_together(task: Task) -> Any:
    steps = {name: _Step(task, plan) for name, plan in task.plan.parts.items()}
    optimizer = dspy.BetterTogether(metric=task.metric, **steps)
    task.student.set_lm(task.lm)
    made = optimizer.compile(
        task.student,
        trainset=task.trainset,
        valset=task.valset,
        num_threads=task.num_threads,
        seed=task.options.seed or 0,
        strategy=task.options.strategy,
    )
    for step in steps.values():
        if step.error is not None:
            raise step.error
    return made


def check_better_together(options: opts.BetterTogether, path: str) -> None:
    names = [name.strip() for name in options.strategy.split("->")]
    known = by_name(steps_of(options), f"{path}.steps")
    for name in names:
        if name not in known:
            raise invalid(f"{path}.strategy", f"steps joined by ->, each one of {', '.join(known)}", options.strategy)
    options.strategy = dspy.BetterTogether.STRAT_SEP.join(names)


def steps_of(options: opts.BetterTogether) -> Any:
    default = {"p": {"optimizer": "bootstrap_few_shot_with_random_search"}, "w": {"optimizer": opts.FINE_TUNE}}
    return default if options.steps is None else options.steps


def ensemble(task: Task) -> Program:
    options = task.options
    if options.programs is not None:
        members = _given_members(task)
    else:
        members = [_new_member(task, number) for number in range(options.size or 3)]
    shapes = {"members": tuple(member.module for member in members)}
    outer = modules.Module(modules.KINDS["ensemble"], task.program.signature, shapes)
    return programs.compose(outer, dict(zip((name for name, _ in selecting.parts(outer)), members, strict=True)))


def _given_members(task: Task) -> list[Program]:
    options = task.options
    path = f"{PATH}.programs"
    if not isinstance(options.programs, list) or not 1 <= len(options.programs) <= 1000:
        raise invalid(path, "a list of 1 to 1000 programs", options.programs)
    members = [programs.from_map(value, f"{path}[{index}]") for index, value in enumerate(options.programs)]
    fields = [(field.name, field.type) for field in task.program.signature.fields]
    for index, member in enumerate(members):
        if [(field.name, field.type) for field in member.signature.fields] != fields:
            raise InvalidRequest(f"{path}[{index}]: it has other fields than the signature; an ensemble has one task")
    size = min(options.size or selecting.MAX_MEMBERS, len(members))
    return members if size == len(members) else random.Random(options.seed or 0).sample(members, size)


def _new_member(task: Task, number: int) -> Program:
    plan = task.plan.parts["member"]
    rows = shuffled(task.trainset, (task.options.seed or 0) + number)
    inner = replace(task, plan=plan, student=task.program.build(), trainset=rows)
    return task.program.after(plan.optimizer.compile(inner))
