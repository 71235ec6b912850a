"""Programs as plain data: what a module of DSPy needs to work again, in a map that any process can load.

Rule of this file: nothing in a program is executed, imported or unpickled. Of DSPy's state only demonstrations and
instructions are taken; a model, a host or a key has no place in a program, and a key that is not in the schema is
refused.

A program (format 2) is::

    %{format: 2, module: :predict, signature: %{instructions: ..., input_fields: [...], output_fields: [...]},
      predictors: [%{name: "self", instructions: nil, demos: [%{question: ..., answer: ..., augmented: true}, ...]}],
      versions: %{dspy: "3.4.1", erl_bridge: "0.1.0"}, fingerprint: "sha256:...",
      score: 0.85 | nil, metric: "exact_match" | %{callback: name} | nil, scored_on: %{rows: 25, lm: "..."} | nil}

``module`` and ``signature`` are the task as the client gave it, ``module`` as :mod:`.modules` writes it; ``predictors``
is what was learned, for each predictor of DSPy in the module under its path there. ``instructions`` are nil where
they are those that the module makes of the signature.

``fingerprint`` is over ``format``, ``module``, ``signature`` and ``predictors``, with atoms as their text, so a
program that went through JSON still has it. A program whose content does not match its fingerprint is refused; one
without is taken as it is, so whoever edits a program by hand removes it. The format belongs to the bridge, so a
program loads with any version of DSPy whose module has the same predictors; another ``format``, or other predictors,
are refused with both versions named.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import dspy
from msgspec import Struct

from ... import etf
from ...errors import InvalidRequest
from ...refusals import invalid, show, unknown_key
from ...terms import Atom
from ...validation import validate
from ...version import VERSION
from ...vocabulary import named
from . import modules
from .schema import Metric, SignatureMap
from .signatures import by_name, from_payload, read_value, write_value

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .modules import Module, Slot
    from .schema import OfProgram
    from .signatures import Field, Signature

FORMAT = 2
_KEPT = 64  # programs that a process holds ready
_LARGEST_KEPT = 1 << 20  # bytes of one of them


class PredictorMap(Struct, kw_only=True):
    """What one predictor learned."""

    name: str
    demos: list[Any]
    instructions: str | None = None


class ProgramMap(Struct, kw_only=True):
    """The keys of a program."""

    format: int
    module: Any
    signature: SignatureMap
    predictors: list[PredictorMap]
    versions: Any = None
    fingerprint: str | None = None
    score: float | None = None
    metric: Metric | None = None
    scored_on: Any = None


@dataclass(frozen=True, slots=True)
class Demo:
    """A demonstration: values by field name; ``augmented`` if a model made it, and not a row of the training data."""

    values: dict[str, Any]
    augmented: bool = False


@dataclass(frozen=True, slots=True)
class Predictor:
    """What a predictor of DSPy has learned: demonstrations, and instructions where they are not those it began with."""

    slot: Slot
    instructions: str | None = None
    demos: tuple[Demo, ...] = ()

    @property
    def wire(self) -> dict[Any, Any]:
        """The predictor as a term."""
        return named({"name": self.slot.name, "instructions": self.instructions, "demos": self.demo_maps()})

    def demo_maps(self) -> list[dict[Any, Any]]:
        """The demonstrations as rows under the client's names, those that a model made with ``augmented: true``."""
        return [self._demo_map(demo) for demo in self.demos]

    def put_into(self, predictor: Any) -> None:
        """Let a predictor of DSPy work as this one."""
        predictor.demos = [_to_example(demo) for demo in self.demos]
        if self.instructions is not None:
            predictor.signature = predictor.signature.with_instructions(self.instructions)

    def after(self, predictor: Any) -> Predictor:
        """What a predictor of DSPy has learned meanwhile."""
        told = predictor.signature.instructions
        demos = (self._from_example(example) for example in predictor.demos)
        shown = tuple(demo for demo in demos if demo is not None)
        return Predictor(self.slot, None if told == self.slot.instructions else told, shown)

    def _demo_map(self, demo: Demo) -> dict[Any, Any]:
        values = {f.label: write_value(f, demo.values[f.name]) for f in self.slot.fields if f.name in demo.values}
        return {**values, **named({"augmented": True})} if demo.augmented else values

    def _from_example(self, example: Any) -> Demo | None:
        """None for what is no demonstration to DSPy: it shows those that have an input and an output."""
        if not all(any(f.name in example for f in group) for group in (self.slot.inputs, self.slot.outputs)):
            return None
        values = {f.name: example[f.name] for f in self.slot.fields if f.name in example}
        return Demo(values, bool(example.get("augmented", False)))


