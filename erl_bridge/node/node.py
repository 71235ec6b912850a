"""A node: its name, its connections, its processes, and where what comes for them goes.

Rule of this file: one lock for what is known of processes and connections, never held while anything waits. What a
peer does wrong ends in its :class:`Connection`.
"""

from __future__ import annotations

import secrets
import socket
import threading
import time
from select import POLLIN

from .. import etf
from ..node_state.processes import Processes
from ..terms import Atom, Pid, Reference
from ..values import Value
from ..wire import dist, gen
from ..wire.epmd import EpmdError
from ..wire.handshake import HandshakeError, Own, Yielded, check_name, standing
from ..wire.shortcuts import watch_of
from . import epmd
from .connection import Connection, Ticker
from .meet import Met, answer, dial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..timers import Timer, Timers
    from ..wire.dist import Signal
    from .connection import OnCall
    from .loop import Loop
    from .meet import Tls

    Receive = Callable[["Connection", Signal], object]
    Done = Callable[[tuple[Any, Any], "set[Atom]"], object]

MAX_HANDSHAKES = 64  # at once
MAX_CONNECTIONS = 4096
MAX_WAITING = 1000  # messages to a node that is being connected
_BACKLOG = 128
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0  # seconds between attempts to reach a node that is to be connected
_CREATIONS = (4, 0xFFFF_FFFF)
_TIMEOUT, _OK, _ERROR = Atom("timeout"), Atom("ok"), Atom("error")


class Settings(Value):
    """How a node is set up.

    ``name``: ``name@host``, or only the host for a node that others give a name. ``connect``: names of nodes to stay
    connected to, or ``name@host:port``; such a node does not listen. ``host`` and ``port``: where it listens.
    ``max_message``, ``max_queued``: bytes. ``tick_time``: seconds.
    """

    __slots__ = ("name", "cookie", "host", "port", "connect", "use_epmd", "tick_time", "max_message", "max_queued")
    name: str
    cookie: bytes
    host: str
    port: int
    connect: tuple[str, ...]
    use_epmd: bool
    tick_time: float
    max_message: int
    max_queued: int

    def __init__(
        self,
        name: str,
        cookie: bytes,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        connect: tuple[str, ...] = (),
        use_epmd: bool = True,
        tick_time: float = 60.0,
        max_message: int = 64 << 20,
        max_queued: int = 64 << 20,
    ) -> None:
        self._set(
            name=name,
            cookie=cookie,
            host=host,
            port=port,
            connect=connect,
            use_epmd=use_epmd,
            tick_time=tick_time,
            max_message=max_message,
            max_queued=max_queued,
        )

    def __repr__(self) -> str:
        return f"Settings(name={self.name!r}, host={self.host!r}, port={self.port}, connect={self.connect!r})"


