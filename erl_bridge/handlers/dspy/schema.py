"""The payloads of the DSPy requests, as schemas. ``docs/protocol.md`` section 5.

Rule of this file: what a payload may hold is said here and nowhere else; what only DSPy's tables can tell (field types,
rows, optimizers' options) is ``Any`` here and read by the module that owns the table. Nothing here imports DSPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta, Struct

if TYPE_CHECKING:
    from collections.abc import Mapping

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


Dollars = Annotated[float, Meta(ge=0.0)]


class Price(Struct, kw_only=True):
    """What a million tokens cost, in US dollars: for a model whose price DSPy does not know."""

    prompt_per_million: Dollars
    completion_per_million: Dollars

    def of(self, usage: Mapping[str, Any]) -> float:
        """The price of the tokens that were used."""
        prompt, completion = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
        return (prompt * self.prompt_per_million + completion * self.completion_per_million) / 1e6


class LmMap(Struct, kw_only=True):
    """``%{model: "openai/gpt-4o-mini", ...}`` or ``%{callback: name, ...}``. ``api_key`` is taken out before."""

    model: str | None = None
    callback: Any = None
    api_base: str | None = None
    api_key_env: str | None = None
    timeout_ms: Positive | None = None
    model_type: Literal["chat", "responses", "text"] = "chat"
    temperature: float | None = None
    max_tokens: Positive | None = None
    top_p: float | None = None
    stop: list[str] | None = None
    options: dict[str, Any] | None = None
    num_retries: Annotated[int, Meta(ge=0, le=20)] = 3
    max_retry_after_ms: Positive = 60_000
    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None
    cache: bool | None = None
    cache_ttl_ms: Positive | None = None
    cache_key: str | None = None
    price: Price | None = None


class Budget(Struct, kw_only=True):
    """``%{usd: 1.5, calls: 100, tokens: 50_000}``: what a request may spend on its language model."""

    usd: Dollars | None = None
    calls: Positive | None = None
    tokens: Positive | None = None


class OfProgram(Struct, kw_only=True):
    """A program: either ``signature`` (and ``module``), with nothing learned, or a ``program``."""

    signature: str | SignatureMap | None = None
    module: Any = None
    tools: Any = None
    program: Any = None


class OptimizeSignature(OfProgram, kw_only=True):
    """``:optimize_signature``: the program to go on from."""

    training_data: Any
    lm: Any
    validation_data: Any = None
    config: Any = None
    budget: Budget | None = None


class TrainModel(OptimizeSignature, kw_only=True):
    """``:train_model``: as ``:optimize_signature``, and the ``method``."""

    method: Literal["few_shot", "fine_tune"] = "few_shot"


class EvaluateConfig(Struct, kw_only=True):
    """How to score: the metric, and how many rows at once."""

    metric: Metric = "exact_match"
    num_threads: Threads | None = None


class EvaluatePipeline(OfProgram, kw_only=True):
    """``:evaluate_pipeline``: the program to score, and the one to compare it with."""

    data: Any
    lm: Any
    baseline: OfProgram | None = None
    config: EvaluateConfig | None = None
    budget: Budget | None = None


class PredictConfig(Struct, kw_only=True):
    """How many rows at once."""

    num_threads: Threads | None = None


class Predict(OfProgram, kw_only=True):
    """``:predict``: the program to answer with."""

    inputs: Any
    lm: Any
    config: PredictConfig | None = None
    budget: Budget | None = None
    stream: bool = False
