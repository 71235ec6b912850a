"""The values of BERT both ways, and the packets of BERT-RPC, without any I/O."""

from __future__ import annotations

import datetime
import re
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import a

from erl_bridge import BitString, ImproperList, Pid, TermMap, etf
from erl_bridge.errors import HandlerError, Overloaded
from erl_bridge.wire import bert, bert_rpc
from erl_bridge.wire.bert import BadBert, understood

ALLOWED = {*range(97, 101), *range(104, 112)}
ATOMS = {a(name) for name in ("ok", "a", "größe", "caseless")}


def read(data: bytes) -> Any:
    """What a client that knows BERT's types reads."""
    atoms: set[Any] = set()
    return understood(etf.decode(data, atoms=atoms), atoms)


def tags(data: bytes) -> set[int]:
    """Every tag in an external term, found without our decoder."""
    found: set[int] = set()
    sizes = {97: 1, 98: 4, 99: 31, 106: 0}

    def walk(at: int) -> int:
        tag = data[at]
        found.add(tag)
        at += 1
        if tag in sizes:
            return at + sizes[tag]
        if tag in (100, 107):
            return at + 2 + int.from_bytes(data[at : at + 2], "big")
        if tag in (109, 110, 111):
            wide = 1 if tag == 110 else 4
            length = int.from_bytes(data[at : at + wide], "big")
            return at + wide + length + (tag != 109)
        wide = 1 if tag == 104 else 4
        count = int.from_bytes(data[at : at + wide], "big") + (tag == 108)
        at += wide
        for _ in range(count):
            at = walk(at)
        return at

    assert data[0] == 131
    assert walk(1) == len(data)
    return found


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**2100), 2**2100),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
    st.binary().map(lambda data: data if not is_text(data) else data + b"\xff"),
    st.sampled_from(sorted(ATOMS, key=str)),
    st.datetimes(timezones=st.just(datetime.UTC)),
)
keys = st.one_of(st.text(), st.integers(), st.booleans(), st.none(), st.sampled_from(sorted(ATOMS, key=str)))


