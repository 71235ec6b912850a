"""The other ways to get rows into Python: `peer.py design | swallow`, frames on stdin, an answer to each on stdout."""

from __future__ import annotations

import base64
import json
import os
import sys
import zlib


def read(size: int) -> bytes:
    return sys.stdin.buffer.read(size)


def answer(frame: bytes) -> None:
    sys.stdout.buffer.write(len(frame).to_bytes(4, "big") + frame)
    sys.stdout.buffer.flush()


def design() -> None:
    """Pieces of a compressed JSON text, as Base64 in JSON; when the last is there, the rows."""
    pieces: list[bytes] = []
    while head := read(4):
        message = json.loads(read(int.from_bytes(head, "big")).decode())
        pieces.append(base64.b64decode(message["data"]))
        rows = []
        if message["is_final"]:
            rows = json.loads(zlib.decompress(b"".join(pieces)))
            pieces = []
        answer(str(len(rows)).encode())


def swallow() -> None:
    """Read each frame and forget it, without the buffer of stdin."""
    while head := os.read(0, 4):
        left = int.from_bytes(head, "big")
        while left:
            left -= len(os.read(0, min(left, 1 << 20)))
        answer(b"")


if __name__ == "__main__":
    {"design": design, "swallow": swallow}[sys.argv[1]]()
