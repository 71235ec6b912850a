"""The chunks of a transfer put together: whatever their order and however they are cut, or refused."""

from __future__ import annotations

import itertools
import random
import zlib
from collections.abc import Iterable
from typing import Any

import pytest
from datasets_support import ROWS, batches, compress, cut, dataset_id, stream
from hypothesis import given
from hypothesis import strategies as st

from erl_bridge import Atom, BridgeError, TermMap, etf
from erl_bridge.datasets.ceilings import MAX_AHEAD, MAX_ATOMS, MAX_CHUNKS, Ceilings
from erl_bridge.datasets.compression import inflater, usable
from erl_bridge.datasets.reassembler import Announcement, Chunk, Reassembler
from erl_bridge.framing import pack

COMPRESSIONS = ["none", "zlib", "zstd"]


class Memory:
    """Chunks in memory."""

    def __init__(self) -> None:
        self.appended: list[Chunk] = []
        self.held: dict[int, Chunk] = {}

    def append(self, chunk: Chunk) -> None:
        self.appended.append(chunk)
        self.held.pop(chunk.index, None)

    def hold(self, chunk: Chunk) -> None:
        self.held[chunk.index] = chunk

    def read(self, index: int) -> Chunk:
        return self.held[index] if index in self.held else self.appended[index]

    def kept(self) -> tuple[int, Iterable[int]]:
        return len(self.appended), list(self.held)


class Transfer:
    """A reassembler and what it gave."""

    def __init__(self, compression: str = "none", ceilings: Ceilings | None = None, **announced: Any) -> None:
        self.announced = Announcement(compression, **announced)
        self.ceilings = ceilings or Ceilings()
        self.chunks = Memory()
        self.start()

    def start(self) -> None:
        """Begin, or begin again with what is kept."""
        self.rows: list[Any] = []
        self.reassembler = Reassembler(self.announced, self.ceilings, self.chunks)
        self.take(self.reassembler.resume())

    def take(self, batches: Iterable[Any]) -> None:
        for batch in batches:
            rows = etf.decode(batch.term)
            assert len(rows) == batch.rows
            self.rows += rows

    def receive(self, index: int, data: bytes, final: bool = False, **more: Any) -> None:
        self.take(self.reassembler.receive(Chunk(index, data, final, **more)))

    def send(self, data: bytes, size: int = 997) -> Transfer:
        """Send a stream in order."""
        chunks = cut(data, size)
        for index, chunk in enumerate(chunks):
            self.receive(index, chunk, index == len(chunks) - 1)
        return self

    def finish(self) -> str:
        assert self.reassembler.complete
        return self.reassembler.finish()


def refusal(function: Any, *arguments: Any, **more: Any) -> BridgeError:
    with pytest.raises(BridgeError) as caught:
        function(*arguments, **more)
    return caught.value


def dropped(error: BridgeError) -> Any:
    return error.context[Atom("dropped")]


# -- what comes out ---------------------------------------------------------------------------------------------------

simple = st.integers() | st.text(max_size=8) | st.sampled_from([Atom("a"), Atom("b"), None, 0.5])
rows_of_any_kind = st.lists(st.dictionaries(simple, simple | st.lists(simple, max_size=3), max_size=4), max_size=30)


@given(rows_of_any_kind, st.data())
def test_any_cut_order_and_repeat_gives_the_same_rows_and_the_same_id(rows: list[Any], data: Any) -> None:
    compression = data.draw(st.sampled_from(COMPRESSIONS))
    sent = compress(stream(rows, data.draw(st.integers(1, 7))), compression)
    chunks = list(enumerate(cut(sent, data.draw(st.integers(1, len(sent) + 1)))))
    arrivals = data.draw(st.permutations(chunks))
    arrivals += data.draw(st.lists(st.sampled_from(chunks), max_size=5))
    transfer = Transfer(compression)
    for index, chunk in arrivals:
        transfer.receive(index, chunk, index == len(chunks) - 1)
        if data.draw(st.integers(0, 9)) == 0:
            transfer.start()  # as when the process died
    assert transfer.finish() == dataset_id(rows)
    assert etf.encode(transfer.rows) == etf.encode(rows)
    assert transfer.reassembler.stream.rows == len(rows)
    assert transfer.reassembler.stream.bytes == sum(len(etf.encode(row)) - 1 for row in rows)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_no_rows_are_a_dataset_too(compression: str) -> None:
    for sent in {b"", compress(b"", compression)}:
        transfer = Transfer(compression).send(sent)
        assert (transfer.finish(), transfer.rows) == (dataset_id([]), [])


