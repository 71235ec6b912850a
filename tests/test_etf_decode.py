"""Decoding: options, limits, and the message for everything that can be wrong with bytes."""

from __future__ import annotations

import ctypes
import mmap
import pickle
import tracemalloc
import zlib
from array import array
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from erl_bridge import terms
from erl_bridge.errors import SerializationError
from erl_bridge.etf import DEFAULT, DecodeError, Limits, backends
from erl_bridge.etf import decoder as python_decoder
from erl_bridge.etf.times import Zone
from erl_bridge.terms import Atom, BitString, Export, ImproperList, Pid, TermMap

each_codec = pytest.mark.parametrize("codec", [backends.load(name) for name in backends.names()], ids=lambda c: c.name)

NODE = b"w\x03n@h"


def u32(number: int) -> bytes:
    return number.to_bytes(4, "big")


def nested(depth: int) -> bytes:
    return b"\x83" + b"l\0\0\0\1" * depth + b"j" * (depth + 1)


def compressed(body: bytes, size: int | None = None) -> bytes:
    return b"\x83P" + u32(len(body) if size is None else size) + zlib.compress(body)


# -- messages --------------------------------------------------------------------------------------------------

MESSAGES = [
    (b"", 0, "the version byte 131", "no bytes at all"),
    (b"a\1", 0, "the version byte 131", "97"),
    (b"\x83", 1, "a term", "the end of the data"),
    (b"\x83\xff", 1, "a tag of the external term format", "255"),
    (b"\x83h\2a\1P", 5, "a tag of the external term format", "80"),
    (b"\x83h\2a\1", 5, "a term", "the end of the data"),
    (b"\x83a", 1, "the whole SMALL_INTEGER_EXT", "only 1 byte of it"),
    (b"\x83b\0\0", 1, "the whole INTEGER_EXT", "only 3 bytes of it"),
    (b"\x83m\0\0\0\5abc", 1, "the whole BINARY_EXT", "only 8 bytes of it"),
    (b"\x83k\0\5abc", 1, "the whole STRING_EXT", "only 6 bytes of it"),
    (b"\x83w\5abc", 1, "the whole SMALL_ATOM_UTF8_EXT", "only 5 bytes of it"),
    (b"\x83l\0\0\0\1", 1, "1 term in a LIST_EXT", "0 bytes"),
    (b"\x83l\xff\xff\xff\xffj", 1, "4294967295 terms in a LIST_EXT", "1 byte"),
    (b"\x83t\xff\xff\xff\xffj", 1, "8589934590 terms in a MAP_EXT", "1 byte"),
    (b"\x83i\xff\xff\xff\xffj", 1, "4294967295 terms in a LARGE_TUPLE_EXT", "1 byte"),
    (b"\x83l\0\0\0\1a\1l\0\0\0\7j", 8, "7 terms in a LIST_EXT", "1 byte"),
    (b"\x83a\1zz", 3, "the term to be all there is", "2 more bytes"),
    (b"\x83F\x7f\xf8" + bytes(6), 1, "a finite float", "nan"),
    (b"\x83F\xff\xf0" + bytes(6), 1, "a finite float", "-inf"),
    (b"\x83cnan" + bytes(28), 1, "a float in decimal digits", "'nan'"),
    (b"\x83c1.5" + b"0" * 28, 1, "a float in decimal digits", "'1.5" + "0" * 28 + "'"),
    (b"\x83c1.0e400" + bytes(24), 1, "a finite float", "'1.0e400'"),
    (b"\x83w\1\xe4", 1, "an atom in valid UTF-8", r"'\xe4'"),
    (b"\x83d\1\0" + b"a" * 256, 1, "an atom", "an atom has at most 255 characters, not 256"),
    (b"\x83M\0\0\0\1\x09a", 1, "1 to 8 bits in the last of 1 or more bytes", "9 in the last of 1"),
    (b"\x83M\0\0\0\0\1", 1, "1 to 8 bits in the last of 1 or more bytes", "1 in the last of 0"),
    (b"\x83o" + u32(4194297), 1, "an integer of at most 4194296 bytes", "one of 4194297"),
    (b"\x83Xa\1" + bytes(12), 2, "an atom", "SMALL_INTEGER_EXT"),
    (b"\x83X\xfa\1" + bytes(12), 2, "an atom", "tag 250"),
    (b"\x83g" + NODE + bytes(8) + b"\4", 15, "a creation of at most 3 in a tag of this age", "4"),
    (b"\x83e" + NODE + b"\0\4\0\0\1", 1, "a first word of at most 18 bits in a reference of this age", "262144"),
    (b"\x83Z\0\6" + NODE + bytes(28), 1, "a reference of 1 to 5 words", "one of 6"),
    (b"\x83Z\0\0" + NODE + bytes(4), 1, "a reference of 1 to 5 words", "one of 0"),
    (b"\x83q" + NODE + NODE + b"j", 12, "an integer as the arity of an export", "NIL_EXT"),
    (b"\x83q" + NODE + NODE + b"b\xff\xff\xff\xff", 12, f"an arity from 0 to {2**59 - 1}", "a negative one"),
    (b"\x83q" + NODE + NODE + b"n\x08\0" + b"\xff" * 8, 12, f"an arity from 0 to {2**59 - 1}", "a greater one"),
    (b"\x83p" + bytes(25) + u32(256), 1, "a fun with at most 255 free variables", "one with 256"),
    (b"\x83p" + bytes(29) + b"jjjj", 1, "a fun whose module is an atom", "list"),
    (b"\x83p" + bytes(29) + NODE + b"jjj", 1, "a fun with two integers and a pid", "other terms"),
    (
        b"\x83p" + bytes(29) + NODE + b"a\0a\0X" + NODE + bytes(12),
        1,
        "a fun of the stated 0 bytes",
        "one of 56",
    ),
    (b"\x83t\0\0\0\2a\1jb\0\0\0\1j", 15, "a map with distinct keys to end here", "one of 2 pairs with 1 distinct"),
    (b"\x83P\0\0", 1, "the size of a compressed term in 4 bytes", "2"),
    (b"\x83P\0\0\0\1junk", 6, "zlib data", "Error -3 while decompressing data: incorrect header check"),
    (compressed(b"a\1", 1), 2, "the stated size of 1 to be enough", "more when inflating"),
    (compressed(b"a\1", 3), 2, "the stated 3 bytes", "2 after inflating"),
    (compressed(b"a\1")[:-1], 6, "zlib data with 2 bytes", "data that is cut after 2"),
    (compressed(b"a\1") + b"\0", 16, "the end of the data", "1 more byte"),
]


