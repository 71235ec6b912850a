"""The fields of an answer, piece by piece as the model writes it.

Rule of this file: the pieces of a field, put together, are the field's text as DSPy reads it: without the markers, and
without the space around it. What could still become a marker is held back until that is known.

It does not go through ``dspy.streamify``, which needs an event loop and a thread for each prediction and leaves what
it has not sent when a model writes a marker in one piece.
"""

from __future__ import annotations

import contextlib
import re
from contextvars import ContextVar
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

from dspy.clients import execution
from dspy.clients.call_context import stream_emitted
from dspy.clients.engines.lifecycle import closing_stream
from dspy.clients.engines.stream_guard import checked_stream
from dspy.clients.errors import error_boundary

from ...vocabulary import named

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ...context import Context

    Emit = Callable[[str, str, bool], None]

_MARKER = re.compile(r"\[\[ ## (\w+) ## \]\]")
_PARTS = (r"\[", r"\[", " ", "#", "#", " ", r"\w+", " ", "#", "#", " ", r"\]")
_BEGUN = re.compile(reduce(lambda rest, part: f"{part}(?:{rest})?", reversed(_PARTS)) + r"\Z")  # the start of a marker


class Fields:
    """Takes an answer apart while it comes: ``emit(field, text, done)`` for each piece of a field that is ``wanted``.

    >>> pieces = []
    >>> fields = Fields({"answer"}, lambda *piece: pieces.append(piece))
    >>> for text in ("[[ ## ans", "wer ## ]]\\nforty", "-two\\n\\n[[ ##", " completed ## ]]"):
    ...     fields.feed(text)
    >>> pieces
    [('answer', 'forty', False), ('answer', '-two', False), ('answer', '', True)]
    """

    def __init__(self, wanted: Iterable[str], emit: Emit) -> None:
        self._wanted = frozenset(wanted)
        self._emit = emit
        self._field: str | None = None
        self._begun = False
        self._rest = ""

    def feed(self, text: str) -> None:
        """The next piece of the answer."""
        self._rest += text
        while (marker := _MARKER.search(self._rest)) is not None:
            self._end(self._rest[: marker.start()])
            self._rest = self._rest[marker.end() :]
            self._field = marker[1] if marker[1] in self._wanted else None
        begun = _BEGUN.search(self._rest)
        sure = (self._rest if begun is None else self._rest[: begun.start()]).rstrip()
        self._say(sure)
        self._rest = self._rest[len(sure) :]

    def end(self) -> None:
        """The answer is whole."""
        self._end(self._rest)
        self._rest = ""

    def _end(self, text: str) -> None:
        if self._field is not None:
            self._say(text.rstrip())
            self._emit(self._field, "", True)
        self._field, self._begun = None, False

    def _say(self, text: str) -> None:
        if self._field is None:
            return
        text = text if self._begun else text.lstrip()
        if text:
            self._begun = True
            self._emit(self._field, text, False)


class Sink:
    """Where the answers of one prediction go: ``kind: :stream`` events of its client.

    ``labels`` are the client's names of the fields by DSPy's. ``row`` is the row of a list, None for a single one.
    """

    def __init__(self, context: Context, labels: dict[str, Any], row: int | None = None) -> None:
        self._context = context
        self._labels = labels
        self._row = {} if row is None else {"row": row}
        self._calls = 0

    def fields(self) -> Fields:
        """For one more answer."""
        self._calls += 1
        call = self._calls

        def emit(name: str, text: str, done: bool) -> None:
            told = {"field": self._labels[name], "text": text, "done": done, "call": call, **self._row}
            self._context.event("stream", named(told))

        return Fields(self._labels, emit)

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Answers go here while the block lasts, in this thread."""
        token = _sink.set(self)
        try:
            yield
        finally:
            _sink.reset(token)


_sink: ContextVar[Sink | None] = ContextVar("erl_bridge_sink", default=None)


class Attempt:
    """One attempt to get an answer. ``said`` is true once the client has seen something of it."""

    def __init__(self) -> None:
        self._sink = _sink.get()
        self.said = False

    def execute(self, lm: Any, call: Any) -> Any:
        """What DSPy's ``execute`` gives. The answer is told on the way where somebody listens."""
        if self._sink is None:
            return execution.execute(lm, call)
        backend, request, provider = execution._engine(lm, call, False)
        tell = getattr(backend, "tell", None)  # of a function of the client
        if tell is None and hasattr(backend, "stream"):
            tell = partial(_tell, backend, provider)
        if request is None or tell is None:
            return self.replay(execution.execute(lm, call))
        fields = self._sink.fields()

        def on_text(text: str) -> None:
            self._heard()
            fields.feed(text)

        with error_boundary(lm.model, provider=provider, unexpected=True):
            response = tell(request, on_text)
        fields.end()
        return execution._result(lm, response, call, provider, request)

    def replay(self, result: Any) -> Any:
        """Tell an answer that is there already, a field at a time. Returns it."""
        if self._sink is not None:
            for output in result.outputs:
                text = output.get("text") if isinstance(output, dict) else output
                fields = self._sink.fields()
                fields.feed(text or "")
                fields.end()
                self._heard()
        return result

    def _heard(self) -> None:
        self.said = True
        stream_emitted()  # DSPy does not ask again in another way when somebody has seen an answer


def _tell(backend: Any, provider: Any, request: Any, on_text: Callable[[str], None]) -> Any:
    """The answer of an engine of DSPy that streams; ``on_text`` gets its text as it comes."""
    accumulator = execution.StreamAccumulator(request)
    events = checked_stream(backend.stream(request), provider=provider)
    with closing_stream(events):
        for event in events:
            accumulator.push(event)
            if event.type == "delta" and event.delta.type == "text":
                on_text(event.delta.text)
    return accumulator.response()
