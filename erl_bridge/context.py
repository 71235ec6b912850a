"""What a handler sees of its request: progress, calls to the client, the deadline, the best result so far.

A context talks to whoever started the work through an :class:`Outlet` of a few functions. In a thread of the bridge the
outlet is the dispatcher's; in a job process it is the socket to the bridge. Handlers cannot tell the difference.
"""

from __future__ import annotations

import threading
import time
from _queue import SimpleQueue  # the module queue takes 3 ms to import

from .errors import CallbackError, InvalidRequest, Stopped
from .refusals import invalid
from .terms import Atom, name_of
from .vocabulary import event_fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence, Set
    from typing import Any, Protocol

    class Outlet(Protocol):
        """Where a context's messages go. Every method may be called from any thread and must not block for long."""

        def event(self, event: dict[Any, Any]) -> None: ...

        def call(self, call_id: int, name: Any, args: list[Any]) -> None: ...

        def checkpoint(self, best: Any) -> None: ...

        def allow(self, atoms: Set[Atom]) -> None: ...

        def on_node(self, call_id: int, what: str, to: Any, message: Any, timeout: float | None) -> None: ...


_lock = threading.Lock()  # of what any context waits for: one for each would take longer to make than they are held


class Context:
    """The request a handler works for.

    ``message_id`` and ``metadata`` are as the client sent them; ``deadline`` is a ``time.monotonic()`` value or
    ``None``.
    """

    __slots__ = (
        "_last_wait",
        "_outlet",
        "_stopped",
        "_waiting",
        "deadline",
        "message_id",
        "metadata",
        "request_type",
    )

    def __init__(
        self,
        outlet: Outlet,
        request_type: str,
        message_id: Any = None,
        metadata: Mapping[Any, Any] | None = None,
        deadline: float | None = None,
    ) -> None:
        self._outlet = outlet
        self.request_type = request_type
        self.message_id = message_id
        self.metadata = {} if metadata is None else metadata
        self.deadline = deadline
        self._stopped = False
        self._waiting: dict[int, _Waiting] = {}
        self._last_wait = 0

    @property
    def trace(self) -> dict[str, str]:
        """The W3C trace context of the request as HTTP headers: ``traceparent`` and ``tracestate``, those that came.

        >>> Context(None, request_type="embed", metadata={Atom("traceparent"): "00-4bf9-00f0-01"}).trace
        {'traceparent': '00-4bf9-00f0-01'}

        ``opentelemetry.propagate.extract`` takes it; so does any HTTP client. They are as the client sent them.
        """
        given = {name: self.metadata.get(Atom(name), self.metadata.get(name)) for name in _TRACE}
        return {name: value for name, value in given.items() if isinstance(value, str)}

    # -- telling the client --------------------------------------------------------------------------------------

    def progress(self, **fields: Any) -> None:
        """Send a ``kind: :progress`` event.

        The keys :data:`~erl_bridge.vocabulary.EVENT_KEYS` travel as atoms, all others as strings.
        """
        self.event("progress", event_fields(fields))

    def stream(self, **fields: Any) -> None:
        """Send a ``kind: :stream`` event: a token, a chunk, a row. Keys travel as those of :meth:`progress`."""
        self.event("stream", event_fields(fields))

    def log(self, level: str, message: str) -> None:
        """Send a ``kind: :log`` event. ``level`` is one of ``debug info warning error``."""
        if level not in _LOG_LEVELS:
            raise ValueError(f"level must be one of {', '.join(_LOG_LEVELS)}, got {level!r}")
        self.event("log", {Atom("level"): Atom(level), Atom("message"): message})

    def event(self, kind: str, fields: Mapping[Any, Any]) -> None:
        """Send an event of the bridge's own, with the keys as they are. ``kind`` is in the vocabulary."""
        self.check()
        self._outlet.event({_KIND: Atom(kind), **fields})

    def checkpoint(self, best: Any) -> None:
        """Keep ``best`` as the best result so far.

        It is given to the client as ``context.best`` of the error when the work is cancelled, runs out of time or dies.
        """
        self.check()
        self._outlet.checkpoint(best)

    # -- datasets ------------------------------------------------------------------------------------------------

    def rows(self, value: Any, path: str = "payload.rows") -> Sequence[Any]:
        """The rows that ``value`` stands for: itself if it is a list, or those of the dataset of ``%{dataset: id}``.

        Those of a dataset are :class:`erl_bridge.datasets.rows.Rows`: a sequence with a length that is read from the
        disk as far as it is looked at. Their atoms may be sent in the answer. ``path`` is where the value came from.

        Raises :class:`InvalidRequest` for any other value and for a dataset that is not there, and
        :class:`TransferError` for one whose file is damaged.
        """
        if isinstance(value, list):
            return value
        dataset_id = dataset_of(value)
        if dataset_id is None:
            raise invalid(path, "a list of maps or %{dataset: id}", value)
        from .datasets.store import Store  # imports hashlib and mmap, too slow to do before hello

        rows = Store().open(dataset_id, path)
        self._outlet.allow(rows.atoms)
        return rows

    # -- asking the client ---------------------------------------------------------------------------------------

    def call(
        self,
        name: Any,
        args: list[Any],
        *,
        timeout: float | None = None,
        on_piece: Callable[[Any], None] | None = None,
    ) -> Any:
        """Run the client's function ``name`` with ``args`` and wait for what it returns.

        ``on_piece`` is called here with each ``{:more, piece}`` that comes before the answer. May be called from many
        threads at once. Raises :class:`CallbackError` when the function fails or ``timeout`` (seconds) passes, and
        :class:`Stopped` when the request ends while waiting.
        """
        call_id, waiting = self._begin_wait()
        try:
            self.check()
            self._outlet.call(call_id, name, args)
            while on_piece is not None and (piece := waiting.pieces.get()) is not None:
                on_piece(piece[1])
            if not waiting.done.wait(timeout):
                raise CallbackError(f"the client's function {name} did not answer within {timeout} s")
        finally:
            self._end_wait(call_id)
        if waiting.stopped:
            raise Stopped
        return waiting.value(name)

    @property
    def node(self) -> NodeAccess:
        """The processes of the cluster that this bridge is a node of."""
        return NodeAccess(self)

    def on_node(self, what: str, to: Any, message: Any, timeout: float | None) -> tuple[Any, Any]:
        """Have the bridge ``send`` or ``call``: ``{:ok, reply}`` or ``{:error, reason}``. See :attr:`node`."""
        call_id, waiting = self._begin_wait()
        try:
            self.check()
            self._outlet.on_node(call_id, what, to, message, timeout)
            waiting.done.wait()
        finally:
            self._end_wait(call_id)
        if waiting.stopped:
            raise Stopped
        return waiting.result

    def callback_result(self, call_id: int, result: tuple[Any, Any]) -> bool:
        """Deliver the client's answer to a call; False when nobody waits for that id (it was answered or given up).

        ``result`` is as :func:`check_callback_result` lets it pass.
        """
        with _lock:
            waiting = self._waiting.get(call_id)
        if waiting is None or waiting.done.is_set():
            return False
        if result[0] is MORE:
            waiting.pieces.put(result)
        else:
            waiting.end(result)
        return True

    def _begin_wait(self) -> tuple[int, _Waiting]:
        waiting = _Waiting()
        with _lock:
            self._last_wait += 1
            self._waiting[self._last_wait] = waiting
            return self._last_wait, waiting

    def _end_wait(self, number: int) -> None:
        with _lock:
            del self._waiting[number]

    # -- ending --------------------------------------------------------------------------------------------------

    def remaining(self) -> float | None:
        """Seconds until the deadline, never below zero; None without a deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    @property
    def stopped(self) -> bool:
        """True once the request was cancelled, ran out of time, or its client went away."""
        return self._stopped

    def check(self) -> None:
        """Raise :class:`Stopped` if nobody waits for this work any more. Long loops call it now and then."""
        if self._stopped:
            raise Stopped

    def sleep(self, seconds: float) -> None:
        """Wait so long, as ``time.sleep`` does, but raise :class:`Stopped` as soon as nobody waits for this work."""
        number, waiting = self._begin_wait()
        try:
            self.check()
            waiting.done.wait(seconds)
            self.check()
        finally:
            self._end_wait(number)

    def stop(self) -> None:
        """Mark the work as ended; whoever waits in :meth:`call` or :meth:`sleep` is woken with :class:`Stopped`."""
        self._stopped = True
        with _lock:
            waiting = list(self._waiting.values())
        for one in waiting:
            one.stopped = True
            one.end(one.result)


def dataset_of(value: Any) -> Any:
    """The id in ``%{dataset: id}``, or None if ``value`` is no such map.

    >>> dataset_of({Atom("dataset"): "0a"}), dataset_of({"dataset": "0a", "question": "why?"})
    ('0a', None)
    """
    if isinstance(value, dict) and len(value) == 1:
        return value.get(_DATASET, value.get("dataset"))
    return None


_DATASET = Atom("dataset")
_TRACE = ("traceparent", "tracestate")
_LOG_LEVELS = ("debug", "info", "warning", "error")


class NodeAccess:
    """Other processes of the cluster, for a handler in a thread or a job; made by :attr:`Context.node`.

    A process is a :class:`~erl_bridge.terms.Pid`, the name of one on the caller's node (an ``Atom`` or ``str``), or a
    name and a node, ``("shop", "app@host")``. What is sent may hold any atoms; each that is new to the other node stays
    there for good.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    def send(self, to: Any, message: Any) -> None:
        """Send a message; to a process that is not there, or not to be reached, it is lost, as it is between BEAMs.

        Raises :class:`CallbackError` when the bridge is no node or the message no term.
        """
        self._result("send", to, message, None)

    def call(self, to: Any, message: Any, timeout: float | None = 5.0) -> Any:
        """What the process answers to ``GenServer.call``, within ``timeout`` seconds (None: however long it takes).

        Raises :class:`CallbackError`, whose ``context.reason`` is ``:noproc``, ``:noconnection``, ``:timeout`` or what
        the process ended with; and :class:`Stopped` when the request ends while waiting.
        """
        return self._result("call", to, message, timeout)

    def _result(self, what: str, to: Any, message: Any, timeout: float | None) -> Any:
        tag, value = self._context.on_node(what, to, message, timeout)
        if tag is _OK:
            return value
        shown = value if isinstance(value, str) else name_of(value) if isinstance(value, Atom) else repr(value)
        raise CallbackError(f"{what} to {to} failed: {shown}", context={Atom("reason"): value})


