"""A tile of 14 pixels by 32 output channels stays in registers for the whole sum, by explicit vectors.

After    numba/direct   (new here: the loop is written as vector code, the sums never touch memory)
Idea     A fused multiply-add needs two loads if its sum lies in memory, and a core loads only two vectors
         a cycle, but multiplies two. So the sums must stay in registers, and each load must serve many
         of them: with 14 pixels and two vectors of 16 output channels, 16 loads serve 28 multiply-adds.
         A number of x is copied into all lanes, the lanes are output channels; therefore any
         stride, dilation and layout of x costs the same: pixels and taps are tables of byte offsets.
         A band of rows of x is copied into a thread's own padded buffer (in L2), so no tap is a special
         case; taps in rows that are all padding are left out. nchw output is transposed in registers; nhwc
         output of 16 MB and more is stored past the caches, which would first read the lines it replaces.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32, float64
         inside: Wp[G,K/32,taps,32] made by pack (taps in the order c,r,s; nhwc: r,s,c)
Threads  Numba's, each with an equal share of (image, band, group, block of 32 channels); one thread below
         2 MFLOP. The interpreter lock is released
Cost     FLOP   2·N·ceil32(K/G)·G·P·Q·C/G·R·S, less the rows of padding
         bytes  x read once and its padded copy written; the copy read K/32 times from L2; w once a band
Limits   the best tile follows the CPU: 14 x 2 vectors with 32 registers, 6 x 2 with 16 (AVX2)
         K/G below 16 leaves lanes empty: K/G = 1 wastes 15 of 16
         without padding x is read in place, and planes of whole pages then share cache sets
Source   own; Georganas et al., Anatomy of High-Performance Deep Learning Convolutions on SIMD
         Architectures, 2018 (arXiv:1808.05567), for the tile in registers and the broadcast of x
"""

from functools import cache

import numpy as np
from numba import config, from_dtype, get_num_threads, njit, prange, types

from convzoo.numba import _memory, _simd
from convzoo.numba._kept import kept
from convzoo.numba._simd import call, fence
from convzoo.plan import Plan
from convzoo.problem import Conv2d

V = 2  # vectors of output channels in a tile
SERIAL_FLOPS = 2e6  # about 20 microseconds on one thread
BUFFER = 2**19  # bytes of x in a thread's buffer: half of an L2 cache, the other half is for weights
GEOMETRY = _simd.record(
    """
    tile narrow_tile copy lanes pixels N H P Q R S groups inputs blocks outputs bands rows
    stride_h dilation_h top extent_h taps_inside vector
    x_image x_row x_group y_image y_channel y_pixel y_step outer inner
    lines numbers left wide plane pitch source_plane source_row buffer
    """
)  # steps and offsets are in bytes


@njit
def copy_band(j, image, p, rows, buffer):
    """The rows of x that the output rows p to p + rows need, with their padding, into the buffer."""
    begin, height = p * j.stride_h - j.top, (rows - 1) * j.stride_h + j.extent_h
    first = min(max(begin, 0), begin + height)
    last = max(first, min(begin + height, j.H))
    above, inside, below = first - begin, last - first, begin + height - last
    source = image + first * j.source_row
    for i in range(j.lines):
        to, at = buffer + i * j.plane, source + i * j.source_plane
        call(j.copy, (to, image, above, j.pitch, 0, j.wide, 0, 0))
        to += above * j.pitch
        call(j.copy, (to, at, inside, j.pitch, j.source_row, j.wide, j.left, j.numbers))
        call(j.copy, (to + inside * j.pitch, image, below, j.pitch, 0, j.wide, 0, 0))


@njit
def filter_rows(j, first, last):
    """The filter rows that meet the image under the output rows first to last: from, to; at least one."""
    low = (j.top - last * j.stride_h + j.dilation_h - 1) // j.dilation_h
    high = (j.H + j.top - first * j.stride_h + j.dilation_h - 1) // j.dilation_h
    low = min(max(low, 0), j.R - 1)
    return low, max(low + 1, min(high, j.R))


