"""The modules of the table: what each does with its options, what is refused, and what it leaves in a program."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_dspy_support import Client, texts

from erl_bridge import etf
from erl_bridge.errors import CallbackError, InvalidRequest, MissingPackage, OptimizationError, Stopped
from erl_bridge.handlers.dspy import interpreters, jobs, modules, predict, programs, signatures
from erl_bridge.terms import Atom, Pid
from erl_bridge.vocabulary import VOCABULARY

A = Atom
QA = "question -> answer"
SEARCH = {
    A("name"): A("search"),
    A("description"): "Searches the handbook.",
    A("args"): [
        {A("name"): A("query")},
        {A("name"): A("limit"), A("type"): (A("optional"), A("int")), A("description"): "how many"},
    ],
}


def say(**fields: Any) -> str:
    """An answer of a model in the form that DSPy asks for."""
    return "\n\n".join([*(f"[[ ## {name} ## ]]\n{text}" for name, text in fields.items()), "[[ ## completed ## ]]"])


def think(tool: str, **args: Any) -> str:
    return say(next_thought="hm", next_tool_name=tool, next_tool_args=json.dumps(args))


class Model:
    """A language model that gives one answer after the other, and keeps what it was asked."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.requests: list[Any] = []

    def __call__(self, request: Any) -> str:
        self.requests.append(request)
        return self.answers[len(self.requests) - 1]

    def asked(self, number: int) -> str:
        """The last message of a request."""
        return str(self.requests[number][A("messages")][-1]["content"])

    def told(self, number: int) -> str:
        """The system message of a request."""
        return str(self.requests[number][A("messages")][0]["content"])


def run(model: Callable[..., Any], *, module: Any, client: dict[str, Any] | None = None, **changes: Any) -> Any:
    payload = {
        "signature": QA,
        "module": module,
        "inputs": {"question": "Where?"},
        "lm": {"callback": "lm"},
        **changes,
    }
    return predict.predict(payload, Client(lm=model, **(client or {})).context)


def agent(model: Model, search: Callable[[Any], Any], name: str = "react", **changes: Any) -> Any:
    return run(model, module=A(name), tools=[SEARCH], client={"search": search}, **changes)


# -- react ------------------------------------------------------------------------------------------------------------

DONE = (think("finish"), say(reasoning="I saw it.", answer="here"))


def test_an_agent_calls_functions_of_the_client() -> None:
    seen: list[Any] = []

    def search(args: Any) -> Any:
        seen.append(args)
        return {A("pages"): [{A("title"): A("home"), "at": 3}]}

    model = Model(think("search", query="x", limit=2), think("search", query="y"), *DONE)
    result = agent(model, search)
    assert seen == [{A("query"): "x", A("limit"): 2}, {A("query"): "y", A("limit"): None}]
    assert (result["answer"], texts(result)["reasoning"]) == ("here", "I saw it.")
    turns = texts(result)["trajectory"]
    assert [turn["tool_name"] for turn in turns] == ["search", "search", "finish"]
    assert turns[0] == {
        "thought": "hm",
        "tool_name": "search",
        "tool_args": {"query": "x", "limit": 2},
        "observation": {"pages": [{"title": "home", "at": 3}]},
    }
    assert '{"pages": [{"title": "home", "at": 3}]}' in model.asked(1)
    etf.encode(result, atoms=VOCABULARY)


def test_the_model_is_told_of_the_tools() -> None:
    model = Model(*DONE)
    agent(model, lambda args: "")
    assert "(1) search, whose description is <desc>Searches the handbook.</desc>" in model.told(0)
    assert "'query': {'type': 'string'}" in model.told(0)
    assert "'description': 'how many', 'default': None" in model.told(0)


BAD_CALLS = [
    ({}, "the arguments: missing field query"),
    ({"query": "x", "limt": 1}, 'the arguments: unknown key "limt" (did you mean "limit"?); the keys are query, limit'),
    ({"query": 5}, "the arguments.query: expected str, got 5"),
    ({"query": "x", "limit": "two"}, 'the arguments.limit: expected int or nil, got "two"'),
]


