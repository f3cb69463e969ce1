"""Neighbouring threads take neighbouring pixels, so that a warp reads one line of memory, not 32.

After    numba_cuda/naive   (new here: q runs fastest, then p, then k; lines marked # 1)
Idea     Memory comes in lines of 128 bytes, and a warp that asks for 32 neighbouring numbers gets them
         with one. naive's warp took 32 filters of one pixel: 32 lines of w for 128 useful bytes. With
         the thread number split the other way round, a warp takes 32 pixels of one filter: one value of
         w for all, 32 neighbouring values of x, and 32 neighbouring outputs. Nothing else has changed.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32, float64
Threads  block 128; grid ⌈N·K·P·Q/128⌉; a warp may go over the end of a row, so no thread idles
Cost     FLOP   2·N·K·P·Q·C/G·R·S                     (the problem's own)
         bytes  two loads for every product: itemsize·2·N·K·P·Q·C/G·R·S from the caches, now in whole
                lines (stride_w of them where stride_w is not 1)
Limits   made for nchw: in nhwc neighbouring pixels are C apart and each costs a line of its own; sizes,
         strides and dilations below 2^32; compiled once for each problem
Source   own; NVIDIA, CUDA C++ Best Practices Guide, "Coalesced Access to Global Memory"
"""

import numpy as np
from numba import cuda, uint32, uint64

from convzoo.plan import Plan, Unsupported
from convzoo.problem import Conv2d

from ._launch import MOST_BLOCKS, Launch

THREADS = 128


def geometry(p: Conv2d) -> tuple[int, int]:
    """Blocks and threads per block."""
    if max(p.N, p.C, p.K, *p.padded, *p.stride, *p.dilation) >= 2**32:
        raise Unsupported("needs sizes, strides and dilations below 2**32: its indices have 32 bits")
    blocks = -(-p.N * p.K * p.P * p.Q // THREADS)
    if blocks > MOST_BLOCKS:
        raise Unsupported(f"needs {blocks} blocks of {THREADS} threads, and a grid has {MOST_BLOCKS}")
    return blocks, THREADS


def build(prob: Conv2d):
    """The kernel for one problem, not yet compiled."""
    outputs = prob.N * prob.K * prob.P * prob.Q
    # the thread's number alone may need 64 bits; divisions of 32 bits take fewer instructions
    number = uint32 if outputs + THREADS <= 2**32 else uint64
    outputs = number(outputs)
    K, P, Q, H, W = (uint32(n) for n in (prob.K, prob.P, prob.Q, prob.H, prob.W))
    C, R, S = (uint32(n) for n in (prob.C // prob.groups, prob.R, prob.S))  # C: of one group
    filters = uint32(prob.K // prob.groups)
    top, left = uint32(prob.padding[0]), uint32(prob.padding[2])
    (stride_h, stride_w), (step_h, step_w) = map(uint32, prob.stride), map(uint32, prob.dilation)
    nhwc = prob.layout == "nhwc"

    def convolve(x, w, b, y):
        i = number(cuda.grid(1))
        if i >= outputs:
            return
        q = uint32(i % Q)  # 1
        p = uint32(i // Q % P)  # 1
        k = uint32(i // Q // P % K)  # 1
        n = uint32(i // Q // P // K)  # 1
        first = k // filters * C
        total = b[k]
        for c in range(C):
            for r in range(R):
                h = p * stride_h + r * step_h  # in the padded image
                if top <= h < top + H:
                    for s in range(S):
                        v = q * stride_w + s * step_w
                        if left <= v < left + W:
                            h_in, v_in, c_in = h - top, v - left, first + c
                            value = x[(n, h_in, v_in, c_in) if nhwc else (n, c_in, h_in, v_in)]
                            total += value * w[k, c, r, s]
        y[(n, p, q, k) if nhwc else (n, k, p, q)] = total

    return convolve


def signature(p: Conv2d) -> str:
    array = f"{p.dtype}[:,:,:,::1]"
    return f"void({array}, {array}, {p.dtype}[::1], {array})"


def launches(p: Conv2d) -> tuple[Launch, ...]:
    grid, block = geometry(p)
    return (Launch("convolve", build(p), signature(p), grid, block),)


def plan(p: Conv2d) -> Plan:
    (convolve,) = launches(p)
    body = convolve.compiled()
    launch = body[convolve.grid, convolve.block]
    dtype = np.dtype(p.dtype)
    # only ever read, so that all calls share it
    no_bias = None if p.bias else cuda.to_device(np.zeros(p.K, dtype))

    def run(x, weights):
        w, b = weights
        y = cuda.device_array(p.y_shape, dtype)
        launch(x, w, no_bias if b is None else b, y)
        return y

    return Plan(run, code=(body,))
