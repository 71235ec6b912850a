"""The modules of DSPy that a program may be made of: one table, and trees of its lines as plain data.

Rule of this file: a new module is a function that builds it and a line in :data:`KINDS`; which options it takes, how
they are read and written, the error messages and the documentation come from there. Nothing a client names is
imported.

A client writes a module as its name (``:chain_of_thought``), as a map of its name and its options
(``%{name: :react, max_iters: 5, ...}``), or as the list of a pipeline's steps; see :mod:`.pipelines`.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import dspy

from ...errors import InvalidRequest
from ...refusals import invalid, unknown_key, unknown_name
from ...terms import Atom
from ...vocabulary import named
from . import attempts, client, interpreters, pipelines, selecting, tools
from .field_types import STR, TRAJECTORY, from_annotation
from .media_types import MESSAGES
from .signatures import Field, by_name, read_signature

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .field_types import FieldType
    from .signatures import Signature

MAX_DEPTH = 8  # of modules within modules
_MISSING = object()


@dataclass(frozen=True, slots=True)
class Place:
    """Where an option is read: for which signature, how deep in the tree, and its path in the payload."""

    signature: Signature
    depth: int
    path: str


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a module: what it is for, of which type, how a client's value is read, and how it is written again.

    ``type`` is for clients that check what they are told before they send it: the integers it may be, or a word.
    """

    doc: str
    type: range | str
    read: Callable[[Any, Place], Any]
    default: Any = _MISSING
    wire: Callable[[Any], Any] = lambda value: value

    @property
    def required(self) -> bool:
        return self.default is _MISSING


@dataclass(frozen=True, slots=True)
class Kind:
    """One line of the table.

    ``adds`` are the outputs it gives besides those of its signature, ``uses`` the names it has for fields of its own.
    ``parts`` are the modules in it, by the prefix of their predictors' names.
    """

    name: str
    doc: str
    make: Callable[[Module], Any]
    options: Mapping[str, Option] = field(default_factory=dict)
    adds: Callable[[Module], Mapping[str, FieldType]] = lambda module: {}
    uses: tuple[str, ...] = ()
    parts: Callable[[Module], list[tuple[str, Module]]] | None = None


@dataclass(frozen=True, slots=True)
class Module:
    """A module as data: which one, for which signature, with which options."""

    kind: Kind
    signature: Signature
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def outputs(self) -> tuple[Field, ...]:
        """What it gives: the outputs of the signature, behind those that the module adds."""
        added = (Field(name, self.signature.label(name), kind) for name, kind in self.kind.adds(self).items())
        return (*added, *self.signature.outputs)

    @property
    def wire(self) -> Any:
        """The module as a term that :func:`read` takes: its name, or a map with the options that are set."""
        options = self.kind.options
        given = {name: value for name, value in self.options.items() if value != options[name].default}
        if not given:
            return Atom(self.kind.name)
        return named({"name": Atom(self.kind.name), **{name: options[name].wire(given[name]) for name in given}})

    def build(self) -> Any:
        """A fresh module of DSPy."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of DSPy, for what DSPy does itself
            return self.kind.make(self)

    def leaves(self, prefix: str = "") -> list[tuple[str, Module]]:
        """The modules in it that have predictors of their own, by the prefix of those predictors' names."""
        if self.kind.parts is None:
            return [(prefix, self)]
        before = f"{prefix}." if prefix else ""
        return [leaf for name, part in self.kind.parts(self) for leaf in part.leaves(before + name)]


@dataclass(frozen=True, slots=True)
class Slot:
    """A predictor of a built module: its path in it, its instructions as built, the fields of its demonstrations."""

    name: str
    instructions: str
    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]

    @property
    def fields(self) -> tuple[Field, ...]:
        return self.inputs + self.outputs


def slots(module: Module, built: Any) -> tuple[Slot, ...]:
    """What there is to learn in ``built``, which :meth:`Module.build` made, in the order that it is used."""
    leaves = module.leaves()
    return tuple(_slot(name, predictor, leaves) for name, predictor in built.named_predictors())


def _slot(name: str, predictor: Any, leaves: list[tuple[str, Module]]) -> Slot:
    leaf = max((pair for pair in leaves if name.startswith(pair[0])), key=lambda pair: len(pair[0]))[1]
    signature = predictor.signature
    inputs, outputs = (
        tuple(
            _field(field_name, info.annotation, leaf.signature)
            for field_name, info in group.items()
            if info.annotation != list[dspy.Tool]  # functions, which no program holds
        )
        for group in (signature.input_fields, signature.output_fields)
    )
    return Slot(name, signature.instructions, inputs, outputs)


