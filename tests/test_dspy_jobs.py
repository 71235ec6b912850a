"""The three requests of the DSPy room, from payload to result: what they give, what they refuse, what stops them."""

from __future__ import annotations

import itertools
import math
import threading
from typing import Any

import pytest
from test_dspy_support import CHARACTERS, LOCAL, Client, atoms, character_names

from erl_bridge import etf
from erl_bridge.errors import BridgeError, CallbackError, InvalidRequest, OptimizationError, Stopped
from erl_bridge.handlers.dspy import evaluation, jobs, modules, optimizers
from erl_bridge.handlers.dspy import predict as predicting
from erl_bridge.handlers.dspy.progress import INTERVAL, Progress
from erl_bridge.handlers.dspy.run import Run
from erl_bridge.terms import Atom
from erl_bridge.vocabulary import VOCABULARY

A = Atom
ROWS = character_names(80)
TRAIN, VALIDATE, TEST = ROWS[:30], ROWS[30:55], ROWS[55:]
QA = "question -> answer"
OWN_ATOMS = {A(name) for name in ("name", "kind", "digit", "letter", "math", "symbol")}


def optimize(client: Client | None = None, **changes: Any) -> Any:
    payload = {"signature": CHARACTERS, "training_data": TRAIN, "validation_data": VALIDATE, "lm": LOCAL, **changes}
    return jobs.optimize_signature(payload, (client or Client()).context)


def evaluate(client: Client | None = None, **changes: Any) -> Any:
    payload = {"signature": CHARACTERS, "data": TEST, "lm": LOCAL, **changes}
    return evaluation.evaluate_pipeline(payload, (client or Client()).context)


def predict(client: Client | None = None, **changes: Any) -> Any:
    payload = {"signature": CHARACTERS, "inputs": {"name": "DIGIT ONE"}, "lm": LOCAL, **changes}
    return predicting.predict(payload, (client or Client()).context)


def pairs(*rows: tuple[Any, Any]) -> list[dict[str, Any]]:
    return [{"question": question, "answer": answer} for question, answer in rows]


def demos_of(result: Any) -> Any:
    (predictor,) = result[A("program")][A("predictors")]
    return predictor[A("demos")]


def metrics_of(result: Any) -> Any:
    return {str(key): value for key, value in result[A("optimization_metrics")].items()}


def reply(answer: Any) -> str:
    return f"[[ ## answer ## ]]\n{answer}\n\n[[ ## completed ## ]]"


def echo(request: Any) -> str:
    """A language model that repeats the question."""
    question = request[A("messages")][-1]["content"].split("[[ ## question ## ]]\n")[1].split("\n")[0]
    if question == "fail":
        raise RuntimeError("the model is tired")
    return reply(question)


# -- optimize ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["bootstrap_few_shot", "labeled_few_shot", "random_search"])
def test_optimizing_raises_the_score(optimizer: str) -> None:
    config = {A("optimizer"): A(optimizer), A("max_labeled_demos"): 8}
    if optimizer == "random_search":
        config[A("num_candidates")] = 2
    client = Client()
    result = optimize(client, config=config)
    assert result[A("status")] is A("success")
    found = metrics_of(result)
    assert 0.0 <= found["baseline_score"] < found["score"] <= 1.0
    assert found["lm_calls"] >= 2 * len(VALIDATE)
    assert found["lm_errors"] == found["cache_hits"] == 0
    assert found["prompt_tokens"] > found["completion_tokens"] > 0
    assert found["cost_usd"] == 0.0
    assert found["metric"] == "exact_match"
    best = max(trial[A("score")] for trial in found["trials"])
    assert found["score"] == best == result[A("program")][A("score")] == client.best[-1][A("score")]
    # what was measured is true: the program scores the same when it is evaluated
    again = evaluate(program=result[A("program")], signature=None, data=VALIDATE)
    assert again[A("score")] == found["score"]
    etf.encode(result, atoms=VOCABULARY | OWN_ATOMS)


def test_the_signature_that_comes_back_shows_the_demonstrations() -> None:
    result = optimize()
    signature = result[A("optimized_signature")]
    (predictor,) = result[A("program")][A("predictors")]
    assert signature[A("demos")] == predictor[A("demos")] != []
    learned = {A("demos"): signature[A("demos")], A("predictors"): [predictor]}
    assert {**result[A("program")][A("signature")], **learned} == signature


