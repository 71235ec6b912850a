"""What does the bridge add to a prediction of DSPy, and what is not paid for twice?

    .venv/bin/python bench/predict.py [--write docs/benchmarks-dspy.md]

The first two questions are answered beside plain Python in the same run: how much later the answer of a local model
comes; how many predictions a second there are of a model that answers after 200 ms, 64 at a time; how much memory a
further job process has of its own; how often a model is asked twice when an optimization is interrupted and started
again; and how soon a cancel ends what is under way.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support import BridgeProcess, a

ROOT = Path(__file__).parent.parent
AT_ONCE = 64
DELAY = 0.2
SIGNATURE = "question -> answer"
LOCAL = "local/nearest-demo"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", type=Path)
    parser.add_argument("--calls", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ["ERL_BRIDGE_HOME"] = home
        os.environ["OPENAI_API_KEY"] = "none"
        lines = [
            "# DSPy through the bridge",
            "",
            f"{date.today()}, {os.cpu_count()} processors with a load of {os.getloadavg()[0]:.1f} from others. "
            "Made by `bench/predict.py`.",
            *latency(given.calls),
            *throughput(given.rounds),
            *resumed(),
            *stopped(),
        ]
    text = "\n".join(lines) + "\n"
    print(text)
    if given.write:
        given.write.write_text(text)


# -- how much later ---------------------------------------------------------------------------------------------------


def latency(calls: int) -> list[str]:
    """Wherever the system lets them run, and all on one processor, as what runs in turn may."""
    everywhere = os.sched_getaffinity(0)
    free = latencies(calls)
    os.sched_setaffinity(0, {max(everywhere)})
    pinned = latencies(calls)
    os.sched_setaffinity(0, everywhere)
    added, there = (bridged[0] - direct[0] for direct, bridged in (free.values(), pinned.values()))
    return [
        "",
        f"One prediction of `{LOCAL}` in milliseconds. The bridge adds {added:.3f} ms at the median, {there:.3f} ms "
        "where all run on one processor (asked: at most 0.3).",
        "",
        "| | median | p99 | min | one processor: median | p99 | min |",
        "|---" + "|---:" * 6 + "|",
        *(f"| {name} | {' | '.join(f'{ms:.3f}' for ms in (*free[name], *pinned[name]))} |" for name in free),
    ]


def latencies(calls: int) -> dict[str, tuple[float, float, float]]:
    """Median, 99th percentile and least of direct and bridged predictions, which are made in turn."""
    direct = direct_prediction()
    payload = {a("signature"): SIGNATURE, a("inputs"): {a("question"): "why?"}, a("lm"): LOCAL}
    times: dict[str, list[float]] = {"dspy.Predict in Python": [], "`predict` over a Port": []}
    with BridgeProcess() as bridge:
        kinds: list[Callable[[], object]] = [direct, lambda: bridge.ok("predict", payload)]
        for number in range(calls + 50):
            for kind, took in zip(kinds, times.values(), strict=True):
                begin = time.perf_counter()
                kind()
                if number >= 50:
                    took.append((time.perf_counter() - begin) * 1000)
    return {
        name: (statistics.median(took), statistics.quantiles(took, n=100)[98], min(took))
        for name, took in times.items()
    }


def direct_prediction() -> Callable[[], Any]:
    import dspy

    from erl_bridge.handlers.dspy.nearest_demo import NearestDemo

    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    lm = dspy.LM(LOCAL, engine=NearestDemo(), cache=False)
    predict = dspy.Predict(SIGNATURE)

    def run() -> Any:
        with dspy.context(lm=lm, adapter=dspy.ChatAdapter()):
            return predict(question="why?")

    return run


# -- how many at once -------------------------------------------------------------------------------------------------


class Provider:
    """``tests/openai_server.py`` in a process of its own."""

    def __init__(self, **default: Any) -> None:
        command = [sys.executable, str(ROOT / "tests/openai_server.py"), json.dumps(default)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.base = f"http://127.0.0.1:{int(self.process.stdout.readline())}"
        self.lm = {a("model"): "openai/gpt-4o-mini", a("api_base"): f"{self.base}/v1", a("api_key"): "a-key-of-a-test"}

    def log(self) -> Any:
        return json.load(urllib.request.urlopen(f"{self.base}/log"))

    def wait(self, **reached: int) -> None:
        """Wait for so many ``calls``, or ``dropped`` ones."""
        ((what, number),) = reached.items()
        urllib.request.urlopen(f"{self.base}/wait?{what}={number}").read()

    def __enter__(self) -> Provider:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


def throughput(rounds: int, each: int = 10) -> list[str]:
    """Predictions a second of plain Python and of the bridge in turn; the best round of each."""
    names = ["plain Python, 64 threads", "64 requests in flight", "one request of all the rows"]
    best = dict.fromkeys(names, 0.0)
    with Provider(delay=DELAY) as provider, BridgeProcess() as bridge:
        kinds = [plain_python(provider), requests(bridge, provider), lists(bridge, provider)]
        for kind in kinds:
            kind(1)  # connections, processes and threads are there afterwards
        for _ in range(rounds):
            for name, kind in zip(names, kinds, strict=True):
                begin = time.perf_counter()
                kind(each)
                best[name] = max(best[name], AT_ONCE * each / (time.perf_counter() - begin))
        own = memory(bridge.process.pid)
    plain = best[names[0]]
    return [
        "",
        f"Predictions a second of a model that answers after {DELAY * 1000:.0f} ms, {AT_ONCE} at a time (at most "
        f"{AT_ONCE / DELAY:.0f}; asked: 90 % of plain Python).",
        "",
        "| | a second | of plain Python |",
        "|---|---:|---:|",
        *(f"| {name} | {number:.0f} | {100 * number / plain:.0f} % |" for name, number in best.items()),
        "",
        f"Memory that a job process has of its own after that, {len(own)} of them: {statistics.median(own):.1f} MB at "
        f"the median (asked: under 25), {max(own):.1f} MB that of the one which had {AT_ONCE * each} rows in {AT_ONCE} "
        "threads.",
    ]


def plain_python(provider: Provider) -> Callable[[int], None]:
    import dspy

    lm = dspy.LM("openai/gpt-4o-mini", api_base=f"{provider.base}/v1", api_key="k", cache=False, num_retries=0)
    predict = dspy.Predict(SIGNATURE)
    pool = ThreadPoolExecutor(AT_ONCE)
    numbers = iter(range(10**9))

    def one(each: int) -> None:
        with dspy.context(lm=lm, adapter=dspy.ChatAdapter()):
            for _ in range(each):
                predict(question=f"plain {next(numbers)}")

    return lambda each: [None for _ in pool.map(one, [each] * AT_ONCE)] and None


def requests(bridge: BridgeProcess, provider: Provider) -> Callable[[int], None]:
    numbers = iter(range(10**9))

    def send() -> None:
        inputs = {a("question"): f"one {next(numbers)}"}
        bridge.send("predict", {a("signature"): SIGNATURE, a("inputs"): inputs, a("lm"): provider.lm})

    def run(each: int) -> None:
        total, sent, done = AT_ONCE * each, 0, 0
        while done < total:
            while sent < total and sent - done < AT_ONCE:
                send()
                sent += 1
            message = bridge.receive()
            assert message[0] in (a("ok"), a("event")), message
            done += message[0] is a("ok")

    return run


def lists(bridge: BridgeProcess, provider: Provider) -> Callable[[int], None]:
    numbers = iter(range(10**9))

    def run(each: int) -> None:
        rows = [{a("question"): f"list {next(numbers)}"} for _ in range(AT_ONCE * each)]
        answers = bridge.ok("predict", {a("signature"): SIGNATURE, a("inputs"): rows, a("lm"): provider.lm})
        assert all(tag is a("ok") for tag, _ in answers)

    return run


def memory(bridge: int) -> list[float]:
    """The megabytes that each job process under a bridge shares with nobody."""
    (template,) = children(bridge)
    return [own_megabytes(job) for job in children(template)]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()] or [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def own_megabytes(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty"))) / 1024


# -- what is paid for twice -------------------------------------------------------------------------------------------


def resumed() -> list[str]:
    """An optimization is cancelled about half way and started again, after one that runs through."""
    payload = {
        a("signature"): "number -> parity: Literal['even', 'odd']",
        a("training_data"): [{"number": str(n), "parity": ("even", "odd")[n % 2]} for n in range(20)],
        a("config"): {a("optimizer"): OPTIMIZER, a("num_candidates"): 4, a("num_trials"): 8, a("seed"): 1},
    }
    with Provider(fields={"parity": "even"}) as provider, BridgeProcess() as bridge:
        bridge.ok("optimize_signature", {**payload, a("lm"): {**provider.lm, a("cache_key"): "through"}})
        through = provider.log()["requests"]
        whole = len(through)
        lm = {**provider.lm, a("cache_key"): "interrupted"}
        request = bridge.send("optimize_signature", {**payload, a("lm"): lm})
        provider.wait(calls=whole + whole // 2)
        bridge.ok("cancel", {a("message_id"): request})
        assert bridge.receive_for(request)[0][0] is a("error")
        before = provider.log()["calls"] - whole
        bridge.ok("optimize_signature", {**payload, a("lm"): lm})
        asked = provider.log()["requests"][whole:]
    return [
        "",
        f"`{OPTIMIZER}` run through asks {whole} times. Cancelled after {before} answers and started again it asked "
        f"{len(asked) - before} times more, {len(asked)} in all; {repeated(asked) - repeated(through)} of them "
        f"were made again (asked: none). A run asks {repeated(through)} twice by itself, for a second answer.",
    ]


def repeated(requests: list[Any]) -> int:
    """How many requests there are that were made before, word for word."""
    return len(requests) - len({json.dumps(request) for request in requests})


# -- how soon spending ends -------------------------------------------------------------------------------------------


def stopped(times: int = 20) -> list[str]:
    """Evaluations are cancelled while the model thinks; the connection to it is closed soon after."""
    payload = {a("signature"): SIGNATURE, a("data"): [{"question": "why?", "answer": "yes"}]}
    took = []
    with Provider(hold=True) as provider, BridgeProcess() as bridge:
        bridge.ok("predict", {a("signature"): SIGNATURE, a("inputs"): {a("question"): "why?"}, a("lm"): LOCAL})
        for number in range(1, times + 1):
            request = bridge.send("evaluate_pipeline", {**payload, a("lm"): provider.lm})
            provider.wait(calls=number)
            begin = time.perf_counter()
            bridge.ok("cancel", {a("message_id"): request})
            provider.wait(dropped=number)
            took.append((time.perf_counter() - begin) * 1000)
            bridge.receive_for(request)
    return [
        "",
        f"From a cancel until the connection to a model that is thinking is closed: {statistics.median(took):.0f} ms "
        f"at the median of {times}, {max(took):.0f} ms at most (asked: 100). 60 ms of it are for answers under way, "
        "which are paid for, to come in and be kept.",
    ]


OPTIMIZER = "mipro_v2"

if __name__ == "__main__":
    main()
