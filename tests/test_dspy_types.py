"""Types with parts and types of DSPy's own: records, dates, media, code; what they read, write and show a model."""

from __future__ import annotations

import base64
import json
from datetime import UTC, date, datetime, time
from typing import Any

import dspy
import pytest
from test_dspy_support import Client, texts

from erl_bridge import etf
from erl_bridge.errors import InvalidRequest, OptimizationError
from erl_bridge.handlers.dspy import jobs, predict, programs, signatures, type_names
from erl_bridge.handlers.dspy.notation import parse_type
from erl_bridge.terms import Atom
from erl_bridge.vocabulary import VOCABULARY

A = Atom
PNG = b"\x89PNG\xff"
PERSON: Any = (
    A("map"),
    [
        {A("name"): A("name"), A("description"): "the full name"},
        (A("age"), (A("optional"), A("int"))),
        {A("name"): A("tags"), A("type"): (A("list"), (A("literal"), [A("vip"), A("new")]))},
    ],
)


def field(kind: Any) -> signatures.Field:
    return signatures.Field("x", A("x"), type_names.from_wire(kind, "type"))


def read(kind: Any, value: Any) -> Any:
    return signatures.read_value(field(kind), value, "payload.inputs")


def write(kind: Any, value: Any) -> Any:
    return signatures.write_value(field(kind), value)


def ask(output: Any, answer: str, **inputs: Any) -> tuple[Any, Any]:
    """The output that a model gave with ``answer``, and the request that it got."""
    requests: list[Any] = []

    def model(request: Any) -> str:
        requests.append(request)
        return f"[[ ## out ## ]]\n{answer}\n\n[[ ## completed ## ]]"

    given = inputs or {"text": (A("str"), "x")}
    signature = {
        "input_fields": [{"name": name, "type": kind} for name, (kind, _) in given.items()],
        "output_fields": [{"name": "out", "type": output}],
    }
    payload = {"signature": signature, "inputs": {name: value for name, (_, value) in given.items()}}
    result = predict.predict({**payload, "lm": {"callback": "lm"}}, Client(lm=model).context)
    etf.encode(result, atoms=VOCABULARY | {A(name) for name in ("age", "tags", "vip", "new")})
    return result["out"], requests[0]


# -- records ----------------------------------------------------------------------------------------------------------


def test_a_record_comes_back_under_the_clients_names() -> None:
    answer = '[{"name": "Ann", "age": 3, "tags": ["vip"]}, {"tags": [], "name": "Bob"}]'
    people, request = ask((A("list"), PERSON), answer)
    assert people == [
        {A("name"): "Ann", A("age"): 3, A("tags"): [A("vip")]},
        {A("name"): "Bob", A("age"): None, A("tags"): []},
    ]
    schema = request[A("messages")][0]["content"]
    assert '"description": "the full name"' in schema
    assert '"required": ["name", "tags"]' in schema
    assert '"additionalProperties": false' in schema


def test_a_record_as_an_input_is_shown_as_json() -> None:
    value = {A("tags"): [A("new")], "name": "Ann"}
    _, request = ask(A("str"), "ok", person=(PERSON, value))
    assert '{"name": "Ann", "age": null, "tags": ["new"]}' in request[A("messages")][-1]["content"]


def test_an_answer_that_is_no_such_record_is_an_error() -> None:
    with pytest.raises(OptimizationError):
        ask(PERSON, '{"name": "Ann", "size": 3, "tags": []}')


BAD_RECORDS = [
    (5, "payload.inputs.x: expected a map with name, age, tags, got 5"),
    ({"name": "Ann"}, 'payload.inputs.x: expected a map with name, age, tags, got %{"name" => "Ann"}'),
    ({"name": 5, "tags": []}, "payload.inputs.x.name: expected str, got 5"),
    ({"name": "", "tags": ["vip", "old"]}, 'payload.inputs.x.tags[1]: expected one of :vip, :new, got "old"'),
    ({"name": "", "tags": [], "z": 1}, "payload.inputs.x: expected a map with name, age, tags and nothing else, got"),
]


