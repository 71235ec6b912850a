"""Terms over a socket pair, between the bridge process and one job process.

Rule of this file: both ends are ours, so there are no limits here; what a client sent was checked when it came.
"""

from __future__ import annotations

import socket
import threading
from collections import deque

from .. import etf
from ..framing import FrameReader, pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container
    from typing import Any

    from ..terms import Atom

_NO_LIMIT = 1 << 62
_NO_LIMITS = etf.Limits(**dict.fromkeys(etf.Limits.__slots__, _NO_LIMIT))
_READ_SIZE = 64 * 1024


class Channel:
    """One end of the pair. Any thread may send; one at a time receives."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._lock = threading.Lock()
        self._frames = FrameReader(_NO_LIMIT)
        self._received: deque[Any] = deque()

    def send(self, *message: Any, atoms: Container[Atom] | None = None) -> None:
        """Send a message, a tag and its fields. Raises :class:`erl_bridge.etf.EncodeError`, or OSError at the end."""
        frame = pack(etf.encode(message, atoms=atoms))
        with self._lock:
            self._socket.sendall(frame)

    def receive(self, atoms: set[Atom] | None = None) -> Any:
        """The next message, or None when the other end is gone. ``atoms`` collects the atoms that came in it."""
        while not self._received:
            try:
                data = self._socket.recv(_READ_SIZE)
            except OSError:
                return None
            if not data:
                return None
            self._received += self._frames.feed(data)
        return etf.decode(self._received.popleft(), limits=_NO_LIMITS, atoms=atoms)

    def close(self) -> None:
        """Close this end; the other end sees the end of the stream."""
        self._socket.close()
