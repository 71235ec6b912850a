"""Where code runs that a language model wrote, for the modules that let it write some.

Rule of this file: it runs in a sandbox (Deno, with Pyodide in it) or, if whoever runs the bridge says so in its
environment, in a Python process without one. No request and no program can choose that.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from typing import TYPE_CHECKING

import dspy

from ...errors import InvalidRequest, MissingPackage
from ...terms import Atom

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

VARIABLE = "ERL_BRIDGE_INTERPRETER"


def factory(module: str) -> Callable[[], Any]:
    """What makes interpreters for ``module``. Raises :class:`MissingPackage` where there are none."""
    chosen = os.environ.get(VARIABLE, "deno")
    if chosen == "local":
        return _local
    if chosen != "deno":
        raise InvalidRequest(f"the environment variable {VARIABLE} is {chosen!r}: expected deno or local")
    if not _deno_is_there():
        raise MissingPackage(
            f"the module {module} runs code that the model writes in Deno, which is not installed; install it with: "
            f'pip install "dspy[deno]" (or let such code run without a sandbox: {VARIABLE}=local)',
            context={Atom("package"): "deno"},
        )
    interpreter: Callable[[], Any] = dspy.PythonInterpreter
    return interpreter


def _deno_is_there() -> bool:
    return importlib.util.find_spec("deno") is not None or shutil.which("deno") is not None


def _local() -> Any:
    interpreter = dspy.LocalInterpreter()
    interpreter.execute(_END_WITH_THE_JOB)
    return interpreter


# The process that runs the code is one of its own, which would go on when the job is killed in the middle of a loop.
_END_WITH_THE_JOB = """
import ctypes, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
del ctypes, sys
"""