def test_a_run_can_be_repeated_and_a_seed_is_another_run() -> None:
    first, second, other = (optimize(config={"seed": seed})[A("program")] for seed in (1, 1, 2))
    assert first == second
    assert first[A("fingerprint")] != other[A("fingerprint")]
    in_order = optimize()[A("program")]
    assert in_order == optimize()[A("program")]


def test_several_threads_find_the_same() -> None:
    config = {"optimizer": "random_search", "num_candidates": 1, "max_labeled_demos": 4}
    alone, together = (optimize(config={**config, "num_threads": threads}) for threads in (1, 4))
    assert alone[A("program")] == together[A("program")]
    assert metrics_of(alone)["trials"] == metrics_of(together)["trials"]


def test_options_by_dspys_names() -> None:
    config = {"max_bootstrapped_demos": 1, "max_labeled_demos": 2, "metric_threshold": 0.5, "max_rounds": 2}
    demos = demos_of(optimize(config=config))
    assert [A("augmented") in demo for demo in demos] == [True, False]
    assert len(demos_of(optimize(config={"optimizer": "labeled_few_shot", "k": 3}))) == 3


def test_search_stops_at_a_score() -> None:
    config = {"optimizer": "random_search", "num_candidates": 5, "stop_at_score": 0.0}
    assert len(metrics_of(optimize(config=config))["trials"]) == 1


# -- evaluate ---------------------------------------------------------------------------------------------------------


def test_evaluation_has_a_result_for_every_row_in_order() -> None:
    result = evaluate()
    rows = result[A("results")]
    assert [row[A("row")] for row in rows] == list(range(len(TEST)))
    assert [{**row[A("inputs")], **row[A("expected")]} for row in rows] == TEST
    right = [row[A("prediction")] == row[A("expected")] for row in rows]
    assert [row[A("score")] for row in rows] == [float(one) for one in right]
    assert (result[A("correct")], result[A("total")], result[A("errors")]) == (sum(right), len(TEST), 0)
    assert result[A("score")] == sum(right) / len(TEST)
    assert result[A("usage")][A("lm_calls")] == len(TEST)
    etf.encode(result, atoms=VOCABULARY | OWN_ATOMS)


@pytest.mark.parametrize("threads", [1, 4])
def test_a_row_that_fails_says_so_and_is_no_silent_zero(threads: int) -> None:
    client = Client(echo=echo)
    data = pairs(("a", "a"), ("fail", "b"), ("c", "x"))
    result = evaluate(client, signature=QA, data=data, lm={"callback": A("echo")}, config={"num_threads": threads})
    assert (result[A("score")], result[A("correct")], result[A("errors")]) == (1 / 3, 1, 1)
    good, failed, wrong = result[A("results")]
    assert (good[A("score")], good[A("error")], wrong[A("score")]) == (1.0, None, 0.0)
    assert (failed[A("score")], failed[A("prediction")]) == (None, None)
    assert failed[A("error")][A("error_type")] is A("callback_error")
    assert failed[A("error")][A("message")] == "the client's function echo failed: the model is tired"
    assert result[A("usage")][A("lm_errors")] == 1
    assert result[A("usage")][A("cost_usd")] is None  # nobody knows what the client's model costs


def test_a_metric_over_words() -> None:
    data = pairs(("a b", "a b c d"), ("x", "y"))
    result = evaluate(Client(echo=echo), signature=QA, data=data, lm={"callback": "echo"}, config={"metric": A("f1")})
    assert result[A("results")][0][A("score")] == pytest.approx(0.5)  # "a" is an article: of b c d it found b
    assert result[A("results")][1][A("score")] == 0.0


EXACT = [
    ("The  Eiffel tower.", "eiffel tower", 1.0),
    ("+", "+", 1.0),
    ("+", "-", 0.0),
    ("Rome", "Roma", 0.0),
]


@pytest.mark.parametrize(("got", "expected", "score"), EXACT)
def test_exact_match_of_text(got: str, expected: str, score: float) -> None:
    result = evaluate(Client(echo=echo), signature=QA, data=pairs((got, expected)), lm={"callback": "echo"})
    assert result[A("score")] == score


def test_exact_match_of_other_types() -> None:
    client = Client(lm=lambda request: '[[ ## n ## ]]\n3\n[[ ## tags ## ]]\n["x"]\n[[ ## completed ## ]]')
    data = [{"q": "", "n": 3, "tags": ["x"]}, {"q": "", "n": 3, "tags": ["y"]}]
    result = evaluate(client, signature="q -> n: int, tags: list[str]", data=data, lm={"callback": "lm"})
    assert [row[A("score")] for row in result[A("results")]] == [1.0, 0.0]


