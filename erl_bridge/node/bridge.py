"""What lives on the node: the process ``erl_bridge``, which takes requests, and those that nodes expect of each other.

Rule of this file: every request becomes a :class:`~erl_bridge.messages.Request` for the dispatcher, with an origin that
knows how its answer goes back. What of this node anybody may call by ``:erpc`` is in ``_CALLABLE`` and nowhere else.
"""

from __future__ import annotations

from threading import get_ident

from .. import etf
from ..dispatch import Calls, Client
from ..errors import CallbackError, ResourceExhausted, SerializationError
from ..messages import Call, Failure, Reply
from ..node_state.processes import KILLED
from ..refusals import invalid
from ..session import Writer
from ..terms import Atom, Pid, TermMap
from ..vocabulary import VOCABULARY
from ..wire import gen, port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Set
    from typing import Any

    from ..dispatch import Dispatcher, Work
    from ..messages import Request
    from ..node_state.processes import Processes
    from ..terms import Reference
    from ..wire.dist import Signal
    from ..wire.port import Message
    from ._fast_path import FastPath
    from .connection import Connection
    from .node import Node

ERL_BRIDGE, NET_KERNEL, REX = Atom("erl_bridge"), Atom("net_kernel"), Atom("rex")
_YES, _NOTSUP, _ERROR, _RETURN, _UNDEF, _BADRPC, _EXIT, _BADARG = (
    Atom(name) for name in ("yes", "notsup", "error", "return", "undef", "badrpc", "EXIT", "badarg")
)
_IS_AUTH, _CALL, _ERPC, _EXECUTE_CALL, _EXECUTE_CAST, _MONITOR, _LINK, _TERMINATE = (
    Atom(name) for name in ("is_auth", "call", "erpc", "execute_call", "execute_cast", "monitor", "link", "terminate")
)
_ROOM_STEP = 0.5  # seconds between looks whether an event is still wanted
_LINKED, _MONITORED = 1, 2


# -- how answers go back -------------------------------------------------------------------------------------------


class Origin:
    """Where a request came from: the process ``pid``, by a plain message, so all that it gets are plain messages.

    ``node`` is the node that sent it, which need not be the one of the process.
    """

    __slots__ = ("bridge", "node", "pid")

    def __init__(self, bridge: NodeBridge, pid: Pid, node: Atom) -> None:
        self.bridge = bridge
        self.pid = pid
        self.node = node

    def tell(self, message: Message, atoms: Set[Atom]) -> None:
        """Send a message that belongs to the request."""
        self.bridge.send(self, None, gen.note, message, atoms)


class CallOrigin(Origin):
    """The request was a ``GenServer.call``; ``tag`` goes back with its answer."""

    __slots__ = ("tag",)

    def __init__(self, bridge: NodeBridge, pid: Pid, node: Atom, tag: Any) -> None:
        self.bridge = bridge
        self.pid = pid
        self.node = node
        self.tag = tag

    def tell(self, message: Message, atoms: Set[Atom]) -> None:
        if _is_final(message):
            self.bridge.send(self, gen.alias_in(self.tag), self._tagged, message, atoms)
        else:
            super().tell(message, atoms)

    def _tagged(self, message: Message) -> tuple[Any, Any]:
        return self.tag, gen.result(message)


class FoundOrigin(Origin):
    """The same, of a call that was found by its bytes. Those are read only where they are needed."""

    __slots__ = ("alias", "caller", "tag")

    def __init__(self, bridge: NodeBridge, node: Atom, caller: bytes, tag: bytes, alias: bytes) -> None:
        self.bridge = bridge
        self.node = node
        self.caller = caller
        self.tag = tag
        self.alias = alias

    def __getattr__(self, name: str) -> Pid:
        if name != "pid":
            raise AttributeError(name)
        self.pid = pid = etf.decode_prefix(self.caller, 0, version=False)[0]
        return pid  # type: ignore[no-any-return]

    def tell(self, message: Message, atoms: Set[Atom]) -> None:
        if _is_final(message):
            self.bridge.answer(self, message, atoms)
        else:
            super().tell(message, atoms)


class CastOrigin(Origin):
    """The request was a cast: nothing comes back, and nobody can be asked anything."""

    __slots__ = ()

    def tell(self, message: Message, atoms: Set[Atom]) -> None:
        if type(message) is Call:
            raise CallbackError("the request was a cast, so there is nobody to ask; use GenServer.call or send")


