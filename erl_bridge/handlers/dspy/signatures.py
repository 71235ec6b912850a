"""Signatures: the fields of a task, what a row must have to fit them, and how answers are named.

Rule of this file: DSPy only warns about inputs that are missing, unknown or of the wrong type, so every value is read
here on its way in and written here on its way out, by the type of its field. A field is a ``str`` inside and goes back
under the name that the client wrote, atom or string.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ...errors import InvalidRequest, OptimizationError
from ...refusals import invalid, show
from ...terms import Atom
from ...vocabulary import named
from .field_types import STR, Maybe, Misfit
from .media_types import InputOnly
from .names import TAKEN, checked_name
from .notation import parse_signature
from .type_names import from_wire

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .field_types import FieldType
    from .schema import FieldMap, SignatureMap


@dataclass(frozen=True, slots=True)
class Field:
    """One field: its ``name`` inside, the ``label`` the client gave it, its type, and what the model is told of it."""

    name: str
    label: Atom | str
    type: FieldType = STR
    description: str | None = None

    @property
    def wire(self) -> dict[Any, Any]:
        """The field as a map for a client."""
        return named({"name": self.label, "type": self.type.wire, "description": self.description})


@dataclass(frozen=True, slots=True)
class Signature:
    """A task: from ``inputs`` to ``outputs`` by ``instructions``."""

    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    instructions: str

    @property
    def fields(self) -> tuple[Field, ...]:
        return self.inputs + self.outputs

    @property
    def wire(self) -> dict[Any, Any]:
        """The signature as a map that :func:`from_payload` takes."""
        return named(
            {
                "instructions": self.instructions,
                "input_fields": [field.wire for field in self.inputs],
                "output_fields": [field.wire for field in self.outputs],
            }
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Signature:
        return self  # nothing in it changes

    def label(self, name: str) -> Atom | str:
        """How a name of ours is written beside the client's: as an atom if theirs are and the vocabulary has it."""
        return next(iter(named({name: None}))) if isinstance(self.outputs[0].label, Atom) else name

    def build(self) -> Any:
        """A fresh ``dspy.Signature`` class. Optimizers change the class they are given, so every job has its own."""
        import dspy
        from dspy.signatures.signature import make_signature

        fields = {}
        for role, group in ((dspy.InputField, self.inputs), (dspy.OutputField, self.outputs)):
            for field in group:
                told = {} if field.description is None else {"desc": field.description}
                fields[field.name] = (field.type.annotation, role(**told))
        return make_signature(fields, self.instructions)


# -- from payloads -----------------------------------------------------------------------------------------------


def from_payload(value: str | SignatureMap, path: str = "payload.signature") -> Signature:
    """The signature that a validated payload holds. Raises :class:`InvalidRequest`.

    >>> from_payload("question -> answer").instructions
    'Given the fields `question`, produce the fields `answer`.'
    """
    if isinstance(value, str):
        inputs, outputs = (
            tuple(Field(checked_name(name, path), name, kind) for name, kind in fields)
            for fields in parse_signature(value, path)
        )
        return _whole(Signature(inputs, outputs, ""), path)
    inputs = _read_fields(value.input_fields, f"{path}.input_fields")
    outputs = _read_fields(value.output_fields, f"{path}.output_fields")
    return _whole(Signature(inputs, outputs, inspect.cleandoc(value.instructions or "")), path)


def read_signature(value: Any, path: str) -> Signature:
    """The signature that a term holds which no schema has seen: notation or a map. Raises :class:`InvalidRequest`."""
    if isinstance(value, (str, Atom)):
        return from_payload(str(value), path)
    from ...validation import validate
    from .schema import SignatureMap

    return from_payload(validate(value, SignatureMap, path), path)


def read_field_list(value: Any, path: str, what: str = "field", taken: frozenset[str] = TAKEN) -> tuple[Field, ...]:
    """The fields in a list that no schema has seen. Raises :class:`InvalidRequest`."""
    from ...validation import validate
    from .schema import FieldMap

    if not isinstance(value, (list, tuple)):
        raise invalid(path, "a list of fields", value)
    maps = [validate(field, FieldMap, f"{path}[{index}]") for index, field in enumerate(value)]
    return tuple(_read_field(field, f"{path}[{index}]", what, taken) for index, field in enumerate(maps))


