"""A convolution as a matrix product that is cut into tiles, and what surrounds the product.

For each group, y is the product of two matrices: the patches of x, one column for each pixel of y and one
row for each tap (r, s, c), and the filters, one column each. The matrix of patches is never built: whoever
loads an element of it finds out where in x it lies (hence implicit). A block computes a tile of pixels by
filters, DEPTH taps at a time. Where tiles alone leave multiprocessors idle, the taps are cut into parts,
which different blocks sum; the parts are added at the end.

Used by register_tile, vector_loads and async_tile, which hold the product itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple

import numpy as np
from numba import cuda, float32, float64, uint32

from convzoo.plan import Plan, Unsupported
from convzoo.problem import Conv2d

from ._launch import MOST_BLOCKS, Launch, one_thread_each
from ._ptx import store4

DEPTH = 8  # taps that a block holds in shared memory at once
NOWHERE = 2**31  # a row of the padded image that no image has
MULTIPROCESSORS = 132  # of an H100 or H200
MOST_PARTS = 32


class Tile(NamedTuple):
    """Pixels and filters of a block, and of one of its threads. 8 by 4 threads of a warp lie side by side."""

    pixels: int
    filters: int
    high: int
    wide: int

    @property
    def threads(self) -> int:
        return self.pixels * self.filters // (self.high * self.wide)


TILES = {
    "float32": (
        Tile(128, 128, 8, 8), Tile(128, 64, 8, 8), Tile(64, 64, 8, 8),
        Tile(64, 32, 8, 4), Tile(32, 32, 4, 4), Tile(32, 16, 4, 4),
    ),
    "float64": (Tile(64, 64, 4, 4), Tile(32, 32, 4, 4), Tile(32, 16, 4, 4)),
}  # fmt: skip


@dataclass(frozen=True)
class Gemm:
    """The product for one group of ``problem``, and how it is cut."""

    problem: Conv2d
    tile: Tile
    parts: int  # of the taps
    channels: int  # of a group, as they are loaded: C/G, or more and the rest of them 0

    @property
    def pixels(self) -> int:
        return self.problem.N * self.problem.P * self.problem.Q

    @property
    def filters(self) -> int:
        return self.problem.K // self.problem.groups

    @property
    def taps(self) -> int:
        return self.channels * self.problem.R * self.problem.S

    @property
    def steps(self) -> int:
        """DEPTH taps each; the last may be smaller, and the packed weights are 0 there."""
        return -(-self.taps // DEPTH)

    @property
    def steps_of_part(self) -> int:
        return -(-self.steps // self.parts)

    @property
    def down(self) -> int:
        return -(-self.pixels // self.tile.pixels)

    @property
    def across(self) -> int:
        return -(-self.filters // self.tile.filters)

    @property
    def blocks(self) -> int:
        return self.parts * self.problem.groups * self.down * self.across

    @property
    def outputs(self) -> int:
        return self.pixels * self.problem.K

    @property
    def packed(self) -> tuple[int, int, int]:
        """Shape of the packed weights: groups, taps, filters, the last two filled up to whole tiles."""
        return self.problem.groups, self.steps * DEPTH, self.across * self.tile.filters

    @property
    def time(self) -> float:
        """Cycles of a multiprocessor of an H100 or H200; an estimate, for which only the order matters."""
        t = self.tile
        warps = -(-self.blocks // MULTIPROCESSORS) * t.threads // 32
        step = DEPTH * (t.high * t.wide + (t.high + t.wide) / 2)
        step += 5 * DEPTH * (t.pixels + t.filters) / t.threads + 30
        each = self.steps_of_part * step + 8 * t.high * t.wide + 1500
        late = 1.5 if warps <= 4 else 1.0  # nothing hides what a lone warp waits for
        adding = 4000 + self.outputs * (self.parts + 1) / 500 if self.parts > 1 else 0
        return -(-warps // 4) * each * late + adding


def cut(p: Conv2d, channels: int = 0, most_parts: int = MOST_PARTS) -> Gemm:
    """The tile and the number of parts that should take the least time, of those that 32 bits can count."""
    if max(p.N, p.C, p.K, *p.padded, *p.stride, *p.dilation) >= NOWHERE:
        raise Unsupported("needs sizes, strides and dilations below 2**31: its indices have 32 bits")
    options = []
    for tile in TILES[p.dtype]:
        whole = Gemm(p, tile, 1, channels or p.C // p.groups)
        for parts in range(1, min(most_parts, whole.steps // 4 + 1) + 1):
            each = -(-whole.steps // parts)
            options.append(replace(whole, parts=-(-whole.steps // each)))  # no part is empty
    best = min(options, key=lambda gemm: gemm.time)
    for name, elements in (
        ("x", p.N * p.H * p.W * p.groups * best.channels), ("w, packed,", prod(best.packed)),
        ("y", best.parts * best.outputs),
    ):  # fmt: skip
        if elements > 2**32 - 2**16:
            raise Unsupported(
                f"needs less than 2**32 elements, {name} has {elements}: indices of 32 bits"
            )
    if best.blocks > MOST_BLOCKS:
        raise Unsupported(f"needs {best.blocks} blocks, and a grid has {MOST_BLOCKS}")
    return best


def table(gemm: Gemm, layout: str) -> np.ndarray:
    """For each tap: where it lies from the first pixel of its window, in x and in rows and columns.

    ``layout`` is that of x as it is loaded. Taps that fill up the last step lie in no row of any image.
    """
    p, C = gemm.problem, gemm.channels
    taps = np.arange(gemm.packed[1])
    c, s, r = taps % C, taps // C % p.S, taps // C // p.S
    row, column = r * p.dilation[0], s * p.dilation[1]
    nhwc = layout == "nhwc"
    offset = (row * p.W + column) * C * p.groups + c if nhwc else (c * p.H + row) * p.W + column
    row[gemm.taps :], offset[gemm.taps :] = NOWHERE - 1, 0
    return np.stack([offset, row, column]).astype(np.uint32).reshape(-1)


def storing(gemm: Gemm, vectors: bool):
    """A device function that adds the bias to the sums of a thread and stores them, or one part of them.

    ``store(y, b, sums, part, g, pixel, f)`` of the thread's first pixel, and its first filter in group g; the
    others lie where warps of 8 by 4 threads and 4 by 4 outputs put them. With ``vectors`` four neighbours
    are stored at once where the shape has them side by side.
    """
    p = gemm.problem
    HIGH, WIDE = gemm.tile[2:]
    real = float32 if p.dtype == "float32" else float64
    K, F, M, PQ = (uint32(n) for n in (p.K, gemm.filters, gemm.pixels, p.P * p.Q))
    outputs, nhwc = uint32(gemm.outputs), p.layout == "nhwc"
    next_filter = uint32(1) if nhwc else PQ  # in y
    pixels_at_once = vectors and not nhwc and PQ % 4 == 0
    filters_at_once = vectors and nhwc and F % 4 == 0

    @cuda.jit(device=True, inline="always")
    def store(y, b, sums, part, g, pixel, f):
        bias = cuda.local.array(WIDE, real)
        for j in range(WIDE):
            filter = uint32(f + uint32(j // 4 * 16 + j % 4))
            bias[j] = b[uint32(g * F + filter)] if part == 0 and filter < F else real(0)
        for i in range(HIGH):
            for j in range(WIDE):
                sums[i, j] += bias[j]
        for i in range(0, HIGH, 4 if pixels_at_once else 1):
            m = uint32(pixel + uint32(i // 4 * 32 + i % 4))
            n, pq = uint32(m // PQ), uint32(m % PQ)
            first = uint32(part * outputs + (g * F + f) * next_filter)
            first = uint32(first + (m * K if nhwc else n * (K * PQ) + pq))
            for j in range(0, WIDE, 4 if filters_at_once else 1):
                more = uint32(j // 4 * 16 + j % 4)
                if m < M and f + more < F:
                    at = first + more * next_filter
                    if pixels_at_once:
                        store4(y, at, sums[i, j], sums[i + 1, j], sums[i + 2, j], sums[i + 3, j])
                    elif filters_at_once:
                        store4(y, at, sums[i, j], sums[i, j + 1], sums[i, j + 2], sums[i, j + 3])
                    else:
                        y[at] = sums[i, j]

    return store


def packing(gemm: Gemm) -> Launch:
    """w[K,C/G,R,S] → packed[G,taps,filters], both flat."""
    p = gemm.problem
    threads = prod(gemm.packed) // DEPTH  # one for the DEPTH taps of a step and one filter
    size, steps, width = uint32(threads), uint32(gemm.steps), uint32(gemm.packed[2])
    F, C, R, S, taps = (uint32(n) for n in (gemm.filters, p.C // p.groups, p.R, p.S, gemm.taps))
    channels = uint32(gemm.channels)
    real = float32 if p.dtype == "float32" else float64

    def pack(w, packed):
        i = uint32(cuda.grid(1))
        if i < size:
            f, step, g = i % width, i // width % steps, i // width // steps
            for k in range(DEPTH):
                j = step * DEPTH + uint32(k)
                c, s, r = j % channels, j // channels % S, j // channels // S
                value = real(0)
                if f < F and c < C and j < taps:
                    value = w[uint32((((g * F + f) * C + c) * R + r) * S + s)]
                packed[uint32(((g * steps + step) * DEPTH + uint32(k)) * width + f)] = value

    return one_thread_each("pack", pack, f"void({p.dtype}[::1], {p.dtype}[::1])", threads)


def adding(gemm: Gemm) -> Launch:
    """parts[parts,outputs] → y[outputs], both flat."""
    outputs, parts = uint32(gemm.outputs), uint32(gemm.parts)
    dtype = gemm.problem.dtype

    def add(summands, y):
        i = uint32(cuda.grid(1))
        if i < outputs:
            total = summands[i]
            for part in range(uint32(1), parts):
                total += summands[part * outputs + i]
            y[i] = total

    return one_thread_each("add", add, f"void({dtype}[::1], {dtype}[::1])", gemm.outputs)


def planned(gemm: Gemm, launches: tuple[Launch, ...]) -> Plan:
    """The plan that packs, multiplies and adds with these launches, which are known by their names.

    pack takes w and the packed weights; arrange, if there is one, x and x[N,H,W,G,channels]; convolve takes
    that x, the packed weights, b, the table, and y or its parts; add, if there are parts, those and y. All
    arrays are flat.
    """
    p, dtype = gemm.problem, np.dtype(gemm.problem.dtype)
    kernels = {launch.name: launch.compiled() for launch in launches}
    start = {launch.name: kernels[launch.name][launch.grid, launch.block] for launch in launches}
    arrange = start.get("arrange")
    layout = "nhwc" if arrange else p.layout
    offsets = cuda.to_device(table(gemm, layout))  # only ever read, so that all calls share it
    no_bias = cuda.to_device(np.zeros(p.K, dtype))
    arranged = p.N * p.H * p.W * p.groups * gemm.channels if arrange else 0
    summands = gemm.parts * gemm.outputs if gemm.parts > 1 else 0

    def pack(w, b):
        packed = cuda.device_array(prod(gemm.packed), dtype)
        start["pack"](w.reshape(w.size), packed)
        if b is None:
            return packed, no_bias
        own = cuda.device_array(p.K, dtype)
        own.copy_to_device(b)
        return packed, own

    def run(x, weights):
        packed, b = weights
        x = x.reshape(x.size)
        if arrange:
            x, given = cuda.device_array(arranged, dtype), x
            arrange(given, x)
        y = cuda.device_array(gemm.outputs, dtype)
        target = cuda.device_array(summands, dtype) if summands else y
        start["convolve"](x, packed, b, offsets, target)
        if summands:
            start["add"](target, y)
        return y.reshape(*p.y_shape)

    workspace = (arranged + summands) * p.itemsize
    return Plan(run, pack=pack, workspace=workspace, code=tuple(kernels.values()))