@pytest.mark.parametrize(("args", "said"), BAD_CALLS)
def test_arguments_that_do_not_fit_are_told_to_the_model(args: Any, said: str) -> None:
    model = Model(think("search", **args), *DONE)
    client = Client(lm=model, search=lambda args: "never")
    payload = {"signature": QA, "module": "react", "tools": [SEARCH], "inputs": {"question": "?"}}
    result = predict.predict({**payload, "lm": {"callback": "lm"}}, client.context)
    observed = texts(result)["trajectory"][0]["observation"]
    assert observed == f"Execution error in search: {said}"
    assert [name for name, _ in client.calls if name != "lm"] == []


def test_what_a_tool_raises_is_what_the_model_observes() -> None:
    def search(args: Any) -> Any:
        raise RuntimeError("the index is gone")

    model = Model(think("search", query="x"), *DONE)
    observed = texts(agent(model, search))["trajectory"][0]["observation"]
    assert observed == "Execution error in search: the client's function search failed: the index is gone"
    assert observed in model.asked(1)


def test_a_result_that_no_model_can_read_is_told_to_it() -> None:
    model = Model(think("search", query="x"), *DONE)
    observed = texts(agent(model, lambda args: Pid(A("a@b"), 1, 2, 3)))["trajectory"][0]["observation"]
    assert "called as a tool: expected text or what JSON can hold, got" in observed


def test_a_function_that_the_client_does_not_have_ends_the_run() -> None:
    client = Client(lm=Model(think("search", query="x"), *DONE))
    missing = {A("message"): "there is no callback named search; the request has lm", A("missing"): True}

    def call(call_id: int, name: Any, args: list[Any]) -> None:
        result = (A("error"), missing) if name is A("search") else (A("ok"), client.functions["lm"](*args))
        client.context.callback_result(call_id, result)

    client.call = call  # type: ignore[method-assign]
    payload = {"signature": QA, "module": "react", "tools": [SEARCH], "inputs": {"question": "?"}}
    with pytest.raises(CallbackError, match=r"search failed: there is no callback named search; the request has lm$"):
        predict.predict({**payload, "lm": {"callback": "lm"}}, client.context)


def test_a_cancel_ends_an_agent_in_the_middle_of_a_tool() -> None:
    client = Client(lm=Model(think("search", query="x"), *DONE))
    asked = threading.Event()

    def call(call_id: int, name: Any, args: list[Any]) -> None:
        if name is A("search"):
            asked.set()  # and never answers
        else:
            client.context.callback_result(call_id, (A("ok"), client.functions["lm"](*args)))

    client.call = call  # type: ignore[method-assign]
    threading.Thread(target=lambda: asked.wait(30) and client.context.stop()).start()
    payload = {"signature": QA, "module": "react", "tools": [SEARCH], "inputs": {"question": "?"}}
    with pytest.raises(Stopped):
        predict.predict({**payload, "lm": {"callback": "lm"}}, client.context)


def test_an_agent_has_so_many_turns() -> None:
    model = Model(think("search", query="x"), think("search", query="y"), say(reasoning="r", answer="enough"))
    result = run(model, module={"name": "react", "max_iters": 2, "tools": [SEARCH]}, client={"search": lambda args: ""})
    assert texts(result)["answer"] == "enough"


def test_the_successor_calls_several_tools_in_a_turn() -> None:
    calls = [{"name": "search", "args": {"query": "x"}}, {"name": "search", "args": {"query": "y"}}]
    submit = [{"name": "submit", "args": {"answer": "there"}}]
    model = Model(*(say(next_thought="hm", tool_calls=json.dumps({"tool_calls": one})) for one in (calls, submit)))
    result = texts(agent(model, lambda args: f"about {args[A('query')]}", "react_v2"))
    assert (result["answer"], result["termination_reason"]) == ("there", "submit")
    first = result["history"][0]
    observed = first["tool_calls"]["tool_call_results"]["tool_call_results"]
    assert [one["value"] for one in observed] == ["about x", "about y"]


