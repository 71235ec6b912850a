"""JSON as Python values, refusing what a term cannot hold and what Python would take silently.

Rule of this file: Python's fast parser reads; where it refuses, the place is looked for afterwards.
"""

from __future__ import annotations

import json
import math
import re
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn


class JsonError(Exception):
    """``what`` is wrong at the character ``position`` of the text."""

    def __init__(self, what: str, position: int) -> None:
        super().__init__(what)
        self.what = what
        self.position = position


class _Refused(Exception):
    """What a hook refuses, and how its place is found."""

    def __init__(self, what: str, find: Callable[[str], int]) -> None:
        super().__init__(what)
        self.what = what
        self.find = find


def parse(text: str) -> Any:
    """The value that ``text`` is. Raises :class:`JsonError`.

    >>> parse('{"n": 12345678901234567890123}')
    {'n': 12345678901234567890123}
    >>> parse('[1, NaN]')
    Traceback (most recent call last):
    erl_bridge.files.json_text.JsonError: NaN is no number that Elixir has; use null
    """
    try:
        return json.loads(text, parse_constant=_constant, parse_float=_float, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise JsonError(f"not valid JSON: {error.msg[:1].lower()}{error.msg[1:]}", error.pos) from None
    except _Refused as refused:
        raise JsonError(refused.what, refused.find(text)) from None
    except RecursionError:
        raise JsonError("lists and objects are nested too deep", 0) from None
    except ValueError:  # of int(), which takes no more digits
        digits = sys.get_int_max_str_digits()
        position = _find(text, lambda token: token.lstrip("-").isdigit() and len(token) > digits)
        raise JsonError(f"an integer of more than {digits} digits", position) from None


def _constant(name: str) -> NoReturn:
    raise _Refused(f"{name} is no number that Elixir has; use null", lambda text: _find(text, name.__eq__))


def _float(token: str) -> float:
    value = float(token)
    if not math.isfinite(value):
        raise _Refused(f"the number {token} is too large for a float", lambda text: _find(text, token.__eq__))
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        keys = [key for key, _ in pairs]
        key = next(key for key in keys if keys.count(key) > 1)
        raise _Refused(f'the key "{key}" is there twice', _find_duplicate)
    return fields


_STRING = r'"(?:[^"\\]|\\.)*"'
_TOKEN = re.compile(rf"{_STRING}|-?Infinity|NaN|-?\d[\d.eE+-]*")
_KEY_OR_BRACKET = re.compile(rf"(?P<string>{_STRING})(?P<colon>\s*:)?|[{{}}\[\]]")


def _find(text: str, wanted: Callable[[str], bool]) -> int:
    """Where the first such number stands, outside of strings."""
    return next((match.start() for match in _TOKEN.finditer(text) if wanted(match[0])), 0)


def _find_duplicate(text: str) -> int:
    """Where an object's key stands for the second time."""
    open_objects: list[set[str]] = []
    for match in _KEY_OR_BRACKET.finditer(text):
        if match[0] in "{[":
            open_objects.append(set())
        elif match[0] in "}]":
            open_objects.pop()
        elif match["colon"]:
            key = json.loads(match["string"])
            if key in open_objects[-1]:
                return match.start()
            open_objects[-1].add(key)
    return 0
