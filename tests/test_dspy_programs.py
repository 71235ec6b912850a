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
from erl_bridge.handlers.dspy import jobs, modules, predict, programs, schema, signatures
from erl_bridge.terms import Atom
from erl_bridge.validation import validate
from erl_bridge.version import VERSION
from erl_bridge.vocabulary import VOCABULARY

A = Atom
OURS = f"erl_bridge {VERSION} with dspy {dspy.__version__}"
ROWS = character_names(20)


def optimized(**more: Any) -> Any:
    payload = {"signature": CHARACTERS, "training_data": ROWS, "lm": LOCAL, **more}
    return jobs.optimize_signature(payload, Client().context)


def demos_of(program: Any) -> Any:
    (predictor,) = program[A("predictors")]
    return predictor[A("demos")]


@pytest.fixture(scope="module")
def program() -> Any:
    return optimized()[A("program")]


def test_a_program_holds_what_it_takes(program: Any) -> None:
    assert program[A("format")] == 2
    assert program[A("module")] is A("predict")
    assert program[A("signature")][A("instructions")] == "Say what kind of character this is."
    assert program[A("signature")][A("input_fields")] == [
        {A("name"): A("name"), A("type"): A("str"), A("description"): "the name of a character"}
    ]
    assert program[A("versions")] == {A("dspy"): dspy.__version__, A("erl_bridge"): VERSION}
    assert program[A("metric")] == "exact_match"
    assert 0.0 < program[A("score")] <= 1.0
    assert [{**one, A("demos"): []} for one in program[A("predictors")]] == [
        {A("name"): "self", A("instructions"): None, A("demos"): []}
    ]
    made, taken = [], []
    for demo in demos_of(program):
        (made if A("augmented") in demo else taken).append(demo)
    assert len(made) in range(1, 5)
    assert len(made) + len(taken) == 16
    assert all(demo in ROWS for demo in taken)


def test_it_comes_back_the_same_through_bytes_and_through_json(program: Any) -> None:
    same = programs.from_map(etf.decode(etf.encode(program)), "payload.program")
    assert same.to_map(program[A("score")], "exact_match", program[A("scored_on")]) == program
    through_json = programs.from_map(json.loads(json.dumps(texts(program))), "payload.program")
    assert through_json.fingerprint() == program[A("fingerprint")]
    assert texts(through_json.to_map(program[A("score")], "exact_match", program[A("scored_on")])) == texts(program)


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
    assert any(reasoning in demo for demo in demos_of(program))
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


def learned(*demos: Any, **more: Any) -> Any:
    return {"predictors": [{"name": "self", "demos": list(demos), **more}]}


TAMPERED = [
    ({"lm": {"api_base": "http://evil"}}, "payload.program: unknown key :lm; the keys are format, module, signature, "
     "predictors, versions, fingerprint, score, metric, scored_on"),
    ({"config": {"api_base": "http://evil"}}, "payload.program: unknown key :config"),
    ({"traces": []}, "payload.program: unknown key :traces"),
    (learned(lm={"api_base": "http://evil"}),
     "payload.program.predictors[0]: unknown key :lm; the keys are name, demos, instructions"),
    (learned(config={"api_base": "http://evil"}), "payload.program.predictors[0]: unknown key :config"),
    ({"module": {"name": "predict", "lm": "x"}}, "payload.program.module: unknown key :lm; the keys are name"),
    ({"module": {"name": "predict", "api_base": "x"}}, "payload.program.module: unknown key :api_base"),
    ({"signature": {**CHARACTERS, "lm": 1}}, "payload.program.signature: unknown key :lm"),
    ({"format": 3, "versions": {"dspy": "4.0.0", "erl_bridge": "9.1.0"}, "steps": []},
     f"payload.program.format: expected 2, which {OURS} reads, got 3, made by erl_bridge 9.1.0 with dspy 4.0.0"),
    ({"format": "2"}, f'payload.program.format: expected 2, which {OURS} reads, got "2", made by {OURS}'),
    ({"module": "os.system"},
     f'payload.program.module: expected one of {", ".join(modules.KINDS)}, got "os.system"'),
    ({"module": 5}, f"payload.program.module: expected a module: one of {', '.join(modules.KINDS)}, "
     "a map with its name, or a list of steps, got 5"),
    ({"predictors": {}}, "payload.program.predictors: expected list, got %{}"),
    ({"predictors": []}, f"payload.program.predictors: the module \"predict\" of {OURS} has the predictors self, but "
     f"the program, made by {OURS}, has none"),
    ({"predictors": [{"name": "predict", "demos": []}], "versions": {"dspy": "2.6.0", "erl_bridge": "0.1.0"}},
     f"payload.program.predictors: the module \"predict\" of {OURS} has the predictors self, but the program, made by "
     "erl_bridge 0.1.0 with dspy 2.6.0, has predict"),
    ({"predictors": [{"name": "self", "demos": {}}]},
     "payload.program.predictors[0].demos: expected list, got %{}"),
    (learned(5), "payload.program.predictors[0].demos[0]: expected a map, got 5"),
    (learned({"name": "x", "lm": 1}),
     "payload.program.predictors[0].demos[0]: unknown key :lm; the keys are name, kind, augmented"),
    (learned({"name": 1}), "payload.program.predictors[0].demos[0].name: expected str, got 1"),
    (learned({"augmented": 1}), "payload.program.predictors[0].demos[0].augmented: expected a boolean, got 1"),
    (learned(instructions=5), "payload.program.predictors[0].instructions: expected str | nil, got 5"),
    ({"signature": {}}, "payload.program.signature: the required key input_fields is missing"),
    (learned(), "payload.program.fingerprint: the program was changed after it was made: its content has the"),
    (learned(instructions="Obey."), "payload.program.fingerprint: the program was changed after it was made"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), TAMPERED)
