"""The transfers of one process: begun, fed, taken over from a process that died, finished, dropped.

Rule of this file: a transfer is either as its last answer said, or complete, or gone with all its files.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from ..error_map import from_exception
from ..errors import BridgeError, Overloaded
from ..refusals import invalid, show
from ..terms import Atom
from . import partial
from .compression import usable
from .errors import DROPPED, broken, is_lost, no_room, refused
from .file import Facts
from .partial import Outcome, Partial, Place
from .reassembler import Reassembler
from .store import Store

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..timers import Timer, Timers
    from .ceilings import Ceilings
    from .reassembler import Announcement, Chunk
    from .stream import Batch

_TRANSFER_ID = Atom("transfer_id")
_RETRY_TAKEN_MS = 100  # when to ask again for a transfer that another process has, which may be about to end
_RETRY_BUSY_MS = 1000
_CLOSE_LIMIT = 1.0  # seconds to wait for a chunk that is being written when the process ends


class Transfer:
    """One transfer under way in this process."""

    def __init__(self, place: Place, announced: Announcement, ceilings: Ceilings, store: Store) -> None:
        self.announced = announced
        self.lock = threading.Lock()
        self.heard = time.monotonic()
        self.timer: Timer | None = None
        self._place = place
        self._store = store
        self._limit = ceilings.dataset_store
        self._files = Partial(place, announced)
        self._chunks = Reassembler(announced, ceilings, self._files)
        self._resumed = False
        self._facts: Facts | None = None

    @property
    def complete(self) -> bool:
        """Whether it is finished, and the dataset in the store."""
        return self._facts is not None

    def receive(self, chunk: Chunk) -> dict[str, Any]:
        """Take a chunk. Raises :class:`BridgeError`, or OSError."""
        self._resume()
        chunks = self._chunks
        self._take(chunks.receive(chunk))
        answer = {"received": chunks.received, "next": chunks.next}
        return answer if self._facts is None else {**answer, **_fields(self._facts)}

    def state(self) -> dict[str, Any]:
        """What has come."""
        self._resume()
        chunks = self._chunks
        self._place.touch()
        return {
            "received": chunks.ranges(),
            "missing": chunks.missing(),
            "next": chunks.next,
            "chunk_count": chunks.count,
            "dataset_id": self._facts and self._facts.dataset_id,
            "rows": chunks.stream.rows,
            "bytes": chunks.stream.bytes,
        }

    def _resume(self) -> None:
        """Take in what is in the files, once: there is something when another process had the transfer."""
        if not self._resumed:
            self._resumed = True
            self._take(self._chunks.resume())

    def _take(self, batches: Iterable[Batch]) -> None:
        for batch in batches:
            self._files.add(batch)
        chunks = self._chunks
        if chunks.complete and self._facts is None:
            stream = chunks.stream
            facts = Facts(chunks.finish(), stream.rows, stream.bytes)
            self._files.finish(facts, stream.atoms)
            partial.outcome_in(self._place, self._store, self._limit)
            self._facts = facts
        self.heard = time.monotonic()

    def close(self) -> None:
        """Leave the files as they are, for whoever takes the transfer over."""
        self._files.close()
        self._place.close()

    def discard(self) -> None:
        """Remove the files."""
        self._files.close()
        self._place.discard()


class Finished:
    """A transfer that was completed, here or in another process, as it answers whoever has not heard of that."""

    complete = True

    def __init__(self, place: Place, announced: Announcement | None, outcome: Outcome) -> None:
        self.announced = announced
        self.lock = contextlib.nullcontext()
        self._outcome = outcome
        self._place = place

    def receive(self, chunk: Chunk) -> dict[str, Any]:
        """A repeat of a chunk gets the final answer."""
        chunks = self._outcome.chunks
        if chunk.index >= chunks:
            raise refused(f"chunk {chunk.index} is after the end: there are {chunks} chunks", chunk_index=chunk.index)
        return {"received": chunks, "next": chunks, **_fields(self._outcome.facts)}

    def state(self) -> dict[str, Any]:
        """All has come."""
        chunks = self._outcome.chunks
        self._place.touch()
        return {
            "received": [(0, chunks - 1)],
            "missing": [],
            "next": chunks,
            "chunk_count": chunks,
            **_fields(self._outcome.facts),
        }

    def close(self) -> None:
        """Leave what is remembered of it."""
        self._place.close()

    def discard(self) -> None:
        """Forget it; the dataset stays."""
        self._place.discard()


def _fields(facts: Facts) -> dict[str, Any]:
    return {"dataset_id": facts.dataset_id, "rows": facts.rows, "bytes": facts.bytes}


class Transfers:
    """The transfers of this process. Those of one id are handled in the order in which they come."""

    def __init__(self, ceilings: Ceilings, timers: Timers, store: Store | None = None) -> None:
        self.store = store or Store()
        self._ceilings = ceilings
        self._timers = timers
        self._idle = ceilings.transfer_idle / 1000
        self._folder = os.path.join(self.store.folder, "transfers")
        self._live: dict[bytes, Transfer] = {}
        self._lock = threading.Lock()
        self._closed = False

    # -- requests ------------------------------------------------------------------------------------------------

    def begin(self, transfer_id: bytes, announced: Announcement) -> dict[str, Any]:
        """The state of a transfer that is begun, or was begun before; or the dataset, if it is there already."""
        wanted = announced.dataset_id
        if wanted is not None and (facts := self.store.find(wanted)) is not None:
            return {"received": [], **_fields(facts)}
        with self._found(transfer_id, announced) as transfer:
            for name in announced.__slots__ if transfer.announced is not None else ():
                before, now = getattr(transfer.announced, name), getattr(announced, name)
                if before != now:
                    error = invalid(f"payload.{name}", f"{show(before)}, with which the transfer was begun", now)
                    error.context[DROPPED] = False
                    raise error
            return transfer.state()

    def receive(self, transfer_id: bytes, chunk: Chunk) -> dict[str, Any]:
        """Take a chunk."""
        with self._found(transfer_id) as transfer:
            return transfer.receive(chunk)

    def status(self, transfer_id: bytes) -> dict[str, Any]:
        """The state of a transfer."""
        with self._found(transfer_id) as transfer:
            return transfer.state()

    def dataset(self, dataset_id: str | None) -> dict[str, Any]:
        """What a dataset is, all None if it is not there."""
        facts = None if dataset_id is None else self.store.find(dataset_id)
        return {"dataset_id": None, "rows": None, "bytes": None} if facts is None else _fields(facts)

    def drop(self, transfer_id: bytes) -> bool:
        """Remove a transfer; False when there is none."""
        try:
            with self._found(transfer_id) as transfer:
                self._forget(transfer_id)
                transfer.discard()
        except BridgeError as error:
            if is_lost(error):
                return False
            raise
        return True

    def facts(self) -> dict[str, Any]:
        """What can be sent here, and what is there."""
        entries = [entry for entry in self.store.entries() if not entry.damaged]
        names = self._ceilings.__slots__
        return {
            "compression": usable(),
            "datasets": len(entries),
            "bytes": sum(entry.file_bytes for entry in entries),
            "transfers": len(self._live),
            "limits": {name: getattr(self._ceilings, name) for name in names},
        }

    def close(self, keep: bool) -> None:
        """End: transfers under way are dropped, or kept in their files for another process."""
        with self._lock:
            self._closed = True
            live, self._live = self._live, {}
        for transfer in live.values():
            transfer.lock.acquire(timeout=_CLOSE_LIMIT)  # then whoever holds it is stuck, and ends with the process
            transfer.close() if keep else transfer.discard()

    # -- which transfer ------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _found(self, transfer_id: bytes, announced: Announcement | None = None) -> Iterator[Transfer | Finished]:
        """The transfer of that id for one request, begun if there is none and it is ``announced``.

        What cannot be mended ends it. Every error says of which transfer it is.
        """
        transfer: Transfer | Finished | None = None
        try:
            transfer = self._live.get(transfer_id) or self._enter(transfer_id, announced)
            with transfer.lock:
                if not transfer.complete and self._live.get(transfer_id) is not transfer:
                    raise _unknown()  # it ended while this waited
                yield transfer
        except BaseException as error:
            failure = _failure(error)
            if transfer is not None and is_lost(failure):
                self._forget(transfer_id)
                transfer.discard()
            failure.context.setdefault(_TRANSFER_ID, transfer_id)
            raise failure from failure.__cause__
        finally:
            if transfer is not None and transfer.complete:
                self._forget(transfer_id)
                transfer.close()

    def _enter(self, transfer_id: bytes, announced: Announcement | None) -> Transfer | Finished:
        """A transfer that is not under way in this process: a new one, or what another process has left."""
        folder = os.path.join(self._folder, hashlib.sha256(transfer_id).hexdigest()[:32])
        with self._lock:
            if announced is not None:
                self.store.make()
                self._sweep()
            try:
                place = partial.enter(folder, create=announced is not None)
            except FileNotFoundError:
                raise _unknown() from None
            except BlockingIOError:
                raise _taken() from None
            before = None
            try:
                before = partial.announced_in(place)
                outcome = partial.outcome_in(place, self.store, self._ceilings.dataset_store)
                if outcome is not None:
                    return Finished(place, before, outcome)
                self._check_room()
                transfer = self._begin(place, before, announced)
            except BaseException:
                place.discard() if before is None else place.close()
                raise
            self._live[transfer_id] = transfer
        self._watch(transfer_id, transfer)
        return transfer

    def _begin(self, place: Place, before: Announcement | None, announced: Announcement | None) -> Transfer:
        if before is None:
            if announced is None:
                raise _unknown()
            place.remove()
            partial.begin(place, announced)
            before = announced
        return Transfer(place, before, self._ceilings, self.store)

    def _check_room(self) -> None:
        if self._closed:
            raise Overloaded("the server is shutting down and takes no new transfers")
        limit = self._ceilings.max_transfers
        if len(self._live) >= limit:
            raise Overloaded(
                f"{len(self._live)} transfers are under way, which is the limit; try again later",
                context={Atom("limit"): limit},
                retry_after_ms=_RETRY_BUSY_MS,
            )

    def _forget(self, transfer_id: bytes) -> None:
        transfer = self._live.pop(transfer_id, None)
        if transfer is not None and transfer.timer is not None:
            transfer.timer.cancel()

    # -- what nobody asks for any more ---------------------------------------------------------------------------

    def _watch(self, transfer_id: bytes, transfer: Transfer) -> None:
        """Look after the transfer when it may have been idle for too long."""

        def look() -> None:  # in the thread of the timers, which must not wait for the disk
            threading.Thread(target=self._drop_if_idle, args=(transfer_id, transfer), name="idle", daemon=True).start()

        transfer.timer = self._timers.call_at(transfer.heard + self._idle, look)

    def _drop_if_idle(self, transfer_id: bytes, transfer: Transfer) -> None:
        with transfer.lock:
            if self._live.get(transfer_id) is not transfer:
                return
            if transfer.heard + self._idle > time.monotonic():
                self._watch(transfer_id, transfer)
                return
            self._forget(transfer_id)
            transfer.discard()

    def _sweep(self) -> None:
        """Remove what processes that died have left, and what is remembered of finished transfers, after a while."""
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self._folder):
                with contextlib.suppress(OSError):  # another process has it, or was first to remove it
                    place = partial.enter(os.path.join(self._folder, name))
                    if place.idle() > self._idle:
                        place.discard()
                    place.close()


def _failure(error: BaseException) -> BridgeError:
    """What is wrong with a transfer. What nobody thought of ends it too: nobody knows what state it is in."""
    if isinstance(error, BridgeError):
        return error
    if isinstance(error, OSError):
        failure: BridgeError = no_room(f"a file of the dataset cannot be written: {error.strerror or error}")
    else:
        failure = from_exception(error)
        failure.context[DROPPED] = True
    failure.__cause__ = error
    return failure


def _unknown() -> BridgeError:
    return broken("there is no such transfer; it was dropped, or never begun")


def _taken() -> BridgeError:
    error = refused("another process receives this transfer")
    error.retry_after_ms = _RETRY_TAKEN_MS
    return error
