"""Rows of data: a client's list of maps, or one of its datasets, read by the fields of a signature.

Rule of this file: a row that does not fit is refused with its number before any model is asked anything. Columns that
are no field of the signature are no inputs; they are kept as they came, for metrics that want them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import InvalidRequest
from ...refusals import unknown_key
from ...terms import Atom
from .signatures import by_name, read_fields, write_fields

if TYPE_CHECKING:
    from ...context import Context
    from .signatures import Field, Signature

_EXTRA = "dspy_extra"  # names with this prefix are no fields to DSPy


@dataclass(frozen=True, slots=True)
class Row:
    """One row: the values of the signature's fields, and the other columns under the keys they came with."""

    values: dict[str, Any]
    extra: dict[Any, Any]

    def example(self, signature: Signature) -> Any:
        """The row as a ``dspy.Example``."""
        import dspy

        extra = {_EXTRA: self.extra} if self.extra else {}
        return dspy.Example({**self.values, **extra}).with_inputs(*(field.name for field in signature.inputs))


def example_map(signature: Signature, example: Any) -> dict[Any, Any]:
    """A ``dspy.Example`` made by :meth:`Row.example` as the map that a client's metric is given."""
    return {**example.get(_EXTRA, {}), **write_fields(signature.fields, example)}


def read_rows(value: Any, signature: Signature, path: str, context: Context) -> list[Row]:
    """The rows of a list of maps or of a dataset, each with all fields of the signature.

    A field whose type allows nil may be missing. Raises :class:`InvalidRequest`, and :class:`TransferError` for a
    dataset whose file is damaged.
    """
    rows = context.rows(value, path)
    if not rows:
        raise InvalidRequest(f"{path}: expected at least one row, got none", context={Atom("path"): path})
    return [_read_row(row, signature, f"{path}[{index}]") for index, row in enumerate(rows)]


def _read_row(row: Any, signature: Signature, path: str) -> Row:
    pairs = by_name(row, path)
    values = read_fields(signature.fields, pairs, path)
    return Row(values, {key: value for name, (key, value) in pairs.items() if name not in values})


def read_inputs(value: Any, fields: tuple[Field, ...], path: str) -> dict[str, Any]:
    """The inputs of one prediction. Raises :class:`InvalidRequest`; here a key that is no field is an error."""
    pairs = by_name(value, path)
    names = [field.name for field in fields]
    for name, (key, _) in pairs.items():
        if name not in names:
            raise unknown_key(path, key, names)
    return read_fields(fields, pairs, path)
