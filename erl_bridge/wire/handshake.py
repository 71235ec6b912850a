"""How two nodes become acquainted: names, flags, and the proof that both know the cookie.

Rule of this file: bytes in, bytes out. Each side is a table from what it waits for and the tag that came to a method;
whatever is not in the table, or fails a check, is a :class:`HandshakeError`. Who has made the connection is the
initiator. The format is that of "Distribution Handshake" in the ERTS user's guide, version 6; of version 5 the first
message is understood, as OTP demands of an acceptor.
"""

from __future__ import annotations

from hashlib import md5
from hmac import compare_digest
from struct import Struct

from ..values import Value
from . import capabilities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    _Table = Mapping[tuple[str, int], Callable[..., bytes]]

MAX_PACKET = 4096  # bytes; a name has at most 255 characters
MAX_NAME = 255  # characters
_OLD_VERSION = 5
_DIGEST = 16
_WORD = 0xFFFF_FFFF
_name, _challenge = Struct(">cQIH"), Struct(">cQIIH")
_old_name, _complement, _reply = Struct(">cHI"), Struct(">cII"), Struct(">cI16s")


class HandshakeError(Exception):
    """The connection cannot be; the message says why. ``farewell`` are bytes to send before it is closed."""

    def __init__(self, message: str, farewell: bytes = b"") -> None:
        super().__init__(message)
        self.farewell = farewell


class Yielded(HandshakeError):
    """The other node is connecting to this one at the same time, and its connection is the one that stays."""


class Own(Value):
    """What this node says of itself: ``name@host`` (or only the host, to be given a name), flags, creation, cookie.

    The cookie is not shown.
    """

    __slots__ = ("name", "creation", "cookie", "flags")
    name: str
    creation: int
    cookie: bytes
    flags: int

    def __init__(self, name: str, creation: int, cookie: bytes, flags: int = capabilities.OURS) -> None:
        self._set(name=name, creation=creation, cookie=cookie, flags=flags)

    def __repr__(self) -> str:
        return f"Own(name={self.name!r}, creation={self.creation}, flags={self.flags:#x})"


class Peer(Value):
    """The other node: its name, its flags, its creation, and what this node is called by it."""

    __slots__ = ("name", "flags", "creation", "own_name", "own_creation")
    name: str
    flags: int
    creation: int
    own_name: str
    own_creation: int

    def __init__(self, name: str, flags: int, creation: int, own_name: str, own_creation: int) -> None:
        self._set(name=name, flags=flags, creation=creation, own_name=own_name, own_creation=own_creation)


def digest(cookie: bytes, challenge: int) -> bytes:
    """The proof that one knows the cookie.

    >>> digest(b"secret", 1567820466).hex()
    '0c7c0766480311b2bc40336edc786949'
    """
    return md5(cookie + str(challenge).encode(), usedforsecurity=False).digest()


def check_name(name: str) -> str | None:
    """What is wrong with the full name of a node, if anything is.

    >>> check_name("py1@127.0.0.1"), check_name("py1")
    (None, 'a node is called name@host')
    """
    alive, at, host = name.partition("@")
    if not (alive and at and host) or "@" in host:
        return "a node is called name@host"
    if len(name) > MAX_NAME:
        return f"the name of a node has at most {MAX_NAME} characters"
    return None


class _Handshake:
    """What both sides have in common. ``header`` is how many bytes the length before a packet has: 2, or 4 with TLS."""

    def __init__(self, own: Own, challenge: int, header: int, table: _Table) -> None:
        self.own = own
        self._table = table
        self.peer: Peer | None = None  # once the handshake is done
        self._challenge = challenge
        self._header = header
        self._buffer = b""
        self._waits_for = ""

    @property
    def rest(self) -> bytes:
        """Bytes behind the last message of the handshake: the beginning of what follows it."""
        return self._buffer

    def receive(self, data: bytes) -> bytes:
        """Take bytes of the other node; what to send it. :attr:`peer` is set when all is done.

        Raises :class:`HandshakeError`, and then the connection is to be closed.
        """
        self._buffer += data
        out = b""
        while self.peer is None and (packet := self._next_packet()) is not None:
            method = self._table.get((self._waits_for, packet[0])) if packet else None
            if method is None:
                raise HandshakeError(f"waiting for {self._waits_for}, the other side sent {packet[:32]!r}")
            out += method(self, packet)
        return out

    def _next_packet(self) -> bytes | None:
        if len(self._buffer) < self._header:
            return None
        size = int.from_bytes(self._buffer[: self._header], "big")
        if size > MAX_PACKET:
            raise HandshakeError(f"a packet of {size} bytes, where none has more than {MAX_PACKET}")
        end = self._header + size
        if len(self._buffer) < end:
            return None
        packet, self._buffer = self._buffer[self._header : end], self._buffer[end:]
        return packet

    def _packed(self, body: bytes) -> bytes:
        return len(body).to_bytes(self._header, "big") + body

    def _check_digest(self, given: bytes) -> None:
        if not compare_digest(given, digest(self.own.cookie, self._challenge)):
            raise HandshakeError("the other node has another cookie")

    def _answer(self, challenge: int) -> bytes:
        return digest(self.own.cookie, challenge)


