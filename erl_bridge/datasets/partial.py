"""The files of one transfer under way: a folder that one process at a time works in, and any can take over.

    lock     locked by the process that works here
    begin    what was announced, and when the host was started: what was not synced by then may be gone
    ends     9 bytes for each chunk that was appended: where it ends in the stream, and whether it is the last
    rows     the file of the dataset as far as it has come
    sent     the compressed stream, where it is compressed; else the stream is in ``rows``
    held-N   a chunk that came before another that is missing
    done     what came of it, written before ``rows`` gets its name in the store; the other files go then

Rule of this file: a chunk counts once its bytes and then its end are written, so whenever the process is killed, what
counts is there. The pages of a killed process are not lost; only the finished dataset is synced to the disk.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from array import array
from struct import Struct
from typing import TYPE_CHECKING, Any

from .. import etf
from ..framing import pack
from .file import Facts, Writer, write_all
from .reassembler import Announcement, Chunk

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Set as AbstractSet

    from ..terms import Atom
    from .store import Store
    from .stream import Batch

_END = Struct("=Q?")
_HELD = "held-"


class Place:
    """The folder of one transfer, locked for this process until :meth:`close`."""

    def __init__(self, folder: str, fd: int) -> None:
        self._folder = folder
        self._fd = fd

    def path(self, name: str) -> str:
        """The path of a file in it."""
        return os.path.join(self._folder, name)

    def read(self, name: str) -> Any:
        """The term in a file, or None if there is none."""
        try:
            with open(self.path(name), "rb") as file:
                return etf.decode(file.read())
        except FileNotFoundError:
            return None

    def write(self, name: str, term: Any) -> None:
        """Put a term into a file, all of it or nothing."""
        fresh = self.path("new")
        with open(fresh, "wb") as file:
            file.write(etf.encode(term))
        os.rename(fresh, self.path(name))

    def remove(self, *keep: str) -> None:
        """Remove all files but ``keep`` and the lock."""
        for name in os.listdir(self._folder):
            if name not in (*keep, "lock"):
                os.unlink(self.path(name))

    def discard(self) -> None:
        """Remove the folder, and unlock it."""
        with contextlib.suppress(OSError):  # somebody else removes it, or a thread that was left writes to it
            self.remove()
            os.unlink(self.path("lock"))
            os.rmdir(self._folder)
        self.close()

    def touch(self) -> None:
        """Note that something was heard of the transfer."""
        os.utime(self.path("lock"))

    def idle(self) -> float:
        """Seconds since something was heard of the transfer."""
        times = [os.stat(self.path(name)).st_mtime for name in ("lock", "ends") if os.path.exists(self.path(name))]
        return time.time() - max(times)

    def close(self) -> None:
        """Unlock it."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def enter(folder: str, *, create: bool = False) -> Place:
    """The folder, locked. Raises FileNotFoundError if it is not there, BlockingIOError if another process has it."""
    while True:
        if create:
            os.makedirs(folder, mode=0o700, exist_ok=True)
        try:
            fd = os.open(os.path.join(folder, "lock"), os.O_RDWR | (os.O_CREAT if create else 0), 0o600)
        except FileNotFoundError:
            if create:  # removed between these two lines
                continue
            raise
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise
        if os.fstat(fd).st_nlink:
            return Place(folder, fd)
        os.close(fd)  # who had it removed it


def begin(place: Place, announced: Announcement) -> None:
    """Note what was announced."""
    place.write("begin", (_boot(), *(getattr(announced, name) for name in Announcement.__slots__)))


def announced_in(place: Place) -> Announcement | None:
    """What was announced, or None if nothing was since the host was started."""
    boot, *fields = place.read("begin") or (None,)
    return Announcement(*fields) if boot == _boot() else None


