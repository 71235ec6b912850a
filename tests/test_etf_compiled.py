"""The compiled backend against the pure-Python one: the same results, the same refusals, and nothing leaks."""

from __future__ import annotations

import gc
import os
import random
import struct
import subprocess
import sys
import tracemalloc
import weakref
from ast import literal_eval
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_etf_roundtrip import TAGS, atoms, each_codec, leaves, terms
from test_etf_vectors import REFUSED, TERMS

from erl_bridge.etf import DecodeError, EncodeError, Limits, backends
from erl_bridge.terms import Atom, BitString, Export, ImproperList, Pid, Port, Reference, TermMap, identity

pytestmark = pytest.mark.skipif("compiled" not in backends.names(), reason="the compiled backend is not built")

python = backends.load("python")
compiled = backends.load("compiled") if "compiled" in backends.names() else python

NODE = Atom("n@h")
BINARIES = ["auto", "bytes", "memoryview"]
PID = Pid(NODE, 1, 2, 3)
FUN = TERMS["fun"][0] if "fun" in TERMS else next(data for name, (data, _) in TERMS.items() if name.startswith("fun"))


def outcome(function: Callable[..., Any], *args: Any, **options: Any) -> tuple[str, Any]:
    """What comes of a call: the value, or the error's type and text."""
    try:
        return "value", function(*args, **options)
    except (DecodeError, EncodeError, TypeError, ValueError, ZeroDivisionError, KeyError) as error:
        return type(error).__name__, str(error)


def shape(value: Any) -> Any:
    """A value with all its types, so that equal shapes are the same value. Only for terms that are not very deep."""
    kind = type(value).__name__
    if isinstance(value, (list, tuple)):
        return kind, [shape(item) for item in value]
    if isinstance(value, dict):
        return kind, [(shape(key), shape(item)) for key, item in value.items()]
    if isinstance(value, TermMap):
        return kind, [(shape(key), shape(item)) for key, item in value.items()]
    if isinstance(value, (set, frozenset)):
        return kind, sorted(map(identity, value))
    if isinstance(value, memoryview):
        return kind, value.tobytes(), value.readonly
    if isinstance(value, ImproperList):
        return kind, [shape(item) for item in value.items], shape(value.tail)
    return kind, repr(value)


def agree_on_bytes(data: bytes, **options: Any) -> None:
    expected, got = outcome(python.decode, data, **options), outcome(compiled.decode, data, **options)
    assert expected[0] == got[0]
    assert expected[1] == got[1] if expected[0] != "value" else shape(expected[1]) == shape(got[1])


def agree_on_term(term: Any, **options: Any) -> None:
    assert outcome(python.encode, term, **options) == outcome(compiled.encode, term, **options)


WHOLE = python.encode(
    {
        "text": ["żółć", "a" * 300, "🐍", b"\xff"],
        Atom("numbers"): [1, -1, 256, 2**31, -(2**63), 2**64, 2**2040, 1.5, -0.0],
        (1, 2): [PID, Port(NODE, 1, 2), Reference(NODE, 1, (1, 2)), Export(NODE, NODE, 1), BitString(b"a", 3)],
        1: TermMap([(1, 2), (1.0, 3), ([], {})]),
        b"\xff": [ImproperList([1, 2], "t"), (), {}, [], [1, 2, 3], (7,) * 256],
        None: {True: False, "day": date(2024, 5, 6), "set": {1, (2, 3)}, "range": range(1, 9, 2)},
    }
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(term=terms(), compressed=st.sampled_from([False, True, 1, 9]), binaries=st.sampled_from(BINARIES))
def test_both_write_and_read_the_same(term: Any, compressed: bool | int, binaries: str) -> None:
    agree_on_term(term, compressed=compressed)
    data = python.encode(term, compressed=compressed)
    found: tuple[set[Atom], set[Atom]] = set(), set()
    agree_on_bytes(data, binaries=binaries)
    agree_on_bytes(data, binaries=binaries, structs=False)
    assert shape(python.decode(data, atoms=found[0])) == shape(compiled.decode(data, atoms=found[1]))
    assert found[0] == found[1]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(term=terms(), changes=st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=4))