class Initiator(_Handshake):
    """The side that has made the connection, to the node called ``peer_name``.

    ``is_connected`` says, when asked, whether this node holds a live connection to that one. ``challenge`` is a random
    number of 32 bits.
    """

    def __init__(
        self,
        own: Own,
        peer_name: str,
        challenge: int,
        *,
        is_connected: Callable[[], bool] = lambda: False,
        header: int = 2,
    ) -> None:
        super().__init__(own, challenge, header, _INITIATOR)
        self._peer_name = peer_name
        self._is_connected = is_connected
        self._own_name, self._own_creation = own.name, own.creation
        self._found = (0, 0)
        self._wants_name = "@" not in own.name
        self._waits_for = "status"

    def begin(self) -> bytes:
        """The first message."""
        name = self.own.name.encode()
        flags = self.own.flags | (capabilities.NAME_ME if self._wants_name else 0)
        return self._packed(_name.pack(b"N", flags, self.own.creation, len(name)) + name)

    def _status(self, packet: bytes) -> bytes:
        status, colon, given = packet[1:].partition(b":")
        self._waits_for = "challenge"
        if colon and status == b"named":
            self._adopt(given)
            return b""
        if status in (b"ok", b"ok_simultaneous") and not self._wants_name:
            return b""
        if status == b"alive":
            if self._is_connected():
                farewell = self._packed(b"sfalse")
                raise HandshakeError(f"{self._peer_name} is connected already", farewell)
            return self._packed(b"strue")
        if status == b"nok":
            raise Yielded(f"{self._peer_name} is connecting to this node, which goes before")
        raise HandshakeError(f"{self._peer_name} does not let this node in: {packet[1:64]!r}")

    def _adopt(self, given: bytes) -> None:
        """Take the name that the other node gives: its length, itself, a creation."""
        size = int.from_bytes(given[:2], "big")
        name, creation = given[2 : 2 + size], given[2 + size : 6 + size]
        if not self._wants_name or len(creation) < 4:
            raise HandshakeError(f"{self._peer_name} gives this node a name that it does not want or that is cut")
        self._own_name, self._own_creation = _text(name), int.from_bytes(creation, "big")

    def _challenged(self, packet: bytes) -> bytes:
        flags, challenge, creation, name = _fields(_challenge, packet)
        if name != self._peer_name:
            raise HandshakeError(f"{self._peer_name} was called, and {name} answered")
        if lacking := capabilities.missing(flags):
            raise HandshakeError(f"{name} lacks {', '.join(lacking)}: it is older than OTP 23")
        self._found = capabilities.expanded(flags), creation
        self._waits_for = "the proof of the cookie"
        return self._packed(_reply.pack(b"r", self._challenge, self._answer(challenge)))

    def _proven(self, packet: bytes) -> bytes:
        self._check_digest(packet[1:])
        self.peer = Peer(self._peer_name, *self._found, self._own_name, self._own_creation)
        return b""


