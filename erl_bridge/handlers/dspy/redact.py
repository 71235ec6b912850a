"""Keeps keys out of what is said: errors, log lines, events.

Rule of this file: whatever came as an ``api_key``, and whatever the environment holds under a name that looks like a
key's, reads ``[key]`` in every text that passes here.
"""

from __future__ import annotations

import logging
import os
import re

_SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)$")
_SHORTEST = 6  # a shorter value would be found in ordinary words
_OPENAI_STYLE = re.compile(r"\bsk-[\w*.-]{4,}")  # providers repeat a part of the key they refuse
_given: set[str] = set()


def remember(key: str) -> None:
    """Never let this key be read again."""
    if len(key) >= _SHORTEST:
        _given.add(key)


def redact(text: str) -> str:
    """``text`` without keys.

    >>> redact("Incorrect API key provided: sk-abcd****wxyz.")
    'Incorrect API key provided: [key]'
    """
    for key in sorted(_given | _from_environment(), key=len, reverse=True):
        text = text.replace(key, "[key]")
    return _OPENAI_STYLE.sub("[key]", text)


def _from_environment() -> set[str]:
    return {
        value for name, value in os.environ.items() if _SECRET_NAME.search(name.upper()) and len(value) >= _SHORTEST
    }


class RedactingFilter(logging.Filter):
    """Redacts log records before they are written."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always true: a record is changed, never dropped."""
        record.msg, record.args = redact(record.getMessage()), ()
        return True
