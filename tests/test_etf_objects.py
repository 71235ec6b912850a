"""Encoding of objects: records, enums, numpy, what other layers register, and what stays refused."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import enum
import pathlib
import subprocess
import sys
import types
import uuid
import warnings
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import msgspec
import pytest
from support import ROOT, BridgeProcess, a

from erl_bridge import etf
from erl_bridge.etf import EncodeError, backends, encoder, objects
from erl_bridge.terms import Atom, TermMap, identity

each_codec = pytest.mark.parametrize("codec", [backends.load(name) for name in backends.names()], ids=lambda c: c.name)

NAN = float("nan")
FINITE = "floats of the BEAM are finite"
NO_TERM = "no Erlang term stands for that type"
ID = uuid.UUID("0188a5eb-5a4d-7000-8000-00000000002a")


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the test registers is forgotten after it."""
    monkeypatch.setattr(objects, "_REGISTERED", dict(objects._REGISTERED))
    monkeypatch.setattr(objects, "_BY_NAME", dict(objects._BY_NAME))
    yield
    encoder.forget_ways()


def sent(codec: backends.Backend, value: Any) -> Any:
    return codec.decode(codec.encode(value))


def refusal(codec: backends.Backend, value: Any, **options: Any) -> str:
    with pytest.raises(EncodeError) as caught:
        codec.encode(value, root="result", **options)
    return str(caught.value)


# -- objects of the standard library ---------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"
    NONE = None
    BOTH = ("red", 1)


