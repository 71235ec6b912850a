"""From the external term format to Python values.

How it works: one loop reads term after term and appends each to the list of the container that is being read. A
container puts that list aside on a stack and begins one of its own; when it has all its terms it is closed, and what
comes of it is appended to the list before. Nothing recurses, a position moves through the bytes, and no tail is ever
copied. The commonest leaves are read in the loop itself, the others by the table ``_LEAVES`` (tag to reader);
containers are opened by the table ``_CONTAINERS``, which also says what closes them.

Rule of this file: bytes from a peer do no harm. Every count is compared with the bytes that are left before anything is
made, every limit is checked while reading, and all that can be wrong is a :class:`~erl_bridge.etf.DecodeError`.

Source of the format: "External Term Format" in the ERTS user's guide. What is refused is what ``binary_to_term/1`` of
OTP 25 refuses, and some things besides that no BEAM sends: bytes after the term (also after or inside a compressed
one), a fun whose size is not the size it states, a fun whose creator is no pid, references of no words, and the tags 73
to 76 by which a BEAM refers to its own tables.
"""

from __future__ import annotations

from codecs import utf_8_decode
from struct import Struct
from struct import error as StructError

from .. import terms
from ..terms import Atom, BitString, Export, Fun, ImproperList, Pid, Port, Record, Reference
from . import tags
from .errors import DecodeError
from .limits import DEFAULT, Limits
from .maps import BadMap, is_plain_key, make_map
from .structs import STRUCT, from_fields
from .tags import BINARY, LIST, MAP, NEW_FLOAT, NIL, SMALL_ATOM_UTF8, SMALL_INTEGER, SMALL_TUPLE, STRING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Literal, NoReturn, TypeAlias

    from typing_extensions import Buffer

    Read: TypeAlias = tuple[Any, int]  # a term and the position behind it
    Close: TypeAlias = Callable[["_Decoder", list[Any], int], Read]
    Opened: TypeAlias = tuple[int, int, Close]  # how many terms it holds, where they begin, what makes it of them
    Binaries: TypeAlias = Literal["auto", "bytes", "memoryview"]

_u16 = Struct(">H").unpack_from
_u32 = Struct(">I").unpack_from
_i32 = Struct(">i").unpack_from
_u64 = Struct(">Q").unpack_from
_double = Struct(">d").unpack_from


def decode(
    data: Buffer,
    *,
    limits: Limits = DEFAULT,
    binaries: Binaries = "auto",
    structs: bool = True,
    atoms: set[Atom] | None = None,
) -> Any:
    """The term in ``data``, which must begin with the version byte and end with the term.

    ``data``: ``bytes`` or any contiguous buffer. A read-only one is read in place and must not change meanwhile; of one
    that can be written to, if only by its owner, a copy is read.
    ``binaries``: ``"auto"`` makes a ``str`` of a binary that is valid UTF-8 and ``bytes`` of any other, ``"bytes"``
    makes ``bytes`` of all. ``"memoryview"`` copies none: each is a read-only slice of ``data`` (of the copy, or of the
    inflated bytes, where there are such) that keeps the whole of it alive; only within the keys of maps, which are
    hashed, they are as with ``"auto"``.
    ``structs``: whether Elixir's structs become Python's dates, sets, ranges and decimals.
    ``atoms``: a set to which every atom in the term is added, wherever in it, if the term is good.

    Raises :class:`~erl_bridge.etf.DecodeError`, with the offset, for bytes that are no term and for a term past a
    limit; TypeError for what is no contiguous buffer.

    >>> decode(bytes.fromhex("8374000000016d00000001616c00000003610146400400000000000077036e696c6a"))
    {'a': [1, 2.5, None]}
    >>> blob = decode(b"\\x83m\\x00\\x00\\x00\\x05hello", binaries="memoryview")
    >>> bytes(blob[1:3]), blob == b"hello"
    (b'el', True)
    >>> decode(b"\\x83m\\x00\\x00\\x00\\x05abc")
    Traceback (most recent call last):
    erl_bridge.etf.errors.DecodeError: cannot decode byte 1: expected the whole BINARY_EXT, got only 8 bytes of it
    """
    return _decoded(data, 0, True, limits, binaries, structs, atoms, whole=True)[0]


