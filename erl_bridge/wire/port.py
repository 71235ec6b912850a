"""The bridge's own dialect: native maps in, tagged tuples out. ``docs/protocol.md`` sections 2 and 3.

Rule of this file: whatever term comes, the answer is a :class:`Request` or the :class:`Failure` that refuses it with
the ``message_id`` it had, if it had one.
"""

from __future__ import annotations

from ..error_map import error_map
from ..errors import InvalidRequest
from ..messages import Call, Event, Failure, Hello, Reply, Request
from ..refusals import invalid, unknown_key
from ..terms import Atom, TermMap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Set
    from typing import Any

    Message = Hello | Reply | Failure | Event | Call

_KEYS = ["message_id", "request_type", "payload", "timestamp", "metadata"]
_ATOMS = {key: Atom(key) for key in _KEYS}
_KNOWN = frozenset(_ATOMS.values())
_MESSAGE_ID, _REQUEST_TYPE, _PAYLOAD, _METADATA = (
    _ATOMS[key] for key in ("message_id", "request_type", "payload", "metadata")
)
MAX_TIMEOUT_MS = 0xFFFF_FFFF  # 49 days; the most that Erlang itself waits
_OK, _ERROR, _EVENT, _CALL, _HELLO = (Atom(name) for name in ("ok", "error", "event", "call", "hello"))


def parse(term: Any, atoms: Set[Atom] = frozenset(), origin: Any = None) -> Request | Failure:
    """The request that ``term`` is. ``atoms`` are the atoms that came in it, ``origin`` is the transport's own.

    >>> parse({Atom("message_id"): 1, Atom("request_type"): Atom("ping"), Atom("payload"): {}}).request_type
    'ping'
    """
    if not isinstance(term, dict):
        return Failure(None, invalid("request", "a map", term), atoms)
    try:
        return _request(term if _KNOWN.issuperset(term) else _with_atoms(term), atoms, origin)
    except InvalidRequest as error:
        return Failure(term.get(_MESSAGE_ID, term.get("message_id")), error, atoms)


def _with_atoms(term: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """The same map with atoms for those keys that are strings."""
    fields = {_ATOMS.get(key, key): value for key, value in term.items()}
    for key in fields:
        if key not in _KNOWN:
            raise unknown_key("request", str(key) if isinstance(key, Atom) else key, _KEYS)
    return fields


def _request(fields: Mapping[Any, Any], atoms: Set[Atom], origin: Any) -> Request:
    try:
        message_id, request_type = fields[_MESSAGE_ID], fields[_REQUEST_TYPE]
    except KeyError as missing:
        raise InvalidRequest(f"request: the required key {missing.args[0]} is missing") from None
    # What nearly every request has is looked at here: a call takes as long as all the rest of this.
    payload = fields.get(_PAYLOAD)
    if type(payload) is not dict:
        payload = _map(payload, "payload")
    metadata = fields.get(_METADATA)
    timeout_ms = None
    if metadata is not None and metadata != _NONE:
        metadata = _map(metadata, "metadata")
        timeout_ms = _timeout(metadata)
    name = request_type.name if type(request_type) is Atom else _name(request_type)
    return Request(message_id, name, payload, metadata, timeout_ms, atoms, origin)


_NONE: dict[Any, Any] = {}


def _name(value: Any) -> str:
    if isinstance(value, str) and value:
        return value
    raise invalid("request_type", "an atom or a string", value)


def _map(value: Any, path: str) -> Any:
    if value is None:
        return {}
    if isinstance(value, (dict, TermMap)):
        return value
    raise invalid(path, "a map", value)


def _timeout(metadata: Mapping[Any, Any]) -> int | None:
    value = metadata.get(_TIMEOUT)
    if value is None:
        value = metadata.get("timeout_ms")
        if value is None:
            return None
    if type(value) is int and 0 < value <= MAX_TIMEOUT_MS:
        return value
    raise invalid("metadata.timeout_ms", f"an integer from 1 to {MAX_TIMEOUT_MS}", value)


_TIMEOUT = Atom("timeout_ms")


def build(message: Message) -> tuple[Any, ...]:
    """The term that a message is sent as.

    >>> build(Reply(7, "done"))
    (Atom('ok'), 7, 'done')
    """
    return _BUILDERS[type(message)](message)


_BUILDERS: dict[type, Callable[[Any], tuple[Any, ...]]] = {
    Hello: lambda m: (_HELLO, m.facts),
    Reply: lambda m: (_OK, m.message_id, m.result),
    Failure: lambda m: (_ERROR, m.message_id, error_map(m.error)),
    Event: lambda m: (_EVENT, m.message_id, m.event),
    Call: lambda m: (_CALL, m.call_id, m.message_id, m.name, m.args),
}
