"""Implicit GEMM on the matrix unit: x as parts in panels that stay in L2, products of tiles, y from sums.

Idea     y is a product of matrices, weights x pixels, whose sum runs over channels and taps. The unit wants
         both sides as tiles of bfloat16 parts (``_amx``). Weights are turned into them once, by ``pack``.
         x is turned panel by panel: a thread splits the numbers that some rows of y need, keeps the
         parts in its own memory (in L2), and multiplies them with all its output channels.
Lines    The pixel is a row of the left tile: a line of 64 bytes has 32 channels of one pixel, one part. A tap
         shifts by whole lines, so every tile load is aligned, and a tile is any 16 lines in a row: rows of
         an image follow each other with their padding, and sums that belong to no output are dropped.
         A stride is taken out while x is split: pixels with the same remainder lie side by side (a phase),
         and a tap then reads its phase with stride 1.
Columns  In nchw pixels lie side by side already. Filters of one tap need no shift: the pixel is a column of the right
         tile, 16 pairs of channels make its rows, nothing is turned, and sums are stored to y as they are.
Threads  share the panels (and each reads all weights), or the output channels (and each splits all of x),
         whichever the estimate says is less work; one thread below 2 MFLOP
Numbers  that parts cannot hold (infinity, NaN, 2**127 and more) are noticed while x is split and w packed: such
         a call is computed again by ``plainly``, in float64, one product after the other.
Source   own
"""

from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
from numba import config, from_dtype, get_num_threads, njit, prange, types

from convzoo import caches
from convzoo.numba import _amx, _memory, _simd
from convzoo.numba._amx import CHANNELS, ROWS, TILE, configure, release
from convzoo.numba._simd import call
from convzoo.plan import Plan, Unsupported
from convzoo.problem import Conv2d

SERIAL_FLOPS = 2e6
BLOCK = 2 * ROWS  # output channels of a product, and pixels in ``columns``
SMALLEST = 16  # channels of a group, below which half of every product is zeros
NEAR = 4  # up to this stride rows are read as whole vectors
LARGEST = 0x7F000000  # bits of 2**127: from here on parts overflow, or x was no number
GEOMETRY = _simd.record(
    """
    sums split split_edge copy out configuration
    N H W outputs inputs groups images bands rows chunks steps blocks ways
    x_image x_row x_pixel x_channel y_unit y_image y_row y_pixel y_channel stride_h stride_w top left
    phases pitch lines line_count plane x_part x_step x_pair panel room w_step
    most tiles segments kind_step per_image pixels width
    """
)  # steps and offsets are in bytes