def test_both_refuse_the_same_bytes(term: Any, changes: list[tuple[int, int]]) -> None:
    data = bytearray(python.encode(term))
    for position, byte in changes:
        data[position % len(data)] = byte
    agree_on_bytes(bytes(data), limits=Limits(max_terms=10_000, max_inflated=100_000))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(term=terms(), limits=st.builds(Limits, *[st.integers(1, 60)] * 6))
def test_both_keep_the_same_limits(term: Any, limits: Limits) -> None:
    agree_on_bytes(python.encode(term), limits=limits)
    agree_on_bytes(python.encode(term, compressed=True), limits=limits)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(term=terms(), allowed=st.sets(atoms, max_size=3), depth=st.integers(0, 4))
def test_both_refuse_the_same_terms(term: Any, allowed: set[Atom], depth: int) -> None:
    for container in (allowed, frozenset(allowed), list(allowed), dict.fromkeys(allowed)):
        agree_on_term(term, atoms=container, max_depth=depth)


odd = st.sampled_from([float("nan"), float("inf"), "\ud800", object(), 1j, memoryview(b"ab"), bytearray(b"c"), 1 << 40])


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    term=st.recursive(
        leaves() | odd,
        lambda inner: (
            st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(leaves() | odd.filter(callable), inner)
        ),
    )
)
def test_both_refuse_what_is_no_term(term: Any) -> None:
    agree_on_term(term, root="result")
    agree_on_term(term, default=lambda value: [type(value).__name__, Atom("ok")], atoms=[Atom("ok")])
    agree_on_term(term, default=lambda value: 1 // 0)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(
    parts=st.lists(st.builds(lambda tag, rest: bytes((tag,)) + rest, st.sampled_from(TAGS), st.binary(max_size=6))),
    count=st.integers(0, 5),
    opening=st.sampled_from([b"l", b"t", b"i"]),
)
def test_both_read_bytes_that_begin_like_terms(parts: list[bytes], count: int, opening: bytes) -> None:
    agree_on_bytes(b"\x83" + opening + struct.pack(">I", count) + b"".join(parts))


def agree_on_prefix(data: bytes, offset: int, **options: Any) -> tuple[str, Any]:
    (kind, expected), got = (outcome(codec.decode_prefix, data, offset, **options) for codec in (python, compiled))
    assert kind == got[0]
    assert expected == got[1] if kind != "value" else (shape(expected[0]), expected[1]) == (shape(got[1][0]), got[1][1])
    return got


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    term=terms(),
    compressed=st.booleans(),
    version=st.booleans(),
    before=st.binary(max_size=5),
    behind=st.binary(max_size=5),
    binaries=st.sampled_from(BINARIES),
)
def test_both_read_the_same_prefix(
    term: Any, compressed: bool, version: bool, before: bytes, behind: bytes, binaries: str
) -> None:
    alone = python.encode(term, compressed=compressed and version)
    data = before + alone[0 if version else 1 :] + behind
    kind, (found, end) = agree_on_prefix(data, len(before), version=version, binaries=binaries)
    assert kind == "value"
    assert end == len(data) - len(behind)
    assert shape(found) == shape(python.decode(alone, binaries=binaries))


def test_every_truncation_of_a_term_with_every_tag() -> None:
    for data in (WHOLE, FUN, python.encode("a" * 100, compressed=True)):
        for length in range(len(data)):
            agree_on_bytes(data[:length])
            assert outcome(compiled.decode, data[:length])[0] == "DecodeError"
            assert agree_on_prefix(b"ab" + data[:length], 2)[0] == "DecodeError"
        agree_on_bytes(data)
        assert agree_on_prefix(b"ab" + data + b"\x83", 2)[1][1] == 2 + len(data)


