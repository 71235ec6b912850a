"""What a transport is, and the loop that serves the client at its other end.

Rule of this file: everything that one read brings is served, then everything that can be answered at once goes out in
one write.
"""

from __future__ import annotations

from ..messages import Failure, Hello

WRITE_SIZE = 64 * 1024  # bytes of answers that are not held back for more

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Set
    from typing import Any, Protocol

    from ..dispatch import Client, Dispatcher
    from ..session import Session
    from ..terms import Atom
    from ..wire.port import Message

    class Transport(Protocol):
        """A stream of bytes each way."""

        def read(self, alone: bool = False) -> bytes:
            """Wait for bytes and return them; empty at the end of the input, or after :meth:`interrupt`.

            ``alone`` says that nothing else in the process is at work, so that waiting may cost processor time.
            """
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
    while data := transport.read(not dispatcher.busy):
        _serve_read(data, transport, session, client)
    if (failure := session.receive_end()) is not None:
        send(failure, frozenset())
    dispatcher.disconnect(client)


def _serve_read(data: bytes, transport: Transport, session: Session, client: Client) -> None:
    """Answer what one read brought; of long answers no more than one and some short ones are held at once."""
    frames, held = [], 0
    for received in session.receive_data(data):
        answer = received if isinstance(received, Failure) else client.handle(received)
        if answer is None:
            continue  # it comes later
        frame = session.send(answer, received.atoms)
        frames.append(frame)
        held += len(frame)
        if held >= WRITE_SIZE:
            transport.write(b"".join(frames))
            frames, held = [], 0
    if frames:
        transport.write(b"".join(frames) if len(frames) > 1 else frames[0])
