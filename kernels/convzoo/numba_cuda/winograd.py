"""Fewer products: four outputs of a 3 x 3 filter from 16 products instead of 36, as F(2x2, 3x3).

After    numba_cuda/async_tile   (new here: three transforms, and lines marked # 1 have no edges any more)
Idea     Winograd's identity turns a patch of 4 by 4 pixels, a filter and their 2 by 2 outputs into 16
         products of transformed values, whose transforms only add and halve. For each of the 16 places the
         products of all channels, filters and patches form one plain matrix product, so async_tile's inner
         loop does the work, 16 of them at once. The transformed arrays are filled up to whole tiles, so
         that no copy asks whether it lies inside.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C,3,3] → y[N,K,P,Q] or [N,P,Q,K]   float32
         inside: u[16,C',K'] made by pack, v[16,C',T'], m[16,K',T'] for T = N·⌈P/2⌉·⌈Q/2⌉ patches, C', K'
         and T' being C, K and T filled up to multiples of 8 and of the tile
Threads  256 for 128 patches by 128 filters, fewer where a small problem wants smaller tiles; grid
         16·T'·K'/(patches·filters); one thread for each patch and channel, and for each patch and filter
Cost     FLOP   2·16·T·K·C, 1/2.25 of the definition's for even P and Q, and 32·T·C + 24·T·K
         bytes  x read and v = 4·x written, v read for each tile of filters, u for each tile of patches, m =
                4·y written and read, y once: about 8·x + 8·y more than a direct sum moves
Limits   needs R = S = 3, stride 1, dilation 1, groups 1; few channels are all transforms; each output is
         bound by the norm of its patch, not by itself; in nhwc the transforms use a part of each sector
         that they load; an infinity or NaN spreads over its patch; less than 2^32 elements
Source   Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016; Winograd, Arithmetic
         Complexity of Computations, 1980
"""

from math import prod

import numpy as np
from numba import cuda, float32, uint32

from convzoo.plan import Plan
from convzoo.problem import Conv2d

from ._implicit_gemm import DEPTH, Gemm
from ._launch import Launch
from ._ptx import commit, copy4_async, load4, store4, wait_for_all_but
from ._winograd import products, shapes, transforming_filters, transforming_outputs, transforming_pixels

ALGORITHM = "winograd"
ACCURACY = "tilewise"
DTYPES = ("float32",)
STAGES = 4
AHEAD = STAGES - 1  # steps whose copies are on their way
YOUNGER = STAGES - 2  # of which these may be unfinished when a step begins


