"""Errors as values: from any exception to a :class:`BridgeError`, to the error map of the protocol, and back.

Rule of this file: nothing raised in a handler is lost or left untyped, and the map always has the same seven keys.
``docs/protocol.md`` lists the types and strategies.
"""

from __future__ import annotations

from . import errors
from .errors import BridgeError, HandlerError, MissingPackage, ResourceExhausted
from .terms import Atom

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

ERROR_TYPE, MESSAGE, PYTHON_TYPE, TRACEBACK, CONTEXT, STRATEGY, RETRY_AFTER_MS = (
    Atom(name)
    for name in ("error_type", "message", "python_type", "traceback", "context", "recovery_strategy", "retry_after_ms")
)


def error_map(error: BridgeError) -> dict[Atom, Any]:
    """The map that tells a client of ``error``.

    >>> error_map(errors.Overloaded("busy", retry_after_ms=50))[Atom("recovery_strategy")]
    Atom('retry')
    """
    return {
        ERROR_TYPE: Atom(error.error_type),
        MESSAGE: error.message,
        PYTHON_TYPE: error.python_type,
        TRACEBACK: error.traceback,
        CONTEXT: error.context,
        STRATEGY: Atom(error.recovery_strategy),
        RETRY_AFTER_MS: error.retry_after_ms,
    }


def from_error_map(fields: Mapping[Atom, Any]) -> BridgeError:
    """The exception that an error map of :func:`error_map` tells of."""
    return _CLASSES[str(fields[ERROR_TYPE])](
        fields[MESSAGE],
        context=fields[CONTEXT],
        recovery_strategy=str(fields[STRATEGY]),
        retry_after_ms=fields[RETRY_AFTER_MS],
        python_type=fields[PYTHON_TYPE],
        traceback=fields[TRACEBACK],
    )


_CLASSES = {
    kind.error_type: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, BridgeError) and kind is not BridgeError
}


def from_exception(error: BaseException) -> BridgeError:
    """What went wrong in a handler, as an error of the protocol.

    >>> from_exception(ValueError("no such thing")).message
    'ValueError: no such thing'
    """
    if isinstance(error, BridgeError):
        # The frames that these lead to keep the request alive until the garbage collector finds them.
        error.__traceback__ = error.__context__ = error.__cause__ = None
        return error
    if isinstance(error, ModuleNotFoundError):
        return missing_package(error)
    if isinstance(error, MemoryError):
        return ResourceExhausted("the process is out of memory", python_type="MemoryError", traceback=_traceback(error))
    kind = _type_name(error)
    text = str(error)
    return HandlerError(f"{kind}: {text}" if text else kind, python_type=kind, traceback=_traceback(error))


def missing_package(error: ModuleNotFoundError) -> MissingPackage:
    """The error for an import that failed, with the command that mends it.

    >>> missing_package(ModuleNotFoundError("No module named 'dspy'", name="dspy")).message
    'the Python package dspy is not installed; install it with: pip install "erl_bridge[dspy]"'
    """
    package = (error.name or "?").partition(".")[0]
    wanted = '"erl_bridge[dspy]"' if package in _IN_DSPY_EXTRA else package
    return MissingPackage(
        f"the Python package {package} is not installed; install it with: pip install {wanted}",
        context={Atom("package"): package},
        traceback=_traceback(error),
    )


_IN_DSPY_EXTRA = ("dspy", "optuna", "numpy")


def _type_name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _traceback(error: BaseException) -> str:
    import traceback  # 10 ms to import, and only needed for errors

    return "".join(traceback.format_exception(error))
