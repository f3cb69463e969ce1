"""The last guard against a wrong time: no kernel can be faster than the machine and its own algorithm allow.

The floor of a cell is the larger of two times: the multiply-adds it must do over the measured ceiling of FMA
or matrix units, and the bytes it must touch over the best measured bandwidth of any cache level. A time below
the floor is ``mistrusted``, however right the output is.
"""

from __future__ import annotations

from typing import Any

# A ceiling is itself a measurement, and on a shared host a neighbour on the other hardware thread of a core
# halves it (seen here: 170 to 285 GFLOP/s for one core within minutes). So only a time below half of the
# floor is mistrusted: enough for work that was not done, never a reason to doubt a good kernel.
SLACK = 0.5

# The largest share of the definition's products that an algorithm can save: Winograd F(6x6, 3x3) does
# 64 products for 36 outputs of 9 taps (Lavin and Gray, 2016). An FFT has no such bound worth stating.
SAVINGS = {"direct": 1.0, "gemm": 1.0, "winograd": 36 * 9 / 64, "fft": float("inf")}


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


def arithmetic(ceilings: dict[str, Any], dtype: str, threads: int, accuracy: str = "elementwise") -> float:
    """The most GFLOP/s with so many threads: of FMA units, or of a matrix unit at that accuracy; 0 if unknown."""
    kinds = [("fma_gflops_per_s", dtype)]
    if dtype == "float32":
        kinds.append(("matrix_gflops_per_s", MATRIX.get(accuracy, "six_products")))
    found = [0.0]
    for kind, name in kinds:
        rates = ceilings.get(kind, {})  # no number of cores is faster than as many times one
        found += [rates.get("1", {}).get(name, 0.0) * threads, rates.get(str(threads), {}).get(name, 0.0)]
    return max(found)


def floor_seconds(
    p: Any, algorithm: str, ceilings: dict[str, Any], threads: int, accuracy: str = "elementwise"
) -> tuple[float, str]:
    """(seconds, what binds): the least time this machine can take, by its measured ceilings."""
    n, rate = str(threads), arithmetic(ceilings, p.dtype, threads, accuracy)
    reads = ceilings["read_gb_per_s"].get(n, {})
    by_arithmetic = useful_flops(p) / SAVINGS[algorithm] / (rate * 1e9) if rate else 0.0
    by_bytes = p.min_bytes / (max(reads.values()) * 1e9) if reads else 0.0
    return max((by_arithmetic, "the arithmetic ceiling"), (by_bytes, "the bandwidth of the fastest cache"))


def mistrust(
    seconds: float, p: Any, algorithm: str, ceilings: dict[str, Any], threads: int, accuracy: str = "elementwise"
) -> str | None:
    """Why a measured time cannot be, in one sentence, or None."""
    least, what = floor_seconds(p, algorithm, ceilings, threads, accuracy)
    if seconds >= SLACK * least:
        return None
    return (
        f"{seconds * 1e6:.3g} us is {least / seconds:.2f}x faster than {what} of this machine allows "
        f"({least * 1e6:.3g} us)"
    )


def best_of(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """The higher of two measurements of each ceiling: noise only ever pulls one down."""
    merged: dict[str, Any] = {}
    for key in dict.fromkeys([*a, *b]):
        x, y = a.get(key), b.get(key)
        if isinstance(x, dict) or isinstance(y, dict):
            merged[key] = best_of(x or {}, y or {})
        else:
            merged[key] = max(v for v in (x, y) if v is not None)
    return merged
