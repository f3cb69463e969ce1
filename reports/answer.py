"""The answer first: who won for each required accuracy, what a network costs, and what became of the cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from . import evidence, standing
from .cells import Cell, Run
from .limits import kind, order_of_kinds
from .standing import GUARANTEES, Race, keeps

Interval = tuple[float, float, float]  # median, low, high


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
class Group:
    """Problems of one scenario, layout, type and batch, on one device: what may be ranked together."""

    device: str
    scenario: str
    kind: str
    races: list[Race]
    thin: list[Race]  # with too few rounds to tell anything, and so not among the races
    baseline: str | None
    winners: list[Winner] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.device}, {self.scenario}, {self.kind}"


def groups(run: Run) -> list[Group]:
    """Groups of two problems or more; where there is none, those of one."""
    found: dict[tuple[str, str, str], list[Race]] = {}
    for scenario in run.scenarios:
        for race in standing.races(run, scenario):
            for device in ("cpu", "cuda", "mps"):
                mine = [c for c in race.ranked if c.device == device]
                if mine:
                    part = Race(race.problem, scenario, mine, [])
                    found.setdefault((device, scenario, kind(race.problem)), []).append(part)
    wide = {key: races for key, races in found.items() if len(races) > 1} or found
    order = sorted(wide.items(), key=lambda kv: order_of_kinds(kv[1][0].problem))
    order.sort(key=lambda kv: run.scenarios.index(kv[0][1]))
    return [_group(run, key, races) for key, races in order]


def _group(run: Run, key: tuple[str, str, str], races: list[Race]) -> Group:
    thin = [r for r in races if max(len(c.rounds) for c in r.ranked) < evidence.FEWEST]
    if len(thin) == len(races):
        thin = []
    races = [r for r in races if r not in thin]
    baseline = _baseline(run, races)
    needs = [g for g in GUARANTEES if any(c.accuracy == g for race in races for c in race.ranked)]
    return Group(*key, races, thin, baseline, [winner(races, need, baseline) for need in needs])


def _baseline(run: Run, races: Sequence[Race]) -> str | None:
    """The run's baseline; on a device where it did not run, the kernel that ran on most problems."""
    every = [c.kernel for race in races for c in race.ranked]
    if run.baseline in every:
        return run.baseline
    builtin = [k for k in every if k.endswith("/builtin")]
    return max(sorted(set(builtin or every)), key=every.count, default=None)


def winner(races: Sequence[Race], need: str, baseline: str | None) -> Winner:
    cells = [{c.kernel: c for c in race.ranked} for race in races]
    full = set.intersection(*(set(each) for each in cells))
    fit = [k for k in sorted(full) if all(keeps(each[k], need) for each in cells)]
    took = {k: [each[k].rounds for each in cells] for k in fit}
    base = [each[baseline].rounds for each in cells] if baseline and baseline in full else None

    def speed(slow: Sequence[evidence.Rounds], quick: Sequence[evidence.Rounds]) -> Interval | None:
        return evidence.summary(evidence.mean_speeds(list(zip(slow, quick, strict=True))))

    def time(kernel: str) -> float:
        return evidence.geometric([each[kernel].seconds for each in cells])

    ranked = sorted(fit, key=lambda k: (time(k), k))
    best = ranked[0] if ranked else None
    ties, after = [], None
    for rival in ranked[1:]:
        values = evidence.mean_speeds(list(zip(took[rival], took[ranked[0]], strict=True)))
        if evidence.certain(values):
            after = (rival, evidence.summary(values))
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


@dataclass(frozen=True)
class Bill:
    """One pass through a network with one kernel, or with the fastest one of each layer."""

    kernel: str  # "" for the fastest of each layer
    seconds: tuple[float, float | None, float | None]  # an interval only where one record holds all layers
    wins: dict[str, int]


@dataclass(frozen=True)
class Network:
    name: str
    kind: str
    scenario: str
    device: str
    need: str
    layers: int
    bills: list[Bill]  # quickest first

    @property
    def mixed(self) -> Bill:
        """The fastest kernel of each layer."""
        return next(b for b in self.bills if not b.kernel)

    @property
    def single(self) -> Bill | None:
        """The fastest kernel that ran on every layer."""
        return next((b for b in self.bills if b.kernel), None)


def networks(run: Run) -> list[Network]:
    """Every network all of whose layers were timed, for each accuracy that somebody guarantees."""
    found = []
    every = sorted(run.networks.items(), key=lambda kv: (order_of_kinds(kv[1][0][1]), kv[0]))
    for scenario in run.scenarios:
        for (name, sort), layers in every:
            for device in ("cpu", "cuda", "mps"):
                for need in GUARANTEES:
                    if bills := _bills(run, layers, scenario, device, need):
                        count = sum(n for *_, n in layers)
                        found.append(Network(name, sort, scenario, device, need, count, bills))
    return found


def _bills(run: Run, layers: Sequence[tuple[str, str, int]], scenario: str, device: str, need: str) -> list[Bill]:
    found: list[tuple[int, list[Cell]]] = []
    for _, problem, count in layers:
        cells = [c for c in run.of(problem=problem, scenario=scenario) if c.ran and c.device == device]
        fit = [c for c in cells if keeps(c, need)]
        if not fit:
            return []
        found.append((count, fit))
    kernels = set.intersection(*({c.kernel for c in fit} for _, fit in found))
    bills = [_bill(k, [(n, next(c for c in fit if c.kernel == k)) for n, fit in found]) for k in sorted(kernels)]
    mixed = _bill("", [(n, min(fit, key=lambda c: (c.seconds, c.kernel))) for n, fit in found])
    return sorted([mixed, *bills], key=lambda b: b.seconds[0])


def _bill(kernel: str, parts: Sequence[tuple[int, Cell]]) -> Bill:
    total = sum(n * c.seconds for n, c in parts)
    shared = set.intersection(*(set(c.rounds) for _, c in parts))
    sums = [sum(n * c.rounds[i] for n, c in parts) for i in sorted(shared)]
    low = high = None
    if len(sums) > 1 and len({c.source for _, c in parts}) == 1:
        low, high, _ = evidence.interval(sums)
        low, high = min(low, total), max(high, total)
    wins: dict[str, int] = {}
    for n, c in parts:
        wins[c.kernel] = wins.get(c.kernel, 0) + n
    ordered = dict(sorted(wins.items(), key=lambda kv: (-kv[1], kv[0])))
    return Bill(kernel, (total, low, high), ordered)


GROUPS = {
    "ran": "timed, and the timed outputs were right",
    "wrong": "an output was wrong or the time impossible, so there is no time",
    "failed": "crashed, timed out, or left no result",
    "skipped": "refused by the kernel, or something is missing on this machine",
    "unreached": "the run ended before their turn",
}


def counts(run: Run) -> list[tuple[str, int, str]]:
    """(group, cells, what it means), for every group."""
    return [(g, sum(c.group == g for c in run.cells), meaning) for g, meaning in GROUPS.items()]


def alarms(run: Run) -> list[Cell]:
    """Cells that no reader may miss."""
    return [c for c in run.cells if c.group in ("wrong", "failed")]
