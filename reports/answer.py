"""The answer first: who won for each required accuracy, what a network costs, and what became of the cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import evidence
from benchmarks.evidence import GUARANTEES, keeps
from benchmarks.problems import order_of_kinds

from .cells import Cell, Run


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
