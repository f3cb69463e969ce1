"""Shift and add on the GPU: one product for all taps, and one sum along a slanted view of it.

After    numpy/shifted   (new here: two launches instead of three for each tap)
Idea     There each tap shifted the image, multiplied and added. Shifts may as well come after the product,
         which then is the same for all taps: w[R·S·K,C] @ image[C,pixels], one batched cuBLAS call. An
         output is the sum of R·S of its elements, tap (r, s) taken r rows down and s columns right. The
         addresses of these are a regular grid in six dimensions, so an as_strided view has them as its
         last two axes and one reduction sums them. A call costs the same few launches for any filter,
         and as many images (or rows of one) go together as their products fit PRODUCT_BYTES.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32, float64
         inside, for n images: w[G,R·S·K/G,C/G] @ x[G,C/G,n·H'·W'] → [G,R,S,K/G,n,H',W'] → y[G,K/G,n,P,Q]
Threads  CuPy and cuBLAS choose them
Cost     FLOP   2·N·K·H'·W'·C/G·R·S: every tap meets every pixel of the padded image, also those that a
                stride would step over
         bytes  the products are written and read once: itemsize·N·K·R·S·(H'·W' + P·Q), and x and y thrice
Limits   more output than input channels is the wrong way round: then cupy/im2col moves less
         any layout: the padding copy puts channels first, the sum puts y in order
         float32 products are true float32, as CuPy's default is; TF32 is opt-in there (CUPY_TF32=1)
         refuses matrices with 2**31 rows or columns, which cuBLAS counts in 32 bits
Source   own; kn2row: Anderson, Vasudevan, Keane and Gregg, arXiv:1709.03395
"""

import cupy

from convzoo.plan import Plan, Unsupported
from convzoo.problem import Conv2d

PRODUCT_BYTES = 2**30


def plan(p: Conv2d) -> Plan:
    G, inputs, outputs = p.groups, p.C // p.groups, p.K // p.groups
    (top, _, left, _), (tall, broad) = p.padding, p.padded
    (stride_h, stride_w), (dilation_h, dilation_w) = p.stride, p.dilation
    lead = (1, 0, 2, 3) if p.layout == "nchw" else (3, 0, 1, 2)  # and the way back, for four axes of y
    row_bytes = p.itemsize * p.K * p.R * p.S * broad  # products of one row of one padded image
    images = max(1, min(p.N, PRODUCT_BYTES // (row_bytes * tall)))
    rows = max(1, min(p.P, (PRODUCT_BYTES // row_bytes - p.extent[0]) // stride_h + 1))
    if images > 1 or rows == p.P:
        rows = p.P
    band = (rows - 1) * stride_h + p.extent[0]  # rows of the padded image for that many rows of y
    if max(images * band * broad, p.K * p.R * p.S, p.C) >= 2**31:
        raise Unsupported("needs pixels, K*R*S and C below 2**31, the limit of a cuBLAS matrix")

    def pack(w, b):
        taps = w.reshape(G, outputs, inputs, p.R, p.S).transpose(0, 3, 4, 1, 2).copy()
        return taps.reshape(G, -1, inputs), None if b is None else b.copy()

    def sums(xp, products):
        """[K,n,p,Q] from [G,R,S,K/G,n,h,W']: the last two of six axes walk over the taps."""
        high = (products.shape[5] - p.extent[0]) // stride_h + 1
        over_g, over_r, over_s, over_k, over_n, over_h, over_w = products.strides
        view = xp.lib.stride_tricks.as_strided(
            products,
            (G, outputs, products.shape[4], high, p.Q, p.R, p.S),
            (
                over_g, over_k, over_n, over_h * stride_h, over_w * stride_w,
                over_r + over_h * dilation_h, over_s + over_w * dilation_w,
            ),
        )  # fmt: skip
        return view.sum(axis=(5, 6)).reshape(p.K, -1, high, p.Q)

    def run(x, weights):
        xp = cupy.get_array_module(x)  # NumPy for NumPy arrays: no GPU needed to test
        w, b = weights
        y = xp.empty(p.y_shape, x.dtype)
        target = y.transpose(lead)
        bias = 0 if b is None else b[:, None, None, None]
        image = xp.zeros((p.C, p.N, tall, broad), x.dtype)
        image[:, :, top : top + p.H, left : left + p.W] = x.transpose(lead)
        for n in range(0, p.N, images):
            for first in range(0, p.P, rows):
                h = first * stride_h
                piece = image[:, n : n + images, h : min(h + band, tall)]
                matrix = xp.ascontiguousarray(piece).reshape(G, inputs, -1)
                products = (w @ matrix).reshape(G, p.R, p.S, outputs, *piece.shape[1:])
                xp.add(sums(xp, products), bias, out=target[:, n : n + images, first : first + rows])
        return y

    matrix = p.C * (images < p.N or rows < p.P)  # else the padded images are the matrix
    of_a_pixel = matrix + p.K * p.R * p.S
    elements = p.C * p.N * tall * broad + images * (band * broad * of_a_pixel + p.K * rows * p.Q)
    return Plan(run, pack=pack, workspace=p.itemsize * elements)