@pytest.mark.parametrize("node", [NODE, None, True, Atom(""), Atom("é@h"), Atom("ż" * 200)])
def test_both_read_and_write_the_same_identifiers(node: Any) -> None:
    numbers = (0, 255, 256, 2**28 - 1, 2**28, 2**31, 2**32 - 1)
    identifiers: list[Any] = [Pid(node, n, m, 2**32 - 1 - n) for n in numbers for m in numbers]
    identifiers += [Port(node, n, m) for n in (*numbers, 2**32, 2**63, 2**64 - 1) for m in numbers]
    identifiers += [Reference(node, n, numbers[:count]) for n in numbers for count in range(1, 6)]
    for identifier in identifiers:
        data = python.encode(identifier)
        agree_on_term(identifier)
        agree_on_term([identifier], atoms=[NODE])
        agree_on_bytes(data)
    for data in map(python.encode, identifiers[:: len(numbers)]):
        for length in range(len(data)):
            agree_on_bytes(data[:length])
    agree_on_bytes(python.encode([Pid(NODE, 1, 2, 3), Port(Atom("m@h"), 1, 2)]), limits=Limits(max_atoms=1))


def test_mutations_of_a_term_with_every_tag() -> None:
    chance = random.Random(7)
    for _ in range(3000):
        data = bytearray(WHOLE)
        for _ in range(chance.randint(1, 3)):
            data[chance.randrange(len(data))] = chance.choice([0, 1, 255, chance.randrange(256), chance.choice(TAGS)])
        agree_on_bytes(bytes(data), limits=Limits(max_terms=100_000, max_inflated=100_000))


@pytest.mark.parametrize("data", [*(data for data, _ in TERMS.values()), *REFUSED.values()])
def test_the_vectors_of_a_real_erlang(data: bytes) -> None:
    for length in range(min(len(data), 400)):
        agree_on_bytes(data[:length])
    agree_on_bytes(data)
    for binaries in BINARIES:
        agree_on_bytes(memoryview(b"<" + data + b">")[1:-1], binaries=binaries, structs=False)


@pytest.mark.parametrize(
    ("args", "options"),
    [
        ((), {}),
        ((b"\x83a\1", 2), {}),
        ((b"\x83a\1",), {"limit": 1}),
        ((b"\x83a\1",), {"limits": None}),
        ((b"\x83a\1",), {"binaries": None}),
        ((b"\x83w\1a",), {"atoms": 5}),
        ((memoryview(b"\x83a\1x")[::2],), {}),
        (("\x83a\1",), {}),
    ],
)
def test_wrong_arguments_of_decode(args: tuple[Any, ...], options: dict[str, Any]) -> None:
    for codec in (python, compiled):
        with pytest.raises((TypeError, ValueError, AttributeError, DecodeError)):
            codec.decode(*args, **options)


def test_wrong_arguments_of_encode() -> None:
    for codec in (python, compiled):
        for args, options in [((), {}), ((1, 2), {}), ((1,), {"atom": 1}), (([1.5],), {"max_depth": "a"})]:
            with pytest.raises(TypeError):
                codec.encode(*args, **options)


# -- what Python code does in the middle -----------------------------------------------------------------------


class Odd:
    pass


@each_codec
@pytest.mark.parametrize("wrap", [lambda odd: [odd, 1.5, "x"], lambda odd: {"k": odd, "x": 1.5, (1, 2): 3, b"y": 4}])
def test_containers_may_change_while_default_runs(codec: backends.Backend, wrap: Callable[[Any], Any]) -> None:
    term = wrap(Odd())
    outer = [term, "end"]
    clean = codec.encode([wrap("odd"), "end"])

    def change(_: Any) -> str:
        term.clear()
        outer.clear()
        return "odd"

    assert codec.encode(outer, default=change) == clean


@each_codec
def test_an_improper_list_may_be_forgotten_while_default_runs(codec: backends.Backend) -> None:
    outer: list[Any] = [ImproperList([1, Odd(), [Odd()]], {"tail": (Odd(), ImproperList([Odd()], Odd()))}), "end"]

    def change(_: Any) -> str:
        outer.clear()
        gc.collect()
        return "odd"

    clean = [ImproperList([1, "odd", ["odd"]], {"tail": ("odd", ImproperList(["odd"], "odd"))}), "end"]
    assert codec.decode(codec.encode(outer, default=change)) == clean


