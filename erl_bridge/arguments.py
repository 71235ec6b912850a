"""Command-line options from a table. ``argparse`` does more and takes 20 ms to import, which is all the time there is
before ``:hello``.

Rule of this file: one table says what is parsed, what is refused and what ``--help`` prints.
"""

from __future__ import annotations

from .values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any


class UsageError(Exception):
    """The command line does not fit; the message says where."""


class Option(Value):
    """``--name VALUE``, or a flag without a value when ``convert`` is None. ``convert`` raises ValueError to refuse.

    A name without dashes is an argument by its place, which must be there unless the name is in brackets. An option
    whose default is a list may come more than once: what ``convert`` gives for each, lists too, is put together.
    """

    __slots__ = ("name", "help", "metavar", "convert", "default")
    name: str
    help: str
    metavar: str
    convert: Callable[[str], Any] | None
    default: Any

    def __init__(
        self,
        name: str,
        help: str,
        metavar: str = "",
        convert: Callable[[str], Any] | None = None,
        default: Any = None,
    ) -> None:
        self._set(name=name, help=help, metavar=metavar, convert=convert, default=default)

    @property
    def key(self) -> str:
        """The option's name as an identifier."""
        return self.name.removeprefix("--").strip("[]").replace("-", "_").lower()


def parse(arguments: Sequence[str], options: Sequence[Option]) -> dict[str, Any]:
    """The values of all options by key. Raises :class:`UsageError`.

    >>> parse(["--jobs", "3"], [Option("--jobs", "at once", "N", int, 8), Option("--quiet", "say less")])
    {'jobs': 3, 'quiet': False}
    """
    known = {option.name: option for option in options if option.name.startswith("-")}
    values = {option.key: False if option.convert is None else option.default for option in options}
    rest = list(reversed(arguments))
    places = [option for option in reversed(options) if not option.name.startswith("-")]
    while rest:
        if places and not rest[-1].startswith("-"):
            place = places.pop()
            values[place.key] = _convert(place, rest.pop())
            continue
        name, equals, value = rest.pop().partition("=")
        option = known.get(name)
        if option is None:
            raise UsageError(_unknown(name, list(known)))
        if option.convert is None:
            values[option.key] = True
            continue
        if not equals:
            if not rest:
                raise UsageError(f"{name}: expected {option.metavar} after it")
            value = rest.pop()
        converted = _convert(option, value)
        values[option.key] = values[option.key] + converted if type(option.default) is list else converted
    if places and not places[-1].name.startswith("["):
        raise UsageError(f"{places[-1].name}: expected {places[-1].help}")
    return values


def _convert(option: Option, text: str) -> Any:
    try:
        return text if option.convert is None else option.convert(text)
    except ValueError:
        raise UsageError(f"{option.name}: expected {option.metavar}, got {text!r}") from None


def usage(command: str, what: str, options: Sequence[Option]) -> str:
    """The text that ``--help`` prints."""
    places = "".join(f" {option.name}" for option in options if not option.name.startswith("-"))
    lines = [f"usage: {command}{places} [options]", "", what, ""]
    for option in options:
        head = f"  {option.name} {option.metavar}".rstrip()
        shown = "" if option.default in (None, "", 0) else f" (default {option.default})"
        lines.append(f"{head:24} {option.help}{shown}")
    return "\n".join(lines)


def _unknown(name: str, known: list[str]) -> str:
    from difflib import get_close_matches  # 15 ms to import, and only needed to refuse

    near = get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"there is no option {name}{hint} (the options are {', '.join(known)})"
