"""The definition itself: seven nested loops, one multiply and one add at a time.

Idea     For every output y[n,k,p,q] start from the bias and add the product of each tap (c, r, s) with
         the pixel under it; a pixel outside the image is zero, so it is skipped. The four outer loops
         choose an output, the three inner ones sum it: every other kernel of this project is a way to
         reorder, to block or to hand over these seven loops.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32, float64
Cost     FLOP   2·N·K·P·Q·C/G·R·S                     (the problem's own)
         bytes  each product reads one pixel and one weight again, and each of them is a Python object
                behind a pointer: 2·(8 + 24)·N·K·P·Q·C/G·R·S, from cache
Limits   about 120 ns for each product, nearly all of it interpreter overhead
         sums are float64, the only float that Python has: float32 results are rounded once, at the end
Source   own; the definition in convzoo/problem.py, letter by letter
"""

import numpy as np

from convzoo.plan import Plan
from convzoo.problem import Conv2d

MAX_FLOPS = 3e6  # a fifth of a second


def convolve(x: list, w: list, b: list, y: np.ndarray, prob: Conv2d) -> None:
    """Fill y[n,k,p,q]; x[n][c][h][v], w[k][c][r][s] and b[k] are nested lists of Python floats."""
    N, H, W, K, R, S, P, Q = prob.N, prob.H, prob.W, prob.K, prob.R, prob.S, prob.P, prob.Q
    inputs, outputs = prob.C // prob.groups, K // prob.groups  # channels of one group
    (stride_h, stride_w), (dilation_h, dilation_w) = prob.stride, prob.dilation
    top, _, left, _ = prob.padding
    for n in range(N):
        for k in range(K):
            first = k // outputs * inputs  # of the input channels that the group of k sees
            for p in range(P):
                for q in range(Q):
                    total = b[k]
                    for c in range(inputs):
                        for r in range(R):
                            h = p * stride_h + r * dilation_h - top
                            if not 0 <= h < H:  # Python would take row -1 for the last one
                                continue
                            for s in range(S):
                                v = q * stride_w + s * dilation_w - left
                                if 0 <= v < W:
                                    total += x[n][first + c][h][v] * w[k][c][r][s]
                    y[n, k, p, q] = total


def plan(p: Conv2d) -> Plan:
    def run(x, weights):
        w, b = weights
        y = np.empty(p.y_shape, p.dtype)
        target = y
        if p.layout == "nhwc":  # views with the axes in the order of the definition
            x, target = x.transpose(0, 3, 1, 2), y.transpose(0, 3, 1, 2)
        bias = [0.0] * p.K if b is None else b.tolist()
        # Lists: an element of an array comes out as a fresh NumPy scalar, at four times the cost.
        convolve(x.tolist(), w.tolist(), bias, target, p)
        return y

    elements = p.N * p.C * p.H * p.W + p.K * p.taps
    return Plan(run, workspace=32 * elements)  # an 8-byte pointer and a 24-byte float for each
