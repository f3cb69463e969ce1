"""A tile of 14 pixels by 32 output channels stays in registers for the whole sum, by explicit vectors.

After    numba/direct   (new here: the loop is written as vector code, the sums never touch memory)
Idea     A fused multiply-add needs two loads if its sum lies in memory, and a core loads only two vectors
         a cycle, but multiplies two. So the sums must stay in registers, and each load must serve many
         of them: with 14 pixels and two vectors of 16 output channels, 16 loads serve 28 multiply-adds.
         A number of x is copied into all lanes, the lanes are output channels; therefore any stride,
         dilation and layout of x costs the same: a tile is a table of where its pixels lie. They need be no
         neighbours. Pixels that the same rows and columns of the filter meet share a tile where that
         is worth it, those of several images, too; a tap that lies in the padding of all its pixels is
         left out. If that leaves no padding, x is read in place. Else a band of rows of x, or whole
         small images, are copied into a thread's own padded buffer in L2. While tiles of one block of
         channels are computed, the weights of the next one are asked for. nchw output is transposed in
         registers; nhwc output of 16 MB and more is stored past the caches, which would first read the
         lines it replaces.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32, float64
         inside: Wp[G,K/32,taps,32] made by pack (taps in the order c/32,r,s,32; nhwc: r,s,c)
Threads  Numba's, each with an equal share of (images, band, group, block of 32 channels); one thread below
         2 MFLOP. The interpreter lock is released
Cost     FLOP   2·N·ceil32(K/G)·G·P·Q·C/G·R·S, less the taps that are padding for all pixels of a tile; what is
                left are taps that some of its pixels meet, and the places of the last tile without a pixel
         bytes  x read once and its padded copy written; the copy read K/32 times from L2; w once a band
Limits   the best tile follows the CPU: 14 x 2 vectors with 32 registers, 6 x 2 with 16 (AVX2)
         K/G below 16 leaves lanes empty: K/G = 1 wastes 15 of 16
Source   own; Georganas et al., Anatomy of High-Performance Deep Learning Convolutions on SIMD
         Architectures, 2018 (arXiv:1808.05567), for the tile in registers and the broadcast of x
"""

from functools import cache

import numpy as np
from numba import config, from_dtype, get_num_threads, njit, prange, types

from convzoo import caches
from convzoo.numba import _memory, _simd, _tiles
from convzoo.numba._kept import kept
from convzoo.numba._simd import call, fence
from convzoo.plan import Plan
from convzoo.problem import Conv2d

V = _simd.PANEL  # vectors of output channels in a tile
SERIAL_FLOPS = 2e6  # about 20 microseconds on one thread
NEAR = 4  # strides up to this are taken from whole vectors
GEOMETRY = _simd.record(
    """
    tile part_tile narrow_tile copy lanes pixels images H P groups outputs blocks bands rows together
    stride_h top extent_h vector block x_image x_row x_group x_step y_image y_row y_channel y_step
    tiles tile_size parts runs rows_of_sums chunks runs_of_w run_bytes memory partial
    lines numbers left wide plane pitch step source_plane source_row copied
    """
)  # steps and offsets are in bytes


@njit
def copy_band(j, images, p, rows, buffer):
    """The rows of x that the output rows p to p + rows need, with their padding, into the buffer."""
    begin, height = p * j.stride_h - j.top, (rows - 1) * j.stride_h + j.extent_h
    first = min(max(begin, 0), begin + height)
    last = max(first, min(begin + height, j.H))
    above, inside, below = first - begin, last - first, begin + height - last
    for i in range(j.lines * j.together):
        line, n = i // j.together, i % j.together
        to, image = buffer + line * j.plane + n * j.copied, images + n * j.x_image
        at = image + line * j.source_plane + first * j.source_row
        if above:
            call(j.copy, (to, image, above, j.pitch, 0, j.wide, 0, 0, j.step))
        to += above * j.pitch
        call(j.copy, (to, at, inside, j.pitch, j.source_row, j.wide, j.left, j.numbers, j.step))
        if below:
            call(j.copy, (to + inside * j.pitch, image, below, j.pitch, 0, j.wide, 0, 0, j.step))


