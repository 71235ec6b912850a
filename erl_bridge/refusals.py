"""Sentences that refuse bad input: where, what was expected, what came.

Rule of this file: values are shown as an Elixir developer would write them, and never at length.
"""

from __future__ import annotations

from .errors import InvalidRequest
from .terms import Atom

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection


def invalid(path: str, expected: str, got: object) -> InvalidRequest:
    """The error for a value at ``path`` that is not what was expected.

    >>> str(invalid("payload.k", "a positive integer", -1))
    'payload.k: expected a positive integer, got -1'
    """
    return _refused(path, expected, got)


def _refused(path: str, expected: str, got: object, hint: str = "") -> InvalidRequest:
    shown = show(got)
    return InvalidRequest(
        f"{path}: expected {expected}{hint}, got {shown}",
        context={Atom("path"): path, Atom("expected"): expected, Atom("got"): shown},
    )


def unknown_name(path: str, names: Collection[str], got: object, or_else: str = "") -> InvalidRequest:
    """The error for a name that is none of ``names``; it says which one is near. ``or_else`` is what else may be.

    >>> str(unknown_name("payload.module", ["predict", "chain_of_thought"], "ChainOfThought"))
    'payload.module: expected one of predict, chain_of_thought (did you mean chain_of_thought?), got "ChainOfThought"'
    """
    from difflib import get_close_matches

    plain = {name.replace("_", ""): name for name in names}
    near = get_close_matches(str(got).replace("_", "").lower(), plain, n=1, cutoff=0.65)
    hint = f" (did you mean {plain[near[0]]}?)" if near else ""
    return _refused(path, f"one of {', '.join(names)}{or_else}", got, hint)


def unknown_key(path: str, key: object, allowed: list[str]) -> InvalidRequest:
    """The error for a key that is not one of ``allowed``; it names the nearest one."""
    from difflib import get_close_matches  # 15 ms to import, and only needed to refuse

    near = get_close_matches(str(key), allowed, n=1)
    hint = f' (did you mean "{near[0]}"?)' if near else ""
    listed = ", ".join(allowed) if allowed else "none"
    return InvalidRequest(
        f"{path}: unknown key {show(key)}{hint}; the keys are {listed}",
        context={Atom("path"): path, Atom("got"): show(key), Atom("allowed"): allowed},
    )


def show(value: object, limit: int = 80) -> str:
    """A value as an Elixir developer would write it, shortened.

    >>> show("a"), show(Atom("a")), show(None), show({Atom("k"): [1, 2.5]}), show((True,))
    ('"a"', ':a', 'nil', '%{:k => [1, 2.5]}', '{true}')
    >>> show({"api_key": "sk-1"})
    '%{"api_key" => …}'
    """
    text = _show(value, depth=3)
    return text if len(text) <= limit else text[: limit - 1] + "…"


_CONSTANTS = {None: "nil", True: "true", False: "false"}


def _show(value: object, depth: int) -> str:
    if value is None or isinstance(value, bool):
        return _CONSTANTS[value]
    if isinstance(value, str):
        return '"' + value[:200].replace('"', '\\"') + '"'
    if isinstance(value, Atom):
        return f":{value}"
    if isinstance(value, int) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    if not isinstance(value, (list, tuple, dict)):
        return repr(value)
    if depth == 0:
        return "…"
    if isinstance(value, dict):
        pairs = (f"{_show(k, depth - 1)} => {_show_value_of(k, v, depth - 1)}" for k, v in list(value.items())[:8])
        return "%{" + ", ".join(pairs) + "}"
    inner = ", ".join(_show(item, depth - 1) for item in value[:8])
    return f"[{inner}]" if isinstance(value, list) else f"{{{inner}}}"


_SECRETS = ("api_key", "password", "secret", "token")


def _show_value_of(key: object, value: object, depth: int) -> str:
    """The value of a key in a map, unless its name says that it is nobody's business."""
    return "…" if str(key).endswith(_SECRETS) else _show(value, depth)
