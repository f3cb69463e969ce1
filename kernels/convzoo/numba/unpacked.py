"""Weights are read where they lie, so that an eager call, which would pack them for itself, packs nothing.

After    numba/pointwise   (new here: no pack; a filter of any size, whose patches are laid out instead)
Idea     A layer of few pixels and many channels has more weights than pixels. To lay them out for one
         call costs as much as reading them once more and writing them all. A tile of pixels in the lanes
         needs no such layout: a weight is copied into all lanes from wherever it is, here from 8 rows of
         w at a time, whose cache lines serve 16 taps each. What is laid out is x: row t of a matrix holds
         the numbers that tap t meets, one for each pixel; a 1x1 filter without stride finds x so already.
         Planes of 7 x 7 or 14 x 14 pixels fill vectors but for one pixel or four: up to 8 such pixels are
         inner products of a row of w with a row of their taps, with the taps in the lanes.
Shapes   x[N,C,H,W] · w[K,C/G,R,S] → y[N,K,P,Q]   float32, float64
         inside: X[C·R·S,P·Q] for one image at a time, and the last pixels as X'[pixels,C·R·S]
Threads  Numba's: each lays out an equal share of the taps, then has an equal share of (tile of pixels,
         block of 8 output channels); one thread below 2 MFLOP. The interpreter lock is released
Cost     FLOP   2·N·K·P·Q·C/G·R·S                     (the problem's own)
         bytes  p.min_bytes + 2·N·C·R·S·P·Q·itemsize; w once for each tile of 48 pixels from L3
Limits   nchw only. Layers with many pixels read w again and again, and copy R·S times their x
Source   own; Goto and van de Geijn, Anatomy of High-Performance Matrix Multiplication, 2008, for what
         packing is good for: here the matrix that would be packed is used once
"""

from functools import cache

import numpy as np
from numba import from_dtype, get_num_threads, njit, prange, types

from convzoo.numba import _memory, _simd
from convzoo.numba._kept import kept
from convzoo.numba._simd import call
from convzoo.plan import Plan, Unsupported
from convzoo.problem import Conv2d

ALGORITHM = "gemm"
VECTORS = 3  # of pixels in a tile
SERIAL_FLOPS = 2e6  # about 20 microseconds on one thread
FEW = 8  # pixels after the last whole vector that are inner products; more of them are a vector of their own
NEAR = 4  # strides up to this are taken from whole vectors
GEOMETRY = _simd.record(
    """
    tile_1 tile_2 tile_3 dot copy copy_one lanes item N H W P Q R S groups inputs outputs
    high low wide blocks vectors tiles last laid stride_h stride_w dilation_h dilation_w top left
    x_image x_row column y_image w_row
    """
)  # the last five are in bytes


