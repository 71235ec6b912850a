"""The packets of BERT-RPC 1.0, and which functions they may name. Source: http://bert-rpc.org.

Rule of this file: what is not on the list of exposed functions cannot be called, whatever a packet says.
"""

from __future__ import annotations

from ..error_map import error_map
from ..errors import BridgeError
from ..refusals import show
from ..terms import Atom
from ..values import Value
from ..vocabulary import VOCABULARY
from .bert import Either, encode, plain_atom

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping
    from typing import Any

    Rooms = Mapping[str, Iterable[tuple[str, int | str | None]]]


class PacketError(Exception):
    """What is answered with an ``{error, ...}`` of the types ``protocol`` or ``server``.

    ``fatal`` says that nothing more can be made of the connection.
    """

    def __init__(self, type: str, code: int, detail: str, *, name: str = "bad_packet", fatal: bool = False) -> None:
        super().__init__(detail)
        self.type = type
        self.code = code
        self.detail = detail
        self.name = name
        self.fatal = fatal

    def external(self) -> bytes:
        """The packet, a whole frame but for its length."""
        return _error(self.type, self.code, self.name, self.detail, [])


NO_HEADER, NO_DATA, NO_MODULE, NO_FUNCTION = 1, 2, 1, 2  # codes of the specification; 0 is for everything else


class Exposed(Value):
    """A function that may be called: the request it is, and what a client may be told of keeping its results.

    ``cache`` is a number of seconds (0: for ever), ``"validate"`` (ask again with the token of the last one) or None.
    """

    __slots__ = ("request_type", "cache")
    request_type: str
    cache: int | str | None

    def __init__(self, request_type: str, cache: int | str | None = None) -> None:
        self._set(request_type=request_type, cache=cache)


def expose(names: Iterable[str] | None, rooms: Rooms) -> dict[str, dict[str, Exposed]]:
    """Modules, their functions, and the requests these are. ``rooms``: the requests of each room, with their caching.

    What is in the room ``app`` and has a dot in its name is a function of the module before the last dot.
    ``names`` says what is wanted, modules and ``module.function``; None is for all. Raises ValueError for what is not
    there.

    >>> found = expose(["app", "shop.price"], {"app": [("embed", None), ("shop.price", 60), ("shop.stock", None)]})
    >>> {module: list(functions) for module, functions in found.items()}
    {'app': ['embed'], 'shop': ['price']}
    """
    there: dict[str, dict[str, Exposed]] = {}
    for room, requests in rooms.items():
        for name, cache in requests:
            module, _, function = name.rpartition(".") if room == "app" else (room, "", name)
            there.setdefault(module or room, {})[function] = Exposed(name, cache)
    wanted: dict[str, dict[str, Exposed]] = {}
    for name in there if names is None else names:
        module, _, function = name.rpartition(".")
        if name in there:
            wanted.setdefault(name, {}).update(there[name])
        elif function in there.get(module, {}):
            wanted.setdefault(module, {})[function] = there[module][function]
        else:
            known = ", ".join(f"{module}.{function}" for module in there for function in there[module])
            raise ValueError(f"there is no module or function {name}; there are {known}")
    return wanted


def with_request_types(exposed: Mapping[str, Mapping[str, Exposed]]) -> dict[str, Mapping[str, Exposed]]:
    """The same functions, and all of them once more by their request types, as those of the module ``erl_bridge``.

    >>> chosen = expose(["shop"], {"app": [("shop.price", None)]})
    >>> {module: list(functions) for module, functions in with_request_types(chosen).items()}
    {'shop': ['price'], 'erl_bridge': ['shop.price']}
    """
    by_type = {function.request_type: function for functions in exposed.values() for function in functions.values()}
    return {**exposed, "erl_bridge": by_type}


def find(exposed: Mapping[str, Mapping[str, Exposed]], module: Any, function: Any) -> Exposed:
    """The function of that name. Raises :class:`PacketError` as the specification wants it."""
    functions = exposed.get(module.name if isinstance(module, Atom) else "")
    if functions is None:
        known = ", ".join(exposed)
        raise PacketError(
            "server", NO_MODULE, f"no such module: {show(module)}; there are {known}", name="no_such_module"
        )
    found = functions.get(function.name if isinstance(function, Atom) else "")
    if found is None:
        known = ", ".join(functions)
        detail = f"no such function: {show(function)}; {module} has {known}"
        raise PacketError("server", NO_FUNCTION, detail, name="no_such_function")
    return found


