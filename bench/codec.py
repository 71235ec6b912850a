"""How fast is the codec, beside others?

    .venv/bin/pip install --group bench
    .venv/bin/python bench/codec.py [--write docs/benchmarks.md] [--note TEXT]

``make bench`` does both, without writing. Every codec that is installed gets the same data, in the types that it has,
in a process of its own; a time is the least of many repeats. The ratios are the other's time by ours: 2.00 is twice as
slow as the compiled backend. The last table shows how the time for one item grows with the data.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
SECONDS = 0.3  # for the repeats of one measurement
FRESH = "10,000 texts, not ASCII, never encoded before"
GROWING = ("compiled", "msgspec", "pickle")  # the codecs whose growth is measured
FACTORS = (1, 2, 4, 8, 16)  # how many times the data
TAKES_TOO_LONG = 3.0


class Name(str):
    """An atom in the corpus; each codec makes of it what it has."""

    __slots__ = ()


def rows(count: int) -> list[dict[str, Any]]:
    chance = random.Random(1)
    return [
        {
            "question": f"question {n:<71}",
            "answer": f"answer {n:<13}",
            "label": Name(chance.choice(["positive", "negative", "neutral"])),
            "id": n * 7919,
            "score": chance.random(),
        }
        for n in range(count)
    ]


def request(count: int) -> Any:
    one = {
        Name("id"): "req-000123",
        Name("type"): Name("predict"),
        Name("payload"): {
            "text": "What is the capital of France?",
            "options": {"temperature": 0.5, "max_tokens": 256},
            "tags": ["geography", "europe"],
            "stream": False,
        },
        Name("deadline"): 5000,
    }
    return one if count == 1 else [one] * count


def nested(depth: int) -> Any:
    term: Any = "deep"
    for _ in range(depth):
        term = [term]
    return term


def integers(count: int, big: bool = False) -> list[int]:
    chance = random.Random(2)
    wide = [chance.randrange(-(2**200), 2**200) for _ in range(count // 10)] if big else []
    return [*wide, *(chance.randrange(-(2**40), 2**40) for _ in range(count - len(wide)))]


def floats(count: int) -> list[float]:
    chance = random.Random(3)
    return [chance.uniform(-1e6, 1e6) for _ in range(count)]


def texts(count: int) -> list[str]:
    return [f"zażółć gęślą jaźń {n} 日本語のテキスト" for n in range(count)]


# By name: what makes it, and how large.
CORPUS: dict[str, tuple[Callable[[int], Any], int]] = {
    "small request": (request, 1),
    "dataset, 10,000 rows": (rows, 10_000),
    "100,000 floats": (floats, 100_000),
    "100,000 integers": (integers, 100_000),
    "100,000 integers, 10% of 200 bits": (lambda count: integers(count, big=True), 100_000),
    "binary of 16 MiB": (lambda count: b"\xff" * count, 1 << 24),
    "1,000 lists deep": (nested, 1000),
    "10,000 texts, not ASCII": (texts, 10_000),
    FRESH: (texts, 10_000),
    "list of 60,000 bytes": (lambda count: [n % 256 for n in range(count)], 60_000),
}


def converted(
    value: Any, atom: Callable[[str], Any], text: Callable[[str], Any], binary: Callable[[bytes], Any]
) -> Any:
    """The data in a codec's own types."""
    if type(value) is Name:
        return atom(str(value))
    if type(value) is str:
        return text(value)
    if type(value) is bytes:
        return binary(value)
    if type(value) is dict:
        pairs = value.items()
        return {converted(key, atom, text, binary): converted(item, atom, text, binary) for key, item in pairs}
    return [converted(item, atom, text, binary) for item in value] if type(value) is list else value


Codec = tuple[Callable[[Any], Any], Callable[[Any], Any], Callable[[Any], Any]]  # encode, decode, conversion of data


def plain(value: Any) -> Any:
    return converted(value, str, str, bytes)


def ours(backend: str) -> Codec:
    os.environ["ERL_BRIDGE_ETF"] = backend
    sys.path.insert(0, str(ROOT))
    from erl_bridge import Atom, etf

    return etf.encode, etf.decode, lambda value: converted(value, Atom, str, bytes)


def of_erlpack() -> Codec:
    import erlpack

    return erlpack.pack, erlpack.unpack, lambda value: converted(value, erlpack.Atom, str, bytes)


def of_earl() -> Codec:
    import earl

    return earl.pack, earl.unpack, plain


def of_erlang_py() -> Codec:
    import erlang

    def text(value: str) -> Any:
        return erlang.OtpErlangBinary(value.encode())

    def convert(value: Any) -> Any:
        return converted(value, lambda name: erlang.OtpErlangAtom(name.encode()), text, erlang.OtpErlangBinary)

    return erlang.term_to_binary, erlang.binary_to_term, convert


