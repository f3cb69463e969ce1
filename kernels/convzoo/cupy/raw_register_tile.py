"""Implicit GEMM with register tiles: 64 sums a thread, and the patch matrix exists only in shared memory.

After    cupy/raw_naive   (new here: each value that is read serves 8 products, not one)
Idea     As in cupy/im2col, y is w times the matrix of patches, but nobody writes that matrix. A block
         makes one tile of y; eight taps at a time it copies the pixels that a tile of the matrix would
         hold from x to shared memory, where each serves 128 filters. From there a thread reads 8 weights
         and 8 pixels as four 16-byte loads (LDS.128), uses them for 64 products (FFMA), and keeps the sums:
         64 FMAs for 4 loads. While it does, cp.async (LDGSTS) fills the other of two buffers: one barrier
         a step is enough. Which pixel a tap means is in a table: distance, row and column of each tap.
         So every filter, stride and dilation runs the same loop, and zeros stand for what is outside.
         Small problems get smaller tiles, and if even those are few, several blocks share one tile's taps.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32
         inside, for each group: w[taps,K/G] as rows of filters, made by pack; y[K/G,N·P·Q] in tiles
Threads  tile of K by pixels 128×128: block 256; 64×128: 128; 64×64: 64, all 8×8 a thread; 32×128: 128, 4×8
         grid (⌈K/G/tile⌉·G·⌈N·P·Q/tile⌉, parts of the taps)
Cost     FLOP   2·N·K·P·Q·C/G·R·S                     (the problem's own, and what tails leave idle)
         bytes  for each tile of y once: 4·C/G·R·S·(128 + 128), from L2 or L1; w and x once from DRAM, if
                L2 holds them. Shared memory: 4·(8 + 8)/64 bytes for each product
Limits   few filters in a group (K/G below 32) leave most of a tile idle, and depthwise nearly all of it
         nhwc: x is copied to [N,C,H,W] first (4·2·N·C·H·W bytes), y is written in its own order
         sizes below 2^28, pixels and blocks below 2^31
Source   own; the tiles of CUTLASS (Kerr, Merrill, Demouth and Tran, CUTLASS: Fast Linear Algebra in CUDA
         C++, 2017); Gray, maxas, the page SGEMM; Chetlur et al., cuDNN, arXiv:1410.0759
"""

from pathlib import Path

import cupy
import numpy as np

from convzoo.cupy._nvrtc import compiled
from convzoo.plan import Plan, Unsupported
from convzoo.problem import Conv2d

ALGORITHM = "gemm"
DTYPES = ("float32",)
STEP = 8  # taps in shared memory at once; raw_register_tile.cu has the same number
# filters and pixels of a block's tile, filters of a thread, and the speed of such a tile when all
# multiprocessors have one: predicted from its loads for each product, not measured
TILES = ((128, 128, 8, 1.0), (64, 128, 8, 0.9), (64, 64, 8, 0.8), (32, 128, 4, 0.7))
LEAST_STEPS = 8  # in one part of the taps: fewer would not repay the second pass over y
NOWHERE = 1 << 29  # the row of a tap that there is not


def layout_of_blocks(p: Conv2d, multiprocessors: int) -> tuple[tuple[int, int, int], int]:
    """The tile that should take the least time, and into how many parts to cut the taps."""
    filters, pixels, steps = p.K // p.groups, p.N * p.P * p.Q, -(-p.taps // STEP)

    def choice(tile):
        tile_k, tile_m, _each, speed = tile
        blocks = -(-filters // tile_k) * p.groups * -(-pixels // tile_m)
        parts = max(1, min(2 * multiprocessors // blocks, steps // LEAST_STEPS))
        rounds = -(-blocks * parts // multiprocessors)
        return rounds * tile_k * tile_m / speed / parts, tile, parts

    _time, (*tile, _speed), parts = min(map(choice, TILES))
    return tuple(tile), parts


def table_of_taps(p: Conv2d) -> np.ndarray:
    """For each tap (c, r, s) its distance from the window's corner in x, then row + column * 2**32."""
    c, r, s = np.unravel_index(np.arange(p.taps), (p.C // p.groups, p.R, p.S))
    # a dilation of a filter with one row moves nothing, and may be any number
    row, column = (i * min(d, NOWHERE) for i, d in zip((r, s), p.dilation, strict=True))
    table = np.zeros((-(-p.taps // STEP) * STEP, 2), np.int64)
    table[:, 1] = NOWHERE
    table[: p.taps, 0] = (c * p.H + row) * p.W + column
    table[: p.taps, 1] = row + (column << 32)
    return table


def plan(p: Conv2d) -> Plan:
    G, inputs, outputs, pixels = p.groups, p.C // p.groups, p.K // p.groups, p.N * p.P * p.Q
    multiprocessors = cupy.cuda.Device().attributes["MultiProcessorCount"]
    (tile_k, tile_m, each_k), parts = layout_of_blocks(p, multiprocessors)
    blocks = -(-outputs // tile_k) * G * -(-pixels // tile_m)
    if max(p.N, p.C, p.K, *p.padded) >= 2**28 or max(blocks, pixels + tile_m) >= 2**31:
        raise Unsupported("needs sizes below 2**28, and pixels and blocks below 2**31")
    nhwc = p.layout == "nhwc"
    kernel = compiled(
        Path(__file__).with_suffix(".cu"), "raw_register_tile",
        TILE_K=tile_k, TILE_M=tile_m, EACH_K=each_k,
    )  # fmt: skip
    taps = cupy.asarray(table_of_taps(p))
    steps, padded_k = len(taps) // STEP, -(-outputs // tile_k) * tile_k
    steps_of_a_block = -(-steps // parts)
    parts = -(-steps // steps_of_a_block)
    strides = (min(stride, 2**28) for stride in p.stride)  # a larger one takes no step either
    numbers = [*map(np.int32, (nhwc, p.N, G)), np.int64(inputs * p.H * p.W)]
    top, _, left, _ = p.padding
    numbers += map(np.int32, (p.H, p.W, outputs, padded_k, p.P, p.Q, *strides, top, left, steps))
    numbers += [np.int32(steps_of_a_block)]

    def pack(w, b):
        rows = cupy.zeros((G, len(taps), padded_k), p.dtype)
        rows[:, : p.taps, :outputs] = w.reshape(G, outputs, p.taps).transpose(0, 2, 1)
        return rows, cupy.zeros(p.K, p.dtype) if b is None else b.copy()

    def run(x, weights):
        w, b = weights
        if nhwc:
            x = cupy.ascontiguousarray(x.transpose(0, 3, 1, 2))
        y = cupy.empty((parts, *p.y_shape), p.dtype)
        block = (tile_k // each_k * (tile_m // 8),)
        kernel((blocks, parts), block, (x, w, b, taps, y, *numbers))
        return y[0] if parts == 1 else y.sum(axis=0)

    copies = p.N * p.C * p.H * p.W * nhwc + p.N * p.K * p.P * p.Q * (parts if parts > 1 else 0)
    return Plan(run, pack=pack, workspace=p.itemsize * copies, code=(kernel,))
