"""What a transport is, and the loop that serves the client at its other end.

Rule of this file: everything that one read brings is served, then everything that can be answered at once goes out in
one write.
"""

from __future__ import annotations

from ..messages import Failure, Hello

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Set
    from typing import Any, Protocol

    from ..dispatch import Client, Dispatcher
    from ..messages import Request
    from ..session import Session
    from ..terms import Atom
    from ..wire.port import Message

    class Transport(Protocol):
        """A stream of bytes each way."""

        def read(self) -> bytes:
            """Wait for bytes and return them; empty at the end of the input, or after :meth:`interrupt`."""
            ...

        def write(self, data: bytes) -> None:
            """Write all of ``data``, from any thread; does nothing once the other end is gone."""
            ...

        def interrupt(self) -> None:
            """Make :meth:`read` return as at the end of the input, from any thread."""
            ...


def serve(
    transport: Transport,
    session: Session,
    dispatcher: Dispatcher,
    hello: Mapping[Any, Any],
    ready: Callable[[], object] = lambda: None,
) -> None:
    """Say hello and serve one client until its input ends; then everything it asked for is cancelled.

    ``ready`` is called right after hello, for what should begin early but not delay it.
    """

    def send(message: Message, atoms: Set[Atom]) -> None:
        transport.write(session.send(message, atoms))

    client = dispatcher.connect(send)
    send(Hello(hello), frozenset())
    ready()
    while data := transport.read():
        answers = [_answer(received, client, session) for received in session.receive_data(data)]
        if any(answers):
            transport.write(b"".join(answers))
    if (failure := session.receive_end()) is not None:
        send(failure, frozenset())
    dispatcher.disconnect(client)


def _answer(received: Request | Failure, client: Client, session: Session) -> bytes:
    """The frame that answers what was received, or nothing when the answer comes later."""
    answer = received if isinstance(received, Failure) else client.handle(received)
    return b"" if answer is None else session.send(answer, received.atoms)
