"""Transfers under way: how many there may be, when they are dropped, and what becomes of their files when it fails."""

from __future__ import annotations

import os
import resource
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets_support import ROWS, cut, dataset_id, stream
from support import BridgeProcess, a, keys

from erl_bridge import Atom, BridgeError
from erl_bridge.datasets import partial
from erl_bridge.datasets.ceilings import Ceilings
from erl_bridge.datasets.reassembler import Announcement, Chunk
from erl_bridge.datasets.store import Store
from erl_bridge.datasets.transfers import Transfers
from erl_bridge.timers import Timer, Timers

CHUNKS = [Chunk(index, data, index == 9) for index, data in enumerate(cut(stream(ROWS), -(-len(stream(ROWS)) // 10)))]
PLAIN = Announcement()
ID = dataset_id(ROWS)


class ManualTimers(Timers):
    """Timers whose time comes when a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.set: list[Timer] = []

    def call_at(self, when: float, function: Callable[[], object]) -> Timer:
        self.set.append(Timer(when, function))
        return self.set[-1]

    def fire(self) -> None:
        """Call the last function that was to be called, and wait for the thread it starts."""
        before = set(threading.enumerate())
        function = self.set.pop().function
        assert function is not None
        function()
        for thread in set(threading.enumerate()) - before:
            thread.join()


class Room:
    """A store and the transfers of one process, or of several."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(str(folder / "datasets"))
        self.timers = ManualTimers()

    def process(self, **ceilings: int) -> Transfers:
        return Transfers(Ceilings(**ceilings), self.timers, self.store)

    def left(self) -> int:
        """How many transfers have files."""
        return len(os.listdir(os.path.join(self.store.folder, "transfers")))

    def age(self, seconds: float) -> None:
        """Make all files of transfers so old."""
        for path in Path(self.store.folder, "transfers").rglob("*"):
            os.utime(path, (0, time.time() - seconds))


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


def refusal(function: Callable[..., Any], *arguments: Any) -> BridgeError:
    with pytest.raises(BridgeError) as caught:
        function(*arguments)
    assert caught.value.context[Atom("transfer_id")] == arguments[0]
    return caught.value


def dropped(error: BridgeError) -> Any:
    return error.context[Atom("dropped")]


# -- how many ---------------------------------------------------------------------------------------------------------


def test_there_are_as_many_at_once_as_may_be_and_no_more(room: Room) -> None:
    transfers = room.process(max_transfers=2)
    for name in (b"1", b"2"):
        transfers.begin(name, PLAIN)
    error = refusal(transfers.begin, b"3", PLAIN)
    assert error.message == "2 transfers are under way, which is the limit; try again later"
    assert (error.error_type, error.retry_after_ms, error.context[Atom("limit")]) == ("overloaded", 1000, 2)
    assert room.left() == 2
    transfers.begin(b"2", PLAIN)  # it was begun before
    assert transfers.drop(b"1")
    transfers.begin(b"3", PLAIN)
    for chunk in CHUNKS:
        transfers.receive(b"3", chunk)
    transfers.begin(b"4", PLAIN)  # one that is complete is not under way


def test_transfers_do_not_disturb_each_other(room: Room) -> None:
    transfers = room.process()
    names = [b"1", b"2", b"3"]
    for name in names:
        transfers.begin(name, PLAIN)
    for chunk in CHUNKS:
        for name in names:
            answer = transfers.receive(name, chunk)
    assert answer["dataset_id"] == ID
    assert len(room.store.entries()) == 1


def test_a_transfer_is_what_it_was_begun_as(room: Room) -> None:
    transfers = room.process()
    transfers.begin(b"t", Announcement("zlib"))
    error = refusal(transfers.begin, b"t", PLAIN)
    assert error.message == 'payload.compression: expected "zlib", with which the transfer was begun, got "none"'
    assert (error.error_type, dropped(error)) == ("invalid_request", False)
    assert transfers.begin(b"t", Announcement("zlib"))["next"] == 0


@pytest.mark.parametrize("act", ["receive", "status"])
def test_a_transfer_that_is_not_there(room: Room, act: str) -> None:
    transfers = room.process()
    arguments = [CHUNKS[0]] if act == "receive" else []
    error = refusal(getattr(transfers, act), b"t", *arguments)
    assert error.message == "there is no such transfer; it was dropped, or never begun"
    assert (error.error_type, dropped(error)) == ("transfer_error", True)
    assert not transfers.drop(b"t")


# -- when they end ----------------------------------------------------------------------------------------------------


def test_an_idle_transfer_is_dropped_and_one_that_is_heard_of_is_not(room: Room) -> None:
    transfers = room.process(transfer_idle=1000)
    transfers.begin(b"t", PLAIN)
    transfers.receive(b"t", CHUNKS[0])
    room.timers.fire()  # it was heard of just now
    assert room.left() == 1
    transfers._live[b"t"].heard -= 2
    room.timers.fire()
    assert room.left() == 0
    assert dropped(refusal(transfers.status, b"t"))
    assert room.timers.set == []


def test_a_transfer_that_ended_is_not_looked_after(room: Room) -> None:
    transfers = room.process()
    transfers.begin(b"t", PLAIN)
    transfers.drop(b"t")
    assert [timer.function for timer in room.timers.set] == [None]


def test_what_dead_processes_left_is_removed_after_a_while(room: Room) -> None:
    dead = room.process(transfer_idle=60_000)
    dead.begin(b"1", PLAIN)
    dead.receive(b"1", CHUNKS[0])
    dead.receive(b"1", CHUNKS[2])
    dead.close(keep=True)
    other = room.process(transfer_idle=60_000)
    room.age(50)
    other.begin(b"2", PLAIN)
    assert room.left() == 2
    room.age(70)
    other.begin(b"3", PLAIN)  # the second one is old too, but this process has it
    assert room.left() == 2
    assert dropped(refusal(other.status, b"1"))
    assert other.status(b"2")["next"] == 0


def test_what_is_left_from_before_the_host_was_started_is_not_trusted(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = room.process()
    before.begin(b"t", PLAIN)
    before.receive(b"t", CHUNKS[0])
    before.close(keep=True)
    monkeypatch.setattr(partial, "_boot", lambda: "another")
    after = room.process()
    assert dropped(refusal(after.status, b"t"))
    assert room.left() == 0


def test_ends_for_good_when_the_process_does(room: Room) -> None:
    transfers = room.process()
    transfers.begin(b"t", PLAIN)
    transfers.close(keep=False)
    assert room.left() == 0
    assert refusal(transfers.begin, b"t", PLAIN).error_type == "overloaded"
    assert room.left() == 0


def test_a_process_that_gave_a_transfer_up_works_on_it_no_more(room: Room) -> None:
    """Whoever waited for the transfer while it was dropped sees that it is gone."""
    transfers = room.process()
    transfers.begin(b"t", PLAIN)
    transfer = transfers._live[b"t"]
    errors: list[BridgeError] = []
    with transfer.lock:
        waiting = threading.Thread(target=lambda: errors.append(refusal(transfers.receive, b"t", CHUNKS[0])))
        waiting.start()
        transfers._forget(b"t")
        transfer.discard()
    waiting.join()
    assert dropped(errors[0])


def test_what_cannot_be_mended_leaves_no_files(room: Room) -> None:
    transfers = room.process()
    for bad in (b"\0\0\0\1x", stream([5])):
        transfers.begin(b"t", PLAIN)
        transfers.receive(b"t", Chunk(1, b"held"))
        assert dropped(refusal(transfers.receive, b"t", Chunk(0, bad)))
        assert room.left() == 0
        assert room.store.entries() == []


def test_a_fault_of_ours_ends_the_transfer_and_is_told(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    transfers = room.process()
    transfers.begin(b"t", PLAIN)

    def out_of_memory(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("erl_bridge.datasets.stream.scan", out_of_memory)
    error = refusal(transfers.receive, b"t", Chunk(0, stream(ROWS)))
    assert (error.error_type, error.python_type, dropped(error)) == ("resource_exhausted", "MemoryError", True)
    assert room.left() == 0


# -- resuming ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut_off", range(9))
def test_an_end_that_was_not_written_whole_does_not_count(room: Room, cut_off: int) -> None:
    first = room.process()
    first.begin(b"t", PLAIN)
    for chunk in CHUNKS[:3]:
        first.receive(b"t", chunk)
    first.close(keep=True)
    ends = next(Path(room.store.folder, "transfers").rglob("ends"))
    os.truncate(ends, 2 * 9 + cut_off)
    second = room.process()
    assert second.status(b"t")["received"] == [(0, 1)]
    for chunk in CHUNKS[2:]:
        answer = second.receive(b"t", chunk)
    assert answer["dataset_id"] == ID
    assert list(room.store.open(ID)) == ROWS


def test_a_transfer_wanders_through_many_processes(room: Room) -> None:
    for index in (9, 0, 5, 4, 3, 1, 8, 2, 7, 6):
        process = room.process()
        process.begin(b"t", PLAIN)
        answer = process.receive(b"t", CHUNKS[index])
        process.close(keep=True)
    assert answer["dataset_id"] == ID
    assert list(room.store.open(ID)) == ROWS


def test_a_dataset_that_was_complete_but_had_no_name_gets_it(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    first = room.process()
    first.begin(b"t", PLAIN)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "adopt", killed)
        patch.setattr("erl_bridge.datasets.transfers.is_lost", lambda error: False)  # as if nobody were there to do it
        with pytest.raises(BridgeError):
            first.receive(b"t", Chunk(0, stream(ROWS), True))
        first.close(keep=True)
    assert room.store.entries() == []
    assert room.process().status(b"t")["dataset_id"] == ID
    assert list(room.store.open(ID)) == ROWS


# -- no room ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 KiB, of its own."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root may mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(bridge: BridgeProcess, folder: Path) -> None:
    """Send more than there is room for, then what there is room for."""
    rows = [{"text": f"{number}" * 1000} for number in range(1000)]
    chunks = cut(stream(rows, 10), 50_000)
    bridge.ok("dataset_begin", {"transfer_id": "t"})
    answers = [
        bridge.call("data_chunk", {"transfer_id": "t", "chunk_index": index, "data": chunk})
        for index, chunk in enumerate(chunks)
    ]
    full = next(answer[2] for answer in answers if answer[0] is a("error"))
    error = keys(full)
    assert error["message"].startswith("a file of the dataset cannot be written: ")
    assert (error["error_type"], error["recovery_strategy"]) == (a("resource_exhausted"), a("fatal"))
    assert keys(error["context"]) == {"transfer_id": "t", "dropped": True}
    assert os.listdir(folder / "datasets" / "transfers") == []
    last = keys(answers[-1][2])
    assert (last["error_type"], keys(last["context"])["dropped"]) == (a("transfer_error"), True)
    bridge.ok("dataset_begin", {"transfer_id": "t"})
    chunk = {"transfer_id": "t", "chunk_index": 0, "data": stream(ROWS), "is_final": True}
    assert keys(bridge.ok("data_chunk", chunk))["dataset_id"] == ID


def test_a_full_disk_is_told_and_emptied_again(small_disk: Path) -> None:
    with BridgeProcess("--no-dspy", ERL_BRIDGE_HOME=str(small_disk)) as bridge:
        fill(bridge, small_disk)


def test_a_limit_on_files_is_told_too(tmp_path: Path) -> None:
    with BridgeProcess("--no-dspy", ERL_BRIDGE_HOME=str(tmp_path)) as bridge:
        resource.prlimit(bridge.process.pid, resource.RLIMIT_FSIZE, (200_000, 200_000))
        fill(bridge, tmp_path)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with BridgeProcess("--no-dspy", ERL_BRIDGE_HOME=str(tmp_path / "file")) as bridge:
        error = bridge.error("dataset_begin", {"transfer_id": "t"})
        assert error["message"] == "a file of the dataset cannot be written: Not a directory"
