"""Frozen values, the small base under every term and message type.

Rule of this file: importing it costs nothing. ``dataclasses`` and ``typing`` take 10 to 20 ms to import, more than
the bridge may spend before it says ``:hello``, so values that the start-up path needs are written on this base.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn, Self


class Value:
    """An immutable record: equal when type and fields are equal, hashable when its fields are.

    A subclass names its fields in ``__slots__`` and sets them in its own ``__init__`` through :meth:`_set`.

    >>> class Point(Value):
    ...     __slots__ = ("x", "y")
    ...     def __init__(self, x, y):
    ...         self._set(x=x, y=y)
    >>> Point(1, 2) == Point(1, 2), Point(1, 2)
    (True, Point(x=1, y=2))
    >>> Point(1, 2).x = 3
    Traceback (most recent call last):
    AttributeError: Point is immutable
    """

    __slots__: tuple[str, ...] = ()

    def _set(self, **fields: Any) -> None:
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def _fields(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return type(self)(**{**dict(zip(self.__slots__, self._fields(), strict=True)), **changes})

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._fields() == other._fields()

    def __hash__(self) -> int:
        return hash((type(self), self._fields()))

    def __repr__(self) -> str:
        inner = ", ".join(f"{name}={value!r}" for name, value in zip(self.__slots__, self._fields(), strict=True))
        return f"{type(self).__name__}({inner})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), dict(zip(self.__slots__, self._fields(), strict=True)))


def _rebuild(kind: type[Value], fields: dict[str, Any]) -> Value:
    return kind(**fields)
