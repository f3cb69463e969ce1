"""Who stands where: the order of kernels, the best of a problem, and what cannot be told apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from benchmarks import evidence
from benchmarks.problems import kind

from .cells import Cell, Run

ENOUGH = 0.75  # of the problems: a page that shows these shows all


def same_suite(runs: Sequence[Run]) -> list[Run]:
    """Those of the newest suite: the numbers of different suites mean different things."""
    return [run for run in runs if run.suite == max(r.suite for r in runs)]


def foremost(run: Run, scenario: str) -> tuple[Run, str]:
    """What fits into a figure or a table on paper: all problems, or of many kinds those of the largest; and which.

    A kind is a layout, a type and a batch. A few problems of others, as a ladder over N has them, are no reason.
    """
    problems = list(dict.fromkeys(c.problem for c in run.of(scenario=scenario)))
    kinds = Counter(kind(p) for p in problems)
    most = min(kinds, key=lambda k: (-kinds[k], len(k), k), default="")
    if kinds[most] >= ENOUGH * len(problems):
        return run, scenario
    cells = [c for c in run.cells if kind(c.problem) == most]
    return replace(run, cells=cells), f"{scenario}, {most}, {kinds[most]} of {len(problems)} problems"


def overall(run: Run, scenario: str, kernel: str) -> tuple[float, float, float] | None:
    """Speed against the baseline over all of its problems, as a geometric mean with its interval.

    None for a kernel that did not run on all of them: a mean over other problems is another number.
    """
    if run.baseline is None:
        return None
    base = {c.problem: c for c in run.of(kernel=run.baseline, scenario=scenario) if c.ran}
    mine = {c.problem: c for c in run.of(kernel=kernel, scenario=scenario) if c.ran}
    if not base or not base.keys() <= mine.keys():
        return None
    return evidence.summary(evidence.mean_speeds([(base[q].rounds, mine[q].rounds) for q in base]))


def ordered(run: Run, scenario: str) -> list[str]:
    """Kernels of a scenario: those that ran on most problems first, then by their overall speed."""
    cells = run.of(scenario=scenario)
    ran: dict[str, int] = {c.kernel: 0 for c in cells}
    for c in cells:
        ran[c.kernel] += c.ran

    def place(kernel: str) -> tuple[int, float, str]:
        found = overall(run, scenario, kernel)
        return -ran[kernel], -found[0] if found else 0.0, kernel

    return sorted(ran, key=place)


def reason(cell: Cell) -> str:
    return cell.why.removeprefix(f"{cell.kernel} ") or "no reason was recorded"


def reasons(cells: Iterable[Cell]) -> dict[tuple[str, str, str], list[Cell]]:
    """Cells without a time by (group, status, reason), what went wrong first, then the most frequent."""
    found: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in cells:
        if not cell.ran:
            found.setdefault((cell.group, cell.status, reason(cell)), []).append(cell)
    rank = ("wrong", "failed", "unreached", "skipped")
    return dict(sorted(found.items(), key=lambda kv: (rank.index(kv[0][0]), -len(kv[1]), kv[0])))


def verdict(cell: Cell) -> str:
    """Its speed against the baseline in words: whether the interval leaves out 1, and on which side."""
    if cell.speed is None:
        return "not compared"
    _, low, high = cell.speed
    if low == high == 1:
        return "baseline"
    if (cell.numbers["rounds"] or 0) < evidence.FEWEST:
        return "cannot tell"
    return "faster" if low > 1 else "slower" if high < 1 else "cannot tell"
