"""One thread for one output: the formula as it is written, for every y[n, k, p, q] at once.

Idea     A GPU has so many threads that each output can have its own. A thread finds its n, p, q, k from
         its number, walks over c, r, s and writes one value. Here k runs fastest: "for every pixel, every
         filter", as one would say it. It is the slow choice: at each step the 32 threads of a warp read
         one value of x and 32 weights that lie C/G·R·S apart, each from a line of its own.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32, float64
Threads  block 128; grid ⌈N·K·P·Q/128⌉
Cost     FLOP   2·N·K·P·Q·C/G·R·S                     (the problem's own)
         bytes  two loads for every product: itemsize·2·N·K·P·Q·C/G·R·S from the caches, and a whole
                32-byte sector of w moved for each weight that is used
Limits   sizes, strides and dilations below 2^32; compiled once for each problem; nhwc is indexed in its
         own order, where at least the 32 outputs of a warp lie side by side
Source   own; Kirk and Hwu, Programming Massively Parallel Processors, 4th edition, chapter 7
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
        k = uint32(i % K)
        q = uint32(i // K % Q)
        p = uint32(i // K // Q % P)
        n = uint32(i // K // Q // P)
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
