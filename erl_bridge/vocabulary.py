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
