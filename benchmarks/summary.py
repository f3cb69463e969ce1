"""What the rounds of a sweep say together, as the lines that a record ends with.

The round, not the sample, is the unit of evidence: a cell's time is the median of its rounds' medians, its
interval the one that the order of those medians gives without assuming a distribution.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import evidence

if TYPE_CHECKING:
    from .compare import Cell


@dataclass(frozen=True)
class Timed:
    """A cell as evidence ranks it."""

    kernel: str
    problem: str
    scenario: str
    layer: str
    accuracy: str
    seconds: float
    rounds: dict[int, float]
    ran: bool


def timed(cell: Cell) -> Timed:
    times = cell.medians
    ran = cell.status == "ok" and bool(times)
    last = [r for r in cell.rounds.values() if r["status"] == "ok"][-1] if ran else {"accuracy": ""}
    seconds = statistics.median(times.values()) if ran else math.inf
    key = cell.kernel, str(cell.layer.problem), cell.scenario, cell.layer.name
    return Timed(*key, last["accuracy"], seconds, times, ran)


def summary(cell: Cell) -> dict[str, Any]:
    """What all rounds of a cell say together; only a cell whose every round is ok has a time."""
    p = cell.layer.problem
    line: dict[str, Any] = cell.key | {
        "layer": cell.layer.name,
        "count": cell.layer.count,
        "status": cell.status,
        "why": cell.why,
        "flops": p.flops,
        "min_bytes": p.min_bytes,
    }
    good = [r for r in cell.rounds.values() if r["status"] == "ok"]
    if cell.status != "ok" or not good:
        return line | ({} if cell.status != "ok" else {"status": "timeout", "why": "never measured"})
    values = list(cell.medians.values())
    low, high, confidence = evidence.interval(values)
    seconds = statistics.median(values)
    worst = max(good, key=lambda r: r["error"]["score"])
    line |= {
        "seconds": seconds,
        "low": low,
        "high": high,
        "confidence": confidence,
        "rounds": len(values),
        "round_seconds": values,
        "gflops_per_s": p.flops / seconds / 1e9,
        "error": worst["error"],
        **{k: good[-1][k] for k in ("accuracy", "algorithm", "workspace")},
        **{k: statistics.median(r[k] for r in good) for k in ("plan_seconds", "pack_seconds")},
    }
    if shares := [r["host_share"] for r in good if "host_share" in r]:
        line["host_share"] = min(shares)
    line["fingerprint"] = next((r["fingerprint"] for r in good if r.get("fingerprint")), {})
    if all("device_seconds" in r for r in good):
        line["device_seconds"] = statistics.median(r["device_seconds"] for r in good)
    return line


def speed(slow: Cell | None, quick: Cell, name: str) -> dict[str, Any]:
    """How many times faster ``quick`` is, with its interval, under ``name``; nothing where not both ran."""
    both = slow is not None and slow.status == quick.status == "ok"
    found = evidence.summary(evidence.speeds(slow.medians, quick.medians)) if slow and both else None
    return dict(zip((name, f"{name}_low", f"{name}_high"), found, strict=True)) if found else {}


def default_baseline(cells: list[Cell]) -> str | None:
    return evidence.default_baseline([c.kernel for c in cells if c.status == "ok" and c.medians])


def closing(cells: list[Cell], baseline: str | None, threads: int, machine: str) -> str:
    """What the run says at its end: which kernel won, by how much, with which guarantee, in which scenario."""
    return evidence.closing(evidence.groups([timed(c) for c in cells], baseline), threads, machine)


def skips(cells: list[Cell]) -> dict[tuple[str, str], list[Cell]]:
    """Cells that did not run, grouped by status and reason."""
    found: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        if cell.status != "ok":
            reason = cell.why.removeprefix(f"{cell.kernel} ")
            found.setdefault((cell.status, reason), []).append(cell)
    return found
