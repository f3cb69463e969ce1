"""The null experiment: kernels timed against themselves. What differs then is noise, and only noise.

Every cell is entered twice and measured like any two cells of ``compare``: other processes, shuffled order,
fresh data. Two numbers come out: how often the interval of the ratio leaves out 1 (a false alarm), and how
large a difference must be on this machine before such an interval can show it.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from .compare import Cell, Preset, Sweep
from .evidence import interval, speeds
from .problems import resolve
from .record import Record
from .stopwatch import Effort

KERNELS = ("numba/direct", "numba/im2col", "numpy/im2col", "torch_cpu/builtin", "torch_cpu/packed")
PROBLEMS = ("n1c4h12w12k4r3s3-p1", "n1c3h128w128k4r5s5", "n1c64h56w56k64r3s3-p1", "n1c256h14w14k256r3s3-p1")


def experiment(threads: int, rounds: int, progress: Any, kernels: list[str], timeout: float) -> dict[str, Any]:
    """Twin cells over ``rounds`` rounds; the false-alarm rate and the smallest visible difference.

    ``smallest_visible`` is the difference, as a share, that 95 % of the twins' intervals would have
    shown: max(high, 1/low) - 1 at that quantile. ``pairs`` holds each twin's ratio and interval.
    """
    layers = resolve(list(PROBLEMS))
    twins = [(Cell(k, x, "packed"), Cell(k, x, "packed")) for k in kernels for x in layers]
    preset = Preset(Effort(0.004, 0.01, 0.05, 3, 15), (rounds, rounds), 1e9)
    with tempfile.TemporaryDirectory() as folder:
        log = Record(Path(folder) / "null.jsonl", {"method": "null"})
        sweep = Sweep(
            [c for pair in twins for c in pair], preset, threads, 0, log, timeout, progress=progress, watch=True
        )
        sweep.run()
        log.close()
    pairs = []
    for a, b in twins:
        values = speeds(a.medians, b.medians)
        if not values:
            continue
        low, high, confidence = interval(values)
        pairs.append(
            {
                "kernel": a.kernel,
                "problem": str(a.layer.problem),
                "ratio": statistics.median(values),
                "low": low,
                "high": high,
                "confidence": confidence,
                "alarm": not low <= 1 <= high,
            }
        )
    return summary(pairs, rounds, threads)


def summary(pairs: list[dict[str, Any]], rounds: int, threads: int) -> dict[str, Any]:
    """What the twins say together. ValueError where none was measured."""
    if not pairs:
        raise ValueError("the null experiment needs a kernel that runs here")
    widths = sorted(max(x["high"], 1 / x["low"]) - 1 for x in pairs)
    return {
        "rounds": rounds,
        "threads": threads,
        "twins": len(pairs),
        "false_alarms": sum(x["alarm"] for x in pairs),
        "false_alarm_rate": sum(x["alarm"] for x in pairs) / len(pairs),
        "expected_rate": 1 - statistics.fmean(x["confidence"] for x in pairs),
        "median_visible": statistics.median(widths),
        "smallest_visible": widths[min(len(widths) - 1, int(0.95 * len(widths)))],
        "pairs": pairs,
    }
