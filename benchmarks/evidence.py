"""What rounds say together: intervals, ratios, who won, and the sentence that says so. Computed here and nowhere else.

The round, not the sample, is the evidence. What is ranked are the cells of one run; whoever has another form of
them gives the attributes of ``Timed``.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Generic, Protocol, TypeVar

from . import words as say
from .problems import kind, order_of_kinds

FEWEST = 3  # rounds that agree, below which no difference is called one
# Strongest first, each contains the one before it. Nobody wins by computing less than was asked.
GUARANTEES = ("elementwise", "tilewise", "normwise", "tf32", "half")
DEVICES = {"numba_cuda": "cuda", "cupy": "cuda", "torch_cuda": "cuda", "torch_mps": "mps"}  # of backends; else the CPU
# What most people call today: of these the first that ran is the baseline where nobody names one.
USUAL = ("torch_cuda/builtin", "torch_mps/builtin", "torch_cpu/builtin", "numpy/im2col")
Rounds = Mapping[int, float]  # seconds of one cell, by the number of the round
Interval = tuple[float, float, float]  # median, low, high


class Timed(Protocol):
    """One kernel on one problem in one scenario, with the seconds of its rounds."""

    @property
    def kernel(self) -> str: ...
    @property
    def problem(self) -> str: ...
    @property
    def scenario(self) -> str: ...
    @property
    def layer(self) -> str: ...
    @property
    def accuracy(self) -> str: ...
    @property
    def seconds(self) -> float: ...
    @property
    def rounds(self) -> Rounds: ...
    @property
    def ran(self) -> bool: ...


C = TypeVar("C", bound=Timed)


def interval(values: Iterable[float]) -> tuple[float, float, float]:
    """(low, high, confidence) for the median from order statistics; no distribution is assumed.

    The narrowest pair of order statistics that holds the median with 95 %; with fewer than six values the whole
    range, and the confidence says what that is worth (sign test; e.g. Conover, Practical Nonparametric Statistics,
    3e, section 3.2).
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


def strength(accuracy: str) -> int:
    """0 for the strongest guarantee; one that is not known counts as the weakest."""
    return GUARANTEES.index(accuracy) if accuracy in GUARANTEES else len(GUARANTEES)


def keeps(cell: Timed, need: str) -> bool:
    """Whether the cell guarantees at least ``need``."""
    return strength(cell.accuracy) <= strength(need)


def device(kernel: str) -> str:
    return DEVICES.get(kernel.partition("/")[0], "cpu")


def default_baseline(kernels: Sequence[str]) -> str | None:
    """What most people call today, of the kernels that ran; else the first of these."""
    return next((k for k in USUAL if k in kernels), kernels[0] if kernels else None)


@dataclass(frozen=True)
class Race(Generic[C]):
    """All cells of one problem in one scenario, quickest first."""

    problem: str
    scenario: str
    ranked: list[C]
    others: list[C]  # without a time

    @property
    def layer(self) -> str:
        return (self.ranked or self.others)[0].layer

    @property
    def best(self) -> C | None:
        """The quickest of those with the strongest guarantee that is here at all."""
        return min(self.ranked, key=lambda c: (strength(c.accuracy), c.seconds), default=None)

    def fastest(self, need: str) -> C | None:
        """The quickest of those that guarantee at least ``need``."""
        return next((c for c in self.ranked if keeps(c, need)), None)

    def ties(self, need: str) -> list[C]:
        """Kernels that these rounds cannot tell from the fastest with that guarantee."""
        best = self.fastest(need)
        return [
            c
            for c in self.ranked
            if best and c is not best and keeps(c, need) and not told_apart(best.rounds, c.rounds)
        ]

    def runner_up(self, need: str) -> C | None:
        """The quickest of those that are told apart from the fastest."""
        best, level = self.fastest(need), self.ties(need)
        return next((c for c in self.ranked if keeps(c, need) and c is not best and c not in level), None)

    @property
    def level(self) -> list[C]:
        """Kernels with the best one's guarantee that these rounds cannot tell from it."""
        return self.ties(self.best.accuracy) if self.best else []

    @property
    def weaker(self) -> list[C]:
        """Kernels that were quicker than the best one, with a weaker guarantee."""
        best = self.best
        if best is None:
            return []
        return [c for c in self.ranked if c.seconds < best.seconds and strength(c.accuracy) > strength(best.accuracy)]


