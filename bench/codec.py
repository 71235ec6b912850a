"""How fast is the codec, beside others?

    .venv/bin/pip install --group bench
    .venv/bin/python bench/codec.py [--write docs/benchmarks.md] [--note TEXT]

``make bench`` does both, without writing. Every codec that is installed gets the same data, in the types that it has,
in processes of its own; a time is the least of many repeats. The ratios are the other's time by ours: 2.00 is twice as
slow as the compiled backend. The last table shows how the time grows with the data.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
ROUNDS = 3  # all codecs by turns, so that what else the machine does falls on one as on another
SECONDS = 0.1  # for the repeats of one measurement in one round
TURNS_SECONDS = 1.5  # for those of three sizes
FRESH = "10,000 texts, not ASCII, never encoded before"
GROWING = ("compiled", "msgspec", "pickle")  # the codecs whose growth is measured
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
The nanoseconds for one item (a request, a row, a number, a text, a byte, a list) of three amounts of data, each eight
times the one before, and how many times as long the larger ones take: 8 is linear. All three are measured by turns in
one process. In the first columns that process has other objects scattered through its memory, as one that has run for a
while: so Python keeps the memory of what was decoded for the next call. In the last column it is fresh and gives the
memory back to the system after each call, page by page, which then gives the same pages again. What is over 8 in the
first columns is the machine's: data that no longer fits into its caches."""
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


def measure(name: str) -> dict[str, list[float | None]]:
    """The times of one codec, for encoding and decoding; None for what it cannot do."""
    encode, decode, convert = CODECS[name]()
    found: dict[str, list[float | None]] = {}
    for title, (make, size) in CORPUS.items():
        sys.setrecursionlimit(50_000)
        term = convert(make(size))
        sys.setrecursionlimit(1000)  # what a codec meets where it is used
        times: list[float | None] = [None, None]
        try:
            data = encode(term)
            if title == FRESH:
                times[0] = least_of_fresh(encode, term)
            else:
                times[0] = least(lambda encode=encode, term=term: encode(term))
            decode(data)
            times[1] = least(lambda decode=decode, data=data: decode(data))
        except Exception as error:
            print(f"{name}: {title}: {type(error).__name__}: {error}"[:120], file=sys.stderr)
        found[title] = times
    return found


def sizes(title: str) -> list[int]:
    """Three numbers of items. The middle one is that of the other tables, but where eight times as much would be past a
    limit, or an eighth is nothing.
    """
    size = CORPUS[title][1]
    middle = size // 8 if title.endswith(("deep", "bytes", "MiB")) else max(size, 1000)
    return [middle // 8, middle, middle * 8]


def scattered(size: int = 256 << 20) -> list[bytes]:
    """One object in each half a megabyte of so many bytes of memory, which Python therefore keeps."""
    objects = [bytes(31) for _ in range(size // 64)]
    return objects[:: (1 << 19) // 64]


def measure_growth(name: str, keeps_memory: bool) -> dict[str, list[list[float]]]:
    """The times of one codec for each of the sizes: encoding, decoding. Without what it cannot do."""
    encode, decode, convert = CODECS[name]()
    held = scattered() if keeps_memory else []
    found: dict[str, list[list[float]]] = {}
    for title, (make, _) in CORPUS.items():
        if title == FRESH:
            continue
        sys.setrecursionlimit(50_000)
        terms = [convert(make(size)) for size in sizes(title)]
        sys.setrecursionlimit(1000)
        try:
            times = by_turns([(encode, decode, term, encode(term)) for term in terms])
        except Exception as error:
            print(f"{name}: {title}: {type(error).__name__}: {error}"[:120], file=sys.stderr)
        else:
            found[title] = times
    del held
    return found


def by_turns(cases: list[tuple[Callable[[Any], Any], Callable[[Any], Any], Any, Any]]) -> list[list[float]]:
    """The least times of encoding and of decoding each case."""
    best = [[float("inf")] * len(cases), [float("inf")] * len(cases)]
    until = time.perf_counter() + TURNS_SECONDS
    while time.perf_counter() < until:
        for at, (encode, decode, term, data) in enumerate(cases):
            for times, action, value in ((best[0], encode, term), (best[1], decode, data)):
                bunch = range(1 if times[at] > 1e-4 else int(1e-4 / times[at]) + 1)
                begin = time.perf_counter()
                for _ in bunch:
                    action(value)
                times[at] = min(times[at], (time.perf_counter() - begin) / len(bunch))
    return best


@cache
def say(line: str) -> None:
    """Prints it, unless it was printed before."""
    print(line)


def in_a_process(name: str, *options: str) -> dict[str, Any] | None:
    command = [sys.executable, __file__, "--measure", name, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in done.stderr.splitlines():
        if line.startswith(f"{name}: "):
            say(line)
    if done.returncode:
        say(f"{name}: skipped: {done.stderr.strip().splitlines()[-1] if done.stderr else 'it crashed'}")
        return None
    result: dict[str, Any] = json.loads(done.stdout)
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


def measured() -> dict[str, dict[str, list[float | None]]]:
    """The least times of all rounds, of the codecs that are there."""
    results: dict[str, dict[str, list[float | None]]] = {}
    for _ in range(ROUNDS):
        for name in CODECS:
            found = in_a_process(name) or {}
            for title, times in found.items():
                before = results.setdefault(name, {}).get(title, times)
                results[name][title] = [least_of_two(*pair) for pair in zip(before, times, strict=True)]
    return results


def least_of_two(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else min(one, other)


def report(note: str) -> list[str]:
    results = measured()
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
    """The last table."""
    kept = {name: in_a_process(name, "--growth", "kept") or {} for name in names}
    fresh = {name: in_a_process(name, "--growth", "fresh") or {} for name in names}
    body = []
    for title in CORPUS:
        for which, action in enumerate(("encoding", "decoding")):
            for name in names:
                if title in kept[name] and title in fresh[name]:
                    few, some, many = kept[name][title][which]
                    each = [
                        f"{taken / size * 1e9:.2f}" for taken, size in zip((few, some, many), sizes(title), strict=True)
                    ]
                    _, fresh_some, fresh_many = fresh[name][title][which]
                    grown = [ratio(some, few), ratio(many, some), ratio(fresh_many, fresh_some)]
                    body.append([f"{title}, {action}", name, *each, *grown])
    head = ["", "", "few, ns", "8 x, ns", "64 x, ns", "8 x by few", "64 x by 8 x", "the same, memory given back"]
    return ["", "## How the time grows", "", *GROWTH.splitlines(), "", *table(head, body)]


def main() -> None:
    parser = argparse.ArgumentParser(description="How fast is the codec, beside others?")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the tables there, too")
    parser.add_argument("--note", default="", help="a sentence on how it was measured, for the head of the tables")
    parser.add_argument("--measure", choices=CODECS, help=argparse.SUPPRESS)
    parser.add_argument("--growth", choices=["kept", "fresh"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.growth:
        print(json.dumps(measure_growth(options.measure, options.growth == "kept")))
        return
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    text = "\n".join(report(options.note))
    print(text)
    if options.write:
        options.write.write_text(text + "\n", encoding="utf-8")
        print(f"written to {options.write}")


if __name__ == "__main__":
    main()