def of_msgspec() -> Codec:
    import msgspec.msgpack

    return msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode, plain


def of_orjson() -> Codec:
    import orjson

    return orjson.dumps, orjson.loads, plain


def of_ormsgpack() -> Codec:
    import ormsgpack

    return ormsgpack.packb, ormsgpack.unpackb, plain


def of_pickle() -> Codec:
    import pickle

    return lambda value: pickle.dumps(value, 5), pickle.loads, plain


CODECS: dict[str, Callable[[], Codec]] = {
    "compiled": lambda: ours("compiled"),
    "python": lambda: ours("python"),
    "erlpack": of_erlpack,
    "earl-etf": of_earl,
    "erlang_py": of_erlang_py,
    "msgspec": of_msgspec,
    "orjson": of_orjson,
    "ormsgpack": of_ormsgpack,
    "pickle": of_pickle,
}
GROWTH = """\
The nanoseconds for one item (a request, a row, a number, a text), for the data above and for up to 16 times as much;
the time for eight times the data divided by that for the data; and the pages of memory that the system gives for each
call with eight times the data. A time that grows from one size to the next and then stays tells of the machine: objects
that do not fit into its caches any more, and memory that Python gave back to the system and gets again. Job processes
have theirs in huge pages."""
ERLANG = """
Least = fun Least(_, Best, 0) -> Best;
            Least(F, Best, N) ->
                T0 = erlang:monotonic_time(nanosecond), F(), T = erlang:monotonic_time(nanosecond) - T0,
                Least(F, min(T, Best), N - 1) end,
Rounds = fun(F) -> {T, _} = timer:tc(F), max(5, min(2000, 600000 div max(T, 1))) end,
[begin
    {ok, Data} = file:read_file(Path), Term = binary_to_term(Data),
    Self = self(),
    spawn_opt(fun() ->
        E = fun() -> term_to_binary(Term) end, D = fun() -> binary_to_term(Data) end,
        Self ! {Least(E, 1 bsl 60, Rounds(E)), Least(D, 1 bsl 60, Rounds(D))}
    end, [{min_heap_size, 20000000}]),
    receive {Encode, Decode} -> io:format("~b ~b~n", [Encode, Decode]) end
 end || Path <- init:get_plain_arguments()], halt().
"""


def least(action: Callable[[], object]) -> float:
    """The least time of many calls, in seconds; short actions are timed in bunches."""
    begin = time.perf_counter()
    action()
    first = time.perf_counter() - begin
    if first > TAKES_TOO_LONG:
        return first
    bunch = range(max(1, int(0.0005 / max(first, 1e-7))))
    best, until = first, time.perf_counter() + SECONDS
    while time.perf_counter() < until:
        begin = time.perf_counter()
        for _ in bunch:
            action()
        best = min(best, (time.perf_counter() - begin) / len(bunch))
    return best


def least_of_fresh(encode: Callable[[Any], Any], term: Any) -> float:
    """The least time to encode strings that no codec has put their UTF-8 into yet; making them is not timed."""
    import pickle

    packed = pickle.dumps(term)
    best, until = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < until:
        fresh = pickle.loads(packed)
        begin = time.perf_counter()
        encode(fresh)
        best = min(best, time.perf_counter() - begin)
    return best


