"""The chunks of one transfer, in whatever order they come, as the batches of its stream.

Rule of this file: it knows what has come and what is right, and does no I/O. What must be kept it gives to a
:class:`Chunks`, which may be a ``dict`` or files.
"""

from __future__ import annotations

from ..values import Value
from .ceilings import MAX_AHEAD, MAX_CHUNKS
from .errors import broken, exceeded, refused
from .stream import Stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Protocol

    from .ceilings import Ceilings
    from .stream import Batch

    class Chunks(Protocol):
        """Keeps chunks: those in order one behind the other, and those that came too early each by itself."""

        def append(self, chunk: Chunk) -> None:
            """Keep the next chunk in order; if it was held, it is so no more."""
            ...

        def hold(self, chunk: Chunk) -> None:
            """Keep a chunk that others are missing before."""
            ...

        def read(self, index: int) -> Chunk:
            """A chunk that is kept."""
            ...

        def kept(self) -> tuple[int, Iterable[int]]:
            """How many were appended, and the numbers of those that are held."""
            ...


class Announcement(Value):
    """What a sender said of a transfer before its first chunk; everything but the compression may be None."""

    __slots__ = ("compression", "chunk_count", "total_bytes", "sha256", "dataset_id")
    compression: str
    chunk_count: int | None
    total_bytes: int | None
    sha256: str | None
    dataset_id: str | None

    def __init__(
        self,
        compression: str = "none",
        chunk_count: int | None = None,
        total_bytes: int | None = None,
        sha256: str | None = None,
        dataset_id: str | None = None,
    ) -> None:
        self._set(
            compression=compression,
            chunk_count=chunk_count,
            total_bytes=total_bytes,
            sha256=sha256,
            dataset_id=dataset_id,
        )


class Chunk(Value):
    """One chunk: its number from 0, its bytes, and whether it is the last one. ``dataset_id`` is what must come out."""

    __slots__ = ("index", "data", "final", "dataset_id")
    index: int
    data: bytes
    final: bool
    dataset_id: str | None

    def __init__(self, index: int, data: bytes, final: bool = False, dataset_id: str | None = None) -> None:
        self._set(index=index, data=data, final=final, dataset_id=dataset_id)


