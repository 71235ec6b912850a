"""The values of BERT 1.0, both ways. Source: http://bert-rpc.org, and what the clients of its time really send.

Rule of this file: every term may come in; out go only the tags that BERT allows, 97 to 100 and 104 to 111, and its own
tuples for ``nil``, booleans, dictionaries and times. What cannot be said so is refused with the path to it.
"""

from __future__ import annotations

from struct import Struct

from .. import etf
from ..etf.encoder import REFUSED, noted_stand_in
from ..etf.maps import BadMap, make_map
from ..etf.structs import STRUCT, from_fields
from ..refusals import show
from ..terms import Atom, ImproperList, TermMap, identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Container, Iterable
    from typing import Any

MAX_DEPTH = 400  # containers within containers; a dictionary is three: its tuple, its list, a pair
LIMITS = etf.Limits(max_depth=MAX_DEPTH)

BERT, DICT, TIME, REGEX, STRING = (Atom(name) for name in ("bert", "dict", "time", "regex", "string"))


class BadBert(Exception):
    """A tuple ``{bert, ...}`` that means nothing; the message shows it."""


# -- values: what BERT says in tuples --------------------------------------------------------------------------


def understood(term: Any, atoms: Container[Atom]) -> Any:
    """``term`` with BERT's tuples replaced by what they stand for. ``atoms`` are the atoms in it.

    Raises :class:`BadBert` for a tuple ``{bert, ...}`` that means nothing. A regex stays the tuple it is: see
    :func:`pattern`.

    >>> understood({"a": (BERT, None), "b": (BERT, DICT, [("k", (BERT, True))])}, {BERT})
    {'a': None, 'b': {'k': True}}
    """
    if BERT not in atoms:
        return term
    try:
        return _understood(term)
    except BadMap as error:
        raise BadBert(f"expected {error.expected}, got {error.got}") from None


def _understood(term: Any) -> Any:
    kind = type(term)
    if kind is tuple:
        if term and term[0] is BERT:
            return _complex(term)
        return term if _flat(term) else tuple(map(_understood, term))
    if kind is list:
        return term if _flat(term) else list(map(_understood, term))
    if kind is dict or kind is TermMap:
        return _map([half for pair in term.items() for half in pair])
    if kind is ImproperList:
        return ImproperList(map(_understood, term.items), _understood(term.tail))
    return term


def _flat(terms: Iterable[Any]) -> bool:
    return _CONTAINERS.isdisjoint(map(type, terms))


_CONTAINERS = {tuple, list, dict, TermMap, ImproperList}
_PLAIN_KEYS = {str, Atom, int}


def _map(halves: list[Any]) -> Any:
    halves = halves if _flat(halves) else list(map(_understood, halves))
    plain = _PLAIN_KEYS.issuperset(map(type, halves[::2]))
    made = make_map(halves, LIMITS.max_collisions, plain=plain)
    return from_fields(made) if type(made) is dict and STRUCT in made else made


def _complex(term: tuple[Any, ...]) -> Any:
    name = term[1] if len(term) > 1 else ""
    if len(term) == 2 and (name is None or name is True or name is False):
        return name
    reader = _COMPLEX.get(name) if isinstance(name, Atom) else None
    if reader is not None:
        try:
            return reader(*term[2:])
        except (TypeError, ValueError, OverflowError):
            pass
    raise BadBert(f"expected a complex type of BERT, got {show(term)}")


def _read_dict(pairs: list[Any]) -> Any:
    halves: list[Any] = []
    for pair in _listed(pairs):
        if type(pair) not in _PAIRS or len(pair) != 2:
            raise ValueError
        halves += pair
    return _map(halves)


_PAIRS = {tuple, list}


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError
    return value


def _read_time(megaseconds: int, seconds: int, microseconds: int) -> Any:
    from datetime import UTC, datetime, timedelta

    if not type(megaseconds) is type(seconds) is type(microseconds) is int:
        raise TypeError
    since = timedelta(seconds=megaseconds * 1_000_000 + seconds, microseconds=microseconds)
    return datetime(1970, 1, 1, tzinfo=UTC) + since


def _read_regex(source: Any, options: Any) -> Any:
    term = (BERT, REGEX, source, list(options))  # python-bert has a tuple there
    pattern(term)
    return term


def _read_string(_encoding: Any, text: Any) -> Any:  # python-bert's own, for text that is not ASCII
    if not isinstance(text, (str, bytes)):
        raise TypeError
    return text


_COMPLEX: dict[Atom, Callable[..., Any]] = {
    DICT: _read_dict,
    TIME: _read_time,
    REGEX: _read_regex,
    STRING: _read_string,
}

_FLAGS = {"caseless": "I", "extended": "X", "multiline": "M", "dotall": "S"}
_WITHOUT_FLAG = {"unicode", "ucp", "dollar_endonly"}  # what Python's patterns do unasked, or nearly


