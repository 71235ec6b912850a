"""The formats: what reads each of them, and which files are of which.

Rule of this file: one table says what formats there are. A document is read from a text, rows from lines.
"""

from __future__ import annotations

import csv
import os

from ..values import Value
from . import json_text
from .source import Limits, Lines, open_file, read_text, refuse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any


class Row(Value):
    """A row, the line it begins at, and how many bytes of the file it takes."""

    __slots__ = ("value", "line", "size")
    value: Any
    line: int
    size: int

    def __init__(self, value: Any, line: int, size: int) -> None:
        self._set(value=value, line=line, size=size)


def format_of(path: str) -> str:
    """The format that the name of a file tells. Raises :class:`InvalidRequest` for any other name.

    >>> format_of("/data/train.jsonl")
    'jsonl'
    """
    extension = os.path.splitext(path)[1].lower()
    if extension not in _EXTENSIONS:
        known = ", ".join(_EXTENSIONS)
        raise refuse(path, f"the name does not end in one of {known}; say the format with --format")
    return _EXTENSIONS[extension]


def read_document(path: str, format: str, limits: Limits) -> Any:
    """The content of a YAML or JSON file. Raises :class:`InvalidRequest` with the place of what is wrong."""
    return _DOCUMENTS[format](path, read_text(path, limits.max_file))


def read_rows(path: str, format: str, limits: Limits) -> Iterator[Row]:
    """The rows of a JSON Lines or CSV file, one by one. Raises as :func:`read_document` does."""
    with open_file(path) as file:
        yield from _ROWS[format](Lines(path, file, limits.max_row))


def is_document(format: str) -> bool:
    """Whether the format is read whole."""
    return format in _DOCUMENTS


def _yaml(path: str, text: str) -> Any:
    from . import yaml_text  # 20 ms to import, and only needed for this format

    try:
        return yaml_text.parse(text)
    except yaml_text.YamlError as error:
        raise refuse(path, error.what, error.line, error.column) from None


def _json(path: str, text: str) -> Any:
    try:
        return json_text.parse(text)
    except json_text.JsonError as error:
        before = text[: error.position]
        raise refuse(path, error.what, before.count("\n") + 1, error.position - before.rfind("\n")) from None


def _json_lines(lines: Lines) -> Iterator[Row]:
    for text in _each_row(lines):
        if text.isspace():
            continue
        try:
            value = json_text.parse(text.rstrip())
        except json_text.JsonError as error:
            raise lines.refuse(error.what, column=error.position + 1) from None
        yield Row(value, lines.number, lines.taken)


def _each_row(lines: Lines) -> Iterator[str]:
    """The lines, each as a row of its own."""
    while True:
        lines.begin_row()
        text = next(lines, None)
        if text is None:
            return
        yield text


def _csv(lines: Lines) -> Iterator[Row]:
    """Rows under the names of the header; a cell may hold line breaks, so a row may take several lines."""
    records = _csv_records(lines)
    header, line, _ = next(records, ([], 1, 0))
    if not header:
        raise refuse(lines.path, "expected a header with the names of the columns, got an empty file")
    _check_header(header, lines, line)
    for cells, line, size in records:
        if len(cells) != len(header):
            what = f"the row has {_counted(len(cells), 'cell')} where the header has {len(header)}"
            raise lines.refuse(what, line)
        yield Row(dict(zip(header, cells, strict=True)), line, size)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _check_header(header: list[str], lines: Lines, line: int) -> None:
    for index, name in enumerate(header):
        if not name:
            raise lines.refuse(f"the header has no name for column {index + 1}", line)
        if name in header[:index]:
            raise lines.refuse(f'the header has the name "{name}" twice', line)


def _csv_records(lines: Lines) -> Iterator[tuple[list[str], int, int]]:
    """The records that are not empty, each with the line it begins at and its bytes."""
    csv.field_size_limit(max(lines.limit, csv.field_size_limit()))
    reader = csv.reader(lines, strict=True)
    while True:
        lines.begin_row()
        line = lines.number + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise lines.refuse(_CSV_ERRORS.get(str(error), f"not valid CSV: {error}"), line) from None
        if cells is None:
            return
        if cells:
            yield cells, line, lines.taken


_CSV_ERRORS = {
    "unexpected end of data": "a cell that begins with a quote is not closed before the end of the file",
    "',' expected after '\"'": 'not valid CSV: a quote within a cell in quotes is written as two quotes ("")',
}

_DOCUMENTS: dict[str, Callable[[str, str], Any]] = {"yaml": _yaml, "json": _json}
_ROWS: dict[str, Callable[[Lines], Iterator[Row]]] = {"jsonl": _json_lines, "csv": _csv}
FORMATS = (*_DOCUMENTS, *_ROWS)
_EXTENSIONS = {".yaml": "yaml", ".yml": "yaml", ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}
