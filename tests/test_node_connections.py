"""How nodes come together, stay together and part: EPMD, names, cookies, dialling out, TLS, ticks, and bad peers."""

from __future__ import annotations

import contextlib
import random
import secrets
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from capture_node_frames import FLAGS, NAME
from certificates import Certificates
from node_support import COOKIE, ELIXIR, EPMD, Beam, Epmd, Node, can_connect, free_port, unique, wait_until
from support import DEADLINE, a
from test_node_frames import CAPTURED, PEER

from erl_bridge import Atom, Pid, Reference, etf
from erl_bridge.framing import FrameReader
from erl_bridge.wire import capabilities, dist, gen
from erl_bridge.wire import epmd as epmd_wire
from erl_bridge.wire.handshake import Acceptor, HandshakeError, Initiator, Own

needs_epmd = pytest.mark.skipif(not EPMD, reason="needs epmd")
needs_beam = pytest.mark.skipif(not (ELIXIR and EPMD), reason="needs Elixir and epmd")
Start = Callable[..., Any]


@pytest.fixture(scope="module")
def epmd() -> Iterator[Epmd]:
    epmd = Epmd()
    yield epmd
    epmd.stop()


@pytest.fixture(scope="module")
def cookie_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("node") / "cookie"
    path.write_text(COOKIE + "\n")
    path.chmod(0o400)
    return path


@pytest.fixture
def start(cookie_file: Path) -> Iterator[Start]:
    """Starts nodes, which end with the test: ``start("--name", name, epmd_port=...)``."""
    started: list[Node] = []

    def begin(*arguments: str, epmd_port: int = 1, app: str = "handlers_app:app", **env: str) -> Node:
        started.append(Node(epmd_port, cookie_file, *arguments, app=app, **env))
        return started[-1]

    yield begin
    for node in started:
        node.kill()


@pytest.fixture(scope="module")
def beam(epmd: Epmd) -> Iterator[Beam]:
    beam = Beam(unique("ex"), epmd.port)
    beam.eval(
        "call = fn py, type -> GenServer.call({:erl_bridge, py}, %{request_type: type, payload: %{}}, 30_000) end"
    )
    beam.eval("next = fn -> receive do message -> message after 30_000 -> :nothing end end")
    yield beam
    beam.kill()