def pattern(term: Any) -> re.Pattern[str]:
    """The pattern that ``{bert, regex, source, options}`` is. Raises ValueError for one that Python cannot make.

    >>> pattern((BERT, REGEX, "^c(a*)t$", [Atom("caseless")])).match("CAAT")[1]
    'AA'
    """
    import re

    _, _, source, options = term
    flags = 0
    for option in options:
        name = str(option)
        if name not in _FLAGS and name not in _WITHOUT_FLAG:
            raise ValueError(f"Python's patterns have no option {name}")
        flags |= getattr(re, _FLAGS.get(name, "NOFLAG"))
    try:
        return re.compile(source if isinstance(source, str) else source.decode(), flags)
    except (re.error, AttributeError, RecursionError) as error:
        raise ValueError(f"no pattern: {error}") from None


# -- values to bytes -------------------------------------------------------------------------------------------

_pack_size = Struct(">BI").pack
_pack_u16 = Struct(">H").pack
_SMALL_INTEGERS = [bytes((97, value)) for value in range(256)]
_BIG = 1 << 31
_INFINITY = float("inf")
_PAIR, _END = b"h\2", b"j"
_KEY = object()  # in the place of a key: what is refused is the key itself
_TAG_BERT = b"d\0\4bert"
_CONSTANTS = {value: b"h\2" + _TAG_BERT + b"d\0%c%b" % (len(name), name) for name, value in (
    (b"nil", None), (b"true", True), (b"false", False))}  # fmt: skip
_DICT_HEAD = b"h\3" + _TAG_BERT + b"d\0\4dict"
_TIME_HEAD = b"h\5" + _TAG_BERT + b"d\0\4time"
_REGEX_SIZE = 4


class Either:
    """The atoms of two sets, without the time that it takes to unite them."""

    __slots__ = ("_first", "_second")

    def __init__(self, first: Container[Atom], second: Container[Atom]) -> None:
        self._first = first
        self._second = second

    def __contains__(self, atom: object) -> bool:
        return atom in self._first or atom in self._second


class _Refused(Exception):
    """What is refused and why; the path to it grows while the containers around it are left."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(what, reason)
        self.what = what
        self.reason = reason
        self.path: list[str] = []


def encode(term: Any, atoms: Container[Atom], *, root: str = "result", head: bytes = b"\x83", depth: int = 0) -> bytes:
    """``head`` and the external form of ``term``, in the tags that BERT allows. ``atoms``: those that may be sent.

    Raises :class:`erl_bridge.etf.EncodeError`, with the path.

    >>> encode([None, 1.5, {"a": Atom("b")}], {Atom("b")}).hex(" ", -4)[:35]
    '836c0000 00036802 64000462 65727464'
    >>> encode({"score": float("nan")}, ())
    Traceback (most recent call last):
    erl_bridge.etf.errors.EncodeError: cannot encode float nan at result.score: floats of the BEAM are finite
    """
    parts = [head]
    try:
        _write(type(term), term, parts.append, atoms, depth)
    except _Refused as refused:
        raise etf.EncodeError(refused.what, root + "".join(reversed(refused.path)), refused.reason) from None
    return b"".join(parts)


def _write(kind: type, value: Any, append: Callable[[bytes], object], atoms: Container[Atom], depth: int) -> None:
    leaf = _LEAVES.get(kind)
    if leaf is not None:
        append(leaf(value, atoms))
        return
    if depth >= MAX_DEPTH:
        raise _Refused("a container", f"it is nested more than {MAX_DEPTH} deep, or it holds itself")
    where: Any = None
    try:
        if kind is dict or kind is TermMap:
            append(_map_head(value))
            for key, item in value.items():
                append(_PAIR)
                where = _KEY
                leaf = _LEAVES.get(type(key))
                append(leaf(key, atoms)) if leaf else _write(type(key), key, append, atoms, depth + 1)
                where = key
                leaf = _LEAVES.get(type(item))
                append(leaf(item, atoms)) if leaf else _write(type(item), item, append, atoms, depth + 1)
            append(_END)
        elif kind in _SEQUENCES:
            opening, items, closing = _SEQUENCES[kind](value)
            append(opening)
            where = 0
            for item in items:
                leaf = _LEAVES.get(type(item))
                append(leaf(item, atoms)) if leaf else _write(type(item), item, append, atoms, depth + 1)
                where += 1
            append(closing)
        else:
            _write(*_stand_in(kind, value), append, atoms, depth + 1)
    except _Refused as refused:
        refused.path.append(_segment(kind, where))
        raise


def _segment(kind: type, where: Any) -> str:
    if where is None or where is _KEY:
        return "" if where is None else ".keys()"
    if kind is not dict and kind is not TermMap:
        return f"[{where}]"
    return f".{where}" if isinstance(where, (str, Atom)) and str(where).isidentifier() else f"[{show(where, 40)}]"


def _stand_in(kind: type, value: Any) -> tuple[type, Any]:
    """What a value of another type is written as. Other than the codec's own: a moment is BERT's time."""
    if kind.__module__ == "datetime" and (time := _time(value)):
        return _Ready, time
    try:
        kind, value = noted_stand_in([], value, None)
    except REFUSED as refused:
        raise _Refused(*refused.args[:2]) from None
    if kind not in _LEAVES and kind not in _SEQUENCES and kind is not dict and kind is not TermMap:
        raise _Refused(f"a {kind.__name__}", "BERT has no such type")
    return kind, value


class _Ready(bytes):
    """Bytes that are written as they are."""


_EPOCH_ORDINAL = 719_163  # of 1970-01-01


def _time(value: Any) -> _Ready | None:
    """``{bert, time, ...}`` for a moment, where that tells all of it: one in UTC, or in a zone of Python's."""
    from datetime import UTC, datetime

    zone = getattr(value, "tzinfo", None)
    if type(value) is not datetime or zone is None or zone.__class__.__module__.startswith("erl_bridge."):
        return None
    moment = value.astimezone(UTC)
    seconds = (moment.toordinal() - _EPOCH_ORDINAL) * 86_400 + moment.hour * 3600 + moment.minute * 60 + moment.second
    megaseconds, seconds = divmod(seconds, 1_000_000)
    numbers = (_integer(number, ()) for number in (megaseconds, seconds, moment.microsecond))
    return _Ready(_TIME_HEAD + b"".join(numbers))


