"""im2col with the gather compiled: no padded copy of x, and none at all for a plain 1 × 1 filter.

After    numpy/im2col   (new here: three compiled loops write a line of the patch matrix)
Idea     The patch matrix has one row for each tap (c, r, s): channel c as that tap sees it. NumPy
         needed a padded copy of x and one general copy of six axes. Here every line of such a row is
         three plain loops, zeros, pixels, zeros, and LLVM vectorises them. The product stays the
         library's: w times patches, straight into y.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32, float64
         inside, for each n: w[G,K/G,C/G·R·S] @ patches[G,C/G·R·S,P·Q] → y[G,K/G,P·Q]
Threads  the gather: the caller's, without the interpreter lock; the product: those of NumPy's BLAS.
         With prange the gather itself took half the time, but the call six times as long (64 channels,
         56 × 56, two cores): the idle threads of either pool spin on the cores that the other needs
Cost     FLOP   2·N·K·P·Q·C/G·R·S                     (the problem's own)
         bytes  the patches are written and read once: itemsize·2·N·P·Q·C·R·S
Limits   R·S times the memory of one image, and a gather that does not grow with the cores
         nchw copies lines of pixels; nhwc is read in place, one element in C
Source   own; Chellapilla, Puri and Simard, High Performance Convolutional Neural Networks for Document
         Processing, 2006
"""

from functools import cache

import numpy as np
from numba import from_dtype, types, uint64

from convzoo.numba._kept import kept
from convzoo.plan import Plan
from convzoo.problem import Conv2d

ALGORITHM = "gemm"


def gather(x, steps, sizes, patches, stride, dilation, corner):
    """patches[c,r,s,p,q] of one image x, both flat; steps: in x, to the next c, h, column and q."""
    C, H, W, R, S, P, Q = sizes
    for tap in range(C * R * S):
        c, r, s = tap // (R * S), tap // S % R, tap % S
        left = s * dilation[1] - corner[1]  # the column of x under the first pixel of a line
        first = min(Q, max(0, -(left // stride[1])))
        last = max(first, min(Q, (W - 1 - left) // stride[1] + 1))
        for p in range(P):
            h = p * stride[0] + r * dilation[0] - corner[0]
            lo, hi = (first, last) if 0 <= h < H else (Q, Q)
            # Unsigned: a signed index might be negative, which counts from the end, and the test for
            # that keeps LLVM from vectorising.
            source = uint64(c * steps[0] + h * steps[1] + (first * stride[1] + left) * steps[2])
            line = uint64((tap * P + p) * Q)
            for q in range(uint64(lo)):
                patches[line + q] = 0
            for q in range(uint64(hi - lo)):
                patches[line + uint64(lo) + q] = x[source + q * uint64(steps[3])]
            for q in range(uint64(hi), uint64(Q)):
                patches[line + q] = 0


@cache
def compiled(dtype: str):
    """gather for one dtype. Told all types, Numba compiles here and never again while running."""
    number, whole = from_dtype(np.dtype(dtype)), types.int64
    image = types.Array(number, 1, "C", readonly=True, aligned=False)  # other arrays convert to it
    patches, pair = types.Array(number, 1, "C"), types.UniTuple(whole, 2)
    steps, sizes = types.UniTuple(whole, 4), types.UniTuple(whole, 7)
    signature = types.void(image, steps, sizes, patches, pair, pair, pair)
    return kept(signature, nogil=True)(gather)


def plan(p: Conv2d) -> Plan:
    G, inputs, outputs = p.groups, p.C // p.groups, p.K // p.groups
    nchw, pixels = p.layout == "nchw", p.P * p.Q
    steps = (p.H * p.W, p.W, 1, p.stride[1]) if nchw else (1, p.W * p.C, p.C, p.C * p.stride[1])
    sizes, corner = (p.C, p.H, p.W, p.R, p.S, p.P, p.Q), (p.padding[0], p.padding[2])
    body = compiled(p.dtype)
    x_is_patches = p.R == p.S == 1 and p.stride == (1, 1) and not any(p.padding)
    elements = 0 if x_is_patches else p.C * p.R * p.S * pixels

    def by_group(a, channels):  # a view of x or y: image, group, channel, pixel
        if nchw:
            return a.reshape(p.N, G, channels, -1)
        return a.reshape(p.N, -1, G, channels).transpose(0, 2, 3, 1)

    def run(x, weights):
        w, b = weights
        y = np.empty(p.y_shape, p.dtype)
        matrix, target = w.reshape(G, outputs, p.taps), by_group(y, outputs)
        if x_is_patches:
            np.matmul(matrix, by_group(x, inputs), out=target)
        else:
            images, patches = x.reshape(p.N, -1), np.empty(elements, p.dtype)
            for n in range(p.N):
                body(images[n], steps, sizes, patches, p.stride, p.dilation, corner)
                np.matmul(matrix, patches.reshape(G, p.taps, pixels), out=target[n])
        if b is not None:
            target += b.reshape(G, outputs, 1)
        return y

    return Plan(run, workspace=p.itemsize * elements, code=(body,))
