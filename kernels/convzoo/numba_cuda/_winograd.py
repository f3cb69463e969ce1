"""The transforms of F(2x2, 3x3) on the device, and the shapes of what stands between them.

Used by winograd, which holds the products. A patch is 4 by 4 pixels of one channel and becomes 2 by 2 outputs;
u, v and m are the transformed filters, pixels and products: u[16,C',K'], v[16,C',T'], m[16,K',T'].
"""

from __future__ import annotations

from math import prod

import numpy as np
from numba import cuda, float32, uint32

from convzoo.plan import Unsupported
from convzoo.problem import Conv2d

from ._implicit_gemm import DEPTH, Gemm, cut
from ._launch import Launch, one_thread_each

HALF = np.float32(0.5)


@cuda.jit(device=True, inline="always")
def of_pixels(d0, d1, d2, d3):
    return d0 - d2, d1 + d2, d2 - d1, d1 - d3


@cuda.jit(device=True, inline="always")
def of_filter(w0, w1, w2):
    return w0, (w0 + w1 + w2) * HALF, (w0 - w1 + w2) * HALF, w2


@cuda.jit(device=True, inline="always")
def to_outputs(m0, m1, m2, m3):
    return m0 + m1 + m2, m1 - m2 - m3


def products(p: Conv2d) -> Gemm:
    """The 16 matrix products, as a 1 x 1 convolution of one row of patches with 16 groups."""
    if (p.R, p.S, p.stride, p.dilation, p.groups) != (3, 3, (1, 1), (1, 1), 1):
        raise Unsupported("needs R = S = 3, stride 1, dilation 1, groups 1")
    patches, channels = p.N * -(-p.P // 2) * -(-p.Q // 2), -(-p.C // DEPTH) * DEPTH
    gemm = cut(Conv2d(1, 16 * channels, 1, patches, 16 * p.K, 1, 1, groups=16), most_parts=1)
    for name, elements in (
        ("v", prod(shapes(gemm)[0])),
        ("m", prod(shapes(gemm)[1])),
        ("y", prod(p.y_shape)),
    ):
        if elements > 2**32 - 2**16:
            raise Unsupported(
                f"needs less than 2**32 elements, {name} has {elements}: indices of 32 bits"
            )
    return gemm


def shapes(gemm: Gemm) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Of v[16,C',T'] and m[16,K',T']."""
    wide = gemm.down * gemm.tile.pixels
    return (16, gemm.channels, wide), (16, gemm.packed[2], wide)


def transforming_filters(p: Conv2d, gemm: Gemm) -> Launch:
    """w → u[16,C',K'], with zeros where there is no channel or filter."""
    C, K, place = (uint32(n) for n in (p.C, p.K, prod(gemm.packed[1:])))
    channels, width = (uint32(n) for n in gemm.packed[1:])

    def pack(w, u):
        i = uint32(cuda.grid(1))
        if i >= channels * width:
            return
        c, k = i // width, i % width
        t = cuda.local.array((3, 4), float32)
        for r in range(3):
            t[r, 0] = t[r, 1] = t[r, 2] = t[r, 3] = float32(0)
            if c < C and k < K:
                at = uint32((k * C + c) * 9 + uint32(3 * r))
                t[r, 0], t[r, 1], t[r, 2], t[r, 3] = of_filter(w[at], w[at + 1], w[at + 2])
        for s in range(4):
            u0, u1, u2, u3 = of_filter(t[0, s], t[1, s], t[2, s])
            u[i + uint32(s) * place], u[i + uint32(4 + s) * place] = u0, u1
            u[i + uint32(8 + s) * place], u[i + uint32(12 + s) * place] = u2, u3

    return one_thread_each("pack", pack, "void(float32[::1], float32[::1])", prod(gemm.packed[1:]))


def transforming_pixels(p: Conv2d, gemm: Gemm) -> Launch:
    """x → v[16,C',T'], with zeros where there is no channel; what stands beyond T meets no output."""
    C, H, W, T = (uint32(n) for n in (p.C, p.H, p.W, gemm.pixels))
    down, across, place = (uint32(n) for n in (-(-p.P // 2), -(-p.Q // 2), prod(shapes(gemm)[0][1:])))
    top, left, wide = uint32(p.padding[0]), uint32(p.padding[2]), uint32(shapes(gemm)[0][2])
    nhwc, channels = p.layout == "nhwc", uint32(gemm.channels)

    def pixels(x, v):
        i = uint32(cuda.grid(1))
        if i >= channels * T:
            return
        c, patch = i // T, i % T
        n, h0, v0 = patch // across // down, patch // across % down * 2, patch % across * 2
        t, d = cuda.local.array((4, 4), float32), cuda.local.array(4, float32)
        for r in range(4):
            h = uint32(h0 + uint32(r))
            for s in range(4):
                q = uint32(v0 + uint32(s))
                d[s] = float32(0)
                if c < C and top <= h < top + H and left <= q < left + W:
                    h_in, v_in = h - top, q - left
                    at = (
                        ((n * H + h_in) * W + v_in) * C + c
                        if nhwc
                        else ((n * C + c) * H + h_in) * W + v_in
                    )
                    d[s] = x[uint32(at)]
            t[r, 0], t[r, 1], t[r, 2], t[r, 3] = of_pixels(d[0], d[1], d[2], d[3])
        at = uint32(c * wide + patch)
        for s in range(4):
            v0, v1, v2, v3 = of_pixels(t[0, s], t[1, s], t[2, s], t[3, s])
            v[at + uint32(s) * place], v[at + uint32(4 + s) * place] = v0, v1
            v[at + uint32(8 + s) * place], v[at + uint32(12 + s) * place] = v2, v3

    return one_thread_each(
        "pixels", pixels, "void(float32[::1], float32[::1])", gemm.channels * gemm.pixels
    )


def transforming_outputs(p: Conv2d, gemm: Gemm) -> Launch:
    """m[16,K',T'] and the bias → y."""
    K, P, Q, T = (uint32(n) for n in (p.K, p.P, p.Q, gemm.pixels))
    down, across, place = (uint32(n) for n in (-(-p.P // 2), -(-p.Q // 2), prod(shapes(gemm)[1][1:])))
    wide, nhwc = uint32(shapes(gemm)[1][2]), p.layout == "nhwc"

    def outputs(m, b, y):
        i = uint32(cuda.grid(1))
        if i >= K * T:
            return
        k, patch = i // T, i % T
        n, p0, q0 = patch // across // down, patch // across % down * 2, patch % across * 2
        t, d = cuda.local.array((4, 2), float32), cuda.local.array(4, float32)
        at = uint32(k * wide + patch)
        for r in range(4):
            for s in range(4):
                d[s] = m[at + uint32(4 * r + s) * place]
            t[r, 0], t[r, 1] = to_outputs(d[0], d[1], d[2], d[3])
        for s in range(2):
            d[0], d[1] = to_outputs(t[0, s], t[1, s], t[2, s], t[3, s])
            for r in range(2):
                h, v = p0 + uint32(r), q0 + uint32(s)
                if h < P and v < Q:
                    at = ((n * P + h) * Q + v) * K + k if nhwc else ((n * K + k) * P + h) * Q + v
                    y[uint32(at)] = d[r] + b[k]

    return one_thread_each(
        "outputs", outputs, "void(float32[::1], float32[::1], float32[::1])", p.K * gemm.pixels
    )
