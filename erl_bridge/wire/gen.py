"""Requests and answers as Erlang processes send them: ``GenServer.call``, ``cast`` and plain messages.

Rule of this file: terms in, terms out. What a caller tags its call with goes back as it came.
"""

from __future__ import annotations

from .. import etf
from ..error_map import error_map
from ..messages import Call, Event, Failure, Reply
from ..terms import Atom, ImproperList, Pid, Reference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .port import Message

    Parsed = tuple[str, Pid | None, Any, Any]  # the kind, who calls, the tag of the call, what is asked

CALL, CAST, SYSTEM = (Atom(name) for name in ("$gen_call", "$gen_cast", "system"))
ALIAS, OK, ERROR, EVENT, CALLBACK, ERL_BRIDGE = (
    Atom(name) for name in ("alias", "ok", "error", "event", "call", "erl_bridge")
)
MESSAGE_ID = Atom("message_id")


def parse(message: Any) -> Parsed:
    """What a message is: a ``call``, a ``system`` call (of ``:sys`` or ``GenServer.stop``), a ``cast`` or ``plain``.

    >>> parse((CAST, 7))
    ('cast', None, None, 7)
    """
    if type(message) is tuple and message:
        first = message[0]
        if first is CALL or first is SYSTEM:
            if len(message) == 3 and _is_caller(message[1]):
                pid, tag = message[1]
                return "call" if first is CALL else "system", pid, tag, message[2]
        elif first is CAST and len(message) == 2:
            return "cast", None, None, message[1]
    return "plain", None, None, message


def _is_caller(value: Any) -> bool:
    return type(value) is tuple and len(value) == 2 and type(value[0]) is Pid


def caller_in(data: bytes, start: int, has_version: bool, atoms: set[Atom] | None = None) -> tuple[Pid, Any] | None:
    """Who calls and with which tag, of a call of which only the beginning is there or good; None if it does not say.

    ``atoms`` gets the atoms in them.
    """
    for head in _CALL_HEADS:
        begin = start + has_version
        if data.startswith(head, begin):
            try:
                caller, _ = etf.decode_prefix(data, begin + len(head), version=False, atoms=atoms)
            except etf.DecodeError:
                return None
            return caller if _is_caller(caller) else None
    return None


def tag_in(data: bytes, start: int, has_version: bool) -> Any:
    """The tag of an answer of which only the beginning is there or good; None if it is not there."""
    begin = start + has_version
    if data.startswith(b"h\x02", begin):
        try:
            return etf.decode_prefix(data, begin + 2, version=False)[0]
        except etf.DecodeError:
            return None
    return None


_CALL_HEADS = [b"h\x03" + CALL.external, b"h\x03d\x00\x09$gen_call"]  # the second is what old nodes write


def alias_in(tag: Any) -> Reference | None:
    """The alias that the answer to a call of that tag goes to: ``[alias | Ref]`` or ``[[alias | Ref] | Any]``."""
    kind = type(tag)
    if kind is ImproperList and tag.items[0] is ALIAS and len(tag.items) == 1 and type(tag.tail) is Reference:
        return tag.tail
    first = tag.items[0] if kind is ImproperList else tag[0] if kind is list and tag else None
    return alias_in(first) if type(first) is ImproperList else None


def alias_tag(reference: Reference) -> ImproperList:
    """The tag of a call whose answer is to go to an alias."""
    return ImproperList([ALIAS], reference)


def reference_in(tag: Any) -> Reference | None:
    """The reference in the tag of a call, if it has one."""
    return tag if type(tag) is Reference else alias_in(tag)


def lacks_id(request: Any) -> bool:
    """Whether a request is to be given an id, since it has none."""
    return type(request) is dict and MESSAGE_ID not in request and "message_id" not in request


def result(message: Message) -> tuple[Atom, Any]:
    """What a final answer is for the caller: ``{:ok, result}`` or ``{:error, error}``.

    >>> result(Reply(1, "done"))
    (Atom('ok'), 'done')
    """
    return _CONTENTS[type(message)](message)  # type: ignore[no-any-return]


def note(message: Message) -> tuple[Any, ...]:
    """Any message for a process that is not waiting in a call: ``{:erl_bridge, message_id, content}``.

    >>> note(Event(1, {}))
    (Atom('erl_bridge'), 1, (Atom('event'), {}))
    """
    return ERL_BRIDGE, message.message_id, _CONTENTS[type(message)](message)  # type: ignore[union-attr]


_CONTENTS: dict[type, Callable[[Any], Any]] = {
    Reply: lambda m: (OK, m.result),
    Failure: lambda m: (ERROR, error_map(m.error)),
    Event: lambda m: (EVENT, m.event),
    Call: lambda m: (CALLBACK, m.call_id, m.name, m.args),
}
