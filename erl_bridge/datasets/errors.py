"""What can be wrong with a transfer, in the two kinds there are: a chunk is refused, or the transfer is lost.

Rule of this file: every error says in ``context.dropped`` whether the transfer is gone.
"""

from __future__ import annotations

from ..errors import BridgeError, InvalidRequest, ResourceExhausted, TransferError
from ..refusals import show
from ..terms import Atom

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DROPPED = Atom("dropped")
_ID = Atom("dataset_id")


def refused(message: str, **context: Any) -> TransferError:
    """The request is refused and the transfer is as it was."""
    return TransferError(message, context=_atoms(context, dropped=False))


def broken(message: str, **context: Any) -> TransferError:
    """The transfer cannot be mended; sending all of it again may help."""
    return TransferError(message, context=_atoms(context, dropped=True))


def exceeded(what: str, limit: int, option: str) -> TransferError:
    """The transfer is over a ceiling; sending it again does not help."""
    raised = f"; raise --{option.replace('_', '-')}" if option else ""
    return TransferError(
        f"{what} is over the limit of {limit}{raised}",
        context=_atoms({"limit": limit}, dropped=True),
        recovery_strategy="fatal",
    )


def no_row(number: int, got: object) -> InvalidRequest:
    """Row ``number``, counted from 0, is no map."""
    path, expected, shown = f"rows[{number}]", "a map", show(got)
    return InvalidRequest(
        f"{path}: expected {expected}, got {shown}",
        context=_atoms({"path": path, "expected": expected, "got": shown, "row": number}, dropped=True),
    )


def no_room(message: str) -> ResourceExhausted:
    """Neither a retry nor another process makes room."""
    return ResourceExhausted(message, context=_atoms({}, dropped=True), recovery_strategy="fatal")


def unknown(dataset_id: object, path: str) -> InvalidRequest:
    """There is no such dataset."""
    return InvalidRequest(
        f"{path}: there is no dataset with the id {show(dataset_id)} on this host; send it first",
        context=_atoms({"path": path, "dataset_id": dataset_id}),
    )


def damaged(dataset_id: str, path: str, what: str) -> TransferError:
    """The file of a dataset in the store is not as it was written."""
    return TransferError(
        f"{path}: the file of the dataset {dataset_id} is damaged ({what}) and was set aside; send the rows again",
        context=_atoms({"path": path, "dataset_id": dataset_id}),
    )


def is_lost(error: BridgeError) -> bool:
    """Whether the transfer that ``error`` tells of is gone."""
    return error.context.get(DROPPED) is True


def _atoms(context: dict[str, Any], **more: Any) -> dict[Atom, Any]:
    return {Atom(key): value for key, value in {**context, **more}.items()}
