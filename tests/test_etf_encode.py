"""Encoding: what each Python value becomes, and the message with the path for what is refused."""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import itertools
import pickle
import types
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from erl_bridge.errors import SerializationError
from erl_bridge.etf import DecodeError, EncodeError, backends
from erl_bridge.terms import Atom, Export, Fun, ImproperList, Pid, Port, Reference, TermMap

each_codec = pytest.mark.parametrize("codec", [backends.load(name) for name in backends.names()], ids=lambda c: c.name)

NAN = float("nan")
NODE = Atom("n@h")


class Weekday(enum.IntEnum):
    MONDAY = 1


class Word(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "not this"

    def encode(self, *_: Any) -> bytes:
        return b"not this"


class Colour(enum.StrEnum):
    RED = "red"


class Mixed(str, enum.Enum):  # noqa: UP042 - not all users have StrEnum
    RED = "red"


class Row(dict[Any, Any]):
    def items(self) -> Any:
        return [("not", "this")]


class Items(list[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(["not this"])


class Plain:
    name = "ONE"


Point = collections.namedtuple("Point", "x y")


# -- what is sent ----------------------------------------------------------------------------------------------

SENT: list[tuple[Any, bytes]] = [
    (Weekday.MONDAY, b"a\1"),
    (Word("ab"), b"m\0\0\0\2ab"),
    (Colour.RED, b"m\0\0\0\3red"),
    (Mixed.RED, b"m\0\0\0\3red"),
    (type("Real", (float,), {})(1.5), b"F\x3f\xf8" + bytes(6)),
    (type("Raw", (bytes,), {})(b"ab"), b"m\0\0\0\2ab"),
    (bytearray(b"ab"), b"m\0\0\0\2ab"),
    (memoryview(b"abcd")[::2], b"m\0\0\0\2ac"),
    (Row(a=1), b"t\0\0\0\1m\0\0\0\1aa\1"),
    (collections.OrderedDict(a=1), b"t\0\0\0\1m\0\0\0\1aa\1"),
    (collections.Counter("a"), b"t\0\0\0\1m\0\0\0\1aa\1"),
    (Items([256, 2]), b"l\0\0\0\2b\0\0\1\0a\2j"),
    (Point(1, 2), b"h\2a\1a\2"),
    ([Weekday.MONDAY], b"l\0\0\0\1a\1j"),
    ([1, 2], b"k\0\2\1\2"),
    ([1, True], b"l\0\0\0\2a\1w\4truej"),
    ([1, 256], b"l\0\0\0\2a\1b\0\0\1\0j"),
    ([7] * 65535, b"k\xff\xff" + b"\7" * 65535),
    ([7] * 65536, b"l\0\1\0\0" + b"a\7" * 65536 + b"j"),
    ((7,) * 255, b"h\xff" + b"a\7" * 255),
    ((7,) * 256, b"i\0\0\1\0" + b"a\7" * 256),
    (Port(NODE, 2**28 - 1, 1), b"Yw\3n@h\x0f\xff\xff\xff\0\0\0\1"),
    (Port(NODE, 2**28, 1), b"xw\3n@h" + bytes(4) + b"\x10\0\0\0\0\0\0\1"),
    (Export(None, True, 2), b"qw\3nilw\4truea\2"),
    (ImproperList([1], 2), b"l\0\0\0\1a\1a\2"),
    (TermMap(), b"t\0\0\0\0"),
]


@each_codec
@pytest.mark.parametrize(("value", "body"), SENT, ids=lambda value: type(value).__name__)
def test_what_is_sent(codec: backends.Backend, value: Any, body: bytes) -> None:
    assert codec.encode(value) == b"\x83" + body


@each_codec
def test_depth(codec: backends.Backend) -> None:
    deep: Any = []
    for _ in range(10_000):
        deep = [deep]
    assert codec.encode(deep) == b"\x83" + b"l\0\0\0\1" * 10_000 + b"j" * 10_001
    with pytest.raises(EncodeError, match=r"a container at result\[0\]\[0\].*….*it is nested more than 10000 deep"):
        codec.encode([deep], root="result")
    assert codec.encode([deep], max_depth=10_001)


@each_codec
def test_what_holds_itself_is_refused(codec: backends.Backend) -> None:
    endless: dict[str, Any] = {}
    endless["a"] = [endless, endless]
    with pytest.raises(EncodeError, match="or it holds itself"):
        codec.encode(endless)


@each_codec
def test_compression(codec: backends.Backend) -> None:
    rows = [{"question": "q" * 50}] * 20
    plain = codec.encode(rows)
    packed = codec.encode(rows, compressed=True)
    assert packed[:6] == b"\x83P" + (len(plain) - 1).to_bytes(4, "big")
    assert zlib.decompress(packed[6:]) == plain[1:]
    assert len(codec.encode(rows, compressed=1)) < len(plain)
    assert codec.decode(packed) == rows
    assert codec.encode("short", compressed=True) == codec.encode("short")


@each_codec
def test_bigs_up_to_what_the_beam_can_hold(codec: backends.Backend) -> None:
    largest = (1 << (8 * 4194296)) - 1
    assert codec.decode(codec.encode(-largest)) == -largest
    with pytest.raises(
        EncodeError, match="cannot encode int of 33554369 bits at term: the BEAM holds at most 33554368"
    ):
        codec.encode(largest + 1)


# -- what is refused -------------------------------------------------------------------------------------------

FINITE = "floats of the BEAM are finite"
NO_TERM = "no Erlang term stands for that type"
REFUSED: list[tuple[Any, str]] = [
    (NAN, f"cannot encode float nan at term: {FINITE}"),
    ({"metrics": [1, 2, 3, {"score": NAN}]}, f"cannot encode float nan at term.metrics[3].score: {FINITE}"),
    ([-float("inf")], f"cannot encode float -inf at term[0]: {FINITE}"),
    ({Atom("a"): NAN}, f"cannot encode float nan at term.a: {FINITE}"),
    ({"two words": NAN}, f"cannot encode float nan at term['two words']: {FINITE}"),
    ({Atom("two words"): NAN}, f"cannot encode float nan at term[Atom('two words')]: {FINITE}"),
    ({3: NAN}, f"cannot encode float nan at term[3]: {FINITE}"),
    ({None: NAN}, f"cannot encode float nan at term[None]: {FINITE}"),
    ({10**30: NAN}, f"cannot encode float nan at term[<int>]: {FINITE}"),
    ({(1, 2): NAN}, f"cannot encode float nan at term[<tuple>]: {FINITE}"),
    ({"x" * 60 + " ": NAN}, f"cannot encode float nan at term['{'x' * 38}…]: {FINITE}"),
    ({b"k": NAN}, f"cannot encode float nan at term[b'k']: {FINITE}"),
    ({"a": 1, NAN: 2}, f"cannot encode float nan at term.keys()[1]: {FINITE}"),
    ({"a": 1, (1, NAN): 2}, f"cannot encode float nan at term.keys()[1][1]: {FINITE}"),
    (TermMap([([1], 1), ([2], NAN)]), f"cannot encode float nan at term[<list>]: {FINITE}"),
    ((1, (2, NAN)), f"cannot encode float nan at term[1][1]: {FINITE}"),
    (ImproperList([1, 2], NAN), f"cannot encode float nan at term.tail: {FINITE}"),
    (ImproperList([1, NAN], 2), f"cannot encode float nan at term[1]: {FINITE}"),
    (object(), f"cannot encode an object of type builtins.object at term: {NO_TERM}"),
    ([1, Plain()], f"cannot encode an object of type {__name__}.Plain at term[1]: {NO_TERM}"),
    ({"f": len}, f"cannot encode an object of type builtins.builtin_function_or_method at term.f: {NO_TERM}"),
    (types.SimpleNamespace(), f"cannot encode an object of type types.SimpleNamespace at term: {NO_TERM}"),
    (1j, f"cannot encode an object of type builtins.complex at term: {NO_TERM}"),
    (["\ud800"], "cannot encode str with a lone surrogate at term[0]: it has no UTF-8 form"),
    ({"\udfff": 1}, "cannot encode str with a lone surrogate at term.keys()[0]: it has no UTF-8 form"),
    ({"a": 1, b"a": 2}, "cannot encode dict at term: for the BEAM it has a key twice: b'a'"),
    ([{("a",): 1, (b"a",): 2}], "cannot encode dict at term[0]: for the BEAM it has a key twice: <tuple>"),
    ({"a", b"a"}, "cannot encode dict at term.map: for the BEAM it has a key twice: "),
    (datetime.time(1, tzinfo=datetime.UTC), "cannot encode time at term: Elixir's Time has no zone"),
    (
        [decimal.Decimal("sNaN")],
        "cannot encode Decimal at term[0]: Elixir's NaN is quiet and carries no digits",
    ),
]  # fmt: skip


@each_codec
@pytest.mark.parametrize(("value", "message"), REFUSED, ids=[message[14:60] for _, message in REFUSED])
def test_messages(codec: backends.Backend, value: Any, message: str) -> None:
    with pytest.raises(EncodeError) as caught:
        codec.encode(value)
    assert str(caught.value).startswith(message)
    assert f" at {caught.value.path}: " in message
    assert caught.value.context[Atom("path")] == caught.value.path
    assert isinstance(caught.value, SerializationError)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.path) == (str(caught.value), caught.value.path)


@each_codec
def test_the_root_of_the_path_has_a_name(codec: backends.Backend) -> None:
    with pytest.raises(EncodeError, match=r"^cannot encode float nan at result\.score: "):
        codec.encode({"score": NAN}, root="result")


@each_codec
def test_a_released_memoryview_is_refused(codec: backends.Backend) -> None:
    view = memoryview(b"abc")
    view.release()
    with pytest.raises(EncodeError, match=r"cannot encode memoryview at term\[0\]: it is released"):
        codec.encode([view])


@each_codec
def test_bytes_and_text_are_different_keys_when_their_bytes_differ(codec: backends.Backend) -> None:
    keys = {"a": 1, b"b": 2, ("c",): 3, (b"d",): 4}
    assert codec.decode(codec.encode(keys)) == {"a": 1, "b": 2, ("c",): 3, ("d",): 4}


# -- atoms that may be sent ------------------------------------------------------------------------------------


def fun_with(codec: backends.Backend, *names: str) -> Fun:
    free = b"".join(b"w%c%b" % (len(name), name.encode()) for name in names)
    body = b"w\1ma\0a\0X" + b"w\3n@h" + bytes(12) + free
    head = bytes(21) + len(names).to_bytes(4, "big")
    fun = codec.decode(b"\x83p" + (len(head + body) + 4).to_bytes(4, "big") + head + body)
    assert isinstance(fun, Fun)
    return fun


@each_codec
def test_atoms_that_may_be_sent(codec: backends.Backend) -> None:
    allowed = {Atom("a"), NODE, Atom("m"), Atom("f")}
    for value in (
        {Atom("a"): [True, None, (Atom("f"),)]},
        Pid(NODE, 1, 2, 3),
        Port(NODE, 1, 2),
        Reference(NODE, 1, [2]),
        Export(Atom("m"), Atom("f"), 1),
        Export(None, True, 1),
        fun_with(codec, "f", "true"),
    ):
        assert codec.encode(value, atoms=allowed) == codec.encode(value)


@each_codec
@pytest.mark.parametrize(
    ("value", "path"),
    [
        (Atom("new"), "term"),
        ({"k": [Atom("new")]}, "term.k[0]"),
        ({Atom("new"): 1}, "term.keys()[0]"),
        ([Pid(Atom("new"), 1, 2, 3)], "term[0]"),
        ([Port(Atom("new"), 1, 2)], "term[0]"),
        ([Reference(Atom("new"), 1, [2])], "term[0]"),
        ([Export(Atom("new"), NODE, 1)], "term[0]"),
        ([Export(NODE, Atom("new"), 1)], "term[0]"),
    ],
)
def test_atoms_that_may_not_be_sent(codec: backends.Backend, value: Any, path: str) -> None:
    with pytest.raises(EncodeError) as caught:
        codec.encode(value, atoms=frozenset({NODE}))
    assert str(caught.value) == (
        f"cannot encode atom new at {path}: it is not one of the atoms that may be sent; send a string"
    )


@each_codec
def test_atoms_within_funs_and_structs_may_not_be_sent_either(codec: backends.Backend) -> None:
    with pytest.raises(EncodeError, match="cannot encode atom new at term: "):
        codec.encode(fun_with(codec, "new"), atoms={Atom("m"), NODE})
    with pytest.raises(EncodeError, match=r"cannot encode atom \S+ at term\[0\]\.keys\(\)\[0\]: "):
        codec.encode([datetime.date(2024, 1, 1)], atoms=set())


@each_codec
def test_what_came_in_a_term_may_go_back(codec: backends.Backend) -> None:
    data = codec.encode([datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC), {Atom("k"): {1, 2}}, fun_with(codec, "z")])
    met: set[Atom] = set()
    term = codec.decode(data, atoms=met)
    assert codec.encode(term, atoms=met) == data


# -- the hook --------------------------------------------------------------------------------------------------


@each_codec
def test_a_hook_for_other_types(codec: backends.Backend) -> None:
    def default(value: Any) -> Any:
        return {"re": value.real, "im": value.imag} if isinstance(value, complex) else {value.name}

    assert codec.decode(codec.encode([1j, Plain()], default=default)) == [{"re": 0.0, "im": 1.0}, {"ONE"}]
    with pytest.raises(EncodeError, match=r"cannot encode float nan at term\[0\]\.re: "):
        codec.encode([complex(NAN, 1)], default=default)
    with pytest.raises(EncodeError, match=r"an object of type builtins\.object at term\[0\]: "):
        codec.encode([1j], default=lambda _: object())
    with pytest.raises(ZeroDivisionError):
        codec.encode([1j], default=lambda _: 1 // 0)


# -- backends --------------------------------------------------------------------------------------------------


def test_a_backend_can_be_forced_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERL_BRIDGE_ETF", "python")
    assert backends.chosen().name == "python"
    monkeypatch.setenv("ERL_BRIDGE_ETF", "rust")
    with pytest.raises(
        ImportError, match=r"ERL_BRIDGE_ETF=rust: there is no backend 'rust' of the codec; there are: .*python"
    ):
        backends.chosen()
    monkeypatch.setenv("ERL_BRIDGE_ETF", "")
    assert backends.chosen().name in backends.names()


def test_the_two_exceptions_are_serialization_errors() -> None:
    assert issubclass(EncodeError, SerializationError)
    assert issubclass(DecodeError, SerializationError)


# -- what hooks are asked --------------------------------------------------------------------------------------


class Counting:
    """A hook that notes whom it was called for."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self.make = make
        self.asked: list[Any] = []

    def __call__(self, value: Any) -> Any:
        self.asked.append(value)
        return self.make(value)


@each_codec
def test_a_hook_may_use_an_iterator_up(codec: backends.Backend) -> None:
    for after, path in ((NAN, "term[1]"), ("\ud800", "term[1]"), ([object], "term[1]"), ({"a": 1, b"a": 2}, "term[1]")):
        hook = Counting(lambda value: list(value) if hasattr(value, "__next__") else 1j)
        numbers = iter([1, 2, 3])
        with pytest.raises(EncodeError) as caught:
            codec.encode([numbers, after], default=hook)
        assert path in str(caught.value)
        assert hook.asked.count(numbers) == 1
    with pytest.raises(EncodeError, match=r"cannot encode float nan at term\[0\]\[1\]\.a: "):
        codec.encode([iter([1, {"a": NAN}])], default=list)


@each_codec
def test_a_hook_is_called_once_for_each_place(codec: backends.Backend) -> None:
    class Thing:
        pass

    one, other = Thing(), Thing()
    hook = Counting(lambda value: [len(hook.asked)])
    term = {"a": one, "b": (other, [one, {"c": other}])}
    assert codec.decode(codec.encode(term, default=hook)) == {"a": [1], "b": ([2], [[3], {"c": [4]}])}
    hook.asked.clear()
    with pytest.raises(EncodeError, match=r"float nan at term\.end: "):
        codec.encode({**term, "end": NAN}, default=hook)
    assert hook.asked == [one, other, one, other]


@each_codec
def test_a_hook_whose_answer_is_refused_is_not_asked_again(codec: backends.Backend) -> None:
    for answer, what in ((1j, "an object of type builtins.complex"), (NAN, "float nan"), ([NAN], "float nan")):
        hook = Counting(lambda _, answer=answer: answer)
        with pytest.raises(EncodeError, match=what):
            codec.encode(["a", {"b": iter(())}], default=hook)
        assert len(hook.asked) == 1
    hook = Counting(lambda _: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        codec.encode([iter(())], default=hook)
    assert len(hook.asked) == 1


@each_codec
def test_a_hook_that_changes_the_term_is_still_called_once_for_each(codec: backends.Backend) -> None:
    term: list[Any] = [iter("a"), {"k": iter("b")}, iter("c")]

    def change(value: Any) -> Any:
        term[1]["more"] = NAN
        return list(value)

    hook = Counting(change)
    asked = [term[0], term[1]["k"]]
    with pytest.raises(EncodeError, match=r"float nan at term\[1\]\.more: "):
        codec.encode(term, default=hook)
    assert hook.asked == asked


# -- into a buffer ---------------------------------------------------------------------------------------------

INTO = [
    None,
    "text",
    {"a": [1, 2.5, "ż" * 3000]},
    [b"\xff" * 700] * 9,
    list(range(2000)),
    (Pid(Atom("n@h"), 1, 2, 3),),
    {1, 2},
]


@each_codec
@pytest.mark.parametrize("term", INTO)
@pytest.mark.parametrize("options", [{}, {"compressed": True}])
def test_a_term_is_written_into_a_buffer(codec: backends.Backend, term: Any, options: dict[str, Any]) -> None:
    data = codec.encode(term, **options)
    for length, offset in ((0, 0), (4, 4), (4, 2), (10_000, 4), (100_000, 100_000), (5 + len(data), 5)):
        buffer = bytearray(b"\x55" * length)
        end = codec.encode_into(term, buffer, offset, **options)
        assert end == offset + len(data)
        assert buffer[:end] == b"\x55" * offset + data
        assert len(buffer) == max(length, end)
    buffer = bytearray()
    assert codec.encode_into(term, buffer, **options) == codec.encode_into(term, buffer, offset=0, **options)
    assert buffer == data


@each_codec
def test_terms_follow_one_another_in_a_buffer(codec: backends.Backend) -> None:
    buffer, end, ends = bytearray(), 0, [0]
    for term in INTO * 3:
        end = codec.encode_into(term, buffer, end)
        ends.append(end)
    read = [codec.decode(bytes(buffer[start:stop])) for start, stop in itertools.pairwise(ends)]
    assert read == INTO * 3


@each_codec
@pytest.mark.parametrize("bad", [NAN, "\ud800", object(), float("inf")])
def test_a_refusal_leaves_what_was_in_the_buffer(codec: backends.Backend, bad: Any) -> None:
    for length in (4, 9000):
        buffer = bytearray(b"head") + bytes(length - 4)
        with pytest.raises(EncodeError, match=r" at result\.k\[1\]: "):
            codec.encode_into({"a": "x" * 5000, "k": [1, bad]}, buffer, 4, root="result")
        assert buffer[:4] == b"head"
        assert len(buffer) == length
        buffer.append(0)  # nobody holds on to it
    hook = Counting(list)
    with pytest.raises(EncodeError, match=r" at term\[0\]\[0\]: "):
        codec.encode_into(
            [iter([bad])], buffer, default=lambda value: hook(value) if hasattr(value, "__next__") else 1j
        )
    assert len(hook.asked) == 1


@each_codec
def test_wrong_buffers_and_offsets(codec: backends.Backend) -> None:
    for buffer in (b"abc", memoryview(bytearray(3)), [], None):
        with pytest.raises(TypeError, match="expected a bytearray to encode into, got "):
            codec.encode_into(1, buffer)
    for offset in (-1, 4, 2**70, -(2**70)):
        with pytest.raises(ValueError, match="expected an offset from 0 to 3, which is the buffer's length, got "):
            codec.encode_into(1, bytearray(3), offset)
    for arguments, options in (((1,), {}), ((1, bytearray(), 0, 0), {}), ((1, bytearray(), 0), {"offset": 0})):
        with pytest.raises(TypeError):
            codec.encode_into(*arguments, **options)
    with pytest.raises(TypeError):
        codec.encode(1, offset=0)


class Derived(bytearray):
    pass


@each_codec
def test_who_else_has_the_buffer(codec: backends.Backend) -> None:
    buffer = Derived(b"head")
    assert codec.encode_into("a", buffer, 4) == 11
    assert buffer == b"head" + codec.encode("a")
    buffer = bytearray(100)
    with memoryview(buffer):
        assert codec.encode_into("a" * 20, buffer) == 26
        assert codec.encode_into("ż" * 45, buffer, 4) == 100
        with pytest.raises(BufferError):
            codec.encode_into("a" * 100, buffer)
    assert len(buffer) == 100
    for change in (buffer.clear, lambda: buffer.extend(bytes(1000)), lambda: codec.encode_into("a" * 200, buffer)):
        with pytest.raises(BufferError):
            codec.encode_into([1, iter("a")], buffer, default=lambda _, change=change: change())
    assert len(buffer) == 100
    kept = []
    end = codec.encode_into([iter("a"), "a" * 9], buffer, default=lambda _: kept.append(memoryview(buffer)) or "b")
    assert codec.decode(buffer[:end]) == ["b", "a" * 9]
