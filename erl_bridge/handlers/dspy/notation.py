"""DSPy's own notation, ``"question, context: list[str] -> answer: float"``, parsed here.

Rule of this file: DSPy's parser imports the modules that a signature names, so it never sees one. What is no type of
:mod:`.type_names` is refused with the place in the text.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ...errors import InvalidRequest
from ...terms import Atom
from .field_types import ANY, ListOf, Maybe
from .media_types import AUDIO, FILE, IMAGE, MESSAGES, CodeIn
from .record_types import Part
from .type_names import MAX_DEPTH, NAMES, dict_of, one_of, record_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from .field_types import FieldType

    Fields = list[tuple[str, FieldType]]

_TOKEN = re.compile(
    r"\s*(?:(?P<word>[A-Za-z_]\w*)|(?P<number>-?\d{1,18}(?!\w))|(?P<text>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")"
    r"|(?P<sign>->|[\[\]{},:|]))"
)
_ESCAPE = re.compile(r"\\(['\"\\])")
_TYPES = {**NAMES, "Any": ANY, "Image": IMAGE, "Audio": AUDIO, "File": FILE, "History": MESSAGES, "Code": NAMES["code"]}
_NONE = ("None", "NoneType")
_WITH_PARTS = "list[T], dict[K, V], Optional[T], Literal[...], Code[...], {name: T}"


def parse_signature(text: str, path: str) -> tuple[Fields, Fields]:
    """The input and the output fields of a signature, as pairs of name and type.

    Raises :class:`InvalidRequest`.

    >>> [(name, str(kind)) for name, kind in parse_signature("q, context: list[str] -> a: float", "")[0]]
    [('q', 'str'), ('context', 'list[str]')]
    """
    parser = _Parser(text, path)
    inputs = parser.fields()
    parser.take("->")
    outputs = parser.fields()
    parser.end()
    return inputs, outputs


def parse_fields(text: str, path: str) -> Fields:
    """A list of fields, ``"query, limit: int | None"``. Raises :class:`InvalidRequest`."""
    parser = _Parser(text, path)
    fields = parser.fields()
    parser.end()
    return fields


def parse_type(text: str, path: str) -> FieldType:
    """The type that ``text`` names. Raises :class:`InvalidRequest`.

    >>> str(parse_type("dict[str, int] | None", "payload.type"))
    'Optional[dict[str, int]]'
    """
    parser = _Parser(text, path)
    kind = parser.type(MAX_DEPTH)
    parser.end()
    return kind


class _Parser:
    """A cursor over the tokens of one text."""

    def __init__(self, text: str, path: str) -> None:
        self._text = text
        self._path = path
        self._at = 0  # where the next token is looked for
        self._start = 0  # where the token in hand begins
        self._kind = ""
        self._token = ""
        self._next()

    def fields(self) -> Fields:
        """``name[: type], name[: type], …``"""
        found = [self._field()]
        while self._token == ",":
            self._next()
            found.append(self._field())
        return found

    def take(self, sign: str) -> None:
        if self._token != sign or self._kind != "sign":
            raise self._expected(f'"{sign}"' if sign != "->" else '"->" between inputs and outputs')
        self._next()

    def end(self) -> None:
        if self._kind != "end":
            raise self._expected("nothing more")

    def type(self, depth: int) -> FieldType:
        """``one_type | None``"""
        kind = self._one_type(depth)
        nothing = kind is None
        while self._token == "|":
            self._next()
            other = self._one_type(depth)
            if other is not None and kind is not None:
                raise self._refuse("a union of two types; only a type and None can be joined")
            nothing, kind = nothing or other is None, kind or other
        if kind is None:
            raise self._expected("a type beside None")
        return Maybe(kind) if nothing else kind

    def _field(self, depth: int = MAX_DEPTH) -> tuple[str, FieldType]:
        if self._kind != "word":
            raise self._expected("a field name")
        name = self._token
        self._next()
        if self._token != ":":
            return name, NAMES["str"]
        self._next()
        return name, self.type(depth)

    def _one_type(self, depth: int) -> FieldType | None:
        """A type, or None where the text says None."""
        name = self._token
        if name == "{" and self._kind == "sign" and depth:
            return self._record(depth)
        if self._kind != "word" or (name not in _TYPES and name not in _FORMS and name not in _NONE):
            raise self._expected(f"a type ({', '.join(_TYPES)}, {_WITH_PARTS})")
        if depth == 0:
            raise self._refuse(f"types nested deeper than {MAX_DEPTH}")
        self._next()
        if name in _FORMS and self._token == "[":
            self._next()
            kind = _FORMS[name](self, depth - 1)
            self.take("]")
            return kind
        if name in _NONE:
            return None
        if name not in _TYPES:
            raise self._expected(f'"[" after {name}')
        return _TYPES[name]

    # -- what may stand before brackets

    def _list(self, depth: int) -> FieldType:
        return ListOf(self.type(depth))

    def _dict(self, depth: int) -> FieldType:
        key = self.type(depth)
        self.take(",")
        return dict_of(key, self.type(depth), self._path)

    def _optional(self, depth: int) -> FieldType:
        return Maybe(self.type(depth))

    def _literal(self, depth: int) -> FieldType:
        values = [self._value()]
        while self._token == "," and self._kind == "sign":
            self._next()
            values.append(self._value())
        return one_of(values, self._path)

    def _code(self, depth: int) -> FieldType:
        if self._kind not in ("text", "word"):
            raise self._expected("the name of a programming language")
        language = self._token[1:-1] if self._kind == "text" else self._token
        self._next()
        return CodeIn(language)

    def _record(self, depth: int) -> FieldType:
        """``{name: type, …}``: a map with these fields."""
        self._next()
        fields = [self._field(depth - 1)]
        while self._token == ",":
            self._next()
            fields.append(self._field(depth - 1))
        self.take("}")
        return record_of([Part(name, name, kind) for name, kind in fields], self._path)

    def _value(self) -> str | int:
        if self._kind not in ("text", "number"):
            raise self._expected("a quoted string or an integer")
        value = _ESCAPE.sub(r"\1", self._token[1:-1]) if self._kind == "text" else int(self._token)
        self._next()
        return value

    # -- tokens

    def _next(self) -> None:
        match = _TOKEN.match(self._text, self._at)
        if match is not None:
            self._kind = str(match.lastgroup)
            self._token, self._start, self._at = match[self._kind], match.start(self._kind), match.end()
            return
        rest = self._text[self._at :].lstrip()
        self._kind, self._token, self._start = "unknown" if rest else "end", rest[:20], len(self._text) - len(rest)

    def _expected(self, what: str) -> InvalidRequest:
        found = f'"{self._token}"' if self._token else "the end"
        return InvalidRequest(
            f'{self._path}: expected {what}, got {found} at character {self._start + 1} of "{self._text[:200]}"',
            context={Atom("path"): self._path, Atom("expected"): what, Atom("got"): found},
        )

    def _refuse(self, what: str) -> InvalidRequest:
        return InvalidRequest(f'{self._path}: "{self._text[:200]}" holds {what}', context={Atom("path"): self._path})


_FORMS: dict[str, Callable[[_Parser, int], FieldType]] = {
    "list": _Parser._list,
    "dict": _Parser._dict,
    "Optional": _Parser._optional,
    "Literal": _Parser._literal,
    "Code": _Parser._code,
}
