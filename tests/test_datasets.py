"""Datasets over the protocol: sent to a real bridge process, resumed by another, and read by handlers and jobs."""

from __future__ import annotations

import contextlib
import hashlib
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from datasets_support import ROWS, compress, cut, dataset_id, stream
from support import BridgeProcess, a, keys, wait_gone

from erl_bridge import etf

ID = dataset_id(ROWS)
SENT = stream(ROWS)
CHUNKS = cut(SENT, 2000)
LAST = len(CHUNKS) - 1
TEN = {"transfer_id": "ten"}

Start = Callable[..., BridgeProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts bridge processes that share a store in ``tmp_path``."""
    started: list[BridgeProcess] = []

    def start(*arguments: str, dspy: bool = False, **env: str) -> BridgeProcess:
        options = [] if dspy else ["--no-dspy"]
        process = BridgeProcess(
            *options,
            *("--app", "handlers_app:app"),
            *arguments,
            cwd=Path(__file__).parent,
            ERL_BRIDGE_HOME=str(tmp_path),
            **env,
        )
        started.append(process)
        return process.__enter__()

    yield start
    for process in started:
        if process.process.poll() is None:
            process.close()
        else:
            process.__exit__()


def chunk(index: int, chunks: Sequence[bytes] = CHUNKS, **more: Any) -> dict[str, Any]:
    """The payload of a ``:data_chunk`` of the transfer ``ten``."""
    return {**TEN, "chunk_index": index, "data": chunks[index], "is_final": index == len(chunks) - 1, **more}


def send(
    bridge: BridgeProcess, rows: Sequence[Any] = ROWS, compression: str = "none", size: int = 2000
) -> dict[str, Any]:
    """Send a dataset and return the final answer."""
    bridge.ok("dataset_begin", {**TEN, "compression": compression})
    chunks = cut(compress(stream(rows), compression), size)
    for index in range(len(chunks)):
        answer = bridge.ok("data_chunk", chunk(index, chunks))
    return keys(answer)


def files(folder: Path) -> list[str]:
    """The files of a store that are not remembered of complete transfers; it may change meanwhile."""
    found = os.walk(folder / "datasets")
    return sorted(name for _, _, names in found if "done" not in names for name in names)


# -- sending ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["none", "zlib", "zstd"])
def test_a_dataset_is_sent_and_read_by_threads_and_jobs(start: Start, tmp_path: Path, compression: str) -> None:
    bridge = start()
    answer = send(bridge, compression=compression)
    chunks = len(cut(compress(SENT, compression), 2000))
    size = sum(len(etf.encode(row)) - 1 for row in ROWS)
    assert answer == {"received": chunks, "next": chunks, "dataset_id": ID, "rows": 1000, "bytes": size}
    assert files(tmp_path) == [f"{ID}.rows"]
    for run in ("thread", "job"):
        result = bridge.ok(f"rows_{run}", {"rows": {a("dataset"): ID}})
        assert result == {"count": 1000, "first": ROWS[0], "last": ROWS[-1], "sum": sum(row["id"] for row in ROWS)}


def test_chunks_in_any_order_and_twice(start: Start, tmp_path: Path) -> None:
    bridge = start()
    bridge.ok("dataset_begin", TEN)
    for index in (3, 1, 3, LAST, 0):
        assert keys(bridge.ok("data_chunk", chunk(index)))["received"] <= 4
    state = keys(bridge.ok("dataset_status", TEN))
    assert state["received"] == [(0, 1), (3, 3), (LAST, LAST)]
    assert state["missing"] == [(2, 2), (4, LAST - 1)]
    assert (state["next"], state["chunk_count"], state["dataset_id"]) == (2, LAST + 1, None)
    error = bridge.error("data_chunk", chunk(3, data=b"other"))
    assert error["message"] == "chunk 3 came before with other bytes"
    assert keys(error["context"]) == {"transfer_id": "ten", "chunk_index": 3, "dropped": False}
    for index in range(2, LAST):
        answer = keys(bridge.ok("data_chunk", chunk(index)))
    assert answer["dataset_id"] == ID
    # complete: a repeat gets the final answer, and so does the status
    assert keys(bridge.ok("data_chunk", chunk(0))) == answer
    assert keys(bridge.ok("dataset_status", TEN))["dataset_id"] == ID
    assert "is after the end" in bridge.error("data_chunk", {**chunk(0), "chunk_index": LAST + 1})["message"]
    assert files(tmp_path) == [f"{ID}.rows"]


def test_a_dataset_that_is_there_is_not_sent_again(start: Start) -> None:
    bridge = start()
    send(bridge)
    again = keys(bridge.ok("dataset_begin", {"transfer_id": "other", "dataset_id": ID}))
    assert (again["transfer_id"], again["received"], again["dataset_id"], again["rows"]) == ("other", [], ID, 1000)
    assert keys(bridge.ok("dataset_status", {"dataset_id": ID}))["rows"] == 1000
    assert keys(bridge.ok("dataset_status", {"dataset_id": "0" * 64})) == dict.fromkeys(("dataset_id", "rows", "bytes"))
    facts = keys(bridge.ok("dataset_status"))
    assert (facts["datasets"], facts["transfers"]) == (1, 0)
    assert facts["compression"] == [a("none"), a("zlib"), a("zstd")]


def test_the_same_rows_sent_twice_are_kept_once(start: Start, tmp_path: Path) -> None:
    bridge = start()
    send(bridge)
    bridge.ok("dataset_drop", TEN)
    assert send(bridge, compression="zlib")["dataset_id"] == ID
    assert files(tmp_path) == [f"{ID}.rows"]


# -- processes die ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["none", "zlib"])
def test_a_killed_process_is_followed_by_one_that_goes_on(start: Start, tmp_path: Path, compression: str) -> None:
    chunks = cut(compress(SENT, compression), 1000)
    bridge = start()
    bridge.ok("dataset_begin", {**TEN, "compression": compression})
    for index in (0, 1, 3):
        bridge.ok("data_chunk", chunk(index, chunks))
    taken = start().error("dataset_status", TEN)
    assert (taken["message"], taken["retry_after_ms"]) == ("another process receives this transfer", 100)
    bridge.process.kill()
    wait_gone(bridge.process.pid)
    other = start()
    state = keys(other.ok("dataset_status", TEN))
    assert (state["received"], state["next"]) == ([(0, 1), (3, 3)], 2)
    for index in range(2, len(chunks)):
        answer = keys(other.ok("data_chunk", chunk(index, chunks)))
    assert answer["dataset_id"] == ID
    assert other.ok("rows_job", {"rows": {"dataset": ID}})["count"] == 1000


def test_the_end_of_the_input_drops_what_is_under_way(start: Start, tmp_path: Path) -> None:
    bridge = start()
    bridge.ok("dataset_begin", TEN)
    for index in (0, 2):
        bridge.ok("data_chunk", chunk(index))
    assert files(tmp_path) != []
    assert bridge.close() == 0
    assert files(tmp_path) == []


def test_shutting_down_keeps_it_for_the_next_process(start: Start) -> None:
    bridge = start()
    bridge.ok("dataset_begin", TEN)
    bridge.ok("data_chunk", chunk(0))
    bridge.ok("shutdown")
    bridge.process.wait()
    assert keys(start().ok("dataset_begin", TEN))["received"] == [(0, 0)]


def test_what_is_idle_is_dropped(start: Start, tmp_path: Path) -> None:
    bridge = start("--transfer-idle", "500")
    bridge.ok("dataset_begin", TEN)
    bridge.ok("data_chunk", chunk(0))
    while files(tmp_path):
        bridge.ok("ping")
    assert bridge.error("dataset_status", TEN)["error_type"] is a("transfer_error")


# -- what is refused --------------------------------------------------------------------------------------------------

BEGIN, CHUNK = "dataset_begin", "data_chunk"
DIGITS = "expected 64 lower-case hexadecimal digits, got"
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    (BEGIN, {}, "payload: the required key transfer_id is missing"),
    (BEGIN, {"transfer_id": ""}, 'payload.transfer_id: expected a binary of 1 to 255 bytes, got ""'),
    (BEGIN, {"transfer_id": 5}, "payload.transfer_id: expected a binary, got 5"),
    (BEGIN, {**TEN, "format": a("json")}, "payload.format: expected one of :etf, got :json"),
    (BEGIN, {**TEN, "compression": a("lzma")},
     "payload.compression: expected one of :none, :zlib, :zstd, got :lzma"),
    (BEGIN, {**TEN, "chunk_count": 0}, "payload.chunk_count: expected an integer from 1 to 1000000, got 0"),
    (BEGIN, {**TEN, "total_bytes": -1},
     "payload.total_bytes: expected an integer from 0 to 4611686018427387904, got -1"),
    (BEGIN, {**TEN, "sha256": b"\xff"},
     "payload.sha256: expected 32 bytes or 64 hexadecimal digits, got b'\\xff'"),
    (BEGIN, {**TEN, "dataset_id": "../x"}, f'payload.dataset_id: {DIGITS} "../x"'),
    (BEGIN, {**TEN, "chunks": 5},
     'payload: unknown key "chunks"; the keys are transfer_id, format, compression, '
     "chunk_count, total_bytes, sha256, dataset_id"),
    (CHUNK, TEN, "payload: the required key chunk_index is missing"),
    (CHUNK, chunk(0, chunk_index=-1),
     "payload.chunk_index: expected an integer from 0 to 4611686018427387904, got -1"),
    (CHUNK, chunk(0, chunk_index=None), "payload.chunk_index: expected an integer that is not negative, got nil"),
    (CHUNK, chunk(0, data=[1, 2]), "payload.data: expected a binary, got [1, 2]"),
    (CHUNK, chunk(0, is_final=1), "payload.is_final: expected a boolean, got 1"),
    (CHUNK, chunk(0, crc32=1 << 32), "payload.crc32: expected an integer from 0 to 4294967295, got 4294967296"),
    (CHUNK, chunk(0, dataset_id=5), f"payload.dataset_id: {DIGITS} 5"),
    ("dataset_status", {"transfer": "x"},
     'payload: unknown key "transfer" (did you mean "transfer_id"?); the keys are transfer_id, dataset_id'),
    ("dataset_drop", {}, "payload: the required key transfer_id is missing"),
]  # fmt: skip


def test_payloads_that_do_not_fit(start: Start) -> None:
    bridge = start()
    for name, payload, message in REFUSED:
        error = bridge.error(name, payload)
        assert (error["message"], error["error_type"]) == (message, a("invalid_request"))
    assert keys(bridge.ok("dataset_status"))["transfers"] == 0


def test_a_damaged_chunk_is_sent_again(start: Start) -> None:
    bridge = start()
    bridge.ok("dataset_begin", TEN)
    crc = zlib.crc32(CHUNKS[0])
    error = bridge.error("data_chunk", chunk(0, data=CHUNKS[0][:-1] + b"x", crc32=crc))
    assert error["message"].startswith("chunk 0 is damaged: its crc32 is ")
    assert keys(error["context"])["dropped"] is False
    assert keys(bridge.ok("data_chunk", chunk(0, crc32=crc))) == {"received": 1, "next": 1}


def test_digests_are_taken_in_both_forms(start: Start) -> None:
    bridge = start()
    for digest in (hashlib.sha256(SENT).digest(), hashlib.sha256(SENT).hexdigest().upper()):
        bridge.ok("dataset_begin", {**TEN, "sha256": digest, "total_bytes": len(SENT), "chunk_count": 1})
        assert keys(bridge.ok("data_chunk", {**TEN, "chunk_index": 0, "data": SENT}))["dataset_id"] == ID
        bridge.ok("dataset_drop", TEN)


def test_chunks_of_text_are_bytes_like_others(start: Start) -> None:
    """A binary that is valid UTF-8 arrives as a str."""
    bridge = start()
    bridge.ok("dataset_begin", TEN)
    sent = stream([{"text": "äöü" * 100}])
    chunks = [sent[:40], sent[40:100], sent[100:]]
    for index in range(3):
        answer = keys(bridge.ok("data_chunk", chunk(index, chunks)))
    assert answer["dataset_id"] == dataset_id([{"text": "äöü" * 100}])


@contextlib.contextmanager
def held_up(bridge: BridgeProcess, folder: Path) -> Iterator[Any]:
    """A chunk of the transfer ``ten`` is being handled, and goes on at the end: the id of its request.

    It came too early, and what it is written to is a pipe that is full and that nobody reads until then.
    """
    bridge.ok("dataset_begin", TEN)
    pipe = folder / "datasets" / "transfers" / hashlib.sha256(b"ten").hexdigest()[:32] / "new"
    os.mkfifo(pipe)
    request = bridge.send("data_chunk", {**TEN, "chunk_index": 1, "data": bytes(1 << 20)})
    with open(pipe, "rb") as file:  # which waits until somebody writes
        yield request
        file.read()
    assert keys(bridge.receive_for(request)[0][2]) == {"received": 1, "next": 0}


def test_others_are_answered_while_a_chunk_is_handled(start: Start, tmp_path: Path) -> None:
    bridge = start()
    with held_up(bridge, tmp_path):
        assert keys(bridge.ok("health_check"))["requests_in_flight"] == 1
        bridge.ok("dataset_begin", {"transfer_id": "other"})
        answer = bridge.ok("data_chunk", {"transfer_id": "other", "chunk_index": 0, "data": SENT, "is_final": True})
        assert keys(answer)["dataset_id"] == ID


def test_a_deadline_holds_for_a_chunk_that_waits(start: Start, tmp_path: Path) -> None:
    bridge = start()
    with held_up(bridge, tmp_path):
        error = bridge.error("data_chunk", chunk(2), timeout_ms=1)
        assert error["error_type"] is a("timeout_error")
    assert keys(bridge.ok("data_chunk", chunk(2))) == {"received": 2, "next": 0}


def test_more_than_may_wait_is_refused(start: Start, tmp_path: Path) -> None:
    bridge = start("--max-waiting", "3000")
    with held_up(bridge, tmp_path):
        waiting = bridge.send("data_chunk", {**TEN, "chunk_index": 2, "data": bytes(3000)})
        error = bridge.error("data_chunk", {**TEN, "chunk_index": 3, "data": b"x"})
        assert (error["error_type"], keys(error["context"])["limit"]) == (a("overloaded"), 3000)
    assert keys(bridge.receive_for(waiting)[0][2]) == {"received": 2, "next": 0}


# -- reading ----------------------------------------------------------------------------------------------------------


def test_what_does_not_stand_for_rows(start: Start) -> None:
    bridge = start()
    for run in ("thread", "job"):
        for value, message in [
            (5, "payload.rows: expected a list of maps or %{dataset: id}, got 5"),
            ({"dataset": "x"}, 'payload.rows: expected the id of a dataset, 64 hexadecimal digits, got "x"'),
            ({"dataset": ID}, f'payload.rows: there is no dataset with the id "{ID}" on this host; send it first'),
        ]:
            error = bridge.error(f"rows_{run}", {"rows": value})
            assert (error["message"], error["error_type"]) == (message, a("invalid_request"))
    assert bridge.ok("rows_thread", {"rows": ROWS[:5]})["count"] == 5


def test_a_damaged_file_is_reported_by_whoever_reads_it(start: Start, tmp_path: Path) -> None:
    bridge = start()
    send(bridge)
    file = tmp_path / "datasets" / f"{ID}.rows"
    data = bytearray(file.read_bytes())
    data[len(SENT) // 2] ^= 1
    file.write_bytes(data)
    error = bridge.error("rows_job", {"rows": {"dataset": ID}})
    assert error["message"].startswith(f"payload.rows: the file of the dataset {ID} is damaged (the checksum of batch ")
    assert error["error_type"] is a("transfer_error")
    assert files(tmp_path) == [f"{ID}.damaged"]
    bridge.ok("dataset_drop", TEN)
    assert send(bridge)["dataset_id"] == ID
    assert bridge.ok("rows_job", {"rows": {"dataset": ID}})["count"] == 1000


def test_an_inline_handler_reads_no_dataset(start: Start) -> None:
    bridge = start()
    send(bridge)
    error = bridge.error("rows_inline", {"rows": {"dataset": ID}})
    assert error["message"].endswith('an inline handler cannot read a dataset; register it with run="thread"')


def test_dspy_takes_datasets_wherever_it_takes_rows(start: Start) -> None:
    bridge = start(dspy=True)
    rows = [
        {a("question"): f"{word} {number}", a("kind"): a(kind)}
        for number in range(6)
        for word, kind in (("apple", "fruit_of_ours"), ("carrot", "root_of_ours"))
    ]
    name = send(bridge, rows)["dataset_id"]
    task = {"signature": "question -> kind", "lm": "local/nearest-demo"}
    dataset = {a("dataset"): name}
    config = {"optimizer": a("labeled_few_shot")}
    optimized = keys(
        bridge.ok(
            "optimize_signature", {**task, "training_data": dataset, "validation_data": dataset, "config": config}
        )
    )
    by_list = keys(
        bridge.ok("optimize_signature", {**task, "training_data": rows, "validation_data": rows, "config": config})
    )
    assert optimized["program"] == by_list["program"]
    trained = {"program": optimized["program"], "lm": "local/nearest-demo"}
    evaluated = keys(bridge.ok("evaluate_pipeline", {**trained, "data": dataset}))
    assert (evaluated["total"], evaluated["score"]) == (12, 1.0)
    assert keys(evaluated["results"][0])["expected"]["kind"] == "fruit_of_ours"
    inputs = [{"question": "apple 1"}, {"question": "carrot 2"}]
    bridge.ok("dataset_drop", TEN)
    of_inputs = {a("dataset"): send(bridge, inputs)["dataset_id"]}
    expected = bridge.ok("predict", {**trained, "inputs": inputs})
    assert bridge.ok("predict", {**trained, "inputs": of_inputs}) == expected
    assert len(expected) == 2
    # an input of that name is an input
    asked = {"signature": "dataset -> answer", "lm": "local/nearest-demo", "inputs": {"dataset": "x"}}
    assert "answer" in bridge.ok("predict", asked)
    for field in ("training_data", "validation_data"):
        payload = {**task, "training_data": rows, "validation_data": rows, field: {"dataset": ID}}
        assert bridge.error("optimize_signature", payload)["message"].startswith(
            f"payload.{field}: there is no dataset"
        )


def test_no_rows_are_too_few_for_dspy(start: Start) -> None:
    bridge = start(dspy=True)
    name = send(bridge, [])["dataset_id"]
    error = bridge.error(
        "evaluate_pipeline", {"signature": "q -> a", "data": {"dataset": name}, "lm": "local/nearest-demo"}
    )
    assert error["message"] == "payload.data: expected at least one row, got none"