@pytest.mark.parametrize("compression", ["zlib", "zstd"])
def test_compressed_streams_may_follow_each_other(compression: str) -> None:
    sent = b"".join(compress(batch, compression) for batch in batches(ROWS))
    assert Transfer(compression).send(sent, 313).finish() == dataset_id(ROWS)


def test_what_has_come_is_told() -> None:
    transfer = Transfer()
    reassembler = transfer.reassembler
    assert (reassembler.ranges(), reassembler.missing(), reassembler.next, reassembler.count) == ([], [], 0, None)
    chunks = cut(stream(ROWS), 1000)
    last = len(chunks) - 1
    for index in (0, 1, 4, 7, 5):
        transfer.receive(index, chunks[index])
    assert (reassembler.ranges(), reassembler.missing()) == ([(0, 1), (4, 5), (7, 7)], [(2, 3), (6, 6)])
    assert (reassembler.next, reassembler.received) == (2, 5)
    transfer.receive(last, chunks[last], True)
    assert reassembler.missing() == [(2, 3), (6, 6), (8, last - 1)]
    assert reassembler.count == last + 1
    known = Transfer(chunk_count=last + 1)
    assert known.reassembler.missing() == [(0, last)]


def test_rows_that_no_dict_can_hold_are_rows() -> None:
    rows = [TermMap([(1, "a"), (1.0, "b")])]
    assert Transfer().send(stream(rows)).rows == rows


def test_the_atoms_of_all_rows_are_known() -> None:
    transfer = Transfer().send(stream(ROWS))
    assert transfer.reassembler.stream.atoms == {Atom(name) for name in ("question", "label", "even", "odd")}


def test_the_last_chunk_may_be_told_of_by_the_count_alone() -> None:
    transfer = Transfer(chunk_count=2)
    transfer.receive(0, stream(ROWS)[:10])
    assert not transfer.reassembler.complete
    transfer.receive(1, stream(ROWS)[10:])
    assert transfer.finish() == dataset_id(ROWS)


# -- chunks that are refused, after which the transfer goes on --------------------------------------------------------


def test_chunks_that_do_not_fit_are_refused_and_nothing_is_lost() -> None:
    chunks = cut(stream(ROWS), 1000)
    last = len(chunks) - 1
    transfer = Transfer()
    for index in (0, 1, last):
        transfer.receive(index, chunks[index], index == last)
    for arguments, message in [
        ((1, b"other"), "chunk 1 came before with other bytes"),
        ((0, chunks[0] + b"x"), "chunk 0 came before with other bytes"),
        ((last, b"other", True), f"chunk {last} came before with other bytes"),
        ((last + 1, b""), f"chunk {last + 1} is after the end: there are {last + 1} chunks"),
        ((last + 1, b"", True), f"chunk {last + 1} is after the end: there are {last + 1} chunks"),
        ((5, chunks[5], True), f"chunk 5 is said to be the last, and chunk {last} came before"),
    ]:
        error = refusal(transfer.receive, *arguments)
        assert (error.message, dropped(error), error.recovery_strategy) == (message, False, "retry")
        assert error.context[Atom("chunk_index")] == arguments[0]
    for index in range(2, last):
        transfer.receive(index, chunks[index])
    assert transfer.finish() == dataset_id(ROWS)


def test_a_last_chunk_that_is_not_the_announced_one() -> None:
    error = refusal(Transfer(chunk_count=3).receive, 1, b"", True)
    assert error.message == "chunk 1 is said to be the last of 3"


def test_chunks_may_be_ahead_so_far_and_no_farther() -> None:
    transfer = Transfer()
    transfer.receive(MAX_AHEAD - 1, b"")
    error = refusal(transfer.receive, MAX_AHEAD, b"")
    assert "too far ahead: chunk 0 is missing" in error.message
    assert not dropped(error)


def test_there_are_at_most_so_many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_CHUNKS == 1_000_000
    monkeypatch.setattr("erl_bridge.datasets.reassembler.MAX_CHUNKS", 2)
    transfer = Transfer()
    transfer.receive(1, b"")
    assert refusal(transfer.receive, 2, b"").message == "chunk 2: there can be 2 chunks; make them larger"


