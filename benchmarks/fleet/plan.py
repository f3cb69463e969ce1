"""How long a sweep takes on which hosts: seconds that cells took before, slices given out as the fleet would."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..compare import Preset
from ..record import read
from ..terminal import console
from .coordinator import Fleet

UNKNOWN = 1.0  # seconds of a round of a cell of which nothing is known at all


class Durations:
    """Wall seconds of one round of a cell, from records: on this machine, else on any, else of its backend."""

    def __init__(self, paths: Iterable[Path]):
        self._cells: dict[tuple[str, str, str], list[float]] = defaultdict(list)
        self._backends: dict[str, list[float]] = defaultdict(list)
        self._imports: dict[str, list[float]] = defaultdict(list)
        self._refused: set[tuple[str, str]] = set()
        for path in paths:
            try:
                header, *lines = read(path)
            except (OSError, ValueError):
                continue  # no record, or one of another schema
            for line in lines:
                self._note(header["machine"], line)

    def _note(self, machine: str, line: dict[str, Any]) -> None:
        if line["kind"] == "skip" and line["status"] == "unsupported":
            self._refused.add((line["kernel"], line["problem"]))
        elif line["kind"] == "round" and "wall_seconds" in line:
            for where in (machine, "any"):
                self._cells[where, line["kernel"], line["problem"]].append(line["wall_seconds"])
            self._backends[line["kernel"].partition("/")[0]].append(line["wall_seconds"])
        elif line["kind"] == "end":
            for backend, seconds in line.get("import_seconds", {}).items():
                self._imports[backend].append(seconds)

    def round_seconds(self, machine: str, kernel: str, problem: str) -> float:
        """Seconds of one round of one cell; none where the kernel refuses the problem."""
        if (kernel, problem) in self._refused:
            return 0.0
        found = self._cells.get((machine, kernel, problem)) or self._cells.get(("any", kernel, problem))
        found = found or self._backends.get(kernel.partition("/")[0])
        return statistics.median(found) if found else UNKNOWN

    def known(self, kernel: str, problem: str) -> bool:
        """Whether some record tells of it, on whatever machine."""
        return (kernel, problem) in self._refused or ("any", kernel, problem) in self._cells

    def import_seconds(self, kernels: list[str]) -> float:
        """Seconds until the libraries of these kernels are there, once in every round."""
        backends = {kernel.partition("/")[0] for kernel in kernels}
        return sum(statistics.median(self._imports[b]) for b in backends if b in self._imports)


def slice_seconds(rounds: float, preset: Preset) -> float:
    """Seconds of a slice whose every round takes so many: rounds beyond the fewest only within the time."""
    fewest, most = preset.rounds
    within = min(most, int(preset.seconds / rounds)) if rounds else 0
    return rounds * max(fewest, within)


def plan(run: Fleet, durations: Durations, preset: Preset) -> dict[str, Any]:
    """What each host that announced itself would do, and what that rests on. Empties what waits."""
    able = [h for h in run.hosts.values() if h.fit]
    rows = {h.address: {"host": h.address, "machine": h.machine, "slices": 0, "cells": 0, "seconds": 0.0} for h in able}
    free = {h.box: 0.0 for h in able}  # when each box has nothing left to do
    cells = [(k, q) for s in run.shares.values() for q, kernels in s.waiting.items() for k in kernels]
    while able:
        host = min(able, key=lambda h: (free[h.box], rows[h.address]["slices"]))
        share = run.shares[host.machine]

        def seconds(kernel: str, problem: str, machine: str = host.machine) -> float:
            return durations.round_seconds(machine, kernel, problem)

        piece = share.take(0, host.why_not, seconds, len(free))
        if piece is None:
            able.remove(host)
            continue
        scenarios = len(share.header["scenarios"])
        pairs = [(k, str(x.problem)) for x in piece.layers for k in piece.kernels]
        each = scenarios * sum(seconds(k, q) for k, q in pairs)
        took = slice_seconds(each + durations.import_seconds(piece.kernels), preset)
        free[host.box] += took
        row = rows[host.address]
        row["slices"] += 1
        row["cells"] += len(pairs) * scenarios
        row["seconds"] += took
    return {
        "hosts": list(rows.values()),
        "seconds": max(free.values(), default=0.0),
        "refused": {h.address: h.refused for h in run.hosts.values() if h.refused},
        "known": sum(durations.known(*cell) for cell in cells),
        "cells": len(cells),
        "left": sum(len(kernels) for s in run.shares.values() for kernels in s.waiting.values()),
    }


def show(found: dict[str, Any]) -> None:
    """A line a host, and how much of it is known."""
    out = console()
    for row in found["hosts"]:
        out.print(
            f"{row['host']} ({row['machine']}): {row['slices']} slices, {row['cells']} cells, "
            f"about {_minutes(row['seconds'])}",
            markup=False,
            soft_wrap=True,
        )
    for host, why in found["refused"].items():
        out.print(f"{host} is refused: {why}", style="bold red", markup=False, soft_wrap=True)
    if found["left"]:
        out.print(f"{found['left']} kernels on problems can run on no host", markup=False)
    out.print(
        f"about {_minutes(found['seconds'])} in all; of {found['cells']} kernels on problems records tell of "
        f"{found['known']}, the others are guessed",
        style="bold",
        markup=False,
        soft_wrap=True,
    )


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
