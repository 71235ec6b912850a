"""From Python values to the external term format.

How it works: what is being written is a stack of frames, one for each container that is open. A frame holds the
container's children and an iterator over them, so the stack is also the path to whatever is refused. Leaves are written
by the table ``_LEAVES`` (type to writer; the commonest are written in the loop itself), containers are opened by the
table ``_CONTAINERS``, and a value of any other type is replaced by the term that stands for it (``_stand_in``).

Rule of this file: nothing is sent that the BEAM would refuse or read as something else. What cannot be sent is an
:class:`~erl_bridge.etf.EncodeError` with the path to it.

Source of the format: "External Term Format" in the ERTS user's guide. The tags are those of OTP 25's
``term_to_binary/2`` with ``{minor_version, 2}``: OTP 25 by itself still writes Latin-1 atoms with ATOM_EXT, OTP 26 and
later, as we do, with SMALL_ATOM_UTF8_EXT; all of them read both.
"""

from __future__ import annotations

from itertools import chain
from struct import Struct
from struct import error as StructError

from .. import terms
from ..terms import Atom, BitString, Export, Fun, ImproperList, Pid, Port, Record, Reference, TermMap
from . import tags
from .errors import EncodeError
from .limits import DEFAULT, Limits
from .tags import BINARY, INTEGER, NEW_FLOAT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Sequence
    from typing import Any, TypeAlias, TypedDict, Unpack

    Atoms: TypeAlias = Container[Atom] | None
    Default: TypeAlias = Callable[[Any], Any] | None
    Frame: TypeAlias = tuple[Any, Sequence[Any], Any, bytes]  # container, children, iterator over them, closing bytes
    StandIn: TypeAlias = tuple[type, Any]  # the type that a value is written as, and the term
    Done: TypeAlias = tuple[Any, StandIn | Exception]  # a value, and what stands for it or why nothing does
    Way: TypeAlias = tuple[type | None, Callable[[Any], Any], str]
    Opened: TypeAlias = tuple[bytes, Sequence[Any], bytes]  # opening bytes, children, closing bytes

    class Options(TypedDict, total=False):
        """The options of :func:`encode`."""

        compressed: bool | int
        atoms: Atoms
        default: Default
        root: str
        max_depth: int


_VERSION = bytes((tags.VERSION,))
_NIL = bytes((tags.NIL,))
_SMALL_INTEGERS = [bytes((tags.SMALL_INTEGER, value)) for value in range(256)]
_CONSTANTS = {value: terms.external_atom(name) for name, value in terms.CONSTANTS.items()}
_INFINITY = float("inf")
_MAX_STRING = 0xFFFF

_pack_size = Struct(">BI").pack
_pack_integer = Struct(">Bi").pack
_pack_float = Struct(">Bd").pack
_pack_u16 = Struct(">H").pack
_pack_u32 = Struct(">I").pack
_pack_u64 = Struct(">Q").pack


def encode(
    term: Any,
    *,
    compressed: bool | int = False,
    atoms: Atoms = None,
    default: Default = None,
    root: str = "term",
    max_depth: int = DEFAULT.max_depth,
) -> bytes:
    """The external form of ``term``, with the version byte, as ``binary_to_term/1`` reads it.

    ``compressed``: compress it where that makes it shorter, at zlib's level 6 or the level given (1 to 9).
    ``atoms``: the only atoms that may be sent, besides ``true``, ``false`` and ``nil``; any container with ``in``.
    ``default``: called with a value of a type that is not known; what it returns is sent in its place, and must be of a
    known type. What it raises is passed on. It is called once for each place where the value is, so ``default=list``
    may use an iterator up.
    ``root``: what the path in an error begins with. ``max_depth``: containers within containers.

    Raises :class:`~erl_bridge.etf.EncodeError`, with the path, for anything that is no term.

    >>> encode({"a": [1, 2.5, None]}).hex(" ")
    '83 74 00 00 00 01 6d 00 00 00 01 61 6c 00 00 00 03 61 01 46 40 04 00 00 00 00 00 00 77 03 6e 69 6c 6a'
    >>> encode({"metrics": [{"score": float("nan")}]}, root="result")
    Traceback (most recent call last):
    erl_bridge.etf.errors.EncodeError: cannot encode float nan at result.metrics[0].score: floats of the BEAM are finite
    """
    only = (term,)
    frames: list[Frame] = [(None, only, iter(only), b"")]
    parts = [_VERSION]
    try:
        _write(frames, parts, atoms, default, max_depth)
        return _compressed(b"".join(parts), compressed) if compressed else b"".join(parts)
    except _Refused as refused:
        raise EncodeError(refused.what, _path(root, frames), refused.reason) from None
    except UnicodeEncodeError:
        raise EncodeError("str with a lone surrogate", _path(root, frames), "it has no UTF-8 form") from None
    except (StructError, OverflowError):
        raise EncodeError("value", _path(root, frames), "sizes have at most 32 bits") from None


