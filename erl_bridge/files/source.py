"""Bytes of a file, bounded, as text; and the errors that tell where in it something is wrong.

Rule of this file: it knows lines and limits and no format.
"""

from __future__ import annotations

import os
from codecs import BOM_UTF8

from ..errors import InvalidRequest
from ..terms import Atom
from ..values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

MAX_FILE = 64 * 1024 * 1024
MAX_ROW = 16 * 1024 * 1024


class Limits(Value):
    """``max_file``: bytes of a file that is read whole. ``max_row``: bytes of a row, also one of several lines."""

    __slots__ = ("max_file", "max_row")
    max_file: int
    max_row: int

    def __init__(self, max_file: int = MAX_FILE, max_row: int = MAX_ROW) -> None:
        self._set(max_file=max_file, max_row=max_row)


def refuse(path: str, what: str, line: int | None = None, column: int | None = None) -> InvalidRequest:
    """The error for a file that cannot be read; ``line`` and ``column`` count from 1.

    >>> refuse("/data/rows.csv", "the cell is not closed", 3, 5).message
    'rows.csv, line 3, column 5: the cell is not closed'
    """
    place = {"line": line, "column": column}
    known = {name: number for name, number in place.items() if number is not None}
    where = "".join(f", {name} {number}" for name, number in known.items())
    return InvalidRequest(
        f"{os.path.basename(path) or path}{where}: {what}",
        context={Atom("path"): path, **{Atom(name): number for name, number in known.items()}},
    )


def open_file(path: str) -> BinaryIO:
    """The file, open for reading. Raises :class:`InvalidRequest` that says why it cannot be."""
    try:
        return open(path, "rb")
    except OSError as error:
        raise _unreadable(path, error) from None
    except ValueError:
        raise refuse(path, f"{path!r} is not a path: it holds a null byte") from None


_REASONS = {
    FileNotFoundError: "there is no such file",
    NotADirectoryError: "there is no such file",
    IsADirectoryError: "expected a file, got a folder",
    PermissionError: "no permission to read it",
}


def _unreadable(path: str, error: OSError) -> InvalidRequest:
    reason = _REASONS.get(type(error), f"it cannot be read: {error.strerror}")
    return refuse(path, f"{reason} ({path})")


def read_text(path: str, limit: int) -> str:
    """The whole file as text. Raises :class:`InvalidRequest`, also for a file over ``limit`` bytes."""
    with open_file(path) as file:
        try:
            data = file.read(limit + 1)
        except OSError as error:
            raise _unreadable(path, error) from None
    if len(data) > limit:
        raise refuse(path, f"the file is over the limit of {limit} bytes; raise --max-file, or use JSON Lines or CSV")
    return _decode(path, data.removeprefix(BOM_UTF8), line=1)


def _decode(path: str, data: bytes, line: int) -> str:
    """The text of ``data``, which begins at ``line``."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start]
        column = error.start - (before.rfind(b"\n") + 1) + 1
        what = f"byte 0x{data[error.start]:02x} is not valid UTF-8; save the file as UTF-8"
        raise refuse(path, what, line + before.count(b"\n"), column) from None


class Lines:
    """The lines of a file as text, each with its end. A row takes as many of them as it needs.

    ``number`` is that of the last line given, and ``taken`` the bytes since :meth:`begin_row`. Raises
    :class:`InvalidRequest` once a row takes more than ``limit`` bytes.
    """

    def __init__(self, path: str, file: BinaryIO, limit: int) -> None:
        self.path = path
        self.number = 0
        self.taken = 0
        self._file = file
        self.limit = limit

    def begin_row(self) -> None:
        """The next line belongs to a new row."""
        self.taken = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            data = self._file.readline(self.limit - self.taken + 1)
        except OSError as error:
            raise _unreadable(self.path, error) from None
        if not data:
            raise StopIteration
        self.number += 1
        self.taken += len(data)
        if self.taken > self.limit:
            raise self.refuse(f"the row is over the limit of {self.limit} bytes; raise --max-row")
        return _decode(self.path, data.removeprefix(BOM_UTF8) if self.number == 1 else data, self.number)

    def refuse(self, what: str, line: int | None = None, column: int | None = None) -> InvalidRequest:
        """The error for what is wrong with ``line``, the last one unless told."""
        return refuse(self.path, what, line or self.number, column)
