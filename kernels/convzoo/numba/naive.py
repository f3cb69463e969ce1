"""The seven loops of the definition, compiled: the same code, a hundred times faster.

After    python/naive   (new here: LLVM compiles the loops; numbers are registers, not objects)
Idea     Numba translates the loops once for each dtype. What took a dictionary look-up and a type
         check for every product is now two loads, a multiply and an add. The order of the sum is that
         of the definition, and LLVM may not change it: it runs in one scalar register, each addition
         waits for the one before, and the vector units stay idle.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32, float64
Threads  one; the interpreter lock is released
Cost     FLOP   2·N·K·P·Q·C/G·R·S                     (the problem's own)
         bytes  one pixel and one weight for each product: itemsize·2·N·K·P·Q·C/G·R·S, from cache
Limits   one addition in the time of its latency: about 1 product per nanosecond
         either layout is read in place, through strides
Source   own; the definition in convzoo/problem.py, letter by letter
"""

from functools import cache

import numpy as np
from numba import from_dtype, types

from convzoo.numba._kept import kept
from convzoo.plan import Plan
from convzoo.problem import Conv2d

MAX_FLOPS = 5e7  # a twentieth of a second


def convolve(x, w, b, y, stride, dilation, corner, groups):
    """Fill y[n,k,p,q] from x[n,c,h,v], w[k,c,r,s] and b[k]; corner is the padding (top, left)."""
    N, K, P, Q = y.shape
    _, _, H, W = x.shape
    _, inputs, R, S = w.shape
    outputs = K // groups
    for n in range(N):
        for k in range(K):
            first = k // outputs * inputs  # of the input channels that the group of k sees
            for p in range(P):
                for q in range(Q):
                    total = b[k]
                    for c in range(inputs):
                        for r in range(R):
                            h = p * stride[0] + r * dilation[0] - corner[0]
                            if not 0 <= h < H:
                                continue
                            for s in range(S):
                                v = q * stride[1] + s * dilation[1] - corner[1]
                                if 0 <= v < W:
                                    total += x[n, first + c, h, v] * w[k, c, r, s]
                    y[n, k, p, q] = total


@cache
def compiled(dtype: str):
    """convolve for one dtype. Told all types, Numba compiles here and never again while running."""
    number, pair = from_dtype(np.dtype(dtype)), types.UniTuple(types.int64, 2)

    def read(ndim):  # the widest array type: any strides, read-only, unaligned; others convert to it
        return types.Array(number, ndim, "A", readonly=True, aligned=False)

    y = types.Array(number, 4, "A")
    signature = types.void(read(4), read(4), read(1), y, pair, pair, pair, types.int64)
    return kept(signature, nogil=True)(convolve)


def plan(p: Conv2d) -> Plan:
    body = compiled(p.dtype)
    corner = (p.padding[0], p.padding[2])
    no_bias = np.zeros(p.K, p.dtype)

    def run(x, weights):
        w, b = weights
        y = np.empty(p.y_shape, p.dtype)
        target = y
        if p.layout == "nhwc":  # views with the axes in the order of the definition
            x, target = x.transpose(0, 3, 1, 2), y.transpose(0, 3, 1, 2)
        body(x, w, no_bias if b is None else b, target, p.stride, p.dilation, corner, p.groups)
        return y

    return Plan(run, code=(body,))
