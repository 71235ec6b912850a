"""The bridge's own handlers. Each room says what it serves; importing a room imports nothing that the work needs."""

from __future__ import annotations

from ..app import Handler
from . import dspy as dspy_room
from . import system


def builtin(*, dspy: bool = True) -> list[Handler]:
    """All handlers of the bridge, or only those that need no DSPy."""
    return [*system.HANDLERS, *dspy_room.HANDLERS] if dspy else system.HANDLERS


preload = dspy_room.preload