@each_codec
@pytest.mark.parametrize(("data", "offset", "expected", "got"), MESSAGES)
def test_messages(codec: backends.Backend, data: bytes, offset: int, expected: str, got: str) -> None:
    with pytest.raises(DecodeError) as caught:
        codec.decode(data)
    assert str(caught.value) == f"cannot decode byte {offset}: expected {expected}, got {got}"
    assert caught.value.offset == offset
    assert caught.value.context == {Atom("expected"): expected, Atom("got"): got}
    assert isinstance(caught.value, SerializationError)


@each_codec
def test_offsets_in_a_compressed_term_are_those_of_the_inflated_data(codec: backends.Backend) -> None:
    with pytest.raises(DecodeError) as caught:
        codec.decode(compressed(b"a\1\0"))
    assert str(caught.value) == (
        "cannot decode byte 2 of the inflated data: expected the term to be all there is, got 1 more byte"
    )
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.offset) == (str(caught.value), 2)


# -- one term of several ---------------------------------------------------------------------------------------


@each_codec
def test_a_prefix_ends_where_its_term_does(codec: backends.Backend) -> None:
    control, message = (2, Atom(""), Pid(Atom("n@h"), 1, 2, 3)), {"rows": [[1.5, "ż"]] * 300}
    frame = b"\x70" + codec.encode(control) + codec.encode(message)
    for data in (frame, memoryview(frame), bytearray(frame)):
        first, end = codec.decode_prefix(data, 1)
        assert (first, end) == (control, 1 + len(codec.encode(control)))
        assert codec.decode_prefix(data, end) == codec.decode_prefix(data, offset=end) == (message, len(frame))
    assert codec.decode_prefix(frame[2:], version=False) == (control, end - 2)
    assert codec.decode_prefix(b"zz\x83a\1zz", 2, binaries="bytes", limits=Limits(max_terms=1)) == (1, 5)