def encode_into(term: Any, buffer: bytearray, offset: int = 0, **options: Unpack[Options]) -> int:
    """Writes the external form of ``term`` into ``buffer`` from ``offset`` on and returns the offset of its end.

    The buffer grows where that is needed, and never shrinks: one buffer can serve many calls. What it holds before
    ``offset`` stays; what it holds behind the end means nothing. Nobody else can change its size meanwhile: a
    hook that tries gets a BufferError. ``options``: those of :func:`encode`.

    Raises what :func:`encode` raises, and then what was before ``offset`` is still there. TypeError for what is no
    ``bytearray``, ValueError for an offset outside of it, BufferError where it has to grow while there are views of it.

    >>> frame = bytearray(4)
    >>> end = encode_into({"a": 1}, frame, 4)
    >>> frame[:4] = (end - 4).to_bytes(4, "big")
    >>> frame[:end].hex(" ")
    '00 00 00 0e 83 74 00 00 00 01 6d 00 00 00 01 61 61 01'
    """
    return write_into(buffer, offset, lambda: encode(term, **options))


def write_into(buffer: bytearray, offset: int, write: Callable[[], bytes]) -> int:
    """Puts the bytes that ``write`` gives into the buffer, as :func:`encode_into` does."""
    if not isinstance(buffer, bytearray):
        raise TypeError(f"expected a bytearray to encode into, got {type(buffer).__name__}")
    if not 0 <= offset <= len(buffer):
        raise ValueError(f"expected an offset from 0 to {len(buffer)}, which is the buffer's length, got {offset}")
    with memoryview(buffer):
        data = write()
    end = offset + len(data)
    buffer[offset:end] = data
    return end


