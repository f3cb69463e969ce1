"""The float64 oracle, and the error of each output that a guarantee allows.

Guarantees, strongest first; each bound contains the one before it, so they are nested. A is |x| conv |w| + |b|,
n the products and the bias of one output, u the unit roundoff, gamma_n = n u / (1 - n u).

elementwise   |error| <= gamma_n A for every output (Higham, Accuracy and Stability of Numerical Algorithms, 2e,
              section 3.1; any order of summation, FMA included; float64 is allowed twice that, the oracle being
              float64 too); and on integers, whose every order of summation is exact, no error where products
              need at most 22 bits (float64: 48). At large n gamma_n alone would let 17 bits through. Why 22:
              kernels that multiply parts keep gamma_n if what they leave out is some 2^-22 of a product, as with
              six products of three bfloat16 parts (8 + 8 + 8 bits) or 3xTF32 (11 + 11 bits). 24 bits would ask
              them for more than gamma_n does, 21 would let five products through.
tilewise      |error| <= gamma_n A + gamma_(n + 64) 256 T, where T is |x| conv |w| with every |x| of a channel
              replaced by the largest among the pixels that outputs at most 5 rows and columns away read: those
              of any tile that may hold the output. Winograd's schemes keep it with tiles of up to 4 x 4
              outputs (below). Where no such pixel is nonzero the output is the bias.
normwise      the error of a whole plane in units of the norms of the planes, which FFT keeps too:
              (9 log2(L) + C/G) u * sum over c of |x_c|_2 |w_kc|_2, L the padded plane's size (form: Higham,
              section 24.1; the constant 9 is this project's own, measured)
tf32          float32 sums of products of inputs rounded to 11 bits
half          float32 sums of products of inputs rounded to float16 (11 bits) or bfloat16 (8 bits): those of
              the problem, or, where the problem is float32, the one that the kernel names in ROUNDED_TO

Why tilewise holds. y = AT [ sum over c of (G g GT) . (BT d B) ] A for a tile d of one channel and a filter g.
Computed in any order, each of the three transforms of a row or a column, the products and the sum over channels
are sums of products, so the error of an output is at most gamma_k times the same formula with absolute values,
k the roundings on the way from a number to the output. |BT| |d| |B| <= max|d| beta betaT, beta the sums of
the rows of |BT|; (|G| |g| |GT|)_ij <= g_i g_j sum|g|, g_i the largest entry of row i of |G|. So the formula is at
most kappa_h kappa_v * sum over c of max|d_c| sum|g_kc|, kappa = max over the rows of AT of sum_i |AT_i| g_i beta_i,
which no scaling of the rows changes. It is 4 for F(2x2, 3x3), 13.5 for F(4x4, 3x3) at the points 0, +-5/8, +-8/5
and infinity, and at most 14.5 for all tiles, cut filters and last tiles of ours (a test computes them from their
matrices): less than 256 = 16 * 16 for a tile. k: a row of a transform of r taps or A points is a sum of at most r or
A products with rounded coefficients, +-a being computed together: r + 2 or A + 3 roundings. With A <= 6 and r <= 4
both ways through all three take 2 (9 + 6 + 9) = 48; one for the bias, and as many as channels for their sum: fewer
than n + 64. A filter that is cut into pieces has more channels, but not more than taps, and its tiles reach over
what their last piece lacks: with pieces of r taps and tiles of m outputs, m + r - 2 <= 5 outputs far.
F(4x4) at the points 0, +-1, +-2 has kappa = 29, F(6x6) at those and +-1/2 40: outside of the class.

These bounds grow with n, the errors on random data of mean zero do not (Higham and Mary, Sharper
probabilistic backward error analysis for basic linear algebra kernels with random data, SIAM J. Sci.
Comput. 42, 2020). So on data that the verdict has drawn itself, the first three guarantees are held to more:
elementwise to LIKELY u A for each output, tilewise to LIKELY u T, and both weaker ones to LIKELY u for the norm of
the whole output in units of that of A. A kernel that rounds like TF32 wherever the data are no integers is seen
at any n.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from convzoo.problem import Conv2d

from .data import in_layout, span

ACCURACIES = ("elementwise", "tilewise", "normwise", "tf32", "half")
UNIT = {"float32": 2.0**-24, "float64": 2.0**-53, "float16": 2.0**-11, "bfloat16": 2.0**-8}
TINY = {"float32": 2.0**-126, "float64": 2.0**-1022, "float16": 2.0**-24, "bfloat16": 2.0**-126}
CHUNK_BYTES = 2**21  # of sums of the oracle; with what is added to them they stay in cache
ACCUMULATOR = {"float16": "float32", "bfloat16": "float32"}  # what sums are kept in
LIKELY = 32  # measured: at most 10 u A, 15 u T and 5 for the norms on all CPU kernels; rounding to 11 bits: from 46 on
AMPLIFIED = 256  # times T at most are the sums of absolute values in a tilewise kernel ...
ROUNDINGS = 64  # ... and so many roundings more than n
REACH = 5  # outputs from the first to the last that a tile's pixels can come from
CACHED_BYTES = 2**27  # of one reference; larger ones are computed for every kernel again


# --- the oracle --------------------------------------------------------------------------------------


def correlate(p: Conv2d, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The sum over c, r, s in float64, without bias; x in the layout of p, result (N, K, P, Q)."""
    x = np.asarray(x, np.float64)
    if p.layout == "nhwc":
        x = x.transpose(0, 3, 1, 2)
    top, bottom, left, right = p.padding
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    G, P, Q = p.groups, p.P, p.Q
    grouped = np.asarray(w, np.float64).reshape(G, p.K // G, p.C // G, p.R, p.S)
    taps = [(r, s) for r in range(p.R) for s in range(p.S)]
    used = [tap for tap in taps if grouped[..., tap[0], tap[1]].any()]
    if len(used) < len(taps) and not np.isfinite(x).all():
        used = taps  # zero times infinity is something
    y = np.zeros((p.N, G, p.K // G, P * Q))
    images = max(1, CHUNK_BYTES // max(1, y[:1].nbytes))
    for n in range(0, p.N, images):
        some, sums = x[n : n + images], y[n : n + images]
        for r, s in used:
            h, v = r * p.dilation[0], s * p.dilation[1]
            h_end, v_end = h + (P - 1) * p.stride[0] + 1, v + (Q - 1) * p.stride[1] + 1
            pixels = some[:, :, h : h_end : p.stride[0], v : v_end : p.stride[1]]
            sums += grouped[:, :, :, r, s] @ pixels.reshape(len(some), G, p.C // G, P * Q)
    return y.reshape(p.N, p.K, P, Q)


def oracle(p: Conv2d, x: np.ndarray, w: np.ndarray, b: np.ndarray | None) -> np.ndarray:
    """y in float64, in the layout of p; written for this project, checked against two libraries."""
    y = correlate(p, x, w)
    if b is not None:
        y += np.asarray(b, np.float64)[:, None, None]
    return in_layout(p, y)


def magnitude(p: Conv2d, x: np.ndarray, w: np.ndarray, b: np.ndarray | None) -> np.ndarray:
    """A = |x| conv |w| + |b| in float64, the scale of every elementwise bound."""
    return oracle(p, np.abs(x), np.abs(w), None if b is None else np.abs(b))


def known_once(cached: Any, p: Conv2d, *which: Any) -> tuple[np.ndarray, np.ndarray]:
    """Oracle and magnitude of the data that ``cached(p, *which)`` gives, kept for the next kernel."""
    keep = p.N * p.K * p.P * p.Q * 8 <= CACHED_BYTES
    return (_known if keep else _known.__wrapped__)(cached, p, *which)


@lru_cache(maxsize=16)
def _known(cached: Any, p: Conv2d, *which: Any) -> tuple[np.ndarray, np.ndarray]:
    data = cached(p, *which)
    found = oracle(p, *data), magnitude(p, *data)
    for a in found:
        a.flags.writeable = False
    return found


# --- the guarantees ----------------------------------------------------------------------------------


def of_tiles(p: Conv2d, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """T, in the layout of p: |x| conv |w| with the largest |x| within reach in the place of each."""
    x = np.abs(x.transpose(0, 3, 1, 2) if p.layout == "nhwc" else x)
    for axis in (0, 1):
        x = _largest_in(np.moveaxis(x, axis + 2, -1), *span(p, axis, REACH))
        x = np.moveaxis(x, -1, axis + 2)
    filters = np.abs(w).sum(axis=(2, 3), keepdims=True, dtype=np.float64)
    pointwise = Conv2d(p.N, p.C, p.P, p.Q, p.K, 1, 1, groups=p.groups)
    return in_layout(p, correlate(pointwise, x, filters))


def _largest_in(a: np.ndarray, first: np.ndarray, length: int) -> np.ndarray:
    """Along the last axis, the largest of so many numbers from each of these on, or 0; some lie outside of ``a``."""
    size = a.shape[-1]
    if (
        length > size
    ):  # a stride or dilation may be any number: few windows, and no room for what lies between
        some = [a[..., max(0, int(i)) : max(0, int(i) + length)] for i in first]
        return np.stack([part.max(axis=-1, initial=0) for part in some], axis=-1)
    before, after = max(0, -int(first.min())), max(0, int(first.max()) + length - size)
    a, width = np.pad(a, [(0, 0)] * (a.ndim - 1) + [(before, after)]), 1
    while 2 * width <= length:
        a, width = np.maximum(a[..., : a.shape[-1] - width], a[..., width:]), 2 * width
    return np.maximum(a[..., first + before], a[..., first + before + length - width])


def allowed(
    p: Conv2d, x: np.ndarray, w: np.ndarray, A: np.ndarray, accuracy: str, rounded_to: str = ""
) -> np.ndarray:
    """The largest error of each output that ``accuracy`` allows, in the layout of p.

    ``rounded_to``: what a kernel of accuracy half rounds the inputs of a float32 problem to.
    """
    u = UNIT[ACCUMULATOR.get(p.dtype, p.dtype)]
    n, oracles = p.taps + p.bias, 2 if p.dtype == "float64" else 1
    bound = _gamma(n, u) * A * oracles + n * TINY[p.dtype]
    if accuracy == "elementwise":
        return bound
    bound += AMPLIFIED * (_gamma(n + ROUNDINGS, u) * oracles * of_tiles(p, x, w) + n * TINY[p.dtype])
    if accuracy == "tilewise":
        return bound
    bound = np.maximum(bound, normwise(p, x, w, u))
    for name in ("tf32", "half"):
        if ACCURACIES.index(name) <= ACCURACIES.index(accuracy):
            bound = np.maximum(bound, rounded(p, A, name, rounded_to))
    return bound + (UNIT[p.dtype] * A if p.dtype in ACCUMULATOR else 0)


def rounded(p: Conv2d, A: np.ndarray, accuracy: str, rounded_to: str) -> np.ndarray:
    """The error of sums in float32 of products of rounded inputs."""
    u_in, n = 2.0**-11 if accuracy == "tf32" else UNIT[rounded_to or p.dtype], p.taps + p.bias
    return (
        (1 + u_in) ** 2 * (1 + _gamma(n, UNIT[ACCUMULATOR.get(p.dtype, p.dtype)])) - 1
    ) * A + n * TINY[p.dtype]


def _gamma(n: int, u: float) -> float:
    return n * u / (1 - n * u)


def normwise(p: Conv2d, x: np.ndarray, w: np.ndarray, u: float) -> np.ndarray:
    """The error of each output in units of the norms of its planes; broadcasts to the layout of p."""
    L = 4 * max(2, p.padded[0] * p.padded[1])  # a transform may round both sides up to a power of 2
    return (9 * math.log2(L) + p.C // p.groups) * u * of_planes(p, x, w)


def of_planes(p: Conv2d, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The sum over c of |x_c|_2 |w_kc|_2; broadcasts to the layout of p."""
    spatial = (1, 2) if p.layout == "nhwc" else (2, 3)
    G = p.groups
    x_norms = np.sqrt((x.astype(np.float64) ** 2).sum(axis=spatial)).reshape(p.N, G, p.C // G)
    w_norms = np.sqrt((w.astype(np.float64) ** 2).sum(axis=(2, 3))).reshape(G, p.K // G, p.C // G)
    sums = np.einsum("ngc,gkc->ngk", x_norms, w_norms).reshape(p.N, p.K)
    return sums[:, None, None, :] if p.layout == "nhwc" else sums[:, :, None, None]


def likely(p: Conv2d, scale: Any) -> Any:
    """The error that data of mean zero lead to at most, in a kernel whose errors go by ``scale``: A or T."""
    # a tensor core cuts its sums off: such errors add up instead of cancelling; float64: see ``allowed``
    units = (LIKELY + math.sqrt(p.taps) / 8) * UNIT[p.dtype] * (2 if p.dtype == "float64" else 1)
    return units * scale + p.taps * TINY[p.dtype]


def norm_holds(p: Conv2d, x: np.ndarray, w: np.ndarray, A: np.ndarray, error: np.ndarray) -> bool:
    """Whether the norm of all errors is as on data of mean zero; False where one of them is NaN.

    A plane's transform spreads its errors, also to outputs that read few of its pixels or none: each has its
    share of the norms there, half of which is less than A where outputs read all that they can.
    """
    share = of_planes(p, x, w) / (2 * math.sqrt(max(1, p.padded[0] * p.padded[1])))
    return bool(np.linalg.norm(error) <= likely(p, np.linalg.norm(np.maximum(A, share))))