# -- predict ----------------------------------------------------------------------------------------------------------


def test_one_map_of_inputs_gives_one_map_of_outputs() -> None:
    assert predict() == {A("kind"): A("digit")}
    assert predict(signature="name -> kind: Literal['digit']", inputs={A("name"): A("x")}) == {"kind": "digit"}


def test_a_list_gives_a_result_or_an_error_for_each() -> None:
    client = Client(echo=echo)
    inputs = [{"question": text} for text in ("a", "fail", "b")]
    result = predict(client, signature=QA, inputs=inputs, lm={"callback": "echo"})
    assert [tag for tag, _ in result] == [A("ok"), A("error"), A("ok")]
    assert (result[0][1], result[2][1]) == ({"answer": "a"}, {"answer": "b"})
    assert result[1][1][A("error_type")] is A("callback_error")
    assert predict(inputs=[]) == []
    etf.encode(result, atoms=VOCABULARY)


def test_many_rows_run_at_once() -> None:
    """Each call of the model waits until four of them wait; one after the other they would wait for ever."""
    together = threading.Barrier(4, timeout=30)

    def model(request: Any) -> str:
        together.wait()
        return reply("yes")

    inputs = [{"question": str(n)} for n in range(8)]
    result = predict(
        Client(model=model), signature=QA, inputs=inputs, lm={"callback": "model"}, config={"num_threads": 4}
    )
    assert result == [(A("ok"), {"answer": "yes"})] * 8


# -- functions of the client ------------------------------------------------------------------------------------------


def test_a_metric_of_the_client_gets_example_and_prediction() -> None:
    client = Client(echo=echo, judge=lambda example, prediction: 0.25)
    data = [{A("question"): "a", "answer": "b", A("weight"): 3, "source": [A("x")]}]
    config = {"metric": {"callback": A("judge")}}
    result = evaluate(client, signature=QA, data=data, lm={"callback": "echo"}, config=config)
    assert (result[A("score")], result[A("correct")]) == (0.25, 0)
    example = {"question": "a", "answer": "b", A("weight"): 3, "source": [A("x")]}
    assert (A("judge"), [example, {"answer": "a"}]) in client.calls


def test_a_metric_of_the_client_drives_an_optimization() -> None:
    client = Client(judge=lambda example, prediction: example[A("kind")] is prediction[A("kind")])
    by_client = optimize(client, config={"metric": {"callback": "judge"}})
    by_name = optimize()
    assert by_client[A("program")][A("fingerprint")] == by_name[A("program")][A("fingerprint")]
    assert list(by_client[A("program")][A("metric")].values()) == ["judge"]


NONSENSE = [
    (None, "nil"),
    ("good", '"good"'),
    (A("good"), ":good"),
    (math.nan, "nan"),
    (math.inf, "inf"),
    (10**400, "an integer of 1329 bits"),
    ({}, "%{}"),
    ({"score": None}, '%{"score" => nil}'),
    ({"score": 1, "feedback": 2}, '%{"score" => 1, "feedback" => 2}'),
    ({"score": 1, "reason": "x"}, '%{"score" => 1, "reason" => "x"}'),
]


@pytest.mark.parametrize(("value", "shown"), NONSENSE)
@pytest.mark.parametrize("threads", [1, 4])
def test_a_metric_that_returns_nonsense_ends_the_run(value: Any, shown: str, threads: int) -> None:
    client = Client(judge=lambda example, prediction: value)
    config = {"metric": {"callback": "judge"}, "num_threads": threads}
    for run in (evaluate, optimize):
        with pytest.raises(CallbackError) as caught:
            run(client, config=config)
        said = (
            "the client's function judge, called as the metric: expected a number, a boolean or "
            "%{score: number, feedback: text}, got"
        )
        assert caught.value.message == f"{said} {shown}"


@pytest.mark.parametrize("optimizer", ["bootstrap_few_shot", "random_search"])
@pytest.mark.parametrize("threads", [1, 4])
def test_a_metric_that_fails_inside_an_optimizer_ends_the_run(optimizer: str, threads: int) -> None:
    calls = 0

    def judge(example: Any, prediction: Any) -> bool:
        nonlocal calls
        calls += 1
        if calls > len(VALIDATE):  # the baseline went well
            raise RuntimeError("no score today")
        return True

    config = {"metric": {"callback": "judge"}, "optimizer": optimizer, "num_threads": threads, "num_candidates": 1}
    if optimizer == "bootstrap_few_shot":
        del config["num_candidates"]
    client = Client(judge=judge)
    with pytest.raises(CallbackError, match=r"^the client's function judge failed: no score today$"):
        optimize(client, config=config)
    assert client.best[-1][A("score")] == 1.0  # the baseline is still there


