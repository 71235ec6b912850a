"""What a node and EPMD, the Erlang port mapper, say to each other: names of nodes to the ports they listen on.

Rule of this file: bytes and values, no I/O. Requests have their length before them, answers have none. The format is
that of "EPMD Protocol" in the chapter on the distribution protocol of the ERTS user's guide.
"""

from __future__ import annotations

from struct import Struct

from ..values import Value

DEFAULT_PORT = 4369
_ALIVE, _ALIVE_X_ANSWER, _ALIVE_ANSWER, _LOOKUP, _LOOKUP_ANSWER, _NAMES = 120, 118, 121, 122, 119, 110
_HIDDEN, _TCP_IPV4 = 72, 0
_HIGHEST, _LOWEST = 6, 5  # versions of the handshake; below 6 EPMD gives creations of two bits
_MAX_NAME = 255 * 4  # bytes of the longest name
_alive, _u16 = Struct(">BHBBHHH").pack, Struct(">H")
_alive_x_answer, _alive_answer, _lookup_answer = Struct(">xBI"), Struct(">xBH"), Struct(">HBBHHH")


class EpmdError(Exception):
    """EPMD refused, or said what is not in its protocol; the message tells which."""


class Listed(Value):
    """A node as EPMD knows it: its name without the host, its port, the handshakes it speaks, whether it is hidden."""

    __slots__ = ("name", "port", "highest", "lowest", "hidden")
    name: str
    port: int
    highest: int
    lowest: int
    hidden: bool

    def __init__(self, name: str, port: int, highest: int = _HIGHEST, lowest: int = _LOWEST, hidden: bool = False):
        self._set(name=name, port=port, highest=highest, lowest=lowest, hidden=hidden)


def register(name: str, port: int) -> bytes:
    """Ask to be listed, as a hidden node, for as long as the connection to EPMD stays open.

    >>> register("a", 0xA98F).hex(" ")
    '00 0e 78 a9 8f 48 00 00 06 00 05 00 01 61 00 00'
    """
    data = name.encode()
    return _request(_alive(_ALIVE, port, _HIDDEN, _TCP_IPV4, _HIGHEST, _LOWEST, len(data)) + data + b"\0\0")


def registered(data: bytes) -> int | None:
    """The creation that EPMD gave, or None when more bytes must come. Raises :class:`EpmdError`.

    >>> registered(bytes.fromhex("76006b045f5f"))
    1795448671
    """
    if not data:
        return None
    answer = {_ALIVE_X_ANSWER: _alive_x_answer, _ALIVE_ANSWER: _alive_answer}.get(data[0])
    if answer is None:
        raise EpmdError(f"EPMD answered the registration with {data[0]}, which is no answer to it")
    if len(data) < answer.size:
        return None
    result, creation = answer.unpack_from(data)
    if result:
        raise EpmdError("EPMD refused the name: a node of that name is registered already, or it is no name")
    return int(creation)


def lookup(name: str) -> bytes:
    """Ask where the node of that name (without its host) listens; EPMD answers and closes the connection.

    >>> lookup("otp25").hex(" ")
    '00 06 7a 6f 74 70 32 35'
    """
    return _request(bytes([_LOOKUP]) + name.encode())


def found(data: bytes) -> Listed | None:
    """What EPMD answered to :func:`lookup`, whole; None for a name it does not know. Raises :class:`EpmdError`.

    >>> found(bytes.fromhex("77008f4f4d00000600050005") + b"otp25\\0\\0").port
    36687
    """
    if len(data) < 2 or data[0] != _LOOKUP_ANSWER:
        raise EpmdError(f"EPMD answered the lookup with {data[:16]!r}, which is no answer to it")
    if data[1]:
        return None
    fixed = data[2 : 2 + _lookup_answer.size]
    if len(fixed) < _lookup_answer.size:
        raise EpmdError(f"EPMD's answer to the lookup is cut after {len(data)} bytes")
    port, kind, _, highest, lowest, size = _lookup_answer.unpack(fixed)
    name = data[2 + _lookup_answer.size :][:size]
    if len(name) < size or size > _MAX_NAME:
        raise EpmdError(f"EPMD's answer to the lookup is cut after {len(data)} bytes")
    return Listed(name.decode("utf-8", "replace"), port, highest, lowest, kind == _HIDDEN)


def names() -> bytes:
    """Ask for all nodes; EPMD answers and closes the connection."""
    return _request(bytes([_NAMES]))


def listed(data: bytes) -> dict[str, int]:
    """Names and ports in the whole answer to :func:`names`. Raises :class:`EpmdError`.

    >>> listed(bytes(4) + b"name a at port 4001\\nname b at port 4002\\n")
    {'a': 4001, 'b': 4002}
    """
    if len(data) < 4:
        raise EpmdError(f"EPMD's list of names is cut after {len(data)} bytes")
    nodes = {}
    for line in data[4:].decode("utf-8", "replace").splitlines():
        words = line.split(" ")
        if len(words) != 5 or words[0] != "name" or not words[4].isdigit():
            raise EpmdError(f"EPMD's list of names has a line {line!r}")
        nodes[words[1]] = int(words[4])
    return nodes


def _request(body: bytes) -> bytes:
    return _u16.pack(len(body)) + body
