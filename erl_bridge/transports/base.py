"""What a transport is, and the loop that serves the client at its other end.

Rule of this file: everything that one read brings is served, then everything that can be answered at once goes out in
one write.
"""

from __future__ import annotations

from threading import get_ident

from ..messages import Failure, Hello
from .locks import new_lock

WRITE_SIZE = 64 * 1024  # bytes of answers that are not held back for more

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Set
    from typing import Any, Protocol

    from ..dispatch import Client, Dispatcher
    from ..messages import Reply, Request
    from ..session import Session
    from ..terms import Atom
    from ..wire.port import Message
    from ._fast_path import FastPath
    from .fast_path import Answer

    class Transport(Protocol):
        """A stream of bytes each way."""

        def read(self, alone: bool = False) -> bytes:
            """Wait for bytes and return them; empty at the end of the input.

            ``alone`` says that nothing else in the process is at work, so that waiting may cost processor time.
            """
            ...

        def write(self, *parts: bytes) -> None:
            """Write all of ``parts``, one call at a time; does nothing once the other end is gone.

            A part of :data:`WRITE_SIZE` bytes or more is the last.
            """
            ...


def serve(
    transport: Transport,
    session: Session,
    dispatcher: Dispatcher,
    hello: Mapping[Any, Any],
    ready: Callable[[], object] = lambda: None,
    fast_path: Callable[[Session, Client, Outbox, Answer], FastPath | None] = lambda *_: None,
) -> None:
    """Say hello and serve one client until its input ends; then everything it asked for is cancelled.

    ``ready`` is called right after hello, for what should begin early but not delay it. ``fast_path`` gives what reads
    in the place of the transport where it can: see :mod:`erl_bridge.transports.fast_path`.
    """

    outbox = Outbox(transport, session)
    client = dispatcher.connect(outbox.send)
    outbox.send(Hello(hello), frozenset())
    outbox.flush()
    ready()

    def answer(received: Request | Failure, message: Reply | Failure | None = None) -> None:
        """Answer a request now or later, with ``message`` if that is there already. A failure is its own answer."""
        if message is None:
            message = received if isinstance(received, Failure) else client.handle(received)
        if message is not None:
            outbox.hold(message, received.atoms)

    quick = fast_path(session, client, outbox, answer)

    def read() -> bytes:
        if quick is not None and not session.begun:
            return quick.read()
        return transport.read(not dispatcher.busy)

    try:
        while data := read():
            for received in session.receive_data(data):
                answer(received)
            outbox.flush()
        if (failure := session.receive_end()) is not None:
            outbox.send(failure, frozenset())
    finally:
        dispatcher.disconnect(client)
        outbox.flush()


class Outbox:
    """Sends messages to one client, from any thread, those of each thread in the order in which they come.

    What the thread that made it sends is held for :meth:`flush`, or until it is much: nothing of the same request can
    come from another thread afterwards.
    """

    def __init__(self, transport: Transport, session: Session) -> None:
        self._transport = transport
        self._session = session
        self._reader = get_ident()
        self.lock = new_lock()  # held by who writes
        self.parts: list[bytes] = []  # what is held, always the same list
        self._held = 0  # bytes

    def send(self, message: Message, atoms: Set[Atom]) -> None:
        """Send a message; ``atoms`` are those of the request it belongs to. Raises as :meth:`Session.send` does."""
        if get_ident() == self._reader:
            self.hold(message, atoms)
            return
        parts = self._session.send(message, atoms)
        with self.lock:
            self._transport.write(*parts)

    def hold(self, message: Message, atoms: Set[Atom]) -> None:
        """Send a message from the thread that made the outbox, with the next :meth:`flush`."""
        header, body = self._session.send(message, atoms)
        self.parts.append(header)
        self.parts.append(body)
        self._held += len(body)
        if self._held >= WRITE_SIZE:
            self.flush()

    def flush(self) -> None:
        """Write what is held."""
        if self.parts:
            parts = self.parts.copy()
            self.parts.clear()
            self._held = 0
            with self.lock:
                self._transport.write(*parts)