class Peer:
    """A node in this process, which says what it likes."""

    def __init__(
        self, port: int, peer_name: str, flags: int = capabilities.OURS, cookie: str = COOKIE, name: str = ""
    ) -> None:
        self.name = name or unique("peer")
        self.node, self.peer = Atom(self.name), Atom(peer_name)
        self.pid, self.flags = Pid(self.node, 9, 0, 7), flags
        self.socket = socket.create_connection(("127.0.0.1", port), DEADLINE)
        try:
            self._shake(Initiator(Own(self.name, 7, cookie.encode(), flags), peer_name, 1))
        except BaseException:
            self.socket.close()
            raise
        self.frames = FrameReader()
        self.received: list[bytes] = []
        self.sequence = 0
        self._held: list[bytes] | None = None

    def _shake(self, machine: Initiator) -> None:
        self.socket.sendall(machine.begin())
        while machine.peer is None:
            data = self.socket.recv(4096)
            if not data:
                raise HandshakeError("closed")
            self.socket.sendall(machine.receive(data))

    def reference(self) -> Reference:
        return Reference(self.node, 7, (secrets.randbits(18), 1, 2))

    def send_frame(self, frame: bytes) -> None:
        self.socket.sendall(len(frame).to_bytes(4, "big") + frame)

    def send(self, control: Any, *payload: Any) -> None:
        self.sequence += 1
        flags = self.flags & capabilities.OURS
        encoded = b"".join(map(etf.encode, payload))
        self._write(b"".join(dist.frames(flags, etf.encode(control), encoded, self.sequence)))

    def _write(self, data: bytes) -> None:
        if self._held is None:
            self.socket.sendall(data)
        else:
            self._held.append(data)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is sent meanwhile goes at once, so that the node reads it at once."""
        held: list[bytes] = []
        self._held = held
        yield
        self._held = None
        self.socket.sendall(b"".join(held))

    def receive(self) -> bytes | None:
        """The next frame that is no tick; None at the end."""
        while not self.received:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self.received += [frame for frame in self.frames.feed(data) if isinstance(frame, bytes) and frame]
        return self.received.pop(0)

    def signal(self) -> Any:
        """The kind, the control arguments and the payload of the next signal."""
        frame = self.receive()
        assert frame is not None
        signal = dist.Receiver(self.peer, self.flags & capabilities.OURS, 1 << 30).receive(frame)
        assert signal is not None
        return signal

    def call(self, request: Any) -> Any:
        """GenServer.call without a monitor."""
        tag = gen.alias_tag(self.reference())
        self.send((6, self.pid, a(""), a("erl_bridge")), (gen.CALL, (self.pid, tag), request))
        while True:
            signal = self.signal()
            if signal.kind in ("send", "anonymous") and signal.payload()[0] == tag:
                return signal.payload()[1]

    def ping(self) -> Any:
        return self.call({a("request_type"): a("ping"), a("payload"): {"n": 1}})

    def is_closed(self) -> bool:
        """Waits until the other side has closed the connection."""
        while self.receive() is not None:
            pass
        return True

    def close(self) -> None:
        self.socket.close()


# -- EPMD, names and the cookie --------------------------------------------------------------------------------------


@needs_epmd
def test_epmd_is_started_if_it_is_missing_and_listens_on_loopback_alone(start: Start) -> None:
    port = free_port()
    name = unique("py")
    node = start("--name", name, epmd_port=port)
    assert node.ready()[0] == name
    try:
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as sock:
            sock.sendall(epmd_wire.lookup(name.partition("@")[0]))
            listed = epmd_wire.found(sock.recv(4096))
        assert listed is not None
        assert listed.hidden
        listening = Path("/proc/net/tcp").read_text().split("\n")
        addresses = {line.split()[1] for line in listening if f":{port:04X} " in line and " 0A " in line}
        assert addresses == {f"0100007F:{port:04X}"}
    finally:
        node.kill()
        wait_until(lambda: has_gone(port))


def has_gone(port: int) -> bool:
    """Whether EPMD went when it was asked to, which it does when no node is registered."""
    with socket.create_connection(("127.0.0.1", port), DEADLINE) as sock:
        sock.sendall(b"\0\1k")
        return sock.recv(16) == b"OK"


@needs_epmd
def test_without_epmd_and_without_the_program_it_is_said_what_to_do(start: Start) -> None:
    node = start("--name", unique("py"), epmd_port=free_port(), PATH="/nowhere")
    if not list(Path("/usr/lib/erlang").glob("erts-*/bin/epmd")):
        assert node.process.wait(DEADLINE) == 1
        assert "install Erlang (Debian: erlang-base)" in node.stderr


@needs_epmd
def test_a_name_that_is_taken_is_refused(epmd: Epmd, start: Start) -> None:
    name = unique("py")
    start("--name", name, epmd_port=epmd.port).ready()
    second = start("--name", name, epmd_port=epmd.port)
    assert second.process.wait(DEADLINE) == 1
    wait_until(lambda: "registered already" in second.stderr)


@needs_epmd
def test_a_node_registers_anew_when_epmd_was_away(start: Start) -> None:
    epmd = Epmd()
    try:
        name = unique("py")
        start("--name", name, epmd_port=epmd.port).ready()
        epmd.stop()
        epmd.start()

        def is_listed() -> bool:
            with socket.create_connection(("127.0.0.1", epmd.port), DEADLINE) as sock:
                sock.sendall(epmd_wire.lookup(name.partition("@")[0]))
                return epmd_wire.found(sock.recv(4096)) is not None

        wait_until(is_listed)
    finally:
        epmd.stop()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--name: expected the name of this node, name@host"),
        (["--name", "py"], "--name: a node is called name@host, got 'py'"),
        (["--connect", "app"], "--connect: expected name@host or name@host:port, got 'app'"),
        (["--connect", "app@h:x"], "--connect: expected name@host or name@host:port, got 'app@h:x'"),
        (["--name", "a@h", "--tls-cert", "x"], "TLS needs --tls-cert and --tls-ca"),
        (["--name", "a@h", "--cookie-file", "/nowhere"], "the cookie file /nowhere cannot be read: No such file"),
        (["--name", "a@h", "--tick-time", "0"], "--tick-time: expected SECONDS, got '0'"),
    ],
)
def test_options_that_do_not_fit_are_refused(start: Start, arguments: list[str], message: str) -> None:
    node = start(*arguments)
    assert node.process.wait(DEADLINE) == 2
    wait_until(lambda: message in node.stderr)


@pytest.mark.parametrize(("content", "mode", "message"), [
    ("", 0o400, "holds no cookie"), ("nocookie\n", 0o400, "holds no cookie"), ("x\n", 0o644, "may be read by others"),
])  # fmt: skip
def test_a_cookie_file_that_does_not_fit_is_refused(
    start: Start, tmp_path: Path, content: str, mode: int, message: str
) -> None:
    path = tmp_path / "cookie"
    path.write_text(content)
    path.chmod(mode)
    node = start("--name", "a@h", "--cookie-file", str(path))
    assert node.process.wait(DEADLINE) == 2
    wait_until(lambda: message in node.stderr)


def listening(start: Start, *arguments: str) -> tuple[Node, str, int]:
    """A node without EPMD, its name and its port."""
    node = start("--name", unique("py"), "--no-epmd", *arguments)
    return node, *node.ready()


def test_another_cookie_gets_no_connection_and_the_cookie_is_in_no_message(start: Start) -> None:
    node, name, port = listening(start)
    with pytest.raises(HandshakeError):
        Peer(port, name, cookie="another")
    peer = Peer(port, name)
    assert peer.ping() == (a("ok"), {"n": 1})
    peer.close()
    assert COOKIE not in node.stderr
    assert "another" not in node.stderr


# -- bad peers -------------------------------------------------------------------------------------------------------

BAD_FRAMES = [
    b"x",
    b"p\x83j",
    b"\x83",
    b"\x83D",
    b"\x83D\0",
    b"\x83D\1\0\0\0a",
    b"\x83D\0h\x02a\x2aa\1",
    b"\x83D\0h\x01a\x01",
    b"\x83D\0j",
    b"\x83D\0" + etf.encode((1, 2, 3))[1:],
    b"\x83D\0" + etf.encode((1, Pid(a("third@h"), 1, 0, 1), Pid(a("third@h"), 1, 0, 1)))[1:],
    b"\x83D\0" + etf.encode((6, Pid(a("x@h"), 1, 0, 1), a(""), a("erl_bridge")))[1:],
    b"\x83E" + bytes(16),
    b"\x83F" + bytes(16),
    b"\x83F" + bytes(15) + b"\1",
    b"\x83P\0\0\0\5junk",
    struct.pack(">BB", 131, 69) + bytes(15) + b"\2\0",
]


def test_a_frame_that_breaks_the_protocol_costs_one_connection_and_nothing_else(start: Start) -> None:
    node, name, port = listening(start)
    good = Peer(port, name)
    for frame in BAD_FRAMES:
        bad = Peer(port, name)
        bad.send_frame(frame)
        assert bad.is_closed(), frame
        bad.close()
        assert good.ping() == (a("ok"), {"n": 1})
    for data in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 100, b"\0\x05Nabcd", bytes(4)):
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(100) == b""
    assert good.ping() == (a("ok"), {"n": 1})
    assert node.process.poll() is None
    good.close()


def test_frames_of_beams_with_faults_in_them_cost_their_connection_at_most(start: Start) -> None:
    """Each fault on a connection of its own, which ends or goes on; nothing else does."""
    node, name, port = listening(start, "--max-frame", "1000000")
    good, pick = Peer(port, name), random.Random(7)
    frames = [frame for (_, kind, _), known in CAPTURED.items() if kind == "fragments" for frame in known]
    for number, frame in enumerate(pick.sample(frames, 60)):
        own = frame.replace(b"ex@127.0.0.1", good.name.encode()[:12]).replace(b"py1@127.0.0.1", name.encode()[:13])
        at, noise = pick.randrange(len(own)), pick.randbytes(pick.randrange(1, 4))
        bad = Peer(port, name)
        bad.send_frame(own[:at] + noise + own[at + pick.randrange(4) :])
        with contextlib.suppress(OSError):
            bad.socket.sendall(bytes(4))
            while (data := bad.socket.recv(65536)) and data != bytes(4):  # the end, or an answer to the tick
                pass
        bad.close()
        if number % 10 == 9:
            assert good.ping() == (a("ok"), {"n": 1})
    assert "Traceback" not in node.stderr
    good.close()


@pytest.mark.parametrize("variant", FLAGS)
def test_all_that_beams_send_is_taken_by_a_node_that_runs(start: Start, variant: str) -> None:
    """The captured frames, also those that a BEAM sends only to a node that can do less than ours."""
    node = start("--name", NAME, "--no-epmd")
    _, port = node.ready()
    for otp in ("25", "27", "29"):
        peer = Peer(port, NAME, FLAGS[variant], name=str(PEER))
        for (version, kind, _), frames in CAPTURED.items():
            for frame in frames if (version, kind) == (otp, variant) else []:
                peer.send_frame(frame)
        assert peer.ping() == (a("ok"), {"n": 1})
        peer.close()
    assert "is given up" not in node.stderr


def test_a_request_that_cannot_be_read_is_answered_and_the_connection_stays(start: Start) -> None:
    _, name, port = listening(start, "--max-frame", "200000")
    peer = Peer(port, name)
    tag, error = peer.call({a("request_type"): a("ping"), a("payload"): {"x": b"\xff" * 300_000}})
    assert (tag, error[a("error_type")]) == (a("error"), a("serialization_error"))
    assert "is over the limit of 200000 bytes" in error[a("message")]
    deep: Any = []
    for _ in range(20_000):
        deep = [deep]
    peer.sequence += 1
    tag_term = gen.alias_tag(peer.reference())
    body = etf.encode((gen.CALL, (peer.pid, tag_term), deep), max_depth=30_000)
    control = etf.encode((6, peer.pid, a(""), a("erl_bridge")))
    peer.socket.sendall(b"".join(dist.frames(capabilities.OURS, control, body, peer.sequence)))
    signal = peer.signal()
    assert signal.payload()[1][1][a("error_type")] is a("serialization_error")
    assert peer.ping() == (a("ok"), {"n": 1})
    peer.close()


# Of a node that is sent messages in one frame, however large.
WHOLE = capabilities.OURS & ~capabilities.DIGEST & ~capabilities.FLAGS["FRAGMENTS"]


def ask(peer: Peer, id_: int, request_type: str, **payload: Any) -> None:
    """A request as a plain message, so that its events come too."""
    asked = {
        a("message_id"): id_,
        a("request_type"): a(request_type),
        a("payload"): {a(key): value for key, value in payload.items()},
    }
    peer.send((6, peer.pid, a(""), a("erl_bridge")), asked)


def told(peer: Peer) -> Any:
    """The next message that came of a request."""
    while (signal := peer.signal()).kind != "send":
        pass
    return signal.payload()


def test_a_stream_that_is_faster_than_its_reader_leaves_room_for_answers(start: Start) -> None:
    _, name, port = listening(start)
    peer, other = Peer(port, name, WHOLE), Peer(port, name)
    ask(peer, 1, "flood")
    assert told(peer)[1] == 1
    for _ in range(1000):  # meanwhile the first one reads nothing
        other.ping()
    ask(peer, 2, "ping", n=1)
    ask(peer, 3, "cancel", message_id=1)
    for _ in range(100):  # nor while these are answered
        other.ping()
    results: dict[int, Any] = {}
    events = 0
    while len(results) < 3:
        events += 2 not in results
        _, message_id, (kind, value) = told(peer)
        if kind is not a("event"):
            results[message_id] = value
    assert results[2] == {a("n"): 1}
    assert events < 200  # of 100 kB: what there is room for on the way, and no more
    assert results[3] == {a("cancelled"): True}
    assert results[1][a("error_type")] is a("cancelled")
    peer.close()
    other.close()


def test_an_answer_for_which_there_is_no_room_is_an_error_of_work_that_was_done(start: Start) -> None:
    _, name, port = listening(start, "--max-queued", "1000000")
    peer, other = Peer(port, name, WHOLE), Peer(port, name)
    count = 100
    with peer.together():
        for message_id in range(count):
            ask(peer, message_id, "large_inline", bytes=500_000)
    for _ in range(100):  # meanwhile the first one reads nothing
        other.ping()
    answers = [told(peer) for _ in range(count)]
    assert sorted(message_id for _, message_id, _ in answers) == list(range(count))
    errors = [result[1] for _, _, result in answers if result[0] is a("error")]
    assert errors
    assert {(error[a("error_type")], error[a("recovery_strategy")]) for error in errors} == {
        (a("resource_exhausted"), a("restart_process"))
    }
    assert peer.ping() == (a("ok"), {"n": 1})
    peer.close()
    other.close()


@pytest.mark.parametrize("without", ["FRAGMENTS", "ALTACT_SIG", "ALIAS", "SEND_SENDER", "EXIT_PAYLOAD", "UNLINK_ID"])
def test_a_node_that_can_do_less_is_answered_as_it_can(start: Start, without: str) -> None:
    flags = capabilities.OURS & ~capabilities.DIGEST & ~capabilities.FLAGS[without]
    if without in ("ALIAS", "SEND_SENDER"):
        flags &= ~capabilities.ALTACT_SIG
    if without == "SEND_SENDER":
        flags &= ~capabilities.ALIAS
    _, name, port = listening(start)
    peer = Peer(port, name, flags)
    assert peer.ping() == (a("ok"), {"n": 1})
    reference = peer.reference()
    peer.send((19, peer.pid, a("nobody"), reference))
    signal = peer.signal()
    assert (signal.kind, signal.args[:3]) == ("down", (a("nobody"), peer.pid, reference))
    peer.close()


def test_an_old_pid_stands_for_nobody(start: Start) -> None:
    _, name, port = listening(start)
    peer = Peer(port, name)
    old, reference = Pid(peer.peer, 39, 0, 5), peer.reference()
    peer.send((19, peer.pid, old, reference))
    assert peer.signal().args[:3] == (old, peer.pid, reference)
    peer.send((1, peer.pid, old))
    assert peer.signal().kind == "exit"
    peer.send((22, peer.pid, old), {a("request_type"): a("ping"), a("message_id"): 1})
    assert peer.ping() == (a("ok"), {"n": 1})  # and nothing came before
    peer.close()


def test_a_node_that_connects_anew_takes_the_place_of_its_old_connection_once_it_knows_the_cookie(start: Start) -> None:
    _, name, port = listening(start)
    old = Peer(port, name)
    assert old.ping() == (a("ok"), {"n": 1})
    own = Own(old.name, 8, b"another", capabilities.OURS)
    for cookie, closed in ((b"another", False), (COOKIE.encode(), True)):
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as sock:
            machine = Initiator(own.replace(cookie=cookie), name, 1)
            sock.sendall(machine.begin())
            try:
                while machine.peer is None and (data := sock.recv(4096)):
                    sock.sendall(machine.receive(data))
            except HandshakeError:
                assert not closed
            if closed:
                assert machine.peer is not None
                assert old.is_closed()
            else:
                sock.close()
                assert old.ping() == (a("ok"), {"n": 1})
    old.close()


def test_only_so_many_handshakes_go_on_at_once(start: Start) -> None:
    _, name, port = listening(start)
    idle = [socket.create_connection(("127.0.0.1", port), DEADLINE) for _ in range(64)]
    for sock in idle:  # each has its thread once the status came back
        own = Own(unique("peer"), 1, COOKIE.encode())
        sock.sendall(Initiator(own, name, 1).begin())
        assert sock.recv(5) == b"\0\3sok"
    with socket.create_connection(("127.0.0.1", port), DEADLINE) as sock:
        assert sock.recv(1) == b""
    for sock in idle:
        sock.close()
    wait_until(lambda: answers(port, name))


def answers(port: int, name: str) -> bool:
    try:
        peer = Peer(port, name)
    except (HandshakeError, OSError):
        return False
    result = peer.ping()
    peer.close()
    return bool(result == (a("ok"), {"n": 1}))


def test_a_node_of_before_otp_23_gets_acquainted_in_the_old_way(start: Start) -> None:
    _, name, port = listening(start)

    class Old(Peer):
        def _shake(self, machine: Initiator) -> None:
            flags = capabilities.OURS & ~capabilities.DIGEST
            first = struct.pack(">cHI", b"n", 5, flags & 0xFFFFFFFF) + self.name.encode()
            self.socket.sendall(len(first).to_bytes(2, "big") + first)
            machine.begin()
            reply, data = b"", b""
            while not reply:  # the status and the challenge
                data = self.socket.recv(4096)
                reply = machine.receive(data)
            complement = struct.pack(">HcII", 9, b"c", flags >> 32, 7)
            self.socket.sendall(complement + reply)
            while machine.peer is None:
                machine.receive(self.socket.recv(4096))

    peer = Old(port, name)
    assert peer.ping() == (a("ok"), {"n": 1})
    peer.close()


# -- two nodes that connect to each other at the same time -------------------------------------------------------------


class Registered:
    """A node in this process that EPMD knows, by a name that sorts before or after that of the node under test."""

    def __init__(self, epmd: Epmd, alive: str) -> None:
        self.listener = Listener()
        self.listener.name = unique(alive)
        self.epmd = socket.create_connection(("127.0.0.1", epmd.port), DEADLINE)
        self.epmd.sendall(epmd_wire.register(self.listener.name.partition("@")[0], self.listener.port))
        assert epmd_wire.registered(self.epmd.recv(64))

    def close(self) -> None:
        self.listener.socket.close()
        self.epmd.close()


def ask_to_call(peer: Peer, target: str) -> None:
    """Have the node connect to another, by a request that calls it."""
    request = {"to": ("erl_bridge", target), "message": 1, "timeout_ms": 20_000}
    asked = {a("message_id"): 1, a("request_type"): a("node_call_thread"), a("payload"): request}
    peer.send((6, peer.pid, a(""), a("erl_bridge")), asked)


@needs_epmd
@pytest.mark.parametrize(("alive", "status"), [("aa", b"\0\4snok"), ("zz", b"\0\x10sok_simultaneous")])
def test_of_two_attempts_at_once_that_of_the_node_with_the_greater_name_stays(
    epmd: Epmd, start: Start, alive: str, status: bytes
) -> None:
    name, port = start("--name", unique("py"), epmd_port=epmd.port).ready()
    peer, other = Peer(port, name), Registered(epmd, alive)
    ask_to_call(peer, other.listener.name)
    theirs, _ = other.listener.socket.accept()  # the attempt of the node
    theirs.settimeout(DEADLINE)
    size = int.from_bytes(theirs.recv(2), "big")
    first = struct.pack(">H", size) + theirs.recv(size)
    own = Own(other.listener.name, 3, COOKIE.encode())
    ours = socket.create_connection(("127.0.0.1", port), DEADLINE)  # the attempt of the other
    machine = Initiator(own, name, 1)
    ours.sendall(machine.begin())
    answer = ours.recv(len(status))
    assert answer == status
    if alive == "aa":
        ours.close()
        acceptor = Acceptor(own, 1, lambda name: "ok")
        theirs.sendall(acceptor.receive(first))
        while acceptor.peer is None:
            theirs.sendall(acceptor.receive(theirs.recv(4096)))
        stays, goes, rest = theirs, None, acceptor.rest
    else:
        ours.sendall(machine.receive(answer))
        while machine.peer is None:
            ours.sendall(machine.receive(ours.recv(4096)))
        theirs.sendall(b"\0\4snok")
        stays, goes, rest = ours, theirs, machine.rest
    frames = FrameReader()
    received = [*frames.feed(rest)]  # it may come right behind the handshake
    while len(received) < 2:  # the call that waited: a monitor and a message
        received += frames.feed(stays.recv(4096))
    assert received[1].endswith(b"a\1")
    if goes is not None:
        assert goes.recv(1) == b""
    for sock in (stays, theirs, ours):
        sock.close()
    other.close()
    peer.close()


# -- ticks -----------------------------------------------------------------------------------------------------------


def test_a_node_ticks_also_while_a_handler_keeps_its_reader_busy_and_takes_a_silent_one_for_gone(start: Start) -> None:
    _, name, port = listening(start, "--tick-time", "0.4")
    peer = Peer(port, name)
    peer.send((6, peer.pid, a(""), a("erl_bridge")), {a("request_type"): a("busy_inline"), a("message_id"): 1,
                                                    a("payload"): {"seconds": 0.5}})  # fmt: skip
    ticks = b"".join(peer.socket.recv(4, socket.MSG_WAITALL) for _ in range(3))
    assert ticks == bytes(12)  # while the reader works
    assert peer.is_closed()  # nothing came from here
    peer.close()


def test_every_tick_is_answered(start: Start) -> None:
    _, name, port = listening(start)
    peer = Peer(port, name)
    peer.socket.sendall(bytes(4))
    assert peer.socket.recv(4) == bytes(4)
    peer.close()


# -- memory ----------------------------------------------------------------------------------------------------------


def test_the_memory_of_a_large_message_is_given_back(start: Start) -> None:
    _, name, port = listening(start, "--tick-time", "4", "--max-frame", "100000000")
    peer = Peer(port, name)

    def memory() -> Any:
        return peer.call({a("request_type"): a("health_check")})[1][a("memory_bytes")]

    before = memory()
    answer = peer.call({a("request_type"): "nothing", a("payload"): {"data": b"\xff" * 40_000_000}})
    assert answer[1][a("error_type")] is a("unknown_request")
    wait_until(lambda: memory() < before + 16_000_000)
    peer.close()


# -- dialling out ----------------------------------------------------------------------------------------------------


class Listener:
    """A node in this process that is connected to."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.name = unique("app")

    def accept(self, status: str = "ok") -> tuple[socket.socket, Acceptor]:
        self.socket.settimeout(DEADLINE)
        sock, _ = self.socket.accept()
        sock.settimeout(DEADLINE)
        own = Own(self.name, 3, COOKIE.encode())
        machine = Acceptor(own, 1, lambda name: status, name_for=lambda host: (f"GIVEN@{host}", 77))
        while machine.peer is None:
            data = sock.recv(4096)
            assert data
            try:
                sock.sendall(machine.receive(data))
            except HandshakeError as error:
                sock.sendall(error.farewell)
                break
        return sock, machine