class _Refused(Exception):
    """What is refused and why; :func:`encode` adds the path."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(what, reason)
        self.what = what
        self.reason = reason


# What encode() makes an EncodeError of, wherever it comes from.
REFUSED = (_Refused, UnicodeEncodeError, StructError, OverflowError)


def _write(frames: list[Frame], parts: list[bytes], atoms: Atoms, default: Default, max_depth: int) -> None:
    append = parts.append
    while frames:
        _, _, rest, closing = frames[-1]
        for value in rest:
            kind = type(value)
            if kind is str:
                data = value.encode()
                append(_pack_size(BINARY, len(data)))
                append(data)
                continue
            if kind is int and -0x8000_0000 <= value <= 0x7FFF_FFFF:
                append(_SMALL_INTEGERS[value] if 0 <= value <= 255 else _pack_integer(INTEGER, value))
                continue
            if kind is float and -_INFINITY < value < _INFINITY:
                append(_pack_float(NEW_FLOAT, value))
                continue
            if kind is Atom and (atoms is None or value in atoms):
                append(value.external)
                continue
            if kind is bytes:
                append(_pack_size(BINARY, len(value)))
                append(value)
                continue
            leaf = _LEAVES.get(kind)
            if leaf is not None:
                append(leaf(value, atoms))
                continue
            open_container = _CONTAINERS.get(kind)
            if open_container is None:
                kind, value = _stand_in(value, default)
                if kind in _LEAVES:
                    append(_LEAVES[kind](value, atoms))
                    continue
                open_container = _CONTAINERS[kind]
            opening, children, end = open_container(value)
            append(opening)
            if children:
                if len(frames) > max_depth:
                    raise _Refused("a container", f"it is nested more than {max_depth} deep, or it holds itself")
                frames.append((value, children, iter(children), end))
                break
        else:
            append(closing)
            frames.pop()


# -- leaves: a value and the atoms that may be sent, to bytes --------------------------------------------------


def _integer(value: int, _: Atoms) -> bytes:
    if 0 <= value <= 255:
        return _SMALL_INTEGERS[value]
    if -0x8000_0000 <= value <= 0x7FFF_FFFF:
        return _pack_integer(tags.INTEGER, value)
    magnitude = abs(value)
    data = magnitude.to_bytes((magnitude.bit_length() + 7) // 8, "little")
    if len(data) <= 255:
        return b"%c%c%c%b" % (tags.SMALL_BIG, len(data), value < 0, data)
    if len(data) > tags.MAX_BIG_BYTES:
        raise _Refused(f"int of {magnitude.bit_length()} bits", f"the BEAM holds at most {8 * tags.MAX_BIG_BYTES}")
    return b"%b%c%b" % (_pack_size(tags.LARGE_BIG, len(data)), value < 0, data)


def _float(value: float, _: Atoms) -> bytes:
    if not -_INFINITY < value < _INFINITY:
        raise _Refused(f"float {value}", "floats of the BEAM are finite")
    return _pack_float(tags.NEW_FLOAT, value)


def _text(value: str, _: Atoms) -> bytes:
    return _bytes(value.encode(), _)


def _bytes(value: bytes, _: Atoms) -> bytes:
    return _pack_size(tags.BINARY, len(value)) + value


def _buffer(value: bytearray | memoryview, _: Atoms) -> bytes:
    try:
        return _bytes(memoryview(value).tobytes(), _)
    except ValueError:
        raise _Refused("memoryview", "it is released") from None


def _constant(value: bool | None, _: Atoms) -> bytes:
    return _CONSTANTS[value]


def _atom(value: terms.Name, atoms: Atoms) -> bytes:
    if value is None or isinstance(value, bool):
        return _CONSTANTS[value]
    if atoms is not None and value not in atoms:
        raise _Refused(f"atom {value}", "it is not one of the atoms that may be sent; send a string")
    return value.external


def _bit_string(value: BitString, _: Atoms) -> bytes:
    return b"%b%c%b" % (_pack_size(tags.BIT_BINARY, len(value.data)), value.bits, value.data)


def _pid(value: Pid, atoms: Atoms) -> bytes:
    node = _atom(value.node, atoms)
    return b"%c%b%b%b%b" % (tags.NEW_PID, node, _pack_u32(value.id), _pack_u32(value.serial), _pack_u32(value.creation))


def _port(value: Port, atoms: Atoms) -> bytes:
    node, creation = _atom(value.node, atoms), _pack_u32(value.creation)
    if value.id < 1 << 28:
        return b"%c%b%b%b" % (tags.NEW_PORT, node, _pack_u32(value.id), creation)
    return b"%c%b%b%b" % (tags.V4_PORT, node, _pack_u64(value.id), creation)


def _reference(value: Reference, atoms: Atoms) -> bytes:
    node, words = _atom(value.node, atoms), b"".join(map(_pack_u32, value.ids))
    return b"%c%b%b%b%b" % (tags.NEWER_REFERENCE, _pack_u16(len(value.ids)), node, _pack_u32(value.creation), words)


def _export(value: Export, atoms: Atoms) -> bytes:
    module, function = _atom(value.module, atoms), _atom(value.function, atoms)
    return b"%c%b%b%b" % (tags.EXPORT, module, function, _integer(value.arity, None))


def _fun(value: Fun, atoms: Atoms) -> bytes:
    if atoms is not None:
        from .decoder import decode

        within: set[Atom] = set()
        decode(_VERSION + value.data, limits=_NO_LIMITS, structs=False, atoms=within)
        for atom in within:
            _atom(atom, atoms)
    return value.data


_NO_LIMITS = Limits(**dict.fromkeys(Limits.__slots__, 1 << 62))

_LEAVES: dict[type, Callable[[Any, Atoms], bytes]] = {
    int: _integer,
    float: _float,
    str: _text,
    bytes: _bytes,
    bytearray: _buffer,
    memoryview: _buffer,
    bool: _constant,
    type(None): _constant,
    Atom: _atom,
    BitString: _bit_string,
    Pid: _pid,
    Port: _port,
    Reference: _reference,
    Export: _export,
    Fun: _fun,
}


# -- containers: a value to its opening bytes, its children and its closing bytes ------------------------------


def _list(value: list[Any]) -> Opened:
    if not value:
        return _NIL, (), b""
    first = value[0]
    if type(first) is int and 0 <= first <= 255 and len(value) <= _MAX_STRING and set(map(type, value)) == {int}:
        try:
            return b"%c%b%b" % (tags.STRING, _pack_u16(len(value)), bytes(value)), (), b""
        except ValueError:  # not all of them are bytes
            pass
    children = value[:]
    return _pack_size(tags.LIST, len(children)), children, _NIL


def _improper_list(value: ImproperList) -> Opened:
    return _pack_size(tags.LIST, len(value.items)), (*value.items, value.tail), b""


def _tuple(value: tuple[Any, ...]) -> Opened:
    if len(value) <= 255:
        return b"%c%c" % (tags.SMALL_TUPLE, len(value)), value, b""
    return _pack_size(tags.LARGE_TUPLE, len(value)), value, b""


def _dict(value: dict[Any, Any]) -> Opened:
    try:
        children = list(chain.from_iterable(value.items()))
    except RuntimeError:
        raise _Refused("dict", "it was changed while it was encoded") from None
    if not _UNMISTAKABLE.issuperset(map(type, value)):
        _check_distinct(children[::2])
    return _pack_size(tags.MAP, len(children) // 2), children, b""


def _record(value: Record) -> Opened:
    names, values = zip(*value.fields, strict=True) if value.fields else ((), ())
    opening = _pack_size(tags.RECORD, len(names)) + b"%c" % value.exported
    return opening, (_named(value.module), _named(value.name), *map(_named, names), *values), b""


def _named(name: Any) -> Any:
    if isinstance(name, (Atom, bool)) or name is None:
        return name
    raise _Refused("a record", f"its names must be atoms, and one is {_shown(name)}")


def _term_map(value: TermMap) -> Opened:
    return _pack_size(tags.MAP, len(value)), list(chain.from_iterable(value.items())), b""


# Keys of these types that Python holds apart, the BEAM holds apart too. Not so "a" and b"a".
_UNMISTAKABLE = {str, Atom, int, float, bool, type(None), Pid, Port, Reference, Export, Fun, BitString}


def _check_distinct(keys: Iterable[Any]) -> None:
    found: set[bytes] = set()
    for key in keys:
        try:
            same = terms.identity(key)
        except (TypeError, ValueError):
            continue  # no term at all: it is refused when its turn comes
        if same in found:
            raise _Refused("dict", f"for the BEAM it has a key twice: {_shown(key)}")
        found.add(same)


_CONTAINERS: dict[type, Callable[[Any], Opened]] = {
    list: _list,
    ImproperList: _improper_list,
    tuple: _tuple,
    dict: _dict,
    TermMap: _term_map,
    Record: _record,
}


# -- values of other types -------------------------------------------------------------------------------------

# A value of a subclass travels as its base. These make it a plain one, whatever the subclass overrides.
_PLAIN: dict[type, Callable[[Any], Any]] = {
    int: int.__int__,
    float: float.__float__,
    str: str.__str__,
    bytes: lambda value: memoryview(value).tobytes(),
    list: lambda value: list(list.__iter__(value)),
    tuple: lambda value: tuple(tuple.__iter__(value)),
    dict: dict.copy,
}


def _stand_in(value: Any, default: Default | _Known = None) -> StandIn:
    """A value of a type that is in the tables, and that type, for a value of one that is not."""
    if isinstance(default, _Known):
        done = default.take(value)
        if done is not None:
            return done
        default = default.otherwise
    found = _known_stand_in(value)
    if found is None and default is not None:
        value = default(value)
        kind = type(value)
        found = (kind, value) if is_term_type(kind) else _known_stand_in(value)
    if found is None:
        from .objects import full_name, why_not

        raise _Refused(f"an object of type {full_name(type(value))}", why_not(value))
    return found


def _known_stand_in(value: Any) -> tuple[type, Any] | None:
    """The term for a value, through others if need be: that for a member of an enum may be a number of numpy's."""
    from .objects import full_name

    first = type(value)
    for _ in range(_MAX_STAND_INS):
        found = _next_stand_in(value)
        if found is None or is_term_type(found[0]):
            return found
        value = found[1]
    raise _Refused(f"an object of type {full_name(first)}", "what stands for it is never a term")


