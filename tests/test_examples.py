"""The programs in ``examples/`` do what they say."""

from __future__ import annotations

from support import ROOT, BridgeProcess, a


def test_embed_app_turns_texts_into_vectors() -> None:
    with BridgeProcess("--no-dspy", "--app", "embed_app:app", cwd=ROOT / "examples") as bridge:
        message_id = bridge.send("embed", {a("texts"): ["hello", "help", "hello"], a("dimensions"): 4})
        (_, _, result), events = bridge.receive_for(message_id)
        first, second, third = result["vectors"]
        assert [len(first), sum(first), sum(second)] == [4, 3.0, 2.0]
        assert first == third != second
        assert [event[2][a("done")] for event in events] == [1, 2, 3]
        assert bridge.error("embed", {a("texts"): "hello"})["message"] == 'payload.texts: expected list, got "hello"'
