"""Each channel has a filter of its own: nine multiply-adds a number, so memory decides, not arithmetic.

After    numba/few_channels   (new here: no sum over channels, so x must pass through the core only once)
Idea     With groups = C there is nothing to share between channels. In nchw a lane is a pixel: a tile of 4
         or 7 rows of y takes its vectors of x from L1 three times in place, shifted by a column; rows of
         x serve all rows of the tile that need them; what lies in the padding is masked off, so nothing
         is copied. Planes that are narrower than a vector register take narrower vectors. With stride 2
         even and odd columns are sorted apart in registers. In nhwc a lane is a channel: 8 pixels of a row
         share the weights, and each column of x serves all pixels whose filters meet it. All else (other
         filters, strides that differ, dilation in nchw, K > C in nhwc) is a layer with few channels:
         padded sheets and one tile for all (_pixels).
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,1,R,S] → y[N,K,P,Q] or [N,P,Q,K]   groups = C   float32, float64
         inside: Wp[K,1+R·S] with the bias first, nhwc: Wp[C/lanes,1+R·S,lanes], made by pack
Threads  Numba's, each with an equal share of the tiles of all planes (nhwc: of the rows); one thread below
         0.3 MFLOP. The interpreter lock is released
Cost     FLOP   2·N·K·P·Q'·R·S            Q' = Q up to whole vectors; products with padding included
         bytes  p.min_bytes, and x again from L1 for each column of the filter
Limits   nchw in place: R = S = 3 or 5, stride 1 or 2 both ways, and 7 with stride 1; no dilation, a few
         columns of padding
         two loads in three cross a cache line, and x within L2 is computed slower than it is loaded
Source   own; the row tile: Zhang, Lo and Lu, High Performance Depthwise and Pointwise Convolutions on
         Mobile Devices, 2020 (arXiv:2001.02504)
"""

from functools import cache

import numpy as np
from numba import config, from_dtype, njit, prange, types

from convzoo.numba import _pixels, _simd
from convzoo.numba._kept import kept
from convzoo.numba._simd import call
from convzoo.plan import Plan, Unsupported
from convzoo.problem import Conv2d

SERIAL_FLOPS = 3e5  # about 5 microseconds on one thread
MOST = 8  # output channels in a tile on sheets
# what fits in the registers: rows of a tile in nchw by filter and stride, pixels of a tile in nhwc
ROWS = {
    (3, 1): (7, 4, 2, 1), (5, 1): (7, 4, 2, 1), (7, 1): (7, 4, 2, 1), (3, 2): (4, 2, 1), (5, 2): (1,),
}  # fmt: skip
PIXELS = (8, 4, 2, 1)
SPAN = 5  # int64 of a tile in nhwc: offset in x, in y, columns of the filter, their first, which tile
GEOMETRY = _simd.record(
    """
    tile tile_1 tile_2 tile_3 edge N C K H P tiles times columns zeros
    x_plane y_plane w_plane pitch y_row top left R S stride_h dilation_h
    item spans vectors vector x_image x_row x_pixel x_tap y_pixel
    """
)  # steps and offsets are in bytes