_MAX_STAND_INS = 20


def is_term_type(kind: type) -> bool:
    """Whether values of exactly this type are written as they are."""
    return kind in _LEAVES or kind in _CONTAINERS


def _next_stand_in(value: Any) -> tuple[type, Any] | None:
    for kind, to_term, what in _WAYS.get(type(value)) or _find_ways(type(value)):
        try:
            term = to_term(value)
        except ValueError as error:
            raise _Refused(what, str(error)) from None
        if term is not NotImplemented:
            return kind or type(term), term
    return None


def _find_ways(kind: type) -> tuple[Way, ...]:
    """What to try on a value of this type: the type it is written as, or None, what makes it so, and its name."""
    if len(_WAYS) >= _MAX_WAYS:
        _WAYS.clear()
    found = _WAYS[kind] = tuple(_ways(kind))
    return found


_WAYS: dict[type, tuple[Way, ...]] = {}
_MAX_WAYS = 1000  # types can be made without end, and what is here is kept


def _ways(kind: type) -> Iterator[Way]:
    from .objects import converter_of, full_name
    from .structs import stand_in_of

    for base in kind.__mro__:
        if is_term_type(base):
            yield base, _PLAIN.get(base, _itself), base.__name__
            return
        to_fields = stand_in_of(base)
        if to_fields is not None:
            yield dict, to_fields, base.__name__
            return
        to_term = converter_of(base)
        if to_term is not None:
            yield None, to_term, f"an object of type {full_name(kind)}"


