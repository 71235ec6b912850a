"""Inside a job process: requests from the bridge, one after the other, and their results back.

Rule of this file: the handler runs in the main thread, where signals arrive. Somebody reads whenever something may come
that cannot wait: answers to calls, or, where no other way is left to learn that the bridge is gone, the end.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from .. import etf
from ..context import Context
from ..error_map import error_map, from_exception
from ..errors import BridgeError, SerializationError, Stopped
from ..vocabulary import VOCABULARY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Set

    from ..app import Handler
    from ..terms import Atom
    from .channel import Channel

    Handlers = Mapping[str, Handler]
else:
    Handlers = dict


_ENDS_WITH_TEMPLATE = sys.platform == "linux"  # which ends with the bridge; elsewhere it may be killed before its jobs


class Atoms:
    """The atoms that the request at work may send: the vocabulary, those that came with it, and those that come later.

    ``allowed`` is one set for all requests: to make a union with the vocabulary takes as long as to encode a reply.
    """

    def __init__(self) -> None:
        self.allowed = set(VOCABULARY)
        self._own: set[Atom] = set()

    def begin(self, atoms: Set[Atom]) -> None:
        """A request came, and these in it; those of the last one are no more."""
        self.allowed -= self._own
        self._own = set()
        self.add(atoms)

    def add(self, atoms: Set[Atom]) -> None:
        """These came in an answer to a call, or in a dataset."""
        own = atoms - VOCABULARY
        self._own |= own
        self.allowed |= own


class JobOutlet:
    """Sends what a context has to say to the bridge. See :class:`erl_bridge.context.Outlet`."""

    def __init__(self, channel: Channel, atoms: Atoms, listen: Callable[[], None]) -> None:
        self._channel = channel
        self._atoms = atoms
        self._listen = listen  # called before anything that is answered

    def event(self, event: dict[Any, Any]) -> None:
        self._channel.send("event", event, atoms=self._atoms.allowed)

    def call(self, call_id: int, name: Any, args: list[Any]) -> None:
        self._listen()
        self._channel.send("call", call_id, name, args, atoms=self._atoms.allowed)

    def checkpoint(self, best: Any) -> None:
        self._channel.send("checkpoint", best, atoms=self._atoms.allowed)

    def on_node(self, call_id: int, what: str, to: Any, message: Any, timeout: float | None) -> None:
        self._listen()
        self._channel.send("on_node", call_id, what, to, message, timeout)

    def allow(self, atoms: Set[Atom]) -> None:
        self._atoms.add(atoms)
        self._channel.send("allow", list(atoms))


class Worker:
    """A job process: works with the main thread, which reads, too, as long as there is no work.

    A second thread reads while the work waits for answers, and then on until the next request. (It could always read,
    but to hand each request to the main thread takes as long as all else that is done for a small one.)
    """

    def __init__(self, channel: Channel, handlers: Handlers) -> None:
        self._channel = channel
        self._handlers = handlers
        self._requests: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()  # which the second thread has read
        self._reading = threading.Lock()  # held by who reads; by the second thread until it has read a request
        self._lock = threading.Lock()
        self._listening = False
        self._wanted: queue.SimpleQueue[None] | None = None  # something for each time that the second thread is to read
        self._context: Context | None = None
        self._atoms = Atoms()

    def serve(self) -> None:
        """Work until the process is ended from outside."""
        while True:
            self._perform(*self._next())

    def _next(self) -> tuple[Any, ...]:
        """The next request."""
        if not self._reading.acquire(blocking=False):
            return self._requests.get()
        try:
            # The second thread may have read one, and let go of the lock, a moment ago.
            return self._read_request() if self._requests.empty() else self._requests.get()
        finally:
            self._reading.release()

    def _listen(self) -> None:
        """Have the second thread read from now on."""
        with self._lock:
            if self._listening:
                return
            self._listening = True
            if self._wanted is None:
                self._wanted = queue.SimpleQueue()
                threading.Thread(target=self._read, args=(self._wanted,), name="bridge", daemon=True).start()
            self._wanted.put(None)

    def _read(self, wanted: queue.SimpleQueue[None]) -> None:
        while True:
            wanted.get()
            with self._reading:
                request = self._read_request()
                with self._lock:
                    self._listening = False
                self._requests.put(request)

    def _read_request(self) -> tuple[Any, ...]:
        """Read until a request comes, and pass on what else does."""
        while True:
            atoms: set[Atom] = set()
            message = self._channel.receive(atoms)
            if message is None:
                os._exit(0)  # the bridge is gone, or needs this process no more
            if message[0] == "run":
                return (*message[1:], atoms)
            if self._context is not None:
                self._atoms.add(atoms)
                self._context.callback_result(*message[1:])

    def _perform(
        self, name: str, message_id: Any, payload: Any, metadata: Any, remaining: float | None, atoms: set[Atom]
    ) -> None:
        self._atoms.begin(atoms)
        context = self._context = Context(
            JobOutlet(self._channel, self._atoms, self._listen),
            request_type=name,
            message_id=message_id,
            metadata=metadata,
            deadline=None if remaining is None else time.monotonic() + remaining,
        )
        if not _ENDS_WITH_TEMPLATE:
            self._listen()
        try:
            outcome = "ok", self._handlers[name](payload, context)
        except Stopped:
            raise
        except BaseException as error:
            outcome = "error", error_map(from_exception(error))
        context.stop()  # for threads that the handler has left: what they would say now would be the next request's
        self._context = None
        self._reply(*outcome)

    def _reply(self, tag: str, value: Any) -> None:
        try:
            self._channel.send(tag, value, atoms=self._atoms.allowed)
        except SerializationError:
            self._channel.send("error", error_map(_unsendable(tag, value, self._atoms.allowed)))


def _unsendable(tag: str, value: Any, atoms: Set[Atom]) -> BridgeError:
    """The error that says what in a result or an error is no term."""
    try:
        etf.encode(value, atoms=atoms, root="result" if tag == "ok" else "error")
    except SerializationError as error:
        return SerializationError(error.message)
    raise AssertionError("the value was refused and then taken")


def serve(channel: Channel, handlers: Handlers) -> None:
    """Serve the bridge at the other end of ``channel``; returns only by an exception or the end of the process."""
    Worker(channel, handlers).serve()