@each_codec
def test_a_prefix_may_be_compressed(codec: backends.Backend) -> None:
    data = compressed(b"m" + u32(500) + b"x" * 500)
    assert codec.decode_prefix(b"ab" + data + b"cd", 2) == ("x" * 500, 2 + len(data))
    for data, message in [
        (b"ab" + compressed(b"a\1\0"), "byte 2 of the inflated data: expected the term to be all there is"),
        (b"ab" + compressed(b"a\1", 1), "byte 4: expected the stated size of 1 to be enough"),
        (b"ab" + compressed(b"a\1")[:-1], "byte 8: expected zlib data with 2 bytes"),
        (b"ab" + compressed(b"a\1", 10**9), "byte 4: expected at most 67108864 bytes when inflated"),
        (b"ab\x83P\0\0", "byte 3: expected the size of a compressed term in 4 bytes, got 2"),
    ]:
        with pytest.raises(DecodeError, match=f"^cannot decode {message}"):
            codec.decode_prefix(data, 2)
    with pytest.raises(DecodeError, match="byte 1: expected a tag of the external term format, got 80"):
        codec.decode_prefix(compressed(b"a\1"), 1, version=False)


@each_codec
def test_offsets_in_what_is_said_of_a_prefix_are_those_in_the_data(codec: backends.Backend) -> None:
    for data, offset, expected, got in MESSAGES:
        if "inflated" in expected or "all there is" in expected or expected == "the end of the data":
            continue
        with pytest.raises(DecodeError) as caught:
            codec.decode_prefix(b"\x83a\7" + data, 3)
        assert str(caught.value) == f"cannot decode byte {offset + 3}: expected {expected}, got {got}"


@each_codec
def test_limits_of_a_prefix(codec: backends.Backend) -> None:
    data = b"\x83m\0\0\0\4abcd"
    assert codec.decode_prefix(data * 3, 20, limits=Limits(max_size=10)) == ("abcd", 30)
    with pytest.raises(DecodeError, match=r"byte 19: expected at most 9 bytes \(max_size\), got 10"):
        codec.decode_prefix(data * 2, 10, limits=Limits(max_size=9))
    with pytest.raises(DecodeError, match=r"byte 11: expected at most 2 terms \(max_terms\), got at least 3"):
        codec.decode_prefix(data + b"\x83h\2jj" + data, 10, limits=Limits(max_terms=2))


@each_codec
def test_wrong_arguments_of_a_prefix(codec: backends.Backend) -> None:
    for offset in (-1, 4, 1 << 70):
        with pytest.raises(
            ValueError, match=f"expected an offset from 0 to 3, which is the data's length, got {offset}"
        ):
            codec.decode_prefix(b"\x83a\1", offset)
    with pytest.raises(DecodeError, match="byte 3: expected the version byte 131, got no bytes at all"):
        codec.decode_prefix(b"\x83a\1", 3)
    with pytest.raises(DecodeError, match="byte 3: expected a term, got the end of the data"):
        codec.decode_prefix(b"\x83a\1", 3, version=False)
    for arguments, options in [((), {}), ((b"", 0, 1), {}), ((b"",), {"whole": 1}), ((b"", "0"), {})]:
        with pytest.raises(TypeError):
            codec.decode_prefix(*arguments, **options)


# -- arguments -------------------------------------------------------------------------------------------------


class Row(ctypes.Structure):
    _fields_ = [("byte", ctypes.c_uint8)]


@each_codec
def test_bytes_may_come_in_any_buffer(codec: backends.Backend) -> None:
    data = b"\x83h\2m\0\0\0\4abcdm\0\0\0\2\xff\xff"
    signed = array("b", [byte - 256 if byte > 127 else byte for byte in data])
    square = memoryview(data).cast("B", (1, len(data)))
    table = (Row * len(data)).from_buffer_copy(data)
    for whole in (data, bytearray(data), memoryview(data), signed, square, table, memoryview(data).cast("c")):
        for buffer in (whole, memoryview(whole).toreadonly()):
            for binaries in ("auto", "memoryview"):
                assert codec.encode(codec.decode(buffer, binaries=binaries)) == data
    assert codec.decode(memoryview(b"<" + data + b">")[1:-1]) == ("abcd", b"\xff\xff")
    for empty in (b"", bytearray(), array("I"), memoryview(b"")):
        assert refused(codec, empty, DEFAULT).endswith("the version byte 131, got no bytes at all")


