"""Shared memory: a block loads its patch of x once and uses it for R·S taps and several filters.

After    numba_cuda/coalesced   (new here: lines marked # 1 load and wait, # 2 reuse)
Idea     In coalesced each x is loaded again for every tap that touches it and for every filter. Here a
         block computes a tile of neighbouring outputs, for up to 8 filters at once. For a few channels
         at a time it copies the patch of x under the tile, halo and padding included, and the weights
         to shared memory, waits, and takes all its products from there. A thread keeps its sums, one
         for each filter, in registers.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32, float64
Threads  block (columns, rows) of the tile, at most 256; grid ⌈P/rows⌉·⌈Q/columns⌉·⌈K/G/filters⌉·G·N;
         shared itemsize·channels·(((rows-1)·stride+extent)·((columns-1)·stride+extent)+filters·R·S)
Cost     FLOP   2·N·K·P·Q·C/G·R·S                     (the problem's own)
         bytes  x: its patch for every tile, channel and block of filters, from DRAM or L2;
                w: itemsize·N·K·C/G·R·S·⌈P/rows⌉·⌈Q/columns⌉; y once
Limits   about one load from shared memory for every product, four times what its port can feed: the
         next step is a tile of pixels for each thread; channels and filters of a last, smaller part are
         summed as zeros; a patch of one channel that does not fit into 48 KiB with any tile is refused;
         stride_w > 1 meets bank conflicts; sizes, strides and dilations below 2^32; compiled once for
         each problem; nhwc is loaded in its own order
Source   own; Kirk and Hwu, Programming Massively Parallel Processors, 4th edition, chapters 5 and 7
"""

from typing import NamedTuple

import numpy as np
from numba import cuda, float32, float64, uint32

from convzoo.plan import Plan, Unsupported
from convzoo.problem import Conv2d

from ._launch import MOST_BLOCKS, Launch

SHARED = 48 * 1024  # bytes that a block may declare
ROOMY = 16 * 1024  # more channels at once wait less often, but fewer blocks fit on a multiprocessor
LOAD = 12  # to bring one element to shared memory costs about as much as 12 products (counted in SASS)
MULTIPROCESSORS = 128  # of a large GPU; fewer blocks than that leave some of them idle


