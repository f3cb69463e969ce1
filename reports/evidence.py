"""What rounds say together: medians, intervals and ratios. The round, not the sample, is the evidence."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

FEWEST = 3  # rounds that agree, below which no difference is called one
Rounds = Mapping[int, float]  # seconds of one cell, by the number of the round


def interval(values: Iterable[float]) -> tuple[float, float, float]:
    """(low, high, confidence) for the median from order statistics; no distribution is assumed.

    The same rule that wrote the record: the narrowest pair of order statistics that holds the median
    with 95 %; with fewer than six values the whole range, and the confidence says what that is worth.
    """
    v = sorted(values)
    place, confidence = _place(len(v))
    return v[place], v[len(v) - 1 - place], confidence


@cache
def _place(n: int) -> tuple[int, float]:
    """Which of n ordered values is the low end, and the confidence."""
    tail, best = 0.0, 0
    for k in range(n // 2):
        tail += math.comb(n, k) / 2**n
        if 1 - 2 * tail >= 0.95:
            best = k
    outside = 2 * sum(math.comb(n, k) for k in range(best + 1)) / 2**n
    return best, max(0.0, 1 - outside)


def speeds(slow: Rounds, quick: Rounds) -> list[float]:
    """Round by round, how many times faster ``quick`` is; only rounds that both have."""
    return [slow[i] / quick[i] for i in sorted(slow.keys() & quick.keys())]


def mean_speeds(pairs: Sequence[tuple[Rounds, Rounds]]) -> list[float]:
    """Geometric mean over problems of the speed, one value for each round that all pairs have."""
    if not pairs:
        return []
    shared = set.intersection(*(set(a.keys() & b.keys()) for a, b in pairs))
    return [math.exp(statistics.fmean(math.log(a[i] / b[i]) for a, b in pairs)) for i in sorted(shared)]


def summary(values: Sequence[float]) -> tuple[float, float, float] | None:
    """(median, low, high), or None without values."""
    if not values:
        return None
    low, high, _ = interval(values)
    return statistics.median(values), low, high


def geometric(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(math.log(v) for v in values))


def certain(values: Sequence[float]) -> bool:
    """Whether these ratios, one a round, are enough of them and their interval leaves out 1."""
    if len(values) < FEWEST:
        return False
    low, high, _ = interval(values)
    return not low <= 1 <= high


def told_apart(a: Rounds, b: Rounds) -> bool:
    """Whether the interval of their ratio leaves out 1; False too where they share too few rounds."""
    return certain(speeds(a, b))