def test_a_node_that_dials_out_does_not_listen_and_comes_back(start: Start) -> None:
    listener, name = Listener(), unique("py")
    node = start("--name", name, "--connect", f"{listener.name}:{listener.port}")
    for _ in range(2):
        sock, machine = listener.accept()
        assert machine.peer is not None
        assert (machine.peer.name, node.process.poll()) == (name, None)
        sock.close()
    assert node.ready() == (name, 0)
    listener.socket.close()


def test_a_node_without_a_name_is_given_one(start: Start) -> None:
    listener = Listener()
    node = start("--connect", f"{listener.name}:{listener.port}")
    sock, machine = listener.accept()
    assert machine.peer is not None
    assert machine.peer.name == "GIVEN@127.0.0.1"
    assert node.ready() == ("GIVEN@127.0.0.1", 0)
    sock.close()
    listener.socket.close()


def test_a_node_that_is_refused_tries_again(start: Start) -> None:
    listener, name = Listener(), unique("py")
    start("--name", name, "--connect", f"{listener.name}:{listener.port}")
    for status in ("not_allowed", "ok"):
        sock, machine = listener.accept(status)
        assert (machine.peer is not None) == (status == "ok")
        sock.close()
    listener.socket.close()


@needs_beam
def test_a_node_that_dialled_out_is_called_by_its_name(epmd: Epmd, beam: Beam, start: Start) -> None:
    beam.eval(":net_kernel.monitor_nodes(true, node_type: :all)")
    for arguments in (["--name", unique("py")], []):
        node = start("--connect", beam.name, *arguments, epmd_port=epmd.port)
        beam.eval("{:nodeup, py, _} = next.()")
        assert beam.eval("call.(py, :ping)") == "{:ok, %{}}"
        assert beam.eval('call.(py, "echo_job")') == "{:ok, %{}}"
        node.kill()
        beam.eval("{:nodedown, ^py, _} = next.()")
    beam.eval(":net_kernel.monitor_nodes(false, node_type: :all)")


