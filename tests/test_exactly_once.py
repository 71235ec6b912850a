"""Many requests at once, cancelled, timed out, crashed: each one is answered once, no more and no less."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support import BridgeProcess, a, keys

HERE = Path(__file__).parent
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("ping", {}),
    ("echo_inline", {}),
    ("echo_thread", {}),
    ("echo_job", {}),
    ("events_thread", {}),
    ("fail_job", {}),
    ("unsendable_thread", {}),
    ("exit", {}),
    ("no_such_thing", {}),
    ("hang_thread", {"timeout_ms": 5}),
    ("hang_job", {"timeout_ms": 40}),
    ("echo_job", {"timeout_ms": 6}),  # about as long as it takes
]


@pytest.mark.parametrize("seed", range(3))
def test_every_request_is_answered_exactly_once_whatever_becomes_of_it(seed: int) -> None:
    chance = random.Random(seed)
    with BridgeProcess("--no-dspy", "--app", "handlers_app:app", "--max-threads", "8", cwd=HERE) as bridge:
        sent: list[Any] = []
        for number in range(250):
            name, metadata = chance.choice(KINDS)
            sent.append(bridge.send(name, {"n": 3}, message_id=number, **metadata))
            if chance.random() < 0.3:
                victim = {a("message_id"): chance.choice(sent)}
                sent.append(bridge.send("cancel", victim, message_id=("cancel", number)))
        answered: Counter[Any] = Counter()
        while len(answered) < len(sent):
            message = bridge.receive()
            if message[0] is a("event"):
                assert message[1] not in answered, "an event came after the final reply"
            else:
                answered[message[1]] += 1
        bridge.send("shutdown", message_id="last")
        while (message := bridge.receive()) is not None:
            answered[message[1]] += 1
        assert answered == Counter([*sent, "last"])


def test_nothing_is_left_in_flight_after_a_storm_of_cancels(app_bridge: BridgeProcess) -> None:
    for _ in range(100):
        message_id = app_bridge.send("hang_thread")
        app_bridge.send("cancel", {a("message_id"): message_id})
        app_bridge.receive_for(message_id)
    assert keys(app_bridge.ok("health_check"))["requests_in_flight"] == 0
