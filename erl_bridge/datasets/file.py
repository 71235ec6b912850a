"""The file of a dataset: its batches as they came, and behind them an index and a trailer.

    batches   each a 4-byte big-endian length and an external term, a list of rows
    index     rows of each batch, bytes of each term, CRC-32 of each term: three arrays of 32-bit numbers
    atoms     an external term: the atoms of the rows, a list
    trailer   where all this is, the SHA-256 of the rows, and the CRC-32 of index, atoms and trailer

Rule of this file: it is the only one that knows this. Numbers other than the lengths are in the order of the processor:
a store stays on its host. What is not as it was written is a :class:`Damage`, and the content of a batch is checked
when it is read.
"""

from __future__ import annotations

import os
import threading
from array import array
from itertools import accumulate
from struct import Struct
from zlib import crc32

from .. import etf
from ..framing import HEADER
from ..values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

    from ..terms import Atom

_MAGIC = int.from_bytes(b"erlrows1", "big")
_TRAILER = Struct("=QQQQII32sI")  # magic, bytes of batches, of rows, rows, batches, bytes of atoms, SHA-256, CRC-32
_NUMBERS = "I"
_SYNC_EVERY = 512 << 10  # bytes after which they are synced to the disk, meanwhile


class Damage(Exception):
    """A file that is no dataset, or not as it was written; the message says what is wrong."""


class Facts(Value):
    """What a dataset is: its id, its rows, and the bytes of their terms."""

    __slots__ = ("dataset_id", "rows", "bytes")
    dataset_id: str
    rows: int
    bytes: int

    def __init__(self, dataset_id: str, rows: int, bytes: int) -> None:
        self._set(dataset_id=dataset_id, rows=rows, bytes=bytes)


class Index(Value):
    """Where each batch is. ``firsts`` and ``starts`` have one number more than there are batches: the first row of each
    and the offset of its term, and what would come next."""

    __slots__ = ("facts", "atoms", "firsts", "starts", "sizes", "checks")
    facts: Facts
    atoms: AbstractSet[Atom]
    firsts: Sequence[int]
    starts: Sequence[int]
    sizes: Sequence[int]
    checks: Sequence[int]

    def __init__(
        self,
        facts: Facts,
        atoms: AbstractSet[Atom],
        firsts: Sequence[int],
        starts: Sequence[int],
        sizes: Sequence[int],
        checks: Sequence[int],
    ) -> None:
        self._set(facts=facts, atoms=atoms, firsts=firsts, starts=starts, sizes=sizes, checks=checks)


class Writer:
    """Writes the file of a dataset through a descriptor; ``written`` bytes of its batches are there already."""

    def __init__(self, fd: int, written: int = 0) -> None:
        self._fd = fd
        self._rows, self._sizes, self._checks = array(_NUMBERS), array(_NUMBERS), array(_NUMBERS)
        self._written = written
        self._syncing = written  # as far as it is synced, or is being
        self._syncs = _Syncs(fd)

    def write(self, data: bytes) -> None:
        """Write a part of the stream of batches. Raises OSError."""
        write_all(self._fd, data)
        self._written += len(data)
        if self._written - self._syncing >= _SYNC_EVERY and self._syncs.begin():
            self._syncing = self._written

    def note(self, term: bytes, rows: int) -> None:
        """Note a batch for the index; it is written by :meth:`write`, before or after."""
        self._rows.append(rows)
        self._sizes.append(len(term))
        self._checks.append(crc32(term))

    def seal(self, facts: Facts, atoms: AbstractSet[Atom]) -> None:
        """Write what comes behind the batches, and wait until all is on the disk. Raises OSError."""
        listed = etf.encode(sorted(atoms, key=str))
        body = b"".join((self._rows.tobytes(), self._sizes.tobytes(), self._checks.tobytes(), listed))
        digest = bytes.fromhex(facts.dataset_id)
        fields = _MAGIC, self._written, facts.bytes, facts.rows, len(self._rows), len(listed), digest
        check = crc32(_TRAILER.pack(*fields, 0), crc32(body))
        write_all(self._fd, body + _TRAILER.pack(*fields, check))
        self._syncs.end()
        os.fsync(self._fd)


def write_all(fd: int, data: bytes) -> None:
    """Write all of ``data``. Raises OSError."""
    written = os.write(fd, data)
    if written < len(data):
        rest = memoryview(data)[written:]
        while rest:
            rest = rest[os.write(fd, rest) :]


class _Syncs:
    """Syncs a file in a thread while it is written, one time after the other, so that little is left for the end."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None

    def begin(self) -> bool:
        """Sync what is written; False when that is still being done for what was written before, or cannot be."""
        if self._thread is not None and self._thread.is_alive():
            return False
        fd = os.dup(self._fd)  # the file may be closed meanwhile
        thread = threading.Thread(target=self._sync, args=(fd,), name="sync", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system has no thread for it: all is synced at the end
            os.close(fd)
            return False
        self._thread = thread
        return True

    def end(self) -> None:
        """Wait for what has begun. Raises the OSError that it met, of which the system tells only once."""
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error

    def _sync(self, fd: int) -> None:
        try:
            _datasync(fd)
        except OSError as error:
            self._error = error
        finally:
            os.close(fd)


_datasync = getattr(os, "fdatasync", os.fsync)


def read_index(fd: int) -> Index:
    """The index of an open file. Raises :class:`Damage`, or OSError."""
    end = os.fstat(fd).st_size - _TRAILER.size
    if end < 0:
        raise Damage("it is too short")
    trailer = os.pread(fd, _TRAILER.size, end)
    magic, stream, content, rows, batches, atoms, digest, check = _TRAILER.unpack(trailer)
    if magic != _MAGIC or stream + 12 * batches + atoms != end:
        raise Damage("it does not end as a dataset does")
    body = os.pread(fd, end - stream, stream)
    if crc32(_TRAILER.pack(magic, stream, content, rows, batches, atoms, digest, 0), crc32(body)) != check:
        raise Damage("the checksum of its index is wrong")
    numbers = array(_NUMBERS, body[: 12 * batches])
    counts, sizes, checks = (numbers[batches * part : batches * (part + 1)] for part in range(3))
    return Index(
        Facts(digest.hex(), rows, content),
        frozenset(etf.decode(body[12 * batches :])),
        list(accumulate(counts, initial=0)),
        list(accumulate((HEADER + size for size in sizes), initial=HEADER)),
        sizes,
        checks,
    )
