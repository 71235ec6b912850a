"""The language model as DSPy sees it: asks the store, keeps to limits and budget, tries again, counts.

Rule of this file: DSPy's own client makes the call, once, without a cache. Everything around it is here.

A call goes: store -> (nobody else asks the same) -> rate limit -> budget -> DSPy -> store. What costs money is only
behind the budget.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import nullcontext
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import dspy
from dspy.clients import execution
from dspy.clients.call_result import CallResult, combine
from dspy.clients.legacy_outputs import value
from dspy.utils.callback import with_callbacks
from dspy.utils.exceptions import LMProviderError

from ...errors import LanguageModelError
from . import in_flight, lm_store
from .retries import Retries
from .streaming import Attempt

if TYPE_CHECKING:
    from collections.abc import Callable

    from .lm_store import Store
    from .rate_limit import RateLimit
    from .run import Run
    from .schema import Price

_SECRET = ("api_key", "headers", "extra_headers", "timeout", "cache", "num_retries")  # no part of what is asked
_MAX_CONNECTIONS = 32  # sets of connections kept, one for each model, host and key

# Connections outlive a request: the next one to the same host need not shake hands again.
_connections: dict[Any, Any] = {}
_connections_lock = threading.RLock()


@dataclass(frozen=True, slots=True)
class Keeping:
    """Where answers are kept, and for how long (seconds) one is given. ``mark`` tells apart what else is the same."""

    store: Store
    max_age: float | None = None
    mark: str | None = None

    def key(self, lm: Any, call: Any) -> bytes | None:
        """What the answer is kept under; None for a call that cannot be written down."""
        asked = {name: value for name, value in call.key(lm, False).items() if name not in _SECRET}
        try:
            return lm_store.key_of([1, lm.model, lm.model_type, self.mark, _plain(asked)])
        except (TypeError, ValueError):
            return None


def _plain(value: Any) -> Any:
    """A value of JSON for all that DSPy puts in a request."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, type) and hasattr(value, "model_json_schema"):
        return value.model_json_schema()
    return value


@dataclass(frozen=True, slots=True)
class Terms:
    """How a model is called."""

    keeping: Keeping | None = None
    retries: Retries = field(default_factory=Retries)
    rate: RateLimit | None = None
    price: Price | None = None  # of a token, instead of the one that DSPy knows
    free: bool = False