@each_codec
def test_what_default_makes_lives_as_long_as_it_is_written(codec: backends.Backend) -> None:
    class Allowed:
        def __contains__(self, atom: object) -> bool:
            return bool([list(range(50)) for _ in range(20)])

    def made(_: Any) -> Any:
        return [Atom(f"made_{n}") for n in range(20)], {f"key {n}": (n, Atom(f"more_{n}")) for n in range(20)}

    assert codec.encode([Odd()] * 3, default=made, atoms=Allowed()) == codec.encode([made(None)] * 3)


@each_codec
def test_default_may_encode_and_decode(codec: backends.Backend) -> None:
    def nested(_: Any) -> Any:
        return codec.decode(codec.encode({Atom(f"nested_{n}"): [n, PID] for n in range(600)}))

    again = codec.decode(codec.encode({"a": [Odd()], "b": Odd()}, default=nested))
    assert again["a"][0] == again["b"] == nested(None)


@each_codec
def test_keys_are_still_checked_after_default_ran(codec: backends.Backend) -> None:
    with pytest.raises(EncodeError, match="a key twice"):
        codec.encode({"a": Odd(), b"a": 1}, default=lambda _: 1)
    assert codec.decode(codec.encode({"a": Odd(), (1, 2): 1, b"b": Odd()}, default=lambda _: 1)) == {
        "a": 1,
        (1, 2): 1,
        "b": 1,
    }


@each_codec
def test_maps_of_one_shape_are_maps_of_their_own(codec: backends.Backend) -> None:
    rows = [{"a": n, "b": [n], Atom("c"): Atom(f"c{n}"), "d": {"x": n, "y": [n], "z": None}} for n in range(50)]
    rows += [{"a": 1, "b": 2, "c": 3}, {"b": 1, "a": 2, "c": 3}, {"a": 1, "b": 2, "d": 3}] * 4
    rows += [{"a": date(2024, 5, n), "b": date(2024, 6, n), "c": n} for n in range(1, 20)]
    again = codec.decode(codec.encode(rows))
    assert again == rows
    assert [list(row) for row in again] == [list(row) for row in rows]
    again[0]["a"], again[1]["e"] = "changed", again[1]
    assert again[2:] == rows[2:]


@each_codec
@pytest.mark.parametrize("binaries", BINARIES)
def test_maps_of_one_shape_in_calls_of_their_own(codec: backends.Backend, binaries: str) -> None:
    terms: list[Any] = [{Atom("id"): n, "b": [n], Atom("c"): Atom(f"c{n}")} for n in range(6)]
    terms += [{"x": n, "y": float(n)} for n in range(6)] + [{"y": n, "x": n} for n in range(6)]
    terms += [{Atom("__struct__"): Atom("Elixir.Odd"), "x": n} for n in range(6)]
    terms += [{f"{first}": n, "b": n, "c": n} for n in range(4) for first in range(100)]
    decoded = [codec.decode(python.encode(term), binaries=binaries) for term in terms]
    assert [shape(term) for term in decoded] == [
        shape(python.decode(python.encode(term), binaries=binaries)) for term in terms
    ]
    decoded[0].clear()
    decoded[1]["new"] = decoded[1]
    assert codec.decode(python.encode(terms[2])) == terms[2]


def test_a_shape_that_is_replaced_lets_go_of_its_atoms() -> None:
    gone: list[Any] = []
    atom = Atom("a key that is forgotten")
    row = python.encode({atom: 1, "b": 2})
    for _ in range(3):
        compiled.decode(row)
    weakref.finalize(atom, lambda: gone.append(compiled.decode(python.encode({"x": [1], "y": 2}))))
    del atom
    others = (Atom(f"other {n}") for n in range(100_000))  # more than it takes, whatever the slots of the caches
    while not gone:
        other = python.encode({next(others): 1, "b": 2})
        for _ in range(2):
            compiled.decode(other)
    assert gone == [{"x": [1], "y": 2}]


@each_codec
@pytest.mark.parametrize("key", ["k" * 1_000_000, "ż" * 1_000_000, b"\xff" * 1_000_000])
def test_nothing_keeps_long_keys_of_maps_of_one_shape(codec: backends.Backend, key: str | bytes) -> None:
    rows = [codec.encode({key: 1, **{f"{n}": n for n in range(more)}}) for more in range(1, 16)]
    tracemalloc.start()
    try:
        for row in rows:
            for _ in range(5):
                codec.decode(row)
        assert tracemalloc.get_traced_memory()[0] < 500_000
    finally:
        tracemalloc.stop()


