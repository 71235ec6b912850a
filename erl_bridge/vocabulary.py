"""The atoms that the bridge may send: those of ``priv/vocabulary.eterm`` and those that came in the same request.

Rule of this file: the list lives in ``priv/`` alone, where clients in any language read it too.
"""

from __future__ import annotations

import os

from .terms import Atom

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

PRIV = os.path.join(os.path.dirname(os.path.abspath(__file__)), "priv")
_CONSTANTS = ("true", "false", "nil")  # these travel as True, False and None


def read(text: str) -> frozenset[Atom]:
    """The atoms of an Erlang list of atoms with ``%`` comments.

    >>> sorted(str(atom) for atom in read("%% words\\n[ok, 'Elixir.Date', true].\\n"))
    ['Elixir.Date', 'ok']
    """
    code = " ".join(line.partition("%")[0] for line in text.splitlines())
    names = (name.strip().strip("'") for name in code.strip().removesuffix(".").strip("[]").split(","))
    return frozenset(Atom(name) for name in names if name not in _CONSTANTS)


def _load() -> frozenset[Atom]:
    with open(os.path.join(PRIV, "vocabulary.eterm"), encoding="utf-8") as file:
        return read(file.read())


VOCABULARY = _load()


def named(fields: Mapping[str, Any]) -> dict[Any, Any]:
    """The same map with every key that the vocabulary knows as an atom and every other as the string it is.

    >>> named({"score": 0.5, "my_own": 1})
    {Atom('score'): 0.5, 'my_own': 1}
    """
    return {atom if (atom := Atom(name)) in VOCABULARY else name: value for name, value in fields.items()}


def event_fields(fields: Mapping[str, Any]) -> dict[Any, Any]:
    """The same map with :data:`EVENT_KEYS` as atoms and every other key as the string it is.

    For what users name: a word that is new in the vocabulary changes none of their keys.

    >>> event_fields({"done": 1, "seed": 2})
    {Atom('done'): 1, 'seed': 2}
    """
    return {EVENT_KEYS.get(name, name): value for name, value in fields.items()}


# A contract: docs/protocol.md lists them, and clients match on them. None is added or taken away.
EVENT_KEYS = {
    name: Atom(name)
    for name in ("phase", "message", "done", "total", "trial", "trials", "score", "best_score", "text", "chunk", "row")
}
