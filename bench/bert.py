"""How many calls a second does a BERT-RPC server take, beside a server that only sends back what comes?

    .venv/bin/python bench/bert.py [--write docs/benchmarks-bert.md]

A client in a process of its own sends a call and waits for the answer, on one connection or on a new one for each
call. The floor is a plain server in Python, a thread for each connection, that reads a
frame and sends it back. The systems are measured in turn, in rounds; the best round of each counts.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parent.parent
ECHO, OURS = "socket echo", "erl_bridge"
ASKED = {"one connection": 10_000, "a connection for each call": 5_000}
Address = tuple[str, int]

ECHO_SERVER = """
import socket, threading
listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
print("ready", *listener.getsockname(), flush=True)
def exactly(sock, size):
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            return b""
        data += more
    return data
def serve(sock):
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with sock:
        while header := exactly(sock, 4):
            sock.sendall(header + exactly(sock, int.from_bytes(header, "big")))
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""
SERVERS = {
    ECHO: [sys.executable, "-c", ECHO_SERVER],
    OURS: [sys.executable, "-m", "erl_bridge", "tcp", "--no-dspy"],
}


@contextmanager
def serving(command: list[str]) -> Iterator[Address]:
    """Where a server listens, while it does."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        host, port = process.stdout.readline().split()[-2:]
        yield host, int(port)
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


def receive(sock: socket.socket) -> bytes:
    data = sock.recv(65536)
    while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
        more = sock.recv(65536)
        if not more:
            raise ConnectionError("the server closed the connection")
        data += more
    return data


def connect(address: Address) -> socket.socket:
    sock = socket.create_connection(address, 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def one_connection(address: Address, frame: bytes, calls: int) -> None:
    with connect(address) as sock:
        for _ in range(calls):
            sock.sendall(frame)
            receive(sock)


def connection_each(address: Address, frame: bytes, calls: int) -> None:
    for _ in range(calls):
        with connect(address) as sock:
            sock.sendall(frame)
            receive(sock)


WAYS: dict[str, Callable[[Address, bytes, int], None]] = {
    "one connection": one_connection,
    "a connection for each call": connection_each,
}


def measure(rounds: int, calls: int) -> dict[tuple[str, str], float]:
    """The best calls a second of each server in each way."""
    frame = call()
    best: dict[tuple[str, str], float] = {}
    with serving(SERVERS[ECHO]) as echo, serving(SERVERS[OURS]) as ours:
        with connect(ours) as sock:
            sock.sendall(frame)
            assert b"hello world" in receive(sock)
        for _ in range(rounds):
            for way, client in WAYS.items():
                for name, address in ((ECHO, echo), (OURS, ours)):
                    began = time.perf_counter()
                    client(address, frame, calls)
                    rate = calls / (time.perf_counter() - began)
                    best[name, way] = max(best.get((name, way), 0.0), rate)
    return best


def report(rounds: int, calls: int) -> list[str]:
    load = os.getloadavg()[0]
    best = measure(rounds, calls)
    lines = ["# BERT-RPC", ""]
    lines += [
        f"{date.today()}, {os.cpu_count()} processors with a load of {load:.1f} from others. Made by `bench/bert.py`."
    ]
    lines += [
        "",
        "Calls of `system:ping` with a small map, one after the other, by a client in Python, in calls a second:",
    ]
    lines += ["", f"| | {ECHO} | {OURS} | ratio | asked |", "|---" + "|---:" * 4 + "|"]
    for way in WAYS:
        floor, ours = best[ECHO, way], best[OURS, way]
        lines.append(f"| {way} | {floor:,.0f} | {ours:,.0f} | {ours / floor:.2f} | {ASKED[way]:,} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="How many calls a second does a BERT-RPC server take?")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table there, too")
    parser.add_argument("--rounds", type=int, default=20, help="how often each system has its turn")
    parser.add_argument("--calls", type=int, default=1000, help="calls in each turn")
    options = parser.parse_args()
    text = "\n".join(report(options.rounds, options.calls))
    print(text)
    if options.write:
        options.write.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
