"""Properties of the codec over all terms: what goes out comes back, and no bytes do harm."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erl_bridge import etf
from erl_bridge.etf import DecodeError, Limits, backends
from erl_bridge.etf.times import Zone
from erl_bridge.terms import (
    CONSTANTS,
    Atom,
    BitString,
    Export,
    ImproperList,
    Pid,
    Port,
    Reference,
    TermMap,
    identity,
)

each_codec = pytest.mark.parametrize("codec", [backends.load(name) for name in backends.names()], ids=lambda c: c.name)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
atoms = st.text(st.characters(exclude_categories=["Cs"]), max_size=255).filter(lambda n: n not in CONSTANTS).map(Atom)
names = st.sampled_from(["a", "b", "ok", "n@h", "Elixir.Date", "__struct__"]).map(Atom) | atoms
u32 = st.integers(0, 2**32 - 1)
integers = st.one_of(
    st.integers(-300, 300), st.integers(-(2**65), 2**65), st.integers(2030, 2060).map(lambda bits: -(1 << bits))
)
decimals = st.decimals(allow_nan=False) | st.builds(
    lambda sign, coef, exp: f"{sign}{coef}E{exp}", st.sampled_from(["", "-"]), st.integers(0), st.integers(-400, 400)
).map(importlib.import_module("decimal").Decimal)
zones = st.builds(Zone, texts, texts, st.integers(-40_000, 40_000), st.integers(-40_000, 40_000))
opaque = st.one_of(
    st.builds(Pid, names, u32, u32, u32),
    st.builds(Port, names, st.integers(0, 2**64 - 1), u32),
    st.builds(Reference, names, u32, st.lists(u32, min_size=1, max_size=5)),
    st.builds(Export, names, names, st.integers(0, 300)),
    st.builds(BitString, st.binary(min_size=1, max_size=5), st.integers(1, 7)),
)
ranges = st.builds(range, integers, integers, st.integers(-9, 9).filter(bool))
times = st.one_of(st.dates(), st.times(), st.datetimes(), st.datetimes(timezones=zones))
floats = st.floats(allow_nan=False, allow_infinity=False)
constants, binaries = st.sampled_from([True, False, None]), st.binary(max_size=20)
kinds = [integers, floats, constants, texts, binaries, names, opaque, ranges, times, decimals]


@st.composite
def leaves(draw: st.DrawFn) -> Any:
    return draw(draw(st.sampled_from(kinds)))


@st.composite
def terms(draw: st.DrawFn, depth: int = 3) -> Any:
    kind = draw(st.integers(0, 8)) if depth else 0
    if kind <= 1:
        return draw(leaves())
    if kind == 2:
        return draw(st.lists(st.integers(0, 255), max_size=8))
    inner = terms(depth - 1)
    if kind <= 4:
        items = draw(st.lists(inner, max_size=4))
        return items if kind == 3 else tuple(items)
    if kind == 5:
        items, tail = draw(st.lists(inner, min_size=1, max_size=3)), draw(inner)
        return [*items, *tail] if isinstance(tail, list) else ImproperList(items, tail)
    if kind == 6:
        return TermMap(draw(st.lists(st.tuples(inner, inner), max_size=3, unique_by=lambda pair: identity(pair[0]))))
    keys = draw(st.lists(leaves() | st.tuples(leaves(), leaves()), max_size=4, unique_by=identity))
    return set(keys) if kind == 7 else {key: draw(inner) for key in keys}


def same(left: Any, right: Any) -> bool:
    """Equal for Python and the same for the BEAM: tells 1 from 1.0 and True, and a dict from a TermMap."""
    return type(left) is type(right) and left == right and identity(left) == identity(right)


@each_codec
@settings(max_examples=120, deadline=None, derandomize=True)
@given(term=terms(), compressed=st.booleans())
def test_what_goes_out_comes_back(codec: backends.Backend, term: Any, compressed: bool) -> None:
    data = codec.encode(term, compressed=compressed)
    back = codec.decode(data)
    assert identity(back) == identity(term)
    assert codec.encode(back) == codec.encode(term) or has_sets(term)
    assert same(codec.decode(codec.encode(back)), back)
    for options in ({"binaries": "bytes"}, {"structs": False}):
        assert identity(codec.decode(codec.encode(codec.decode(data, **options)))) == identity(term)


def has_sets(term: Any) -> bool:
    """Sets have no order, so the bytes of two equal ones differ."""
    return "{" in repr(term)


@each_codec
@settings(max_examples=100, deadline=None, derandomize=True)
@given(term=terms())
def test_the_atoms_that_were_met_are_those_that_are_needed(codec: backends.Backend, term: Any) -> None:
    data = codec.encode(term)
    met: set[Atom] = set()
    codec.decode(data, atoms=met)
    assert codec.encode(codec.decode(data), atoms=met)
    for atom in met:
        with pytest.raises(etf.EncodeError, match="it is not one of the atoms that may be sent"):
            codec.encode(term, atoms=met - {atom})


@each_codec
@settings(max_examples=100, deadline=None, derandomize=True)
@given(term=terms(), data=st.data())
def test_every_truncation(codec: backends.Backend, term: Any, data: st.DataObject) -> None:
    whole = codec.encode(term)
    for length in {data.draw(st.integers(0, len(whole) - 1)), len(whole) - 1, min(2, len(whole) - 1)}:
        with pytest.raises(DecodeError):
            codec.decode(whole[:length])
    with pytest.raises(DecodeError):
        codec.decode(whole + data.draw(st.binary(min_size=1)))


SMALL = Limits(max_terms=10_000, max_inflated=100_000)


def decode_or_refuse(codec: backends.Backend, data: bytes) -> None:
    """Bytes are refused in the one way there is, or they are a term that goes back as itself."""
    try:
        term = codec.decode(data, limits=SMALL)
    except DecodeError:
        return
    again = codec.decode(codec.encode(term))
    assert identity(again) == identity(term)


@each_codec
@settings(max_examples=200, deadline=None, derandomize=True)
@given(term=terms(), changes=st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=4))
def test_mutations_do_no_harm(codec: backends.Backend, term: Any, changes: list[tuple[int, int]]) -> None:
    data = bytearray(codec.encode(term))
    for position, byte in changes:
        data[position % len(data)] = byte
    decode_or_refuse(codec, bytes(data))


TAGS = bytes([70, 77, 78, 80, 82, *range(88, 91), *range(97, 122)])
tagged = st.builds(lambda tag, rest: bytes((tag,)) + rest, st.sampled_from(TAGS), st.binary(max_size=12))


@each_codec
@settings(max_examples=500, deadline=None, derandomize=True)
@given(parts=st.lists(tagged, max_size=6))
def test_bytes_that_begin_like_terms_do_no_harm(codec: backends.Backend, parts: list[bytes]) -> None:
    decode_or_refuse(codec, b"\x83" + b"".join(parts))


@pytest.mark.parametrize("name", [module.name for module in pkgutil.iter_modules(etf.__path__, "erl_bridge.etf.")])
def test_the_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_the_examples_of_the_package() -> None:
    assert doctest.testmod(etf).failed == 0