@each_codec
@pytest.mark.parametrize("view", [memoryview(bytes(8))[::2], memoryview(bytearray(b"\x83a\1"))[::-1]])
def test_a_buffer_with_gaps_is_refused(codec: backends.Backend, view: memoryview) -> None:
    with pytest.raises(
        TypeError, match=r"expected a contiguous buffer, got one with gaps; decode bytes\(data\) instead"
    ):
        codec.decode(view)


@each_codec
def test_a_read_only_buffer_is_read_in_place(codec: backends.Backend, tmp_path: Path) -> None:
    path, size = tmp_path / "term", 4 << 20
    path.write_bytes(codec.encode([b"\xff" * size, {"k": Atom("a")}, Pid(Atom("n@h"), 1, 2, 3)]))
    codec.decode(codec.encode([Pid(Atom("n@h"), 1, 2, 3)]), binaries="memoryview")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        tracemalloc.start()
        try:
            blob = codec.decode(mapped, binaries="memoryview")[0]
            assert tracemalloc.get_traced_memory()[1] < 100_000
            tracemalloc.reset_peak()
            codec.decode(mapped, binaries="bytes")
            assert size < tracemalloc.get_traced_memory()[1] < size + 100_000
        finally:
            tracemalloc.stop()
        assert blob.obj is mapped
        assert blob == b"\xff" * size
        with pytest.raises(BufferError):
            mapped.close()
        blob.release()


@each_codec
def test_what_can_be_written_to_is_copied(codec: backends.Backend) -> None:
    data = bytearray(codec.encode(["text", b"\xff"]))
    for look in (lambda: data, lambda: memoryview(data).toreadonly()):
        found = codec.decode(look(), binaries="memoryview")
        data[:] = bytes(len(data) + 1)  # nobody else holds on to it
        assert found == [b"text", b"\xff"]
        assert type(found[0].obj) is bytes
        data[:] = codec.encode(["text", b"\xff"])


@each_codec
def test_binaries_as_views(codec: backends.Backend) -> None:
    term = {"k": ["a", b"\xff", BitString(b"a", 1), ("x", {"l": ImproperList(["y"], "z")})]}
    data = codec.encode(term)
    again = codec.decode(data, binaries="memoryview")
    assert terms.identity(again) == terms.identity(term)
    assert codec.encode(again) == data
    blobs = [*again["k"][:2], again["k"][3][0], *again["k"][3][1]["l"].items, again["k"][3][1]["l"].tail]
    for blob in blobs:
        assert (type(blob), blob.readonly, blob.format, blob.obj) == (memoryview, True, "B", data)
        assert hash(blob) == hash(bytes(blob))
    (inflated,) = codec.decode(codec.encode(["a" * 100], compressed=True), binaries="memoryview")
    assert inflated == b"a" * 100
    assert len(inflated.obj) > 100
    assert codec.decode(b"\x83m\0\0\0\0", binaries="memoryview") == b""
    assert type(codec.decode(b"\x83M\0\0\0\1\x08a", binaries="memoryview")) is memoryview


@each_codec
def test_views_stay_out_of_keys(codec: backends.Backend) -> None:
    term = {"k": "v", b"\xff": {"in": "v"}, ("t", (b"\xfe",)): "v", Atom("set"): {"member", ("deep", 1)}}
    for data in (codec.encode(term), bytearray(codec.encode(term))):
        again = codec.decode(data, binaries="memoryview")
        assert again.keys() == term.keys()
        assert {type(key) for key in again} == {str, bytes, tuple, Atom}
        assert again["k"] == b"v"
        assert type(again[b"\xff"]["in"]) is type(again[("t", (b"\xfe",))]) is memoryview
        assert again[Atom("set")] == {"member", ("deep", 1)}
    odd = TermMap([(["in list", {"in": "map"}], "v"), (1, "v"), (1.0, "v")])
    (key, value), *_ = codec.decode(codec.encode(odd), binaries="memoryview").items()
    assert (key, type(value)) == (["in list", {"in": "map"}], memoryview)
    bits = b"\x83t\0\0\0\1M\0\0\0\1\x08aM\0\0\0\1\x08b"
    assert [*map(type, next(iter(codec.decode(bits, binaries="memoryview").items())))] == [str, memoryview]