# -- the end of a node -----------------------------------------------------------------------------------------------


@needs_beam
def test_a_node_that_is_killed_is_down_for_all_who_care(epmd: Epmd, beam: Beam, start: Start) -> None:
    node = start("--name", unique("py"), epmd_port=epmd.port)
    name, _ = node.ready()
    beam.eval(f'py = :"{name}"; Node.monitor(py, true); true = Process.monitor({{:erl_bridge, py}}) |> is_reference()')
    beam.eval("ref = :gen_server.send_request({:erl_bridge, py}, %{message_id: 1, request_type: :wait_for_release})")
    beam.eval("{:erl_bridge, 1, {:event, _}} = next.()")
    node.kill()
    beam.eval("{:error, {:noconnection, _}} = :gen_server.wait_response(ref, 30_000)")
    beam.eval("messages = for _ <- 1..2, do: next.()")
    assert beam.eval("{:nodedown, py} in messages") == "true"
    assert (
        beam.eval("Enum.any?(messages, &match?({:DOWN, _, :process, {:erl_bridge, ^py}, :noconnection}, &1))") == "true"
    )


@needs_beam
def test_the_requests_of_a_node_that_is_killed_are_cancelled(epmd: Epmd, beam: Beam, start: Start) -> None:
    name, _ = start("--name", unique("py"), epmd_port=epmd.port).ready()
    other = Beam(unique("ex"), epmd.port)
    other.eval(f'bridge = {{:erl_bridge, :"{name}"}}')
    for request in (":wait_for_release", ":hang_job"):
        other.eval(f":gen_server.send_request(bridge, %{{message_id: {request}, request_type: {request}}})")
        other.eval("receive do message -> message end")
    beam.eval(
        f'py = :"{name}"; in_flight = fn -> {{:ok, health}} = call.(py, :health_check); health.requests_in_flight end'
    )
    assert beam.eval("in_flight.()") == "2"
    other.kill()
    beam.eval("idle = fn idle -> if in_flight.() > 0, do: idle.(idle) end; idle.(idle)")
    assert beam.eval("in_flight.()") == "0"


