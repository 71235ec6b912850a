"""A function of the client as the language model.

It is called with one map: ``messages`` (maps of ``"role"`` and ``"content"``, as chat APIs take them), whichever of
``temperature``, ``max_tokens``, ``top_p`` and ``stop`` are set, ``tools`` where the program offers some (maps of
``"name"``, ``"description"`` and ``"parameters"``, a JSON schema), and ``stream: true`` where pieces are welcome.

It returns the text, or a map of ``text`` and what else it knows: ``usage`` (``prompt_tokens``, ``completion_tokens``),
``cost_usd``, ``finish_reason`` (``"stop"`` or ``"length"``), ``tool_calls`` (maps of ``name``, ``arguments`` and, if it
likes, ``id``), ``logprobs`` (maps of ``token`` and ``logprob``). Pieces of the text may come before that; whatever text
is returned then counts as a whole, and a map without ``text`` means the pieces.

Rule of this file: an answer that does not fit is an error that says what was expected and what came.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from dspy.lm15 import Message, Response, TextPart, TokenLogprob, ToolCallPart, Usage
from msgspec import Meta, Struct

from ...errors import CallbackError, InvalidRequest
from ...refusals import show
from ...validation import validate
from ...vocabulary import named

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...context import Context
    from ...terms import Atom

_SETTINGS = ("temperature", "max_tokens", "top_p")


class ToolCall(Struct, kw_only=True):
    """A tool that the model wants to be called."""

    name: str
    arguments: dict[str, Any]
    id: str | None = None


class Logprob(Struct, kw_only=True):
    """A token of the answer, and the logarithm of its probability."""

    token: str
    logprob: float


class TokenCounts(Struct, kw_only=True):
    """What the call used."""

    prompt_tokens: Annotated[int, Meta(ge=0)] | None = None
    completion_tokens: Annotated[int, Meta(ge=0)] | None = None


class Answer(Struct, kw_only=True):
    """What the function may return in place of the text."""

    text: str | None = None
    usage: TokenCounts | None = None
    cost_usd: Annotated[float, Meta(ge=0.0)] | None = None
    finish_reason: Literal["stop", "length", "tool_call", "content_filter"] | None = None
    tool_calls: list[ToolCall] | None = None
    logprobs: list[Logprob] | None = None


class CallbackEngine:
    """The engine behind ``%{callback: name}``."""

    def __init__(self, name: Atom | str, context: Context) -> None:
        self._name = name
        self._context = context

    def complete(self, request: Any) -> Any:
        """One completion. Raises :class:`CallbackError` when the function fails or returns something else."""
        return self._said(request, lambda text: None)

    def tell(self, request: Any, on_text: Callable[[str], None]) -> Any:
        """One completion; ``on_text`` gets its text, piece by piece where the function gives it so."""
        return self._said(request, on_text, stream=True)

    def _said(self, request: Any, on_text: Callable[[str], None], **asked: Any) -> Any:
        pieces: list[str] = []

        def on_piece(piece: Any) -> None:
            if not isinstance(piece, str):
                raise self._unfit(f"pieces of text, got {show(piece)}")
            pieces.append(piece)
            on_text(piece)

        answer = self._context.call(self._name, [_asked(request, **asked)], on_piece=on_piece)
        response = self._response(request, answer, "".join(pieces))
        if not pieces:
            on_text(response.message.text or "")
        return response

    def __deepcopy__(self, memo: dict[int, Any]) -> CallbackEngine:
        return self

    def _response(self, request: Any, value: Any, pieces: str = "") -> Any:
        answer = self._read(value, pieces)
        usage = answer.usage or TokenCounts()
        calls = answer.tool_calls or []
        parts: list[Any] = [TextPart(answer.text)] if answer.text or not calls else []
        parts += [ToolCallPart(call.id or f"call_{n}", call.name, call.arguments) for n, call in enumerate(calls)]
        tokens = None if answer.logprobs is None else tuple(TokenLogprob(t.token, t.logprob) for t in answer.logprobs)
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant(parts),
            finish_reason=answer.finish_reason or ("tool_call" if calls else "stop"),
            usage=Usage(input_tokens=usage.prompt_tokens, output_tokens=usage.completion_tokens),
            logprobs=tokens,
            provider_data=None if answer.cost_usd is None else {"cost_usd": answer.cost_usd},
        )

    def _read(self, value: Any, pieces: str) -> Answer:
        if isinstance(value, str):
            return Answer(text=value)
        if value is None and pieces:
            return Answer(text=pieces)
        try:
            answer = validate(value, Answer, "the answer") if isinstance(value, dict) else None
        except InvalidRequest as error:
            raise self._unfit(f"{_EXPECTED}; {error.message}") from None
        if answer is not None and answer.text is None:
            answer.text = pieces
        if answer is None or not (answer.text or answer.tool_calls):
            raise self._unfit(f"{_EXPECTED}, got {show(value)}")
        return answer

    def _unfit(self, what: str) -> CallbackError:
        return CallbackError(f"the client's function {self._name}, called as the language model: expected {what}")


_EXPECTED = "a string or %{text: string, usage: %{prompt_tokens: n, completion_tokens: n}, ...}"


def _asked(request: Any, **more: Any) -> dict[Any, Any]:
    settings = {name: getattr(request.config, name) for name in _SETTINGS}
    asked = {name: value for name, value in settings.items() if value is not None}
    if request.config.stop:
        asked["stop"] = list(request.config.stop)
    if request.tools:
        asked["tools"] = [named({name: getattr(tool, name, None) for name in _TOOL}) for tool in request.tools]
    return named({"messages": _messages(request), **asked, **more})


_TOOL = ("name", "description", "parameters")


def _messages(request: Any) -> list[dict[str, Any]]:
    system = request.system if isinstance(request.system, str) else "".join(part.text for part in request.system or ())
    first = [{"role": "system", "content": system}] if system else []
    return first + [{"role": message.role, "content": _content(message)} for message in request.messages]


def _content(message: Any) -> Any:
    """The text of a message; where it holds media, too, a list of maps: the ``type`` of each part and what it is."""
    if not any(part.type in _MEDIA for part in message.parts):
        return message.text or ""
    parts = ({key: getattr(part, key, None) for key in _PART} for part in message.parts)
    return [{key: value for key, value in part.items() if value is not None} for part in parts]


_MEDIA = ("image", "audio", "document")
_PART = ("type", "text", "media_type", "url", "data", "file_id")
