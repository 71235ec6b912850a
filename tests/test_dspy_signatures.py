"""Signatures, their types and their notation: what is taken, what is refused and in which words."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, Literal

import pytest

from erl_bridge.errors import InvalidRequest, OptimizationError
from erl_bridge.handlers.dspy import schema, signatures, type_names
from erl_bridge.handlers.dspy.notation import parse_signature, parse_type
from erl_bridge.terms import Atom
from erl_bridge.validation import validate

A = Atom


def read(value: Any) -> signatures.Signature:
    payload = validate({"signature": value, "inputs": {}, "lm": ""}, schema.Predict)
    assert payload.signature is not None
    return signatures.from_payload(payload.signature)


# -- types ------------------------------------------------------------------------------------------------------------

WIRE_TYPES = [
    (A("str"), "str", A("str")),
    (A("string"), "str", A("str")),
    (A("integer"), "int", A("int")),
    (A("float"), "float", A("float")),
    (A("boolean"), "bool", A("bool")),
    (A("list"), "list", A("list")),
    (A("map"), "dict", A("dict")),
    (A("any"), "Any", A("any")),
    ((A("list"), A("int")), "list[int]", (A("list"), A("int"))),
    ((A("optional"), (A("list"), A("string"))), "Optional[list[str]]", (A("optional"), (A("list"), A("str")))),
    ((A("dict"), A("str"), A("float")), "dict[str, float]", (A("dict"), A("str"), A("float"))),
    ((A("literal"), [A("yes"), "no", 3]), "Literal['yes', 'no', 3]", (A("literal"), [A("yes"), "no", 3])),
    (["literal", ["a"]], "Literal['a']", (A("literal"), ["a"])),  # a tuple that went through JSON
    ("list[str] | None", "Optional[list[str]]", (A("optional"), (A("list"), A("str")))),
]


@pytest.mark.parametrize(("wire", "notation", "back"), WIRE_TYPES)
def test_types_are_read_and_written(wire: Any, notation: str, back: Any) -> None:
    kind = type_names.from_wire(wire, "here")
    assert str(kind) == notation
    assert kind.wire == back
    assert type_names.from_wire(back, "here") == kind
    assert parse_type(notation, "here").annotation == kind.annotation


NESTED: Any = A("int")
for _ in range(20):
    NESTED = (A("list"), NESTED)
A_TYPE = f"here: expected a type ({', '.join(type_names.NAMES)}, {type_names.FORMS})"

BAD_TYPES = [
    (A("strng"), f"{A_TYPE}, got :strng"),
    (5, f"{A_TYPE}, got 5"),
    ((A("list"),), f"{A_TYPE}, got {{:list}}"),
    ((A("list"), A("nope")), f"{A_TYPE}, got :nope"),
    (NESTED, f"{A_TYPE}, got {{:list, {{:list, {{:list, …}}}}}}"),
    ((A("dict"), A("float"), A("int")), "here: expected str or int as the type of a map's keys, got :float"),
    ((A("literal"), []), "here: expected a list of atoms, strings or integers to choose from, got []"),
    ((A("literal"), [A("a"), 1.5]), "here[1]: expected an atom, a string or an integer, got 1.5"),
    ((A("literal"), [A("a"), True]), "here[1]: expected an atom, a string or an integer, got true"),
    ((A("literal"), [A("a"), "a"]), 'here[1]: expected values that read differently, got "a"'),
]


@pytest.mark.parametrize(("wire", "message"), BAD_TYPES)
def test_other_types_are_refused(wire: Any, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        type_names.from_wire(wire, "here")
    assert caught.value.message == message


VALUES = [
    ("str", A("yes"), "yes"),
    ("int", 10**30, 10**30),
    ("float", 2, 2.0),
    ("bool", True, True),
    ("any", {A("a"): (A("b"), None)}, {"a": ["b", None]}),
    ("list", [A("a"), 1], ["a", 1]),
    ("dict[str, int]", {A("a"): 1}, {"a": 1}),
    ("Optional[int]", None, None),
    ("Literal['yes', 3]", A("yes"), "yes"),
    ("Literal['yes', 3]", 3, 3),
]


@pytest.mark.parametrize(("kind", "value", "kept"), VALUES)
def test_values_are_read_by_their_type(kind: str, value: Any, kept: Any) -> None:
    read_value = parse_type(kind, "here").read(value)
    assert (read_value, type(read_value)) == (kept, type(kept))


DEEP: Any = []
for _ in range(100):
    DEEP = [DEEP]
BAD_VALUES = [
    ("str", 5, "payload.inputs.x: expected str, got 5"),
    ("str", None, "payload.inputs.x: expected str, got nil"),
    ("str", True, "payload.inputs.x: expected str, got true"),
    ("int", True, "payload.inputs.x: expected int, got true"),
    ("int", 1.0, "payload.inputs.x: expected int, got 1.0"),
    ("float", "1.0", 'payload.inputs.x: expected float, got "1.0"'),
    ("float", 10**400, "payload.inputs.x: expected float, got an integer of 1329 bits"),
    ("bool", A("yes"), "payload.inputs.x: expected bool, got :yes"),
    ("list", {}, "payload.inputs.x: expected list, got %{}"),
    ("any", DEEP, "payload.inputs.x: expected any, got [[[…]]]"),
    ("list[int]", [1, "2"], 'payload.inputs.x[1]: expected int, got "2"'),
    ("list[dict[str, int]]", [{A("a"): None}], "payload.inputs.x[0].a: expected int, got nil"),
    ("dict[int, int]", {"1": 1}, 'payload.inputs.x.1: expected int, got "1"'),
    ("Optional[int]", "1", 'payload.inputs.x: expected int or nil, got "1"'),
    ("Optional[list[int]]", ["1"], 'payload.inputs.x[0]: expected int, got "1"'),
    ("Literal['yes', 3]", "no", 'payload.inputs.x: expected one of "yes", 3, got "no"'),
    ("Literal[1]", True, "payload.inputs.x: expected one of 1, got true"),
]


@pytest.mark.parametrize(("kind", "value", "message"), BAD_VALUES)
def test_values_of_another_type_are_refused(kind: str, value: Any, message: str) -> None:
    field = signatures.Field("x", "x", parse_type(kind, "here"))
    with pytest.raises(InvalidRequest) as caught:
        signatures.read_fields([field], {"x": ("x", value)}, "payload.inputs")
    assert caught.value.message == message


def test_answers_come_back_as_the_clients_values() -> None:
    kind = type_names.from_wire((A("literal"), [A("billing"), "refund", 7]), "here")
    assert [kind.write(value) for value in ("billing", "refund", 7)] == [A("billing"), "refund", 7]
    assert kind.annotation == Literal["billing", "refund", 7]
    # asked for a string or None, DSPy takes the model's None for a string
    assert parse_type("str | None", "here").write("None") is None


def test_an_answer_that_elixir_cannot_hold_is_an_error() -> None:
    field = signatures.Field("n", A("n"), parse_type("list[float]", "here"))
    with pytest.raises(OptimizationError) as caught:
        signatures.write_fields([field], {"n": [1.0, float("nan")]})
    assert caught.value.message == "outputs.n[1]: expected float, but the language model answered nan"


# -- notation ---------------------------------------------------------------------------------------------------------

NOTATIONS = [
    ("question -> answer", ["question: str"], ["answer: str"]),
    (" q,context : list[ str ]->a:float ", ["q: str", "context: list[str]"], ["a: float"]),
    ("x -> y: dict[str, list[int]], z: bool", ["x: str"], ["y: dict[str, list[int]]", "z: bool"]),
    ("x -> y: Literal['a, b', \"it's\", -3]", ["x: str"], ["y: Literal['a, b', \"it's\", -3]"]),
    ("x -> y: int | None, z: None | str", ["x: str"], ["y: Optional[int]", "z: Optional[str]"]),
    ("x -> y: Optional[Any]", ["x: str"], ["y: Optional[Any]"]),
]


@pytest.mark.parametrize(("text", "inputs", "outputs"), NOTATIONS)
def test_signatures_in_dspys_notation(text: str, inputs: list[str], outputs: list[str]) -> None:
    parsed = parse_signature(text, "payload.signature")
    assert tuple([f"{name}: {kind}" for name, kind in fields] for fields in parsed) == (inputs, outputs)


TYPE_NAMES = (
    f"a type ({', '.join(type_names.NAMES)}, Any, Image, Audio, File, History, Code, list[T], dict[K, V], Optional[T], "
    "Literal[...], Code[...], {name: T})"
)
BAD_NOTATIONS = [
    ("", 'expected a field name, got the end at character 1 of ""'),
    ("question", 'expected "->" between inputs and outputs, got the end at character 9 of "question"'),
    ("q -> ", 'expected a field name, got the end at character 6 of "q -> "'),
    ("q -> a b", 'expected nothing more, got "b" at character 8 of "q -> a b"'),
    ("q -> a -> b", 'expected nothing more, got "->" at character 8 of "q -> a -> b"'),
    ("x: this.s -> y", f'expected {TYPE_NAMES}, got "this" at character 4 of "x: this.s -> y"'),
    ("x: str.s -> y", 'expected "->" between inputs and outputs, got ".s -> y" at character 7 of "x: str.s -> y"'),
    ("x: -> y", f'expected {TYPE_NAMES}, got "->" at character 4 of "x: -> y"'),
    ("x: list[str -> y", 'expected "]", got "->" at character 13 of "x: list[str -> y"'),
    ("x: Optional -> y", 'expected "[" after Optional, got "->" at character 13 of "x: Optional -> y"'),
    ("x: None -> y", 'expected a type beside None, got "->" at character 9 of "x: None -> y"'),
    ("x: Literal[y] -> z", 'expected a quoted string or an integer, got "y" at character 12 of "x: Literal[y] -> z"'),
    ("x: str | int -> y", '"x: str | int -> y" holds a union of two types; only a type and None can be joined'),
]


@pytest.mark.parametrize(("text", "message"), BAD_NOTATIONS)
def test_a_signature_that_is_none_says_where(text: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_signature(text, "payload.signature")
    assert caught.value.message == f"payload.signature: {message}"


def test_types_nested_too_deep_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="holds types nested deeper than 16"):
        parse_type("list[" * 30 + "int" + "]" * 30, "here")


def test_no_module_is_imported_by_a_signature_and_nothing_here_imports_dspy() -> None:
    code = """
