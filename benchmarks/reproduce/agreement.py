"""Does a time that somebody published agree with what is measured here? Two samples of rounds, one machine class.

The interval that a record prints is of its own few rounds: that of three holds the middle of all rounds with 75 %
confidence, so that one honest cell in four lies outside of it by construction. It is therefore not what a cell is
held to. What is asked is whether the rounds there and those here can be of one time. Another program can only add
time, and how much it adds differs from one session to the next, so an undisturbed call is what both have in
common. Each sample gives an interval for its log(seconds): at most its best round, and at least what is left when
the noise above it, taken as exponential, is taken off (``undisturbed``). Then:

1. The record is too fast where even the least that a call can take here lies MARGIN above its best round.
2. It is too slow where even the least that it allows lies MARGIN above the best round here, and a rank-sum test
   of the rounds, which assumes no distribution, says that they are slower by MARGIN, too. (Moses' interval for a
   shift; Hollander and Wolfe, Nonparametric Statistical Methods, 3e, section 4.3.) The one alone would take
   a rare good round here for a rule, the other a busy day there for a falsification.
3. All cells of a record may be off together, by the day's clock or by a hand. ``drift`` is what most of
   them share. Up to TOGETHER it is the machine's, and a cell is outside only if it is so with the drift
   taken out as well; beyond that the record as a whole does not describe this machine.

LEVEL is the chance of each rule to speak against an honest cell where the truth lies at the margin and the two
sessions were alike; where it lies nearer, the chance is far smaller.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

LEVEL = 0.05
SUSPECT = 0.25  # the level that is enough for more rounds
MARGIN = math.log(1.05)  # two honest sessions differ by as much for no reason
TOGETHER = math.log(1.10)
ENOUGH = 8  # cells of one record, for a word about what they share
SCREENED = 6  # rounds here of every cell
CONFIRMED = 24  # and of one that looks different
INSIDE, FAST, SLOW = "inside", "record too fast", "record too slow"


@dataclass(frozen=True)
class Shift:
    """log(here / record): of all rounds, of the best ones, and the least and the most that it can be."""

    middle: float
    best: float
    low: float
    high: float

    def less(self, drift: float) -> Shift:
        return Shift(self.middle - drift, self.best - drift, self.low - drift, self.high - drift)

    @property
    def verdict(self) -> str:
        return FAST if self.low > MARGIN else SLOW if self.high < -MARGIN else INSIDE

    def visible(self) -> tuple[float, float]:
        """How far, in log, this record would have to be falsified to be called too fast and too slow."""
        return max(0.0, MARGIN - self.low), max(0.0, self.high + MARGIN)


def undisturbed(logs: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """The interval for the least that a sample of log seconds can be: (low, its best).

    For exponential noise, n (best - least) / (mean excess) follows F with 2 and 2 n - 2 degrees of freedom,
    whose quantiles have a closed form (Epstein and Sobel, 1954). One value alone says nothing.
    """
    n, best = len(logs), min(logs)
    if n < 2:
        return -math.inf, best
    excess = sum(v - best for v in logs) / (n - 1)
    return best - (n - 1) * (level ** (-1 / (n - 1)) - 1) * excess / n, best


@lru_cache(maxsize=256)
def _rank(n: int, m: int, level: float) -> int:
    """The most pairs of n and m values in the wrong order that chance makes with ``level``; -1 where none.

    The number of orders with u such pairs is a coefficient of the Gaussian binomial (Mann and Whitney, 1947).
    """
    ways = [1] + [0] * (n * m)
    for i in range(1, n + 1):
        for u in range(n * m, m + i - 1, -1):
            ways[u] -= ways[u - m - i]
        for u in range(i, n * m + 1):
            ways[u] += ways[u - i]
    total, k = 0, -1
    while k + 1 <= n * m and total + ways[k + 1] <= level * math.comb(n + m, n):
        total += ways[k + 1]
        k += 1
    return k


def shift(record: Sequence[float], here: Sequence[float], level: float = LEVEL) -> Shift:
    """What two samples of seconds say about log(here / record); unbounded where they are too few."""
    there, ours = ([math.log(v) for v in side] for side in (record, here))
    (there_least, there_best), (ours_least, ours_best) = (undisturbed(there, level), undisturbed(ours, level))
    every = sorted(a - b for a in ours for b in there)
    k = _rank(len(there), len(ours), level)
    by_rank = every[-1 - k] if k >= 0 else math.inf
    return Shift(
        statistics.median(every), ours_best - there_best, ours_least - there_best, max(ours_best - there_least, by_rank)
    )


def suspicious(record: Sequence[float], here: Sequence[float]) -> bool:
    """Whether a cell could turn out to be outside in more rounds: loose on purpose."""
    found = shift(record, here, SUSPECT)
    return found.best > MARGIN or found.verdict != INSIDE


def drift(bests: Sequence[float]) -> float:
    """What most of the cells of one record share of log(here / record): the middle of the shortest half.

    The half that lies closest together, not the median: where some cells were falsified, that is a mixture.
    0 for few cells, which have no majority.
    """
    if len(bests) < ENOUGH:
        return 0.0
    v, half = sorted(bests), len(bests) // 2 + 1
    start = min(range(len(v) - half + 1), key=lambda i: v[i + half - 1] - v[i])
    return statistics.fmean(v[start : start + half])


def verdict(found: Shift, shared: float) -> str:
    """Inside, or what is wrong with the record; a drift that a machine may have is no reason."""
    plain = found.verdict
    if abs(shared) > TOGETHER or plain == found.less(shared).verdict:
        return plain
    return INSIDE


@dataclass(frozen=True)
class Order:
    """Pairs of kernels on one problem: in the same order on both machines, the reverse, or not told apart."""

    same: int
    reversed: list[tuple[str, str]]
    untold: int
    tau: float | None  # Kendall's, over all pairs by their medians

    @property
    def share(self) -> float | None:
        told = self.same + len(self.reversed)
        return self.same / told if told else None


Interval = tuple[float, float, float]  # median, low, high


def order(record: dict[str, Interval], here: dict[str, Interval]) -> Order:
    """How the ranking of the kernels of one problem compares. A pair counts where both sides tell it apart."""
    names = sorted(record.keys() & here.keys(), key=lambda k: record[k])
    same, turned, untold, balance = 0, [], 0, 0
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    for a, b in pairs:  # the record has a before b
        balance += (here[a] < here[b]) - (here[a] > here[b])
        if record[a][2] >= record[b][1] or _overlap(here[a], here[b]):
            untold += 1
        elif here[a] < here[b]:
            same += 1
        else:
            turned.append((a, b))
    return Order(same, turned, untold, balance / len(pairs) if pairs else None)


def _overlap(a: Interval, b: Interval) -> bool:
    return a[1] <= b[2] and b[1] <= a[2]
