"""The last guard against a wrong time: no kernel can be faster than the machine and its own algorithm allow.

The floor of a cell is the larger of two times: the multiply-adds it must do over the measured ceiling of FMA
or matrix units, and the bytes it must touch over the best measured bandwidth of any cache level. A time below
the floor is ``mistrusted``, however right the output is.
"""

from __future__ import annotations

from typing import Any

from .roofline import arithmetic, useful_flops

# A ceiling is itself a measurement, and on a shared host a neighbour on the other hardware thread of a core
# halves it (seen here: 170 to 285 GFLOP/s for one core within minutes). So only a time below half of the
# floor is mistrusted: enough for work that was not done, never a reason to doubt a good kernel.
SLACK = 0.5

# The largest share of the definition's products that an algorithm can save: Winograd F(6x6, 3x3) does
# 64 products for 36 outputs of 9 taps (Lavin and Gray, 2016). An FFT has no such bound worth stating.
SAVINGS = {"direct": 1.0, "gemm": 1.0, "winograd": 36 * 9 / 64, "fft": float("inf")}


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
