"""The adapters of other libraries: what they carry agrees with our codec, everything else is refused by name.

``TABLE`` is what docs/codec.md says of each backend; it is tried out here for those that can be used.
"""

from __future__ import annotations

import datetime
import decimal
import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_etf_roundtrip import same, terms
from test_etf_vectors import TERMS

from erl_bridge.etf import DecodeError, EncodeError, Limits, backends, tags
from erl_bridge.etf.adapters.library import Library
from erl_bridge.terms import Atom, BitString, Export, ImproperList, Pid, Port, Reference, TermMap, identity

ADAPTERS = ["erlpack", "pyrlang-term"]
MODULES = {"erlpack": "erlpack", "pyrlang-term": "term"}
DOCS = Path(__file__).parent.parent / "docs" / "codec.md"

python = backends.load("python")


def usable(name: str) -> backends.Backend | None:
    try:
        return backends.load(name)
    except ImportError:
        return None


def needed(name: str) -> backends.Backend:
    """The backend, or the test is skipped."""
    codec = usable(name)
    return codec if codec is not None else pytest.skip(f"{name} is not installed")


each_adapter = pytest.mark.parametrize("name", ADAPTERS)

NODE = Atom("n@h")
FUN = next(python.decode(data) for name, (data, _) in TERMS.items() if name.startswith("fun"))


def nested(depth: int, innermost: Any = 1) -> Any:
    for _ in range(depth):
        innermost = (innermost,)
    return innermost


# -- which terms each backend carries --------------------------------------------------------------------------

KINDS: dict[str, list[Any]] = {
    "integer from -2^63 to 2^64-1": [0, 255, 256, -1, 2**31, -(2**31), -(2**31) - 1, 2**63, 2**64 - 1, -(2**63)],
    "other integer of up to 2,040 bits": [2**64, -(2**63) - 1, 2**2040 - 1, -(2**2040) + 1],
    "integer of more bits": [2**2040, -(2**10_000)],
    "float": [0.0, -0.0, 1.5, -1e308, 5e-324],
    "`true` `false` `nil`": [True, False, None],
    "atom of Latin-1": [Atom("ok"), Atom(""), Atom("é"), Atom("undefined"), Atom("é" * 255), Atom("a" * 254)],
    "any other atom": [Atom("żółć"), Atom("🐍")],
    "binary": ["", "text", "żółć", b"\xff", "a" * 70_000],
    "bitstring": [BitString(b"\xff\xe0", 3)],
    "list, charlist": [[], [1, 2, 3], [1, 256], [7] * 65_535, [7] * 65_536, [[[]], [0]], [True, None]],
    "improper list": [ImproperList([1], 2), ImproperList([1], 0)],
    "tuple": [(), (1,), (7,) * 255, (7,) * 256],
    "map": [{}, {"a": 1}, {Atom("a"): 1, "a": 2}, {1: 2, (1, 2): 3, None: 4, 1.5: [5]}, {"": {"": {}}}],
    "map with keys that a `dict` merges or cannot hold": [TermMap([(1, 2), (1.0, 3)]), TermMap([([], {})])],
    "date, time, set, range, decimal": [
        datetime.date(2024, 5, 6),
        datetime.datetime(2024, 5, 6, 7, 8, 9, 10, tzinfo=datetime.UTC),
        datetime.time(1, 2, 3),
        {1, "a", (2, 3)},
        range(1, 9, 2),
        decimal.Decimal("-1.50"),
    ],
    "pid": [Pid(NODE, 1, 2, 3), Pid(None, 2**32 - 1, 0, 2**32 - 1)],
    "reference": [Reference(NODE, 1, (1, 2, 3)), Reference(NODE, 2**32 - 1, (7,))],
    "port": [Port(NODE, 1, 2), Port(NODE, 2**60, 2)],
    "fun, export": [FUN, Export(NODE, NODE, 1)],
    "100 containers within one another": [nested(100)],
    "256 containers within one another": [nested(256)],
    "10,000 containers within one another": [nested(10_000)],
}


def does(function: Any, *args: Any) -> Any:
    try:
        return function(*args)
    except (EncodeError, DecodeError):
        return None


def sends(codec: backends.Backend, term: Any) -> bool:
    data = does(codec.encode, term)
    assert data is None or identity(python.decode(data)) == identity(term)
    return data is not None


def reads(codec: backends.Backend, term: Any) -> bool:
    data = python.encode(term)
    try:
        read = codec.decode(data)
    except DecodeError:
        return False
    assert type(read) is type(python.decode(data))
    assert identity(read) == identity(term)
    return True


