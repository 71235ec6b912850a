"""The rows of a dataset as a sequence that is read from its file as far as it is looked at.

Rule of this file: it is read by ``mmap``, in whatever process, and never more than a batch of rows is decoded at once.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, overload
from zlib import crc32

from .. import etf
from .file import Damage, read_index

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from collections.abc import Set as AbstractSet
    from typing import NoReturn

    from ..terms import Atom
    from .file import Facts

    Row = dict[Any, Any]

_LIMITS = etf.Limits(max_size=1 << 32, max_terms=1 << 32)  # the batch was in those of its time when it came


class Rows(Sequence["Row"]):
    """The rows of a dataset.

    To go through it from the beginning to the end is fast and takes no memory. ``rows[i]`` decodes the batch that the
    row is in and keeps it for the rows beside it, so whoever needs rows in any other order takes ``list(rows)``. May be
    used from many threads. The dataset is in use, and stays in the store, until this is closed or forgotten.
    """

    def __init__(self, fd: int, on_damage: Callable[[str], NoReturn]) -> None:
        """``fd`` is taken over. What is wrong with the file is told to ``on_damage``, which raises."""
        self._on_damage = on_damage
        self._last: tuple[int, list[Row]] = -1, []
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)  # who wants to remove the file tries for an exclusive one
            self._index = read_index(fd)
            self._map: memoryview | None = memoryview(mmap.mmap(fd, 0, access=mmap.ACCESS_READ))
        except Damage as damage:
            on_damage(str(damage))
        finally:
            os.close(fd)  # mmap has a descriptor of its own, and with it the lock

    @property
    def facts(self) -> Facts:
        """What the dataset is."""
        return self._index.facts

    @property
    def atoms(self) -> AbstractSet[Atom]:
        """The atoms that are in the rows."""
        return self._index.atoms

    def close(self) -> None:
        """Let the file go. Rows that were read stay what they are; no more can be read."""
        self._map = None

    def __len__(self) -> int:
        return self._index.facts.rows

    @overload
    def __getitem__(self, at: int) -> Row: ...

    @overload
    def __getitem__(self, at: slice) -> list[Row]: ...

    def __getitem__(self, at: int | slice) -> Row | list[Row]:
        if isinstance(at, slice):
            return [self[one] for one in range(*at.indices(len(self)))]
        number = at + len(self) if at < 0 else at
        if not 0 <= number < len(self):
            raise IndexError(f"there are {len(self)} rows, and none with the number {at}")
        batch = bisect_right(self._index.firsts, number) - 1
        last, rows = self._last
        if last != batch:
            rows = self._batch(batch)
            self._last = batch, rows
        return rows[number - self._index.firsts[batch]]

    def __iter__(self) -> Iterator[Row]:
        return chain.from_iterable(map(self._batch, range(len(self._index.sizes))))

    def terms(self) -> Iterator[memoryview]:
        """The external terms of the batches."""
        return map(self._term, range(len(self._index.sizes)))

    def _term(self, batch: int) -> memoryview:
        if self._map is None:
            raise ValueError("the dataset was closed")
        start = self._index.starts[batch]
        term = self._map[start : start + self._index.sizes[batch]]
        if crc32(term) != self._index.checks[batch]:
            self._on_damage(f"the checksum of batch {batch} is wrong")
        return term

    def _batch(self, number: int) -> list[Row]:
        try:
            rows: list[Row] = etf.decode(self._term(number), limits=_LIMITS)
        except etf.DecodeError as error:  # of what is looked for then, most is seen when the rows come
            self._on_damage(f"batch {number} is no term: {error.message}")
        return rows
