"""The types for Erlang terms, and when two terms are the same."""

from __future__ import annotations

import copy
import datetime
import decimal
import doctest
import enum
import gc
import pickle
import sys
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erl_bridge import terms
from erl_bridge.terms import (
    Atom,
    BitString,
    Export,
    Fun,
    ImproperList,
    Pid,
    Port,
    Reference,
    TermMap,
    identity,
)

NODE = Atom("n@h")
VALUES = [
    Atom("ok"),
    Pid(NODE, 1, 2, 3),
    Port(NODE, 1, 2),
    Reference(NODE, 1, (7, 8, 9)),
    Export(Atom("lists"), Atom("map"), 2),
    Fun(Atom("m"), 1, 2, 3, b"p...", b"sameness"),
    BitString(b"\xff", 3),
    ImproperList([1, 2], 3),
    TermMap([(1, "a"), (1.0, "b"), ([], "c")]),
]


def test_the_examples() -> None:
    assert doctest.testmod(terms).failed == 0


# -- atoms -----------------------------------------------------------------------------------------------------


def test_atoms_of_one_name_are_one_object() -> None:
    assert Atom("a name nobody has") is Atom("a name " + "nobody has")
    assert Atom("a") != Atom("b")
    assert hash(Atom("a")) == hash(Atom("a"))


def test_an_atom_is_not_the_string_of_its_name() -> None:
    assert Atom("a") != "a"
    assert not isinstance(Atom("a"), str)
    assert {Atom("a"): 1, "a": 2} == {"a": 2, Atom("a"): 1}


def test_an_atom_shows_its_name() -> None:
    assert (Atom("ż").name, str(Atom("ż")), repr(Atom("ż")), f"{Atom('ż')}") == ("ż", "ż", "Atom('ż')", "ż")


def test_a_str_subclass_names_the_same_atom() -> None:
    class Name(str):
        __slots__ = ()

    assert Atom(Name("ok")) is Atom("ok")
    assert type(Atom(Name("seen first as a subclass")).name) is str


def test_atoms_cannot_be_changed_or_subclassed() -> None:
    with pytest.raises(AttributeError, match="Atom is immutable"):
        Atom("a").name = "b"
    with pytest.raises(TypeError, match="cannot be subclassed"):
        type("Mine", (Atom,), {})


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("true", ValueError, "the atom true is True in Python; use that"),
        ("false", ValueError, "the atom false is False in Python; use that"),
        ("nil", ValueError, "the atom nil is None in Python; use that"),
        ("x" * 256, ValueError, "an atom has at most 255 characters, not 256"),
        ("\ud800", ValueError, "the name of an atom is Unicode text; this one has a lone surrogate"),
        (b"ok", TypeError, "the name of an atom is a str, not bytes"),
        ([], TypeError, "the name of an atom is a str, not list"),
        (None, TypeError, "the name of an atom is a str, not NoneType"),
    ],
)
def test_names_that_no_atom_has(name: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        Atom(name)
    assert str(caught.value) == message


@pytest.mark.parametrize("name", ["", "x" * 255, "λ" * 255, "🐍" * 255, "\0", "None", "True", "Elixir.My Module"])
def test_names_that_atoms_have(name: str) -> None:
    assert Atom(name).name == name


def test_atoms_that_nobody_holds_are_forgotten() -> None:
    before = len(terms._atoms)
    for number in range(1000):
        Atom(f"forgotten {number}")
    gc.collect()
    assert len(terms._atoms) <= before


def test_threads_that_make_one_atom_at_once_get_one_object() -> None:
    workers, rounds = 4, 200
    made: list[list[Atom]] = [[] for _ in range(workers)]
    barrier = threading.Barrier(workers)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def make(mine: list[Atom]) -> None:
        for number in range(rounds):
            barrier.wait()
            mine.append(Atom(f"raced {number}"))

    try:
        threads = [threading.Thread(target=make, args=(mine,)) for mine in made]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert all(len({id(atom) for atom in of_a_round}) == 1 for of_a_round in zip(*made, strict=True))


# -- the others ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_terms_survive_copy_and_pickle(value: Any) -> None:
    for again in (copy.copy(value), copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
        assert again == value
        assert hash(again) == hash(value)
        assert type(value) is not Atom or again is value


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_terms_cannot_be_changed(value: Any) -> None:
    with pytest.raises(AttributeError, match="is immutable"):
        value.node = 1


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Pid("n@h", 1, 2, 3), TypeError, "the node of a pid is an Atom, not str"),
        (lambda: Pid(NODE, -1, 2, 3), ValueError, "the id of a pid is an integer from 0 to 4294967295"),
        (lambda: Pid(NODE, 1, 2, True), TypeError, "the creation of a pid is an int, not bool"),
        (lambda: Port(NODE, 1 << 64, 3), ValueError, "the id of a port is an integer from 0 to 18446744073709551615"),
        (lambda: Reference(NODE, 1, [1] * 6), ValueError, "a reference has 1 to 5 words, not 6"),
        (lambda: Reference(NODE, 1, []), ValueError, "a reference has 1 to 5 words, not 0"),
        (lambda: Reference(NODE, 1, [1 << 32]), ValueError, "a word of a reference is an integer from 0 to 4294967295"),
        (lambda: Export("m", NODE, 1), TypeError, "the module of an export is an Atom, not str"),
        (lambda: Export(NODE, NODE, -1), ValueError, f"the arity of an export is an integer from 0 to {2**59 - 1}"),
        (lambda: BitString(b"", 1), ValueError, "a bit string has at least one byte; use b'' for an empty one"),
        (
            lambda: BitString(b"a", 8),
            ValueError,
            "the last byte of a bit string has 1 to 7 bits that count; use bytes where it has 8",
        ),
        (lambda: ImproperList([], 1), ValueError, "an improper list has at least one item before its tail"),
        (
            lambda: ImproperList([1], [2]),
            ValueError,
            "the tail of an improper list is no list; a list with a list as its tail is just a list",
        ),
        (lambda: TermMap([(1, 1), (1, 2)]), ValueError, "a key comes twice in a TermMap"),
        (lambda: TermMap([("a", 1), (b"a", 2)]), ValueError, "a key comes twice in a TermMap"),
    ],
)
def test_fields_that_do_not_fit(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value) == message


