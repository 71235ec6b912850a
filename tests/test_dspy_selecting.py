"""Modules that show the nearest demonstrations or vote, and what the local model makes of rules."""

from __future__ import annotations

from typing import Any

import pytest
from test_dspy_support import CHARACTERS, LOCAL, Client, texts

from erl_bridge.errors import CallbackError, InvalidRequest
from erl_bridge.handlers.dspy import nearest_rules, predict, programs
from erl_bridge.handlers.dspy.finetuning import LocalProvider, examples
from erl_bridge.handlers.dspy.nearest_demo import respond
from erl_bridge.terms import Atom

A = Atom
QA = "question -> answer"
DEMOS = [{"question": f"how {word} is it", "answer": word} for word in ("warm", "cold", "tall", "small", "old")]


def program(module: Any, /, **demos: Any) -> Any:
    """A program of the module whose predictors have these demonstrations."""
    predictors = [{"name": name, "demos": shown} for name, shown in demos.items()]
    signature = {"input_fields": [{"name": "question"}], "output_fields": [{"name": "answer"}]}
    return {"format": programs.FORMAT, "module": module, "signature": signature, "predictors": predictors}


def nearest(k: int, **options: Any) -> Any:
    return program({"name": "nearest", "module": "predict", "k": k, **options}, module=DEMOS)


def predicted(value: Any, client: Client | None = None, lm: Any = LOCAL, question: str = "how cold was it") -> Any:
    payload = {"program": value, "inputs": {"question": question}, "lm": lm}
    return predict.predict(payload, (client or Client()).context)


def shown(client: Client) -> list[str]:
    """The answers of the demonstrations in the last prompt."""
    (request,) = [args[0] for name, args in client.calls if name == "lm"][-1:]
    said = [message["content"] for message in request[A("messages")] if message["role"] == "assistant"]
    return [text.split("\n")[1] for text in said]


def saying(request: Any) -> str:
    return "[[ ## answer ## ]]\nyes\n\n[[ ## completed ## ]]"


# -- the nearest demonstrations ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2])
def test_only_the_nearest_demonstrations_are_shown(k: int) -> None:
    client = Client(lm=saying)
    predicted(nearest(k), client, {"callback": "lm"})
    assert len(shown(client)) == k
    assert shown(client)[0] == "cold"
    predicted(nearest(5), client, {"callback": "lm"})
    assert shown(client) == [demo["answer"] for demo in DEMOS]  # all of them, in their order


def test_a_program_that_shows_the_nearest_is_plain_data() -> None:
    value = nearest(2)
    loaded = programs.from_map(value, "payload.program")
    again = programs.from_map(texts(loaded.to_map()), "payload.program")
    assert again.fingerprint() == loaded.fingerprint()
    assert [demo["answer"] for demo in again.predictors[0].demo_maps()] == [demo["answer"] for demo in DEMOS]
    assert predicted(again.to_map()) == {"answer": "cold"}


def test_the_client_makes_the_vectors() -> None:
    asked: list[list[str]] = []

    def embed(inputs: list[str]) -> list[list[float]]:
        asked.append(inputs)
        return [[1.0, 0.0] if "tall" in text or "cold" in text else [0.1, 1.0] for text in inputs]

    client = Client(lm=saying, by_hand=embed)
    value = nearest(2, vectorizer={"callback": "by_hand"})
    predicted(value, client, {"callback": "lm"})
    assert shown(client) == ["cold", "tall"]
    assert [len(one) for one in asked] == [5, 1]
    predicted(value, client, {"callback": "lm"}, "how old was it")
    assert [len(one) for one in asked] == [5, 1, 1]  # the demonstrations are not asked for again
    assert shown(client) == ["warm", "small"]


@pytest.mark.parametrize("vectors", [None, [[1.0]], [[1.0], [1.0, 2.0]], [["x"]] * 5, [[float("nan")]] * 5, [1.0] * 5])
def test_a_function_that_makes_no_vectors_ends_the_request(vectors: Any) -> None:
    client = Client(bad=lambda inputs: vectors)
    with pytest.raises(CallbackError, match="called as the vectorizer: expected a list of 5 lists of"):
        predicted(nearest(1, vectorizer={"callback": "bad"}), client)


def test_many_inputs_at_once_show_their_own_demonstrations() -> None:
    inputs = [{"question": demo["question"]} for demo in DEMOS] * 4
    payload = {"program": nearest(1), "inputs": inputs, "lm": LOCAL, "config": {"num_threads": 4}}
    answers = predict.predict(payload, Client().context)
    assert [outputs["answer"] for _, outputs in answers] == [demo["answer"] for demo in DEMOS] * 4


# -- a vote ------------------------------------------------------------------------------------------------------------


def test_an_ensemble_answers_as_the_most_of_its_members() -> None:
    value = program(
        {"name": "ensemble", "members": ["predict"] * 3},
        member_1=[{"question": "x", "answer": "red"}],
        member_2=[{"question": "x", "answer": "The Blue!"}],
        member_3=[{"question": "x", "answer": "blue"}],
    )
    assert predicted(value) == {"answer": "The Blue!"}
    value["predictors"][2]["demos"] = [{"question": "x", "answer": "green"}]
    assert predicted(value) == {"answer": "red"}  # all differ: the first
    loaded = programs.from_map(value, "payload.program")
    assert programs.from_map(texts(loaded.to_map()), "payload.program").fingerprint() == loaded.fingerprint()


