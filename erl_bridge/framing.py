"""Packet-4 framing: a 4-byte big-endian length, then that many bytes. Bytes in, frames out; no I/O here.

Rule of this file: a frame over the limit is skipped to its end without being held in memory, and the stream stays in
step. The format is that of ``{packet, 4}`` in Erlang's ``open_port/2`` and ``inet:setopts/2``.
"""

from __future__ import annotations

from .errors import SerializationError
from .terms import Atom
from .values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER = 4
MAX_FRAME = 64 * 1024 * 1024
_LARGEST = 0xFFFF_FFFF


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
        self._buffer = bytearray()
        self._skip = 0

    def feed(self, data: bytes) -> Iterator[bytes | Oversized]:
        """The frames that ``data`` completes, in order. Exhaust the iterator before feeding again."""
        if self._skip:
            data = self._skipped(data)
        self._buffer += data
        start = 0
        buffer = self._buffer
        try:
            while len(buffer) - start >= HEADER:
                length = int.from_bytes(buffer[start : start + HEADER], "big")
                if length > self.max_frame:
                    start += HEADER + self._begin_skip(length, len(buffer) - start - HEADER)
                    yield Oversized(length, self.max_frame)
                    continue
                end = start + HEADER + length
                if len(buffer) < end:
                    break
                frame = bytes(memoryview(buffer)[start + HEADER : end])
                start = end
                yield frame
        finally:
            del buffer[:start]

    @property
    def unfinished(self) -> int:
        """Bytes of a frame that has begun and not ended: not zero at the end of a stream means it was cut."""
        return len(self._buffer) or self._skip

    def _begin_skip(self, length: int, available: int) -> int:
        now = min(length, available)
        self._skip = length - now
        return now

    def _skipped(self, data: bytes) -> bytes:
        now = min(self._skip, len(data))
        self._skip -= now
        return data[now:]


def pack(payload: bytes) -> bytes:
    """``payload`` behind its length. Raises :class:`SerializationError` past the 4 GiB that a length can say.

    >>> pack(b"\\x83j")
    b'\\x00\\x00\\x00\\x02\\x83j'
    """
    length = len(payload)
    if length > _LARGEST:
        raise SerializationError(f"a frame holds at most {_LARGEST} bytes, got {length}")
    return length.to_bytes(HEADER, "big") + payload


def refuse(oversized: Oversized) -> SerializationError:
    """The error that answers a frame over the limit."""
    return SerializationError(
        f"a frame of {oversized.length} bytes is over the limit of {oversized.limit} bytes and was skipped; "
        "send less at once, send it as a dataset, or raise --max-frame",
        context={Atom("frame_bytes"): oversized.length, Atom("limit"): oversized.limit},
    )