class Access(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass(frozen=True)
class Score:
    score: float
    unit: ClassVar[str] = "%"
    start: dataclasses.InitVar[int] = 0


@dataclasses.dataclass(slots=True)
class Result:
    metrics: Any
    colour: Colour = Colour.RED
    _note: str | None = None
    late: int = dataclasses.field(init=False, default=1)


@dataclasses.dataclass(slots=True)
class Unfinished:
    number: int = dataclasses.field(init=False)


@dataclasses.dataclass
class Counted(dict[str, int]):
    label: str = "x"


Point = collections.namedtuple("Point", "x y")

SENT: list[tuple[Any, Any]] = [
    (Score(1.5), {"score": 1.5}),
    (Result([Score(0.5)]), {"metrics": [{"score": 0.5}], "colour": "red", "_note": None, "late": 1}),
    (Colour.RED, "red"),
    (Colour.NONE, None),
    (Colour.BOTH, ("red", 1)),
    (Access.READ | Access.WRITE, 3),
    ({Colour.RED: Colour.RED}, {"red": "red"}),
    ({Score(1.5): 1}, TermMap([({"score": 1.5}, 1)])),
    (Point(1, Colour.RED), (1, "red")),
    (Counted(), {}),
    (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    (collections.defaultdict(list, a=[1]), {"a": [1]}),
    (collections.Counter("aab"), {"a": 2, "b": 1}),
    (collections.deque([1, "b", 300]), [1, "b", 300]),
    (collections.UserDict(a=1), {"a": 1}),
    (collections.UserList([1, "b"]), [1, "b"]),
    (collections.UserString("é"), "é"),
    (collections.ChainMap({"a": 1}, {"a": 2, "b": 3}), {"a": 1, "b": 3}),
    (types.MappingProxyType({"a": 1}), {"a": 1}),
    (pathlib.Path("a/é"), "a/é"),
    (pathlib.PureWindowsPath("a", "b"), "a\\b"),
    (ID, "0188a5eb-5a4d-7000-8000-00000000002a"),
    ({ID: {ID}}, {str(ID): {str(ID)}}),
]


@each_codec
@pytest.mark.parametrize(("value", "term"), SENT, ids=lambda value: type(value).__name__)
def test_what_is_sent(codec: backends.Backend, value: Any, term: Any) -> None:
    assert codec.encode(value) == codec.encode(term)
    assert codec.encode([value, {"k": value}]) == codec.encode([term, {"k": term}])
    assert identity(value) == identity(term)


def generator() -> Iterator[int]:
    yield 1


async def coroutine() -> None: ...


def endless() -> Result:
    result = Result([])
    result.metrics.append(result)
    return result


ONCE = "an iterator can be read only once; send a list of what it gives"
REFUSED: list[tuple[Any, str]] = [
    (Result([1, 2, 3, Score(NAN)]), f"float nan at result.metrics[3].score: {FINITE}"),
    (Result([], NAN), f"float nan at result.colour: {FINITE}"),  # type: ignore[arg-type]
    (collections.deque([1, NAN]), f"float nan at result[1]: {FINITE}"),
    ({Score(NAN): 1}, f"float nan at result.keys()[0].score: {FINITE}"),
    ({Score(1.0): NAN}, f"float nan at result[<Score>]: {FINITE}"),
    ({ID: 1, str(ID): 2}, "dict at result: for the BEAM it has a key twice: "),
    ([Unfinished()], f"an object of type {__name__}.Unfinished at result[0]: its field number has no value"),
    (Score, f"an object of type builtins.type at result: {NO_TERM}"),
    (Colour, f"an object of type enum.EnumType at result: {NO_TERM}"),
    ([generator()], f"an object of type builtins.generator at result[0]: {ONCE}"),
    (map(str, []), f"an object of type builtins.map at result: {ONCE}"),
    (iter([]), f"an object of type builtins.list_iterator at result: {ONCE}"),
    ({}.values(), "an object of type builtins.dict_values at result: it is a view of a dict; send a list of it"),
    (pathlib.Path("\udcff"), "str with a lone surrogate at result: it has no UTF-8 form"),
    (ValueError("x"), f"an object of type builtins.ValueError at result: {NO_TERM}"),
]


@each_codec
@pytest.mark.parametrize(("value", "message"), REFUSED, ids=[message[:50] for _, message in REFUSED])
def test_what_is_refused(codec: backends.Backend, value: Any, message: str) -> None:
    assert refusal(codec, value).startswith(f"cannot encode {message}")


@each_codec
def test_an_object_that_holds_itself_is_refused(codec: backends.Backend) -> None:
    assert "or it holds itself" in refusal(codec, endless())


@each_codec
def test_what_was_not_awaited_is_refused(codec: backends.Backend) -> None:
    waiting = coroutine()
    assert refusal(codec, waiting).endswith("builtins.coroutine at result: it was not awaited")
    asyncio.run(waiting)


@each_codec
def test_atoms_in_objects_must_be_allowed(codec: backends.Backend) -> None:
    assert " atom new at result.metrics[0]: " in refusal(codec, Result([Atom("new")]), atoms={Atom("old")})


@each_codec
def test_the_hook_is_asked_only_for_what_is_left(codec: backends.Backend) -> None:
    assert codec.decode(codec.encode([Colour.RED, 1j], default=lambda _: Score(0.5))) == ["red", {"score": 0.5}]
    assert codec.decode(codec.encode([generator()], default=list)) == [[1]]
    assert " float nan at result[0].score: " in refusal(codec, [1j], default=lambda _: Score(NAN))


# -- msgspec and pydantic --------------------------------------------------------------------------------------


class Row(msgspec.Struct, tag=True, rename="camel"):
    first_name: str
    score: Any = 1.5
    note: str | msgspec.UnsetType = msgspec.UNSET


@each_codec
def test_structs_of_msgspec(codec: backends.Backend) -> None:
    assert sent(codec, [Row("a"), Row("b", [Row("c")], "n")]) == [
        {"first_name": "a", "score": 1.5},
        {"first_name": "b", "score": [{"first_name": "c", "score": 1.5}], "note": "n"},
    ]
    assert f"float nan at result.score[1].score: {FINITE}" in refusal(codec, Row("a", [1, Row("b", NAN)]))


@each_codec
def test_models_of_pydantic(codec: backends.Backend) -> None:
    pydantic = pytest.importorskip("pydantic", minversion="2")

    class Inner(pydantic.BaseModel):  # type: ignore[misc, name-defined]
        score: float

    class Outer(pydantic.BaseModel):  # type: ignore[misc, name-defined]
        model_config = pydantic.ConfigDict(extra="allow")
        inner: list[Inner]
        first_name: str = pydantic.Field("a", alias="firstName")
        hidden: str = pydantic.Field("secret", exclude=True)
        _private: int = 1

        @pydantic.computed_field  # type: ignore[untyped-decorator]
        def size(self) -> int:
            return len(self.inner)

    outer = Outer(inner=[Inner(score=0.5)], more=Colour.RED)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sent(codec, outer) == {"inner": [{"score": 0.5}], "first_name": "a", "size": 1, "more": "red"}
    assert sent(codec, outer) == {**outer.model_dump(), "more": "red"}
    bad = Outer(inner=[Inner(score=0.5), Inner(score=NAN)])
    assert f"float nan at result.inner[1].score: {FINITE}" in refusal(codec, bad)
    assert sent(codec, Inner.model_construct()) == {}
    assert sent(codec, pydantic.RootModel[list[Inner]]([{"score": 1}])) == [{"score": 1.0}]


@each_codec
def test_what_pydantic_hides_stays_hidden(codec: backends.Backend) -> None:
    pydantic = pytest.importorskip("pydantic", minversion="2")

    class Masked(pydantic.BaseModel):  # type: ignore[misc, name-defined]
        key: str

        @pydantic.field_serializer("key")  # type: ignore[untyped-decorator]
        def mask(self, _: str) -> str:
            return "***"

    class Annotating(pydantic.BaseModel):  # type: ignore[misc, name-defined]
        key: Annotated[str, pydantic.PlainSerializer(lambda _: "***")]

    class Within(pydantic.BaseModel):  # type: ignore[misc, name-defined]
        keys: dict[str, list[Annotated[str, pydantic.PlainSerializer(lambda _: "***")]] | None]
        plain: list[dict[str, int | None]]

    class Whole(pydantic.BaseModel):  # type: ignore[misc, name-defined]
        key: str

        @pydantic.model_serializer  # type: ignore[untyped-decorator]
        def write(self) -> str:
            return "whole"

    class Secret(pydantic.BaseModel):  # type: ignore[misc, name-defined]
        key: pydantic.SecretStr  # type: ignore[name-defined]

    assert sent(codec, [Masked(key="k"), Annotating(key="k"), Whole(key="k")]) == [{"key": "***"}] * 2 + ["whole"]
    assert sent(codec, [Within(keys={"a": ["k"], "b": None}, plain=[{"a": 1}])]) == [
        {"keys": {"a": ["***"], "b": None}, "plain": [{"a": 1}]}
    ]
    message = refusal(codec, Secret(key="hush"))
    assert message == f"cannot encode an object of type pydantic.types.SecretStr at result.key: {NO_TERM}"


# -- numpy -----------------------------------------------------------------------------------------------------


@each_codec
def test_scalars_of_numpy(codec: backends.Backend) -> None:
    np = pytest.importorskip("numpy")
    scalars = [np.bool_(True), np.int8(-1), np.uint64(2**64 - 1), np.float16(0.5), np.float64(0.1), np.str_("é")]
    assert codec.encode(scalars) == codec.encode([True, -1, 2**64 - 1, 0.5, 0.1, "é"])
    assert codec.encode({np.int64(300): np.bytes_(b"\xff")}) == codec.encode({300: b"\xff"})
    for scalar in (np.float16("nan"), np.float32("nan"), np.float64("nan")):
        assert f"float nan at result.a[1]: {FINITE}" in refusal(codec, {"a": [1, scalar]})


@each_codec
def test_arrays_of_numpy(codec: backends.Backend) -> None:
    np = pytest.importorskip("numpy")
    for array, term in [
        (np.arange(6).reshape(2, 3), [[0, 1, 2], [3, 4, 5]]),
        (np.array([[0.5], [2.0]], "float32"), [[0.5], [2.0]]),
        (np.array([True, False]), [True, False]),
        (np.array(["a", "é"]), ["a", "é"]),
        (np.array([b"a"]), [b"a"]),
        (np.array(7), 7),
        (np.array([]), []),
        (np.zeros((2, 0)), [[], []]),
        (np.arange(8)[::-2], [7, 5, 3, 1]),
        (np.array([Score(1.0), None, "x"], dtype=object), [{"score": 1.0}, None, "x"]),
        (np.array(Colour.RED, dtype=object), "red"),
        (np.ma.masked_array([1, 2], [False, True]), [1, None]),
    ]:
        assert codec.encode(array) == codec.encode(term)
    assert f"float nan at result[1][0]: {FINITE}" in refusal(codec, np.array([[1.0, 2.0], [NAN, 3.0]]))
    assert f"float inf at result.a: {FINITE}" in refusal(codec, {"a": np.array(np.inf)})
    assert "builtins.complex at result[1].score: " in refusal(codec, np.array([1, Score(1j)], dtype=object))  # type: ignore[arg-type]


@each_codec
def test_what_numpy_has_and_the_beam_has_not(codec: backends.Backend) -> None:
    np = pytest.importorskip("numpy")
    for value, name, dtype in [
        (np.array([1j]), "ndarray", "complex128"),
        (np.complex64(1j), "complex64", "complex64"),
        (np.array(["2024-01-01"], "datetime64[ns]"), "ndarray", "datetime64[ns]"),
        (np.timedelta64(1, "s"), "timedelta64", "timedelta64[s]"),
        (np.array([(1, 2)], [("x", int), ("y", int)]), "ndarray", "[('x', '<i8'), ('y', '<i8')]"),
        (np.longdouble(1), "longdouble", str(np.dtype("longdouble"))),
    ]:
        expected = (
            f"cannot encode an object of type numpy.{name} at result: no Erlang term stands for its dtype {dtype}"
        )
        assert refusal(codec, value) == expected
        assert codec.decode(codec.encode(value, default=str)) == str(value)


# -- types that are registered ---------------------------------------------------------------------------------


class Animal:
    def __init__(self, name: Any = "cat") -> None:
        self.name = name


class Cat(Animal): ...


class Kitten(Cat): ...


@each_codec
@pytest.mark.usefixtures("registry")
def test_a_registered_type_holds_for_those_derived_from_it(codec: backends.Backend) -> None:
    etf.register(Animal, lambda animal: {"name": animal.name})
    assert sent(codec, [Animal("a"), Kitten(Colour.RED)]) == [{"name": "a"}, {"name": "red"}]
    etf.register(Cat, lambda cat: cat.name)
    assert sent(codec, [Animal("a"), Kitten("k")]) == [{"name": "a"}, "k"]
    assert "float nan at result[0].name: " in refusal(codec, [Animal(NAN)])


@each_codec
@pytest.mark.usefixtures("registry")
def test_a_registered_type_counts_before_what_is_built_in(codec: backends.Backend) -> None:
    etf.register(uuid.UUID, lambda value: value.bytes)
    etf.register(Score, lambda score: score.score)
    etf.register(collections.Counter, lambda counter: sorted(counter.items()))
    assert sent(codec, [ID, Score(0.5), collections.Counter("a")]) == [ID.bytes, 0.5, [("a", 1)]]


@each_codec
@pytest.mark.usefixtures("registry")
def test_a_registered_name(codec: backends.Backend) -> None:
    etf.register(f"{__name__}.Animal", lambda animal: animal.name)
    assert sent(codec, [Animal("a"), Kitten("k")]) == ["a", "k"]


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        (dict, ValueError, "builtins.dict has a term of its own"),
        (set, ValueError, "builtins.set has a term of its own"),
        (Atom, ValueError, "erl_bridge.terms.Atom has a term of its own"),
        (Animal, ValueError, f"{__name__}.Animal is registered already"),
        ("numpy.ndarray", ValueError, "numpy.ndarray is registered already"),
        ("Animal", ValueError, "expected the names of a package and of a type, as in 'numpy.ndarray', got 'Animal'"),
        (Animal(), TypeError, "expected a type or its name, got "),
    ],
)
def test_what_cannot_be_registered(kind: Any, error: type[Exception], message: str) -> None:
    etf.register(Animal, repr)
    with pytest.raises(error) as caught:
        etf.register(kind, repr)
    assert str(caught.value).startswith(message)


