"""The language model of a request: built from what the client names, used through ``dspy.context``, never configured.

Rule of this file: a model belongs to one request and counts what it spends there. What the client may set is in one
table; a key is taken out before anything is validated, so no message can show it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import dspy
from dspy.clients.backend_selection import CLIENT_KEYS

from ...errors import InvalidRequest
from ...refusals import invalid
from ...terms import Atom
from ...validation import validate
from . import lm_store, redact
from .callback_lm import CallbackEngine
from .finetuning import LOCAL, LocalProvider, is_model
from .lm_calls import Keeping, MeteredLM, Terms
from .nearest_demo import NearestDemo
from .rate_limit import RateLimit
from .retries import Retries
from .schema import LmMap

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from .run import Run

_REMOTE_THREADS = 8
_GENERATION = ("temperature", "max_tokens", "top_p", "stop")
_API_KEY = Atom("api_key")
_CONNECTION = ("api_base", "api_key_env", "timeout_ms")
_OUR_OWN = {*CLIENT_KEYS, *_GENERATION, "model", "messages", "stream", "cache", "num_retries", "n", "rollout_id"}


@dataclass(frozen=True, slots=True)
class Model:
    """A language model, and how many calls at once suit it. ``local`` if it costs nothing and waits for nobody."""

    lm: Any
    num_threads: int
    local: bool = False

    def threads(self, config: Any, otherwise: int | None = None) -> int:
        """How many threads to work with: as many as ``config`` says, if it says so."""
        chosen: int | None = config.num_threads if config is not None else None
        return chosen or (self.num_threads if self.local or otherwise is None else otherwise)

    def in_use(self, *callbacks: Any) -> AbstractContextManager[None]:
        """The settings of DSPy with this model, for as long as the context lasts and for nobody else."""
        # Values are validated here and not by DSPy, and nobody reads its trace or its history.
        settings: AbstractContextManager[None] = dspy.context(
            lm=self.lm,
            adapter=_ADAPTER,
            callbacks=list(callbacks),
            trace=None,
            warn_on_type_mismatch=False,
            disable_history=True,
        )
        return settings


def _adapter() -> Any:
    """DSPy's own, which writes the head of a prompt once for each signature and its instructions."""
    adapter = dspy.ChatAdapter()
    write = adapter.format_system_message
    heads: WeakKeyDictionary[Any, tuple[str, str]] = WeakKeyDictionary()

    def head_of(signature: Any) -> Any:
        instructions, head = heads.get(signature, (None, ""))
        if instructions != signature.instructions:  # an optimizer may change them in place
            head = write(signature)
            heads[signature] = signature.instructions, head
        return head

    adapter.format_system_message = head_of  # in a class derived from it every method would call back twice
    return adapter


_ADAPTER = _adapter()


def build(value: Any, run: Run, path: str = "payload.lm") -> Model:
    """The language model that a payload names.

    ``value`` is ``"local/nearest-demo"``, ``"provider/model"``, ``%{model: ..., ...}`` or ``%{callback: name, ...}``.
    Raises :class:`InvalidRequest`.
    """
    key, settings = _read(value, path)
    if (settings.model is None) == (settings.callback is None):
        raise InvalidRequest(f"{path}: expected either a model or a callback")
    if settings.model is not None and not settings.model.startswith("local/"):
        return Model(_remote(settings, key, run, path), _REMOTE_THREADS)
    return _engine(settings, key, run, path)


def _read(value: Any, path: str) -> tuple[str | None, LmMap]:
    """The key and the settings of a model."""
    if isinstance(value, (str, Atom)):
        return None, LmMap(model=str(value))
    if not isinstance(value, dict):
        raise InvalidRequest(f'{path}: expected a name such as "openai/gpt-4o-mini" or a map, got something else')
    value = dict(value)
    return _take_key(value, path), validate(value, LmMap, path)


def _take_key(value: dict[Any, Any], path: str) -> str | None:
    """Remove ``api_key`` from ``value`` and return it."""
    keys = [value.pop(name) for name in ("api_key", _API_KEY) if name in value]
    if not keys:
        return None
    if len(keys) > 1 or not isinstance(keys[0], str) or not keys[0]:
        raise InvalidRequest(f"{path}.api_key: expected one string that is not empty")
    redact.remember(keys[0])
    return keys[0]