# -- transfers that cannot be mended ----------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_every_truncation_is_refused(compression: str) -> None:
    sent = compress(stream(ROWS[:20], 5), compression)
    whole = {len(stream(ROWS[:count], 5)) for count in range(0, 21, 5)} if compression == "none" else {0, len(sent)}
    for end in range(len(sent)):
        transfer = Transfer(compression).send(sent[:end], 64)
        if end in whole:
            assert transfer.finish() != dataset_id(ROWS[:20])  # other rows have another id
        else:
            error = refusal(transfer.finish)
            assert "the chunks end in the middle of" in error.message
            assert (dropped(error), error.recovery_strategy) == (True, "retry")


def test_wrong_totals_and_digests() -> None:
    sent = stream(ROWS)
    other = dataset_id([])
    for announced, message in [
        ({"total_bytes": 5}, f"total_bytes: 5 was announced, and {len(sent)} came"),
        ({"sha256": other}, f"sha256: {other} was announced, and "),
        ({"dataset_id": other}, f"dataset_id: {other} was announced, and {dataset_id(ROWS)} came"),
    ]:
        error = refusal(Transfer(**announced).send(sent).finish)
        assert error.message.startswith(message)
        assert (dropped(error), error.error_type, error.recovery_strategy) == (True, "transfer_error", "retry")
    transfer = Transfer()
    transfer.receive(0, sent, True, dataset_id=other)
    assert "dataset_id" in refusal(transfer.finish).message


def test_right_totals_and_digests() -> None:
    import hashlib

    sent = zlib.compress(stream(ROWS))
    announced = {"total_bytes": len(sent), "sha256": hashlib.sha256(sent).hexdigest(), "dataset_id": dataset_id(ROWS)}
    assert Transfer("zlib", **announced).send(sent).finish() == dataset_id(ROWS)


NO_STREAM = [
    (pack(b"\x83"), "the batch that begins with row 0 is no term: "),
    (pack(b""), "the batch that begins with row 0 is no term: "),
    (pack(etf.encode(ROWS[:3])[:-1]), "the batch that begins with row 0 is no term: "),
    (pack(etf.encode(ROWS[:3]) + b"j"), "the batch that begins with row 0 is no term: "),
    (stream(ROWS[:3]) + pack(etf.encode([])), "the batch that begins with row 3: expected a list of at least one row"),
    (pack(etf.encode({})), "the batch that begins with row 0: expected a list of at least one row, got another term"),
    (pack(etf.encode(5)), "the batch that begins with row 0: expected a list of at least one row, got another term"),
    (pack(b"\x83l\x00\x00\x00\x01t\x00\x00\x00\x00a\x01"), "the batch that begins with row 0: expected a list of at"),
    (pack(b"\x83P\x00\x00\x00\x01" + zlib.compress(b"j")), "the batch that begins with row 0 is compressed by itself"),
]


@pytest.mark.parametrize(("sent", "message"), NO_STREAM)
def test_what_is_no_stream_of_batches(sent: bytes, message: str) -> None:
    error = refusal(Transfer().send, sent)
    assert error.message.startswith(message)
    assert (dropped(error), error.error_type, error.recovery_strategy) == (True, "transfer_error", "retry")