@njit
def lay_out_tap(j, plane, r, s, target):
    """The numbers that tap (r, s) of a channel meets: one for each pixel of y, zeros in the padding."""
    h, v = r * j.dilation_h - j.top, s * j.dilation_w - j.left
    above = min(max(-(h // j.stride_h), 0), j.P)  # output rows that lie above the first row of x
    below = min(max((j.H - 1 - h) // j.stride_h + 1, above), j.P)
    left = min(max(-(v // j.stride_w), 0), j.Q)
    right = min(max((j.W - 1 - v) // j.stride_w + 1, left), j.Q)
    line, step = j.Q * j.item, j.stride_w * j.item
    source = plane + ((h + above * j.stride_h) * j.W + v + left * j.stride_w) * j.item
    call(j.copy, (target, plane, above, line, 0, j.Q, 0, 0, step))
    to = target + above * line
    call(
        j.copy,
        (to, source, below - above, line, j.stride_h * j.W * j.item, j.Q, left, right - left, step),
    )
    call(j.copy, (target + below * line, plane, j.P - below, line, 0, j.Q, 0, 0, step))


@njit
def lay_out(geometry, t, threads, image, matrix, numbers, _):
    """This thread's share of the channels: their rows of X, and in X' what these hold of the last pixels."""
    j = geometry[0]
    C, taps = j.groups * j.inputs, j.R * j.S
    begin, end = C * t // threads, C * (t + 1) // threads
    for c in range(begin, end if j.laid else begin):
        plane, row = image + c * j.H * j.W * j.item, matrix + c * taps * j.x_row
        for tap in range(taps):
            lay_out_tap(j, plane, tap // j.S, tap % j.S, row + tap * j.x_row)
    row, count = begin * taps, (end - begin) * taps
    at = (matrix if j.laid else image) + row * j.x_row + (j.P * j.Q - j.last) * j.item
    for i in range(j.last if count else 0):
        to = numbers + i * j.column + row * j.item
        call(j.copy_one, (to, at + i * j.item, 1, 0, 0, count, 0, count, j.x_row))


@njit
def multiply(geometry, t, threads, x, numbers, w, b, y, _):
    """This thread's share of the units (group, tile of pixels, block of output channels) of one image."""
    j = geometry[0]
    units, taps = j.groups * j.tiles * j.blocks, j.inputs * j.R * j.S
    for unit in range(units * t // threads, units * (t + 1) // threads):
        i, g, first = unit // j.blocks % j.tiles, unit // (j.blocks * j.tiles), unit % j.blocks * j.high
        k, channels, plane = g * j.outputs + first, min(j.high, j.outputs - first), j.P * j.Q * j.item
        weights, to, bias = w + k * j.w_row, y + k * plane, b + k * j.item
        f = j.vectors * i // j.tiles * j.lanes
        count = min(j.vectors * (i + 1) // j.tiles * j.lanes, j.P * j.Q - j.last) - f
        if count > 0:
            tile = j.tile_3 if count > 2 * j.lanes else j.tile_2 if count > j.lanes else j.tile_1
            at = x + g * taps * j.x_row + f * j.item
            out = (to + f * j.item, plane, bias, count, channels)
            call(tile, (at, j.x_row, weights, j.w_row, taps, *out))
        if i < j.tiles - 1:
            continue
        to += plane - j.last * j.item
        for u in range(0, channels, j.low):
            own, out = weights + u * j.w_row, (plane, bias + u * j.item, min(j.low, channels - u))
            for v in range(0, j.last, j.wide):
                column, at = numbers + v * j.column + g * taps * j.item, to + u * plane + v * j.item
                call(j.dot, (own, j.w_row, column, j.column, taps, at, *out, min(j.wide, j.last - v)))


@cache
def compiled(dtype: str, parallel: bool):
    """The kernel for one dtype, compiled here and never again while running."""
    version = 2 * _simd.DIGEST + parallel  # in a closure, hence in the key of Numba's cache on disk

    def on_threads(x, w, b, y, scratch, geometry, threads):
        j = geometry[0]
        w, b = w.ctypes.data, b.ctypes.data
        for n in range(j.N):
            image, to = x.ctypes.data + n * j.x_image, y.ctypes.data + n * j.y_image
            numbers = scratch
            matrix = scratch + j.last * j.column
            if j.laid or j.last:
                for t in prange(threads):
                    lay_out(geometry, t, threads, image, matrix, numbers, version)
            matrix = matrix if j.laid else image
            for t in prange(threads):
                multiply(geometry, t, threads, matrix, numbers, w, b, to, version)

    number = from_dtype(np.dtype(dtype))
    read = types.Array(number, 4, "C", readonly=True, aligned=False)
    bias = types.Array(number, 1, "C", readonly=True, aligned=False)
    record = types.Array(from_dtype(GEOMETRY), 1, "C")
    signature = types.void(
        read, read, bias, types.Array(number, 4, "C"), types.int64, record, types.int64
    )
    return kept(signature, parallel=parallel, nogil=True)(on_threads)


def describe(p: Conv2d, lanes: int):
    """All numbers of the problem: the record for the compiled code."""
    j, item = np.zeros(1, GEOMETRY), p.itemsize
    here, pixels = j[0], p.P * p.Q
    for name in ("N", "H", "W", "P", "Q", "R", "S", "groups"):
        here[name] = getattr(p, name)
    here["stride_h"], here["stride_w"] = p.stride
    here["dilation_h"], here["dilation_w"] = p.dilation
    here["top"], here["left"] = p.padding[0], p.padding[2]
    here["lanes"], here["item"] = lanes, item
    here["inputs"], here["outputs"] = p.C // p.groups, p.K // p.groups
    here["last"] = pixels % lanes if pixels % lanes <= FEW else 0
    here["vectors"] = -(-(pixels - int(here["last"])) // lanes)
    here["tiles"] = max(1, -(-int(here["vectors"]) // VECTORS))
    here["high"] = 8 if _simd.many_registers() else 4
    here["wide"] = 1 if here["last"] == 1 else 2 if here["last"] == 2 else 4
    here["low"] = max(2, int(here["high"]) // (1 if here["wide"] < 4 else 2))
    here["blocks"] = -(-int(here["outputs"]) // int(here["high"]))
    here["laid"] = (p.R, p.S, p.stride) != (1, 1, (1, 1)) or any(p.padding)
    lines = (pixels + lanes) * item // 64 + 1
    here["x_row"] = (lines | 1) * 64 if here["laid"] else p.H * p.W * item
    here["column"] = (-(-p.C * p.R * p.S * item // 64) | 1) * 64  # an odd number of cache lines
    here["x_image"], here["y_image"] = p.C * p.H * p.W * item, p.K * pixels * item
    here["w_row"] = p.taps * item
    return j


def plan(p: Conv2d) -> Plan:
    if p.layout != "nchw":
        raise Unsupported("needs layout nchw, whose pixels lie side by side")
    lanes, item = _simd.lanes(p.dtype), p.itemsize
    parallel = p.flops > SERIAL_FLOPS
    geometry, body = describe(p, lanes), compiled(p.dtype, parallel)
    j, code = geometry[0], [body]
    tiles = [(f"tile_{v}", _simd.PIXEL_TILE, (int(j["high"]), v, 1)) for v in (1, 2, 3)]
    near = p.stride[1] if p.stride[1] <= NEAR else 0
    copies = [("copy", _simd.COPY_EVERY, (near,)), ("copy_one", _simd.COPY_EVERY, (0,))]
    dot = ("dot", _simd.DOT_TILE, (int(j["low"]), int(j["wide"])))
    for name, routine, shape in (*tiles, *copies, dot):
        j[name], compiled_code = _simd.entry(routine, item, lanes, *shape)
        code.append(compiled_code)
    workspace = int(j["last"] * j["column"] + j["laid"] * p.C * p.R * p.S * j["x_row"])
    zeros = np.zeros(p.K, p.dtype)

    def run(x, weights):
        w, b = weights
        threads = get_num_threads() if parallel else 1
        y = _memory.empty(p.y_shape, p.dtype)
        w, b = np.ascontiguousarray(w), zeros if b is None else np.ascontiguousarray(b)
        body(x, w, b, y, _memory.scratch(workspace), geometry, threads)
        return y

    return Plan(run, workspace=workspace, code=tuple(code))
