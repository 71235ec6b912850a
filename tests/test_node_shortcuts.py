"""The frames of a call that are found by their bytes, and its answer made of bytes: the same as in the long way."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import a
from test_node_dist import ALL, FROM, NAME, NOTHING, OWN, PEER, REF, SIGNALS, TO, frame_of, receiver

from erl_bridge import Reference, etf
from erl_bridge.framing import FrameReader, pack
from erl_bridge.wire import capabilities, dist, gen
from erl_bridge.wire.shortcuts import DEMONITOR, MONITOR, SEND, SIZE, Shortcuts, watch_of

FIND = Shortcuts(PEER, NAME, ALL).find
REQUEST = {a("request_type"): a("ping")}


def sent(op: int, reference: Reference = REF) -> bytes:
    """One of the frames of a call with that reference, behind its length."""
    if op == SEND:
        call = (gen.CALL, (FROM, gen.alias_tag(reference)), REQUEST)
        return pack(frame_of((op, FROM, NOTHING, NAME), call, flags=ALL))
    return pack(frame_of((op, FROM, NAME, reference), flags=ALL))


@pytest.mark.parametrize(("control", "payload", "kind", "args"), SIGNALS, ids=lambda value: str(value)[:12])
def test_only_the_frames_of_a_call_are_found(control: Any, payload: Any, kind: str, args: Any) -> None:
    data = pack(frame_of(control, *payload, flags=ALL))
    is_found = control in ((19, FROM, NAME, REF), (20, FROM, NAME, REF))
    assert FIND(data, 0).end() == (len(data) if is_found else 0)


@pytest.mark.parametrize("words", range(1, 6))
@pytest.mark.parametrize("ops", [ops for n in range(4) for ops in combinations((DEMONITOR, MONITOR, SEND), n)], ids=str)
def test_what_is_found_is_what_it_would_be_read_as(ops: tuple[int, ...], words: int) -> None:
    references = [Reference(PEER, 7, range(first, first + words)) for first in (10, 20)]
    data = b"tick" + b"".join(sent(op, references[op != DEMONITOR]) for op in ops)
    found = FIND(data, 4)
    undone, watched, length, caller, tag, alias = found.groups()
    assert [key is not None for key in (undone, watched, length)] == [op in ops for op in (DEMONITOR, MONITOR, SEND)]
    if undone is not None:
        assert watch_of(undone) == (FROM, NAME, references[0])
    if watched is not None:
        assert watch_of(watched) == (FROM, NAME, references[1])
    if length is None:
        assert found.end() == len(data)
    else:
        assert found.start(SIZE) + 4 + int.from_bytes(length) == len(data)
        terms = [etf.decode_prefix(term, 0, version=False)[0] for term in (caller, tag, alias)]
        assert terms == [FROM, gen.alias_tag(references[1]), references[1]]
        assert etf.decode_prefix(data, found.end(), version=False) == (REQUEST, len(data))


@given(st.binary(max_size=20), st.integers(0, 400), st.permutations([DEMONITOR, MONITOR, SEND]))
def test_nothing_is_found_that_cannot_be_read(noise: bytes, at: int, ops: list[int]) -> None:
    good = b"".join(map(sent, ops))
    for data in (good[:at] + noise, good[:at] + noise + good[at:], good[:at] + noise + good[at + len(noise) :]):
        found = FIND(data, 0)
        undone, watched, length, *_ = found.groups()
        read = [receiver(ALL).receive(frame) for frame in FrameReader().feed(data[: found.end()])]
        assert [signal.kind for signal in read if signal] == ["demonitor"] * bool(undone) + ["monitor"] * bool(watched)
        if length is not None and found.start(SIZE) + 4 + int.from_bytes(length) <= len(data):
            [frame, *_] = FrameReader().feed(data[found.start(SIZE) :])
            signal = receiver(ALL).receive(frame)
            assert signal is not None
            assert signal.kind == "send"


@pytest.mark.parametrize("without", [0, capabilities.ALTACT_SIG, capabilities.ALTACT_SIG | capabilities.ALIAS])
@pytest.mark.parametrize("answer", [7, b"x" * 200_000], ids=["small", "in fragments"])
def test_the_answer_made_of_bytes_is_that_made_of_terms(without: int, answer: Any) -> None:
    flags, tag = ALL & ~without, gen.alias_tag(REF)
    control = dist.control(flags, "send_alias", (TO, REF, FROM))
    assert control is not None
    long_way = dist.frames(flags, etf.encode(control[0]), etf.encode((tag, answer)), 5)
    terms = (etf.encode(term)[1:] for term in (TO, FROM, tag, REF))
    head = Shortcuts(PEER, NAME, flags).answer_head(*terms)
    quick = dist.frames(flags, head, etf.encode(answer), 5)
    if answer == 7:
        assert b"".join(quick) == b"".join(long_way)
    else:
        read = [dist.Receiver(OWN, flags, 1 << 20) for _ in range(2)]
        signals = [
            [signal for frame in FrameReader().feed(b"".join(frames)) if (signal := one.receive(frame))]
            for one, frames in zip(read, (quick, long_way), strict=True)
        ]
        [[ours], [theirs]] = signals
        assert (ours.kind, ours.args, ours.payload()) == (theirs.kind, theirs.args, theirs.payload())