@dataclass(frozen=True, slots=True)
class Program:
    """A module, and what its predictors have learned."""

    module: Module
    predictors: tuple[Predictor, ...]
    _ready: list[Any] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def signature(self) -> Signature:
        """The whole task: what goes in, and what is asked for."""
        return self.module.signature

    @property
    def outputs(self) -> tuple[Field, ...]:
        """What comes out: the outputs of the signature, behind those that the module adds."""
        return self.module.outputs

    @property
    def fields(self) -> tuple[Field, ...]:
        """Every field that a predictor in it, or the whole, takes or gives; of several with one name the first."""
        found = {one.name: one for predictor in reversed(self.predictors) for one in reversed(predictor.slot.fields)}
        return tuple({**found, **{one.name: one for one in (*self.outputs, *self.signature.inputs)}}.values())

    def build(self) -> Any:
        """A fresh module of DSPy that works as the program says."""
        built = self.module.build()
        by_path = dict(built.named_predictors())
        for predictor in self.predictors:
            predictor.put_into(by_path[predictor.slot.name])
        return built

    def ready(self) -> Any:
        """The module of DSPy to predict with, built once. Whoever changes one takes his own from :meth:`build`."""
        if not self._ready:
            self._ready.append(self.build())
        return self._ready[0]

    def after(self, built: Any) -> Program:
        """The program with the instructions and demonstrations that an optimizer left in ``built``."""
        by_path = dict(built.named_predictors())
        return Program(self.module, tuple(one.after(by_path[one.slot.name]) for one in self.predictors))

    def to_map(self, score: float | None = None, metric: Any = None, scored_on: Any = None) -> dict[Any, Any]:
        """The program as a term; ``score`` is what it reached by ``metric`` on the rows and with the model of
        ``scored_on``."""
        return named(
            {
                "format": FORMAT,
                "module": self.module.wire,
                "signature": self.signature.wire,
                "predictors": [predictor.wire for predictor in self.predictors],
                "versions": named({"dspy": dspy.__version__, "erl_bridge": VERSION}),
                "fingerprint": self.fingerprint(),
                "score": score,
                "metric": metric,
                "scored_on": scored_on,
            }
        )

    def optimized_signature(self) -> dict[Any, Any]:
        """The same for people to read: the signature with what was learned for it.

        ``instructions`` and ``demos`` are those of the predictor where there is one; ``predictors`` has all.
        """
        only = self.predictors[0] if len(self.predictors) == 1 else None
        learned: dict[str, Any] = {
            "demos": only.demo_maps() if only else [],
            "predictors": [predictor.wire for predictor in self.predictors],
        }
        if only is not None and only.instructions is not None:
            learned["instructions"] = only.instructions
        return {**self.signature.wire, **named(learned)}

    def fingerprint(self) -> str:
        """``"sha256:..."`` over the content, the same for atoms and for strings."""
        learned = [predictor.wire for predictor in self.predictors]
        content = [FORMAT, _text(self.module.wire), _text(self.signature.wire), _text(learned)]
        data = json.dumps(content, sort_keys=True, ensure_ascii=False, default=repr).encode()
        return f"sha256:{hashlib.sha256(data).hexdigest()}"


def new(module: Module, path: str = "module") -> Program:
    """A program that has learned nothing yet. Raises :class:`InvalidRequest` or :class:`MissingPackage`."""
    try:
        built = module.build()
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"{path}: DSPy cannot build this module: {error}", context={Atom("path"): path}) from None
    return Program(module, tuple(Predictor(slot) for slot in modules.slots(module, built)))


def compose(module: Module, parts: Mapping[str, Program]) -> Program:
    """A program of a module whose parts, by the prefix of their predictors' names, have learned what these have."""
    learned = {
        prefix if one.slot.name == "self" else f"{prefix}.{one.slot.name}": one
        for prefix, part in parts.items()
        for one in part.predictors
    }
    slots = modules.slots(module, module.build())
    return Program(module, tuple(replace(learned[slot.name], slot=slot) for slot in slots))


def _to_example(demo: Demo) -> Any:
    return dspy.Example({**demo.values, "augmented": True} if demo.augmented else dict(demo.values))


def _text(value: Any) -> Any:
    """A term with atoms as their text and tuples as lists: what is left of it after JSON."""
    if isinstance(value, Atom):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_text(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _text(item) for key, item in value.items()}
    return value


# -- from payloads -----------------------------------------------------------------------------------------------


