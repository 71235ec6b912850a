"""Every signal that BEAMs send, in the bytes of OTP 25, 27 and 29, which tests/capture_node_frames.py has taken."""

from __future__ import annotations

import re
from typing import Any

import pytest
from capture_node_frames import ALIAS, DEEDS, FILE, FLAGS, LARGE, MONITOR, NAME, PID
from support import a

from erl_bridge import Pid, Reference, etf
from erl_bridge.framing import pack
from erl_bridge.wire import capabilities, dist, gen
from erl_bridge.wire.shortcuts import SIZE, Shortcuts, watch_of

PEER, HELLO, WHY, BRIDGE = a("ex@127.0.0.1"), a("hello"), a("why"), a("erl_bridge")
WHO, REF, ANY = "a pid of the BEAM", "a reference of the BEAM", "anything"
LARGE_TEXT = "x" * 70_000
# What is read of the frames of each deed: the kind of each signal, its arguments and what it sends.
READ: dict[str, list[tuple[Any, ...]]] = {
    "send to a name": [("send", WHO, BRIDGE, HELLO)],
    "send to a pid": [("send", WHO, PID, HELLO)],
    "send to an alias": [("send", WHO, ALIAS, HELLO)],
    "cast": [("send", WHO, BRIDGE, (gen.CAST, HELLO))],
    "call": [("monitor", WHO, BRIDGE, REF), ("send", WHO, BRIDGE, ANY), ("demonitor", WHO, BRIDGE, REF)],
    "ping": [("monitor", WHO, a("net_kernel"), REF), ("send", WHO, a("net_kernel"), ANY)],
    "old rpc": [("send", WHO, a("rex"), (WHO, (a("call"), a("erlang"), a("node"), [], a("user"))))],
    "monitor and demonitor a name": [("monitor", WHO, BRIDGE, REF), ("demonitor", WHO, BRIDGE, REF)],
    "monitor and demonitor a pid": [("monitor", WHO, PID, REF), ("demonitor", WHO, PID, REF)],
    "link and unlink": [("link", WHO, PID), ("unlink", ANY, WHO, PID)],
    "link and die": [("link", WHO, PID), ("exit", WHO, PID, WHY)],
    "exit": [("exit2", WHO, PID, WHY)],
    "group leader": [("group_leader", WHO, PID)],
    "erpc": [("spawn", REF, WHO, (a("erpc"), a("execute_call"), 4), [a("monitor")], ANY)],
    "spawn": [("spawn", REF, WHO, (a("erlang"), a("node"), 0), [a("link")], [])],
    "die monitored": [("down", WHO, PID, MONITOR, WHY)],
    "be unlinked": [("unlink_ack", 9, WHO, PID)],
    "traced send to a name": [("send", WHO, BRIDGE, HELLO)],
    "traced send to a pid": [("send", WHO, PID, HELLO)],
    "traced send to an alias": [("send", WHO, ALIAS, HELLO)],
    "traced link and die": [("link", WHO, PID), ("exit", WHO, PID, WHY)],
    "traced spawn": [("spawn", REF, WHO, (a("erlang"), a("node"), 0), ANY, [])],
    "send in fragments": [("send", WHO, PID, LARGE_TEXT)],
    "send in fragments to a name": [("send", WHO, BRIDGE, LARGE_TEXT)],
    "die in fragments": [("link", WHO, PID), ("exit", WHO, PID, LARGE_TEXT)],
}
# Without SEND_SENDER it is not told who sends to a pid; without UNLINK_ID there is nothing to acknowledge.
READ_OF_OLD = {
    **{f"{traced}send to a pid": [("anonymous", PID, HELLO)] for traced in ("", "traced ")},
    "link and unlink": [("link", WHO, PID), ("old_unlink", WHO, PID)],
}


def captured() -> dict[tuple[str, str, str], list[bytes]]:
    found: dict[tuple[str, str, str], list[bytes]] = {}
    for line in FILE.read_text().splitlines():
        otp, variant, deed, digits = line.split("\t")
        whole = re.sub(r" (..)\*(\d+) ", lambda run: run[1] * int(run[2]), digits)
        found.setdefault((otp, variant, deed), []).append(bytes.fromhex(whole))
    return found


CAPTURED = captured()


def plain(value: Any) -> Any:
    """The value with words in place of what is the BEAM's own."""
    if type(value) is tuple:
        return tuple(map(plain, value))
    if isinstance(value, (Pid, Reference)) and value.node is PEER:
        return WHO if type(value) is Pid else REF
    return value


def matches(read: tuple[Any, ...], expected: tuple[Any, ...]) -> bool:
    return len(read) == len(expected) and all(
        wanted in (ANY, value) for value, wanted in zip(read, expected, strict=True)
    )


