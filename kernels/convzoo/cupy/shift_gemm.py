"""R·S matrix products that add up in place, and a shift of the image is a pointer a little further on.

After    cupy/shifted   (new here: nothing is copied for a tap, and cuBLAS itself adds)
Idea     Lay the padded images one behind another, channels last: a matrix of pixels by channels. Tap (r, s)
         needs for every output the pixel r·W' + s further on, for all outputs alike: the same matrix from
         a later row on. So each tap is y += image[later:] @ w[r,s], with rows that cuBLAS reads where
         they lie and beta = 1, which adds to what is there (y starts as the bias). Where a window would
         wrap around the rim of an image the sums are nonsense; those rows and columns are dropped at the end.
         A stride takes the image apart first, into images of every second (third ...) row and column, of
         which each tap reads one; those that no tap reads are not made.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32, float64
         inside, for n images: x[G,n·H'·W',C/G] · w[R,S,G,C/G,K/G] → y[G,n·H'·W',K/G]; H', W' over the stride
Threads  CuPy and cuBLAS choose them
Cost     FLOP   2·N·K·H'·W'·C/G·R·S                  (rims included: H'·W' of the padded image, over the stride)
         bytes  for each tap x is read, and y read and written: itemsize·R·S·N·H'·W'·(C + 2·K), and the
                copies into and out of this form
Limits   R·S·G calls of cuBLAS: many groups are many small ones
         y goes through memory R·S times, so few channels or large filters are bound by bandwidth
         refuses matrices with 2**31 rows or columns, which cuBLAS counts in 32 bits
Source   own; kn2row-aa: Anderson, Vasudevan, Keane and Gregg, arXiv:1709.03395
"""

import cupy
import numpy as np

from convzoo.plan import Plan, Unsupported
from convzoo.problem import Conv2d

ALGORITHM = "gemm"
IMAGE_BYTES = 2**30  # of the images that go together, x and y in this form


def add_product(xp, a, b, y):
    """y += a @ b, where cuBLAS needs no memory for the product: all three lie in one piece each."""
    if xp is np:
        y += a @ b
    else:
        import cupy.cublas

        cupy.cublas.gemm("N", "N", a, b, out=y, beta=1.0)


def plan(p: Conv2d) -> Plan:
    G, inputs, outputs = p.groups, p.C // p.groups, p.K // p.groups
    top, _, left, _ = p.padding
    # A stride above the image moves nothing, but would make the rows below as many.
    stride_h, stride_w = (min(s, n) for s, n in zip(p.stride, p.padded, strict=True))
    high, wide = (-(-n // s) for n, s in zip(p.padded, (stride_h, stride_w), strict=True))  # H', W'
    # for each tap the image it reads, by its first row and column, and how many pixels further on
    downs = [divmod(r * p.dilation[0], stride_h) for r in range(p.R)]
    rights = [divmod(s * p.dilation[1], stride_w) for s in range(p.S)]
    taps = [((h, v), down * wide + right) for down, h in downs for right, v in rights]
    starts = {start for start, _ in taps}
    in_place = G == 1 and stride_h * stride_w == 1  # the padded images are what the taps read
    of_x = p.C * (stride_h * stride_w + len(starts) * (not in_place))
    image_bytes = p.itemsize * high * wide * (of_x + p.K)
    images = max(1, min(p.N, IMAGE_BYTES // image_bytes))
    if max(images * high * wide, p.K, p.C) >= 2**31:
        raise Unsupported("needs pixels, K and C below 2**31, the limit of a cuBLAS matrix")

    def pack(w, b):
        matrices = w.reshape(G, outputs, inputs, -1).transpose(3, 0, 2, 1).copy()
        return matrices, None if b is None else b.copy().reshape(G, 1, outputs)

    def apart(xp, x):
        """The padded images, channels last, by the row and column that a stride starts from."""
        shape = (len(x), high * stride_h, wide * stride_w, p.C)
        image = xp.zeros(shape, x.dtype)
        image[:, top : top + p.H, left : left + p.W] = x
        image = image.reshape(len(x), high, stride_h, wide, stride_w, G, inputs)
        parts = {(h, v): image[:, :, h, :, v].transpose(3, 0, 1, 2, 4) for h, v in starts}
        return {start: xp.ascontiguousarray(a).reshape(G, -1, inputs) for start, a in parts.items()}

    def run(x, weights):
        xp = cupy.get_array_module(x)  # NumPy for NumPy arrays: no GPU needed to test
        w, b = weights
        x = x if p.layout == "nhwc" else x.transpose(0, 2, 3, 1)
        y = xp.empty(p.y_shape, x.dtype)
        target = y if p.layout == "nhwc" else y.transpose(0, 2, 3, 1)
        for n in range(0, p.N, images):
            some = x[n : n + images]
            parts = apart(xp, some)
            sums = xp.zeros((G, len(some) * high * wide, outputs), x.dtype)
            if b is not None:
                sums[...] = b
            last = ((len(some) - 1) * high + p.P - 1) * wide + p.Q  # behind the last output
            for (start, further), matrices in zip(taps, w, strict=True):
                for g in range(G):
                    pixels = parts[start][g, further : further + last]
                    add_product(xp, pixels, matrices[g], sums[g, :last])
            sums = sums.reshape(G, len(some), high, wide, outputs)[:, :, : p.P, : p.Q]
            target[n : n + images] = sums.transpose(1, 2, 3, 0, 4).reshape(len(some), p.P, p.Q, p.K)
        return y

    return Plan(run, pack=pack, workspace=images * image_bytes)