class Reassembler:
    """One transfer. ``next`` is the first chunk that is missing, ``count`` how many there are, once that is known."""

    def __init__(self, announced: Announcement, ceilings: Ceilings, chunks: Chunks) -> None:
        import hashlib  # 5 ms to import, not before hello

        self.next = 0
        self.count = announced.chunk_count
        self.stream = Stream(announced.compression, ceilings)
        self._announced = announced
        self._dataset_id = announced.dataset_id
        self._ceilings = ceilings
        self._chunks = chunks
        self._held: set[int] = set()
        self._sent = 0
        self._digest = hashlib.sha256() if announced.sha256 else None

    # -- what has come -------------------------------------------------------------------------------------------

    @property
    def received(self) -> int:
        """How many different chunks have come."""
        return self.next + len(self._held)

    @property
    def complete(self) -> bool:
        """Whether every chunk has come."""
        return self.count == self.next

    def ranges(self) -> list[tuple[int, int]]:
        """What has come, as inclusive ranges."""
        return _ranges(
            [*([(0, self.next - 1)] if self.next else []), *((index, index) for index in sorted(self._held))]
        )

    def missing(self) -> list[tuple[int, int]]:
        """What is missing before the last chunk that is known of, as inclusive ranges."""
        ends = [-1, *(last for _, last in self.ranges())]
        starts = [*(first for first, _ in self.ranges()), ends[-1] + 1 if self.count is None else self.count]
        return [(end + 1, start - 1) for end, start in zip(ends, starts, strict=True) if end + 1 < start]

    # -- chunks come ---------------------------------------------------------------------------------------------

    def receive(self, chunk: Chunk) -> Iterator[Batch]:
        """Take a chunk: the batches that are complete with it.

        Raises :class:`TransferError`, whose ``context.dropped`` says whether the transfer can go on.
        """
        self._check(chunk)
        if chunk.index < self.next or chunk.index in self._held:
            if self._chunks.read(chunk.index).data != chunk.data:
                raise refused(f"chunk {chunk.index} came before with other bytes", chunk_index=chunk.index)
            self._learn(chunk)
            return
        self._learn(chunk)
        self._sent += len(chunk.data)
        if self._sent > self._ceilings.dataset_sent:
            raise exceeded("the number of bytes sent", self._ceilings.dataset_sent, "dataset_sent")
        if chunk.index > self.next:
            self._chunks.hold(chunk)
            self._held.add(chunk.index)
            return
        yield from self._append(chunk)
        while self.next in self._held:
            yield from self._append(self._chunks.read(self.next))

    def resume(self) -> Iterator[Batch]:
        """Take what is kept of an earlier life of the transfer: the batches that were complete then."""
        appended, held = self._chunks.kept()
        for index in range(appended):
            chunk = self._chunks.read(index)
            self._learn(chunk)
            self._sent += len(chunk.data)
            yield from self._feed(chunk)
        for index in sorted(held):
            yield from self.receive(self._chunks.read(index))

    def finish(self) -> str:
        """The id of the dataset, when all has come. Raises :class:`TransferError` when it does not add up."""
        announced = self._announced
        self.stream.finish()
        _agree("total_bytes", announced.total_bytes, self._sent)
        if self._digest is not None:
            _agree("sha256", announced.sha256, self._digest.hexdigest())
        _agree("dataset_id", self._dataset_id, self.stream.dataset_id)
        return self.stream.dataset_id

    def _check(self, chunk: Chunk) -> None:
        index = chunk.index
        known = max((self.next - 1, *self._held))
        if chunk.final and known > index:
            raise refused(f"chunk {index} is said to be the last, and chunk {known} came before", chunk_index=index)
        if self.count is not None and index >= self.count:
            raise refused(f"chunk {index} is after the end: there are {self.count} chunks", chunk_index=index)
        if self.count is not None and chunk.final and index != self.count - 1:
            raise refused(f"chunk {index} is said to be the last of {self.count}", chunk_index=index)
        if index >= MAX_CHUNKS:
            raise refused(f"chunk {index}: there can be {MAX_CHUNKS} chunks; make them larger", chunk_index=index)
        if index >= self.next + MAX_AHEAD:
            raise refused(
                f"chunk {index} is too far ahead: chunk {self.next} is missing, and {MAX_AHEAD} from it on are taken",
                chunk_index=index,
            )

    def _learn(self, chunk: Chunk) -> None:
        """What a chunk says besides its bytes."""
        if chunk.final:
            self.count = chunk.index + 1
        if chunk.dataset_id is not None:
            self._dataset_id = chunk.dataset_id

    def _append(self, chunk: Chunk) -> Iterator[Batch]:
        self._chunks.append(chunk)
        self._held.discard(chunk.index)
        yield from self._feed(chunk)

    def _feed(self, chunk: Chunk) -> Iterator[Batch]:
        self.next = chunk.index + 1
        if self._digest is not None:
            self._digest.update(chunk.data)
        yield from self.stream.feed(chunk.data)


def _agree(name: str, expected: object, got: object) -> None:
    if expected is not None and expected != got:
        raise broken(f"{name}: {expected} was announced, and {got} came", expected=expected, got=got)


def _ranges(pairs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Neighbours joined.

    >>> _ranges([(0, 2), (3, 3), (5, 5)])
    [(0, 3), (5, 5)]
    """
    joined: list[tuple[int, int]] = []
    for first, last in pairs:
        if joined and joined[-1][1] + 1 == first:
            joined[-1] = joined[-1][0], last
        else:
            joined.append((first, last))
    return joined
