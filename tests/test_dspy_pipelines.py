"""Programs of several steps: how values flow through them, what is refused, and that optimizers reach every step."""

from __future__ import annotations

from typing import Any

import pytest
from test_dspy_support import CHARACTERS, LOCAL, Client, character_names, texts

from erl_bridge import etf
from erl_bridge.errors import CallbackError, InvalidRequest
from erl_bridge.handlers.dspy import jobs, predict, programs
from erl_bridge.terms import Atom
from erl_bridge.vocabulary import VOCABULARY

A = Atom
ROWS = character_names(30)
SEARCH = {"name": A("search"), "signature": "query -> passages: list[str]", "callback": A("find")}
MULTI_HOP = [
    {"name": A("ask"), "signature": "question -> query"},
    SEARCH,
    {
        "name": A("answer"),
        "signature": "question, context: list[str] -> answer",
        "module": A("chain_of_thought"),
        "inputs": {"context": "search.passages"},
    },
]
SORTING = [
    {"name": A("look"), "signature": "name -> words"},
    {"name": A("sort"), "signature": "name, words -> kind: Literal['digit', 'letter', 'math', 'symbol']"},
]


def run(client: Client, **changes: Any) -> Any:
    payload = {
        "signature": "question -> answer",
        "module": MULTI_HOP,
        "inputs": {"question": "Where is it?"},
        "lm": {"callback": "lm"},
        **changes,
    }
    return predict.predict(payload, client.context)


def model(request: Any) -> str:
    """Asks for the question in capitals, and answers with what was found."""
    asked = request[A("messages")][-1]["content"]
    if "[[ ## query ## ]]" in asked.rpartition("Respond with")[2]:
        question = asked.split("[[ ## question ## ]]\n")[1].split("\n")[0]
        return f"[[ ## query ## ]]\n{question.upper()}\n\n[[ ## completed ## ]]"
    found = asked.split("[[ ## context ## ]]\n")[1].split("\n")[0]
    return f"[[ ## reasoning ## ]]\nI read.\n\n[[ ## answer ## ]]\n{found}\n\n[[ ## completed ## ]]"


def find(inputs: Any) -> list[str]:
    return [f"about {inputs['query']}"]


# -- at work ----------------------------------------------------------------------------------------------------------


def test_what_a_step_gives_later_steps_take() -> None:
    client = Client(lm=model, find=find)
    assert run(client) == {"answer": '["about WHERE IS IT?"]'}
    assert (A("find"), [{"query": "WHERE IS IT?"}]) in client.calls


SOURCES = ["search.passages", (A("search"), A("passages")), ["search", "passages"], "passages"]


@pytest.mark.parametrize("source", SOURCES)
def test_an_input_names_its_source(source: Any) -> None:
    steps = [*MULTI_HOP[:2], {**MULTI_HOP[2], "inputs": {A("context"): source}}]
    assert run(Client(lm=model, find=find), module=steps)["answer"] == '["about WHERE IS IT?"]'


def test_without_one_it_takes_the_last_value_of_its_name() -> None:
    steps = [
        {"name": "first", "signature": "x -> x", "callback": "twice"} | {"signature": "x: int -> y: int"},
        {"name": "second", "signature": "y: int -> z: int", "callback": "twice"},
        {"name": "third", "signature": "z: int -> y: int", "callback": "twice"},
        {"name": "fourth", "signature": "x: int, y: int -> z: int", "callback": "sum"},
    ]
    client = Client(twice=lambda inputs: 2 * next(iter(inputs.values())), sum=lambda inputs: inputs["x"] + inputs["y"])
    assert run(client, signature="x: int -> z: int, y: int", module=steps, inputs={"x": 1}) == {"z": 9, "y": 8}


def test_steps_may_be_pipelines_themselves() -> None:
    inner = [{"name": "a", "signature": "question -> query"}, {**SEARCH, "name": "b"}]
    steps = [{"name": "find", "signature": "question -> passages: list[str]", "module": inner}, MULTI_HOP[2]]
    steps[1] = {**steps[1], "inputs": {"context": "passages"}}
    client = Client(lm=model, find=find)
    assert run(client, module=steps) == {"answer": '["about WHERE IS IT?"]'}
    program = programs.from_map(optimized(signature="question -> answer", module=steps), "program")
    assert [one.slot.name for one in program.predictors] == ["find.a", "answer.predict"]


def test_fields_with_atoms_stay_with_atoms_on_the_whole_way() -> None:
    def field(name: str, **more: Any) -> Any:
        return {A("name"): A(name), **more}

    def sig(first: str, second: Any) -> Any:
        return {A("input_fields"): [field(first)], A("output_fields"): [second]}

    steps = [
        {A("name"): A("ask"), A("signature"): sig("question", field("kind", type=(A("literal"), [A("x")])))},
        {A("name"): A("look"), A("signature"): sig("kind", field("answer")), A("callback"): A("look")},
    ]
    client = Client(lm=lambda request: "[[ ## kind ## ]]\nx\n\n[[ ## completed ## ]]", look=lambda inputs: A("found"))
    result = run(client, signature=sig("question", field("answer")), module=steps)
    assert result == {A("answer"): "found"}
    assert client.calls[-1] == (A("look"), [{A("kind"): "x"}])