def multiplying(gemm: Gemm) -> Launch:
    """v[16,C',T'] and u[16,C',K'] → m[16,K',T']: all tiles are whole."""
    PIXELS, FILTERS, HIGH, WIDE = gemm.tile
    THREADS = gemm.tile.threads
    X_STAGE, W_STAGE = DEPTH * PIXELS, DEPTH * FILTERS
    X_SIZE, W_SIZE = STAGES * X_STAGE, STAGES * W_STAGE
    X_COPIES, W_COPIES = X_STAGE // 4 // THREADS, W_STAGE // 4 // THREADS
    rows_of_warps, stages = uint32(PIXELS // (8 * HIGH)), uint32(STAGES)
    wide, width, depth = (uint32(n) for n in (gemm.down * PIXELS, gemm.packed[2], gemm.channels))
    across, down, steps = map(uint32, (gemm.across, gemm.down, gemm.steps))

    @cuda.jit(device=True, inline="always")
    def fetch(xs, ws, v, u, to, from_v, from_u, step):
        stage, first = step % stages, uint32(step * DEPTH)
        for e in range(X_COPIES):  # 1
            more = e * (THREADS * 4)
            at = uint32(first * wide + from_v) + more // PIXELS * wide
            copy4_async(xs, uint32(stage * X_STAGE + to) + more, v, at, True)
        for e in range(W_COPIES):
            more = e * (THREADS * 4)
            at = uint32(first * width + from_u) + more // FILTERS * width
            copy4_async(ws, uint32(stage * W_STAGE + to) + more, u, at, True)

    @cuda.jit(device=True, inline="always")
    def multiply(xs, ws, sums, m, f, k):  # one channel of the tile
        a, b = cuda.local.array(HIGH, float32), cuda.local.array(WIDE, float32)
        for i in range(0, HIGH, 4):
            a[i], a[i + 1], a[i + 2], a[i + 3] = load4(xs, m + uint32(k * PIXELS + i * 8))
        for j in range(0, WIDE, 4):
            b[j], b[j + 1], b[j + 2], b[j + 3] = load4(ws, f + uint32(k * FILTERS + j * 4))
        for i in range(HIGH):
            for j in range(WIDE):
                sums[i, j] += a[i] * b[j]

    def product(v, u, m):
        xs = cuda.shared.array(X_SIZE, float32, alignment=16)
        ws = cuda.shared.array(W_SIZE, float32, alignment=16)
        sums = cuda.local.array((HIGH, WIDE), float32)
        t, i = (
            uint32(cuda.threadIdx.x),
            uint32(cuda.blockIdx.x),
        )  # neighbouring blocks share patches, in L2
        f0, m0 = uint32(i % across * FILTERS), uint32(i // across % down * PIXELS)
        g, to = i // across // down, uint32(t * 4)
        for i in range(HIGH):
            for j in range(WIDE):
                sums[i, j] = float32(0)
        lane, warp = t % uint32(32), t // uint32(32)
        pixel = uint32(warp % rows_of_warps * (8 * HIGH) + lane // 2 % 8 * 4)
        f = uint32(warp // rows_of_warps * (4 * WIDE) + (lane % 2 + lane // 16 * 2) * 4)
        from_v = uint32((g * depth + to // PIXELS) * wide + m0 + to % PIXELS)
        from_u = uint32((g * depth + to // FILTERS) * width + f0 + to % FILTERS)

        step = uint32(0)
        for ahead in range(AHEAD):
            if uint32(ahead) < steps:
                fetch(xs, ws, v, u, to, from_v, from_u, uint32(ahead))
            commit()
        while step < steps:
            wait_for_all_but(YOUNGER)  # this step has landed
            cuda.syncthreads()  # for all threads; and the step before has been read
            coming = uint32(step + AHEAD)
            if coming < steps:
                fetch(xs, ws, v, u, to, from_v, from_u, coming)
            commit()
            at_x, at_w = uint32(step % stages * X_STAGE + pixel), uint32(step % stages * W_STAGE + f)
            multiply(xs, ws, sums, at_x, at_w, 0)
            multiply(xs, ws, sums, at_x, at_w, 1)
            multiply(xs, ws, sums, at_x, at_w, 2)
            multiply(xs, ws, sums, at_x, at_w, 3)
            multiply(xs, ws, sums, at_x, at_w, 4)
            multiply(xs, ws, sums, at_x, at_w, 5)
            multiply(xs, ws, sums, at_x, at_w, 6)
            multiply(xs, ws, sums, at_x, at_w, 7)
            step = uint32(step + 1)

        first = uint32((g * width + f0 + f) * wide + m0 + pixel)
        for j in range(WIDE):
            for i in range(0, HIGH, 4):  # 1
                at = first + uint32(j // 4 * 16 + j % 4) * wide + uint32(i * 8)
                store4(m, at, sums[i, j], sums[i + 1, j], sums[i + 2, j], sums[i + 3, j])

    threads, array = gemm.tile.threads, "float32[::1]"
    signature = f"void({array}, {array}, {array})"
    return Launch("product", product, signature, gemm.blocks, threads, max(1, 512 // threads))


def launches(p: Conv2d) -> tuple[Launch, ...]:
    gemm = products(p)
    return (
        transforming_filters(p, gemm), transforming_pixels(p, gemm), multiplying(gemm),
        transforming_outputs(p, gemm),
    )  # fmt: skip


def plan(p: Conv2d) -> Plan:
    gemm, every = products(p), launches(p)
    kernels = {launch.name: launch.compiled() for launch in every}
    start = {launch.name: kernels[launch.name][launch.grid, launch.block] for launch in every}
    v_size, m_size = map(prod, shapes(gemm))
    dtype = np.dtype(p.dtype)
    no_bias = cuda.to_device(np.zeros(p.K, dtype))  # only ever read, so that all calls share it

    def pack(w, b):
        u = cuda.device_array(prod(gemm.packed), dtype)
        start["pack"](w.reshape(w.size), u)
        if b is None:
            return u, no_bias
        own = cuda.device_array(p.K, dtype)
        own.copy_to_device(b)
        return u, own

    def run(x, weights):
        u, b = weights
        v, m = cuda.device_array(v_size, dtype), cuda.device_array(m_size, dtype)
        y = cuda.device_array(prod(p.y_shape), dtype)
        start["pixels"](x.reshape(x.size), v)
        start["product"](v, u, m)
        start["outputs"](m, b, y)
        return y.reshape(*p.y_shape)

    workspace = (v_size + m_size) * p.itemsize
    return Plan(run, pack=pack, workspace=workspace, code=tuple(kernels.values()))
