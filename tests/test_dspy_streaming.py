"""Fields as the model writes them: pieces that together are what the prediction says."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai_server import OpenAIServer
from support import a, keys
from test_dspy_support import LOCAL, Client

from erl_bridge.errors import CallbackError, LanguageModelError
from erl_bridge.handlers.dspy import predict
from erl_bridge.handlers.dspy.streaming import Fields

SIGNATURE = "question -> reason, answer"


def ask(lm: Any, client: Client, **changes: Any) -> Any:
    payload = {"signature": SIGNATURE, "inputs": {"question": "why?"}, "lm": lm, "stream": True, **changes}
    return predict.predict(payload, client.context)


def pieces(client: Client) -> list[dict[str, Any]]:
    return [keys(event) for event in client.events if event[a("kind")] is a("stream")]


def together(events: list[dict[str, Any]]) -> dict[Any, str]:
    fields: dict[Any, str] = {}
    for event in events:
        fields[event["field"]] = fields.get(event["field"], "") + event["text"]
    return fields


TEXT = st.text(st.sampled_from("ab [#]\n"), max_size=12)


@given(TEXT, TEXT, st.lists(st.integers(0, 90), max_size=12))
def test_pieces_however_cut_are_the_fields(one: str, two: str, cuts: list[int]) -> None:
    whole = f"[[ ## one ## ]]\n{one}\n\n[[ ## two ## ]]\n{two}\n\n[[ ## completed ## ]]"
    edges = sorted({0, *cuts, len(whole)})
    got: dict[str, str] = {}
    done: list[str] = []

    def emit(field: str, text: str, end: bool) -> None:
        assert field not in done
        got[field] = got.get(field, "") + text
        if end:
            done.append(field)

    fields = Fields({"one", "two"}, emit)
    for start, end in itertools.pairwise(edges):
        fields.feed(whole[start:end])
    fields.end()
    assert got == {"one": one.strip(), "two": two.strip()}
    assert done == ["one", "two"]


def test_an_answer_without_the_last_marker_ends_too() -> None:
    said: list[Any] = []
    fields = Fields({"answer"}, lambda *piece: said.append(piece))
    fields.feed("[[ ## answer ## ]] forty [[")
    fields.end()
    assert said == [("answer", "forty", False), ("answer", " [[", False), ("answer", "", True)]


def test_fields_come_piece_by_piece(server: OpenAIServer) -> None:
    server.default = {"fields": {"reason": "because it is so", "answer": "yes, it is"}}
    client = Client()
    outputs = ask(server.lm, client)
    assert outputs == {"reason": "because it is so", "answer": "yes, it is"} == together(pieces(client))
    assert server.requests[0]["stream"] is True
    assert len(pieces(client)) > 4
    assert [event["field"] for event in pieces(client) if event["done"]] == ["reason", "answer"]
    usage = keys(client.events[-1])
    assert (usage["kind"], usage["lm_calls"], usage["completion_tokens"] > 0) == (a("usage"), 1, True)


def test_an_answer_that_is_known_comes_a_field_at_a_time(server: OpenAIServer) -> None:
    first, second = Client(), Client()
    assert ask(server.lm, first) == ask(server.lm, second)
    assert server.calls == 1
    assert together(pieces(first)) == together(pieces(second))
    assert len(pieces(second)) == 4


def test_rows_of_a_list_are_told_apart(server: OpenAIServer) -> None:
    client = Client()
    results = ask(server.lm, client, inputs=[{"question": str(number)} for number in range(4)])
    for row, (tag, outputs) in enumerate(results):
        assert tag is a("ok")
        assert together([event for event in pieces(client) if event["row"] == row]) == outputs


def test_fields_have_the_names_that_the_client_gave_them(server: OpenAIServer) -> None:
    client = Client()
    signature = {"input_fields": [{"name": a("q")}], "output_fields": [{"name": a("an_answer")}]}
    ask(server.lm, client, signature=signature, inputs={a("q"): "why?"})
    assert {event["field"] for event in pieces(client)} == {a("an_answer")}


def test_what_was_seen_is_not_asked_for_again(server: OpenAIServer) -> None:
    server.default = {"cut": 6}
    client = Client()
    with pytest.raises(LanguageModelError):
        ask(server.lm, client)
    assert server.calls == 1
    assert pieces(client)


def test_a_stream_that_is_refused_before_it_begins_is_tried_again(server: OpenAIServer) -> None:
    server.script = [{"status": 503, "headers": {"retry-after": "0.001"}}]
    client = Client()
    assert ask(server.lm, client) == together(pieces(client))
    assert server.calls == 2


def test_a_local_model_streams_too() -> None:
    client = Client()
    assert ask(LOCAL, client) == together(pieces(client))


class Streaming(Client):
    """A client whose language model answers in pieces."""

    def __init__(self, given: list[Any], result: Any) -> None:
        super().__init__()
        self.given = given
        self.result = result

    def call(self, call_id: int, name: Any, args: list[Any]) -> None:
        self.calls.append((name, args))
        for piece in self.given:
            assert self.context.callback_result(call_id, (a("more"), piece))
        self.context.callback_result(call_id, (a("ok"), self.result))


ANSWER = ["[[ ## reason ## ]]\nso", " it is\n\n[[ ## answer", " ## ]]\nyes\n\n[[ ## completed ## ]]"]


@pytest.mark.parametrize("result", [None, {"usage": {"prompt_tokens": 5, "completion_tokens": 7}, "cost_usd": 0.5}])
def test_a_model_of_the_client_streams(result: Any) -> None:
    client = Streaming(ANSWER, result)
    outputs = ask({"callback": "lm"}, client)
    assert outputs == {"reason": "so it is", "answer": "yes"} == together(pieces(client))
    ((_, (asked,)),) = client.calls
    assert asked[a("stream")] is True
    if result:
        assert keys(client.events[-1])["cost_usd"] == 0.5


def test_a_model_of_the_client_may_stream_to_who_wants_the_whole() -> None:
    client = Streaming(ANSWER, None)
    assert ask({"callback": "lm"}, client, stream=False) == {"reason": "so it is", "answer": "yes"}
    assert not pieces(client)


@pytest.mark.parametrize("given", [[], [5], [None]])
def test_pieces_that_are_no_text_are_refused(given: list[Any]) -> None:
    with pytest.raises(CallbackError, match="called as the language model: expected"):
        ask({"callback": "lm"}, Streaming(given, None))
