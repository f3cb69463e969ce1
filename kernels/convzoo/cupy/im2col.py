"""im2col on the GPU: one gather writes the patches of many images, one batched cuBLAS call sums them.

After    cupy/shifted   (new here: all taps are summed inside the product, none of it in memory)
Idea     As in numpy/im2col, the window of each output pixel is a column of the patch matrix. There one
         image at a time kept the matrix in cache; a GPU wants few and large calls, so as many images go
         together as fit PATCH_BYTES, in chunks of equal size; an image that is too large alone is cut
         into bands of output rows. Three forms of the product write y without a pass behind it, or
         with the smallest: large planes are a batch of one product for each image, which is y; of small
         planes all pixels stand in one row, since tiles of a product are 64 or 128 wide, and the product
         is copied into y; with nhwc pixels are rows, taps run along the channels, and the product is y.
         A 1×1 filter of stride 1 has no patches to write: the image is the matrix.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32, float64
         inside, for n images: w[G,K/G,taps] @ patches[n,G,taps,P·Q] or @ patches[G,taps,n·P·Q]
         nhwc: patches[G,n·P·Q,taps] @ w[G,taps,K/G]; taps is C/G·R·S
Threads  CuPy and cuBLAS choose them
Cost     FLOP   2·N·K·P·Q·C/G·R·S                     (the problem's own)
         bytes  padding, if any: itemsize·N·C·(H·W + 2·H'·W'); patches written and read once:
                itemsize·2·N·P·Q·C·R·S; bias: itemsize·2·N·K·P·Q; small planes or groups with nhwc the same
                again
Limits   the patches go through DRAM, where an implicit GEMM would keep them in shared memory
         float32 products are true float32, as CuPy's default is; TF32 is opt-in there (CUPY_TF32=1)
         refuses matrices with 2**31 rows or columns, which cuBLAS counts in 32 bits
Source   own; Chellapilla, Puri and Simard, High Performance Convolutional Neural Networks for Document
         Processing, 2006
"""

import cupy

from convzoo.plan import Plan, Unsupported
from convzoo.problem import Conv2d

ALGORITHM = "gemm"
PATCH_BYTES = 2**30
WIDE = 1024  # pixels of a plane that fill a product's tiles well enough by themselves


def plan(p: Conv2d) -> Plan:
    G, inputs, outputs = p.groups, p.C // p.groups, p.K // p.groups
    top, _, left, _ = p.padding
    nhwc, wide = p.layout == "nhwc", p.layout == "nchw" and p.P * p.Q >= WIDE
    row_bytes = p.itemsize * p.C * p.R * p.S * p.Q  # patches of one output row of one image
    rows = max(1, min(p.P, PATCH_BYTES // row_bytes))
    most = max(1, min(p.N, PATCH_BYTES // (row_bytes * p.P)))
    images = -(-p.N // -(-p.N // most))
    columns = images * rows * p.Q
    if max(columns, p.K, p.taps) >= 2**31:
        raise Unsupported("needs Q, K and C/G*R*S below 2**31, the limit of a cuBLAS matrix")
    # In which order the axes [n, G, C/G, p, Q, R, S] of windows make a matrix, and those of y a product.
    if nhwc:
        gather, scatter = (1, 0, 3, 4, 5, 6, 2), (1, 0, 3, 4, 2)
    elif wide:
        gather, scatter = (0, 1, 2, 5, 6, 3, 4), (0, 1, 2, 3, 4)
    else:
        gather, scatter = (1, 2, 5, 6, 0, 3, 4), (1, 2, 0, 3, 4)
    in_place = rows == p.P and (wide or (nhwc and G == 1))

    def five(a, channels):
        """[N, G, channels, height, width], a view of an array in the problem's layout."""
        if nhwc:
            return a.reshape(*a.shape[:3], G, channels).transpose(0, 3, 4, 1, 2)
        return a.reshape(len(a), G, channels, *a.shape[2:])

    def windows_of(xp, x):
        """[N, G, C/G, P, Q, R, S], a view of x or of its padded copy."""
        tall, broad = p.padded
        x = five(x, inputs)
        if any(p.padding):
            shape = (p.N, tall, broad, p.C) if nhwc else (p.N, p.C, tall, broad)
            image = five(xp.zeros(shape, x.dtype), inputs)
            image[..., top : top + p.H, left : left + p.W] = x
            x = image
        windows = xp.lib.stride_tricks.sliding_window_view(x, p.extent, axis=(3, 4))
        (h, v), (down, right) = p.stride, p.dilation
        return windows[:, :, :, ::h, ::v, ::down, ::right]

    def pack(w, b):
        w = w.reshape(G, outputs, inputs, p.R, p.S)
        w = w.transpose(0, 3, 4, 2, 1).copy() if nhwc else w.copy()
        w = w.reshape((G, p.taps, outputs) if nhwc else (G, outputs, p.taps))
        return w, None if b is None else b.copy().reshape(-1, *(() if nhwc else (1, 1)))

    def multiply(xp, windows, w, y):
        """y = w * windows, for a band of some images."""
        patches, y = xp.ascontiguousarray(windows.transpose(gather)), y.transpose(scatter)
        if nhwc:
            factors = patches.reshape(G, -1, p.taps), w
        elif wide:
            factors = w, patches.reshape(-1, G, p.taps, y.shape[3] * p.Q)
        else:
            factors = w, patches.reshape(G, p.taps, -1)
        if in_place:
            xp.matmul(*factors, out=y.reshape((G, -1, outputs) if nhwc else (*y.shape[:3], -1)))
        else:
            y[...] = xp.matmul(*factors).reshape(y.shape)

    def run(x, weights):
        xp = cupy.get_array_module(x)  # NumPy for NumPy arrays: no GPU needed to test
        w, b = weights
        windows, y = windows_of(xp, x), xp.empty(p.y_shape, x.dtype)
        planes = five(y, outputs)
        for n in range(0, p.N, images):
            for first in range(0, p.P, rows):
                band = slice(n, n + images), slice(None), slice(None), slice(first, first + rows)
                multiply(xp, windows[band], w, planes[band])
        if b is not None:
            y += b
        return y

    as_it_is = p.R * p.S == 1 and p.stride == (1, 1) and (wide or (nhwc and G == 1))  # no patches
    elements = p.N * p.C * p.padded[0] * p.padded[1] * any(p.padding) + p.K * columns * (not in_place)
    patches = 0 if as_it_is else row_bytes * images * rows
    return Plan(run, pack=pack, workspace=p.itemsize * elements + patches)
