"""A file as frames: what ``python -m erl_bridge read`` writes. ``docs/protocol.md`` has the messages.

Rule of this file: what is wrong is a frame too, and never more than a batch of rows is held.
"""

from __future__ import annotations

from .. import etf
from ..error_map import error_map, from_exception
from ..framing import pack
from ..terms import Atom
from .formats import format_of, is_document, read_document, read_rows
from .source import refuse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from .formats import Row
    from .source import Limits

BATCH = 256 * 1024  # bytes of the file; a larger row is a batch by itself
_OK, _CHUNK, _DONE, _ERROR = (Atom(name) for name in ("ok", "chunk", "done", "error"))


def frames(path: str, format: str | None, limits: Limits) -> Iterator[bytes]:
    """The frames that tell of a file: the last one is ``{:ok, term}``, ``{:done, rows}`` or ``{:error, map}``."""
    try:
        format = format or format_of(path)
        if is_document(format):
            yield _document_frame(path, read_document(path, format, limits))
        else:
            yield from _row_frames(path, read_rows(path, format, limits))
    except Exception as error:
        yield pack(etf.encode((_ERROR, error_map(from_exception(error)))))


def _row_frames(path: str, rows: Iterator[Row]) -> Iterator[bytes]:
    done = 0
    for batch in _batches(rows):
        yield _batch_frame(path, batch)
        done += len(batch)
    yield pack(etf.encode((_DONE, done)))


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += row.size
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _batch_frame(path: str, batch: list[Row]) -> bytes:
    try:
        return pack(etf.encode((_CHUNK, [row.value for row in batch])))
    except etf.EncodeError:
        for row in batch:
            _encode(row.value, path, row.line)
        raise


def _document_frame(path: str, document: Any) -> bytes:
    return pack(_encode((_OK, document), path))


def _encode(term: Any, path: str, line: int | None = None) -> bytes:
    """The term, or the error that says where in the file a value is that no term can hold."""
    try:
        return etf.encode(term, root="value")
    except etf.EncodeError as error:
        raise refuse(path, error.message, line) from None


def write(path: str, format: str | None, limits: Limits, send: Callable[[bytes], bool]) -> bool:
    """Send the frames of a file one by one, until ``send`` says no; whether the file was read to its end."""
    return all(send(frame) for frame in frames(path, format, limits))