class Acceptor(_Handshake):
    """The side that was connected to.

    ``standing`` is asked how it stands with the node of a name and answers with a status: ``ok``, ``ok_simultaneous``
    (this node's own attempt is given up), ``nok`` (it goes before), ``alive`` (there is a connection) or
    ``not_allowed``. ``name_for`` gives a node of a host that wants one a name and a creation.
    """

    def __init__(
        self,
        own: Own,
        challenge: int,
        standing: Callable[[str], str],
        *,
        name_for: Callable[[str], tuple[str, int]] | None = None,
        header: int = 2,
    ) -> None:
        super().__init__(own, challenge, header, _ACCEPTOR)
        self._standing = standing
        self._name_for = name_for
        self._peer_name = ""
        self._flags = 0
        self._creation = 0
        self._is_old = False
        self._waits_for = "a name"

    def _named(self, packet: bytes) -> bytes:
        flags, creation, name = _fields(_name, packet)
        self._flags, self._creation = capabilities.expanded(flags), creation
        self._check_flags(self._flags)
        if flags & capabilities.NAME_ME and self._name_for is not None and "@" not in name and name:
            given, self._creation = self._name_for(name)
            data = given.encode()
            status = b"named:" + len(data).to_bytes(2, "big") + data + self._creation.to_bytes(4, "big")
            self._peer_name = given
            return self._packed(b"s" + status) + self._challenge_packet()
        return self._known(name)

    def _named_as_of_old(self, packet: bytes) -> bytes:
        if len(packet) < _old_name.size:
            raise HandshakeError("a first message that is cut")
        _, version, self._flags = _old_name.unpack_from(packet)
        if version != _OLD_VERSION:
            raise HandshakeError(f"a first message of version {version}, where {_OLD_VERSION} or 6 were expected")
        self._flags = capabilities.expanded(self._flags)
        self._check_flags(self._flags)
        self._is_old = True
        return self._known(_text(packet[_old_name.size :]))

    def _check_flags(self, flags: int) -> None:
        if lacking := capabilities.missing(flags):
            message = f"the other node lacks {', '.join(lacking)}: it is older than OTP 23"
            raise HandshakeError(message, self._packed(b"snot_allowed"))

    def _known(self, name: str) -> bytes:
        if wrong := check_name(name):
            raise HandshakeError(f"the other node calls itself {name!r}, and {wrong}")
        self._peer_name = name
        status = self._standing(name)
        packet = self._packed(b"s" + status.encode())
        if status in ("nok", "not_allowed"):
            raise HandshakeError(f"{name} was answered {status}", packet)
        if status == "alive":
            self._waits_for = "an answer to alive"
            return packet
        return packet + self._challenge_packet()

    def _goes_on(self, packet: bytes) -> bytes:
        if packet[1:] != b"true":
            raise HandshakeError(f"{self._peer_name} is connected already, and knows it")
        return self._challenge_packet()

    def _challenge_packet(self) -> bytes:
        self._waits_for = "the rest of its flags" if self._is_old else "the answer to the challenge"
        name = self.own.name.encode()
        return self._packed(_challenge.pack(b"N", self.own.flags, self._challenge, self.own.creation, len(name)) + name)

    def _completed(self, packet: bytes) -> bytes:
        if len(packet) < _complement.size:
            raise HandshakeError("the rest of the flags is cut")
        _, high, self._creation = _complement.unpack_from(packet)
        self._flags |= high << 32
        self._waits_for = "the answer to the challenge"
        return b""

    def _answered(self, packet: bytes) -> bytes:
        if len(packet) != _reply.size:
            raise HandshakeError(f"an answer to the challenge of {len(packet)} bytes, where it has {_reply.size}")
        _, challenge, given = _reply.unpack(packet)
        self._check_digest(given)
        self.peer = Peer(self._peer_name, self._flags, self._creation, self.own.name, self.own.creation)
        return self._packed(b"a" + self._answer(challenge))


_INITIATOR: _Table = {
    ("status", ord("s")): Initiator._status,
    ("challenge", ord("N")): Initiator._challenged,
    ("the proof of the cookie", ord("a")): Initiator._proven,
}
_ACCEPTOR: _Table = {
    ("a name", ord("N")): Acceptor._named,
    ("a name", ord("n")): Acceptor._named_as_of_old,
    ("an answer to alive", ord("s")): Acceptor._goes_on,
    ("the rest of its flags", ord("c")): Acceptor._completed,
    ("the answer to the challenge", ord("r")): Acceptor._answered,
}


def standing(own: str, peer: str, *, connected: bool, connecting: bool) -> str:
    """The status for ``peer``, which connects: of two attempts at once that of the node with the greater name stays.

    >>> standing("b@h", "a@h", connected=False, connecting=True)
    'nok'
    """
    if peer == own:
        return "not_allowed"
    if connected:
        return "alive"
    if not connecting:
        return "ok"
    return "nok" if own.encode() > peer.encode() else "ok_simultaneous"


def _fields(layout: Struct, packet: bytes) -> tuple[Any, ...]:
    """The numbers of a message with a name at its end, and the name; what is behind that is for later versions."""
    if len(packet) < layout.size:
        raise HandshakeError("a message that is cut")
    _, *numbers, size = layout.unpack_from(packet)
    name = packet[layout.size : layout.size + size]
    if len(name) < size:
        raise HandshakeError("a name that is cut")
    return *numbers, _text(name)


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise HandshakeError(f"a name that is not UTF-8: {name[:64]!r}") from None
