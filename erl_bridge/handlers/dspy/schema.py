"""The payloads of the DSPy requests, as schemas. ``docs/protocol.md`` section 5.

Rule of this file: what a payload may hold is said here and nowhere else; what only DSPy's tables can tell (field types,
rows, optimizers' options) is ``Any`` here and read by the module that owns the table. Nothing here imports DSPy.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

Threads = Annotated[int, Meta(ge=1, le=256)]
Positive = Annotated[int, Meta(ge=1)]


class FieldMap(Struct, kw_only=True):
    """``%{name: :question, type: :str, description: "..."}``"""

    name: Any
    type: Any = "str"
    description: str | None = None


class SignatureMap(Struct, kw_only=True):
    """``%{input_fields: [...], output_fields: [...], instructions: "..."}``"""

    input_fields: list[FieldMap]
    output_fields: list[FieldMap]
    instructions: str | None = None


Metric = Any  # read by metrics.py


class LmMap(Struct, kw_only=True):
    """``%{model: "openai/gpt-4o-mini", ...}`` or ``%{callback: name, ...}``. ``api_key`` is taken out before."""

    model: str | None = None
    callback: Any = None
    api_base: str | None = None
    api_key_env: str | None = None
    timeout_ms: Positive | None = None
    temperature: float | None = None
    max_tokens: Positive | None = None
    top_p: float | None = None
    stop: list[str] | None = None


class OptimizeSignature(Struct, kw_only=True):
    """``:optimize_signature``: either ``signature`` (and ``module``) or a ``program`` to go on from."""

    training_data: Any
    lm: Any
    signature: str | SignatureMap | None = None
    module: Any = None
    tools: Any = None
    program: Any = None
    validation_data: Any = None
    config: Any = None


class TrainModel(OptimizeSignature, kw_only=True):
    """``:train_model``: as ``:optimize_signature``, and the ``method``."""

    method: Literal["few_shot", "fine_tune"] = "few_shot"


class EvaluateConfig(Struct, kw_only=True):
    """How to score: the metric, and how many rows at once."""

    metric: Metric = "exact_match"
    num_threads: Threads | None = None


class Baseline(Struct, kw_only=True):
    """What a program is compared with: either ``signature`` (and ``module``) or a ``program``."""

    signature: str | SignatureMap | None = None
    module: Any = None
    tools: Any = None
    program: Any = None


class EvaluatePipeline(Baseline, kw_only=True):
    """``:evaluate_pipeline``: either ``signature`` (and ``module``) or a ``program``."""

    data: Any
    lm: Any
    baseline: Baseline | None = None
    config: EvaluateConfig | None = None


class PredictConfig(Struct, kw_only=True):
    """How many rows at once."""

    num_threads: Threads | None = None


class Predict(Struct, kw_only=True):
    """``:predict``: either ``signature`` (and ``module``) or a ``program``."""

    inputs: Any
    lm: Any
    signature: str | SignatureMap | None = None
    module: Any = None
    tools: Any = None
    program: Any = None
    config: PredictConfig | None = None
    stream: bool = False
