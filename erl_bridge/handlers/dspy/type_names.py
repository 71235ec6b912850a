"""The names that clients write types with: one table, and forms with parts.

Rule of this file: a type is in these tables or it is refused; nothing a client names is imported or evaluated.
``docs/protocol.md`` has the table for people.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ...errors import InvalidRequest
from ...refusals import invalid, unknown_key
from ...terms import Atom
from .field_types import ANY, BOOL, DICT, FLOAT, INT, LIST, STR, DictOf, ListOf, Maybe, OneOf
from .media_types import AUDIO, DATE, DATETIME, FILE, IMAGE, MESSAGES, TIME, CodeIn
from .names import checked_name
from .record_types import Part, RecordOf

if TYPE_CHECKING:
    from collections.abc import Callable

    from .field_types import FieldType

MAX_DEPTH = 16  # of a type
MAX_PARTS = 256  # of a record

NAMES: dict[str, FieldType] = {
    "str": STR,
    "string": STR,
    "int": INT,
    "integer": INT,
    "float": FLOAT,
    "bool": BOOL,
    "boolean": BOOL,
    "list": LIST,
    "dict": DICT,
    "map": DICT,
    "any": ANY,
    "date": DATE,
    "time": TIME,
    "datetime": DATETIME,
    "image": IMAGE,
    "audio": AUDIO,
    "file": FILE,
    "history": MESSAGES,
    "code": CodeIn("python"),
}
FORMS = "{:list, type}, {:dict, key, type}, {:map, fields}, {:optional, type}, {:literal, values}, {:code, language}"


def from_wire(value: Any, path: str, depth: int = MAX_DEPTH) -> FieldType:
    """The type that a term names: an atom, a string in DSPy's notation, or a tuple (or, after JSON, a list).

    Raises :class:`InvalidRequest`.

    >>> str(from_wire((Atom("list"), Atom("integer")), "payload.type"))
    'list[int]'
    """
    if isinstance(value, (Atom, str)) and str(value) in NAMES:
        return NAMES[str(value)]
    if isinstance(value, str):
        from .notation import parse_type

        return parse_type(value, path)
    if depth and isinstance(value, (tuple, list)) and value and isinstance(value[0], (Atom, str)):
        form = _FORMS.get((str(value[0]), len(value)))
        if form is not None:
            return form(*value[1:], path, depth - 1)
    raise invalid(path, f"a type ({', '.join(NAMES)}, {FORMS})", value)


def one_of(values: Any, path: str) -> OneOf:
    """The type with these values. Raises :class:`InvalidRequest` where they cannot be told apart in a prompt."""
    if not isinstance(values, list) or not values:
        raise invalid(path, "a list of atoms, strings or integers to choose from", values)
    seen: set[str] = set()
    for index, value in enumerate(values):
        if not isinstance(value, (Atom, str, int)) or isinstance(value, bool):
            raise invalid(f"{path}[{index}]", "an atom, a string or an integer", value)
        if str(value) in seen:
            raise invalid(f"{path}[{index}]", "values that read differently", value)
        seen.add(str(value))
    return OneOf(tuple(values))


def dict_of(key: FieldType, value: FieldType, path: str) -> DictOf:
    """The type of maps from ``key`` to ``value``. Raises :class:`InvalidRequest` for a key that JSON cannot hold."""
    if key not in (STR, INT):
        raise invalid(path, "str or int as the type of a map's keys", Atom(str(key)))
    return DictOf(key, value)


def _list_form(item: Any, path: str, depth: int) -> FieldType:
    return ListOf(from_wire(item, path, depth))


def _optional_form(of: Any, path: str, depth: int) -> FieldType:
    return Maybe(from_wire(of, path, depth))


def _dict_form(key: Any, value: Any, path: str, depth: int) -> FieldType:
    return dict_of(from_wire(key, path, depth), from_wire(value, path, depth), path)


def _literal_form(values: Any, path: str, depth: int) -> FieldType:
    return one_of(values, path)


def _map_form(fields: Any, path: str, depth: int) -> FieldType:
    if not isinstance(fields, list) or not 1 <= len(fields) <= MAX_PARTS:
        raise invalid(path, f"a list of 1 to {MAX_PARTS} fields", fields)
    return record_of([_read_part(field, f"{path}[{index}]", depth) for index, field in enumerate(fields)], path)


def _read_part(value: Any, path: str, depth: int) -> Part:
    """A field of a record: as in a signature, or a pair of its name and its type."""
    if isinstance(value, (tuple, list)) and len(value) == 2:
        value = {"name": value[0], "type": value[1]}
    if not isinstance(value, dict):
        raise invalid(path, "a field, a map of name, type and description", value)
    given = {str(key): item for key, item in value.items()}
    for key in given:
        if key not in _PART_KEYS:
            raise unknown_key(path, key, _PART_KEYS)
    label, description = given.get("name"), given.get("description")
    if not isinstance(label, (Atom, str)):
        raise invalid(f"{path}.name", "an atom or a string", label)
    if description is not None and not isinstance(description, str):
        raise invalid(f"{path}.description", "a string", description)
    return Part(str(label), label, from_wire(given.get("type", "str"), f"{path}.type", depth), description)


_PART_KEYS = ["name", "type", "description"]


def record_of(parts: list[Part], path: str) -> RecordOf:
    """The type of maps with these fields. Raises :class:`InvalidRequest` for names that cannot be."""
    names: set[str] = set()
    for part in parts:
        checked_name(part.name, path, "field", _taken_by_pydantic())
        if part.name in names:
            raise InvalidRequest(f"{path}: the field {part.name} is there twice", context={Atom("path"): path})
        names.add(part.name)
    return RecordOf(tuple(parts))


def _taken_by_pydantic() -> frozenset[str]:
    from pydantic import BaseModel

    return frozenset(name for name in dir(BaseModel) if name.startswith("model_"))


def _code_form(language: Any, path: str, depth: int) -> FieldType:
    if not isinstance(language, (Atom, str)) or not _LANGUAGE.fullmatch(str(language)):
        raise invalid(path, "the name of a programming language", language)
    return CodeIn(str(language))


_LANGUAGE = re.compile(r"[A-Za-z][A-Za-z0-9+#_.-]{0,31}")
_FORMS: dict[tuple[str, int], Callable[..., FieldType]] = {
    ("list", 2): _list_form,
    ("optional", 2): _optional_form,
    ("dict", 3): _dict_form,
    ("literal", 2): _literal_form,
    ("map", 2): _map_form,
    ("code", 2): _code_form,
}