class MeteredLM(dspy.LM):  # type: ignore[misc]
    """``dspy.LM`` that tells its run of every call. It keeps no history, and neither does anything that copies it."""

    def __init__(self, run: Run, model: str, terms: Terms, **settings: Any) -> None:
        super().__init__(model, cache=False, num_retries=0, **settings)
        self.run = run
        self._terms = terms
        if len(_connections) > _MAX_CONNECTIONS:
            _connections.clear()
        self._engine_store, self._engine_lock = _connections, _connections_lock

    @with_callbacks  # type: ignore[untyped-decorator]
    def __call__(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        self.run.on_call()
        call = execution.prepare(self, prompt, messages, kwargs)
        if call.n == 1:
            result = self._answer(call)
        else:  # each answer is kept, tried again and counted for itself
            samples = (self._answer(_sample(call, number)) for number in range(call.n))
            result = combine(list(samples), model_type=self.model_type)
        return execution.finalize(self, call, result)

    async def acall(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        """The same for callers that wait in an event loop."""
        return await asyncio.to_thread(self.__call__, prompt, messages=messages, **kwargs)

    def of(self, run: Run) -> MeteredLM:
        """The same model at work for another run."""
        found = copy(self)
        found.run, found.kwargs = run, dict(self.kwargs)
        return found

    def __copy__(self) -> MeteredLM:
        """As DSPy's, which looks through all classes for slots. There are none."""
        copied = object.__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied

    def update_history(self, entry: dict[str, Any]) -> None:
        """Nothing is kept of what was said."""

    def __deepcopy__(self, memo: dict[int, Any]) -> MeteredLM:
        return self

    def _answer(self, call: Any) -> CallResult:
        """The model's answer. Raises where it was cut off: DSPy would take the beginning of a text for all of it."""
        result = self._kept_or_asked(call)
        if _is_cut_off(result):
            self.run.meter.failed(_CUT_OFF)
            raise LMProviderError(
                "the answer was cut off at the limit of tokens; set a higher max_tokens",
                code=_CUT_OFF,
                model=self.model,
            )
        return result

    def _kept_or_asked(self, call: Any) -> CallResult:
        keeping = self._terms.keeping
        key = None if keeping is None else keeping.key(self, call)
        if keeping is None or key is None:
            return self._ask(call)
        found = self._kept(keeping, key)
        if found is not None:
            return found
        put = partial(keeping.store.put, key)
        with keeping.store.asking(key, self.run.context.sleep):
            found = self._kept(keeping, key)
            if found is None:
                found = self._ask(call, put)
        return found

    def _kept(self, keeping: Keeping, key: bytes) -> CallResult | None:
        record = keeping.store.get(key, keeping.max_age)
        if record is None:
            return None
        self.run.meter.hit()
        return Attempt().replay(CallResult.load(record))

    def _ask(self, call: Any, put: Callable[[Any], None] | None = None) -> CallResult:
        """The model's own answer, which is ``put`` away before anything else happens."""
        run, terms = self.run, self._terms
        number = 0
        while True:
            guessed = self._wait_for_turn(call)
            run.begin_call()
            attempt = Attempt()
            try:
                with nullcontext() if put is None else in_flight.call():
                    result: CallResult = attempt.execute(self, call)
                    if put is not None:
                        put(result.dump())
            except Exception as error:
                kind = str(getattr(error, "code", None) or type(error).__name__)
                delay = None if attempt.said else terms.retries.delay(error, number, run.context.remaining())
                run.meter.failed(kind, again=delay is not None)
                if delay is None:
                    raise
                run.context.sleep(delay)
                run.check()
                number += 1
                continue
            run.meter.answered(result.usage, self._cost(result))
            if terms.rate is not None:
                terms.rate.settle(guessed, result.usage.get("total_tokens") or guessed)
            return result

    def _wait_for_turn(self, call: Any) -> int:
        """Wait until the rate limit lets the call pass. Returns the tokens that it was guessed to take."""
        if self._terms.rate is None:
            return 0
        guessed = _guess(call)
        seconds = self._terms.rate.take(guessed)
        remaining = self.run.context.remaining()
        if remaining is not None and seconds >= remaining:
            raise LanguageModelError(
                f"the rate limit set for {self.model} lets no call pass before the deadline of the request",
                recovery_strategy="retry",
                retry_after_ms=round(seconds * 1000),
            )
        if seconds:
            self.run.context.sleep(seconds)
            self.run.check()
        return guessed

    def _cost(self, result: CallResult) -> float | None:
        """What an answer cost in US dollars, None where nobody knows."""
        terms = self._terms
        if terms.free:
            return 0.0
        if terms.price is not None:
            return terms.price.of(result.usage)
        told: float | None = (result.responses[0].provider_data or {}).get("cost_usd") if result.responses else None
        return result.cost if told is None else told


_CUT_OFF = "truncated"


def _is_cut_off(result: CallResult) -> bool:
    choices = result.responses or value(result.raw, "choices", None) or ()  # those of LiteLLM are in its own answer
    return any(value(choice, "finish_reason") == "length" for choice in choices)


def _sample(call: Any, number: int) -> Any:
    """The call for one answer of several. The first is what a call for a single answer is."""
    legacy = {name: value for name, value in call.legacy.items() if name != "n"}
    if number:
        legacy["rollout_id"] = [legacy.get("rollout_id"), number]
    return replace(call, n=1, legacy=legacy)


def _guess(call: Any) -> int:
    """About how many tokens a call takes: four characters each, and as many as the answer may have."""
    size = sum(len(str(message.get("content") or "")) for message in call.legacy.get("messages") or ())
    return int(size // 4 + (call.legacy.get("max_tokens") or call.legacy.get("max_completion_tokens") or 256))