# -- an outage --------------------------------------------------------------------------------------------------------


def failing(request: Any) -> str:
    raise RuntimeError("503")


@pytest.mark.parametrize("run", [optimize, evaluate, predict])
def test_a_model_that_always_fails_is_an_error(run: Any) -> None:
    client = Client(lm=failing)
    with pytest.raises(CallbackError, match=r"^the client's function lm failed: 503$"):
        run(client, lm={"callback": "lm"}, config={"num_threads": 1})
    assert len(client.calls) <= 10  # it is not asked for every row


def test_a_model_that_fails_later_is_an_error_too() -> None:
    asked = 0

    def dying(request: Any) -> str:
        nonlocal asked
        asked += 1
        if asked > 5:
            raise RuntimeError("503")
        return reply("yes")

    data = pairs(*[(str(n), "yes") for n in range(5)])
    config = {"optimizer": "random_search", "num_candidates": 1, "num_threads": 1}
    client = Client(lm=dying)
    with pytest.raises(CallbackError, match="503"):
        optimize(client, signature=QA, training_data=data, validation_data=None, lm={"callback": "lm"}, config=config)
    assert client.best[-1][A("score")] == 1.0


def test_a_model_that_never_answers_in_the_form_asked_for() -> None:
    client = Client(lm=lambda request: "I would rather talk about the weather.")
    with pytest.raises(OptimizationError) as caught:
        predict(client, lm={"callback": "lm"})
    assert caught.value.recovery_strategy == "fallback"
    assert "the weather" in caught.value.message


def test_a_model_that_says_nothing_is_an_error() -> None:
    with pytest.raises(OptimizationError, match="empty or null response"):
        predict(Client(lm=lambda request: ""), lm={"callback": "lm"})


@pytest.mark.parametrize("answer", [None, 5, {"text": None}, {"text": "x", "usage": {"prompt_tokens": -1}}])
def test_a_function_that_is_no_language_model(answer: Any) -> None:
    with pytest.raises(CallbackError, match="called as the language model: expected a string or"):
        predict(Client(lm=lambda request: answer), lm={"callback": "lm"})


def test_a_model_of_the_client_says_what_it_used() -> None:
    answer = {A("text"): reply("a"), "usage": {A("prompt_tokens"): 7, "completion_tokens": 2}}
    client = Client(lm=lambda request: answer)
    lm = {"callback": "lm", "temperature": 0.0, "max_tokens": 50, "stop": ["END"]}
    result = evaluate(client, signature=QA, data=pairs(("q", "a")), lm=lm)
    usage = result[A("usage")]
    assert (usage[A("prompt_tokens")], usage[A("completion_tokens")]) == (7, 2)
    request = {str(key): value for key, value in client.calls[0][1][0].items()}
    assert [message["role"] for message in request["messages"]] == ["system", "user"]
    assert (request["temperature"], request["max_tokens"], request["stop"]) == (0.0, 50, ["END"])


# -- progress and the best so far -------------------------------------------------------------------------------------


def test_events_tell_the_phases_and_end_with_the_score() -> None:
    client = Client()
    result = optimize(client, config={"optimizer": "random_search", "num_candidates": 2, "max_labeled_demos": 4})
    events = [{str(key): value for key, value in event.items()} for event in client.events]
    assert {event["kind"] for event in events} == {A("progress")}
    phases = [event["phase"] for event in events]
    assert sorted(set(phases), key=phases.index) == [A("baseline"), A("optimize")]
    assert [event["elapsed_ms"] for event in events] == sorted(event["elapsed_ms"] for event in events)
    assert len(events) <= 10 * (events[-1]["elapsed_ms"] / 1000 + 1) + 2
    baseline = [event for event in events if event["phase"] is A("baseline")][-1]
    assert (baseline["done"], baseline["total"]) == (len(VALIDATE), len(VALIDATE))
    assert baseline["best_score"] == metrics_of(result)["baseline_score"]
    last = events[-1]
    assert (last["trial"], last["trials"]) == (5, 5)
    assert last["best_score"] == metrics_of(result)["score"]
    assert last["lm_calls"] == metrics_of(result)["lm_calls"]
    for event in client.events:
        etf.encode(event, atoms=VOCABULARY)


