"""The tree of errors and its way over the wire and back."""

from __future__ import annotations

import re
import weakref
from typing import Any

import pytest
from support import ROOT, a

from erl_bridge import errors
from erl_bridge.error_map import error_map, from_error_map, from_exception
from erl_bridge.errors import BridgeError
from erl_bridge.vocabulary import EVENT_KEYS, VOCABULARY

CLASSES = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, BridgeError) and kind is not BridgeError
]


def documented() -> dict[str, str]:
    """Error types and their strategies, from the table of the protocol page."""
    rows = re.findall(r"^\| `:(\w+)` \|.*\| (`:(\w+)`|by case[^|]*) \|$", (ROOT / "docs/protocol.md").read_text(), re.M)
    return {name: strategy or "by case" for name, _, strategy in rows if name in {kind.error_type for kind in CLASSES}}


def test_types_and_strategies_are_those_of_the_protocol_page() -> None:
    by_case = {"lm_error": "by case"}
    assert documented() == {kind.error_type: by_case.get(kind.error_type, kind.recovery_strategy) for kind in CLASSES}


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_survives_the_way_over_the_wire(kind: type[BridgeError]) -> None:
    error = kind("m", context={"k": 1}, recovery_strategy="retry", retry_after_ms=5, python_type="T", traceback="t")
    back = from_error_map(error_map(error))
    assert type(back) is kind
    assert error_map(back) == error_map(error)
    assert {a(kind.error_type), a(kind.recovery_strategy)} <= VOCABULARY


@pytest.mark.parametrize(
    ("exception", "error_type", "message"),
    [
        (errors.Overloaded("busy"), "overloaded", "busy"),
        (ValueError("no"), "python_runtime_error", "ValueError: no"),
        (KeyError(), "python_runtime_error", "KeyError"),
        (SystemExit(3), "python_runtime_error", "SystemExit: 3"),
        (re.error("bad"), "python_runtime_error", f"{re.error.__module__}.{re.error.__qualname__}: bad"),
        (MemoryError(), "resource_exhausted", "the process is out of memory"),
        (
            ModuleNotFoundError("No module named 'a.b'", name="a.b"),
            "import_error",
            "the Python package a is not installed; install it with: pip install a",
        ),
    ],
)
def test_whatever_a_handler_raises_has_a_place_in_the_protocol(
    exception: BaseException, error_type: str, message: str
) -> None:
    error = from_exception(exception)
    assert (error.error_type, error.message) == (error_type, message)


def test_stopping_work_is_not_an_exception_that_user_code_catches() -> None:
    assert not issubclass(errors.Stopped, Exception)


def test_an_error_keeps_nothing_of_the_request_alive() -> None:
    class Payload:
        pass

    def handle(payload: Payload) -> BridgeError:
        try:
            try:
                raise KeyError
            except KeyError as error:
                raise errors.InvalidRequest("no") from error
        except BridgeError as error:
            return from_exception(error)

    payload = Payload()
    alive = weakref.ref(payload)
    failure = handle(payload)  # the frame of this function is reached from that of the other
    del payload
    assert alive() is None
    assert failure.message == "no"


def raise_and_catch() -> Any:
    try:
        raise ValueError("inner")
    except ValueError as error:
        return from_exception(error)


def test_the_traceback_says_where() -> None:
    assert "raise_and_catch" in raise_and_catch().traceback


def test_the_keys_of_events_that_are_atoms_are_those_of_the_protocol_page() -> None:
    (listed,) = re.findall(
        r"has these keys as atoms, for good: `kind`, (.*?)\.", (ROOT / "docs/protocol.md").read_text(), re.S
    )
    assert re.findall(r"`(\w+)`", listed) == list(EVENT_KEYS)
    assert set(EVENT_KEYS.values()) <= VOCABULARY
