"""Modules that ask more than once and keep the best: best of N, refine, multi-chain comparison.

Rule of this file: each attempt is a request of its own to the model (another ``rollout_id``), through the same
predictors, so that optimizers see what they did. DSPy's own ``BestOfN`` and ``Refine`` copy their module for each
attempt, print what failed, and count failures across calls; these do not, and are otherwise the same.
"""

from __future__ import annotations

import inspect
import json
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import dspy
from dspy.predict.refine import OfferFeedback, inspect_modules, recursive_mask
from dspy.signatures.signature import make_signature

from ...errors import CallbackError, OptimizationError
from ...refusals import show
from ...terms import Atom
from . import client
from .signatures import write_fields

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from .signatures import Field

_TEMPERATURE = 1.0  # DSPy's, for attempts that are to differ


def rollout(number: int, temperature: float) -> AbstractContextManager[None]:
    """The model in use as one that answers the same request anew for each ``number``."""
    lm = dspy.settings.lm
    first = lm.kwargs.get("rollout_id") or 0
    settings: AbstractContextManager[None] = dspy.context(
        lm=lm.copy(rollout_id=first + number, temperature=temperature)
    )
    return settings


@dataclass(frozen=True, slots=True)
class Reward:
    """A function of the client that says how good outputs are; it sees the inputs and the outputs as maps."""

    callback: Atom | str
    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]

    @property
    def told(self) -> str:
        return f"The function {self.callback} of the application."

    def __call__(self, inputs: dict[str, Any], prediction: Any) -> float:
        args = [write_fields(self.inputs, inputs), write_fields(self.outputs, prediction)]
        answer = client.ask(self.callback, args)
        if not isinstance(answer, (bool, int, float)) or not math.isfinite(answer):
            what = f"the client's function {self.callback}, called as the reward"
            client.run_at_work().abort(CallbackError(f"{what}: expected a number or a boolean, got {show(answer)}"))
        return float(answer)

    def __deepcopy__(self, memo: dict[int, Any]) -> Reward:
        return self


@dataclass(frozen=True, slots=True)
class Judge:
    """The language model in use says how good outputs are, from 0.0 to 1.0, by what the client wrote of it."""

    criteria: str
    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]

    @property
    def told(self) -> str:
        return self.criteria

    def __call__(self, inputs: dict[str, Any], prediction: Any) -> float:
        asked = {"task": _json(write_fields(self.inputs, inputs))}
        given = {"answer": _json(write_fields(self.outputs, prediction))}
        with dspy.context(trace=None):
            score = _judge(self.criteria)(**asked, **given).score
        if not isinstance(score, float) or not 0.0 <= score <= 1.0:
            raise OptimizationError(f"the language model that judges answered {show(score)}, no score from 0.0 to 1.0")
        return score

    def __deepcopy__(self, memo: dict[int, Any]) -> Judge:
        return self


@lru_cache(maxsize=64)
def _judge(criteria: str) -> Any:
    told = {name: (str, dspy.InputField()) for name in ("task", "answer")}
    score = (float, dspy.OutputField(desc="from 0.0 (not at all) to 1.0 (entirely)"))
    return dspy.Predict(make_signature({**told, "score": score}, criteria))


@dataclass(frozen=True, slots=True)
class Terms:
    """How often to try, when it is good enough, and how many attempts may fail; None is all but one."""

    reward: Reward | Judge
    n: int
    threshold: float | None
    fail_count: int | None

    def __deepcopy__(self, memo: dict[int, Any]) -> Terms:
        return self


class BestOf(dspy.Module):  # type: ignore[misc]
    """The best of ``n`` attempts by a reward; it stops at the first that reaches the threshold.

    With ``refine`` the model is asked between two attempts what went wrong, and its advice is a hint for the next one.
    """

    def __init__(self, module: Any, terms: Terms, *, refine: bool) -> None:
        super().__init__()
        self.module = module
        self._terms = terms
        self._refine = refine

    def forward(self, **inputs: Any) -> Any:
        """Try. Raises what the last attempt raised when too many failed."""
        terms = self._terms
        best, best_reward, best_trace, failed = None, -math.inf, [], 0
        adapter = dspy.settings.adapter
        for number in range(terms.n):
            try:
                with rollout(number, _TEMPERATURE), dspy.context(trace=[], adapter=adapter):
                    prediction = self.module(**inputs)
                    trace = dspy.settings.trace
            except Exception:
                failed += 1
                if failed > (terms.n - 1 if terms.fail_count is None else terms.fail_count):
                    raise
                continue
            reward = terms.reward(inputs, prediction)
            if best is None or reward > best_reward:
                best, best_reward, best_trace = prediction, reward, trace
            if terms.threshold is not None and reward >= terms.threshold:
                break
            if self._refine and number < terms.n - 1:
                adapter = _hinting(self._advice(inputs, prediction, reward, trace), self.module)
        if dspy.settings.trace is not None:
            dspy.settings.trace.extend(best_trace)
        return best

    def _advice(self, inputs: dict[str, Any], prediction: Any, reward: float, trace: list[Any]) -> dict[str, str]:
        """What the model says each predictor should do differently."""
        names = {id(predictor): name for name, predictor in self.module.named_predictors()}
        steps = [
            {"module_name": names[id(predictor)], "inputs": given, "outputs": dict(answer)}
            for predictor, given, answer in trace
            if id(predictor) in names
        ]
        told = {
            "program_code": inspect.getsource(type(self.module)),
            "modules_defn": inspect_modules(self.module),
            "program_inputs": inputs,
            "program_trajectory": steps,
            "program_outputs": dict(prediction),
            "reward_code": self._terms.reward.told,
            "target_threshold": self._terms.threshold,
            "reward_value": reward,
            "module_names": list(names.values()),
        }
        told = {name: value if isinstance(value, str) else _json(value) for name, value in told.items()}
        with dspy.context(trace=None):
            return dict(dspy.Predict(OfferFeedback)(**told).advice)


def _json(value: Any) -> str:
    plain = {str(key): item for key, item in value.items()} if isinstance(value, dict) else value
    return json.dumps(recursive_mask(plain), indent=2, ensure_ascii=False, default=str)


def _hinting(advice: dict[str, str], module: Any) -> Any:
    """The adapter in use, which shows each predictor of ``module`` the advice for it."""
    adapter = dspy.settings.adapter
    names = {predictor.signature: name for name, predictor in module.named_predictors()}

    class Hinting(type(adapter)):  # type: ignore[misc]
        def __call__(self, lm: Any, lm_kwargs: Any, signature: Any, demos: Any, inputs: dict[str, Any]) -> Any:
            hint = advice.get(names.get(signature, ""), "N/A")
            told = signature.append("hint_", dspy.InputField(desc="A hint to the module from an earlier run"))
            return adapter(lm, lm_kwargs, told, demos, {**inputs, "hint_": hint})

    return Hinting()


class Chains(dspy.Module):  # type: ignore[misc]
    """``n`` chains of thought, and their comparison: DSPy's ``MultiChainComparison`` with what it compares."""

    def __init__(self, signature: Any, n: int, temperature: float) -> None:
        super().__init__()
        self.attempt = dspy.ChainOfThought(signature)
        self.compare = dspy.MultiChainComparison(signature, M=n, temperature=temperature)
        self._temperature = temperature

    def forward(self, **inputs: Any) -> Any:
        """Reason ``n`` times, then once about that."""
        attempts = []
        for number in range(self.compare.M):
            with rollout(number, self._temperature):
                attempts.append(self.attempt(**inputs))
        return self.compare(attempts, **inputs)
