"""Steps in the committed history: asv's own detector over asv's own results, with commit, cell and size.

It speaks of what was recorded, and measures nothing. asv's detector rarely raises a false alarm, and for
that it is deaf to a small step in a noisy or a short series (on simulated series of 20 commits with 5 %
noise it saw one step of 20 % in eight): ``regress`` is the gate, this is the memory.
"""

from __future__ import annotations

import argparse
import itertools
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import options as kinds
from ..record import ROOT, git
from ..terminal import console
from ..words import seconds_text
from . import FAILED, FINE, emit


@dataclass
class Series:
    """One cell on one machine in one environment: commits in order, values, asv's statistics."""

    machine: str
    environment: str
    benchmark: str
    cell: str
    version: str
    points: list[tuple[str, float, Any]] = field(default_factory=list)

    @property
    def key(self) -> dict[str, str]:
        return {
            "machine": self.machine,
            "environment": self.environment,
            "benchmark": self.benchmark,
            "cell": self.cell,
            "version": self.version,
        }


@dataclass(frozen=True)
class Step:
    """The level before and after; the change lies in the commits after ``last_before``, up to ``first_after``."""

    series: Series
    last_before: str
    first_after: str
    before: float
    after: float
    unmeasured: int | None

    @property
    def ratio(self) -> float:
        return self.after / self.before

    @property
    def line(self) -> dict[str, Any]:
        return self.series.key | {
            "commits": f"{self.last_before[:8]}..{self.first_after[:8]}",
            "last_before": self.last_before,
            "first_after": self.first_after,
            "unmeasured": self.unmeasured,
            "before": self.before,
            "after": self.after,
            "ratio": self.ratio,
        }


def results_folder(given: str | None) -> Path:
    """Where asv.conf.json says that results lie, or the folder given. ValueError where there is none."""
    if given:
        folder = Path(given).resolve()
        if not folder.is_dir():
            raise ValueError(f"{given} is no folder of asv results")
        return folder
    from asv.config import Config

    return ROOT / Config.load(str(ROOT / "asv.conf.json")).results_dir


def series(results: Path) -> list[Series]:
    """Every series in ``results``; a benchmark whose version changed begins a new one."""
    from asv.results import iter_results

    files = list(iter_results(str(results)))
    place = _places({r.commit_hash for r in files})
    files.sort(key=lambda r: (place.get(r.commit_hash, 0), r.date, r.commit_hash))
    found: dict[tuple[str, ...], Series] = {}
    for r in files:
        for point in _points(r):
            *key, value, stats = point
            one = found.setdefault(tuple(key), Series(*key))
            one.points.append((r.commit_hash, value, stats))
    return list(found.values())


def _points(r: Any) -> Iterator[tuple]:
    machine = str(r.params.get("machine", "unknown"))
    for name in r.get_all_result_keys():
        params = r.get_result_params(name)
        version = str(r.benchmark_version.get(name) or "")
        values, stats = r.get_result_value(name, params), r.get_result_stats(name, params)
        for i, combination in enumerate(itertools.product(*params)):
            value = values[i] if values and i < len(values) else None
            if value is None or not math.isfinite(value) or value <= 0:
                continue
            cell = ", ".join(text.strip("'\"") for text in combination)
            yield machine, r.env_name, name, cell, version, value, stats[i] if stats else None


def _places(commits: set[str]) -> dict[str, int]:
    """Position of each commit in git's order, parents first; empty where git does not know them all.

    Then dates decide alone. They cannot tell commits of one second apart, and a rebase shuffles them.
    """
    try:
        every = git("rev-list", "--topo-order", "--reverse", "--all").decode().split()
    except (OSError, subprocess.CalledProcessError):
        return {}
    place = {commit: i for i, commit in enumerate(every)}
    return place if commits <= place.keys() else {}


def steps(every: list[Series], minimum: float = 0.0) -> list[Step]:
    """All steps of at least ``minimum``, largest first."""
    from asv import _stats, step_detect

    found = []
    for one in every:
        values = [value for _, value, _ in one.points]
        weights = [_stats.get_weight(stats) for _, _, stats in one.points]
        pieces = step_detect.detect_steps(values, weights)
        for (_, end, before, *_), (start, _, after, *_) in itertools.pairwise(pieces):
            if abs(math.log(after / before)) < math.log1p(minimum):
                continue
            first, second = one.points[end - 1][0], one.points[start][0]
            found.append(Step(one, first, second, before, after, _between(first, second)))
    return sorted(found, key=lambda s: -abs(math.log(s.ratio)))


def _between(first: str, second: str) -> int | None:
    """How many commits between the two were never measured; None where git does not know them."""
    try:
        return max(0, int(git("rev-list", "--count", f"{first}..{second}")) - 1)
    except (OSError, subprocess.CalledProcessError):
        return None


def sentence(every: list[Series], found: list[Step]) -> str:
    if not every:
        return "There are no asv results yet: make asv writes them."
    longest = max(len(one.points) for one in every)
    size = f"{len(every)} series of at most {longest} commits"
    if not found:
        return f"No step in {size}."
    slower = sum(step.ratio > 1 for step in found)
    worst = max(found, key=lambda s: s.ratio)
    told = f"{len(found)} steps in {size}, {slower} of them slower."
    if slower:
        told += (
            f" The largest: {worst.series.cell} became {worst.ratio:.2f}x slower with "
            f"{worst.last_before[:8]}..{worst.first_after[:8]} on {worst.series.machine}."
        )
    return told


def show(every: list[Series], found: list[Step]) -> None:
    from rich.table import Table

    out = console()
    if found:
        table = Table(box=None, pad_edge=False)
        for heading in ("commits", "cell", "benchmark", "before", "after", "change", "machine"):
            table.add_column(heading, overflow="fold")
        for step in found:
            size = f"{step.ratio:.2f}x slower" if step.ratio > 1 else f"{1 / step.ratio:.2f}x faster"
            commits = step.line["commits"] + (f" (+{step.unmeasured})" if step.unmeasured else "")
            table.add_row(
                commits,
                step.series.cell,
                step.series.benchmark.rpartition(".")[2],
                seconds_text(step.before),
                seconds_text(step.after),
                size,
                step.series.machine,
            )
        out.print(table)
        out.print()
    out.print(sentence(every, found), style="bold", markup=False, soft_wrap=True)


def options(p: argparse.ArgumentParser) -> None:
    p.add_argument("--results", metavar="DIR", help="default: results_dir of asv.conf.json")
    p.add_argument("--minimum", type=kinds.percent, metavar="PERCENT", default=2.0, help="smaller is no step")


def call(args: argparse.Namespace) -> int:
    try:
        every = series(results_folder(args.results))
    except ImportError:
        print("history reads asv's results: pip install 'convzoo[bench]'", file=sys.stderr)
        return FAILED
    found = steps(every, args.minimum / 100)
    if args.json:
        lines = [step.line for step in found]
        emit("history", {"series": len(every), "steps": lines, "sentence": sentence(every, found)})
    else:
        show(every, found)
    return FINE