def test_a_record_goes_from_step_to_step_whoever_wrote_its_type_and_how() -> None:
    person = (A("map"), [{A("name"): A("name"), A("description"): "the full name"}])
    steps = [
        {
            "name": "find",
            "signature": {"input_fields": [{"name": "question"}], "output_fields": [{"name": "who", "type": person}]},
        },
        {"name": "greet", "signature": "who: {name: str} -> answer", "callback": "greet"},
    ]
    client = Client(
        lm=lambda request: '[[ ## who ## ]]\n{"name": "Ann"}\n\n[[ ## completed ## ]]',
        greet=lambda inputs: f"Hello {inputs['who']['name']}",
    )
    assert run(client, module=steps) == {"answer": "Hello Ann"}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (5, "expected a list of str for passages, got 5"),
        (["a", 5], "expected str for passages[1], got 5"),
        ({A("passages"): None}, "expected a list of str for passages, got nil"),
        ({"found": []}, 'expected a list of str for passages, got %{"found" => []}'),
    ],
)
def test_a_function_that_returns_something_else_fails_the_row(answer: Any, said: str) -> None:
    client = Client(lm=model, find=lambda inputs: answer)
    with pytest.raises(CallbackError) as caught:
        run(client)
    assert caught.value.message == f"the client's function find: {said}"


def test_a_function_with_two_outputs_returns_a_map_of_them() -> None:
    step = {"name": "f", "signature": "q -> a, b", "callback": "f"}
    client = Client(f=lambda inputs: {A("b"): "2", "a": "1"})
    assert run(client, signature="q -> a, b", module=[step], inputs={"q": ""}) == {"a": "1", "b": "2"}
    with pytest.raises(CallbackError, match=r"^the client's function f: expected a map of a, b, got %\{\"a\" => 1\}$"):
        run(Client(f=lambda inputs: {"a": 1}), signature="q -> a, b", module=[step], inputs={"q": ""})


def test_a_function_that_fails_fails_its_row_and_no_other() -> None:
    def flaky(inputs: Any) -> list[str]:
        if "BAD" in inputs["query"]:
            raise RuntimeError("no index")
        return find(inputs)

    inputs = [{"question": question} for question in ("good", "bad", "fine")]
    result = run(Client(lm=model, find=flaky), inputs=inputs)
    assert [tag for tag, _ in result] == [A("ok"), A("error"), A("ok")]
    assert result[1][1][A("message")] == "the client's function find failed: no index"


# -- optimizing -------------------------------------------------------------------------------------------------------


def optimized(client: Client | None = None, **changes: Any) -> Any:
    rows = [{"question": "a", "answer": "unknown"}, {"question": "b", "answer": "unknown"}]
    payload = {"training_data": rows, "lm": LOCAL, **changes}
    context = (client or Client(find=find)).context
    return jobs.optimize_signature(payload, context)[A("program")]


def test_optimizing_a_pipeline_optimizes_all_of_its_predictors() -> None:
    program = optimized(signature=CHARACTERS, module=SORTING, training_data=ROWS)
    by_name = {one[A("name")]: one[A("demos")] for one in program[A("predictors")]}
    assert list(by_name) == ["look", "sort"]
    for demos in by_name.values():
        assert any(demo.get(A("augmented")) for demo in demos)
    assert set(by_name["look"][0]) == {"name", "words", A("augmented")}
    # rows show nothing to a step that takes what they do not have
    assert all("kind" in demo for demo in by_name["sort"])
    again = programs.from_map(program, "program")
    assert again.to_map(program[A("score")], program[A("metric")], program[A("scored_on")]) == program
    assert [len(one.demos) for one in again.build().predictors()] == [len(demos) for demos in by_name.values()]


def test_a_pipeline_goes_through_json_and_keeps_its_fingerprint() -> None:
    program = optimized(signature="question -> answer", module=MULTI_HOP)
    assert programs.from_map(texts(program), "program").fingerprint() == program[A("fingerprint")]
    names = {"find", "search", "ask", "answer"}
    etf.encode(program, atoms=VOCABULARY | {A(name) for name in names})
    assert program[A("module")][A("steps")][1] == {
        A("name"): A("search"),
        A("signature"): program[A("module")][A("steps")][1][A("signature")],
        A("module"): {A("name"): A("callback"), A("callback"): A("find")},
    }


def test_a_pipeline_that_was_changed_to_call_another_function_is_refused() -> None:
    program = optimized(signature="question -> answer", module=MULTI_HOP)
    program[A("module")][A("steps")][1][A("module")][A("callback")] = A("delete_all")
    with pytest.raises(InvalidRequest, match="the program was changed after it was made"):
        programs.from_map(program, "program")


