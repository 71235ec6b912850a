"""Functions of the client that a program calls while it works: retrievers and tools.

Rule of this file: a function that fails fails what called it, with its message; a function that the client does not
have ends the run, since no answer of a model can mend that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dspy

from ...errors import CallbackError
from ...refusals import invalid
from ...terms import Atom

if TYPE_CHECKING:
    from .run import Run


def run_at_work() -> Run:
    """The run whose language model is in use. A built module may serve one run after the other, so it asks here."""
    run: Run = dspy.settings.lm.run
    return run


def ask(name: Atom | str, args: list[Any]) -> Any:
    """What the client's function gives. Raises :class:`CallbackError`, or ends the run as :meth:`Run.check` does."""
    run = run_at_work()
    run.check()
    try:
        return run.context.call(name, args)
    except CallbackError as error:
        if error.context.get(Atom("missing")):
            run.abort(error)
        raise


def read_name(value: Any, path: str) -> Atom | str:
    """The name of a function. Raises :class:`InvalidRequest`."""
    if not isinstance(value, (Atom, str)) or not str(value):
        raise invalid(path, "the name of a function, an atom or a string", value)
    return value