def _integer(value: int, _: Container[Atom]) -> bytes:
    if 0 <= value <= 255:
        return _SMALL_INTEGERS[value]
    if -_BIG <= value < _BIG:
        return b"b" + value.to_bytes(4, "big", signed=True)
    try:
        return etf.encode(value)[1:]
    except etf.EncodeError as error:
        raise _Refused("an integer", error.message) from None


def _float(value: float, _: Container[Atom]) -> bytes:
    if not -_INFINITY < value < _INFINITY:
        raise _Refused(f"float {value}", "floats of the BEAM are finite")
    return b"c" + (b"%.20e" % value).ljust(31, b"\0")


def _text(value: str, _: Container[Atom]) -> bytes:
    try:
        data = value.encode()
    except UnicodeEncodeError:
        raise _Refused("str with a lone surrogate", "it has no UTF-8 form") from None
    return _pack_size(109, len(data)) + data


def _binary(value: bytes | bytearray | memoryview, _: Container[Atom]) -> bytes:
    try:
        data = bytes(value)
    except ValueError:
        raise _Refused("memoryview", "it is released") from None
    return _pack_size(109, len(data)) + data


def _atom(value: Atom, atoms: Container[Atom]) -> bytes:
    if value not in atoms:
        raise _Refused(f"atom {value}", "it is not one of the atoms that may be sent; send a string")
    try:
        return plain_atom(value.name)
    except UnicodeEncodeError:
        raise _Refused(f"atom {value}", "BERT's atoms are Latin-1; send a string") from None


def plain_atom(name: str) -> bytes:
    """ATOM_EXT of a name in Latin-1."""
    data = name.encode("latin-1")
    return b"d%b%b" % (_pack_u16(len(data)), data)


_LEAVES: dict[type, Callable[[Any, Container[Atom]], bytes]] = {
    int: _integer,
    float: _float,
    str: _text,
    bytes: _binary,
    bytearray: _binary,
    memoryview: _binary,
    bool: lambda value, _: _CONSTANTS[value],
    type(None): lambda value, _: _CONSTANTS[value],
    Atom: _atom,
    _Ready: lambda value, _: value,
}


def _list(value: list[Any]) -> tuple[bytes, Iterable[Any], bytes]:
    return (_pack_size(108, len(value)) if value else b""), value, _END


def _improper_list(value: ImproperList) -> tuple[bytes, Iterable[Any], bytes]:
    return _pack_size(108, len(value.items)), (*value.items, value.tail), b""


def _tuple(value: tuple[Any, ...]) -> tuple[bytes, Iterable[Any], bytes]:
    if value and value[0] is BERT:
        if len(value) != _REGEX_SIZE or value[1] is not REGEX:
            raise _Refused("a tuple that begins with bert", "it would be read as a complex type of BERT")
        return b"h\4" + _TAG_BERT + plain_atom("regex"), value[2:], b""
    return (b"h%c" % len(value) if len(value) <= 255 else _pack_size(105, len(value))), value, b""


_SEQUENCES: dict[type, Callable[[Any], tuple[bytes, Iterable[Any], bytes]]] = {
    list: _list,
    tuple: _tuple,
    ImproperList: _improper_list,
}


def _map_head(value: dict[Any, Any] | TermMap) -> bytes:
    if not _HELD_APART.issuperset(map(type, value)):
        try:
            apart = len(set(map(identity, value))) == len(value)
        except (TypeError, ValueError):
            apart = True  # a key that is no term is refused when its turn comes
        if not apart:
            raise _Refused("dict", "for the BEAM it has a key twice")
    return _DICT_HEAD + _pack_size(108, len(value)) if len(value) else _DICT_HEAD


_HELD_APART = {str, Atom, int, bool, type(None)}
