"""What ``local/nearest-demo`` does without demonstrations: it follows rules in its instructions, and proposes such
rules where an optimizer of DSPy asks for better instructions. It also judges answers, by the words they share.

A rule is a line, and the word is looked for in the input::

    If it says "tears", then mood: sad

So optimizers of instructions run to their end without a key, and what they gain is real: rules found in the examples
that they show. It is counting, no understanding.

Rule of this file: it reads what DSPy's optimizers ask in the fields of their own signatures, and the same question gets
the same answer. What it cannot read gives no rules, never an error.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    Pair = tuple[str, dict[str, str]]  # what was asked, and the right value of each output

MAX_RULES = 24
_PURE = 0.8  # so often must a word go with one value
_RULE = re.compile(r'If it says "(\w+)", then (\w+): (.+?)\s*$', re.MULTILINE)
_WORD = re.compile(r"\w+")
_EXPECTED = re.compile(r'(\w+): expected "?(.+?)"?, got ')
_ATTEMPT = re.compile(r"Instruction #\d+: (.*?)(?=Prefix #\d+: )", re.DOTALL)


def follow(instructions: str, asked: str) -> dict[str, str]:
    """The value of each field by the rules in ``instructions``: that of the most rules that fit ``asked``.

    >>> follow('If it says "tears", then mood: sad', "So much tears")
    {'mood': 'sad'}
    """
    words = _words(asked)
    votes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for word, field, value in _RULE.findall(instructions):
        if word in words:
            votes[field][value] += 1
    return {field: counts.most_common(1)[0][0] for field, counts in votes.items()}


def propose(names: Iterable[str], question: Mapping[str, str]) -> dict[str, str]:
    """Answers to a question of an optimizer or a judge: the fields in ``names`` that it has something to say on."""
    found = {name: _PROPOSALS[name](question) for name in names if name in _PROPOSALS}
    return {name: answer for name, answer in found.items() if answer is not None}


def improved(instructions: str, pairs: list[Pair]) -> str:
    """``instructions`` with the rules that ``pairs`` show. A rule that they contradict goes."""
    learned = _rules(pairs)
    kept = [line for line in instructions.splitlines() if not _contradicted(line, learned)]
    known = set(_RULE.findall("\n".join(kept)))
    contradicted = {rule[:2] for rule in _RULE.findall(instructions)} - {rule[:2] for rule in known}
    new = [rule for rule in learned if rule not in known and rule[:2] not in contradicted]
    return "\n".join([*kept, *map(_line, new)]).strip()


# -- rules ---------------------------------------------------------------------------------------------------------


def _rules(pairs: list[Pair]) -> list[tuple[str, str, str]]:
    """The words that go with one value of a field, the most frequent first."""
    seen: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for asked, outputs in pairs:
        for word in sorted(_words(asked)):
            for field, value in outputs.items():
                if value and "\n" not in value:
                    seen[word, field][value] += 1
    ranked = []
    for (word, field), counts in seen.items():
        value, count = counts.most_common(1)[0]
        if count >= _PURE * counts.total():
            ranked.append((-count, word, field, value))
    return [(word, field, value) for _, word, field, value in sorted(ranked)[:MAX_RULES]]


def _line(rule: tuple[str, str, str]) -> str:
    word, field, value = rule
    return f'If it says "{word}", then {field}: {value}'


def _contradicted(line: str, learned: list[tuple[str, str, str]]) -> bool:
    known = {(word, field): value for word, field, value in learned}
    return any(known.get((word, field), value) != value for word, field, value in _RULE.findall(line))


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))


# -- what optimizers ask: from the fields of a question to an answer, None where it is another question ----------------


def _instruction(question: Mapping[str, str]) -> str | None:
    """COPRO and MIPROv2."""
    if "attempted_instructions" in question:
        attempts = _ATTEMPT.findall(question["attempted_instructions"])
        return attempts[-1].strip(" »«[]0123456789\n") if attempts else None  # the last has the best score
    if "basic_instruction" not in question:
        return None
    return improved(question["basic_instruction"], _of_demos(question))


def _of_demos(question: Mapping[str, str]) -> list[Pair]:
    """MIPROv2 writes ``Name: value`` for each field, and says ``Predict(name) -> kind``."""
    outputs = [name.strip() for name in question.get("module", "").partition(" -> ")[2].split(",") if name.strip()]
    pairs = []
    for demo in question.get("task_demos", "").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in demo.splitlines() if ": " in line)
        named = {name.lower().replace(" ", "_"): value for name, value in fields.items()}
        asked = " ".join(value for name, value in named.items() if name not in outputs)
        pairs.append((asked, {name: named[name] for name in outputs if name in named}))
    return pairs


def _of_feedback(question: Mapping[str, str]) -> str | None:
    """GEPA shows inputs, outputs and what a metric said of them."""
    if "examples_with_feedback" not in question:
        return None
    pairs = []
    for example in _json(question["examples_with_feedback"], list):
        outputs = example.get("Generated Outputs")
        said = dict(_EXPECTED.findall(str(example.get("Feedback", ""))))
        right = {**{name: str(value) for name, value in outputs.items()}, **said} if isinstance(outputs, dict) else said
        pairs.append((_values(example.get("Inputs")), right))
    return improved(question.get("current_instruction", ""), pairs)


def _advice(question: Mapping[str, str]) -> str | None:
    """SIMBA shows one example and its right answer."""
    if "oracle_metadata" not in question:
        return None
    labels = {name: str(value) for name, value in _json(question["oracle_metadata"], dict).items()}
    rules = "\n".join(map(_line, _rules([(_values(_json(question.get("program_inputs", ""), dict)), labels)])))
    modules = _json(question.get("module_names", ""), list)
    return json.dumps({str(name): rules for name in modules}, ensure_ascii=False)


def _induced(question: Mapping[str, str]) -> str | None:
    """InferRules shows the training rows."""
    if "examples_text" not in question:
        return None
    pairs = []
    for example in question["examples_text"].split("Input Fields:\n")[1:]:
        asked, _, answered = example.partition("\n\n=========\nOutput Fields:\n")
        outputs = dict(line.split(": ", 1) for line in answered.splitlines() if ": " in line)
        pairs.append((" ".join(line.partition(": ")[2] for line in asked.splitlines()), outputs))
    return "\n".join(map(_line, _rules(pairs)))


def _share(part: str, whole: str) -> Callable[[Mapping[str, str]], str | None]:
    """How many words of the field ``part`` are in the field ``whole``."""

    def share(question: Mapping[str, str]) -> str | None:
        if part not in question or whole not in question:
            return None
        words = _words(question[part])
        return str(round(len(words & _words(question[whole])) / len(words), 4)) if words else "0.0"

    return share


_PROPOSALS: dict[str, Callable[[Mapping[str, str]], str | None]] = {
    "proposed_instruction": _instruction,
    "new_instruction": _of_feedback,
    "module_advice": _advice,
    "natural_language_rules": _induced,
    "recall": _share("ground_truth", "system_response"),
    "precision": _share("system_response", "ground_truth"),
    "completeness": _share("ground_truth", "system_response"),
    "groundedness": _share("system_response", "retrieved_context"),
    "score": _share("expected", "answer"),
}


def _json(text: str, kind: type) -> Any:
    """The JSON in ``text``, an empty value of ``kind`` where there is none."""
    try:
        value = json.loads(text)
    except ValueError:
        return kind()
    return value if isinstance(value, kind) else kind()


def _values(inputs: Any) -> str:
    return " ".join(map(str, inputs.values())) if isinstance(inputs, dict) else str(inputs)
