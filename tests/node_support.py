"""Nodes for tests: an EPMD of their own, BEAMs that evaluate what they are told, and nodes of ours."""

from __future__ import annotations

import base64
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

from support import DEADLINE, ROOT

HERE = Path(__file__).parent
# Another Elixir may be named, also one in a tree: "chroot /tree elixir".
ELIXIR = os.environ.get("ERL_BRIDGE_TEST_ELIXIR") or shutil.which("elixir")
EPMD = shutil.which("epmd")
COOKIE = "cookie-of-the-tests"
_LOOP = """
loop = fn loop, binding ->
  case IO.gets("") do
    :eof -> System.halt(0)
    line ->
      code = line |> String.trim() |> Base.decode64!()
      {answer, binding} =
        try do
          {value, binding} = Code.eval_string(code, binding)
          {"ok " <> inspect(value, limit: :infinity, printable_limit: :infinity), binding}
        catch
          kind, reason -> {"raised " <> inspect({kind, reason}, limit: :infinity), binding}
        end
      IO.puts("=> " <> Base.encode64(answer))
      loop.(loop, binding)
  end
end
IO.puts("=> " <> Base.encode64("ok up"))
loop.(loop, [])
"""


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Process:
    """A program that answers line by line; ``stderr`` is kept."""

    def __init__(self, command: list[str], **env: str) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **env},
            text=True,
        )
        self._stderr: list[str] = []
        self._drain = threading.Thread(target=self._read_stderr, daemon=True)
        self._drain.start()

    def _read_stderr(self) -> None:
        for line in self._pipe(self.process.stderr):
            self._stderr.append(line)

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe

    @property
    def stderr(self) -> str:
        """What the program has written to stderr so far."""
        return "".join(self._stderr)

    def line(self) -> str:
        """The next line of its output."""
        line = self._pipe(self.process.stdout).readline()
        assert line, f"the program ended: {self.stderr}"
        return line.rstrip("\n")

    def write(self, line: str) -> None:
        """Give it a line."""
        stdin = self._pipe(self.process.stdin)
        stdin.write(line + "\n")
        stdin.flush()

    def kill(self) -> None:
        """Kill it, as ``kill -9`` does, and wait until it is gone."""
        self.process.kill()
        self.process.wait(DEADLINE)
        self._drain.join(DEADLINE)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            self._pipe(pipe).close()


class Beam(Process):
    """A node of Elixir that evaluates what it is told, in one process."""

    def __init__(
        self,
        name: str,
        epmd_port: int,
        *arguments: str,
        erl: str = "",
        cookie: str = COOKIE,
        host: str = "127.0.0.1",
    ) -> None:
        self.name = name
        listens = f"-kernel inet_dist_use_interface {{{host.replace('.', ',')}}}"
        flags = f"-kernel prevent_overlapping_partitions false -start_epmd false {listens} {erl}"
        command = [*str(ELIXIR).split(), "--name", name, "--cookie", cookie, "--erl", flags, *arguments, "-e", _LOOP]
        super().__init__(command, ERL_EPMD_PORT=str(epmd_port), HOME=os.environ.get("HOME", "/root"))
        assert self._answer() == "ok up"

    def _answer(self) -> str:
        while not (line := self.line()).startswith("=> "):
            pass
        return base64.b64decode(line[3:]).decode()

    def begin(self, code: str) -> None:
        """Have code evaluated."""
        self.write(base64.b64encode(code.encode()).decode())

    def end(self) -> str:
        """What came of :meth:`begin`."""
        status, _, value = self._answer().partition(" ")
        return value if status == "ok" else f"** {value}"

    def eval(self, code: str) -> str:
        """What code evaluates to, inspected; ``** {kind, reason}`` if it raises. Bindings stay."""
        self.begin(code)
        return self.end()


class Node(Process):
    """``python -m erl_bridge node``, ready to be called; its ``app`` is in the folder ``path``."""

    def __init__(
        self,
        epmd_port: int,
        cookie_file: Path,
        *arguments: str,
        app: str = "",
        path: Path = HERE,
        prefix: tuple[str, ...] = (),
        **env: str,
    ) -> None:
        command = [
            *prefix,
            sys.executable,
            "-m",
            "erl_bridge",
            "node",
            "--cookie-file",
            str(cookie_file),
            "--no-dspy",
            *arguments,
        ]
        if app:
            command += ["--app", app]
        super().__init__(command, PYTHONPATH=f"{path}{os.pathsep}{ROOT}", ERL_EPMD_PORT=str(epmd_port), **env)

    def ready(self) -> tuple[str, int]:
        """Its name and port, once it is up."""
        word, kind, name, port = self.line().split(" ")
        assert (word, kind) == ("ready", "node")
        return name, int(port)


class Epmd:
    """An EPMD of its own, on a port of its own."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.port = free_port()
        self._address = address
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [str(EPMD), "-port", str(self.port), "-address", self._address], stdout=subprocess.DEVNULL
        )
        wait_until(lambda: can_connect(self.port))

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE)


def can_connect(port: int) -> bool:
    """Whether something listens on a port."""
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except OSError:
        return False
    return True


def wait_until(condition: object) -> None:
    """Wait for what has no event to wait for: what other programs do."""
    until = time.monotonic() + DEADLINE
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.01)


def unique(name: str) -> str:
    """The name of a node that no other test has."""
    return f"{name}{secrets.token_hex(4)}@127.0.0.1"