def test_bits_that_do_not_count_are_zero() -> None:
    assert BitString(bytearray(b"\xff\xff"), 1).data == b"\xff\x80"
    assert BitString(b"\xff", 7) == BitString(b"\xfe", 7) != BitString(b"\xfe", 6)


def test_zeros_at_the_end_of_a_reference_do_not_count() -> None:
    assert Reference(NODE, 1, (0,)) == Reference(NODE, 1, (0, 0, 0, 0, 0))
    assert hash(Reference(NODE, 1, (1,))) == hash(Reference(NODE, 1, (1, 0)))
    assert Reference(NODE, 1, (1,)) != Reference(NODE, 1, (1, 1))
    assert Reference(NODE, 1, (1, 0)).ids == (1, 0)


def test_a_tail_that_is_an_improper_list_is_taken_in() -> None:
    assert ImproperList([1], ImproperList([2], ImproperList([3], 4))) == ImproperList([1, 2, 3], 4)


def test_a_fun_shows_what_it_is() -> None:
    assert repr(Fun(Atom("shop"), 2, 7, 123, b"", b"")) == "<Fun shop.7.123/2>"
    assert repr(Fun(None, 2, 7, 123, b"", b"")) == "<Fun nil.7.123/2>"


# -- maps with any keys ----------------------------------------------------------------------------------------

ODD = [
    (1, "int"),
    (1.0, "float"),
    (True, "true"),
    ([1], "list"),
    ({"a": [1]}, "map"),
    ("a", "binary"),
    (Atom("a"), "atom"),
    (0.0, "zero"),
    (-0.0, "minus zero"),
]


def test_a_term_map_holds_keys_apart_that_a_dict_merges() -> None:
    odd = TermMap(ODD)
    assert [odd[key] for key, _ in ODD] == [value for _, value in ODD]
    assert odd[b"a"] == "binary"
    assert all(key in odd for key, _ in ODD)
    assert 2 not in odd
    assert (odd.get(2), odd.get(2, "none")) == (None, "none")
    with pytest.raises(KeyError):
        odd[2]


def test_a_term_map_is_read_like_a_mapping() -> None:
    odd = TermMap(ODD)
    assert len(odd) == len(ODD)
    assert bool(odd)
    assert not TermMap()
    assert list(odd) == list(odd.keys()) == [key for key, _ in ODD]
    assert odd.values() == tuple(value for _, value in ODD)
    assert odd.items() == tuple(ODD)
    assert TermMap({"a": 1}).items() == (("a", 1),)
    assert repr(TermMap({"a": 1})) == "TermMap([('a', 1)])"


def test_term_maps_with_the_same_pairs_are_equal() -> None:
    assert TermMap(ODD) == TermMap(reversed(ODD))
    assert hash(TermMap(ODD)) == hash(TermMap(reversed(ODD)))
    assert TermMap(ODD) != TermMap(ODD[1:])
    assert TermMap([(1, 1)]) != TermMap([(1, 1.0)])
    assert TermMap([(1, 1)]) != {1: 1}
    assert len({TermMap(ODD), TermMap(reversed(ODD))}) == 1


def test_no_term_is_no_key() -> None:
    with pytest.raises(TypeError, match=r"an object of type builtins\.object is no term"):
        TermMap().get(object())
    with pytest.raises(ValueError, match="float nan is no term"):
        TermMap([(float("nan"), 1)])


# -- identity --------------------------------------------------------------------------------------------------


