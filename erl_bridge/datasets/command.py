"""``erl_bridge datasets``: what is in the store, for people, and how to be rid of it.

Rule of this file: a dataset has one line, its id first; what is wrong goes to stderr, and then the status is 1.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from ..errors import BridgeError
from .store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from .store import Entry

_UNITS = ("B", "kB", "MB", "GB", "TB")
_AGES = ((86400, "d"), (3600, "h"), (60, "min"))


def run(action: str, dataset_id: str) -> int:
    """Do what is asked for; returns the exit status."""
    return _ACTIONS[action](Store(), dataset_id)


def _list(store: Store, _: str) -> int:
    entries = store.entries()
    for entry in entries:
        print(_line(store, entry))
    print(f"{len(entries)} in {store.folder}, {size(sum(entry.file_bytes for entry in entries))}")
    return 0


def _line(store: Store, entry: Entry) -> str:
    facts = None if entry.damaged else store.facts(entry)
    rows = "damaged" if facts is None else f"{facts.rows} rows"
    used = "in use" if store.in_use(entry) else f"used {age(time.time() - entry.used)} ago"
    return f"{entry.dataset_id}  {rows}  {size(entry.file_bytes)}  {used}"


def _remove(store: Store, dataset_id: str) -> int:
    found = [entry for entry in store.entries() if dataset_id and entry.dataset_id.startswith(dataset_id)]
    if len({entry.dataset_id for entry in found}) != 1:
        what = "none" if not found else f"{len(found)}, so say more of it"
        return _complain(f"remove needs the id of a dataset, or how it begins; of {dataset_id!r} there is {what}")
    if not all(store.remove(entry) for entry in found):
        return _complain(f"{found[0].dataset_id} is in use")
    print(f"removed {found[0].dataset_id}")
    return 0


def _verify(store: Store, dataset_id: str) -> int:
    status = 0
    for entry in store.entries():
        if entry.damaged or not entry.dataset_id.startswith(dataset_id):
            continue
        try:
            store.verify(entry.dataset_id)
            print(f"{entry.dataset_id}  good")
        except BridgeError as error:
            status = _complain(error.message)
    return status


def _complain(message: str) -> int:
    print(f"erl_bridge datasets: {message}", file=sys.stderr)
    return 1


_ACTIONS: dict[str, Callable[[Store, str], int]] = {"list": _list, "remove": _remove, "verify": _verify}
ACTIONS = list(_ACTIONS)


def size(count: float) -> str:
    """Bytes for people.

    >>> size(999), size(17_400_379), size(8 * 10**15)
    ('999 B', '17.4 MB', '8000.0 TB')
    """
    unit = 0
    while count >= 1000 and unit < len(_UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{count:.1f} {_UNITS[unit]}" if unit else f"{count:.0f} B"


def age(seconds: float) -> str:
    """Time for people.

    >>> age(3), age(200), age(90_000)
    ('3 s', '3 min', '1 d')
    """
    for length, unit in _AGES:
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"
