"""How soon does a Port answer, and how many calls a second does it take, beside others?

    .venv/bin/python bench/port.py [--write docs/benchmarks-port.md]

Needs Elixir, the compiled client library and gcc; of the peers it takes those that are installed (``pip install erlpack
erlang_py``). A map of some 300 bytes goes to Python and comes back. The systems are measured in turn, in rounds.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILES = Path(__file__).parent / "port"
EBIN = ROOT / "elixir_client/_build/dev/lib/erl_bridge/ebin"
PEERS = {"raw": "Python, raw frames", "erlpack": "erlpack", "erlang_py": "erlang_py", "json": "JSON (not in the BEAM)"}
NEEDED = ("gcc", "elixir", "taskset")
TASKSET = shutil.which("taskset") or ""
Measured = dict[str, list[float]]
MODULES = {"erlpack": "erlpack", "erlang_py": "erlang"}


def systems(echo: str) -> list[str]:
    """What is measured, as the client's arguments: the name, the kind of client, the program and its arguments."""
    bridge = f"{sys.executable}|-m|erl_bridge|port|--no-dspy|--app|peers:app"
    found = [f"C echo|echo|{echo}", f"erl_bridge|ping|{bridge}", f"erl_bridge, no spin|ping|{bridge}|--spin-us|0"]
    found += [f"erl_bridge, inline handler|inline|{bridge}"]
    found += ["ErlBridge.call|call", "ErlBridge.call, with a telemetry handler|told"]
    found += ["ErlBridge.call, no spin|call|--spin-us|0"]
    for peer, name in PEERS.items():
        if importlib.util.find_spec(MODULES.get(peer, "sys")):
            kind = "json" if peer == "json" else "echo"
            found.append(f"{name}|{kind}|{sys.executable}|{FILES / 'peers.py'}|{peer}")
    return found


def apart(spec: str) -> str:
    """The same system for a client that moves it to processor 1 once it runs.

    It starts with both: a bridge that starts with one processor does not spin.
    """
    name, kind, program, *arguments = spec.split("|")
    return "|".join([name, kind, TASKSET, "-c", "0,1", program, *arguments])


def measure(prefix: list[str], specs: list[str], rounds: int, calls: int = 200, **environ: str) -> Measured:
    """The median and the 99th percentile in microseconds, the calls a second and the ratio of each system."""
    command = [*prefix, "elixir", "-pa", str(EBIN), str(FILES / "client.exs"), str(rounds), str(calls), *specs]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{FILES}",
        "ERL_BRIDGE_PYTHON": sys.executable,
        **environ,
    }
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout
    lines = [line.split("\t") for line in output.splitlines() if line.count("\t") == 4]
    return {name: [float(number) for number in numbers] for name, *numbers in lines}


def report(rounds: int) -> list[str]:
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as directory:
        echo = str(Path(directory) / "echo")
        subprocess.run(["gcc", "-O2", "-o", echo, str(FILES / "echo.c")], check=True)
        specs = systems(echo)
        free, pinned = measure([], specs, rounds), measure([TASKSET, "-c", "0"], specs, rounds)
        alone = [spec for spec in specs if spec.split("|")[1] in ("echo", "ping", "inline")][:4]
        anywhere = measure([], alone, 2 * rounds)
        two = measure([TASKSET, "-c", "0"], [apart(spec) for spec in alone], 2 * rounds, MOVE_TO="1")
        large = measure([], bulk(echo), max(rounds // 4, 1), 5)
    machine = f"{os.cpu_count()} processors with a load of {load:.1f} from others"
    lines = ["# The Port", "", f"{date.today()}, {machine}. Made by `bench/port.py`.", ""]
    lines += [
        "Round trips of a map of some 300 bytes in microseconds. The ratio is to the C echo on one processor, in the",
        "same round; the median of those of all rounds.",
        "",
    ]
    lines += [
        "| | median | p99 | one processor: median | p99 | ratio | calls/s, 16 callers |",
        "|---" + "|---:" * 6 + "|",
    ]
    for name, (median, p99, rate, _) in free.items():
        one, one_p99, _, ratio = pinned[name]
        lines.append(f"| {name} | {median:.1f} | {p99:.1f} | {one:.1f} | {one_p99:.1f} | {ratio:.2f} | {rate:,.0f} |")
    lines += ["", "A binary of 20 MB one way and a short answer, in milliseconds:", ""]
    lines += ["| 20 MB | median |", "|---|---:|"]
    lines += [f"| {name} | {median / 1000:.1f} |" for name, (median, *_) in large.items()]
    return lines + back_to_back(anywhere, two)


def bulk(echo: str) -> list[str]:
    """What takes and gives 20 MB, beside the C program that only moves them."""
    bridge = f"{sys.executable}|-m|erl_bridge|port|--no-dspy|--app|peers:app"
    systems = (("C", f"{echo}|{{way}}"), ("erl_bridge", bridge))
    return [
        f"{name}, {way}|{name.split('_')[0].lower()}_{way}|{program.format(way=way)}"
        for way in ("in", "out")
        for name, program in systems
    ]


def back_to_back(anywhere: Measured, two: Measured) -> list[str]:
    """The table of those that are measured with nothing else on the machine."""
    lines = [
        "",
        "One call after the other with none of the peers there, in microseconds: wherever the system puts the two",
    ]
    lines += ["sides, and with the BEAM on one processor and the other side on another. Most of it is being woken.", ""]
    lines += ["| | anywhere | p99 | ratio | two processors | p99 | ratio |", "|---|---:|---:|---:|---:|---:|---:|"]
    for name, (median, p99, _, ratio) in anywhere.items():
        apart, apart_p99, _, apart_ratio = two[name]
        lines.append(
            f"| {name} | {median:.1f} | {p99:.1f} | {ratio:.2f} | {apart:.1f} | {apart_p99:.1f} | {apart_ratio:.2f} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="How soon does a Port answer, beside others?")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table there, too")
    parser.add_argument("--rounds", type=int, default=20, help="how often each system has its turn")
    options = parser.parse_args()
    missing = [program for program in NEEDED if not shutil.which(program)]
    missing += ["two processors"] if len(os.sched_getaffinity(0)) < 2 else []
    if missing:
        print(f"bench/port.py: not run, it needs {', '.join(missing)}")
        return
    text = "\n".join(report(options.rounds))
    print(text)
    if options.write:
        options.write.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
