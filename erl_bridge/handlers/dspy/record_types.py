"""Maps with known fields, each of a type of its own: ``{:map, [%{name: :title, type: :str}, ...]}``.

Rule of this file: DSPy is given a pydantic model for them, made here and named after its fields; a client never sees
one, and gives and gets maps under the names that it wrote.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ...terms import Atom
from ...vocabulary import named
from .field_types import Maybe, Misfit, at_step

if TYPE_CHECKING:
    from .field_types import FieldType


@dataclass(frozen=True, slots=True)
class Part:
    """A field of a record: its name inside, the client's name for it, its type, and what the model is told of it."""

    name: str
    label: Atom | str
    type: FieldType
    description: str | None = None

    @property
    def wire(self) -> dict[Any, Any]:
        told = {} if self.description is None else {"description": self.description}
        return named({"name": self.label, "type": self.type.wire, **told})


@dataclass(frozen=True, slots=True)
class RecordOf:
    """A map with these fields and no others. Those of an optional type may be left out."""

    parts: tuple[Part, ...]

    def __str__(self) -> str:
        return f"{{{', '.join(f'{part.name}: {part.type}' for part in self.parts)}}}"

    @property
    def annotation(self) -> Any:
        return _model(self)

    @property
    def wire(self) -> Any:
        return Atom("map"), [part.wire for part in self.parts]

    @property
    def expected(self) -> str:
        return f"a map with {', '.join(part.name for part in self.parts)}"

    def read(self, value: Any) -> Any:
        """A client's map, or one that a model wrote, as a ``dict`` in the order of the fields."""
        if not isinstance(value, dict):
            raise Misfit(self.expected, value)
        given = {str(key): item for key, item in value.items()}
        names = [part.name for part in self.parts]
        for key in given:
            if key not in names:
                raise Misfit(f"{self.expected} and nothing else", value)
        return {part.name: self._read_part(part, given, value) for part in self.parts}

    def write(self, value: Any) -> Any:
        """What DSPy has for it, the model or a ``dict``, as a map under the client's names."""
        fields = value if isinstance(value, dict) else getattr(value, "__dict__", None)
        if fields is None:
            raise Misfit(self.expected, value)
        return {
            part.label: at_step(f".{part.name}", part.type.write, self._of(part, fields, value)) for part in self.parts
        }

    def _read_part(self, part: Part, given: dict[str, Any], value: Any) -> Any:
        return at_step(f".{part.name}", part.type.read, self._of(part, given, value))

    def _of(self, part: Part, fields: dict[str, Any], value: Any) -> Any:
        if part.name not in fields and not isinstance(part.type, Maybe):
            raise Misfit(self.expected, value)
        return fields.get(part.name)


@lru_cache(maxsize=512)
def _model(record: RecordOf) -> Any:
    from pydantic import BaseModel, ConfigDict, Field, create_model

    class Record(BaseModel):
        model_config = ConfigDict(extra="forbid", protected_namespaces=())

        def __reduce__(self) -> Any:  # optimizers make hashes of what they saw by pickling it
            return dict, (dict(self),)

    fields: dict[str, Any] = {
        part.name: (
            part.type.annotation,
            Field(default=None if isinstance(part.type, Maybe) else ..., description=part.description),
        )
        for part in record.parts
    }
    name = "".join(part.name.title().replace("_", "") for part in record.parts)[:60]
    return create_model(name, __base__=Record, **fields)
