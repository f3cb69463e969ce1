"""Shift and add: one matrix product for each tap of the filter, instead of one call for each window.

After    numpy/per_channel   (new here: the loops over pixels and channels are gone, R·S steps are left)
Idea     Fix one tap (r, s). Every output then needs exactly one pixel of every channel, and all those
         pixels together are the image itself, shifted by (r, s) and thinned by the stride. So take
         that slice of the padded image, multiply it by the K × C matrix w[:, :, r, s], and add the
         product to y. Channels lead inside, because then the slice of a whole batch is one matrix.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32, float64
         inside: w[R,S,G,K/G,C/G] @ x[G,C/G,N·P·Q] → y[G,K/G,N·P·Q]
Threads  those of the BLAS behind NumPy, inside each product
Cost     FLOP   2·N·K·P·Q·C/G·R·S                     (the problem's own)
         bytes  the slice is copied and read, y is updated, once for each tap:
                itemsize·R·S·N·P·Q·(3·C + 4·K)
Limits   y goes through memory R·S times, so few channels or large filters are bound by bandwidth
         any layout: the padding copy puts channels first, one more copy puts y in order
Source   own; a relative of kn2row: Anderson, Vasudevan, Keane and Gregg, arXiv:1709.03395
"""

import numpy as np

from convzoo.plan import Plan
from convzoo.problem import Conv2d


def plan(p: Conv2d) -> Plan:
    G, pixels = p.groups, p.N * p.P * p.Q
    inputs, outputs, R, S = p.C // G, p.K // G, p.R, p.S
    (top, _, left, _), (tall, broad) = p.padding, p.padded
    lead, back = ((1, 0, 2, 3), (1, 0, 2, 3)) if p.layout == "nchw" else ((3, 0, 1, 2), (1, 2, 3, 0))

    def pack(w, b):
        taps = w.transpose(2, 3, 0, 1).copy()  # the matrix of one tap in one piece, as BLAS wants it
        return taps.reshape(R, S, G, outputs, inputs), None if b is None else b.copy()

    def run(x, weights):
        w, b = weights
        image = np.zeros((p.C, p.N, tall, broad), x.dtype)
        image[:, :, top : top + p.H, left : left + p.W] = x.transpose(lead)
        y = np.zeros((G, outputs, pixels), x.dtype)
        for r in range(p.R):
            for s in range(p.S):
                h, v = r * p.dilation[0], s * p.dilation[1]
                h_end, v_end = h + (p.P - 1) * p.stride[0] + 1, v + (p.Q - 1) * p.stride[1] + 1
                shifted = image[:, :, h : h_end : p.stride[0], v : v_end : p.stride[1]]
                y += w[r, s] @ shifted.reshape(G, inputs, pixels)
        y = y.reshape(p.K, p.N, p.P, p.Q)
        if b is not None:
            y += b[:, None, None, None]
        return np.ascontiguousarray(y.transpose(back))

    elements = p.C * (p.N * tall * broad + pixels) + 2 * p.K * pixels
    return Plan(run, pack=pack, workspace=p.itemsize * elements)