@needs_beam
def test_shutdown_ends_the_node(epmd: Epmd, beam: Beam, start: Start) -> None:
    node = start("--name", unique("py"), epmd_port=epmd.port)
    name, port = node.ready()
    assert beam.eval(f'call.(:"{name}", :shutdown) == {{:ok, %{{cancelled: 0, finished: 0}}}}') == "true"
    assert node.process.wait(DEADLINE) == 0
    assert not can_connect(port)


# -- between nodes of ours -------------------------------------------------------------------------------------------


@needs_epmd
def test_nodes_of_ours_call_each_other_and_connect_at_the_same_time(epmd: Epmd, start: Start) -> None:
    names = [start("--name", unique("py"), epmd_port=epmd.port).ready() for _ in range(2)]
    (one, port), (other, other_port) = names
    peers = [Peer(port, one), Peer(other_port, other)]
    to = [(peers[0], other), (peers[1], one)]
    for number, (peer, target) in enumerate(to):  # both connect to the other at once
        request = {"to": ("erl_bridge", target), "message": {a("request_type"): a("ping"), a("payload"): {"n": number}}}
        peer.send((6, peer.pid, a(""), a("erl_bridge")), {a("message_id"): 1, a("request_type"): a("node_call_thread"),
                                                        a("payload"): request})  # fmt: skip
    for number, peer in enumerate(peers):
        while (signal := peer.signal()).kind != "send":
            pass
        assert signal.payload() == (a("erl_bridge"), 1, (a("ok"), (a("ok"), {"n": number})))
        peer.close()