def faults_of(action: Callable[[], object]) -> int:
    """How many pages of memory the system had to give for one more call."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    action()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def measure(name: str, factor: int, titles: list[str]) -> dict[str, list[float | None]]:
    """The times of one codec, for encoding and decoding, and the page faults of these; None for what it cannot do."""
    encode, decode, convert = CODECS[name]()
    found: dict[str, list[float | None]] = {}
    for title in titles:
        make, size = CORPUS[title]
        sys.setrecursionlimit(50_000)
        term = convert(make(size * factor))
        sys.setrecursionlimit(1000)  # what a codec meets where it is used
        times: list[float | None] = [None] * 4
        try:
            data = encode(term)
            if title == FRESH:
                times[0] = least_of_fresh(encode, term)
            else:
                times[0] = least(lambda encode=encode, term=term: encode(term))
            times[2] = faults_of(lambda encode=encode, term=term: encode(term))
            decode(data)
            times[1] = least(lambda decode=decode, data=data: decode(data))
            times[3] = faults_of(lambda decode=decode, data=data: decode(data))
        except Exception as error:
            print(f"{name}: {title}: {type(error).__name__}: {error}"[:120], file=sys.stderr)
        found[title] = times
    return found


def in_a_process(name: str, factor: int = 1, titles: Iterable[str] = CORPUS) -> dict[str, list[float | None]] | None:
    command = [sys.executable, __file__, "--measure", name, "--factor", str(factor), "--titles", *titles]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in done.stderr.splitlines():
        if line.startswith(f"{name}: "):
            print(line)
    if done.returncode:
        print(f"{name}: skipped: {done.stderr.strip().splitlines()[-1] if done.stderr else 'it crashed'}")
        return None
    result: dict[str, list[float | None]] = json.loads(done.stdout)
    return result


def of_the_beam() -> dict[str, list[float | None]] | None:
    """term_to_binary and binary_to_term of the Erlang at hand, on the same terms."""
    encode, _, convert = ours("python")
    sys.setrecursionlimit(50_000)
    with tempfile.TemporaryDirectory() as directory:
        paths = [Path(directory) / str(at) for at in range(len(CORPUS))]
        for path, (make, size) in zip(paths, CORPUS.values(), strict=True):
            path.write_bytes(encode(convert(make(size))))
        command = ["erl", "-noinput", "-eval", ERLANG, "-extra", *map(str, paths)]
        try:
            output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
        except (OSError, subprocess.SubprocessError) as error:
            print(f"BEAM: skipped: {error}"[:200])
            return None
    lines = [[int(number) / 1e9 for number in line.split()] for line in output.splitlines()]
    return {title: [*line] for title, line in zip(CORPUS, lines, strict=True)}


def shown(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1e6:.2f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"


def ratio(other: float | None, own: float | None) -> str:
    return "-" if other is None or own is None else f"{other / own:.2f}"


def table(head: list[str], lines: list[list[str]]) -> list[str]:
    ruler = ["---", *["---:"] * (len(head) - 1)]
    return [f"| {' | '.join(line)} |" for line in [head, ruler, *lines]]


def version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def machine() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
        model = next(line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def report(note: str) -> list[str]:
    results = {name: found for name in CODECS if (found := in_a_process(name)) is not None}
    if any(name not in results for name in CODECS):
        print("for the codecs that are missing: .venv/bin/pip install --group bench")
    beam = of_the_beam()
    if beam is not None:
        results["BEAM"] = beam
    own_name = "compiled" if "compiled" in results else "python"
    own, others = results[own_name], [name for name in results if name != own_name]
    versions = ", ".join(f"{name} {version(name)}" for name in results if version(name))
    lines = ["# Benchmarks", "", f"{date.today()}, {machine()}; {versions}. Made by `bench/codec.py`.", ""]
    lines += [note, ""] if note else []
    lines += [
        f"The least time of the backend `{own_name}`; then, for each codec, its time divided by ours: over 1 it is"
    ]
    lines += [
        "slower. A dash: it cannot do that. `msgspec` is its MessagePack; pickle, JSON and MessagePack have no atoms,"
    ]
    lines += ["and get strings. Codecs that keep the UTF-8 of a text in the `str` encode it only the first time."]
    lines += ["earl-etf and the BEAM decode a text to its bytes, unchecked."]
    for which, title in enumerate(["Encoding", "Decoding"]):
        body = [
            [name, shown(times[which]), *(ratio(results[other][name][which], times[which]) for other in others)]
            for name, times in own.items()
        ]
        lines += ["", f"## {title}", "", *table(["", own_name, *others], body)]
    return lines + growth([own_name, *(name for name in GROWING if name in results and name != own_name)])


def growth(names: list[str]) -> list[str]:
    """The last table. A time for one item that grows and then stays tells of caches and pages, one that goes on growing
    of an algorithm.
    """
    titles = [title for title in CORPUS if not title.endswith(("deep", "bytes", "MiB"))]
    found = {name: [in_a_process(name, factor, titles) or {} for factor in FACTORS] for name in names}
    body = []
    for title in titles:
        for at, which in enumerate(("encoding", "decoding")):
            for name, results in found.items():
                times = [taken for result in results if (taken := result.get(title, [None] * 4)[at]) is not None]
                if len(times) == len(FACTORS):
                    items = [CORPUS[title][1] * factor for factor in FACTORS]
                    each = [f"{taken / count * 1e9:.1f}" for taken, count in zip(times, items, strict=True)]
                    eight = FACTORS.index(8)
                    grown = [ratio(times[eight], times[0]), f"{results[eight][title][at + 2]:.0f}"]
                    body.append([f"{title}, {which}", name, *each, *grown])
    head = ["", "", *(f"{factor} x" for factor in FACTORS), "8 x by 1 x", "page faults at 8 x"]
    return ["", "## How the time grows", "", *GROWTH.splitlines(), "", *table(head, body)]


def main() -> None:
    parser = argparse.ArgumentParser(description="How fast is the codec, beside others?")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the tables there, too")
    parser.add_argument("--measure", choices=CODECS, help=argparse.SUPPRESS)
    parser.add_argument("--note", default="", help="a sentence on how it was measured, for the head of the tables")
    parser.add_argument("--factor", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--titles", nargs="*", default=list(CORPUS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.factor, options.titles)))
        return
    text = "\n".join(report(options.note))
    print(text)
    if options.write:
        options.write.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
