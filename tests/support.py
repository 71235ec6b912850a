"""A bridge process and a client of it for tests: real bytes over real pipes."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from erl_bridge import Atom, etf
from erl_bridge.framing import FrameReader, pack

ROOT = Path(__file__).parent.parent
DEADLINE = 60.0  # seconds after which a test that waits for an event has failed


def a(name: str) -> Atom:
    """Short for :class:`Atom`."""
    return Atom(name)


def request(message_id: Any, request_type: str, payload: Any = None, **metadata: Any) -> dict[Any, Any]:
    """A request map as an Elixir client sends it."""
    return {
        a("message_id"): message_id,
        a("request_type"): a(request_type),
        a("payload"): {} if payload is None else payload,
        a("metadata"): {a(key): value for key, value in metadata.items()},
    }


def keys(fields: dict[Any, Any]) -> dict[str, Any]:
    """A map by the names of its keys."""
    return {str(key): value for key, value in fields.items()}


class BridgeProcess:
    """``python -m erl_bridge port`` and a client at its other end."""

    def __init__(self, *arguments: str, cwd: Path | str = ROOT, preload: bool = False, **env: str) -> None:
        command = [sys.executable, "-m", "erl_bridge", "port", *arguments]
        if not preload and "--no-dspy" not in arguments:
            command.append("--no-preload")
        path = os.pathsep.join([str(cwd), str(ROOT)])
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": path, **env},
            bufsize=0,
        )
        self._ids = itertools.count(1)
        self._frames = FrameReader()
        self._received: list[Any] = []
        self._stderr: list[bytes] = []
        self._drain = threading.Thread(target=self._read_stderr, daemon=True)
        self._drain.start()

    def __enter__(self) -> BridgeProcess:
        hello, self.hello = self.receive()
        assert hello is a("hello")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> int:
        """End the input, as when the BEAM goes away, and wait for the process to end."""
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()
        status = self.process.wait(DEADLINE)
        self._drain.join(DEADLINE)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return status

    def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        while data := self.process.stderr.read(65536):
            self._stderr.append(data)

    @property
    def stderr(self) -> str:
        """What the process has written to stderr; whole once it has ended."""
        return b"".join(self._stderr).decode()

    def send_bytes(self, data: bytes) -> None:
        """Send bytes as they are."""
        assert self.process.stdin is not None
        view = memoryview(data)
        while view:
            view = view[self.process.stdin.write(view) :]

    def send(self, request_type: str, payload: Any = None, message_id: Any = None, **metadata: Any) -> Any:
        """Send a request and return its id."""
        message_id = next(self._ids) if message_id is None else message_id
        self.send_bytes(pack(etf.encode(request(message_id, request_type, payload, **metadata))))
        return message_id

    def answer_call(self, call_id: int, result: Any) -> None:
        """Answer a ``{:call, ...}``."""
        self.send("callback_result", {a("call_id"): call_id, a("result"): result})

    def receive(self) -> Any:
        """The next message, or None at the end of the output."""
        assert self.process.stdout is not None
        while not self._received:
            data = self.process.stdout.read(65536)
            if not data:
                return None
            self._received += [etf.decode(frame) for frame in self._frames.feed(data)]  # type: ignore[arg-type]
        return self._received.pop(0)

    def receive_for(self, message_id: Any) -> tuple[Any, list[Any]]:
        """The final reply of a request, and the events and calls that came before it; others are kept."""
        before, others = [], []
        while True:
            message = self.receive()
            assert message is not None, f"the output ended before request {message_id} was answered:\n{self.stderr}"
            tag = str(message[0])
            at = 2 if tag == "call" else 1
            if message[at] != message_id:
                others.append(message)
            elif tag in ("ok", "error"):
                self._received[:0] = others
                return message, before
            else:
                before.append(message)

    def call(self, request_type: str, payload: Any = None, **metadata: Any) -> Any:
        """Send a request and return its final reply."""
        return self.receive_for(self.send(request_type, payload, **metadata))[0]

    def ok(self, request_type: str, payload: Any = None, **metadata: Any) -> Any:
        """Send a request and return its result, which must be good."""
        tag, _, result = self.call(request_type, payload, **metadata)
        assert tag is a("ok"), result
        return result

    def error(self, request_type: str, payload: Any = None, **metadata: Any) -> dict[str, Any]:
        """Send a request and return its error map, by the names of its keys."""
        tag, _, error = self.call(request_type, payload, **metadata)
        assert tag is a("error"), error
        return keys(error)


def alive(pid: int) -> bool:
    """True while there is a process of that id that is not a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def wait_gone(pid: int) -> None:
    """Wait until a process, not necessarily a child, has ended. Fails the test after :data:`DEADLINE` seconds."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    import select

    try:
        ready, _, _ = select.select([pidfd], [], [], DEADLINE)
        assert ready, f"process {pid} is still there"
    finally:
        os.close(pidfd)