def decode_prefix(
    data: Buffer,
    offset: int = 0,
    *,
    version: bool = True,
    limits: Limits = DEFAULT,
    binaries: Binaries = "auto",
    structs: bool = True,
    atoms: set[Atom] | None = None,
) -> tuple[Any, int]:
    """The term that begins at ``offset`` in ``data``, and the offset of its end; other bytes may follow it.

    ``version``: whether the term begins with the version byte, as whatever ``term_to_binary`` makes does. Without it a
    term cannot be compressed. ``max_size`` is a limit on the bytes from ``offset`` on. Everything else is as for
    :func:`decode`; a buffer that can be written to is copied anew by each call.

    Raises what :func:`decode` raises, with offsets in ``data``, and ValueError for an offset outside of it.

    >>> frame = b"\\x70\\x83h\\x02a\\x06w\\x01a\\x83m\\x00\\x00\\x00\\x02hi"
    >>> control, end = decode_prefix(frame, 1)
    >>> control, decode_prefix(frame, end)
    ((6, Atom('a')), ('hi', 17))
    >>> decode_prefix(b"a\\x07a\\x08", 2, version=False)
    (8, 4)
    """
    return _decoded(data, offset, version, limits, binaries, structs, atoms, whole=False)


def _decoded(
    data: Buffer,
    offset: int,
    version: bool,
    limits: Limits,
    binaries: Binaries,
    structs: bool,
    atoms: set[Atom] | None,
    *,
    whole: bool,
) -> Read:
    """The term at ``offset`` and where it ends; ``whole``: nothing may follow it."""
    if binaries not in _MAKERS:
        raise ValueError(f"binaries is 'auto', 'bytes' or 'memoryview', not {binaries!r}")
    source, start, behind = _source(data, limits.max_size, offset), offset, None
    if version:
        start = _behind_version(source, offset)
        if source[start : start + 1] == _COMPRESSED:
            inflated, behind = _inflate(source, limits, offset)
            if whole and behind != len(source):
                raise DecodeError(behind, "the end of the data", _counted(len(source) - behind, "more byte"))
            source, start = inflated, 0
    decoder = _Decoder(source, limits, binaries, structs, inflated=behind is not None)
    term, end = decoder.read(start)
    if end != len(source) and (whole or decoder.inflated):
        raise decoder.bad(end, "the term to be all there is", _counted(len(source) - end, "more byte"))
    if atoms is not None:
        atoms.update(atom for atom in decoder.atoms if type(atom) is Atom)
    return term, end if behind is None else behind


def _behind_version(source: bytes | memoryview, offset: int) -> int:
    if offset == len(source):
        raise DecodeError(offset, f"the version byte {tags.VERSION}", "no bytes at all")
    if source[offset] != tags.VERSION:
        raise DecodeError(offset, f"the version byte {tags.VERSION}", str(source[offset]))
    return offset + 1


def _source(data: Buffer, most: int, offset: int = 0) -> bytes | memoryview:
    """The bytes of ``data``, at most so many from ``offset`` on: itself, or a view that nobody can write through."""
    if type(data) is bytes and 0 <= offset <= len(data) <= offset + most:
        return data
    view = memoryview(data)
    if not 0 <= offset <= view.nbytes:
        raise ValueError(f"expected an offset from 0 to {view.nbytes}, which is the data's length, got {offset}")
    if view.nbytes - offset > most:
        raise DecodeError(offset + most, f"at most {most} bytes (max_size)", f"{view.nbytes - offset}")
    if not view.c_contiguous:
        raise TypeError("expected a contiguous buffer, got one with gaps; decode bytes(data) instead")
    return view.cast("B") if _is_fixed(view) else view.tobytes()


