"""The store: whole datasets or none, read in place, evicted when there is no room, set aside when they are damaged."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets_support import ROWS, batches, dataset_id, stream
from support import DEADLINE, ROOT

from erl_bridge import Atom, BridgeError, etf
from erl_bridge.datasets import file
from erl_bridge.datasets.ceilings import Ceilings
from erl_bridge.datasets.file import Damage, Facts, Writer, read_index
from erl_bridge.datasets.reassembler import Announcement, Chunk
from erl_bridge.datasets.rows import Rows
from erl_bridge.datasets.store import Store
from erl_bridge.datasets.transfers import Transfers
from erl_bridge.timers import Timers

ID = dataset_id(ROWS)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "datasets"))


def put(store: Store, rows: list[Any] = ROWS, size: int = 100, **ceilings: int) -> str:
    """Put rows into a store as a transfer does."""
    transfers = Transfers(Ceilings(**ceilings), Timers(), store)
    transfers.begin(b"t", Announcement())
    answer = transfers.receive(b"t", Chunk(0, stream(rows, size), True))
    transfers.drop(b"t")
    return str(answer["dataset_id"])


def rows_of(count: int, start: int = 0) -> list[Any]:
    """Rows that take as many bytes whatever the start is."""
    return [{"id": 1000 + start + number, "text": "x" * 100} for number in range(count)]


def file_of(store: Store, dataset_id: str = ID) -> Path:
    return Path(store.folder, f"{dataset_id}.rows")


def refusal(function: Callable[..., Any], *arguments: Any) -> BridgeError:
    with pytest.raises(BridgeError) as caught:
        function(*arguments)
    return caught.value


# -- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 100, 1000, 5000])
def test_rows_are_a_sequence(store: Store, size: int) -> None:
    rows = store.open(put(store, size=size))
    assert len(rows) == 1000
    assert list(rows) == ROWS
    assert [rows[number] for number in (0, 1, 500, 999, -1, -1000)] == [ROWS[n] for n in (0, 1, 500, 999, -1, -1000)]
    assert rows[990:] == ROWS[990:]
    assert rows[5:20:7] == ROWS[5:20:7]
    assert rows[::-300] == ROWS[::-300]
    assert ROWS[17] in rows
    assert rows.index(ROWS[17]) == 17
    for number in (1000, -1001):
        with pytest.raises(IndexError, match=f"there are 1000 rows, and none with the number {number}"):
            rows[number]
    assert rows.facts == Facts(ID, 1000, sum(len(etf.encode(row)) - 1 for row in ROWS))
    assert rows.atoms == {Atom(name) for name in ("question", "label", "even", "odd")}


def test_no_rows(store: Store) -> None:
    rows = store.open(put(store, []))
    assert (len(rows), list(rows), rows[:]) == (0, [], [])


def test_the_file_is_the_stream_and_what_is_behind_it(store: Store) -> None:
    put(store)
    data = file_of(store).read_bytes()
    assert data.startswith(stream(ROWS))
    with open(file_of(store), "rb") as file:
        index = read_index(file.fileno())
    terms = [data[start : start + size] for start, size in zip(index.starts, index.sizes, strict=False)]
    assert terms == [batch[4:] for batch in batches(ROWS)]


def test_a_batch_at_a_time_is_decoded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = store.open(put(store))
    decoded = []
    monkeypatch.setattr(rows, "_batch", lambda number, inner=rows._batch: decoded.append(number) or inner(number))
    assert rows[150] == ROWS[150]
    assert rows[199] == ROWS[199]
    assert decoded == [1]
    through = iter(rows)
    assert [next(through) for _ in range(150)] == ROWS[:150]
    assert decoded == [1, 0, 1]


def test_many_threads_read_at_once(store: Store) -> None:
    rows = store.open(put(store, size=10))
    wrong: list[int] = []

    def read(start: int) -> None:
        wrong.extend(n for n in range(start, 1000, 3) if rows[n] != ROWS[n])

    threads = [threading.Thread(target=read, args=(start,)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_what_is_closed_is_read_no_more(store: Store) -> None:
    rows = store.open(put(store))
    first = rows[0]
    rows.close()
    rows.close()
    assert first == ROWS[0]
    with pytest.raises(ValueError, match="the dataset was closed"):
        list(rows)


def test_ids_that_are_none(store: Store) -> None:
    error = refusal(store.open, "0" * 64, "payload.data")
    assert error.message == f'payload.data: there is no dataset with the id "{"0" * 64}" on this host; send it first'
    assert (error.error_type, error.context[Atom("dataset_id")]) == ("invalid_request", "0" * 64)
    for wrong in ("../../../etc/passwd", "", 5, None, ID.upper(), ID + "0", b"0" * 64):
        message = refusal(store.open, wrong, "payload.data").message
        assert message.startswith("payload.data: expected the id of a dataset, 64 hexadecimal digits, got ")


# -- damage -----------------------------------------------------------------------------------------------------------


def test_a_changed_byte_anywhere_is_noticed_and_the_file_set_aside(store: Store) -> None:
    few = ROWS[:6]
    name = put(store, few, 3)
    whole = file_of(store, name).read_bytes()
    second = len(batches(few, 3)[0])
    lengths = {*range(4), *range(second, second + 4)}  # those of the batches, which are in the index too
    for at in range(len(whole)):
        file_of(store, name).write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        if at in lengths:
            assert list(store.open(name)) == few
            continue
        error = refusal(lambda: list(store.open(name, "payload.data")))
        assert error.message.startswith(f"payload.data: the file of the dataset {name} is damaged (")
        assert (error.error_type, error.recovery_strategy) == ("transfer_error", "retry")
        assert error.context == {Atom("path"): "payload.data", Atom("dataset_id"): name}
        assert store.find(name) is None
        assert [entry.damaged for entry in store.entries()] == [True]


def test_a_file_that_was_cut_is_noticed(store: Store) -> None:
    name = put(store, ROWS[:6], 3)
    whole = file_of(store, name).read_bytes()
    for end in range(len(whole)):
        file_of(store, name).write_bytes(whole[:end])
        assert "is damaged (" in refusal(store.open, name).message


def test_rows_that_are_not_those_of_the_id_are_found_by_verifying(store: Store) -> None:
    put(store)
    other = put(store, ROWS[:10])
    store.verify(ID)
    os.rename(file_of(store, other), file_of(store))
    assert "its rows are not those of its id" in refusal(store.verify, ID).message
    assert store.find(ID) is None


def test_a_damaged_dataset_can_be_sent_again(store: Store) -> None:
    put(store)
    data = bytearray(file_of(store).read_bytes())
    data[-1] ^= 1
    file_of(store).write_bytes(data)
    assert put(store) == ID
    assert list(store.open(ID)) == ROWS
    assert [entry.damaged for entry in store.entries()] == [True, False]


def test_no_dataset_at_all(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_bytes(b"x" * 1000)
    for name, what in (("empty", "it is too short"), ("text", "it does not end as a dataset does")):
        with open(tmp_path / name, "rb") as file, pytest.raises(Damage, match=what):
            read_index(file.fileno())


# -- room -------------------------------------------------------------------------------------------------------------


def test_what_was_not_used_for_the_longest_time_goes_first(store: Store) -> None:
    names = [put(store, rows_of(100, start)) for start in (0, 1000, 2000)]
    size = file_of(store, names[0]).stat().st_size
    for age, name in zip((30, 20, 10), names, strict=True):
        os.utime(file_of(store, name), (0, age))
    store.open(names[0]).close()  # used now
    fourth = put(store, rows_of(100, 3000), dataset_store=3 * size + 100)
    first, *others = [entry.dataset_id for entry in store.entries()]
    assert (first, set(others)) == (names[1], {names[0], fourth})  # the clock of files may not tell these apart


def test_what_is_in_use_stays(store: Store) -> None:
    names = [put(store, rows_of(100, start)) for start in (0, 1000)]
    size = file_of(store, names[0]).stat().st_size
    rows = store.open(names[0])
    assert {entry.dataset_id for entry in store.entries() if store.in_use(entry)} == {names[0]}
    third = put(store, rows_of(100, 2000), dataset_store=2 * size + 100)
    assert {entry.dataset_id for entry in store.entries()} == {names[0], third}
    held = store.open(third)
    error = refusal(lambda: put(store, rows_of(100, 3000), dataset_store=2 * size + 100))
    assert "the store would hold" in error.message
    assert (error.error_type, error.recovery_strategy) == ("resource_exhausted", "fatal")
    assert not any(Path(store.folder, "transfers").iterdir())
    held.close()
    assert list(rows) == rows_of(100)
    rows.close()
    put(store, rows_of(100, 3000), dataset_store=2 * size + 100)


def test_damaged_files_go_before_all_others(store: Store) -> None:
    first, second = put(store, rows_of(100)), put(store, rows_of(100, 1000))
    size = file_of(store, first).stat().st_size
    file_of(store, second).write_bytes(b"x" * size)
    refusal(store.open, second)
    put(store, rows_of(100, 2000), dataset_store=2 * size + 100)
    assert first in {entry.dataset_id for entry in store.entries()}
    assert not any(entry.damaged for entry in store.entries())


def test_rows_that_are_being_read_survive_the_loss_of_their_name(store: Store) -> None:
    rows = store.open(put(store))
    os.unlink(file_of(store))
    assert list(rows) == ROWS


# -- files that others may not see or that are no datasets ------------------------------------------------------------


def test_only_the_owner_may_look(store: Store) -> None:
    put(store)
    assert os.stat(store.folder).st_mode & 0o077 == 0
    assert file_of(store).stat().st_mode & 0o077 == 0


def test_other_files_are_left_alone(store: Store) -> None:
    put(store)
    Path(store.folder, "notes.txt").write_text("x")
    Path(store.folder, "short.rows").write_text("x")
    assert [entry.dataset_id for entry in store.entries()] == [ID]


def test_the_writer_writes_all_though_the_system_takes_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "write", lambda fd, data, inner=os.write: inner(fd, bytes(data)[:1000]))
    fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    writer = Writer(fd)
    writer.write(stream(ROWS, 1000))
    writer.note(stream(ROWS, 1000)[4:], 1000)
    writer.seal(Facts(ID, 1000, 0), set())
    assert list(Rows(fd, refusal)) == ROWS  # type: ignore[arg-type]


def test_what_is_written_is_synced_meanwhile_and_an_error_of_that_is_told_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()

    def fail(fd: int) -> None:
        failed.set()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(file, "_datasync", fail)
    writer = Writer(os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT))
    writer.write(bytes(3 << 20))
    assert failed.wait(DEADLINE)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        writer.seal(Facts(ID, 1000, 0), set())


def test_where_there_is_no_thread_to_sync_meanwhile_the_end_does_it_and_nothing_stays_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    before = len(os.listdir("/proc/self/fd"))
    writer = Writer(fd)
    writer.write(stream(ROWS, 1000))
    writer.write(bytes(3 << 20))
    assert len(os.listdir("/proc/self/fd")) == before
    writer.seal(Facts(ID, 1000, 0), set())
    os.close(fd)


# -- a process that is killed -----------------------------------------------------------------------------------------


def test_killed_at_any_moment_a_dataset_is_whole_or_not_there_and_the_transfer_goes_on(tmp_path: Path) -> None:
    program = subprocess.run(
        [sys.executable, Path(__file__).parent / "kill_points.py", tmp_path],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert program.stderr == ""
    assert int(program.stdout) > 50


def test_a_lock_is_released_when_its_process_is_killed(store: Store) -> None:
    put(store)
    entry = store.entries()[0]
    code = (
        "import sys; from erl_bridge.datasets.store import Store; rows = Store(sys.argv[1]).open(sys.argv[2])\n"
        "print('open', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, store.folder, ID]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        assert store.in_use(entry)
        assert not store.remove(entry)
        process.kill()
        process.wait()
    assert not store.in_use(entry)
    assert store.remove(entry)
    assert store.entries() == []


def test_flock_is_what_tells(store: Store) -> None:
    put(store)
    with open(file_of(store), "rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert store.in_use(store.entries()[0])


# -- the command line -------------------------------------------------------------------------------------------------


def datasets(store: Store, *arguments: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "erl_bridge", "datasets", *arguments]
    env = {**os.environ, "ERL_BRIDGE_HOME": str(Path(store.folder).parent)}
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_datasets_are_listed_verified_and_removed(store: Store) -> None:
    assert datasets(store) == (0, f"0 in {store.folder}, 0 B\n", "")
    put(store)
    other = put(store, ROWS[:10])
    os.utime(file_of(store, other), (0, 0))
    rows = store.open(ID)
    status, out, _ = datasets(store, "list")
    first, second, last = out.splitlines()
    assert first.startswith(f"{other}  10 rows  ")
    assert " used " in first
    assert second.startswith(f"{ID}  1000 rows  ")
    assert second.endswith("  in use")
    assert (status, last.startswith(f"2 in {store.folder}, ")) == (0, True)
    assert datasets(store, "remove", ID[:8]) == (1, "", f"erl_bridge datasets: {ID} is in use\n")
    rows.close()
    assert datasets(store, "verify", ID) == (0, f"{ID}  good\n", "")
    assert datasets(store, "remove", ID[:8]) == (0, f"removed {ID}\n", "")
    file_of(store, other).write_bytes(b"x" * 500)
    status, out, err = datasets(store, "verify")
    assert (status, out) == (1, "")
    assert f"the file of the dataset {other} is damaged" in err
    assert f"{other}  damaged  500 B" in datasets(store)[1]
    assert datasets(store, "remove", "f00")[0] == 1
    assert datasets(store, "remove")[2] == (
        "erl_bridge datasets: remove needs the id of a dataset, or how it begins; of '' there is none\n"
    )
    assert datasets(store, "burn") == (
        2,
        "",
        "erl_bridge datasets: [ACTION]: expected list|remove|verify, got 'burn'\n",
    )