def from_payload_of(payload: OfProgram, path: str = "payload") -> Program:
    """The program that a request is about: its ``program``, or its ``signature`` and ``module`` with nothing learned.

    A process that gets the same program again does not read and build it again.
    """
    if (payload.program is None) == (payload.signature is None):
        raise InvalidRequest(f"{path}: expected either a program or a signature")
    for name in ("module", "tools"):
        if payload.signature is None and getattr(payload, name) is not None:
            raise InvalidRequest(f"{path}.{name}: the program has its own {name}; leave it out")
    key = etf.encode([payload.program, payload.signature, payload.module, payload.tools])
    program = _kept.get(key)
    if program is None:
        program = _read(payload, path)
        if len(key) <= _LARGEST_KEPT:
            _kept[key] = program
            if len(_kept) > _KEPT:
                _kept.popitem(last=False)
    else:
        _kept.move_to_end(key)
    return program


_kept: OrderedDict[bytes, Program] = OrderedDict()


def _read(payload: OfProgram, path: str) -> Program:
    if payload.signature is None:
        return from_map(payload.program, f"{path}.program")
    signature = from_payload(payload.signature, f"{path}.signature")
    module = Atom("predict") if payload.module is None else payload.module
    if payload.tools is not None:
        named_one = by_name(module, f"{path}.module") if isinstance(module, dict) else {"name": (None, module)}
        module = {**{name: value for name, (_, value) in named_one.items()}, "tools": payload.tools}
    return new(modules.read(module, signature, f"{path}.module", f"{path}.signature"), f"{path}.module")


def from_map(value: Any, path: str) -> Program:
    """The program that a map holds. Raises :class:`InvalidRequest`."""
    fields = {name: item for name, (_, item) in by_name(value, path).items()}
    if fields.get("format", FORMAT) != FORMAT:
        raise InvalidRequest(
            f"{path}.format: expected {FORMAT}, which {_us()} reads, got {show(fields['format'])}, "
            f"made by {_maker(fields.get('versions'))}",
            context={Atom("path"): f"{path}.format", Atom("expected"): FORMAT},
        )
    given = validate(value, ProgramMap, path)
    signature = from_payload(given.signature, f"{path}.signature")
    module = modules.read(given.module, signature, f"{path}.module", f"{path}.signature")
    bare = new(module, f"{path}.module")
    program = Program(bare.module, _read_predictors(given, bare, f"{path}.predictors"))
    if given.fingerprint not in (None, program.fingerprint()):
        raise InvalidRequest(
            f"{path}.fingerprint: the program was changed after it was made: its content has the fingerprint "
            f"{program.fingerprint()}, not {show(given.fingerprint)}; remove the key if the change is meant",
            context={Atom("path"): f"{path}.fingerprint", Atom("expected"): program.fingerprint()},
        )
    return program


def _read_predictors(given: ProgramMap, bare: Program, path: str) -> tuple[Predictor, ...]:
    by_path = {one.name: (index, one) for index, one in enumerate(given.predictors)}
    expected, got = [one.slot.name for one in bare.predictors], [one.name for one in given.predictors]
    if sorted(expected) != sorted(got):
        raise InvalidRequest(
            f"{path}: the module {show(bare.module.kind.name)} of {_us()} has the predictors {_listed(expected)}, but "
            f"the program, made by {_maker(given.versions)}, has {_listed(got)}",
            context={Atom("path"): path, Atom("expected"): expected, Atom("got"): got},
        )
    return tuple(_read_predictor(one.slot, *by_path[one.slot.name], path) for one in bare.predictors)


def _read_predictor(slot: Slot, index: int, given: PredictorMap, path: str) -> Predictor:
    at = f"{path}[{index}].demos"
    demos = tuple(_read_demo(demo, slot, f"{at}[{number}]") for number, demo in enumerate(given.demos))
    return Predictor(slot, None if given.instructions == slot.instructions else given.instructions, demos)


def _read_demo(value: Any, slot: Slot, path: str) -> Demo:
    pairs = by_name(value, path)
    augmented = pairs.pop("augmented", (None, False))[1]
    fields = {f.name: f for f in slot.fields}
    for name, (key, _) in pairs.items():
        if name not in fields:
            raise unknown_key(path, key, [*fields, "augmented"])
    if not isinstance(augmented, bool):
        raise invalid(f"{path}.augmented", "a boolean", augmented)
    return Demo({name: read_value(fields[name], item, path) for name, (_, item) in pairs.items()}, augmented)


def _us() -> str:
    return f"erl_bridge {VERSION} with dspy {dspy.__version__}"


def _maker(versions: Any) -> str:
    made_by = {str(name): item for name, item in versions.items()} if isinstance(versions, dict) else {}
    return f"erl_bridge {made_by.get('erl_bridge', '?')} with dspy {made_by.get('dspy', '?')}"


def _listed(names: list[str]) -> str:
    return ", ".join(names) if names else "none"
