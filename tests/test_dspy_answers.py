"""Answers of language models on disk: none is paid for twice, whoever asks, however the one before ended."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai_server import OpenAIServer
from support import BridgeProcess, a, keys
from test_dspy_support import Client

from erl_bridge.handlers.dspy import in_flight, jobs, predict
from erl_bridge.handlers.dspy.lm_store import DAY, FILE, Store, key_of
from erl_bridge.jobs import process

QA = "question -> answer"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store_in() -> Iterator[Callable[..., Store]]:
    """Makes stores, and closes them."""
    with contextlib.ExitStack() as stores:
        yield lambda folder, **settings: stores.enter_context(contextlib.closing(Store(str(folder), **settings)))


def ask(lm: dict[str, Any], question: str = "why?", client: Client | None = None, **changes: Any) -> Any:
    payload = {"signature": QA, "inputs": {"question": question}, "lm": lm, **changes}
    return predict.predict(payload, (client or Client()).context)


def no_wait(seconds: float) -> None:
    raise AssertionError("somebody else is asking")


# -- the file ---------------------------------------------------------------------------------------------------------


def test_an_answer_is_there_for_the_next_process(tmp_path: Path, store_in: Any) -> None:
    store_in(tmp_path).put(key_of("q"), {"text": "ä", "n": [1, None]})
    code = "import sys; from erl_bridge.handlers.dspy.lm_store import *; print(Store(sys.argv[1]).get(key_of('q')))"
    seen = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert seen.stdout == "{'text': 'ä', 'n': [1, None]}\n"
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0  # for nobody else to read


def test_an_answer_is_given_as_long_as_asked_for(tmp_path: Path, store_in: Any) -> None:
    clock = Clock()
    store = store_in(tmp_path, max_age=DAY, clock=clock)
    store.put(b"key", 1)
    clock.now += 3600
    assert store.get(b"key", max_age=3601) == 1
    assert store.get(b"key", max_age=3599) is None
    clock.now += DAY
    assert store.get(b"key") is None


def test_the_least_recently_used_answers_go_when_there_are_too_many_bytes(tmp_path: Path, store_in: Any) -> None:
    clock = Clock()
    store = store_in(tmp_path, max_bytes=20_000, clock=clock)
    for number in range(100):
        clock.now += 3601  # past what counts as the same moment
        store.put(b"%d" % number, "x" * 498)
        assert store.get(b"0") is not None  # always in use
    clock.now += 1
    store.put(b"last", "x")
    assert store.stats()["bytes"] <= 20_000 * 1.01
    there = [store.get(key) is not None for key in (b"0", b"1", b"50", b"99", b"last")]
    assert there == [True, False, False, True, True]


def test_statistics_and_clearing(tmp_path: Path, store_in: Any) -> None:
    clock = Clock()
    store = store_in(tmp_path, clock=clock)
    store.put(b"key", "abc")
    clock.now += 60
    facts = {"path": str(tmp_path / FILE), "answers": 1, "bytes": 5, "max_bytes": 1 << 30, "oldest_s": 60}
    assert store.stats() == facts
    assert store.clear() == 1
    assert (store.get(b"key"), store.stats()["answers"]) == (None, 0)


def test_the_command_line_tells_and_forgets(tmp_path: Path, store_in: Any) -> None:
    store_in(tmp_path).put(b"key", "abc")
    command = [sys.executable, "-m", "erl_bridge", "answers"]
    environment = {**os.environ, "ERL_BRIDGE_HOME": str(tmp_path)}
    said = [
        subprocess.run([*command, *more], capture_output=True, text=True, check=True, env=environment).stdout
        for more in ([], ["--clear"], [])
    ]
    assert "answers 1\nbytes 5\n" in said[0]
    assert said[1] == "forgotten 1\n"
    assert "answers 0\n" in said[2]


@pytest.mark.parametrize("damage", ["no database at all", ""])
def test_a_file_that_cannot_be_used_costs_a_warning(
    tmp_path: Path, store_in: Any, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    if damage:
        (tmp_path / FILE).write_text(damage * 100)
        folder = tmp_path
    else:
        (tmp_path / "file").touch()
        folder = tmp_path / "file"  # where no folder can be
    store = store_in(folder)
    store.put(b"key", 1)
    assert store.get(b"key") is None
    with store.asking(b"key", no_wait):
        pass
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def _write(folder: str, start: int, ready: Any) -> None:
    store = Store(folder)
    for number in range(start, start + 100_000):
        store.put(b"%d" % number, {"number": number})
        if number == start + 20:
            ready.set()


def test_processes_that_are_killed_while_they_write_leave_a_whole_file(tmp_path: Path, store_in: Any) -> None:
    context = multiprocessing.get_context("spawn")
    events = [context.Event() for _ in range(2)]
    writers = [
        context.Process(target=_write, args=(str(tmp_path), 100_000 * n, event)) for n, event in enumerate(events)
    ]
    for writer in writers:
        writer.start()
    for event in events:
        assert event.wait(30)
    for writer in writers:
        writer.kill()
        writer.join()
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as connection:
        assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]
    store = store_in(tmp_path)
    assert [store.get(b"%d" % number) for number in (0, 100_000)] == [{"number": 0}, {"number": 100_000}]


# -- asking once ------------------------------------------------------------------------------------------------------


def _ask_for_ever(folder: str, asking: Any) -> None:
    with Store(folder).asking(b"key", no_wait):
        asking.set()
        signal.pause()


def test_two_processes_do_not_ask_the_same_at_once_and_a_dead_one_asks_no_more(tmp_path: Path, store_in: Any) -> None:
    context = multiprocessing.get_context("spawn")
    asking = context.Event()
    other = context.Process(target=_ask_for_ever, args=(str(tmp_path), asking))
    other.start()
    assert asking.wait(30)
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            os.kill(other.pid or 0, signal.SIGKILL)
            other.join()

    store = store_in(tmp_path)
    with store.asking(b"another key", no_wait), store.asking(b"key", wait):
        assert len(waits) == 3


def test_threads_that_ask_the_same_at_once_ask_once(server: OpenAIServer) -> None:
    server.default = {"delay": 0.05}
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda: answers.append(ask(server.lm))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [{"answer": "answer 0"}] * 8
    assert server.calls == 1


# -- what is kept -----------------------------------------------------------------------------------------------------


def usage(client: Client) -> dict[str, Any]:
    (event,) = (event for event in client.events if event[a("kind")] is a("usage"))
    return keys(event)


def test_the_same_request_is_answered_from_the_store_and_counted_as_that(server: OpenAIServer) -> None:
    first, second = Client(), Client()
    assert ask(server.lm, client=first) == ask(server.lm, client=second)
    assert server.calls == 1
    assert (usage(first)["lm_calls"], usage(first)["cache_hits"]) == (1, 0)
    assert (usage(second)["lm_calls"], usage(second)["cache_hits"], usage(second)["cost_usd"]) == (0, 1, 0.0)


CHANGES = [{"temperature": 0.5}, {"max_tokens": 9}, {"cache_key": "v2"}, {"model": "openai/gpt-4o"},
           {"options": {"seed": 1}}, {"cache": False}]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_another_request_is_another_answer(server: OpenAIServer, change: dict[str, Any]) -> None:
    before = ask(server.lm)
    assert ask({**server.lm, **change}) != before
    assert server.calls == 2


def test_the_key_and_the_timeout_do_not_make_another_request(server: OpenAIServer) -> None:
    before = ask(server.lm)
    assert ask({**server.lm, "api_key": "another-key-0815", "timeout_ms": 5000, "num_retries": 0}) == before


def test_an_error_is_not_kept(server: OpenAIServer) -> None:
    server.script = [{"status": 400, "message": "no"}]
    with pytest.raises(Exception, match="no"):
        ask(server.lm)
    assert ask(server.lm) == {"answer": "answer 1"}


def test_a_function_of_the_client_is_asked_again_unless_told_otherwise() -> None:
    count = iter(range(10))
    client = Client(lm=lambda request: f"[[ ## answer ## ]]\n{next(count)}\n\n[[ ## completed ## ]]")
    answers = [ask({"callback": "lm"}, client=client)["answer"] for _ in range(2)]
    answers += [ask({"callback": "lm", "cache_key": "v1"}, client=client)["answer"] for _ in range(2)]
    answers += [ask({"callback": "lm", "cache": True, "cache_key": "v2"}, client=client)["answer"] for _ in range(2)]
    assert answers == ["0", "1", "2", "2", "3", "3"]


# -- going on ---------------------------------------------------------------------------------------------------------

PARITY = {
    "signature": "number -> parity: Literal['even', 'odd']",
    "training_data": [{"number": str(n), "parity": ("even", "odd")[n % 2]} for n in range(12)],
    "config": {"optimizer": "random_search", "num_candidates": 2, "seed": 1},
}


def test_an_optimization_that_is_run_again_asks_nothing_and_comes_to_the_same(server: OpenAIServer) -> None:
    server.default = {"fields": {"parity": "even"}}
    first = jobs.optimize_signature({**PARITY, "lm": server.lm}, Client().context)
    calls = server.calls
    second = jobs.optimize_signature({**PARITY, "lm": server.lm}, Client().context)
    assert server.calls == calls
    assert second[a("program")] == first[a("program")]
    assert keys(second[a("optimization_metrics")])["lm_calls"] == 0


# An optimizer, how many threads, and how often it asks for another answer to the same question.
CANCELLED = [
    ({"optimizer": "random_search", "num_candidates": 2, "seed": 1, "num_threads": 1}, 0),
    ({"optimizer": "mipro_v2", "num_candidates": 3, "num_trials": 3, "seed": 1, "num_threads": 4}, 1),
]


@pytest.mark.parametrize(("config", "samples"), CANCELLED, ids=["random_search", "mipro_v2"])
def test_an_optimization_that_is_cancelled_goes_on_where_it_was(
    server: OpenAIServer, config: dict[str, Any], samples: int
) -> None:
    assert in_flight.GRACE < process.TERM_TO_KILL  # where a job has as long as usual
    server.default = {"fields": {"parity": "even"}}
    payload = {**PARITY, "lm": server.lm, "config": config}
    with BridgeProcess("--app", "patient_app:app", cwd=Path(__file__).parent) as bridge:
        request = bridge.send("optimize_signature", payload)
        assert server.wait(calls=20)
        bridge.ok("cancel", {a("message_id"): request})
        error = keys(bridge.receive_for(request)[0][2])
        assert error["error_type"] is a("cancelled")
        assert a("program") in error["context"][a("best")]
        result = bridge.ok("optimize_signature", payload)
    asked = [repr(request) for request in server.requests]
    assert len(asked) == len(set(asked)) + samples  # what was under way came home
    metrics = keys(result[a("optimization_metrics")])
    assert metrics["cache_hits"] >= 20
    assert metrics["lm_calls"] + 20 <= len(asked)
