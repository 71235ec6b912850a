"""Every error that can reach a client, as one tree.

* :class:`BridgeError`: an exception that knows its ``error_type`` and ``recovery_strategy`` on the wire

  * :class:`InvalidRequest`: the request or its payload does not fit
  * :class:`UnknownRequest`: no handler of that name
  * :class:`SerializationError`: a frame or a value that cannot be read or written as a term
  * :class:`MissingPackage`: a Python package that the work needs is not installed
  * :class:`OptimizationError`: DSPy gave up
  * :class:`LanguageModelError`: the language model refused
  * :class:`DeadlineExceeded`: the request's deadline passed
  * :class:`RequestCancelled`: the client cancelled the request
  * :class:`CallbackError`: a function of the client failed
  * :class:`TransferError`: the chunks of a dataset do not add up
  * :class:`Overloaded`: more in flight than the limit, or shutting down
  * :class:`ResourceExhausted`: a memory or disk limit was reached
  * :class:`HandlerError`: any other exception in a handler, with its type and traceback
  * :class:`ProcessCrashed`: the process that did the work died

* :class:`Stopped` (a ``BaseException``): raised *inside* work that must end; no ``except Exception`` swallows it

Handlers raise these or anything else; the dispatcher alone turns exceptions into replies. The types and strategies are
those of ``docs/protocol.md``; ``tests/test_errors.py`` holds the two tables equal.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


class BridgeError(Exception):
    """Base of all errors with a place in the protocol.

    ``message`` is a whole sentence for people. ``context`` is a map of terms for programs. ``retry_after_ms`` is how
    long to wait before trying again, where somebody said so.
    """

    error_type = "python_runtime_error"
    recovery_strategy = "fallback"

    def __init__(
        self,
        message: str,
        *,
        context: Mapping[Any, Any] | None = None,
        recovery_strategy: str | None = None,
        retry_after_ms: int | None = None,
        python_type: str | None = None,
        traceback: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.context = dict(context or {})
        if recovery_strategy is not None:
            self.recovery_strategy = recovery_strategy
        self.retry_after_ms = retry_after_ms
        self.python_type = python_type
        self.traceback = traceback


class InvalidRequest(BridgeError):
    """The request or its payload does not fit; the message names the path, what was expected and what came."""

    error_type = "invalid_request"
    recovery_strategy = "fatal"


class UnknownRequest(BridgeError):
    """There is no handler of that name; the message lists those there are."""

    error_type = "unknown_request"
    recovery_strategy = "fatal"


class SerializationError(BridgeError):
    """A frame or a result that cannot be read or written as a term."""

    error_type = "serialization_error"
    recovery_strategy = "fatal"


class MissingPackage(BridgeError):
    """A Python package that the work needs is missing; the message gives the install command."""

    error_type = "import_error"
    recovery_strategy = "fatal"


class OptimizationError(BridgeError):
    """DSPy gave up: its parse errors, too many failed examples, a bad program."""

    error_type = "dspy_optimization_error"
    recovery_strategy = "fallback"


class LanguageModelError(BridgeError):
    """The language model refused; the strategy depends on why and is given when raised."""

    error_type = "lm_error"
    recovery_strategy = "fallback"


class DeadlineExceeded(BridgeError):
    """The deadline of the request passed."""

    error_type = "timeout_error"
    recovery_strategy = "retry"


class RequestCancelled(BridgeError):
    """The client cancelled the request."""

    error_type = "cancelled"
    recovery_strategy = "fatal"


class CallbackError(BridgeError):
    """A function of the client failed, or its caller went away."""

    error_type = "callback_error"
    recovery_strategy = "fatal"


class TransferError(BridgeError):
    """A dataset's chunks do not add up: missing, damaged, over the ceiling."""

    error_type = "transfer_error"
    recovery_strategy = "retry"


class Overloaded(BridgeError):
    """More requests in flight than the limit, or shutting down."""

    error_type = "overloaded"
    recovery_strategy = "retry"


class ResourceExhausted(BridgeError):
    """A memory or disk limit was reached."""

    error_type = "resource_exhausted"
    recovery_strategy = "restart_process"


class HandlerError(BridgeError):
    """Any other exception in a handler, with its type and traceback."""

    error_type = "python_runtime_error"
    recovery_strategy = "fallback"


class ProcessCrashed(BridgeError):
    """The process that did the work died; signal or exit status are in the context."""

    error_type = "process_crashed"
    recovery_strategy = "restart_process"


class Stopped(BaseException):
    """Raised inside work that was cancelled or has run out of time.

    Not an ``Exception``: optimizers and user code that catch those must not go on working for nobody.
    """
