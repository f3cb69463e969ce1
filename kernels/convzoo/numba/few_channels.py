"""Lanes are pixels, so a layer with few output channels wastes none of them.

After    numba/register_tile   (new here: its lanes are output channels, of which 4 leave 12 lanes empty)
Idea     A tile is U output channels by V vectors of pixels, U being K/G or an even part of it, up to 8.
         A weight is copied into all lanes; U weights and V vectors of x serve U·V multiply-adds, and the
         sums stay in registers for all taps. A vector of pixels is one load from wherever it lies. With
         stride 1 and no padding x is read in place, and the last vector of a row moves back over its
         neighbour so that no lane is empty. Else a band of rows is copied into padded sheets, sorted by
         the stride (``_pixels``), which costs little, for each number is read U·R·S times.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32, float64
         inside: Wp[G,K/U,taps,U] made by pack (taps in the order c,r,s)
Threads  Numba's, each with an equal share of (image, group, band, U channels); one thread below 1 MFLOP.
         The interpreter lock is released
Cost     FLOP   2·N·K·P·Q'·C/G·R·S        Q' = Q up to whole vectors, or a band's run with its row ends
         bytes  x read K/G/U times, from cache or from its sheets, which are written once; y once
Limits   U = 1 and 2 load as much as they multiply: half of the peak
         many input channels make the sheets outgrow the cache; many output channels read them often
         nhwc output with K > 1 is transposed in registers and stored pixel by pixel
Source   own; Zhang, Franchetti and Low, High Performance Zero-Memory Overhead Direct Convolutions,
         2018, for a convolution as shifted runs of x
"""

from functools import cache

import numpy as np
from numba import config, from_dtype, prange, types

from convzoo.numba import _pixels, _simd
from convzoo.numba._kept import kept
from convzoo.plan import Plan
from convzoo.problem import Conv2d

MOST = 8  # output channels in a tile
SERIAL_FLOPS = 1e6  # about 10 microseconds on one thread


@cache
def compiled(dtype: str, parallel: bool):
    """The kernel for one dtype, compiled here and never again while running."""
    version = 2 * _pixels.DIGEST + parallel  # in a closure, hence in the key of Numba's cache on disk
    work = _pixels.work

    def on_threads(x, w, b, y, buffer, geometry, table, shares):
        at, to, sheets = x.ctypes.data, y.ctypes.data, buffer.ctypes.data
        weights, bias = w.ctypes.data, b.ctypes.data
        for t in prange(shares):
            work(t, shares, at, weights, bias, to, sheets, geometry, table, version)

    number = from_dtype(np.dtype(dtype))
    read, write = types.Array(number, 4, "C", readonly=True, aligned=False), types.Array(number, 1, "C")
    record = types.Array(from_dtype(_pixels.GEOMETRY), 1, "C")
    numbers = types.Array(types.int64, 1, "C")
    y = types.Array(number, 4, "C")
    signature = types.void(read, write, write, y, write, record, numbers, types.int64)
    return kept(signature, parallel=parallel, nogil=True)(on_threads)


def plan(p: Conv2d) -> Plan:
    parallel = p.flops > SERIAL_FLOPS
    # as many shares as threads can be; to ask at each call how many there are takes a microsecond
    shares = config.NUMBA_NUM_THREADS if parallel else 1
    geometry, table, tile_code = _pixels.describe(p, shares, MOST)
    j, body = geometry[0], compiled(p.dtype, parallel)
    G, U, blocks, outputs = p.groups, int(j["channels"]), int(j["blocks"]), p.K // p.groups
    lanes, places, shape = _simd.lanes(p.dtype), np.arange(p.taps), p.y_shape
    size, dtype = shares * int(j["buffer"]) // p.itemsize, np.dtype(p.dtype)

    def pack(w, b):
        bias = np.zeros((G, blocks * U), dtype)
        if b is not None:
            bias[:, :outputs] = b.reshape(G, outputs)
        return _simd.pack_panels(w, G, U, lanes, places), bias.reshape(-1)

    def run(x, weights):
        w, b = weights
        y, buffer = np.empty(shape, dtype), np.empty(size, dtype)
        body(x, w, b, y, buffer, geometry, table, shares)
        return y

    return Plan(run, pack=pack, workspace=size * p.itemsize, code=(tile_code, body))