@each_codec
def test_views_leave_structs_as_they_are(codec: backends.Backend) -> None:
    zone = Zone("Europe/Berlin", "CET", 3600, 0)
    for value in (datetime(2024, 5, 6, 7, 8, 9, tzinfo=zone), date(2024, 5, 6), range(3), {1, "a"}, Decimal("1.5")):
        assert codec.decode(codec.encode([value]), binaries="memoryview") == [value]


@each_codec
@pytest.mark.parametrize("data", ["\x83a\1", None, 131, [131, 97, 1]])
def test_what_is_not_bytes_is_a_type_error(codec: backends.Backend, data: Any) -> None:
    with pytest.raises(TypeError):
        codec.decode(data)


@each_codec
def test_binaries_as_bytes(codec: backends.Backend) -> None:
    data = codec.encode({"k": ["a", b"\xff", BitString(b"a", 1), ("x",)]})
    assert codec.decode(data, binaries="bytes") == {b"k": [b"a", b"\xff", BitString(b"a", 1), (b"x",)]}
    with pytest.raises(ValueError, match="binaries is 'auto', 'bytes' or 'memoryview', not 'str'"):
        codec.decode(data, binaries="str")


@each_codec
def test_structs_as_they_are(codec: backends.Backend) -> None:
    fields = codec.decode(codec.encode(date(2024, 5, 6)), structs=False)
    assert fields[Atom("__struct__")] is Atom("Elixir.Date")
    assert codec.decode(codec.encode(fields)) == date(2024, 5, 6)


@each_codec
def test_atoms_are_collected_wherever_they_are(codec: backends.Backend) -> None:
    def atom(name: str) -> bytes:
        return b"w" + bytes((len(name),)) + name.encode()

    pid = b"X" + atom("pid") + bytes(12)
    fun = atom("fun") + b"a\0a\0" + b"X" + atom("creator") + bytes(12) + atom("free")
    bodies = [
        b"d\0\1\xe4" + b"s\1\xe5" + b"v\0\2\xc3\xb6" + atom("true") + atom("nil"),
        b"t\0\0\0\1" + atom("key") + atom("value"),
        b"l\0\0\0\1" + atom("item") + atom("tail"),
        pid + b"Y" + atom("port") + bytes(8),
        b"Z\0\1" + atom("ref") + bytes(8),
        b"q" + atom("module") + atom("function") + b"a\1",
        b"p" + u32(29 + len(fun)) + bytes(21) + u32(1) + fun,
        codec.encode(date(2024, 1, 1))[1:],
    ]
    found = {Atom("was there before")}
    codec.decode(b"\x83h\x0d" + b"".join(bodies), atoms=found)
    assert {str(atom) for atom in found} == {
        *("was there before", "ä", "å", "ö", "key", "value", "item", "tail", "pid", "port", "ref", "module"),
        *("function", "fun", "creator", "free"),
        *("__struct__", "Elixir.Date", "calendar", "Elixir.Calendar.ISO", "year", "month", "day"),
    }


@each_codec
def test_a_bad_term_adds_no_atoms(codec: backends.Backend) -> None:
    found: set[Atom] = set()
    with pytest.raises(DecodeError):
        codec.decode(b"\x83h\2w\1a", atoms=found)
    assert found == set()


# -- limits ----------------------------------------------------------------------------------------------------


def refused(codec: backends.Backend, data: bytes, limits: Limits) -> str:
    with pytest.raises(DecodeError) as caught:
        codec.decode(data, limits=limits)
    return str(caught.value)


@each_codec
def test_max_size(codec: backends.Backend) -> None:
    data = codec.encode("abc")
    assert codec.decode(data, limits=Limits(max_size=len(data))) == "abc"
    assert (
        refused(codec, data, Limits(max_size=8)) == "cannot decode byte 8: expected at most 8 bytes (max_size), got 9"
    )


@each_codec
def test_max_depth(codec: backends.Backend) -> None:
    depth = 0
    term = codec.decode(nested(10_000))
    while term:
        (term,), depth = term, depth + 1
    assert depth == 10_000 == DEFAULT.max_depth
    assert refused(codec, nested(10_001), DEFAULT) == (
        "cannot decode byte 50001: expected at most 10000 containers within one another (max_depth), got one more"
    )
    assert codec.decode(nested(50_000), limits=Limits(max_depth=50_000))


