"""The options of the optimizers: each with its type, bounds, default and what it is for.

Rule of this file: what is said of an option is said here, once. Validation, error messages and the documentation read
it; the names are those of DSPy where those are plain.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from . import selecting
from .schema import Metric, Positive, Threads

DEFAULT = "bootstrap_few_shot"
FEW_SHOT = "labeled_few_shot"  # what trains without asking the model
FINE_TUNE = "bootstrap_finetune"

Auto = Literal["light", "medium", "heavy"]


class Options(Struct, kw_only=True):
    """What every optimizer takes."""

    optimizer: Annotated[str, Meta(description="the name of the optimizer")] = DEFAULT
    metric: Annotated[Metric, Meta(description="what an answer is worth")] = "exact_match"
    num_threads: Annotated[
        Threads | None, Meta(description="how many rows at once; as many as suit the language model unless told")
    ] = None
    seed: Annotated[int | None, Meta(description="another order of the training rows, and other draws")] = None


class LabeledFewShot(Options, kw_only=True):
    max_labeled_demos: Annotated[int, Meta(ge=0, description="how many demonstrations there are at most")] = 16


class BootstrapFewShot(LabeledFewShot, kw_only=True):
    max_demos: Annotated[int, Meta(ge=0, description="how many right answers of the model become demonstrations")] = 4
    max_rounds: Annotated[int, Meta(ge=1, description="how often a row is tried")] = 1
    max_errors: Annotated[int, Meta(ge=1, description="after so many rows that fail it gives up")] = 10
    metric_threshold: Annotated[
        float | None, Meta(description="the score from which an answer is right; above 0.0 unless told")
    ] = None
    teacher: Annotated[
        Any, Meta(description="the language model that makes the demonstrations; that of the request unless told")
    ] = None


class RandomSearch(BootstrapFewShot, kw_only=True):
    max_demos: Annotated[int, Meta(ge=1, description="how many right answers of the model become demonstrations")] = 4
    num_candidates: Annotated[
        int, Meta(ge=1, le=1000, description="how many candidates there are besides three plain ones")
    ] = 16
    stop_at_score: Annotated[float | None, Meta(description="the score from 0.0 to 1.0 that is good enough")] = None


class WithOptuna(BootstrapFewShot, kw_only=True):
    max_demos: Annotated[
        int, Meta(ge=1, description="how many right answers of the model there are to choose from")
    ] = 4
    num_candidates: Annotated[int, Meta(ge=1, le=1000, description="how many choices are tried")] = 16


class KnnFewShot(Options, kw_only=True):
    k: Annotated[int, Meta(ge=1, le=selecting.MAX_NEAREST, description="how many demonstrations are shown")] = 3
    vectorizer: Annotated[
        Any,
        Meta(
            description="`:words` (no weights, no network), or `%{callback: name}`, a function of the client from a "
            "list of texts to a list of lists of numbers"
        ),
    ] = selecting.WORDS
    bootstrap: Annotated[
        bool,
        Meta(
            description="let the model answer each row once; right answers, with what it reasoned, replace their rows"
        ),
    ] = False
    metric_threshold: Annotated[
        float | None, Meta(description="the score from which an answer is right; above 0.0 unless told")
    ] = None
    teacher: Annotated[Any, Meta(description="the language model that answers the rows")] = None


class Copro(Options, kw_only=True):
    breadth: Annotated[int, Meta(ge=2, le=100, description="how many instructions are tried in each round")] = 10
    depth: Annotated[int, Meta(ge=1, le=100, description="how many rounds there are")] = 3
    init_temperature: Annotated[float, Meta(ge=0, description="the temperature at which instructions are written")] = (
        1.4
    )
    prompt_model: Annotated[
        Any, Meta(description="the language model that writes instructions; that of the request unless told")
    ] = None


class Mipro(Options, kw_only=True):
    auto: Annotated[
        Auto | None, Meta(description="how much is tried; `light` unless `num_candidates` and `num_trials` say it")
    ] = None
    num_candidates: Annotated[
        Annotated[int, Meta(ge=3, le=1000)] | None,
        Meta(description="how many instructions and sets of demonstrations there are"),
    ] = None
    num_trials: Annotated[
        Annotated[int, Meta(ge=1, le=10_000)] | None, Meta(description="how many combinations are tried")
    ] = None
    max_demos: Annotated[int, Meta(ge=0, description="how many right answers of the model become demonstrations")] = 4
    max_labeled_demos: Annotated[int, Meta(ge=0, description="how many rows become demonstrations")] = 4
    minibatch_size: Annotated[
        int, Meta(ge=1, description="how many rows a combination is first tried on; with fewer rows, on all")
    ] = 35
    minibatch_full_eval_steps: Annotated[
        int, Meta(ge=1, description="after so many trials the best is tried on all rows")
    ] = 5
    init_temperature: Annotated[float, Meta(ge=0, description="the temperature at which instructions are written")] = (
        1.0
    )
    metric_threshold: Annotated[
        float | None, Meta(description="the score from which an answer is right; above 0.0 unless told")
    ] = None
    prompt_model: Annotated[
        Any, Meta(description="the language model that writes instructions; that of the request unless told")
    ] = None
    teacher: Annotated[Any, Meta(description="the language model that makes the demonstrations")] = None


class Simba(Options, kw_only=True):
    batch_size: Annotated[
        int, Meta(ge=2, description="how many rows each step looks at; all where there are fewer")
    ] = 32
    num_candidates: Annotated[int, Meta(ge=1, le=100, description="how many programs each step makes")] = 6
    max_steps: Annotated[int, Meta(ge=1, le=1000, description="how many steps there are")] = 8
    max_demos: Annotated[int, Meta(ge=0, description="how many demonstrations a predictor keeps")] = 4
    prompt_model: Annotated[
        Any, Meta(description="the language model that gives advice; that of the request unless told")
    ] = None
    teacher: Annotated[Any, Meta(description="a language model that also answers the rows")] = None


class Gepa(Options, kw_only=True):
    auto: Annotated[Auto | None, Meta(description="how much is tried; `light` unless one of the next two says it")] = (
        None
    )
    max_full_evals: Annotated[
        Positive | None, Meta(description="as many metric calls as so many rounds of all rows")
    ] = None
    max_metric_calls: Annotated[Positive | None, Meta(description="how often the metric is called")] = None
    reflection_minibatch_size: Annotated[int, Meta(ge=1, description="how many rows each reflection looks at")] = 3
    candidate_selection_strategy: Annotated[
        Literal["pareto", "current_best"], Meta(description="which candidate is made better next")
    ] = "pareto"
    skip_perfect_score: Annotated[bool, Meta(description="leave out rows that are right already")] = True
    use_merge: Annotated[bool, Meta(description="also merge candidates that are good at different rows")] = True
    max_merge_invocations: Annotated[int, Meta(ge=0, description="how often it does")] = 5
    reflection_lm: Annotated[
        Any, Meta(description="the language model that reflects on what went wrong; that of the request unless told")
    ] = None


class InferRules(BootstrapFewShot, kw_only=True):
    num_candidates: Annotated[int, Meta(ge=1, le=1000, description="how many sets of rules are tried")] = 10
    num_rules: Annotated[int, Meta(ge=1, le=1000, description="how many rules are asked for")] = 10


class BetterTogether(Options, kw_only=True):
    strategy: Annotated[str, Meta(description="the steps in their order")] = "p -> w -> p"
    steps: Annotated[
        Any,
        Meta(
            description="the configuration of each step; unless told `%{p: %{optimizer: "
            ":bootstrap_few_shot_with_random_search}, w: %{optimizer: :bootstrap_finetune}}`"
        ),
    ] = None


class Ensemble(Options, kw_only=True):
    size: Annotated[
        Annotated[int, Meta(ge=1, le=selecting.MAX_MEMBERS)] | None,
        Meta(description="how many members: 3, or all of `programs`; of more programs so many are drawn"),
    ] = None
    programs: Annotated[Any, Meta(description="the programs that become members")] = None
    member: Annotated[
        Any,
        Meta(
            description="without programs: the configuration of the optimizer that makes each member, from the rows in "
            "an order of its own; `%{optimizer: :bootstrap_few_shot}` unless told"
        ),
    ] = None


class BootstrapFinetune(Options, kw_only=True):
    data: Annotated[
        Literal["answers", "rows"],
        Meta(description="what the model is taught: `answers` of the program that the metric takes as right, or the "
             "training `rows`, for a program of one predictor"),
    ] = "answers"  # fmt: skip
    exclude_demos: Annotated[
        bool, Meta(description="leave demonstrations out of what is taught and of the program")
    ] = True
    train_kwargs: Annotated[dict[str, Any] | None, Meta(description="settings for the provider of the model")] = None
    teacher: Annotated[Any, Meta(description="the language model that gives the answers")] = None
