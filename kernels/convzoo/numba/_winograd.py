"""Winograd convolution: how the tiles are laid out and shared, one thread's work, and the plan.

``work_of`` has the loops around the functions of ``_winograd_code``; ``layer`` makes the plan. A filter of
r x r taps with stride 1 is taken as it is. Others are cut into pieces of at most r x r taps, which become
channels: D = C times the pieces. Arrays inside, for vectors of L lanes, tiles of m x m outputs,
A = m + r - 1 and F = A * A frequencies, infinity first:

    u[K/2L][F][D][2L]       transformed filters; a panel is 2L output channels
    V[F][sub][D/L][tb][L]   transformed tiles of a block; a sub-block is what one product takes, the last
                            one may have fewer tiles
    M[F][tiles][2L]         products of the block with one panel
    S[rows][columns][L]     pixels on their way from planes to vectors of channels, or back

A last tile with e < m outputs in a row or a column needs only e + r - 1 of its A frequencies there. Those
are the first ones, so that all tiles share the filters (``matrices``); the others have fewer tiles to
multiply. Within a block the tiles come kind by kind: first those in the last column, then those in neither
the last column nor the last row, then those in the last row, then those in both. So the tiles of every
frequency lie side by side:

    the last column has it, the last row too      all four kinds
    the last column has it, the last row not      the first and the second
    the last row has it, the last column not      the second and the third
    neither has it                                the second

Code is compiled once for one dtype, layout, number of lanes, r and list of points; shapes are run-time
numbers. Lanes and registers are parameters, so that AVX2 code is tested on a machine with AVX-512.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
from numba import from_dtype, get_num_threads, njit, prange, types
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from convzoo.numba import _memory, _simd
from convzoo.numba._kept import kept
from convzoo.numba._winograd_code import I64, Recipe, integer, ir, operations, pitch_of
from convzoo.plan import Plan, Unsupported
from convzoo.problem import Conv2d

STAGGER = 192  # bytes between the frequencies of V, lest multiples of 4096 evict each other
CACHE = 700e3  # bytes of V and M that stay in the second-level cache beside a panel
SHARED_CACHE = 16e6  # bytes of panels that stay in the last-level cache from one call to the next
CHANNELS = 16  # of which one thread transforms the filters at a time
SERIAL_FLOPS = 4e6  # of the definition: below, waking a second thread costs more than it saves


# --- pieces, and the sizes that compiled code gets ---------------------------------------------------


class Pieces(NamedTuple):
    """The pieces of a filter in the order in which they become channels; ``layer`` says what they are.

    A piece with less than r taps in a column has none at the highest power of that polynomial, so its
    products at infinity are zero there; likewise in a row. ``starts`` are the pieces with which begin those
    that are whole in columns and rows, those that are whole in rows alone, and those that are in neither.
    """

    at: list[tuple[int, int]]  # row and column of the first tap
    starts: tuple[int, int, int]


def pieces_of(p: Conv2d, r: int) -> Pieces:
    """Cut a filter into pieces of at most r x r taps that lie a stride apart."""

    def cut(taps: int, stride: int) -> list[tuple[int, bool]]:
        """Where the pieces of a column or a row begin, and whether they have r taps."""
        lengths = [(first, -(-(taps - first) // stride)) for first in range(min(stride, taps))]
        return [(first + stride * i, n - i >= r) for first, n in lengths for i in range(0, n, r)]

    rows, columns = cut(p.R, p.stride[0]), cut(p.S, p.stride[1])
    kinds = [
        [(h, w) for h, in_column in rows for w, in_row in columns if (in_column, in_row) == kind]
        for kind in ((True, False), (True, True), (False, True), (False, False))
    ]
    one, two, three = itertools.accumulate(map(len, kinds[:3]))
    return Pieces(list(itertools.chain(*kinds)), (one, two, three))


def products_of(p: Conv2d, r: int, points: str) -> int:
    """How many products pieces of r x r taps need, for all tiles of one channel of y."""
    m, pieces = len(points.split(",")) + 2 - r, pieces_of(p, r)
    one, two, three = pieces.starts
    high, wide = -(-p.P // m), -(-p.Q // m)  # tiles, each with one frequency at infinity
    finite = p.P + high * (r - 2), p.Q + wide * (r - 2)  # frequencies of the others, of all tiles
    in_an_image = finite[0] * finite[1] * len(pieces.at) + finite[0] * wide * (three - one)
    return p.N * p.C * (in_an_image + high * finite[1] * two + high * wide * (two - one))


class Numbers(NamedTuple):
    """The sizes of a problem and how its work is split, as the compiled code gets them."""

    C: int
    H: int
    W: int
    K: int
    P: int
    Q: int
    down: int  # the stride
    right: int
    high: int  # tiles in a column of one image
    wide: int  # tiles in a row
    tiles: int  # in all images
    tile_parts: int  # part i * panel_parts + j does the i-th share of the blocks
    panel_parts: int  # and of them the j-th share of the panels
    blocks: int
    room: int  # tiles of the largest block
    bytes: int  # of the scratch memory of one part
    D: int  # channels of all pieces
    one: int  # Pieces.starts, in channels
    two: int
    three: int
    at_once: tuple[int, ...]  # how many tiles one product takes, where a frequency has 0, 1, 2, ...
    offsets: tuple[int, ...]  # row and column of the first pixel for each piece, counted from x[0, 0]

    @property
    def flat(self) -> np.ndarray:
        return np.array([*self[:-2], *self.at_once, *self.offsets], np.int64)


AT_ONCE = len(Numbers._fields) - 2  # where these begin


def block_of(recipe: Recipe) -> int:
    """The most tiles of a block."""
    return 8 * recipe.tiles


# --- one thread's work -------------------------------------------------------------------------------


@njit
def counts(grid, n, i, j):
    """How many tiles come before tile (i, j) of image n: in the last column, in none, in the last row, in both.

    The last column and row count only where they are ragged: where their tiles have fewer than m outputs.
    """
    high, wide, ragged_h, ragged_w = grid
    column = ragged_w * (n * high + i)
    row = ragged_h * (n * wide + (j if i == high - 1 else 0))
    both = ragged_h * ragged_w * n
    return column - both, (n * high + i) * wide + j - column - row + both, row - both, both


@njit
def order_of(grid, begin, end):
    """How many tiles a block has of each kind, and what to add to the counts for places in the block."""
    high, wide, _, _ = grid
    first = counts(grid, begin // (high * wide), begin // wide % high, begin % wide)
    last = counts(grid, end // (high * wide), end // wide % high, end % wide)
    a, b, c, d = last[0] - first[0], last[1] - first[1], last[2] - first[2], last[3] - first[3]
    return (a, b, c, d), (-first[0], a - first[1], a + b - first[2], a + b + c - first[3])


@njit
def place_of(grid, shift, n, i, j):
    """Where a tile comes in its block."""
    high, wide, ragged_h, ragged_w = grid
    count = counts(grid, n, i, j)
    in_row, in_column = ragged_h * (i == high - 1) == 1, ragged_w * (j == wide - 1) == 1
    if in_row:
        return count[3] + shift[3] if in_column else count[2] + shift[2]
    return count[0] + shift[0] if in_column else count[1] + shift[1]


@njit
def tiles_of(kinds, in_row, in_column):
    """The first tile of a block, and how many, for a frequency that the last row and column have or not."""
    n = kinds[1]
    if in_row:
        n += kinds[2]
    if in_column:
        n += kinds[0]
        if in_row:
            n += kinds[3]
    return 0 if in_column else kinds[0], n


@njit
def slot_of(numbers, kinds, place, cb, blocks, in_row, in_column):
    """Which vector of a frequency of V has block ``cb`` of the channels of a tile."""
    first, n = tiles_of(kinds, in_row, in_column)
    tb, q = numbers[AT_ONCE + n], place - first
    begin = q // tb * tb
    return begin * blocks + cb * min(tb, n - begin) + q - begin


@cache
def work_of(recipe: Recipe) -> Callable:
    """The function that does one part of a convolution, as Numba compiles it."""
    do, A, L, vector = operations(recipe), recipe.A, recipe.lanes, recipe.vector
    clear, read_pixels, write_pixels = do.clear, do.read_pixels, do.write_pixels
    read_planes, write_planes = do.read_planes, do.write_planes
    gather_planes, merge_pixels = do.gather_planes, do.merge_pixels
    transform_columns, transform_rows, outputs, product = do.columns, do.rows, do.outputs, do.product
    size, m, r, F = vector // L, recipe.m, recipe.r, A * A
    pitch, OFFSETS = pitch_of(recipe), AT_ONCE + 1 + block_of(recipe)
    line = L // math.gcd(L, m)  # tiles whose outputs fill vectors of pixels
    nhwc = recipe.layout == "nhwc"

    @njit(inline="always")
    def read_row(x, to, C, H, W, n, h, w, c, pixels, before, inside):
        """Pixels w ... w + pixels - 1 of row h, for channels c ... c + L - 1; zeros outside of x."""
        if h < 0 or h >= H or inside == 0:
            clear(to, pixels)
        else:
            if before > 0:
                clear(to, before)
            at, channels = to + before * vector, min(L, C - c)
            if nhwc:
                source = x + (((n * H + h) * W + w + before) * C + c) * size
                read_pixels(source, C * size, at, inside, channels)
            else:
                source = x + (((n * C + c) * H + h) * W + w + before) * size
                for i in range(0, inside, L):
                    some = min(L, inside - i)
                    read_planes(source + i * size, H * W * size, at + i * vector, some, channels)
            if pixels > before + inside:
                clear(at + inside * vector, pixels - before - inside)

    @njit(inline="always")
    def read_strip(x, S, C, H, W, n, h, w, c, down, right, columns, high):
        """BT d of the columns of a strip of tiles, for one vector of channels of one piece."""
        rows = high + r - 1
        pixels = (columns - 1) * right + 1
        before = min(max(-w, 0), pixels)  # columns of padding
        inside = max(min(pixels, W - w) - before, 0)
        if nhwc and C - c >= L and inside == pixels and h >= 0 and h + (rows - 1) * down < H:
            source = x + (((n * H + h) * W + w) * C + c) * size
            transform_columns(source, down * W * C * size, right * C * size, S, columns, high)
        else:
            for i in range(rows):
                row = S + i * pitch * vector
                read_row(x, row, C, H, W, n, h + i * down, w, c, pixels, before, inside)
            transform_columns(S, pitch * vector, right * vector, S, columns, high)

    @njit(inline="always")
    def read_shared(x, S, numbers, n, h, w, d, lanes, columns, high):
        """BT d of the columns of a strip of tiles, for one vector whose lanes are of several pieces."""
        C, H, W, down, right = numbers[0], numbers[1], numbers[2], numbers[6], numbers[7]
        image, rows = x + n * C * H * W * size, high + r - 1
        for i in range(rows):
            row = S + i * pitch * vector
            if nhwc:
                clear(row, columns)
            else:
                at, piece, channel = integer(numbers) + OFFSETS * 8, d // C, d % C
                for q in range(0, columns, L):
                    some, first, to = min(L, columns - q), w + q * right, row + q * vector
                    gather_planes(
                        image, at, piece, channel, lanes, C, H, W, h + i * down, first, right, to, some
                    )
        lane = 0
        while nhwc and lane < lanes:
            piece, channel = (d + lane) // C, (d + lane) % C
            some = min(C - channel, lanes - lane)
            left, top = w + numbers[OFFSETS + piece * 2 + 1], h + numbers[OFFSETS + piece * 2]
            first = max(0, (right - 1 - left) // right)
            inside = min(columns, (right - 1 + W - left) // right) - first
            for i in range(rows):
                row = top + i * down
                if row >= 0 and row < H and inside > 0:
                    source = image + ((row * W + left + first * right) * C + channel) * size
                    to = S + (i * pitch + first) * vector
                    merge_pixels(source, right * C * size, to, inside, lane, some)
            lane += some
        transform_columns(S, pitch * vector, vector, S, columns, high)

    @njit(inline="always")
    def store_tile(
        source, V, numbers, kinds, place, cb, blocks, stride, shared_h, shared_w, tall, broad
    ):
        """Finish the transform of a tile with ``tall`` x ``broad`` outputs."""
        to = slot_of(numbers, kinds, place, cb, blocks, True, True) * vector
        aside = to
        if broad == m and shared_w < A:
            aside = slot_of(numbers, kinds, place, cb, blocks, True, False) * vector
        rows = min(shared_h, tall + r - 1)
        transform_rows(source, rows, V + to, shared_w, aside - to, stride, broad)
        if rows < tall + r - 1:
            to = slot_of(numbers, kinds, place, cb, blocks, False, True) * vector
            aside = to
            if shared_w < A:
                aside = slot_of(numbers, kinds, place, cb, blocks, False, False) * vector
            source += rows * pitch * vector
            at = V + rows * A * stride + to
            transform_rows(source, A - rows, at, shared_w, aside - to, stride, broad)

    @njit(inline="always")
    def read_block(x, V, S, numbers, grid, kinds, shift, stride, begin, end):
        C, H, W, P, Q, down, right = (
            numbers[0], numbers[1], numbers[2], numbers[4], numbers[5], numbers[6], numbers[7],
        )  # fmt: skip
        (high, wide, _, _), D = grid, numbers[16]
        strip = ((pitch - 1) // right + 2 - r) // m  # tiles whose pixels fit in a row of S
        blocks = (D + L - 1) // L
        # frequencies that the tiles of the last row and column have, too
        shared_h, shared_w = P - (high - 1) * m + r - 1, Q - (wide - 1) * m + r - 1
        for cb in range(blocks):
            lanes = min(L, D - cb * L)
            tile = begin
            while tile < end:
                n, i, j = tile // (high * wide), tile // wide % high, tile % wide
                some = min(strip, wide - j, end - tile)
                tall = min(m, P - i * m)
                columns = min(some * m, Q - j * m) + r - 1
                d = cb * L
                if C - d % C >= lanes:
                    h = i * m * down + numbers[OFFSETS + d // C * 2]
                    w = j * m * right + numbers[OFFSETS + d // C * 2 + 1]
                    read_strip(x, S, C, H, W, n, h, w, d % C, down, right, columns, tall)
                else:
                    h, w = i * m * down, j * m * right
                    read_shared(x, S, numbers, n, h, w, d, lanes, columns, tall)
                for t in range(some):
                    source, broad = S + t * m * vector, min(m, Q - (j + t) * m)
                    place = place_of(grid, shift, n, i, j + t)
                    store_tile(
                        source,
                        V,
                        numbers,
                        kinds,
                        place,
                        cb,
                        blocks,
                        stride,
                        shared_h,
                        shared_w,
                        tall,
                        broad,
                    )
                tile += some

    @njit(inline="always")
    def multiply_block(V, u, M, numbers, grid, kinds, V_stride, M_stride):
        P, Q, (high, wide, _, _) = numbers[4], numbers[5], grid
        D, one, two, three = numbers[16], numbers[17], numbers[18], numbers[19]
        shared_h, shared_w = P - (high - 1) * m + r - 1, Q - (wide - 1) * m + r - 1
        blocks = (D + L - 1) // L
        for f in range(F):
            begin, n = tiles_of(kinds, f // A < shared_h, f % A < shared_w)
            tb = numbers[AT_ONCE + n]
            # at infinity pieces that are not whole have filters of zeros; one channel of them clears M
            first = min(one, D - 1) // L * L if f % A == 0 else 0
            last = D
            if f < A:
                last = max(two, first + 1)
            elif f % A == 0:
                last = max(three, first + 1)
            weights = u + (f * D + first) * 2 * vector
            for q in range(0, n, tb):
                some = min(tb, n - q)
                pixels = V + f * V_stride + (q * blocks + first // L * some) * vector
                sums = M + f * M_stride + (begin + q) * 2 * vector
                product(some, pixels, weights, sums, last - first)

    @njit(inline="always")
    def write_rows(S, y, K, P, Q, n, k, h, w, rows, columns):
        channels = min(L, K - k)
        for r in range(rows):
            source = S + r * line * m * vector
            if nhwc:
                target = y + (((n * P + h + r) * Q + w) * K + k) * size
                write_pixels(source, target, K * size, columns, channels)
            else:
                target = y + (((n * K + k) * P + h + r) * Q + w) * size
                for q in range(0, columns, L):
                    some = min(L, columns - q)
                    write_planes(source + q * vector, target + q * size, P * Q * size, some, channels)

    @njit(inline="always")
    def write_block(M, bias, y, S, numbers, grid, shift, stride, begin, end, panel):
        K, P, Q, (high, wide, _, _) = numbers[3], numbers[4], numbers[5], grid
        for k in range(panel * 2 * L, min(K, (panel + 1) * 2 * L), L):
            tile = begin
            while tile < end:  # tiles next to each other, whose rows of y are whole cache lines
                n, i, j = tile // (high * wide), tile // wide % high, tile % wide
                h, w, some = i * m, j * m, min(line - j % line, wide - j, end - tile)
                rows, columns = min(m, P - h), min(some * m, Q - w)
                at_once = nhwc and K - k >= L
                to, row, column = S, line * m * vector, vector
                if at_once:
                    to, row, column = y + (((n * P + h) * Q + w) * K + k) * size, Q * K * size, K * size
                for t in range(some):
                    place = place_of(grid, shift, n, i, j + t)
                    tile_of_M = M + (place * 2 * L + k - panel * 2 * L) * size
                    tile_of_y, broad = to + t * m * column, min(m, columns - t * m)
                    outputs(tile_of_M, stride, bias + k * size, tile_of_y, row, column, rows, broad)
                if not at_once:
                    write_rows(S, y, K, P, Q, n, k, h, w, rows, columns)
                tile += some

    def work(part, x, u, bias, y, scratch, numbers):
        K, tiles, tile_parts, panel_parts = numbers[3], numbers[10], numbers[11], numbers[12]
        blocks, room, part_bytes, D = numbers[13], numbers[14], numbers[15], numbers[16]
        V_stride = room * ((D + L - 1) // L) * vector + STAGGER
        M_stride = room * 2 * vector + vector
        V = scratch + part * part_bytes
        M = V + F * V_stride
        S = M + F * M_stride + 2048
        i, j = part // panel_parts, part % panel_parts
        panels = (K + 2 * L - 1) // (2 * L)
        first, last = panels * j // panel_parts, panels * (j + 1) // panel_parts
        # parts with other tiles begin with other panels, lest a cache line of y that both write go to and fro
        ahead = (last - first) * i // tile_parts
        grid = numbers[8], numbers[9], min(1, numbers[4] % m), min(1, numbers[5] % m)
        for b in range(blocks * i // tile_parts, blocks * (i + 1) // tile_parts):
            begin, end = tiles * b // blocks, tiles * (b + 1) // blocks
            kinds, shift = order_of(grid, begin, end)
            read_block(x, V, S, numbers, grid, kinds, shift, V_stride, begin, end)
            for step in range(last - first):
                panel = first + (step + ahead) % (last - first)
                weights = u + panel * F * D * 2 * vector
                multiply_block(V, weights, M, numbers, grid, kinds, V_stride, M_stride)
                write_block(M, bias, y, S, numbers, grid, shift, M_stride, begin, end, panel)

    recipe.name(work)
    return work


@intrinsic(prefer_literal=True)
def work(typingctx, recipe, part, x, u, bias, y, scratch, numbers):
    """One part of the work for the recipe that a literal text gives.

    The text takes the way through a literal because Numba's cache cannot tell apart functions whose
    closures hold other functions; they would be compiled anew in every process.
    """
    if not isinstance(recipe, types.StringLiteral):
        return None
    body = work_of(Recipe.of(recipe.literal_value))
    arguments = part, x, u, bias, y, scratch, numbers

    def generate(context, builder, signature, values):
        return context.compile_internal(builder, body, types.void(*arguments), values[1:])

    return types.void(recipe, *arguments), generate


@intrinsic(prefer_literal=True)
def filters(typingctx, recipe, taps, u, stride, channels):
    """One panel of filters for the recipe that a literal text gives; see ``work``."""
    if not isinstance(recipe, types.StringLiteral):
        return None
    known = Recipe.of(recipe.literal_value)
    do, arguments = operations(known).filters, (taps, u, stride, channels)

    def body(taps, u, stride, channels):
        do(taps, u, stride, channels)

    known.name(body)

    def generate(context, builder, signature, values):
        return context.compile_internal(builder, body, types.void(*arguments), values[1:])

    return types.void(recipe, *arguments), generate


@cache
def transform_of_filters(recipe: Recipe):
    """transform(panels, taps, u, channels), compiled here and never again; arrays are addresses."""
    literal, F, taps_of_one, pair = recipe.literal, recipe.A**2, recipe.r**2, 2 * recipe.vector

    def transform(panels, taps, u, channels):
        groups = -(-channels // CHANNELS)
        for item in prange(panels * groups):
            panel, first = item // groups, item % groups * CHANNELS
            source = taps + (panel * channels + first) * taps_of_one * pair
            target = u + (panel * F * channels + first) * pair
            filters(literal, source, target, channels * pair, min(CHANNELS, channels - first))

    recipe.name(transform)
    signature = types.void(*[types.int64] * 4)
    return kept(signature, parallel=True)(transform)


@cache
def compiled(recipe: Recipe):
    """The function of one part, compiled here and never again while running; arrays are addresses."""
    literal = recipe.literal

    def one_part(part, x, u, bias, y, scratch, numbers):
        work(literal, part, x, u, bias, y, scratch, numbers)

    recipe.name(one_part)
    whole = types.int64
    signature = types.void(*[whole] * 6, types.CPointer(whole))
    return kept(signature, nogil=True)(one_part)


def address_of(dispatcher) -> int:
    """Where the machine code of a function with one signature lies, for callers by the C convention."""
    (made,) = dispatcher.overloads.values()
    return made.library.get_pointer_to_function(made.fndesc.llvm_cfunc_wrapper_name)


@intrinsic
def call(typingctx, function, part, x, u, bias, y, scratch, numbers):
    """``one_part`` at an address: the loop over threads is compiled once, not for every recipe."""

    def generate(context, builder, signature, values):
        kind = ir.FunctionType(ir.VoidType(), [I64] * 7)
        builder.call(builder.inttoptr(values[0], kind.as_pointer()), values[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 8), generate


@cache
def launcher(dtype: str, parallel: bool):
    """launch(function, parts, x, u, bias, y, scratch, numbers) for one dtype."""

    def on_one_thread(function, parts, x, u, bias, y, scratch, numbers):
        at = x.ctypes.data, u.ctypes.data, bias.ctypes.data, y.ctypes.data
        for part in range(parts):
            call(function, part, at[0], at[1], at[2], at[3], scratch, numbers.ctypes.data)

    def on_all_threads(function, parts, x, u, bias, y, scratch, numbers):
        at = x.ctypes.data, u.ctypes.data, bias.ctypes.data, y.ctypes.data, numbers.ctypes.data
        for part in prange(parts):
            call(function, part, at[0], at[1], at[2], at[3], scratch, at[4])

    number, whole = from_dtype(np.dtype(dtype)), types.int64
    x = types.Array(number, 4, "C", readonly=True, aligned=False)  # others convert to it
    y, bias = types.Array(number, 4, "C"), types.Array(number, 1, "C")
    signature = types.void(whole, whole, x, y, bias, y, whole, types.Array(whole, 1, "C"))
    if parallel:
        return kept(signature, parallel=True)(on_all_threads)
    return kept(signature, nogil=True)(on_one_thread)


# --- plans -------------------------------------------------------------------------------------------


def processor() -> tuple[int, int]:
    """Bytes of a vector register and how many there are, for the processor that Numba compiles for.

    CONVZOO_VECTOR_BITS forces another width, as for all vector code of ours.
    """
    triple = cpu_target.target_context.codegen().magic_tuple()[0]
    if triple.startswith(("x86", "i686")) and "fma" not in _simd.features():
        raise Unsupported("needs a processor with fused multiply-add")
    return _simd.vector_bits() // 8, 32 if _simd.many_registers() else 16


def only_3x3(p: Conv2d) -> None:
    """Raise Unsupported for all but 3 x 3 filters that move one pixel at a time."""
    if (p.R, p.S, p.stride, p.dilation, p.groups) != (3, 3, (1, 1), (1, 1), 1):
        raise Unsupported("needs R = S = 3, stride 1, dilation 1, groups 1")


def recipe_of(p: Conv2d, points: str, r: int = 3) -> Recipe:
    register, registers = processor()
    lanes = max(4, register // p.itemsize)
    at_once = registers * register // (lanes * p.itemsize)  # whole vectors that the registers hold
    return Recipe(p.dtype, lanes, at_once // 2 - 2, p.layout, points, r)


@cache
def sub_block(recipe: Recipe, D: int, tiles: int) -> tuple[int, int]:
    """How the tiles of a block are multiplied with a panel at one frequency: cycles, and tiles at once.

    A product of 64 bytes a cycle, at least four cycles a channel (their latency), 30 for each call.
    """

    def cycles(n):
        return D * max(n * 2 * recipe.vector // 64, 4) + 30

    def in_all(tb):
        return tiles // tb * cycles(tb) + (cycles(tiles % tb) if tiles % tb else 0)

    return min((in_all(tb), tb) for tb in range(1, recipe.tiles + 1))


def split_of(p: Conv2d, recipe: Recipe, threads: int, D: int) -> tuple[int, int, int]:
    """tile_parts, panel_parts and blocks of the split that a small model finds cheapest.

    Cycles of the slowest part: products, or the panel that they wait for, read once a block from the shared
    cache or from memory; V, read once a panel where it and M outgrow the thread's cache; transforms.
    """
    m, L, F, vector = recipe.m, recipe.lanes, recipe.A**2, recipe.vector
    high, wide = -(-p.P // m), -(-p.Q // m)
    all_tiles, blocks_of_D, panels = p.N * high * wide, -(-D // L), -(-p.K // (2 * L))
    u = panels * F * D * 2 * vector
    # frequencies that the last row and the last column have and have not, and the tiles of both kinds
    kinds = [
        ((n + recipe.r - 1 - (tiles - 1) * m, tiles), (m * tiles - n, tiles - 1))
        for n, tiles in ((p.P, high), (p.Q, wide))
    ]
    of_frequencies = [(a * b, p.N * h * w) for a, h in kinds[0] for b, w in kinds[1] if a * b]
    # one product's tiles at once where x and y come from memory: one thread reads while another multiplies
    images = (math.prod(p.x_shape) + math.prod(p.y_shape)) * p.itemsize
    limit = recipe.tiles if u <= SHARED_CACHE < images else block_of(recipe)
    best = None
    shares = {2**i for i in range(20)} | {min(threads, panels)}
    for panel_parts in sorted(n for n in shares if n <= min(threads, panels)):
        tile_parts = min(threads // panel_parts, all_tiles)
        mine = -(-panels // panel_parts)
        # where a part has not all rows of an image, only one part has the last tiles, which need less
        uneven = recipe.A * high / (p.P + high * (recipe.r - 1)) if tile_parts > p.N else 1
        for most in range(1, min(limit, -(-all_tiles // tile_parts)) + 1):
            blocks = -(-all_tiles // (most * tile_parts)) * tile_parts
            tiles = -(-all_tiles // blocks)
            some = [(n, -(-of_all // blocks)) for n, of_all in of_frequencies]
            V = sum(n * of_block for n, of_block in some) * blocks_of_D * vector
            M, panel = F * tiles * 2 * vector, F * D * 2 * vector
            products = sum(n * sub_block(recipe, D, of_block)[0] for n, of_block in some)
            cycles = mine * max(uneven * products, panel / 8)
            cycles += mine * panel / (200 if u <= SHARED_CACHE else 16)
            cycles += mine * V / 35 * (V + M > CACHE)
            cycles += tiles * blocks_of_D * 8 * F + mine * 2 * tiles * 4 * F
            cycles *= blocks // tile_parts
            if best is None or cycles < 0.99 * best[0]:
                best = cycles, tile_parts, panel_parts, blocks
    assert best is not None
    return best[1:]


def numbers_of(p: Conv2d, recipe: Recipe, threads: int) -> Numbers:
    """The sizes of a problem, its split, and the memory that one part of it needs."""
    L, F, vector, pieces = recipe.lanes, recipe.A**2, recipe.vector, pieces_of(p, recipe.r)
    D = len(pieces.at) * p.C
    tile_parts, panel_parts, blocks = split_of(p, recipe, threads, D)
    high, wide = -(-p.P // recipe.m), -(-p.Q // recipe.m)
    tiles = -(-p.N * high * wide // blocks)  # of the largest block
    at_once = (1, *(sub_block(recipe, D, n)[1] for n in range(1, block_of(recipe) + 1)))
    need = F * (tiles * -(-D // L) * vector + STAGGER + (2 * tiles + 1) * vector)
    need += recipe.A * pitch_of(recipe) * vector + 2048
    need = -(-need // 4096) * 4096 + 320  # parts begin 320 bytes apart modulo 4096
    offsets = [(h - p.padding[0], w - p.padding[2]) for h, w in pieces.at]
    return Numbers(
        p.C, p.H, p.W, p.K, p.P, p.Q, *p.stride, high, wide, p.N * high * wide,
        tile_parts, panel_parts, blocks, tiles, need,
        D, *(n * p.C for n in pieces.starts), at_once, tuple(itertools.chain(*offsets)),
    )  # fmt: skip


def aligned(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """An uninitialised array that begins a page."""
    n = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(n + 4096, np.uint8)
    start = -memory.ctypes.data % 4096
    return memory[start : start + n].view(dtype).reshape(shape)


def places_of(p: Conv2d, r: int) -> np.ndarray:
    """Where each tap of w[k], in the order c, r, s, comes in [pieces,C,r,r]."""
    at = {piece: i for i, piece in enumerate(pieces_of(p, r).at)}
    (down, right), first = p.stride, lambda tap, stride: tap % stride + tap // (stride * r) * stride * r
    taps = [
        (at[first(h, down), first(w, right)] * p.C * r + h // down % r) * r + w // right % r
        for h in range(p.R)
        for w in range(p.S)
    ]
    return np.add.outer(np.arange(p.C) * r * r, taps).ravel()


def layer(p: Conv2d, points: str, r: int = 3) -> Plan:
    """The plan of a convolution by Winograd's scheme at ``points``, with pieces of r x r taps.

    A filter that is larger, or that strides over pixels, is cut into pieces whose taps lie a stride apart.
    For each piece the pixels that it meets make an image of their own, in which it moves one pixel at a
    time; y is the sum over the pieces, as it is the sum over channels. So the pieces become channels.
    """
    if (p.dilation, p.groups) != ((1, 1), 1):
        raise Unsupported("needs dilation 1, groups 1")
    recipe = recipe_of(p, points, r)
    parallel = p.flops > SERIAL_FLOPS
    launch, transform = launcher(p.dtype, parallel), transform_of_filters(recipe)
    one_part = compiled(recipe)
    function, wide = address_of(one_part), 2 * recipe.lanes
    # what pack sees is the same for all sizes of x, and so are the weights that it makes
    dtype, K, lanes, taps_of_one, places = p.dtype, p.K, recipe.lanes, r * r, places_of(p, r)
    panels = -(-K // wide)

    @cache
    def split(threads):
        numbers = numbers_of(p, recipe, threads)
        parts = numbers.tile_parts * numbers.panel_parts
        return parts, parts * numbers.bytes, numbers.flat, numbers.D

    def pack(w, b):
        u = _memory.empty((panels, recipe.A**2, D, wide), dtype)
        taps = _simd.pack_panels(w, 1, wide, lanes, places, taps_of_one * D)
        transform(panels, taps.ctypes.data, u.ctypes.data, D)
        bias = np.zeros(panels * wide, dtype)
        if b is not None:
            bias[:K] = b
        return u, bias

    def run(x, weights):
        u, bias = weights
        y = _memory.empty(p.y_shape, p.dtype)
        parts, need, numbers, _ = split(get_num_threads() if parallel else 1)
        launch(function, parts, x, u, bias, y, _memory.scratch(need), numbers)
        return y

    _, workspace, _, D = split(get_num_threads() if parallel else 1)
    return Plan(run, pack=pack, workspace=workspace, code=(one_part,))
