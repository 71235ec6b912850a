"""Terms over a socket pair, between the bridge process and one job process.

Rule of this file: both ends are ours, so there are no limits here; what a client sent was checked when it came.
"""

from __future__ import annotations

import socket
import threading

from .. import etf
from ..framing import HEADER, pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container
    from typing import Any

    from ..terms import Atom

_NO_LIMITS = etf.Limits(**dict.fromkeys(etf.Limits.__slots__, 1 << 62))


class Channel:
    """One end of the pair. Any thread may send; one thread receives."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._lock = threading.Lock()

    def send(self, *message: Any, atoms: Container[Atom] | None = None) -> None:
        """Send a message, a tag and its fields. Raises :class:`erl_bridge.etf.EncodeError`, or OSError at the end."""
        frame = pack(etf.encode(message, atoms=atoms))
        with self._lock:
            self._socket.sendall(frame)

    def receive(self, atoms: set[Atom] | None = None) -> Any:
        """The next message, or None when the other end is gone. ``atoms`` collects the atoms that came in it."""
        header = self._exactly(HEADER)
        frame = header and self._exactly(int.from_bytes(header, "big"))
        return etf.decode(frame, limits=_NO_LIMITS, atoms=atoms) if frame else None

    def close(self) -> None:
        """Close this end; the other end sees the end of the stream."""
        self._socket.close()

    def _exactly(self, size: int) -> bytearray | None:
        data = bytearray(size)
        view, have = memoryview(data), 0
        while have < size:
            try:
                count = self._socket.recv_into(view[have:])
            except OSError:
                return None
            if not count:
                return None
            have += count
        return data
