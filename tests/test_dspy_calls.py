"""Calls of a language model: tried again when that helps, within limits and budgets, and ended with the work."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from dspy.utils.exceptions import LMAuthError, LMRateLimitError, LMServerError
from openai_server import OpenAIServer
from support import BridgeProcess, a, keys
from test_dspy_support import LOCAL, Client

from erl_bridge.context import Context
from erl_bridge.errors import CallbackError, InvalidRequest, LanguageModelError, Stopped
from erl_bridge.handlers.dspy import evaluation, jobs, predict
from erl_bridge.handlers.dspy.rate_limit import RateLimit
from erl_bridge.handlers.dspy.retries import FIRST, LONGEST, Retries

QA = "question -> answer"
ROWS = [{"question": str(number), "answer": "yes"} for number in range(12)]
QUICKLY = {"retry-after": "0.001"}


@pytest.fixture
def server(server: OpenAIServer) -> OpenAIServer:
    server.default = {"fields": {"answer": "yes"}}
    return server


def ask(lm: dict[str, Any], client: Client | None = None, **changes: Any) -> Any:
    payload = {"signature": QA, "inputs": {"question": "why?"}, "lm": {"cache": False, **lm}, **changes}
    return predict.predict(payload, (client or Client()).context)


def evaluate(lm: dict[str, Any], **changes: Any) -> Any:
    return evaluation.evaluate_pipeline({"signature": QA, "data": ROWS, "lm": lm, **changes}, Client().context)


# -- again ------------------------------------------------------------------------------------------------------------

PASSING = [
    {"status": 429, "code": "rate_limit_exceeded", "headers": QUICKLY},
    {"status": 500, "headers": QUICKLY},
    {"status": 503, "headers": QUICKLY},
]


@pytest.mark.parametrize("step", PASSING, ids=lambda step: str(step["status"]))
def test_what_passes_is_tried_again(server: OpenAIServer, step: dict[str, Any]) -> None:
    server.script = [step, step]
    client = Client()
    assert ask(server.lm, client) == {"answer": "yes"}
    spent = keys(client.events[-1])
    assert (spent["lm_calls"], spent["lm_errors"], spent["lm_retries"]) == (3, 2, 2)
    assert sum(spent["errors_by_kind"].values()) == 2


def test_a_connection_that_is_dropped_is_tried_again(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("erl_bridge.handlers.dspy.retries.FIRST", 0.001)
    server.script = [{"drop": True}]
    assert ask(server.lm) == {"answer": "yes"}
    assert server.calls == 2


@pytest.mark.parametrize(("retries", "calls"), [(0, 1), (2, 3)])
def test_it_is_tried_again_as_often_as_told(server: OpenAIServer, retries: int, calls: int) -> None:
    server.default = PASSING[0]
    with pytest.raises(LanguageModelError) as caught:
        ask({**server.lm, "num_retries": retries})
    assert server.calls == calls
    assert (caught.value.recovery_strategy, caught.value.retry_after_ms) == ("retry", 1)


def test_a_provider_that_wants_a_longer_wait_than_allowed_is_not_waited_for(server: OpenAIServer) -> None:
    server.default = {"status": 429, "headers": {"retry-after": "7"}}
    with pytest.raises(LanguageModelError) as caught:
        ask({**server.lm, "max_retry_after_ms": 6999})
    assert (server.calls, caught.value.retry_after_ms) == (1, 7000)


STRANGE = [
    {"raw": "{this is no JSON"},
    {"raw": "[]"},
    {"status": 418, "message": "a teapot"},
]


@pytest.mark.parametrize("step", STRANGE, ids=str)
def test_nonsense_is_an_error_and_not_asked_for_again(server: OpenAIServer, step: dict[str, Any]) -> None:
    server.default = step
    with pytest.raises(LanguageModelError):
        ask(server.lm)
    assert server.calls == 1


def test_a_model_that_takes_longer_than_it_may_is_an_error_and_the_connection_is_closed(server: OpenAIServer) -> None:
    server.default = {"hold": True}
    with pytest.raises(LanguageModelError) as caught:
        ask({**server.lm, "timeout_ms": 500, "num_retries": 0})
    assert caught.value.recovery_strategy == "retry"
    assert server.wait(dropped=1)
    assert server.calls == 1


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_was_cut_off_is_none(server: OpenAIServer, stream: bool) -> None:
    server.default = {"text": "[[ ## answer ## ]]\nforty t", "finish": "length"}
    for _ in range(2):
        client = Client()
        with pytest.raises(LanguageModelError, match="the answer was cut off at the limit of tokens") as caught:
            ask({**server.lm, "cache": True}, client, stream=stream)
        assert caught.value.recovery_strategy == "fallback"
        assert caught.value.context[a("code")] == "truncated"
        spent = keys(client.events[-1])
        assert spent["errors_by_kind"] == {"truncated": 1}
    assert (server.calls, spent["lm_calls"], spent["cache_hits"]) == (1, 0, 1)  # it was paid for once


def test_a_function_of_the_client_may_say_that_its_answer_was_cut_off() -> None:
    client = Client(lm=lambda request: {"text": "[[ ## answer ## ]]\nforty t", "finish_reason": "length"})
    with pytest.raises(LanguageModelError, match="cut off"):
        ask({"callback": "lm"}, client)


def test_waits_grow_and_are_drawn() -> None:
    longest: list[float] = []
    retries = Retries(20, draw=lambda low, high: longest.append(high) or high)  # type: ignore[func-returns-value]
    delays = [retries.delay(LMServerError(), attempt, None) for attempt in range(21)]
    assert delays[:3] == [FIRST, 2 * FIRST, 4 * FIRST]
    assert (delays[19], delays[20]) == (LONGEST, None)
    assert longest == delays[:20]


@pytest.mark.parametrize(
    ("error", "remaining", "delay"),
    [
        (LMRateLimitError(retry_after=2), 3.0, 2.0),
        (LMRateLimitError(retry_after=2), 2.0, None),
        (LMRateLimitError(retry_after=-2), None, 0.0),
        (LMRateLimitError(retry_after=61), None, None),
        (LMAuthError(retry_after=1), None, None),
        (CallbackError("no"), None, None),
    ],
)
def test_what_is_waited_for(error: Exception, remaining: float | None, delay: float | None) -> None:
    assert Retries().delay(error, 0, remaining) == delay


def test_a_wait_ends_with_the_work(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.default = {"status": 429, "headers": {"retry-after": "50"}}
    client = Client()
    sleep = Context.sleep

    def stopped_meanwhile(context: Context, seconds: float) -> None:
        threading.Thread(target=context.stop).start()
        sleep(context, seconds)

    monkeypatch.setattr(Context, "sleep", stopped_meanwhile)
    with pytest.raises(Stopped):
        ask(server.lm, client)
    assert server.calls == 1


# -- how often --------------------------------------------------------------------------------------------------------


def limits(tmp_path: Any, requests: int | None, tokens: int | None) -> tuple[RateLimit, RateLimit, list[float]]:
    now = [1000.0]
    both = [RateLimit("m", requests, tokens, folder=str(tmp_path), clock=lambda: now[0]) for _ in range(2)]
    return both[0], both[1], now


@pytest.mark.parametrize("per_minute", [1, 2, 9, 10, 60, 1000])
def test_no_minute_has_more_requests_than_the_limit(tmp_path: Any, per_minute: int) -> None:
    one, other, now = limits(tmp_path, per_minute, None)
    begun: list[float] = []
    for number in range(3 * per_minute):  # two processes that ask as fast as they may
        begun.append(now[0] + (one, other)[number % 2].take(0))
        now[0] = max(now[0], begun[-1] - 0.5)
    for start in begun:
        assert sum(start <= moment < start + 59.99 for moment in begun) <= per_minute
    assert begun[-1] - begun[0] < 60 * 3.5  # and not much fewer


def test_tokens_that_were_guessed_are_set_right(tmp_path: Any) -> None:
    one, other, _ = limits(tmp_path, None, 600)
    assert one.take(60) == 0.0
    one.settle(60, 10)
    assert other.take(50) == 0.0
    assert other.take(60) == pytest.approx(60 * 60 / 541)
    other.settle(60, 600)
    assert one.take(1) > 60


def test_a_rate_limit_that_the_deadline_does_not_allow_is_an_error(server: OpenAIServer) -> None:
    lm = {**server.lm, "requests_per_minute": 1}
    ask(lm)
    client = Client()
    client.context.deadline = 0.0
    with pytest.raises(LanguageModelError, match="the rate limit set for openai/gpt-4o-mini") as caught:
        ask(lm, client)
    assert caught.value.recovery_strategy == "retry"
    assert 50_000 < (caught.value.retry_after_ms or 0) <= 60_000
    assert server.calls == 1


# -- budgets ----------------------------------------------------------------------------------------------------------


def test_a_budget_of_calls_is_kept_to_the_call(server: OpenAIServer) -> None:
    with pytest.raises(LanguageModelError) as caught:
        evaluate(server.lm, budget={"calls": 5})
    error = caught.value
    assert server.calls <= 5  # one that was under way in another thread may still come
    assert error.message == "the budget of 5 calls is spent"
    assert error.recovery_strategy == "fatal"
    assert keys(error.context)["code"] == "budget_exhausted"
    assert keys(keys(error.context)["usage"])["lm_calls"] == 5


@pytest.mark.parametrize("budget", [{"tokens": 500}, {"usd": 0.0001}])
def test_a_budget_of_tokens_or_dollars_ends_the_work_soon_after(server: OpenAIServer, budget: Any) -> None:
    with pytest.raises(LanguageModelError, match="the budget of"):
        evaluate(server.lm, budget=budget, config={"num_threads": 1})
    assert 2 < server.calls < 12


def test_what_is_known_costs_nothing(server: OpenAIServer) -> None:
    evaluate(server.lm)
    assert keys(evaluate(server.lm, budget={"calls": 1}))["score"] == 1.0


def test_a_budget_in_dollars_needs_a_price(server: OpenAIServer) -> None:
    lm = {**server.lm, "model": "openai/a-model-nobody-knows"}
    with pytest.raises(LanguageModelError, match="nobody knows what a call"):
        evaluate(lm, budget={"usd": 1.0}, config={"num_threads": 1})
    priced = {**lm, "cache_key": "priced", "price": {"prompt_per_million": 1e4, "completion_per_million": 0}}
    with pytest.raises(LanguageModelError, match="the budget of 1 USD is spent"):
        evaluate(priced, budget={"usd": 1.0}, config={"num_threads": 1})


def test_rows_of_a_prediction_that_the_budget_does_not_pay_for_have_the_error(server: OpenAIServer) -> None:
    inputs = [{"question": str(number)} for number in range(5)]
    results = ask(server.lm, inputs=inputs, budget={"calls": 3})
    assert sorted(str(tag) for tag, _ in results) == ["error", "error", "ok", "ok", "ok"]


def test_an_optimization_whose_budget_is_spent_gives_the_best_so_far(server: OpenAIServer) -> None:
    payload = {"signature": QA, "training_data": ROWS, "lm": server.lm, "budget": {"calls": 14}}
    payload["config"] = {"optimizer": "random_search", "num_candidates": 3}
    result = keys(jobs.optimize_signature(payload, Client().context))
    assert result["status"] is a("budget_exhausted")
    metrics = keys(result["optimization_metrics"])
    assert (metrics["lm_calls"], metrics["score"]) == (14, 1.0)
    again = {"program": result["program"], "inputs": {"question": "0"}, "lm": server.lm}
    answer = predict.predict(again, Client().context)
    assert keys(answer) == {"answer": "yes"}


def test_a_budget_too_small_to_score_anything_is_an_error(server: OpenAIServer) -> None:
    payload = {"signature": QA, "training_data": ROWS, "lm": server.lm, "budget": {"calls": 3}}
    with pytest.raises(LanguageModelError, match="the budget of 3 calls is spent"):
        jobs.optimize_signature(payload, Client().context)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"calls": 0}, "payload.budget.calls: expected int >= 1, got 0"),
        ({"usd": -1.0}, "payload.budget.usd: expected float >= 0.0, got -1.0"),
        ({"euros": 1}, 'payload.budget: unknown key "euros"; the keys are usd, calls, tokens'),
    ],
)
def test_a_budget_that_cannot_be(server: OpenAIServer, budget: Any, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ask(server.lm, budget=budget)
    assert caught.value.message == message


# -- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["cancel", "deadline"])
@pytest.mark.parametrize("request_type", ["predict", "evaluate_pipeline"])
def test_calls_under_way_end_with_the_work(server: OpenAIServer, request_type: str, how: str) -> None:
    server.default = {"hold": True}
    questions = [{"question": row["question"]} for row in ROWS[:2]]
    work = {"predict": {"inputs": questions}, "evaluate_pipeline": {"data": ROWS}}[request_type]
    with BridgeProcess() as bridge:
        bridge.ok("predict", {"signature": QA, "inputs": {"question": "why?"}, "lm": LOCAL})  # DSPy is imported
        payload, timeout = {"signature": QA, "lm": server.lm, **work}, 500
        if how == "cancel":
            request = bridge.send(request_type, payload)
            assert server.wait(calls=2)
            bridge.ok("cancel", {a("message_id"): request})
            assert keys(bridge.receive_for(request)[0][2])["error_type"] is a("cancelled")
        while how == "deadline" and server.calls < 2:  # what has not come so far by then has more time the next time
            timeout *= 2
            assert bridge.error(request_type, payload, timeout_ms=timeout)["error_type"] is a("timeout_error")
        assert server.wait(dropped=server.calls)  # the provider sees that nobody waits any more


def test_an_outage_is_an_error(server: OpenAIServer) -> None:
    server.script = [{"fields": {"answer": "yes"}}] * 14
    server.default = {"status": 401, "code": "invalid_api_key", "message": "no longer"}
    payload = {"signature": QA, "training_data": ROWS, "lm": server.lm}
    payload["config"] = {"optimizer": "random_search", "num_candidates": 3}
    with pytest.raises(LanguageModelError, match="no longer"):
        jobs.optimize_signature(payload, Client().context)
    assert server.calls < 14 + 30