@dataclass(frozen=True)
class Winner:
    """The fastest kernel over all problems of a group, among those that guarantee at least ``need``."""

    need: str
    kernel: str | None  # None where no such kernel ran on all of them
    guarantee: str
    rounds: int  # that it has on every problem; an interval is over these
    speed: Interval | None  # against the baseline, geometric mean
    ties: list[str]
    ahead: Interval | None  # of the next kernel that is told apart
    next: str
    chosen: Interval | None  # the fastest kernel of each problem, against the baseline
    wins: dict[str, int]  # kernel -> problems on which it is the fastest


@dataclass(frozen=True)
class Group(Generic[C]):
    """Problems of one scenario, layout, type and batch, on one device: what may be ranked together."""

    device: str
    scenario: str
    kind: str
    races: list[Race[C]]
    thin: list[Race[C]]  # with too few rounds to tell anything, and so not among the races
    baseline: str | None
    winners: list[Winner] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.device}, {self.scenario}, {self.kind}"


def races(cells: Iterable[C], scenario: str) -> list[Race[C]]:
    """The races of a scenario, in the order of the cells."""
    problems: dict[str, list[C]] = {}
    for c in cells:
        if c.scenario == scenario:
            problems.setdefault(c.problem, []).append(c)
    found = []
    for problem, mine in problems.items():
        ranked = sorted((c for c in mine if c.ran), key=lambda c: (c.seconds, c.kernel))
        found.append(Race(problem, scenario, ranked, sorted((c for c in mine if not c.ran), key=lambda c: c.kernel)))
    return found


def scenarios(cells: Iterable[Timed]) -> list[str]:
    return sorted({c.scenario for c in cells}, reverse=True)  # packed before eager


def groups(cells: Sequence[C], baseline: str | None) -> list[Group[C]]:
    """Groups of two problems or more; where there is none, those of one."""
    found: dict[tuple[str, str, str], list[Race[C]]] = {}
    for scenario in scenarios(cells):
        for race in races(cells, scenario):
            for where in ("cpu", "cuda", "mps"):
                if mine := [c for c in race.ranked if device(c.kernel) == where]:
                    part = Race(race.problem, scenario, mine, [])
                    found.setdefault((where, scenario, kind(race.problem)), []).append(part)
    wide = {key: each for key, each in found.items() if len(each) > 1} or found
    order = sorted(wide.items(), key=lambda kv: order_of_kinds(kv[1][0].problem))
    order.sort(key=lambda kv: scenarios(cells).index(kv[0][1]))
    return [_group(baseline, key, each) for key, each in order]


def _group(baseline: str | None, key: tuple[str, str, str], whole: list[Race[C]]) -> Group[C]:
    thin = [r for r in whole if max(len(c.rounds) for c in r.ranked) < FEWEST]
    if len(thin) == len(whole):
        thin = []
    enough = [r for r in whole if r not in thin]
    every = [c.kernel for race in enough for c in race.ranked]
    if baseline not in every:  # on a device where it did not run: the kernel that ran on most problems
        builtin = [k for k in every if k.endswith("/builtin")]
        baseline = max(sorted(set(builtin or every)), key=every.count, default=None)
    needs = [g for g in GUARANTEES if any(c.accuracy == g for race in enough for c in race.ranked)]
    return Group(*key, enough, thin, baseline, [winner(enough, need, baseline) for need in needs])


