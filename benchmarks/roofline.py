"""How fast a machine could be at a problem: the roof made of its own measured ceilings.

Arithmetic cannot be faster than the measured multiply-adds, and the compulsory traffic (x, w and b read
once, y written once) not faster than the measured reading speed of the smallest level that holds it.
FLOP are those of the definition, so a kernel that skips padding, or an algorithm that needs fewer
products, can stand a little or far above the roof.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from convzoo.problem import Conv2d

PRIVATE = ("L1", "L2")  # levels that every core has for itself
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True)
class Roof:
    """What bounds a problem on a machine: GFLOP/s at most, and whether arithmetic or a memory level binds."""

    gflops_per_s: float
    binds: str  # "arithmetic", or the level of the memory


def rates(ceilings: Mapping[str, Any], kind: str, threads: int | str) -> dict[str, float]:
    """Measured ceilings of one kind, ``fma_gflops_per_s`` or ``read_gb_per_s``, with so many threads."""
    found = (ceilings.get(kind) or {}).get(str(threads)) or {}
    return {k: v for k, v in found.items() if isinstance(v, (int, float)) and v > 0}


def capacities(caches: Mapping[str, Any]) -> dict[str, int]:
    """Bytes of each cache, from sizes as a system tells them: 48K, 2048K."""
    found = {level: re.fullmatch(r"(\d+)([KMG]?)", str(words)) for level, words in caches.items()}
    return {level: int(size[1]) * UNITS[size[2]] for level, size in found.items() if size}


def level_of(size: int, capacity: Mapping[str, int], threads: int) -> str:
    """The smallest level of the memory that holds so many bytes, the private ones of all cores together."""
    for level, room in capacity.items():
        if level != "DRAM" and size <= room * (threads if level in PRIVATE else 1):
            return level
    return "DRAM"


def roof(p: Conv2d, ceilings: Mapping[str, Any], caches: Mapping[str, Any], threads: int) -> Roof | None:
    """None where this machine's ceilings were not measured."""
    top = rates(ceilings, "fma_gflops_per_s", threads).get(p.dtype)
    reads = rates(ceilings, "read_gb_per_s", threads)
    known = {level: room for level, room in capacities(caches).items() if level in reads}
    level = level_of(p.min_bytes, known, threads)
    if top is None or level not in reads or not p.flops:
        return None
    by_traffic = p.flops / p.min_bytes * reads[level]
    return Roof(top, "arithmetic") if top <= by_traffic else Roof(by_traffic, level)


def useful_flops(p: Any) -> int:
    """FLOP of the definition without the products with padding zeros, which a kernel may skip."""
    top, _, left, _ = p.padding
    rows = _inside(p.P, p.R, p.stride[0], p.dilation[0], top, p.H)
    columns = _inside(p.Q, p.S, p.stride[1], p.dilation[1], left, p.W)
    return 2 * p.N * p.K * (p.C // p.groups) * rows * columns


def _inside(outputs: int, taps: int, stride: int, dilation: int, before: int, size: int) -> int:
    """Pairs of an output and a tap, along one axis, that meet a pixel and not padding."""
    total = 0
    for r in range(taps):
        offset = r * dilation - before
        first = max(0, -(offset // stride))  # ceil(-offset / stride)
        last = min(outputs - 1, (size - 1 - offset) // stride)
        total += max(0, last - first + 1)
    return total


# What a float32 problem can have of a CPU's matrix unit, by the accuracy that a kernel promises.
MATRIX = {"tf32": "three_products", "half": "bfloat16"}


def arithmetic(ceilings: Mapping[str, Any], dtype: str, threads: int, accuracy: str = "elementwise") -> float:
    """The most GFLOP/s with so many threads: of FMA units, or of a matrix unit at that accuracy; 0 if unknown."""
    kinds = [("fma_gflops_per_s", dtype)]
    if dtype == "float32":
        kinds.append(("matrix_gflops_per_s", MATRIX.get(accuracy, "six_products")))
    found = [0.0]
    for kind, name in kinds:
        rates = ceilings.get(kind, {})  # no number of cores is faster than as many times one
        found += [rates.get("1", {}).get(name, 0.0) * threads, rates.get(str(threads), {}).get(name, 0.0)]
    return max(found)


def best_of(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """The higher of two measurements of each ceiling: noise only ever pulls one down."""
    merged: dict[str, Any] = {}
    for key in dict.fromkeys([*a, *b]):
        both = a.get(key), b.get(key)
        if any(isinstance(v, dict) for v in both):
            merged[key] = best_of(*(v if isinstance(v, dict) else {} for v in both))
        else:
            numbers = [v for v in both if isinstance(v, (int, float)) and isfinite(v)]
            merged[key] = max(numbers) if numbers else next((v for v in both if v is not None), None)
    return merged
