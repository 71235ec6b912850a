"""Every optimizer, run to its end with the local model: what it makes, that it can be repeated, and what ends it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec import inspect
from test_dspy_support import CHARACTERS, LOCAL, Client, character_names

from erl_bridge import etf
from erl_bridge.errors import BridgeError, CallbackError, InvalidRequest, MissingPackage, OptimizationError, Stopped
from erl_bridge.handlers.dspy import evaluation, jobs, optimizers, reference
from erl_bridge.handlers.dspy.nearest_demo import respond
from erl_bridge.terms import Atom
from erl_bridge.vocabulary import VOCABULARY

A = Atom
ROWS = character_names(30)
TRAIN, VALIDATE = ROWS[:16], ROWS[16:]
OWN_ATOMS = {A(name) for name in ("name", "kind", "digit", "letter", "math", "symbol")}
STEPS = {"p": {"optimizer": "labeled_few_shot"}, "w": {"optimizer": "fine_tune"}}

# Each optimizer, small, and whether the local model gains by it on these rows.
RUNS: dict[str, tuple[dict[str, Any], bool]] = {
    "labeled_few_shot": ({}, True),
    "bootstrap_few_shot": ({}, True),
    "random_search": ({"num_candidates": 1}, True),
    "optuna": ({"num_candidates": 3}, True),
    "knn": ({"k": 2}, True),
    "copro": ({"breadth": 3, "depth": 2}, False),  # it never sees a row
    "mipro": ({"num_candidates": 3, "num_trials": 4}, True),
    "simba": ({"batch_size": 4, "num_candidates": 2, "max_steps": 1}, False),  # the model never says two things
    "gepa": ({"max_metric_calls": 60}, True),
    "infer_rules": ({"num_candidates": 2, "max_demos": 0, "max_labeled_demos": 0}, True),
    "ensemble": ({"size": 2}, True),
    "fine_tune": ({"data": "rows"}, True),
    "better_together": ({"strategy": "p->w", "steps": STEPS}, True),
}


@pytest.fixture(autouse=True)
def own_home(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERL_BRIDGE_HOME", str(tmp_path))


def optimize(config: dict[str, Any], client: Client | None = None, **changes: Any) -> Any:
    payload = {"signature": CHARACTERS, "training_data": TRAIN, "validation_data": VALIDATE, "lm": LOCAL, **changes}
    return jobs.optimize_signature({**payload, "config": config}, (client or Client()).context)


def metrics_of(result: Any) -> dict[str, Any]:
    return {str(key): value for key, value in result[A("optimization_metrics")].items()}


def keys(event: Any) -> dict[str, Any]:
    return {str(key): value for key, value in event.items()}


def local(request: Any) -> str:
    """The local model as a function of the client."""
    system, *messages = [message["content"] for message in request[A("messages")]]
    return respond(system, messages)


def test_there_is_a_run_for_every_optimizer() -> None:
    tried = {optimizers._BY_NAME[name].name for name in RUNS}
    assert tried == {optimizer.name for optimizer in optimizers.OPTIMIZERS}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_goes_to_its_end_and_can_be_repeated(name: str) -> None:
    config, gains = RUNS[name]
    config = {**config, "optimizer": A(name), "seed": 3}
    client = Client()
    result = optimize(config, client)
    found = metrics_of(result)
    assert (found["score"] > found["baseline_score"]) if gains else (found["score"] == found["baseline_score"])
    assert found["optimizer"] == optimizers._BY_NAME[name].name
    etf.encode(result, atoms=VOCABULARY | OWN_ATOMS)

    # what was measured is true, in a process that has only the program and the name of the model
    program, lm = result[A("program")], result[A("model")] or LOCAL
    assert (result[A("model")] is not None) == (name == "fine_tune")
    payload = {"program": program, "data": VALIDATE, "lm": lm}
    assert evaluation.evaluate_pipeline(payload, Client().context)[A("score")] == found["score"]
    assert program[A("scored_on")] == {A("rows"): len(VALIDATE), A("lm"): lm}

    # the client was told of it
    events = [keys(event) for event in client.events]
    last = [event for event in events if event["phase"] is A("optimize")][-1]
    assert last.get("trial", 0) == last.get("trials", last.get("trial", 0))
    assert last["best_score"] <= max([found["baseline_score"], *(trial[A("score")] for trial in found["trials"])])
    assert {"lm_calls", "lm_errors", "prompt_tokens", "completion_tokens", "cost_usd", "elapsed_ms"} <= set(last)
    assert events[-1]["lm_calls"] == found["lm_calls"]
    if gains:
        assert client.best[-1][A("score")] == found["score"]
        assert client.best[-1][A("program")][A("score")] == found["score"]

    again = optimize(config)
    assert again[A("program")] == program
    assert metrics_of(again)["trials"] == found["trials"]


# Those that ask the model themselves.
ASKING = [name for name in RUNS if name not in ("labeled_few_shot", "fine_tune", "better_together")]


@pytest.mark.parametrize("name", ASKING)
@pytest.mark.parametrize("threads", [1, 4])
def test_a_model_that_dies_during_a_run_is_an_error(name: str, threads: int) -> None:
    config, _ = RUNS[name]
    if name == "knn":
        config = {**config, "bootstrap": True}
    lock, asked = threading.Lock(), 0

    def dying(request: Any) -> str:
        nonlocal asked
        with lock:
            asked += 1
        if asked > len(VALIDATE) + 2:
            raise RuntimeError("503")
        return local(request)

    client = Client(lm=dying)
    with pytest.raises(CallbackError, match="503"):
        optimize({**config, "optimizer": name, "num_threads": threads}, client, lm={"callback": "lm"})
    assert client.best[-1][A("score")] == 0.0  # the baseline is still there
    assert asked < 100


def test_a_model_that_dies_before_the_last_scores_is_an_error() -> None:
    asked = 0

    def dying(request: Any) -> str:
        nonlocal asked
        asked += 1
        if asked > len(VALIDATE):
            raise RuntimeError("503")
        return local(request)

    config = {"optimizer": "labeled_few_shot", "num_threads": 1}
    with pytest.raises(CallbackError, match="503"):
        optimize(config, Client(lm=dying), lm={"callback": "lm"})


SECOND_MODELS = [
    ("bootstrap_few_shot", "teacher"),
    ("random_search", "teacher"),
    ("copro", "prompt_model"),
    ("mipro", "prompt_model"),
    ("gepa", "reflection_lm"),
    ("infer_rules", "teacher"),
    ("fine_tune", "teacher"),
]


def down(request: Any) -> str:
    raise RuntimeError("no service")


@pytest.mark.parametrize(("name", "option"), SECOND_MODELS)
def test_a_second_model_that_is_down_is_an_error(name: str, option: str) -> None:
    config = {**RUNS[name][0], "optimizer": name, option: {"callback": "down"}}
    config.pop("data", None)
    with pytest.raises(CallbackError, match="no service"):
        optimize(config, Client(down=down))


@pytest.mark.parametrize(("name", "option"), SECOND_MODELS)
def test_a_second_model_that_gives_no_readable_answer_is_an_error(name: str, option: str) -> None:
    client = Client(mumbling=lambda request: "hm")
    config = {**RUNS[name][0], "optimizer": name, option: {"callback": "mumbling"}}
    config.pop("data", None)
    with pytest.raises(OptimizationError) as caught:
        optimize(config, client)
    assert "LM Response: hm" in str(caught.value) or name == "fine_tune"
    assert caught.value.recovery_strategy == "fallback"
    assert client.best  # the program before is not lost


def reflecting(readable: int) -> Any:
    """GEPA with a model that answers everything, but of what GEPA itself asks only so many questions."""
    reflections = 0

    def model(request: Any) -> str:
        nonlocal reflections
        if "new_instruction" not in request[A("messages")][-1]["content"]:
            return local(request)
        reflections += 1
        return local(request) if reflections <= readable else "hm"

    config = {**RUNS["gepa"][0], "optimizer": "gepa", "num_threads": 1}
    return optimize(config, Client(lm=model), lm={"callback": "lm"})


def test_a_model_that_answers_all_but_what_gepa_asks_is_an_error() -> None:
    with pytest.raises(OptimizationError, match="LM Response: hm"):
        reflecting(readable=0)


def test_a_model_that_answers_gepa_once_is_none() -> None:
    assert reflecting(readable=1)[A("status")] == A("success")


@pytest.mark.parametrize(("name", "option"), SECOND_MODELS)
def test_a_second_model_is_asked_and_counted(name: str, option: str) -> None:
    client = Client(second=local)
    config = {**RUNS[name][0], "optimizer": name, option: {"callback": "second"}}
    config.pop("data", None)
    if name == "fine_tune":
        config["metric"] = {"callback": "any"}
        client.functions["any"] = lambda example, prediction: 1.0
    result = optimize(config, client)
    calls = sum(called == "second" for called, _ in client.calls)
    assert 0 < calls < metrics_of(result)["lm_calls"]


@pytest.mark.parametrize("name", [name for name in RUNS if name not in ("labeled_few_shot", "fine_tune")])
def test_nobody_waits_for_a_run_that_was_cancelled(name: str) -> None:
    asked = 0

    def model(request: Any) -> str:
        nonlocal asked
        asked += 1
        if asked == len(VALIDATE) + 2:
            client.context.stop()
        return local(request)

    client = Client(lm=model)
    config = {**RUNS[name][0], "optimizer": name, "num_threads": 1}
    if name == "better_together":
        config |= {"steps": {"p": {"optimizer": "bootstrap_few_shot"}}, "strategy": "p"}
    with pytest.raises(Stopped):
        optimize(config, client, lm={"callback": "lm"})
    assert asked <= len(VALIDATE) + 3


@pytest.mark.parametrize("name", ASKING)
@pytest.mark.parametrize("threads", [1, 4])
def test_a_budget_that_is_spent_during_a_run_gives_the_best_so_far(name: str, threads: int) -> None:
    config = {**RUNS[name][0], "optimizer": name, "num_threads": threads}
    if name == "knn":
        config["bootstrap"] = True
    budget = len(VALIDATE) + 3
    result = optimize(config, Client(lm=local), lm={"callback": "lm"}, budget={"calls": budget})
    assert result[A("status")] is A("budget_exhausted")
    found = metrics_of(result)
    assert (found["lm_calls"], found["score"] >= found["baseline_score"]) == (budget, True)
    assert result[A("program")][A("score")] == found["score"]
    payload = {"program": result[A("program")], "data": VALIDATE, "lm": LOCAL}
    assert evaluation.evaluate_pipeline(payload, Client().context)[A("score")] == found["score"]


# -- programs of several predictors ------------------------------------------------------------------------------------

PIPELINE = [
    {"name": "first", "signature": "name -> hint"},
    {"name": "second", "signature": "name, hint -> kind", "module": "chain_of_thought"},
]


def step(request: Any) -> str:
    """A model that answers both steps of the pipeline, and optimizers as the local model does."""
    system = request[A("messages")][0]["content"]
    for wanted, answer in (("hint", "a sign"), ("kind", "math")):
        if f"[[ ## {wanted} ## ]]\n{{{wanted}}}" in system.split("All interactions")[-1] and "reasoning}" not in system:
            return f"[[ ## {wanted} ## ]]\n{answer}\n\n[[ ## completed ## ]]"
    if "[[ ## kind ## ]]\n{kind}" in system:
        return "[[ ## reasoning ## ]]\nwell\n\n[[ ## kind ## ]]\nmath\n\n[[ ## completed ## ]]"
    return local(request)


@pytest.mark.parametrize("name", ["bootstrap_few_shot", "mipro", "gepa", "copro", "knn", "ensemble"])
def test_all_predictors_of_a_pipeline_are_optimized(name: str) -> None:
    rows = [{"name": f"sign {n}", "kind": "math" if n % 2 else "digit"} for n in range(8)]
    config = {**RUNS[name][0], "optimizer": name}
    if name == "knn":
        config["bootstrap"] = True
    changes = {"module": PIPELINE, "training_data": rows, "validation_data": rows, "lm": {"callback": "lm"}}
    result = optimize(config, Client(lm=step), signature="name -> kind", **changes)
    program = result[A("program")]
    learned = {one[A("name")]: one for one in program[A("predictors")]}
    assert {path.rpartition(".")[2] for path in learned} == {"first", "predict"}
    if name not in ("gepa", "copro", "mipro"):
        shown = [demo for one in learned.values() for demo in one[A("demos")] if demo.get(A("augmented"))]
        assert {key for demo in shown for key in map(str, demo)} >= {"name", "hint", "kind", "reasoning"}
    payload = {"program": program, "data": rows, "lm": {"callback": "lm"}}
    again = evaluation.evaluate_pipeline(payload, Client(lm=step).context)
    assert again[A("score")] == metrics_of(result)["score"]


# -- one by one --------------------------------------------------------------------------------------------------------


def test_feedback_of_the_client_reaches_the_model_that_reflects() -> None:
    def judge(example: Any, prediction: Any) -> Any:
        right = example[A("kind")] is prediction[A("kind")]
        said = f'kind: expected "{example[A("kind")]}", got something else. Mind the spelling!'
        return {A("score"): right, "feedback": said}

    client = Client(judge=judge, reflect=local)
    config = {"optimizer": "gepa", "max_metric_calls": 60, "metric": {"callback": "judge"}, "seed": 3}
    result = optimize({**config, "reflection_lm": {"callback": "reflect"}}, client)
    prompts = [args[0][A("messages")][-1]["content"] for name, args in client.calls if name == "reflect"]
    assert prompts
    assert all("Mind the spelling!" in prompt for prompt in prompts)
    assert metrics_of(result)["score"] > 0.0
    assert 'If it says "' in result[A("optimized_signature")][A("instructions")]


def moody(request: Any, calls: Iterator[int]) -> str:
    """A model that is right every other time, and always once it is shown something."""
    *shown, question = [message["content"] for message in request[A("messages")][1:]]
    name = question.split("[[ ## name ## ]]\n")[1].split("\n")[0]
    right = next(str(row[A("kind")]) for row in ROWS if row[A("name")] == name)
    said = right if shown or next(calls) % 2 else "letter" if right != "letter" else "math"
    return f"[[ ## kind ## ]]\n{said}\n\n[[ ## completed ## ]]"


def test_simba_tells_of_each_candidate_and_keeps_the_best() -> None:
    calls = itertools.count()
    client = Client(lm=lambda request: moody(request, calls))
    config = {"optimizer": "simba", "batch_size": 8, "num_candidates": 4, "max_steps": 2, "num_threads": 1}
    result = optimize({**config, "max_demos": 4}, client, lm={"callback": "lm"})
    found = metrics_of(result)
    assert found["baseline_score"] < found["score"] == 1.0
    assert client.best[-1][A("program")] == result[A("program")]
    scored = [trial[A("rows")] for trial in found["trials"]]
    assert len(scored) > 4
    assert {8, len(VALIDATE)} == set(scored)
    told = [event[A("trial")] for event in client.events if A("trial") in event]
    assert told == sorted(told)
    assert told[-1] > 4


def test_what_the_model_learned_is_as_good_as_what_it_was_shown() -> None:
    shown = optimize({"optimizer": "labeled_few_shot", "max_labeled_demos": 16})
    config = {"optimizer": "fine_tune", "data": "answers"}
    taught = optimize(config, signature=None, program=shown[A("program")])
    assert taught[A("program")][A("predictors")][0][A("demos")] == []
    assert metrics_of(taught)["baseline_score"] == metrics_of(shown)["score"]
    assert metrics_of(taught)["score"] > 0.4
    kept = optimize({**config, "exclude_demos": False}, signature=None, program=shown[A("program")])
    assert len(kept[A("program")][A("predictors")][0][A("demos")]) == 16


def test_nothing_right_is_nothing_to_teach() -> None:
    with pytest.raises(OptimizationError, match="no answer was right, so there is nothing to teach the model"):
        optimize({"optimizer": "fine_tune"}, training_data=[row for row in TRAIN if row[A("kind")] != A("digit")])


def test_rows_cannot_teach_what_is_not_in_them() -> None:
    with pytest.raises(InvalidRequest, match="the rows do not have all that the predictors of the module answer"):
        optimize({"optimizer": "fine_tune", "data": "rows"}, module="chain_of_thought")


def test_a_model_that_cannot_be_taught_says_so() -> None:
    with pytest.raises(BridgeError, match="does not support fine-tuning") as caught:
        optimize({"optimizer": "fine_tune", "data": "rows"}, Client(lm=local), lm={"callback": "lm"})
    assert (caught.value.error_type, caught.value.recovery_strategy) == ("lm_error", "fallback")


@pytest.mark.parametrize("method", ["few_shot", A("fine_tune")])
def test_training_by_its_methods(method: Any) -> None:
    config = {"data": "rows"} if method == "fine_tune" or str(method) == "fine_tune" else {"max_labeled_demos": 8}
    payload = {"signature": CHARACTERS, "training_data": TRAIN, "lm": LOCAL, "method": method, "config": config}
    result = jobs.train_model(payload, Client().context)
    assert metrics_of(result)["score"] > metrics_of(result)["baseline_score"]
    assert (result[A("model")] is None) == (str(method) == "few_shot")


def test_an_ensemble_of_programs_that_there_are() -> None:
    programs = [
        optimize({"optimizer": "labeled_few_shot", "max_labeled_demos": n})[A("program")] for n in (1, 6, 12, 16)
    ]
    result = optimize({"optimizer": "ensemble", "programs": programs, "size": 3, "seed": 5})
    predictors = result[A("program")][A("predictors")]
    assert [one[A("name")] for one in predictors] == ["member_1", "member_2", "member_3"]
    assert len({len(one[A("demos")]) for one in predictors}) == 3
    assert len(optimize({"optimizer": "ensemble", "programs": programs})[A("program")][A("predictors")]) == 4
    other = {"signature": "question -> answer", "training_data": [{"question": "a", "answer": "b"}]}
    with pytest.raises(InvalidRequest, match=r"^payload\.config\.programs\[0\]: it has other fields"):
        optimize({"optimizer": "ensemble", "programs": programs}, validation_data=None, **other)


def test_a_program_of_nearest_demonstrations_can_be_made_again() -> None:
    first = optimize({"optimizer": "knn", "k": 1})[A("program")]
    assert first[A("module")][A("name")] is A("nearest")
    again = optimize({"optimizer": "knn", "k": 2}, signature=None, program=first)[A("program")]
    assert again[A("module")] == {**first[A("module")], A("k"): 2}
    assert again[A("predictors")] == first[A("predictors")]


def test_the_client_makes_vectors_for_an_optimizer() -> None:
    client = Client(embed=lambda inputs: [[len(text), 1.0] for text in inputs])
    result = optimize({"optimizer": "knn", "vectorizer": {"callback": A("embed")}}, client)
    assert result[A("program")][A("module")][A("vectorizer")] == {A("callback"): A("embed")}
    assert [str(name) for name, _ in client.calls][:2] == ["embed", "embed"]


def test_trials_over_a_part_of_the_rows_say_so_and_are_worth_less() -> None:
    client = Client()
    config = {"optimizer": "mipro", "num_candidates": 3, "num_trials": 6, "minibatch_size": 5, "seed": 1}
    result = optimize(config, client)
    rows = [trial[A("rows")] for trial in metrics_of(result)["trials"]]
    assert set(rows) == {5, len(VALIDATE)}
    last = client.best[-1]
    assert (last[A("score")], last[A("rows")]) == (metrics_of(result)["score"], len(VALIDATE))


def test_a_step_that_fails_fails_the_whole() -> None:
    steps = {"p": {"optimizer": "labeled_few_shot"}, "w": {"optimizer": "fine_tune"}}
    config = {"optimizer": "better_together", "steps": steps, "strategy": "w"}
    with pytest.raises(OptimizationError, match="nothing to teach"):
        optimize(config, training_data=[row for row in TRAIN if row[A("kind")] != A("digit")])


def test_an_optimizer_whose_package_is_missing_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match="package optuna is not installed") as caught:
        optimize({"optimizer": "mipro"})
    assert caught.value.context[A("package")] == "optuna"


# -- what is refused ---------------------------------------------------------------------------------------------------

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"optimizer": "mipro", "auto": "light", "num_trials": 3}, r": expected either auto, or num_candidates and num_tr"),
    ({"optimizer": "mipro", "num_trials": 3}, r": expected num_candidates and num_trials together"),
    ({"optimizer": "mipro", "num_candidates": 2, "num_trials": 1}, r"\.num_candidates: expected int >= 3, got 2"),
    ({"optimizer": "mipro", "auto": "lite"}, r"\.auto: expected one of \"heavy\", \"light\", \"medium\", got \"lite\""),
    ({"optimizer": "gepa", "auto": "light", "max_metric_calls": 3}, r": expected one of auto, max_full_evals and"),
    ({"optimizer": "copro", "breadth": 1}, r"\.breadth: expected int >= 2, got 1"),
    ({"optimizer": "copro", "prompt_model": "local/x"}, r"\.prompt_model\.model: expected"),
    ({"optimizer": "gepa", "reflection_lm": {}}, r"\.reflection_lm: expected either a model or a callback"),
    ({"optimizer": "copro", "teacher": LOCAL}, r': unknown key "teacher"'),
    ({"optimizer": "knn", "vectorizer": 5}, r"\.vectorizer: expected :words or %\{callback: name\}, got 5"),
    ({"optimizer": "better_together", "strategy": "p -> x"}, r"\.strategy: expected steps joined by ->, each one of"),
    ({"optimizer": "better_together", "steps": {"p": {"optimizer": "knn"}}, "strategy": "p"},
     r"\.steps\.p\.optimizer: knn_few_shot is no step of another optimizer"),
    ({"optimizer": "better_together", "steps": {"p": {"metric": "f1"}}, "strategy": "p"},
     r"\.steps\.p\.metric: it is that of the whole; leave it out"),
    ({"optimizer": "ensemble", "member": {"max_dems": 1}}, r'\.member: unknown key "max_dems" \(did you mean'),
    ({"optimizer": "ensemble", "programs": []}, r"\.programs: expected a list of 1 to 1000 programs"),
    ({"optimizer": "ensemble", "size": 33}, r"\.size: expected int <= 32, got 33"),
    ({"optimizer": "simba", "batch_size": 1}, r"\.batch_size: expected int >= 2, got 1"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "message"), REFUSED)
def test_options_that_do_not_fit_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^payload\.config" + message):
        optimize(config)


# -- the documentation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", reference.FILES)
def test_the_documentation_is_that_of_the_table(path: str) -> None:
    written = (reference.ROOT / path).read_text(encoding="utf-8")
    assert written == reference.FILES[path](), "run: python -m erl_bridge.handlers.dspy.reference"


def test_every_option_is_explained() -> None:
    for optimizer in optimizers.OPTIMIZERS:
        for field in inspect.type_info(optimizer.options).fields:  # type: ignore[attr-defined]
            name, kind, _, about = reference._option(field)
            assert kind, (optimizer.name, name)
            assert about, (optimizer.name, name)
