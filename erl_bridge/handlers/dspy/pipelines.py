"""Pipelines: programs of several steps, as data. What a step gives, later steps may take.

Rule of this file: all is known before anything runs. Every input of a step has one source, of a type that fits, and
the source comes before it; every output of the whole is given by a step.

A step is a map::

    %{name: :answer, signature: "question, context: list[str] -> answer", module: :chain_of_thought,
      inputs: %{context: "search.passages"}}

``module`` is any module (``:predict`` unless told), or in its place ``callback`` is a function of the client: a
retriever, for example. An input takes the value that has its name: the last step before that gives it, else the
program's own input. ``inputs`` names another source: ``"passages"``, or ``"search.passages"`` for that of one step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dspy

from ...errors import CallbackError, InvalidRequest
from ...refusals import invalid, show, unknown_key
from ...terms import Atom
from ...vocabulary import named
from . import client
from .field_types import Misfit, fits
from .names import checked_name
from .signatures import by_name, read_signature, write_fields

if TYPE_CHECKING:
    from collections.abc import Callable

    from .field_types import FieldType
    from .modules import Module
    from .signatures import Field, Signature

    Source = tuple[str, str]  # the name of a step, or "" for the inputs of the whole, and that of a field
    Known = dict[Source, FieldType]  # what there is when a step begins
    ReadModule = Callable[[Any, Signature, str, str], Module]

NAME = "pipeline"
MAX_STEPS = 64
_STEP_KEYS = ["name", "signature", "module", "callback", "inputs"]
_TAKEN = frozenset((*dir(dspy.Module()), "forward", "aforward"))  # attributes of modules of DSPy: no names for steps


@dataclass(frozen=True, slots=True)
class Step:
    """A step: its module, where each of its inputs comes from, and what of that the client said."""

    label: Atom | str
    module: Module
    sources: dict[str, Source]
    inputs: dict[Any, Any]

    @property
    def name(self) -> str:
        return str(self.label)

    @property
    def wire(self) -> dict[Any, Any]:
        module = self.module.wire
        inputs = {"inputs": self.inputs} if self.inputs else {}
        return named({"name": self.label, "signature": self.module.signature.wire, "module": module, **inputs})


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of a pipeline, and the source of each of its outputs."""

    steps: tuple[Step, ...]
    outputs: dict[str, Source]

    @property
    def wire(self) -> list[dict[Any, Any]]:
        return [step.wire for step in self.steps]

    @property
    def parts(self) -> list[tuple[str, Module]]:
        """The modules of the steps, by the prefix of their predictors' names."""
        return [(step.name, step.module) for step in self.steps]

    def __deepcopy__(self, memo: dict[int, Any]) -> Plan:
        return self  # nothing in it changes, and optimizers copy programs hundreds of times


# -- from what a client writes ----------------------------------------------------------------------------------------


def read_plan(value: Any, signature: Signature, path: str, read_module: ReadModule) -> Plan:
    """The steps that lead from the inputs of ``signature`` to its outputs. Raises :class:`InvalidRequest`."""
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_STEPS:
        raise invalid(path, f"a list of 1 to {MAX_STEPS} steps", value)
    maps = [by_name(step, f"{path}[{index}]") for index, step in enumerate(value)]
    names = [_read_name(pairs, f"{path}[{index}]") for index, pairs in enumerate(maps)]
    known: Known = {("", field.name): field.type for field in signature.inputs}
    steps: list[Step] = []
    for index, pairs in enumerate(maps):
        at = f"{path}[{index}]"
        if str(names[index]) in (step.name for step in steps):
            raise InvalidRequest(f"{at}.name: there is a step {names[index]} already", context={Atom("path"): at})
        steps.append(_read_step(names[index], pairs, known, [str(name) for name in names[index:]], at, read_module))
        known |= {(str(names[index]), field.name): field.type for field in steps[-1].module.outputs}
    outputs = {field.name: _output(field, known, path) for field in signature.outputs}
    return Plan(tuple(steps), outputs)


def _read_name(pairs: dict[str, tuple[Any, Any]], path: str) -> Atom | str:
    for name, (key, _) in pairs.items():
        if name not in _STEP_KEYS:
            raise unknown_key(path, key, _STEP_KEYS)
    for needed in ("name", "signature"):
        if needed not in pairs:
            raise InvalidRequest(f"{path}: the required key {needed} is missing", context={Atom("path"): path})
    label = pairs["name"][1]
    if not isinstance(label, (Atom, str)):
        raise invalid(f"{path}.name", "an atom or a string", label)
    checked_name(str(label), f"{path}.name", what="step", taken=_TAKEN)
    return label


def _read_step(
    label: Atom | str,
    pairs: dict[str, tuple[Any, Any]],
    known: Known,
    not_yet: list[str],
    path: str,
    read_module: ReadModule,
) -> Step:
    signature = read_signature(pairs["signature"][1], f"{path}.signature")
    if "module" in pairs and "callback" in pairs:
        raise InvalidRequest(f"{path}: expected either a module or a callback", context={Atom("path"): path})
    module = pairs.get("module", (None, Atom("predict")))[1]
    if "callback" in pairs:
        module = {"callback": pairs["callback"][1]}
    inputs = by_name(pairs["inputs"][1], f"{path}.inputs") if "inputs" in pairs else {}
    for name, (key, _) in inputs.items():
        if name not in (field.name for field in signature.inputs):
            raise unknown_key(f"{path}.inputs", key, [field.name for field in signature.inputs])
    sources = {}
    for field in signature.inputs:
        if field.name in inputs:
            sources[field.name] = _mapped(inputs[field.name][1], field, known, not_yet, f"{path}.inputs.{field.name}")
        else:
            sources[field.name] = _by_its_name(field, known, path)
    given = dict(inputs.values())
    return Step(label, read_module(module, signature, f"{path}.module", f"{path}.signature"), sources, given)


