"""How soon does a node of ours answer GenServer.call, beside a node of the BEAM?

    .venv/bin/python bench/node.py [--write docs/benchmarks-node.md]

Needs Elixir and epmd. A process of one node calls a process of another on the same host; the request is the same, and
so is the answer. The systems are measured in turn, in rounds.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILES = Path(__file__).parent / "node"
NEEDED = ("elixir", "epmd")
COOKIE = "cookie-of-the-benchmark"
BEAM, OURS, PYRLANG = "BEAM", "erl_bridge", "Pyrlang"
Row = tuple[str, str, float, float, float]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def programs(cookie_file: str) -> dict[str, list[str]]:
    """What is measured: the name, and the program that is that node."""
    found = {
        BEAM: ["elixir", "--name", "beam@127.0.0.1", "--cookie", COOKIE, str(FILES / "server.exs")],
        OURS: [sys.executable, "-m", "erl_bridge", "node", "--name", "ours@127.0.0.1", "--no-dspy"],
        f"{OURS}, no spin": [sys.executable, "-m", "erl_bridge", "node", "--name", "still@127.0.0.1", "--no-dspy"],
    }
    found[OURS] += ["--cookie-file", cookie_file]
    found[f"{OURS}, no spin"] += ["--cookie-file", cookie_file, "--spin-us", "0"]
    if importlib.util.find_spec("pyrlang"):
        found[PYRLANG] = [sys.executable, str(FILES / "pyrlang_node.py"), "pyrlang@127.0.0.1", COOKIE]
    return found


def node_of(command: list[str]) -> str:
    """The name of the node that a program is."""
    return next(word for word in command if "@" in word)


def measure(rounds: int) -> list[Row]:
    """Name, work, median and 99th percentile in microseconds, calls a second."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cookie_file = directory / "cookie"
        cookie_file.write_text(COOKIE)
        cookie_file.chmod(0o400)
        port = str(free_port())
        environment = {**os.environ, "ERL_EPMD_PORT": port, "PYTHONPATH": str(ROOT)}

        def start(command: list[str]) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        start(["epmd", "-port", port, "-address", "127.0.0.1"])
        commands = programs(str(cookie_file))
        for command in commands.values():
            output = start(command).stdout
            assert output is not None
            output.readline()  # it says that it is ready
        specs = [f"{node_of(command)}|erl_bridge|{name}" for name, command in commands.items()]
        client = ["elixir", "--name", "client@127.0.0.1", "--cookie", COOKIE, str(FILES / "client.exs"), str(rounds)]
        done = subprocess.run([*client, *specs], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    lines = [line.split("\t") for line in done.stdout.splitlines() if line.count("\t") == 4]
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
        "second, and their ratios to those of a GenServer on a node of the BEAM.",
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


def main() -> None:
    parser = argparse.ArgumentParser(description="How soon does a node of ours answer, beside one of the BEAM?")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table there, too")
    parser.add_argument("--rounds", type=int, default=20, help="how often each system has its turn")
    options = parser.parse_args()
    missing = [program for program in NEEDED if not shutil.which(program)]
    if missing:
        print(f"bench/node.py: not run, it needs {', '.join(missing)}")
        return
    text = "\n".join(report(options.rounds))
    print(text)
    if options.write:
        options.write.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