def _is_fixed(view: memoryview) -> bool:
    """Whether the bytes stay as they are: nobody can write to what is viewed, and it can be viewed as bytes."""
    try:
        return view.readonly and memoryview(view.obj).readonly and view.cast("B").readonly
    except (TypeError, ValueError):  # an empty array, a format of more than one letter
        return False


class _Decoder:
    """The bytes, what is wanted of them, and how much of the limits is used up."""

    __slots__ = ("atoms", "count", "data", "funs", "inflated", "limits", "make", "structs")

    def __init__(
        self, data: bytes | memoryview, limits: Limits, binaries: Binaries, structs: bool, inflated: bool = False
    ) -> None:
        self.data = memoryview(data) if binaries == "memoryview" else data
        self.limits = limits
        in_view = binaries == "auto" and type(self.data) is memoryview
        self.make = _text_of_view if in_view else _MAKERS[binaries]
        self.structs = structs
        self.atoms: set[terms.Name] = set()
        self.count = 1  # terms in all
        self.funs = 0  # funs that are being read, one within the other
        self.inflated = inflated

    def read(self, pos: int) -> Read:
        """The term that begins at ``pos`` and where it ends, or a DecodeError."""
        data, make, atoms, most_atoms = self.data, self.make, self.atoms, self.limits.max_atoms
        end = len(data)
        views = make is memoryview
        in_key = False  # whether the container that is being read is a key of a map, or in one
        stack: list[tuple[list[Any], int, Close, bool]] = []
        out: list[Any] = []  # the terms of the container that is being read; at first, the one term that there is
        left = 1
        close: Close = _close_root
        try:
            while True:
                while left:
                    tag = data[pos]
                    if tag == BINARY:
                        start = pos + 5
                        stop = start + _u32(data, pos + 1)[0]
                        if stop > end:
                            raise self.cut(pos)
                        if views and (in_key or _is_key(left, close)):
                            out.append(_text_of_view(data[start:stop]))
                        else:
                            out.append(make(data[start:stop]))
                        pos = stop
                    elif tag == SMALL_INTEGER:
                        out.append(data[pos + 1])
                        pos += 2
                    elif tag == NEW_FLOAT:
                        number = _double(data, pos + 1)[0]
                        if number - number != 0.0:  # it is so for infinity and NaN
                            raise self.bad(pos, "a finite float", str(number))
                        out.append(number)
                        pos += 9
                    elif (
                        tag == SMALL_ATOM_UTF8
                        and (stop := pos + 2 + data[pos + 1]) <= end
                        and (name := bytes(data[pos + 2 : stop])) in _UTF_8
                        and len(atoms) < most_atoms
                    ):  # the reader of atoms, for what is right and known
                        atom = _UTF_8[name]
                        atoms.add(atom)
                        out.append(atom)
                        pos = stop
                    elif opener := _CONTAINERS[tag]:
                        count, start, closing = opener(self, pos)
                        if count:
                            self.check(count, pos, start, len(stack))
                            stack.append((out, left - 1, close, in_key))
                            if views and not in_key:
                                in_key = _is_key(left, close)
                            out, left, close, pos = [], count, closing, start
                            continue
                        pos = start
                        if tag == LIST:
                            continue  # a list of no terms is its tail
                        out.append({} if tag == MAP else ())
                    else:
                        term, pos = _LEAVES[tag](self, pos)
                        if type(term) is memoryview and (in_key or _is_key(left, close)):
                            term = _text_of_view(term)
                        out.append(term)
                    left -= 1
                if close is _close_list and data[pos] != NIL:
                    left, pos, close = self.tail(out, pos)
                    continue
                term, pos = close(self, out, pos)
                if not stack:
                    break
                out, left, close, in_key = stack.pop()
                out.append(term)
                if left & 1 and close is _close_map and not is_plain_key(term):
                    close = _close_odd_map
        except (IndexError, StructError):
            raise self.cut(pos) from None
        return term, pos

    def tail(self, out: list[Any], pos: int) -> tuple[int, int, Close]:
        """What is to be read of a list that does not end in NIL_EXT: how many terms, where, and what closes it then."""
        if self.data[pos] == LIST:
            (count,) = _u32(self.data, pos + 1)
            self.check(count, pos, pos + 5, 0)
            return count, pos + 5, _close_list
        if self.data[pos] == STRING:
            items, pos = _string(self, pos)
            out.extend(items)
            return 0, pos, _close_finished_list
        self.check(1, pos, pos, 0)
        return 1, pos, _close_improper_list

    def check(self, count: int, pos: int, start: int, depth: int) -> None:
        """Refuses a container of ``count`` terms from ``start`` on that cannot be there or is past a limit."""
        if count > len(self.data) - start:
            there = len(self.data) - start
            raise self.bad(pos, f"{_counted(count, 'term')} in a {_name(self.data[pos])}", _counted(there, "byte"))
        if depth >= self.limits.max_depth:
            most = self.limits.max_depth
            raise self.bad(pos, f"at most {most} containers within one another (max_depth)", "one more")
        self.count += count
        if self.count > self.limits.max_terms:
            self.add(0, pos)  # it says what is wrong

    def add(self, count: int, pos: int) -> None:
        """Counts terms."""
        self.count += count
        if self.count > self.limits.max_terms:
            raise self.bad(pos, f"at most {self.limits.max_terms} terms (max_terms)", f"at least {self.count}")

    def bad(self, pos: int, expected: str, got: str) -> DecodeError:
        """The error for what begins at ``pos``."""
        return DecodeError(pos, expected, got, inflated=self.inflated)

    def cut(self, pos: int) -> DecodeError:
        """The error for a term that begins at ``pos`` and of which not everything is there."""
        left = len(self.data) - pos
        if left <= 0:
            return self.bad(len(self.data), "a term", "the end of the data")
        return self.bad(pos, f"the whole {_name(self.data[pos])}", f"only {_counted(left, 'byte')} of it")