def is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def maps(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Maps whose keys Python holds apart as the BEAM does."""
    return st.dictionaries(keys, values, max_size=4).filter(lambda d: not {0, 1} & {k for k in d if type(k) is int})


def containers(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.lists(values, max_size=4), st.lists(values, max_size=4).map(tuple), maps(values))


terms = st.recursive(leaves, containers, max_leaves=20)


@given(terms)
def test_every_value_goes_out_in_bert_s_tags_alone_and_comes_back_the_same(term: Any) -> None:
    data = bert.encode(term, ATOMS)
    assert tags(data) <= ALLOWED
    back = read(data)
    assert back == term
    assert bert.encode(back, ATOMS) == data  # also what == holds equal: 1, 1.0 and true; a zero and its negative


@given(terms)
def test_the_same_values_come_in_as_native_terms_too(term: Any) -> None:
    assert read(etf.encode(term)) == term


@pytest.mark.parametrize(
    ("term", "value"),
    [
        ((a("bert"), None), None),
        ((a("bert"), True), True),
        ((a("bert"), False), False),
        ((a("bert"), a("dict"), []), {}),
        ((a("bert"), a("dict"), [(a("a"), [1]), ("b", (a("bert"), None))]), {a("a"): [1], "b": None}),
        ((a("bert"), a("dict"), [["a", 1]]), {"a": 1}),
        ((a("bert"), a("dict"), [(1, "i"), (1.0, "f")]), TermMap([(1, "i"), (1.0, "f")])),
        ((a("bert"), a("dict"), [([1], "l")]), TermMap([([1], "l")])),
        (
            (a("bert"), a("time"), 1255, 295581, 446228),
            datetime.datetime(2009, 10, 11, 21, 13, 1, 446228, datetime.UTC),
        ),
        ((a("bert"), a("string"), a("UTF-8"), "größe"), "größe"),
        (
            (a("bert"), a("regex"), "^c(a*)t$", (a("caseless"),)),
            (a("bert"), a("regex"), "^c(a*)t$", [a("caseless")]),
        ),
        ({"in a map": [(a("bert"), True)]}, {"in a map": [True]}),
        (ImproperList([(a("bert"), None)], 1), ImproperList([None], 1)),
    ],
)
def test_what_bert_says_in_tuples_is_understood(term: Any, value: Any) -> None:
    assert read(etf.encode(term)) == value


@pytest.mark.parametrize(
    "term",
    [
        (a("bert"),),
        (a("bert"), a("nothing")),
        (a("bert"), None, 1),
        (a("bert"), 1),
        (a("bert"), [1]),
        (a("bert"), a("dict")),
        (a("bert"), a("dict"), (1, 2)),
        (a("bert"), a("dict"), [1]),
        (a("bert"), a("dict"), [(1, 2, 3)]),
        (a("bert"), a("dict"), [("a", 1), ("a", 2)]),
        (a("bert"), a("time"), 1, 2),
        (a("bert"), a("time"), 1, 2, 3.0),
        (a("bert"), a("time"), 2**70, 0, 0),
        (a("bert"), a("time"), True, 0, 0),
        (a("bert"), a("regex"), "(", []),
        (a("bert"), a("regex"), "a", [a("unheard_of")]),
        (a("bert"), a("regex"), 1, []),
        (a("bert"), a("string"), a("UTF-8"), 1),
    ],
)
def test_what_it_does_not_say_is_refused(term: Any) -> None:
    for whole in (term, [{"deep": (term,)}]):
        with pytest.raises(BadBert, match="expected"):
            read(etf.encode(whole))


def test_keys_that_collide_are_refused_as_in_native_maps() -> None:
    colliding = [(n * (2**61 - 1), 0) for n in range(1, 200)]
    with pytest.raises(BadBert, match="at most 100 keys of one hash"):
        read(etf.encode((a("bert"), a("dict"), colliding)))


def test_terms_may_be_nested_up_to_the_limit_both_ways() -> None:
    def nested(depth: int) -> Any:
        term: Any = 1
        for _ in range(depth):
            term = [(a("bert"), None), term]
        return term

    deep = nested(bert.MAX_DEPTH - 1)
    value = understood(etf.decode(etf.encode(deep), limits=bert.LIMITS), {a("bert")})
    assert etf.decode(bert.encode(value, ())) == deep
    with pytest.raises(etf.DecodeError, match="containers within one another"):
        etf.decode(etf.encode(nested(bert.MAX_DEPTH)), limits=bert.LIMITS)
    holds_itself: list[Any] = []
    holds_itself.append(holds_itself)
    with pytest.raises(etf.EncodeError, match=f"nested more than {bert.MAX_DEPTH} deep"):
        bert.encode(holds_itself, ())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"metrics": [{"score": float("nan")}]}, "float nan at result.metrics[0].score: floats of the BEAM are finite"),
        ([1, a("invented")], "atom invented at result[1]: it is not one of the atoms that may be sent; send a string"),
        ((1, a("größ\u20ac")), "atom größ\u20ac at result[1]: BERT's atoms are Latin-1; send a string"),
        ({"a b": "\udc80"}, 'str with a lone surrogate at result["a b"]: it has no UTF-8 form'),
        ({"x": {object: 1}}, "at result.x.keys(): "),
        ([Pid(a("a"), 1, 2, 3)], "a Pid at result[0]: BERT has no such type"),
        (BitString(b"a", 3), "a BitString at result: BERT has no such type"),
        ((a("bert"), 1), "a tuple that begins with bert at result: it would be read as a complex type of BERT"),
        ({"a": 1, b"a": 2}, "dict at result: for the BEAM it has a key twice"),
    ],
)
def test_what_cannot_be_said_is_refused_with_its_path(value: Any, message: str) -> None:
    with pytest.raises(etf.EncodeError) as refused:
        bert.encode(value, ATOMS | {a("größ\u20ac"), a("a")} - {a("invented")})
    assert message in str(refused.value)


def test_other_types_of_python_are_sent_as_the_codec_sends_them() -> None:
    class Row(dict[str, Any]):
        pass

    struct = read(bert.encode(Decimal("1.5"), bert_rpc.VOCABULARY))
    assert struct == Decimal("1.5")
    assert read(bert.encode([Row(x=1), {1, 2}, range(3)], bert_rpc.VOCABULARY)) == [{"x": 1}, {1, 2}, range(3)]
    assert read(bert.encode(bytearray(b"\xff"), ())) == b"\xff"
    assert read(bert.encode(tuple(range(300)), ())) == tuple(range(300))
    assert read(bert.encode(ImproperList([1], 2), ())) == ImproperList([1], 2)


def test_moments_are_bert_s_times_and_structs_of_elixir_stay_what_they_are() -> None:
    berlin = datetime.timezone(datetime.timedelta(hours=2))
    moment = datetime.datetime(2024, 5, 6, 7, 8, 9, 10, berlin)
    assert etf.decode(bert.encode(moment, ())) == (a("bert"), a("time"), 1714, 972089, 10)
    assert read(bert.encode(moment, ())) == moment
    before = datetime.datetime(1960, 1, 1, tzinfo=datetime.UTC)
    assert read(bert.encode(before, ())) == before
    for value in (datetime.date(2024, 5, 6), datetime.datetime(2024, 5, 6), datetime.time(1, 2)):
        assert read(bert.encode(value, bert_rpc.VOCABULARY)) == value


def test_a_regex_becomes_a_pattern_where_python_has_its_options() -> None:
    options = [a(name) for name in ("caseless", "extended", "multiline", "dotall", "unicode")]
    term = (a("bert"), a("regex"), "^a.b # all", options)
    found = bert.pattern(term)
    assert found.flags & (re.I | re.X | re.M | re.S) == re.I | re.X | re.M | re.S
    assert found.search("1\nA\nB")
    assert etf.decode(bert.encode(term, {*options})) == term


def test_errors_are_told_in_the_specification_s_form() -> None:
    error = HandlerError("ValueError: no", python_type="ValueError", traceback="one\ntwo")
    packet = bert_rpc.error_packet(error)
    assert tags(packet) <= ALLOWED
    assert etf.decode(packet) == (a("error"), (a("user"), 0, "python_runtime_error", "ValueError: no", ["one", "two"]))
    assert etf.decode(bert_rpc.error_packet(Overloaded("busy")))[1][0] is a("server")


def test_only_what_is_exposed_is_found() -> None:
    rooms = {"system": [("ping", None)], "app": [("embed", None), ("shop.price", 60), ("a.b.c", None)]}
    found = bert_rpc.expose(None, rooms)
    assert {module: list(functions) for module, functions in found.items()} == {
        "system": ["ping"],
        "app": ["embed"],
        "shop": ["price"],
        "a.b": ["c"],
    }
    assert bert_rpc.find(found, a("shop"), a("price")).request_type == "shop.price"
    with pytest.raises(ValueError, match=r"no module or function shop\.stock; there are system\.ping, app\.embed"):
        bert_rpc.expose(["app", "shop.stock"], rooms)
    for module, function, code in [("app", "shop.price", 2), ("", "", 1), ("app", "__class__", 2), ("dspy", "x", 1)]:
        with pytest.raises(bert_rpc.PacketError) as refused:
            bert_rpc.find(found, a(module), a(function))
        assert (refused.value.type, refused.value.code) == ("server", code)
    for module, function in [("app", "embed"), (1, 2), (None, None), ([a("app")], {})]:  # strings are no atoms
        with pytest.raises(bert_rpc.PacketError):
            bert_rpc.find(found, module, function)