def said(answers: list[bool]) -> bool:
    assert len(set(answers)) == 1, "the terms of one kind are not treated alike"
    return answers[0]


def word(codec: backends.Backend, values: list[Any]) -> str:
    sent, read = said([sends(codec, term) for term in values]), said([reads(codec, term) for term in values])
    return {(True, True): "yes", (True, False): "sends", (False, True): "reads", (False, False): "no"}[sent, read]


def table() -> dict[str, dict[str, str]]:
    """The table of docs/codec.md: by kind of term and backend."""
    (section,) = (part for part in DOCS.read_text().split("\n## ") if part.startswith("What each carries\n"))
    lines = [line for line in section.splitlines() if line.startswith("|")]
    head, _, *body = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {row[0]: dict(zip([name.strip("`") for name in head[1:]], row[1:], strict=True)) for row in body}


TABLE = table()


def test_the_table_has_all_kinds_and_all_backends() -> None:
    assert list(TABLE) == list(KINDS)
    assert all(list(row) == ["compiled", "python", *ADAPTERS] for row in TABLE.values())


@pytest.mark.parametrize("name", ["compiled", "python", *ADAPTERS])
@pytest.mark.parametrize("kind", KINDS)
def test_the_table_is_true(name: str, kind: str) -> None:
    assert TABLE[kind][name] == word(needed(name), KINDS[kind])


# -- they agree with ours --------------------------------------------------------------------------------------


@each_adapter
@settings(max_examples=150, deadline=None, derandomize=True)
@given(term=terms(), compressed=st.booleans())
def test_what_is_carried_agrees(name: str, term: Any, compressed: bool) -> None:
    codec, data = needed(name), python.encode(term, compressed=compressed)
    theirs = does(lambda: codec.encode(term, compressed=compressed))
    assert theirs is None or identity(python.decode(theirs)) == identity(term)
    for options in ({}, {"binaries": "bytes"}, {"structs": False}):
        agree_or_refuse(codec, data, options)


def agree_or_refuse(codec: backends.Backend, data: bytes, options: dict[str, Any]) -> None:
    """Both read the same term and meet the same atoms, or the adapter says that its library does not read it."""
    found: tuple[set[Atom], set[Atom]] = set(), set()
    expected = python.decode(data, atoms=found[0], **options)
    try:
        read = codec.decode(data, atoms=found[1], **options)
    except DecodeError as error:
        refusal = str(error)
    else:
        assert same(read, expected)
        assert found[0] == found[1]
        return
    assert f"the backend {codec.name}" in refusal
    assert not found[1]


@each_adapter
@settings(max_examples=150, deadline=None, derandomize=True)
@given(term=terms(), changes=st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=3), cut=st.booleans())
def test_changed_bytes_are_refused_or_read_as_ours(
    name: str, term: Any, changes: list[tuple[int, int]], cut: bool
) -> None:
    codec, data = needed(name), bytearray(python.encode(term))
    for position, byte in changes:
        data[position % len(data)] = byte
    if cut:
        data.pop()
    try:
        read = codec.decode(bytes(data))
    except DecodeError:
        return
    assert same(read, python.decode(bytes(data)))


@each_adapter
def test_every_truncation_is_refused(name: str) -> None:
    codec = needed(name)
    whole = codec.encode({Atom("ok"): ["text", 1.5, 2**40, (None, 7)]})
    assert codec.decode(whole) == {Atom("ok"): ["text", 1.5, 2**40, (None, 7)]}
    for length in range(len(whole)):
        with pytest.raises(DecodeError):
            codec.decode(whole[:length])


BY_ERLPACK = [
    (Atom("ok"), b"s\2ok"),
    (Atom("é" * 255), b"d\0\xff" + b"\xe9" * 255),
    (None, b"s\3nil"),
    ([1, 2], b"l\0\0\0\2a\1a\2j"),
    ("ab", b"m\0\0\0\2ab"),
    (-(2**63), b"n\x08\x01" + bytes(7) + b"\x80"),
]


@pytest.mark.parametrize(("term", "body"), BY_ERLPACK, ids=lambda value: type(value).__name__)
def test_the_bytes_are_those_of_erlpack(term: Any, body: bytes) -> None:
    assert needed("erlpack").encode(term) == b"\x83" + body


