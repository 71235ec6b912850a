"""The types that a signature's fields may have, from what a client writes to what DSPy is given, and back.

Rule of this file: a type is one of the few in these tables or it is refused; nothing a client names is imported or
evaluated. Whoever holds a value asks its type to ``read`` it (a client's value as Python's) or to ``write`` it (a
value of DSPy's as a term); a value that does not fit raises :class:`Misfit`, which knows where and what, and the
caller says in which request or answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import GenericAlias
from typing import TYPE_CHECKING, Any, Literal, Optional, Protocol, get_args, get_origin

from ...refusals import show
from ...terms import Atom
from ...vocabulary import named

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_VALUE_DEPTH = 64  # of a value whose type does not say what is in it


class Misfit(Exception):
    """A value that is not what its type says: at ``path`` within the value, ``expected`` in words, ``got`` itself."""

    def __init__(self, expected: str, got: object) -> None:
        super().__init__(expected, got)
        self.path = ""
        self.expected = expected
        self.got = got


class FieldType(Protocol):
    """What every type can do. ``str(type)`` is its name in DSPy's notation, such as ``list[str]``."""

    @property
    def annotation(self) -> Any:
        """The Python type that DSPy is given."""

    @property
    def wire(self) -> Any:
        """The type as a term: ``:str``, ``{:list, :str}``, ``{:literal, [:yes, :no]}``."""

    @property
    def expected(self) -> str:
        """The type in the words of an error message."""

    def read(self, value: Any) -> Any:
        """A client's value as Python's."""

    def write(self, value: Any) -> Any:
        """A value of DSPy's as a term."""


@dataclass(frozen=True, slots=True)
class Plain:
    """A type without parts: ``fit`` returns the value as it is kept on either side, or raises ``TypeError``."""

    name: str
    annotation: Any
    fit: Callable[[Any], Any]

    def __str__(self) -> str:
        return "Any" if self.name == "any" else self.name

    @property
    def wire(self) -> Any:
        return Atom(self.name)

    @property
    def expected(self) -> str:
        return self.name

    def read(self, value: Any) -> Any:
        try:
            return self.fit(value)
        except (TypeError, OverflowError):
            raise Misfit(self.expected, value) from None

    write = read


def _str(value: Any) -> str:
    if isinstance(value, (str, Atom)):
        return str(value)
    raise TypeError


