"""A 1x1 convolution is a product of matrices on the data as it lies: nothing is copied or padded.

After    numba/register_tile   (new here: nchw puts pixels in the lanes, so its output needs no transposing)
Idea     With a filter of one tap y = W·x, where x and y are matrices already: nchw holds [C, H·W], nhwc
         [H·W, C]. In nchw consecutive pixels are consecutive numbers, so they fill the lanes: a tile is 8
         output channels by 3 vectors of pixels, a weight is copied into all lanes, and whole vectors of
         y are stored. A tile's part of x stays in L1 while all output channels take their turn. Where
         the lanes cannot be consecutive pixels (nhwc, stride, small planes) they are output channels:
         14 pixels by 2 vectors, and a block of pixels stays in L2. nhwc output of 16 MB and more is
         stored past the caches, which would first read the lines that it replaces.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C,1,1] → y[N,K,P,Q] or [N,P,Q,K]   float32, float64
         inside: Wp[K/8,C,8] or Wp[K/32,C,32] made by pack
Threads  Numba's, each with an equal share of (pixels, block of output channels); one thread below 2 MFLOP.
         The interpreter lock is released
Cost     FLOP   2·N·K·P·Q·C                           (the problem's own)
         bytes  p.min_bytes; x read K/8 or K/32 times from L1 or L2, w once for each block of pixels from L2
Limits   R = S = 1, no padding, one group
         nchw: the channels of a pixel lie H·W apart; where that is a multiple of 4 KB they share cache
         sets
Source   own; Goto and van de Geijn, Anatomy of High-Performance Matrix Multiplication, 2008, for blocks
"""

from functools import cache

import numpy as np
from numba import config, from_dtype, get_num_threads, njit, prange, types

from convzoo.numba import _memory, _simd
from convzoo.numba._kept import kept
from convzoo.numba._simd import call, fence
from convzoo.plan import Plan, Unsupported
from convzoo.problem import Conv2d

ALGORITHM = "gemm"
V = _simd.PANEL  # vectors of output channels in a tile with channels in the lanes
SERIAL_FLOPS = 2e6  # about 20 microseconds on one thread
BLOCK = 2**19  # bytes of x in a block of pixels, half of an L2 cache
PLANE = 400  # pixels of a plane from which on they fill the lanes in nchw
GEOMETRY = _simd.record(
    """
    tile tile_1 tile_2 lanes vector pixels outputs inputs N rows row_count Q bands blocks
    x_image x_row x_pixel x_channel x_ahead y_image y_pixel y_channel y_step turned run parts
    """
)  # steps and offsets are in bytes


