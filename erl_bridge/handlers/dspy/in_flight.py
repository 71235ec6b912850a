"""Lets calls of the language model that are under way come home when the process is to end.

What a provider has begun to answer is paid for. A job that is cancelled or out of time begins no new call, but takes
the answers that still come within :data:`GRACE`, so that they are kept and the next run need not ask again. The process
is killed a little later whatever happens here.

Rule of this file: nothing waits longer than :data:`GRACE`.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import TYPE_CHECKING, Any

from ...errors import Stopped

if TYPE_CHECKING:
    from collections.abc import Iterator

GRACE = 0.06  # seconds; SIGKILL comes 0.1 s after SIGTERM

_changed = threading.Condition()
_under_way = 0
_closed = False


@contextlib.contextmanager
def call() -> Iterator[None]:
    """A call of the model, and the keeping of its answer. Raises :class:`Stopped` when no new call may begin."""
    global _under_way
    with _changed:
        if _closed:
            raise Stopped
        _under_way += 1
    try:
        with _uninterrupted():
            yield
    finally:
        with _changed:
            _under_way -= 1
            _changed.notify_all()


def come_home() -> None:
    """Begin no call any more, and wait until those under way have ended, or for :data:`GRACE`."""
    global _closed
    with _changed:
        _closed = True
        _changed.wait_for(lambda: _under_way == 0, GRACE)
        _closed = False


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """In the main thread a SIGTERM that comes meanwhile is heard at the end of the block, or after :data:`GRACE`."""
    handler = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    heard: list[Any] = []

    def hear(*arguments: Any) -> None:
        heard.append(arguments)
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, GRACE)

    signal.signal(signal.SIGTERM, hear)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
        if heard:
            signal.setitimer(signal.ITIMER_REAL, 0)
            handler(*heard[0])
