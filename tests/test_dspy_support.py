"""What the tests of the DSPy room share: a client that records, and a small real data set."""

from __future__ import annotations

import random
import threading
import unicodedata
from collections.abc import Callable, Set
from typing import Any

from erl_bridge.context import Context
from erl_bridge.handlers.dspy.preload import preload
from erl_bridge.terms import Atom

preload()  # as the template process does before it forks; it imports DSPy

LOCAL = "local/nearest-demo"
CATEGORIES = {"Lu": "letter", "Sm": "math", "Nd": "digit", "So": "symbol"}


class Client:
    """The other end of a handler's context: keeps its events and checkpoints, and runs functions for its calls."""

    def __init__(self, **functions: Callable[..., Any]) -> None:
        self.functions = functions
        self.events: list[dict[Any, Any]] = []
        self.best: list[Any] = []
        self.calls: list[tuple[Any, list[Any]]] = []
        self.allowed: set[Atom] = set()
        self.lock = threading.Lock()
        self.context = Context(self, request_type="test")

    def event(self, event: dict[Any, Any]) -> None:
        self.events.append(event)

    def checkpoint(self, best: Any) -> None:
        self.best.append(best)

    def allow(self, atoms: Set[Atom]) -> None:
        self.allowed |= atoms

    def call(self, call_id: int, name: Any, args: list[Any]) -> None:
        with self.lock:
            self.calls.append((name, args))
        try:
            result = (Atom("ok"), self.functions[str(name)](*args))
        except Exception as error:
            result = (Atom("error"), str(error))
        self.context.callback_result(call_id, result)


def atoms(value: Any) -> Any:
    """The same value with atoms for the keys of its maps, as a client in Elixir writes it."""
    if isinstance(value, dict):
        return {Atom(key) if isinstance(key, str) else key: atoms(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(atoms(item) for item in value)
    return value


def texts(value: Any) -> Any:
    """The same value without atoms and tuples: what JSON would leave of it."""
    if isinstance(value, Atom):
        return str(value)
    if isinstance(value, dict):
        return {texts(key): texts(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [texts(item) for item in value]
    return value


def character_names(count: int, seed: int = 1) -> list[dict[Any, Any]]:
    """``count`` rows of a character's name and its kind, from the Unicode data that comes with Python."""
    rows = [
        {Atom("name"): name, Atom("kind"): Atom(CATEGORIES[unicodedata.category(chr(code))])}
        for code in range(0x3000)
        if unicodedata.category(chr(code)) in CATEGORIES and (name := unicodedata.name(chr(code), ""))
    ]
    return random.Random(seed).sample(rows, count)


CHARACTERS = atoms(
    {
        "input_fields": [{"name": Atom("name"), "description": "the name of a character"}],
        "output_fields": [
            {
                "name": Atom("kind"),
                "type": (Atom("literal"), [Atom(kind) for kind in ("digit", "letter", "math", "symbol")]),
            }
        ],
        "instructions": "Say what kind of character this is.",
    }
)


def test_the_client_answers_calls() -> None:
    client = Client(double=lambda n: 2 * n)
    assert client.context.call("double", [4]) == 8
    assert client.calls == [("double", [4])]
