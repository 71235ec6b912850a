"""``erl_bridge info``: what a program on the other side reads to see what is installed."""

from __future__ import annotations

import subprocess
import sys

import erl_bridge.etf
from erl_bridge.home import home
from erl_bridge.version import VERSION


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "erl_bridge", *arguments], capture_output=True, text=True, check=False)


def test_one_fact_on_each_line() -> None:
    printed = run("info")
    facts = dict(line.split(" ", 1) for line in printed.stdout.splitlines())
    assert (printed.returncode, printed.stderr) == (0, "")
    assert {
        "erl_bridge": VERSION,
        "codec": erl_bridge.etf.backend,
        "executable": sys.executable,
        "home": home(),
    }.items() <= facts.items()
    assert facts["python"] == sys.version.split()[0]
    assert facts["dspy"]


def test_the_commands_are_named_where_none_or_a_wrong_one_is_given() -> None:
    assert "  info " in run().stdout
    assert "there is no command inof; there is port, " in run("inof").stderr
