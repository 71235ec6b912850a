"""Elixir's structs that Python has types of its own for, both ways.

``DateTime``, ``NaiveDateTime``, ``Date`` and ``Time`` are in ``times``, ``Decimal`` in ``decimals``, ``MapSet`` and
``Range`` here. Modules and what they import are loaded when the first such struct is met.

Rule of this file and those two: a struct becomes a Python value only if that value gives back exactly the same struct.
Otherwise (another calendar, a leap second, an element that Python cannot hash) it stays a ``dict`` with its
``__struct__``, and nothing is lost.
"""

from __future__ import annotations

from ..terms import Atom

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    Fields: TypeAlias = dict[Any, Any]
    Reader: TypeAlias = Callable[[Fields], Any]  # None where the struct must stay what it is
    _Set = set[Any]
else:
    _Set = set

STRUCT = Atom("__struct__")
MAP_SET, RANGE = Atom("Elixir.MapSet"), Atom("Elixir.Range")
FIRST, LAST, STEP = Atom("first"), Atom("last"), Atom("step")
MAP, VERSION = Atom("map"), Atom("version")


def from_fields(fields: Fields) -> Any:
    """The Python value for the struct with these fields, or the same ``fields`` where there is none without loss."""
    name = fields[STRUCT]
    if type(name) is not Atom:
        return fields
    reader = _READERS.get(name) or _load(name)
    value = reader(fields) if reader is not None else None
    return fields if value is None else value


def stand_in_of(kind: type) -> Callable[[Any], Fields] | None:
    """What turns a value of exactly this type into the fields of its struct; it raises ValueError with the reason."""
    if kind.__module__ == "datetime":
        from .times import STAND_INS

        return STAND_INS.get(kind)
    if kind.__module__ == "decimal":
        from .decimals import STAND_INS

        return STAND_INS.get(kind)
    return _STAND_INS.get(kind)


def _load(name: Atom) -> Reader | None:
    if name in _TIMES:
        from .times import READERS

        _READERS.update(READERS)
    elif name is _DECIMAL:
        from .decimals import READERS

        _READERS.update(READERS)
    return _READERS.get(name)


_TIMES = {Atom("Elixir.DateTime"), Atom("Elixir.NaiveDateTime"), Atom("Elixir.Date"), Atom("Elixir.Time")}
_DECIMAL = Atom("Elixir.Decimal")


# -- MapSet ----------------------------------------------------------------------------------------------------


class MapSet(_Set):
    """The ``MapSet`` of an Elixir before 1.15, with a field ``version: 2``. It is a ``set`` and goes back as it came.

    Newer ones have no such field, and are plain sets.
    """

    __slots__ = ()


_FIELDS_OF_MAP_SET = {STRUCT, MAP}
_FIELDS_OF_OLD_MAP_SET = {STRUCT, MAP, VERSION}


def _read_map_set(fields: Fields) -> set[Any] | None:
    elements = fields.get(MAP)
    if type(elements) is not dict or not all(type(value) is list and not value for value in elements.values()):
        return None
    if fields.keys() == _FIELDS_OF_MAP_SET:
        return set(elements)
    if fields.keys() == _FIELDS_OF_OLD_MAP_SET and fields[VERSION] == 2 and type(fields[VERSION]) is int:
        return MapSet(elements)
    return None


def _of_set(value: set[Any] | frozenset[Any]) -> Fields:
    return {STRUCT: MAP_SET, MAP: {element: [] for element in value}}


def _of_map_set(value: MapSet) -> Fields:
    return {**_of_set(value), VERSION: 2}


# -- Range -----------------------------------------------------------------------------------------------------

_FIELDS_OF_RANGE = {STRUCT, FIRST, LAST, STEP}


def _read_range(fields: Fields) -> range | None:
    if fields.keys() != _FIELDS_OF_RANGE:
        return None
    first, last, step = fields[FIRST], fields[LAST], fields[STEP]
    if not (type(first) is type(last) is type(step) is int) or step == 0:
        return None
    return range(first, last + (1 if step > 0 else -1), step)  # Elixir counts the last number in, Python does not


def _of_range(value: range) -> Fields:
    last = value.stop - (1 if value.step > 0 else -1)
    return {STRUCT: RANGE, FIRST: value.start, LAST: last, STEP: value.step}


_READERS: dict[Atom, Reader] = {MAP_SET: _read_map_set, RANGE: _read_range}
_STAND_INS: dict[type, Callable[[Any], Fields]] = {
    set: _of_set,
    frozenset: _of_set,
    MapSet: _of_map_set,
    range: _of_range,
}
