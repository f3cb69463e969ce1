"""Data that are rarely asked for, and what must come out: one table of checks, the same for all kernels.

By guarantee, strongest first; whatever comes out otherwise is within the bound of the guarantee:

x = 0                      every guarantee: the bias
constant, black border     every guarantee: its bound, though errors of equal numbers do not cancel
one pixel in black         elementwise: one product and the bias. tilewise: the bias out of reach of the pixel
1e30 among 1e-30           elementwise: outputs that do not see the large pixel are right to their own size.
                           tilewise: those out of its reach. Others: other images
1e30 times 1e-30           every guarantee: as accurate as 1 times 1, either way round
sums near overflow         elementwise: right wherever A is at most half of the largest number, also where pixels are as
                           large as that. tilewise: where pixels and T are below 1/256 of it. Others are not asked:
                           their sums may run over whole planes
NaN, inf and -inf in x     no output that sees one is a finite number, or an infinity of the wrong sign (inf may have
                           become NaN: kernels that multiply parts have inf - inf). elementwise: all other outputs are
                           right. tilewise: those out of reach. Others: other images
NaN, inf and -inf in w     the same of outputs whose window has a pixel at that tap; where the tap lies over padding
                           anything may come out. The other filters are right; one of zeros gives the bias

Numbers of 1e30 are not asked of what is rounded to float16, which has none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from convzoo.problem import Conv2d

from .bounds import ACCURACIES, AMPLIFIED, REACH, correlate, known_once, of_tiles
from .data import host_dtype, in_layout, is_read, span, taps_that_meet, window_of
from .verdict import drawn, judge, snapshot

LARGE = 2.0**100  # about 1e30; powers of two change no digit


@dataclass(frozen=True)
class Case:
    """What a kernel gets, and what must come out.

    ``y`` and ``A``: oracle and magnitude, ``y`` infinite or NaN as IEEE 754 has it. ``free``: outputs of which the
    guarantee says nothing. ``finite``: x and w without what is not finite, by which errors are allowed.
    """

    name: str
    data: tuple
    y: np.ndarray
    A: np.ndarray
    free: Any = False
    tier: str = "any"
    finite: tuple | None = None


def unusual(kernel: Any, plan: Any, p: Conv2d, seed: int = 0) -> str:
    """Why what comes out for data that are rarely asked for is wrong, or nothing."""
    device = kernel.backend.to_device
    for case in cases(p, kernel.accuracy, "float16" in (p.dtype, kernel.rounded_to), seed):
        x, w, b = (None if a is None else device(a.astype(host_dtype(p))) for a in case.data)
        with np.errstate(all="ignore"):
            y = snapshot(kernel.backend, plan.run(x, plan.pack(w, b)))
        if why := _wrong(y, p, case, kernel.promise):
            return f"with {case.name}: {why}"
    return ""


def _wrong(y: Any, p: Conv2d, case: Case, promise: dict[str, str]) -> str:
    finite = np.isfinite(case.y)
    known = np.where(finite, case.y, 0), case.A
    if type(y) is np.ndarray and y.shape == p.y_shape:
        lost = ~finite & ~np.asarray(case.free) & (np.isfinite(y) | (y == -case.y))
        if lost.any():
            count = int(lost.sum())
            return f"lost a NaN or an infinity: {count} outputs that see one are numbers, or infinities of another sign"
        asked = finite & ~np.asarray(case.free)
        if not asked.all():
            y = np.where(asked, y, known[0].astype(y.dtype))
            known = np.where(asked, known[0], y), case.A
    x, w = case.finite or case.data[:2]
    return judge(y, p, x, w, case.data[2], tier=case.tier, known=known, **promise).why


def cases(p: Conv2d, accuracy: str, narrow: bool, seed: int = 0) -> Iterator[Case]:
    """The table, for a problem and a guarantee; ``narrow``: numbers that float16 has."""
    which = seed + 1, "random"
    x, w, b = drawn(p, *which)
    if not (x.size and w.size and p.P * p.Q * p.K):
        return
    y, A = known_once(drawn, p, *which)
    bias = in_layout(
        p, np.broadcast_to((np.zeros(p.K) if b is None else b)[:, None, None], (p.N, p.K, p.P, p.Q))
    )
    strength = ACCURACIES.index(accuracy)

    yield Case("x = 0", (0 * x, w, b), bias.astype(float), np.abs(bias).astype(float))

    inside, some = np.zeros((1, 1, p.H, p.W)), x.dtype.type(0.7)
    inside[..., p.H // 4 : p.H - p.H // 4, p.W // 4 : p.W - p.W // 4] = 1
    one = replace(p, N=1, C=1, K=1, groups=1, layout="nchw", bias=False)
    counts = np.broadcast_to(correlate(one, inside, np.ones((1, 1, p.R, p.S))), (p.N, p.K, p.P, p.Q))
    sums = in_layout(p, counts * float(some) ** 2 * (p.C // p.groups))
    constant = in_layout(p, np.broadcast_to(inside * some, (p.N, p.C, p.H, p.W))), np.full_like(w, some)
    yield Case(
        "constant x and w inside a black border", (*constant, b), sums + bias, sums + np.abs(bias)
    )

    rng = np.random.default_rng(seed)
    spot, at = _pixel(p, rng)
    hot = np.zeros_like(x)
    hot[spot] = 1
    pixel = _of_pixel(p, w, at)
    yield Case("one pixel of 1 in black", (hot, w, b), pixel + bias, np.abs(pixel) + np.abs(bias))

    small, large = (1.0, 2.0**10) if narrow else (1 / LARGE, LARGE)
    bright = x * small
    more = large - float(bright[spot])
    bright[spot] = large
    yield Case(
        f"one pixel of {large:.0e} among {small:.0e}", (bright, w, b if b is None else b * small),
        y * small + more * pixel, A * small + (large - abs(float(x[spot] * small))) * np.abs(pixel),
    )  # fmt: skip

    if not narrow:
        for of_x, of_w in ((LARGE, 1 / LARGE), (1 / LARGE, LARGE)):
            yield Case(
                f"x times {of_x:.0e} and w times {of_w:.0e}",
                (x * of_x, w * of_w, b),
                y,
                A,
                tier="random",
            )
        if strength < ACCURACIES.index("normwise"):
            yield _near_overflow(p, x, w, b, y, A, strength)

    for together in _not_finite(p, rng):
        data, E, free = x.copy(), y.copy(), np.zeros(y.shape, bool)
        for value, (spot, at), seen in together:
            data[spot] = value
            with np.errstate(invalid="ignore"):  # of both infinities
                E[seen] += value * np.sign(_of_pixel(p, w, at))[seen]
            free |= _spread(p, at, strength)
        free &= np.isfinite(E)
        yield Case("NaN and both infinities in x", (data, w, b), E, A, free, finite=(x, w))

    yield _not_finite_in_w(p, rng, x, w, b, y, A)


def _pixel(p: Conv2d, rng: np.random.Generator) -> tuple[tuple, tuple]:
    """A pixel that outputs see, if any does: its place in x, and n, c, h, v."""
    spot = tuple(int(i) for i in np.unravel_index(rng.choice(is_read(p)), p.x_shape))
    return spot, spot if p.layout == "nchw" else (spot[0], spot[3], *spot[1:3])


def _not_finite(p: Conv2d, rng: np.random.Generator) -> list[list[tuple]]:
    """Values, pixels and which outputs see them: together if some output sees each alone, else one at a time."""
    for _ in range(10):
        pixels = [_pixel(p, rng) for _ in range(3)]
        seen = [window_of(p, *at) for _, at in pixels]
        every = list(zip((np.nan, np.inf, -np.inf), pixels, seen, strict=True))
        if all((one & (sum(map(np.int8, seen)) == 1)).any() for one in seen):
            return [every]
    return [[one] for one in every]


def _of_pixel(p: Conv2d, w: np.ndarray, at: tuple[int, ...]) -> np.ndarray:
    """y without bias where x is 1 at one pixel and 0 elsewhere: from one channel of one image."""
    n, c, h, v = at
    one = np.zeros((1, 1, p.H, p.W))
    one[0, 0, h, v] = 1
    each, group = p.K // p.groups, c // (p.C // p.groups)
    filters = slice(group * each, (group + 1) * each)
    found = np.zeros((p.N, p.K, p.P, p.Q))
    alone = replace(p, N=1, C=1, K=each, groups=1, layout="nchw", bias=False)
    found[n, filters] = correlate(alone, one, w[filters, c % (p.C // p.groups)][:, None])[0]
    return in_layout(p, found)


def _spread(p: Conv2d, at: tuple, strength: int) -> np.ndarray:
    """The outputs that a pixel which is no number may harm although they do not see it."""
    found, (n, _, *place) = np.zeros((p.N, p.K, p.P, p.Q), bool), at
    if strength == ACCURACIES.index("tilewise"):
        spans = [span(p, axis, REACH) for axis in (0, 1)]
        rows, columns = (
            (first <= i) & (i < first + n) for (first, n), i in zip(spans, place, strict=True)
        )
        found[n] = np.outer(rows, columns)
    elif strength:
        found[n] = True
    return in_layout(p, found)


def _near_overflow(
    p: Conv2d,
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None,
    y: np.ndarray,
    A: np.ndarray,
    strength: int,
) -> Case:
    """x as large as its type allows, and w so small that sums of absolute values stay below half of that."""
    largest = math.log2(np.finfo(x.dtype).max) - (math.log2(AMPLIFIED) if strength else 0)
    of_x = math.floor(largest + math.log2(0.99) - math.log2(np.abs(x).max()))
    sums = max(float(A.max()), float(of_tiles(p, x, w).max()) if strength else 0) or 1
    of_w = math.floor(largest - 1 - of_x - math.log2(sums))
    scale = 2.0 ** (of_x + of_w)
    data = np.ldexp(x, of_x), np.ldexp(w, of_w), b if b is None else np.ldexp(b, of_x + of_w)
    return Case("sums near overflow", data, y * scale, A * scale)


def _not_finite_in_w(
    p: Conv2d,
    rng: np.random.Generator,
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None,
    y: np.ndarray,
    A: np.ndarray,
) -> Case:
    """NaN, both infinities and zeros in a filter each, as far as there are filters, and NaN in the last bias."""
    special, E, scale, free = w.copy(), y.copy(), A.copy(), np.zeros((p.N, p.K, p.P, p.Q), bool)
    planes, scales, images = (
        a if p.layout == "nchw" else a.transpose(0, 3, 1, 2) for a in (E, scale, x)
    )
    for k, value in enumerate((np.nan, np.inf, -np.inf)[: p.K]):
        r, s = (int(rng.choice(taps_that_meet(p, axis))) for axis in (0, 1))
        c = int(rng.integers(0, p.C // p.groups))
        special[k, c, r, s] = value
        tap = np.zeros((1, 1, p.R, p.S))
        tap[0, 0, r, s] = 1
        channel = k // (p.K // p.groups) * (p.C // p.groups) + c
        alone = replace(p, C=1, K=1, groups=1, layout="nchw", bias=False)
        met = correlate(alone, images[:, channel : channel + 1], tap)[:, 0]
        planes[:, k] = np.where(met > 0, value, -value)
        free[:, k] = met == 0
    finite = np.where(np.isfinite(special), special, 0)
    if p.K > 3:
        special[3] = finite[3] = 0
        planes[:, 3], scales[:, 3] = (0, 0) if b is None else (b[3], abs(b[3]))
    if b is not None and p.K > 4:
        b = b.copy()
        b[-1] = planes[:, -1] = np.nan
    name = "NaN and both infinities in w, a filter of zeros and a NaN in the bias"
    return Case(name, (x, special, b), E, scale, in_layout(p, free), finite=(x, finite))
