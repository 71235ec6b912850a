"""Tools of an agent: functions of the client that a language model may call.

Rule of this file: the model only ever reaches the functions that a program names, with arguments that were checked
here. What goes wrong in a call, on either side, is told to the model as what it observes, so it can do better; but a
function that the client does not have, a cancel and a deadline end the run.

A tool is a map::

    %{name: :search, description: "Searches the handbook.", args: [%{name: :query, type: :str}], callback: :search}

``args`` are fields as in a signature; those of an optional type may be left out by the model. ``callback`` is the
name of the client's function, the tool's own unless told. It is called with one map of the arguments, under the names
that the client gave them, and what it returns is shown to the model: text as it is, anything else as JSON.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dspy
from msgspec import Struct
from pydantic import TypeAdapter

from ...errors import BridgeError, InvalidRequest
from ...refusals import invalid, show, unknown_key
from ...terms import Atom
from ...validation import validate
from ...vocabulary import named
from . import client
from .field_types import ANY, Maybe, Misfit
from .names import checked_name
from .notation import parse_fields
from .signatures import Field, read_field_list, read_fields, write_fields

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_TOOLS = 128
_NO_NAMES: frozenset[str] = frozenset()


class ToolMap(Struct, kw_only=True):
    """The keys of a tool."""

    name: Any
    description: str | None = None
    args: Any = ()
    callback: Any = None


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool: what the model is told of it, and the client's function behind it."""

    label: Atom | str
    description: str | None
    args: tuple[Field, ...]
    callback: Atom | str

    @property
    def name(self) -> str:
        return str(self.label)

    @property
    def wire(self) -> dict[Any, Any]:
        """The tool as a term that :func:`read_tools` takes."""
        args = [arg.wire for arg in self.args]
        return named({"name": self.label, "description": self.description, "args": args, "callback": self.callback})

    def build(self) -> Any:
        """The tool as DSPy takes it."""
        return ClientTool(
            func=lambda **given: self.call(given),
            name=self.name,
            desc=self.description or "",
            args={arg.name: _schema(arg) for arg in self.args},
            arg_types={arg.name: Any for arg in self.args},  # read here, and not by DSPy
        )

    def call(self, given: dict[str, Any]) -> Any:
        """What the model observes when it calls the tool with the arguments ``given``."""
        try:
            values = self._arguments(given)
            return _shown(client.ask(self.callback, [write_fields(self.args, values)]), self.callback)
        except BridgeError as error:
            return f"Execution error in {self.name}: {error.message}"

    def _arguments(self, given: dict[str, Any]) -> dict[str, Any]:
        names = [arg.name for arg in self.args]
        for name in given:
            if name not in names:
                raise unknown_key("the arguments", name, names)
        return read_fields(self.args, {name: (name, value) for name, value in given.items()}, "the arguments")


class AgentTool(dspy.Tool):  # type: ignore[misc]
    """A tool of DSPy's that optimizers can pickle: they make hashes of what they saw a program do, in no other way."""

    def __reduce__(self) -> Any:
        return str, (self.name,)


class ClientTool(AgentTool):
    """A function of the client as a tool. Its arguments are read by :class:`Tool`, which says in a line what is wrong.

    DSPy would raise, and its agents show the model the traceback: a page, with paths of this host.
    """

    def _validate_and_parse_args(self, **given: Any) -> dict[str, Any]:
        return given


def picklable(tool: Any) -> AgentTool:
    """A tool of an agent's: one of DSPy's own, which are closures, or one of the client's as it is."""
    return (
        tool
        if isinstance(tool, AgentTool)
        else AgentTool(tool.func, name=tool.name, desc=tool.desc, args=tool.args, arg_types=tool.arg_types)
    )


def _schema(arg: Field) -> dict[str, Any]:
    """What the model is told of an argument: its type as JSON schema, and its description."""
    told = TypeAdapter(arg.type.annotation).json_schema()
    if arg.description:
        told["description"] = arg.description
    if isinstance(arg.type, Maybe):
        told["default"] = None  # by which DSPy knows that it may be left out
    return told


def _shown(answer: Any, callback: Atom | str) -> Any:
    try:
        plain = ANY.read(answer)
        return plain if isinstance(plain, str) else TypeAdapter(Any).dump_python(plain, mode="json")
    except (Misfit, ValueError):
        what = f"the client's function {callback}, called as a tool"
        raise BridgeError(f"{what}: expected text or what JSON can hold, got {show(answer)}") from None


# -- from what a client writes ----------------------------------------------------------------------------------------


def read_tools(value: Any, path: str, taken: Iterable[str]) -> tuple[Tool, ...]:
    """The tools that a payload lists; ``taken`` are names of the agent's own. Raises :class:`InvalidRequest`."""
    if not isinstance(value, list) or len(value) > MAX_TOOLS:
        raise invalid(path, f"a list of at most {MAX_TOOLS} tools", value)
    tools: dict[str, Tool] = {}
    for index, one in enumerate(value):
        tool = _read_tool(one, f"{path}[{index}]", frozenset(taken))
        if tool.name in tools:
            at = f"{path}[{index}].name"
            raise InvalidRequest(f"{at}: there is a tool {tool.name} already", context={Atom("path"): at})
        tools[tool.name] = tool
    return tuple(tools.values())


def _read_tool(value: Any, path: str, taken: frozenset[str]) -> Tool:
    given = validate(value, ToolMap, path)
    if not isinstance(given.name, (Atom, str)):
        raise invalid(f"{path}.name", "an atom or a string", given.name)
    checked_name(str(given.name), f"{path}.name", what="tool", taken=taken)
    callback = given.name if given.callback is None else client.read_name(given.callback, f"{path}.callback")
    return Tool(given.name, given.description, _read_args(given.args, f"{path}.args"), callback)


def _read_args(value: Any, path: str) -> tuple[Field, ...]:
    if isinstance(value, (Atom, str)):
        pairs = parse_fields(str(value), path) if str(value) else []
        args = tuple(Field(checked_name(name, path, "argument", _NO_NAMES), name, kind) for name, kind in pairs)
    else:
        args = read_field_list(value, path, what="argument", taken=_NO_NAMES)
    names = [arg.name for arg in args]
    for name in names:
        if names.count(name) > 1:
            raise InvalidRequest(f"{path}: the argument {name} is there twice", context={Atom("path"): path})
    return args