def _int(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise TypeError


def _float(value: Any) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise TypeError


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise TypeError


def _list(value: Any) -> Any:
    return plain_data(value) if isinstance(value, list) else _refuse()


def _dict(value: Any) -> Any:
    return plain_data(value) if isinstance(value, dict) else _refuse()


def _refuse() -> Any:
    raise TypeError


def plain_data(value: Any, depth: int = MAX_VALUE_DEPTH) -> Any:
    """The value as JSON could hold it: atoms as their text, tuples as lists; whatever is none of these stays."""
    if depth == 0 or (isinstance(value, float) and not math.isfinite(value)):
        raise TypeError
    if isinstance(value, Atom):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [plain_data(item, depth - 1) for item in value]
    if isinstance(value, dict):
        return {plain_data(key, depth - 1): plain_data(item, depth - 1) for key, item in value.items()}
    return value


STR = Plain("str", str, _str)
INT = Plain("int", int, _int)
FLOAT = Plain("float", float, _float)
BOOL = Plain("bool", bool, _bool)
LIST = Plain("list", list, _list)
DICT = Plain("dict", dict, _dict)
ANY = Plain("any", Any, plain_data)


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of the values that the client listed: atoms, strings or integers. Answers come back as the client's value."""

    values: tuple[Atom | str | int, ...]

    def __str__(self) -> str:
        return f"Literal[{', '.join(map(repr, self.plain))}]"

    @property
    def plain(self) -> tuple[str | int, ...]:
        return tuple(str(value) if isinstance(value, Atom) else value for value in self.values)

    @property
    def annotation(self) -> Any:
        return Literal[self.plain]

    @property
    def wire(self) -> Any:
        return Atom("literal"), list(self.values)

    @property
    def expected(self) -> str:
        return f"one of {', '.join(show(value) for value in self.values)}"

    def read(self, value: Any) -> str | int:
        plain = str(value) if isinstance(value, Atom) else value
        if isinstance(plain, (str, int)) and not isinstance(plain, bool) and plain in self.plain:
            return plain
        raise Misfit(self.expected, value)

    def write(self, value: Any) -> Any:
        return self.values[self.plain.index(self.read(value))]


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list whose items have one type."""

    item: FieldType

    def __str__(self) -> str:
        return f"list[{self.item}]"

    @property
    def annotation(self) -> Any:
        return GenericAlias(list, (self.item.annotation,))

    @property
    def wire(self) -> Any:
        return Atom("list"), self.item.wire

    @property
    def expected(self) -> str:
        return f"a list of {self.item.expected}"

    def read(self, value: Any) -> Any:
        return self._each(value, self.item.read)

    def write(self, value: Any) -> Any:
        return self._each(value, self.item.write)

    def _each(self, value: Any, convert: Callable[[Any], Any]) -> list[Any]:
        if not isinstance(value, list):
            raise Misfit(self.expected, value)
        return [at_step(f"[{index}]", convert, item) for index, item in enumerate(value)]


@dataclass(frozen=True, slots=True)
class DictOf:
    """A map whose keys (strings or integers) have one type and whose values another."""

    key: FieldType
    value: FieldType

    def __str__(self) -> str:
        return f"dict[{self.key}, {self.value}]"

    @property
    def annotation(self) -> Any:
        return GenericAlias(dict, (self.key.annotation, self.value.annotation))

    @property
    def wire(self) -> Any:
        return Atom("dict"), self.key.wire, self.value.wire

    @property
    def expected(self) -> str:
        return f"a map from {self.key.expected} to {self.value.expected}"

    def read(self, value: Any) -> Any:
        return self._each(value, self.key.read, self.value.read)

    def write(self, value: Any) -> Any:
        return self._each(value, self.key.write, self.value.write)

    def _each(self, value: Any, key: Callable[[Any], Any], convert: Callable[[Any], Any]) -> dict[Any, Any]:
        if not isinstance(value, dict):
            raise Misfit(self.expected, value)
        return {at_step(f".{name}", key, name): at_step(f".{name}", convert, item) for name, item in value.items()}


@dataclass(frozen=True, slots=True)
class Maybe:
    """A value of a type, or nil."""

    of: FieldType

    def __str__(self) -> str:
        return f"Optional[{self.of}]"

    @property
    def annotation(self) -> Any:
        return Optional[self.of.annotation]  # noqa: UP045 - the types are values here, and this spelling reads the same on 3.14

    @property
    def wire(self) -> Any:
        return Atom("optional"), self.of.wire

    @property
    def expected(self) -> str:
        return f"{self.of.expected} or nil"

    def read(self, value: Any) -> Any:
        return None if value is None else self._inner(self.of.read, value)

    def write(self, value: Any) -> Any:
        # Asked for a string or None, DSPy takes the model's None for a string.
        if value is None or (self.of is STR and value in ("None", "null")):
            return None
        return self._inner(self.of.write, value)

    def _inner(self, convert: Callable[[Any], Any], value: Any) -> Any:
        try:
            return convert(value)
        except Misfit as misfit:
            if not misfit.path:
                misfit.expected = self.expected
            raise


@dataclass(frozen=True, slots=True)
class Internal:
    """A type that a module of DSPy uses for a field of its own; as a term it is what JSON would make of it."""

    annotation: Any

    def __str__(self) -> str:
        return str(getattr(self.annotation, "__name__", self.annotation))

    @property
    def wire(self) -> Any:
        return Atom("any")

    @property
    def expected(self) -> str:
        return str(self)

    def read(self, value: Any) -> Any:
        from pydantic import TypeAdapter, ValidationError

        try:
            return TypeAdapter(self.annotation).validate_python(ANY.read(value))
        except ValidationError:
            if isinstance(value, str):
                return value  # what some of them are written as, for a prompt, and can only be shown again
            raise Misfit(self.expected, value) from None

    def write(self, value: Any) -> Any:
        from pydantic import TypeAdapter

        return ANY.read(TypeAdapter(self.annotation).dump_python(value, mode="json", fallback=str))


@dataclass(frozen=True, slots=True)
class Trajectory:
    """What an agent did, as a list with a map for each turn; DSPy's ReAct numbers the keys of one map instead."""

    annotation: Any = list

    def __str__(self) -> str:
        return "list"

    @property
    def wire(self) -> Any:
        return Atom("list")

    @property
    def expected(self) -> str:
        return "the turns of an agent"

    def read(self, value: Any) -> Any:
        return ANY.read(value)

    def write(self, value: Any) -> Any:
        if isinstance(value, list):
            return [named(plain_data(turn)) for turn in value]
        turns: dict[int, dict[str, Any]] = {}
        for key, item in value.items():
            name, _, number = key.rpartition("_")
            turns.setdefault(int(number), {})[name] = plain_data(item)
        return [named(turn) for _, turn in sorted(turns.items())]


def at_step(step: str, convert: Callable[[Any], Any], value: Any) -> Any:
    """``convert(value)``, with ``step`` put before the path of what does not fit."""
    try:
        return convert(value)
    except Misfit as misfit:
        misfit.path = step + misfit.path
        raise


TRAJECTORY = Trajectory()


# -- what goes where ---------------------------------------------------------------------------------------------


def fits(given: FieldType, wanted: FieldType) -> bool:
    """Whether every value of the type ``given`` is one of the type ``wanted``.

    >>> fits(ListOf(INT), ListOf(FLOAT)), fits(Maybe(STR), STR)
    (True, False)
    """
    if str(given) == str(wanted) or wanted == ANY or (given, wanted) == (INT, FLOAT):
        return True
    if isinstance(wanted, Maybe):
        return fits(given.of if isinstance(given, Maybe) else given, wanted.of)
    if isinstance(given, OneOf):
        if isinstance(wanted, OneOf):
            return set(given.plain) <= set(wanted.plain)
        return wanted in (STR, INT) and all(isinstance(value, wanted.annotation) for value in given.plain)
    if isinstance(given, ListOf):
        return wanted == LIST or (isinstance(wanted, ListOf) and fits(given.item, wanted.item))
    if isinstance(given, DictOf):
        return wanted == DICT or (
            isinstance(wanted, DictOf) and fits(given.key, wanted.key) and fits(given.value, wanted.value)
        )
    return False


# -- from DSPy's fields ------------------------------------------------------------------------------------------


def from_annotation(annotation: Any) -> FieldType:
    """The type of a field that a module of DSPy has for itself."""
    if annotation in (Any, str):
        return ANY  # DSPy gives texts other values, too, and shows them as text
    for plain in (INT, FLOAT, BOOL, LIST, DICT):
        if annotation is plain.annotation:
            return plain
    if get_origin(annotation) is Literal and all(type(value) in (str, int) for value in get_args(annotation)):
        return OneOf(get_args(annotation))
    return Internal(annotation)