def test_at_most_ten_events_a_second_and_one_at_the_end_of_a_phase() -> None:
    now = 0.0
    client = Client()
    sent: list[float] = []
    client.event = lambda event: sent.append(now)  # type: ignore[method-assign]
    progress = Progress(Run(client.context, clock=lambda: now))
    with progress.phase("evaluate", done=0, total=300):
        for _ in range(300):
            progress.row()
            now += 1 / 128
    *before, last = sent
    assert last == 300 / 128
    assert all(later - earlier >= INTERVAL for earlier, later in itertools.pairwise(before))
    assert len(before) == 24  # one in 13 of the 128 a second, and the first


def test_the_best_program_so_far_is_kept() -> None:
    client = Client()
    result = optimize(client, config={"optimizer": "random_search", "num_candidates": 2})
    scores = [best[A("score")] for best in client.best]
    assert scores == sorted(set(scores))
    assert client.best[-1][A("program")] == result[A("program")]
    assert predict(program=client.best[0][A("program")], signature=None) == predict()


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("optimizer", ["bootstrap_few_shot", "random_search"])
def test_a_run_that_nobody_waits_for_ends(optimizer: str, threads: int) -> None:
    asked = 0

    def model(request: Any) -> str:
        nonlocal asked
        asked += 1
        if asked == len(VALIDATE) + 2:
            client.context.stop()
        return "[[ ## kind ## ]]\nmath\n\n[[ ## completed ## ]]"

    client = Client(lm=model)
    config = {"optimizer": optimizer, "num_threads": threads}
    with pytest.raises(Stopped):
        optimize(client, lm={"callback": "lm"}, config=config)
    assert asked <= len(VALIDATE) + 2 + threads


# -- what is refused --------------------------------------------------------------------------------------------------

NO_ID = "expected the id of a dataset, 64 hexadecimal digits, got"
ANY_METRIC = (
    "expected one of exact_match, f1, hotpot_f1, passage_match, semantic_f1, complete_and_grounded, or a map with one "
    "of the keys callback, weighted, fields, judge, tolerance, metric"
)
REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (optimize, {"training_data": []}, "payload.training_data: expected at least one row, got none"),
    (optimize, {"training_data": 5}, "payload.training_data: expected a list of maps or %{dataset: id}, got 5"),
    (optimize, {"training_data": [[]]}, "payload.training_data[0]: expected a map, got []"),
    (optimize, {"training_data": [*TRAIN, {A("name"): "x"}]}, "payload.training_data[30]: missing field kind"),
    (optimize, {"training_data": [{"name": 5, "kind": "math"}]},
     "payload.training_data[0].name: expected str, got 5"),
    (optimize, {"training_data": [{"name": "x", "kind": "maths"}]},
     'payload.training_data[0].kind: expected one of :digit, :letter, :math, :symbol, got "maths"'),
    (optimize, {"training_data": [{"name": "x", A("name"): "y", "kind": "math"}]},
     "payload.training_data[0]: the key name is there twice, as an atom and as a string"),
    (optimize, {"training_data": [{1: 2}]}, "payload.training_data[0]: expected keys that are atoms or strings, got 1"),
    (optimize, {"validation_data": []}, "payload.validation_data: expected at least one row, got none"),
    (optimize, {"training_data": {A("dataset"): "x"}}, f'payload.training_data: {NO_ID} "x"'),
    (evaluate, {"data": {"dataset": "x"}}, f'payload.data: {NO_ID} "x"'),
    (predict, {"inputs": {"dataset": "x"}}, f'payload.inputs: {NO_ID} "x"'),
    (optimize, {"config": 5}, "payload.config: expected a map, got 5"),
    (optimize, {"config": {"optimizer": A("gradient_descent")}},
     f"payload.config.optimizer: expected one of {', '.join(optimizers._BY_NAME)}, got :gradient_descent"),
    (optimize, {"config": {"max_dems": 1}},
     'payload.config: unknown key "max_dems" (did you mean "max_demos"?); the keys are optimizer, metric, num_threads, '
     "seed, max_labeled_demos, max_demos, max_rounds, max_errors, metric_threshold, teacher"),
    (optimize, {"config": {"optimizer": "labeled_few_shot", "max_demos": 1}},
     'payload.config: unknown key "max_demos" (did you mean "max_labeled_demos"?); the keys are optimizer, metric, '
     "num_threads, seed, max_labeled_demos"),
    (optimize, {"config": {"max_demos": "4"}}, 'payload.config.max_demos: expected int, got "4"'),
    (optimize, {"config": {"max_demos": -1}}, "payload.config.max_demos: expected int >= 0, got -1"),
    (optimize, {"config": {"metric": A("exact")}},
     f"payload.config.metric: {ANY_METRIC} (did you mean exact_match?), got :exact"),
    (evaluate, {"config": {"metric": {"callback": 5}}},
     "payload.config.metric.callback: expected the name of a function, an atom or a string, got 5"),
    (evaluate, {"config": {"num_threads": 0}}, "payload.config.num_threads: expected int >= 1, got 0"),
    (evaluate, {"module": A("tree")}, f'payload.module: expected one of {", ".join(modules.KINDS)}, got "tree"'),
    (evaluate, {"module": "chain_of_thought", "signature": "a -> reasoning", "data": [{}]},
     "payload.signature: chain_of_thought adds the field reasoning itself; give yours another name"),
    (evaluate, {"signature": None}, "payload: expected either a program or a signature"),
    (evaluate, {"program": {}}, "payload: expected either a program or a signature"),
    (evaluate, {"program": {}, "signature": None, "module": "predict"},
     "payload.module: the program has its own module; leave it out"),
    (predict, {"inputs": {"name": 5}}, "payload.inputs.name: expected str, got 5"),
    (predict, {"inputs": {}}, "payload.inputs: missing field name"),
    (predict, {"inputs": {"name": "x", "nam": "y"}},
     'payload.inputs: unknown key "nam" (did you mean "name"?); the keys are name'),
    (predict, {"inputs": [{"name": "x"}, {"name": None}]}, "payload.inputs[1].name: expected str, got nil"),
    (predict, {"inputs": "x"}, 'payload.inputs: expected a map, got "x"'),
    (predict, {"input": {}}, 'payload: unknown key "input" (did you mean "inputs"?); '
     "the keys are signature, module, tools, program, inputs, lm, config, budget, stream"),
]  # fmt: skip


