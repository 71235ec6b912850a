"""A transport without a process: two ends in one program, for tests, those of users included."""

from __future__ import annotations

import queue


class MemoryTransport:
    """One end of a pair. What one end writes the other reads.

    >>> here, there = pair()
    >>> here.write(b"hello")
    >>> there.read()
    b'hello'
    """

    def __init__(self, incoming: queue.SimpleQueue[bytes], outgoing: queue.SimpleQueue[bytes]) -> None:
        self._incoming = incoming
        self._outgoing = outgoing

    def read(self, alone: bool = False) -> bytes:
        """Wait for what the other end writes; empty when it was closed."""
        return self._incoming.get()

    def write(self, *parts: bytes) -> None:
        """Give ``parts`` to the other end, as one."""
        if data := b"".join(parts):
            self._outgoing.put(data)

    def interrupt(self) -> None:
        """Make :meth:`read` of this end return as at the end of the input, from any thread."""
        self._incoming.put(b"")

    def close(self) -> None:
        """End the other end's input."""
        self._outgoing.put(b"")


def pair() -> tuple[MemoryTransport, MemoryTransport]:
    """Two ends that are connected."""
    there: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    back: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    return MemoryTransport(back, there), MemoryTransport(there, back)