@njit
def fill_block(j, source, w, b, y, p, rows, channels, table, clamped):
    """One block of output channels of a band: tiles of consecutive pixels of y."""
    U, count = j.pixels, rows * j.Q
    tile, tap = j.tile if channels > j.lanes else j.narrow_tile, V * j.vector
    for f in range(0, count, U):
        at = table.ctypes.data + 8 * f
        if f + U > count:  # the places after the last pixel may be outside of x
            for u in range(U):
                clamped[u] = table[min(f + u, count - 1)]
            at = clamped.ctypes.data
        low, high = filter_rows(j, p + f // j.Q, p + min(f + U - 1, count - 1) // j.Q)
        A, first, B, start, skip = (high - low) * j.S, low * j.S, j.inputs, low * j.S * j.inputs, 0
        outer, inner = j.outer + 8 * first, j.inner
        if j.taps_inside:
            A, B, start, skip = j.inputs, A, first, (j.R - high + low) * j.S
            outer, inner = j.outer, j.inner + 8 * first
        outer, inner = table.ctypes.data + outer, table.ctypes.data + inner
        sums = (source, at, w + start * tap, tap, A, outer, B, inner, skip * tap)
        call(tile, (*sums, y + f * j.y_pixel, j.y_step, b, min(U, count - f), channels))


@njit
def work(t, threads, addresses, geometry, table, _):
    """One thread's share of the units (image, band, group, block)."""
    x, w, b, y, buffer = addresses
    j = geometry[0]
    units, held, clamped = j.N * j.bands * j.groups * j.blocks, -1, np.empty(16, np.int64)
    block_bytes, bias_bytes = j.R * j.S * j.inputs * V * j.vector, V * j.vector
    for unit in range(units * t // threads, units * (t + 1) // threads):
        band, part = unit // (j.groups * j.blocks), unit % (j.groups * j.blocks)
        n, p = band // j.bands, band % j.bands * j.rows
        g, k = part // j.blocks, part % j.blocks * V * j.lanes
        rows, source = min(j.rows, j.P - p), x + n * j.x_image + p * j.x_row
        if j.buffer:
            source = buffer + t * j.buffer
            if band != held:
                copy_band(j, x + n * j.x_image, p, rows, source)
                held = band
        to = y + n * j.y_image + (g * j.outputs + k) * j.y_channel + p * j.Q * j.y_pixel
        at, bias = w + part * block_bytes, b + part * bias_bytes
        channels = min(V * j.lanes, j.outputs - k)
        fill_block(j, source + g * j.x_group, at, bias, to, p, rows, channels, table, clamped)
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


def tiling(p: Conv2d, U: int, lanes: int, threads: int):
    """An estimate of the time in cycles with U pixels in a tile, and the rows of a band for it."""
    P, Q, blocks = p.P, p.Q, p.groups * -(-p.K // p.groups // (V * lanes))
    rows = np.arange(1, P + 1)
    buffers = ((rows - 1) * p.stride[0] + p.extent[0]) * p.padded[1] * p.C * p.itemsize
    rows = rows[: max(1, np.searchsorted(buffers, BUFFER))]
    bands = -(-P // rows)
    share = -(-p.N * bands * blocks // threads)  # units of a thread
    f = np.arange(0, P * Q, U)  # first pixels of tiles
    first, last = f // Q, np.minimum(f + U - 1, P * Q - 1) // Q
    low = np.clip(-((last * p.stride[0] - p.padding[0]) // p.dilation[0]), 0, p.R - 1)
    high = np.clip(-((first * p.stride[0] - p.padding[0] - p.H) // p.dilation[0]), low + 1, p.R)
    taps = p.taps * (high - low).mean() / p.R  # without the rows of padding
    unit = -(-rows * Q // U) * (taps * (U * V / 2 + 1) + 4 * U + 40)
    cycles = share * unit + -(-share // blocks) * buffers[: len(rows)] / 100
    best = int(cycles.argmin())
    return float(cycles[best]), int(rows[best])


def describe(p: Conv2d, U: int, rows: int, lanes: int):
    """All numbers of the problem: the record for the compiled code and the table of offsets behind it."""
    nchw, item, inputs, outputs = p.layout == "nchw", p.itemsize, p.C // p.groups, p.K // p.groups
    j = np.zeros(1, GEOMETRY)
    here, padded = j[0], any(p.padding)
    here["N"], here["H"], here["P"], here["Q"], here["R"], here["S"] = p.N, p.H, p.P, p.Q, p.R, p.S
    here["groups"], here["inputs"], here["outputs"] = p.groups, inputs, outputs
    here["blocks"] = -(-outputs // (V * lanes))
    here["bands"], here["rows"], here["pixels"], here["lanes"] = -(-p.P // rows), rows, U, lanes
    here["stride_h"], here["dilation_h"] = p.stride[0], p.dilation[0]
    here["top"], here["extent_h"], here["vector"] = p.padding[0], p.extent[0], lanes * item
    height, wide = (rows - 1) * p.stride[0] + p.extent[0], p.padded[1]
    pixel, line = (item, p.W * item) if nchw else (p.C * item, p.W * p.C * item)
    plane = p.H * line if nchw else item
    here["source_row"], here["source_plane"], here["x_image"] = line, plane, p.C * p.H * p.W * item
    if padded:
        here["lines"], here["numbers"], here["left"] = (p.C if nchw else 1), p.W, p.padding[2]
        if not nchw:
            here["numbers"], here["left"] = p.W * p.C, p.padding[2] * p.C
        line = wide * pixel
        plane = (height * line + 63) // 128 * 128 + 64 if nchw else item  # an odd number of cache lines
        here["wide"], here["pitch"], here["plane"] = line // item, line, plane
        size = (p.C * plane if nchw else height * line) + 2 * lanes * item
        here["buffer"] = (size + 4095) // 4096 * 4096 + 64 * 5
    else:
        here["x_row"] = p.stride[0] * line
    here["x_group"] = inputs * plane
    here["y_image"] = p.K * p.P * p.Q * item
    y_channel, y_pixel = (p.P * p.Q * item, item) if nchw else (item, p.K * item)
    here["y_channel"], here["y_pixel"], here["y_step"] = (
        y_channel,
        y_pixel,
        y_channel if nchw else y_pixel,
    )
    f = np.arange(rows * p.Q)
    pixels = f // p.Q * p.stride[0] * line + f % p.Q * p.stride[1] * pixel
    r, s = np.indices((p.R, p.S)).reshape(2, -1)
    taps, channels = r * p.dilation[0] * line + s * p.dilation[1] * pixel, np.arange(inputs) * plane
    here["taps_inside"] = nchw and p.R * p.S > 1
    outer, inner = (channels, taps) if here["taps_inside"] else (taps, channels)
    if not nchw and p.groups == p.dilation[1] == 1:  # a row of taps is one run of numbers
        here["S"], here["inputs"] = 1, p.S * inputs
        outer, inner = taps[:: p.S], np.arange(p.S * inputs) * item
    here["outer"], here["inner"] = 8 * len(pixels), 8 * (len(pixels) + len(outer))
    return j, np.concatenate([pixels, outer, inner])


def plan(p: Conv2d) -> Plan:
    lanes, item, nchw = _simd.lanes(p.dtype), p.itemsize, p.layout == "nchw"
    parallel = p.flops > SERIAL_FLOPS
    threads = config.NUMBA_NUM_THREADS if parallel else 1
    heights = _simd.heights_for(p.stride[1] * (item if nchw else p.C * item))
    found = {U: tiling(p, U, lanes, threads) for U in heights}
    # a smaller tile is another compilation and reads the weights more often: it must be worth it
    U = min(heights, key=lambda U: found[U][0] * (1 if heights[0] == U else 1.03))
    geometry, table = describe(p, U, found[U][1], lanes)
    j, body = geometry[0], compiled(p.dtype, parallel)
    G, blocks, outputs, inputs = p.groups, int(j["blocks"]), p.K // p.groups, p.C // p.groups
    form = _simd.TURNED if nchw else _simd.streamed(p, lanes)
    tile, tile_code = _simd.entry(_simd.CHANNEL_TILE, item, lanes, U, V, form)
    j["tile"], code = tile, (tile_code, body)
    if 0 < outputs % (V * lanes) <= lanes:
        j["narrow_tile"], narrow_code = _simd.entry(_simd.CHANNEL_TILE, item, lanes, U, 1, form)
        code = (*code, narrow_code)
    j["copy"] = _simd.entry(_simd.COPY_LINES, item, lanes)[0]

    buffer, dtype = int(j["buffer"]), p.dtype
    places = np.arange(p.taps)  # of the taps, which w holds in the order c, r, s
    if not nchw:
        places = np.ascontiguousarray(places.reshape(p.R * p.S, inputs).T).reshape(-1)

    def pack(w, b):
        bias = np.zeros((G, blocks * V * lanes), dtype)
        if b is not None:
            bias[:, :outputs] = b.reshape(G, outputs)
        return _simd.pack_panels(w, G, V * lanes, lanes, places), bias.reshape(-1)

    def run(x, weights):
        w, b = weights
        threads = get_num_threads() if parallel else 1
        y = _memory.empty(p.y_shape, p.dtype)
        body(x, w, b, y, _memory.scratch(threads * buffer), geometry, table, threads)
        return y

    return Plan(run, pack=pack, workspace=threads * buffer, code=code)