@njit
def planes(geometry, t, shares, x, w, b, y, buffer, table, _):
    """nchw: this share of the tiles of all planes of y."""
    j, at = geometry[0], table.ctypes.data
    total = j.N * j.K * j.tiles
    begin, end = total * t // shares, total * (t + 1) // shares
    while begin < end:
        plane, first = begin // j.tiles, begin % j.tiles
        count, several, k = min(j.tiles - first, end - begin), 1, plane % j.K
        if count == j.tiles and j.times == 1:
            several = min((end - begin) // j.tiles, j.K - k)
        source = x + (plane // j.K * j.C + k // j.times) * j.x_plane
        here = (source, w + k * j.w_plane, y + plane * j.y_plane, several, first, count)
        shape = (j.x_plane, j.y_plane, j.H, j.pitch, j.P, j.y_row, j.top, at + j.zeros, j.left)
        call(j.tile, (*here, *shape, j.columns, at))
        begin += count * several


@njit
def channels(geometry, t, shares, x, w, b, y, buffer, table, _):
    """nhwc: this share of the rows of all images of y."""
    j = geometry[0]
    for row in range(j.N * j.P * t // shares, j.N * j.P * (t + 1) // shares):
        n, h = row // j.P, row % j.P * j.stride_h - j.top
        low = min(max(0, (-h + j.dilation_h - 1) // j.dilation_h), j.R)
        high = max(low, min(j.R, (j.H - h + j.dilation_h - 1) // j.dilation_h))
        source, to = x + n * j.x_image + (h + low * j.dilation_h) * j.x_row, y + row * j.y_row
        for i in range(j.spans):
            at, there, B, s, which = (
                table[SPAN * i], table[SPAN * i + 1], table[SPAN * i + 2], table[SPAN * i + 3],
                table[SPAN * i + 4],
            )  # fmt: skip
            tile = j.tile if which == 0 else j.tile_1 if which == 1 else j.tile_2
            if which > 2:
                tile = j.tile_3 if which == 3 else j.edge
            A = high - low if B else 0
            taps = (j.x_pixel, A, j.dilation_h * j.x_row, B, j.x_tap)
            weights = (w, (1 + low * j.S + s) * j.vector, (j.S - B) * j.vector, j.R * j.S)
            out = (to + there, j.y_pixel, j.vectors, j.C)
            call(tile, (source + at, *taps, *weights, *out))


@cache
def compiled(dtype: str, way: str, parallel: bool):
    """One of three ways for one dtype, compiled here and never again while running."""
    ways = ("planes", "channels", "sheets")
    version = 8 * _pixels.DIGEST + 2 * ways.index(way) + parallel  # in the key of Numba's cache on disk
    number = from_dtype(np.dtype(dtype))
    read, write = types.Array(number, 4, "C", readonly=True, aligned=False), types.Array(number, 1, "C")
    layout = _pixels.GEOMETRY if way == "sheets" else GEOMETRY
    record, numbers = types.Array(from_dtype(layout), 1, "C"), types.Array(types.int64, 1, "C")
    y = types.Array(number, 4, "C")
    signature = types.void(read, write, write, y, write, record, numbers, types.int64)
    share = {"planes": planes, "channels": channels, "sheets": on_sheets}[way]

    def on_threads(x, w, b, y, buffer, geometry, table, shares):
        at, to, sheets = x.ctypes.data, y.ctypes.data, buffer.ctypes.data
        weights, bias = w.ctypes.data, b.ctypes.data
        for t in prange(shares):
            share(geometry, t, shares, at, weights, bias, to, sheets, table, version)

    return kept(signature, parallel=parallel, nogil=True)(on_threads)


@njit
def on_sheets(geometry, t, shares, x, w, b, y, sheets, table, version):
    """Everything else: this share of the bands of all planes of y."""
    _pixels.work(t, shares, x, w, b, y, sheets, geometry, table, version)


def in_planes(p: Conv2d):
    """nchw: the record, the masks of each vector of columns with zeros behind them, and the tile."""
    j, item, stride, L = np.zeros(1, GEOMETRY), p.itemsize, p.stride[0], _simd.lanes(p.dtype)
    while L * item > 16 and p.Q <= L // 2:
        L //= 2
    heights = ROWS[p.S, stride]
    if stride == 2 and _simd.lanes(p.dtype) > L:  # half vectors take more shuffles for each row
        heights = heights[-2:]
    rows = min((T for T in heights if T <= p.P), key=lambda T: -(-p.P // T) * (T + 1))
    q, lane = np.arange(0, p.Q, L)[:, None], np.arange(L)
    starts = range(p.S) if stride == 1 else range(0, (stride + 1) * L, L)
    loads = [q * stride - p.padding[2] + start for start in starts]
    inside = [(first + lane >= 0) & (first + lane < p.W) for first in loads] + [q + lane < p.Q]
    masks = np.stack([(lanes << lane).sum(axis=1) for lanes in inside], axis=1)
    table = np.concatenate([masks.ravel(), np.zeros(p.W + 1, np.int64)])
    values = dict(
        N=p.N, C=p.C, K=p.K, H=p.H, P=p.P, tiles=-(-p.P // rows), times=p.K // p.C, columns=len(q),
        zeros=8 * masks.size, x_plane=p.H * p.W * item, y_plane=p.P * p.Q * item, pitch=p.W * item,
        w_plane=(1 + p.R * p.S) * item, y_row=p.Q * item, top=p.padding[0], left=p.padding[2] * item,
    )  # fmt: skip
    tile = _simd.entry(_simd.PLANE_ROWS, item, L, p.R, rows, stride)
    return fill(j, values, [tile]), table, tile[1]


def in_channels(p: Conv2d):
    """nhwc: the record, the spans of a row of y (runs of pixels with the same taps), and a tile."""
    j, item, L = np.zeros(1, GEOMETRY), p.itemsize, _simd.lanes(p.dtype)
    w = np.arange(p.Q) * p.stride[1] - p.padding[2]
    low = np.clip(-(w // p.dilation[1]), 0, p.S)
    high = np.clip(-((w - p.W) // p.dilation[1]), low, p.S)
    spans, q = [], 0
    while q < p.Q:
        same = (low[q:] == low[q]) & (high[q:] == high[q])
        length = p.Q - q if same.all() else int(same.argmin())
        which = next(i for i, pixels in enumerate(PIXELS) if pixels <= length)
        if high[q] - low[q] < p.S:
            which = len(PIXELS)
        at = (w[q] + low[q] * p.dilation[1]) * p.C * item
        spans.append([at, q * p.K * item, high[q] - low[q], low[q], which])
        q += (*PIXELS, 1)[which]
    values = dict(
        N=p.N, C=p.C, H=p.H, P=p.P, top=p.padding[0], R=p.R, S=p.S, stride_h=p.stride[0],
        dilation_h=p.dilation[0], spans=len(spans), vectors=-(-p.C // L), vector=L * item,
        x_image=p.H * p.W * p.C * item, x_row=p.W * p.C * item, x_pixel=p.stride[1] * p.C * item,
        x_tap=p.dilation[1] * p.C * item, y_row=p.Q * p.K * item, y_pixel=p.K * item,
    )  # fmt: skip
    windows = (3, 5, 7) if _simd.many_registers() else (3, 5)
    shared = p.S in windows and p.stride[1] < 3 and p.dilation[1] == 1
    shape = (p.S, p.stride[1]) if shared else (0, 1)
    tiles = [_simd.entry(_simd.PIXEL_CHANNELS, item, L, pixels, *shape) for pixels in PIXELS]
    tiles.append(_simd.entry(_simd.PIXEL_CHANNELS, item, L, 1, 0, 1))  # where taps are in the padding
    return fill(j, values, tiles), np.array(spans, np.int64).ravel(), tiles[0][1]


def fill(j, values: dict[str, int], tiles: list):
    """The record with its values and the addresses of its tiles."""
    names = ("tile", "tile_1", "tile_2", "tile_3", "edge")
    for name, value in [*values.items(), *zip(names, (tile for tile, _ in tiles), strict=False)]:
        j[0][name] = value
    return j


def way_of(p: Conv2d) -> str:
    """In which of the three ways a problem is done."""
    if p.layout == "nhwc":
        return "channels" if p.K == p.C else "sheets"
    square = p.R == p.S and p.stride[0] == p.stride[1] and p.dilation == (1, 1)
    in_place = square and (p.S, p.stride[0]) in ROWS and p.padding[2] <= _simd.lanes(p.dtype) // 4
    return "planes" if in_place else "sheets"


def plan(p: Conv2d) -> Plan:
    if p.groups != p.C:
        raise Unsupported("needs groups = C, a filter for each channel")
    parallel, way, dtype, shape = p.flops > SERIAL_FLOPS, way_of(p), np.dtype(p.dtype), p.y_shape
    # as many shares as threads can be; to ask at each call how many there are takes a microsecond
    shares, size, lanes = config.NUMBA_NUM_THREADS if parallel else 1, 0, _simd.lanes(p.dtype)
    if way == "sheets":
        geometry, table, tile = _pixels.describe(p, shares, MOST)
        size = shares * int(geometry[0]["buffer"]) // p.itemsize
        blocks, U = int(geometry[0]["blocks"]), int(geometry[0]["channels"])
    else:
        geometry, table, tile = (in_planes if way == "planes" else in_channels)(p)
    body, places, nothing = compiled(p.dtype, way, parallel), np.arange(p.taps), np.empty(0, dtype)
    C, K, taps = p.C, p.K, p.taps

    def pack(w, b):
        if way == "sheets":
            bias = np.zeros((C, blocks * U), dtype)
            if b is not None:
                bias[:, : K // C] = b.reshape(C, -1)
            return _simd.pack_panels(w, C, U, lanes, places), bias.reshape(-1)
        packed = np.zeros((-(-K // lanes) * lanes, 1 + taps), dtype)
        packed[:K, 1:] = w.reshape(K, taps)
        if b is not None:
            packed[:K, 0] = b
        if way == "channels":
            turned = packed.reshape(-1, lanes, 1 + taps).transpose(0, 2, 1)
            packed = _simd.aligned(packed.size, dtype)
            packed.reshape(turned.shape)[:] = turned
        return packed.reshape(-1), nothing

    def run(x, weights):
        w, b = weights
        y, buffer = np.empty(shape, dtype), np.empty(size, dtype)
        body(x, w, b, y, buffer, geometry, table, shares)
        return y

    return Plan(run, pack=pack, workspace=size * p.itemsize, code=(tile, body))
