"""Blocked loops over long contiguous runs of pixels, which LLVM turns into full-width vector code.

After    numba/parallel   (new here: the innermost loop walks over pixels, not over taps)
Idea     The sum of one output is a chain of additions, but the sums of many outputs are independent. So
         the innermost loop adds six taps to hundreds of pixels of four output channels: no chain, only
         contiguous reads, 24 weights in registers. It needs to see the pixels under a tap as one run.
         x is copied into sheets: padded with zeros, rows and columns sorted by their remainder modulo
         the stride. Then the pixels under every tap are a run of the same length, and the taps differ
         in where it begins. A run crosses row ends; the few pixels in between are computed and dropped.
         The sums of a tile of pixels stay in L1 until all taps are in.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32, float64
         inside: sheets[N,C,columns,rows,width], w[G,blocks,taps,4] made by pack, sums[4,256]
Threads  Numba's, twice: over the rows of the sheets, then over tiles × blocks of four channels, without
         the interpreter lock. Small problems stay on the calling thread
Cost     FLOP   2·N·K·P·width·C/G·R·S                 width = Q + (S-1)·dilation/stride
         bytes  x read and the sheets written once; the sheets read K/4 times, w once a tile, from cache
Limits   the sums go through L1 once for every six taps: about 3/4 of the peak of AVX-512
         planes below 100 pixels, or K/G below 4, fill their blocks in part; K/G = 1 has its own loop
         nchw without padding and with stride 1 is its own sheet; all else, nhwc too, pays for the copy
         calls from several Python threads at once need Numba's omp or tbb layer, not workqueue
Source   own; Zhang, Franchetti and Low, High Performance Zero-Memory Overhead Direct Convolutions,
         2018, for blocking the output in registers
"""

from functools import cache

import numpy as np
from numba import from_dtype, get_num_threads, njit, prange, types, uint64

from convzoo.numba import _memory
from convzoo.numba._kept import kept
from convzoo.plan import Plan
from convzoo.problem import Conv2d

# Pixels of float32 at most, half as many float64: four rows of sums take 4 KB of L1. Rows of 1024 were 4 %
# faster at best, and in a third of the processes half as fast on one thread, for a reason that was not found.
TILE = 256
LANES = 16  # a tile is a multiple of this, so that vectors of up to 16 lanes leave no remainder
ROW = TILE + LANES  # from one row of sums to the next: whole multiples of 4 KB would share cache sets
BLOCK = 4  # output channels; times six taps these are 24 weights, of 32 vector registers
SHEETS = 2**22  # bytes: as many images at a time as fit, so that their sheets stay in L3
SERIAL_FLOPS = 2e6  # about 20 microseconds on one thread


# Indices of the inner loops are unsigned: a signed one might be negative, which in Python counts from
# the end, and the test for that keeps LLVM from vectorising.


@njit
def fill_row(i, x, steps, C, sources, spans, sheets, width):
    """Row i of the sheets of all channels, the rows counted through all images."""
    rows, columns = len(sources), len(spans)
    n, row = i // rows, i % rows
    for c in range(C):
        for j in range(columns):
            first, last = (spans[j, 0], spans[j, 1]) if sources[row] >= 0 else (width, width)
            source = uint64(n * steps[0] + c * steps[1] + sources[row] * steps[2] + spans[j, 2])
            line = uint64((((n * C + c) * columns + j) * rows + row) * width)
            for v in range(line, line + uint64(first)):
                sheets[v] = 0
            for v in range(uint64(last - first)):
                sheets[line + uint64(first) + v] = x[source + v * uint64(steps[3])]
            for v in range(line + uint64(last), line + uint64(width)):
                sheets[v] = 0


@njit
def weights_of(w, t):
    return w[t, 0], w[t, 1], w[t, 2], w[t, 3]


