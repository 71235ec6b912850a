"""Programs as plain data: what they hold, where they load, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import dspy
import pytest
from test_dspy_support import CHARACTERS, LOCAL, Client, atoms, character_names, texts

from erl_bridge import etf
from erl_bridge.errors import InvalidRequest
from erl_bridge.handlers.dspy import jobs, predict, programs
from erl_bridge.terms import Atom
from erl_bridge.version import VERSION
from erl_bridge.vocabulary import VOCABULARY

A = Atom
OURS = f"erl_bridge {VERSION} with dspy {dspy.__version__}"
ROWS = character_names(20)


def optimized(**more: Any) -> Any:
    payload = {"signature": CHARACTERS, "training_data": ROWS, "lm": LOCAL, **more}
    return jobs.optimize_signature(payload, Client().context)


@pytest.fixture(scope="module")
def program() -> Any:
    return optimized()[A("program")]


def test_a_program_holds_what_it_takes(program: Any) -> None:
    assert program[A("format")] == 1
    assert program[A("module")] is A("predict")
    assert program[A("signature")][A("instructions")] == "Say what kind of character this is."
    assert program[A("signature")][A("input_fields")] == [
        {A("name"): A("name"), A("type"): A("str"), A("description"): "the name of a character"}
    ]
    assert program[A("versions")] == {A("dspy"): dspy.__version__, A("erl_bridge"): VERSION}
    assert program[A("metric")] == "exact_match"
    assert 0.0 < program[A("score")] <= 1.0
    made, taken = [], []
    for demo in program[A("demos")]:
        (made if A("augmented") in demo else taken).append(demo)
    assert len(made) in range(1, 5)
    assert len(made) + len(taken) == 16
    assert all(demo in ROWS for demo in taken)


def test_it_comes_back_the_same_through_bytes_and_through_json(program: Any) -> None:
    same = programs.from_map(etf.decode(etf.encode(program)), "payload.program")
    assert same.to_map(program[A("score")], "exact_match") == program
    through_json = programs.from_map(json.loads(json.dumps(texts(program))), "payload.program")
    assert through_json.fingerprint() == program[A("fingerprint")]
    assert texts(through_json.to_map(program[A("score")], "exact_match")) == texts(program)


def test_its_atoms_are_those_of_the_client_and_of_the_vocabulary(program: Any) -> None:
    own = {A(name) for name in ("name", "kind", "digit", "letter", "math", "symbol")}
    etf.encode(program, atoms=VOCABULARY | own)


def test_it_works_in_a_process_that_never_saw_it(program: Any) -> None:
    question = {"name": "LATIN CAPITAL LETTER Q"}
    here = predict.predict({"program": program, "inputs": question, "lm": LOCAL}, Client().context)
    code = """
import sys
from erl_bridge import etf
from erl_bridge.context import Context
from erl_bridge.handlers.dspy import predict
payload = etf.decode(sys.stdin.buffer.read())
sys.stdout.buffer.write(etf.encode(predict.predict(payload, Context(None, request_type="predict"))))
"""
    payload = etf.encode({"program": program, "inputs": question, "lm": LOCAL})
    done = subprocess.run([sys.executable, "-c", code], input=payload, capture_output=True, check=True)
    assert etf.decode(done.stdout) == here == {A("kind"): A("letter")}


def test_a_module_keeps_the_outputs_it_adds() -> None:
    program = optimized(module="chain_of_thought", config={"max_labeled_demos": 2, "max_demos": 1})[A("program")]
    reasoning = programs.from_map(program, "payload.program").outputs[0].label
    assert str(reasoning) == "reasoning"
    assert any(reasoning in demo for demo in program[A("demos")])
    answer = predict.predict({"program": program, "inputs": {A("name"): "DIGIT SEVEN"}, "lm": LOCAL}, Client().context)
    assert list(answer) == [reasoning, A("kind")]


def test_a_program_can_be_optimized_further(program: Any) -> None:
    payload = {"program": program, "training_data": ROWS, "lm": LOCAL, "config": {"optimizer": A("labeled_few_shot")}}
    again = jobs.optimize_signature(payload, Client().context)
    assert again[A("optimization_metrics")][A("baseline_score")] == program[A("score")]
    assert again[A("program")][A("signature")] == program[A("signature")]


def change(program: Any, **changes: Any) -> Any:
    return {**program, **atoms(changes)}


def without(program: Any, *names: str) -> Any:
    return {key: value for key, value in program.items() if str(key) not in names}


TAMPERED = [
    ({"lm": {"api_base": "http://evil"}}, "payload.program: unknown key :lm; the keys are format, module, signature, "
     "demos, versions, fingerprint, score, metric"),
    ({"config": {"api_base": "http://evil"}}, "payload.program: unknown key :config"),
    ({"traces": []}, "payload.program: unknown key :traces"),
    ({"format": 2, "versions": {"dspy": "4.0.0", "erl_bridge": "9.1.0"}, "steps": []},
     f"payload.program.format: expected 1, which {OURS} reads, got 2, made by erl_bridge 9.1.0 with dspy 4.0.0"),
    ({"format": "1"}, f'payload.program.format: expected 1, which {OURS} reads, got "1", made by {OURS}'),
    ({"module": "os.system"}, "payload.program.module: expected one of predict, chain_of_thought, got \"os.system\""),
    ({"demos": {}}, "payload.program.demos: expected list, got %{}"),
    ({"demos": [5]}, "payload.program.demos[0]: expected a map, got 5"),
    ({"demos": [{"name": "x", "lm": 1}]},
     "payload.program.demos[0]: unknown key :lm; the keys are name, kind, augmented"),
    ({"demos": [{"name": 1}]}, "payload.program.demos[0].name: expected str, got 1"),
    ({"demos": [{"augmented": 1}]}, "payload.program.demos[0].augmented: expected a boolean, got 1"),
    ({"signature": {}}, "payload.program.signature: the required key input_fields is missing"),
    ({"demos": []}, "payload.program.fingerprint: the program was changed after it was made: its content has the"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), TAMPERED)
def test_a_program_that_was_changed_is_refused(program: Any, changes: Any, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        programs.from_map(change(program, **changes), "payload.program")
    assert caught.value.message.startswith(message)


def test_a_change_that_is_meant_leaves_the_fingerprint_out(program: Any) -> None:
    changed = without(change(program, demos=[], versions={"dspy": "2.6.0"}), "fingerprint", "score", "metric")
    assert programs.from_map(changed, "payload.program").demos == ()


@pytest.mark.parametrize("missing", ["module", "signature", "demos"])
def test_what_a_program_needs(program: Any, missing: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"^payload\.program: the required key {missing} is missing$"):
        programs.from_map(without(program, missing), "payload.program")


def test_a_program_is_a_map() -> None:
    with pytest.raises(InvalidRequest, match=r"^payload\.program: expected a map, got 5$"):
        programs.from_map(5, "payload.program")


def test_of_dspys_state_only_instructions_and_demos_are_taken() -> None:
    module = programs.Program("predict", programs.from_payload("question -> answer")).build()
    predictor = module.predictors()[0]
    predictor.config = {"api_base": "http://evil"}
    predictor.demos = [{"question": "1", "answer": "2", "api_base": "http://evil", "augmented": True}]
    program = programs.Program("predict", programs.from_payload("question -> answer")).after(module)
    assert "evil" not in repr(program.to_map())
    assert program.demo_maps() == [{"question": "1", "answer": "2", A("augmented"): True}]
