"""The backend ``erlpack``: the package of that name, in C and Cython.

What it cannot do, found by trying version 1.0.1: it writes integers of 64 bits and atoms of Latin-1 only; it merges
keys of maps that Python holds equal; where it reads bytes, it does not see that some are missing, recurses without
bound until the process crashes, misplaces what follows an export, takes quadratic time for large integers, and knows
none of the tags by which a BEAM sends pids, ports, references, funs and bit strings.

Rule of this file: these are refused before the library sees them.
"""

from __future__ import annotations

from ...terms import Atom
from .. import tags
from .library import Library
from .rebuild import NotCarried

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NAME = "erlpack"
_MAX_DEPTH = 256  # its encoder stops there by itself; its decoder would go on until the stack is full
_LOWEST, _HIGHEST = -(1 << 63), (1 << 64) - 1

_READS = frozenset(
    (
        tags.SMALL_INTEGER,
        tags.INTEGER,
        tags.SMALL_BIG,
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
    )
)


def load() -> Library:
    """The backend. Raises ImportError where the package is not installed."""
    try:
        import erlpack
    except ImportError as error:
        what = f"the backend {NAME} needs a package that cannot be imported ({error})"
        raise ImportError(f'{what}; install it with: pip install "erl_bridge[erlpack]"') from None
    their_atom: type[str] = erlpack.Atom

    def to_leaf(value: Any) -> Any:
        return their_atom(_latin1(value.name)) if type(value) is Atom else _plain(value)

    def from_leaf(value: Any) -> Any:
        if type(value) is their_atom:
            return Atom(str(value))
        if value is None or type(value) in (bool, int, float):
            return value
        raise NotCarried(type(value).__name__, "it is unknown")

    def pack(value: Any) -> bytes:
        return bytes(erlpack.ErlangTermEncoder().pack(value))  # the one of the module is for one thread at a time

    return Library(NAME, pack, erlpack.unpack, to_leaf, from_leaf, _READS, _MAX_DEPTH)


def _latin1(name: str) -> str:
    if not name.isascii() and max(name) > "\xff":
        raise NotCarried(f"atom {name}", "it writes atoms of Latin-1 only")
    return name


def _plain(value: Any) -> Any:
    if type(value) is str:
        return value.encode()  # a str could be merged with its Atom, which is a str too
    if type(value) is int and not _LOWEST <= value <= _HIGHEST:
        raise NotCarried(f"int of {value.bit_length()} bits", f"it writes integers from {_LOWEST} to {_HIGHEST}")
    if value is None or type(value) in (bool, int, float, bytes):
        return value
    raise NotCarried(type(value).__name__, "it has no such term")