TOOLS_REFUSED: list[tuple[Any, str]] = [
    ({}, "payload.module.tools: expected a list of at most 128 tools, got %{}"),
    ([5], "payload.module.tools[0]: expected map, got 5"),
    ([{"name": "finish"}], 'payload.module.tools[0].name: the tool name "finish" cannot be used: DSPy uses that name'),
    ([{"name": "a b"}], 'payload.module.tools[0].name: the tool name "a b" cannot be used: it must be ASCII letters'),
    ([{"description": "x"}], "payload.module.tools[0]: the required key name is missing"),
    ([SEARCH, SEARCH], "payload.module.tools[1].name: there is a tool search already"),
    ([{"name": "t", "args": [{"name": "x"}, {"name": "x"}]}],
     "payload.module.tools[0].args: the argument x is there twice"),
    ([{"name": "t", "args": [{"name": "x", "type": "nope"}]}],
     "payload.module.tools[0].args[0].type: expected a type ("),
    ([{"name": "t", "callback": 5}],
     "payload.module.tools[0].callback: expected the name of a function, an atom or a string, got 5"),
    ([{"name": "t", "function": "x"}], 'payload.module.tools[0]: unknown key "function"'),
]  # fmt: skip


@pytest.mark.parametrize(("tools", "message"), TOOLS_REFUSED)
def test_tools_that_do_not_fit_are_refused(tools: Any, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        run(Model(), module="react", tools=tools)
    assert caught.value.message.startswith(message)


def test_arguments_in_notation() -> None:
    seen: list[Any] = []
    tool = {"name": "add", "args": "a: int, b: int | None", "callback": "plus"}
    model = Model(think("add", a=1), *DONE)
    run(model, module="react", tools=[tool], client={"plus": lambda args: seen.append(args)})
    assert seen == [{"a": 1, "b": None}]


# -- several attempts -------------------------------------------------------------------------------------------------


def best_of(name: str = "best_of_n", **options: Any) -> dict[str, Any]:
    return {"name": name, "module": "predict", "reward": {"callback": "judge"}, **options}


def by_length(inputs: Any, outputs: Any) -> int:
    assert inputs == {"question": "Where?"}
    return len(outputs["answer"])


def test_the_best_of_several_attempts() -> None:
    model = Model(*(say(answer=text) for text in ("ab", "abcd", "a")))
    assert run(model, module=best_of(n=3), client={"judge": by_length}) == {"answer": "abcd"}
    assert [request[A("temperature")] for request in model.requests] == [1.0, 1.0, 1.0]


def test_an_attempt_that_is_good_enough_is_the_last() -> None:
    model = Model(*(say(answer=text) for text in ("ab", "abcd")))
    assert run(model, module=best_of(n=9, threshold=4), client={"judge": by_length}) == {"answer": "abcd"}


def test_attempts_may_fail_until_too_many_did() -> None:
    failed = ("no form", "nor this")  # DSPy asks a second time for another form
    good = say(answer="ab")
    assert run(Model(*failed, good), module=best_of(n=2), client={"judge": by_length}) == {"answer": "ab"}
    with pytest.raises(OptimizationError):
        run(Model(*failed, good), module=best_of(n=2, fail_count=0), client={"judge": by_length})
    with pytest.raises(OptimizationError):
        run(Model(*failed, *failed), module=best_of(n=2), client={"judge": by_length})


@pytest.mark.parametrize(("answer", "shown"), [(None, "nil"), ("good", '"good"'), (float("nan"), "nan")])
def test_a_reward_that_is_none_ends_the_run(answer: Any, shown: str) -> None:
    with pytest.raises(CallbackError) as caught:
        run(Model(say(answer="x")), module=best_of(), client={"judge": lambda inputs, outputs: answer})
    said = "the client's function judge, called as the reward: expected a number or a boolean, got"
    assert caught.value.message == f"{said} {shown}"


def test_between_two_attempts_the_model_says_what_to_do_better() -> None:
    advice = say(discussion="too short", advice='{"self": "Write more."}')
    model = Model(say(answer="ab"), advice, say(answer="abcd"))
    module = best_of("refine", n=2, threshold=4)
    assert run(model, module=module, client={"judge": by_length}) == {"answer": "abcd"}
    assert "Write more." in model.asked(2)
    assert "Write more." not in model.asked(0)
    for told in ("The function judge of the application", '"answer": "ab"', "[[ ## reward_value ## ]]\n2.0"):
        assert told in model.asked(1)


def test_the_model_may_be_the_judge() -> None:
    answers = [say(answer="rude"), say(score="0.25"), say(answer="polite"), say(score="0.75")]
    model = Model(*answers)
    module = best_of(n=2, reward={"judge": "Is the answer polite?"})
    assert run(model, module=module) == {"answer": "polite"}
    assert "Is the answer polite?" in model.told(1)
    assert '"answer": "rude"' in model.asked(1)
    with pytest.raises(OptimizationError, match=r"the language model that judges answered 7\.0, no score"):
        run(Model(say(answer="x"), say(score="7.0")), module=module)


def test_chains_are_compared() -> None:
    chains = [say(reasoning=f"way {n}", answer=f"a{n}") for n in range(3)]
    model = Model(*chains, say(rationale="the second", answer="a1"))
    assert run(model, module=A("multi_chain_comparison")) == {"rationale": "the second", "answer": "a1"}
    for n in range(3):
        assert f"I'm trying to way {n} I'm not sure but my prediction is a{n}" in model.asked(3)
    assert [request[A("temperature")] for request in model.requests] == [0.7] * 4


# -- code -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["program_of_thought", "rlm"])
def test_without_deno_it_says_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(interpreters.VARIABLE, raising=False)
    monkeypatch.setattr(interpreters, "_deno_is_there", lambda: False)
    with pytest.raises(MissingPackage) as caught:
        run(Model(), module=name)
    assert caught.value.message.startswith(f"the module {name} runs code that the model writes in Deno, which is not")
    assert 'pip install "dspy[deno]"' in caught.value.message
    assert caught.value.error_type == "import_error"


@pytest.fixture
def local_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(interpreters.VARIABLE, "local")


@pytest.mark.usefixtures("local_interpreter")
def test_a_program_of_thought_runs_what_the_model_writes() -> None:
    model = Model(
        say(reasoning="compute", generated_code="```python\nSUBMIT({'answer': 6 * 8})\n```"),
        say(reasoning="done", answer="48"),
    )
    assert run(model, module="program_of_thought") == {"reasoning": "done", "answer": "48"}
    assert "48" in model.asked(1).partition("code_output")[2]


@pytest.mark.usefixtures("local_interpreter")
def test_a_recursive_model_looks_through_its_inputs_with_code_and_tools() -> None:
    model = Model(
        say(reasoning="look", code="```python\nprint(len(question), search(query='x'))\n```"),
        say(reasoning="ask", code="```python\nSUBMIT(answer=llm_query('how?'))\n```"),
        "like this",
    )
    module = {"name": "rlm", "max_iters": 3, "tools": [SEARCH]}
    result = texts(run(model, module=module, client={"search": lambda args: "found it"}))
    assert (result["answer"], result["final_reasoning"]) == ("like this", "ask")
    assert result["trajectory"][0]["output"].strip() == "6 found it"


def test_who_runs_the_bridge_chooses_where_code_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(interpreters.VARIABLE, "host")
    with pytest.raises(InvalidRequest, match="is 'host': expected deno or local"):
        run(Model(), module="rlm")
    for name in ("interpreter", "interpreter_factory"):
        with pytest.raises(InvalidRequest, match=f'payload.module: unknown key "{name}"'):
            run(Model(), module={"name": "rlm", name: "local"})


@pytest.mark.skipif(sys.platform != "linux", reason="processes that end with their parent are Linux's")
def test_code_that_hangs_ends_with_the_job(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    hangs = f"import os\nwith open({str(pipe)!r}, 'w') as file: file.write(str(os.getpid()))\nwhile True: pass"
    code = f"from erl_bridge.handlers.dspy import interpreters\ninterpreters._local().execute({hangs!r})"
    job = subprocess.Popen([sys.executable, "-c", code])
    worker = os.pidfd_open(int(pipe.read_text()))  # there is none to read before the code runs
    try:
        job.kill()
        job.wait()
        ended, _, _ = select.select([worker], [], [], 30)
        assert ended == [worker]
    finally:
        os.close(worker)


# -- in programs ------------------------------------------------------------------------------------------------------

EVERY = [
    ("predict", "predict", ["self"]),
    ("chain_of_thought", "chain_of_thought", ["predict"]),
    ("react", {"name": "react", "tools": [SEARCH]}, ["react", "extract.predict"]),
    ("react_v2", {"name": "react_v2", "tools": [SEARCH]}, ["react"]),
    ("program_of_thought", "program_of_thought",
     ["code_generate.predict", "code_regenerate.predict", "generate_output.predict"]),
    ("rlm", {"name": "rlm", "max_llm_calls": 3}, ["generate_action", "extract"]),
    ("best_of_n", best_of(n=2, threshold=0.5), ["module"]),
    ("refine", best_of("refine", module="chain_of_thought", reward={"judge": "Is it good?"}), ["module.predict"]),
    ("multi_chain_comparison", {"name": "multi_chain_comparison", "n": 2}, ["attempt.predict", "compare.predict"]),
    ("pipeline", [{"name": "only", "signature": QA, "module": "react", "inputs": {"question": "question"}}], None),
    ("callback", {"callback": "f"}, []),
    ("nearest", {"name": "nearest", "module": "chain_of_thought"}, ["module.predict"]),
    ("ensemble", {"name": "ensemble", "members": ["predict", "chain_of_thought"]}, ["member_1", "member_2.predict"]),
]  # fmt: skip


@pytest.mark.usefixtures("local_interpreter")
@pytest.mark.parametrize(("name", "module", "predictors"), EVERY, ids=[name for name, *_ in EVERY])
def test_every_module_goes_into_a_program_and_out_again(name: str, module: Any, predictors: list[str] | None) -> None:
    if predictors is None:
        module = [{**module[0], "module": {"name": "react", "tools": [SEARCH]}}]
        predictors = ["only.react", "only.extract.predict"]
    signature = signatures.from_payload(QA)
    program = programs.new(modules.read(module, signature, "module", "signature"))
    assert [one.slot.name for one in program.predictors] == predictors
    stored = program.to_map()
    etf.encode(stored, atoms=VOCABULARY | {A(known) for known in ("search", "query", "limit")})
    for again in (stored, json.loads(json.dumps(texts(stored)))):
        assert programs.from_map(again, "program").fingerprint() == stored[A("fingerprint")]
    assert {kind for kind, *_ in EVERY} == set(modules.KINDS)


def test_options_that_are_as_they_would_be_are_not_written() -> None:
    signature = signatures.from_payload(QA)

    def wire(value: Any) -> Any:
        return modules.read(value, signature, "module", "signature").wire

    assert wire({"name": "multi_chain_comparison", "n": 3}) is A("multi_chain_comparison")
    assert wire({"name": "multi_chain_comparison", "n": 4}) == {A("name"): A("multi_chain_comparison"), A("n"): 4}


def test_an_agent_is_optimized_in_all_of_its_predictors() -> None:
    model = Model(*[think("search", query="x"), *DONE] * 6)
    rows = [{"question": f"q{number}", "answer": "here"} for number in range(2)]
    client = Client(lm=model, search=lambda args: [{"page": 1}])
    payload = {
        "signature": QA,
        "module": {"name": "react", "tools": [SEARCH]},
        "training_data": rows,
        "lm": {"callback": "lm"},
        "config": {"max_demos": 1, "max_labeled_demos": 0, "num_threads": 1},
    }
    program = jobs.optimize_signature(payload, client.context)[A("program")]
    react, extract = (one[A("demos")] for one in program[A("predictors")])
    assert react[0][A("augmented")]
    assert extract[0][A("augmented")]
    again = programs.from_map(json.loads(json.dumps(texts(program))), "program")
    built = again.build().react.demos[0]
    assert built["next_tool_name"] in ("search", "finish")
    assert isinstance(built["next_tool_args"], dict)
    react[0]["next_tool_name"] = "rm"
    with pytest.raises(
        InvalidRequest, match=r'demos\[0\]\.next_tool_name: expected one of "search", "finish", got "rm"'
    ):
        programs.from_map({**program, A("fingerprint"): None}, "program")


def calls(name: str, **args: Any) -> str:
    return say(next_thought="hm", tool_calls=json.dumps({"tool_calls": [{"name": name, "args": args}]}))


LEARNING: list[tuple[Any, list[str], list[int]]] = [
    ({"name": "react_v2", "tools": [SEARCH]}, [calls("search", query="x"), calls("submit", answer="here")], [1]),
    ("program_of_thought",
     [say(reasoning="c", generated_code="```python\nSUBMIT({'answer': 1})\n```"), say(reasoning="d", answer="here")],
     [1, 0, 1]),
    ({"name": "rlm", "tools": [SEARCH]},
     [say(reasoning="l", code="```python\nprint(search(query='x'))\n```"),
      say(reasoning="a", code="```python\nSUBMIT(answer='here')\n```")],
     [1, 0]),
    ({"name": "multi_chain_comparison", "n": 2},
     [say(reasoning="a", answer="x"), say(reasoning="b", answer="here"), say(rationale="r", answer="here")],
     [1, 1]),
    (best_of("refine", n=2, threshold=5),
     [say(answer="here"), say(discussion="d", advice='{"self": "x"}'), say(answer="here")],
     [1]),
]  # fmt: skip


@pytest.mark.usefixtures("local_interpreter")
@pytest.mark.parametrize(("module", "answers", "learned"), LEARNING, ids=[str(one[0])[:24] for one in LEARNING])
def test_what_predictors_learned_goes_through_json_and_works(
    module: Any, answers: list[str], learned: list[int]
) -> None:
    functions = {"search": lambda args: "found", "judge": lambda inputs, outputs: len(outputs["answer"])}
    payload = {
        "signature": QA,
        "module": module,
        "training_data": [{"question": "q", "answer": "here"}] * 2,
        "lm": {"callback": "lm"},
        "config": {"max_demos": 1, "max_labeled_demos": 0, "num_threads": 1},
    }
    client = Client(lm=Model(*answers * 8), **functions)
    program = jobs.optimize_signature(payload, client.context)[A("program")]
    assert [len(one[A("demos")]) for one in program[A("predictors")]] == learned
    stored = json.loads(json.dumps(texts(program)))
    assert programs.from_map(stored, "program").fingerprint() == program[A("fingerprint")]
    model = Model(*answers)
    result = run(model, module=None, signature=None, program=stored, client=functions)
    assert texts(result)["answer"] == "here"
    assert any(message["role"] == "assistant" for message in model.requests[0][A("messages")])  # a demonstration


def test_attempts_are_seen_by_optimizers() -> None:
    rows = [{"question": "q", "answer": "abcd"}]
    model = Model(*[say(answer="ab"), say(answer="abcd")] * 4)
    client = Client(lm=model, judge=lambda inputs, outputs: len(outputs["answer"]))
    payload = {
        "signature": QA,
        "module": best_of(n=2),
        "training_data": rows,
        "lm": {"callback": "lm"},
        "config": {"max_demos": 1, "max_labeled_demos": 0, "num_threads": 1},
    }
    program = jobs.optimize_signature(payload, client.context)[A("program")]
    (predictor,) = program[A("predictors")]
    assert predictor[A("demos")] == [{"question": "q", "answer": "abcd", A("augmented"): True}]


REFUSED: list[tuple[Any, str]] = [
    ({"name": "react"}, "payload.module: the required key tools is missing"),
    ({"name": "react", "tools": [], "max_iters": 0}, "payload.module.max_iters: expected an integer from 1 to 10000"),
    ({"name": "react", "tools": [], "turns": 1}, 'payload.module: unknown key "turns"; the keys are name, tools, max'),
    ({"name": "best_of_n"}, "payload.module: the required key module is missing"),
    (best_of(n=33), "payload.module.n: expected an integer from 1 to 32, got 33"),
    (best_of(threshold="high"), 'payload.module.threshold: expected a number, got "high"'),
    (best_of(reward="exact_match"), 'payload.module.reward: expected a map, got "exact_match"'),
    (best_of(reward={"metric": 1}), "payload.module.reward: expected %{callback: name}, a function of inputs and"),
    (best_of(reward={"judge": 5}), "payload.module.reward: expected %{callback: name}, a function of inputs and"),
    (best_of(module="tree"), "payload.module.module: expected one of predict, "),
    ({"n": 3}, "payload.module: expected a module: one of predict, "),
]  # fmt: skip


@pytest.mark.parametrize(("module", "message"), REFUSED)
def test_options_that_do_not_fit_are_refused(module: Any, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        run(Model(), module=module)
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("react", "trajectory"),
        ("react", "next_thought"),
        ("react_v2", "history"),
        ("multi_chain_comparison", "rationale"),
        ("multi_chain_comparison", "reasoning_attempt_2"),
        ("rlm", "final_reasoning"),
        ("program_of_thought", "generated_code"),
    ],
)
@pytest.mark.usefixtures("local_interpreter")
def test_fields_that_a_module_has_itself_are_refused(module: str, name: str) -> None:
    tools = {"tools": []} if module.startswith("react") else {}
    for signature in (f"{name} -> answer", f"question -> {name}"):
        with pytest.raises(InvalidRequest, match=f"{module} adds the field {name} itself; give yours another name"):
            run(Model(), module={"name": module, **tools}, signature=signature)


@pytest.mark.usefixtures("local_interpreter")
def test_what_dspy_refuses_to_build_is_an_invalid_request() -> None:
    with pytest.raises(InvalidRequest, match=r"^payload\.module: DSPy cannot build this module: .*\['print'\]"):
        run(Model(), module="rlm", signature="print -> answer")


def test_a_program_has_its_tools() -> None:
    program = programs.new(modules.read("predict", signatures.from_payload(QA), "m", "s")).to_map()
    with pytest.raises(InvalidRequest, match="the program has its own tools; leave it out"):
        run(Model(), module=None, signature=None, program=program, tools=[])


def test_the_documentation_has_the_table() -> None:
    text = (Path(__file__).parent.parent / "docs" / "protocol.md").read_text(encoding="utf-8")
    assert modules.table() in text


def test_records_are_learned_by_a_predictor_that_is_asked_several_times() -> None:
    answers = [
        *(say(reasoning="r", who='{"name": "Ann"}') for _ in range(2)),
        say(rationale="r", who='{"name": "Ann"}'),
    ]
    payload = {
        "signature": "q -> who: {name: str}",
        "module": {"name": "multi_chain_comparison", "n": 2},
        "training_data": [{"q": "1", "who": {"name": "Ann"}}] * 2,
        "lm": {"callback": "lm"},
        "config": {"max_demos": 1, "max_labeled_demos": 0, "num_threads": 1},
    }
    program = jobs.optimize_signature(payload, Client(lm=Model(*answers * 8)).context)[A("program")]
    assert [one[A("demos")][0]["who"] for one in program[A("predictors")]] == [{"name": "Ann"}] * 2