def _field(name: str, annotation: Any, signature: Signature) -> Field:
    """A field of a predictor: one of the client's, or one that the module has for itself."""
    known = next((one for one in signature.fields if one.name == name), None)
    return known or Field(name, signature.label(name), from_annotation(annotation))


# -- from what a client writes ----------------------------------------------------------------------------------------


def read(value: Any, signature: Signature, path: str, signature_path: str, depth: int = MAX_DEPTH) -> Module:
    """The module that a payload names for ``signature``. Raises :class:`InvalidRequest`."""
    name, given = _name_and_options(value, path)
    kind = KINDS.get(name)
    if kind is None:
        raise unknown_name(path if not given else f"{path}.name", KINDS, name)
    if not depth:
        raise InvalidRequest(f"{path}: modules within modules deeper than {MAX_DEPTH}", context={Atom("path"): path})
    for key, (written, _) in given.items():
        if key not in kind.options:
            raise unknown_key(path, written, ["name", *kind.options])
    options = {}
    for key, option in kind.options.items():
        if key in given:
            options[key] = option.read(given[key][1], Place(signature, depth, f"{path}.{key}"))
        elif option.required:
            raise InvalidRequest(f"{path}: the required key {key} is missing", context={Atom("path"): path})
        else:
            options[key] = option.default
    module = Module(kind, signature, options)
    for own in (*kind.adds(module), *kind.uses):
        if any(one.name == own for one in signature.fields):
            raise InvalidRequest(f"{signature_path}: {name} adds the field {own} itself; give yours another name")
    return module


def _name_and_options(value: Any, path: str) -> tuple[str, dict[str, tuple[Any, Any]]]:
    if isinstance(value, list):
        return pipelines.NAME, {"steps": ("steps", value)}
    if not isinstance(value, dict):
        name, given = value, {}
    else:
        given = by_name(value, path)
        shorthand = next((kind for key, kind in _SHORTHANDS.items() if key in given), None)
        name = given.pop("name", (None, shorthand))[1]
    if not isinstance(name, (Atom, str)):
        raise invalid(path, f"a module: one of {', '.join(KINDS)}, a map with its name, or a list of steps", value)
    return str(name), given


# A map without a name is one of these.
_SHORTHANDS = {"steps": pipelines.NAME, "callback": "callback"}


# -- readers of options -------------------------------------------------------------------------------------------


def _callback(value: Any, place: Place) -> Atom | str:
    return client.read_name(value, place.path)


def _steps(value: Any, place: Place) -> pipelines.Plan:
    def read_part(value: Any, signature: Signature, path: str, signature_path: str) -> Module:
        return read(value, signature, path, signature_path, place.depth - 1)

    return pipelines.read_plan(value, place.signature, place.path, read_part)


