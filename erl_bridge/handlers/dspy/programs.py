"""Programs as plain data: what a module of DSPy needs to work again, in a map that any process can load.

Rule of this file: nothing in a program is executed, imported or unpickled. Of DSPy's state only demonstrations and
instructions are taken; a model, a host or a key has no place in a program, and a key that is not in the schema is
refused.

A program (format 1) is::

    %{format: 1, module: :predict, signature: %{instructions: ..., input_fields: [...], output_fields: [...]},
      demos: [%{question: ..., answer: ..., augmented: true}, ...], versions: %{dspy: "3.4.1", erl_bridge: "0.1.0"},
      fingerprint: "sha256:...", score: 0.85 | nil, metric: "exact_match" | %{callback: name} | nil}

``fingerprint`` is over ``format``, ``module``, ``signature`` and ``demos``, with atoms as their text, so a program
that went through JSON still has it. A program whose content does not match its fingerprint is refused; one without is
taken as it is, so whoever edits a program by hand removes it. The format belongs to the bridge, so a program loads
with any version of DSPy that the bridge runs; another ``format`` is refused with both versions named.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import dspy
from msgspec import Struct

from ...errors import InvalidRequest
from ...refusals import invalid, show, unknown_key
from ...terms import Atom
from ...validation import validate
from ...version import VERSION
from ...vocabulary import named
from .schema import Metric, SignatureMap
from .signatures import Field, Signature, by_name, from_payload, read_value, write_value

if TYPE_CHECKING:
    from collections.abc import Callable

    from .schema import Baseline, OptimizeSignature, Predict

FORMAT = 1


class ProgramMap(Struct, kw_only=True):
    """The keys of a program."""

    format: int
    module: str
    signature: SignatureMap
    demos: list[Any]
    versions: Any = None
    fingerprint: str | None = None
    score: float | None = None
    metric: Metric | None = None


@dataclass(frozen=True, slots=True)
class Module:
    """A module of DSPy with one predictor: how it is made from a signature, and the outputs it adds to it."""

    make: Callable[[Any], Any]
    adds: tuple[str, ...] = ()


MODULES = {
    "predict": Module(dspy.Predict),
    "chain_of_thought": Module(dspy.ChainOfThought, adds=("reasoning",)),
}


@dataclass(frozen=True, slots=True)
class Demo:
    """A demonstration: values by field name; ``augmented`` if a model made it, and not a row of the training data."""

    values: dict[str, Any]
    augmented: bool = False


@dataclass(frozen=True, slots=True)
class Program:
    """A module, its signature and its demonstrations."""

    module: str
    signature: Signature
    demos: tuple[Demo, ...] = ()
    outputs: tuple[Field, ...] = field(init=False)  # of the signature, behind those that the module adds

    def __post_init__(self) -> None:
        added = (Field(name, self.signature.label(name)) for name in MODULES[self.module].adds)
        object.__setattr__(self, "outputs", (*added, *self.signature.outputs))

    @property
    def fields(self) -> tuple[Field, ...]:
        """Every field that a demonstration may have."""
        return (*self.signature.inputs, *self.outputs)

    def build(self) -> Any:
        """A fresh module of DSPy that works as the program says."""
        module = MODULES[self.module].make(self.signature.build())
        module.predictors()[0].demos = [_to_example(demo) for demo in self.demos]
        return module

    def after(self, module: Any) -> Program:
        """The program with the instructions and demonstrations that an optimizer left in ``module``."""
        predictor = module.predictors()[0]
        signature = Signature(self.signature.inputs, self.signature.outputs, predictor.signature.instructions)
        return Program(self.module, signature, tuple(self._from_example(demo) for demo in predictor.demos))

    def to_map(self, score: float | None = None, metric: Any = None) -> dict[Any, Any]:
        """The program as a term; ``score`` is what it reached by ``metric``."""
        return named(
            {
                "format": FORMAT,
                "module": Atom(self.module),
                "signature": self.signature.wire,
                "demos": self.demo_maps(),
                "versions": named({"dspy": dspy.__version__, "erl_bridge": VERSION}),
                "fingerprint": self.fingerprint(),
                "score": score,
                "metric": metric,
            }
        )

    def demo_maps(self) -> list[dict[Any, Any]]:
        """The demonstrations as rows under the client's names, those that a model made with ``augmented: true``."""
        return [self._demo_map(demo) for demo in self.demos]

    def fingerprint(self) -> str:
        """``"sha256:..."`` over the content, the same for atoms and for strings."""
        content = [FORMAT, self.module, _text(self.signature.wire), _text(self.demo_maps())]
        data = json.dumps(content, sort_keys=True, ensure_ascii=False, default=repr).encode()
        return f"sha256:{hashlib.sha256(data).hexdigest()}"

    def _demo_map(self, demo: Demo) -> dict[Any, Any]:
        values = {f.label: write_value(f, demo.values[f.name]) for f in self.fields if f.name in demo.values}
        return {**values, **named({"augmented": True})} if demo.augmented else values

    def _from_example(self, example: Any) -> Demo:
        values = {f.name: example[f.name] for f in self.fields if f.name in example}
        return Demo(values, bool(example.get("augmented", False)))


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