@pytest.mark.parametrize(("value", "message"), BAD_RECORDS)
def test_a_record_that_does_not_fit_is_refused(value: Any, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(PERSON, value)
    assert caught.value.message.startswith(message)


def test_records_in_notation() -> None:
    kind = parse_type("list[{name: str, at: {x: int, y: int | None}}]", "here")
    assert str(kind) == "list[{name: str, at: {x: int, y: Optional[int]}}]"
    assert kind.read([{"name": "a", "at": {"x": 1}}]) == [{"name": "a", "at": {"x": 1, "y": None}}]
    assert type_names.from_wire(kind.wire, "here") == kind
    assert type_names.from_wire(texts(kind.wire), "here") == kind


BAD_TYPES = [
    ((A("map"), []), "type: expected a list of 1 to 256 fields, got []"),
    ((A("map"), [5]), "type[0]: expected a field, a map of name, type and description, got 5"),
    ((A("map"), [{"name": 5}]), "type[0].name: expected an atom or a string, got 5"),
    ((A("map"), [{"name": "a", "kind": "str"}]), 'type[0]: unknown key "kind"; the keys are name, type, description'),
    ((A("map"), [{"name": "a", "description": 5}]), "type[0].description: expected a string, got 5"),
    ((A("map"), [("a", "str"), ("a", "int")]), "type: the field a is there twice"),
    ((A("map"), [("a b", "str")]), 'type: the field name "a b" cannot be used: it must be ASCII letters'),
    ((A("map"), [("model_dump", "str")]), 'type: the field name "model_dump" cannot be used: DSPy uses that name'),
    ((A("map"), [("a", A("nope"))]), "type[0].type: expected a type ("),
    ((A("code"), "a b"), 'type: expected the name of a programming language, got "a b"'),
    ("{a: str", 'type: expected "}", got the end at character 8 of "{a: str"'),
]


@pytest.mark.parametrize(("kind", "message"), BAD_TYPES)
def test_types_with_parts_that_cannot_be(kind: Any, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        type_names.from_wire(kind, "type")
    assert caught.value.message.startswith(message)


def test_records_have_a_limit_and_a_depth() -> None:
    type_names.from_wire((A("map"), [(f"f{n}", "int") for n in range(256)]), "type")
    with pytest.raises(InvalidRequest, match="expected a list of 1 to 256 fields"):
        type_names.from_wire((A("map"), [(f"f{n}", "int") for n in range(257)]), "type")
    nested: Any = A("int")
    for _ in range(30):
        nested = (A("map"), [("a", nested)])
    with pytest.raises(InvalidRequest, match="expected a type"):
        type_names.from_wire(nested, "type")
    with pytest.raises(InvalidRequest, match=r"expected a type|deeper than 16"):
        parse_type("{a: " * 30 + "int" + "}" * 30, "type")


# -- dates and times --------------------------------------------------------------------------------------------------

MOMENTS = [
    ("date", date(2024, 2, 29), "2024-02-29"),
    ("time", time(7, 8, 9), "07:08:09"),
    ("datetime", datetime(2024, 2, 29, 7, 8, 9), "2024-02-29T07:08:09"),
    ("datetime", datetime(2024, 2, 29, 7, 8, 9, tzinfo=UTC), "2024-02-29T07:08:09Z"),
]


@pytest.mark.parametrize(("kind", "value", "text"), MOMENTS)
def test_dates_and_times_are_structs_or_text(kind: str, value: Any, text: str) -> None:
    assert read(A(kind), value) == read(A(kind), text) == write(A(kind), value) == value
    answer, request = ask(A(kind), text, when=(A(kind), value))
    assert answer == value
    assert text.replace("T", " ") in request[A("messages")][-1]["content"].replace("T", " ").replace("+00:00", "Z")
    assert etf.decode(etf.encode(answer)) == value
    for wrong in ("yesterday", 5, datetime(2024, 1, 1) if kind != "datetime" else date(2024, 1, 1)):
        with pytest.raises(InvalidRequest, match=rf"^payload\.inputs\.x: expected {kind}, got"):
            read(A(kind), wrong)


# -- media ------------------------------------------------------------------------------------------------------------

URI = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
MEDIA = [
    ("image", "https://example.org/a.png", "https://example.org/a.png"),
    ("image", {A("data"): PNG, A("type"): A("image/png")}, URI),
    ("image", URI, URI),
    ("audio", {"data": b"RIFF\xff", "format": "wav"}, "data:audio/wav;base64,UklGRv8="),
    ("file", {"data": "a,b", "type": "text/csv"}, {A("base64"): "YSxi", A("type"): "text/csv"}),
    ("file", {"file_id": "f-1"}, {A("file_id"): "f-1"}),
    ("history", [{A("question"): "1", "answer": A("2")}], [{"question": "1", "answer": "2"}]),
    ("code", "1 + 1", "1 + 1"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "value", "shown"), MEDIA)
def test_media_are_plain_data_on_both_sides(kind: str, value: Any, shown: Any) -> None:
    inside = read(A(kind), value)
    assert isinstance(inside, getattr(dspy, kind.title()))
    assert write(A(kind), inside) == shown
    assert write(A(kind), read(A(kind), texts(shown))) == shown  # what a program keeps of it can be read again
    etf.encode(shown, atoms=VOCABULARY)


BAD_MEDIA: list[tuple[str, Any]] = [
    ("image", "/etc/passwd"),
    ("image", "file:///etc/passwd"),
    ("image", {"data": PNG}),
    ("image", {"data": PNG, "type": "image/png;x"}),
    ("image", {"base64": "not base64!", "type": "image/png"}),
    ("image", {"url": "https://example.org", "download": True}),
    ("audio", "/etc/passwd"),
    ("audio", {"data": 5, "format": "wav"}),
    ("file", "/etc/passwd"),
    ("file", {"path": "/etc/passwd"}),
    ("file", {"data": "x", "type": "text/plain", "file_id": "x"}),
    ("history", {}),
    ("history", ["x"]),
    ("code", 5),
]


@pytest.mark.parametrize(("kind", "value"), BAD_MEDIA)
def test_media_that_are_none_are_refused_and_nothing_is_opened(kind: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^payload\.inputs\.x"):
        read(A(kind), value)


@pytest.mark.parametrize("kind", ["image", "audio", "file", "history"])
def test_models_write_no_media(kind: str) -> None:
    with pytest.raises(InvalidRequest, match=f"the output out cannot be of the type {kind}; only an input can"):
        ask(A(kind), "x")


def test_a_model_of_the_client_sees_the_media() -> None:
    picture, sound = {"data": PNG, "type": "image/png"}, {"data": b"RIFF", "format": "wav"}
    _, request = ask(A("str"), "ok", text=(A("str"), "look"), a=(A("image"), picture), b=(A("audio"), sound))
    parts = request[A("messages")][-1]["content"]
    assert "look" in parts[0]["text"]
    shown = [{**part, "data": base64.b64decode(part["data"])} for part in parts if part["type"] != "text"]
    assert shown == [
        {"type": "image", "media_type": "image/png", "data": PNG},
        {"type": "audio", "media_type": "audio/wav", "data": b"RIFF"},
    ]


def test_a_conversation_goes_before_the_question() -> None:
    earlier = [{"text": "first?", "out": "one"}]
    _, request = ask(A("str"), "two", text=(A("str"), "second?"), history=(A("history"), earlier))
    roles = [(message["role"], "first?" in message["content"]) for message in request[A("messages")]]
    assert roles == [("system", False), ("user", True), ("assistant", False), ("user", False)]


def test_code_comes_without_its_fences() -> None:
    code, _ = ask((A("code"), A("elixir")), "```elixir\n1 + 1\n```")
    assert code == "1 + 1"
    assert str(parse_type("Code[elixir]", "here")) == str(parse_type("Code['elixir']", "here")) == "Code['elixir']"


# -- in programs ------------------------------------------------------------------------------------------------------


def test_demonstrations_of_every_type_are_kept_in_a_program_that_goes_through_json() -> None:
    kinds: dict[str, tuple[Any, Any]] = {
        "person": (PERSON, {A("name"): "Ann", A("age"): None, A("tags"): [A("vip")]}),
        "day": (A("date"), date(2024, 1, 2)),
        "picture": (A("image"), {"data": PNG, "type": "image/png"}),
        "paper": (A("file"), {"data": "a,b", "type": "text/csv"}),
        "before": (A("history"), [{"day": "1"}]),
    }
    signature = {
        "input_fields": [{"name": name, "type": kind} for name, (kind, _) in kinds.items()],
        "output_fields": [{"name": "people", "type": (A("list"), PERSON)}, {"name": "code", "type": A("code")}],
    }
    row = {**{name: value for name, (_, value) in kinds.items()}, "people": [kinds["person"][1]], "code": "x = 1"}
    model = "[[ ## people ## ]]\n[]\n\n[[ ## code ## ]]\nx\n\n[[ ## completed ## ]]"
    payload = {
        "signature": signature,
        "training_data": [row],
        "config": {"optimizer": "labeled_few_shot", "metric": {"callback": "judge"}},
        "lm": {"callback": "lm"},
    }
    client = Client(lm=lambda request: model, judge=lambda example, prediction: example["code"] == "x = 1")
    program = jobs.optimize_signature(payload, client.context)[A("program")]
    (demo,) = program[A("predictors")][0][A("demos")]
    assert demo["people"] == row["people"]
    through_json = json.loads(json.dumps(texts(program), default=str))
    assert programs.from_map(through_json, "program").fingerprint() == program[A("fingerprint")]
