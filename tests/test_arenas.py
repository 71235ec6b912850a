"""Python's memory out of huge pages: there is as much of it as before, and it is given back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

pytest.importorskip("erl_bridge.jobs._arenas")

HUGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")

PROGRAM = """
import sys
from erl_bridge.jobs import _arenas

def memory(what):
    lines = open("/proc/self/smaps_rollup")
    return next(int(line.split()[1]) for line in lines if line.startswith(what + ":")) // 1024

before = [{"n": n} for n in range(100_000)]
_arenas.use()
idle = memory("Rss")
for _ in range(3):
    rows = [{"n": n, "text": "x" * (n % 300)} for n in range(300_000)]
    assert all(row["n"] == n and len(row["text"]) == n % 300 for n, row in enumerate(rows))
    used, huge = memory("Rss") - idle, memory("AnonHugePages")
    del rows
before.clear()  # arenas from before are given back too
print(used, huge, memory("Rss") - idle)
"""


@pytest.mark.skipif(not HUGE.exists() or "[never]" in HUGE.read_text(), reason="there are no huge pages")
def test_objects_are_in_huge_pages_and_their_memory_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, cwd=ROOT)
    used, huge, left = map(int, done.stdout.split())
    assert used > 100
    assert huge > 0
    assert left < used / 2