# -- TLS -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tls_beam(epmd: Epmd, certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beam]:
    options = tmp_path_factory.mktemp("tls") / "options"
    files = 'certfile, "{}"}}, {{keyfile, "{}"}}, {{cacertfile, "{}"}}, {{verify, verify_peer'
    server = files.format(certificates.server, certificates.server_key, certificates.ca)
    client = files.format(certificates.client, certificates.client_key, certificates.ca)
    options.write_text(f"[{{server, [{{{server}}}, {{fail_if_no_peer_cert, true}}]}}, {{client, [{{{client}}}]}}].")
    beam = Beam(unique("ex"), epmd.port, erl=f"-proto_dist inet_tls -ssl_dist_optfile {options}")
    yield beam
    beam.kill()


def tls_options(certificates: Certificates) -> list[str]:
    files = {"cert": certificates.server, "key": certificates.server_key, "ca": certificates.ca}
    return [word for name, path in files.items() for word in (f"--tls-{name}", path)]


@needs_beam
@pytest.mark.parametrize("dials", [False, True], ids=["connected to", "dials"])
def test_connections_are_encrypted_where_that_is_wanted(
    epmd: Epmd, tls_beam: Beam, certificates: Certificates, start: Start, dials: bool
) -> None:
    arguments = ["--name", unique("py"), *tls_options(certificates), *(["--connect", tls_beam.name] if dials else [])]
    tls_beam.eval(":net_kernel.monitor_nodes(true, node_type: :all)")
    name, _ = start(*arguments, epmd_port=epmd.port).ready()
    tls_beam.eval(f'py = :"{name}"')
    if dials:
        tls_beam.eval("receive do {:nodeup, ^py, _} -> :ok end")
    assert tls_beam.eval("Node.ping(py)") == ":pong"
    code = "data = :crypto.strong_rand_bytes(2_000_000); request = %{request_type: :ping, payload: %{d: data}}"
    assert (
        tls_beam.eval(f"{code}; GenServer.call({{:erl_bridge, py}}, request, 60_000) == {{:ok, %{{d: data}}}}")
        == "true"
    )


