"""EPMD as a node needs it: started if it is missing, asked for other nodes, and told of this one while it lives.

Rule of this file: this node is known to EPMD for as long as a connection to it is open, so one is kept, and made anew
when EPMD was away.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import socket
import subprocess
import threading
import time

from ..wire import epmd
from ..wire.epmd import EpmdError, Listed

AGAIN = 2.0  # seconds between attempts to register anew, as a BEAM does it
_ANSWER_LIMIT = 5.0  # seconds for an answer
_START_LIMIT = 10.0  # seconds for EPMD to begin to listen
_MAX_ANSWER = 64 * 1024  # bytes
_PLACES = ("/usr/lib/erlang/erts-*/bin/epmd", "/usr/local/lib/erlang/erts-*/bin/epmd")


def port() -> int:
    """The port of EPMD on every host: the environment's ``ERL_EPMD_PORT``, or 4369."""
    return int(os.environ.get("ERL_EPMD_PORT") or epmd.DEFAULT_PORT)


def look_up(name: str, host: str) -> Listed | None:
    """Ask the EPMD of a host for a node; None when it knows none of that name. Raises OSError and EpmdError."""
    with socket.create_connection((host, port()), _ANSWER_LIMIT) as sock:
        sock.sendall(epmd.lookup(name))
        answer = b""
        while len(answer) < _MAX_ANSWER and (data := sock.recv(4096)):
            answer += data
    return epmd.found(answer)


class Registration:
    """Keeps this node in the list of the EPMD of this host, as ``name`` (without its host) on ``node_port``.

    EPMD is started if it does not run; one that is started for ``loopback_only`` listens on nothing else.
    """

    def __init__(self, name: str, node_port: int, *, loopback_only: bool) -> None:
        self._name = name
        self._node_port = node_port
        self._loopback_only = loopback_only
        self._socket: socket.socket | None = None
        self._closed = threading.Event()

    def begin(self) -> int:
        """Register, and stay registered; the creation that EPMD gave. Raises EpmdError."""
        try:
            creation = self._register()
        except ConnectionRefusedError:
            self._start_daemon()
            creation = self._register()
        threading.Thread(target=self._keep, name="epmd", daemon=True).start()
        return creation

    def close(self) -> None:
        """Be registered no more."""
        self._closed.set()
        if self._socket is not None:
            with contextlib.suppress(OSError):  # it may be gone already
                self._socket.shutdown(socket.SHUT_RDWR)

    def _register(self) -> int:
        sock = socket.create_connection(("127.0.0.1", port()), _ANSWER_LIMIT)
        try:
            sock.sendall(epmd.register(self._name, self._node_port))
            answer = b""
            while (creation := epmd.registered(answer)) is None:
                data = sock.recv(64)
                if not data:
                    raise EpmdError("EPMD closed the connection without an answer to the registration")
                answer += data
        except BaseException:
            sock.close()
            raise
        sock.settimeout(None)
        self._socket = sock
        return creation

    def _keep(self) -> None:
        """Wait for the end of the connection, then register anew until that succeeds. The creation stays as it is."""
        while not self._closed.is_set():
            sock = self._socket
            assert sock is not None
            with sock, contextlib.suppress(OSError):
                while sock.recv(64):
                    pass
            while not self._closed.wait(AGAIN):
                try:
                    self._register()
                    break
                except (OSError, EpmdError):
                    continue

    def _start_daemon(self) -> None:
        program = shutil.which("epmd") or next(iter(sorted(place for one in _PLACES for place in glob.glob(one))), None)
        if program is None:
            raise EpmdError(
                f"no EPMD answers on port {port()} and there is no program epmd to start; install Erlang "
                "(Debian: erlang-base), or start the node with --connect, or with --port and --no-epmd"
            )
        address = ["-address", "127.0.0.1"] if self._loopback_only else []
        subprocess.run([program, "-daemon", "-port", str(port()), *address], check=False, stdin=subprocess.DEVNULL)
        until = time.monotonic() + _START_LIMIT
        while time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port()), _ANSWER_LIMIT):
                return
            time.sleep(0.02)
        raise EpmdError(f"{program} was started, but nothing listens on port {port()}")
