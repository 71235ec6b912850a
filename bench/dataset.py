"""How fast do rows get from a list of the BEAM into a Python process, beside the design's method and a bare pipe?

    .venv/bin/python bench/dataset.py [--write docs/benchmarks-datasets.md]

Needs Elixir, the compiled client library and gcc. Also: what compression costs, the second sending, the memory of a
lazy stream, and how soon health checks are answered meanwhile. The datasets go to a folder of its own.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILES = Path(__file__).parent / "dataset"
EBIN = ROOT / "elixir_client/_build/dev/lib/erl_bridge/ebin"
NEEDED = ("gcc", "elixir")
SYSTEMS = ("design", "erl_bridge", "C swallows", "Python swallows")
NIF = 0.195 / 1.59  # of the design's time, where an in-process NIF bridge (erlang-python) was measured beside it
SLICES = 10


def client(directory: Path, *arguments: str) -> list[list[str]]:
    """What the client prints, as fields."""
    environment = {
        **os.environ,
        "ERL_BRIDGE_HOME": str(directory / "home"),
        "ERL_BRIDGE_PYTHON": sys.executable,
        "PEER_ECHO": str(directory / "echo"),
        "PYTHONPATH": f"{ROOT}{os.pathsep}{FILES}",
    }
    command = ["elixir", "-pa", str(EBIN), str(FILES / "client.exs"), *arguments]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout
    shutil.rmtree(directory / "home", ignore_errors=True)
    return [line.split("\t") for line in output.splitlines() if "\t" in line]


def race(directory: Path, rounds: int, rows: int) -> list[str]:
    times = {
        name: [float(time) for time in found] for name, *found in client(directory, "race", f"{rounds}", f"{rows}")
    }
    peaks = {name: client(directory, "peak", name, f"{rows}")[0][1:] for name in SYSTEMS}
    design = min(times["design"])
    lines = ["| until Python has the rows | best s | median s | design ÷ this | BEAM: idle, with the list, peak MB |"]
    lines += ["|---|---:|---:|---:|---:|"]
    for name, found in times.items():
        memory = ", ".join(f"{float(peak):.0f}" for peak in peaks[name])
        best = min(found)
        lines.append(f"| {name} | {best:.3f} | {statistics.median(found):.3f} | {design / best:.1f} | {memory} |")
    return [
        *lines,
        "",
        f"A NIF bridge took {NIF:.3f} of the design's time elsewhere, which here would be {NIF * design:.3f} s.",
    ]


def compression(directory: Path, rounds: int, rows: int) -> list[str]:
    lines = ["| compression | MB sent | best s |", "|---|---:|---:|"]
    for name, sent, *times in client(directory, "compress", f"{rounds}", f"{rows}"):
        lines.append(f"| {name} | {int(sent) / 1e6:.1f} | {min(map(float, times)):.3f} |")
    for what, sent, time in client(directory, "again", f"{rows}"):
        lines.append(f"| {what} sending | {int(sent) / 1e6:.1f} | {float(time):.3f} |")
    return lines


def crossing(directory: Path, rounds: int) -> list[str]:
    lines = [
        "| rows | KB | in the request, ms: first, second | as a dataset, ms: first, second |",
        "|---:|---:|---:|---:|",
    ]
    for count, size, *times in client(directory, "crossing", f"{rounds}"):
        first, second, dataset, known = (f"{float(time):.1f}" for time in times)
        lines.append(f"| {int(count):,} | {int(size) / 1e3:,.0f} | {first}, {second} | {dataset}, {known} |")
    return lines


def stream(directory: Path, rows: int) -> list[str]:
    *samples, peak = client(directory, "stream", f"{rows}")
    points = [[float(field) for field in sample] for sample in samples]
    idle, lines = points[0], ["| rows so far | rows a second | BEAM MB | bridge MB |", "|---:|---:|---:|---:|"]
    done, seconds = 0.0, 0.0
    for part in range(1, SLICES + 1):
        end = next(point for point in points if point[0] >= rows * part / SLICES)
        rate = (end[0] - done) / (end[1] - seconds)
        lines.append(f"| {end[0]:,.0f} | {rate:,.0f} | {end[2]:.0f} | {end[3]:.0f} |")
        done, seconds = end[0], end[1]
    above = [max(point[column] for point in points) - idle[column] for column in (2, 3)]
    said = (
        f"At most {above[0]:.0f} MB (BEAM) and {above[1]:.0f} MB (bridge) above idle; {int(peak[1]) / 1e6:.0f} MB sent."
    )
    return [*lines, "", said]


def health(directory: Path, rows: int) -> list[str]:
    lines = ["| health checks, ms | number | median | p99 | most |", "|---|---:|---:|---:|---:|"]
    for name, *found in client(directory, "health", f"{rows}"):
        times = sorted(map(float, found))
        p99 = times[int(len(times) * 0.99)]
        lines.append(f"| {name} | {len(times)} | {statistics.median(times):.2f} | {p99:.2f} | {times[-1]:.2f} |")
    return lines


def report(rounds: int, rows: int, long: int) -> list[str]:
    machine = f"{os.cpu_count()} processors with a load of {os.getloadavg()[0]:.1f} from others"
    lines = ["# Datasets", "", f"{date.today()}, {machine}. Made by `bench/dataset.py`.", ""]
    lines += [
        f"{rows:,} rows of five fields, from a list in the BEAM until a Python process holds a list of dicts.",
        "The design's method is JSON, compressed whole, as Base64 in pieces of 1 MiB, one at a time. The design has",
        "Jason, which is not here: JSON is written by OTP's `json`, and before OTP 27 by a small encoder of the",
        "benchmark's own that does what Jason does. Where Jason was measured, with 19 MB of rows, the design took",
        "1.59 s, a NIF bridge in the same process 0.195 s, and a program that swallows the bytes 0.08 s.",
        "",
    ]
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        subprocess.run(["gcc", "-O2", "-o", name + "/echo", str(FILES.parent / "port/echo.c")], check=True)
        lines += [*race(directory, rounds, rows), "", *compression(directory, rounds, rows), ""]
        lines += [
            "A request to a job that holds its rows, made twice; rows with more bytes than `dataset_above:` go as a"
        ]
        lines += ["dataset by themselves:", "", *crossing(directory, rounds), ""]
        lines += [f"A lazy stream of {long:,} rows:", "", *stream(directory, long), ""]
        lines += health(directory, 10 * rows)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="How fast do rows get from the BEAM into a Python process?")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the tables there, too")
    parser.add_argument("--rounds", type=int, default=10, help="how often each system has its turn")
    parser.add_argument("--rows", type=int, default=100_000, help="rows of a list")
    parser.add_argument("--stream", type=int, default=5_000_000, help="rows of the lazy stream")
    options = parser.parse_args()
    missing = [program for program in NEEDED if not shutil.which(program)]
    if missing:
        print(f"bench/dataset.py: not run, it needs {', '.join(missing)}")
        return
    text = "\n".join(report(options.rounds, options.rows, options.stream))
    print(text)
    if options.write:
        options.write.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
