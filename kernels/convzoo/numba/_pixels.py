"""Pixels in the lanes: where the vectors of pixels of a band of y lie in x and in y, for any geometry.

Idea     A tile (``_simd.PLACED_TILE``) adds all taps to V vectors of pixels of U output channels. A vector
         is a run of numbers of x under every tap; the taps differ in where the run begins. Where x has
         padding, a stride or channels side by side (nhwc), it is copied into sheets, a band of rows at a
         time: padded with zeros, rows and columns sorted by their remainder modulo the stride, one sheet
         for each channel. Then the pixels of a band are runs in every sheet. Wide rows are cut into
         vectors row by row; narrow ones are not: a vector runs on over the row end, and its segments, one
         for each row, say which lanes belong to y. The plan takes the way that needs fewer vectors.
Use      ``describe(p, threads, most)`` gives the record and the table that the compiled ``work`` reads;
         ``work(t, threads, x, w, b, y, buffer, geometry, table, digest)`` does one thread's share.
"""

import hashlib
from pathlib import Path

import numpy as np
from numba import njit

from convzoo.numba import _simd
from convzoo.numba._simd import call
from convzoo.problem import Conv2d

DIGEST = (
    _simd.DIGEST ^ int(hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:15], 16)
) >> 2  # room for two bits of a kernel's own
BUFFER = 2**16  # bytes of a band's sheets: in L2, next to what else a thread reads
NEAR = 8  # numbers of x this far apart are picked from whole vectors, others one by one
VECTORS = 256  # in a band at most: their table shares L1 with x
SEGMENT = 4  # int64 for each: offset in y of lane 0, first lane, lanes, row of the band
GEOMETRY = _simd.record(
    """
    tile copy channels vectors item lanes N P Q groups inputs outputs blocks bands taps
    x_image x_group x_row y_image y_channel y_row y_step per_row width most segments offsets
    buffer sheets phases_h phases_w sheet rows_more pitch stride_h top H line plane step
    """
)  # steps and offsets are in bytes


# --- compiled: filling the sheets, and one thread's share --------------------------------------------