@each_adapter
def test_the_options_are_those_of_the_other_backends(name: str) -> None:
    codec = needed(name)
    term = {"a": ["text"] * 50}
    assert codec.encode(term, compressed=True)[1] == tags.COMPRESSED
    assert codec.decode(codec.encode(term, compressed=9)) == term
    assert codec.decode(memoryview(bytearray(codec.encode(term))), binaries="bytes") == {b"a": [b"text"] * 50}
    assert codec.encode(object(), default=lambda value: 1) == b"\x83a\1"
    with pytest.raises(EncodeError, match=r"atom ok at result\[1\]: it is not one of the atoms that may be sent"):
        codec.encode([1, Atom("ok")], atoms=set(), root="result")
    with pytest.raises(EncodeError, match="nested more than 2 deep"):
        codec.encode([[[None]]], max_depth=2)
    with pytest.raises(DecodeError, match="max_terms"):
        codec.decode(codec.encode(term), limits=Limits(max_terms=9))
    for binaries in ("text", "memoryview"):
        with pytest.raises(ValueError, match="binaries is"):
            codec.decode(b"\x83a\1", binaries=binaries)
    buffer = bytearray(b"head")
    assert codec.encode_into(term, buffer, 4) == len(buffer)
    assert buffer == b"head" + codec.encode(term)
    assert codec.decode_prefix(bytes(buffer) + b"\x83", 4) == (term, len(buffer))
    assert codec.decode_prefix(buffer[1:], 4, version=False, binaries="auto") == (term, len(buffer) - 1)
    with pytest.raises(DecodeError, match="byte 5: expected a tag"):
        codec.decode_prefix(b"head\x83\xff", 4)


# -- refusals --------------------------------------------------------------------------------------------------

NOT_SENT: list[tuple[str, Any, str]] = [
    ("erlpack", 2**64, r"int of 65 bits at result\.a\[1\]: .* it writes integers from -\d+ to \d+"),
    ("erlpack", -(2**63) - 1, r"int of 64 bits at result\.a\[1\]: .* it writes integers"),
    ("erlpack", Atom("żółć"), r"atom żółć at result\.a\[1\]: .* it writes atoms of Latin-1 only"),
    ("erlpack", Pid(NODE, 1, 2, 3), r"Pid at result\.a\[1\]: .* it has no such term"),
    ("erlpack", {"x": Reference(NODE, 1, (1,))}, r"Reference at result\.a\[1\]\.x: .* it has no such term"),
    ("erlpack", {(FUN,): 1}, r"Fun at result\.a\[1\]\.keys\(\)\[0\]\[0\]: .* it has no such term"),
    ("erlpack", ImproperList([1], 2), r"ImproperList at result\.a\[1\]: .* it has no such term"),
    ("erlpack", TermMap([(1, 2), (1.0, 3)]), r"a TermMap at result\.a\[1\]: .* merges"),
    ("erlpack", nested(256), "nested more than 256 deep"),
    ("erlpack", nested(5000), "nested more than 256 deep"),
    ("pyrlang-term", BitString(b"a", 3), r"BitString at result\.a\[1\]: .* it has no such term, or reads another"),
    ("pyrlang-term", Port(NODE, 1, 2), r"Port at result\.a\[1\]"),
    ("pyrlang-term", ImproperList([1], 2), r"ImproperList at result\.a\[1\]"),
    ("pyrlang-term", nested(5000), "nested more than 100 deep"),
]


@pytest.mark.parametrize(("name", "term", "message"), NOT_SENT, ids=lambda value: type(value).__name__)
def test_what_is_not_sent(name: str, term: Any, message: str) -> None:
    codec = needed(name)
    with pytest.raises(EncodeError, match=message) as caught:
        codec.encode({"a": [0, term]}, root="result")
    assert f"the backend {name} refuses it" in str(caught.value)


DEEP = b"\x83" + b"l\0\0\0\1" * 100_000 + b"j" * 100_001
DEEP_IN_TAILS = b"\x83" + b"l\0\0\0\1a\1" * 100_000 + b"j"
# erlpack reads on from one byte too far behind an export.
MISPLACED = b"\x83h\2qw\1aw\1ba\1m\0\0\0\5" + b"jjjjj"