def _remote(settings: LmMap, key: str | None, run: Run, path: str) -> MeteredLM:
    connection = {
        "api_base": settings.api_base,
        "api_key": key or _key_from_environment(settings, path),
        "timeout": None if settings.timeout_ms is None else settings.timeout_ms / 1000,
    }
    terms = _terms(settings, settings.api_base or "", keep=settings.cache is not False)
    try:
        return MeteredLM(run, settings.model or "", terms, **_set_ones(connection), **_generation(settings, path))
    except ValueError as error:
        raise InvalidRequest(f"{path}.model: {redact.redact(str(error))}") from None


def _key_from_environment(settings: LmMap, path: str) -> str | None:
    if settings.api_key_env is None:
        return None
    key = os.environ.get(settings.api_key_env)
    if not key:
        raise InvalidRequest(f"{path}.api_key_env: the environment variable {settings.api_key_env} is not set")
    redact.remember(key)
    return key


def _engine(settings: LmMap, key: str | None, run: Run, path: str) -> Model:
    """A model that is no connection: the local one, or a function of the client."""
    given = {"api_key": key, **{name: getattr(settings, name) for name in _CONNECTION}}
    for name in _set_ones(given):
        raise InvalidRequest(f"{path}.{name}: only a model behind a connection has one; this one is not")
    if settings.callback is None:
        model = settings.model or ""
        if not is_model(model):
            raise invalid(f"{path}.model", f'"{LOCAL}", the one local model, or one fine-tuned of it here', model)
        return Model(_local(run, model, _generation(settings, path)), 1, True)
    if not isinstance(settings.callback, (Atom, str)):
        raise invalid(f"{path}.callback", "the name of a function, an atom or a string", settings.callback)
    engine = CallbackEngine(settings.callback, run.context)
    # A function can change and keep its name, so what it said is kept only for who asks for that.
    keep = bool(settings.cache) if settings.cache is not None else settings.cache_key is not None
    name = f"callback/{settings.callback}"
    terms = _terms(settings, "", keep=keep)
    return Model(MeteredLM(run, name, terms, engine=engine, **_generation(settings, path)), _REMOTE_THREADS)


def _local(run: Run, model: str, generation: dict[str, Any]) -> MeteredLM:
    """The local model for a run: that of the last one, which takes far less time than making one does."""
    key = model, repr(generation)
    if key not in _last_local:
        made = MeteredLM(run, model, _LOCAL_TERMS, engine=NearestDemo(), provider=LocalProvider(), **generation)
        del made.run  # it is kept longer than the request
        _last_local.clear()
        _last_local[key] = made
    return _last_local[key].of(run)


_LOCAL_TERMS = Terms(free=True)
_last_local: dict[tuple[str, str], MeteredLM] = {}


def _terms(settings: LmMap, host: str, *, keep: bool) -> Terms:
    max_age = None if settings.cache_ttl_ms is None else settings.cache_ttl_ms / 1000
    rate = None
    if settings.requests_per_minute is not None or settings.tokens_per_minute is not None:
        name = f"{settings.model or settings.callback} {host}"
        rate = RateLimit(name, settings.requests_per_minute, settings.tokens_per_minute)
    return Terms(
        keeping=Keeping(lm_store.default(), max_age, settings.cache_key) if keep else None,
        retries=Retries(settings.num_retries, settings.max_retry_after_ms / 1000),
        rate=rate,
        price=settings.price,
    )


def _generation(settings: LmMap, path: str) -> dict[str, Any]:
    options = _text(settings.options or {})
    for name in options:
        if name in _OUR_OWN:
            raise InvalidRequest(f"{path}.options.{name}: this is no option of the provider; see the keys of {path}")
    chosen = {name: getattr(settings, name) for name in _GENERATION}
    return _set_ones({**options, **chosen, "model_type": settings.model_type})


def _text(value: Any) -> Any:
    """A term with atoms as their text, as JSON takes it."""
    if isinstance(value, Atom):
        return str(value)
    if isinstance(value, dict):
        return {str(name): _text(item) for name, item in value.items()}
    return [_text(item) for item in value] if isinstance(value, (list, tuple)) else value


def _set_ones(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value not in (None, ())}
