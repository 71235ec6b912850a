"""How sure a score is: the interval around it, and whether one program is better than another or only luckier.

Rule of this file: the same scores give the same figures, everywhere and always; nothing is drawn without a fixed seed.
Nothing here imports DSPy.

* **Interval.** Scores that are all 0 or 1 get Wilson's interval, others Student's around their mean, cut to 0.0 .. 1.0
  where no score is outside of it. Both at 95 %.
* **Comparison.** Two programs on the same rows are compared row by row. Rows that are right or wrong give McNemar's
  exact test; other scores a permutation test of the differences' signs, drawn 10 000 times with a fixed seed up to
  :data:`DRAWN` rows that differ, by the normal distribution above.
"""

from __future__ import annotations

import math
import random
from statistics import NormalDist, fmean, stdev
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

LEVEL = 0.95
_Z = NormalDist().inv_cdf((1 + LEVEL) / 2)
DRAWN = 200
_DRAWS = 10_000
_EXACT = 1_000  # differing rows up to which McNemar's test is exact; above, the normal distribution is the same


def interval(scores: Sequence[float]) -> list[float] | None:
    """The 95 % confidence interval of the mean of ``scores``: ``[low, high]``, None where nothing can be said.

    >>> [round(end, 3) for end in interval([1.0] * 8 + [0.0] * 2)]
    [0.49, 0.943]
    >>> [round(end, 3) for end in interval([0.25, 0.5, 0.75])]
    [0.0, 1.0]
    """
    if set(scores) <= {0.0, 1.0}:
        return _wilson(sum(scores), len(scores))
    low, high = _student(scores)
    if min(scores) >= 0.0 and max(scores) <= 1.0:
        low, high = max(low, 0.0), min(high, 1.0)
    return [low, high] if math.isfinite(low) else None


def interval_of_difference(differences: Sequence[float]) -> list[float] | None:
    """As :func:`interval`, for differences of two scores: cut to -1.0 .. 1.0."""
    low, high = _student(differences)
    if max(map(abs, differences)) <= 1.0:
        low, high = max(low, -1.0), min(high, 1.0)
    return [low, high] if math.isfinite(low) else None


def p_value(differences: Sequence[float]) -> float:
    """How likely differences at least so large are where two programs are equally good.

    >>> round(p_value([1.0] * 6 + [0.0] * 10), 3)
    0.031
    >>> p_value([0.0, 0.0])
    1.0
    """
    differing = [difference for difference in differences if difference]
    if not differing:
        return 1.0
    if len({abs(difference) for difference in differing}) == 1 and len(differing) <= _EXACT:
        return _mcnemar(sum(difference > 0 for difference in differing), len(differing))
    if len(differing) <= DRAWN:
        return _permuted(differing)
    spread = math.sqrt(sum(difference * difference for difference in differing))
    return 2 * NormalDist().cdf(-abs(sum(differing)) / spread)


def _wilson(right: float, total: int) -> list[float]:
    share, square = right / total, _Z * _Z
    middle = (share + square / (2 * total)) / (1 + square / total)
    half = _Z / (1 + square / total) * math.sqrt(share * (1 - share) / total + square / (4 * total * total))
    return [max(middle - half, 0.0), min(middle + half, 1.0)]


def _student(scores: Sequence[float]) -> tuple[float, float]:
    middle = fmean(scores)
    if len(scores) < 2:
        return -math.inf, math.inf
    half = _t(len(scores) - 1) * stdev(scores) / math.sqrt(len(scores))
    return middle - half, middle + half


def _t(degrees: int) -> float:
    """Student's quantile by the Cornish-Fisher expansion; the first three are from the table, being far off it."""
    if degrees <= 3:
        return (12.706, 4.303, 3.182)[degrees - 1]
    z, n = _Z, degrees
    first = (z**3 + z) / (4 * n)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    return z + first + second + third


def _mcnemar(better: int, differing: int) -> float:
    tail: int = sum(math.comb(differing, count) for count in range(min(better, differing - better) + 1))
    return min(1.0, 2.0 * tail / (1 << differing))


def _permuted(differing: Sequence[float]) -> float:
    draw = random.Random(0)
    observed = abs(sum(differing)) - 1e-9  # sums of the same numbers in another order differ by so little
    total = sum(differing)
    hits = 0
    for _ in range(_DRAWS):
        signs = draw.getrandbits(len(differing))
        flipped = sum(difference for index, difference in enumerate(differing) if signs >> index & 1)
        hits += abs(total - 2 * flipped) >= observed
    return (hits + 1) / (_DRAWS + 1)