def _mapped(value: Any, field: Field, known: Known, not_yet: list[str], path: str) -> Source:
    """The source that a client named: ``"passages"``, ``"search.passages"`` or ``{:search, :passages}``."""
    parts = str(value).split(".") if isinstance(value, (Atom, str)) else value
    if not isinstance(parts, (list, tuple)) or not all(isinstance(part, (Atom, str)) for part in parts):
        raise invalid(path, f"the name of a value ({_names(known)})", value)
    source = _latest(str(parts[0]), known) if len(parts) == 1 else None
    if len(parts) == 2:
        step, name = (str(part) for part in parts)
        if step in not_yet:
            raise InvalidRequest(
                f"{path}: the step {step} does not come before this one, so it has no outputs yet; "
                "what steps take from each other must not go in a circle",
                context={Atom("path"): path, Atom("got"): show(value)},
            )
        source = (step, name) if (step, name) in known else None
    if source is None:
        raise invalid(path, f"the name of a value there is by then ({_names(known)})", value)
    return _fitting(source, field, known, path)


def _by_its_name(field: Field, known: Known, path: str) -> Source:
    source = _latest(field.name, known)
    if source is None:
        raise InvalidRequest(
            f"{path}: nothing gives the input {field.name}: expected a value of that name, or another one under "
            f"inputs.{field.name} ({_names(known)})",
            context={Atom("path"): path, Atom("expected"): field.name},
        )
    return _fitting(source, field, known, f"{path}.inputs.{field.name}")


def _output(field: Field, known: Known, path: str) -> Source:
    source = _latest(field.name, known)
    if source is None or not source[0]:
        raise InvalidRequest(
            f"{path}: no step gives the output {field.name}", context={Atom("path"): path, Atom("expected"): field.name}
        )
    return _fitting(source, field, known, path)


def _latest(name: str, known: Known) -> Source | None:
    return next((source for source in reversed(known) if source[1] == name), None)


def _fitting(source: Source, field: Field, known: Known, path: str) -> Source:
    if not fits(known[source], field.type):
        giver = f"the step {source[0]} gives {source[1]}" if source[0] else f"the input {source[1]} is"
        raise InvalidRequest(
            f"{path}: expected {field.type} for {field.name}, but {giver}: {known[source]}",
            context={Atom("path"): path, Atom("expected"): str(field.type), Atom("got"): str(known[source])},
        )
    return source


def _names(known: Known) -> str:
    return ", ".join(f"{step}.{name}" if step else name for step, name in known)


# -- at work ----------------------------------------------------------------------------------------------------------


class Pipeline(dspy.Module):  # type: ignore[misc]
    """A pipeline as a module of DSPy: each step's module is an attribute under the step's name."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self._plan = plan
        for step in plan.steps:
            setattr(self, step.name, step.module.build())

    def forward(self, **inputs: Any) -> Any:
        """Run the steps one after the other."""
        values: dict[Source, Any] = {("", name): value for name, value in inputs.items()}
        for step in self._plan.steps:
            prediction = getattr(self, step.name)(**{name: values[source] for name, source in step.sources.items()})
            values |= {(step.name, field.name): prediction[field.name] for field in step.module.outputs}
        return dspy.Prediction(**{name: values[source] for name, source in self._plan.outputs.items()})


class ClientFunction(dspy.Module):  # type: ignore[misc]
    """A function of the client as a module of DSPy: one map of inputs to it, a map of outputs back.

    Of a signature with one output it may also return the value itself.
    """

    def __init__(self, name: Atom | str, signature: Signature) -> None:
        super().__init__()
        self._function = (name, signature)

    def forward(self, **inputs: Any) -> Any:
        """Ask the client. Raises :class:`CallbackError` when the function fails or returns something else."""
        name, signature = self._function
        answer = client.ask(name, [write_fields(signature.inputs, inputs)])
        return dspy.Prediction(**self._read(answer, name, signature.outputs))

    def _read(self, answer: Any, name: Atom | str, fields: tuple[Field, ...]) -> dict[str, Any]:
        names = {field.name for field in fields}
        if not isinstance(answer, dict) or {str(key) for key in answer} != names:
            if len(fields) > 1:
                raise self._unfit(name, "", f"a map of {', '.join(sorted(names))}", answer)
            answer = {fields[0].name: answer}
        given = {str(key): value for key, value in answer.items()}
        return {field.name: self._value(field, given[field.name], name) for field in fields}

    def _value(self, field: Field, value: Any, name: Atom | str) -> Any:
        try:
            return field.type.read(value)
        except Misfit as misfit:
            raise self._unfit(name, f" for {field.name}{misfit.path}", misfit.expected, misfit.got) from None

    def _unfit(self, name: Atom | str, where: str, expected: str, got: Any) -> CallbackError:
        return CallbackError(f"the client's function {name}: expected {expected}{where}, got {show(got)}")
