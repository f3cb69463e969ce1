"""Shift and add on the GPU: the same few lines, and every one of them is a kernel launch.

After    numpy/shifted   (new here: arrays live on the GPU; Python only queues work and goes on)
Idea     Each tap (r, s) is one copy of the shifted image, one cuBLAS call for all images and channels,
         and one addition. Nothing waits for a result, so a call costs R·S times three launches of a
         few microseconds; the GPU is busy only if each of them has enough to do. Hence no loop over
         images or groups: both are part of the one matrix product.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32, float64
         inside: w[R,S,G,K/G,C/G] @ x[G,C/G,N·P·Q] → y[G,K/G,N·P·Q]
Threads  CuPy and cuBLAS choose them
Cost     FLOP   2·N·K·P·Q·C/G·R·S                     (the problem's own)
         bytes  the slice is copied and read, y is updated, once for each tap:
                itemsize·R·S·N·P·Q·(3·C + 4·K)
Limits   y goes through memory R·S times, so few channels or large filters are bound by bandwidth
         any layout: the padding copy puts channels first, one more copy puts y in order
         float32 products are true float32, as CuPy's default is; TF32 is opt-in there (CUPY_TF32=1)
         refuses matrices with 2**31 rows or columns, which cuBLAS counts in 32 bits
Source   own; a relative of kn2row: Anderson, Vasudevan, Keane and Gregg, arXiv:1709.03395
"""

import cupy

from convzoo.plan import Plan, Unsupported
from convzoo.problem import Conv2d


def plan(p: Conv2d) -> Plan:
    G, pixels = p.groups, p.N * p.P * p.Q
    inputs, outputs = p.C // G, p.K // G
    (top, _, left, _), (tall, broad) = p.padding, p.padded
    lead, back = ((1, 0, 2, 3), (1, 0, 2, 3)) if p.layout == "nchw" else ((3, 0, 1, 2), (1, 2, 3, 0))
    if max(pixels, p.K, p.C) >= 2**31:
        raise Unsupported("needs N*P*Q, K and C below 2**31, the limit of a cuBLAS matrix")

    def pack(w, b):
        taps = w.transpose(2, 3, 0, 1).copy()  # the matrix of one tap in one piece, as BLAS wants it
        return taps.reshape(p.R, p.S, G, outputs, inputs), None if b is None else b.copy()

    def run(x, weights):
        xp = cupy.get_array_module(x)  # NumPy for NumPy arrays: no GPU needed to test
        w, b = weights
        image = xp.zeros((p.C, p.N, tall, broad), x.dtype)
        image[:, :, top : top + p.H, left : left + p.W] = x.transpose(lead)
        y = xp.zeros((G, outputs, pixels), x.dtype)
        for r in range(p.R):
            for s in range(p.S):
                h, v = r * p.dilation[0], s * p.dilation[1]
                h_end, v_end = h + (p.P - 1) * p.stride[0] + 1, v + (p.Q - 1) * p.stride[1] + 1
                shifted = image[:, :, h : h_end : p.stride[0], v : v_end : p.stride[1]]
                y += w[r, s] @ shifted.reshape(G, inputs, pixels)
        y = y.reshape(p.K, p.N, p.P, p.Q)
        if b is not None:
            y += b[:, None, None, None]
        return xp.ascontiguousarray(y.transpose(back))

    elements = p.C * (p.N * tall * broad + pixels) + 2 * p.K * pixels
    return Plan(run, pack=pack, workspace=p.itemsize * elements)