@each_codec
@pytest.mark.parametrize("body", [b"h\1", b"t\0\0\0\1a\1", b"l\0\0\0\1a\1"], ids=["tuple", "map value", "tail"])
def test_max_depth_of_other_containers(codec: backends.Backend, body: bytes) -> None:
    codec.decode(b"\x83" + body * 100 + b"h\0", limits=Limits(max_depth=100))
    if body[:1] == b"l":  # lists in tails are one list, however many they are
        codec.decode(b"\x83" + body * 101 + b"h\0", limits=Limits(max_depth=1))
    else:
        assert "max_depth" in refused(codec, b"\x83" + body * 101 + b"h\0", Limits(max_depth=100))


@each_codec
@pytest.mark.parametrize(
    ("data", "count"),
    [
        (b"\x83a\1", 1),
        (b"\x83l\0\0\0\2jjj", 3),
        (b"\x83h\2jj", 3),
        (b"\x83t\0\0\0\1a\1j", 3),
        (b"\x83k\0\3abc", 4),
        (b"\x83l\0\0\0\1jk\0\3abc", 5),
        (b"\x83l\0\0\0\1ja\1", 3),
        (b"\x83l\0\0\0\1jl\0\0\0\1jj", 3),
        (compressed(b"l\0\0\0\2jjj"), 3),
    ],
)
def test_max_terms(codec: backends.Backend, data: bytes, count: int) -> None:
    codec.decode(data, limits=Limits(max_terms=count))
    if count > 1:
        assert f"at most {count - 1} terms (max_terms), got at least {count}" in refused(
            codec, data, Limits(max_terms=count - 1)
        )


@each_codec
def test_max_atoms(codec: backends.Backend) -> None:
    data = codec.encode([Atom("a"), True, Atom("b"), Atom("a"), (Export(Atom("a"), Atom("c"), 1),)])
    assert codec.decode(data, limits=Limits(max_atoms=4))
    assert refused(codec, data, Limits(max_atoms=3)).endswith(
        "expected at most 3 different atoms (max_atoms), got one more"
    )


@each_codec
def test_max_inflated(codec: backends.Backend) -> None:
    data = compressed(b"m" + u32(995) + b"x" * 995)
    assert codec.decode(data, limits=Limits(max_inflated=1000)) == "x" * 995
    assert refused(codec, data, Limits(max_inflated=999)) == (
        "cannot decode byte 2: expected at most 999 bytes when inflated (max_inflated), got 1000"
    )


MERSENNE = 2**61 - 1  # what Python's hash of numbers is counted modulo


@each_codec
@pytest.mark.parametrize("wrap", [lambda n: n, lambda n: (n,), lambda n: ((n,), 1)], ids=["int", "tuple", "nested"])
def test_max_collisions(codec: backends.Backend, wrap: Any) -> None:
    pairs = {wrap(n * MERSENNE): n for n in range(1, 102)}
    data = codec.encode(pairs)
    assert codec.decode(data, limits=Limits(max_collisions=101)) == pairs
    assert "expected a map with at most 100 keys of one hash (max_collisions) to end here, got one with 101" in refused(
        codec, data, DEFAULT
    )
    spread = {wrap(n): n for n in range(1000)}
    assert codec.decode(codec.encode(spread)) == spread
    assert codec.decode(codec.encode({**spread, **{wrap(n * MERSENNE): n for n in range(1, 100)}}))


@each_codec
def test_keys_that_no_dict_holds_cannot_collide(codec: backends.Backend) -> None:
    odd = TermMap([([n * MERSENNE], n) for n in range(1000)])
    assert codec.decode(codec.encode(odd)) == odd


@pytest.mark.parametrize("name", Limits.__slots__)
@pytest.mark.parametrize("value", [0, -1, 1.5, True, None, "1"])
def test_limits_are_positive_integers(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} is a positive integer, not "):
        Limits(**{name: value})


# -- hostile bytes ---------------------------------------------------------------------------------------------


