"""How soon does a node of ours answer GenServer.call, beside a node of the BEAM?

    .venv/bin/python bench/node.py [--write docs/benchmarks-node.md]

Needs Elixir and epmd. A process of one node calls a process of another on the same host; the request is the same, and
so is the answer. The systems are measured in turn, in rounds. With gcc and Debian's erlang-dev a node in C, made with
OTP's own library, is one of them.
"""

from __future__ import annotations

import argparse
import glob
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILES = Path(__file__).parent / "node"
NEEDED = ("elixir", "epmd")
LIBRARY = "/usr/lib/erlang/lib/erl_interface-*"
COOKIE = "cookie-of-the-benchmark"
BEAM, OURS, C_NODE = "BEAM", "erl_bridge", "C node"
Row = tuple[str, str, float, float, float]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def elixir(name: str, *arguments: str, erl: str = "") -> list[str]:
    """A node of the BEAM that runs a file."""
    flags = f"-kernel inet_dist_use_interface {{127,0,0,1}} {erl}"
    return ["elixir", "--name", f"{name}@127.0.0.1", "--cookie", COOKIE, "--erl", flags, *arguments]


class Home:
    """Where nodes of a benchmark find each other: an EPMD and a cookie of their own."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._stack = stack
        self.directory = directory
        self._cookie = directory / "cookie"
        self._cookie.write_text(COOKIE)
        self._cookie.chmod(0o400)
        port = str(free_port())
        self.environment = {**os.environ, "ERL_EPMD_PORT": port, "PYTHONPATH": str(ROOT)}
        self._start(["epmd", "-port", port, "-address", "127.0.0.1"])

    def _start(self, command: list[str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command, env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process

    def ours(self, name: str, *options: str) -> list[str]:
        """A node of ours."""
        node = [sys.executable, "-m", "erl_bridge", "node", "--name", f"{name}@127.0.0.1", "--no-dspy"]
        return [*node, "--cookie-file", str(self._cookie), *options]

    def serve(self, command: list[str]) -> None:
        """Start a node and wait until it says that it is ready."""
        output = self._start(command).stdout
        assert output is not None
        assert "ready" in output.readline(), command

    def run(self, command: list[str]) -> list[list[str]]:
        """Run a client to its end: the lines that it has printed, cut at tabs."""
        done = subprocess.run(command, env=self.environment, stdout=subprocess.PIPE, text=True, check=True)
        return [line.split("\t") for line in done.stdout.splitlines() if "\t" in line]


@contextmanager
def home() -> Iterator[Home]:
    """A home, which ends with all that was started in it."""
    with ExitStack() as stack:
        yield Home(Path(stack.enter_context(tempfile.TemporaryDirectory())), stack)


def c_node(directory: Path) -> str | None:
    """The program that is a node in C, if it can be made here."""
    library, program = next(iter(sorted(glob.glob(LIBRARY))), None), str(directory / "server")
    if library is None or not shutil.which("gcc"):
        return None
    made = ["gcc", "-O2", "-D_REENTRANT", f"-I{library}/include", str(FILES / "server.c"), f"-L{library}/lib"]
    return program if subprocess.run([*made, "-lei", "-lpthread", "-o", program], check=False).returncode == 0 else None


def programs(where: Home) -> dict[str, list[str]]:
    """What is measured: the name, and the program that is that node."""
    found = {
        BEAM: elixir("beam", str(FILES / "server.exs")),
        OURS: where.ours("ours"),
        f"{OURS}, no spin": where.ours("still", "--spin-us", "0"),
    }
    if (program := c_node(where.directory)) is not None:
        found[C_NODE] = [program, "c@127.0.0.1", COOKIE]
    return found


def node_of(command: list[str]) -> str:
    """The name of the node that a program is."""
    return next(word for word in command if word.endswith("@127.0.0.1"))


def measure(rounds: int) -> list[Row]:
    """Name, work, median and 99th percentile in microseconds, calls a second."""
    with home() as where:
        commands = programs(where)
        for command in commands.values():
            where.serve(command)
        specs = [f"{node_of(command)}|erl_bridge|{name}" for name, command in commands.items()]
        lines = where.run(elixir("client", str(FILES / "client.exs"), str(rounds), *specs))
    return [(name, work, float(median), float(p99), float(rate)) for name, work, median, p99, rate in lines]


def report(rounds: int) -> list[str]:
    load = os.getloadavg()[0]
    rows = measure(rounds)
    beam = {work: (median, rate) for name, work, median, _, rate in rows if name == BEAM}
    lines = ["# The Erlang node", ""]
    lines += [
        f"{date.today()}, {os.cpu_count()} processors with a load of {load:.1f} from others. Made by `bench/node.py`.",
        "",
        "`GenServer.call` from one node to another on the same host; the answer is the payload. Microseconds, calls a",
        "second, and their ratios to those of a GenServer on a node of the BEAM. The C node is of OTP's own library.",
    ]
    for work in beam:
        lines += ["", f"| {work} | median | ratio | p99 | calls/s, 16 callers | ratio |", "|---" + "|---:" * 5 + "|"]
        for name, its_work, median, p99, rate in rows:
            if its_work == work:
                base, base_rate = beam[work]
                cells = (
                    f"{median:.1f}",
                    f"{median / base:.2f}",
                    f"{p99:.1f}",
                    f"{rate:,.0f}",
                    f"{rate / base_rate:.2f}",
                )
                lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def main(make: Callable[[int], list[str]], what: str, option: str, default: int, told: str) -> None:
    """A program that prints and writes what ``make`` tells of so many of something."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table there, too")
    parser.add_argument(option, type=int, default=default, dest="number", help=told)
    options = parser.parse_args()
    missing = [program for program in NEEDED if not shutil.which(program)]
    if missing:
        print(f"{parser.prog}: not run, it needs {', '.join(missing)}")
        return
    text = "\n".join(make(options.number))
    print(text)
    if options.write:
        options.write.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(report, __doc__.splitlines()[0], "--rounds", 20, "how often each system has its turn")
