"""CUDA C++ from Python: one thread for each output, in a source file that any CUDA compiler takes.

After    numba_cuda/coalesced   (new here: the same loops in C++; the compiler sees no sizes)
Idea     The kernel is raw_naive.cu beside this file. CuPy hands its text to NVRTC, NVIDIA's compiler in
         a library, and launches the result on CuPy arrays. Sizes are arguments, not constants, so one
         compilation serves every problem of a dtype, and CuPy keeps it on disk; the price is divisions
         and loops that the compiler cannot unfold. Threads are numbered as y lies in memory.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32, float64
Threads  block 256; grid ⌈N·K·P·Q/256⌉
Cost     FLOP   2·N·K·P·Q·C/G·R·S                     (the problem's own)
         bytes  two loads for every product: itemsize·2·N·K·P·Q·C/G·R·S, nearly all from the caches
Limits   sizes below 2^31, while arrays may be larger; nhwc needs no conversion, but there a warp covers
         neighbouring filters, whose weights lie C/G·R·S apart
Source   own; Kirk and Hwu, Programming Massively Parallel Processors, 4th edition, chapter 7
"""

from pathlib import Path

import cupy
import numpy as np

from convzoo.plan import Plan, Unsupported
from convzoo.problem import Conv2d

THREADS = 256
INT_MAX = 2**31 - 1


def sizes(p: Conv2d) -> list[np.int32]:
    """The kernel's arguments after the arrays; CuPy would pass a Python int as 64 bits."""
    # A stride above INT_MAX moves nothing (P or Q is 1, or the image would not fit), nor a dilation.
    steps = (min(step, INT_MAX) for step in (*p.stride, *p.dilation))
    top, _, left, _ = p.padding
    numbers = (p.N, p.C, p.H, p.W, p.K, p.R, p.S, p.P, p.Q, p.groups, *steps, top, left)
    return [np.int32(number) for number in (*numbers, p.layout == "nhwc")]


def plan(p: Conv2d) -> Plan:
    blocks = -(-p.N * p.K * p.P * p.Q // THREADS)
    if max(p.N, p.C, p.K, *p.padded, blocks) > INT_MAX:
        raise Unsupported("needs sizes and thread blocks below 2**31: the kernel's indices are ints")
    source = Path(__file__).with_suffix(".cu").read_text(encoding="utf-8")
    real = {"float32": "float", "float64": "double"}[p.dtype]
    kernel = cupy.RawKernel(source, "raw_naive", (f"-DREAL={real}",))
    kernel.compile()  # now: the first call would do it otherwise, inside run
    arguments = sizes(p)
    no_bias = None if p.bias else cupy.zeros(p.K, p.dtype)

    def run(x, weights):
        w, b = weights
        y = cupy.empty(p.y_shape, p.dtype)
        kernel((blocks,), (THREADS,), (x, w, no_bias if b is None else b, y, *arguments))
        return y

    return Plan(run, code=(kernel,))
