"""One conversation: bytes to requests, messages to bytes. Framing, codec and one dialect, and no I/O.

Rule of this file: nothing that a peer sends raises. It becomes a request, or the failure to answer it with, and the
next frame is served.
"""

from __future__ import annotations

from . import etf
from .error_map import from_exception
from .errors import BridgeError, SerializationError
from .framing import MAX_FRAME, FrameReader, Oversized, header, refuse
from .messages import Failure, Reply, Request
from .vocabulary import VOCABULARY
from .wire import port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Set
    from typing import Any, Protocol

    from .terms import Atom

    class Dialect(Protocol):
        """A module of :mod:`erl_bridge.wire`."""

        def parse(self, term: Any, atoms: Set[Atom]) -> Request | Failure: ...

        def build(self, message: port.Message) -> Any: ...


class Session:
    """A conversation with one client.

    >>> from erl_bridge.framing import pack
    >>> session = Session()
    >>> session.receive_data(pack(b"no term"))[0].error.error_type
    'serialization_error'
    """

    def __init__(
        self, dialect: Dialect = port, *, max_frame: int = MAX_FRAME, limits: etf.Limits | None = None
    ) -> None:
        self._dialect = dialect
        self._frames = FrameReader(max_frame)
        self.limits = limits or etf.Limits(max_size=max_frame, max_inflated=max_frame)
        self._writer = Writer()

    @property
    def max_frame(self) -> int:
        """The longest frame that is taken, in bytes."""
        return self._frames.max_frame

    @property
    def begun(self) -> bool:
        """Whether a frame has come in part."""
        return self._frames.begun

    def receive_data(self, data: bytes) -> list[Request | Failure]:
        """The requests that ``data`` completes, and the failures to answer what is none."""
        return list(map(self._receive_frame, self._frames.feed(data)))

    def receive_end(self) -> Failure | None:
        """The input has ended: the failure to answer a frame with that was cut, if one was."""
        cut = self._frames.unfinished
        if not cut:
            return None
        return Failure(None, SerializationError(f"the input ended in the middle of a frame ({cut} bytes of it came)"))

    def send(self, message: port.Message, atoms: Set[Atom] = frozenset()) -> tuple[bytes, bytes]:
        """The frame for ``message``, its header and its body; ``atoms`` are those of the request it belongs to.

        A final answer always becomes a frame: where its content cannot be sent, the frame says so instead. An event or
        a call that cannot be sent raises :class:`erl_bridge.etf.EncodeError`.
        """
        return self._writer.frame(self._dialect.build, message, atoms)

    def _receive_frame(self, frame: bytes | Oversized) -> Request | Failure:
        if isinstance(frame, Oversized):
            return Failure(None, refuse(frame))
        atoms: set[Atom] = set()
        try:
            term = etf.decode(frame, limits=self.limits, atoms=atoms)
        except etf.DecodeError as error:
            return Failure(None, SerializationError(f"the frame is not a term: {error.message}"))
        except Exception as error:  # out of memory, or a fault of ours: neither may cost the other requests
            return Failure(None, from_exception(error))
        return self._dialect.parse(term, atoms)


class Writer:
    """Makes frames of messages, which may hold the atoms in ``always`` and those of the request they belong to."""

    def __init__(self, always: Set[Atom] = VOCABULARY) -> None:
        self._always = always
        self._allowed: tuple[Set[Atom], Set[Atom]] = always, always  # atoms of a request, and all it may get

    def frame(
        self, build: Callable[[Any], Any], message: port.Message, atoms: Set[Atom] = frozenset()
    ) -> tuple[bytes, bytes]:
        """The header and the body for what ``build`` makes of ``message``. See :meth:`Session.send`."""
        allowed = self._allowed_with(atoms)
        try:
            body = etf.encode(build(message), atoms=allowed)
            return header(body), body
        except SerializationError as error:
            if not isinstance(message, (Reply, Failure)):
                raise
            body = etf.encode(build(_instead(message, error, allowed)), atoms=allowed)
            return header(body), body

    def sendable(
        self, build: Callable[[Any], Any], message: Reply | Failure, atoms: Set[Atom] = frozenset()
    ) -> Reply | Failure:
        """The final answer, or the failure that goes in its place where its content cannot be sent."""
        allowed = self._allowed_with(atoms)
        try:
            etf.encode(build(message), atoms=allowed)
        except SerializationError as error:
            return _instead(message, error, allowed)
        return message

    def _allowed_with(self, atoms: Set[Atom]) -> Set[Atom]:
        """The vocabulary and ``atoms``. The last union is kept: to make one anew takes as long as to encode a reply."""
        last, allowed = self._allowed
        if atoms != last:
            allowed = self._always if atoms <= self._always else self._always | atoms
            self._allowed = atoms, allowed
        return allowed


def _instead(message: Reply | Failure, error: SerializationError, allowed: Set[Atom]) -> Failure:
    return Failure(message.message_id, _unsendable(message, error, allowed))


def _unsendable(message: Reply | Failure, error: SerializationError, allowed: Set[Atom]) -> BridgeError:
    """The error to send in place of a final answer that is no term: for a result its path, for an error less of it."""
    if isinstance(message, Failure):
        kind = type(message.error)
        return kind(message.error.message, recovery_strategy=message.error.recovery_strategy)
    try:
        etf.encode(message.result, atoms=allowed, root="result")
    except SerializationError as found:
        error = found
    return SerializationError(error.message)
