"""One connection to another node: bytes in, signals out of them; signals to send, bytes out.

Rule of this file: what is not right about the bytes that come costs this connection and nothing else. What is to go
waits in a queue that any thread may add to and that nobody waits for while holding a lock.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections import deque
from threading import get_ident

from ..framing import FrameReader, Oversized
from ..node_state.processes import TooMany
from ..wire import dist
from ..wire.dist import TICK, DistError, Receiver

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from ..terms import Atom
    from ..wire.dist import Signal
    from ..wire.handshake import Peer
    from .loop import Loop
    from .meet import Met

    Part = bytes | memoryview

READ_SIZE = 256 * 1024
SMALL = 64 * 1024  # bytes of answers that are not held back for more
_AT_ONCE = 8 * 1024 * 1024  # bytes written before others get their turn
_MAX_PARTS = 64  # in one call to the system
_OVERHEAD = 64 * 1024  # bytes of a frame that are not its message
_LOOKS = 4  # of the ticker without a byte, after which the other node is taken for gone


class Plain:
    """Reads and writes a socket that does not block."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def read(self) -> bytes | None:
        """What is there; None when nothing is, empty at the end. Raises OSError."""
        try:
            return self._socket.recv(READ_SIZE)
        except BlockingIOError:
            return None

    def write(self, parts: list[Part]) -> int:
        """Write of these parts what goes: how many bytes. Raises OSError."""
        try:
            return self._socket.sendmsg(parts) if len(parts) > 1 else self._socket.send(parts[0])
        except BlockingIOError:
            return 0

    def has_more(self) -> bool:
        """Whether there are bytes that the system does not know of."""
        return False


class Encrypted:
    """The same over TLS, which is not made for two threads at once."""

    def __init__(self, sock: Any) -> None:
        import ssl

        self._socket = sock
        self._lock = threading.Lock()
        self._not_now = ssl.SSLWantReadError, ssl.SSLWantWriteError

    def read(self) -> bytes | None:
        with self._lock:
            try:
                return self._socket.recv(SMALL)  # type: ignore[no-any-return]
            except self._not_now:
                return None

    def write(self, parts: list[Part]) -> int:
        data = b"".join(parts) if len(parts) > 1 else parts[0]
        with self._lock:
            try:
                return self._socket.send(data)  # type: ignore[no-any-return]
            except self._not_now:
                return 0

    def has_more(self) -> bool:
        with self._lock:
            return bool(self._socket.pending())


