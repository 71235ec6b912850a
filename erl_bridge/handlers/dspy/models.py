"""The language model of a request: built from what the client names, used through ``dspy.context``, never configured.

Rule of this file: a model belongs to one request and counts what it spends there. What the client may set is in one
table; a key is taken out before anything is validated, so no message can show it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dspy
from dspy.lm15 import Message, Response, Usage

from ...errors import CallbackError, InvalidRequest
from ...refusals import invalid, show
from ...terms import Atom
from ...validation import validate
from ...vocabulary import named
from . import redact
from .finetuning import LOCAL, LocalProvider, is_model
from .nearest_demo import NearestDemo
from .schema import LmMap

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from ...context import Context
    from .run import Run

_REMOTE_THREADS = 8
_GENERATION = ("temperature", "max_tokens", "top_p", "stop")
_CONNECTION = ("api_base", "api_key_env", "timeout_ms")


@dataclass(frozen=True, slots=True)
class Model:
    """A language model, and how many calls at once suit it."""

    lm: Any
    num_threads: int

    def threads(self, config: Any) -> int:
        """How many threads to work with: as many as ``config`` says, if it says so."""
        return (config.num_threads if config is not None else None) or self.num_threads

    def in_use(self, *callbacks: Any) -> AbstractContextManager[None]:
        """The settings of DSPy with this model, for as long as the context lasts and for nobody else."""
        # Values are validated here and not by DSPy, and nobody reads its trace.
        settings: AbstractContextManager[None] = dspy.context(
            lm=self.lm, adapter=dspy.ChatAdapter(), callbacks=list(callbacks), trace=None, warn_on_type_mismatch=False
        )
        return settings


class MeteredLM(dspy.LM):  # type: ignore[misc]
    """``dspy.LM`` that tells its run of every call. It keeps no history, and neither does anything that copies it."""

    def __init__(self, run: Run, model: str, *, price: float | None = None, **settings: Any) -> None:
        # One attempt and no cache: what is tried again or kept is for the bridge to decide.
        super().__init__(model, cache=False, num_retries=0, **settings)
        self.run = run
        self._price = price

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.run.on_call()
        self.run.meter.started()
        try:
            return super().__call__(*args, **kwargs)
        except Exception:
            self.run.meter.failed()
            raise

    def update_history(self, entry: dict[str, Any]) -> None:
        """Called by DSPy once for each answer, whatever made it."""
        cost = entry["cost"] if self._price is None else self._price
        self.run.meter.answered(entry["usage"], cost)

    def __deepcopy__(self, memo: dict[int, Any]) -> MeteredLM:
        return self


def build(value: Any, run: Run, path: str = "payload.lm") -> Model:
    """The language model that a payload names.

    ``value`` is ``"local/nearest-demo"``, ``"provider/model"``, ``%{model: ..., ...}`` or ``%{callback: name, ...}``.
    Raises :class:`InvalidRequest`.
    """
    if isinstance(value, (str, Atom)):
        value = {"model": str(value)}
    if not isinstance(value, dict):
        raise InvalidRequest(f'{path}: expected a name such as "openai/gpt-4o-mini" or a map, got something else')
    value = dict(value)
    key = _take_key(value, path)
    settings = validate(value, LmMap, path)
    if (settings.model is None) == (settings.callback is None):
        raise InvalidRequest(f"{path}: expected either a model or a callback")
    if settings.model is not None and not settings.model.startswith("local/"):
        return Model(_remote(settings, key, run, path), _REMOTE_THREADS)
    return _engine(settings, key, run, path)


def _take_key(value: dict[Any, Any], path: str) -> str | None:
    """Remove ``api_key`` from ``value`` and return it."""
    keys = [value.pop(name) for name in ("api_key", Atom("api_key")) if name in value]
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
    try:
        return MeteredLM(run, settings.model or "", **_set_ones(connection), **_generation(settings))
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
        engine: Any = NearestDemo()
        local = MeteredLM(run, model, price=0.0, engine=engine, provider=LocalProvider(), **_generation(settings))
        return Model(local, 1)
    if not isinstance(settings.callback, (Atom, str)):
        raise invalid(f"{path}.callback", "the name of a function, an atom or a string", settings.callback)
    engine = CallbackEngine(settings.callback, run.context)
    lm = MeteredLM(run, f"callback/{settings.callback}", engine=engine, **_generation(settings))
    return Model(lm, _REMOTE_THREADS)


def _generation(settings: Any) -> dict[str, Any]:
    return _set_ones({name: getattr(settings, name) for name in _GENERATION})


def _set_ones(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value not in (None, ())}


class CallbackEngine:
    """A function of the client as the language model.

    It is called with one map: ``messages`` (maps of ``"role"`` and ``"content"``, as chat APIs take them) and
    whichever of ``temperature``, ``max_tokens``, ``top_p`` and ``stop`` are set. It returns the text, or a map of
    ``text`` and ``usage`` (``prompt_tokens``, ``completion_tokens``).
    """

    def __init__(self, name: Atom | str, context: Context) -> None:
        self._name = name
        self._context = context

    def complete(self, request: Any) -> Any:
        """One completion. Raises :class:`CallbackError` when the function fails or returns something else."""
        settings = _generation(request.config)
        if "stop" in settings:
            settings["stop"] = list(settings["stop"])
        answer = self._context.call(self._name, [named({"messages": _messages(request), **settings})])
        text, usage = self._read(answer)
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant(text),
            finish_reason="stop",
            usage=Usage(input_tokens=usage.get("prompt_tokens"), output_tokens=usage.get("completion_tokens")),
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> CallbackEngine:
        return self

    def _read(self, answer: Any) -> tuple[str, dict[str, int]]:
        fields = {"text": answer} if isinstance(answer, str) else _by_text(answer)
        usage = _by_text(fields.get("usage") or {})
        counts = {name: usage.get(name) for name in ("prompt_tokens", "completion_tokens")}
        if not isinstance(fields.get("text"), str) or not all(_is_count(count) for count in counts.values()):
            raise CallbackError(
                f"the client's function {self._name}, called as the language model: expected a string or "
                f"%{{text: string, usage: %{{prompt_tokens: n, completion_tokens: n}}}}, got {show(answer)}"
            )
        return fields["text"], {name: count for name, count in counts.items() if count is not None}


def _messages(request: Any) -> list[dict[str, str]]:
    system = request.system if isinstance(request.system, str) else "".join(part.text for part in request.system or ())
    first = [{"role": "system", "content": system}] if system else []
    return first + [{"role": message.role, "content": message.text or ""} for message in request.messages]


def _by_text(value: Any) -> dict[str, Any]:
    return {str(key): item for key, item in value.items()} if isinstance(value, dict) else {}


def _is_count(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)
