"""The stream of a dataset: inflated, cut into batches, and each batch looked into.

Rule of this file: bytes in, batches out, no I/O; never more than one batch is inflated or decoded at once, and no bytes
are kept but those of a batch that has not all come. Most batches are not decoded here at all: ``_scan.c`` sees that
they can be, in a fifth of the time and without holding up other threads.
"""

from __future__ import annotations

from .. import etf
from ..framing import FrameReader, Oversized
from ..terms import CONSTANTS, Atom, TermMap
from ..values import Value
from .ceilings import MAX_ATOMS, MAX_BATCHES
from .compression import inflater
from .errors import broken, exceeded, no_row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .ceilings import Ceilings

# A batch is <<131, 108, count::32, rows/binary, 106>>: an external term that is a proper list.
_HEAD, _LIST_HEAD, _TAIL = b"\x83l", 6, 1
_COMPRESSED = b"\x83P"

try:
    from ._scan import scan
except ImportError:  # not compiled here

    def scan(batch: bytes, /) -> tuple[int, list[bytes]] | None:
        """See ``_scan.c``, which is sure of most batches without decoding them."""
        return None


class Batch(Value):
    """The external term of a list of rows, and how many rows."""

    __slots__ = ("term", "rows")
    term: bytes
    rows: int

    def __init__(self, term: bytes, rows: int) -> None:
        self._set(term=term, rows=rows)


class Stream:
    """One stream of batches. ``rows`` and ``bytes`` count the rows so far and the bytes of their terms."""

    def __init__(self, compression: str, ceilings: Ceilings) -> None:
        import hashlib  # 5 ms to import, not before hello

        self.rows = 0
        self.bytes = 0
        self.atoms: set[Atom] = set()
        self._ceilings = ceilings
        self._limits = etf.Limits(max_size=ceilings.dataset_batch, max_atoms=MAX_ATOMS)
        self._inflater = inflater(compression)
        self._frames = FrameReader(ceilings.dataset_batch)
        self._digest = hashlib.sha256()
        self._size = 0
        self._batches = 0

    @property
    def dataset_id(self) -> str:
        """The id of the rows so far."""
        return self._digest.hexdigest()

    def feed(self, data: bytes) -> Iterator[Batch]:
        """The batches that ``data`` completes. Raises :class:`TransferError`, or :class:`InvalidRequest` for a row."""
        ceilings = self._ceilings
        for piece in self._inflater.feed(data):
            self._size += len(piece)
            if self._size > ceilings.dataset_size:
                raise exceeded("the size of the dataset in bytes", ceilings.dataset_size, "dataset_size")
            yield from map(self._batch, self._frames.feed(piece))

    def finish(self) -> None:
        """Raise :class:`TransferError` unless the stream may end here."""
        if not self._inflater.at_end:
            raise broken("the chunks end in the middle of the compressed data")
        if self._frames.unfinished:
            raise broken(f"the chunks end in the middle of a batch ({self._frames.unfinished} bytes of it came)")

    def _batch(self, frame: bytes | Oversized) -> Batch:
        if isinstance(frame, Oversized):
            raise exceeded(f"a batch of {frame.length} bytes", frame.limit, "dataset_batch")
        rows = self._look_into(frame)
        self._batches += 1
        if self._batches > MAX_BATCHES:
            raise exceeded("the number of batches", MAX_BATCHES, "")
        if len(self.atoms) > MAX_ATOMS:
            raise exceeded("the number of different atoms", MAX_ATOMS, "")
        content = memoryview(frame)[_LIST_HEAD:-_TAIL]
        self._digest.update(content)
        self.rows += rows
        self.bytes += len(content)
        if self.rows > self._ceilings.dataset_rows:
            raise exceeded("the number of rows", self._ceilings.dataset_rows, "dataset_rows")
        return Batch(frame, rows)

    def _look_into(self, frame: bytes) -> int:
        """How many rows a batch has, once it is sure that they can be read."""
        found = scan(frame)
        if found is None:
            return self._decode(frame)
        rows, names = found
        try:
            self.atoms.update(Atom(name) for name in map(bytes.decode, names) if name not in CONSTANTS)
        except UnicodeDecodeError:
            return self._decode(frame)
        return rows

    def _decode(self, frame: bytes) -> int:
        """The same by decoding it, which explains what is wrong."""
        where = f"the batch that begins with row {self.rows}"
        if frame[:2] == _COMPRESSED:
            raise broken(f"{where} is compressed by itself; send it as it is")
        try:
            rows = etf.decode(frame, limits=self._limits, atoms=self.atoms)
        except etf.DecodeError as error:
            raise broken(f"{where} is no term: {error.message}") from None
        if type(rows) is not list or not rows:
            raise broken(f"{where}: expected a list of at least one row, got another term")
        for number, row in enumerate(rows, start=self.rows):
            if not isinstance(row, (dict, TermMap)):
                raise no_row(number, row)
        if frame[:2] != _HEAD:
            raise broken(f"{where}: expected a list")
        return len(rows)
