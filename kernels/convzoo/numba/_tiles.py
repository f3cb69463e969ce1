"""Which pixels share a tile of ``_simd.CHANNEL_TILE``, and which taps of the filter they meet.

Idea     A tile adds, for each of its pixels, all taps that one of them at least meets; where a tap lies in
         the padding of another, it adds a zero. So the order of the pixels decides how many zeros are
         added. As they lie, a tile of y is stored in one piece. Sorted by the rows and columns of the
         filter that meet x, pixels with the same taps come together: at 7 x 7 and 3 x 3 taps that saves
         a tenth, with a dilation of 12 at 33 x 33 two fifths. Several small images are one band: their
         weights are read once, and their last pixels fill a tile. The estimate in cycles weighs all that,
         and what the caches of the machine hold.
Use      ``choose(p, threads)`` gives a Way, and ``table(p, way, ...)`` the int64 that compiled code reads.
"""

from typing import NamedTuple

import numpy as np

from convzoo import caches
from convzoo.numba import _simd
from convzoo.problem import Conv2d

V = _simd.PANEL
RUN = 32  # channels of nchw that follow each other before the next tap: their lines of x stay in L1
SORTED = 2**13  # pixels of a band at most that are sorted: the borders of larger ones matter little
PLACES = 3  # numbers of a tile before its places: first run, runs, parts


class Way(NamedTuple):
    """How the pixels are cut into bands and tiles."""

    U: int  # pixels in a tile
    rows: int  # of y in a band
    together: int  # images in a band, which then has all rows
    order: str  # of the pixels: "plain" as they lie, or sorted by the "rows" or first by the "columns" they meet
    copied: bool  # x is copied and padded; else no tile has pixels that meet different taps
    chunks: int = 1  # of the weights of a block of channels, each of which all tiles of a band use


class Band(NamedTuple):
    """The tiles of a band."""

    pixels: np.ndarray  # [tiles, U] places in the band, image by image; the last one repeated
    counts: np.ndarray  # pixels of each
    taps: np.ndarray  # [4, tiles] rows and columns of the filter that some pixel meets: first, last + 1