class RpcOrigin(Origin):
    """The request was given to ``:erl_bridge.call/1`` by ``:erpc`` or ``:rpc``; ``done`` gets its answer."""

    __slots__ = ("done",)

    def __init__(self, bridge: NodeBridge, pid: Pid, node: Atom, done: Callable[[Any], None]) -> None:
        super().__init__(bridge, pid, node)
        self.done = done

    def tell(self, message: Message, atoms: Set[Atom]) -> None:
        if isinstance(message, (Reply, Failure)):
            self.done(gen.result(self.bridge.writer.sendable(gen.result, message, atoms)))
        else:
            super().tell(message, atoms)


def _is_final(message: Message) -> bool:
    return type(message) is Reply or type(message) is Failure


# -- clients -------------------------------------------------------------------------------------------------------


class NodeClient(Client):
    """The requests of one process of another node. Calls that they make may be answered by any process."""

    def __init__(self, bridge: NodeBridge, pid: Pid | None) -> None:
        super().__init__(bridge.dispatcher, self._send_nothing, bridge.calls)
        self.bridge = bridge
        self.pid = pid
        self.monitor: Reference | None = None

    def tell(self, request: Request, message: Message, atoms: Set[Atom]) -> None:
        request.origin.tell(message, atoms)

    def make_room(self, work: Work) -> None:
        """Wait while the node that the event goes to reads slowly or not at all, as long as the event is wanted."""
        node = self.bridge.node
        connection = node.connection(work.request.origin.pid.node)
        if connection is None or get_ident() == node.loop.thread:
            return
        while not connection.has_room and not work.finished:
            connection.wait_for_room(_ROOM_STEP)

    def on_node(
        self,
        request: Request,
        what: str,
        to: Any,
        message: Any,
        timeout: float | None,
        done: Callable[[tuple[Any, Any], Set[Atom]], None],
    ) -> None:
        """Send to a process of the cluster, or call it, and give ``done`` what comes of it."""
        process, node = _process(to, request.origin.pid.node)
        if what == "call":
            self.bridge.node.call(process, node, message, timeout, done)
        else:
            self.bridge.send_term(process, node, message)
            done((gen.OK, None), frozenset())

    def cancel(self, message_id: Any) -> bool:
        """End this process's request of that id, or else the only one of another that has it."""
        return super().cancel(message_id) or self.bridge.cancel(message_id)

    def forget(self, work: Work, calls: list[int]) -> None:
        super().forget(work, calls)
        self.bridge.settle(self)

    def _send_nothing(self, message: Message, atoms: Set[Atom]) -> None:
        raise AssertionError("what goes to a process of another node goes by the origin of its request")


def _process(to: Any, node: Any) -> tuple[Pid | Atom, Atom]:
    """A pid or a name, and its node, for what a handler may say in their place. Raises InvalidRequest."""
    if type(to) is Pid:
        return to, Atom(str(to.node))
    name, where = to if type(to) is tuple and len(to) == 2 else (to, node)
    if isinstance(name, (str, Atom)) and isinstance(where, (str, Atom)):
        return Atom(str(name)), Atom(str(where))
    raise invalid("to", "a pid, a name, or a name and a node", to)


# -- the processes ---------------------------------------------------------------------------------------------------