def options(term: Any, command: str) -> dict[str, Any]:
    """The options of an info packet by name: what follows the name, as a tuple where it is more than one term.

    Ruby's client sends an only option as a list of two elements.

    >>> options([(Atom("service"), "here:1"), (Atom("mfa"), 1, 2, 3)], "callback")
    {'service': 'here:1', 'mfa': (1, 2, 3)}
    >>> options([Atom("validation"), "t"], "cache")
    {'validation': 't'}
    """
    if isinstance(term, list) and len(term) == 2 and isinstance(term[0], Atom):
        term = [tuple(term)]
    if isinstance(term, list) and all(isinstance(option, (tuple, list)) and len(option) >= 2 for option in term):
        return {str(name): rest[0] if len(rest) == 1 else tuple(rest) for name, *rest in term}
    raise PacketError("protocol", 0, f"info {command}: expected a list of pairs, got {show(term)}", name="bad_info")


_REPLY_OK = b"\x83h\2d\0\5replyh\2d\0\2ok"
_REPLY_ERROR = b"\x83h\2d\0\5replyh\2d\0\5error"
_INFO_EVENT = b"\x83h\3d\0\4infod\0\5event"
_INFO_CALL = b"\x83h\3d\0\4infod\0\4call"
NO_REPLY = b"\x83h\1" + plain_atom("noreply")
INFO_STREAM = b"\x83h\3d\0\4infod\0\6streamj"
INFO_VALID = b"\x83h\3d\0\4infod\0\5validj"


def reply(result: Any, atoms: Container[Atom]) -> bytes:
    """``{reply, {ok, Result}}``. Raises :class:`erl_bridge.etf.EncodeError`."""
    return encode(result, atoms, head=_REPLY_OK)


def error_reply(error: BridgeError, atoms: Container[Atom]) -> bytes:
    """``{reply, {error, Map}}``, for a client that takes the whole of an error. Raises as :func:`reply`."""
    return encode(error_map(error), atoms, root="error", head=_REPLY_ERROR)


def error_packet(error: BridgeError) -> bytes:
    """``{error, {Type, 0, Class, Detail, Backtrace}}``: the class is the ``error_type`` of the protocol."""
    kind = "server" if error.error_type in _OF_THE_SERVER else "user"
    return _error(kind, 0, error.error_type, error.message, (error.traceback or "").splitlines())


_OF_THE_SERVER = {"overloaded", "unknown_request"}


def _error(kind: str, code: int, name: str, detail: str, backtrace: list[str]) -> bytes:
    error = Atom("error")
    return encode((error, (Atom(kind), code, name, detail, backtrace)), {error, Atom(kind)})


def event(fields: Mapping[Any, Any], atoms: Container[Atom]) -> bytes:
    """``{info, event, Map}``. Raises as :func:`reply`."""
    return encode(fields, atoms, root="event", head=_INFO_EVENT)


def call(call_id: int, name: Any, args: list[Any], atoms: Container[Atom]) -> bytes:
    """``{info, call, Map}`` with ``call_id``, ``name`` and ``args``. Raises as :func:`reply`."""
    fields = {Atom("call_id"): call_id, Atom("name"): name, Atom("args"): args}
    return encode(fields, atoms, root="call", head=_INFO_CALL)


def cache_info(*pairs: tuple[str, Any]) -> bytes:
    """``{info, cache, [{access, public}, ...]}``."""
    listed = [(Atom("access"), Atom("public")), *((Atom(name), value) for name, value in pairs)]
    return encode((Atom("info"), Atom("cache"), listed), VOCABULARY)


def callback_cast(module: Atom, function: Atom, args: list[Any], result: Any, atoms: Container[Atom]) -> bytes:
    """``{cast, M, F, Args ++ [Result]}``, where the result is ``{ok, R}`` or ``{error, Map}``."""
    term = (Atom("cast"), module, function, [*args, result])
    return encode(term, Either(atoms, (module, function)), root="callback")