@pytest.mark.parametrize("otp", ["25", "27", "29"])
@pytest.mark.parametrize("variant", FLAGS)
def test_all_that_a_beam_sends_is_read(otp: str, variant: str) -> None:
    deeds = [deed for version, kind, deed in CAPTURED if (version, kind) == (otp, variant)]
    missing = {*DEEDS, *(LARGE if variant == "fragments" else ())} - {*deeds}
    assert missing == ({"be unlinked"} if (otp, variant) == ("25", "old") else set())
    for deed in deeds:
        receiver = dist.Receiver(PEER, FLAGS[variant], 1 << 20)
        signals = [signal for frame in CAPTURED[otp, variant, deed] if (signal := receiver.receive(frame))]
        read = [
            (signal.kind, *plain(signal.args), *([plain(signal.payload())] if signal.start < len(signal.data) else []))
            for signal in signals
        ]
        expected = READ[deed]
        if variant == "old":
            expected = READ_OF_OLD.get(deed, expected) if otp == "25" or "unlink" not in deed else expected
        assert len(read) == len(expected), deed
        for one, other in zip(read, expected, strict=True):
            assert matches(one, other), (deed, one, other)


def test_all_operations_are_among_them_but_exit2_with_a_token_and_the_answer_to_a_spawn() -> None:
    ops = set()
    for (_, variant, _), frames in CAPTURED.items():
        for frame in frames:
            start = {b"p\x83": 2, b"\x83D": 3, b"\x83E": 19}.get(frame[:2])
            if start is not None:
                assert (frame[start], frame[start + 2]) == (ord("h"), ord("a")), variant
                ops.add(frame[start + 3])
    assert set(dist.OPS) - ops == NEVER
    assert ops - set(dist.OPS) == {37}


# Where BEAMs send each operation to a node that runs, in test_node_live.py.
_UNDONE = "test_a_monitor_and_a_link_that_are_undone_are_silent"
_TRACED = "test_signals_of_a_process_that_is_traced_are_understood"
_ENDED = "test_a_monitor_and_a_link_hear_of_the_end_of_the_process_which_begins_anew"
_ANSWERED = "test_a_handler_calls_a_process_by_its_pid_its_name_and_its_node"
LIVE = {
    1: _UNDONE,
    6: "test_a_cast_is_served_and_nothing_comes_back",
    7: "test_a_process_of_the_node_is_no_group_leader_and_bears_to_be_asked",
    16: _TRACED,
    19: _UNDONE,
    20: _UNDONE,
    22: _ENDED,
    23: _TRACED,
    24: "test_a_process_that_dies_with_a_link_to_the_node_leaves_it_as_it_is",
    25: _TRACED,
    26: _ENDED,
    28: "test_the_requests_of_a_caller_that_dies_are_cancelled",
    29: "test_functions_of_the_allow_list_may_be_called",
    30: _TRACED,
    33: _ANSWERED,  # up to OTP 27
    35: _UNDONE,
    37: _ANSWERED,  # from OTP 28 on
}
# To a node that tells what ours does, a BEAM sends none of these, but for what it had written before it knew that. A
# node that runs takes them in test_node_connections.py, as they were captured.
ONLY_CAPTURED = {2, 3, 4, 8, 12, 13, 21, 34, 36}
# These no BEAM sends here at all: exit/2 goes without a token, and this node asks nobody for a process.
NEVER = {18, 27, 31}


def test_every_operation_has_a_test_from_captured_bytes_and_one_with_a_node_that_runs() -> None:
    import test_node_live

    assert {*LIVE} | ONLY_CAPTURED | NEVER == {*dist.OPS, 37}
    assert [test for test in LIVE.values() if not hasattr(test_node_live, test)] == []


@pytest.mark.parametrize("otp", ["25", "27", "29"])
def test_the_call_of_a_beam_is_known_by_its_bytes(otp: str) -> None:
    monitor, send, demonitor = map(pack, CAPTURED[otp, "fragments", "call"])
    data = demonitor + monitor + send
    found = Shortcuts(PEER, BRIDGE, FLAGS["fragments"]).find(data, 0)
    undone, watched, length, caller, tag, alias = found.groups()
    assert undone == watched
    assert found.start(SIZE) + 4 + int.from_bytes(length) == len(data)
    who, name, reference = watch_of(watched)
    assert (plain(who), name, plain(reference)) == (WHO, BRIDGE, REF)
    terms = [etf.decode_prefix(term, 0, version=False)[0] for term in (caller, tag, alias)]
    assert terms == [who, gen.alias_tag(reference), reference]
    assert etf.decode_prefix(data, found.end(), version=False) == (HELLO, len(data))


@pytest.mark.parametrize("key", CAPTURED, ids=" ".join)
def test_a_frame_of_a_beam_that_is_cut_or_too_long_costs_the_connection(key: tuple[str, str, str]) -> None:
    variant = FLAGS[key[1]]
    for frame in CAPTURED[key]:
        if frame[1] == ord("F"):
            continue  # it is nothing without the one before
        whole = dist.Receiver(PEER, variant, 1 << 20).receive(frame)
        has_payload = whole is None or whole.start < len(whole.data)
        end = whole.start if whole is not None else 60
        for size in range(end if has_payload else len(frame)):
            with pytest.raises(dist.DistError):
                dist.Receiver(PEER, variant, 1 << 20).receive(frame[:size])
        if not has_payload:
            with pytest.raises(dist.DistError):
                dist.Receiver(PEER, variant, 1 << 20).receive(frame + b"\x6a")


def test_the_names_are_those_of_the_capture() -> None:
    assert a(NAME) is PID.node
    assert set(READ) == {*DEEDS, *LARGE}
    assert capabilities.FRAGMENTS & FLAGS["fragments"]
