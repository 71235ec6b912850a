"""How soon does the bridge say hello, and how soon does it answer while an optimization runs?

    .venv/bin/python bench/latency.py

Prints, from one run on this machine: the start of a bare ``python -c pass`` beside the time to ``:hello``, and the
times of 1,000 health checks in a row, first with the bridge idle, then while an optimization keeps a job process busy.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support import BridgeProcess, a

STARTS = 30
CHECKS = 1000


def milliseconds(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return (time.perf_counter() - begin) * 1000


def bare_start() -> float:
    return milliseconds(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True))


def hello(*arguments: str, preload: bool) -> float:
    begin = time.perf_counter()
    bridge = BridgeProcess(*arguments, preload=preload)
    bridge.receive()
    took = (time.perf_counter() - begin) * 1000
    bridge.close()
    return took


def starts() -> None:
    rows: dict[str, list[float]] = {"python -c pass": [], "hello": [], "hello, dspy preloaded": []}
    for _ in range(STARTS):  # in turn, so that a change of the machine's speed meets all alike
        rows["python -c pass"].append(bare_start())
        rows["hello"].append(hello(preload=False))
        rows["hello, dspy preloaded"].append(hello(preload=True))
    bare = statistics.median(rows["python -c pass"])
    print(f"{'start, ms':28} {'min':>8} {'median':>8} {'max':>8}   ratio of medians")
    for name, times in rows.items():
        median = statistics.median(times)
        print(f"{name:28} {min(times):8.1f} {median:8.1f} {max(times):8.1f}   {median / bare:.2f}")


def health_checks(bridge: BridgeProcess, name: str) -> None:
    times = sorted(milliseconds(lambda: bridge.ok("health_check")) for _ in range(CHECKS))
    p50, p99 = times[CHECKS // 2], times[CHECKS * 99 // 100]
    print(f"{name:28} {p50:8.3f} {p99:8.3f} {times[-1]:8.3f}")


def optimization() -> dict[Any, Any]:
    """A search that runs far longer than 1,000 health checks: Unicode names and their categories."""
    rows = []
    for code in range(0x20, 0x3000, 7):
        name = unicodedata.name(chr(code), "")
        if name:
            rows.append({"name": name, "category": unicodedata.category(chr(code))})
    labels = sorted({row["category"] for row in rows})
    return {
        "signature": {
            "input_fields": [{"name": "name", "type": "str"}],
            "output_fields": [{"name": "category", "type": (a("literal"), labels)}],
        },
        "training_data": rows[::2],
        "validation_data": rows[1::2],
        "config": {"optimizer": "bootstrap_few_shot_with_random_search", "num_candidates": 30},
        "lm": "local/nearest-demo",
    }


def responsiveness() -> None:
    print(f"\n{f'{CHECKS} health checks, ms':28} {'p50':>8} {'p99':>8} {'max':>8}")
    with BridgeProcess(preload=True) as bridge:
        bridge.ok("predict", {"signature": "q -> a", "inputs": {"q": "?"}, "lm": "local/nearest-demo"})
        health_checks(bridge, "idle")
        message_id = bridge.send("optimize_signature", optimization())
        bridge.receive()  # its first event: it is at work
        health_checks(bridge, "during an optimization")
        if not bridge.ok("cancel", {a("message_id"): message_id})[a("cancelled")]:
            print("the optimization ended before the health checks did; make it longer")


if __name__ == "__main__":
    starts()
    responsiveness()