@needs_epmd
def test_who_does_not_speak_tls_or_has_no_certificate_gets_no_connection(
    certificates: Certificates, start: Start
) -> None:
    _, name, port = listening(start, *tls_options(certificates))
    with pytest.raises((HandshakeError, OSError)):
        Peer(port, name)
    context = ssl.create_default_context(cafile=certificates.ca)
    first = Initiator(Own(unique("peer"), 1, COOKIE.encode()), name, 1).begin()
    with socket.create_connection(("127.0.0.1", port), DEADLINE) as sock:
        assert not answer_without_certificate(context, sock, b"\0\0" + first)


def answer_without_certificate(context: ssl.SSLContext, sock: socket.socket, data: bytes) -> bytes:
    """What comes back over TLS; nothing where the connection is refused, with TLS 1.3 after it seemed to be up."""
    try:
        with context.wrap_socket(sock, server_hostname="localhost") as encrypted:
            encrypted.sendall(data)
            return encrypted.recv(100)
    except OSError:
        return b""


# -- a slow cable ------------------------------------------------------------------------------------------------------


class SlowCable:
    """A port behind which another one is, with so many bytes a second in each direction."""

    def __init__(self, to: int, rate: int) -> None:
        self._to, self._rate = to, rate
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            near, _ = self._server.accept()
            far = socket.create_connection(("127.0.0.1", self._to))
            self._ends += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                time.sleep(len(data) / self._rate)  # what makes it slow
                other.sendall(data)

    def close(self) -> None:
        for sock in (self._server, *self._ends):
            sock.close()


