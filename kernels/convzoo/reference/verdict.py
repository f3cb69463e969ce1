"""The verdict on one output, and the questions that a kernel is asked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from convzoo.plan import keep
from convzoo.problem import Conv2d

from .bounds import (
    ACCUMULATOR,
    CHUNK_BYTES,
    UNIT,
    allowed,
    known_once,
    likely,
    magnitude,
    norm_holds,
    normwise,
    of_tiles,
    oracle,
    rounded,
)
from .data import PRODUCT_BITS, exchanged, host_dtype, inputs, is_read


@dataclass(frozen=True)
class Verdict:
    """``ok``, or why not; errors are absolute, ``score`` is the largest error in units of u * A."""

    ok: bool
    why: str = ""
    max_error: float = 0.0
    mean_error: float = 0.0
    score: float = 0.0
    budget: float = 0.0  # largest share of the allowed error that was used


def judge(
    y: Any, p: Conv2d, x: np.ndarray, w: np.ndarray, b: np.ndarray | None,
    *, accuracy: str, tier: str = "any", known: tuple[np.ndarray, np.ndarray] | None = None, rounded_to: str = "",
) -> Verdict:  # fmt: skip
    """The verdict on one host output for known inputs. Never raises on a bad output.

    ``tier``: of ``inputs`` ("random" also for other numbers of mean zero); "any" for data of the caller's.
    ``known``: oracle and magnitude of these inputs, for whoever asks about several outputs.
    ``rounded_to``: see ``allowed``.
    """
    if type(y) is not np.ndarray:  # a subclass may answer the comparison itself
        return Verdict(False, f"y is {type(y).__name__}, not an array")
    if y.shape != p.y_shape or y.dtype != host_dtype(p):
        return Verdict(False, f"y is {y.dtype} {y.shape}, must be {host_dtype(p)} {p.y_shape}")
    if not y.flags.c_contiguous or not y.flags.writeable:
        return Verdict(False, "y must be C-contiguous and writable")
    y64, A = known or (oracle(p, x, w, b), magnitude(p, x, w, b))
    with np.errstate(invalid="ignore"):
        error = np.abs(y - y64)
    held = tier != "random" or accuracy not in ("tilewise", "normwise") or norm_holds(p, x, w, A, error)
    right, score, budget = True, 0.0, 0.0
    each = max(1, CHUNK_BYTES // max(1, error[:1].nbytes))
    for n in range(0, p.N, each):  # what is made of so few images stays in cache
        some = slice(n, n + each)
        e, a = error[some], A[some]
        limit = _limit(replace(p, N=len(e)), x[some], w, a, accuracy, tier, held, rounded_to)
        with np.errstate(divide="ignore", invalid="ignore"):
            score = _largest(np.where(a > 0, e / (UNIT[p.dtype] * a), 0), score)
            budget = _largest(e / limit, budget)
        right = right and bool((e <= limit).all())
    why = "" if right else _describe(
        y, y64, error, _limit(p, x, w, A, accuracy, tier, held, rounded_to), accuracy, tier
    )  # fmt: skip
    mean = float(error.mean()) if error.size else 0.0
    return Verdict(right, why, float(error.max(initial=0)), mean, score, budget)


def _largest(shares: np.ndarray, least: float) -> float:
    """The largest of these and ``least``; NaN, which 0 / 0 gives, counts for nothing."""
    return min(float(np.fmax.reduce(shares, axis=None, initial=least)), float(np.finfo(float).max))


def _limit(
    p: Conv2d,
    x: np.ndarray,
    w: np.ndarray,
    A: np.ndarray,
    accuracy: str,
    tier: str,
    held: bool,
    rounded_to: str,
) -> np.ndarray:
    """The largest error of each output on data of this tier; ``held``: the norm of all of them is as it must."""
    exact = accuracy == "elementwise" and tier in ("exact", "wide")
    if exact and tier == "exact":
        return np.zeros_like(A)
    limit = allowed(p, x, w, A, accuracy, rounded_to)
    if exact:
        return np.where(1 / UNIT[p.dtype] > A, 0, limit)  # larger ones are products of more bits
    if tier == "integers":
        return np.minimum(limit, 0.5)
    if tier not in ("random", "spot") or p.dtype in ACCUMULATOR:
        return limit
    if accuracy == "elementwise" or not held:
        return np.minimum(limit, likely(p, A))
    if accuracy != "tilewise" and tier == "random":
        return limit
    of_own = likely(p, A + of_tiles(p, x, w))
    if accuracy != "tilewise":
        of_own = of_own + normwise(p, x, w, UNIT[p.dtype])
    if accuracy in ("tf32", "half"):
        of_own = of_own + rounded(p, A, accuracy, rounded_to)
    return np.minimum(limit, of_own)


def _describe(
    y: np.ndarray, y64: np.ndarray, error: np.ndarray, limit: np.ndarray, accuracy: str, tier: str
) -> str:
    bad = ~(error <= limit)
    with np.errstate(invalid="ignore"):
        excess = np.where(bad, error - limit, -1.0)
    excess = np.where(bad & ~np.isfinite(excess), np.inf, excess)
    worst = np.unravel_index(int(excess.argmax()), y.shape)
    at = ", ".join(str(int(i)) for i in worst)
    exact = accuracy == "elementwise" and tier in ("exact", "wide")
    rule = "not exact on integer data" if exact else f"outside the {accuracy} bound"
    return (
        f"{int(bad.sum())} of {bad.size} outputs {rule}; worst at [{at}]: got {y[worst]:.9g}, "
        f"expected {y64[worst]:.9g} within {limit[worst]:.3g}"
    )


@lru_cache(maxsize=12)
def drawn(p: Conv2d, seed: int, tier: str, accuracy: str = "", of: str = "") -> tuple:
    """x, w, b, read-only; ``of`` names the one of which two values have changed places."""
    x, w, b = inputs(p, seed, tier, accuracy)
    if of == "w":
        w = exchanged(w, np.random.default_rng(seed))
    elif of == "x":
        x = exchanged(x, np.random.default_rng(seed), is_read(p))
    for a in (x, w, b):
        if a is not None:
            a.flags.writeable = False
    return x, w, b


def examine(kernel: Any, p: Conv2d, seed: int = 0, plan: Any = None) -> Verdict:
    """Plan ``p`` with ``kernel`` (or take ``plan``), run it six times and give the verdict.

    x, w and b are always the same three arrays with other values in them, so that an answer or packed
    weights that are remembered, a shared workspace, a reused output, a changed input, an output that
    aliases an input and packed weights that are a view are all seen: exact data; random data; data of wide
    products, or where the kernel promises less with a spot; the exact data with two values of w exchanged, which no
    checksum and few samples of w tell; all earlier outputs overwritten with NaN, the exact data with two values of
    x exchanged, on the weights packed first; the first call again. Raises what the kernel raises.
    """
    plan = kernel.plan(p) if plan is None else plan
    backend, accuracy = kernel.backend, kernel.accuracy
    first = (seed, "exact" if accuracy == "elementwise" else "integers", accuracy)
    calls: list[tuple[tuple, bool]] = [  # which data, and whether on the weights that were packed first
        (first, True),
        ((seed + 1, "random"), False),
        ((seed + 1, "spot"), False),
        ((*first, "w"), False),
        ((*first, "x"), True),
        (first, True),
    ]
    if accuracy == "elementwise" and p.dtype in PRODUCT_BITS:
        calls.insert(2, ((seed, "wide"), False))
    exact = drawn(p, *calls[0][0])
    x, w, b = arrays = [None if a is None else backend.to_device(a) for a in exact]
    held = list(exact)  # what was last written to x, w and b
    weights = plan.pack(w, b)
    earlier: list[tuple[Any, np.ndarray]] = []  # outputs, and what they held when they were made
    score = Verdict(True)
    for number, (which, packed_first) in enumerate(calls):
        data, tier = drawn(p, *which), which[1]
        for i, values in enumerate(data):
            if values is not None and (i == 0 or not packed_first or plan.pack is keep):
                backend.overwrite(arrays[i], values)
                held[i] = values
        y = plan.run(x, weights if packed_first else plan.pack(w, b))
        home = snapshot(backend, y)
        known = known_once(drawn, p, *which)
        verdict = judge(home, p, *data, tier=tier, known=known, **kernel.promise)
        if not verdict.ok:
            return (
                replace(verdict, why="a later call went wrong: " + verdict.why) if earlier else verdict
            )
        for name, array, want in zip(("x", "w", "b"), arrays, held, strict=True):
            if array is not None and not np.array_equal(backend.to_host(array), want):
                return Verdict(False, f"{name} was changed by the call")
        if number < len(calls) - 2 and not all(
            np.array_equal(snapshot(backend, y), k) for y, k in earlier
        ):
            return Verdict(False, "a second call overwrote the first call's output")
        earlier.append((y, home))
        if tier == "random":
            score = verdict
        if number == len(calls) - 3:
            nan = np.full(p.y_shape, np.nan, host_dtype(p))
            for y, _ in earlier:
                backend.overwrite(y, nan)
    return score


def snapshot(backend: Any, y: Any) -> Any:
    """y on the host as whoever called run would read it now: nothing waits for what is still at work."""
    home = backend.to_host(y) if backend.owns(y) else y
    if type(home) is not np.ndarray or not home.flags.c_contiguous:
        return home  # rejected as it is; a copy would mend it
    copy = home.copy()
    copy.flags.writeable = home.flags.writeable
    return copy
