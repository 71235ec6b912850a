"""BERT-RPC over TCP: one thread that serves all connections, with or without TLS.

Rule of this file: only the thread in :meth:`TcpServer.serve` touches sockets. Others hand it bytes and wake it. What a
peer does costs at most its own connection.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections import deque
from threading import get_ident

from ..berp import NO_REPLY, Asked, Conversation, packet_error
from ..errors import InvalidRequest, Overloaded
from ..lanes import Lane
from ..messages import Call, Event, Failure, Reply, Request
from ..refusals import show
from ..terms import Atom, identity
from ..values import Value
from ..wire.bert import BERT
from ..wire.bert_rpc import PacketError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Set
    from ssl import SSLContext
    from typing import Any

    from ..berp import Rules
    from ..dispatch import Client, Dispatcher
    from ..wire.port import Message

READ_SIZE = 64 * 1024
CALL_REFUSED = Atom("error"), "a client of BERT-RPC has no functions that can be called"
_LINGER = 2.0  # seconds that a client gets to read why it is left
_ACCEPTS_AT_ONCE = 64
_IN, _OUT, _GONE = select.POLLIN, select.POLLOUT, select.POLLHUP | select.POLLERR


class Limits(Value):
    """What clients may take of a server: connections, seconds, bytes.

    ``idle``: between requests. ``read``: for a request to come in whole, and for TLS and the token of a new client.
    ``write``: without a byte of an answer being taken. ``max_unsent``: bytes of events that a client has not read.
    ``max_unread``: bytes of requests that are not whole, of all clients.
    """

    __slots__ = ("connections", "idle", "read", "write", "max_unsent", "max_unread")
    connections: int
    idle: float
    read: float
    write: float
    max_unsent: int
    max_unread: int

    def __init__(
        self,
        connections: int = 1000,
        idle: float = 300.0,
        read: float = 60.0,
        write: float = 60.0,
        max_unsent: int = 16 * 1024 * 1024,
        max_unread: int = 256 * 1024 * 1024,
    ) -> None:
        self._set(
            connections=connections, idle=idle, read=read, write=write, max_unsent=max_unsent, max_unread=max_unread
        )


class Connection:
    """One client: its socket, what has come of its next request, and what it has not read yet."""

    def __init__(self, sock: socket.socket, peer: str, conversation: Conversation, shaken: bool, now: float) -> None:
        self.socket = sock
        self.fd = sock.fileno()
        self.peer = peer
        self.conversation = conversation
        self.shaken = shaken  # TLS is up, or there is none
        self.flight: Flight | None = None
        self.unsent: deque[memoryview | bytes] = deque()
        self.sent_bytes = 0  # counted by the thread of the server
        self.given_bytes = 0  # counted by whoever answers: one thread at a time
        self.held = 0  # bytes of the conversation that are counted as unread
        self.closing = False  # nothing more is read but to see it end
        self.doomed = False
        self.mask = _IN
        self.wants_write = False  # of TLS
        self.state = ""
        self.deadline = now

    @property
    def waiting(self) -> int:
        """Bytes that the client has not taken."""
        return self.given_bytes - self.sent_bytes


class Flight:
    """A request under way, and the connection that waits for it; none for a cast."""

    __slots__ = ("asked", "calls", "connection", "peer")

    def __init__(self, asked: Asked, connection: Connection) -> None:
        self.asked = asked
        self.calls: set[int] = set()  # those that its client may answer
        self.connection = None if asked.cast else connection
        self.peer = connection.peer


class TcpServer:
    """Serves the clients of a listening socket until it is stopped.

    ``callback_hosts``: where results of casts may be sent to, besides the host that the cast came from.
    """

    def __init__(
        self,
        listener: socket.socket,
        rules: Rules,
        limits: Limits,
        *,
        tls: SSLContext | None = None,
        callback_hosts: Set[str] = frozenset(),
        drain: float = 5.0,
    ) -> None:
        self._listener = listener
        self._rules = rules
        self._limits = limits
        self._tls = tls
        self._callback_hosts = callback_hosts
        self._drain = drain
        self._connections: dict[int, Connection] = {}
        self._flights: dict[Hashable, Flight] = {}
        self._last_id = 0
        self._unread = 0
        self._posted: deque[tuple[Connection, Flight, bytes | None, bool]] = deque()
        self._woken = False
        self._wakeup, self._waker = os.pipe()
        self._callbacks = Lane("callback", 8)
        self._stops = 0
        self._finished = False
        self._finish_by = 0.0
        self._dispatcher: Dispatcher | None = None
        self._client: Client | None = None
        self._thread = 0
        self._accepting = False
        self._poll, self._poller = _poller()
        for fd in (self._wakeup, self._waker):
            os.set_blocking(fd, False)
        self._listener.setblocking(False)

    # -- from other threads and signal handlers -------------------------------------------------------------------

    def stop(self) -> None:
        """Finish what is in flight, within the time to drain, and return from :meth:`serve`; twice: at once."""
        self._stops += 1
        self._wake()

    def finish(self) -> None:
        """Return from :meth:`serve` as soon as what is answered is sent."""
        self._finish_by = time.monotonic() + _LINGER
        self._finished = True
        self._wake()

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            try:
                os.write(self._waker, b"x")
            except OSError:
                return  # it has been woken often enough

    def _send(self, message: Message, atoms: Set[Atom]) -> None:
        """How the dispatcher tells of a request, from whatever thread."""
        key = _key(message.message_id)  # type: ignore[union-attr]
        if isinstance(message, Call):
            self._call(self._flights.get(key), message, atoms)
            return
        if isinstance(message, Event):
            flight = self._flights.get(key)
            if flight is not None and (data := flight.asked.event(message.event, atoms)):
                self._give(flight, data, final=False)
            return
        flight = self._flights.pop(key, None)
        if flight is None:
            return
        assert isinstance(message, (Reply, Failure))
        if flight.connection is None:
            self._call_back(flight, message, atoms)
        else:
            self._give(flight, flight.asked.final(message, atoms), final=True)

    def _call(self, flight: Flight | None, message: Call, atoms: Set[Atom]) -> None:
        """Have the client run a function, if it does such things."""
        if flight is not None and flight.asked.takes_calls:
            data = flight.asked.call(message, atoms)
            flight.calls.add(message.call_id)
            self._give(flight, data, final=False)
        else:
            assert self._client is not None
            self._client.callback_result(message.call_id, CALL_REFUSED, frozenset())

    def _give(self, flight: Flight, data: bytes | None, final: bool) -> None:
        """Have bytes written to the client of a request; None is for leaving it."""
        connection = flight.connection
        assert connection is not None
        if data is not None and not final and connection.waiting > self._limits.max_unsent:
            data = None
        if data is not None:
            connection.given_bytes += len(data)
        if not final and get_ident() == self._thread:  # of an inline handler: it goes out before the answer
            self._take(connection, flight, data, final)
        else:
            self._posted.append((connection, flight, data, final))
            self._wake()

    # -- the loop -------------------------------------------------------------------------------------------------

    def serve(self, dispatcher: Dispatcher) -> None:
        """Serve until :meth:`stop` or :meth:`finish`."""
        self._dispatcher = dispatcher
        self._client = dispatcher.connect(self._send)
        self._thread = get_ident()
        self._poller.register(self._wakeup, _IN)
        self._accept_again()
        often = min(1.0, self._limits.idle / 4, self._limits.read / 4, self._limits.write / 4)
        next_sweep = 0.0
        try:
            while not self._over():
                for fd, mask in self._poll(often if self._connections or not self._accepting else None):
                    self._handle(fd, mask)
                while self._posted:
                    connection, flight, data, final = self._posted.popleft()
                    self._take(connection, flight, data, final)
                    self._go_on(connection)
                now = time.monotonic()
                if now >= next_sweep:
                    next_sweep = now + often
                    self._sweep(now)
        finally:
            self._close_all()

    def _handle(self, fd: int, mask: int) -> None:
        connection = self._connections.get(fd)
        if connection is not None:
            self._step(connection, mask)
        elif fd == self._wakeup:
            os.read(self._wakeup, 4096)
            self._woken = False
            if self._stops == 1:
                self._begin_to_stop()
        elif self._accepting and fd == self._listener.fileno():
            self._accept()

    def _over(self) -> bool:
        if self._stops > 1:
            return True
        if not self._finished or self._posted:
            return False
        unread = any(connection.waiting for connection in self._connections.values())
        return not unread or time.monotonic() > self._finish_by

    def _begin_to_stop(self) -> None:
        assert self._dispatcher is not None
        if not self._dispatcher.draining:
            self._dispatcher.drain(self._drain, lambda finished, cancelled: None)
        self._leave_idle()

    def _leave_idle(self) -> None:
        """Take no new clients, and let go of those that want nothing."""
        self._stop_accepting()
        self._listener.close()
        for connection in list(self._connections.values()):
            if connection.flight is None and not connection.waiting and not connection.conversation.begun:
                self._close(connection)

    # -- connections ----------------------------------------------------------------------------------------------

    def _accept_again(self) -> None:
        self._accepting = True
        self._poller.register(self._listener.fileno(), _IN)

    def _stop_accepting(self) -> None:
        if self._accepting:
            self._accepting = False
            self._poller.unregister(self._listener.fileno())

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):
            try:
                sock, address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._stop_accepting()  # until the next sweep: it would be ready again at once
                return
            self._welcome(sock, address[0])

    def _welcome(self, sock: socket.socket, peer: str) -> None:
        sock.setblocking(False)
        if len(self._connections) >= self._limits.connections:
            if self._tls is None:
                self._refuse(sock)
            sock.close()
            return
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        except OSError:
            sock.close()
            return
        conversation = Conversation(self._rules, self._new_id)
        connection = Connection(sock, peer, conversation, self._tls is None, time.monotonic())
        self._connections[connection.fd] = connection
        self._poller.register(connection.fd, _IN)
        self._step(connection, _IN)  # most have sent their request already

    def _refuse(self, sock: socket.socket) -> None:
        detail = f"there are {self._limits.connections} connections, which is the limit; try again later"
        try:
            sock.send(packet_error(PacketError("server", 0, detail, name="overloaded")))
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def _new_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def _step(self, connection: Connection, mask: int) -> None:
        """The socket is ready for something."""
        try:
            if not connection.shaken and not self._shake(connection):
                self._settle(connection)
                return
            if mask & ~_OUT and not self._read(connection, mask):
                self._close(connection)
                return
        except OSError:  # of TLS, too
            self._close(connection)
            return
        self._go_on(connection)

    def _go_on(self, connection: Connection) -> None:
        """Begin what can begin, write what can be written, and say what is waited for."""
        if self._connections.get(connection.fd) is not connection:
            return
        try:
            self._advance(connection)
            self._flush(connection)
        except OSError:
            self._close(connection)
            return
        if connection.doomed or (self._finished and not connection.waiting):
            self._close(connection)
            return
        if connection.closing and not connection.waiting:
            self._linger(connection)
        self._settle(connection)

    def _shake(self, connection: Connection) -> bool:
        import ssl

        try:
            connection.socket.do_handshake()  # type: ignore[attr-defined]
        except ssl.SSLWantReadError:
            connection.wants_write = False
            return False
        except ssl.SSLWantWriteError:
            connection.wants_write = True
            return False
        connection.shaken, connection.wants_write = True, False
        return True

    def _read(self, connection: Connection, mask: int) -> bool:
        """Take in what has come; False at the end."""
        if not connection.mask & _IN:
            return not mask & _GONE
        data = self._receive(connection)
        if data is None:
            return True
        if connection.closing:
            return bool(data)
        connection.conversation.feed(data)
        return bool(data)

    def _receive(self, connection: Connection) -> bytes | None:
        """What has come, None for nothing yet, empty at the end."""
        if self._tls is None:
            try:
                return connection.socket.recv(READ_SIZE)
            except BlockingIOError:
                return None
        import ssl

        try:
            data = connection.socket.recv(READ_SIZE)
            if connection.closing:
                return data
            while data and (more := connection.socket.pending()):  # type: ignore[attr-defined]
                data += connection.socket.recv(more)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
            return None
        return data

    def _advance(self, connection: Connection) -> None:
        """Begin the requests that are there, one after another, and take what is said of one under way."""
        conversation = connection.conversation
        while conversation.pending and not connection.closing:
            flight = connection.flight
            try:
                if flight is not None:
                    if not flight.asked.takes_calls or not self._listen(flight, conversation):
                        break
                elif connection.waiting > READ_SIZE or (asked := conversation.next()) is None:
                    break
                else:
                    self._begin(connection, asked)
            except PacketError as error:
                self._write(connection, packet_error(error))
                connection.closing = connection.closing or error.fatal
        held = 0 if connection.closing else conversation.pending
        self._unread += held - connection.held
        connection.held = held
        if self._unread > self._limits.max_unread and held > READ_SIZE:
            detail = f"more than {self._limits.max_unread} bytes of requests are on their way; try again later"
            self._write(connection, packet_error(PacketError("server", 0, detail, name="overloaded")))
            connection.closing = True
            self._unread -= held  # so that no other is left for it
            connection.held = 0

    def _listen(self, flight: Flight, conversation: Conversation) -> bool:
        """Take what is said of a request under way; False when that is nothing. Raises :class:`PacketError`."""
        said = conversation.next_meanwhile()
        if said is None:
            return False
        client = self._client
        assert client is not None
        if said.request_type == "cancel":
            client.cancel(flight.asked.request.message_id)
            return True
        fields = said.payload if isinstance(said.payload, dict) else {}
        call_id = next((value for name, value in fields.items() if str(name) == "call_id"), None)
        if type(call_id) is int and call_id in flight.calls:  # else it is late, or not for this client to answer
            told = client.handle(said)
            if isinstance(told, Failure):
                raise PacketError("protocol", 0, f"info answer: {told.error.message}", name="bad_info", fatal=True)
        return True

    def _write(self, connection: Connection, data: bytes) -> None:
        connection.given_bytes += len(data)
        connection.unsent.append(data)

    def _take(self, connection: Connection, flight: Flight, data: bytes | None, final: bool) -> None:
        """What somebody gave for a client."""
        if self._connections.get(connection.fd) is not connection:
            return
        if data is None:
            connection.doomed = True
        else:
            connection.unsent.append(data)
        if final and connection.flight is flight:
            connection.flight = None

    def _flush(self, connection: Connection) -> None:
        unsent = connection.unsent
        if not connection.shaken or not unsent:
            return
        if len(unsent) > 1 and len(unsent[0]) < READ_SIZE:
            data: bytes | memoryview = b"".join(unsent)
            unsent.clear()
            unsent.append(data)
        while unsent:
            data = unsent[0]
            try:
                sent = connection.socket.send(data)
            except OSError as error:
                if isinstance(error, BlockingIOError) or error.__class__.__name__.startswith("SSLWant"):
                    return
                raise
            connection.sent_bytes += sent
            if sent:
                connection.state = ""  # the time without progress begins anew
            if sent < len(data):
                unsent[0] = memoryview(data)[sent:]
            else:
                unsent.popleft()

    def _linger(self, connection: Connection) -> None:
        """Let the client read what it was told before the connection goes: closed at once, it might be lost."""
        if connection.state != "linger":
            connection.state = "linger"
            connection.deadline = time.monotonic() + _LINGER
            try:
                connection.socket.shutdown(socket.SHUT_WR)
            except OSError:
                connection.deadline = 0.0  # it is gone already

    def _settle(self, connection: Connection) -> None:
        """Say what is waited for, and for how long."""
        mask = _IN
        flight, conversation = connection.flight, connection.conversation
        held_up = flight is not None or connection.waiting > READ_SIZE
        listens = flight is not None and flight.asked.takes_calls and not conversation.holds_next
        if held_up and not listens and conversation.pending >= READ_SIZE:
            mask = 0  # there is enough to do
        if connection.waiting or connection.wants_write:
            mask |= _OUT
        if mask != connection.mask:
            connection.mask = mask
            self._poller.modify(connection.fd, mask)
        state, limit = self._state(connection)
        if state != connection.state:
            connection.state = state
            connection.deadline = time.monotonic() + limit

    def _state(self, connection: Connection) -> tuple[str, float]:
        limits = self._limits
        if connection.state == "linger":
            return "linger", _LINGER
        if connection.waiting:
            return "write", limits.write
        if connection.flight is not None:
            return "busy", float("inf")
        if connection.conversation.begun or not (connection.shaken and connection.conversation.authorized):
            return "read", limits.read
        return "idle", limits.idle

    def _sweep(self, now: float) -> None:
        """End what takes too long."""
        assert self._dispatcher is not None
        for connection in list(self._connections.values()):
            if now < connection.deadline or connection.state == "":
                continue
            if connection.state == "read" and connection.shaken and not connection.closing:
                detail = f"the request did not come within {self._limits.read:g} s"
                self._write(connection, packet_error(PacketError("protocol", 0, detail, name="timeout")))
                connection.closing = True
                self._go_on(connection)
            else:
                self._close(connection)
        if self._dispatcher.draining:
            self._leave_idle()
        elif not self._accepting:
            self._accept_again()

    def _close(self, connection: Connection) -> None:
        del self._connections[connection.fd]
        self._unread -= connection.held
        self._poller.unregister(connection.fd)
        connection.socket.close()
        flight = connection.flight
        if flight is not None:
            request = flight.asked.request
            self._flights.pop(_key(request.message_id), None)
            assert self._client is not None
            self._client.cancel(request.message_id)

    def _close_all(self) -> None:
        self._stop_accepting()
        self._listener.close()
        for connection in list(self._connections.values()):
            self._close(connection)

    # -- requests -------------------------------------------------------------------------------------------------

    def _begin(self, connection: Connection, asked: Asked) -> None:
        request, client = asked.request, self._client
        assert client is not None
        key = _key(request.message_id)
        if key in self._flights:
            error = InvalidRequest(f"message_id {show(request.message_id)} is in flight already; use another one")
            self._write(connection, asked.final(Failure(None, error), frozenset()) or b"")
            return
        flight = self._flights[key] = Flight(asked, connection)
        if not asked.cast:
            connection.flight = flight
        answer = client.handle(request)
        if answer is None:
            if asked.cast:
                self._write(connection, NO_REPLY)
            return
        self._flights.pop(key, None)
        connection.flight = None
        self._answer_at_once(connection, flight, request, answer)

    def _answer_at_once(
        self, connection: Connection, flight: Flight, request: Request, answer: Reply | Failure
    ) -> None:
        refused = isinstance(answer, Failure) and isinstance(answer.error, Overloaded)
        if flight.asked.cast and not refused:
            self._write(connection, NO_REPLY)
            self._call_back(flight, answer, request.atoms)
            return
        data = flight.asked.final(answer, request.atoms)
        if data is None:
            connection.doomed = True
        else:
            self._write(connection, data)

    # -- callbacks ------------------------------------------------------------------------------------------------

    def _call_back(self, flight: Flight, message: Reply | Failure, atoms: Set[Atom]) -> None:
        if flight.asked.callback is None:
            return
        if self._callbacks.waiting >= self._limits.connections:
            _log(f"callback to {flight.asked.callback.service} not made: too many wait")
            return
        frame = flight.asked.callback_frame(message, atoms)
        self._callbacks.submit(self._deliver, (flight.asked.callback.service, flight.peer, frame))

    def _deliver(self, what: tuple[str, str, bytes]) -> None:
        """Connect to a service and send it a cast. In a thread of its own lane."""
        service, peer, frame = what
        try:
            host, port = _host_and_port(service)
            address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4]
            if host not in self._callback_hosts and address[0] != peer:
                raise OSError(f"{host} is neither the host that the cast came from nor one of --callback-hosts")
            sock = socket.create_connection(address[:2], self._limits.read)  # type: ignore[arg-type]
            with sock:
                sock.sendall(frame)
                _await_answer(sock)
        except (OSError, ValueError) as error:
            _log(f"callback to {service} not made: {error}")


def _await_answer(sock: socket.socket) -> None:
    """What a service answers makes no difference; but to close before it has read might cost it what it was told."""
    try:
        sock.recv(4096)
    except OSError:
        return


def _key(message_id: Any) -> Hashable:
    """For a table of requests: ids of this server are tuples that no client can name, others may be any term."""
    if type(message_id) is tuple and message_id and message_id[0] is BERT:
        return message_id
    return identity(message_id)


def _host_and_port(service: str) -> tuple[str, int]:
    host, _, port = service.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError("expected host:port")
    return host.strip("[]"), int(port)


def _log(message: str) -> None:
    import logging

    logging.getLogger("erl_bridge.tcp").warning(message)


def _poller() -> tuple[Callable[[float | None], list[tuple[int, int]]], Any]:
    """What waits for sockets: it takes seconds, or None for as long as it takes."""
    if hasattr(select, "epoll"):
        epoll = select.epoll()
        return epoll.poll, epoll
    poll = select.poll()
    return lambda seconds: poll.poll(None if seconds is None else seconds * 1000), poll


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(1024)
    except BaseException:
        listener.close()
        raise
    return listener


def stop_on_signals(server: TcpServer) -> None:
    """Stop the server at SIGTERM and SIGINT; at the second of them at once."""
    import signal

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _signal, _frame: server.stop())
