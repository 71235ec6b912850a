"""Packet-4 framing: a 4-byte big-endian length, then that many bytes. Bytes in, frames out; no I/O here.

Rule of this file: a frame over the limit is skipped to its end without being held in memory, and the stream stays in
step. The format is that of ``{packet, 4}`` in Erlang's ``open_port/2`` and ``inet:setopts/2``.
"""

from __future__ import annotations

from struct import Struct

from .errors import SerializationError
from .terms import Atom
from .values import Value

HEADER = 4
MAX_FRAME = 64 * 1024 * 1024
_LARGEST = 0xFFFF_FFFF
_pack_length, _unpack_length = Struct(">I").pack, Struct(">I").unpack_from


class Oversized(Value):
    """Stands in the stream for a frame of ``length`` bytes that was over the limit and is being skipped."""

    __slots__ = ("length", "limit")
    length: int
    limit: int

    def __init__(self, length: int, limit: int) -> None:
        self._set(length=length, limit=limit)


class FrameReader:
    """Cuts a stream into frames, however the stream is cut itself.

    >>> reader = FrameReader()
    >>> list(reader.feed(bytes([0, 0, 0, 2, 131])))
    []
    >>> list(reader.feed(bytes([106, 0, 0, 0, 0])))
    [b'\\x83j', b'']
    """

    def __init__(self, max_frame: int = MAX_FRAME) -> None:
        self.max_frame = max_frame
        self._head = b""  # less than a header
        self._parts: list[bytes] = []  # of a frame that lacks bytes: joined once, when it has them
        self._lacking = 0
        self._skip = 0
        self.begun = False  # whether a frame, or its header, has come in part

    def feed(self, data: bytes) -> list[bytes | Oversized]:
        """The frames that ``data`` completes, in order."""
        frames: list[bytes | Oversized] = []
        if self.begun:
            data = self._continue(data, frames)
        start, size, most = 0, len(data), self.max_frame
        while (body := start + HEADER) <= size:
            (length,) = _unpack_length(data, start)
            start = body + length
            if length > most:
                frames.append(Oversized(length, most))
                self._skip = max(0, start - size)
            elif start > size:
                self._parts, self._lacking = [data[body:]], start - size
            else:
                frames.append(data[body:start])
        self._head = data[start:]
        self.begun = start != size or self._lacking > 0 or self._skip > 0
        return frames

    @property
    def unfinished(self) -> int:
        """Bytes of a frame that has begun and not ended: not zero at the end of a stream means it was cut."""
        if self._lacking:
            return HEADER + sum(map(len, self._parts))
        return len(self._head) or self._skip

    def _continue(self, data: bytes, frames: list[bytes | Oversized]) -> bytes:
        """Give ``data`` to the frame that has begun; what is left of it."""
        if self._head:
            return self._head + data
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            return data[skipped:]
        part = data[: self._lacking]
        self._parts.append(part)
        self._lacking -= len(part)
        if not self._lacking:
            frames.append(b"".join(self._parts))
            self._parts = []
        return data[len(part) :]


def header(payload: bytes) -> bytes:
    """What goes before ``payload``. Raises :class:`SerializationError` past the 4 GiB that a length can say.

    >>> header(b"\\x83j")
    b'\\x00\\x00\\x00\\x02'
    """
    length = len(payload)
    if length > _LARGEST:
        raise SerializationError(f"a frame holds at most {_LARGEST} bytes, got {length}")
    return _pack_length(length)


def pack(payload: bytes) -> bytes:
    """``payload`` behind its header, which copies it.

    >>> pack(b"\\x83j")
    b'\\x00\\x00\\x00\\x02\\x83j'
    """
    return header(payload) + payload


def refuse(oversized: Oversized) -> SerializationError:
    """The error that answers a frame over the limit."""
    return SerializationError(
        f"a frame of {oversized.length} bytes is over the limit of {oversized.limit} bytes and was skipped; "
        "send less at once, send it as a dataset, or raise --max-frame",
        context={Atom("frame_bytes"): oversized.length, Atom("limit"): oversized.limit},
    )


class FrameBuffer:
    """As :class:`FrameReader`, but frames are taken one by one: what the next may be depends on the one before.

    >>> buffer = FrameBuffer()
    >>> buffer.feed(bytes([0, 0, 0, 1, 7, 0, 0]))
    >>> buffer.take(100), buffer.take(100), len(buffer)
    (b'\\x07', None, 2)
    """

    def __init__(self) -> None:
        self._data = bytearray()
        self._at = 0

    def __len__(self) -> int:
        """Bytes that no frame was made of yet."""
        return len(self._data) - self._at

    def feed(self, data: bytes) -> None:
        """Add bytes at the end."""
        del self._data[: self._at]
        self._at = 0
        self._data += data

    def take(self, max_frame: int) -> bytes | Oversized | None:
        """The next frame, if all of it is there. An :class:`Oversized` stays where it is."""
        have = len(self._data) - self._at
        if have < HEADER:
            return None
        (length,) = _unpack_length(self._data, self._at)
        if length > max_frame:
            return Oversized(length, max_frame)
        if have < HEADER + length:
            return None
        start = self._at + HEADER
        self._at = start + length
        return bytes(self._data[start : self._at])