@njit
def share(j, t, threads):
    """Which units and which blocks of output channels are thread t's: first and last of each."""
    ways = threads if j.ways > 1 else 1
    units = -(-j.N // j.images) * j.bands * j.groups
    group, groups = t // ways, threads // ways
    way = t % ways
    return (
        units * group // groups, units * (group + 1) // groups,
        j.blocks * way // ways, j.blocks * (way + 1) // ways,
    )  # fmt: skip


# --- lines: pixels are rows of the left tile ---------------------------------------------------------


@njit
def rows_inside(j, first, a):
    """Of the lines of phase row a from output row ``first`` on: how many lie above the image, and in it."""
    begin = first * j.stride_h + a - j.top
    above = min(max(-(begin // j.stride_h), 0), j.lines)
    last = min(max((j.H - 1 - begin) // j.stride_h + 1, above), j.lines)
    return begin, above, last - above


@njit
def columns_inside(j, b):
    """Of the columns of phase column b: the first in the image, how many are before it and in it."""
    begin = b - j.left
    before = min(max(-(begin // j.stride_w), 0), j.pitch)
    last = min(max((j.W - 1 - begin) // j.stride_w + 1, before), j.pitch)
    return begin + before * j.stride_w, before, last - before


@njit
def split_planes(j, image, first, chunk, a, b, to, room, sizes):
    """One phase of 32 channels of an image in nchw: padded planes first, and from them the lines."""
    begin, above, inside = rows_inside(j, first, a)
    column, before, count = columns_inside(j, b)
    # a line more than there are: what is read of it as part of 16 pixels must be numbers
    below, pitch = j.lines + 1 - above - inside, 4 * j.pitch
    channels = min(CHANNELS, j.inputs - CHANNELS * chunk)
    source = image + ((begin + above * j.stride_h) * j.W + column) * 4
    many, rows = (channels, j.plane, 0), j.stride_h * j.W * 4
    if above:
        call(j.copy, (*many, room, image, above, pitch, 0, j.pitch, 0, 0, 4))
    span = (inside, pitch, rows, j.pitch, before, count, j.stride_w * 4)
    call(j.copy, (channels, j.plane, j.x_channel, room + above * pitch, source, *span))
    call(j.copy, (*many, room + (above + inside) * pitch, image, below, pitch, 0, j.pitch, 0, 0, 4))
    if channels < CHANNELS:
        many, at = (CHANNELS - channels, j.plane, 0), room + channels * j.plane
        call(j.copy, (*many, at, image, j.lines + 1, pitch, 0, j.pitch, 0, 0, 4))
    call(j.split, (room, j.plane, to, j.x_part, j.line_count // ROWS, sizes))


@njit
def split_pixels(j, image, first, chunk, a, b, to, sizes):
    """The same in nhwc, where a line is a pixel's channels as they lie."""
    begin, above, inside = rows_inside(j, first, a)
    column, before, count = columns_inside(j, b)
    channels, pixel = min(CHANNELS, j.inputs - CHANNELS * chunk), j.stride_w * j.x_pixel
    for i in range(j.lines):
        line = to + i * j.pitch * 64
        if i < above or i >= above + inside or count == 0:
            call(j.split, (image, 0, 0, line, j.x_part, j.pitch, sizes))
            continue
        at = image + (begin + i * j.stride_h) * j.x_row + column * j.x_pixel
        after = j.pitch - before - count
        if before:
            call(j.split, (image, 0, 0, line, j.x_part, before, sizes))
        call(j.split, (at, pixel, channels, line + before * 64, j.x_part, count, sizes))
        if after:
            call(j.split, (image, 0, 0, line + (before + count) * 64, j.x_part, after, sizes))


@njit
def split_lines(j, x, n, images, first, g, table, panel, room, sizes):
    """x of some images, rows and one group as lines: [chunk][part][phase][image][line]."""
    for i in range(images):
        for chunk in range(j.chunks):
            at = x + (n + i) * j.x_image + (g * j.inputs + chunk * CHANNELS) * j.x_channel
            for phase in range(j.phases):
                a, b = table[j.steps + 2 * phase], table[j.steps + 2 * phase + 1]
                to = panel + chunk * j.x_step + (phase * j.images + i) * j.line_count * 64
                if j.copy:
                    split_planes(j, at, first, chunk, a, b, to, room, sizes)
                else:
                    split_pixels(j, at, first, chunk, a, b, to, sizes)


@njit
def multiply_lines(j, w, b, y, k, g, kind, table, panel, scratch):
    """The sums of one block of output channels for all tiles of a panel, two at a time."""
    channels, steps = min(BLOCK, j.outputs - k), table.ctypes.data
    record = 2 + 3 * j.most  # of a tile: where it begins, whether it is whole, its segments
    tiles = table[j.tiles + kind]
    for i in range(0, tiles, 2):
        one = j.segments + (kind * j.kind_step + i) * record
        two = one if i + 1 == tiles else one + record
        x = (panel + table[one], panel + table[two], j.x_part, 64, steps)
        if channels == BLOCK and table[one + 1] and table[two + 1]:
            at, between = y + table[one + 2], table[two + 2] - table[one + 2]
            call(j.sums, (*x, w, j.steps, b, at, j.y_pixel, between, 64))
            continue
        call(j.sums, (*x, w, j.steps, b, scratch, 4 * BLOCK, ROWS * 4 * BLOCK, 64))
        step = j.y_channel if j.copy else j.y_pixel
        call(j.out, (scratch, y, step, steps + 8 * (one + 2), j.most, channels))
        if two > one:
            call(j.out, (scratch + ROWS * 4 * BLOCK, y, step, steps + 8 * (two + 2), j.most, channels))


@njit
def lines(geometry, t, threads, x, w, b, y, table, memory, sizes, _):
    """This thread's share of the units (images, band of rows, group)."""
    j = geometry[0]
    first_unit, last_unit, first_block, last_block = share(j, t, threads)
    scratch = memory + t * j.room
    panel = scratch + 8 * TILE
    planes = panel + j.panel
    for unit in range(first_unit, last_unit):
        g, band, n = (
            unit % j.groups,
            unit // j.groups % j.bands,
            unit // (j.groups * j.bands) * j.images,
        )
        images = min(j.images, j.N - n)
        last = band == j.bands - 1 and (j.bands > 1 or images < j.images)
        split_lines(j, x, n, images, band * j.rows, g, table, panel, planes, sizes)
        to = y + n * j.y_image + band * j.rows * j.y_row + g * j.outputs * j.y_channel
        for block in range(first_block, last_block):
            k, part = block * BLOCK, g * j.blocks + block
            at, bias = w + part * j.steps * j.w_step, b + part * BLOCK * 4
            multiply_lines(j, at, bias, to + k * j.y_channel, k, g, int(last), table, panel, scratch)


# --- columns: pixels are columns of the right tile ---------------------------------------------------


@njit
def split_columns(j, x, n, images, first, count, g, panel, planes, sizes):
    """x of some images, pixels and one group as right tiles: [image][32 pixels][chunk][part][2]."""
    whole, pairs = count // BLOCK, -(-count // BLOCK)
    for i in range(images):
        for chunk in range(j.chunks):
            channels = min(CHANNELS, j.inputs - chunk * CHANNELS)
            at = x + (n + i) * j.x_image + (g * j.inputs + chunk * CHANNELS) * j.x_channel
            plane = j.x_channel
            if j.copy:  # every second pixel, say: side by side first
                rows, Q = count // j.width, j.width
                at += first // Q * j.stride_h * j.x_row
                span = (rows, 4 * Q, j.stride_h * j.x_row, Q, 0, Q, 4 * j.stride_w)
                call(j.copy, (channels, j.plane, plane, planes, at, *span))
                at, plane = planes, j.plane
            else:
                at += 4 * first
            to = panel + i * j.per_image * j.x_pair + chunk * j.x_step
            full = whole if channels == CHANNELS else 0
            if full:
                call(j.split, (at, plane, CHANNELS, BLOCK, to, j.x_pair, full, sizes))
            for pair in range(full, pairs):
                left = min(BLOCK, count - pair * BLOCK)
                tile = to + pair * j.x_pair
                call(j.split_edge, (at + pair * 4 * BLOCK, plane, channels, left, tile, 0, 1, sizes))


@njit
def columns(geometry, t, threads, x, w, b, y, table, memory, sizes, _):
    """This thread's share of the units (images, run of pixels, group)."""
    j, steps = geometry[0], table.ctypes.data
    first_unit, last_unit, first_block, last_block = share(j, t, threads)
    scratch = memory + t * j.room
    panel = scratch + 8 * TILE
    planes = panel + j.panel
    for unit in range(first_unit, last_unit):
        g, band, n = (
            unit % j.groups,
            unit // j.groups % j.bands,
            unit // (j.groups * j.bands) * j.images,
        )
        images, first = min(j.images, j.N - n), band * j.rows
        count = min(j.rows, j.pixels - first)
        split_columns(j, x, n, images, first, count, g, panel, planes, sizes)
        to = y + n * j.y_image + first * 4 + g * j.outputs * j.y_channel
        for block in range(first_block, last_block):
            k, part = block * BLOCK, g * j.blocks + block
            at, bias, channels = (
                w + part * j.steps * j.w_step,
                b + part * 2 * TILE,
                min(BLOCK, j.outputs - k),
            )
            pairs = -(-count // BLOCK)
            for i in range(images * pairs):
                image, pair = i // pairs, i % pairs
                tile = panel + (image * j.per_image + pair) * j.x_pair
                out = to + image * j.y_image + k * j.y_channel + pair * 4 * BLOCK
                operands = (tile, tile + TILE, 2 * TILE, 64, steps, at, j.steps, bias)
                left = min(BLOCK, count - pair * BLOCK)
                if channels == BLOCK and left == BLOCK:
                    call(j.sums, (*operands, out, j.y_channel, ROWS * j.y_channel, 64))
                else:
                    call(j.sums, (*operands, scratch, 4 * BLOCK, ROWS * 4 * BLOCK, 64))
                    call(j.out, (scratch, out, j.y_channel, channels, left))


# --- numbers that parts cannot hold ------------------------------------------------------------------


@njit(parallel=True, nogil=True, cache=True)
def plainly(x, w, b, y, nhwc, groups, stride, padding, dilation):
    """y in float64, one row of one output channel after the other: slow, and right for every float32 number."""
    N, K = y.shape[0], w.shape[0]
    inputs, outputs = w.shape[1], K // groups
    H, W = (x.shape[1], x.shape[2]) if nhwc else (x.shape[2], x.shape[3])
    P, Q = (y.shape[1], y.shape[2]) if nhwc else (y.shape[2], y.shape[3])
    for plane in prange(N * K):
        n, k = plane // K, plane % K
        sums = np.empty(Q)
        for p in range(P):
            sums[:] = b[k]
            for c, r, s in np.ndindex(inputs, w.shape[2], w.shape[3]):
                h, left = p * stride[0] + r * dilation[0] - padding[0], padding[1] - s * dilation[1]
                if not 0 <= h < H:
                    continue
                first = max(0, -(-left // stride[1]))
                last = min(Q, (W - 1 + left) // stride[1] + 1)
                channel, weight = k // outputs * inputs + c, np.float64(w[k, c, r, s])
                if nhwc:
                    for q in range(first, last):
                        sums[q] += weight * x[n, h, q * stride[1] - left, channel]
                else:
                    for q in range(first, last):
                        sums[q] += weight * x[n, channel, h, q * stride[1] - left]
            for q in range(Q):
                if nhwc:
                    y[n, p, q, k] = sums[q]
                else:
                    y[n, k, p, q] = sums[q]


# --- compiled code -----------------------------------------------------------------------------------


@cache
def compiled(by_columns: bool, parallel: bool, real: int):
    """One of the two loops, compiled here; it returns the bits of the largest number of x."""
    version = 8 * _amx.DIGEST + 4 * by_columns + 2 * parallel + real  # in the key of Numba's cache
    work = columns if by_columns else lines

    def on_threads(x, w, b, y, memory, geometry, table, threads):
        sizes = np.zeros((threads, 16), np.uint32)
        for t in prange(threads):
            configure(real, table.ctypes.data + 8 * geometry[0].configuration)
            at = (x.ctypes.data, w.ctypes.data, b.ctypes.data, y.ctypes.data)
            work(geometry, t, threads, *at, table, memory, sizes.ctypes.data + 64 * t, version)
            release(real)
        return sizes.max()

    read = types.Array(types.float32, 4, "C", readonly=True, aligned=False)
    signature = types.uint32(
        read, types.Array(types.uint16, 1, "C"), types.Array(types.float32, 1, "C"),
        types.Array(types.float32, 4, "C"), types.int64, types.Array(from_dtype(GEOMETRY), 1, "C"),
        types.Array(types.int64, 1, "C"), types.int64,
    )  # fmt: skip
    return njit(signature, parallel=parallel, nogil=True, cache=True)(on_threads)


# --- the plan ----------------------------------------------------------------------------------------


def start(p: Conv2d, parts: int) -> np.ndarray:
    """The numbers of a problem that both forms need."""
    j = np.zeros(1, GEOMETRY)
    here, nchw = j[0], p.layout == "nchw"
    here["N"], here["H"], here["W"], here["groups"] = p.N, p.H, p.W, p.groups
    here["inputs"], here["outputs"] = p.C // p.groups, p.K // p.groups
    here["chunks"] = -(-(p.C // p.groups) // CHANNELS)
    here["steps"], here["blocks"] = here["chunks"] * p.R * p.S, -(-(p.K // p.groups) // BLOCK)
    here["w_step"] = 2 * TILE * parts
    here["stride_h"], here["stride_w"] = p.stride
    here["top"], here["left"] = p.padding[0], p.padding[2]
    here["x_image"], here["y_image"] = 4 * p.C * p.H * p.W, 4 * p.K * p.P * p.Q
    here["x_channel"], here["x_pixel"] = (4 * p.H * p.W, 4) if nchw else (4, 4 * p.C)
    here["y_channel"], here["y_pixel"] = (4 * p.P * p.Q, 4) if nchw else (4, 4 * p.K)
    here["x_row"], here["y_row"] = p.W * here["x_pixel"], p.Q * here["y_pixel"]
    return j


def shapes(p: Conv2d, rows: int, pitch: int) -> list[tuple[int, bool]]:
    """Lines of a tile, and whether tiles run over the ends of rows: the two ways to cut a panel."""
    length = (rows - 1) * pitch + p.Q
    return [(-(-p.Q // -(-p.Q // ROWS)), False), (-(-length // -(-length // ROWS)), True)]


def starts(p: Conv2d, rows: int, pitch: int, high: int, across: bool) -> list[int]:
    """The first line of each tile of one image."""
    if across:
        return list(range(0, (rows - 1) * pitch + p.Q, high))
    return [r * pitch + min(i, p.Q - high) for r in range(rows) for i in range(0, p.Q, high)]


def cut(p: Conv2d, rows: int, images: int, pitch: int, lines_of_image: int, shape: tuple[int, bool]):
    """The tiles of a panel: for each its first line and its segments [pixel of y, first row, rows]."""
    found = []
    for image, first in product(range(images), starts(p, rows, pitch, *shape)):
        segments = []
        for i in range(shape[0]):
            r, q = divmod(first + i, pitch)
            if q >= p.Q or r >= rows:
                continue
            pixel = image * p.P * p.Q * (p.K if p.layout == "nchw" else 1) + r * p.Q + q
            if segments and segments[-1][0] + segments[-1][2] == pixel and sum(segments[-1][1:]) == i:
                segments[-1][2] += 1
            else:
                segments.append([pixel, i, 1])
        found.append((image * lines_of_image + first, segments))
    return found


def lines_of(p: Conv2d, rows: int) -> tuple[list, list, int, int]:
    """(offsets of taps, phases, lines of a row, lines of an image) for so many rows of y."""
    at = [(r * p.dilation[0], s * p.dilation[1]) for r in range(p.R) for s in range(p.S)]
    phases = sorted({(h % p.stride[0], w % p.stride[1]) for h, w in at})
    pitch = p.Q + max(w // p.stride[1] for _, w in at)
    if p.stride[1] == 1:  # the padding right of a row is that left of the next one
        pitch = max(p.Q, p.W + max(p.padding[2:]))
    down = max(h // p.stride[0] for h, _ in at) + 1
    return at, phases, pitch, -(-(rows + down) * pitch // ROWS) * ROWS


def describe_lines(p: Conv2d, parts: int, rows: int, images: int, shape: tuple[int, bool]):
    """Geometry and table for panels of so many rows of y and images."""
    j = start(p, parts)
    here, nchw = j[0], p.layout == "nchw"
    at, phases, pitch, count = lines_of(p, rows)
    here["images"], here["rows"], here["bands"] = images, rows, -(-p.P // rows)
    here["phases"], here["pitch"], here["line_count"] = len(phases), pitch, count
    here["lines"] = count // pitch
    part = len(phases) * images * count * 64
    part += 64 * (part % 4096 == 0)  # parts of a line would share a set of L1
    here["x_part"], here["x_step"] = part, parts * part
    here["plane"] = (count + pitch + 2 * ROWS) * 4 // 128 * 128 + 64
    here["panel"] = here["chunks"] * parts * part + 3 * ROWS * 64
    here["room"] = 8 * TILE + here["panel"] + (CHANNELS * here["plane"] if nchw else 0)
    offsets = [
        c * parts * part + phases.index((h % p.stride[0], w % p.stride[1])) * images * count * 64
        + (h // p.stride[0] * pitch + w // p.stride[1]) * 64
        for c in range(int(here["chunks"])) for h, w in at
    ]  # fmt: skip
    bands, groups_of_images = int(here["bands"]), -(-p.N // images)
    last_rows = p.P - (bands - 1) * rows
    last_images = p.N - (groups_of_images - 1) * images if bands == 1 else 1
    panels = [cut(p, r, i, pitch, count, shape) for r, i in ((rows, images), (last_rows, last_images))]
    here["most"] = max(len(segments) for panel in panels for _, segments in panel)
    here["tiles"] = len(offsets) + 2 * len(phases)
    here["segments"], here["kind_step"] = here["tiles"] + 2, len(panels[0])
    table = [*offsets, *np.ravel(phases), *map(len, panels)]
    for panel in panels:
        for first, segments in panel:
            empty = [[0, 0, 0]] * (int(here["most"]) - len(segments))
            whole = not nchw and [s[1:] for s in segments] == [[0, shape[0]]]
            table += [first * 64, int(whole)]
            for pixel, row, number in [*segments, *empty]:
                table += [pixel * int(here["y_pixel"]), row, number]
    return j, np.array(table, np.int64)


def describe_columns(p: Conv2d, parts: int, pixels: int, images: int):
    """Geometry and table for panels of so many pixels of y and images."""
    j = start(p, parts)
    here = j[0]
    here["images"], here["rows"], here["pixels"] = images, pixels, p.P * p.Q
    here["bands"], here["per_image"] = -(-p.P * p.Q // pixels), -(-pixels // BLOCK)
    here["x_step"] = 2 * TILE * parts
    here["x_pair"] = here["chunks"] * here["x_step"]
    here["width"] = p.Q
    here["plane"] = pixels * 4 // 128 * 128 + 192
    here["panel"] = images * here["per_image"] * here["x_pair"]
    here["room"] = 8 * TILE + here["panel"] + (CHANNELS * here["plane"] if p.stride != (1, 1) else 0)
    return j, np.arange(int(here["chunks"])) * int(here["x_step"])


def panels(p: Conv2d, parts: int, by_columns: bool, threads: int):
    """The best size of a panel: (cycles, rows or pixels, images, shape of a tile, ways to share channels)."""
    chunks, blocks = -(-(p.C // p.groups) // CHANNELS), -(-(p.K // p.groups) // BLOCK)
    steps, room, rate = chunks * p.R * p.S, caches.here().L2, caches.here().rate
    products, found = {3: 6, 2: 3, 1: 1}[parts], []
    whole = p.stride != (1, 1)
    count, unit = (p.P * p.Q, p.Q if whole else BLOCK) if by_columns else (p.P, 1)
    sizes = {min(count, -(-count // n // unit) * unit) for n in range(1, -(-count // unit) + 1)}
    options = [(size, 1) for size in sizes] + [(count, images) for images in range(2, p.N + 1)]
    for size, images in options:
        if by_columns:
            shape, pairs = (ROWS, True), images * -(-size // BLOCK)
            lines, called = pairs * BLOCK, 40 * CHANNELS * images  # runs of pixels far apart
        else:
            _, phases, pitch, lines = lines_of(p, size)
            made = [
                (-(-images * len(starts(p, size, pitch, *s)) // 2), s) for s in shapes(p, size, pitch)
            ]
            pairs, shape = min(made, key=lambda m: m[0] * max(m[1][0], 13))
            lines *= images * len(phases)
            called = 60 * images * len(phases) * (size if p.layout == "nhwc" else CHANNELS + 10 * size)
        panel = lines * chunks * parts * 64
        if panel > room // 2 and (size, images) != (min(sizes), 1):
            continue
        units = -(-p.N // images) * -(-count // size) * p.groups
        for ways in {1, threads}:
            own = -(-blocks // ways)
            weights = own * steps * parts * 2 * TILE
            multiply = pairs * own * (steps * products * 4 * max(shape[0], 13) + 60)
            far = weights / rate if weights * min(p.groups, units) > room - panel else 0
            split = chunks * (25 * lines + called)
            cycles = max(multiply, far) + split + own * steps * parts * 2 * TILE / 64
            found.append((-(-units // (threads // ways)) * cycles, size, images, shape, ways))
    return min(found)


def pack_weights(p: Conv2d, w, b, parts: int, left: bool):
    """(parts of w as tiles, bias as tiles, w, b, bits of the largest number of w)."""
    G, outputs, inputs = p.groups, p.K // p.groups, p.C // p.groups
    blocks, chunks = -(-outputs // BLOCK), -(-inputs // CHANNELS)
    padded = np.zeros((G, blocks * BLOCK, chunks * CHANNELS, p.R, p.S), np.float32)
    padded[:, :outputs, :inputs] = w.reshape(G, outputs, inputs, p.R, p.S)
    largest = int((np.ascontiguousarray(w).view(np.uint32) & np.uint32(0x7FFFFFFF)).max(initial=0))
    if largest >= LARGEST:  # the sums are thrown away
        padded[:] = 0
    found = _amx.bfloat16_parts(padded, parts)
    found = found.reshape(parts, G, blocks, 2, ROWS, chunks, 2, ROWS, p.R, p.S)
    # [group, block, chunk, r, s, part, tile] and in a tile [pair, output, half] or [output, pair, half]
    order = (1, 2, 5, 8, 9, 0, 3, *((7, 4, 6) if left else (4, 7, 6)))
    tiles = _simd.aligned(found.size, np.uint16)
    tiles.reshape([found.shape[i] for i in order])[...] = found.transpose(order)
    bias = np.zeros((G, blocks * BLOCK), np.float32)
    if b is not None:
        bias[:, :outputs] = b.reshape(G, outputs)
    plain = bias[:, :outputs].reshape(-1).copy()
    room = _simd.aligned(bias.size * (1 if left else ROWS), np.float32)
    room.reshape(bias.size, -1)[...] = bias.reshape(-1, 1)
    return tiles, room, np.array(w, order="C"), plain, largest


def plan(p: Conv2d, count: int) -> Plan:
    """The plan for ``count`` products of parts: 6, 3 or 1."""
    real = _amx.unit()
    if not real:
        raise Unsupported(
            "needs a CPU with a matrix unit (AMX with bfloat16) that the system lets it use"
        )
    if p.C // p.groups < SMALLEST:
        raise Unsupported(f"needs at least {SMALLEST} channels a group: a product sums over {CHANNELS}")
    parts, nchw = {6: 3, 3: 2, 1: 1}[count], p.layout == "nchw"
    parallel = p.flops > SERIAL_FLOPS
    threads = config.NUMBA_NUM_THREADS if parallel else 1
    pointwise = (p.R, p.S) == (1, 1) and not any(p.padding)
    by_columns, shaped = pointwise and nchw, p
    if pointwise and not nchw and p.stride == (1, 1):  # rows of all images follow each other
        shaped = replace(p, N=1, H=p.N * p.H)
    _, size, images, shape, ways = panels(shaped, parts, by_columns, threads)
    if by_columns:
        j, table = describe_columns(shaped, parts, size, images)
    else:
        j, table = describe_lines(shaped, parts, size, images, shape)
    here = j[0]
    here["ways"], here["room"] = ways, -(-int(here["room"]) // 4096) * 4096 + 64 * 5
    is_real, left = real == "real", not by_columns
    form = _amx.LEFT * left + _amx.REAL * is_real
    routines = {"sums": (_amx.SUMS, count, shape[0], form)}
    if by_columns:
        routines["split"] = (_amx.RIGHT_PAIRS, parts, 1)
        routines["split_edge"] = (_amx.RIGHT_PAIRS, parts, 0)
        routines["out"] = (_amx.COLUMNS_OUT,)
    else:
        routines["split"] = (_amx.TURNED_LINES if nchw else _amx.LEFT_LINES, parts)
        routines["out"] = (_amx.TURNED_OUT, shape[0]) if nchw else (_amx.LINES_OUT,)
    code = []
    for name, which in routines.items():
        here[name], compiled_code = _amx.entry(*which)
        code.append(compiled_code)
    if nchw and (left or p.stride != (1, 1)):
        near = p.stride[1] if p.stride[1] <= NEAR else 0
        here["copy"] = _amx.entry(_amx.PLANES, near)[0]
    rows = [shape[0]] * 6 + [ROWS] * 2 if left else [ROWS] * 8
    here["configuration"] = len(table)
    table = np.concatenate([table, _amx.configuration(rows).view(np.int64)])
    body, room = compiled(by_columns, parallel, int(is_real)), int(here["room"])
    stride, padding, dilation = p.stride, p.padding[::2], p.dilation

    def pack(w, b):
        return pack_weights(p, w, b, parts, left)

    def run(x, weights):
        packed, bias, w, b, largest_w = weights
        threads = get_num_threads() if parallel else 1
        y = _memory.empty(p.y_shape, p.dtype)
        largest = body(x, packed, bias, y, _memory.scratch(threads * room), j, table, threads)
        if max(largest, largest_w) >= LARGEST:
            plainly(x, w, b, y, not nchw, p.groups, stride, padding, dilation)
        return y

    return Plan(run, pack=pack, workspace=threads * room, code=(body, *code))
