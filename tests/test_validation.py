"""Payloads against schemas: every sentence that refuses one."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest
from support import a

from erl_bridge.errors import InvalidRequest
from erl_bridge.refusals import show
from erl_bridge.validation import validate


class Config(msgspec.Struct):
    optimizer: str = "bootstrap_few_shot"
    max_demos: Annotated[int, msgspec.Meta(ge=0)] = 4
    mode: Literal["light", "heavy"] = "light"


class Model(msgspec.Struct):
    model: str


class Payload(msgspec.Struct):
    signature: Any
    config: Config = msgspec.field(default_factory=Config)
    lm: str | Model = "local"
    tags: list[str] = []
    extra: dict[str, int] = {}


def test_atoms_name_what_the_schema_says_is_a_string_and_stay_where_it_says_any() -> None:
    payload = validate(
        {a("signature"): {a("name"): a("question")}, "config": {a("optimizer"): a("copro")}, "tags": [a("x"), "y"]},
        Payload,
    )
    assert payload.signature == {a("name"): a("question")}
    assert payload.config.optimizer == "copro"
    assert payload.tags == ["x", "y"]


@pytest.mark.parametrize("lm", ["m", a("m"), {a("model"): "m"}])
def test_a_union_takes_each_of_its_shapes(lm: Any) -> None:
    assert validate({"signature": 1, "lm": lm}, Payload).lm in ("m", Model("m"))


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ([], "payload: expected map, got []"),
        ({}, "payload: the required key signature is missing"),
        (
            {"signature": 1, a("confg"): {}},
            'payload: unknown key :confg (did you mean "config"?); the keys are signature, config, lm, tags, extra',
        ),
        (
            {"signature": 1, "config": {a("zzz"): 1}},
            "payload.config: unknown key :zzz; the keys are optimizer, max_demos, mode",
        ),
        ({"signature": 1, "config": {"max_demos": "4"}}, 'payload.config.max_demos: expected int, got "4"'),
        ({"signature": 1, "config": {"max_demos": True}}, "payload.config.max_demos: expected int, got true"),
        ({"signature": 1, "config": {"max_demos": -1}}, "payload.config.max_demos: expected int >= 0, got -1"),
        ({"signature": 1, "lm": {}}, "payload.lm: the required key model is missing"),
        ({"signature": 1, "lm": 5}, "payload.lm: expected str | map, got 5"),
        ({"signature": 1, "tags": ["x", 5]}, "payload.tags[1]: expected str, got 5"),
        ({"signature": 1, "extra": {"k": "v"}}, 'payload.extra[...]: expected int, got %{"k" => "v"}'),
        (
            {"signature": 1, "config": {"mode": "fast"}},
            'payload.config.mode: expected one of "heavy", "light", got "fast"',
        ),
        (
            {"signature": 1, a("lm"): "x", "lm": "y"},
            "payload: the key lm is given twice, as an atom and as a string",
        ),
    ],
)
def test_a_payload_that_does_not_fit_is_refused_with_path_expected_and_got(payload: Any, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        validate(payload, Payload)
    assert caught.value.message == message


def test_the_context_of_a_refusal_is_for_programs() -> None:
    with pytest.raises(InvalidRequest) as caught:
        validate({"signature": 1, "config": {"max_demos": "4"}}, Payload)
    assert caught.value.context == {a("path"): "payload.config.max_demos", a("expected"): "int", a("got"): '"4"'}


def test_values_are_never_shown_at_length() -> None:
    deep: Any = []
    for _ in range(10_000):
        deep = [deep]
    for value in ("x" * 10_000, deep, list(range(1000)), 10**5000, {i: i for i in range(100)}, b"x" * 1000):
        assert len(show(value)) <= 80
