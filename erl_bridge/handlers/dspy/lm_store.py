"""Keeps every answer of a language model on disk, so that none is paid for twice.

The same request gets the same answer again: after a crash, a cancel or a reboot an optimization replays what it has and
goes on from there. Many processes share the file; a process that is killed leaves nothing behind that others wait for.

Rule of this file: it is SQLite and JSON, nothing is unpickled, and a file that cannot be used costs a warning and never
an answer. It does not import DSPy.

The file is ``answers.sqlite3`` in :func:`erl_bridge.home.home`. ``ERL_BRIDGE_ANSWERS_BYTES`` bounds what all answers
together may take (1 GiB); past it the least recently used go. ``ERL_BRIDGE_ANSWERS_DAYS`` is how long one is given
(30); a request may ask for less. A power failure can cost the answers of the last moments, a crash of a process none.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Any

from ...home import home

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FILE, LOCKS = "answers.sqlite3", "answers.lock"
MAX_BYTES = 1 << 30
MAX_DAYS = 30.0
DAY = 86400.0
_BUSY = 30.0  # seconds to wait for another process that writes
_LOOK_AFTER = 0.01  # of the limit, kept between two looks at how much there is
_KEPT_OF_FULL = 0.9  # how much of the limit is left when answers had to go
_TOUCHED = 3600.0  # seconds for which an answer counts as just used: a read is no write then
_FIRST_WAIT, _LONGEST_WAIT = 0.002, 0.05  # seconds between two looks at an answer that somebody else is asking for

_SCHEMA = """
create table if not exists answers (
  key blob primary key, made real not null, used real not null, bytes integer not null, answer text not null
) without rowid;
create index if not exists by_use on answers (used, bytes);
"""

logger = logging.getLogger(__name__)


def key_of(request: Any) -> bytes:
    """What an answer is kept under: a digest of everything that shapes it, a value of JSON.

    >>> key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
    True

    Raises TypeError or ValueError for what JSON cannot hold.
    """
    return hashlib.sha256(json.dumps(request, sort_keys=True, allow_nan=False).encode()).digest()


class Store:
    """The answers in one folder. Safe to use from many threads and processes; opened when first used, after a fork."""

    def __init__(
        self,
        folder: str,
        *,
        max_bytes: int = MAX_BYTES,
        max_age: float = MAX_DAYS * DAY,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._clock = clock
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._until_look = 0.0
        self._broken = False
        self._asking: set[bytes] = set()
        self._locks: int | None = None

    def get(self, key: bytes, max_age: float | None = None) -> Any:
        """The answer kept under ``key``, None if there is none; none older than ``max_age`` seconds."""
        now = self._clock()
        oldest = now - min(self._max_age, self._max_age if max_age is None else max_age)

        def read(connection: sqlite3.Connection) -> Any:
            found = connection.execute("select answer, made, used from answers where key = ?", (key,)).fetchone()
            if found is None or found[1] < oldest:
                return None
            if found[2] < now - _TOUCHED:
                connection.execute("update answers set used = ? where key = ?", (now, key))
            return json.loads(found[0])

        return self._with(read)

    def put(self, key: bytes, answer: Any) -> None:
        """Keep ``answer``, a value of JSON, under ``key``."""
        text = json.dumps(answer, ensure_ascii=True)
        now = self._clock()

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("replace into answers values (?, ?, ?, ?, ?)", (key, now, now, len(text), text))
            self._until_look -= len(text)
            if self._until_look < 0:
                self._until_look = _LOOK_AFTER * self._max_bytes
                self._make_room(connection, now)

        self._with(write)

    def clear(self) -> int:
        """Forget every answer, and give the room back to the disk. Returns how many there were."""

        def erase(connection: sqlite3.Connection) -> int:
            gone = connection.execute("delete from answers").rowcount
            connection.execute("vacuum")
            return gone

        return self._with(erase) or 0

    def stats(self) -> dict[str, Any]:
        """``{"path", "answers", "bytes", "max_bytes", "oldest_s"}``; ``oldest_s`` is None when there is none."""

        def count(connection: sqlite3.Connection) -> tuple[int, int, float | None]:
            row = connection.execute("select count(*), coalesce(sum(bytes), 0), min(made) from answers").fetchone()
            return row[0], row[1], row[2]

        answers, size, made = self._with(count) or (0, 0, None)
        return {
            "path": os.path.join(self._folder, FILE),
            "answers": answers,
            "bytes": size,
            "max_bytes": self._max_bytes,
            "oldest_s": None if made is None else max(0, round(self._clock() - made)),
        }

    @contextlib.contextmanager
    def asking(self, key: bytes, wait: Callable[[float], None]) -> Iterator[None]:
        """Be the only one, in all processes, who asks for the answer to ``key``.

        ``wait`` sleeps so many seconds, and raises when the work is to end. A process that dies asks no more.
        """
        offset = int.from_bytes(key[:7], "big")
        pause = _FIRST_WAIT
        while not self._begin_asking(key, offset):
            wait(pause)
            pause = min(2 * pause, _LONGEST_WAIT)
        try:
            yield
        finally:
            with self._lock:
                self._asking.discard(key)
                if self._locks is not None:
                    fcntl.lockf(self._locks, fcntl.LOCK_UN, 1, offset)

    def close(self) -> None:
        """Close the files; they are opened again when needed. Nobody may be asking."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            if self._locks is not None:
                os.close(self._locks)
                self._locks = None

    def _begin_asking(self, key: bytes, offset: int) -> bool:
        """Locks of POSIX belong to processes, so the threads of one are told apart by a set."""
        with self._lock:
            if key in self._asking:
                return False
            try:
                if self._locks is None:
                    os.makedirs(self._folder, mode=0o700, exist_ok=True)
                    self._locks = os.open(os.path.join(self._folder, LOCKS), os.O_RDWR | os.O_CREAT, 0o600)
                fcntl.lockf(self._locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
            except BlockingIOError:
                return False
            except OSError as error:  # no such folder, or no locks there: asked twice is better than not at all
                self._warn(error)
            self._asking.add(key)
            return True

    def _make_room(self, connection: sqlite3.Connection, now: float) -> None:
        connection.execute("delete from answers where made < ?", (now - self._max_age,))
        size = connection.execute("select coalesce(sum(bytes), 0) from answers").fetchone()[0]
        if size <= self._max_bytes:
            return
        too_much = size - _KEPT_OF_FULL * self._max_bytes
        connection.execute(
            """delete from answers where key in (select key from (
                 select key, sum(bytes) over (order by used, key) - bytes as before from answers) where before < ?)""",
            (too_much,),
        )

    def _with(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        """What ``work`` returns for the open file; None, and a warning, where the file cannot be used."""
        with self._lock:
            if self._broken:
                return None
            try:
                if self._connection is None:
                    self._connection = self._open()
                return work(self._connection)
            except (sqlite3.Error, OSError) as error:
                self._warn(error)
                return None

    def _warn(self, error: Exception) -> None:
        if not self._broken:
            logger.warning("answers of language models are not kept: %s: %s", os.path.join(self._folder, FILE), error)
        self._broken = not isinstance(error, sqlite3.OperationalError)  # busy or full: may be over next time

    def _open(self) -> sqlite3.Connection:
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        path = os.path.join(self._folder, FILE)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # answers are for nobody else to read
        connection = sqlite3.connect(path, timeout=_BUSY, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("pragma journal_mode = wal")
            connection.execute("pragma synchronous = normal")
            connection.execute("pragma cache_size = -256")  # KiB, in each of many processes; the system caches, too
            connection.executescript(_SCHEMA)
        except BaseException:
            connection.close()
            raise
        return connection


def default() -> Store:
    """The store of this machine, as the environment says."""
    size = _number("ERL_BRIDGE_ANSWERS_BYTES", MAX_BYTES)
    days = _number("ERL_BRIDGE_ANSWERS_DAYS", MAX_DAYS)
    folder = home()
    if (folder, size, days) not in _STORES:
        _STORES[folder, size, days] = Store(folder, max_bytes=int(size), max_age=days * DAY)
    return _STORES[folder, size, days]


_STORES: dict[tuple[str, float, float], Store] = {}


def _number(name: str, otherwise: float) -> float:
    try:
        return max(0.0, float(os.environ.get(name) or otherwise))
    except ValueError:
        logger.warning("%s is no number, so it is taken as %s", name, otherwise)
        return otherwise