def _itself(value: Any) -> Any:
    return value


def forget_ways() -> None:
    """For when another type is registered."""
    _WAYS.clear()


# -- for the compiled encoder, which lets this one say what is refused -------------------------------------------


def noted_stand_in(done: list[Done], value: Any, default: Default) -> StandIn:
    """As ``_stand_in``; what comes of it is added to ``done``, so that no hook has to be called for it again."""
    try:
        found = _stand_in(value, default)
    except REFUSED as refused:
        done.append((value, refused))
        raise
    done.append((value, found))
    return found


def encode_again(done: list[Done], term: Any, *, default: Default = None, **options: Any) -> bytes:
    """As :func:`encode`, after an attempt that gave up. Of its hooks only those are called that were not then."""
    return encode(term, default=_Known(done, default), **options)  # type: ignore[arg-type]


def encode_into_again(done: list[Done], *arguments: Any, default: Default = None, **options: Any) -> int:
    """As :func:`encode_into`, likewise."""
    return encode_into(*arguments, default=_Known(done, default), **options)  # type: ignore[arg-type]


class _Known:
    """In the place of ``default``: what came of values before, and whom to ask about others."""

    __slots__ = ("_done", "_found", "otherwise")

    def __init__(self, done: list[Done], otherwise: Default) -> None:
        self._done = done  # it holds the values, so none has the id of another
        self._found: dict[int, list[StandIn | Exception]] = {}
        for value, found in reversed(done):
            self._found.setdefault(id(value), []).append(found)
        self.otherwise = otherwise

    def take(self, value: Any) -> StandIn | None:
        """What came of the value when it was first met, then the second time, and so on."""
        left = self._found.get(id(value))
        if not left:
            return None
        found = left.pop()
        if isinstance(found, Exception):
            raise found
        return found


def _stand_in_for_identity(value: Any) -> Any:
    try:
        return _stand_in(value)[1]
    except _Refused as refused:
        raise TypeError(f"{refused.what} is no term: {refused.reason}") from None


terms.use_stand_ins(_stand_in_for_identity)


# -- paths -----------------------------------------------------------------------------------------------------

_MAX_PATH = 200


def _path(root: str, frames: list[Frame]) -> str:
    """Where the encoder is: ``result.metrics[3].score``. A very long path is shortened in the middle."""
    path = root
    for container, children, rest, _ in frames[1:]:
        path += _segment(container, children, len(children) - rest.__length_hint__() - 1)
    return path if len(path) <= _MAX_PATH else f"{path[: _MAX_PATH // 2]}…{path[-_MAX_PATH // 2 :]}"


def _segment(container: Any, children: Sequence[Any], at: int) -> str:
    if isinstance(container, (dict, TermMap)):
        if at % 2 == 0:
            return f".keys()[{at // 2}]"
        key = children[at - 1]
        name = key.name if isinstance(key, Atom) else key
        return f".{name}" if isinstance(name, str) and name.isidentifier() else f"[{_shown(key)}]"
    if isinstance(container, Record) and at >= 2 + len(container.fields):  # after the names come the values
        return f".{terms.name_of(container.fields[at - len(children)][0])}"
    if isinstance(container, ImproperList) and at == len(container.items):
        return ".tail"
    return f"[{at}]"


def _shown(key: Any) -> str:
    """A key as Python writes it, where that is short."""
    if isinstance(key, (str, bytes, Atom, bool, float)) or key is None or (type(key) is int and key.bit_length() <= 64):
        text = repr(key)
        return text if len(text) <= 40 else f"{text[:39]}…"
    return f"<{type(key).__name__}>"


def _compressed(data: bytes, compressed: bool | int) -> bytes:
    import zlib

    level = 6 if compressed is True else compressed
    packed = zlib.compress(memoryview(data)[1:], level)
    if len(packed) + 6 >= len(data):
        return data
    return b"%b%b%b" % (_VERSION, _pack_size(tags.COMPRESSED, len(data) - 1), packed)
