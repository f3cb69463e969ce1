"""The numbers that kernels are asked for: x, w and b by tier and seed, and which outputs see which pixel."""

from __future__ import annotations

import math

import numpy as np

from convzoo.problem import Conv2d

TIERS = ("random", "spot", "exact", "wide", "integers")
WIDEST = {"float32": 4095, "float64": 2**30 - 1, "float16": 2047, "bfloat16": 255}
EXACT_TAPS = {"float32": 4000, "float64": 2**22, "float16": 4000, "bfloat16": 4000}
PRODUCT_BITS = {"float32": 22, "float64": 48}  # of one product of the tier "wide"
BRIGHT = 2.0**13  # times as large is one pixel of a plane of the tier "wide", about 1e4


def host_dtype(p: Conv2d) -> np.dtype:
    """The NumPy dtype that holds this problem's values; bfloat16 is float32, already rounded."""
    return np.dtype("float32" if p.dtype == "bfloat16" else p.dtype)


def inputs(
    p: Conv2d, seed: int, tier: str = "random", accuracy: str = "elementwise"
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """x, w and b (None without bias) for one problem; the same seed gives the same data everywhere.

    ``random``: standard normal x, He-normal w.
    ``exact``: odd integers so wide that a kernel which rounds its inputs is seen, so small that every partial
    sum is exact in any order; even seeds put the wide integers in x and +-1 in w, odd seeds the other way
    round.
    ``wide``: one nonzero tap a filter, so that an output is one product and the bias, and odd integers of 1,
    11 and 22 bits, mixed in x, one width a filter in w. See ``bounds`` for why 22, and for the products that
    need more. One pixel of each plane, and one of many filters, are ``BRIGHT`` times as large: a kernel with
    one scale for a whole array loses the others.
    ``integers``: x in -3..3, w in -1..1, for kernels that transform their inputs and promise less.
    ``spot``: random, and x zero but for a spot of 4 x 4 in one channel of each group, whose small norms make the
    normwise bound tell float32 from TF32, which it does not where many channels or large planes add to it.
    """
    if tier not in TIERS:
        raise ValueError(f"tier must be one of {', '.join(TIERS)}, got {tier!r}")
    rng = np.random.default_rng([seed, sum(str(p).encode())])
    dtype = host_dtype(p)
    if tier in ("random", "spot"):
        draw = np.float64 if p.dtype == "float64" else np.float32
        x = rng.standard_normal(p.x_shape, draw)
        size = draw(math.sqrt(2 / max(1, p.taps)))
        w = rng.standard_normal(p.w_shape, draw) * size
        b = rng.standard_normal(p.K, draw)
        if tier == "spot":
            x, b = _spot(p, x, rng), b * size  # no larger than one product
        if p.dtype == "bfloat16":
            x, w, b = (_round_to_bits(a, 8) for a in (x, w, b))
    elif tier == "integers":
        x, w = rng.integers(-3, 4, p.x_shape), rng.integers(-1, 2, p.w_shape)
        b = rng.integers(-3, 4, p.K)
    elif tier == "wide":
        x, w, b = _one_product_each(p, seed, rng)
    else:
        x, w, b = _exact_sums(p, seed, rng, accuracy)
    return x.astype(dtype), w.astype(dtype), (b.astype(dtype) if p.bias else None)


def _exact_sums(
    p: Conv2d, seed: int, rng: np.random.Generator, accuracy: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    widest = min(WIDEST[p.dtype], 2047 if accuracy == "tf32" else 2**62)
    wide, narrow = (p.x_shape, p.w_shape) if seed % 2 == 0 else (p.w_shape, p.x_shape)
    odd = 2 * rng.integers(-(widest // 2) - 1, widest // 2 + 1, wide) + 1
    signs = 2 * rng.integers(0, 2, narrow) - 1
    x, w = (odd, signs) if seed % 2 == 0 else (signs, odd)
    if p.taps > EXACT_TAPS[p.dtype]:  # so many terms would leave the exact range
        ranks = rng.permuted(np.tile(np.arange(p.taps), (p.K, 1)), axis=1)
        w = w * (ranks < EXACT_TAPS[p.dtype]).reshape(w.shape)
    return x, w, rng.integers(-2048, 2049, p.K)


def _one_product_each(
    p: Conv2d, seed: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    bits = PRODUCT_BITS.get(p.dtype, 8)
    widths = np.array([bits, bits // 2, 1])

    def odd(some: np.ndarray) -> np.ndarray:
        """Odd numbers of exactly so many bits, of either sign."""
        sizes = rng.integers(2 ** (some - 1), 2**some) | 1
        return np.where(rng.integers(0, 2, some.shape), sizes, -sizes).astype(np.float64)

    x = odd(rng.choice(widths, p.x_shape))
    if x.size:
        planes = (
            x.reshape(p.N, p.H * p.W, p.C) if p.layout == "nhwc" else x.reshape(p.N, p.C, p.H * p.W)
        )
        axis = 1 if p.layout == "nhwc" else 2
        at = np.expand_dims(rng.integers(0, p.H * p.W, (p.N, p.C)), axis)
        np.put_along_axis(planes, at, odd(np.full(at.shape, bits)) * BRIGHT, axis)
    w = np.zeros(p.w_shape)
    if w.size:
        rows, columns = taps_that_meet(p, 0), taps_that_meet(p, 1)
        two = (
            rng.choice(rows, 2),
            rng.choice(columns, 2),
        )  # of all filters: the oracle skips the other taps
        k = np.arange(p.K)
        which, c = rng.integers(0, 2, p.K), rng.integers(0, p.C // p.groups, p.K)
        bright = (k == p.K - 1) & (k > 2)
        values = odd(np.where(bright, bits, widths[(k + seed) % 3])) * np.where(bright, BRIGHT, 1)
        w[k, c, two[0][which], two[1][which]] = values
    return x, w, rng.integers(-2048, 2049, p.K).astype(np.float64)


def taps_that_meet(p: Conv2d, axis: int) -> np.ndarray:
    """The taps along one axis that meet a pixel; all of them where none does."""
    at, size = _reads(p, axis), (p.H, p.W)[axis]
    meets = ((at >= 0) & (at < size)).any(axis=0)
    return np.flatnonzero(meets | (not meets.any()))


def _spot(p: Conv2d, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """x with everything set to zero but 4 x 4 values in one channel of each group."""
    left = np.zeros_like(x)
    if not x.size:
        return left
    of, into = (a.transpose(0, 3, 1, 2) if p.layout == "nhwc" else a for a in (x, left))
    h, v = (int(rng.integers(0, max(1, size - 3))) for size in (p.H, p.W))
    for group in range(p.groups):
        c = group * (p.C // p.groups) + int(rng.integers(0, max(1, p.C // p.groups)))
        into[:, c, h : h + 4, v : v + 4] = of[:, c, h : h + 4, v : v + 4]
    return left


def _round_to_bits(a: np.ndarray, bits: int) -> np.ndarray:
    """float32 values rounded to ``bits`` significant bits (8 is bfloat16, 11 is TF32), ties to even."""
    drop = 24 - bits
    i = np.ascontiguousarray(a, np.float32).view(np.uint32).astype(np.uint64)
    i = (i + (1 << (drop - 1)) - 1 + ((i >> drop) & 1)) & ~np.uint64((1 << drop) - 1)
    return i.astype(np.uint32).view(np.float32)


def exchanged(a: np.ndarray, rng: np.random.Generator, places: np.ndarray | None = None) -> np.ndarray:
    """``a`` with two of its values, unlike where there are such, in each other's place."""
    changed = a.copy()
    flat = changed.reshape(-1)
    if not flat.size:
        return changed
    some = rng.integers(0, flat.size if places is None else len(places), 64)
    some = some if places is None else places[some]
    unlike = some[flat[some] != flat[some[0]]]
    if unlike.size:
        i, j = some[0], unlike[0]
        flat[i], flat[j] = flat[j], flat[i]
    return changed


def is_read(p: Conv2d) -> np.ndarray:
    """Flat indices of the values of x that any output depends on; all of them where none is."""
    plane = _met(p, 0)[:, None] & _met(p, 1)
    read = np.broadcast_to(plane[..., None] if p.layout == "nhwc" else plane, p.x_shape)
    return np.flatnonzero(read | (not plane.any()))


def window_of(p: Conv2d, n: int, c: int, h: int, v: int) -> np.ndarray:
    """Which outputs the pixel x[n, c, h, v] is a term of, in the shape of y."""
    rows, columns = (_reads(p, axis) == at for axis, at in enumerate((h, v)))
    seen, each = np.zeros((p.N, p.K, p.P, p.Q), bool), p.K // p.groups
    group = c // (p.C // p.groups)
    seen[n, group * each : (group + 1) * each] = rows.any(axis=1)[:, None] & columns.any(axis=1)
    return in_layout(p, seen)


def in_layout(p: Conv2d, y: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(y.transpose(0, 2, 3, 1)) if p.layout == "nhwc" else y


def _reads(p: Conv2d, axis: int) -> np.ndarray:
    """The positions in x along one axis, 0 down and 1 across, that outputs read, tap by tap."""
    outputs, taps = ((p.P, p.R), (p.Q, p.S))[axis]
    return (
        np.arange(outputs)[:, None] * p.stride[axis]
        + np.arange(taps) * p.dilation[axis]
        - p.padding[2 * axis]
    )


def _met(p: Conv2d, axis: int) -> np.ndarray:
    """Which positions along one axis any tap of any output meets."""
    at, size = _reads(p, axis), (p.H, p.W)[axis]
    met = np.zeros(size, bool)
    met[at[(at >= 0) & (at < size)]] = True
    return met


def span(p: Conv2d, axis: int, reach: int) -> tuple[np.ndarray, int]:
    """For each output along one axis, where begins in x what outputs at most ``reach`` away read, inside y or
    not, and how long that is."""
    at = _reads(p, axis)[:, 0] - reach * p.stride[axis]
    return at, 2 * reach * p.stride[axis] + p.extent[axis]
