"""Datasets over the protocol: sent to a real bridge process, resumed by another, and read by handlers and jobs."""

from __future__ import annotations

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
    """The files of a store that are not remembered of complete transfers."""
    found = (path for path in (folder / "datasets").rglob("*") if path.is_file())
    return sorted(path.name for path in found if not (path.parent / "done").exists())


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
    bridge = start("--transfer-idle", "50")
    bridge.ok("dataset_begin", TEN)
    bridge.ok("data_chunk", chunk(0))
    while files(tmp_path):
        bridge.ok("ping")
    assert bridge.error("dataset_status", TEN)["error_type"] is a("transfer_error")