NOT_READ: list[tuple[str, bytes, str]] = [
    ("erlpack", DEEP, "byte 1281: expected at most 256 containers within one another"),
    ("erlpack", DEEP_IN_TAILS, "byte 1793: expected at most 256 containers within one another"),
    ("erlpack", MISPLACED, "byte 3: .* got EXPORT_EXT"),
    ("erlpack", python.encode([1, Pid(NODE, 1, 2, 3)]), "byte 8: .* got NEW_PID_EXT"),
    ("erlpack", python.encode(["a", ImproperList([1], 2)]), "NotImplementedError"),
    ("erlpack", python.encode(BitString(b"a", 3)), "byte 1: .* got BIT_BINARY_EXT"),
    ("erlpack", b"\x83o\0\0\1\0\0" + b"\1" * 256, "byte 1: .* got LARGE_BIG_EXT"),
    ("erlpack", b"\x83c1.50000000000000000000e+00" + bytes(5), "byte 1: .* got FLOAT_EXT"),
    ("erlpack", python.encode(TermMap([(1, 2), (1.0, 3)])), "byte 1: .* got it reads another"),
    ("erlpack", python.encode(TermMap([([], 2)])), "byte 1: .* got TypeError: unhashable"),
    ("pyrlang-term", DEEP, "expected at most 100 containers within one another"),
    ("pyrlang-term", DEEP_IN_TAILS, "expected at most 100 containers within one another"),
    ("pyrlang-term", python.encode((1, BitString(b"a", 3))), "byte 5: .* got BIT_BINARY_EXT"),
    ("pyrlang-term", python.encode(TermMap([(1, 2), (1.0, 3)])), "byte 1: .* got it reads another"),
]


@pytest.mark.parametrize(("name", "data", "message"), NOT_READ, ids=lambda value: str(value)[:20])
def test_what_is_not_read(name: str, data: bytes, message: str) -> None:
    codec = needed(name)
    with pytest.raises(DecodeError, match=message):
        codec.decode(data, limits=Limits(max_depth=1_000_000))


@each_adapter
def test_offsets_of_a_compressed_term_are_said_to_be_such(name: str) -> None:
    codec, body = needed(name), b"h\1" + python.encode(Export(NODE, NODE, 1))[1:]
    data = b"\x83P" + len(body).to_bytes(4, "big") + zlib.compress(body)
    with pytest.raises(DecodeError, match=rf"byte 2 of the inflated data: .* the backend {name} can read, got EXPORT"):
        codec.decode(data)


# -- a library that does wrong ---------------------------------------------------------------------------------


def fake(pack: Any = python.encode, unpack: Any = python.decode) -> Library:
    return Library("fake", pack, unpack, lambda value: value, lambda value: value, frozenset(tags.NAMES), 5)


def crash(_: Any) -> Any:
    raise RuntimeError("oh")


def test_a_library_that_does_right() -> None:
    assert fake().decode(fake().encode({"a": [1, (2,)]})) == {"a": [1, (2,)]}


@pytest.mark.parametrize(
    ("pack", "message"),
    [
        (lambda _: b"\x83a\2", "cannot encode the term at result: the backend fake makes another term of it"),
        (lambda _: b"\x83a", "the backend fake fails: DecodeError: .*SMALL_INTEGER_EXT"),
        (crash, "the backend fake fails: RuntimeError: oh"),
    ],
)
def test_what_a_library_writes_is_checked(pack: Any, message: str) -> None:
    with pytest.raises(EncodeError, match=message):
        fake(pack=pack).encode(1, root="result")


@pytest.mark.parametrize(
    ("unpack", "message"),
    [
        (lambda _: 1.0, "byte 1: expected a term that the backend fake can read, got it reads another"),
        (lambda _: {(1,): 1}, "got it reads another"),
        (lambda _: [[[[[[1]]]]]], "got a container: it is nested more than 5 deep"),
        (crash, "got RuntimeError: oh"),
    ],
)
def test_what_a_library_reads_is_checked(unpack: Any, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        fake(unpack=unpack).decode(b"\x83a\1")


def test_running_out_of_memory_is_no_refusal() -> None:
    def full(_: Any) -> Any:
        raise MemoryError

    with pytest.raises(MemoryError):
        fake(pack=full).encode(1)
    with pytest.raises(MemoryError):
        fake(unpack=full).decode(b"\x83a\1")


# -- choosing one ----------------------------------------------------------------------------------------------


def test_none_is_the_default() -> None:
    assert not set(ADAPTERS) & set(backends.names())


@each_adapter
def test_a_missing_package_says_how_to_get_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, MODULES[name], None)
    install = {"erlpack": r'pip install "erl_bridge\[erlpack\]"', "pyrlang-term": "pip install pyrlang-term"}[name]
    with pytest.raises(ImportError, match=f"the backend {name} needs a package.*install it with: {install}"):
        backends.load(name)


@each_adapter
def test_the_environment_names_it(name: str) -> None:
    needed(name)
    script = "from erl_bridge import etf; print(etf.backend, etf.decode(etf.encode({'a': 1})))"
    environment = {**os.environ, "ERL_BRIDGE_ETF": name}
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert found.stdout.strip() == f"{name} {{'a': 1}}"
