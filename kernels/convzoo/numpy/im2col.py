"""im2col: write the matrix of all patches ourselves, and convolution is one matrix product.

After    numpy/windows   (new here: the patch matrix is ours, so no copy comes after the product)
Idea     A column of the patch matrix is the window of one output pixel; a row is one tap (c, r, s) for
         all pixels. Rows of w times that matrix give the rows of y, complete and in their final order.
         tensordot made the same matrix unseen; here it is filled for one image at a time, stays small,
         and the product goes straight into y, in either layout, because BLAS writes transposes too.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32, float64
         inside, for each n: w[G,K/G,C/G·R·S] @ patches[G,C/G·R·S,P·Q] → y[G,K/G,P·Q]
Threads  those of the BLAS behind NumPy, inside each product
Cost     FLOP   2·N·K·P·Q·C/G·R·S                     (the problem's own)
         bytes  the patches are written and read once: itemsize·2·N·P·Q·C·R·S
Limits   R·S times the memory of one image; a 1 × 1 filter pays for a copy that it does not need
         any layout: the padding copy makes [N,C,H,W]
Source   own; Chellapilla, Puri and Simard, High Performance Convolutional Neural Networks for Document
         Processing, 2006
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from convzoo.plan import Plan
from convzoo.problem import Conv2d

ALGORITHM = "gemm"


def plan(p: Conv2d) -> Plan:
    G, outputs = p.groups, p.K // p.groups
    (top, _, left, _), (tall, broad) = p.padding, p.padded
    (stride_h, stride_w), (dilation_h, dilation_w) = p.stride, p.dilation
    patches_shape = (p.C, p.R, p.S, p.P, p.Q)

    def run(x, weights):
        w, b = weights
        if p.layout == "nhwc":
            x = x.transpose(0, 3, 1, 2)
        image = np.zeros((p.N, p.C, tall, broad), x.dtype)
        image[:, :, top : top + p.H, left : left + p.W] = x
        windows = sliding_window_view(image, p.extent, axis=(2, 3))
        windows = windows[:, :, ::stride_h, ::stride_w, ::dilation_h, ::dilation_w]
        y = np.empty(p.y_shape, x.dtype)
        if p.layout == "nchw":
            target = y.reshape(p.N, G, outputs, p.P * p.Q)
        else:  # the same four axes, as a view
            target = y.reshape(p.N, p.P * p.Q, G, outputs).transpose(0, 2, 3, 1)
        matrix = w.reshape(G, outputs, p.taps)
        patches = np.empty(patches_shape, x.dtype)
        for n in range(p.N):
            patches[...] = windows[n].transpose(0, 3, 4, 1, 2)
            np.matmul(matrix, patches.reshape(G, p.taps, p.P * p.Q), out=target[n])
        if b is not None:
            target += b.reshape(G, outputs, 1)
        return y

    elements = p.N * p.C * tall * broad + p.C * p.R * p.S * p.P * p.Q
    return Plan(run, workspace=p.itemsize * elements)
