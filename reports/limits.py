"""How fast a machine could be at a problem: the roof made of its own measured ceilings.

Arithmetic cannot be faster than the measured multiply-adds, and the compulsory traffic (x, w and b read
once, y written once) not faster than the measured reading speed of the smallest level that holds it.
FLOP are those of the definition, so a kernel that skips padding, or an algorithm that needs fewer
products, can stand a little or far above the roof.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from benchmarks.problems import problem_of
from convzoo.problem import Conv2d

from .cells import Run
from .values import mapping, number, text

PRIVATE = ("L1", "L2")  # levels that every core has for itself
SIZES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True)
class Roof:
    """What bounds a problem on a machine: GFLOP/s at most, and whether arithmetic or a memory level binds."""

    gflops_per_s: float
    binds: str  # "arithmetic", or the level of the memory


def threads(run: Run) -> str:
    return text(run.header.get("threads"), "1")


def arithmetic(run: Run, dtype: str) -> float | None:
    """Measured GFLOP/s of multiply-adds with the threads of the run."""
    rates = mapping(mapping(mapping(run.header.get("ceilings")).get("fma_gflops_per_s")).get(threads(run)))
    return number(rates.get(dtype), above=0)


def bandwidths(run: Run) -> dict[str, float]:
    """Measured GB/s of reading, by level, with the threads of the run."""
    rates = mapping(mapping(mapping(run.header.get("ceilings")).get("read_gb_per_s")).get(threads(run)))
    return {text(k): v for k, x in rates.items() if (v := number(x, above=0)) is not None}


def roof(run: Run, problem: Conv2d, device: str = "cpu") -> Roof | None:
    """None for a GPU, whose ceilings no record holds, and where this machine's were not measured."""
    top, reads = arithmetic(run, problem.dtype), bandwidths(run)
    level = _level(run, problem.min_bytes, reads)
    if device != "cpu" or top is None or level is None or not problem.flops:
        return None
    by_traffic = problem.flops / problem.min_bytes * reads[level]
    return Roof(top, "arithmetic") if top <= by_traffic else Roof(by_traffic, level)


def _level(run: Run, size: int, reads: dict[str, float]) -> str | None:
    """The smallest measured level that holds so many bytes, the private ones of all cores together."""
    caches = mapping(mapping(run.header.get("hardware")).get("caches"))
    cores = int(number(run.header.get("threads"), above=0) or 1)
    for level, words in caches.items():
        found = re.fullmatch(r"(\d+)([KMG]?)", text(words))
        room = int(found[1]) * SIZES[found[2]] if found else 0
        if level in reads and size <= room * (cores if level in PRIVATE else 1):
            return level
    return "DRAM" if "DRAM" in reads else None


def roofs(run: Run) -> dict[str, Any]:
    """By problem of the run, its roof on this machine's CPU."""
    found = {}
    for name in run.problems:
        problem = problem_of(name)
        if problem is not None and (one := roof(run, problem)) is not None:
            found[name] = one
    return found