@njit
def fill_sheets(j, image, p, rows, buffer, table):
    """The sheets of the channels of a group for the output rows p to p + rows."""
    lines = rows + j.rows_more
    for i in range(j.inputs * j.phases_h * j.phases_w):
        c, a, s = i // (j.phases_h * j.phases_w), i // j.phases_w % j.phases_h, i % j.phases_w
        rest_h, phase = table[j.sheets + a], j.sheets + j.phases_h + 3 * s
        left, count, source = table[phase], table[phase + 1], table[phase + 2]
        first = -((p * j.stride_h + rest_h - j.top) // j.stride_h)  # ceil of what is missing above
        end = (j.H - 1 - rest_h + j.top) // j.stride_h - p + 1
        above = min(max(first, 0), lines)
        below = min(max(lines - end, 0), lines - above)
        inside = lines - above - below
        to, step = buffer + i * j.sheet, j.stride_h * j.line
        at = image + c * j.plane + ((p + above) * j.stride_h + rest_h - j.top) * j.line + source
        call(j.copy, (to, image, above, j.pitch, 0, j.width, 0, 0, j.step))
        to += above * j.pitch
        call(j.copy, (to, at, inside, j.pitch, step, j.width, left, count, j.step))
        call(j.copy, (to + inside * j.pitch, image, below, j.pitch, 0, j.width, 0, 0, j.step))


@njit
def fill_band(j, source, w, b, y, rows, channels, table, last):
    """All tiles of one block of output channels of a band."""
    at, size = table.ctypes.data, 8 * SEGMENT * j.most
    vectors = rows * j.per_row
    if j.per_row == 0:
        vectors = ((rows - 1) * j.width + j.Q + j.lanes - 1) // j.lanes
    for f in range(0, vectors, j.vectors):
        places, segments = at + 8 * f, at + 8 * j.segments + f * size
        if f + j.vectors > vectors:  # the places after the last vector may be outside of x
            for v in range(j.vectors):
                here = min(f + v, vectors - 1)
                last[v] = table[here]
                for i in range(SEGMENT * j.most):
                    last[8 + v * SEGMENT * j.most + i] = table[j.segments + here * SEGMENT * j.most + i]
            places, segments = last.ctypes.data, last.ctypes.data + 64
        taps = (w, at + 8 * j.offsets, j.taps)
        call(j.tile, (source, places, *taps, y, segments, j.most, rows, j.y_step, b, channels))


@njit
def work(t, threads, x, w, b, y, buffer, geometry, table, _):
    """One thread's share of the units (image, group, band, block of output channels)."""
    j = geometry[0]
    held, last = -1, np.empty(8 + 8 * SEGMENT * j.most, np.int64)
    units = j.N * j.groups * j.bands * j.blocks
    for unit in range(units * t // threads, units * (t + 1) // threads):
        band, block = unit // j.blocks, unit % j.blocks
        image, p = band // j.bands, j.P * (band % j.bands) // j.bands
        n, g = image // j.groups, image % j.groups
        rows = j.P * (band % j.bands + 1) // j.bands - p
        source = x + n * j.x_image + g * j.x_group
        if j.buffer:
            sheets = buffer + t * j.buffer
            if band != held:
                fill_sheets(j, source, p, rows, sheets, table)
                held = band
            source = sheets
        else:
            source += p * j.x_row
        k, part = block * j.channels, (g * j.blocks + block) * j.channels * j.item
        to = y + n * j.y_image + (g * j.outputs + k) * j.y_channel + p * j.y_row
        channels = min(j.channels, j.outputs - k)
        fill_band(j, source, w + part * j.taps, b + part, to, rows, channels, table, last)


# --- planning ----------------------------------------------------------------------------------------


def tile_vectors(force: int | None = None) -> tuple[int, ...]:
    """Vectors of pixels in a tile of 1, 2, ... 8 output channels: what fits in the registers."""
    return (8, 8, 7, 6, 5, 4, 3, 3) if _simd.many_registers(force) else (8, 5, 3, 2, 2, 2, 1, 1)


def tile_shape(outputs: int, most: int) -> tuple[int, int]:
    """Output channels and vectors of pixels in a tile; the channels are cut into even parts."""
    U = -(-outputs // -(-outputs // most)) if outputs else 1
    return U, tile_vectors()[U - 1]


def row_vectors(p: Conv2d, rows: int, lanes: int, overlap: bool):
    """(row, first column, lanes) of the vectors of a band, row by row; with overlap the last moves back."""
    columns = np.arange(0, p.Q, lanes)
    counts = np.minimum(lanes, p.Q - columns)
    if overlap:
        columns, counts = np.minimum(columns, p.Q - lanes), np.full(len(columns), lanes)
    row, i = np.divmod(np.arange(rows * len(columns)), len(columns))
    return row, columns[i], counts[i]


def run_segments(p: Conv2d, rows: int, lanes: int, width: int, pixel: int):
    """The segments of vectors that run on over row ends: [vectors, most, SEGMENT]."""
    f = np.arange(0, (rows - 1) * width + p.Q, lanes)[:, None]
    row = f // width + np.arange((lanes + width - 2) // width + 1)
    low, high = np.maximum(f, row * width), np.minimum(f + lanes, row * width + p.Q)
    count = np.where(row < rows, np.maximum(0, high - low), 0)
    offset = np.where(count, (row * p.Q + f - row * width) * pixel, 0)
    return np.stack([offset, np.where(count, low - f, 0), count, row], axis=-1)


def best_rows(p: Conv2d, shape: tuple[int, int], blocks: int, vectors, size, threads: int) -> int:
    """Rows of a band for the least estimate of cycles; vectors(rows), size(rows): of a band, its sheets."""
    U, V = shape
    rows = np.arange(1, p.P + 1)
    fits = (size(rows) < BUFFER) & (vectors(rows) <= VECTORS)
    rows = rows[: max(1, int(fits.sum()))]
    bands = -(-p.P // rows)
    share = -(-p.N * p.groups * bands * blocks // threads)
    rows = -(-p.P // bands)  # of the largest band
    tile = p.R * p.S * (p.C // p.groups) * (max(U, 2) * V + 1) + 4 * U * V + 60
    cycles = share * (-(-vectors(rows) // V) * tile + 100)
    cycles = cycles + -(-share // max(blocks, 1)) * size(rows) / 8
    return int(rows[cycles.argmin()])


def describe(p: Conv2d, threads: int, most: int):
    """The record and the table for ``work``; ``most`` output channels in a tile at most."""
    lanes, item, G = _simd.lanes(p.dtype), p.itemsize, p.groups
    inputs, outputs, nchw = p.C // G, p.K // G, p.layout == "nchw"
    (stride_h, stride_w), (dilation_h, dilation_w) = p.stride, p.dilation
    U, V = tile_shape(outputs, most if nchw or p.K == 1 else min(most, lanes))
    j = np.zeros(1, GEOMETRY)
    here = j[0]
    step = 1 if nchw else p.C  # numbers from pixel to pixel of x
    line, plane = p.W * step * item, p.H * p.W * item if nchw else item
    direct = not any(p.padding) and stride_w == 1 and step == 1 and lanes <= p.Q
    rests_h = sorted({r * dilation_h % stride_h for r in range(p.R)})
    rests_w = sorted({s * dilation_w % stride_w for s in range(p.S)})
    more, width = (p.R - 1) * dilation_h // stride_h, p.Q + (p.S - 1) * dilation_w // stride_w

    def sheet(rows):  # an odd number of cache lines, against sheets that share cache sets
        return ((rows + more) * width * item + 63) // 128 * 128 + 64

    def size(rows):
        return rows * 0 if direct else inputs * len(rests_h) * len(rests_w) * sheet(rows)

    per_row = -(-p.Q // lanes)

    def vectors_in_runs(rows):
        return -(-((rows - 1) * width + p.Q) // lanes)

    runs = not direct and vectors_in_runs(p.P) < p.P * per_row
    vectors = vectors_in_runs if runs else lambda rows: rows * per_row
    blocks = -(-outputs // U)
    rows = best_rows(p, (U, V), blocks, vectors, size, threads)
    pixel = item if nchw else p.K * item  # from pixel to pixel of y
    if runs:
        segments = run_segments(p, rows, lanes, width, pixel)
        places = np.arange(len(segments)) * lanes * item
    else:
        row, column, count = row_vectors(p, rows, lanes, direct)
        places = column * item + row * (stride_h * line if direct else width * item)
        fields = [(row * p.Q + column) * pixel, column * 0, count, row]
        segments = np.stack(fields, axis=-1)[:, None]
    c, r, s = np.indices((inputs, p.R, p.S)).reshape(3, -1)
    if direct:
        offsets = c * plane + r * dilation_h * line + s * dilation_w * item
    else:
        a, z = (np.searchsorted(x, y) for x, y in (
            (rests_h, r * dilation_h % stride_h), (rests_w, s * dilation_w % stride_w)))  # fmt: skip
        offsets = ((c * len(rests_h) + a) * len(rests_w) + z) * sheet(rows)
        offsets += (r * dilation_h // stride_h * width + s * dilation_w // stride_w) * item
    start = np.array(rests_w) - p.padding[2]  # the column of x under the first one of a sheet
    first = np.clip(-(start // stride_w), 0, width)
    last = np.clip((p.W - 1 - start) // stride_w + 1, first, width)
    phases = np.stack([first, last - first, (start + first * stride_w) * step * item], axis=1)
    parts = [places, segments.ravel(), offsets, rests_h, phases.ravel()]
    table = np.concatenate(parts).astype(np.int64)
    begins = np.cumsum([0, *map(len, parts)])
    values = dict(
        channels=U, vectors=V, item=item, lanes=lanes, N=p.N, P=p.P, Q=p.Q, groups=G, inputs=inputs,
        outputs=outputs, blocks=blocks, bands=-(-p.P // rows), taps=inputs * p.R * p.S,
        x_image=p.C * p.H * p.W * item, x_group=inputs * plane, x_row=stride_h * line,
        y_image=p.K * p.P * p.Q * item, y_channel=p.P * p.Q * item if nchw else item, y_row=p.Q * pixel,
        y_step=p.P * p.Q * item if nchw else pixel, per_row=0 if runs else per_row, width=width,
        most=segments.shape[1], segments=begins[1], offsets=begins[2], sheets=begins[3],
        phases_h=len(rests_h), phases_w=len(rests_w), sheet=sheet(rows), rows_more=more,
        pitch=width * item, stride_h=stride_h, top=p.padding[0], H=p.H, line=line, plane=plane,
        step=stride_w * step * item,
        buffer=0 if direct else (size(rows) + 2 * lanes * item + 4095) // 4096 * 4096 + 320,
    )  # fmt: skip
    for name, value in values.items():
        here[name] = value
    here["tile"], tile_code = _simd.entry(
        _simd.PLACED_TILE, item, lanes, U, V, int(not nchw and p.K > 1)
    )
    near = stride_w * step if stride_w * step <= NEAR else 0
    here["copy"], _ = _simd.entry(_simd.COPY_EVERY, item, lanes, near)
    return j, table, tile_code