import sys
from erl_bridge.handlers.dspy import schema, signatures, rows
from erl_bridge.errors import InvalidRequest
try:
    signatures.from_payload("x: this.s -> y")
except InvalidRequest:
    print(*(name in sys.modules for name in ("this", "dspy", "pydantic")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False False\n"


# -- signatures -------------------------------------------------------------------------------------------------------


def test_names_are_remembered_as_the_client_wrote_them() -> None:
    signature = read(
        {
            A("input_fields"): [{A("name"): A("question")}, {"name": "context", "type": "list[str]"}],
            A("output_fields"): [{A("name"): A("answer"), A("type"): A("float"), A("description"): "in metres"}],
        }
    )
    assert [field.label for field in signature.fields] == [A("question"), "context", A("answer")]
    assert signature.instructions == "Given the fields `question`, `context`, produce the fields `answer`."
    assert signature.wire[A("output_fields")] == [
        {A("name"): A("answer"), A("type"): A("float"), A("description"): "in metres"}
    ]
    assert read(signature.wire) == signature


def fields(name: Any, **more: Any) -> Any:
    return {"input_fields": [{"name": name, **more}], "output_fields": [{"name": "answer"}]}


UNUSABLE = "payload.signature.input_fields[0].name: the field name"
BAD_SIGNATURES = [
    (fields("my field"), f'{UNUSABLE} "my field" cannot be used: it must be ASCII letters, digits and underscores, '
     "beginning with a letter"),
    (fields(A("über")), f'{UNUSABLE} "über" cannot be used: it must be ASCII letters, digits and underscores, '
     "beginning with a letter"),
    (fields("_x"), f'{UNUSABLE} "_x" cannot be used: it must be ASCII letters, digits and underscores, '
     "beginning with a letter"),
    (fields("class"), f'{UNUSABLE} "class" cannot be used: it is a keyword of Python'),
    (fields("signature"), f'{UNUSABLE} "signature" cannot be used: DSPy uses that name itself'),
    (fields("base"), f'{UNUSABLE} "base" cannot be used: DSPy uses that name itself'),
    (fields("dspy_x"), f'{UNUSABLE} "dspy_x" cannot be used: DSPy uses that name itself'),
    (fields(7), "payload.signature.input_fields[0].name: expected an atom or a string, got 7"),
    (fields("answer"), "payload.signature: the field answer is there twice"),
    ("a, a -> b", "payload.signature: the field a is there twice"),
    ("a -> lambda", 'payload.signature: the field name "lambda" cannot be used: it is a keyword of Python'),
    ({"input_fields": [], "output_fields": []},
     "payload.signature.input_fields: expected at least one field, got none"),
    ({"input_fields": []}, "payload.signature: the required key output_fields is missing"),
    (fields("q", typ="str"), 'payload.signature.input_fields[0]: unknown key "typ" (did you mean "type"?); '
     "the keys are name, type, description"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "message"), BAD_SIGNATURES)
def test_signatures_that_cannot_be(value: Any, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(value)
    assert caught.value.message == message