class Connection:
    """A connection that is up. ``on_signal`` and ``on_end`` are called in the thread of the loop.

    ``max_message`` is the size of the largest message that is read; ``max_queued`` are the bytes that may wait to go:
    beyond them nothing more is read, and :attr:`is_full` tells who asks.
    """

    def __init__(
        self,
        met: Met,
        node: Atom,
        flags: int,
        loop: Loop,
        *,
        max_message: int,
        max_queued: int,
        on_signal: Callable[[Connection, Signal], None],
        on_end: Callable[[Connection, str], None],
    ) -> None:
        self.peer: Peer = met.peer
        self.node = node
        self.flags = flags
        self.closed = False
        self.ended = threading.Event()
        self._loop = loop
        self._socket = met.socket
        self._socket.setblocking(False)
        self._pipe = Encrypted(met.socket) if hasattr(met.socket, "pending") else Plain(met.socket)
        self._rest = met.rest
        self._frames = FrameReader(max_message + _OVERHEAD)
        self._receiver = Receiver(node, flags, max_message)
        self._on_signal = on_signal
        self._on_end = on_end
        self._max_queued = max_queued
        self._changed = threading.Condition(threading.Lock())
        self._queue: deque[Part] = deque()
        self._queued = 0
        self._sequence = 0
        self._events = select.POLLIN
        self._flush_is_due = False
        self._has_written = False
        self._has_read = False
        self._silent = 0

    # -- in the thread of the loop ---------------------------------------------------------------------------------

    def begin(self) -> None:
        """Serve what has come already, and from now on what comes."""
        self._loop.watch(self._socket.fileno(), self, self._events)
        if self._rest:
            self._take(self._rest)

    def on_ready(self, event: int) -> None:
        """Read and write what can be."""
        if event & select.POLLOUT:
            self._flush()
        if event & ~select.POLLOUT and not self.closed:
            self._read()

    def end(self, reason: str) -> None:
        """Close the connection."""
        if self.closed:
            return
        with self._changed:
            self.closed = True
            self._queue.clear()
            self._queued = 0
            self._changed.notify_all()
        self._loop.forget(self._socket.fileno())
        self._socket.close()
        self._on_end(self, reason)
        self.ended.set()

    def _read(self) -> None:
        if self.is_full:
            self._watch()  # no more requests until answers have gone
            return
        try:
            data = self._pipe.read()
            while data:
                self._has_read = True
                self._take(data)
                data = self._pipe.read() if self._pipe.has_more() and not self.closed else None
        except OSError as error:
            self.end(f"the connection broke: {error}")
            return
        if data is not None:
            self.end("the other node closed the connection")

    def _take(self, data: bytes) -> None:
        try:
            for frame in self._frames.feed(data):
                if frame == b"":
                    self.tick()
                elif isinstance(frame, Oversized):
                    self._log(f"a message of {frame.length} bytes is over the limit of {frame.limit} and was skipped")
                elif (signal := self._receiver.receive(frame)) is not None:
                    self._on_signal(self, signal)
                if self.closed:
                    return
        except (DistError, TooMany) as error:
            self._log(f"the connection is given up: {error}")
            self.end(f"it broke the protocol: {error}")
        except Exception as error:
            import traceback

            traceback.print_exception(error)
            self.end(f"a fault of this node: {error!r}")

    def _log(self, message: str) -> None:
        import logging

        logging.getLogger("erl_bridge.node").warning("%s: %s", self.peer.name, message)

    def _flush(self) -> None:
        self._flush_is_due = False
        with self._changed:
            self._write()

    def _watch(self) -> None:
        """Wait for what there is to wait for now."""
        if self.closed:
            return
        events = (0 if self.is_full else select.POLLIN) | (select.POLLOUT if self._queue else 0)
        if events != self._events:
            self._events = events
            self._loop.watch(self._socket.fileno(), self, events)

    # -- in any thread ---------------------------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """True while so much waits to go that nothing should be added but what must."""
        return self._queued > self._max_queued

    def wait_for_room(self, seconds: float) -> bool:
        """Wait until the queue is not full any more, or the connection has ended; False after so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self.closed or not self.is_full, seconds)

    def send(self, control: bytes, payload: bytes = b"") -> None:
        """Send a signal, given as external terms; to a connection that has ended it does nothing."""
        with self._changed:
            self._sequence += 1
            self._add(dist.frames(self.flags, control, payload, self._sequence))

    def tick(self) -> None:
        """Tell the other node that this one lives, unless there is something else on its way to it."""
        with self._changed:
            if not self._queue:
                self._add([TICK])

    def look(self) -> None:
        """What is done every quarter of the tick time: tick where nothing was written, end what was silent."""
        if not self._has_written:
            self.tick()
        self._has_written = False
        self._silent = 0 if self._has_read else self._silent + 1
        self._has_read = False
        if self._silent > _LOOKS and not self._has_unread():
            self._loop.call(lambda: self.end("it did not tick"))

    def _has_unread(self) -> bool:
        """Whether bytes have come that the loop has not read, being at work."""
        poll = select.poll()
        try:
            poll.register(self._socket.fileno(), select.POLLIN)
        except (OSError, ValueError):
            return False
        return any(event & select.POLLIN for _, event in poll.poll(0))

    def _add(self, parts: Iterable[Part]) -> None:
        if self.closed:
            return
        for part in parts:
            self._queue.append(part)
            self._queued += len(part)
        if self._events & select.POLLOUT:
            return  # it goes when there is room for it
        if get_ident() != self._loop.thread or self._queued >= SMALL:
            self._write()
        elif not self._flush_is_due:
            self._flush_is_due = True
            self._loop.after(self._flush)

    def _write(self) -> None:
        """Write what goes without waiting. The lock is held."""
        if self.closed:
            return
        at_once = 0
        try:
            while self._queue and at_once < _AT_ONCE:
                parts, size = self._next_parts()
                written = self._pipe.write(parts)
                at_once += written
                self._remove(written)
                if written < size:
                    break
        except OSError as error:
            reason = f"the connection broke: {error}"
            self._loop.call(lambda: self.end(reason))
            return
        self._has_written = self._has_written or at_once > 0
        if self._max_queued >= self._queued:
            self._changed.notify_all()
        if bool(self._queue) != bool(self._events & select.POLLOUT):
            self._in_loop(self._watch)

    def _next_parts(self) -> tuple[list[Part], int]:
        parts, size = [], 0
        for part in self._queue:
            parts.append(part)
            size += len(part)
            if size >= SMALL or len(parts) == _MAX_PARTS:
                break
        return parts, size

    def _remove(self, written: int) -> None:
        self._queued -= written
        queue = self._queue
        while written:
            part = queue[0]
            if written < len(part):
                queue[0] = memoryview(part)[written:]
                return
            written -= len(part)
            queue.popleft()

    def _in_loop(self, function: Callable[[], object]) -> None:
        if get_ident() == self._loop.thread:
            function()
        else:
            self._loop.call(function)


class Ticker:
    """A thread of its own that looks at all connections four times in each tick time; user code cannot hold it up."""

    def __init__(self, tick_time: float, connections: Callable[[], list[Connection]]) -> None:
        self._interval = tick_time / _LOOKS
        self._connections = connections
        self._closed = threading.Event()
        threading.Thread(target=self._run, name="ticks", daemon=True).start()

    def close(self) -> None:
        """Look no more."""
        self._closed.set()

    def _run(self) -> None:
        due = time.monotonic() + self._interval
        while not self._closed.wait(max(0.0, due - time.monotonic())):
            due += self._interval
            for connection in self._connections():
                connection.look()
