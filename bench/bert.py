"""How many calls a second does our server of BERT-RPC take, beside others that listen in the same way?

    .venv/bin/python bench/bert.py [--write docs/benchmarks-bert.md]

Needs gcc; of the peers it takes those that are installed (``pip install erlang_py``). Clients in C send a call and wait
for the answer, on one connection or on a new one for each call, one client or four at once. The systems are measured
in turn, in rounds; the best round of each counts.

The servers of BERT-RPC on PyPI, bertlet and those that need its codec, bert, are for Python 2 and cannot be installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILES = Path(__file__).parent / "bert"
OURS, FLOOR = "erl_bridge", "C, sends back what comes"
NEEDED = ("gcc",)
# What is measured: how many clients at once, "one" connection or "each" call on its own; and what is asked of us.
WAYS = {
    "one connection": (1, "one", "10,000"),
    "four connections": (4, "one", ""),
    "a connection for each call": (1, "each", "5,000"),
    "the same, four clients": (4, "each", ""),
}


def servers(echo: str) -> dict[str, list[str]]:
    """The programs that listen, by name. Each says where, as the last two words of a line."""
    peers = str(FILES / "peers.py")
    found = {FLOOR: [echo], "Python, sends back what comes": [sys.executable, peers, "raw"]}
    if importlib.util.find_spec("erlang"):
        found["Python with erlang_py"] = [sys.executable, peers, "erlang_py"]
    return {**found, OURS: [sys.executable, "-m", "erl_bridge", "tcp", "--no-dspy"]}


@contextmanager
def serving(command: list[str]) -> Iterator[str]:
    """The port on which a server listens, while it does."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        process.wait()


def call() -> bytes:
    """A call of ``system:ping`` with a small map, as a client of BERT 1.0 sends it."""
    from erl_bridge import Atom
    from erl_bridge.framing import pack
    from erl_bridge.wire.bert import encode

    names = [Atom(name) for name in ("call", "system", "ping")]
    return pack(encode((*names, [{"text": "hello world", "n": 1}]), set(names)))


def rate(load: str, port: str, clients: int, kind: str, calls: int) -> float:
    """Calls a second of all clients together."""
    command = [load, port, str(calls // clients), kind]
    started = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(clients)]
    for process in started:
        assert process.stdin is not None
        process.stdin.write(call())
        process.stdin.close()
        process.stdin = None  # communicate() would flush it
    said = [process.communicate()[0] for process in started]
    assert not any(process.returncode for process in started), "a client got no answer"
    return sum(map(float, said))


def measure(rounds: int, calls: int) -> dict[str, dict[str, float]]:
    """The best calls a second of each server in each way."""
    best: dict[str, dict[str, float]] = {way: {} for way in WAYS}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        echo, load = str(directory / "echo"), str(directory / "load")
        for program in (echo, load):
            subprocess.run(["gcc", "-O2", "-pthread", "-o", program, f"{FILES / Path(program).name}.c"], check=True)
        ports = {name: stack.enter_context(serving(command)) for name, command in servers(echo).items()}
        for _ in range(rounds):
            for way, (clients, kind, _asked) in WAYS.items():
                for name, port in ports.items():
                    best[way][name] = max(best[way].get(name, 0.0), rate(load, port, clients, kind, calls))
    return best


def report(rounds: int, calls: int) -> list[str]:
    others = os.getloadavg()[0]
    best = measure(rounds, calls)
    names = list(best["one connection"])
    lines = ["# BERT-RPC", ""]
    lines += [
        f"{date.today()}, {os.cpu_count()} processors with a load of {others:.1f} from others. Made by `bench/bert.py`."
    ]
    lines += [
        "",
        "Calls of `system:ping` with a small map, in calls a second. Each client waits for its answer before it asks",
    ]
    lines += ["again. Only the last two decode what comes and look for the function.", ""]
    lines += [f"| | {' | '.join(names)} | asked |", "|---" + "|---:" * (len(names) + 1) + "|"]
    for way, (_clients, _kind, asked) in WAYS.items():
        lines.append(f"| {way} | " + " | ".join(f"{best[way][name]:,.0f}" for name in names) + f" | {asked} |")
    lines += ["", "There is no other server of BERT-RPC to measure: `bertlet` and `bert` on PyPI are for Python 2."]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="How many calls a second does our server of BERT-RPC take?")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table there, too")
    parser.add_argument("--rounds", type=int, default=20, help="how often each system has its turn")
    parser.add_argument("--calls", type=int, default=1000, help="calls in each turn")
    options = parser.parse_args()
    missing = [program for program in NEEDED if not shutil.which(program)]
    if missing:
        print(f"bench/bert.py: not run, it needs {', '.join(missing)}")
        return
    text = "\n".join(report(options.rounds, options.calls))
    print(text)
    if options.write:
        options.write.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