_COMPRESSED = bytes((tags.COMPRESSED,))


def _inflate(data: bytes | memoryview, limits: Limits, offset: int = 0) -> tuple[bytes, int]:
    """The term that is compressed from ``offset`` on, inflated, and where its compressed form ends."""
    import zlib

    if len(data) - offset < 6:
        raise DecodeError(offset + 1, "the size of a compressed term in 4 bytes", f"{len(data) - offset - 2}")
    (size,) = _u32(data, offset + 2)
    if size > limits.max_inflated:
        most = limits.max_inflated
        raise DecodeError(offset + 2, f"at most {most} bytes when inflated (max_inflated)", f"{size}")
    stream = zlib.decompressobj()
    try:
        # One byte more than stated, to see whether it lied.
        inflated = stream.decompress(memoryview(data)[offset + 6 :], size + 1)
    except zlib.error as error:
        raise DecodeError(offset + 6, "zlib data", str(error)) from None
    if len(inflated) > size:
        raise DecodeError(offset + 2, f"the stated size of {size} to be enough", "more when inflating")
    if not stream.eof:
        got = f"data that is cut after {len(inflated)}"
        raise DecodeError(offset + 6, f"zlib data with {_counted(size, 'byte')}", got)
    if len(inflated) < size:
        raise DecodeError(offset + 2, f"the stated {_counted(size, 'byte')}", f"{len(inflated)} after inflating")
    return inflated, len(data) - len(stream.unused_data)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _name(tag: int) -> str:
    return tags.NAMES.get(tag, f"tag {tag}")


# -- leaves: where one begins, to its value and where it ends --------------------------------------------------


_LONG = 4096