@njit
def channels_in_lanes(geometry, t, threads, x, w, b, y, table, _):
    """This thread's share of the units (image, band of rows, block of 32 output channels)."""
    j, at_table, clamped, part = (
        geometry[0],
        table.ctypes.data,
        np.empty(16, np.int64),
        np.zeros(3, np.int64),
    )
    units, width, tap = j.N * j.bands * j.blocks, V * j.lanes, V * j.vector
    for unit in range(units * t // threads, units * (t + 1) // threads):
        band, k = unit // j.blocks, unit % j.blocks * width
        n, row = band // j.bands, band % j.bands * j.rows
        rows = min(j.rows, j.row_count - row)
        source = x + n * j.x_image + row * j.x_row
        channels, count = min(width, j.outputs - k), rows * j.Q
        tile = j.tile if channels > j.lanes else j.tile_1
        to = y + n * j.y_image + k * j.y_channel + row * j.Q * j.y_pixel
        weights, bias = w + k // width * j.inputs * tap, b + k // width * tap
        for f in range(0, count, j.pixels):
            at = at_table + 8 * f
            if f + j.pixels > count:  # the places after the last pixel may be outside of x
                for u in range(j.pixels):
                    clamped[u] = table[min(f + u, count - 1)]
                at = clamped.ctypes.data
            part[2] = some = min(j.pixels, count - f)
            parts, pieces = (part.ctypes.data, 1) if j.turned else (at_table + j.parts, some)
            ahead = (
                source + table[f] + j.pixels * j.x_pixel
            )  # the next pixels, which may lie in memory still
            sums = (source, at, j.x_channel, at_table + j.run, 1, weights, ahead, j.x_ahead)
            call(tile, (*sums, to + f * j.y_pixel, parts, pieces, j.y_step, bias, 0, channels))
    fence()


@njit
def pixels_in_lanes(geometry, t, threads, x, w, b, y, _):
    """This thread's share of the units (image, tile of pixels, block of output channels)."""
    j = geometry[0]
    vectors, size = -(-j.Q // j.lanes), j.vector // j.lanes
    tiles = -(-vectors // 3)
    units = j.N * tiles * j.blocks
    for unit in range(units * t // threads, units * (t + 1) // threads):
        k, i, n = unit % j.blocks * j.pixels, unit // j.blocks % tiles, unit // (j.blocks * tiles)
        f = vectors * i // tiles * j.lanes  # 3 vectors a tile or 2, for 1 alone does not fill the pipes
        count = min(vectors * (i + 1) // tiles * j.lanes, j.Q) - f
        tile = j.tile if count > 2 * j.lanes else j.tile_2 if count > j.lanes else j.tile_1
        at, to = x + n * j.x_image + f * size, y + n * j.y_image + k * j.y_channel + f * size
        weights = (w + k * j.inputs * size, 0, j.inputs)
        out = (to, j.y_channel, b + k * size, count, min(j.pixels, j.outputs - k))
        call(tile, (at, j.x_channel, *weights, *out))


@cache
def compiled(dtype: str, by_pixels: bool, parallel: bool):
    """One of the two loops for one dtype, compiled here and never again while running."""
    version = 4 * _simd.DIGEST + 2 * by_pixels + parallel  # in a closure: in the key of Numba's cache
    number = from_dtype(np.dtype(dtype))
    read, write = types.Array(number, 4, "C", readonly=True, aligned=False), types.Array(number, 1, "C")
    record, table = types.Array(from_dtype(GEOMETRY), 1, "C"), types.Array(types.int64, 1, "C")
    signature = types.void(read, write, write, types.Array(number, 4, "C"), record, table, types.int64)

    def channels_on_threads(x, w, b, y, geometry, table, threads):
        x, w, b, y = x.ctypes.data, w.ctypes.data, b.ctypes.data, y.ctypes.data
        for t in prange(threads):
            channels_in_lanes(geometry, t, threads, x, w, b, y, table, version)

    def pixels_on_threads(x, w, b, y, geometry, _, threads):
        x, w, b, y = x.ctypes.data, w.ctypes.data, b.ctypes.data, y.ctypes.data
        for t in prange(threads):
            pixels_in_lanes(geometry, t, threads, x, w, b, y, version)

    body = pixels_on_threads if by_pixels else channels_on_threads
    return kept(signature, parallel=parallel, nogil=True)(body)


def tiling(p: Conv2d, images: int, row_count: int, row: int, U: int, lanes: int, threads: int):
    """Rows of ``row`` pixels in a block, with U pixels in a tile, and an estimate of the time in cycles."""
    rows = np.arange(1, min(row_count, max(U, BLOCK // (p.C * p.itemsize * row))) + 1)
    if row == 1:
        rows = np.unique(np.minimum(-(-rows // U) * U, row_count))
    blocks, bands = -(-p.K // (V * lanes)), -(-row_count // rows)
    tiles = (bands - 1) * -(-rows * row // U) + -(-(row_count - (bands - 1) * rows) * row // U)
    share = -(-images * bands * blocks // threads) / (images * bands * blocks)  # of a thread, in units
    tile = p.C * (U * V / 2 + 1) + 4 * U + 40
    weights = p.C * p.K * p.itemsize / 16  # once for each block, from L2 or L3
    cycles = share * images * (blocks * tiles * tile + bands * weights)
    best = int(cycles.argmin())
    return float(cycles[best]), int(rows[best])


def describe(p: Conv2d, shape: tuple[int, int, int], U: int, rows: int, width: int):
    """All numbers of the problem: the record for the compiled code and the offsets of pixels and channels."""
    j = np.zeros(1, GEOMETRY)
    here, nchw, item = j[0], p.layout == "nchw", p.itemsize
    here["N"], here["row_count"], row = shape
    here["outputs"], here["Q"] = p.K, row
    here["rows"], here["bands"] = rows, -(-shape[1] // rows)
    here["inputs"], here["pixels"], here["blocks"] = p.C, U, -(-p.K // width)
    pixel, channel = (item, p.H * p.W * item) if nchw else (p.C * item, item)
    here["x_image"], here["y_image"] = p.C * p.H * p.W * item, p.K * p.P * p.Q * item
    here["x_row"], here["x_pixel"] = p.stride[0] * p.W * pixel, p.stride[1] * pixel
    here["x_channel"] = channel
    here["y_channel"], here["y_pixel"] = (p.P * p.Q * item, item) if nchw else (item, p.K * item)
    here["y_step"] = here["y_channel"] if nchw else here["y_pixel"]
    if p.stride == (1, 1):
        here["x_row"] = pixel
        here["x_pixel"] = pixel
        here["x_ahead"] = 0 if nchw else U * item  # for each channel: as many bytes as a tile has
    f = np.arange(rows * row)
    here["turned"], here["run"], here["parts"] = nchw, 8 * len(f), 8 * (len(f) + 3)
    places = f // row * here["x_row"] + f % row * here["x_pixel"]
    return j, np.concatenate([places, [0, 0, p.C], np.arange(U) * here["y_pixel"]])


def plan(p: Conv2d) -> Plan:
    if (p.R, p.S) != (1, 1) or any(p.padding) or p.groups > 1:
        raise Unsupported("needs R = S = 1, no padding and one group")
    lanes, item, nchw = _simd.lanes(p.dtype), p.itemsize, p.layout == "nchw"
    parallel = p.flops > SERIAL_FLOPS
    threads = config.NUMBA_NUM_THREADS if parallel else 1
    # (images, rows, pixels of a row): without stride all pixels of an image are one step apart
    shape, by_pixels = (p.N, p.P, p.Q), False
    if p.stride == (1, 1):
        shape = (p.N, p.P * p.Q, 1) if nchw else (1, p.N * p.P * p.Q, 1)
        by_pixels = nchw and p.P * p.Q >= PLANE
    pixel = p.stride[1] * (item if nchw else p.C * item)
    heights, width = _simd.heights_for(pixel), V * lanes
    found = {U: tiling(p, *shape, U, lanes, threads) for U in heights}
    # a smaller tile is another compilation and reads the weights more often: it must be worth it
    U = min(heights, key=lambda U: found[U][0] * (1 if heights[0] == U else 1.03))
    rows = found[U][1]
    if by_pixels:
        U = width = 8 if _simd.many_registers() else 4
    geometry, table = describe(p, shape, U, rows, width)
    j, body = geometry[0], compiled(p.dtype, by_pixels, parallel)
    if by_pixels:
        j["Q"], shapes = p.P * p.Q, [(U, 3), (U, 1), (U, 2)]
        entries = [_simd.entry(_simd.PIXEL_TILE, item, lanes, *shape) for shape in shapes]
        (j["tile"], _), (j["tile_1"], _), (j["tile_2"], _) = entries
    else:
        narrow = 1 if 0 < p.K % width <= lanes else V
        form = _simd.TURNED if nchw else _simd.streamed(p, lanes)
        entries = [_simd.entry(_simd.CHANNEL_TILE, item, lanes, U, v, form) for v in (V, narrow)]
        (j["tile"], _), (j["tile_1"], _) = entries
    j["lanes"], j["vector"] = lanes, lanes * item
    places, blocks, K, dtype = np.arange(p.C), int(j["blocks"]), p.K, p.dtype

    def pack(w, b):
        bias = np.zeros(blocks * width, dtype)
        if b is not None:
            bias[:K] = b
        return _simd.pack_panels(w, 1, width, lanes, places), bias

    def run(x, weights):
        w, b = weights
        threads = get_num_threads() if parallel else 1
        y = _memory.empty(p.y_shape, p.dtype)
        body(x, w, b, y, geometry, table, threads)
        return y

    return Plan(run, pack=pack, code=(body, *(code for _, code in entries)))
