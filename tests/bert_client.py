"""A BERT-RPC server process and clients of it for tests: real bytes over real sockets."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

from support import DEADLINE, ROOT, a

from erl_bridge import etf
from erl_bridge.framing import pack

INFO = a("info")


class BertServer:
    """``python -m erl_bridge tcp`` with the handlers of ``tests/handlers_app.py``."""

    def __init__(self, *arguments: str, dspy: bool = False, stderr: Any = subprocess.PIPE, **env: str) -> None:
        command = [sys.executable, "-m", "erl_bridge", "tcp", "--app", "handlers_app:app", "--no-preload", *arguments]
        path = os.pathsep.join([str(Path(__file__).parent), str(ROOT)])
        self.process = subprocess.Popen(
            command if dspy else [*command, "--no-dspy"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path, **env},
        )

    def __enter__(self) -> BertServer:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode().split()
        assert line[:2] == ["ready", "tcp"], self.process.communicate()
        self.host, self.port = line[2], int(line[3])
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> tuple[int, str]:
        """End it as an init system does; its exit status and what it wrote to stderr."""
        self.process.terminate()
        _, stderr = self.process.communicate(timeout=DEADLINE)
        return self.process.returncode, (stderr or b"").decode()

    def client(self, context: ssl.SSLContext | None = None, source: str = "") -> BertClient:
        """A new connection."""
        return BertClient(self.host, self.port, context, source)


class BertClient:
    """One connection; packets are terms as the decoder gives them."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext | None = None, source: str = "") -> None:
        self.socket = socket.create_connection((host, port), DEADLINE, (source, 0) if source else None)
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> BertClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send_bytes(self, *parts: bytes) -> None:
        self.socket.sendall(b"".join(parts))

    def send(self, *terms: Any) -> None:
        """Send packets in one go."""
        self.send_bytes(*(pack(etf.encode(term)) for term in terms))

    def receive_bytes(self) -> bytes | None:
        """What the next frame holds; None at the end."""
        header = self._exactly(4)
        return None if header is None else self._exactly(int.from_bytes(header, "big"))

    def receive(self) -> Any:
        """The next packet; None at the end."""
        frame = self.receive_bytes()
        return None if frame is None else etf.decode(frame)

    def _exactly(self, size: int) -> bytes | None:
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            if not more:
                assert not data, "the stream ended in the middle of a frame"
                return None
            data += more
        return data

    def call(self, module: str, function: str, *args: Any) -> Any:
        """The answer to a call."""
        self.send(call(module, function, *args))
        return self.receive()

    def ok(self, module: str, function: str, *args: Any) -> Any:
        """The result of a call that must go well."""
        reply, result = self.call(module, function, *args)
        assert reply is a("reply"), result
        assert result[0] is a("ok"), result
        return result[1]

    def error(self, module: str, function: str, *args: Any) -> tuple[Any, ...]:
        """The type, code, class, detail and backtrace of a call that must not."""
        error, rest = self.call(module, function, *args)
        assert error is a("error"), rest
        return (str(rest[0]), *rest[1:])


def call(module: str, function: str, *args: Any) -> tuple[Any, ...]:
    return a("call"), a(module), a(function), list(args)


def cast(module: str, function: str, *args: Any) -> tuple[Any, ...]:
    return a("cast"), a(module), a(function), list(args)


def info(command: str, *options: Any) -> tuple[Any, ...]:
    return INFO, a(command), list(options)