@needs_beam
def test_a_message_that_takes_longer_than_the_tick_time_arrives_and_the_connection_stays(
    epmd: Epmd, start: Start
) -> None:
    beam = Beam(unique("ex"), epmd.port, erl="-kernel net_ticktime 1")
    with socket.create_connection(("127.0.0.1", epmd.port), DEADLINE) as sock:
        sock.sendall(epmd_wire.lookup(beam.name.partition("@")[0]))
        listed = epmd_wire.found(sock.recv(4096))
    assert listed is not None
    cable = SlowCable(listed.port, 12_000_000)
    try:
        beam.eval(":net_kernel.monitor_nodes(true, node_type: :all)")
        start("--connect", f"{beam.name}:{cable.port}", "--tick-time", "1")
        beam.eval("{py, begin} = receive do {:nodeup, py, _} -> {py, System.monotonic_time(:millisecond)} end")
        beam.eval("request = %{request_type: :ping, payload: %{data: :binary.copy(<<255>>, 24_000_000)}}; :made")
        assert beam.eval("GenServer.call({:erl_bridge, py}, request, :infinity) == {:ok, request.payload}") == "true"
        assert beam.eval("System.monotonic_time(:millisecond) - begin > 3_000") == "true"
        assert beam.eval("receive do message -> message after 0 -> :nothing_else end") == ":nothing_else"
    finally:
        beam.kill()
        cable.close()


# -- a cable that is cut ----------------------------------------------------------------------------------------------


class Cable:
    """A network of its own, and a cable between it and this one; ``here`` is the address of this end."""

    def __init__(self) -> None:
        self.name = f"eb{secrets.token_hex(3)}"
        # One of the networks of four addresses in 10.128.0.0/9, so that the tests of others do not have the same.
        network = (10 << 24) + (1 << 23) + 4 * secrets.randbelow(1 << 21)
        self.here, there = (socket.inet_ntoa((network + end).to_bytes(4, "big")) for end in (1, 2))
        self._end = f"{self.name}a"
        try:
            self._ip("netns", "add", self.name)
            self._ip("link", "add", self._end, "type", "veth", "peer", "name", f"{self.name}b", "netns", self.name)
            self._ip("addr", "add", f"{self.here}/30", "dev", self._end)
            self._ip("-n", self.name, "addr", "add", f"{there}/30", "dev", f"{self.name}b")
            self._ip("-n", self.name, "link", "set", f"{self.name}b", "up")
            self.set("up")
        except (OSError, subprocess.CalledProcessError):
            self.remove()
            pytest.skip("needs to be root, a kernel with namespaces, and iproute2")

    @staticmethod
    def _ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    def set(self, state: str) -> None:
        """The cable is ``up`` or ``down``."""
        self._ip("link", "set", self._end, state)

    def remove(self) -> None:
        """The cable goes with the network, where there is one."""
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            self._ip("netns", "del", self.name)


@pytest.fixture
def cable() -> Iterator[Cable]:
    cable = Cable()
    yield cable
    cable.remove()


@needs_beam
def test_a_cable_that_is_cut_is_noticed_at_both_ends_and_mended(cable: Cable, cookie_file: Path) -> None:
    epmd = Epmd(cable.here)
    beam = Beam(f"ex{secrets.token_hex(4)}@{cable.here}", epmd.port, erl="-kernel net_ticktime 1", host=cable.here)
    node = Node(
        epmd.port, cookie_file, "--connect", beam.name, "--tick-time", "1",
        app="handlers_app:app", prefix=("ip", "netns", "exec", cable.name), ERL_BRIDGE_LOG_LEVELS="1",
    )  # fmt: skip
    try:
        beam.eval(":net_kernel.monitor_nodes(true, node_type: :all)")
        name, _ = node.ready()
        beam.eval(f'py = :"{name}"; next = fn -> receive do message -> message after 30_000 -> :nothing end end')
        beam.eval("{:nodeup, ^py, _} = next.()")
        beam.eval("request = %{message_id: 1, request_type: :wait_for_release}")
        beam.eval("{pid, _} = spawn_monitor(fn -> GenServer.call({:erl_bridge, py}, request, :infinity) end)")
        beam.eval("check = fn -> GenServer.call({:erl_bridge, py}, %{request_type: :health_check}) end")
        beam.eval("in_flight = fn -> {:ok, health} = check.(); health.requests_in_flight end")
        beam.eval("begun = fn begun -> if in_flight.() == 0, do: begun.(begun) end; begun.(begun)")
        cable.set("down")
        beam.eval("messages = for _ <- 1..2, do: next.()")
        assert beam.eval("for {:DOWN, _, _, ^pid, {{:nodedown, ^py}, _}} <- messages, do: :down") == "[:down]"
        assert beam.eval("for {:nodedown, ^py, _} <- messages, do: :down") == "[:down]"
        wait_until(lambda: f"{beam.name} is gone: it did not tick" in node.stderr)
        cable.set("up")
        assert beam.eval("{:nodeup, ^py, _} = next.(); in_flight.()") == "0"
    finally:
        node.kill()
        beam.kill()
        epmd.stop()