def _text(binary: bytes) -> str | bytes:
    try:
        if len(binary) > _LONG:  # the exception copies all that it was given: mostly the beginning tells
            utf_8_decode(binary[:_LONG], "strict", False)
        return binary.decode()
    except UnicodeDecodeError:
        return binary


def _text_of_view(binary: bytes | memoryview) -> str | bytes:
    return _text(bytes(binary))


# What is made of a binary, which is a slice of the data: bytes or a view.
_MAKERS: dict[str, Callable[[Any], Any]] = {"auto": _text, "bytes": bytes, "memoryview": memoryview}


def _is_key(left: int, close: Close) -> bool:
    """Whether a term is a key, where a container with that end still lacks so many."""
    return not left & 1 and (close is _close_map or close is _close_odd_map)


def _stop(decoder: _Decoder, pos: int, start: int, size: int) -> int:
    """Where ``size`` bytes from ``start`` on end, if they are all there."""
    stop = start + size
    if stop > len(decoder.data):
        raise decoder.cut(pos)
    return stop


def _integer(decoder: _Decoder, pos: int) -> Read:
    return _i32(decoder.data, pos + 1)[0], pos + 5


def _small_big(decoder: _Decoder, pos: int) -> Read:
    return _big(decoder, pos, pos + 2, decoder.data[pos + 1])


def _large_big(decoder: _Decoder, pos: int) -> Read:
    return _big(decoder, pos, pos + 5, _u32(decoder.data, pos + 1)[0])


def _big(decoder: _Decoder, pos: int, start: int, size: int) -> Read:
    if size > tags.MAX_BIG_BYTES:
        raise decoder.bad(pos, f"an integer of at most {tags.MAX_BIG_BYTES} bytes", f"one of {size}")
    sign, stop = decoder.data[start], _stop(decoder, pos, start + 1, size)
    magnitude = int.from_bytes(decoder.data[start + 1 : stop], "little")
    return -magnitude if sign else magnitude, stop


def _float(decoder: _Decoder, pos: int) -> Read:
    """The old form: 31 characters as C's ``printf("%.20e")`` writes them, filled up with zeros."""
    import re

    stop = _stop(decoder, pos, pos + 1, 31)
    written, zero, _ = bytes(decoder.data[pos + 1 : stop]).replace(b",", b".").partition(b"\0")
    if not zero or not re.fullmatch(rb"[+-]?[0-9]+\.[0-9]+([eE][+-]?[0-9]+)?", written):
        raise decoder.bad(pos, "a float in decimal digits", repr(written)[1:])
    value = float(written)
    if value - value != 0.0:
        raise decoder.bad(pos, "a finite float", repr(written)[1:])
    return value, stop


def _nil(_: _Decoder, pos: int) -> Read:
    return [], pos + 1


def _string(decoder: _Decoder, pos: int) -> tuple[list[int], int]:
    (size,) = _u16(decoder.data, pos + 1)
    stop = _stop(decoder, pos, pos + 3, size)
    decoder.add(size, pos)
    return list(decoder.data[pos + 3 : stop]), stop


def _bit_binary(decoder: _Decoder, pos: int) -> Read:
    (size,), bits = _u32(decoder.data, pos + 1), decoder.data[pos + 5]
    stop = _stop(decoder, pos, pos + 6, size)
    binary = decoder.data[pos + 6 : stop]
    if bits > 8 or bool(bits) != bool(size):
        raise decoder.bad(pos, "1 to 8 bits in the last of 1 or more bytes", f"{bits} in the last of {size}")
    if 1 <= bits <= 7:
        return BitString(bytes(binary), bits), stop
    return decoder.make(binary), stop


class _Known(dict[bytes, "terms.Name"]):
    """The atoms that were met lately, by their bytes. Bounded, since it keeps them alive."""

    most = 2048

    def __init__(self, encoding: str) -> None:
        self.encoding = encoding

    def __missing__(self, data: bytes) -> terms.Name:
        name = data.decode(self.encoding)
        atom = terms.CONSTANTS[name] if name in terms.CONSTANTS else Atom(name)
        if len(self) >= self.most:
            self.clear()
        self[data] = atom
        return atom