def from_payload_of(payload: OptimizeSignature | Baseline | Predict, path: str = "payload") -> Program:
    """The program that a request is about: its ``program``, or its ``signature`` and ``module`` with no demos."""
    if (payload.program is None) == (payload.signature is None):
        raise InvalidRequest(f"{path}: expected either a program or a signature")
    if payload.signature is None:
        if payload.module is not None:
            raise InvalidRequest(f"{path}.module: a program names its module itself; leave it out")
        return from_map(payload.program, f"{path}.program")
    return _program(payload.module or "predict", from_payload(payload.signature, f"{path}.signature"), path)


def from_map(value: Any, path: str) -> Program:
    """The program that a map holds. Raises :class:`InvalidRequest`."""
    fields = {name: item for name, (_, item) in by_name(value, path).items()}
    if fields.get("format", FORMAT) != FORMAT:
        raise _other_format(fields, path)
    given = validate(value, ProgramMap, path)
    bare = _program(given.module, from_payload(given.signature, f"{path}.signature"), path)
    demos = (_read_demo(demo, bare, f"{path}.demos[{index}]") for index, demo in enumerate(given.demos))
    program = Program(bare.module, bare.signature, tuple(demos))
    if given.fingerprint not in (None, program.fingerprint()):
        raise InvalidRequest(
            f"{path}.fingerprint: the program was changed after it was made: its content has the fingerprint "
            f"{program.fingerprint()}, not {show(given.fingerprint)}; remove the key if the change is meant",
            context={Atom("path"): f"{path}.fingerprint", Atom("expected"): program.fingerprint()},
        )
    return program


def _program(module: str, signature: Signature, path: str) -> Program:
    if module not in MODULES:
        raise invalid(f"{path}.module", f"one of {', '.join(MODULES)}", module)
    for name in MODULES[module].adds:
        if any(f.name == name for f in signature.fields):
            raise InvalidRequest(f"{path}.signature: {module} adds the field {name} itself; give yours another name")
    return Program(module, signature)


def _read_demo(value: Any, program: Program, path: str) -> Demo:
    pairs = by_name(value, path)
    augmented = pairs.pop("augmented", (None, False))[1]
    fields = {f.name: f for f in program.fields}
    for name, (key, _) in pairs.items():
        if name not in fields:
            raise unknown_key(path, key, [*fields, "augmented"])
    if not isinstance(augmented, bool):
        raise invalid(f"{path}.augmented", "a boolean", augmented)
    return Demo({name: read_value(fields[name], item, path) for name, (_, item) in pairs.items()}, augmented)


def _other_format(fields: dict[str, Any], path: str) -> InvalidRequest:
    versions = fields.get("versions")
    made_by = {str(name): item for name, item in versions.items()} if isinstance(versions, dict) else {}
    maker = f"erl_bridge {made_by.get('erl_bridge', '?')} with dspy {made_by.get('dspy', '?')}"
    return InvalidRequest(
        f"{path}.format: expected {FORMAT}, which erl_bridge {VERSION} with dspy {dspy.__version__} reads, "
        f"got {show(fields['format'])}, made by {maker}",
        context={Atom("path"): f"{path}.format", Atom("expected"): FORMAT},
    )
