"""What do a million calls and a message of 600 MB leave of a node of ours: its memory, and its connection?

    .venv/bin/python bench/node_soak.py [--write docs/benchmarks-node-soak.md] [--calls 1000000]

Needs Elixir and epmd, and 4 GB of memory. Of a hundred calls one is of a process that dies, one is an :erpc, and one
monitors and sends a plain message. While the large message comes and goes another process calls the node, and both
nodes take each other for gone after some four seconds without a whole frame.
"""

from __future__ import annotations

import os
from datetime import date

from node import FILES, elixir, home, main

TICK = 4  # seconds: net_ticktime of all nodes
MAX_FRAME = 1 << 30
SIZE = 600_000_000  # bytes


def report(calls: int) -> list[str]:
    with home() as where:
        limits = ["--max-frame", str(MAX_FRAME), "--max-queued", str(MAX_FRAME)]
        where.serve(where.ours("ours", "--tick-time", str(TICK), *limits))
        node, ticks = "ours@127.0.0.1", f"-kernel net_ticktime {TICK}"
        soak = where.run(elixir("soak", str(FILES / "soak.exs"), node, str(calls), erl=ticks))
        [[seconds, pings, longest, median, back]] = where.run(
            elixir("large", str(FILES / "large.exs"), node, str(SIZE), erl=ticks)
        )
    lines = [
        "# A node that works long",
        "",
        f"{date.today()}, {os.cpu_count()} processors. Made by `bench/node_soak.py`.",
    ]
    lines += ["", "| calls | resident memory | requests in flight |", "|---:" * 3 + "|"]
    lines += [f"| {int(done):,} | {int(memory) / 1e6:.1f} MB | {in_flight} |" for done, memory, in_flight in soak]
    lines += ["", f"A binary of {SIZE / 1e6:.0f} MB there and back, with `net_ticktime` {TICK} on both sides:", ""]
    lines += [
        f"- {float(seconds):.1f} s; the connection {'stayed' if back == 'true' else 'WAS LOST'}",
        f"- {pings} calls of others meanwhile, the longest {float(longest):.0f} ms, the median {float(median):.2f} ms",
    ]
    return lines


if __name__ == "__main__":
    main(report, __doc__.splitlines()[0], "--calls", 100_000, "how many calls are made")