class _Waiting:
    """One call or sleep under way: an event, then what came."""

    __slots__ = ("done", "pieces", "result", "stopped")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.pieces: SimpleQueue[tuple[Any, Any] | None] = SimpleQueue()
        self.result: tuple[Any, Any] = (None, None)
        self.stopped = False

    def end(self, result: tuple[Any, Any]) -> None:
        self.result = result
        self.done.set()
        self.pieces.put(None)

    def value(self, name: Any) -> Any:
        tag, value = self.result
        if tag is _OK:
            return value
        raise _callback_error(name, value)


def _callback_error(name: Any, value: Any) -> CallbackError:
    """What the client said of its function: text, any other term, or a map with ``message`` and what else it knows."""
    told = {_CALLBACK_KEYS.get(str(key), key): item for key, item in value.items()} if isinstance(value, dict) else {}
    if not isinstance(told.get(_MESSAGE), str):
        told = {_MESSAGE: value if isinstance(value, str) else repr(value), _REASON: value}
    reason = told.pop(_MESSAGE)
    return CallbackError(f"the client's function {name} failed: {reason}", context={_REASON: reason, **told})


_MESSAGE, _REASON = Atom("message"), Atom("reason")
_CALLBACK_KEYS = {str(key): key for key in (_MESSAGE, _REASON, Atom("stacktrace"), Atom("missing"))}
_OK, _ERROR, _KIND = Atom("ok"), Atom("error"), Atom("kind")
MORE = Atom("more")


def check_callback_result(result: Any) -> tuple[Any, Any]:
    """The ``{:ok, term}``, ``{:error, term}`` or ``{:more, piece}`` of a callback, or :class:`InvalidRequest`."""
    if isinstance(result, tuple) and len(result) == 2 and result[0] in (_OK, _ERROR, MORE):
        return result
    raise InvalidRequest(
        f"payload.result: expected {{:ok, term}}, {{:error, term}} or {{:more, piece}}, got {result!r:.200}"
    )


def atom_keys(fields: Mapping[str, Any]) -> dict[Any, Any]:
    """The same map with its keys as atoms: how results for Elixir are written down.

    >>> atom_keys({"status": "done"})
    {Atom('status'): 'done'}
    """
    return {Atom(name): value for name, value in fields.items()}