@each_codec
@pytest.mark.parametrize(
    "data",
    [
        b"\x83l\xff\xff\xff\xff" * 3 + b"j" * 100,
        b"\x83" + b"i\0\0\1\0" * 200 + b"j" * 300,
        b"\x83m\xff\xff\xff\xff" + b"x" * 100,
        b"\x83o\xff\xff\xff\xff\0" + b"x" * 100,
        b"\x83t\x7f\xff\xff\xff" + b"a\1" * 50,
        b"\x83P\3\xff\xff\xff" + zlib.compress(b"k\xff\xff"),
        b"\x83P\0\0\0\2" + zlib.compress(bytes(50_000_000)),
    ],
)
def test_sizes_that_lie_cost_nothing(codec: backends.Backend, data: bytes) -> None:
    codec.decode(codec.encode({"warm": [1.5]}))
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            codec.decode(data)
        assert tracemalloc.get_traced_memory()[1] < 300_000 + 2 * len(data)
    finally:
        tracemalloc.stop()


@each_codec
def test_lists_in_tails_cost_no_depth_and_no_time(codec: backends.Backend) -> None:
    many = 30_000
    assert codec.decode(b"\x83" + b"l\0\0\0\1a\7" * many + b"j") == [7] * many
    assert codec.decode(b"\x83" + b"l\0\0\0\0" * many + b"a\1") == 1
    assert codec.decode(b"\x83" + b"l\0\0\0\1a\7" * many + b"a\1") == ImproperList([7] * many, 1)


@each_codec
@pytest.mark.parametrize(
    "opening", [b"t\0\0\0\1", b"t\0\0\0\1l\0\0\0\1", b"t\0\0\0\1h\1"], ids=["map", "list", "tuple"]
)
def test_maps_in_keys_of_maps_cost_no_more_than_others(codec: backends.Backend, opening: bytes) -> None:
    depth = 2000
    closing = (b"j" if b"l" in opening else b"") + b"a\1"
    data = b"\x83" + opening * depth + b"j" + closing * depth
    term = codec.decode(data)
    assert type(term) is TermMap or type(term) is dict
    assert codec.encode(term, max_depth=2 * depth) == data
    assert codec.decode(data) == term


@each_codec
def test_a_deep_tuple_as_a_key_is_not_hashed(codec: backends.Backend) -> None:
    depth = 9_000
    data = b"\x83t\0\0\0\1" + b"h\1" * depth + b"ja\1"
    term = codec.decode(data)
    assert type(term) is TermMap
    assert codec.encode(term) == data


@each_codec
def test_funs_within_funs_keep_their_bytes_once(codec: backends.Backend) -> None:
    depth = 1000
    inner = b"a\1"
    for _ in range(depth):
        body = bytes(17) + u32(0) + u32(1) + NODE + b"a\0a\0X" + NODE + bytes(12) + inner
        inner = b"p" + u32(len(body) + 4) + body
    tracemalloc.start()
    try:
        fun = codec.decode(b"\x83" + inner)
        assert tracemalloc.get_traced_memory()[1] < 40 * len(inner)
    finally:
        tracemalloc.stop()
    assert fun.data == inner


@each_codec
def test_what_is_nested_too_deep_to_be_compared_is_refused(
    codec: backends.Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terms, "_MAX_DEPTH", 50)
    deep = b"l\0\0\0\1" * 51 + b"j" * 52
    assert "expected a map with keys that can be compared to end here, got no identity for a term" in refused(
        codec, b"\x83t\0\0\0\1" + deep + b"j", DEFAULT
    )
    body = bytes(17) + u32(0) + u32(1) + NODE + b"a\0a\0X" + NODE + bytes(12) + deep
    fun = b"\x83p" + u32(len(body) + 4) + body
    assert "expected a fun that can be compared, got no identity for a term" in refused(codec, fun, DEFAULT)


@each_codec
def test_tuples_within_keys_are_hashed_to_a_depth(codec: backends.Backend) -> None:
    for depth, kind in ((31, dict), (32, TermMap)):
        data = b"\x83t\0\0\0\1" + b"h\1" * depth + b"a\1a\1"
        assert type(codec.decode(data)) is kind
        assert codec.encode(codec.decode(data)) == data


def test_the_atoms_that_are_kept_at_hand_are_bounded() -> None:
    for known in (python_decoder._LATIN_1, python_decoder._UTF_8):
        for number in range(known.most + 10):
            known[b"kept at hand %d" % number]
        assert len(known) <= known.most
        assert known[b"true"] is True
        assert known[b"nil"] is None
