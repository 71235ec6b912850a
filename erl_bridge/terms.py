"""The Erlang terms that Python has no type of its own for, and when two terms are the same.

Rules of this file: every value is immutable, checks its fields when it is made, and knows nothing of how it travels.
Two terms are *the same* when the BEAM holds them ``=:=`` (Elixir: ``===``), which is not always when Python holds them
``==``: ``1``, ``1.0`` and ``True`` are three terms, ``"a"`` and ``b"a"`` are one. :func:`identity` is that relation.
"""

from __future__ import annotations

from _thread import RLock
from struct import Struct
from weakref import WeakValueDictionary

from .values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any, NoReturn, TypeAlias

    Name: TypeAlias = "Atom | bool | None"  # an atom in a place where the BEAM allows any: also true, false, nil
    _Finish: TypeAlias = Callable[[list[bytes]], bytes]  # from the keys of a container's children to its own key
    _Opened: TypeAlias = tuple[Iterable[Any], _Finish]

MAX_ATOM_CHARACTERS = 255
MAX_REFERENCE_WORDS = 5
MAX_SMALL = (1 << 59) - 1  # the largest integer that the BEAM holds in one word; it bounds the arity of an export
CONSTANTS: dict[str, bool | None] = {"true": True, "false": False, "nil": None}

_pack_u32 = Struct(">I").pack
_pack_double = Struct(">d").pack


class Atom(Value):
    """An Erlang atom; Elixir's ``:name``.

    Atoms of one name are one object, so ``is``, ``==`` and ``hash`` are as quick as they can be. An atom is not equal
    to the string of the same letters. Atoms that nobody holds are forgotten, so a peer cannot fill the memory with
    them. ``external`` is the atom in the external term format (SMALL_ATOM_UTF8_EXT or ATOM_UTF8_EXT).

    Raises TypeError for a name that is not a string, and ValueError for one that no atom can have, and for ``true``,
    ``false`` and ``nil``, which are ``True``, ``False`` and ``None``.

    >>> Atom("ok"), str(Atom("ok")), Atom("ok") is Atom("ok"), Atom("ok") == "ok"
    (Atom('ok'), 'ok', True, False)
    >>> Atom("nil")
    Traceback (most recent call last):
    ValueError: the atom nil is None in Python; use that
    """

    __slots__ = ("__weakref__", "external", "name")

    name: str
    external: bytes

    def __new__(cls, name: str) -> Atom:
        known = _atoms.get(name) if type(name) is str else None
        return _intern(name) if known is None else known

    def __init_subclass__(cls) -> NoReturn:
        raise TypeError("Atom cannot be subclassed: atoms of one name are one object")

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"Atom({self.name!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Atom, (self.name,)


_atoms: WeakValueDictionary[str, Atom] = WeakValueDictionary()
_atoms_lock = RLock()  # reentrant: a finalizer that runs while an atom is made may make atoms


def _intern(name: str) -> Atom:
    external = _external_atom(name)
    atom = object.__new__(Atom)
    atom._set(name=str.__str__(name), external=external)
    with _atoms_lock:
        return _atoms.setdefault(atom.name, atom)


def _external_atom(name: str) -> bytes:
    if not isinstance(name, str):
        raise TypeError(f"the name of an atom is a str, not {type(name).__name__}")
    if name in CONSTANTS:
        raise ValueError(f"the atom {name} is {CONSTANTS[name]} in Python; use that")
    return external_atom(name)


def external_atom(name: str) -> bytes:
    """Any atom in the external term format, also ``true``, ``false`` and ``nil``."""
    if len(name) > MAX_ATOM_CHARACTERS:
        raise ValueError(f"an atom has at most {MAX_ATOM_CHARACTERS} characters, not {len(name)}")
    try:
        data = name.encode()
    except UnicodeEncodeError:
        raise ValueError("the name of an atom is Unicode text; this one has a lone surrogate") from None
    return b"w%c%b" % (len(data), data) if len(data) < 256 else b"v%b%b" % (len(data).to_bytes(2, "big"), data)


def name_of(atom: Name) -> str:
    """The text of an atom, also of those that are ``True``, ``False`` and ``None`` in Python."""
    return atom.name if isinstance(atom, Atom) else str(atom).lower().replace("none", "nil")


