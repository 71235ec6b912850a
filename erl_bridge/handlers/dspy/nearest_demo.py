"""``local/nearest-demo``: a language model without weights, for first runs, tests and examples.

It answers by the demonstration in its prompt that is most like the input; without demonstrations, by rules in its
instructions (``nearest_rules.py``), else by the first of the values to choose from or a neutral value. It knows nothing
and guesses nothing, so what an optimizer gains with it, it gains by choosing demonstrations and rules.

``local/nearest-demo:DIGEST`` is one that was fine-tuned (``finetuning.py``): what it was taught is a file of examples.

Rule of this file: the same prompt gets the same answer, everywhere and always. It reads the prompts that DSPy's
``ChatAdapter`` and ``JSONAdapter`` write: fields under ``[[ ## name ## ]]``, a user and an assistant message for each
demonstration.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from dspy.lm15 import Message, Response, Usage

from .finetuning import examples
from .nearest_rules import follow, propose

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_HEADER = re.compile(r"^\[\[ ## (\w+) ## \]\]\s*$", re.MULTILINE)
_REQUEST = re.compile(
    r"\n\n(Respond with (?:the corresponding output fields, starting with the field"
    r"|a JSON object in the following order of fields:) )"
)
_WANTED = re.compile(r"`\[\[ ## (\w+) ## \]\]`")
_FIELD = re.compile(r"^\d+\. `(\w+)` \((.*?)\):", re.MULTILINE)
_CHOICES = re.compile(
    r"^\{(\w+)\} +# note: the value you produce must exactly match \(no extra characters\) one of: (.*)$", re.MULTILINE
)
_NOT_SUPPLIED = "Not supplied for this particular example."
_COMPLETED = "completed"
_WORD = re.compile(r"\w+")

# The beginning of a type's name as the prompt writes it -> a value of that type that says as little as possible.
_NEUTRAL = {
    "int": "0",
    "float": "0.0",
    "bool": "False",
    "list": "[]",
    "dict": "{}",
    "Union": "null",
    "Any": "null",
}
_UNKNOWN = "unknown"


class NearestDemo:
    """The engine behind ``local/nearest-demo``. Tokens are counted in words."""

    def complete(self, request: Any) -> Any:
        """One answer, as text that DSPy's adapter reads."""
        prompt = _text(request.system)
        messages = [message.text or "" for message in request.messages]
        answer = respond(prompt, messages, examples(request.model))
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant(answer),
            finish_reason="stop",
            usage=Usage(input_tokens=_words(prompt) + sum(map(_words, messages)), output_tokens=_words(answer)),
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> NearestDemo:
        return self


def respond(system: str, messages: Sequence[str], learned: Sequence[tuple[str, str]] = ()) -> str:
    """The answer to a chat: ``messages`` alternate between user and assistant and end with the user's question.

    ``learned`` are further pairs of messages, which the model was taught and the prompt does not show.
    """
    parts = _REQUEST.split(messages[-1])
    question, form, wanted = parts[-3:] if len(parts) > 2 else (messages[-1], "", "")
    as_json = "JSON" in form
    names = re.findall(r"`(\w+)`", wanted) if as_json else _WANTED.findall(wanted)[:-1]  # without the marker of the end
    shown = zip(messages[0:-1:2], messages[1:-1:2], strict=True)
    taught = ((_REQUEST.split(asked)[0], said) for asked, said in learned if not {*names}.isdisjoint(_said(said)))
    demos = [*shown, *taught]
    if demos:
        known: Mapping[str, str] = _said(demos[_nearest(question, [asked for asked, _ in demos])][1])
    else:
        asked = _fields(question)
        known = follow(system, " ".join(asked.values())) | propose(names, asked)
    default = _defaults(system)
    answers = {name: _answer(known.get(name), default.get(name, _UNKNOWN)) for name in names}
    if as_json:
        return json.dumps(answers, ensure_ascii=False)
    sections = [f"[[ ## {name} ## ]]\n{answer}" for name, answer in answers.items()]
    return "\n\n".join([*sections, f"[[ ## {_COMPLETED} ## ]]"])


def _said(message: str) -> Mapping[str, str]:
    """The fields of an assistant's message, in either form."""
    if not message.startswith("{"):
        return _fields(message)
    try:
        return {
            name: value if isinstance(value, str) else json.dumps(value) for name, value in json.loads(message).items()
        }
    except ValueError:
        return {}


def _answer(of_demo: str | None, default: str) -> str:
    return default if of_demo is None or of_demo == _NOT_SUPPLIED else of_demo


def _nearest(question: str, demos: Sequence[str]) -> int:
    """The index of the demonstration most like the question; the first of equals.

    Likeness is the cosine between bags of words, each word weighted by how few of the demonstrations have it.
    """
    bags = [_bag(demo) for demo in demos]
    asked = _bag(question)
    frequency = Counter(word for bag in bags for word in bag)
    weight = {word: math.log(1 + len(demos) / count) ** 2 for word, count in frequency.items()}
    best, best_likeness = 0, -1.0
    for index, bag in enumerate(bags):
        shared = sum(weight[word] * count * asked[word] for word, count in bag.items() if word in asked)
        norm = math.sqrt(sum(weight[word] * count * count for word, count in bag.items()))
        likeness = shared / norm if norm else 0.0
        if likeness > best_likeness:
            best, best_likeness = index, likeness
    return best


# Prompts of one run repeat their system message and demonstrations thousands of times.


@lru_cache(maxsize=4096)
def _bag(message: str) -> Mapping[str, int]:
    """How often each word is in the fields of a user's message."""
    return Counter(word for value in _fields(message).values() for word in _WORD.findall(value.lower()))


@lru_cache(maxsize=4096)
def _fields(message: str) -> Mapping[str, str]:
    """The sections of a message by their headers; of two with one name, the first."""
    pieces = _HEADER.split(message)
    found: dict[str, str] = {}
    for name, text in zip(pieces[1::2], pieces[2::2], strict=True):
        found.setdefault(name, text.strip())
    return found


@lru_cache(maxsize=256)
def _defaults(system: str) -> Mapping[str, str]:
    """What to answer for each field when no demonstration helps."""
    found = {name: _neutral(kind) for name, kind in _FIELD.findall(system)}
    return found | {name: choices.split("; ")[0] for name, choices in _CHOICES.findall(system)}


def _neutral(kind: str) -> str:
    return next((value for start, value in _NEUTRAL.items() if kind.startswith(start)), _UNKNOWN)


@lru_cache(maxsize=4096)
def _words(text: str) -> int:
    return len(text.split())


def _text(system: Any) -> str:
    return system if isinstance(system, str) else "".join(part.text for part in system or ())