class Colour(enum.IntEnum):
    RED = 1


UTC = datetime.UTC
# Each row is one term, in all the ways to write it; no two rows are the same term.
DISTINCT: list[list[Any]] = [
    [0],
    [1, Colour.RED],
    [1.0],
    [True],
    [False],
    [None],
    [0.0],
    [-0.0],
    [-1],
    [255],
    [256],
    [2**64],
    [-(2**64)],
    ["", b"", bytearray()],
    ["a", b"a", bytearray(b"a"), memoryview(b"a")],
    ["x" * 100, b"x" * 100],
    ["x" * 101],
    [b"\xff"],
    [Atom("a")],
    [Atom("")],
    [Atom("x" * 255)],
    [BitString(b"a", 7), BitString(b"`", 7)],
    [BitString(b"a", 6)],
    [[]],
    [[[]]],
    [()],
    [((),)],
    [{}, TermMap()],
    [[1]],
    [[1, 2]],
    [[[1], 2]],
    [[[1, 2]]],
    [(1, 2)],
    [ImproperList([1], 2)],
    [ImproperList([1], (2,))],
    [ImproperList([1, 2], 3)],
    [{"a": 1, "b": 2}, {"b": 2, "a": 1}, {b"a": 1, b"b": 2}, TermMap([("b", 2), ("a", 1)])],
    [{"a": 2, "b": 1}],
    [{"a": 1}],
    [{1: "a"}],
    [{1.0: "a"}],
    [TermMap([(1, 1), (1.0, 2)]), TermMap([(1.0, 2), (1, 1)])],
    [TermMap([(1, 2), (1.0, 1)])],
    [{Atom("a"): 1}],
    [Pid(NODE, 1, 2, 3)],
    [Pid(Atom("m@h"), 1, 2, 3)],
    [Pid(NODE, 2, 1, 3)],
    [Port(NODE, 1, 2)],
    [Port(NODE, 2, 1)],
    [Reference(NODE, 1, (2,)), Reference(NODE, 1, (2, 0))],
    [Reference(NODE, 2, (1,))],
    [Export(NODE, NODE, 1)],
    [Export(NODE, NODE, 2)],
    [Fun(NODE, 1, 1, 1, b"x", b"1"), Fun(NODE, 1, 1, 1, b"y", b"1")],
    [Fun(NODE, 1, 1, 1, b"x", b"2")],
    [{1, 2}, {2, 1}, frozenset({1, 2})],
    [{1, 2.0}],
    [range(3)],
    [range(0, 4, 2)],
    [range(0, 3, 2)],
    [decimal.Decimal("1.0")],
    [decimal.Decimal("1.00")],
    [decimal.Decimal("NaN")],
    [datetime.date(2024, 1, 1)],
    [datetime.datetime(2024, 1, 1)],
    [datetime.datetime(2024, 1, 1, tzinfo=UTC)],
    [datetime.datetime(2024, 1, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=1)))],
]


def test_one_term_has_one_identity_however_it_is_written() -> None:
    for row in DISTINCT:
        assert len({identity(term) for term in row}) == 1, row


def test_different_terms_have_different_identities() -> None:
    for wrap in (lambda term: term, lambda term: [term, 1], lambda term: (1, term), lambda term: {"k": term}):
        assert len({identity(wrap(row[0])) for row in DISTINCT}) == len(DISTINCT)
    assert len({identity(TermMap([(row[0], 1)])) for row in DISTINCT}) == len(DISTINCT)


def test_identities_are_short() -> None:
    assert max(len(identity(row[0])) for row in DISTINCT) < 60
    assert len(identity([list(range(1000)), "x" * 100_000])) < 60


def test_identity_does_not_recurse() -> None:
    deep: Any = 1
    for kind in range(10_000):
        deep = [deep] if kind % 3 else (deep, 1) if kind % 2 else {"a": deep}
    assert identity(deep) == identity(deep) != identity([deep])


def test_what_holds_itself_has_no_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terms, "_MAX_DEPTH", 1000)
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ValueError, match="no identity for a term that is nested more than 1000 deep or holds itself"):
        identity(endless)


@pytest.mark.parametrize("term", [object(), float("nan"), float("inf"), "\ud800", [object()], {1: float("-inf")}])
def test_what_is_no_term_has_no_identity(term: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="is no term"):
        identity(term)


scalars = st.one_of(
    st.integers(-2, 2), st.sampled_from([0.0, 1.0, -1.0]), st.booleans(), st.none(), st.sampled_from(["", "a", "b"])
)
lookalikes = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.lists(inner, max_size=2).map(tuple)),
    max_leaves=4,
)


@settings(deadline=None, derandomize=True)
@given(lookalikes, lookalikes)
def test_terms_are_the_same_when_they_are_written_the_same(left: Any, right: Any) -> None:
    assert (identity(left) == identity(right)) == (repr(left) == repr(right))
