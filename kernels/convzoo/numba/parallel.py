"""The rows of y are shared among all threads.

After    numba/naive   (new here: prange in place of three loops)
Idea     Outputs do not depend on each other, so any loop over them may run in parallel. Sharing the
         images alone would leave a single image to a single thread; so the loops over n, k and p become
         one loop over all rows of y, and every thread takes an equal run of them. Small problems stay
         on the calling thread, because waking the others costs as much as thousands of products.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32, float64
Threads  Numba's; thread t computes the t-th part of the N·K·P rows, without the interpreter lock
Cost     FLOP   2·N·K·P·Q·C/G·R·S                     (the problem's own)
         bytes  one pixel and one weight for each product: itemsize·2·N·K·P·Q·C/G·R·S, from cache
Limits   each thread is as slow as numba/naive: the sum is still one chain of scalar additions
         rows at the upper and lower border cost less than the others, and nothing evens that out
         calls from several Python threads at once need Numba's omp or tbb layer, not workqueue
         either layout is read in place, through strides
Source   own; Numba documentation, Automatic parallelization with @jit
"""

from functools import cache

import numpy as np
from numba import from_dtype, njit, prange, types

from convzoo.numba._kept import kept
from convzoo.plan import Plan
from convzoo.problem import Conv2d

MAX_FLOPS = 3e8  # a tenth of a second on two cores
SERIAL_FLOPS = 4e4  # about 20 microseconds on one thread


@njit(nogil=True)
def convolve_row(i, x, w, b, y, stride, dilation, corner, groups):
    """Row i of y, the rows counted through all n, k and p; the loops of numba/naive from q inwards."""
    _, K, P, Q = y.shape
    _, _, H, W = x.shape
    _, inputs, R, S = w.shape
    n, k, p = i // (K * P), i // P % K, i % P
    first = k // (K // groups) * inputs  # of the input channels that the group of k sees
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


def on_one_thread(x, w, b, y, stride, dilation, corner, groups):
    for i in range(y.shape[0] * y.shape[1] * y.shape[2]):
        convolve_row(i, x, w, b, y, stride, dilation, corner, groups)


def on_all_threads(x, w, b, y, stride, dilation, corner, groups):
    for i in prange(y.shape[0] * y.shape[1] * y.shape[2]):
        convolve_row(i, x, w, b, y, stride, dilation, corner, groups)


@cache
def compiled(dtype: str, parallel: bool):
    """One of the two loops above for one dtype, compiled here and never again while running."""
    number, pair = from_dtype(np.dtype(dtype)), types.UniTuple(types.int64, 2)

    def read(ndim):  # the widest array type: any strides, read-only, unaligned; others convert to it
        return types.Array(number, ndim, "A", readonly=True, aligned=False)

    y = types.Array(number, 4, "A")
    signature = types.void(read(4), read(4), read(1), y, pair, pair, pair, types.int64)
    if parallel:
        return kept(signature, parallel=True, nogil=True)(on_all_threads)
    return kept(signature, nogil=True)(on_one_thread)


def plan(p: Conv2d) -> Plan:
    body = compiled(p.dtype, p.flops > SERIAL_FLOPS)
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
