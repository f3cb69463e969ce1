"""A convolution in tiles for tensor cores: how it is cut, and the copies that make its loads simple.

As in _implicit_gemm, y is patches of x times filters, for each group, and the patches are never built. Here
the taps are in the order (r, s, c), channels last, and 4 neighbouring channels are loaded at once. That
needs x with its channels side by side and a multiple of 4 of them in a group: nhwc often has it and is
read in place; everything else is first copied into that order, with zeros for channels that are missing.
Filters are packed in the same order, [K, taps], the last step filled up with zeros.

Used by tensor_core_tf32 and tensor_core_3xtf32, which hold the product itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import cuda, float32, uint32

from convzoo.plan import Plan, Unsupported
from convzoo.problem import Conv2d

from ._launch import MOST_BLOCKS, Launch, one_thread_each
from ._ptx import store4

DEPTH = 16  # taps of a step: in shared memory a row of 64 bytes for each pixel and each filter
NOWHERE = 2**31  # a row of the padded image that no image has
MULTIPROCESSORS = 132  # of an H100 or H200
SQUARE = 32  # pixels and channels that a block puts into the other order


class Tile(NamedTuple):
    """Pixels and filters of a block and of one of its warps, and how many blocks are meant to fit at once."""

    pixels: int
    filters: int
    high: int
    wide: int
    together: int

    @property
    def threads(self) -> int:
        return 32 * self.pixels * self.filters // (self.high * self.wide)


@dataclass(frozen=True)
class Cut:
    """The product for one group of ``problem``, cut into tiles."""

    problem: Conv2d
    tile: Tile

    @property
    def copied(self) -> bool:
        """Whether x must be copied into the order of the loads."""
        return self.problem.layout == "nchw" or self.problem.C // self.problem.groups % 4 > 0

    @property
    def width(self) -> int:
        """Channels of a group in that order, a multiple of 4."""
        return -(-self.problem.C // self.problem.groups // 4) * 4

    @property
    def quads(self) -> int:
        """Fours of taps."""
        return self.problem.R * self.problem.S * self.width // 4

    @property
    def steps(self) -> int:
        return -(-4 * self.quads // DEPTH)

    @property
    def pixels(self) -> int:
        return self.problem.N * self.problem.P * self.problem.Q

    @property
    def filters(self) -> int:
        return self.problem.K // self.problem.groups

    @property
    def down(self) -> int:
        return -(-self.pixels // self.tile.pixels)

    @property
    def across(self) -> int:
        return -(-self.filters // self.tile.filters)

    @property
    def blocks(self) -> int:
        return self.problem.groups * self.down * self.across

    @property
    def copied_elements(self) -> int:
        p = self.problem
        return p.N * p.H * p.W * p.groups * self.width if self.copied else 0

    @property
    def time(self) -> float:
        """Only the order matters: rounds of blocks, each with its loads and its products."""
        t = self.tile
        rounds = -(-self.blocks // (MULTIPROCESSORS * t.together))
        return rounds * t.together * (t.pixels * t.filters + 40 * (t.pixels + t.filters))


def cut(p: Conv2d, tiles: tuple[Tile, ...]) -> Cut:
    """The tile that should take the least time. Raises Unsupported for what 32 bits cannot count."""
    if max(p.N, p.C, p.K, *p.padded, *p.stride, *p.dilation) >= NOWHERE:
        raise Unsupported("needs sizes, strides and dilations below 2**31: its indices have 32 bits")
    best = min((Cut(p, tile) for tile in tiles), key=lambda c: c.time)
    counted = {
        "x": p.N * p.C * p.H * p.W, "x, copied,": best.copied_elements,
        "w, packed,": p.K * best.steps * DEPTH, "y": p.N * p.K * p.P * p.Q,
    }  # fmt: skip
    for name, elements in counted.items():
        if elements > 2**32 - 2**16:
            raise Unsupported(
                f"needs less than 2**32 elements, {name} has {elements}: indices of 32 bits"
            )
    if best.blocks > MOST_BLOCKS:
        raise Unsupported(f"needs {best.blocks} blocks, and a grid has {MOST_BLOCKS}")
    return best


def packing(c: Cut) -> Launch:
    """w[K,C/G,R,S] → packed[K,taps], both flat."""
    p = c.problem
    size, depth, width = (uint32(n) for n in (p.K * c.steps * DEPTH, c.steps * DEPTH, c.width))
    C, R, S = (uint32(n) for n in (p.C // p.groups, p.R, p.S))

    def pack(w, packed):
        i = uint32(cuda.grid(1))
        if i < size:
            k, j = i // depth, i % depth
            channel, s, r = j % width, j // width % S, j // width // S
            value = float32(0)
            if channel < C and r < R:
                value = w[uint32(((k * C + channel) * R + r) * S + s)]
            packed[i] = value

    return one_thread_each("pack", pack, "void(float32[::1], float32[::1])", p.K * c.steps * DEPTH)


def copying(c: Cut) -> Launch:
    """x[N,C,H,W] or x[N,H,W,C] → copied[N,H,W,G,width], both flat, a square of 32 x 32 to a block."""
    p = c.problem
    slots = p.groups * c.width
    down, across = -(-p.H * p.W // SQUARE), -(-slots // SQUARE)
    blocks = p.N * down * across
    if blocks > MOST_BLOCKS:
        raise Unsupported(f"needs {blocks} blocks, and a grid has {MOST_BLOCKS}")
    nhwc, pitch, size = p.layout == "nhwc", SQUARE + 1, SQUARE * (SQUARE + 1)
    HW, C, G, width, slots, tiles_down, tiles_across = (
        uint32(n) for n in (p.H * p.W, p.C, p.groups, c.width, slots, down, across)
    )

    def copy(x, copied):
        square = cuda.shared.array(size, float32, alignment=16)
        t, i = uint32(cuda.threadIdx.x), uint32(cuda.blockIdx.x)
        slot0, pixel0 = i % tiles_across * SQUARE, i // tiles_across % tiles_down * SQUARE
        n = i // tiles_across // tiles_down
        for e in range(4):
            lane, line = t % uint32(32), t // uint32(32) + uint32(e * 8)
            a, m = (lane, line) if nhwc else (line, lane)  # neighbouring threads read neighbours
            slot, pixel = uint32(slot0 + a), uint32(pixel0 + m)
            g, channel = slot // width, slot % width
            value = float32(0)
            if slot < slots and channel < C // G and pixel < HW:
                at = uint32(g * (C // G) + channel)
                value = x[uint32((n * HW + pixel) * C + at if nhwc else (n * C + at) * HW + pixel)]
            square[uint32(a * pitch + m)] = value
        cuda.syncthreads()
        m, a = t // uint32(8), t % uint32(8) * uint32(4)
        slot, pixel = uint32(slot0 + a), uint32(pixel0 + m)
        if slot < slots and pixel < HW:
            at = uint32(a * pitch + m)
            store4(
                copied, uint32((n * HW + pixel) * slots + slot),
                square[at], square[at + uint32(pitch)],
                square[at + uint32(2 * pitch)], square[at + uint32(3 * pitch)],
            )  # fmt: skip

    return Launch("copy", copy, "void(float32[::1], float32[::1])", blocks, 256)


def planned(c: Cut, launches: tuple[Launch, ...]) -> Plan:
    """The plan that packs, copies where that is needed, and convolves with these launches.

    convolve takes x, in the order above, the packed weights, b and y, all of them flat.
    """
    p, dtype = c.problem, np.dtype("float32")
    kernels = {launch.name: launch.compiled() for launch in launches}
    start = {launch.name: kernels[launch.name][launch.grid, launch.block] for launch in launches}
    no_bias = cuda.to_device(np.zeros(p.K, dtype))  # only ever read, so that all calls share it

    def pack(w, b):
        packed = cuda.device_array(p.K * c.steps * DEPTH, dtype)
        start["pack"](w.reshape(w.size), packed)
        if b is None:
            return packed, no_bias
        own = cuda.device_array(p.K, dtype)
        own.copy_to_device(b)
        return packed, own

    def run(x, weights):
        packed, b = weights
        x = x.reshape(x.size)
        if c.copied:
            copied = cuda.device_array(c.copied_elements, dtype)
            start["copy"](x, copied)
            x = copied
        y = cuda.device_array(c.pixels * p.K, dtype)
        start["convolve"](x, packed, b, y)
        return y.reshape(*p.y_shape)

    workspace = c.copied_elements * p.itemsize
    return Plan(run, pack=pack, workspace=workspace, code=tuple(kernels.values()))
