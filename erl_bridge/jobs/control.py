"""The records between the bridge process and the template process: fork this, kill that; started, ended.

Rule of this file: a record has a fixed size and is written at once, so that a socket to hand over travels with its
first byte (``SCM_RIGHTS``).
"""

from __future__ import annotations

import socket
import struct

FORK, KILL = b"F", b"K"
STARTED, ENDED = b"S", b"E"
_RECORD = struct.Struct("!cIi")


def send(control: socket.socket, kind: bytes, number: int, value: int = 0, fds: tuple[int, ...] = ()) -> None:
    """Send a record about job ``number``: a signal to kill it with, its process id, or its wait status."""
    record = _RECORD.pack(kind, number, value)
    if fds:
        socket.send_fds(control, [record], fds)
    else:
        control.sendall(record)


def receive(control: socket.socket) -> tuple[bytes, int, int, list[int]] | None:
    """The next record as kind, job number, value and descriptors, or None at the end."""
    data, fds = b"", []
    while len(data) < _RECORD.size:
        try:
            more, new_fds, _, _ = socket.recv_fds(control, _RECORD.size - len(data), 1)
        except OSError:
            return None
        if not more:
            return None
        data += more
        fds += new_fds
    kind, number, value = _RECORD.unpack(data)
    return kind, number, value, fds
