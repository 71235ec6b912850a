"""The bridge's own handlers. Each room says what it serves; importing a room imports nothing that the work needs."""

from __future__ import annotations

from ..app import Handler
from . import dspy as dspy_room
from . import system
from .datasets import Datasets

__all__ = ["Datasets", "builtin", "preload"]


def builtin(*, dspy: bool = True, datasets: Datasets | None = None) -> list[Handler]:
    """All handlers of the bridge, or only those that need no DSPy."""
    handlers = [*system.HANDLERS, *(datasets or Datasets()).handlers]
    return [*handlers, *dspy_room.HANDLERS] if dspy else handlers


preload = dspy_room.preload
