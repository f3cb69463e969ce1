"""im2col on the GPU: one gather kernel writes the patches of many images, one cuBLAS call sums them.

After    cupy/shifted   (new here: R·S launches become one; their sum happens inside one product)
Idea     As in numpy/im2col, the window of each output pixel is a column of the patch matrix. There one
         image at a time kept the matrix in cache; here as many images as fit PATCH_BYTES go together,
         because a GPU wants few and large calls, and because R·S copies of a whole batch would fill
         its memory. A single image that is too large is cut into bands of output rows.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32, float64
         inside, for n images: w[G,K/G,C/G·R·S] @ patches[G,C/G·R·S,n·P·Q] → product[G,K/G,n·P·Q]
Threads  CuPy and cuBLAS choose them
Cost     FLOP   2·N·K·P·Q·C/G·R·S                     (the problem's own)
         bytes  patches written and read once, the product once: itemsize·2·N·P·Q·(C·R·S + K)
Limits   the patches go through DRAM, where an implicit GEMM would keep them in shared memory
         any layout: the padding copy makes [N,C,H,W]; bias and final order share one pass over y
         float32 products are true float32, as CuPy's default is; TF32 is opt-in there (CUPY_TF32=1)
         refuses matrices with 2**31 rows or columns, which cuBLAS counts in 32 bits
Source   own; Chellapilla, Puri and Simard, High Performance Convolutional Neural Networks for Document
         Processing, 2006
"""

import cupy

from convzoo.plan import Plan, Unsupported
from convzoo.problem import Conv2d

ALGORITHM = "gemm"
PATCH_BYTES = 2**28


def plan(p: Conv2d) -> Plan:
    G, outputs = p.groups, p.K // p.groups
    (top, _, left, _), (tall, broad) = p.padding, p.padded
    (stride_h, stride_w), (dilation_h, dilation_w) = p.stride, p.dilation
    row_bytes = p.itemsize * p.C * p.R * p.S * p.Q  # patches of one output row of one image
    rows = max(1, min(p.P, PATCH_BYTES // row_bytes))
    images = max(1, min(p.N, PATCH_BYTES // (row_bytes * p.P)))
    columns = images * rows * p.Q
    if max(columns, p.K, p.taps) >= 2**31:
        raise Unsupported("needs Q, K and C/G*R*S below 2**31, the limit of a cuBLAS matrix")

    def run(x, weights):
        xp = cupy.get_array_module(x)  # NumPy for NumPy arrays: no GPU needed to test
        w, b = weights
        if p.layout == "nhwc":
            x = x.transpose(0, 3, 1, 2)
        image = xp.zeros((p.N, p.C, tall, broad), x.dtype)
        image[:, :, top : top + p.H, left : left + p.W] = x
        windows = xp.lib.stride_tricks.sliding_window_view(image, p.extent, axis=(2, 3))
        windows = windows[:, :, ::stride_h, ::stride_w, ::dilation_h, ::dilation_w]
        y = xp.empty(p.y_shape, x.dtype)
        target = y.transpose((1, 0, 2, 3) if p.layout == "nchw" else (3, 0, 1, 2))  # [K,N,P,Q]
        matrix = w.reshape(G, outputs, p.taps)
        bias = 0 if b is None else b[:, None, None, None]
        for n in range(0, p.N, images):
            for first in range(0, p.P, rows):
                band = windows[n : n + images, :, first : first + rows].transpose(1, 4, 5, 0, 2, 3)
                patches = xp.ascontiguousarray(band).reshape(G, p.taps, -1)
                product = (matrix @ patches).reshape(p.K, *band.shape[3:])
                xp.add(product, bias, out=target[:, n : n + images, first : first + rows])
        return y

    elements = p.N * p.C * tall * broad + p.K * columns
    return Plan(run, workspace=p.itemsize * elements + row_bytes * images * rows)