def _check_atom(what: str, value: object) -> None:
    if not (value is None or isinstance(value, (Atom, bool))):
        raise TypeError(f"{what} is an Atom, not {type(value).__name__}")


def _check_unsigned(what: str, value: object, limit: int) -> None:
    if type(value) is not int:
        raise TypeError(f"{what} is an int, not {type(value).__name__}")
    if not 0 <= value <= limit:
        raise ValueError(f"{what} is an integer from 0 to {limit}")


_U32 = (1 << 32) - 1
_U64 = (1 << 64) - 1


class Pid(Value):
    """A process of a node. ``id``, ``serial`` and ``creation`` are unsigned integers of 32 bits.

    >>> Pid(Atom("shop@host"), 42, 0, 1)
    Pid(node=Atom('shop@host'), id=42, serial=0, creation=1)
    """

    __slots__ = ("node", "id", "serial", "creation")

    node: Name
    id: int
    serial: int
    creation: int

    def __init__(self, node: Name, id: int, serial: int, creation: int) -> None:
        _check_atom("the node of a pid", node)
        _check_unsigned("the id of a pid", id, _U32)
        _check_unsigned("the serial of a pid", serial, _U32)
        _check_unsigned("the creation of a pid", creation, _U32)
        self._set(node=node, id=id, serial=serial, creation=creation)

    def __eq__(self, other: object) -> bool:
        if type(other) is not Pid:
            return NotImplemented
        return (
            self.id == other.id
            and self.serial == other.serial
            and self.creation == other.creation
            and self.node is other.node
        )

    def __hash__(self) -> int:
        return hash((self.id, self.serial, self.creation))


class Port(Value):
    """A port of a node. ``id`` is an unsigned integer of 64 bits, ``creation`` one of 32.

    >>> Port(Atom("shop@host"), 5, 1)
    Port(node=Atom('shop@host'), id=5, creation=1)
    """

    __slots__ = ("node", "id", "creation")

    node: Name
    id: int
    creation: int

    def __init__(self, node: Name, id: int, creation: int) -> None:
        _check_atom("the node of a port", node)
        _check_unsigned("the id of a port", id, _U64)
        _check_unsigned("the creation of a port", creation, _U32)
        self._set(node=node, id=id, creation=creation)


class Reference(Value):
    """A reference of a node. ``ids`` are one to five unsigned integers of 32 bits, the lowest word first.

    The BEAM reads words that are not there as 0, so references that differ only in zeros at the end are equal.

    >>> Reference(Atom("shop@host"), 1, (7, 8)) == Reference(Atom("shop@host"), 1, (7, 8, 0))
    True
    """

    __slots__ = ("node", "creation", "ids")

    node: Name
    creation: int
    ids: tuple[int, ...]

    def __init__(self, node: Name, creation: int, ids: Iterable[int]) -> None:
        words = tuple(ids)
        _check_atom("the node of a reference", node)
        _check_unsigned("the creation of a reference", creation, _U32)
        if not 1 <= len(words) <= MAX_REFERENCE_WORDS:
            raise ValueError(f"a reference has 1 to {MAX_REFERENCE_WORDS} words, not {len(words)}")
        for word in words:
            _check_unsigned("a word of a reference", word, _U32)
        self._set(node=node, creation=creation, ids=words)

    def _same(self) -> tuple[Any, ...]:
        return self.node, self.creation, *self.ids, *(0,) * (MAX_REFERENCE_WORDS - len(self.ids))

    def __eq__(self, other: object) -> bool:
        if type(other) is not Reference:
            return NotImplemented
        if self.ids == other.ids:
            return self.creation == other.creation and self.node is other.node
        return self._same() == other._same()

    def __hash__(self) -> int:
        return hash((self.creation, self.ids[0]))  # the other words may be there as zeros, or not


class Export(Value):
    """A function by its name, ``fun module:function/arity``; Elixir's ``&Module.function/arity``.

    >>> Export(Atom("Elixir.String"), Atom("upcase"), 1)
    Export(module=Atom('Elixir.String'), function=Atom('upcase'), arity=1)
    """

    __slots__ = ("module", "function", "arity")

    module: Name
    function: Name
    arity: int

    def __init__(self, module: Name, function: Name, arity: int) -> None:
        _check_atom("the module of an export", module)
        _check_atom("the function of an export", function)
        _check_unsigned("the arity of an export", arity, MAX_SMALL)
        self._set(module=module, function=function, arity=arity)