def _atom_reader(known: _Known, *, small: bool) -> Callable[[_Decoder, int], Read]:
    def read_atom(decoder: _Decoder, pos: int) -> Read:
        data = decoder.data
        start, size = (pos + 2, data[pos + 1]) if small else (pos + 3, _u16(data, pos + 1)[0])
        stop = start + size
        if stop > len(data):
            raise decoder.cut(pos)
        name = bytes(data[start:stop])
        try:
            atom = known[name]
        except UnicodeDecodeError:
            raise decoder.bad(pos, "an atom in valid UTF-8", repr(name)[1:]) from None
        except ValueError as error:
            raise decoder.bad(pos, "an atom", str(error)) from None
        decoder.atoms.add(atom)
        if len(decoder.atoms) > decoder.limits.max_atoms:
            raise decoder.bad(pos, f"at most {decoder.limits.max_atoms} different atoms (max_atoms)", "one more")
        return atom, stop

    return read_atom


_LATIN_1, _UTF_8 = _Known("latin-1"), _Known("utf-8")
_ATOMS = {
    tags.ATOM: _atom_reader(_LATIN_1, small=False),
    tags.SMALL_ATOM: _atom_reader(_LATIN_1, small=True),
    tags.ATOM_UTF8: _atom_reader(_UTF_8, small=False),
    tags.SMALL_ATOM_UTF8: _atom_reader(_UTF_8, small=True),
}


def _atom(decoder: _Decoder, pos: int) -> Read:
    """An atom where there must be one."""
    read_atom = _ATOMS.get(decoder.data[pos])
    if read_atom is None:
        raise decoder.bad(pos, "an atom", _name(decoder.data[pos]))
    return read_atom(decoder, pos)


_MAX_OLD_CREATION = 3  # the tags of before OTP 23 have two bits for it, and 18 for the first word of a reference
_MAX_OLD_REFERENCE = 0x3FFFF


def _creation(decoder: _Decoder, pos: int, *, old: bool) -> tuple[int, int]:
    if not old:
        return _u32(decoder.data, pos)[0], pos + 4
    creation = decoder.data[pos]
    if creation > _MAX_OLD_CREATION:
        raise decoder.bad(pos, f"a creation of at most {_MAX_OLD_CREATION} in a tag of this age", f"{creation}")
    return creation, pos + 1


def _pid(decoder: _Decoder, pos: int) -> Read:
    node, at = _atom(decoder, pos + 1)
    (id_,), (serial,) = _u32(decoder.data, at), _u32(decoder.data, at + 4)
    creation, stop = _creation(decoder, at + 8, old=decoder.data[pos] == tags.PID)
    return Pid(node, id_, serial, creation), stop


def _port(decoder: _Decoder, pos: int) -> Read:
    node, at = _atom(decoder, pos + 1)
    wide = decoder.data[pos] == tags.V4_PORT
    (id_,) = _u64(decoder.data, at) if wide else _u32(decoder.data, at)
    creation, stop = _creation(decoder, at + (8 if wide else 4), old=decoder.data[pos] == tags.PORT)
    return Port(node, id_, creation), stop


def _reference(decoder: _Decoder, pos: int) -> Read:
    """REFERENCE_EXT, the oldest: one word, and the creation after it."""
    node, at = _atom(decoder, pos + 1)
    (word,) = _u32(decoder.data, at)
    creation, stop = _creation(decoder, at + 4, old=True)
    return Reference(node, creation, _words(decoder, pos, (word,), old=True)), stop