@pytest.mark.parametrize(("run", "changes", "message"), REFUSED)
def test_what_does_not_fit_is_refused_before_any_work(run: Any, changes: dict[str, Any], message: str) -> None:
    client = Client(lm=failing)
    with pytest.raises(InvalidRequest) as caught:
        run(client, **{"lm": {"callback": "lm"}, **changes})
    assert caught.value.message == message
    assert client.calls == []


@pytest.mark.parametrize("run", [jobs.optimize_signature, evaluation.evaluate_pipeline, predicting.predict])
def test_a_payload_needs_its_keys(run: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^payload: the required key \w+ is missing$"):
        run({}, Client().context)
    with pytest.raises(InvalidRequest, match=r"^payload: expected map, got 5$"):
        run(5, Client().context)


def test_atoms_and_strings_mean_the_same_everywhere() -> None:
    payload = {
        "signature": {"input_fields": [{"name": "q"}], "output_fields": [{"name": "a", "type": A("int")}]},
        "module": A("chain_of_thought"),
        "data": [{"q": A("what"), "a": 0}],
        "lm": A(LOCAL),
        "config": {"metric": A("exact_match")},
    }
    results = [evaluation.evaluate_pipeline(one, Client().context) for one in (payload, atoms(payload))]
    assert [result[A("score")] for result in results] == [1.0, 1.0]


def test_every_error_is_one_of_the_protocol() -> None:
    with pytest.raises(BridgeError) as caught:
        predict(lm={"model": "openai/x", "api_base": "http://127.0.0.1:1", "api_key": "secret-key"})
    assert (caught.value.error_type, caught.value.recovery_strategy) == ("lm_error", "retry")


# -- training ---------------------------------------------------------------------------------------------------------


def train(**changes: Any) -> Any:
    payload = {"signature": QA, "training_data": pairs(("a", "b"), ("c", "d")), "lm": LOCAL, **changes}
    return jobs.train_model(payload, Client().context)


def test_training_makes_demonstrations_of_the_rows() -> None:
    result = train(method=A("few_shot"), config={"max_labeled_demos": 1})
    assert str(metrics_of(result)["optimizer"]) == "labeled_few_shot"
    assert len(demos_of(result)) == 1
    assert str(metrics_of(train(config={"optimizer": "bootstrap_few_shot"}))["optimizer"]) == "bootstrap_few_shot"


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r'^payload\.method: expected one of "few_shot", "fine_tune", got "magic"'):
        train(method=A("magic"))
