"""One connection to another node: bytes in, signals out of them; signals to send, bytes out.

Rule of this file: what is not right about the bytes that come costs this connection and nothing else. What is to go
waits in a queue that any thread may add to and that nobody waits for while holding a lock.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from select import POLLIN, POLLOUT, poll
from threading import get_ident

from .. import etf
from ..framing import HEADER, FrameReader, Oversized, header
from ..node_state.processes import MAX_WATCHERS, TooMany
from ..wire import dist
from ..wire.dist import TICK, DistError, Receiver
from ..wire.shortcuts import BEGINNING, NEEDS, SIZE, Shortcuts

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
    OnCall = Callable[["Connection", bytes, int, int, tuple[bytes, bytes, bytes]], bool]

READ_SIZE, LARGE_READ = 64 * 1024, 1024 * 1024  # bytes; the second while a large message comes in
SMALL = 64 * 1024  # bytes of answers that are not held back for more
_AT_ONCE = 8 * 1024 * 1024  # bytes written before others get their turn
_MOST_EVENTS = 1024 * 1024  # bytes that may wait to go before another event does
_MAX_PARTS = 64  # in one call to the system
_OVERHEAD = 64 * 1024  # bytes of a frame that are not its message
LARGE = 32 * 1024 * 1024  # bytes of a message whose memory is given back
_LOOKS = 4  # of the ticker without a byte, after which the other node is taken for gone


class Plain:
    """Reads and writes a socket that does not block."""

    hides_bytes = False  # there may be some to read that the system does not know of

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._size = READ_SIZE

    def read(self) -> bytes | None:
        """What is there; None when nothing is, empty at the end. Raises OSError."""
        try:
            data = self._socket.recv(self._size)
        except BlockingIOError:
            return None
        self._size = READ_SIZE if len(data) < READ_SIZE else LARGE_READ
        return data

    def write(self, parts: list[Part]) -> int:
        """Write of these parts what goes: how many bytes. Raises OSError."""
        try:
            return self._socket.sendmsg(parts) if len(parts) > 1 else self._socket.send(parts[0])
        except BlockingIOError:
            return 0

    def has_more(self) -> bool:
        """Whether there are such bytes now."""
        return False


class Encrypted:
    """The same over TLS, which is not made for two threads at once."""

    hides_bytes = True

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

    Calls to the process of the name ``shortcut``, which is always there, are found by their bytes
    (:mod:`erl_bridge.wire.shortcuts`) and given to ``on_call(connection, data, start, end, (caller, tag, alias))``,
    which is told where the request is, and three terms. If it returns False they go the way of other signals. Who
    monitors that process by its name is in :attr:`watchers`, as bytes.

    ``max_message`` is the size of the largest message that is read; ``max_queued`` are the bytes that may wait to go:
    beyond them nothing more is read, and :attr:`is_full` tells who asks. Events wait much earlier
    (:meth:`wait_for_room`): a stream that is faster than its reader must leave room for what answers others, and for
    the cancel that ends it.
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
        shortcut: Atom,
        on_call: OnCall,
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
        self._shortcuts = Shortcuts(node, shortcut, flags) if flags & NEEDS == NEEDS else None
        self._find: Callable[[bytes, int], Any] | None = self._shortcuts.find if self._shortcuts is not None else None
        self.answers = self._shortcuts.answers if self._shortcuts is not None else (b"", False)
        self.watchers: set[bytes] = set()
        self._on_call = on_call
        self._on_signal = on_signal
        self._on_end = on_end
        self._max_queued = max_queued
        self._most_events = min(max_queued, _MOST_EVENTS)
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiting = 0  # for room, in other threads
        self._queue: deque[Part] = deque()
        self._queued = 0
        self._sequence = 0
        self._events = POLLIN
        self._flush_is_due = False
        self._has_written = False
        self._has_read = False
        self._silent = 0
        self._large_looks = 0

    # -- in the thread of the loop ---------------------------------------------------------------------------------

    def begin(self) -> None:
        """Serve what has come already, and from now on what comes."""
        self._loop.watch(self._socket.fileno(), self, self._events)
        if self._rest:
            self._take(self._rest)

    def on_ready(self, event: int) -> None:
        """Read and write what can be."""
        if event != POLLIN and event & POLLOUT:
            self._flush()
        if event != POLLOUT and not self.closed:
            self._read()

    def end(self, reason: str) -> None:
        """Close the connection."""
        if self.closed:
            return
        with self._lock:
            self.closed = True
            self._queue.clear()
            self._queued = 0
            self._changed.notify_all()
        self._loop.forget(self._socket.fileno())
        self._socket.close()
        self._on_end(self, reason)
        self.ended.set()

    def _read(self) -> None:
        if self._queued > self._max_queued:
            self._watch()  # no more requests until answers have gone
            return
        pipe = self._pipe
        try:
            data = pipe.read()
            while data:
                self._has_read = True
                self._flush_is_due = True  # here, so that it is not to be asked for
                self._take(data)
                self._flush_is_due = False
                if self._queue:
                    self._flush()
                data = pipe.read() if pipe.hides_bytes and pipe.has_more() and not self.closed else None
        except OSError as error:
            self.end(f"the connection broke: {error}")
            return
        if data is not None:
            self.end("the other node closed the connection")

    def _take(self, data: bytes) -> None:
        try:
            if not self._frames.begun and (served := self._take_calls(data)):
                if served == len(data) or self.closed:
                    return
                data = data[served:]
            for frame in self._frames.feed(data):
                if type(frame) is not bytes:
                    self._skipped(frame)
                elif not frame:
                    self.tick()
                elif not frame.startswith(BEGINNING) or not self._take_calls(header(frame) + frame):
                    signal = self._receiver.receive(frame)
                    if signal is not None:
                        self._note_size(len(signal.data))
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

    def _take_calls(self, data: bytes) -> int:
        """Serve what calls send, as far as ``data`` begins with that; how many bytes it is."""
        find, watchers, start, size, calls = self._find, self.watchers, 0, len(data), 0
        while find is not None and start < size and not self.closed:
            found = find(data, start)
            undone, watched, length, caller, tag, alias = found.groups()
            if undone is not None:
                watchers.discard(undone)
            if watched is not None:
                if len(watchers) >= MAX_WATCHERS:
                    raise TooMany(f"more than {MAX_WATCHERS} monitors")
                watchers.add(watched)
            if length is None:
                if found.end() == start:
                    break
                start = found.end()
                continue
            start = found.start(SIZE)
            end = start + HEADER + int.from_bytes(length)
            if end > size or not self._on_call(self, data, found.end(), end, (caller, tag, alias)):
                break
            start = end
            calls += 1
        if calls > 1:
            self._loop.is_crowded = True
        return start

    def _skipped(self, frame: bytes | Oversized) -> None:
        assert isinstance(frame, Oversized)
        self._log(f"a message of {frame.length} bytes is over the limit of {frame.limit} bytes and was skipped")

    def _log(self, message: str) -> None:
        import logging

        logging.getLogger("erl_bridge.node").warning("%s: %s", self.peer.name, message)

    def _flush(self) -> None:
        self._flush_is_due = False
        with self._lock:
            if self._queue:
                self._write()

    def _watch(self) -> None:
        """Wait for what there is to wait for now."""
        if self.closed:
            return
        events = (0 if self.is_full else POLLIN) | (POLLOUT if self._queue else 0)
        if events != self._events:
            self._events = events
            self._loop.watch(self._socket.fileno(), self, events)

    # -- in any thread ---------------------------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """True while so much waits to go that nothing should be added but what must."""
        return self._queued > self._max_queued

    @property
    def has_room(self) -> bool:
        """False while so much waits to go that an event is to wait too."""
        return self.closed or self._queued <= self._most_events

    def wait_for_room(self, seconds: float) -> None:
        """Wait until there is room for an event, or the connection has ended, but no longer than so many seconds."""
        with self._lock:
            self._waiting += 1
            try:
                self._changed.wait_for(lambda: self.has_room, seconds)
            finally:
                self._waiting -= 1

    def send(self, kind: str, args: tuple[Any, ...], payload: bytes = b"") -> None:
        """Send a signal as the other node knows it, if it does; where the connection has ended it does nothing.

        The kinds and arguments are those of :func:`erl_bridge.wire.dist.control`; ``payload`` is an external term.
        """
        built = dist.control(self.flags, kind, args)
        if built is None:
            return
        control, with_reason = built
        if with_reason:
            payload = etf.encode(args[-1])
        self._send(etf.encode(control), payload)

    def answer(self, sender: bytes, caller: bytes, tag: bytes, alias: bytes, result: bytes) -> None:
        """Send the answer to a call that was found; ``result`` is an external term, the others are without versions.

        To a node that has come back as another version, and so waits for nothing, nothing is sent.
        """
        if self._shortcuts is not None:
            self._send(self._shortcuts.answer_head(sender, caller, tag, alias), result)

    def add(self, frame: bytes) -> None:
        """Send a whole frame, its length included."""
        with self._lock:
            self._add((frame,))

    def _send(self, head: bytes, payload: bytes) -> None:
        with self._lock:
            self._note_size(len(payload))
            self._sequence += 1
            self._add(dist.frames(self.flags, head, payload, self._sequence))

    def tick(self) -> None:
        """Tell the other node that this one lives, unless there is something else on its way to it."""
        with self._lock:
            if not self._queue:
                self._add([TICK])

    def look(self) -> bool:
        """What is done every quarter of the tick time: tick where nothing was written, end what was silent.

        True when something large has come or gone of late, whose memory could be given back.
        """
        if not self._has_written:
            self.tick()
        self._has_written = False
        self._silent = 0 if self._has_read else self._silent + 1
        self._has_read = False
        if self._silent > _LOOKS and not self._has_unread():
            self._loop.call(lambda: self.end("it did not tick"))
        if not self._large_looks or self._queue:
            return False
        self._large_looks -= 1
        return True

    def _note_size(self, size: int) -> None:
        if size >= LARGE:
            self._large_looks = _LOOKS  # at the first of them its handler may still have it

    def _has_unread(self) -> bool:
        """Whether bytes have come that the loop has not read, being at work."""
        look = poll()
        try:
            look.register(self._socket.fileno(), POLLIN)
        except (OSError, ValueError):
            return False
        return any(event & POLLIN for _, event in look.poll(0))

    def _add(self, parts: Iterable[Part]) -> None:
        if self.closed:
            return
        for part in parts:
            self._queue.append(part)
            self._queued += len(part)
        if self._events & POLLOUT:
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
        queue, at_once = self._queue, 0
        try:
            while queue and at_once < _AT_ONCE:
                parts, size = self._next_parts()
                written = self._pipe.write(parts)
                at_once += written
                self._queued -= written
                if written < size:
                    self._remove(written)
                    break
                for _ in parts:
                    queue.popleft()
        except OSError as error:
            reason = f"the connection broke: {error}"
            self._loop.call(lambda: self.end(reason))
            return
        if at_once:
            self._has_written = True
        if self._waiting and self.has_room:
            self._changed.notify_all()
        if bool(queue) != bool(self._events & POLLOUT):
            self._in_loop(self._watch)

    def _next_parts(self) -> tuple[list[Part], int]:
        if len(self._queue) == 1:
            return [self._queue[0]], self._queued
        parts, size = [], 0
        for part in self._queue:
            parts.append(part)
            size += len(part)
            if size >= SMALL or len(parts) == _MAX_PARTS:
                break
        return parts, size

    def _remove(self, written: int) -> None:
        """Let go of what has been written, where that was not all."""
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
    """A thread of its own that looks at all connections four times in each tick time; user code cannot hold it up.

    ``release`` is called after something large has come or gone.
    """

    def __init__(
        self, tick_time: float, connections: Callable[[], list[Connection]], release: Callable[[], object]
    ) -> None:
        self._release = release
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
            looks = [connection.look() for connection in self._connections()]
            if any(looks):
                self._release()