@pytest.mark.parametrize("compression", ["zlib", "zstd"])
def test_what_is_not_compressed_so(compression: str) -> None:
    error = refusal(Transfer(compression).send, b"\x00not compressed at all")
    assert error.message.startswith(f"the data is not as {compression} compresses it: ")
    assert dropped(error)
    sent = bytearray(compress(stream(ROWS), compression))
    sent[len(sent) // 2] ^= 0xFF
    assert dropped(refusal(lambda: Transfer(compression).send(bytes(sent)).finish()))


@pytest.mark.parametrize("row", [5, "text", [1], (1,), None, Atom("a"), [("a", 1)]])
def test_a_row_that_is_no_map_is_the_senders_fault(row: Any) -> None:
    error = refusal(Transfer().send, stream([*ROWS[:150], row, *ROWS[:10]]))
    assert error.message.startswith("rows[150]: expected a map, got ")
    assert (dropped(error), error.error_type, error.recovery_strategy) == (True, "invalid_request", "fatal")
    assert error.context[Atom("row")] == 150


def test_a_date_is_a_map_to_elixir_and_no_row() -> None:
    import datetime

    assert (
        "rows[0]: expected a map, got datetime.date("
        in refusal(Transfer().send, stream([datetime.date(2026, 1, 1)])).message
    )


# -- ceilings ---------------------------------------------------------------------------------------------------------


def test_ceilings_hold_at_them_and_past_them() -> None:
    sent = stream(ROWS)
    batch = max(map(len, batches(ROWS))) - 4
    for name, ceiling, what in [
        ("dataset_sent", len(sent), "the number of bytes sent"),
        ("dataset_size", len(sent), "the size of the dataset in bytes"),
        ("dataset_rows", len(ROWS), "the number of rows"),
        ("dataset_batch", batch, f"a batch of {batch} bytes"),
    ]:
        assert Transfer(ceilings=Ceilings(**{name: ceiling})).send(sent).finish() == dataset_id(ROWS)
        error = refusal(Transfer(ceilings=Ceilings(**{name: ceiling - 1})).send, sent)
        assert error.message == f"{what} is over the limit of {ceiling - 1}; raise --{name.replace('_', '-')}"
        assert (dropped(error), error.error_type, error.recovery_strategy) == (True, "transfer_error", "fatal")
        assert error.context[Atom("limit")] == ceiling - 1


def test_numbers_of_batches_and_atoms_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("erl_bridge.datasets.stream.MAX_BATCHES", 10)
    assert Transfer().send(stream(ROWS, 100)).finish() == dataset_id(ROWS)
    assert "the number of batches is over" in refusal(Transfer().send, stream(ROWS, 99)).message
    rows = [{Atom(f"key{number}"): 1} for number in range(MAX_ATOMS // 5 + 1)]
    sent = stream([{**a, **b} for a, b in itertools.pairwise(rows)], 5000)
    assert Transfer().send(sent, 1 << 20).finish()
    monkeypatch.setattr("erl_bridge.datasets.stream.MAX_ATOMS", MAX_ATOMS // 5)
    assert "the number of different atoms is over" in refusal(Transfer().send, sent, 1 << 20).message


def test_a_row_of_100_mb_is_refused_by_its_length_alone() -> None:
    head = (100 << 20).to_bytes(4, "big")
    error = refusal(Transfer().receive, 0, head + b"\x83l\x00\x00\x00\x01t")
    assert error.message.startswith("a batch of 104857600 bytes is over the limit of 16777216")


@pytest.mark.parametrize("compression", ["zlib", "zstd"])
def test_a_bomb_is_defused_at_the_ceiling(compression: str) -> None:
    """What would inflate to 10 GB stops at the ceiling, and is never in memory."""
    import tracemalloc

    batch = pack(etf.encode([{"a": "x" * (1 << 20)}]))
    chunk = compress(batch * 64, compression)
    ceilings = Ceilings(dataset_size=200 << 20)
    transfer = Transfer(compression, ceilings)
    tracemalloc.start()

    def send() -> None:
        for index in range(160):  # 10 GB
            for _ in transfer.reassembler.receive(Chunk(index, chunk)):
                pass

    error = refusal(send)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "the size of the dataset in bytes is over the limit" in error.message
    assert transfer.reassembler.next == 4
    assert peak < 100 << 20


def test_a_decompressor_gives_pieces_however_much_comes_of_a_few_bytes() -> None:
    for compression in ("zlib", "zstd"):
        bomb = compress(bytes(100 << 20), compression)
        assert len(bomb) < 110_000
        sizes = [len(piece) for piece in inflater(compression).feed(bomb)]
        assert sum(sizes) == 100 << 20
        assert max(sizes) <= 33 << 20


def test_all_compressions_can_be_used_in_the_tests() -> None:
    assert usable() == COMPRESSIONS


def test_a_compression_that_is_not_installed_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr("erl_bridge.datasets.compression.import_module", missing)
    assert usable() == ["none", "zlib"]
    with pytest.raises(ImportError, match="nothing that inflates zstd is installed"):
        inflater("zstd")


def test_bytes_that_were_changed_are_noticed() -> None:
    generator = random.Random(5)
    whole = stream(ROWS[:20], 5)
    for _ in range(500):
        changed = bytearray(whole)
        for _ in range(generator.randint(1, 4)):
            changed[generator.randrange(len(changed))] ^= generator.randint(1, 255)
        transfer = Transfer(dataset_id=dataset_id(ROWS[:20]))
        error = refusal(lambda transfer=transfer, sent=bytes(changed): transfer.send(sent, 100).finish())
        assert dropped(error)