# -- what is refused --------------------------------------------------------------------------------------------------

AT = "payload.module.steps"
ASK, _, ANSWER = MULTI_HOP
NAMES = "question, ask.query, search.passages"
REFUSED: list[tuple[Any, str]] = [
    ([], f"{AT}: expected a list of 1 to 64 steps, got []"),
    ([ASK] * 65, f"{AT}: expected a list of 1 to 64 steps, got [%{{"),
    ([5], f"{AT}[0]: expected a map, got 5"),
    ([{"name": "a"}], f"{AT}[0]: the required key signature is missing"),
    ([{"signature": "a -> b"}], f"{AT}[0]: the required key name is missing"),
    ([{**ASK, "modul": "x"}], f'{AT}[0]: unknown key "modul" (did you mean "module"?); the keys are name, signature, '
     "module, callback, inputs"),
    ([{**ASK, "name": 5}], f"{AT}[0].name: expected an atom or a string, got 5"),
    ([{**ASK, "name": "a step"}], f'{AT}[0].name: the step name "a step" cannot be used: it must be ASCII letters, '
     "digits and underscores, beginning with a letter"),
    ([{**ASK, "name": "forward"}], f'{AT}[0].name: the step name "forward" cannot be used: DSPy uses that name itself'),
    ([{**ASK, "name": "history"}], f'{AT}[0].name: the step name "history" cannot be used: DSPy uses that name itself'),
    ([ASK, ASK], f"{AT}[1].name: there is a step ask already"),
    ([{**SEARCH, "module": "predict"}], f"{AT}[0]: expected either a module or a callback"),
    ([{**SEARCH, "signature": "question -> answer", "callback": 5}],
     f"{AT}[0].module.callback: expected the name of a function, an atom or a string, got 5"),
    ([{**ASK, "module": "tree"}], f"{AT}[0].module: expected one of predict, "),
    ([{**ASK, "signature": "question -> reasoning", "module": "chain_of_thought"}],
     f"{AT}[0].signature: chain_of_thought adds the field reasoning itself; give yours another name"),
    ([{**ASK, "signature": "q"}], f'{AT}[0].signature: expected "->" between inputs and outputs'),
    ([{**ASK, "inputs": {"query": "question"}}], f'{AT}[0].inputs: unknown key "query"; the keys are question'),
    # an unknown value, a missing one, a circle, a type that does not fit
    ([ASK, SEARCH, {**ANSWER, "inputs": {"context": "search.pasages"}}],
     f'{AT}[2].inputs.context: expected the name of a value there is by then ({NAMES}), got "search.pasages"'),
    ([ASK, SEARCH, {**ANSWER, "inputs": {"context": 5}}],
     f"{AT}[2].inputs.context: expected the name of a value ({NAMES}), got 5"),
    ([ASK, SEARCH, {**ANSWER, "inputs": {}}],
     f"{AT}[2]: nothing gives the input context: expected a value of that name, or another one under inputs.context "
     f"({NAMES})"),
    ([{**ASK, "inputs": {"question": "answer.answer"}}, SEARCH, ANSWER],
     f"{AT}[0].inputs.question: the step answer does not come before this one, so it has no outputs yet; what steps "
     "take from each other must not go in a circle"),
    ([{**ASK, "inputs": {"question": "ask.query"}}],
     f"{AT}[0].inputs.question: the step ask does not come before this one, so it has no outputs yet"),
    ([ASK, SEARCH, {**ANSWER, "inputs": {"context": "ask.query"}}],
     f"{AT}[2].inputs.context: expected list[str] for context, but the step ask gives query: str"),
    ([{**ASK, "signature": "question: int -> query"}, SEARCH, ANSWER],
     f"{AT}[0].inputs.question: expected int for question, but the input question is: str"),
    ([ASK, SEARCH], f"{AT}: no step gives the output answer"),
    ([{**ASK, "signature": "question -> answer: int"}],
     f"{AT}: expected str for answer, but the step ask gives answer: int"),
]  # fmt: skip


@pytest.mark.parametrize(("steps", "message"), REFUSED)
def test_steps_that_do_not_fit_are_refused_before_anything_runs(steps: Any, message: str) -> None:
    client = Client(lm=model, find=find)
    with pytest.raises(InvalidRequest) as caught:
        run(client, module=steps)
    assert caught.value.message.startswith(message)
    assert client.calls == []


def test_modules_within_modules_have_a_limit() -> None:
    module: Any = "predict"
    for _ in range(7):
        module = [{"name": "s", "signature": "question -> answer", "module": module}]
    client = Client(lm=lambda request: "[[ ## answer ## ]]\nx\n\n[[ ## completed ## ]]")
    assert run(client, module=module) == {"answer": "x"}
    module = [{"name": "s", "signature": "question -> answer", "module": module}]
    with pytest.raises(InvalidRequest, match="modules within modules deeper than 8"):
        run(client, module=module)
