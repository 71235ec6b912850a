"""Metrics and evaluation: what each metric takes as right, how sure a score is, and what is refused."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from test_dspy_support import CHARACTERS, LOCAL, Client, character_names

from erl_bridge import etf
from erl_bridge.errors import BridgeError, CallbackError, InvalidRequest, OptimizationError
from erl_bridge.handlers.dspy import confidence, evaluation, jobs
from erl_bridge.handlers.dspy.metrics import MAX_DEPTH, MAX_PARTS
from erl_bridge.terms import Atom
from erl_bridge.vocabulary import VOCABULARY

A = Atom
QA = "question -> answer"


def answering(request: Any) -> str:
    """A language model of the client that repeats the question as whatever it is asked for."""
    prompt = request[A("messages")][-1]["content"]
    question = prompt.split("[[ ## question ## ]]\n")[1].split("\n\n")[0]
    return f"[[ ## answer ## ]]\n{question}\n\n[[ ## completed ## ]]"


def evaluate(data: list[dict[Any, Any]], metric: Any, client: Client | None = None, **changes: Any) -> Any:
    client = client or Client()
    client.functions.setdefault("echo", answering)
    payload = {"signature": QA, "data": data, "lm": {"callback": "echo"}, "config": {"metric": metric}, **changes}
    return evaluation.evaluate_pipeline(payload, client.context)


def score(question: Any, answer: Any, metric: Any, **changes: Any) -> float:
    result = evaluate([{"question": str(question), "answer": answer}], metric, **changes)
    (row,) = result[A("results")]
    assert row[A("error")] is None, row
    return row[A("score")]  # type: ignore[no-any-return]


# -- by name and by field ----------------------------------------------------------------------------------------------

BY_FIELD = [
    ("exact_match", "The Eiffel tower!", "eiffel tower", 1.0),
    ("f1", "yes indeed", "yes", 2 / 3),
    ("hotpot_f1", "yes indeed", "yes", 0.0),
    ("hotpot_f1", "red house", "red", 2 / 3),
    ({"tolerance": 0.5}, "3.5", 3.0, 1.0),
    ({"tolerance": 0.4}, "3.5", 3.0, 0.0),
    ({A("tolerance"): 0.1, A("relative"): True}, "109.0", 100.0, 1.0),
    ({"tolerance": 0.1, "relative": True}, "111.0", 100.0, 0.0),
    ({"metric": "f1"}, "yes indeed", "yes", 2 / 3),
]


@pytest.mark.parametrize(("metric", "got", "expected", "wanted"), BY_FIELD)
def test_metrics_of_single_fields(metric: Any, got: str, expected: Any, wanted: float) -> None:
    signature = "question -> answer: float" if isinstance(expected, float) else QA
    assert score(got, expected, metric, signature=signature) == pytest.approx(wanted)


def test_a_tolerance_is_for_numbers_and_others_must_be_the_same() -> None:
    assert score("a", "a", {"tolerance": 5}) == 1.0
    assert score("a", "b", {"tolerance": 5}) == 0.0
    assert score("true", False, {"tolerance": 5}, signature="question -> answer: bool") == 0.0


def model_of_two(request: Any) -> str:
    return "[[ ## title ## ]]\nred house\n\n[[ ## year ## ]]\n1999\n\n[[ ## completed ## ]]"


def test_each_output_by_its_own_metric() -> None:
    data = [{A("q"): "x", "title": "red", "year": 2000}]
    metric = {"fields": {A("title"): A("f1"), "year": {"tolerance": 1}}}
    client = Client(two=model_of_two)
    changes = {"signature": "q -> title, year: int", "lm": {"callback": "two"}}
    result = evaluate(data, metric, client, **changes)
    assert result[A("score")] == pytest.approx((2 / 3 + 1) / 2)
    assert result[A("results")][0][A("feedback")] == 'title: expected "red", got "red house".'
    assert result[A("metric")] == {A("fields"): {A("title"): "f1", "year": {A("tolerance"): 1.0}}}
    # what is not named does not count
    assert evaluate(data, {"fields": {"year": {"tolerance": 1}}}, client, **changes)[A("score")] == 1.0
    assert evaluate(data, "exact_match", client, **changes)[A("score")] == 0.0


def test_a_passage_that_has_the_answer() -> None:
    passages = '[[ ## context ## ]]\n["It is in Paris.", "Rome"]\n\n[[ ## completed ## ]]'
    client = Client(lm=lambda request: passages)
    data = [{"q": "", "context": [], "answer": wanted} for wanted in ("paris", "London")]
    changes = {"signature": "q -> context: list[str]", "lm": {"callback": "lm"}}
    result = evaluate(data, "passage_match", client, **changes)
    assert [row[A("score")] for row in result[A("results")]] == [1.0, 0.0]
    named = [{"q": "", "context": [], "gold": "rome"}]
    assert evaluate(named, {"metric": "passage_match", "answer": "gold"}, client, **changes)[A("score")] == 1.0
    with pytest.raises(InvalidRequest, match="the rows have no column answer"):
        evaluate(named, "passage_match", client, **changes)


def test_a_weighted_sum() -> None:
    parts = [{"metric": "exact_match", "weight": 1}, {"metric": {"callback": A("half")}, A("weight"): 3}]
    client = Client(half=lambda example, prediction: {"score": 0.5, "feedback": "so so"})
    result = evaluate([{"question": "a", "answer": "a"}], {"weighted": parts}, client)
    assert result[A("score")] == pytest.approx((1.0 + 3 * 0.5) / 4)
    assert result[A("results")][0][A("feedback")] == "This is right. so so"
    wire = result[A("metric")][A("weighted")]
    assert [part[A("weight")] for part in wire] == [1.0, 3.0]
    # the wire is a metric again
    assert evaluate([{"question": "a", "answer": "a"}], result[A("metric")], client)[A("score")] == result[A("score")]


# -- by a language model -----------------------------------------------------------------------------------------------


def judging(request: Any) -> str:
    """Gives 0.5 to whatever it is to judge, in the form that it is asked for."""
    system = request[A("messages")][0]["content"]
    outputs = system.split("Your output fields are:\n")[1].split("\nAll interactions")[0]
    names = [line.split("`")[1] for line in outputs.splitlines() if "`" in line]
    values = {"score", "recall", "precision", "completeness", "groundedness"}
    parts = [f"[[ ## {name} ## ]]\n{0.5 if name in values else 'well'}" for name in names]
    return "\n\n".join([*parts, "[[ ## completed ## ]]"])


@pytest.mark.parametrize(
    "metric",
    [
        {"metric": "semantic_f1", "lm": {"callback": "judge"}},
        {"metric": "complete_and_grounded", "context": "question", "lm": {"callback": "judge"}},
        {"judge": "Say whether the answer is polite.", "lm": {"callback": "judge"}},
    ],
)
def test_a_language_model_judges(metric: Any) -> None:
    client = Client(judge=judging)
    result = evaluate([{"question": "a", "answer": "b"}], metric, client)
    assert result[A("score")] == pytest.approx(0.5)
    assert result[A("usage")][A("lm_calls")] == len(client.calls) > 1
    assert "lm" not in str(result[A("metric")])  # whose model it is stays out of programs


def test_a_judge_is_told_what_was_asked_and_says_what_is_wrong() -> None:
    client = Client(judge=judging)
    metric = {"judge": "Be strict.", "lm": {"callback": "judge"}}
    result = evaluate([{"question": "a", "answer": "b"}], metric, client)
    assert result[A("results")][0][A("feedback")] == "well"
    system, user = (message["content"] for message in client.calls[-1][1][0][A("messages")])
    assert "Be strict." in system
    for part in ("[[ ## inputs ## ]]\na", "[[ ## expected ## ]]\nb", "[[ ## answer ## ]]\na"):
        assert part in user


@pytest.mark.parametrize("said", ["7", "nan", "-0.1"])
def test_a_judge_that_gives_no_score_is_an_error_of_the_row(said: str) -> None:
    answer = f"[[ ## feedback ## ]]\nhm\n\n[[ ## score ## ]]\n{said}\n\n[[ ## completed ## ]]"
    client = Client(judge=lambda request: answer)
    with pytest.raises(OptimizationError, match=r"no score from 0\.0 to 1\.0"):
        evaluate([{"question": "a", "answer": "b"}], {"judge": "x", "lm": {"callback": "judge"}}, client)


def test_the_models_own_judgement_where_no_other_is_named() -> None:
    result = evaluate([{"question": "a b", "answer": "a b c d"}], "semantic_f1", lm=LOCAL)
    assert result[A("usage")][A("lm_calls")] == 2
    assert 0.0 <= result[A("score")] <= 1.0


# -- functions of the client -------------------------------------------------------------------------------------------


def test_a_metric_gets_the_trace_if_it_wants_it() -> None:
    seen: list[Any] = []

    def judge(*arguments: Any) -> bool:
        seen.append(arguments)
        return True

    rows = character_names(4)
    config = {"optimizer": "bootstrap_few_shot", "max_demos": 1, "metric": {"callback": "judge", "trace": True}}
    payload = {"signature": CHARACTERS, "training_data": rows, "lm": LOCAL, "config": config}
    jobs.optimize_signature(payload, Client(judge=judge).context)
    circumstances = [arguments[2] for arguments in seen]
    assert {len(arguments) for arguments in seen} == {3}
    assert circumstances[0] == {A("trace"): [], A("predictor"): None}
    (step,) = next(one[A("trace")] for one in circumstances if one[A("trace")])
    assert step[A("inputs")] == {A("name"): rows[0][A("name")]}
    assert set(step[A("outputs")]) == {A("kind")}


def test_a_failing_metric_ends_the_evaluation() -> None:
    def judge(example: Any, prediction: Any) -> Any:
        raise RuntimeError("no")

    with pytest.raises(CallbackError, match="judge failed: no"):
        evaluate([{"question": "a", "answer": "b"}], {"callback": "judge"}, Client(judge=judge))


# -- what is refused ---------------------------------------------------------------------------------------------------


def nested(depth: int) -> Any:
    metric: Any = "f1"
    for _ in range(depth):
        metric = {"weighted": [{"metric": metric}]}
    return metric


REFUSED = [
    ({"fields": {"answr": "f1"}}, r'\.fields: expected outputs of the signature \(answer\), got "answr"'),
    ({"fields": {}}, r"\.fields: expected at least one field, got none"),
    ({"fields": {"answer": {"callback": "x"}}}, r'\.fields\.answer: unknown key "callback"'),
    ({"fields": {"answer": "semantic_f1"}}, r"\.fields\.answer: expected one of exact_match, f1, hotpot_f1, or"),
    ({"tolerance": -1}, r"\.tolerance: expected float >= 0"),
    ({"tolerance": "x"}, r'\.tolerance: expected float, got "x"'),
    ({"weighted": []}, r"\.weighted: expected list of length >= 1"),
    ({"weighted": [{"metric": "f1"}] * (MAX_PARTS + 1)}, rf"\.weighted: expected list of length <= {MAX_PARTS}"),
    ({"weighted": [{"metric": "f1", "weight": 0}]}, r"\.weighted\[0\]\.weight: expected float > 0"),
    ({"weighted": [{"metric": "f2"}]}, r"\.weighted\[0\]\.metric: expected one of exact_match"),
    (nested(MAX_DEPTH + 1), "nested 8 deep, no deeper"),
    ({"judge": ""}, r"\.judge: expected str of length >= 1"),
    ({"judge": "x", "lm": {"model": "local/x"}}, r"\.lm\.model: expected"),
    ({"metric": "f1", "lm": LOCAL}, "f1 takes no options"),
    ({"metric": "f2"}, r"\.metric: expected one of exact_match"),
    ({}, "or a map with one of the keys"),
    (5, "or a map with one of the keys"),
    ({"callback": 5}, r"\.callback: expected the name of a function"),
]


@pytest.mark.parametrize(("metric", "message"), REFUSED)
def test_what_is_no_metric_is_refused_before_any_work(metric: Any, message: str) -> None:
    client = Client()
    with pytest.raises(InvalidRequest, match=r"^payload\.config\.metric.*" + message):
        evaluate([{"question": "a", "answer": "b"}], metric, client)
    assert client.calls == []


def test_metrics_within_the_limits_are_taken() -> None:
    data = [{"question": "a", "answer": "a"}]
    assert evaluate(data, nested(MAX_DEPTH))[A("score")] == 1.0
    assert evaluate(data, {"weighted": [{"metric": "f1"}] * MAX_PARTS})[A("score")] == pytest.approx(1.0)


# -- how sure a score is -----------------------------------------------------------------------------------------------


def test_the_confusion_of_what_was_expected_and_what_came() -> None:
    rows = [{A("name"): "x", A("kind"): A(kind)} for kind in ("math", "digit", "math", "symbol")]
    result = evaluate(rows, "exact_match", signature=CHARACTERS, lm=LOCAL)  # it answers "digit", whatever comes
    table = result[A("confusion")][A("kind")]
    assert [tuple(cell.values()) for cell in table] == [
        (A("digit"), A("digit"), 1),
        (A("math"), A("digit"), 2),
        (A("symbol"), A("digit"), 1),
    ]
    assert [str(key) for key in table[0]] == ["expected", "predicted", "count"]
    assert evaluate([{"question": "a", "answer": "a"}], "f1")[A("confusion")] == {}


def test_rows_that_failed_are_in_the_confusion_as_nothing() -> None:
    answers = iter(["[[ ## kind ## ]]\nmath\n\n[[ ## completed ## ]]", "nonsense", "nonsense"])
    rows = [{A("name"): "x", A("kind"): A("math")}] * 2
    changes = {"signature": CHARACTERS, "lm": {"callback": "lm"}}
    client = Client(lm=lambda request: next(answers))
    config = {"metric": "exact_match", "num_threads": 1}
    result = evaluate(rows, "exact_match", client, config=config, **changes)
    assert [cell[A("predicted")] for cell in result[A("confusion")][A("kind")]] == [A("math"), None]
    assert (result[A("score")], result[A("errors")]) == (0.5, 1)


def test_a_score_has_an_interval() -> None:
    data = [{"question": str(n), "answer": str(n if n < 8 else -1)} for n in range(10)]
    result = evaluate(data, "exact_match")
    assert result[A("score")] == 0.8
    assert result[A("interval")] == pytest.approx([0.490, 0.943], abs=0.001)


# Student's quantiles, and Wilson's interval as statsmodels' proportion_confint has it.
def test_intervals_are_those_of_the_tables() -> None:
    for degrees, quantile in [(1, 12.706), (4, 2.776), (9, 2.262), (29, 2.045), (99, 1.984)]:
        assert confidence._t(degrees) == pytest.approx(quantile, rel=0.003)
    assert confidence.interval([1.0] * 10) == pytest.approx([0.7225, 1.0], abs=1e-4)
    assert confidence.interval([0.0] * 10) == pytest.approx([0.0, 0.2775], abs=1e-4)
    low, high = confidence.interval([10.0, 12.0, 14.0]) or (0, 0)
    assert (low, high) == pytest.approx((12 - 4.303 * 2 / math.sqrt(3), 12 + 4.303 * 2 / math.sqrt(3)))
    assert confidence.interval([7.5]) is None
    assert confidence.interval([0.5]) == [0.0, 1.0]


def exact(differences: list[float]) -> float:
    """The p-value by going through all signs."""
    observed = abs(sum(differences)) - 1e-9
    sums = [sum(sign * d for sign, d in zip(signs, differences, strict=True))
            for signs in itertools.product((1, -1), repeat=len(differences))]  # fmt: skip
    return sum(abs(one) >= observed for one in sums) / len(sums)


@pytest.mark.parametrize(
    "differences",
    [[1.0] * 7, [1.0] * 6 + [-1.0] * 2, [-0.5] * 9, [0.1, 0.2, 0.3, -0.1, 0.5, 0.7], [0.3, -0.3, 0.1]],
)
def test_p_values_are_those_of_all_permutations(differences: list[float]) -> None:
    assert confidence.p_value(differences) == pytest.approx(exact(differences), abs=0.015)
    assert confidence.p_value([-d for d in differences]) == confidence.p_value(differences)


def test_p_values_of_many_rows_go_on_smoothly() -> None:
    def mixed(rows: int) -> list[float]:
        return [0.1 * (index % 7 - 2.6) for index in range(rows)]

    drawn, normal = confidence.p_value(mixed(confidence.DRAWN)), confidence.p_value(mixed(confidence.DRAWN + 1))
    assert drawn == pytest.approx(normal, abs=0.01)
    assert confidence.p_value([1.0] * 520 + [-1.0] * 480) == pytest.approx(0.2174, abs=0.001)
    assert confidence.p_value([1.0] * 521 + [-1.0] * 480) == pytest.approx(0.195, abs=0.01)


def test_two_programs_are_compared_on_the_same_rows() -> None:
    rows = character_names(60)
    train, test = rows[:30], rows[30:]
    payload = {
        "signature": CHARACTERS,
        "training_data": train,
        "lm": LOCAL,
        "config": {"optimizer": "labeled_few_shot"},
    }
    program = jobs.optimize_signature(payload, Client().context)[A("program")]
    client = Client()
    changes = {"signature": None, "program": program, "lm": LOCAL, "baseline": {A("signature"): CHARACTERS}}
    result = evaluate(test, "exact_match", client, **changes)
    compared = result[A("comparison")]
    assert compared[A("difference")] == pytest.approx(result[A("score")] - compared[A("baseline_score")])
    assert compared[A("better")] - compared[A("worse")] == round(compared[A("difference")] * len(test))
    assert compared[A("better")] + compared[A("worse")] + compared[A("equal")] == len(test)
    assert compared[A("significant")] is True
    assert compared[A("p_value")] < 0.05
    low, high = compared[A("interval")]
    assert 0.0 < low < compared[A("difference")] < high <= 1.0
    assert {str(event[A("phase")]) for event in client.events} == {"baseline", "evaluate"}
    etf.encode(result, atoms=VOCABULARY | {A(name) for name in ("name", "kind", "digit", "letter", "math", "symbol")})
    same = evaluate(test, "exact_match", **{**changes, "baseline": {"program": program}})[A("comparison")]
    assert (same[A("difference")], same[A("p_value")], same[A("significant")]) == (0.0, 1.0, False)


def test_a_baseline_is_one_thing() -> None:
    with pytest.raises(BridgeError, match=r"^payload\.baseline: expected either a program or a signature$"):
        evaluate([{"question": "a", "answer": "b"}], "f1", baseline={})