REFUSED = [
    ({"name": "ensemble", "members": []}, r"\.members: expected a list of 1 to 32 modules, got \[\]"),
    ({"name": "ensemble", "members": ["predict"] * 33}, r"\.members: expected a list of 1 to 32 modules"),
    ({"name": "ensemble", "members": ["predikt"]}, r'\.members\[0\]: expected one of .*, got "predikt"'),
    ({"name": "nearest", "module": "predict", "k": 0}, r"\.k: expected an integer from 1 to 256, got 0"),
    ({"name": "nearest", "module": "predict", "k": 257}, r"\.k: expected an integer from 1 to 256, got 257"),
    ({"name": "nearest"}, "the required key module is missing"),
    ({"name": "nearest", "module": "predict", "vectorizer": "bert"}, r"\.vectorizer: expected :words or"),
    ({"name": "nearest", "module": "predict", "vectorizer": {"callback": 1}}, r"\.vectorizer\.callback: expected"),
]


@pytest.mark.parametrize(("module", "message"), REFUSED)
def test_what_is_no_such_module_is_refused(module: Any, message: str) -> None:
    payload = {"signature": QA, "module": module, "inputs": {"question": "x"}, "lm": LOCAL}
    with pytest.raises(InvalidRequest, match=r"^payload\.module.*" + message):
        predict.predict(payload, Client().context)


# -- rules -------------------------------------------------------------------------------------------------------------

RULES = 'Tell the kind.\n- If it says "plus", then kind: math\nIf it says "capital", then kind: letter'


def test_the_local_model_follows_rules_where_nothing_is_shown() -> None:
    payload = {"signature": {**CHARACTERS, A("instructions"): RULES}, "lm": LOCAL}
    kinds = [
        predict.predict({**payload, "inputs": {A("name"): name}}, Client().context)[A("kind")]
        for name in ("PLUS SIGN", "LATIN CAPITAL A", "SNOWMAN")
    ]
    assert kinds == [A("math"), A("letter"), A("digit")]  # the last by no rule: the first to choose from


def test_rules_are_what_goes_with_one_value_and_a_contradiction_ends_one() -> None:
    pairs = [("so much rain", {"mood": "sad"}), ("so much sun", {"mood": "happy"})]
    first = nearest_rules.improved("Tell the mood.", pairs)
    rules = [
        'If it says "rain", then mood: sad',
        'If it says "sun", then mood: happy',
    ]
    assert first.splitlines() == ["Tell the mood.", *rules]
    assert nearest_rules.improved(first, pairs) == first
    again = nearest_rules.improved(first, [("a rain of joy", {"mood": "happy"})])
    assert 'If it says "rain"' not in again
    assert rules[1] in again


@pytest.mark.parametrize(
    ("wanted", "question"),
    [
        ("proposed_instruction", {"basic_instruction": "Go."}),
        ("proposed_instruction", {"attempted_instructions": "none"}),
        ("proposed_instruction", {"question": "what?"}),
        ("new_instruction", {"current_instruction": "Go.", "examples_with_feedback": "[1, {"}),
        ("module_advice", {"oracle_metadata": "?", "program_inputs": "?", "module_names": "?"}),
        ("natural_language_rules", {"examples_text": "Input Fields:\nx"}),
        ("recall", {"ground_truth": "", "system_response": "x"}),
        ("answer", {"question": "what?"}),
    ],
)
def test_what_cannot_be_read_gives_no_rules_and_no_error(wanted: str, question: dict[str, str]) -> None:
    assert "If it says" not in str(nearest_rules.propose([wanted], question))


# -- a model that was fine-tuned ---------------------------------------------------------------------------------------


def asking(question: str) -> str:
    return (
        f"[[ ## question ## ]]\n{question}\n\nRespond with the corresponding output fields, starting with the field "
        "`[[ ## answer ## ]]`, and then ending with the marker for `[[ ## completed ## ]]`."
    )


def teach(model: str, **answers: str) -> str:
    data = [
        {
            "messages": [
                {"role": "system", "content": "Answer."},
                {"role": "user", "content": asking(question)},
                {"role": "assistant", "content": f"[[ ## answer ## ]]\n{answer}\n\n[[ ## completed ## ]]"},
            ]
        }
        for question, answer in answers.items()
    ]
    return LocalProvider.finetune(None, model, data, "chat")


def test_a_fine_tuned_model_knows_without_being_shown(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERL_BRIDGE_HOME", str(tmp_path))
    model = teach(LOCAL, rain="wet", sun="dry")
    assert model == teach(LOCAL, rain="wet", sun="dry") != teach(LOCAL, rain="dry")
    assert len(list(tmp_path.glob("models/*.jsonl"))) == 2
    assert "dry" in respond("", [asking("much sun")], examples(model))
    further = teach(model, snow="cold")
    assert len(examples(further)) == 3
    payload = {"signature": QA, "inputs": {"question": "snow"}, "lm": further}
    assert predict.predict(payload, Client().context) == {"answer": "cold"}
    # for another task it is the model that it was
    other = {"signature": "question -> mood: Literal['a', 'b']", "inputs": {"question": "snow"}, "lm": further}
    assert predict.predict(other, Client().context) == {"mood": "a"}


@pytest.mark.parametrize("name", [f"{LOCAL}:{'0' * 32}", f"{LOCAL}:../x", f"{LOCAL}:"])
def test_a_model_that_nobody_made_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^payload\.lm\.model: expected .*, or one fine-tuned of it here, got"):
        predict.predict({"signature": QA, "inputs": {"question": "x"}, "lm": name}, Client().context)
