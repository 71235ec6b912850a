"""Fine-tuning of ``local/nearest-demo``, as a Provider of DSPy: its weights are a file of examples.

A fine-tuned model is ``local/nearest-demo:DIGEST``; the file ``models/DIGEST.jsonl`` in the bridge's home folder has a
line of ``{"messages": [...]}`` for each example, as OpenAI's API for fine-tuning takes them. A model that is tuned
further keeps what it knew.

Rule of this file: the same examples make the same model, and a file is there whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from functools import lru_cache
from typing import Any

from dspy.clients.provider import Provider

from ...home import home

LOCAL = "local/nearest-demo"
_TUNED = re.compile(re.escape(LOCAL) + r":([0-9a-f]{32})")

Pairs = tuple[tuple[str, str], ...]


def is_model(name: str) -> bool:
    """True for the local model and for those that were made of it on this host."""
    digest = _digest(name)
    return name == LOCAL or (digest is not None and os.path.exists(_path(digest)))


def examples(name: str) -> Pairs:
    """What a model was taught: messages of a user, each with the right answer. None for one that was not tuned."""
    digest = _digest(name)
    return () if digest is None else _read(digest)


class LocalProvider(Provider):  # type: ignore[misc]
    """Makes a model of training data, at once."""

    def __init__(self) -> None:
        super().__init__()
        self.finetunable = True

    @staticmethod
    def finetune(
        job: Any, model: str, train_data: list[dict[str, Any]], train_data_format: Any, train_kwargs: Any = None
    ) -> str:
        known = _digest(model)
        before = [] if known is None else _lines(known)
        lines = dict.fromkeys([*before, *(json.dumps(item, ensure_ascii=False, sort_keys=True) for item in train_data)])
        data = "".join(line + "\n" for line in lines).encode()
        return f"{LOCAL}:{_write(data)}"


def _digest(name: str) -> str | None:
    match = _TUNED.fullmatch(name)
    return match and match[1]


def _path(digest: str) -> str:
    return os.path.join(home(), "models", f"{digest}.jsonl")


def _write(data: bytes) -> str:
    digest = hashlib.sha256(data).hexdigest()[:32]
    path = _path(digest)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=os.path.dirname(path), suffix=".part", delete=False) as file:
        file.write(data)
    os.replace(file.name, path)
    return digest


def _lines(digest: str) -> list[str]:
    with open(_path(digest), encoding="utf-8") as file:
        return file.read().splitlines()


@lru_cache(maxsize=16)
def _read(digest: str) -> Pairs:
    found: dict[tuple[str, str], None] = {}
    for line in _lines(digest):
        talk = [message["content"] for message in json.loads(line)["messages"] if message["role"] != "system"]
        found.update(dict.fromkeys(zip(talk[0::2], talk[1::2], strict=True)))
    return tuple(found)