def _read_fields(fields: list[FieldMap], path: str) -> tuple[Field, ...]:
    if not fields:
        raise InvalidRequest(f"{path}: expected at least one field, got none")
    return tuple(_read_field(field, f"{path}[{index}]") for index, field in enumerate(fields))


def _read_field(field: FieldMap, path: str, what: str = "field", taken: frozenset[str] = TAKEN) -> Field:
    if not isinstance(field.name, (Atom, str)):
        raise invalid(f"{path}.name", "an atom or a string", field.name)
    name = checked_name(str(field.name), f"{path}.name", what, taken)
    return Field(name, field.name, from_wire(field.type, f"{path}.type"), field.description)


def _whole(signature: Signature, path: str) -> Signature:
    """The signature with DSPy's own instructions where it has none, once no name is there twice."""
    for field in signature.outputs:
        if isinstance(field.type, InputOnly):
            what = f"the output {field.name} cannot be of the type {field.type.name}"
            raise InvalidRequest(f"{path}: {what}; only an input can", context={Atom("path"): path})
    names: set[str] = set()
    for field in signature.fields:
        if field.name in names:
            raise InvalidRequest(f"{path}: the field {field.name} is there twice")
        names.add(field.name)
    return signature if signature.instructions else replace(signature, instructions=_default_instructions(signature))


def _default_instructions(signature: Signature) -> str:
    inputs, outputs = (
        ", ".join(f"`{field.name}`" for field in group) for group in (signature.inputs, signature.outputs)
    )
    return f"Given the fields {inputs}, produce the fields {outputs}."


# -- values on their way in and out ------------------------------------------------------------------------------


def by_name(row: Any, path: str) -> dict[str, tuple[Any, Any]]:
    """The pairs of a client's row by the text of their keys, each with the key as it was written."""
    if not isinstance(row, dict):
        raise invalid(path, "a map", row)
    pairs: dict[str, tuple[Any, Any]] = {}
    for key, value in row.items():
        if not isinstance(key, (Atom, str)):
            raise invalid(path, "keys that are atoms or strings", key)
        if str(key) in pairs:
            raise InvalidRequest(f"{path}: the key {key} is there twice, as an atom and as a string")
        pairs[str(key)] = (key, value)
    return pairs


def read_fields(fields: Sequence[Field], pairs: Mapping[str, tuple[Any, Any]], path: str) -> dict[str, Any]:
    """The values of ``fields`` in a row, read by their types. A field that may be nil may also be left out.

    Raises :class:`InvalidRequest`: ``payload.inputs.question: expected str, got 5``.
    """
    values = {}
    for field in fields:
        if field.name in pairs:
            values[field.name] = read_value(field, pairs[field.name][1], path)
        elif not isinstance(field.type, Maybe):
            raise InvalidRequest(
                f"{path}: missing field {field.name}",
                context={Atom("path"): path, Atom("expected"): field.name},
            )
        else:
            values[field.name] = None
    return values


def read_value(field: Field, value: Any, path: str) -> Any:
    """A client's value for ``field``. Raises :class:`InvalidRequest`."""
    try:
        return field.type.read(value)
    except Misfit as misfit:
        raise invalid(f"{path}.{field.name}{misfit.path}", misfit.expected, misfit.got) from None


def write_fields(fields: Sequence[Field], values: Mapping[str, Any]) -> dict[Any, Any]:
    """Answers under the client's names, as terms. Raises :class:`OptimizationError` for what Elixir cannot hold."""
    return {field.label: write_value(field, values[field.name]) for field in fields}


def write_value(field: Field, value: Any) -> Any:
    """A value of DSPy's for ``field`` as a term."""
    try:
        return field.type.write(value)
    except Misfit as misfit:
        where = f"{field.name}{misfit.path}"
        raise OptimizationError(
            f"outputs.{where}: expected {misfit.expected}, but the language model answered {show(misfit.got)}",
            context={Atom("path"): where, Atom("expected"): misfit.expected, Atom("got"): show(misfit.got)},
        ) from None
