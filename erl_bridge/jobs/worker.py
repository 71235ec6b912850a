"""Inside a job process: requests from the bridge, one after the other, and their results back.

Rule of this file: the handler runs in the main thread, where signals arrive; a second thread reads, so that the answers
to calls come in while the handler works, and so that the process ends when the bridge is gone.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from typing import TYPE_CHECKING, Any

from .. import etf
from ..context import Context
from ..error_map import error_map, from_exception
from ..errors import BridgeError, SerializationError, Stopped
from ..vocabulary import VOCABULARY

if TYPE_CHECKING:
    from collections.abc import Mapping, Set

    from ..app import Handler
    from ..terms import Atom
    from .channel import Channel

    Handlers = Mapping[str, Handler]
else:
    Handlers = dict


class JobOutlet:
    """Sends what a context has to say to the bridge. See :class:`erl_bridge.context.Outlet`."""

    def __init__(self, channel: Channel, atoms: set[Atom]) -> None:
        self._channel = channel
        self._atoms = atoms  # those that may be sent; answers to calls and datasets bring more

    def event(self, event: dict[Any, Any]) -> None:
        self._channel.send("event", event, atoms=self._atoms)

    def call(self, call_id: int, name: Any, args: list[Any]) -> None:
        self._channel.send("call", call_id, name, args, atoms=self._atoms)

    def checkpoint(self, best: Any) -> None:
        self._channel.send("checkpoint", best, atoms=self._atoms)

    def on_node(self, call_id: int, what: str, to: Any, message: Any, timeout: float | None) -> None:
        self._channel.send("on_node", call_id, what, to, message, timeout)

    def allow(self, atoms: Set[Atom]) -> None:
        self._atoms |= atoms
        self._channel.send("allow", list(atoms))


class Worker:
    """A job process: reads with one thread, works with the main one."""

    def __init__(self, channel: Channel, handlers: Handlers) -> None:
        self._channel = channel
        self._handlers = handlers
        self._requests: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self._context: Context | None = None
        self._atoms: set[Atom] = set()  # those that the request at work may send

    def serve(self) -> None:
        """Work until the process is ended from outside."""
        threading.Thread(target=self._read, name="bridge", daemon=True).start()
        while True:
            self._perform(*self._requests.get())

    def _read(self) -> None:
        while True:
            atoms: set[Atom] = set()
            message = self._channel.receive(atoms)
            if message is None:
                os._exit(0)  # the bridge is gone, or needs this process no more
            if message[0] == "run":
                self._requests.put((*message[1:], atoms))
            elif self._context is not None:
                self._atoms |= atoms
                self._context.callback_result(*message[1:])

    def _perform(
        self, name: str, message_id: Any, payload: Any, metadata: Any, remaining: float | None, atoms: set[Atom]
    ) -> None:
        self._atoms = atoms | VOCABULARY
        self._context = Context(
            JobOutlet(self._channel, self._atoms),
            request_type=name,
            message_id=message_id,
            metadata=metadata,
            deadline=None if remaining is None else time.monotonic() + remaining,
        )
        try:
            result = self._handlers[name](payload, self._context)
            self._reply("ok", result)
        except Stopped:
            raise
        except BaseException as error:
            self._reply("error", error_map(from_exception(error)))
        finally:
            self._context = None

    def _reply(self, tag: str, value: Any) -> None:
        try:
            self._channel.send(tag, value, atoms=self._atoms)
        except SerializationError:
            self._channel.send("error", error_map(_unsendable(tag, value, self._atoms)))


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
