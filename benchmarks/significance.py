"""When is a difference between two versions real? One exact test on rounds, corrected for all cells.

A round measures both sides of a cell, each in a fresh process, one right after the other (A B or A B B A),
and a coin decides which side is A. Its evidence is one number, log(seconds of head / seconds of base). Where head
is base, the two processes could be swapped without anybody noticing, so the sign of that number is a
fair coin: whatever the noise looks like, with outliers, with drift, with a machine that slows down while
it runs. Signs of different rounds are independent, because every round tosses again. That is all that a
signed-rank test needs; it is exact here, and no distribution is assumed. Its scores are Wilcoxon's ranks
up to the middle one and constant from there, so that one round in which another program ran does not
outvote the others: with one wild round in ten a slow-down of 5 % under 3 % noise is found in 4 of 5 runs
where plain ranks find it in 3 (15 rounds), and without wild rounds as often to 1 %.

How often does a run on two identical versions say "slower"? With m cells:

1. Screening, a few rounds of every cell, only chooses suspects. Verdicts come from later rounds alone,
   which are independent of the choice.
2. The p of a cell is two-sided and exact: P(p <= a) <= a for every a.
3. There are two looks at the confirming rounds: after n, and for cells without a verdict after 2 n. Each
   look may use half of ALPHA, and a p is doubled for it: P(false at either) <= ALPHA / 2 + ALPHA / 2.
4. At each look Holm over all m cells that were screened, though only suspects were tested again (the
   others count as p = 1): P(any verdict other than "cannot tell") <= ALPHA = 0.01, however the cells
   depend on each other. Half of that, 0.005, is the share of "slower", which alone sets the exit code.
5. A verdict also needs an estimate beyond MINIMUM. That can only lower the rate.

So at most 1 run in 200 cries wolf, and in truth fewer: p is discrete, and most cells are no suspects.
The price is rounds: the least p of n rounds is 2^(1-n), so n grows with log2(m), see ``rounds_for``. The
second look is for machines where many rounds are wild: with one in four, it finds what the first misses.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement, pairwise

ALPHA = 0.01  # chance that a whole run on identical versions gives any verdict
MINIMUM = 0.02  # a change smaller than this is not worth a verdict
LOOKS = 2  # at the confirming rounds: the second for cells without a verdict after the first
SCREENING = 4  # rounds in which every cell is looked at
SUSPECT = 0.015  # a cell whose screening says at least this, either way, is measured again
SPARE = 8  # rounds beyond the fewest that could ever do, so that a few may disagree


# What becomes of a cell of two versions, and of these what fails a run and what a reader must look at, worst first.
TIMED = ("slower", "faster", "cannot tell")
FAILURES = ("slower", "newly wrong", "newly failing")
CHANGES = (
    "newly wrong",
    "newly failing",
    "slower",
    "faster",
    "mended",
    "newly refused",
    "newly supported",
    "removed",
    "new",
    "broken on both",
    "never measured",
)


@dataclass(frozen=True)
class Estimate:
    """How many times the seconds of base head takes, with the interval that goes with the test."""

    ratio: float
    low: float
    high: float
    confidence: float


@lru_cache(maxsize=4096)
def _subsets(scores: tuple[int, ...]) -> list[int]:
    """Entry w: how many subsets of ``scores`` sum to at most w. All signs equally likely, that over
    2^n is P(W <= w) for the sum W of the scores on one side."""
    ways = [1] + [0] * sum(scores)
    for score in scores:
        for w in range(len(ways) - 1, score - 1, -1):
            ways[w] += ways[w - score]
    for w in range(1, len(ways)):
        ways[w] += ways[w - 1]
    return ways


def _scores(values: Sequence[float], whole: int) -> tuple[tuple[int, ...], int, int]:
    """Twice the score of each value, and their sums for + and for -; ``whole``: values in the end.

    A score is the rank of the size, at most that of the middle one; ties share theirs, zeros have none.
    """
    sizes = sorted(abs(v) for v in values)
    most = 2 * max(1, whole // 2)
    twice = [min(most, bisect_left(sizes, abs(v)) + bisect_right(sizes, abs(v)) + 1) for v in values]
    plus = sum(score for score, v in zip(twice, values, strict=True) if v > 0)
    return tuple(sorted(twice)), plus, sum(twice) - plus


def p_value(values: Sequence[float]) -> float:
    """Exact two-sided p of the hypothesis that ``values`` are symmetric about zero."""
    told = [v for v in values if v]
    scores, plus, minus = _scores(told, len(told))
    return min(1.0, 2 * _subsets(scores)[min(plus, minus)] / 2 ** len(scores))


def hopeless(values: Sequence[float], rounds: int, level: float) -> bool:
    """Whether no outcome of the rounds still to come, of ``rounds`` in all, can bring p to ``level``.

    At best they all agree and are larger than what is there. Stopping here changes no verdict.
    """
    told = [v for v in values if v]
    whole = rounds - len(values) + len(told)
    _, plus, minus = _scores(told, whole)
    cumulated = _subsets(_untied(whole))
    return 2 * cumulated[min(plus, minus)] / 2**whole > level


def _untied(n: int) -> tuple[int, ...]:
    return tuple(2 * min(rank, max(1, n // 2)) for rank in range(1, n + 1))


def rounds_for(cells: int, alpha: float = ALPHA) -> int:
    """Confirming rounds with which a clear change can pass Holm over ``cells`` cells."""
    return math.ceil(math.log2(2 * LOOKS * max(1, cells) / alpha)) + SPARE


def holm(p: Sequence[float], family: int) -> list[float]:
    """Adjusted p, for one of LOOKS, of the tested ones in a family of which all others have p = 1."""
    adjusted, highest = [1.0] * len(p), 0.0
    for step, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        highest = max(highest, min(1.0, LOOKS * (family - step) * p[i]))
        adjusted[i] = highest
    return adjusted


def mildest_level(suspects: int, family: int, alpha: float = ALPHA) -> float:
    """The largest p that Holm could accept from any of ``suspects`` cells of ``family``."""
    return alpha / LOOKS / max(1, family - suspects + 1)


def estimate(logs: Sequence[float]) -> Estimate:
    """The shift that leaves both signs equally strong, and the interval of those the test does not reject.

    95 % where the number of rounds allows it (six or more), else the whole range with what it is worth.
    The sums of scores change only at means of two values, and steadily: between two of those they are
    looked up (Hodges and Lehmann, 1963).
    """
    n = len(logs)
    means = sorted({(a + b) / 2 for a, b in combinations_with_replacement(logs, 2)})
    gaps = [(a + b) / 2 for a, b in pairwise(means)]

    def lead(shift: float) -> int:
        """How much stronger the values below ``shift`` are than those above: it grows with it."""
        _, plus, minus = _scores([v - shift for v in logs], n)
        return minus - plus

    scores = _untied(n)
    cumulated, cut, total = _subsets(scores), 0, sum(scores)
    while 2 * cumulated[cut + 1] / 2**n <= 0.05:
        cut += 1
    # a shift is rejected where the weaker sign has at most cut, that is where the lead is this large
    far = total - 2 * cut
    low = means[bisect_right(gaps, -far, key=lead)]
    high = means[bisect_left(gaps, far, key=lead)]
    centre = (means[bisect_left(gaps, 0, key=lead)] + means[bisect_right(gaps, 0, key=lead)]) / 2
    confidence = max(0.0, 1 - 2 * cumulated[cut] / 2**n)
    return Estimate(math.exp(centre), math.exp(low), math.exp(high), confidence)


def suspicious(base: Sequence[float], head: Sequence[float]) -> bool:
    """Whether the best seconds of each side differ enough, either way, to look again. Loose on purpose."""
    return bool(base) and bool(head) and abs(math.log(min(head) / min(base))) >= math.log1p(SUSPECT)


def verdict(ratio: float, adjusted_p: float, minimum: float = MINIMUM, alpha: float = ALPHA) -> str:
    if adjusted_p > alpha or abs(math.log(ratio)) < math.log1p(minimum):
        return "cannot tell"
    return "slower" if ratio > 1 else "faster"


def noise(cells: Sequence[Sequence[float]]) -> float:
    """Typical spread of one round's log ratio: the median over cells of a robust standard deviation."""
    spreads = []
    for logs in cells:
        if len(logs) >= 3:
            middle = statistics.median(logs)
            spreads.append(1.4826 * statistics.median(abs(v - middle) for v in logs))
    return statistics.median(spreads) if spreads else 0.0


def visible(noise: float, screening: int, confirming: int, family: int, minimum: float) -> float | None:
    """About the smallest slow-down that such a run finds in 9 of 10 tries, as a fraction.

    None where no slow-down can pass, because so few rounds cannot make p small enough.

    Normal approximation; the best of a few values, and a sum of scores, spread a little more than a
    mean would.
    """
    if hopeless([], confirming, mildest_level(1, family)):
        return None
    normal = statistics.NormalDist()
    screened = math.log1p(SUSPECT) + 1.28 * 1.3 * noise / math.sqrt(max(1, screening))
    strict = normal.inv_cdf(1 - mildest_level(1, family) / 2)
    confirmed = (strict + 1.28) * 1.05 * noise / math.sqrt(max(1, confirming))
    needed = math.log1p(minimum) + 1.28 * 1.05 * noise / math.sqrt(max(1, confirming))
    return math.expm1(max(screened, confirmed, needed))
