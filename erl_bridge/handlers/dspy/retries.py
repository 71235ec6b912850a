"""Tries a call of a language model again when that can help, and waits in between as the provider says.

Rule of this file: a wait ends at once when the work ends, and there is no wait that the deadline would cut.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dspy.utils.exceptions import is_retryable_lm_error

if TYPE_CHECKING:
    from collections.abc import Callable

RETRIES = 3
MAX_RETRY_AFTER_MS = 60_000
FIRST, LONGEST = 0.5, 30.0  # seconds: a wait is drawn below the first, then below twice that, up to the longest


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a call is tried again, and how long the provider may make it wait."""

    number: int = RETRIES
    max_retry_after: float = MAX_RETRY_AFTER_MS / 1000
    draw: Callable[[float, float], float] = random.uniform

    def delay(self, error: Exception, attempt: int, remaining: float | None) -> float | None:
        """Seconds to wait before the call is tried again; None if it is not.

        ``attempt`` counts from 0, ``remaining`` are the seconds until the deadline.

        >>> from dspy.utils.exceptions import LMAuthError, LMRateLimitError
        >>> Retries().delay(LMRateLimitError(retry_after=2.0), 0, None)
        2.0
        >>> Retries().delay(LMRateLimitError(retry_after=2.0), 0, 1.5) is None
        True
        >>> Retries().delay(LMAuthError(), 0, None) is None
        True
        """
        if attempt >= self.number or not is_retryable_lm_error(error):
            return None
        seconds = asked_to_wait(error)
        if seconds is None:
            seconds = self.draw(0.0, min(LONGEST, FIRST * 2**attempt))
        elif seconds > self.max_retry_after:
            return None
        return None if remaining is not None and seconds >= remaining else seconds


def asked_to_wait(error: Any) -> float | None:
    """The seconds after which the provider said to try again, None where it did not.

    >>> from dspy.utils.exceptions import LMRateLimitError
    >>> asked_to_wait(LMRateLimitError(retry_after=float("nan"))) is None
    True
    """
    seconds = getattr(error, "retry_after", None)
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not math.isfinite(seconds):
        return None
    return max(0.0, float(seconds))
