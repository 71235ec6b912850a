"""Threads that handlers run in, a lane for each kind, so that waiting jobs never hold up quick handlers.

Rule of this file: a lane is bounded; what does not fit waits in line, in order.
"""

from __future__ import annotations

import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import ThreadPoolExecutor
    from typing import Any


class Lane:
    """At most ``size`` pieces of work at once; :attr:`running` and :attr:`waiting` count them."""

    def __init__(self, name: str, size: int) -> None:
        self.running = 0
        self.waiting = 0
        self._name = name
        self._size = size
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def submit(self, function: Callable[[Any], None], work: Any) -> None:
        """Call ``function(work)`` in a thread of the lane as soon as one is free."""
        with self._lock:
            self.waiting += 1
            if self._pool is None:
                from concurrent.futures import ThreadPoolExecutor  # 20 ms to import, too slow to do before hello

                self._pool = ThreadPoolExecutor(self._size, thread_name_prefix=self._name)
        self._pool.submit(self._run, function, work)

    def _run(self, function: Callable[[Any], None], work: Any) -> None:
        with self._lock:
            self.waiting -= 1
            self.running += 1
        try:
            function(work)
        finally:
            with self._lock:
                self.running -= 1
