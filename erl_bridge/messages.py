"""What crosses the bridge, as values that no dialect and no transport is in.

Rule of this file: a dialect turns terms into a :class:`Request` and the other four into terms; everything behind it
handles these and nothing else.
"""

from __future__ import annotations

from .errors import BridgeError
from .values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Set
    from typing import Any

    from .terms import Atom


class Request(Value):
    """A client asks for ``request_type`` with ``payload``.

    ``message_id`` is any term. ``timeout_ms`` is the deadline, from the metadata. ``atoms`` are the atoms that came
    with the request: the only ones, besides the vocabulary, that may go back. ``origin`` is for the transport, which
    may note there how the answers go back.
    """

    __slots__ = ("message_id", "request_type", "payload", "metadata", "timeout_ms", "atoms", "origin")
    message_id: Any
    request_type: str
    payload: Any
    metadata: Mapping[Any, Any]
    timeout_ms: int | None
    atoms: Set[Atom]
    origin: Any

    def __init__(
        self,
        message_id: Any,
        request_type: str,
        payload: Any,
        metadata: Mapping[Any, Any] | None = None,
        timeout_ms: int | None = None,
        atoms: Set[Atom] = frozenset(),
        origin: Any = None,
    ) -> None:
        _set_message_id(self, message_id)
        _set_request_type(self, request_type)
        _set_payload(self, payload)
        _set_metadata(self, {} if metadata is None else metadata)
        _set_timeout_ms(self, timeout_ms)
        _set_atoms(self, atoms)
        _set_origin(self, origin)


# What sets a slot takes a quarter of the time of _set: there is one of these for each request.
_set_message_id, _set_request_type, _set_payload, _set_metadata, _set_timeout_ms, _set_atoms, _set_origin = (
    getattr(Request, name).__set__ for name in Request.__slots__
)


class Reply(Value):
    """The final answer to a request that went well."""

    __slots__ = ("message_id", "result")
    message_id: Any
    result: Any

    def __init__(self, message_id: Any, result: Any) -> None:
        _set_reply_to(self, message_id)
        _set_result(self, result)


_set_reply_to, _set_result = (getattr(Reply, name).__set__ for name in Reply.__slots__)


class Failure(Value):
    """The final answer to a request that did not. ``message_id`` is None for a frame that was no request.

    ``atoms`` are those of the request, for a request that was refused before there was a :class:`Request`.
    """

    __slots__ = ("message_id", "error", "atoms")
    message_id: Any
    error: BridgeError
    atoms: Set[Atom]

    def __init__(self, message_id: Any, error: BridgeError, atoms: Set[Atom] = frozenset()) -> None:
        self._set(message_id=message_id, error=error, atoms=atoms)


class Event(Value):
    """Something on the way to the final answer: progress, a piece of a stream, a log line."""

    __slots__ = ("message_id", "event")
    message_id: Any
    event: Mapping[Any, Any]

    def __init__(self, message_id: Any, event: Mapping[Any, Any]) -> None:
        self._set(message_id=message_id, event=event)


class Call(Value):
    """The work asks the client to run its function ``name`` with ``args``."""

    __slots__ = ("call_id", "message_id", "name", "args")
    call_id: int
    message_id: Any
    name: Any
    args: list[Any]

    def __init__(self, call_id: int, message_id: Any, name: Any, args: list[Any]) -> None:
        self._set(call_id=call_id, message_id=message_id, name=name, args=args)


class Hello(Value):
    """The first message of a server: what it is and what it takes."""

    __slots__ = ("facts",)
    facts: Mapping[Any, Any]

    def __init__(self, facts: Mapping[Any, Any]) -> None:
        self._set(facts=facts)