def _newer_reference(decoder: _Decoder, pos: int) -> Read:
    (size,) = _u16(decoder.data, pos + 1)
    if not 1 <= size <= terms.MAX_REFERENCE_WORDS:
        raise decoder.bad(pos, f"a reference of 1 to {terms.MAX_REFERENCE_WORDS} words", f"one of {size}")
    old = decoder.data[pos] == tags.NEW_REFERENCE
    node, at = _atom(decoder, pos + 3)
    creation, at = _creation(decoder, at, old=old)
    words = tuple(_u32(decoder.data, at + 4 * index)[0] for index in range(size))
    return Reference(node, creation, _words(decoder, pos, words, old=old)), at + 4 * size


def _words(decoder: _Decoder, pos: int, words: tuple[int, ...], *, old: bool) -> tuple[int, ...]:
    if old and words[0] > _MAX_OLD_REFERENCE:
        raise decoder.bad(pos, "a first word of at most 18 bits in a reference of this age", f"{words[0]}")
    return words


def _export(decoder: _Decoder, pos: int) -> Read:
    module, at = _atom(decoder, pos + 1)
    function, at = _atom(decoder, at)
    if decoder.data[at] not in _INTEGERS:
        raise decoder.bad(at, "an integer as the arity of an export", _name(decoder.data[at]))
    arity, stop = _INTEGERS[decoder.data[at]](decoder, at)
    if not 0 <= arity <= terms.MAX_SMALL:
        raise decoder.bad(
            at, f"an arity from 0 to {terms.MAX_SMALL}", "a negative one" if arity < 0 else "a greater one"
        )
    return Export(module, function, arity), stop


def _small_integer(decoder: _Decoder, pos: int) -> Read:
    return decoder.data[pos + 1], pos + 2


def _unknown(decoder: _Decoder, pos: int) -> NoReturn:
    raise decoder.bad(pos, "a tag of the external term format", f"{decoder.data[pos]}")


_INTEGERS = {
    tags.SMALL_INTEGER: _small_integer,
    tags.INTEGER: _integer,
    tags.SMALL_BIG: _small_big,
    tags.LARGE_BIG: _large_big,
}
_READERS: dict[int, Callable[[_Decoder, int], Read]] = {
    **_INTEGERS,
    **_ATOMS,
    tags.FLOAT: _float,
    tags.NIL: _nil,
    tags.STRING: _string,
    tags.BIT_BINARY: _bit_binary,
    tags.PID: _pid,
    tags.NEW_PID: _pid,
    tags.PORT: _port,
    tags.NEW_PORT: _port,
    tags.V4_PORT: _port,
    tags.REFERENCE: _reference,
    tags.NEW_REFERENCE: _newer_reference,
    tags.NEWER_REFERENCE: _newer_reference,
    tags.EXPORT: _export,
}
_LEAVES = [_READERS.get(tag, _unknown) for tag in range(256)]


# -- containers: opened where they begin, closed when all their terms are read ---------------------------------


def _open_small_tuple(decoder: _Decoder, pos: int) -> Opened:
    return decoder.data[pos + 1], pos + 2, _close_tuple


def _open_large_tuple(decoder: _Decoder, pos: int) -> Opened:
    return _u32(decoder.data, pos + 1)[0], pos + 5, _close_tuple


def _open_list(decoder: _Decoder, pos: int) -> Opened:
    return _u32(decoder.data, pos + 1)[0], pos + 5, _close_list


def _open_map(decoder: _Decoder, pos: int) -> Opened:
    return 2 * _u32(decoder.data, pos + 1)[0], pos + 5, _close_map


_FUN_HEAD = 30  # tag, size, arity, unique, index, number of free variables
_FUN_TERMS = 4  # module, old index, old unique, creator
_MAX_FREE = 255


def _open_fun(decoder: _Decoder, pos: int) -> Opened:
    (free,) = _u32(decoder.data, pos + _FUN_HEAD - 4)
    if free > _MAX_FREE:
        raise decoder.bad(pos, f"a fun with at most {_MAX_FREE} free variables", f"one with {free}")
    decoder.funs += 1
    return _FUN_TERMS + free, pos + _FUN_HEAD, lambda decoder, out, stop: (_fun(decoder, out, pos, stop), stop)


