"""Language models: how they are named, what they spend, what their failures become, and that no key is ever seen."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import dspy
import pytest
from dspy.utils import exceptions as dspy_errors
from openai_server import KEY, OpenAIServer
from test_dspy_support import LOCAL, Client

from erl_bridge.errors import BridgeError, CallbackError, InvalidRequest, LanguageModelError, OptimizationError
from erl_bridge.handlers.dspy import evaluation, jobs, models, predict
from erl_bridge.handlers.dspy.errors import translate, translate_optimizer
from erl_bridge.handlers.dspy.nearest_demo import respond
from erl_bridge.handlers.dspy.redact import RedactingFilter, redact
from erl_bridge.handlers.dspy.run import Run
from erl_bridge.terms import Atom

A = Atom
QA = "question -> answer"
YES = {"answer": "yes"}


def refusal(status: int, code: str, message: str, **headers: str) -> dict[str, Any]:
    return {"status": status, "code": code, "message": message, "headers": headers}


@pytest.fixture
def serve() -> Iterator[Any]:
    with contextlib.ExitStack() as servers:
        yield lambda *script, **default: servers.enter_context(OpenAIServer(script, default))


def ask(lm: Any, **changes: Any) -> Any:
    payload = {"signature": QA, "inputs": {"question": "Is it?"}, "lm": lm, **changes}
    return predict.predict(payload, Client().context)


# -- a provider -------------------------------------------------------------------------------------------------------


def test_a_provider_is_asked_with_the_settings_of_the_request(serve: Any) -> None:
    provider = serve(fields=YES)
    assert ask({**provider.lm, A("temperature"): 0.5, "max_tokens": 64}) == {"answer": "yes"}
    (request,) = provider.requests
    assert request["key"] == f"Bearer {KEY}"
    assert (request["model"], request["temperature"]) == ("gpt-4o-mini", 0.5)


def test_what_was_spent_is_counted_in_all_threads(serve: Any) -> None:
    provider = serve(fields=YES)
    data = [{"question": str(number), "answer": "yes"} for number in range(12)]
    result = evaluation.evaluate_pipeline({"signature": QA, "data": data, "lm": provider.lm}, Client().context)
    usage = {str(name): value for name, value in result[A("usage")].items()}
    prompt, completion = usage["prompt_tokens"], usage["completion_tokens"]
    assert usage["lm_calls"] == provider.calls == 12
    assert completion == 12 * len(["[[", "##", "answer", "##", "]]", "yes", "[[", "##", "completed", "##", "]]"])
    assert prompt > completion
    assert usage["cost_usd"] == pytest.approx((prompt * 0.15 + completion * 0.6) / 1e6)  # the price in DSPy's table


def test_a_key_may_come_from_the_environment(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = serve(fields=YES)
    monkeypatch.setenv("MY_PROVIDER", "key-of-the-environment")
    lm = {name: value for name, value in provider.lm.items() if name != "api_key"}
    ask({**lm, "api_key_env": "MY_PROVIDER"})
    assert provider.requests[0]["key"] == "Bearer key-of-the-environment"


REFUSALS = [
    (refusal(429, "rate_limit_exceeded", "slow down", **{"retry-after": "7"}), "retry", 7000),
    (refusal(500, "server_error", "oops"), "retry", None),
    (refusal(503, "overloaded", "busy"), "retry", None),
    (refusal(401, "invalid_api_key", f"Incorrect API key provided: {KEY}"), "fatal", None),
    (refusal(404, "model_not_found", "no such model"), "fatal", None),
    (refusal(400, "context_length_exceeded", "This model's maximum context length is 10 tokens."), "fallback", None),
    (refusal(400, "content_filter", "The response was filtered."), "fallback", None),
]


@pytest.mark.parametrize(("answer", "strategy", "retry_after_ms"), REFUSALS)
def test_a_refusal_keeps_the_providers_words(
    serve: Any, answer: Any, strategy: str, retry_after_ms: int | None
) -> None:
    with pytest.raises(LanguageModelError) as caught:
        ask({**serve(answer).lm, "num_retries": 0})
    error = caught.value
    words = answer["message"].replace(KEY, "[key]")
    assert words in error.message
    assert (error.recovery_strategy, error.retry_after_ms) == (strategy, retry_after_ms)
    assert error.context[A("provider")]
    assert error.context[A("model")] == "openai/gpt-4o-mini"
    assert {str(key): value for key, value in error.context.items()}["status"] == answer["status"]


def test_a_key_is_nowhere(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("dspy").addHandler(caplog.handler)
    caplog.handler.addFilter(RedactingFilter())
    provider = serve(*[{"fields": YES}, refusal(401, "invalid_api_key", f"Incorrect API key provided: {KEY}")] * 50)
    client = Client()
    data = [{"question": str(number), "answer": "yes"} for number in range(4)]
    payload = {"signature": QA, "training_data": data, "lm": provider.lm, "config": {"optimizer": "random_search"}}
    payload["config"] |= {"num_candidates": 1, "num_threads": 1}
    payload["lm"] = {**provider.lm, "num_retries": 0}
    result = jobs.optimize_signature(payload, client.context)
    assert result[A("optimization_metrics")][A("lm_errors")] > 0
    seen = repr((result, client.events, client.best, caplog.text))
    logging.getLogger("dspy").removeHandler(caplog.handler)
    assert "Incorrect API key provided: [key]" in seen
    assert KEY not in seen


def test_keys_are_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "value-of-some-key")
    assert redact("with value-of-some-key and sk-proj-12345") == "with [key] and [key]"
    assert redact("nothing to hide") == "nothing to hide"


# -- how models are named ---------------------------------------------------------------------------------------------

NO_CONNECTION = "only a model behind a connection has one; this one is not"
KEYS = "model, callback, api_base, api_key_env, timeout_ms, model_type, temperature, max_tokens, top_p, stop, options, "
KEYS += "num_retries, max_retry_after_ms, requests_per_minute, tokens_per_minute, cache, cache_ttl_ms, cache_key, price"
REFUSED = [
    (5, 'payload.lm: expected a name such as "openai/gpt-4o-mini" or a map, got something else'),
    ([{"api_key": KEY}], 'payload.lm: expected a name such as "openai/gpt-4o-mini" or a map, got something else'),
    ({}, "payload.lm: expected either a model or a callback"),
    ({"model": LOCAL, "callback": "lm"}, "payload.lm: expected either a model or a callback"),
    ({"modle": "x"}, f'payload.lm: unknown key "modle" (did you mean "model"?); the keys are {KEYS}'),
    ({"model": "x/y", "api_key": 12345678}, "payload.lm.api_key: expected one string that is not empty"),
    ({"model": "x/y", "api_key": KEY, A("api_key"): KEY}, "payload.lm.api_key: expected one string that is not empty"),
    ({"model": "openai/"}, "payload.lm.model: model 'openai/' has a provider prefix but no model id after it"),
    ({"model": "x/y", "max_tokens": 0}, "payload.lm.max_tokens: expected int >= 1, got 0"),
    ({"model": "x/y", "api_key_env": "NOT_THERE"},
     "payload.lm.api_key_env: the environment variable NOT_THERE is not set"),
    ("local/llama",
     'payload.lm.model: expected "local/nearest-demo", the one local model, or one fine-tuned of it here, '
     'got "local/llama"'),
    ({"model": LOCAL, "api_base": "http://x"}, f"payload.lm.api_base: {NO_CONNECTION}"),
    ({"callback": "lm", "timeout_ms": 5}, f"payload.lm.timeout_ms: {NO_CONNECTION}"),
    ({"callback": "lm", "api_key": KEY}, f"payload.lm.api_key: {NO_CONNECTION}"),
    ({"callback": 5}, "payload.lm.callback: expected the name of a function, an atom or a string, got 5"),
]  # fmt: skip


@pytest.mark.parametrize(("lm", "message"), REFUSED)
def test_models_that_cannot_be(lm: Any, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ask(lm)
    assert caught.value.message == message
    assert KEY not in repr(vars(caught.value))


def test_a_local_model_takes_settings_and_ignores_them() -> None:
    assert ask({"model": A(LOCAL), "temperature": 1.0}) == {"answer": "unknown"}


def test_a_model_keeps_no_history_and_is_never_copied_deeply() -> None:
    import copy

    run = Run(Client().context)
    model = models.build(LOCAL, run)
    with dspy.context(lm=model.lm, adapter=dspy.ChatAdapter()):
        dspy.Predict(QA)(question="Is it?")
    assert model.lm.history == []
    assert copy.deepcopy(model.lm) is model.lm
    assert model.lm.copy(rollout_id=1, temperature=1.0).run is run
    assert run.meter.summary()["lm_calls"] == 1


def test_each_run_has_a_local_model_of_its_own() -> None:
    runs = [Run(Client().context) for _ in range(3)]
    settings: list[Any] = [LOCAL, LOCAL, {"model": LOCAL, "temperature": 0.5}]
    lms = [models.build(value, run).lm for value, run in zip(settings, runs, strict=True)]
    assert [lm.run for lm in lms] == runs
    lms[0].kwargs["temperature"] = 1.0
    assert [lm.kwargs.get("temperature") for lm in [*lms, models.build(LOCAL, runs[0]).lm]] == [1.0, None, 0.5, None]


def test_the_adapter_of_a_type_is_kept_and_no_other() -> None:
    from dspy.adapters import utils

    assert utils.TypeAdapter(str) is utils.TypeAdapter(str)
    one, other = utils.TypeAdapter(int | str), utils.TypeAdapter(str | int)  # equal, and not the same
    assert (one.json_schema(), other.json_schema()) == (
        {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        {"anyOf": [{"type": "string"}, {"type": "integer"}]},
    )


# -- the table of errors ----------------------------------------------------------------------------------------------

RATE = {"retry_after": 1.5, "status": 429, "provider": "openai", "model": "m"}
TABLE = [
    ("LMRateLimitError", "lm_error", "retry"),
    ("LMTimeoutError", "lm_error", "retry"),
    ("LMServerError", "lm_error", "retry"),
    ("LMTransportError", "lm_error", "retry"),
    ("LMLockTimeoutError", "lm_error", "retry"),
    ("LMUnsupportedFeatureError", "lm_error", "fallback"),
    ("LMBillingError", "lm_error", "fallback"),
    ("LMStreamAssemblyError", "lm_error", "fallback"),
    ("LMCollectionLimitError", "lm_error", "fallback"),
    ("LMProviderError", "lm_error", "fallback"),
    ("LMUnsupportedModelError", "lm_error", "fatal"),
    ("LMAuthError", "lm_error", "fatal"),
    ("LMNotConfiguredError", "lm_error", "fatal"),
    ("LMConfigurationError", "lm_error", "fatal"),
    ("LMInvalidRequestError", "lm_error", "fatal"),
    ("LMUnexpectedError", "lm_error", "fatal"),
    ("LMError", "lm_error", "fatal"),
]


@pytest.mark.parametrize(("name", "error_type", "strategy"), TABLE)
def test_each_error_of_a_model(name: str, error_type: str, strategy: str) -> None:
    error = translate(getattr(dspy_errors, name)("it said no", **RATE))
    assert (error.error_type, error.recovery_strategy, error.retry_after_ms) == (error_type, strategy, 1500)
    assert error.python_type == f"dspy.utils.exceptions.{name}"
    assert error.message == "[m] it said no"


def test_the_table_has_every_error_of_a_model() -> None:
    names = {
        name
        for name, kind in vars(dspy_errors).items()
        if isinstance(kind, type) and issubclass(kind, dspy_errors.LMError)
    }
    assert names == {name for name, *_ in TABLE} | {"ContextWindowExceededError"}


def parse_error() -> Exception:
    signature = dspy.Signature(QA)
    return dspy_errors.AdapterParseError("ChatAdapter", signature, "no markers", message="cannot be read")


OTHERS = [
    (parse_error, "dspy_optimization_error", "fallback"),
    (lambda: dspy_errors.ContextWindowExceededError(model="m"), "lm_error", "fallback"),
    (lambda: ValueError("no"), "python_runtime_error", "fatal"),
    (lambda: TypeError("no"), "python_runtime_error", "fatal"),
    (lambda: AssertionError("no"), "python_runtime_error", "fatal"),
    (lambda: ImportError("no"), "import_error", "fatal"),
    (lambda: ModuleNotFoundError("No module named 'optuna'", name="optuna"), "import_error", "fatal"),
    (MemoryError, "resource_exhausted", "restart_process"),
    (lambda: KeyError("no"), "python_runtime_error", "fallback"),
]


@pytest.mark.parametrize(("make", "error_type", "strategy"), OTHERS)
def test_each_other_error(make: Any, error_type: str, strategy: str) -> None:
    error = translate(make())
    assert (error.error_type, error.recovery_strategy) == (error_type, strategy)


def test_an_unknown_kind_has_the_strategy_of_its_nearest_ancestor() -> None:
    class OtherRateLimit(dspy_errors.LMRateLimitError):
        pass

    assert translate(OtherRateLimit("later")).recovery_strategy == "retry"
    assert translate(dspy_errors.ContextWindowExceededError(model="m")).recovery_strategy == "fallback"


def test_what_a_client_failed_in_comes_out_as_that() -> None:
    wrapped = dspy_errors.LMUnexpectedError("x")
    wrapped.__cause__ = CallbackError("the client's function f failed")
    assert translate(wrapped) is wrapped.__cause__


GIVING_UP = [
    (ValueError("k"), None, OptimizationError, "fatal", "the optimizer mipro gave up: ValueError: k"),
    (AssertionError("compiled"), None, OptimizationError, "fatal",
     "the optimizer mipro gave up: AssertionError: compiled"),
    (Exception("Execution cancelled."), None, OptimizationError, "fallback",
     "the optimizer mipro gave up: Exception: Execution cancelled."),
    (Exception("Execution cancelled."), dspy_errors.LMRateLimitError("later"), LanguageModelError, "retry", "later"),
    (dspy_errors.LMAuthError("no"), None, LanguageModelError, "fatal", "no"),
    (KeyError("x"), None, BridgeError, "fallback", "KeyError: 'x'"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "last", "kind", "strategy", "message"), GIVING_UP)
def test_an_optimizer_that_gives_up(error: Any, last: Any, kind: Any, strategy: str, message: str) -> None:
    found = translate_optimizer(error, "mipro", last)
    assert isinstance(found, kind)
    assert (found.recovery_strategy, found.message) == (strategy, message)


# -- local/nearest-demo -----------------------------------------------------------------------------------------------


def local(signature: str, demos: list[dict[str, Any]], **inputs: Any) -> Any:
    given, wanted = signature.split(" -> ")
    fields = [
        [{"name": name, "type": kind} for name, _, kind in (field.partition(": ") for field in side.split("; "))]
        for side in (given, wanted)
    ]
    program = {
        "format": 2,
        "module": "predict",
        "signature": {"input_fields": fields[0], "output_fields": fields[1]},
        "predictors": [{"name": "self", "demos": demos}],
    }
    return predict.predict({"program": program, "inputs": inputs, "lm": LOCAL}, Client().context)


def test_it_answers_by_the_most_similar_demonstration() -> None:
    demos = [
        {"q": "capital city of France", "a": "Paris"},
        {"q": "capital city of Japan", "a": "Tokyo"},
        {"q": "largest ocean on earth", "a": "Pacific"},
    ]
    assert local("q: str -> a: str", demos, q="France: its capital?") == {"a": "Paris"}
    assert local("q: str -> a: str", demos, q="which OCEAN is it") == {"a": "Pacific"}
    assert local("q: str -> a: str", demos, q="nothing in common") == {"a": "Paris"}  # the first of equals


def test_rare_words_weigh_more() -> None:
    demos = [{"q": f"the word of the day number {n}", "a": str(n)} for n in range(8)]
    demos.append({"q": "zebra", "a": "zebra"})
    assert local("q: str -> a: str", demos, q="the zebra of the day") == {"a": "zebra"}


TYPES = ["str", "int", "float", "bool", "list[str]", "dict[str, int]", "any", "int | None", "str | None"]
TYPES.append("Literal['no', 'yes']")
NEUTRAL = ["unknown", 0, 0.0, False, [], {}, None, None, None, "no"]
VALUES = ["x: y", 7, 2.5, True, ["a", "b"], {"k": 1}, {"z": [1, None]}, 5, "some", "yes"]


@pytest.mark.parametrize(("kind", "value"), list(zip(TYPES, NEUTRAL, strict=True)))
def test_without_demonstrations_it_says_as_little_as_it_can(kind: str, value: Any) -> None:
    assert local(f"q: str -> a: {kind}; b: {kind}", [], q="x") == {"a": value, "b": value}


@pytest.mark.parametrize(("kind", "value"), list(zip(TYPES, VALUES, strict=True)))
def test_answers_of_every_type_come_back(kind: str, value: Any) -> None:
    demos = [{"q": "x", "a": value}]
    assert local(f"q: str -> a: {kind}", demos, q="x") == {"a": value}


def test_it_is_a_function_of_the_prompt() -> None:
    messages = [
        "[[ ## q ## ]]\nred apple",
        "[[ ## a ## ]]\nfruit\n\n[[ ## completed ## ]]\n",
        "[[ ## q ## ]]\nred car",
        "[[ ## a ## ]]\nNot supplied for this particular example. \n\n[[ ## completed ## ]]\n",
        "[[ ## q ## ]]\ncar\n\nRespond with the corresponding output fields, starting with the field `[[ ## a ## ]]`, "
        "and then ending with the marker for `[[ ## completed ## ]]`.",
    ]
    assert respond("1. `a` (str): ", messages) == "[[ ## a ## ]]\nunknown\n\n[[ ## completed ## ]]"
    assert respond("", messages[:2] + messages[4:]) == "[[ ## a ## ]]\nfruit\n\n[[ ## completed ## ]]"


# -- before a fork ----------------------------------------------------------------------------------------------------


def test_preloading_leaves_a_process_that_can_be_forked(tmp_path: Any) -> None:
    code = """
import os, sys
from erl_bridge.handlers.dspy.preload import preload
preload()
assert "litellm" not in sys.modules
opened = [fd for fd in map(int, os.listdir("/proc/self/fd")) if fd > 2 and os.path.exists(f"/proc/self/fd/{fd}")]
print(len(os.listdir("/proc/self/task")), opened)
"""
    env = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("1 []\n", "")
    assert list(tmp_path.iterdir()) == []
