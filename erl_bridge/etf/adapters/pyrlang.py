"""The backend ``pyrlang-term``: the codec of Pyrlang, whose package is imported as ``term``.

It has an implementation in Rust and one in Python. This adapter was tried with the one in Python (of its repository, in
2026); the one in Rust may refuse other things, but the comparison with our own backend holds for both. For it ``nil``
is an atom like any other and ``None`` is ``undefined``, a ``str`` is a list of characters, and bit strings and improper
lists come back as something else than they went.

Rule of this file: bit strings, improper lists, ports, exports and funs are refused, and so is what is deep, since its
functions recurse.
"""

from __future__ import annotations

from struct import pack as pack_struct
from struct import unpack as unpack_struct

from ...terms import CONSTANTS, Atom, Pid, Reference, name_of
from .. import tags
from .library import Library
from .rebuild import NotCarried

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ...terms import Name

NAME = "pyrlang-term"
_MAX_DEPTH = 100

_READS = frozenset(
    (
        tags.SMALL_INTEGER,
        tags.INTEGER,
        tags.SMALL_BIG,
        tags.LARGE_BIG,
        tags.NEW_FLOAT,
        tags.ATOM,
        tags.SMALL_ATOM,
        tags.ATOM_UTF8,
        tags.SMALL_ATOM_UTF8,
        tags.BINARY,
        tags.STRING,
        tags.NIL,
        tags.LIST,
        tags.SMALL_TUPLE,
        tags.LARGE_TUPLE,
        tags.MAP,
        tags.PID,
        tags.NEW_PID,
        tags.NEW_REFERENCE,
        tags.NEWER_REFERENCE,
    )
)


def load() -> Library:
    """The backend. Raises ImportError where the package is not installed."""
    try:
        import term
        from term import codec
    except ImportError as error:
        what = f"the backend {NAME} needs a package that cannot be imported ({error})"
        raise ImportError(f"{what}; install it with: pip install {NAME}") from None

    def to_leaf(value: Any) -> Any:
        if value is None or type(value) is Atom:
            return term.Atom(name_of(value))
        if type(value) is Pid:
            return term.Pid(name_of(value.node), value.id, value.serial, value.creation)
        if type(value) is Reference:
            words = pack_struct(f">{len(value.ids)}I", *value.ids)
            return term.Reference(name_of(value.node), value.creation, words)
        if type(value) is str:
            return value.encode()
        if type(value) in (bool, int, float, bytes):
            return value
        raise NotCarried(type(value).__name__, "it has no such term, or reads another")

    def from_leaf(value: Any) -> Any:
        if value is None:
            return Atom("undefined")
        if type(value) is term.Atom:
            return _named(value)
        if type(value) is term.Pid:
            return Pid(_named(value.node_name_), value.id_, value.serial_, value.creation_)
        if type(value) is term.Reference:
            words = unpack_struct(f">{len(value.id_) // 4}I", value.id_)
            return Reference(_named(value.node_name_), value.creation_, words)
        if type(value) is str:
            return list(value.encode("latin-1"))
        if type(value) in (bool, int, float):
            return value
        raise NotCarried(type(value).__name__, "it is unknown")

    def unpack(data: bytes) -> Any:
        value, rest = codec.binary_to_term(data)
        if rest:
            raise ValueError(f"{len(rest)} bytes are left")
        return value

    return Library(NAME, codec.term_to_binary, unpack, to_leaf, from_leaf, _READS, _MAX_DEPTH)


def _named(name: str) -> Name:
    text = str.__str__(name)
    return CONSTANTS[text] if text in CONSTANTS else Atom(text)