def winner(races: Sequence[Race[C]], need: str, baseline: str | None) -> Winner:
    cells = [{c.kernel: c for c in race.ranked} for race in races]
    full = set.intersection(*(set(each) for each in cells))
    fit = [k for k in sorted(full) if all(keeps(each[k], need) for each in cells)]
    took = {k: [each[k].rounds for each in cells] for k in fit}
    base = [each[baseline].rounds for each in cells] if baseline and baseline in full else None

    def speed(slow: Sequence[Rounds], quick: Sequence[Rounds]) -> Interval | None:
        return summary(mean_speeds(list(zip(slow, quick, strict=True))))

    def time(kernel: str) -> float:
        return geometric([each[kernel].seconds for each in cells])

    ranked = sorted(fit, key=lambda k: (time(k), k))
    best = ranked[0] if ranked else None
    ties, after = [], None
    for rival in ranked[1:]:
        values = mean_speeds(list(zip(took[rival], took[ranked[0]], strict=True)))
        if certain(values):
            after = (rival, summary(values))
            break
        ties.append(rival)
    rounds = len(set.intersection(*(set(r) for r in took[best]))) if best else 0
    fastest = [race.fastest(need) for race in races]
    wins: dict[str, int] = {}
    for cell in fastest:
        if cell:
            wins[cell.kernel] = wins.get(cell.kernel, 0) + 1
    whole = [c.rounds for c in fastest if c]
    return Winner(
        need,
        best,
        cells[0][best].accuracy if best else "",
        rounds,
        speed(base, took[best]) if base and best else None,
        ties,
        after[1] if after else None,
        after[0] if after else "",
        speed(base, whole) if base and len(whole) == len(races) else None,
        dict(sorted(wins.items(), key=lambda kv: (-kv[1], kv[0]))),
    )


def closing(found: Sequence[Group], threads: int | str, machine: str) -> str:
    """The closing sentence of a run, one for each group: which kernel won, by how much, and how sure that is."""
    told = [_sentence(group, threads, machine) for group in found if group.winners]
    return " ".join(told) or "No kernel was timed: nothing can be ranked."


def _sentence(group: Group, threads: int | str, machine: str) -> str:
    w = group.winners[0]  # of the strongest guarantee that is here at all
    many = f"{len(group.races)} problems" if len(group.races) > 1 else group.races[0].problem
    where = f"({w.need}, {group.scenario}, {group.kind}, {say.plural_of(str(threads), 'thread')}, {machine})"
    if w.kernel is None:
        return f"No kernel that guarantees {w.need} ran on all of {many} {where}."
    speed = ""
    if w.speed and w.kernel != group.baseline:
        speed = f" {say.speed_text(w.speed[0])} ({ends(w.speed, w.rounds)}) as fast as {group.baseline}"
    return f"{w.kernel} is fastest over {many}:{speed or ' it is the baseline'}; {margin(w)} {where}."


def margin(w: Winner) -> str:
    """How sure a winner is: its lead over the next that is told apart, and those that it is not told from."""
    lead = f"{say.speed_text(w.ahead[0])} ({ends(w.ahead)}) ahead of {w.next}" if w.ahead else ""
    if w.ties and w.rounds < FEWEST:
        return f"all of these problems share {say.plural(w.rounds, 'round')}, too few to tell"
    if w.ties:
        return f"cannot be told from {say.listed(w.ties)}" + (f"; {lead}" if lead else "")
    return lead or "no other kernel ran on all of these problems"


def ends(interval: Interval, rounds: int = FEWEST) -> str:
    """Both ends; of one round, that it is one, because one has no interval."""
    if rounds == 1:
        return "1 round"
    return f"{say.speed_text(interval[1], '')}–{say.speed_text(interval[2])}"


def flat(fingerprint: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A fingerprint without nesting: words to words."""
    found: dict[str, str] = {}
    for key, value in fingerprint.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            found |= flat(value, f"{name} ") if prefix.count(" ") < 3 else {}
        else:
            found[name] = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return found


def moved(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """What differs between two flat fingerprints, as "spills 0 -> 14"; a hash only where nothing else does."""
    keys = [k for k in dict.fromkeys((*before, *after)) if before.get(k) != after.get(k)]
    plain = [f"{k} {before.get(k, 'none')} -> {after.get(k, 'none')}" for k in keys if "hash" not in k]
    return plain or (["other machine code, with the same counts"] if keys else [])


def comparable(*fingerprints: Mapping[str, str]) -> bool:
    """Whether all are there; the key "fingerprint" says why one is not."""
    return all(f and "fingerprint" not in f for f in fingerprints)