class Tile(NamedTuple):
    rows: int
    columns: int
    filters: int
    high: int  # rows and columns of x under the tile
    wide: int
    deep: int  # tiles that cover K/G, P and Q
    down: int
    across: int

    def blocks(self, p: Conv2d) -> int:
        return p.N * p.groups * self.deep * self.down * self.across

    def loads(self, p: Conv2d) -> int:
        """Elements in shared memory for one channel: the patch and the weights."""
        return self.high * self.wide + self.filters * p.R * p.S

    def time(self, p: Conv2d) -> int:
        """In products of one thread; only the order of tiles matters."""
        threads = -(-self.rows * self.columns // 32) * 32  # the last warp is whole, used or not
        products = threads * self.filters * p.R * p.S
        return max(self.blocks(p), MULTIPROCESSORS) * (products + LOAD * self.loads(p))


def tile(p: Conv2d) -> Tile:
    """The work of one block: of all tiles that fit, the one that should take least time."""
    filters = -(-p.K // p.groups // -(-p.K // p.groups // 8))  # 9 filters: 5 and 4, not 8 and 1
    while True:
        tiles = []
        deep = -(-p.K // p.groups // filters)
        for rows in range(1, min(p.P, 256) + 1):
            for columns in range(1, min(p.Q, 256 // rows) + 1):
                high = (rows - 1) * p.stride[0] + p.extent[0]
                wide = (columns - 1) * p.stride[1] + p.extent[1]
                down, across = -(-p.P // rows), -(-p.Q // columns)
                tiles.append(Tile(rows, columns, filters, high, wide, deep, down, across))
        fitting = [t for t in tiles if t.loads(p) * p.itemsize <= SHARED]
        if fitting:
            warp = min(32, p.P * p.Q)  # smaller blocks only where nothing else fits
            return min(fitting, key=lambda t: (t.rows * t.columns < warp, t.time(p)))
        if filters == 1:
            least = min(t.loads(p) for t in tiles) * p.itemsize
            raise Unsupported(f"needs {least} bytes of shared memory for one channel, has {SHARED}")
        filters //= 2


def geometry(p: Conv2d) -> tuple[int, tuple[int, int]]:
    """Blocks, all along x of the grid, and threads (x, y) of a block."""
    if max(p.N, p.C, p.K, *p.padded, *p.stride, *p.dilation) >= 2**32:
        raise Unsupported("needs sizes, strides and dilations below 2**32: its indices have 32 bits")
    t = tile(p)
    if t.blocks(p) > MOST_BLOCKS:
        raise Unsupported(f"needs {t.blocks(p)} blocks, and a grid has {MOST_BLOCKS}")
    return t.blocks(p), (t.columns, t.rows)


def build(prob: Conv2d):
    """The kernel for one problem, not yet compiled."""
    t = tile(prob)
    C, K = prob.C // prob.groups, prob.K // prob.groups  # of one group
    most = max(1, min(8, ROOMY // (t.loads(prob) * prob.itemsize)))
    channels = -(-C // -(-C // most))  # in shared memory at once; 9 are loaded as 5 and 4
    patch_shape = (channels, t.high, t.wide)  # plain ints: a shared array wants constants
    weights_shape = (t.filters, channels, prob.R, prob.S)
    sums_shape = t.filters
    real = float32 if prob.dtype == "float32" else float64
    rows, columns, filters, high, wide, deep, down, across = (uint32(n) for n in t)
    C, K, G, channels = (uint32(n) for n in (C, K, prob.groups, channels))
    H, W, R, S, P, Q = (uint32(n) for n in (prob.H, prob.W, prob.R, prob.S, prob.P, prob.Q))
    top, left = uint32(prob.padding[0]), uint32(prob.padding[2])
    (stride_h, stride_w), (step_h, step_w) = map(uint32, prob.stride), map(uint32, prob.dilation)
    nhwc = prob.layout == "nhwc"

    def convolve(x, w, b, y):
        patch = cuda.shared.array(patch_shape, real)
        weights = cuda.shared.array(weights_shape, real)
        sums = cuda.local.array(sums_shape, real)
        i = uint32(cuda.blockIdx.x)  # neighbouring blocks share a patch of x, in L2
        k0, p0, q0 = i % deep * filters, i // deep // across % down * rows, i // deep % across * columns
        g, n = i // deep // across // down % G, i // deep // across // down // G
        row, column = uint32(cuda.threadIdx.y), uint32(cuda.threadIdx.x)
        for j in range(filters):
            sums[j] = b[g * K + k0 + j] if k0 + j < K else real(0)

        for c0 in range(uint32(0), C, channels):
            i = uint32(row * columns + column)
            while i < channels * high * wide:  # 1 neighbouring threads load neighbours
                if nhwc:
                    c, h, v = i % channels, i // channels // wide, i // channels % wide
                else:
                    c, h, v = i // wide // high, i // wide % high, i % wide
                value = real(0)
                h_in, v_in, c_in = p0 * stride_h + h, q0 * stride_w + v, c0 + c  # h, v: padded image
                if c_in < C and top <= h_in < top + H and left <= v_in < left + W:
                    h_in, v_in, c_in = h_in - top, v_in - left, g * C + c_in
                    value = x[(n, h_in, v_in, c_in) if nhwc else (n, c_in, h_in, v_in)]
                patch[c, h, v] = value
                i = uint32(i + rows * columns)
            i = uint32(row * columns + column)
            while i < filters * channels * R * S:  # 1
                j, c, r, s = i // S // R // channels, i // S // R % channels, i // S % R, i % S
                inside = k0 + j < K and c0 + c < C
                weights[j, c, r, s] = w[g * K + k0 + j, c0 + c, r, s] if inside else real(0)
                i = uint32(i + rows * columns)
            cuda.syncthreads()  # 1 all is written before anything is read

            for c in range(channels):
                for r in range(R):
                    for s in range(S):
                        value = patch[c, row * stride_h + r * step_h, column * stride_w + s * step_w]
                        for j in range(filters):  # 2
                            sums[j] += value * weights[j, c, r, s]
            cuda.syncthreads()  # all is read before the next channels are written

        p, q = p0 + row, q0 + column
        if p < P and q < Q:
            for j in range(filters):
                k = g * K + k0 + j
                if k0 + j < K:
                    y[(n, p, q, k) if nhwc else (n, k, p, q)] = sums[j]

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
