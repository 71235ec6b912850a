"""What the tests of datasets share: rows as the stream of a transfer, and its id by another way than the bridge's."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from typing import Any

from erl_bridge import Atom, etf
from erl_bridge.framing import pack

Row = dict[Any, Any]

ROWS: list[Row] = [
    {Atom("question"): f"what is {number}?", Atom("label"): Atom(("even", "odd")[number % 2]), "id": number}
    for number in range(1000)
]


def batches(rows: Sequence[Any], size: int = 100) -> list[bytes]:
    """The batches of a stream, each behind its length."""
    return [pack(etf.encode(list(rows[start : start + size]))) for start in range(0, len(rows), size)]


def stream(rows: Sequence[Any], size: int = 100) -> bytes:
    """The stream of a transfer, not compressed."""
    return b"".join(batches(rows, size))


def dataset_id(rows: Sequence[Any]) -> str:
    """The id as ``docs/protocol.md`` has it: the SHA-256 of the rows' external terms without their first byte."""
    return hashlib.sha256(b"".join(etf.encode(row)[1:] for row in rows)).hexdigest()


def cut(data: bytes, size: int) -> list[bytes]:
    """The chunks of a stream; an empty one has one, which is empty."""
    return [data[start : start + size] for start in range(0, len(data), size)] or [b""]


def compress(data: bytes, compression: str) -> bytes:
    """The stream as it is sent."""
    if compression == "zlib":
        return zlib.compress(data)
    if compression == "zstd":
        return zstd_compress(data)
    return data


def zstd_compress(data: bytes) -> bytes:
    """One zstd frame, by whatever there is."""
    try:
        from compression import zstd  # type: ignore[import-not-found]
    except ImportError:
        import zstandard

        return zstandard.ZstdCompressor().compress(data)
    return bytes(zstd.compress(data))