class Fun(Value):
    """A function that closes over values. It is opaque: it comes from a client and goes back to it exactly as it came.

    ``data`` is its external form from the tag on. ``sameness`` is an :func:`identity` of what the BEAM compares funs
    by: module, index, unique number and environment, but not the process that made it. Only the decoder makes funs.
    """

    __slots__ = ("module", "arity", "index", "unique", "data", "sameness")

    module: Name
    arity: int
    index: int
    unique: int
    data: bytes
    sameness: bytes

    def __init__(self, module: Name, arity: int, index: int, unique: int, data: bytes, sameness: bytes) -> None:
        self._set(module=module, arity=arity, index=index, unique=unique, data=data, sameness=sameness)

    def __eq__(self, other: object) -> bool:
        return self.sameness == other.sameness if isinstance(other, Fun) else NotImplemented

    def __hash__(self) -> int:
        return hash((Fun, self.sameness))

    def __repr__(self) -> str:
        return f"<Fun {name_of(self.module)}.{self.index}.{self.unique}/{self.arity}>"


class Record(Value):
    """A native record, which OTP 29 and newer have: ``#shop:item{name = "pen"}``.

    ``fields`` are pairs of a name and a value, in their order; ``exported`` says whether its module exports it, which
    the BEAM compares too.

    >>> Record(Atom("shop"), Atom("item"), ((Atom("name"), "pen"),)).get("name")
    'pen'
    """

    __slots__ = ("module", "name", "fields", "exported")

    module: Name
    name: Name
    fields: tuple[tuple[Name, Any], ...]
    exported: bool

    def __init__(self, module: Name, name: Name, fields: tuple[tuple[Name, Any], ...], exported: bool = False) -> None:
        self._set(module=module, name=name, fields=fields, exported=exported)

    def get(self, name: str) -> Any:
        """The value of the field of that name. Raises KeyError."""
        for own, value in self.fields:
            if name_of(own) == name:
                return value
        raise KeyError(name)


class BitString(Value):
    """A binary whose last byte is not full: the first ``bits`` (1 to 7) of it count, the others are set to 0.

    >>> BitString(b"\\xff\\xff", 3)
    BitString(data=b'\\xff\\xe0', bits=3)
    """

    __slots__ = ("data", "bits")

    data: bytes
    bits: int

    def __init__(self, data: bytes, bits: int) -> None:
        data = bytes(memoryview(data))
        if not data:
            raise ValueError("a bit string has at least one byte; use b'' for an empty one")
        if type(bits) is not int or not 1 <= bits <= 7:
            raise ValueError("the last byte of a bit string has 1 to 7 bits that count; use bytes where it has 8")
        last = data[-1] & (0xFF00 >> bits)
        self._set(data=data[:-1] + bytes((last,)), bits=bits)


class ImproperList(Value):
    """A list that ends in something else than a list: ``[1, 2 | 3]``.

    ``items`` are the one or more terms before the bar, ``tail`` is the term after it, which is no list. A tail that is
    itself an improper list is taken into this one, as it is in Erlang.

    >>> ImproperList([1, 2], 3)
    ImproperList(items=(1, 2), tail=3)
    >>> ImproperList([1], ImproperList([2], 3)) == ImproperList([1, 2], 3)
    True
    """

    __slots__ = ("items", "tail")

    items: tuple[Any, ...]
    tail: Any

    def __init__(self, items: Iterable[Any], tail: Any) -> None:
        items = tuple(items)
        if not items:
            raise ValueError("an improper list has at least one item before its tail")
        if isinstance(tail, list):
            raise ValueError("the tail of an improper list is no list; a list with a list as its tail is just a list")
        if isinstance(tail, ImproperList):
            items, tail = items + tail.items, tail.tail
        self._set(items=items, tail=tail)


