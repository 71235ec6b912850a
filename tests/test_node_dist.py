"""Frames, fragments and signals between nodes, and what calls and casts look like in them."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import a

from erl_bridge import Atom, ImproperList, Pid, Reference, etf
from erl_bridge.errors import InvalidRequest
from erl_bridge.framing import FrameReader
from erl_bridge.messages import Call, Event, Failure, Reply
from erl_bridge.wire import capabilities, dist, gen
from erl_bridge.wire.dist import DistError, Receiver

PEER, OWN, THIRD = a("a@127.0.0.1"), a("py1@127.0.0.1"), a("c@127.0.0.1")
FROM, TO = Pid(PEER, 9, 0, 0x6B045F62), Pid(OWN, 39, 0, 7)
REF = Reference(PEER, 0x6B045F62, (0x2F323, 0x697D0001, 0xA6AEB37A))
NAME, NOTHING, WHY, TOKEN = a("erl_bridge"), a(""), a("why"), [1, 2]
ALL = capabilities.OURS
PLAIN = ALL & ~capabilities.FRAGMENTS
# OTP 25 monitors erl_bridge on a node that has told of no fragments.
MONITOR = bytes.fromhex("7083680461135877") + b"\x0ba@127.0.0.1" + bytes.fromhex("00000009000000006b045f62770a")
MONITOR += (
    b"erl_bridge" + bytes.fromhex("5a0003770b") + b"a@127.0.0.1" + bytes.fromhex("6b045f620002f323697d0001a6aeb37a")
)


def frame_of(control: Any, *payload: Any, flags: int = PLAIN) -> bytes:
    """One frame without its length."""
    sent = dist.frames(flags, etf.encode(control), b"".join(map(etf.encode, payload)), 1)
    return b"".join(sent)[4:]


def receiver(flags: int = PLAIN, max_message: int = 1 << 20) -> Receiver:
    return Receiver(PEER, flags, max_message)


def test_the_frame_of_a_beam_is_read() -> None:
    signal = receiver().receive(MONITOR)
    assert signal is not None
    assert (signal.kind, signal.args) == ("monitor", (FROM, NAME, REF))
    assert frame_of((19, FROM, NAME, REF)) == MONITOR


SIGNALS: list[tuple[tuple[Any, ...], list[Any], str, tuple[Any, ...]]] = [
    ((1, FROM, TO), [], "link", (FROM, TO)),
    ((2, NOTHING, TO), ["m"], "anonymous", (TO,)),
    ((3, FROM, TO, WHY), [], "exit", (FROM, TO, WHY)),
    ((4, FROM, TO), [], "old_unlink", (FROM, TO)),
    ((6, FROM, NOTHING, NAME), ["m"], "send", (FROM, NAME)),
    ((7, FROM, TO), [], "group_leader", (FROM, TO)),
    ((8, FROM, TO, WHY), [], "exit2", (FROM, TO, WHY)),
    ((12, NOTHING, TO, TOKEN), ["m"], "anonymous", (TO,)),
    ((13, FROM, TO, TOKEN, WHY), [], "exit", (FROM, TO, WHY)),
    ((16, FROM, NOTHING, NAME, TOKEN), ["m"], "send", (FROM, NAME)),
    ((18, FROM, TO, TOKEN, WHY), [], "exit2", (FROM, TO, WHY)),
    ((19, FROM, TO, REF), [], "monitor", (FROM, TO, REF)),
    ((20, FROM, NAME, REF), [], "demonitor", (FROM, NAME, REF)),
    ((21, NAME, TO, REF, WHY), [], "down", (NAME, TO, REF, WHY)),
    ((22, FROM, TO), ["m"], "send", (FROM, TO)),
    ((23, FROM, TO, TOKEN), ["m"], "send", (FROM, TO)),
    ((24, FROM, TO), [WHY], "exit", (FROM, TO)),
    ((25, FROM, TO, TOKEN), [WHY], "exit", (FROM, TO)),
    ((26, FROM, TO), [WHY], "exit2", (FROM, TO)),
    ((27, FROM, TO, TOKEN), [WHY], "exit2", (FROM, TO)),
    ((28, FROM, TO, REF), [WHY], "down", (FROM, TO, REF)),
    ((29, REF, FROM, FROM, (a("erpc"), a("execute_call"), 4), [a("monitor")]), [[1]], "spawn",
     (REF, FROM, (a("erpc"), a("execute_call"), 4), [a("monitor")])),
    ((30, REF, FROM, FROM, (a("m"), a("f"), 0), [], TOKEN), [[]], "spawn", (REF, FROM, (a("m"), a("f"), 0), [])),
    ((31, REF, TO, 2, FROM), [], "spawn_reply", (REF, TO, 2, FROM)),
    ((33, FROM, REF), ["m"], "send", (FROM, REF)),
    ((34, FROM, REF, TOKEN), ["m"], "send", (FROM, REF)),
    ((35, 1, FROM, TO), [], "unlink", (1, FROM, TO)),
    ((36, 2**64 - 1, FROM, TO), [], "unlink_ack", (2**64 - 1, FROM, TO)),
    ((37, 0, FROM, TO), ["m"], "send", (FROM, TO)),
    ((37, 1, FROM, TO), ["m"], "send", (FROM, TO)),
    ((37, 3, FROM, TO, TOKEN), ["m"], "send", (FROM, TO)),
    ((37, 4, FROM, REF), ["m"], "send", (FROM, REF)),
    ((37, 8, FROM, NAME), ["m"], "send", (FROM, NAME)),
    ((37, 16, FROM, TO), [WHY], "exit2", (FROM, TO)),
]  # fmt: skip


@pytest.mark.parametrize("flags", [PLAIN, ALL], ids=["pass-through", "header"])
@pytest.mark.parametrize(("control", "payload", "kind", "args"), SIGNALS, ids=lambda value: str(value)[:12])
def test_every_signal_is_understood_and_no_shorter_or_longer_one(
    flags: int, control: Any, payload: list[Any], kind: str, args: Any
) -> None:
    signal = receiver(flags).receive(frame_of(control, *payload, flags=flags))
    assert signal is not None
    assert (signal.kind, signal.args) == (kind, args)
    if payload:
        assert signal.payload() == payload[0]
    for bad in (control[:-1], (*control, 1)):
        if not (control[0] == 37 and bad == control[:-1] and len(control) == 5):
            with pytest.raises(DistError):
                receiver(flags).receive(frame_of(bad, *payload, flags=flags))
    with pytest.raises(DistError):
        receiver(flags).receive(frame_of(control, *([] if payload else ["m"]), flags=flags))


@pytest.mark.parametrize(
    ("control", "payload"),
    [
        (42, []),
        ((), []),
        ((NAME,), []),
        ((99, FROM, TO), []),
        ((5, FROM, TO), []),
        ((True, FROM, TO), []),
        ([1, FROM, TO], []),
        ((1, FROM, NAME), []),
        ((1, NAME, TO), []),
        ((1, Pid(THIRD, 1, 0, 1), TO), []),
        ((3, Pid(THIRD, 1, 0, 1), TO, WHY), []),
        ((4, Pid(THIRD, 1, 0, 1), TO), []),
        ((19, Pid(THIRD, 1, 0, 1), TO, REF), []),
        ((19, FROM, "erl_bridge", REF), []),
        ((19, FROM, NAME, 1), []),
        ((20, Pid(THIRD, 1, 0, 1), TO, REF), []),
        ((24, Pid(THIRD, 1, 0, 1), TO), [WHY]),
        ((29, REF, FROM, FROM, [], []), [[]]),
        ((31, REF, TO, NAME, FROM), []),
        ((35, -1, FROM, TO), []),
        ((35, 2**64, FROM, TO), []),
        ((37, 32, FROM, TO), ["m"]),
        ((37, -1, FROM, TO), ["m"]),
        ((37, NAME, FROM, TO), ["m"]),
        ((37,), ["m"]),
        ((37, 4, FROM, TO), ["m"]),
        ((37, 8, FROM, REF), ["m"]),
        ((37, 2, FROM, TO), ["m"]),
    ],
)
def test_a_control_term_that_is_none_is_refused(control: Any, payload: list[Any]) -> None:
    with pytest.raises(DistError):
        receiver().receive(frame_of(control, *payload))


@pytest.mark.parametrize(
    "frame",
    [b"x", b"p", b"p\x83", b"\x83D\0", MONITOR[:-1], MONITOR + b"\0", b"p" + MONITOR[2:], b"\x83P\0\0\0\1"],
)
def test_a_frame_that_is_none_is_refused(frame: bytes) -> None:
    with pytest.raises(DistError):
        receiver().receive(frame)


@pytest.mark.parametrize(
    "frame", [b"", b"\x83", b"\x83D", b"\x83E", b"\x83F", b"\x83x\0", MONITOR, b"\x83D\1\0\0\1a", b"\x83D\0\x83j"]
)
def test_a_frame_without_the_header_that_was_agreed_on_is_refused(frame: bytes) -> None:
    with pytest.raises(DistError):
        receiver(ALL).receive(frame)


@given(st.binary(max_size=80), st.integers(0, 90), st.sampled_from([PLAIN, ALL]))
def test_whatever_comes_is_a_signal_or_a_dist_error(noise: bytes, at: int, flags: int) -> None:
    good = frame_of((19, FROM, NAME, REF), flags=flags)
    for frame in (noise, good[:at] + noise, good[:at] + noise + good[at:], good[:2] + b"E" + noise):
        reader = receiver(flags)
        try:
            signal = reader.receive(frame)
        except DistError:
            continue
        assert signal is None or signal.kind


# -- fragments ---------------------------------------------------------------------------------------------------


def fragments_of(payload: Any, sequence: int) -> list[bytes]:
    sent = dist.frames(ALL, etf.encode((22, FROM, TO)), etf.encode(payload), sequence)
    return [frame for frame in FrameReader().feed(b"".join(sent)) if isinstance(frame, bytes)]


@pytest.mark.parametrize("size", [dist.FRAGMENT - 6, dist.FRAGMENT - 5, dist.FRAGMENT - 4, 3 * dist.FRAGMENT, 10**6])
def test_a_large_message_goes_in_fragments_of_64_kib_and_comes_back_whole(size: int) -> None:
    frames = fragments_of(b"\xff" * size, 5)
    assert all(len(frame) <= dist.FRAGMENT + 100 for frame in frames)
    reader = receiver(ALL)
    *held, signal = map(reader.receive, frames)
    assert held == [None] * len(held)
    assert signal is not None
    assert signal.args == (FROM, TO)
    assert signal.payload() == b"\xff" * size
    assert reader._held == 0


def test_fragments_of_several_messages_may_come_in_any_order_among_them() -> None:
    messages = {number: random.Random(number).randbytes(number * 70_000) for number in range(1, 8)}
    queues = {number: fragments_of(message, number) for number, message in messages.items()}
    reader, found, pick = receiver(ALL, 1 << 20), [], random.Random(1)
    while queues:
        number = pick.choice(sorted(queues))
        signal = reader.receive(queues[number].pop(0))
        if signal is not None:
            found.append(signal.payload())
        if not queues[number]:
            del queues[number]
    assert sorted(found) == sorted(messages.values())
    assert (reader._held, reader._unfinished) == (0, {})


def test_a_large_message_goes_in_one_frame_where_fragments_are_not_known() -> None:
    frame = frame_of((22, FROM, TO), b"\xff" * 10**6)
    signal = receiver().receive(frame)
    assert signal is not None
    assert signal.payload() == b"\xff" * 10**6


def test_of_a_message_over_the_limit_only_the_beginning_is_kept() -> None:
    call = (gen.CALL, (FROM, gen.alias_tag(REF)), b"\xff" * 10**6)
    frames = fragments_of(call, 1)
    reader = receiver(ALL, max_message=len(etf.encode(call)) - 2)
    *_, signal = map(reader.receive, frames)
    assert signal is not None
    assert signal.skipped > 10**6
    assert len(signal.data) == dist.HEAD
    assert gen.caller_in(signal.data, signal.start, signal.has_version) == (FROM, gen.alias_tag(REF))
    assert reader._held == 0
    *_, signal = map(receiver(ALL, max_message=len(etf.encode(call)) - 1).receive, frames)
    assert signal is not None
    assert signal.skipped == 0


def test_messages_under_way_are_bounded_together() -> None:
    reader, size = receiver(ALL, max_message=200_000), 190_000
    begun = [fragments_of(b"\xff" * size, number) for number in range(6)]
    for frames in begun:
        for frame in frames[:-1]:
            assert reader.receive(frame) is None
    assert reader._held <= 4 * 200_000
    skipped = []
    for frames in begun:
        signal = reader.receive(frames[-1])
        assert signal is not None
        skipped.append(bool(signal.skipped))
    assert skipped == [True] + [False] * 5  # the one that went past the limit made room for the others
    assert reader._held == 0


@pytest.mark.parametrize(
    "bad",
    [
        lambda frames: [frames[1]],
        lambda frames: [frames[0], frames[0]],
        lambda frames: [frames[0], frames[2]],
        lambda frames: [frames[0], frames[1], frames[1]],
        lambda frames: [*frames, frames[-1]],
        lambda frames: [frames[0][:18] + b"\1" + frames[0][19:]],
        lambda frames: [frames[0][:18]],
        lambda frames: [frames[0], frames[1][:17]],
        lambda frames: [frames[0][:10] + bytes(8) + frames[0][18:]],
    ],
)
def test_fragments_that_are_none_are_refused(bad: Any) -> None:
    reader, frames = receiver(ALL), bad(fragments_of(b"\xff" * 200_000, 1))
    with pytest.raises(DistError):
        list(map(reader.receive, frames))


def test_a_signal_without_a_message_has_no_fragments() -> None:
    sent = b"".join(dist.frames(ALL, etf.encode((1, FROM, TO)), etf.encode(b"\xff" * 100_000), 1))
    first = FrameReader().feed(sent)[0]
    assert isinstance(first, bytes)
    with pytest.raises(DistError):
        receiver(ALL).receive(first)


def test_the_messages_that_may_have_begun_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "MAX_UNFINISHED", 3)
    reader = receiver(ALL)
    for number in range(3):
        reader.receive(fragments_of(b"\xff" * 100_000, number)[0])
    with pytest.raises(DistError, match="more than 3 messages"):
        reader.receive(fragments_of(b"\xff" * 100_000, 3)[0])


# -- signals that go ---------------------------------------------------------------------------------------------

OLD = capabilities.MANDATORY_25


@pytest.mark.parametrize(
    ("flags", "kind", "args", "control"),
    [
        (OLD, "link", (TO, FROM), ((1, TO, FROM), False)),
        (OLD, "send", (TO, FROM), ((2, NOTHING, FROM), False)),
        (ALL, "send", (TO, FROM), ((22, TO, FROM), False)),
        (OLD, "send_name", (TO, NAME), ((6, TO, NOTHING, NAME), False)),
        (ALL, "send_alias", (TO, REF, FROM), ((37, 4, TO, REF), False)),
        (ALL & ~capabilities.ALTACT_SIG, "send_alias", (TO, REF, FROM), ((33, TO, REF), False)),
        (OLD | capabilities.SEND_SENDER, "send_alias", (TO, REF, FROM), ((22, TO, FROM), False)),
        (OLD, "send_alias", (TO, REF, FROM), ((2, NOTHING, FROM), False)),
        (OLD, "exit", (TO, FROM, WHY), ((3, TO, FROM, WHY), False)),
        (ALL, "exit", (TO, FROM, WHY), ((24, TO, FROM), True)),
        (OLD, "exit2", (TO, FROM, WHY), ((8, TO, FROM, WHY), False)),
        (ALL, "exit2", (TO, FROM, WHY), ((26, TO, FROM), True)),
        (OLD, "down", (NAME, FROM, REF, WHY), ((21, NAME, FROM, REF, WHY), False)),
        (ALL, "down", (NAME, FROM, REF, WHY), ((28, NAME, FROM, REF), True)),
        (OLD, "monitor", (TO, FROM, REF), None),
        (ALL, "monitor", (TO, FROM, REF), ((19, TO, FROM, REF), False)),
        (OLD | capabilities.FLAGS["DIST_MONITOR"], "demonitor", (TO, FROM, REF), None),
        (ALL, "demonitor", (TO, FROM, REF), ((20, TO, FROM, REF), False)),
        (OLD, "unlink", (3, TO, FROM), ((4, TO, FROM), False)),
        (ALL, "unlink", (3, TO, FROM), ((35, 3, TO, FROM), False)),
        (ALL, "unlink_ack", (3, TO, FROM), ((36, 3, TO, FROM), False)),
        (ALL, "spawn_reply", (REF, FROM, 2, TO), ((31, REF, FROM, 2, TO), False)),
    ],
)
def test_a_signal_is_written_as_the_other_node_knows_it(flags: int, kind: str, args: Any, control: Any) -> None:
    assert dist.control(flags, kind, args) == control


# -- calls, casts and tags -----------------------------------------------------------------------------------------

ALIAS = ImproperList([a("alias")], REF)


@pytest.mark.parametrize(
    ("tag", "alias", "reference"),
    [
        (ALIAS, REF, REF),
        ([ALIAS], REF, REF),
        ([ALIAS, 1], REF, REF),
        (ImproperList([ALIAS], REF), REF, REF),
        (REF, None, REF),
        (ImproperList([a("other")], REF), None, None),
        (ImproperList([a("alias"), 1], REF), None, None),
        (ImproperList([a("alias")], 1), None, None),
        ([], None, None),
        (7, None, None),
    ],
)
def test_the_alias_in_a_tag_is_found(tag: Any, alias: Any, reference: Any) -> None:
    assert (gen.alias_in(tag), gen.reference_in(tag)) == (alias, reference)


@pytest.mark.parametrize(
    ("message", "parsed"),
    [
        ((gen.CALL, (FROM, ALIAS), "q"), ("call", FROM, ALIAS, "q")),
        ((gen.SYSTEM, (FROM, REF), "q"), ("system", FROM, REF, "q")),
        ((gen.CAST, "q"), ("cast", None, None, "q")),
        ("q", ("plain", None, None, "q")),
        ((), ("plain", None, None, ())),
        ((gen.CALL, (FROM,), "q"), ("plain", None, None, (gen.CALL, (FROM,), "q"))),
        ((gen.CALL, (1, 2), "q"), ("plain", None, None, (gen.CALL, (1, 2), "q"))),
        ((gen.CAST,), ("plain", None, None, (gen.CAST,))),
    ],
)
def test_calls_and_casts_are_told_apart(message: Any, parsed: Any) -> None:
    assert gen.parse(message) == parsed


def test_the_caller_is_found_in_the_beginning_of_a_call() -> None:
    data = etf.encode((gen.CALL, (FROM, ALIAS), ["rest"] * 10))
    head = len(etf.encode((FROM, ALIAS))) + 1 + len(etf.encode(gen.CALL))
    for size in range(len(data)):
        assert gen.caller_in(data[:size], 0, True) == ((FROM, ALIAS) if size >= head else None)
        assert gen.caller_in(data[1:size], 0, False) == ((FROM, ALIAS) if size >= head else None)
    old = data.replace(b"w\x09$gen_call", b"d\0\x09$gen_call")
    assert gen.caller_in(old, 0, True) == (FROM, ALIAS)
    assert gen.caller_in(etf.encode((gen.CALL, (1, 2), 3)), 0, True) is None


def test_a_request_without_an_id_gets_one() -> None:
    assert gen.lacks_id({a("request_type"): 1})
    for request in ({a("message_id"): 1}, {"message_id": 1}, [], 7):
        assert not gen.lacks_id(request)


def test_answers_and_notes_are_built() -> None:
    assert gen.result(Reply(1, "r")) == (a("ok"), "r")
    tag, error = gen.result(Failure(1, InvalidRequest("no")))
    assert (tag, error[Atom("error_type")]) == (a("error"), a("invalid_request"))
    assert gen.note(Event("id", {"k": 1})) == (a("erl_bridge"), "id", (a("event"), {"k": 1}))
    assert gen.note(Call(3, "id", "f", [1])) == (a("erl_bridge"), "id", (a("call"), 3, "f", [1]))
    assert gen.note(Reply("id", 5)) == (a("erl_bridge"), "id", (a("ok"), 5))
