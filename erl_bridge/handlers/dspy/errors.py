"""Exceptions of DSPy and of its language models as errors of the protocol: one table.

Rule of this file: the provider's own words and codes are kept, keys never are. An exception finds its line by its
nearest ancestor in the table.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from dspy.utils import exceptions as dspy_errors

from ...error_map import from_exception
from ...errors import BridgeError, LanguageModelError, MissingPackage, OptimizationError, Stopped
from ...vocabulary import named
from . import in_flight
from .redact import redact
from .retries import asked_to_wait
from .run import Abort

if TYPE_CHECKING:
    from collections.abc import Iterator

RETRY, FALLBACK, FATAL = "retry", "fallback", "fatal"
_LONGEST = 2000  # characters of a message: a parse error quotes the whole answer

_TABLE: dict[type[BaseException], tuple[type[BridgeError], str]] = {
    dspy_errors.LMRateLimitError: (LanguageModelError, RETRY),
    dspy_errors.LMTimeoutError: (LanguageModelError, RETRY),
    dspy_errors.LMServerError: (LanguageModelError, RETRY),
    dspy_errors.LMTransportError: (LanguageModelError, RETRY),
    dspy_errors.LMLockTimeoutError: (LanguageModelError, RETRY),
    dspy_errors.ContextWindowExceededError: (LanguageModelError, FALLBACK),
    dspy_errors.LMUnsupportedFeatureError: (LanguageModelError, FALLBACK),
    dspy_errors.LMBillingError: (LanguageModelError, FALLBACK),
    dspy_errors.LMStreamAssemblyError: (LanguageModelError, FALLBACK),
    dspy_errors.LMCollectionLimitError: (LanguageModelError, FALLBACK),
    dspy_errors.LMProviderError: (LanguageModelError, FALLBACK),
    dspy_errors.LMAuthError: (LanguageModelError, FATAL),
    dspy_errors.LMUnsupportedModelError: (LanguageModelError, FATAL),
    dspy_errors.LMConfigurationError: (LanguageModelError, FATAL),
    dspy_errors.LMNotConfiguredError: (LanguageModelError, FATAL),
    dspy_errors.LMInvalidRequestError: (LanguageModelError, FATAL),
    dspy_errors.LMUnexpectedError: (LanguageModelError, FATAL),
    dspy_errors.LMError: (LanguageModelError, FATAL),
    dspy_errors.AdapterParseError: (OptimizationError, FALLBACK),
}
_MISUSE = (ValueError, TypeError, AssertionError)  # of DSPy: the same would happen again
_CONTENT_FILTER = ("content_filter", "content_policy_violation")  # refused for what it says, by codes of the providers
_DETAILS = ("code", "model", "provider", "provider_code", "status", "request_id")


@contextlib.contextmanager
def at_work() -> Iterator[None]:
    """What leaves the block leaves as an error of the protocol, without a key in it."""
    try:
        yield
    except Abort as abort:
        raise abort.error from None
    except Stopped:
        in_flight.come_home()
        raise
    except BridgeError:
        raise
    except Exception as error:
        raise translate(error) from None


def translate(error: BaseException) -> BridgeError:
    """``error`` as an error of the protocol.

    An error of the bridge that DSPy wrapped in one of its own (a client's function that failed as the language model)
    comes out again as itself.
    """
    for cause in _causes(error):
        if isinstance(cause, BridgeError):
            return cause
    line = next((_TABLE[known] for known in type(error).__mro__ if known in _TABLE), None)
    if line is None:
        return _other(error)
    kind, strategy = line
    filtered = getattr(error, "provider_code", None) in _CONTENT_FILTER
    return kind(
        redact(str(error))[:_LONGEST],
        context=_details(error),
        recovery_strategy=FALLBACK if filtered else strategy,
        retry_after_ms=_retry_after_ms(error),
        python_type=_type_name(error),
    )


def translate_optimizer(error: BaseException, optimizer: str, last: BaseException | None) -> BridgeError:
    """What made an optimizer give up. ``last`` is the last error of the language model, if there was one.

    DSPy ends a run with too many failed examples by an exception that says nothing, so the last failure speaks for it.
    """
    if type(error) is Exception and last is not None:
        return translate(last)
    if type(error) is not Exception and not isinstance(error, _MISUSE):
        return translate(error)
    return OptimizationError(
        redact(f"the optimizer {optimizer} gave up: {_type_name(error)}: {error}")[:_LONGEST],
        recovery_strategy=FATAL if isinstance(error, _MISUSE) else FALLBACK,
        python_type=_type_name(error),
    )


def _other(error: BaseException) -> BridgeError:
    """An exception that is in no table, as the dispatcher would make it, without keys."""
    found = from_exception(error)
    if type(error) is ImportError:  # raised by DSPy, with words of its own on what to install
        found = MissingPackage(str(error), python_type="ImportError", traceback=found.traceback)
    if isinstance(error, _MISUSE):
        found.recovery_strategy = FATAL
    found.message = redact(found.message)
    found.traceback = found.traceback and redact(found.traceback)
    return found


def _retry_after_ms(error: BaseException) -> int | None:
    seconds = asked_to_wait(error)
    return None if seconds is None else round(seconds * 1000)


def _details(error: BaseException) -> dict[Any, Any]:
    found = {name: getattr(error, name, None) for name in _DETAILS}
    return named(
        {
            name: redact(value) if isinstance(value, str) else value
            for name, value in found.items()
            if isinstance(value, (str, int))
        }
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(10):
        if error is None:
            return
        yield error
        error = error.__cause__


def _type_name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