class _Attempt:
    """This node is connecting to another; :attr:`over` is set when that has succeeded, failed or been given up."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.abandoned = False
        self.waiting: list[tuple[str, tuple[Any, ...], bytes]] = []  # messages that go when it has succeeded


class Node:
    """A node of a cluster, served by the thread of ``loop``.

    ``on_up`` is called in that thread when the first connection has told this node its name: from then on it has
    :attr:`processes`. ``release`` gives memory back that was taken for something large.
    """

    def __init__(
        self,
        settings: Settings,
        loop: Loop,
        timers: Timers,
        *,
        tls: Tls | None = None,
        on_up: Callable[[], object],
        release: Callable[[], object] = lambda: None,
    ) -> None:
        self.settings = settings
        self.lock = threading.RLock()
        self.loop = loop
        self.timers = timers
        self.limits = etf.Limits(max_size=settings.max_message, max_inflated=settings.max_message)
        self._tls = tls
        self._on_up = on_up
        self._release = release
        self._connections: dict[Atom, Connection] = {}
        self._attempts: dict[Atom, _Attempt] = {}
        self._handshakes = 0
        self._services: dict[Pid, Receive] = {}
        self._shortcut = Atom("")
        self._on_call: OnCall = lambda *call: False
        self._spawn: Callable[[Connection, Signal], object] = lambda connection, signal: None
        self._waiting: dict[Reference, _Call] = {}
        self._listener: socket.socket | None = None
        self._registration: epmd.Registration | None = None
        self._ticker: Ticker | None = None
        self._closed = threading.Event()
        self.own = Own(settings.name, 0, settings.cookie)
        self.processes: Processes | None = None
        self.caller: Pid | None = None

    # -- the beginning and the end -----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Listen and register, or dial. Raises OSError and EpmdError."""
        settings = self.settings
        if settings.connect:
            creation = _random_creation()
            if "@" in settings.name:
                self._become(settings.name, creation)
            for target in settings.connect:
                threading.Thread(target=self._stay_connected, args=(target,), name=f"to {target}", daemon=True).start()
        else:
            self._listen()
        self._ticker = Ticker(settings.tick_time, self.connections, self._release)

    def close(self) -> None:
        """Close everything."""
        self._closed.set()
        if self._ticker is not None:
            self._ticker.close()
        if self._registration is not None:
            self._registration.close()
        if self._listener is not None:
            self._listener.close()
        for connection in self.connections():
            connection.end("this node is closed")

    @property
    def name(self) -> str:
        """What this node is called."""
        return self.own.name

    @property
    def port(self) -> int:
        """The port that it listens on; 0 if it does not."""
        return self._listener.getsockname()[1] if self._listener is not None else 0

    def connections(self) -> list[Connection]:
        """Those that are up."""
        with self.lock:
            return list(self._connections.values())

    def nodes(self) -> list[Atom]:
        """The names of the nodes that are connected."""
        with self.lock:
            return list(self._connections)

    def _become(self, name: str, creation: int) -> None:
        """From now on this is the node of that name and creation."""
        self.own = self.own.replace(name=name, creation=creation)
        self.processes = Processes(Atom(name), creation, self.tell)
        self.caller = self.processes.spawn()
        self._services[self.caller] = self._on_answer
        self._on_up()

    def _listen(self) -> None:
        settings = self.settings
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        self._listener = listener = socket.create_server(
            (settings.host, settings.port), family=family, backlog=_BACKLOG
        )
        listener.setblocking(False)
        creation = _random_creation()
        if settings.use_epmd:
            loopback_only = settings.host in ("127.0.0.1", "::1", "localhost")
            alive = settings.name.partition("@")[0]
            self._registration = epmd.Registration(alive, self.port, loopback_only=loopback_only)
            creation = self._registration.begin()
        self._become(settings.name, creation)
        self.loop.watch(listener.fileno(), self, POLLIN)

    # -- nodes that connect --------------------------------------------------------------------------------------------

    def on_ready(self, event: int) -> None:
        """Somebody connects."""
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return  # it has gone again, or there is no descriptor for it
        with self.lock:
            if self._handshakes >= MAX_HANDSHAKES or len(self._connections) >= MAX_CONNECTIONS:
                sock.close()
                return
            self._handshakes += 1
        threading.Thread(target=self._answer, args=(sock,), name="handshake", daemon=True).start()

    def _answer(self, sock: socket.socket) -> None:
        try:
            met = answer(sock, self.own, self._standing, _name_for, self._tls)
            self.loop.call(lambda: self._install(met))
        except (OSError, HandshakeError) as error:
            self._log("a node that connected was not let in: %s", error)
        finally:
            with self.lock:
                self._handshakes -= 1

    def _standing(self, name: str) -> str:
        """How it stands with a node that connects; of two attempts at once, ours is given up where it must."""
        node = Atom(name)
        with self.lock:
            attempt = self._attempts.get(node)
            status = standing(self.own.name, name, connected=node in self._connections, connecting=attempt is not None)
            if status == "ok_simultaneous" and attempt is not None:
                attempt.abandoned = True
            return status

    # -- nodes that are connected to -----------------------------------------------------------------------------------

    def _attempt(self, node: Atom, address: tuple[str, int] | None) -> _Attempt:
        """Begin to connect, in a thread of its own. The lock is held."""
        attempt = self._attempts[node] = _Attempt()
        threading.Thread(target=self._dial, args=(node, address, attempt), name=f"dial {node}", daemon=True).start()
        return attempt

    def _dial(self, node: Atom, address: tuple[str, int] | None, attempt: _Attempt) -> None:
        name = str(node)
        try:
            if wrong := check_name(name):
                raise HandshakeError(wrong)
            if address is None:
                alive, _, host = name.partition("@")
                listed = epmd.look_up(alive, host)
                if listed is None:
                    raise EpmdError(f"EPMD on {host} knows no node {alive}")
                address = host, listed.port
            met = dial(address, self.own, name, lambda: node in self._connections, self._tls)
            self.loop.call(lambda: self._install(met, attempt))
        except Yielded:
            self._wait_for_the_other(node)
            self._is_over(node, attempt)
        except (OSError, EpmdError, HandshakeError) as error:
            self._log("no connection to %s: %s", name, error)
            self._is_over(node, attempt)

    def _wait_for_the_other(self, node: Atom) -> None:
        """The other node connects to this one: that is over soon, whether or not it succeeds."""
        until = time.monotonic() + 7.0
        while node not in self._connections and time.monotonic() < until and not self._closed.wait(0.01):
            pass

    def _is_over(self, node: Atom, attempt: _Attempt) -> None:
        with self.lock:
            if self._attempts.get(node) is attempt:
                del self._attempts[node]
            if node not in self._connections and self.processes is not None:
                self.processes.on_node_down(node)  # whoever waits to hear of a process there hears that
        attempt.over.set()

    def _stay_connected(self, target: str) -> None:
        """Connect to a node, and again whenever the connection is lost, with longer and longer pauses in between."""
        name, _, port = target.partition(":")
        node = Atom(name)
        address = (name.partition("@")[2], int(port)) if port else None
        pause = _FIRST_PAUSE
        while not self._closed.is_set():
            with self.lock:
                connection = self._connections.get(node)
                attempt = None if connection else self._attempts.get(node) or self._attempt(node, address)
            if attempt is not None:
                attempt.over.wait()
                connection = self._connections.get(node)
            if connection is not None:
                pause = _FIRST_PAUSE
                connection.ended.wait()
            elif self._closed.wait(pause * (0.75 + secrets.randbelow(500) / 1000)):
                return
            else:
                pause = min(2 * pause, _LONGEST_PAUSE)

    # -- connections ---------------------------------------------------------------------------------------------------

    def _install(self, met: Met, attempt: _Attempt | None = None) -> None:
        """A handshake has succeeded. What there was to that node before is over."""
        node = Atom(met.peer.name)
        if "@" not in self.own.name:
            self._become(met.peer.own_name, met.peer.own_creation)
        if (attempt is not None and attempt.abandoned) or met.peer.own_name != self.own.name:
            met.socket.close()  # the other node's attempt is the one that stays, or this node has been named by another
            if attempt is not None:
                self._is_over(node, attempt)
            return
        before = self._connections.get(node)
        if before is not None:
            before.end("the node has connected anew")
        connection = Connection(
            met,
            node,
            met.peer.flags & self.own.flags,
            self.loop,
            max_message=self.settings.max_message,
            max_queued=self.settings.max_queued,
            shortcut=self._shortcut,
            on_call=self._on_call,
            on_signal=self._on_signal,
            on_end=self._on_end,
        )
        with self.lock:
            mine = self._attempts.get(node)
            for waiting in mine.waiting if mine is not None else ():
                connection.send(*waiting)
            self._connections[node] = connection
        self._log("%s is connected", node)
        if mine is not None:
            self._is_over(node, mine)
        connection.begin()

    def _on_end(self, connection: Connection, reason: str) -> None:
        node = connection.node
        with self.lock:
            if self._connections.get(node) is not connection:
                return
            del self._connections[node]
            assert self.processes is not None
            self.processes.on_node_down(node)
        self._log("%s is gone: %s", node, reason)

    def connection(self, node: Any) -> Connection | None:
        """The connection to a node, if there is one."""
        return self._connections.get(node)

    def _log(self, message: str, *arguments: Any) -> None:
        import logging

        logging.getLogger("erl_bridge.node").info(message, *arguments)

    # -- signals that come ---------------------------------------------------------------------------------------------

    def serve(self, pid: Pid, receive: Receive) -> None:
        """Have the messages to a process taken by ``receive(connection, signal)``."""
        self._services[pid] = receive

    def serve_calls(self, name: Atom, on_call: OnCall) -> None:
        """Have calls to a name, which is always there, taken by ``on_call``, on a way that is shorter."""
        self._shortcut, self._on_call = name, on_call

    def tell_watchers(self, reason: Any) -> None:
        """Tell those that monitor the process of :meth:`serve_calls` by its name that it has ended."""
        for connection in self.connections():
            watchers, connection.watchers = connection.watchers, set()
            for who, target, reference in map(watch_of, watchers):
                self.tell(connection.node, "down", target, who, reference, reason)

    def serve_no_more(self, pid: Pid) -> None:
        """Forget who takes the messages to a process."""
        self._services.pop(pid, None)

    def _on_signal(self, connection: Connection, signal: Signal) -> None:
        kind, args = signal.kind, signal.args
        if kind in ("send", "anonymous"):
            self._on_send(connection, args[-1], signal)
        elif kind == "spawn":
            self._spawn(connection, signal)
        elif (method := _OF_PROCESSES.get(kind)) is not None:
            if kind in _WITH_REASON and len(args) < _WITH_REASON[kind]:
                args = (*args, _reason(signal, self.limits))
            with self.lock:
                method(self.processes, *args)

    def serve_spawn(self, spawn: Callable[[Connection, Signal], object]) -> None:
        """Have the requests for new processes taken by ``spawn``."""
        self._spawn = spawn

    def _on_send(self, connection: Connection, to: Any, signal: Signal) -> None:
        assert self.processes is not None
        pid = to if type(to) is Pid else self.caller if type(to) is Reference else self.processes.names.get(to)
        receive = self._services.get(pid) if pid is not None else None
        if receive is not None:
            receive(connection, signal)

    # -- signals that go -----------------------------------------------------------------------------------------------

    def tell(self, node: Atom, kind: str, *args: Any) -> None:
        """Send a signal without a message to a node that is connected, or being so; any other need not know."""
        connection = self._connections.get(node)
        if connection is not None:
            connection.send(kind, args)
        elif (attempt := self._attempts.get(node)) is not None:
            attempt.waiting.append((kind, args, b""))

    def send(self, sender: Pid, to: Pid, payload: bytes, alias: Reference | None = None) -> None:
        """Send an encoded message to a process, or to an alias of it."""
        kind, args = ("send", (sender, to)) if alias is None else ("send_alias", (sender, alias, to))
        self._send(to.node, kind, args, payload)

    def send_to_name(self, sender: Pid, name: Atom, node: Atom, payload: bytes) -> None:
        """Send an encoded message to the process that is registered under a name on a node."""
        self._send(node, "send_name", (sender, name), payload)

    def _send(self, node: Any, kind: str, args: tuple[Any, ...], payload: bytes) -> None:
        """Send a message, to a node that is not connected once it is."""
        connection = self._connections.get(node)
        if connection is None:
            with self.lock:
                connection = self._connections.get(node)
                if connection is None:
                    waiting = (self._attempts.get(node) or self._attempt(node, None)).waiting
                    if len(waiting) < MAX_WAITING:
                        waiting.append((kind, args, payload))
                    return
        connection.send(kind, args, payload)

    # -- calls to processes of other nodes -----------------------------------------------------------------------------

    def call(self, to: Pid | Atom, node: Atom, message: Any, timeout: float | None, done: Done) -> None:
        """Do what ``GenServer.call`` does, with a process of another node, which is connected to if need be.

        ``done`` is called with ``{:ok, reply}`` or ``{:error, reason}`` and the atoms that came, in the thread of the
        loop. Raises :class:`erl_bridge.etf.EncodeError`.
        """
        assert self.processes is not None
        assert self.caller is not None
        etf.encode(message)  # before anything is begun
        with self.lock:
            if node not in self._connections and node not in self._attempts:
                self._attempt(node, None)
            reference = self.processes.monitor(self.caller, to, node, lambda why: self._answered(reference, why))
            call = self._waiting[reference] = _Call(done)
            if timeout is not None:
                call.timer = self.timers.call_at(
                    time.monotonic() + timeout, lambda: self._answered(reference, _TIMEOUT)
                )
        payload = etf.encode((gen.CALL, (self.caller, gen.alias_tag(reference)), message))
        if isinstance(to, Pid):
            self.send(self.caller, to, payload)
        else:
            self.send_to_name(self.caller, to, node, payload)

    def monitor(self, pid: Pid, on_down: Callable[[Any], object]) -> Reference:
        """Have ``on_down`` called with the reason when a process of another node is no more. The lock is held."""
        assert self.processes is not None
        assert self.caller is not None
        return self.processes.monitor(self.caller, pid, Atom(str(pid.node)), on_down)

    def _answered(self, reference: Reference, reason: Any) -> None:
        """A call will not be answered any more; the atoms in the reason are known to the other node."""
        atoms: set[Atom] = set()
        etf.decode(etf.encode(reason), atoms=atoms)
        self._end_call(reference, (_ERROR, reason), atoms)

    def _on_answer(self, connection: Connection, signal: Signal) -> None:
        atoms: set[Atom] = set()
        try:
            message = signal.payload(self.limits, atoms) if not signal.skipped else None
        except etf.DecodeError:
            message = None
        if type(message) is tuple and len(message) == 2:
            if (reference := gen.reference_in(message[0])) is not None:
                self._end_call(reference, (_OK, message[1]), atoms)
        elif (reference := gen.reference_in(gen.tag_in(signal.data, signal.start, signal.has_version))) is not None:
            self._end_call(reference, (_ERROR, "the reply is over the limit, or no term"), atoms)

    def _end_call(self, reference: Reference, result: tuple[Any, Any], atoms: set[Atom]) -> None:
        assert self.processes is not None
        with self.lock:
            call = self._waiting.pop(reference, None)
            self.processes.demonitor(reference)
        if call is not None:
            if call.timer is not None:
                call.timer.cancel()
            done = call.done
            self.loop.call(lambda: done(result, atoms))