def _boot() -> str:
    """What tells one run of the system from another; empty where it cannot be known."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


class Outcome:
    """A transfer that is complete: how many chunks it had and what came of them."""

    def __init__(self, chunks: int, facts: Facts) -> None:
        self.chunks = chunks
        self.facts = facts


def outcome_in(place: Place, store: Store, limit: int) -> Outcome | None:
    """What came of a transfer that is complete; a dataset that has no name yet gets it now."""
    found = place.read("done")
    if found is None:
        return None
    chunks, *fields = found
    facts = Facts(*fields)
    with contextlib.suppress(FileNotFoundError):  # it has its name
        store.adopt(place.path("rows"), facts, limit)
    place.remove("begin", "done")
    return Outcome(chunks, facts)


class Partial:
    """The files of a transfer as :class:`.reassembler.Chunks`, with what was there already."""

    def __init__(self, place: Place, announced: Announcement) -> None:
        self._place = place
        self._compressed = announced.compression != "none"
        self._files = {name: _open(place.path(name)) for name in ("rows", "ends", *["sent"][: self._compressed])}
        self._stream = self._files["sent" if self._compressed else "rows"]
        self._ends, self._final = self._read_ends()
        self._held = self._read_held()
        end = self._ends[-1] if self._ends else 0
        os.ftruncate(self._stream, end)
        if self._compressed:
            os.ftruncate(self._files["rows"], 0)  # it is inflated again
        self._writer = Writer(self._files["rows"], 0 if self._compressed else end)

    def _read_ends(self) -> tuple[array[int], int | None]:
        ends, final = array("Q"), None
        fd = self._files["ends"]
        data = os.pread(fd, os.fstat(fd).st_size, 0)
        data = data[: len(data) - len(data) % _END.size]
        os.ftruncate(fd, len(data))
        for index, (end, is_final) in enumerate(_END.iter_unpack(data)):
            ends.append(end)
            final = index if is_final else final
        return ends, final

    def _read_held(self) -> set[int]:
        names = (name for name in os.listdir(self._place.path("")) if name.startswith(_HELD))
        return {index for name in names if (index := int(name.removeprefix(_HELD))) >= len(self._ends)}

    # -- chunks --------------------------------------------------------------------------------------------------

    def append(self, chunk: Chunk) -> None:
        """See :class:`.reassembler.Chunks`. Raises OSError."""
        if self._compressed:
            write_all(self._stream, chunk.data)
        else:
            self._writer.write(chunk.data)
        end = (self._ends[-1] if self._ends else 0) + len(chunk.data)
        write_all(self._files["ends"], _END.pack(end, chunk.final))
        self._ends.append(end)
        self._final = chunk.index if chunk.final else self._final
        if chunk.index in self._held:
            self._held.discard(chunk.index)
            os.unlink(self._place.path(f"{_HELD}{chunk.index}"))

    def hold(self, chunk: Chunk) -> None:
        """See :class:`.reassembler.Chunks`. Raises OSError."""
        self._place.write(f"{_HELD}{chunk.index}", (chunk.final, chunk.dataset_id, chunk.data))
        self._held.add(chunk.index)

    def read(self, index: int) -> Chunk:
        """See :class:`.reassembler.Chunks`."""
        if index in self._held:
            final, dataset_id, data = self._place.read(f"{_HELD}{index}")
            return Chunk(index, data.encode() if isinstance(data, str) else data, final, dataset_id)
        start = self._ends[index - 1] if index else 0
        return Chunk(index, os.pread(self._stream, self._ends[index] - start, start), index == self._final)

    def kept(self) -> tuple[int, Iterable[int]]:
        """See :class:`.reassembler.Chunks`."""
        return len(self._ends), self._held

    # -- batches -------------------------------------------------------------------------------------------------

    def add(self, batch: Batch) -> None:
        """Put the next batch into the file of the dataset. Raises OSError."""
        if self._compressed:
            self._writer.write(pack(batch.term))
        self._writer.note(batch.term, batch.rows)

    def finish(self, facts: Facts, atoms: AbstractSet[Atom]) -> None:
        """Finish the file of the dataset, and note what came of the transfer. Raises OSError."""
        self._writer.seal(facts, atoms)
        self._place.write("done", (len(self._ends), facts.dataset_id, facts.rows, facts.bytes))
        self.close()

    def close(self) -> None:
        """Close the files."""
        files, self._files = self._files, {}
        for fd in files.values():
            os.close(fd)


def _open(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