@njit
def fill_block(j, source, w, b, y, band, channels, table, following, partial):
    """One block of output channels of a band: all its tiles, chunk after chunk of its weights.

    ``following`` are the weights that are needed next; those of a chunk are asked for during the last.
    """
    at, width = table.ctypes.data, V * j.vector
    first, last = table[2 * band], table[2 * band + 1]
    for c in range(j.chunks):
        low, high = c * j.runs_of_w // j.chunks, (c + 1) * j.runs_of_w // j.chunks
        done = c == j.chunks - 1
        ahead = following if done else w + high * j.run_bytes
        share = (high - low) * j.run_bytes // (last - first)  # of what is asked for, for each tile
        step = (
            width // (last - first) if last - first > 1 else 0
        )  # one tile reads on and on: the CPU sees it
        for i in range(first, last):
            here, to = j.tiles + i * j.tile_size, partial + (i - first) * j.pixels * width
            run, count, pieces = table[here], table[here + 1], table[here + 2]
            runs = (at + 8 * (j.runs + 3 * (run + low * count)), (high - low) * count)
            weights = (w, ahead + (i - first) * share, step)
            sums = (source, at + 8 * (here + _tiles.PLACES), j.x_step)
            start = (to, width) if c else (b, 0)
            if done:
                tile = j.tile if channels > j.lanes else j.narrow_tile
                out = (y, at + 8 * (here + j.parts), pieces, j.y_step)
                call(tile, (*sums, *runs, *weights, *out, *start, channels))
            else:
                out = (to, at + 8 * j.rows_of_sums, j.pixels, 0)
                call(j.part_tile, (*sums, *runs, *weights, *out, *start, V * j.lanes))


@njit
def work(t, threads, addresses, geometry, table, _):
    """One thread's share of the units (images, band, group, block)."""
    x, w, b, y, memory = addresses
    j = geometry[0]
    parts, held = j.groups * j.blocks, -1
    memory += t * j.memory
    units, source, buffer = j.images // j.together * j.bands * parts, x, memory + j.partial
    begin, end = units * t // threads, units * (t + 1) // threads
    for unit in range(begin, end):
        band, part = unit // parts, unit % parts
        n, p = band // j.bands * j.together, band % j.bands * j.rows
        g, k = part // j.blocks, part % j.blocks * V * j.lanes
        images = x + n * j.x_image
        if not j.copied:
            source = images + p * j.x_row
        elif band != held:
            source, held = buffer, band
            copy_band(j, images, p, min(j.rows, j.P - p), source)
        to = y + n * j.y_image + (g * j.outputs + k) * j.y_channel + p * j.y_row
        following = w + (unit + 1) % parts * j.block
        here = (source + g * j.x_group, w + part * j.block, b + part * V * j.vector, to)
        channels = min(V * j.lanes, j.outputs - k)
        fill_block(j, *here, band % j.bands, channels, table, following, memory)
    fence()


@cache
def compiled(dtype: str, parallel: bool):
    """The kernel for one dtype, compiled here and never again while running."""
    version = 2 * _simd.DIGEST + parallel  # in a closure, hence in the key of Numba's cache on disk

    def on_threads(x, w, b, y, buffer, geometry, table, threads):
        at = x.ctypes.data, w.ctypes.data, b.ctypes.data, y.ctypes.data, buffer
        for t in prange(threads):
            work(t, threads, at, geometry, table, version)

    number = from_dtype(np.dtype(dtype))
    read, write = types.Array(number, 4, "C", readonly=True, aligned=False), types.Array(number, 1, "C")
    numbers = types.Array(types.int64, 1, "C")
    record = types.Array(from_dtype(GEOMETRY), 1, "C")
    signature = types.void(
        read, write, write, types.Array(number, 4, "C"), types.int64, record, numbers, types.int64
    )
    return kept(signature, parallel=parallel, nogil=True)(on_threads)


