"""Which tags are in bytes, and how deep: what must be known before another library may read them.

Rule of this file: it is given only bytes that the pure-Python decoder has read, so every size in them is right. It does
not recurse and makes nothing.
"""

from __future__ import annotations

from struct import Struct

from .. import tags
from ..errors import DecodeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container
    from typing import TypeAlias

    Step: TypeAlias = Callable[[bytes, int], tuple[int, int]]  # how many terms it holds, where they or the next begin

_u16 = Struct(">H").unpack_from
_u32 = Struct(">I").unpack_from


def refuse_unreadable(body: bytes, start: int, readable: Container[int], max_depth: int, name: str) -> None:
    """Raises DecodeError for a tag that is not among the readable ones, and for containers that are nested too deep.

    >>> refuse_unreadable(b"h\\x01F" + bytes(8), 0, {tags.SMALL_TUPLE}, 9, "x")
    Traceback (most recent call last):
    erl_bridge.etf.errors.DecodeError: cannot decode byte 2 of the inflated data: expected a term that the backend x \
can read, got NEW_FLOAT_EXT
    """
    pos, inside = start, [1]  # how many terms are still to come in each open container
    while inside:
        if not inside[-1]:
            inside.pop()
            continue
        inside[-1] -= 1
        tag = body[pos]
        if tag not in readable or tag not in _STEPS:
            expected = f"a term that the backend {name} can read"
            raise DecodeError(pos, expected, tags.NAMES.get(tag, f"tag {tag}"), inflated=start == 0)
        count, behind = _STEPS[tag](body, pos)
        if count:
            if len(inside) > max_depth:
                expected = f"at most {max_depth} containers within one another, for the backend {name}"
                raise DecodeError(pos, expected, "one more", inflated=start == 0)
            inside.append(count)
        pos = behind


def _fixed(size: int) -> Step:
    return lambda body, pos: (0, pos + size)


def _sized_u8(head: int) -> Step:
    return lambda body, pos: (0, pos + head + body[pos + 1])


def _sized_u16(head: int) -> Step:
    return lambda body, pos: (0, pos + head + _u16(body, pos + 1)[0])


def _sized_u32(head: int) -> Step:
    return lambda body, pos: (0, pos + head + _u32(body, pos + 1)[0])


def _of_node(behind_node: int) -> Step:
    """A term that is a tag, the node's atom and some bytes."""
    return lambda body, pos: (0, _STEPS[body[pos + 1]](body, pos + 1)[1] + behind_node)


def _reference(creation: int) -> Step:
    """A reference: a tag, the number of words, the node's atom, the creation in so many bytes, and the words."""
    return lambda body, pos: (0, _STEPS[body[pos + 3]](body, pos + 3)[1] + creation + 4 * _u16(body, pos + 1)[0])


_STEPS: dict[int, Step] = {
    tags.SMALL_INTEGER: _fixed(2),
    tags.INTEGER: _fixed(5),
    tags.NEW_FLOAT: _fixed(9),
    tags.NIL: _fixed(1),
    tags.ATOM: _sized_u16(3),
    tags.ATOM_UTF8: _sized_u16(3),
    tags.STRING: _sized_u16(3),
    tags.SMALL_ATOM: _sized_u8(2),
    tags.SMALL_ATOM_UTF8: _sized_u8(2),
    tags.SMALL_BIG: _sized_u8(3),
    tags.LARGE_BIG: _sized_u32(6),
    tags.BINARY: _sized_u32(5),
    tags.PID: _of_node(9),
    tags.NEW_PID: _of_node(12),
    tags.NEW_REFERENCE: _reference(1),
    tags.NEWER_REFERENCE: _reference(4),
    tags.SMALL_TUPLE: lambda body, pos: (body[pos + 1], pos + 2),
    tags.LARGE_TUPLE: lambda body, pos: (_u32(body, pos + 1)[0], pos + 5),
    tags.LIST: lambda body, pos: (_u32(body, pos + 1)[0] + 1, pos + 5),  # and its tail
    tags.MAP: lambda body, pos: (2 * _u32(body, pos + 1)[0], pos + 5),
}