def _members(value: Any, place: Place) -> tuple[Module, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= selecting.MAX_MEMBERS:
        raise invalid(place.path, f"a list of 1 to {selecting.MAX_MEMBERS} modules", value)
    return tuple(
        read(item, place.signature, f"{place.path}[{index}]", place.path, place.depth - 1)
        for index, item in enumerate(value)
    )


def _vectorizer(value: Any, place: Place) -> Atom | str | None:
    return selecting.read_vectorizer(value, place.path)


def _tools(*taken: str) -> Option:
    return Option(
        "the functions it may call; see [Tools](#tools)",
        "tools",
        lambda value, place: tools.read_tools(value, place.path, taken),
        wire=lambda read_ones: [tool.wire for tool in read_ones],
    )


def _count(doc: str, default: int | None, most: int = 10_000, least: int = 1) -> Option:
    def read_count(value: Any, place: Place) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise invalid(place.path, f"an integer from {least} to {most}", value)
        return value

    return Option(doc, range(least, most + 1), read_count, default)


def _number(value: Any, place: Place) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise invalid(place.path, "a number", value)
    return float(value)


def _inner(value: Any, place: Place) -> Module:
    return read(value, place.signature, place.path, place.path, place.depth - 1)


def _reward(value: Any, place: Place) -> tuple[str, Atom | str]:
    """What kind of reward, and the name of the function or what the model is to judge by."""
    pairs = by_name(value, place.path)
    if list(pairs) == ["callback"]:
        return "callback", client.read_name(pairs["callback"][1], f"{place.path}.callback")
    if list(pairs) == ["judge"] and isinstance(pairs["judge"][1], str) and pairs["judge"][1]:
        return "judge", pairs["judge"][1]
    raise invalid(place.path, "%{callback: name}, a function of inputs and outputs, or %{judge: text}", value)


# -- builders, and what modules add to the outputs --------------------------------------------------------------------


def _agent(make: Any) -> Callable[[Module], Any]:
    def build(module: Module) -> Any:
        options = module.options
        agent_tools = [tool.build() for tool in options["tools"]]
        agent = make(module.signature.build(), tools=agent_tools, max_iters=options["max_iters"])
        agent.tools = {name: tools.picklable(tool) for name, tool in agent.tools.items()}
        return agent

    return build


def _program_of_thought(module: Module) -> Any:
    return dspy.ProgramOfThought(
        module.signature.build(), **module.options, interpreter_factory=interpreters.factory(module.kind.name)
    )


def _rlm(module: Module) -> Any:
    options = {**module.options, "tools": [tool.build() for tool in module.options["tools"]]}
    return dspy.RLM(module.signature.build(), **options, interpreter_factory=interpreters.factory(module.kind.name))


def _best_of(refine: bool) -> Callable[[Module], Any]:
    def build(module: Module) -> Any:
        options = module.options
        inner: Module = options["module"]
        kind, value = options["reward"]
        reward = _REWARDS[kind](value, inner.signature.inputs, inner.outputs)
        terms = attempts.Terms(reward, options["n"], options["threshold"], options["fail_count"])
        return attempts.BestOf(inner.build(), terms, refine=refine)

    return build


def _chains(module: Module) -> Any:
    return attempts.Chains(module.signature.build(), module.options["n"], module.options["temperature"])


def _adds(**fields: FieldType) -> Callable[[Module], Mapping[str, FieldType]]:
    return lambda module: fields


def _the_inner(module: Module) -> list[tuple[str, Module]]:
    return [("module", module.options["module"])]


def _those_of_the_inner(module: Module) -> Mapping[str, FieldType]:
    inner: Module = module.options["module"]
    return inner.kind.adds(inner)


# -- the table --------------------------------------------------------------------------------------------------------

_MAX_ATTEMPTS = 32
_REWARDS: dict[str, Callable[..., Any]] = {"callback": attempts.Reward, "judge": attempts.Judge}
_BEST_OF = {
    "module": Option("what is tried; any module", "module", _inner, wire=lambda inner: inner.wire),
    "reward": Option(
        "`%{callback: name}`: a function of the inputs and the outputs, two maps, that gives a number or a boolean; or "
        "`%{judge: text}`: the model says how well that is met, from 0.0 to 1.0",
        "reward",
        _reward,
        wire=lambda reward: named({reward[0]: reward[1]}),
    ),
    "n": _count("how many attempts there are at most", 3, _MAX_ATTEMPTS),
    "threshold": Option("the reward that is good enough; without it all attempts are made", "number", _number, None),
    "fail_count": _count(
        "how many attempts may fail before that is an error; all but one unless told", None, _MAX_ATTEMPTS, least=0
    ),
}
_MAX_ITERS = _count("how many turns the model has", 20)

_KINDS = (
    Kind("predict", "asks the model for the outputs", lambda module: dspy.Predict(module.signature.build())),
    Kind(
        "chain_of_thought",
        "lets the model reason before it answers",
        lambda module: dspy.ChainOfThought(module.signature.build()),
        adds=_adds(reasoning=STR),
    ),
    Kind(
        "react",
        "an agent that thinks, calls a tool and looks at the result, until it can answer",
        _agent(dspy.ReAct),
        {"tools": _tools("finish"), "max_iters": _MAX_ITERS},
        adds=_adds(trajectory=TRAJECTORY, reasoning=STR),
        uses=("next_thought", "next_tool_name", "next_tool_args", "max_iters"),
    ),
    Kind(
        "react_v2",
        "its successor: several calls in a turn, and a tool to submit the answer with",
        _agent(dspy.ReActV2),
        {"tools": _tools("submit"), "max_iters": _MAX_ITERS},
        adds=_adds(history=MESSAGES, termination_reason=STR),
        uses=("tools", "next_thought", "tool_calls", "max_iters"),
    ),
    Kind(
        "program_of_thought",
        "lets the model write a Python program, runs it, and answers from what it gave; needs Deno",
        _program_of_thought,
        {"max_iters": _count("how many programs it may write", 3)},
        adds=_adds(reasoning=STR),
        uses=("generated_code", "previous_code", "error", "final_generated_code", "code_output", "interpreter"),
    ),
    Kind(
        "rlm",
        "lets the model look through long inputs with Python code that may ask models in turn; needs Deno",
        _rlm,
        {
            "tools": replace(_tools(), default=()),
            "max_iters": _MAX_ITERS,
            "max_llm_calls": _count("how often its code may ask a model", 50),
            "max_output_chars": _count("how much of what its code prints the model sees", 10_000, 10_000_000),
        },
        adds=_adds(trajectory=TRAJECTORY, final_reasoning=STR),
        uses=("variables_info", "repl_history", "interpreter_factory"),
    ),
    Kind(
        "best_of_n",
        "tries a module several times and gives the best outputs by a reward",
        _best_of(refine=False),
        _BEST_OF,
        adds=_those_of_the_inner,
        parts=_the_inner,
    ),
    Kind(
        "refine",
        "like `best_of_n`, and between two attempts lets the model say what to do better",
        _best_of(refine=True),
        _BEST_OF,
        uses=("hint_",),
        adds=_those_of_the_inner,
        parts=_the_inner,
    ),
    Kind(
        "multi_chain_comparison",
        "lets the model reason several times and then compare what came of it",
        _chains,
        {
            "n": _count("how many times it reasons", 3, _MAX_ATTEMPTS),
            "temperature": Option("the temperature of the model meanwhile", "number", _number, 0.7),
        },
        adds=_adds(rationale=STR),
        uses=("reasoning", *(f"reasoning_attempt_{number}" for number in range(1, _MAX_ATTEMPTS + 1))),
    ),
    Kind(
        pipelines.NAME,
        "steps one after the other, each with a signature and a module of its own",
        lambda module: pipelines.Pipeline(module.options["steps"]),
        {"steps": Option("the steps; see [Pipelines](#pipelines)", "steps", _steps, wire=lambda plan: plan.wire)},
        parts=lambda module: module.options["steps"].parts,
    ),
    Kind(
        "callback",
        "a function of the client: it is called with the inputs as a map and returns the outputs",
        lambda module: pipelines.ClientFunction(module.options["callback"], module.signature),
        {"callback": Option("the name of the function", "callback", _callback)},
    ),
    Kind(
        "nearest",
        "a module whose predictors show only those of their demonstrations that are most like the input",
        lambda module: selecting.Nearest(
            module.options["module"].build(), module.options["k"], module.options["vectorizer"]
        ),
        {
            "module": Option("the module", "module", _inner, wire=lambda inner: inner.wire),
            "k": _count("how many demonstrations are shown", 3, selecting.MAX_NEAREST),
            "vectorizer": Option(
                "what makes vectors of the inputs: `:words`, or `%{callback: name}`, a function from a list of texts "
                "to a list of lists of numbers",
                "vectorizer",
                _vectorizer,
                None,
                selecting.vectorizer_wire,
            ),
        },
        adds=_those_of_the_inner,
        parts=_the_inner,
    ),
    Kind(
        "ensemble",
        "several modules for one task, all asked; the answer is that of the most of them",
        selecting.Ensemble,
        {
            "members": Option(
                "the modules", "modules", _members, wire=lambda members: [member.wire for member in members]
            )
        },
        parts=selecting.parts,
    ),
)
KINDS = {kind.name: kind for kind in _KINDS}


def added(kind: Kind) -> tuple[str, ...] | None:
    """The names of the outputs that a module adds; None for those of the module in it."""
    return None if kind.adds is _those_of_the_inner else tuple(kind.adds(Module(kind, _ANY_SIGNATURE)))


def table() -> str:
    """The table for people, in Markdown: names, what they do, what they add and the options they take."""
    lines = ["| module | what it does | adds | options |", "|---|---|---|---|"]
    for kind in _KINDS:
        names = added(kind)
        adds = "those of its module" if names is None else ", ".join(f"`{name}`" for name in names)
        options = "; ".join(
            f"`{name}`{f' ({default(option)})' if default(option) else ''}: {option.doc}"
            for name, option in kind.options.items()
        )
        lines.append(f"| `:{kind.name}` | {kind.doc} | {adds or '-'} | {options or '-'} |")
    return "\n".join(lines)


def default(option: Option) -> str:
    """What an option is unless told, where that is a number; else nothing."""
    return str(option.default) if isinstance(option.default, (int, float)) else ""


_ANY_SIGNATURE = read_signature("question -> answer", "")
