"""How often a language model may be asked, shared by all processes of the machine.

Rule of this file: in no minute more is begun than the limit. A tenth of it may come at once, the rest evenly.

Each limit is a file of two numbers, until when requests and tokens are taken, which is locked for a moment at a time.
Tokens are guessed before a call and set right after it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...home import home

if TYPE_CHECKING:
    from collections.abc import Callable

_RECORD = struct.Struct("<dd")
_MINUTE = 60.0
_FOLDER = "rates"
_FORGET = 60 * _MINUTE  # what is taken for longer than this was written by a clock that was set back


@dataclass(frozen=True, slots=True)
class Rate:
    """``per_minute`` of something: a tenth of it at once, and one more each ``interval`` seconds."""

    per_minute: int
    burst: int = field(init=False)
    interval: float = field(init=False)

    def __post_init__(self) -> None:
        burst = max(1, self.per_minute // 10)
        object.__setattr__(self, "burst", burst)
        object.__setattr__(self, "interval", _MINUTE / (self.per_minute - burst + 1))

    def take(self, until: float, now: float, amount: float) -> tuple[float, float]:
        """Take ``amount``. The time until which is taken then, and the seconds to wait before it may be used.

        >>> Rate(60).take(0.0, 100.0, 1)[1]
        0.0
        """
        until = now if until < now or until > now + _FORGET else until
        wait = until + min(amount, self.burst) * self.interval - now - self.burst * self.interval
        return until + amount * self.interval, wait if wait > 1e-9 else 0.0


class RateLimit:
    """The limits of one model, by name. ``requests`` and ``tokens`` are how many a minute, None for no limit."""

    def __init__(
        self,
        name: str,
        requests: int | None,
        tokens: int | None,
        *,
        folder: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = os.path.join(folder or os.path.join(home(), _FOLDER), hashlib.sha256(name.encode()).hexdigest())
        self._rates = [None if limit is None else Rate(limit) for limit in (requests, tokens)]
        self._clock = clock

    def take(self, tokens: int) -> float:
        """Take one request of about so many tokens. Seconds to wait before it may be sent."""
        return self._update([1, tokens])

    def settle(self, guessed: int, used: int) -> None:
        """Set right what was guessed in :meth:`take`."""
        if self._rates[1] is not None and used != guessed:
            self._update([0, used - guessed])

    def _update(self, amounts: list[int]) -> float:
        os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            data = os.pread(fd, _RECORD.size, 0)
            taken = list(_RECORD.unpack(data)) if len(data) == _RECORD.size else [0.0, 0.0]
            now, waits = self._clock(), [0.0]
            for index, (rate, amount) in enumerate(zip(self._rates, amounts, strict=True)):
                if rate is not None and amount:
                    taken[index], wait = rate.take(taken[index], now, amount)
                    waits.append(wait)
            os.pwrite(fd, _RECORD.pack(*taken), 0)
        finally:
            os.close(fd)
        return max(waits)