class TermMap(Value):
    """An immutable map whose keys a ``dict`` would merge (``1``, ``1.0``, ``True``) or cannot hold (lists, maps).

    It is made of a mapping or of pairs, and read like a mapping; keys are looked up by :func:`identity`. Two term maps
    are equal when they hold the same pairs, in whatever order. The keys must not be changed afterwards. Raises
    ValueError when a key comes twice, and what :func:`identity` raises for a key that is no term.

    >>> numbers = TermMap([(1, "integer"), (1.0, "float"), ([1], "list")])
    >>> len(numbers), numbers[1], numbers[1.0], numbers[[1]], numbers.get(True), 2 in numbers
    (3, 'integer', 'float', 'list', None, False)
    """

    __slots__ = ("_identity", "_pairs", "_positions")

    _pairs: tuple[tuple[Any, Any], ...]
    _positions: dict[bytes, int]
    _identity: bytes | None

    def __init__(self, pairs: Mapping[Any, Any] | Iterable[tuple[Any, Any]] = ()) -> None:
        found = tuple((key, value) for key, value in (pairs.items() if hasattr(pairs, "items") else pairs))
        positions = {identity(key): at for at, (key, _) in enumerate(found)}
        if len(positions) != len(found):
            raise ValueError("a key comes twice in a TermMap")
        self._set(_pairs=found, _positions=positions, _identity=None)

    @classmethod
    def of_distinct(cls, keys: Iterable[bytes], pairs: Iterable[tuple[Any, Any]]) -> TermMap:
        """A term map of pairs whose keys' identities are known and distinct."""
        made = object.__new__(cls)
        made._set(_pairs=tuple(pairs), _positions={key: at for at, key in enumerate(keys)}, _identity=None)
        return made

    def __getitem__(self, key: Any) -> Any:
        at = self._positions.get(identity(key))
        if at is None:
            raise KeyError(key)
        return self._pairs[at][1]

    def get(self, key: Any, default: Any = None) -> Any:
        """The value of ``key``, or ``default``."""
        at = self._positions.get(identity(key))
        return default if at is None else self._pairs[at][1]

    def __contains__(self, key: object) -> bool:
        return identity(key) in self._positions

    def __len__(self) -> int:
        return len(self._pairs)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.keys())

    def keys(self) -> tuple[Any, ...]:
        """The keys, in the order in which they came."""
        return tuple(key for key, _ in self._pairs)

    def values(self) -> tuple[Any, ...]:
        """The values, in the order of the keys."""
        return tuple(value for _, value in self._pairs)

    def items(self) -> tuple[tuple[Any, Any], ...]:
        """The pairs of key and value, in the order in which they came."""
        return self._pairs

    def key_identities(self) -> Iterable[bytes]:
        """The identities of the keys, in their order."""
        return self._positions

    def __reduce__(self) -> tuple[Any, ...]:
        return TermMap, (self._pairs,)

    def __eq__(self, other: object) -> bool:
        return identity(self) == identity(other) if isinstance(other, TermMap) else NotImplemented

    def __hash__(self) -> int:
        return hash(identity(self))

    def __repr__(self) -> str:
        return f"TermMap({list(self._pairs)!r})"


# -- identity --------------------------------------------------------------------------------------------------


def identity(term: Any) -> bytes:
    """A key that is equal for two terms exactly when the BEAM holds them ``=:=``.

    Use it wherever any term may be a key: ids of messages, keys of maps. It is opaque, has at most some fifty bytes
    (long ones are digests), and holds within one process. It does not recurse, and its cost is that of the term's size.
    ``0.0`` and ``-0.0`` are two terms, as they are from OTP 27 on.

    Raises TypeError for what is no term, and ValueError for NaN, infinity and nesting without end.

    >>> identity("a") == identity(b"a"), identity(1) == identity(1.0), identity({1: 1, 2: 2}) == identity({2: 2, 1: 1})
    (True, False, True)
    """
    leaf = _leaves.get(type(term))
    return _shortened(leaf(term)) if leaf is not None else _identity_of_container(term)


_MAX_DEPTH = 100_000
_DIGEST_FROM = 48  # an identity with more bytes than this is replaced by its digest


def _shortened(key: bytes) -> bytes:
    if len(key) <= _DIGEST_FROM:
        return key
    from hashlib import blake2b  # several ms to import, and ids of requests are short

    return b"#" + blake2b(key, digest_size=32).digest()


