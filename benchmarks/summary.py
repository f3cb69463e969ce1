"""What the rounds of a sweep say together: a time with its interval, ratios, and one sentence.

The round, not the sample, is the unit of evidence: a cell's time is the median of its rounds' medians, its
interval the one that the order of those medians gives without assuming a distribution.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .compare import Cell


def interval(values: Iterable[float]) -> tuple[float, float, float]:
    """(low, high, confidence) for the median, from order statistics: no distribution is assumed.

    The narrowest pair of order statistics that holds the median with 95 %; with fewer than six values
    the whole range, and the confidence says what that is worth (sign test; e.g. Conover, Practical
    Nonparametric Statistics, 3e, section 3.2).
    """
    v = sorted(values)
    n, tail, best = len(v), 0.0, 0
    for k in range(n // 2):
        tail += math.comb(n, k) / 2**n
        if 1 - 2 * tail >= 0.95:
            best = k
    outside = 2 * sum(math.comb(n, k) for k in range(best + 1)) / 2**n
    return v[best], v[n - 1 - best], max(0.0, 1 - outside)


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
    low, high, confidence = interval(values)
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


def ratios(slow: Cell, quick: Cell) -> list[float]:
    """Round by round, how many times faster ``quick`` is than ``slow``; only rounds that both have."""
    a, b = slow.medians, quick.medians
    return [a[i] / b[i] for i in sorted(a.keys() & b.keys())]


def speed(slow: Cell | None, quick: Cell, name: str) -> dict[str, Any]:
    """How many times faster ``quick`` is, with its interval, under ``name``; nothing where not both ran."""
    values = ratios(slow, quick) if slow is not None and slow.status == quick.status == "ok" else []
    if not values:
        return {}
    low, high, _ = interval(values)
    return {name: statistics.median(values), f"{name}_low": low, f"{name}_high": high}


def default_baseline(cells: list[Cell]) -> str | None:
    """What most people call today, where it ran; else the first kernel that did."""
    ran = [c.kernel for c in cells if c.status == "ok" and c.medians]
    usual = ("torch_cuda/builtin", "torch_mps/builtin", "torch_cpu/builtin", "numpy/im2col")
    return next((k for k in usual if k in ran), ran[0] if ran else None)


def verdict_sentence(cells: list[Cell], baseline: str | None, threads: int, machine: str) -> str:
    """One sentence: which kernel won, by how much, with which guarantee, in which scenario."""
    from convzoo.catalog import find

    ran = [c for c in cells if c.status == "ok" and c.medians and find(c.kernel).accuracy == "elementwise"]
    if not ran:
        return "No kernel with the elementwise guarantee was timed: nothing can be ranked."
    sentences = []
    for scenario in sorted({c.scenario for c in ran}):
        mine = [c for c in ran if c.scenario == scenario]
        wide = max(len([c for c in mine if c.kernel == k]) for k in {c.kernel for c in mine})
        full = sorted({c.kernel for c in mine if len([d for d in mine if d.kernel == c.kernel]) == wide})
        if baseline not in full or len(full) < 2:
            sentences.append(f"Only {', '.join(full)} ran on all problems: nothing to compare ({scenario}).")
            continue
        grouped = {k: [c for c in mine if c.kernel == k] for k in full}
        speed = {k: _geometric(grouped[baseline], grouped[k]) for k in full if k != baseline}
        best = max(speed, key=lambda k: statistics.median(speed[k]))
        values = speed[best]
        if statistics.median(values) < 1:
            values = [1 / v for v in values]
            first, second = baseline, best
        else:
            first, second = best, baseline
        low, high, confidence = interval(values)
        problems = f"{wide} problems" if wide > 1 else f"{mine[0].layer.problem}"
        verb = "is" if low > 1 else "cannot be told apart from the noise; it is perhaps"
        sentences.append(
            f"{first} {verb} {statistics.median(values):.2f}x ({low:.2f}-{high:.2f}) faster than {second} "
            f"over {problems}, both elementwise, {scenario}, {threads} threads, on {machine} "
            f"({len(values)} rounds, {confidence:.0%} confidence)."
        )
    return " ".join(sentences)


def _geometric(slow: list[Cell], quick: list[Cell]) -> list[float]:
    """Geometric mean over problems of the speed of ``quick`` against ``slow``, one value per round."""
    pairs = [(a, b) for a in slow for b in quick if a.layer == b.layer]
    shared = set.intersection(*(a.medians.keys() & b.medians.keys() for a, b in pairs))
    return [math.exp(statistics.fmean(math.log(a.medians[i] / b.medians[i]) for a, b in pairs)) for i in sorted(shared)]


def skips(cells: list[Cell]) -> dict[tuple[str, str], list[Cell]]:
    """Cells that did not run, grouped by status and reason."""
    found: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        if cell.status != "ok":
            reason = cell.why.removeprefix(f"{cell.kernel} ")
            found.setdefault((cell.status, reason), []).append(cell)
    return found
