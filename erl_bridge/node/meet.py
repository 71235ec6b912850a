"""Becoming acquainted over a socket: TLS where it is wanted, then the handshake, one short-lived thread for each.

Rule of this file: sockets here block, and every step has a limit, so that nobody can hold a thread for long.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import time

from ..wire.handshake import Acceptor, HandshakeError, Initiator, Own

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from ssl import SSLContext

    from ..wire.handshake import Peer

STEP_LIMIT = 7.0  # seconds for each step of the network, as a BEAM has it (net_setuptime)
WHOLE_LIMIT = 30.0  # seconds for all of them


class Tls:
    """How connections between nodes are encrypted: a context for each side."""

    def __init__(self, server: SSLContext, client: SSLContext) -> None:
        self.server = server
        self.client = client


class Met:
    """A socket and the node at its other end; ``rest`` are bytes that came behind the handshake."""

    def __init__(self, sock: socket.socket, peer: Peer, rest: bytes) -> None:
        self.socket = sock
        self.peer = peer
        self.rest = rest


def dial(
    address: tuple[str, int], own: Own, peer_name: str, is_connected: Callable[[], bool], tls: Tls | None = None
) -> Met:
    """Connect to a node. Raises OSError and HandshakeError."""
    sock = socket.create_connection(address, STEP_LIMIT)
    try:
        if tls is not None:
            sock = tls.client.wrap_socket(sock, server_hostname=peer_name.partition("@")[2])
        machine = Initiator(own, peer_name, _challenge(), is_connected=is_connected, header=4 if tls else 2)
        return _meet(sock, machine, machine.begin())
    except BaseException:
        sock.close()
        raise


def answer(
    sock: socket.socket,
    own: Own,
    standing: Callable[[str], str],
    name_for: Callable[[str], tuple[str, int]],
    tls: Tls | None = None,
) -> Met:
    """Be connected to by a node. Raises OSError and HandshakeError; the socket is closed then."""
    try:
        sock.settimeout(STEP_LIMIT)
        if tls is not None:
            sock = tls.server.wrap_socket(sock, server_side=True)
        machine = Acceptor(own, _challenge(), standing, name_for=name_for, header=4 if tls else 2)
        return _meet(sock, machine, b"")
    except BaseException:
        sock.close()
        raise


def _meet(sock: socket.socket, machine: Initiator | Acceptor, first: bytes) -> Met:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    until = time.monotonic() + WHOLE_LIMIT
    sock.sendall(first)
    while machine.peer is None:
        data = sock.recv(4096)
        if not data:
            raise HandshakeError("the other node closed the connection: it has another cookie, or does not want it")
        if time.monotonic() > until:
            raise HandshakeError(f"the handshake took more than {WHOLE_LIMIT:.0f} s")
        try:
            out = machine.receive(data)
        except HandshakeError as error:
            with contextlib.suppress(OSError):
                sock.sendall(error.farewell)
            raise
        sock.sendall(out)
    return Met(sock, machine.peer, machine.rest)


def _challenge() -> int:
    return secrets.randbits(32)
