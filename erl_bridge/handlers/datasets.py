"""The requests that send datasets: ``docs/protocol.md``, "Datasets".

Rule of this file: payloads are read here and answers named; what is done is in :mod:`erl_bridge.datasets`, which is
imported with the first of these requests, not before ``:hello``.
"""

from __future__ import annotations

import threading

from ..app import Handler
from ..datasets.ceilings import DEFAULT, MAX_CHUNKS
from ..refusals import invalid
from ..terms import Atom
from ..timers import Timers
from ..vocabulary import named
from .system import fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable
    from typing import Any

    from ..context import Context
    from ..datasets.ceilings import Ceilings
    from ..datasets.reassembler import Announcement, Chunk
    from ..datasets.transfers import Transfers

_MAX_ID = 255
_MAX_BYTES = 1 << 62
_DATA, _TRANSFER_ID = Atom("data"), Atom("transfer_id")


class Datasets:
    """The handlers of these requests, which share the transfers of the process."""

    def __init__(self, ceilings: Ceilings = DEFAULT, timers: Timers | None = None) -> None:
        self._ceilings = ceilings
        self._timers = timers or Timers()
        self._lock = threading.Lock()
        self._made: Transfers | None = None
        functions = (self.dataset_begin, self.data_chunk, self.dataset_status, self.dataset_drop)
        self.handlers = [Handler(one.__name__, one, run="ordered", order=_order) for one in functions]

    def close(self, *, keep: bool) -> None:
        """End: what is under way is dropped, or kept for the next process on the host."""
        with self._lock:
            if self._made is not None:
                self._made.close(keep)

    def _transfers(self) -> Transfers:
        with self._lock:
            if self._made is None:
                from ..datasets.transfers import Transfers

                self._made = Transfers(self._ceilings, self._timers)
            return self._made

    # -- requests ------------------------------------------------------------------------------------------------

    def dataset_begin(self, payload: Any, context: Context) -> Any:
        """Begin a transfer, or find it or the dataset: the state of the transfer."""
        given = fields(payload, ("transfer_id",), _ANNOUNCED)
        state = self._transfers().begin(_transfer_id(given), _announcement(given))
        return named({"transfer_id": given["transfer_id"], **state})

    def data_chunk(self, payload: Any, context: Context) -> Any:
        """Take a chunk: ``%{received: n, next: k}``, and the dataset once it is complete."""
        given = fields(payload, ("transfer_id", "chunk_index", "data"), ("is_final", "crc32", "dataset_id"))
        return named(self._transfers().receive(_transfer_id(given), _chunk(given)))

    def dataset_status(self, payload: Any, context: Context) -> Any:
        """The state of a transfer; or what a dataset is; or what this server takes and has."""
        given = {name: value for name, value in fields(payload, (), ("transfer_id", "dataset_id")).items() if value}
        transfers = self._transfers()
        if "transfer_id" in given:
            return named({"transfer_id": given["transfer_id"], **transfers.status(_transfer_id(given))})
        if "dataset_id" in given:
            return named(transfers.dataset(_dataset_id(given)))
        facts = transfers.facts()
        facts["compression"] = [Atom(name) for name in facts["compression"]]
        return named({**facts, "limits": named(facts["limits"])})

    def dataset_drop(self, payload: Any, context: Context) -> Any:
        """Remove a transfer: ``%{dropped: true | false}``, false when there is none."""
        given = fields(payload, ("transfer_id",))
        return named({"dropped": self._transfers().drop(_transfer_id(given))})


def _order(payload: Any) -> tuple[Hashable, int]:
    """The requests of one transfer are handled in the order in which they come. Whatever the payload, this is quick."""
    transfer_id = payload.get(_TRANSFER_ID, payload.get("transfer_id"))
    data = payload.get(_DATA, payload.get("data"))
    return (
        transfer_id if isinstance(transfer_id, (str, bytes)) else None,
        len(data) if isinstance(data, (str, bytes)) else 0,
    )


# -- payloads ---------------------------------------------------------------------------------------------------------

_ANNOUNCED = ("format", "compression", "chunk_count", "total_bytes", "sha256", "dataset_id")


def _announcement(given: dict[str, Any]) -> Announcement:
    from ..datasets.compression import usable
    from ..datasets.reassembler import Announcement

    _one_of(given, "format", ["etf"])
    return Announcement(
        _one_of(given, "compression", usable()) or "none",
        _integer(given, "chunk_count", 1, MAX_CHUNKS),
        _integer(given, "total_bytes", 0, _MAX_BYTES),
        _sha256(given),
        _dataset_id(given),
    )


def _chunk(given: dict[str, Any]) -> Chunk:
    from zlib import crc32

    from ..datasets.errors import refused
    from ..datasets.reassembler import Chunk

    index = _integer(given, "chunk_index", 0, _MAX_BYTES)
    if index is None:
        raise invalid("payload.chunk_index", "an integer that is not negative", None)
    data, final = _binary(given, "data"), given.get("is_final")
    if final is not None and type(final) is not bool:
        raise invalid("payload.is_final", "a boolean", final)
    expected = _integer(given, "crc32", 0, 0xFFFF_FFFF)
    if expected is not None and (got := crc32(data)) != expected:
        raise refused(
            f"chunk {index} is damaged: its crc32 is {got}, not {expected}",
            chunk_index=index,
            expected=expected,
            got=got,
        )
    return Chunk(index, data, bool(final), _dataset_id(given))


def _transfer_id(given: dict[str, Any]) -> bytes:
    value = _binary(given, "transfer_id")
    if not 1 <= len(value) <= _MAX_ID:
        raise invalid("payload.transfer_id", f"a binary of 1 to {_MAX_ID} bytes", given["transfer_id"])
    return value


def _binary(given: dict[str, Any], name: str) -> bytes:
    value = given[name]
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    raise invalid(f"payload.{name}", "a binary", value)


def _integer(given: dict[str, Any], name: str, low: int, high: int) -> int | None:
    value = given.get(name)
    if value is None or (type(value) is int and low <= value <= high):
        return value
    raise invalid(f"payload.{name}", f"an integer from {low} to {high}", value)


def _one_of(given: dict[str, Any], name: str, allowed: list[str]) -> str | None:
    value = given.get(name)
    if value is None or str(value) in allowed:
        return None if value is None else str(value)
    raise invalid(f"payload.{name}", "one of " + ", ".join(f":{one}" for one in allowed), value)


def _sha256(given: dict[str, Any]) -> str | None:
    if given.get("sha256") is None:
        return None
    value = _binary(given, "sha256")
    if len(value) == 32:
        return value.hex()
    text = value.decode("latin-1").lower()
    return _check_id(text, "payload.sha256", "32 bytes or 64 hexadecimal digits", given["sha256"])


def _dataset_id(given: dict[str, Any]) -> str | None:
    value = given.get("dataset_id")
    return None if value is None else _check_id(value, "payload.dataset_id", "64 lower-case hexadecimal digits", value)


def _check_id(value: Any, path: str, expected: str, shown: object) -> str:
    from ..datasets.store import is_id

    if not is_id(value):
        raise invalid(path, expected, shown)
    return str(value)