LONG = b"l" + struct.pack(">I", 300) + b"m\0\0\0\1a" * 300


@pytest.mark.parametrize(
    "tail",
    [b"j", LONG + b"j", b"l\0\0\0\1a\1j", b"k\0\2ab", b"a\1", b"m\0\0\0\1b", LONG + b"k\0\1a", LONG + b"a\1", b"w\1b"],
)
def test_a_long_list_with_every_tail(tail: bytes) -> None:
    for data in (LONG + tail, b"h\2" + LONG + tail + b"a\1", b"l\0\0\1\x90" + (LONG + tail) * 400 + b"j"):
        agree_on_bytes(b"\x83" + data)
        agree_on_bytes(b"\x83" + data, limits=Limits(max_terms=500))
    for length in range(1, len(LONG + tail), 3):
        agree_on_bytes(b"\x83" + (LONG + tail)[:length])


def test_a_long_list_is_tracked_by_the_collector() -> None:
    rows = compiled.decode(compiled.encode([[n] for n in range(1000)]))
    assert gc.is_tracked(rows)
    assert all(map(gc.is_tracked, rows))


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("data", [WHOLE, WHOLE[:-1], compiled.encode([[0.5]] * 1000)])
def test_the_collector_is_afterwards_what_it_was(data: bytes, enabled: bool) -> None:
    was_enabled = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        outcome(compiled.decode, data)
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if was_enabled else gc.disable)()


