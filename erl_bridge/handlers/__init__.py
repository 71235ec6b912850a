"""The bridge's own handlers. Each room says what it serves; importing a room imports nothing that the work needs."""

from __future__ import annotations

from ..app import Handler
from . import dspy as dspy_room
from . import system
from .datasets import Datasets

__all__ = ["Datasets", "builtin", "preload", "rooms"]


def rooms(*, dspy: bool = True, datasets: Datasets | None = None) -> dict[str, list[Handler]]:
    """The handlers of the bridge by room, all of them or only those that need no DSPy."""
    found = {"system": system.HANDLERS, "dataset": (datasets or Datasets()).handlers}
    if dspy:
        found["dspy"] = dspy_room.HANDLERS
    return found


def builtin(*, dspy: bool = True, datasets: Datasets | None = None) -> list[Handler]:
    """The same in one list."""
    return [handler for room in rooms(dspy=dspy, datasets=datasets).values() for handler in room]


preload = dspy_room.preload
