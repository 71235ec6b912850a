"""The datasets that are kept on this host: a folder with a file for each, named by its id.

Rule of this file: a name in the folder stands for a whole dataset or for nothing, whatever process dies when; what is
found to be damaged loses its name at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import threading
from typing import TYPE_CHECKING, Any

from ..errors import BridgeError
from ..home import home
from ..refusals import invalid
from ..values import Value
from .errors import damaged, no_room, unknown
from .file import Damage, read_index
from .rows import Rows

if TYPE_CHECKING:
    from typing import NoReturn

    from .file import Facts

_WHOLE, _DAMAGED = ".rows", ".damaged"
_DIGITS = frozenset("0123456789abcdef")


class Entry(Value):
    """One file of the store. ``used`` is when it was last used, in seconds since 1970."""

    __slots__ = ("dataset_id", "damaged", "file_bytes", "used")
    dataset_id: str
    damaged: bool
    file_bytes: int
    used: float

    def __init__(self, dataset_id: str, damaged: bool, file_bytes: int, used: float) -> None:
        self._set(dataset_id=dataset_id, damaged=damaged, file_bytes=file_bytes, used=used)


class Store:
    """The datasets in ``folder``, by default that in :func:`erl_bridge.home.home`."""

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder or os.path.join(home(), "datasets")

    # -- reading -------------------------------------------------------------------------------------------------

    def open(self, dataset_id: Any, path: str = "dataset") -> Rows:
        """The rows of a dataset. ``path`` is where its id was given.

        Raises :class:`InvalidRequest` when it is not there, :class:`TransferError` when its file is damaged.
        """
        if not is_id(dataset_id):
            raise invalid(path, "the id of a dataset, 64 hexadecimal digits", dataset_id)
        name = self._name(dataset_id)
        try:
            rows = Rows(os.open(name, os.O_RDONLY), lambda what: self._set_aside(dataset_id, path, what))
            os.utime(name)  # from now on it is locked; before, it may have been evicted
        except FileNotFoundError:
            raise unknown(dataset_id, path) from None
        return rows

    def find(self, dataset_id: str) -> Facts | None:
        """What a dataset is, or None if it is not there or damaged. It counts as used now."""
        try:
            with contextlib.closing(self.open(dataset_id)) as rows:
                return rows.facts
        except BridgeError:
            return None

    def verify(self, dataset_id: str) -> None:
        """Read all of a dataset. Raises :class:`TransferError` when its file is damaged, which is then set aside."""
        digest = hashlib.sha256()
        with contextlib.closing(self.open(dataset_id)) as rows:
            for term in rows.terms():
                digest.update(term[6:-1])
        if digest.hexdigest() != dataset_id:
            self._set_aside(dataset_id, "dataset", "its rows are not those of its id")

    def entries(self) -> list[Entry]:
        """The files of the store in the order in which they are evicted: damaged ones, then what was not used long."""
        found = []
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as files:
            for file in files:
                dataset_id, kind = os.path.splitext(file.name)
                if kind in (_WHOLE, _DAMAGED) and is_id(dataset_id):
                    with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                        stat = file.stat()
                        found.append(Entry(dataset_id, kind == _DAMAGED, stat.st_size, stat.st_mtime))
        return sorted(found, key=lambda entry: (not entry.damaged, entry.used))

    def facts(self, entry: Entry) -> Facts | None:
        """What is in a file, or None if that is not known. It does not count as a use."""
        try:
            with open(self._file(entry), "rb") as file:
                return read_index(file.fileno()).facts
        except (Damage, OSError):
            return None

    def in_use(self, entry: Entry) -> bool:
        """Whether some process reads the file now."""
        return not self._alone(entry, lambda path: None)

    # -- changing ------------------------------------------------------------------------------------------------

    def make(self) -> None:
        """Make the folder. What clients sent is nobody else's business. Raises OSError."""
        os.makedirs(self.folder, mode=0o700, exist_ok=True)

    def adopt(self, path: str, facts: Facts, limit: int) -> None:
        """Make the finished file at ``path``, in the same file system, that of a dataset, and make room for it.

        Raises :class:`ResourceExhausted` when the store would exceed ``limit`` bytes (0: no limit) with what is in use.
        """
        if self.find(facts.dataset_id) is not None:
            os.unlink(path)
            return
        if limit:
            self._make_room(os.stat(path).st_size, limit)
        os.rename(path, self._name(facts.dataset_id))
        # Its content is on the disk. That it has its name will be so in a moment; nobody waits for that, who would only
        # have to send it again.
        threading.Thread(target=_sync_folder, args=(self.folder,), name="sync", daemon=True).start()

    def remove(self, entry: Entry) -> bool:
        """Remove a file; False when it is in use."""
        return self._alone(entry, os.unlink)

    def _make_room(self, wanted: int, limit: int) -> None:
        entries = self.entries()
        total = wanted + sum(entry.file_bytes for entry in entries)
        for entry in entries:
            if total <= limit:
                return
            if self.remove(entry):
                total -= entry.file_bytes
        if total > limit:
            raise no_room(
                f"with this dataset the store would hold {total} bytes that are in use, and its limit is {limit}; "
                "raise --dataset-store, or use fewer datasets at once"
            )

    def _alone(self, entry: Entry, change: Any) -> bool:
        """Call ``change`` with the path of a file that nobody reads; False when somebody does."""
        path = self._file(entry)
        try:
            fd = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                change(path)
        except BlockingIOError:
            return False
        finally:
            os.close(fd)
        return True

    def _set_aside(self, dataset_id: str, path: str, what: str) -> NoReturn:
        name = self._name(dataset_id)
        with contextlib.suppress(FileNotFoundError):  # another process was first
            os.rename(name, name.removesuffix(_WHOLE) + _DAMAGED)
        raise damaged(dataset_id, path, what)

    def _name(self, dataset_id: str) -> str:
        return os.path.join(self.folder, dataset_id + _WHOLE)

    def _file(self, entry: Entry) -> str:
        return os.path.join(self.folder, entry.dataset_id + (_DAMAGED if entry.damaged else _WHOLE))


def is_id(value: object) -> bool:
    """Whether a value looks like the id of a dataset.

    >>> is_id("0a" * 32), is_id("../" * 32)
    (True, False)
    """
    return isinstance(value, str) and len(value) == 64 and _DIGITS.issuperset(value)


def _sync_folder(folder: str) -> None:
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