@njit(fastmath={"contract"})
def add_to_four(sums, x, begin, taps, w, pixels):
    """Add all taps to the four rows of sums; the run under tap t begins at x[begin + taps[t]]."""
    sixes = len(taps) // 6 * 6
    length = uint64(pixels // LANES) * uint64(LANES)  # lets LLVM see the multiple
    row1, row2, row3 = uint64(ROW), uint64(2 * ROW), uint64(3 * ROW)
    for t in range(0, sixes, 6):
        a0, b0, c0 = uint64(begin + taps[t]), uint64(begin + taps[t + 1]), uint64(begin + taps[t + 2])
        d0, e0 = uint64(begin + taps[t + 3]), uint64(begin + taps[t + 4])
        f0 = uint64(begin + taps[t + 5])
        A, B, C = weights_of(w, t), weights_of(w, t + 1), weights_of(w, t + 2)
        D, E, F = weights_of(w, t + 3), weights_of(w, t + 4), weights_of(w, t + 5)
        for q in range(length):
            a, b, c, d, e, f = x[a0 + q], x[b0 + q], x[c0 + q], x[d0 + q], x[e0 + q], x[f0 + q]
            y0, y1, y2, y3 = sums[q], sums[row1 + q], sums[row2 + q], sums[row3 + q]
            sums[q] = y0 + a * A[0] + b * B[0] + c * C[0] + d * D[0] + e * E[0] + f * F[0]
            sums[row1 + q] = y1 + a * A[1] + b * B[1] + c * C[1] + d * D[1] + e * E[1] + f * F[1]
            sums[row2 + q] = y2 + a * A[2] + b * B[2] + c * C[2] + d * D[2] + e * E[2] + f * F[2]
            sums[row3 + q] = y3 + a * A[3] + b * B[3] + c * C[3] + d * D[3] + e * E[3] + f * F[3]
    for t in range(sixes, len(taps)):
        a0, A = uint64(begin + taps[t]), weights_of(w, t)
        for q in range(length):
            a = x[a0 + q]
            y0, y1, y2, y3 = sums[q], sums[row1 + q], sums[row2 + q], sums[row3 + q]
            sums[q], sums[row1 + q] = y0 + a * A[0], y1 + a * A[1]
            sums[row2 + q], sums[row3 + q] = y2 + a * A[2], y3 + a * A[3]


@njit(fastmath={"contract"})
def add_to_one(sums, x, begin, taps, w, pixels):
    """The same for a group of one output channel, three taps at a time, then the rest."""
    threes = len(taps) // 3 * 3
    length = uint64(pixels // LANES) * uint64(LANES)
    for t in range(0, threes, 3):
        a0, b0, c0 = uint64(begin + taps[t]), uint64(begin + taps[t + 1]), uint64(begin + taps[t + 2])
        A, B, C = w[t, 0], w[t + 1, 0], w[t + 2, 0]
        for q in range(length):
            sums[q] = sums[q] + x[a0 + q] * A + x[b0 + q] * B + x[c0 + q] * C
    for t in range(threes, len(taps)):
        a0, A = uint64(begin + taps[t]), w[t, 0]
        for q in range(length):
            sums[q] = sums[q] + x[a0 + q] * A


@njit
def fill_tiles(items, x, w, b, y, steps, taps, shape):
    """The tiles of y in a range of items; an item is one (n, g, tile, block of output channels)."""
    group, outputs, Q, width, run, pixels = shape
    G, blocks = w.shape[:2]
    tiles = (run + pixels - 1) // pixels
    sums = np.empty(BLOCK * ROW + LANES, x.dtype)
    sums = sums[-sums.ctypes.data // sums.itemsize % LANES :]  # begins a cache line
    for item in range(items[0], items[1]):
        block, tile = item % blocks, item // blocks % tiles
        g, n = item // (blocks * tiles) % G, item // (blocks * tiles * G)
        k = g * outputs + block * BLOCK
        channels = min(BLOCK, outputs - block * BLOCK)
        start, end = tile * pixels, min(run, tile * pixels + pixels)
        begin = max(0, min(start, run - pixels))  # the last tile moves back, to read nothing past x
        for j in range(channels):
            for q in range(uint64(j * ROW), uint64(j * ROW + pixels)):
                sums[q] = b[g, block, j]
        if outputs == 1:
            add_to_one(sums, x, (n * G + g) * group + begin, taps, w[g, block], pixels)
        else:
            add_to_four(sums, x, (n * G + g) * group + begin, taps, w[g, block], pixels)
        for p in range(start // width, (end - 1) // width + 1):
            lo, hi = max(start, p * width), min(end, p * width + Q)
            first = n * steps[0] + (p * Q + lo - p * width) * steps[2]
            for j in range(channels):
                target, source = uint64(first + (k + j) * steps[1]), uint64(j * ROW + lo - begin)
                for q in range(uint64(max(0, hi - lo))):
                    y[target + q * uint64(steps[2])] = sums[source + q]


def on_one_thread(x, w, b, y, sheets, taps, sources, spans, steps, y_steps, sizes, shape):
    C, width, rows, items, _ = sizes
    for i in range(rows):
        fill_row(i, x, steps, C, sources, spans, sheets, width)
    fill_tiles((0, items), sheets if rows else x, w, b, y, y_steps, taps, shape)


def on_all_threads(x, w, b, y, sheets, taps, sources, spans, steps, y_steps, sizes, shape):
    C, width, rows, items, threads = sizes
    for i in prange(rows):
        fill_row(i, x, steps, C, sources, spans, sheets, width)
    for t in prange(threads):
        mine = (items * t // threads, items * (t + 1) // threads)
        fill_tiles(mine, sheets if rows else x, w, b, y, y_steps, taps, shape)


@cache
def compiled(dtype: str, parallel: bool):
    """One of the two functions above for one dtype, compiled here and never again while running."""
    number, whole = from_dtype(np.dtype(dtype)), types.int64

    def read(item, ndim):  # read-only and unaligned: other arrays convert to it
        return types.Array(item, ndim, "C", readonly=True, aligned=False)

    def several(n):
        return types.UniTuple(whole, n)

    write, table = types.Array(number, 1, "C"), read(whole, 1)
    signature = types.void(
        read(number, 1), read(number, 4), read(number, 3), write, write, table, table, read(whole, 2),
        several(4), several(3), several(5), several(6),
    )  # fmt: skip
    if parallel:
        return kept(signature, parallel=True, nogil=True)(on_all_threads)
    return kept(signature, nogil=True)(on_one_thread)


def sheets_of(p: Conv2d):
    """Where rows and columns of the sheets come from, where each tap's run begins, and the width."""
    (stride_h, stride_w), (dilation_h, dilation_w) = p.stride, p.dilation
    rests_h = sorted({r * dilation_h % stride_h for r in range(p.R)})
    rests_w = sorted({s * dilation_w % stride_w for s in range(p.S)})
    height = p.P + (p.R - 1) * dilation_h // stride_h  # of the rows with one remainder
    width = p.Q + (p.S - 1) * dilation_w // stride_w
    h = np.add.outer(rests_h, stride_h * np.arange(height)).ravel() - p.padding[0]
    sources = np.where((h >= 0) & (h < p.H), h, -1)  # -1: a row of zeros
    start = np.array(rests_w) - p.padding[2]  # the column of x under the first one of a sheet
    first = np.clip(-(start // stride_w), 0, width)
    last = np.clip((p.W - 1 - start) // stride_w + 1, first, width)
    step = 1 if p.layout == "nchw" else p.C
    spans = np.stack([first, last, (start + first * stride_w) * step], axis=1)
    c, r, s = np.indices((p.C // p.groups, p.R, p.S)).reshape(3, -1)
    row = np.searchsorted(rests_h, r * dilation_h % stride_h) * height + r * dilation_h // stride_h
    column = np.searchsorted(rests_w, s * dilation_w % stride_w)
    taps = ((c * len(rests_w) + column) * len(sources) + row) * width + s * dilation_w // stride_w
    return sources, spans, taps, width


def plan(p: Conv2d) -> Plan:
    G, outputs, nchw = p.groups, p.K // p.groups, p.layout == "nchw"
    sources, spans, taps, width = sheets_of(p)
    run_length = (p.P - 1) * width + p.Q
    tiles = -(-run_length * p.itemsize // (4 * TILE))
    pixels = -(-run_length // (tiles * LANES)) * LANES
    blocks = -(-outputs // BLOCK)
    items = G * -(-run_length // pixels) * blocks  # of one image
    channel = len(spans) * len(sources) * width  # elements of its sheets
    own_sheet = nchw and p.stride == (1, 1) and not any(p.padding) and pixels <= run_length
    batch, rows, size = p.N, 0, 0
    if not own_sheet:
        batch = min(p.N, max(1, SHEETS // (p.C * channel * p.itemsize)))
        rows, size = len(sources), batch * p.C * channel + LANES
    line, gapless = (p.Q, width), (p.P * p.Q, p.P * p.Q)  # of a plane without gaps, one row
    shape = (p.C // G * channel, outputs, *(gapless if width == p.Q else line), run_length, pixels)
    h_step, v_step = (p.W, 1) if nchw else (p.W * p.C, p.C)
    steps = (p.C * p.H * p.W, p.H * p.W if nchw else 1, h_step, v_step * p.stride[1])
    y_steps = (p.K * p.P * p.Q, p.P * p.Q, 1) if nchw else (p.K * p.P * p.Q, 1, p.K)
    parallel = p.flops > SERIAL_FLOPS
    body = compiled(p.dtype, parallel)
    taps_of_one, dtype = p.taps, p.dtype

    def pack(w, b):
        """w[g, block, tap, j] and b[g, block, j] of output channel 4·block + j; zeros after."""
        packed = np.zeros((G, blocks, taps_of_one, BLOCK), dtype)
        bias = np.zeros((G, blocks, BLOCK), dtype)
        for j in range(min(BLOCK, outputs)):
            some = w.reshape(G, outputs, taps_of_one)[:, j::BLOCK]
            packed[:, : some.shape[1], :, j] = some
            if b is not None:
                bias[:, : some.shape[1], j] = b.reshape(G, outputs)[:, j::BLOCK]
        return packed, bias

    def run(x, weights):
        w, b = weights
        y, sheets = _memory.empty(p.y_shape, p.dtype), _memory.empty((size,), p.dtype)
        threads = get_num_threads() if parallel else 1
        for n in range(0, p.N, batch):
            images, maps = x[n : n + batch], y[n : n + batch]
            sizes = (p.C, width, len(images) * rows, len(images) * items, threads)
            images, maps = images.reshape(-1), maps.reshape(-1)
            body(images, w, b, maps, sheets, taps, sources, spans, steps, y_steps, sizes, shape)
        return y

    return Plan(run, pack=pack, workspace=size * p.itemsize, code=(body,))