def _identity_of_container(term: Any) -> bytes:
    """Walks the term with a stack of its own; what is finished is a short key in the parts of what holds it."""
    stack: list[tuple[list[bytes], Iterator[Any], _Finish]] = []
    parts: list[bytes] = []
    rest: Iterator[Any] = iter((term,))
    finish: _Finish = b"".join
    while True:
        for value in rest:
            leaf = _leaves.get(type(value))
            if leaf is not None:
                parts.append(_shortened(leaf(value)))
                continue
            children, closing = _opened(value)
            stack.append((parts, rest, finish))
            if len(stack) > _MAX_DEPTH:
                raise ValueError(f"no identity for a term that is nested more than {_MAX_DEPTH} deep or holds itself")
            parts, rest, finish = [], iter(children), closing
            break
        else:
            done = finish(parts)
            if not stack:
                return done
            parts, rest, finish = stack.pop()
            parts.append(done)


def _opened(value: Any) -> _Opened:
    opener = _containers.get(type(value))
    if opener is not None:
        return opener(value)
    return (_stand_in(value),), b"".join


def _no_stand_in(value: Any) -> Any:
    raise TypeError(f"{type(value).__name__} is no term")


_stand_in: Callable[[Any], Any] = _no_stand_in


def use_stand_ins(stand_in: Callable[[Any], Any]) -> None:
    """Let the codec say which term stands for a value of a type that is not in the tables here (dates, enums, ...)."""
    global _stand_in
    _stand_in = stand_in


def _integer(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)
    return b"i%b%b" % (_pack_u32(len(data)), data)


def _float(value: float) -> bytes:
    if not -_INFINITY < value < _INFINITY:
        raise ValueError(f"float {value} is no term: floats of the BEAM are finite")
    return b"f" + _pack_double(value)


_INFINITY = float("inf")


def _binary(value: bytes | bytearray | memoryview) -> bytes:
    data = bytes(value)
    return b"b%b%b" % (_pack_u32(len(data)), data)


def _text(value: str) -> bytes:
    try:
        return _binary(value.encode())
    except UnicodeEncodeError:
        raise ValueError("a str with a lone surrogate is no term") from None


def _name(atom: Name) -> bytes:
    return atom.external if isinstance(atom, Atom) else external_atom(name_of(atom))


def _numbers(*numbers: int) -> bytes:
    return b"".join(map(_integer, numbers))


_leaves: dict[type, Callable[[Any], bytes]] = {
    int: _integer,
    float: _float,
    str: _text,
    bytes: _binary,
    bytearray: _binary,
    memoryview: _binary,
    bool: _name,
    type(None): _name,
    Atom: _name,
    BitString: lambda value: b"s%c%b" % (value.bits, _binary(value.data)),
    Pid: lambda value: b"p" + _name(value.node) + _numbers(value.id, value.serial, value.creation),
    Port: lambda value: b"o" + _name(value.node) + _numbers(value.id, value.creation),
    Reference: lambda value: b"r" + _name(value.node) + _numbers(*value._same()[1:]),
    Export: lambda value: b"e" + _name(value.module) + _name(value.function) + _numbers(value.arity),
    Fun: lambda value: b"F" + value.sameness,
}


def _sequence(kind: bytes, items: Iterable[Any]) -> _Opened:
    return items, lambda parts: _shortened(kind + _pack_u32(len(parts)) + b"".join(parts))


def _finish_map(parts: list[bytes]) -> bytes:
    pairs = sorted(zip(parts[::2], parts[1::2], strict=True))
    return _shortened(b"m" + _pack_u32(len(pairs)) + b"".join(key + value for key, value in pairs))


def _open_record(value: Record) -> _Opened:
    names, values = zip(*value.fields, strict=True) if value.fields else ((), ())
    return _sequence(b"R%c" % value.exported, [value.module, value.name, *names, *values])


def _open_dict(value: dict[Any, Any]) -> _Opened:
    return [half for pair in value.items() for half in pair], _finish_map


def _open_term_map(value: TermMap) -> _Opened:
    known = value._identity
    if known is not None:
        return (), lambda _: known

    def finish(parts: list[bytes]) -> bytes:
        found = _finish_map([half for pair in zip(value.key_identities(), parts, strict=True) for half in pair])
        value._set(_identity=found)  # computed once: maps in the keys of maps in the keys of maps stay cheap
        return found

    return value.values(), finish


_containers: dict[type, Callable[[Any], _Opened]] = {
    list: lambda value: _sequence(b"l", value),
    tuple: lambda value: _sequence(b"t", value),
    ImproperList: lambda value: _sequence(b"L", (*value.items, value.tail)),
    dict: _open_dict,
    TermMap: _open_term_map,
    Record: _open_record,
}