def describe(p: Conv2d, way: _tiles.Way, lanes: int):
    """All numbers of the problem: the record for the compiled code and the table of tiles and taps."""
    nchw, item, outputs, C = p.layout == "nchw", p.itemsize, p.K // p.groups, p.C
    width = V * lanes * item
    pixel, line = (item, p.W * item) if nchw else (C * item, p.W * C * item)
    plane, image, step = (p.H * line if nchw else item), C * p.H * p.W * item, p.stride
    values = dict(
        images=p.N, H=p.H, P=p.P, groups=p.groups, outputs=outputs, blocks=-(-outputs // (V * lanes)),
        bands=-(-p.P // way.rows), rows=way.rows, together=way.together, pixels=way.U, lanes=lanes,
        stride_h=p.stride[0], top=p.padding[0], extent_h=p.extent[0], vector=lanes * item,
        block=p.taps * width, x_image=image, source_row=line, source_plane=plane, x_row=p.stride[0] * line,
        y_image=p.K * p.P * p.Q * item, y_row=p.Q * (item if nchw else p.K * item),
        y_channel=p.P * p.Q * item if nchw else item, y_step=p.P * p.Q * item,
        chunks=way.chunks, runs_of_w=_tiles.runs_of_weights(p), run_bytes=_tiles.RUN * p.R * p.S * width,
    )  # fmt: skip
    origin, size = -(p.padding[0] * line + p.padding[2] * pixel), 0
    if way.copied:
        height, wide, taken = (way.rows - 1) * p.stride[0] + p.extent[0], p.padded[1], 1
        numbers, left = (p.W, p.padding[2]) if nchw else (p.W * C, p.padding[2] * C)
        if _tiles.thinned(p):  # of x only the pixels that a filter of one tap meets
            height, wide, numbers, taken, step = way.rows, p.Q, p.Q, p.stride[1], (1, 1)
            values |= dict(stride_h=1, H=p.P, source_row=p.stride[0] * line)
        line, origin = wide * pixel, 0
        image = height * line
        if nchw:  # an odd number of cache lines, against planes that share cache sets
            plane = (way.together * image + 63) // 128 * 128 + 64
        size = (C * plane if nchw else way.together * image) + 2 * lanes * item
        values |= dict(
            lines=C if nchw else 1, numbers=numbers, left=left, wide=line // item, pitch=line
        )
        values |= dict(plane=plane, copied=image, step=taken * item)
    steps = (image, step[0] * line, step[1] * pixel)
    table, begins = _tiles.table(p, way, steps, (line, pixel, plane), origin)
    sums = way.U * width * begins.pop("most_tiles") * (way.chunks > 1)
    values |= begins | dict(x_group=C // p.groups * plane, rows_of_sums=len(table), partial=sums)
    values |= dict(x_step=p.dilation[1] * pixel if _tiles.along_rows(p) else plane)
    values |= dict(memory=(sums + size + 4095) // 4096 * 4096 + 64 * 5 if sums + size else 0)
    j = np.zeros(1, GEOMETRY)
    for name, value in values.items():
        j[0][name] = value
    return j, np.append(table, np.arange(way.U) * width)


def plan(p: Conv2d) -> Plan:
    lanes, item, nchw = _simd.lanes(p.dtype), p.itemsize, p.layout == "nchw"
    parallel = p.flops > SERIAL_FLOPS
    threads = config.NUMBA_NUM_THREADS if parallel else 1
    way = _tiles.choose(p, threads, caches.here())
    geometry, table = describe(p, way, lanes)
    j, body = geometry[0], compiled(p.dtype, parallel)
    G, blocks, outputs = p.groups, int(j["blocks"]), p.K // p.groups
    form = _simd.TURNED if nchw else _simd.streamed(p, lanes)
    tile, tile_code = _simd.entry(_simd.CHANNEL_TILE, item, lanes, way.U, V, form)
    j["tile"], code = tile, (tile_code, body)
    if 0 < outputs % (V * lanes) <= lanes:
        j["narrow_tile"], narrow_code = _simd.entry(_simd.CHANNEL_TILE, item, lanes, way.U, 1, form)
        code = (*code, narrow_code)
    if way.chunks > 1:
        j["part_tile"], part_code = _simd.entry(_simd.CHANNEL_TILE, item, lanes, way.U, V)
        code = (*code, part_code)
    every = p.stride[1] if _tiles.thinned(p) else 1
    j["copy"] = _simd.entry(_simd.COPY_EVERY, item, lanes, every if every <= NEAR else 0)[0]
    memory, dtype, places = int(j["memory"]), p.dtype, _tiles.places_of_taps(p)

    def pack(w, b):
        bias = np.zeros((G, blocks * V * lanes), dtype)
        if b is not None:
            bias[:, :outputs] = b.reshape(G, outputs)
        return _simd.pack_panels(w, G, V * lanes, lanes, places), bias.reshape(-1)

    def run(x, weights):
        w, b = weights
        threads = get_num_threads() if parallel else 1
        y = _memory.empty(p.y_shape, p.dtype)
        body(x, w, b, y, _memory.scratch(threads * memory), geometry, table, threads)
        return y

    return Plan(run, pack=pack, workspace=threads * memory, code=code)
