"""The seed's own way: each input channel is convolved with its filter by hand, and the maps are summed.

After    python/naive   (new here: one window times one filter is a whole-array product)
Idea     For every output channel k and every input channel c of its group, slide the R x S window
         over channel c, multiply it by the filter w[k, c] and sum: one partial map. The output map of
         k is the sum of its partial maps plus its bias. This is the picture in every textbook, and
         the 1x of this project's tables.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32, float64
Cost     FLOP   2·N·K·P·Q·C/G·R·S                     (the problem's own)
         bytes  every x window K/G times: itemsize·2·N·K·P·Q·C/G·R·S, from cache
Limits   one NumPy call for each output pixel and channel pair: all of the time is call overhead
Source   own; the convolution-layer notebook this project grew from
"""

import numpy as np

from convzoo.plan import Plan
from convzoo.problem import Conv2d

MAX_FLOPS = 3e7


def convolve_channel(image: np.ndarray, kernel: np.ndarray, p: Conv2d) -> np.ndarray:
    """One padded channel (H', W') with one filter (R, S): the partial map (P, Q)."""
    partial = np.empty((p.P, p.Q), image.dtype)
    high, wide = p.extent
    for i in range(p.P):
        for j in range(p.Q):
            top, left = i * p.stride[0], j * p.stride[1]
            window = image[top : top + high : p.dilation[0], left : left + wide : p.dilation[1]]
            partial[i, j] = (window * kernel).sum()
    return partial


def plan(p: Conv2d) -> Plan:
    top, bottom, left, right = p.padding
    sides = ((0, 0), (0, 0), (top, bottom), (left, right))
    inputs, outputs = p.C // p.groups, p.K // p.groups

    def run(x, weights):
        w, b = weights
        if p.layout == "nhwc":
            x = x.transpose(0, 3, 1, 2)
        x = np.pad(x, sides)
        y = np.zeros((p.N, p.K, p.P, p.Q), x.dtype)
        for n in range(p.N):
            for k in range(p.K):
                first = k // outputs * inputs  # of the channels that group sees
                for c in range(inputs):
                    y[n, k] += convolve_channel(x[n, first + c], w[k, c], p)
        if b is not None:
            y += b[:, None, None]
        return np.ascontiguousarray(y.transpose(0, 2, 3, 1)) if p.layout == "nhwc" else y

    tall, broad = p.padded
    return Plan(run, workspace=p.itemsize * p.N * p.C * tall * broad)
