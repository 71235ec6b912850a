"""Packet-4 framing, however the stream is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erl_bridge.errors import SerializationError
from erl_bridge.framing import FrameReader, Oversized, pack, refuse

frames = st.lists(st.binary(max_size=40), max_size=8)


@given(frames, st.data())
def test_frames_come_out_whole_however_the_stream_is_cut(payloads: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(map(pack, payloads))
    reader, out = FrameReader(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        out += reader.feed(stream[:size])
        stream = stream[size:]
    assert out == payloads
    assert reader.unfinished == 0


def test_a_frame_at_the_limit_is_read_and_one_past_it_is_skipped_and_the_stream_stays_in_step() -> None:
    stream = pack(b"x" * 10) + pack(b"y" * 11) + pack(b"z")
    for cut in range(len(stream) + 1):
        reader = FrameReader(max_frame=10)
        out = [*reader.feed(stream[:cut]), *reader.feed(stream[cut:])]
        assert out == [b"x" * 10, Oversized(11, 10), b"z"]


def test_a_skipped_frame_is_not_held_in_memory() -> None:
    reader = FrameReader(max_frame=10)
    assert list(reader.feed((2**32 - 1).to_bytes(4, "big"))) == [Oversized(2**32 - 1, 10)]
    for _ in range(100):
        assert list(reader.feed(b"x" * 1000)) == []
        assert (reader._head, reader._parts) == (b"", [])
    assert reader.unfinished == 2**32 - 1 - 100_000


@pytest.mark.parametrize("cut", range(1, 8))
def test_a_cut_frame_is_unfinished(cut: int) -> None:
    reader = FrameReader()
    assert list(reader.feed(pack(b"1234")[:cut])) == []
    assert reader.unfinished == cut


def test_the_refusal_of_a_long_frame_says_what_to_do() -> None:
    error = refuse(Oversized(11, 10))
    assert isinstance(error, SerializationError)
    assert error.message == (
        "a frame of 11 bytes is over the limit of 10 bytes and was skipped; "
        "send less at once, send it as a dataset, or raise --max-frame"
    )