class _Call:
    """A call to a process of another node that waits for its answer."""

    __slots__ = ("done", "timer")

    def __init__(self, done: Done) -> None:
        self.done = done
        self.timer: Timer | None = None


def _reason(signal: Signal, limits: etf.Limits) -> Any:
    try:
        return signal.payload(limits)
    except etf.DecodeError as error:
        raise dist.DistError(f"a reason that is no term: {error.message}") from None


_OF_PROCESSES: dict[str, Callable[..., None]] = {
    "link": Processes.on_link,
    "unlink": Processes.on_unlink,
    "unlink_ack": Processes.on_unlink_ack,
    "old_unlink": Processes.on_old_unlink,
    "exit": Processes.on_exit,
    "exit2": Processes.on_exit2,
    "monitor": Processes.on_monitor,
    "demonitor": Processes.on_demonitor,
    "down": Processes.on_down,
}
_WITH_REASON = {"exit": 3, "exit2": 3, "down": 4}  # how many arguments there are with the reason


def _random_creation() -> int:
    least, most = _CREATIONS
    return least + secrets.randbelow(most - least + 1)


def _name_for(host: str) -> tuple[str, int]:
    """A name and a creation for a node of a host that asks for them."""
    return f"{secrets.token_hex(6).upper()}@{host}", _random_creation()
