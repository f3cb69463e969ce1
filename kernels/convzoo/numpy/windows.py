"""Every window at once: a 6-D view of the image that costs nothing, and one tensor contraction.

After    numpy/shifted   (new here: no loop over taps; all sums are one call)
Idea     sliding_window_view changes strides only: it shows the image as [N,C,P,Q,R,S], each pixel up to
         R·S times, without a copy. Steps of the strides and of the dilation thin it out. tensordot then
         contracts c, r and s against the filter: the formula in one line. Behind that line it copies
         the view into a matrix and calls BLAS once, so the cost is hidden, not gone.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32, float64
Threads  those of the BLAS behind NumPy, inside each contraction
Cost     FLOP   2·N·K·P·Q·C/G·R·S                     (the problem's own)
         bytes  the hidden matrix is written and read, the product is copied to its place in y:
                itemsize·N·P·Q·(2·C·R·S + 3·K)
Limits   one contraction for each group (a depthwise layer is C of them), and for each set of images
         whose hidden matrix fits WINDOW_BYTES
         any layout: the padding copy makes [N,C,H,W], the copy into y puts its axes in order
Source   own; numpy.lib.stride_tricks.sliding_window_view and numpy.tensordot
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from convzoo.plan import Plan
from convzoo.problem import Conv2d

WINDOW_BYTES = 2**28  # a batch of large images would otherwise need gigabytes for the hidden matrix


def plan(p: Conv2d) -> Plan:
    inputs, outputs = p.C // p.groups, p.K // p.groups
    top, bottom, left, right = p.padding
    (stride_h, stride_w), (dilation_h, dilation_w) = p.stride, p.dilation
    per_image = p.itemsize * p.P * p.Q * p.taps
    images = max(1, min(p.N, WINDOW_BYTES // per_image))

    def run(x, weights):
        w, b = weights
        if p.layout == "nhwc":
            x = x.transpose(0, 3, 1, 2)
        image = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
        windows = sliding_window_view(image, p.extent, axis=(2, 3))
        windows = windows[:, :, ::stride_h, ::stride_w, ::dilation_h, ::dilation_w]
        y = np.empty(p.y_shape, x.dtype)
        target = y.transpose((1, 0, 2, 3) if p.layout == "nchw" else (3, 0, 1, 2))  # [K,N,P,Q]
        for n in range(0, p.N, images):
            for g in range(p.groups):
                c = slice(g * inputs, (g + 1) * inputs)
                k = slice(g * outputs, (g + 1) * outputs)
                group = windows[n : n + images, c]
                target[k, n : n + images] = np.tensordot(w[k], group, axes=((1, 2, 3), (1, 4, 5)))
        if b is not None:
            target += b[:, None, None, None]
        return y

    tall, broad = p.padded
    product = p.itemsize * images * outputs * p.P * p.Q
    return Plan(run, workspace=p.itemsize * p.N * p.C * tall * broad + images * per_image + product)