def taps_met(p: Conv2d):
    """For each row, then for each column of y: the first filter row or column that meets x, and the last + 1."""

    def met(size, inside, taps, stride, before, dilation):
        at = np.arange(size) * stride - before
        low = np.clip(-(at // dilation), 0, taps)
        return low, np.maximum(low, np.clip(-((at - inside) // dilation), 0, taps))

    (top, _, left, _), (down, right), (high, wide) = p.padding, p.stride, p.dilation
    return *met(p.P, p.H, p.R, down, top, high), *met(p.Q, p.W, p.S, right, left, wide)


def band_of(p: Conv2d, way: Way, first: int = 0) -> Band:
    """The tiles of the band whose first row is ``first``."""
    rows = min(way.rows, p.P - first)
    f = np.arange(way.together * rows * p.Q)
    row, column = f // p.Q % rows + first, f % p.Q
    above, below, left, right = taps_met(p)
    taps = np.stack([above[row], below[row], left[column], right[column]])
    if way.order != "plain":
        major, minor = (0, 2) if way.order == "rows" else (2, 0)
        f = np.lexsort((f, taps[minor + 1], taps[minor], taps[major + 1], taps[major]))
        taps = taps[:, f]
    begins = np.zeros(1, np.int64)  # of pixels that must not share a tile with those before
    if not way.copied:
        begins = np.append(begins, 1 + np.flatnonzero((taps[:, 1:] != taps[:, :-1]).any(axis=0)))
    ends = np.append(begins[1:], len(f))
    tiles = -(-(ends - begins) // way.U)
    which = np.repeat(np.arange(len(tiles)), tiles)
    starts = begins[which] + (np.arange(len(which)) - (np.cumsum(tiles) - tiles)[which]) * way.U
    places = np.minimum(starts[:, None] + np.arange(way.U), ends[which][:, None] - 1)
    low, high = taps[::2, places].min(axis=2), taps[1::2, places].max(axis=2)
    taps = np.stack([low[0], high[0], low[1], high[1]])
    return Band(f[places], np.minimum(way.U, ends[which] - starts), taps)


def thinned(p: Conv2d) -> bool:
    """Whether a copy of x has only the pixels that a filter of one tap meets."""
    return (p.R, p.S) == (1, 1) and p.stride != (1, 1) and p.layout == "nchw" and not any(p.padding)


def runs_of_weights(p: Conv2d) -> int:
    """The groups of RUN channels, of which each tile meets the same taps."""
    return max(1, -(-(p.C // p.groups) // RUN)) if p.layout == "nchw" and not along_rows(p) else 1


def area(taps):
    """The number of filter places of each tile."""
    return (taps[1] - taps[0]) * (taps[3] - taps[2])


# --- the choice -----------------------------------------------------------------------------------------


def choose(p: Conv2d, threads: int, known: caches.Caches) -> Way:
    """The way with the least estimate of cycles on ``threads`` cores with these caches."""
    item, padded, lanes = p.itemsize, any(p.padding), _simd.lanes(p.dtype)
    blocks, channels = p.groups * -(-p.K // p.groups // (V * lanes)), p.taps // (p.R * p.S)
    weights, thin = p.taps * V * lanes * item, thinned(p)  # of a block
    chunks = min(runs_of_weights(p), -(-weights * 6 // known.L2))  # one is used, and one asked for
    room = 0.6 * known.L2  # y and what else there is need some, too

    def cycles(way, rows, sums):
        """``sums``: of one block of a band's tiles."""
        lines = np.minimum((rows - 1) * p.stride[0] + p.extent[0], p.padded[0] if way.copied else p.H)
        line = p.padded[1] if way.copied else p.W
        if thin and way.copied:
            lines, line = rows, p.Q
        held = lines * line * p.C * item * way.together
        share = -(-p.N // way.together * -(-p.P // rows) * blocks // threads)
        passes = -(-share // blocks)
        kept = (passes > 1) & (blocks * weights + held < room)
        far = np.where(kept, 0, weights) / known.rate
        # weights are asked for ahead, but not all of their time is hidden; x is not
        sums = np.maximum(sums, far) + np.minimum(sums, far) / 4
        if way.together > 1 and held + 2 * weights / chunks > room:
            return np.inf
        sums = sums + np.where(held + 2 * weights / chunks > room, held / known.rate, 0)
        # a copy reads whole lines in their order, a tile in place some numbers of each channel
        count, size = (p.C, line) if p.layout == "nchw" else (1, line * p.C)
        copying = held / known.rate + way.together * count * (40 + lines * (12 + 3 * (size // lanes)))
        return share * sums + passes * (copying if way.copied else held / known.rate * 3)

    def tile(U, taps, parts=1):
        return channels * taps * (U * V / 2 + 1) + 4 * U + 10 + 30 * parts

    found = []
    heights = _simd.heights_for(p.stride[1] * (item if p.layout == "nchw" else p.C * item))
    rows, small = np.unique(-(-p.P // np.arange(1, p.P + 1))), p.P * p.Q <= SORTED
    above, below, left, right = taps_met(p)
    met = (below - above).mean() * (right - left).mean()
    several = [n for n in range(2, p.N + 1) if p.N % n == 0 and n * p.P * p.Q <= SORTED // 4]
    ways = [("plain", True)] if padded or p.layout == "nchw" else []
    ways += [("plain", False)] if not padded else []
    for U in heights:
        # a smaller tile is another compilation and reads the weights more often: it must be worth it
        worse = 1 if heights[0] == U else 1.03
        for order, copied in ways:
            way = Way(U, p.P, 1, order, copied, chunks)
            taps = area(band_of(p, way).taps).mean() if small and padded else p.R * p.S
            times = cycles(way, rows, -(-rows * p.Q // U) * tile(U, taps)) * worse
            best = int(times.argmin())
            found.append((float(times[best]), way._replace(rows=int(rows[best]))))
    if padded and met < 0.95 * p.R * p.S:
        ways += [(order, copied) for order in ("rows", "columns") for copied in (True, False)]
    for U in heights[:2] if small else ():
        worse = 1 if heights[0] == U else 1.03
        for together in [1, *several]:
            for order, copied in ways:
                way = Way(U, p.P, together, order, copied, chunks)
                parts = 1 if order == "plain" else min(U, 1 + U // p.Q + U // 8)
                sums = tile(U, area(band_of(p, way).taps), parts).sum()
                found.append((float(cycles(way, np.int64(p.P), sums)) * worse, way))
    return min(found)[1]


# --- the table ------------------------------------------------------------------------------------------


def along_rows(p: Conv2d) -> bool:
    """Whether a run is a row of the filter for one channel of nchw: where that is longer than all channels."""
    return p.layout == "nchw" and p.C // p.groups < p.S


def runs_of(p: Conv2d, taps, line: int, pixel: int, plane: int):
    """The runs of taps in the filter rows and columns ``taps``: (offset in x, offset in w, taps) each."""
    low, high, left, right = taps
    r, s = (a.ravel() for a in np.mgrid[low:high, left:right])
    inputs, columns = p.C // p.groups, 1
    run = RUN if p.layout == "nchw" else inputs
    # a row of taps is one run
    if along_rows(p) or (p.layout == "nhwc" and p.groups == p.dilation[1] == 1):
        r, s, columns = np.arange(low, high if left < right else low), left, right - left
        run = 1 if along_rows(p) else run
    starts = np.arange(0, inputs, run)[:, None]
    counts = np.minimum(run, inputs - starts)
    x = starts * plane + r * p.dilation[0] * line + s * p.dilation[1] * pixel
    w = starts * p.R * p.S + (r * p.S + s) * counts
    w = w * (V * _simd.lanes(p.dtype) * p.itemsize)
    return np.stack([x, w, counts * columns + 0 * x], axis=-1).reshape(-1, 3)


def places_of_taps(p: Conv2d):
    """For each tap of w in the order c, r, s: at which of all it comes to lie when packed, as runs_of wants it."""
    inputs = p.C // p.groups
    run = 1 if along_rows(p) else RUN if p.layout == "nchw" else max(1, inputs)
    c, r, s = (a.ravel() for a in np.indices((inputs, p.R, p.S)))
    start = c // run * run
    return start * p.R * p.S + (r * p.S + s) * np.minimum(run, inputs - start) + c - start


def parts_of(y, counts, item: int):
    """Where pixels of tiles follow each other in y: (offset in y of pixel 0, first, pixels) [tiles, most, 3]."""
    fresh = (np.diff(y, axis=1, prepend=y[:, :1]) != item) & (np.arange(y.shape[1]) < counts[:, None])
    tile, first = np.nonzero(fresh)
    pieces = fresh.sum(axis=1)
    ends = np.append(first[1:], 0)
    ends[np.cumsum(pieces) - 1] = counts  # of the last part of each tile
    parts = np.zeros((len(y), pieces.max(), 3), np.int64)
    which = np.arange(len(tile)) - (np.cumsum(pieces) - pieces)[tile]
    parts[tile, which] = np.stack([y[tile, first] - first * item, first, ends - first], axis=1)
    return parts.reshape(len(y), -1), pieces


def table(p: Conv2d, way: Way, steps: tuple[int, ...], lines: tuple[int, ...], origin: int):
    """int64 for compiled code, and at which of them begin what.

    ``steps`` in x, or in its copy, are from image to image, to the row and to the pixel that the next of y begins
    with, ``lines`` from line to line, from pixel to pixel and from channel to channel, in bytes; ``origin`` is where
    pixel 0 lies for tap 0. First stand the bands: their first tile, and the last + 1. Then the tiles: first run,
    runs of each RUN of channels, parts, the places of the pixels in x, the parts of y. Last the runs.
    """
    nchw, item = p.layout == "nchw", p.itemsize
    y_pixel = item if nchw else p.K * item
    above, below, _, _ = taps_met(p)
    known, spans, end = {}, [], 0
    places, ys, counts, taps = [], [], [], []
    for first in range(0, p.P, way.rows):
        rows = min(way.rows, p.P - first)
        key = above[first : first + rows].tobytes(), below[first : first + rows].tobytes()
        if key not in known:  # most bands are alike
            band = band_of(p, way, first)
            n, row, column = (band.pixels // (rows * p.Q), band.pixels // p.Q % rows, band.pixels % p.Q)
            places.append(origin + n * steps[0] + row * steps[1] + column * steps[2])
            ys.append(n * p.K * p.P * p.Q * item + (row * p.Q + column) * y_pixel)
            counts.append(band.counts)
            taps.append(band.taps)
            known[key] = end, end + len(band.counts)
            end += len(band.counts)
        spans.append(known[key])
    counts_of_bands = counts
    places, ys, counts = (np.concatenate(parts) for parts in (places, ys, counts))
    parts, pieces = parts_of(ys, counts, item) if nchw else (ys, counts)
    kinds, which = np.unique(np.concatenate(taps, axis=1), axis=1, return_inverse=True)
    runs = [runs_of(p, kind, *lines) for kind in kinds.T.tolist()]
    lengths = np.array([len(run) for run in runs])
    starts = (np.cumsum(lengths) - lengths)[which]
    tiles = np.column_stack([starts, lengths[which] // runs_of_weights(p), pieces, places, parts])
    begin, size = 2 * len(spans), tiles.shape[1]
    begins = dict(tiles=begin, tile_size=size, parts=PLACES + way.U, runs=begin + tiles.size)
    begins |= dict(most_tiles=max(map(len, counts_of_bands)))
    return np.concatenate([np.ravel(spans), tiles.ravel(), *(run.ravel() for run in runs)]).astype(
        np.int64
    ), begins
