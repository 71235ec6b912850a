"""The golden vectors that a real Erlang made, checked both ways."""

from __future__ import annotations

import datetime
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import erl_bridge
from erl_bridge.etf import DecodeError, Limits, backends
from erl_bridge.etf.structs import MapSet
from erl_bridge.etf.times import PreciseDateTime, PreciseTime, Zone
from erl_bridge.terms import Atom, BitString, Export, Fun, ImproperList, Pid, Port, Reference, TermMap, identity

VECTORS = Path(erl_bridge.__file__).parent / "priv" / "etf_vectors.txt"
LINES = [line.split("\t") for line in VECTORS.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
TERMS = {name: (bytes.fromhex(data), bytes.fromhex(again)) for kind, name, data, again in LINES if kind == "term"}
REFUSED = {name: bytes.fromhex(data) for kind, name, data, _ in LINES if kind == "refused"}

each_codec = pytest.mark.parametrize("codec", [backends.load(name) for name in backends.names()], ids=lambda c: c.name)

a = Atom
NODE = a("n@h")
STRUCT, MAP_SET, DECIMAL, RANGE = a("__struct__"), a("Elixir.MapSet"), a("Elixir.Decimal"), a("Elixir.Range")
CALENDAR, ISO = a("calendar"), a("Elixir.Calendar.ISO")
CLOCK = {a("hour"): 23, a("minute"): 59, a("second"): 58, a("microsecond"): (123456, 6)}
MOMENT = {a("year"): 2024, a("month"): 2, a("day"): 29, **CLOCK, CALENDAR: ISO}


def day(**fields: Any) -> dict[Any, Any]:
    known = {STRUCT: a("Elixir.Date"), CALENDAR: ISO, a("year"): 2024, a("month"): 2, a("day"): 29}
    return {**known, **{a(name): value for name, value in fields.items()}}


def decimal(sign: int, coef: Any, exp: int) -> dict[Any, Any]:
    return {STRUCT: DECIMAL, a("sign"): sign, a("coef"): coef, a("exp"): exp}


INTEGERS = {
    "zero": 0, "byte": 255, "after-byte": 256, "minus-one": -1, "int32-max": 2**31 - 1, "int32-min": -(2**31),
    "after-int32": 2**31, "before-int32": -(2**31) - 1, "int64-max": 2**63 - 1, "int64-min": -(2**63),
    "after-int64": 2**64, "small-big-longest": 2**2040 - 1, "large-big-shortest": 2**2040,
    "large-big-negative": -(2**2048), "integer-small": 5, "big-small": 5, "big-long-zero": -5, "big-empty": 0,
    "big-sign-2": -5, "large-big-small": -5, "big-minus-zero": 0,
}  # fmt: skip
FLOATS = {
    "float-half": 0.5, "float-minus": -1.5e300, "float-zero": 0.0, "float-tiny": 5e-324,
    "float-max": 1.7976931348623157e308, "float-minus-zero": -0.0, "old-float": 1.5, "old-float-minus": -0.0025,
    "old-float-full": 1.5, "old-float-tiny": 0.0, "old-float-comma": 1.5,
}  # fmt: skip
ATOMS = {
    "true": True, "false": False, "nil": None, "undefined": a("undefined"), "atom": a("ok"), "atom-empty": a(""),
    "atom-latin1": a("é"), "atom-greek": a("λ"), "atom-emoji": a("🐍"), "atom-quoted": a("Elixir.My Module"),
    "atom-nul": a("\0"), "atom-255": a("a" * 255), "atom-255-greek": a("λ" * 255), "atom-255-emoji": a("🐍" * 255),
    "atom-ext": a("Ã¤"), "small-atom-ext": a("ä"), "atom-utf8-ext": a("ä"), "small-atom-utf8-ext": a("ä"),
    "small-atom-true": True, "atom-utf8-nil": None,
}  # fmt: skip
LISTS = {
    "list-empty": [], "list": [1, a("ok"), 2.5], "list-nested": [[], [[]], [[[1.0]]]], "list-big-ints": [1000, 2000],
    "charlist": [97, 98, 99], "charlist-255": [255, 0], "charlist-not": [256, 0], "charlist-greek": [955],
    "list-mixed-with-bytes": [1, 2, 3, a("a")], "improper": ImproperList([1], 2),
    "improper-longer": ImproperList([1, 2], (3,)), "improper-binary": ImproperList([a("a")], "b"),
    "improper-map": ImproperList([1, 2], {a("a"): 1}),
    "improper-in-list": [ImproperList([1], 2), ImproperList([3], 4)],
    "string-empty": [], "list-no-terms": [], "list-no-terms-but-tail": 5, "list-tail-list": [1, 2],
    "list-tail-string": [1, 2, 3], "list-tail-improper": ImproperList([1, 2], 3),
    "list-tail-no-terms": ImproperList([1], 3), "tuple-empty": (), "tuple": (a("ok"), 1, [97, 98]),
    "tuple-255": (7,) * 255, "tuple-256": (7,) * 256, "large-tuple-small": (1,), "large-tuple-empty": (),
}  # fmt: skip
BINARIES = {
    "binary-empty": "", "binary-text": "hello", "binary-utf8": "żółć", "binary-bytes": b"\xff\0\xfe",
    "binary-surrogate": b"\xed\xa0\x80", "binary-overlong": b"\xc0\x80", "bits-1": BitString(b"\x80", 1),
    "bits-7": BitString(b"\xfe", 7), "bits-13": BitString(b"\xff\xa8", 5), "bits-8": b"\xff", "bits-none": "",
    "bits-unmasked": BitString(b"\xe0", 3),
}  # fmt: skip
MAPS = {
    "map-empty": {}, "map": {"a": 1}, "map-atom-key": {a("a"): {a("b"): a("c")}}, "map-tuple-key": {(1, a("a")): 1},
    "map-numbers": TermMap([(1, a("int")), (1.0, a("float")), (True, a("atom"))]),
    "map-names": TermMap([(a("a"), 1), ("a", 2), ([97], 3)]), "map-list-key": TermMap([([1], 1)]),
    "map-empty-list-key": TermMap([([], 1)]), "map-empty-map-key": TermMap([({}, 1)]),
    "map-map-key": TermMap([({a("a"): 1}, {a("b"): 2})]), "map-improper-key": TermMap([(ImproperList([1], 2), 3)]),
    "map-tuple-list-key": TermMap([(([1], 2), 3)]), "map-deep-key": {(((1,),),): 1},
    "map-bits-key": {BitString(b"\x80", 1): 1}, "map-in-key-of-key": {TermMap([({a("a"): 1}, 2)]): 3},
    "key-list-no-terms": {1: 2}, "struct-unknown": {STRUCT: a("Elixir.User"), a("name"): "x"},
    "struct-no-atom": {STRUCT: [1]},
}  # fmt: skip
OPAQUE = {
    "export": Export(a("lists"), a("map"), 2), "export-elixir": Export(a("Elixir.String"), a("upcase"), 1),
    "export-arity-255": Export(a("m"), a("f"), 255), "export-integer-arity": Export(a("m"), a("f"), 256),
    "export-big-arity": Export(a("m"), a("f"), 3), "export-constants": Export(None, True, 3),
    "pid": Pid(NODE, 1, 2, 3), "pid-max": Pid(NODE, *[2**32 - 1] * 3), "pid-old": Pid(NODE, 1, 2, 3),
    "pid-node-nil": Pid(None, 1, 2, 3), "port": Port(NODE, 1, 2), "port-28-bits": Port(NODE, 2**28 - 1, 2),
    "port-29-bits": Port(NODE, 2**28, 2), "port-old": Port(NODE, 2**32 - 1, 3), "port-v4": Port(NODE, 2**64 - 1, 2),
    "port-v4-small": Port(NODE, 5, 2), "ref-oldest": Reference(NODE, 1, [7]),
    "ref-old": Reference(NODE, 1, [7, 8, 9]), "ref-old-max": Reference(NODE, 3, [2**18 - 1, 2**32 - 1]),
    "ref-1": Reference(NODE, 1, [2**32 - 1]),
    "ref-3": Reference(NODE, 1, [7, 8, 0]), "ref-5": Reference(NODE, 1, [7, 8, 9, 10, 11]),
}  # fmt: skip
STRUCTS = {
    "date": date(2024, 2, 29), "date-year-0": day(year=0, month=1, day=1),
    "date-other-calendar": day(calendar=a("Elixir.Other")), "time": time(23, 59, 58, 123456),
    "time-seconds": PreciseTime(23, 59, 58, precision=0),
    "time-leap": {STRUCT: a("Elixir.Time"), CALENDAR: ISO, **CLOCK, a("second"): 60},
    "naive": datetime.datetime(2024, 2, 29, 23, 59, 58, 123456),
    "naive-millis": PreciseDateTime(2024, 2, 29, 23, 59, 58, 123000, precision=3),
    "naive-extra": {STRUCT: a("Elixir.NaiveDateTime"), **MOMENT, a("extra"): 1},
    "datetime": datetime.datetime(2024, 2, 29, 23, 59, 58, 123456, datetime.UTC),
    "datetime-seconds": PreciseDateTime(2024, 2, 29, 23, 59, 58, 0, datetime.UTC, precision=0),
    "datetime-warsaw": datetime.datetime(
        2024, 2, 29, 23, 59, 58, 123456, Zone("Europe/Warsaw", "CEST", 3600, 3600)
    ),
    "datetime-odd-offset": {
        STRUCT: a("Elixir.DateTime"), **MOMENT, a("time_zone"): "X", a("zone_abbr"): "X", a("utc_offset"): 100000,
        a("std_offset"): 0,
    },
    "mapset": {1, a("a")}, "mapset-version-2": MapSet({1}), "mapset-empty": set(),
    "mapset-merging": {STRUCT: MAP_SET, a("map"): TermMap([(1, []), (1.0, [])])},
    "mapset-of-lists": {STRUCT: MAP_SET, a("map"): TermMap([([1], [])])}, "mapset-of-struct-name": {STRUCT},
    "range": range(1, 11, 3), "range-down": range(5, 0, -1), "range-empty": range(1, 1),
    "range-step-0": {STRUCT: RANGE, a("first"): 1, a("last"): 10, a("step"): 0}, "decimal": Decimal("123.45"),
    "decimal-minus-zero": Decimal("-0"), "decimal-exponent": Decimal("1E+10"), "decimal-nan": Decimal("NaN"),
    "decimal-inf": Decimal("-Infinity"), "decimal-huge-exponent": decimal(1, 1, 1_000_000),
    "decimal-odd": decimal(1, [], 0),
}  # fmt: skip
COMPRESSED = {"compressed": ["row"] * 100}
FUNS = {"fun", "fun-no-free", "fun-in-fun"}
EXPECTED: dict[str, Any] = {
    **INTEGERS, **FLOATS, **ATOMS, **LISTS, **BINARIES, **MAPS, **OPAQUE, **STRUCTS, **COMPRESSED
}  # fmt: skip


def test_every_vector_is_expected() -> None:
    assert TERMS.keys() == EXPECTED.keys() | FUNS


@each_codec
@pytest.mark.parametrize("name", EXPECTED)
def test_the_term(codec: backends.Backend, name: str) -> None:
    term = codec.decode(TERMS[name][0])
    assert type(term) is type(EXPECTED[name])
    assert identity(term) == identity(EXPECTED[name])
    assert term == EXPECTED[name] or name == "decimal-nan"
    assert codec.decode(bytearray(TERMS[name][1])) == term or name == "decimal-nan"


@each_codec
@pytest.mark.parametrize("name", TERMS)
def test_the_bytes_that_the_beam_writes_again(codec: backends.Backend, name: str) -> None:
    data, again = TERMS[name]
    assert codec.encode(codec.decode(data, structs=False)) == again
    assert codec.encode(codec.decode(data, structs=False, binaries="bytes")) == again


@each_codec
@pytest.mark.parametrize("name", TERMS)
def test_structs_come_back_the_same(codec: backends.Backend, name: str) -> None:
    data = TERMS[name][0]
    fields = codec.decode(data, structs=False)
    for binaries in ("auto", "bytes"):
        again = codec.encode(codec.decode(data, binaries=binaries))
        assert identity(codec.decode(again, structs=False)) == identity(fields)


@each_codec
@pytest.mark.parametrize("name", REFUSED)
def test_what_the_beam_refuses(codec: backends.Backend, name: str) -> None:
    with pytest.raises(DecodeError):
        codec.decode(REFUSED[name])


@each_codec
def test_funs_show_what_they_are_and_keep_their_bytes(codec: backends.Backend) -> None:
    fun = codec.decode(TERMS["fun"][0])
    assert (type(fun), fun.module, fun.arity, fun.index, fun.unique) == (Fun, a("mm"), 1, 0, 5)
    assert repr(fun) == "<Fun mm.0.5/1>"
    assert b"\x83" + fun.data == TERMS["fun"][0]
    assert codec.decode(TERMS["fun-in-fun"][0]).data == TERMS["fun-in-fun"][0][1:]


@each_codec
def test_funs_are_the_same_as_the_beam_holds_them(codec: backends.Backend) -> None:
    data = TERMS["fun"][0]
    fun = codec.decode(data)
    other_creator = data.replace(b"n@h", b"m@h")
    other_writing = data.replace(b"p\x00\x00\x00\x39", b"p\x00\x00\x00\x3c").replace(b"a\x05", b"b\x00\x00\x00\x05")
    other_index = data[:25] + b"\x01" + data[26:]
    assert fun == codec.decode(other_creator)
    assert fun == codec.decode(other_writing)
    assert hash(fun) == hash(codec.decode(other_writing))
    assert fun != codec.decode(data[:-1] + b"\x02")
    assert fun != codec.decode(other_index)


@each_codec
@pytest.mark.parametrize("name", TERMS)
def test_every_truncation_and_every_addition(codec: backends.Backend, name: str) -> None:
    data = TERMS[name][0]
    for length in range(len(data)) if len(data) < 400 else range(0, len(data), 97):
        with pytest.raises(DecodeError):
            codec.decode(data[:length])
    for more in (b"\0", b"a\1", data):
        with pytest.raises(DecodeError):
            codec.decode(data + more)


def all_in_one(names: list[str]) -> bytes:
    bodies = [TERMS[name][0][1:] for name in names]
    return b"\x83i" + len(bodies).to_bytes(4, "big") + b"".join(bodies)


@each_codec
def test_every_truncation_of_a_term_that_holds_every_tag(codec: backends.Backend) -> None:
    """Only the compressed one is not among them: there is none within a term."""
    tags = {}
    for name in sorted(TERMS, key=lambda name: len(TERMS[name][0])):
        tags.setdefault(TERMS[name][0][1], name)
    data = all_in_one([name for name in tags.values() if name != "compressed"])
    assert {tag for tag in data if tag in tags} >= set(tags) - {80}
    term = codec.decode(data)
    for length in range(len(data)):
        with pytest.raises(DecodeError):
            codec.decode(data[:length])
    for split in range(len(data)):
        assert codec.decode(memoryview(b"x" + data[:split] + data[split:])[1:]) == term


@each_codec
def test_all_terms_in_one(codec: backends.Backend) -> None:
    names = [name for name in TERMS if name not in ("compressed", "decimal-nan")]
    assert codec.decode(all_in_one(names)) == tuple(codec.decode(TERMS[name][0]) for name in names)
    together = Limits(max_terms=sum(len(TERMS[name][0]) for name in names))
    assert codec.encode(codec.decode(all_in_one(names), structs=False, limits=together)) == (
        b"\x83h" + bytes((len(names),)) + b"".join(TERMS[name][1][1:] for name in names)
    )
