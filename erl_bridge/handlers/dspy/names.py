"""Which names fields, steps, tools and the keys of records may have.

Rule of this file: what Python or DSPy cannot use is refused here, with the reason.
"""

from __future__ import annotations

import keyword
import re

from ...errors import InvalidRequest
from ...refusals import show
from ...terms import Atom

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")

# Found by building a signature with each name and running Predict, ChainOfThought, BootstrapFewShot and Evaluate on it.
# fmt: off
TAKEN = frozenset((
    "augmented", "base", "completions", "config", "demos", "fields", "input_fields", "instructions", "lm",
    "model_config", "model_dump", "model_dump_json", "model_fields", "model_validate", "model_validate_json",
    "model_validate_strings", "new_signature", "output_fields", "self", "signature",
))
# fmt: on


def checked_name(name: str, path: str, what: str = "field", taken: frozenset[str] = TAKEN) -> str:
    """``name``, if Python and DSPy can use it for ``what``. Raises :class:`InvalidRequest`."""
    why = None
    if not _NAME.fullmatch(name):
        why = "it must be ASCII letters, digits and underscores, beginning with a letter"
    elif keyword.iskeyword(name):
        why = "it is a keyword of Python"
    elif name in taken or name.startswith("dspy_"):
        why = "DSPy uses that name itself"
    if why is not None:
        raise InvalidRequest(
            f"{path}: the {what} name {show(name)} cannot be used: {why}",
            context={Atom("path"): path, Atom("got"): name, Atom("reason"): why},
        )
    return name