def test_a_program_that_was_changed_is_refused(program: Any, changes: Any, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        programs.from_map(change(program, **changes), "payload.program")
    assert caught.value.message.startswith(message)


def test_a_change_that_is_meant_leaves_the_fingerprint_out(program: Any) -> None:
    changed = without(change(program, **learned(), versions={"dspy": "2.6.0"}), "fingerprint", "score", "metric")
    (predictor,) = programs.from_map(changed, "payload.program").predictors
    assert predictor.demos == ()


@pytest.mark.parametrize("missing", ["module", "signature", "predictors"])
def test_what_a_program_needs(program: Any, missing: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"^payload\.program: the required key {missing} is missing$"):
        programs.from_map(without(program, missing), "payload.program")


def test_a_program_is_a_map() -> None:
    with pytest.raises(InvalidRequest, match=r"^payload\.program: expected a map, got 5$"):
        programs.from_map(5, "payload.program")


def question(module: Any = "predict") -> programs.Program:
    signature = signatures.from_payload("question -> answer")
    return programs.new(modules.read(module, signature, "module", "signature"))


def test_of_dspys_state_only_instructions_and_demos_are_taken() -> None:
    module = question().build()
    predictor = module.predictors()[0]
    predictor.config = {"api_base": "http://evil"}
    predictor.lm = dspy.LM("openai/x", api_base="http://evil")
    predictor.demos = [{"question": "1", "answer": "2", "api_base": "http://evil", "augmented": True}]
    predictor.signature = predictor.signature.with_instructions("Be brief.")
    program = question().after(module)
    assert "evil" not in repr(program.to_map())
    assert [one.demo_maps() for one in program.predictors] == [[{"question": "1", "answer": "2", A("augmented"): True}]]
    assert program.build().predictors()[0].signature.instructions == "Be brief."
    assert program.optimized_signature()[A("instructions")] == "Be brief."
    assert question().after(question().build()) == question()


def test_an_example_that_shows_a_predictor_nothing_is_no_demonstration_of_it() -> None:
    module = question().build()
    module.predictors()[0].demos = [{"question": "1"}, {"answer": "2"}, {"question": "3", "answer": "4"}]
    (predictor,) = question().after(module).predictors
    assert predictor.demo_maps() == [{"question": "3", "answer": "4"}]


def test_a_process_that_gets_a_program_again_does_not_build_it_again(program: Any) -> None:
    def read(**changes: Any) -> programs.Program:
        payload = {"program": change(program, **changes), "inputs": {}, "lm": LOCAL}
        return programs.from_payload_of(validate(payload, schema.Predict))

    assert read() is read()
    assert read().ready() is read().ready()
    assert read(score=0.125) is not read()
    module = read().build()
    assert module is not read().ready()
    module.predictors()[0].demos = []
    assert read().ready().predictors()[0].demos != []
