"""What looks into batches without decoding them: it is right where it is sure, and leaves the rest to the decoder."""

from __future__ import annotations

import datetime
import random
from typing import Any

import pytest
from datasets_support import ROWS
from hypothesis import given
from hypothesis import strategies as st

from erl_bridge import Atom, ImproperList, Pid, TermMap, etf
from erl_bridge.datasets import stream
from erl_bridge.etf.encoder import encode
from erl_bridge.terms import CONSTANTS

scan = pytest.importorskip("erl_bridge.datasets._scan").scan

# Hypothesis tries texts that it finds in our source, too; what has this one in it is left to the decoder.
names = st.text(max_size=20).filter(lambda name: name not in CONSTANTS and name != "__struct__").map(Atom)
scalars = st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text() | st.binary() | names | st.none()
keys = st.text(max_size=3) | names | st.integers() | st.tuples(names)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
        | st.lists(st.integers(0, 255), max_size=9)
        | st.builds(ImproperList, st.lists(inner, min_size=1, max_size=3), st.integers())
    ),
    max_leaves=20,
)
rows_of_any_kind = st.lists(st.dictionaries(keys, values, max_size=5), min_size=1, max_size=8)


def decoded(batch: bytes) -> tuple[int, set[Atom]] | None:
    """What there is to be found, by the decoder; None for what is no batch."""
    atoms: set[Atom] = set()
    try:
        rows = etf.decode(batch, atoms=atoms)
    except etf.DecodeError:
        return None
    if type(rows) is not list or not rows or not all(isinstance(row, (dict, TermMap)) for row in rows):
        return None
    return len(rows), atoms


def found(batch: bytes) -> tuple[int, set[Atom]] | None:
    result = scan(batch)
    return result and (result[0], {Atom(name) for name in map(bytes.decode, result[1]) if name not in CONSTANTS})


@given(rows_of_any_kind)
def test_it_is_sure_of_common_terms_and_right(rows: list[Any]) -> None:
    batch = encode(rows)
    expected = decoded(batch)
    result = found(batch)
    assert result == expected
    assert result is not None


@given(rows_of_any_kind, st.data())
def test_whatever_the_bytes_it_is_sure_of_nothing_that_is_no_batch(rows: list[Any], data: Any) -> None:
    changed = bytearray(encode(rows))
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    batch = bytes(changed[: data.draw(st.integers(0, len(changed)))]) if data.draw(st.booleans()) else bytes(changed)
    try:
        result = found(batch)
    except UnicodeDecodeError:
        return  # the caller decodes the batch then
    if result is not None:
        expected = decoded(batch)
        assert expected == result or "distinct" in str(why(batch))


def why(batch: bytes) -> Exception | None:
    try:
        etf.decode(batch)
    except etf.DecodeError as error:
        return error
    return None


def test_every_prefix_of_a_batch_is_none() -> None:
    batch = encode([*ROWS[:3], {"f": 1.5, "big": 1 << 70, "t": (1, [2, [3]]), "s": [1, 2, 3], "n": [[], {}, ()]}])
    assert scan(batch)[0] == 4
    for end in range(len(batch)):
        assert scan(batch[:end]) is None
    assert scan(batch + b"\0") is None


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value, {"a": 1}]
    return value


UNSURE: list[Any] = [
    [{"a": datetime.date(2026, 1, 1)}],
    [{Atom("__struct__"): Atom("Elixir.User")}],
    [{"a": Pid(Atom("n@h"), 1, 0, 1)}],
    [{"a": nested(64)}],
    [{Atom(f"k{n}"): 1} for n in range(513)],
    [5],
    [ROWS[0], 5],
    [],
    [1, 2, 3],
    {},
    5,
]


@pytest.mark.parametrize("term", UNSURE)
def test_what_it_leaves_to_the_decoder(term: Any) -> None:
    assert scan(encode(term)) is None


def test_it_is_sure_up_to_its_limits() -> None:
    assert scan(encode([{"a": nested(31)}]))[0] == 1
    assert len(scan(encode([{Atom(f"k{n}"): 1} for n in range(512)]))[1]) == 512
    longest = Atom("x" * 255)
    assert scan(encode([{longest: Atom("")}]))[1] in ([b"", longest.name.encode()], [longest.name.encode(), b""])


HEAD = b"\x83l\x00\x00\x00\x01t\x00\x00\x00\x01a\x01"


@pytest.mark.parametrize(
    "value",
    [
        b"F\x7f\xf0\0\0\0\0\0\0",  # infinity
        b"F\xff\xf8\0\0\0\0\0\0",  # not a number
        b"s\x01\xe9",  # an atom in Latin-1 that is not ASCII
        b"v\x01\x00" + b"x" * 256,  # an atom of 256 characters
        b"l\x00\x00\x00\x00a\x01",  # a list that is only a tail
        b"l\xff\xff\xff\xffa\x01j",
        b"m\xff\xff\xff\xff",
        b"i\xff\xff\xff\xff",
        b"t\xff\xff\xff\xff",
        b"o\xff\xff\xff\xff\x00",
        b"P",
        b"\x00",
    ],
)
def test_what_is_odd_is_left_to_the_decoder(value: bytes) -> None:
    assert scan(HEAD + b"a\x01" + b"j") == (1, [])
    assert scan(HEAD + value + b"j") is None


def test_only_bytes_are_looked_into() -> None:
    with pytest.raises(TypeError, match="expected bytes, got bytearray"):
        scan(bytearray(b""))


def test_without_it_all_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    from erl_bridge.datasets.ceilings import DEFAULT

    whole, alone = stream.Stream("none", DEFAULT), stream.Stream("none", DEFAULT)
    batch = encode(ROWS)
    sent = len(batch).to_bytes(4, "big") + batch
    assert [one.rows for one in whole.feed(sent)] == [1000]
    monkeypatch.setattr(stream, "scan", lambda batch: None)
    assert [one.rows for one in alone.feed(sent)] == [1000]
    assert (alone.atoms, alone.dataset_id, alone.bytes) == (whole.atoms, whole.dataset_id, whole.bytes)


def test_names_that_begin_alike_are_told_apart() -> None:
    generator = random.Random(1)
    for length in (1, 7, 8, 9, 30):
        rows = [{Atom("a" * length + str(generator.randrange(100))): Atom("a" * length)} for _ in range(200)]
        assert found(encode(rows)) == decoded(encode(rows))