def test_python_code_finds_the_collector_enabled(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[bool] = []

    original = Pid.__hash__
    monkeypatch.setattr(Pid, "__hash__", lambda pid: found.append(gc.isenabled()) or original(pid))
    compiled.decode(python.encode([1, {PID: "a"}]))
    assert found
    assert all(found)


@each_codec
def test_a_text_whose_utf8_python_keeps(codec: backends.Backend) -> None:
    import msgspec

    for text in ("żółć", "é" * 300, "a🐍", "日本語"):
        msgspec.json.encode(text)  # it asks Python for the UTF-8, which then stays in the str
        assert codec.encode(text) == b"\x83m" + struct.pack(">I", len(text.encode())) + text.encode()


@each_codec
@pytest.mark.parametrize("letter", ["é", "ż", "🐍"])
def test_texts_are_the_same_when_they_are_sent_again(codec: backends.Backend, letter: str) -> None:
    for length in (1, 999, 1000, 1001, 5000):
        text = letter * length
        for _ in range(3):
            assert codec.encode([text, {text: text}]).count(text.encode()) == 3
        with pytest.raises(EncodeError, match=r"str with a lone surrogate at term\[0\]"):
            codec.encode([text[1:] + "\ud800"])


@each_codec
def test_long_binaries_that_are_text_or_nearly(codec: backends.Backend) -> None:
    for before in range(4090, 4100):
        for end in ("é", "日", "🐍"):
            text = "a" * before + end + "b" * 10
            assert codec.decode(codec.encode(text)) == text
            broken = text.encode()[: before + 1] + b"b" * 10
            assert codec.decode(codec.encode(broken)) == broken
    assert codec.decode(codec.encode(b"\xff" * 5000)) == b"\xff" * 5000


def test_a_dict_that_comes_to_hold_itself_is_collected() -> None:
    class Watched:
        pass

    row = compiled.decode(compiled.encode([{"a": 1, "b": Atom("b"), "c": n} for n in range(5)]))[4]
    watched = Watched()
    row["a"], row["b"] = row, watched
    gone = weakref.ref(watched)
    del row, watched
    gc.collect()
    assert gone() is None


@each_codec
def test_many_atoms(codec: backends.Backend) -> None:
    names = [Atom(f"atom_{n % 3000}") for n in range(9000)]
    found: set[Atom] = set()
    data = codec.encode(names)
    assert codec.decode(data, atoms=found, limits=Limits(max_atoms=3000)) == names
    assert found == set(names)
    with pytest.raises(DecodeError, match="max_atoms"):
        codec.decode(data, limits=Limits(max_atoms=2999))


@each_codec
def test_text_of_every_length_and_width(codec: backends.Backend) -> None:
    for letter in ("a", "é", "ż", "日", "🐍", "\0", "\x7f", "\x80", "\u07ff", "\u0800", "\uffff", "\U0010ffff"):
        for length in range(70):
            for text in (letter * length, "x" * length + letter, letter + "x" * length):
                data = codec.encode({text: [text]})
                assert data.endswith(text.encode() + b"j")
                assert codec.decode(data) == {text: [text]}


@each_codec
@pytest.mark.parametrize(
    "data",
    [b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe0\x80\x80", b"\xf0\x80\x80\x80", b"\xf8\x88\x80\x80"],
)
def test_what_is_nearly_utf8_stays_bytes(codec: backends.Backend, data: bytes) -> None:
    for before in range(40):
        for binary in (
            b"a" * before + data,
            b"a" * before + data + b"a",
            data + b"a" * before,
            b"\xc3\xa9" + data[:-1],
        ):
            assert codec.decode(codec.encode([binary])) == [binary]


# -- interpreters ----------------------------------------------------------------------------------------------

WITH_ANOTHER_INTERPRETER = """
from erl_bridge import etf
assert etf.backend == "compiled"
try:  # its name from Python 3.13 on
    import _interpreters as interpreters
    made = interpreters.create("legacy" if {has_shared_lock} else "isolated")
except ImportError:
    import _xxsubinterpreters as interpreters
    made = interpreters.create(isolated=not {has_shared_lock})
assert interpreters.run_string(made, {code!r}) is None
interpreters.destroy(made)
assert etf.decode(etf.encode([1])) == [1]
"""
IN_ANOTHER_INTERPRETER = """
from erl_bridge import etf
from erl_bridge.etf import backends
try:
    import erl_bridge.etf._core
except ImportError:
    term = etf.decode(etf.encode([1, "a", {{"k": None}}]))
    with open({out!r}, "w") as file:
        file.write(repr((etf.backend, backends.names(), term)))
"""


@pytest.mark.parametrize("has_shared_lock", [False, True])
def test_a_sub_interpreter_gets_the_pure_codec(tmp_path: Path, has_shared_lock: bool) -> None:
    out = tmp_path / "out"
    code = IN_ANOTHER_INTERPRETER.format(out=str(out))
    script = WITH_ANOTHER_INTERPRETER.format(has_shared_lock=has_shared_lock, code=code)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), backends.VARIABLE: ""}
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, env=environment)
    assert literal_eval(out.read_text()) == ("python", ["python"], [1, "a", {"k": None}])


# -- memory ----------------------------------------------------------------------------------------------------


def test_nothing_leaks() -> None:
    decoded = [WHOLE, FUN, python.encode(["x"] * 100, compressed=True), *(data for data, _ in TERMS.values())]
    damaged = [data[:length] for data in decoded[:3] for length in range(0, len(data), 7)]
    refused = [[1, {"a": float("nan")}], {"k": ["\ud800"]}, [[Odd()]], {"a": 1, b"a": 2}]
    held = Atom("held while this test runs")

    def everything() -> None:
        for data in [*decoded, *damaged, *REFUSED.values()]:
            outcome(compiled.decode, data, atoms=set())
        for term in refused:
            outcome(compiled.encode, term)
            outcome(compiled.encode, [term, held], atoms=[held], default=lambda _: {"t": (held, 2**70)})
        compiled.encode(compiled.decode(WHOLE), compressed=True)

    def memory_after(rounds: int) -> int:
        for _ in range(rounds):
            everything()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        filled = memory_after(10)  # the caches have what they are going to have
        references = sys.getrefcount(held), sys.getrefcount(PID), sys.getrefcount(Odd)
        grown = memory_after(20) - filled
    finally:
        tracemalloc.stop()
    assert grown < 60_000  # the caches fill slowly; one object lost in each call would be ten times that
    assert references == (sys.getrefcount(held), sys.getrefcount(PID), sys.getrefcount(Odd))