def _fun(decoder: _Decoder, out: list[Any], pos: int, stop: int) -> Fun:
    module, old_index, old_unique, creator = out[:_FUN_TERMS]
    if not (isinstance(module, (Atom, bool)) or module is None):
        raise decoder.bad(pos, "a fun whose module is an atom", type(module).__name__)
    if not (type(old_index) is type(old_unique) is int and type(creator) is Pid):
        raise decoder.bad(pos, "a fun with two integers and a pid", "other terms")
    (size,), (index,) = _u32(decoder.data, pos + 1), _u32(decoder.data, pos + 22)
    if size != stop - pos - 1:
        raise decoder.bad(pos, f"a fun of the stated {_counted(size, 'byte')}", f"one of {stop - pos - 1}")
    try:
        sameness = terms.identity((module, index, old_unique & 0xFFFFFFFF, tuple(out[_FUN_TERMS:])))
    except ValueError as error:
        raise decoder.bad(pos, "a fun that can be compared", str(error)) from None
    decoder.funs -= 1
    data = b"" if decoder.funs else bytes(decoder.data[pos:stop])  # the outermost keeps the bytes of all
    return Fun(module, decoder.data[pos + 5], index, old_unique, data, sameness)


_RECORD_HEAD = 6  # tag, number of fields, whether it is exported


def _open_record(decoder: _Decoder, pos: int) -> Opened:
    (count,) = _u32(decoder.data, pos + 1)
    exported = decoder.data[pos + 5]
    if exported > 1:
        raise decoder.bad(pos, "a record that is exported (1) or not (0)", f"{exported}")
    return 2 + 2 * count, pos + _RECORD_HEAD, lambda decoder, out, stop: (_record(decoder, out, pos), stop)


def _record(decoder: _Decoder, out: list[Any], pos: int) -> Record:
    count = len(out) // 2 - 1
    module, name, *names = out[: 2 + count]
    for one in (module, name, *names):
        if not (isinstance(one, (Atom, bool)) or one is None):
            raise decoder.bad(pos, "a record whose names are atoms", type(one).__name__)
    if len(set(names)) < count:
        raise decoder.bad(pos, "a record with each field once", "one with a field twice")
    fields = tuple(zip(names, out[2 + count :], strict=True))
    return Record(module, name, fields, bool(decoder.data[pos + 5]))


def _close_root(_: _Decoder, out: list[Any], pos: int) -> Read:
    return out[0], pos


def _close_tuple(_: _Decoder, out: list[Any], pos: int) -> Read:
    return tuple(out), pos


def _close_list(_: _Decoder, out: list[Any], pos: int) -> Read:
    return out, pos + 1


def _close_finished_list(_: _Decoder, out: list[Any], pos: int) -> Read:
    return out, pos


def _close_improper_list(_: _Decoder, out: list[Any], pos: int) -> Read:
    tail = out.pop()
    return ImproperList(out, tail), pos


def _close_map(decoder: _Decoder, out: list[Any], pos: int, *, plain: bool = True) -> Read:
    try:
        made = make_map(out, decoder.limits.max_collisions, plain=plain)
    except BadMap as bad:
        raise decoder.bad(pos, f"{bad.expected} to end here", bad.got) from None
    if decoder.structs and type(made) is dict and STRUCT in made:
        return from_fields(made), pos
    return made, pos


def _close_odd_map(decoder: _Decoder, out: list[Any], pos: int) -> Read:
    return _close_map(decoder, out, pos, plain=False)


_OPENERS: dict[int, Callable[[_Decoder, int], Opened]] = {
    SMALL_TUPLE: _open_small_tuple,
    tags.LARGE_TUPLE: _open_large_tuple,
    LIST: _open_list,
    MAP: _open_map,
    tags.NEW_FUN: _open_fun,
    tags.RECORD: _open_record,
}
_CONTAINERS = [_OPENERS.get(tag) for tag in range(256)]