@each_codec
@pytest.mark.usefixtures("registry")
def test_a_converter_that_refuses_or_fails(codec: backends.Backend) -> None:
    def to_term(animal: Animal) -> Any:
        if animal.name is None:
            return NotImplemented
        if animal.name == "":
            raise ValueError("it has no name")
        return animal if animal.name == "endless" else animal.name.upper()

    etf.register(Animal, to_term)
    what = f"cannot encode an object of type {__name__}."
    assert refusal(codec, [Kitten("")]) == f"{what}Kitten at result[0]: it has no name"
    assert refusal(codec, [Kitten(None)]) == f"{what}Kitten at result[0]: {NO_TERM}"
    assert refusal(codec, Cat("endless")) == f"{what}Cat at result: what stands for it is never a term"
    assert codec.decode(codec.encode([Cat(None)], default=lambda _: "left")) == ["left"]
    for default in (None, repr):
        with pytest.raises(AttributeError, match="upper"):
            codec.encode([Cat(1)], default=default)


@each_codec
@pytest.mark.usefixtures("registry")
def test_a_converter_is_called_once_for_each_place(codec: backends.Backend) -> None:
    asked: list[Any] = []

    def to_term(animal: Animal) -> Any:
        asked.append(animal)
        if animal.name == "refused":
            raise ValueError("not this one")
        if animal.name == "broken":
            raise KeyError("broken")
        return [animal.name]

    etf.register(Animal, to_term)
    one, refused, broken = Cat("a"), Cat("refused"), Cat("broken")
    for term, error, message in (
        ([one, {"k": one}, NAN], EncodeError, f"cannot encode float nan at term[2]: {FINITE}"),
        ([one, {"k": one}, refused], EncodeError, "at term[2]: not this one"),
        ([one, {"k": one}, broken], KeyError, "broken"),
    ):
        asked.clear()
        with pytest.raises(error) as caught:
            codec.encode(term)
        assert message in str(caught.value)
        assert asked == [one, one, *[animal for animal in (refused, broken) if animal in term]]