class NodeBridge:
    """The processes of a node that serves requests. ``facts`` are what ``:erl_bridge.info/0`` tells.

    Everything but :meth:`send`, :meth:`settle` and :meth:`cancel` happens in the thread of the loop.
    """

    def __init__(self, node: Node, dispatcher: Dispatcher, facts: Mapping[Any, Any]) -> None:
        self.node = node
        self.dispatcher = dispatcher
        self.facts = facts
        self.calls = Calls()
        self.writer = Writer()
        self._pid: Pid | None = None
        self._sender = b""  # the same, as an external term
        self._clients: dict[Pid, NodeClient] = {}
        self._anybody = NodeClient(self, None)  # for what is answered at once
        self._fast_path: FastPath | None = None
        dispatcher.add(self._anybody)

    @property
    def processes(self) -> Processes:
        """All of the node."""
        assert self.node.processes is not None
        return self.node.processes

    def begin(self) -> None:
        """Start the processes; the node knows what it is called."""
        allowed = VOCABULARY | {self.processes.node}
        self.writer = Writer(allowed)
        self._fast_path = self._make_fast_path(allowed)
        self.node.serve_calls(ERL_BRIDGE, self._on_call)
        self._begin_bridge()
        self.node.serve(self.processes.spawn(NET_KERNEL), self._on_net_kernel)
        self.node.serve(self.processes.spawn(REX), self._on_rex)
        self.node.serve_spawn(self._on_spawn)

    def _make_fast_path(self, allowed: frozenset[Atom]) -> FastPath | None:
        """What answers calls in compiled code; None where there is none."""
        if etf.backend != "compiled":
            return None
        try:
            from ._fast_path import FastPath
        except ImportError:  # there was no compiler
            return None
        return FastPath(
            bridge=self,
            client=self._anybody,
            clients=self._clients,
            handlers=self.dispatcher.at_once,
            limits=self.node.limits,
            atoms=allowed,
        )

    def _begin_bridge(self) -> None:
        self._pid = self.processes.spawn(ERL_BRIDGE, self._on_kill)
        self._sender = etf.encode(self._pid)[1:]
        self.node.serve(self._pid, self._on_message)

    def _on_kill(self) -> None:
        self._on_end(KILLED)

    def _on_end(self, reason: Any) -> None:
        """The process that takes requests has ended: what it had begun is cancelled, and it begins anew."""
        self.node.tell_watchers(reason)
        assert self._pid is not None
        self.node.serve_no_more(self._pid)
        self._begin_bridge()
        for client in self._all_clients():
            self.node.loop.call(client.close)

    # -- requests --------------------------------------------------------------------------------------------------

    def _on_call(
        self, connection: Connection, data: bytes, start: int, end: int, call: tuple[bytes, bytes, bytes]
    ) -> bool:
        """Begin the request of a call that was found; False for what is no term, of which :meth:`_read` tells."""
        if self._fast_path is not None and not connection.is_full:
            found = self._fast_path.answer(connection.node, data, start, end, *call, *connection.answers, self._sender)
            if isinstance(found, bytes):
                connection.add(found)
                return True
            if found is not None:
                request, message = found if isinstance(found, tuple) else (found, None)
                self._begin(request.origin, request, message)
                return True
        atoms: set[Atom] = set()
        try:
            asked, stop = etf.decode_prefix(data, start, version=False, limits=self.node.limits, atoms=atoms)
        except etf.DecodeError:
            return False
        if stop != end:
            return False
        if gen.lacks_id(asked):
            alias, _ = etf.decode_prefix(call[2], 0, version=False, atoms=atoms)
            asked = {**asked, gen.MESSAGE_ID: alias}
        self.request(FoundOrigin(self, connection.node, *call), asked, atoms)
        return True

    def _on_message(self, connection: Connection, signal: Signal) -> None:
        atoms: set[Atom] = set()
        kind, pid, tag, asked = gen.parse(self._read(connection, signal, atoms))
        if kind == "call" and pid is not None:
            if gen.lacks_id(asked):
                asked = {**asked, gen.MESSAGE_ID: gen.reference_in(tag)}
            self.request(CallOrigin(self, pid, connection.node, tag), asked, atoms)
        elif kind == "system" and pid is not None:
            self._on_system(pid, tag, asked)
        elif (sender := signal.sender) is None:
            return  # an old node's message without a sender: there is nobody to answer
        elif kind == "cast":
            self.request(CastOrigin(self, sender, connection.node), self._with_id(asked), atoms)
        elif isinstance(asked, (dict, TermMap)):
            self.request(Origin(self, sender, connection.node), asked, atoms)

    def _with_id(self, asked: Any) -> Any:
        return {**asked, gen.MESSAGE_ID: self.processes.reference()} if gen.lacks_id(asked) else asked

    def _on_system(self, pid: Pid, tag: Any, asked: Any) -> None:
        """``GenServer.stop`` ends the process; of what else ``:sys`` asks for there is nothing."""
        if type(asked) is tuple and len(asked) == 2 and asked[0] is _TERMINATE:
            self._reply(pid, tag, gen.OK)
            assert self._pid is not None
            with self.node.lock:
                self.processes.exit(self._pid, asked[1])
                self._on_end(asked[1])
        else:
            self._reply(pid, tag, (_ERROR, _NOTSUP))

    def _read(self, connection: Connection, signal: Signal, atoms: set[Atom]) -> Any:
        """The message in a signal; None for one that is too large or no term, which is answered with an error."""
        try:
            if not signal.skipped:
                return signal.payload(self.node.limits, atoms)
            most = self.node.settings.max_message
            raise SerializationError(
                f"a message of {signal.skipped} bytes is over the limit of {most} bytes, or too many came at once; "
                "send less at once, send it as a dataset, or raise --max-frame"
            )
        except SerializationError as error:
            failure = Failure(None, SerializationError(error.message))
            known: set[Atom] = set()
            caller = gen.caller_in(signal.data, signal.start, signal.has_version, known)
            if caller is not None:
                CallOrigin(self, caller[0], connection.node, caller[1]).tell(failure, known)
            elif signal.kind == "send" and (sender := signal.sender) is not None:
                Origin(self, sender, connection.node).tell(failure, frozenset())
            return None

    def request(self, origin: Origin, asked: Any, atoms: Set[Atom]) -> None:
        """Begin a request, or refuse it."""
        request = port.parse(asked, atoms, origin)
        if isinstance(request, Failure):
            origin.tell(request, atoms)
        else:
            self._begin(origin, request)

    def _begin(self, origin: Origin, request: Request, answer: Reply | Failure | None = None) -> None:
        """Answer a request, now or later; with ``answer`` if that is there already."""
        if answer is None:
            client = self._client_of(origin, request)
            answer = client.handle(request)
            if answer is None and client.pid is not None:
                self.settle(client)
        if answer is not None:
            origin.tell(answer, request.atoms)

    def _client_of(self, origin: Origin, request: Request) -> NodeClient:
        client = self._clients.get(origin.pid) if self._clients else None
        if client is not None:
            return client
        waits = request.request_type in self.dispatcher.handlers and request.request_type not in self.dispatcher.at_once
        return NodeClient(self, origin.pid) if waits else self._anybody

    def send(
        self, origin: Origin, alias: Reference | None, build: Callable[[Any], Any], message: Message, atoms: Set[Atom]
    ) -> None:
        """Send what ``build`` makes of a message to where a request came from, from any thread.

        A final answer that finds too much waiting to go becomes an error. Where the node has gone, nobody waits.
        """
        to, sender = origin.pid, self._pid
        assert sender is not None
        connection = self.node.connection(to.node)
        if connection is None:
            if to.node is not origin.node:
                self.node.send(sender, to, self.writer.frame(build, message, atoms)[1], alias)
            return
        if connection.is_full and _is_final(message):
            message = _too_slow(message, origin.node)
        payload = self.writer.frame(build, message, atoms)[1]
        if alias is None:
            connection.send("send", (sender, to), payload)
        else:
            connection.send("send_alias", (sender, alias, to), payload)

    def answer(self, origin: FoundOrigin, message: Message, atoms: Set[Atom]) -> None:
        """The same for the answer to a call that was found."""
        connection = self.node.connection(origin.node)
        if connection is not None:
            if connection.is_full:
                message = _too_slow(message, origin.node)
            result = self.writer.frame(gen.result, message, atoms)[1]
            connection.answer(self._sender, origin.caller, origin.tag, origin.alias, result)

    def send_term(self, to: Pid | Atom, node: Atom, message: Any) -> None:
        """Send a message to a process, from any thread."""
        assert self._pid is not None
        payload = etf.encode(message, root="message")
        if isinstance(to, Pid):
            self.node.send(self._pid, to, payload)
        else:
            self.node.send_to_name(self._pid, to, node, payload)

    def _reply(self, pid: Pid, tag: Any, result: Any) -> None:
        """Answer a call that is no request."""
        assert self._pid is not None
        self.node.send(self._pid, pid, etf.encode((tag, result)), gen.alias_in(tag))

    # -- clients: one for each process that has requests in flight -----------------------------------------------------

    def settle(self, client: NodeClient) -> None:
        """See to it that the requests of a process end when it does; who has none is kept no more. From any thread."""
        pid = client.pid
        if pid is None:
            return
        with self.node.lock:
            if client.is_busy:
                self._clients[pid] = client
                self.dispatcher.add(client)
                if client.monitor is None:
                    client.monitor = self.node.monitor(pid, lambda reason: self._on_down(client))
            else:
                if client.monitor is not None:
                    self.processes.demonitor(client.monitor)
                    client.monitor = None
                if self._clients.get(pid) is client:
                    del self._clients[pid]
                self.dispatcher.remove(client)

    def _on_down(self, client: NodeClient) -> None:
        """The process that asked is no more. The lock is held, so that what it asked for ends a little later."""
        client.monitor = None
        self.node.loop.call(client.close)

    def cancel(self, message_id: Any) -> bool:
        """End the request of that id, if only one process has one."""
        found = [client for client in self._all_clients() if client.has(message_id)]
        return len(found) == 1 and Client.cancel(found[0], message_id)

    def _all_clients(self) -> list[NodeClient]:
        with self.node.lock:
            return list(self._clients.values())

    # -- what nodes expect of each other -------------------------------------------------------------------------------

    def _on_net_kernel(self, connection: Connection, signal: Signal) -> None:
        """Pings; and where spawning was refused, the BEAM tries it here."""
        kind, pid, tag, asked = gen.parse(self._read(connection, signal, set()))
        if kind == "call" and pid is not None:
            is_ping = type(asked) is tuple and len(asked) == 2 and asked[0] is _IS_AUTH
            self._reply(pid, tag, _YES if is_ping else (_ERROR, _NOTSUP))

    def _on_rex(self, connection: Connection, signal: Signal) -> None:
        """The rpc of before OTP 23, which ``ei_rpc`` and ``erl_call`` use: ``{Pid, {call, M, F, Args, Leader}}``."""
        atoms: set[Atom] = set()
        message = self._read(connection, signal, atoms)
        kind, pid, tag, asked = gen.parse(message)
        if kind == "plain" and type(asked) is tuple and len(asked) == 2 and type(asked[0]) is Pid:
            (pid, asked), kind = asked, "rex"
        if pid is None or type(asked) is not tuple or len(asked) != 5 or asked[0] is not _CALL:
            return
        caller, module, function, args = pid, *asked[1:4]

        def done(result: Any) -> None:
            if kind == "rex":
                assert self._pid is not None
                self.node.send(self._pid, caller, etf.encode((REX, result)))
            else:
                self._reply(caller, tag, result)

        def undefined(stack: Any) -> None:
            done((_BADRPC, (_EXIT, (_UNDEF, stack))))

        self._apply(caller, connection.node, module, function, args, atoms, done, undefined)

    def _on_spawn(self, connection: Connection, signal: Signal) -> None:
        """Somebody wants a process: for ``:erpc`` one is made, anything else is refused."""
        reference, who, entry, options = signal.args
        atoms: set[Atom] = set()
        arguments = self._read(connection, signal, atoms)
        is_call = entry == (_ERPC, _EXECUTE_CALL, 4)
        expected = 4 if is_call else 3 if entry == (_ERPC, _EXECUTE_CAST, 3) else None
        if type(arguments) is not list or len(arguments) != expected:
            self.node.tell(who.node, "spawn_reply", reference, who, 0, _NOTSUP if expected is None else _BADARG)
            return
        *tag, module, function, args = arguments
        flags = (_MONITORED if _MONITOR in options else 0) | (_LINKED if _LINK in options else 0)
        with self.node.lock:
            pid = self.processes.spawn()
            self.processes.watch(who, pid, reference if flags & _MONITORED else None, bool(flags & _LINKED))
        self.node.tell(who.node, "spawn_reply", reference, who, flags, pid)

        def done(result: Any) -> None:
            end((*tag, _RETURN, result) if is_call else Atom("normal"))

        def undefined(stack: Any) -> None:
            end((*tag, _ERROR, _UNDEF, stack) if is_call else (_UNDEF, stack))

        def end(reason: Any) -> None:
            with self.node.lock:
                self.processes.finish(pid, reference, reason)

        self._apply(who, connection.node, module, function, args, atoms, done, undefined)

    def _apply(
        self,
        who: Pid,
        node: Atom,
        module: Any,
        function: Any,
        args: Any,
        atoms: Set[Atom],
        done: Callable[[Any], None],
        undefined: Callable[[Any], None],
    ) -> None:
        """Call a function of those that may be called, and give its result to ``done``, now or later."""
        if (module, function) == (ERL_BRIDGE, _CALL) and type(args) is list and len(args) == 1:
            self.request(RpcOrigin(self, who, node, done), self._with_id(args[0]), atoms)
            return
        arity = len(args) if type(args) is list else -1
        callable_ = _CALLABLE.get((str(module), str(function), arity))
        if callable_ is None:
            undefined([(module, function, args, [])])
        else:
            done(callable_(self, *args))


def _too_slow(message: Any, node: Atom) -> Failure:
    """In the place of an answer. The work has been done, so it must not look like what was refused before it began."""
    return Failure(
        message.message_id,
        ResourceExhausted(
            f"{node} does not read its answers fast enough, so there is no room for this one (--max-queued)"
        ),
    )


def _whereis(bridge: NodeBridge, name: Any) -> Any:
    pid = bridge.processes.find(name) if type(name) is Atom else None
    return Atom("undefined") if pid is None else pid


# Module, function and arity of what may be called here, besides :erl_bridge.call/1, which takes a request.
_CALLABLE: dict[tuple[str, str, int], Callable[..., Any]] = {
    ("erl_bridge", "info", 0): lambda bridge: dict(bridge.facts),
    ("erlang", "node", 0): lambda bridge: bridge.processes.node,
    ("erlang", "nodes", 0): lambda bridge: bridge.node.nodes(),
    ("erlang", "registered", 0): lambda bridge: list(bridge.processes.names),
    ("erlang", "whereis", 1): _whereis,
    ("erlang", "is_process_alive", 1): lambda bridge, pid: type(pid) is Pid and bridge.processes.find(pid) is not None,
}