@each_codec
def test_examples_and_predictions_of_dspy(codec: backends.Backend) -> None:
    dspy = pytest.importorskip("dspy")
    import erl_bridge.handlers  # noqa: F401 - the DSPy room registers them

    example = dspy.Example(question="Why?", n=[1], dspy_uuid="1").with_inputs("question")
    assert sent(codec, example) == {"question": "Why?", "n": [1]}
    prediction = dspy.Prediction(answer="Because.", inner=example, score=0.5)
    assert sent(codec, [prediction]) == [{"answer": "Because.", "inner": {"question": "Why?", "n": [1]}, "score": 0.5}]
    assert "float nan at result.score: " in refusal(codec, dspy.Prediction(score=NAN))


@each_codec
def test_types_without_end_are_not_kept(codec: backends.Backend) -> None:
    for number in range(1100):
        assert sent(codec, type("Made", (Score,), {})(float(number))) == {"score": float(number)}
    assert len(encoder._WAYS) <= 1000


# -- cost, and the whole way -----------------------------------------------------------------------------------


def test_encoding_an_object_loads_no_package() -> None:
    script = (
        "import sys; from erl_bridge import etf; import enum, erl_bridge.handlers; before = set(sys.modules)\n"
        "etf.encode(enum.Enum('E', 'a').a); print(*(set(sys.modules) - before))"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert all(name.startswith("erl_bridge.etf.") for name in output.stdout.split())


@pytest.mark.parametrize("where", ["thread", "job"])
def test_a_handler_returns_a_dataclass_with_an_array(app_bridge: BridgeProcess, where: str) -> None:
    pytest.importorskip("numpy")
    report = app_bridge.ok(f"report_{where}", {"scores": [1, 2, 3, 4]})
    assert report == {"name": "r", "scores": [[1, 2], [3, 4]], "best": {"x": 1, "name": "p"}}
    error = app_bridge.error(f"bad_report_{where}")
    assert error["error_type"] is a("serialization_error")
    assert "float nan at result.reports[0].scores[1][1]: " in error["message"]
