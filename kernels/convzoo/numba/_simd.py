"""Vector micro-kernels for the CPU, written as LLVM code, so that sums stay in registers for sure.

Idea     A loop over Python numbers leaves it to LLVM how to vectorise, and LLVM will not keep 28 vectors
         of sums in registers through three nested loops. Here the whole reduction is written out: one
         phi a vector of sums, one fused multiply-add a tap, no array, no index, nothing to guess.
Routines channel_tile   U pixels x V vectors of output channels: a pixel's x is broadcast, w is loaded
         pixel_tile     U output channels x V vectors of pixels: w is broadcast, x is loaded
         pack_panel     U rows of L taps of w, turned into L rows of U output channels
         placed_tile    U output channels x V vectors of pixels that lie anywhere, over a table of taps
         copy_every     lines of a padded copy of every U-th number of x, zeros left and right
         plane_rows     depthwise: planes of y, V rows at a time, from planes of x with a filter of U x U
         pixel_channels depthwise: U pixels, one vector of channels after the other
         dot_tile       inner products of U rows with V rows: both are loaded, the lanes are taps
Use      ``entry(routine, itemsize, lanes, U, V, flag)`` compiles one and gives its address, an int64.
         Compiled code of any dtype calls it with ``call(address, ...)``; all arguments are int64 and
         addresses, strides and offsets are in bytes. A routine knows no problem: strides and counts are
         arguments. So there are few, and they are compiled and kept on disk once, not once a problem.
Lanes    follow the CPU that Numba compiles for. CONVZOO_VECTOR_BITS=256 in the environment forces another
         width, for tests and for comparisons.
Cache    Numba's cache on disk sees the code of a function, not that of the intrinsics it calls. DIGEST, a
         hash of this file, is an argument wherever they are called: after an edit nothing old is found.
"""

import hashlib
import os
from functools import cache
from pathlib import Path

import numpy as np
from numba import njit, prange, types
from numba.core import cgutils, registry
from numba.extending import intrinsic

from convzoo.numba._kept import kept
from convzoo.problem import Conv2d

ir = cgutils.ir
I64, I32, I1 = ir.IntType(64), ir.IntType(32), ir.IntType(1)
HELD = 4  # offsets of pixels in integer registers; with more of them LLVM spills vectors, too
DIGEST = int(hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:15], 16)


# --- what the CPU offers -----------------------------------------------------------------------------


def features() -> set[str]:
    """Instruction sets that Numba compiles for, as LLVM names them."""
    text = registry.cpu_target.target_context.codegen().magic_tuple()[2]
    return {word[1:] for word in text.split(",") if word.startswith("+")}


def vector_bits(force: int | None = None) -> int:
    """Bits of a vector register: 512, 256 or 128; ``force`` or the environment overrides."""
    forced = force or int(os.environ.get("CONVZOO_VECTOR_BITS", "0"))
    if forced:
        if forced not in (128, 256, 512):
            raise ValueError(f"vector bits must be 128, 256 or 512, got {forced}")
        return forced
    found = features()
    return 512 if "avx512f" in found else 256 if "avx" in found else 128


def lanes(dtype: str, force: int | None = None) -> int:
    """Numbers of ``dtype`` in one vector register."""
    return vector_bits(force) // {"float32": 32, "float64": 64}[dtype]


def many_registers(force: int | None = None) -> bool:
    """Whether there are 32 vector registers (AVX-512, NEON), not 16: it decides the size of a tile."""
    return vector_bits(force) == 512 or "neon" in features()


def tile_heights(force: int | None = None) -> tuple[int, ...]:
    """Pixels of a tile with channels in two vectors, the best first: what fits in the registers."""
    return (14, 10, 7, 4) if many_registers(force) else (6, 4)


def heights_for(pixel: int) -> tuple[int, ...]:
    """``tile_heights`` for pixels ``pixel`` bytes apart: whole pages apart they all share one set of L1.

    A set has 8 lines or 12; a tile of 14 such pixels would fetch every number of x from L2.
    """
    heights = tile_heights()
    return tuple(U for U in heights if U <= 7) if pixel % 4096 == 0 else heights


# --- writing vector code -----------------------------------------------------------------------------


class Vectors:
    """Writes LLVM code on vectors of one type. Addresses are int64 values, counted in bytes."""

    def __init__(self, builder, itemsize: int, lanes: int):
        self.b, self.itemsize, self.lanes = builder, itemsize, lanes
        self.number = {4: ir.FloatType(), 8: ir.DoubleType()}[itemsize]
        self.type = ir.VectorType(self.number, lanes)
        self.bytes = itemsize * lanes
        self.suffix = f"v{lanes}f{8 * itemsize}"
        self.zero = ir.Constant(self.type, [0.0] * lanes)
        self.fused = bool(features() & {"fma", "fp-armv8", "neon"})

    def _library(self, name: str, result, *arguments):
        return cgutils.get_or_insert_function(self.b.module, ir.FunctionType(result, arguments), name)

    def _pointer(self, address, kind):
        return self.b.inttoptr(address, kind.as_pointer())

    def add(self, address, *more):
        for term in more:
            term = ir.Constant(I64, term) if isinstance(term, int) else term
            address = self.b.add(address, term)
        return address

    def least(self, number, count):
        """``number``, or ``count`` - 1 where that is less."""
        last = self.add(count, -1)
        return self.b.select(self.b.icmp_signed("<", I64(number), last), I64(number), last)

    def times(self, value, factor):
        return self.b.mul(value, ir.Constant(I64, factor) if isinstance(factor, int) else factor)

    def integer(self, address, again=False):
        """The int64 at an address; ``again`` and again, where a loop has no register to keep it in."""
        pointer = self._pointer(address, I64)
        if (
            again
        ):  # an atomic load is an ordinary one to the CPU, but LLVM does not move it out of a loop
            return self.b.load_atomic(pointer, "monotonic", 8)
        return self.b.load(pointer, align=8)

    def load(self, address, mask=None):
        pointer = self._pointer(address, self.type)
        if mask is None:
            return self.b.load(pointer, align=self.itemsize)
        mask_type = ir.VectorType(I1, self.lanes)
        f = self._library(
            f"llvm.masked.load.{self.suffix}.p0",
            self.type, self.type.as_pointer(), I32, mask_type, self.type,
        )  # fmt: skip
        return self.b.call(f, [pointer, I32(self.itemsize), mask, self.zero])

    def store(self, vector, address, mask=None, streamed=False):
        """``streamed``: a whole vector past all caches, to an address that it divides."""
        pointer = self._pointer(address, self.type)
        if mask is None:
            stored = self.b.store(vector, pointer, align=self.bytes if streamed else self.itemsize)
            if streamed:
                stored.set_metadata("nontemporal", self.b.module.add_metadata([I32(1)]))
            return
        mask_type = ir.VectorType(I1, self.lanes)
        f = self._library(
            f"llvm.masked.store.{self.suffix}.p0",
            ir.VoidType(), self.type, self.type.as_pointer(), I32, mask_type,
        )  # fmt: skip
        self.b.call(f, [vector, pointer, I32(self.itemsize), mask])

    def prefetch(self, address, write):
        """Ask for the cache line at an address, to ``write`` it or to read it: a hint, which never faults."""
        pointer = self._pointer(address, self.number)
        f = self._library("llvm.prefetch.p0", ir.VoidType(), pointer.type, I32, I32, I32)
        self.b.call(f, [pointer, I32(int(write)), I32(3 if write else 2), I32(1)])

    def _repeat(self, value, kind):
        vector = ir.VectorType(kind, self.lanes)
        one = self.b.insert_element(ir.Constant(vector, ir.Undefined), value, I32(0))
        return self.b.shuffle_vector(
            one,
            ir.Constant(vector, ir.Undefined),
            ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes),
        )

    def number_at(self, address):
        return self.b.load(self._pointer(address, self.number), align=self.itemsize)

    def broadcast(self, address):
        """The number at an address in every lane."""
        return self._repeat(self.number_at(address), self.number)

    def broadcast_again(self, address):
        """``broadcast`` in its place: LLVM does not move it out of a loop that has no register for it."""
        whole = {4: I32, 8: I64}[self.itemsize]
        value = self.b.load_atomic(self._pointer(address, whole), "monotonic", self.itemsize)
        return self._repeat(self.b.bitcast(value, self.number), self.number)

    def bits(self, address):
        """Mask whose lanes are the lowest bits of the int64 at an address."""
        kind = ir.IntType(self.lanes)
        value = self.b.trunc(self.integer(address), kind)
        return self.b.bitcast(value, ir.VectorType(I1, self.lanes))

    def every(self, vectors, first):
        """Every n-th number of n vectors side by side, from number ``first`` on."""
        n, L = len(vectors), self.lanes
        found = vectors[0]
        for i in range(1, n):  # lane l wants number l*n + first; what lies before vector i is in place
            wanted = [l * n + first for l in range(L)]
            found = self._shuffle(
                found,
                vectors[i],
                [
                    (w if i == 1 else l) if w < i * L else L + min(w - i * L, L - 1)
                    for l, w in enumerate(wanted)
                ],
            )
        return found

    def taps_of(self, parts, count):
        """Every n-th number of n vectors side by side from number 0, 1, ... on; one vector more follows."""
        n, L = len(parts) - 1, self.lanes
        sorted_apart, found = [self.every(parts[:n], rest) for rest in range(n)], []
        for s in range(count):
            shift, rest = divmod(s, n)
            lanes = [l + shift if l + shift < L else L + (l + shift - L) * n + rest for l in range(L)]
            found.append(self._shuffle(sorted_apart[rest], parts[n], lanes))
        return found

    def fma(self, a, b, c):
        """a*b + c, rounded once where the CPU can (without the instruction LLVM would call a function)."""
        if not self.fused:
            return self.b.fadd(self.b.fmul(a, b), c)
        return self.b.call(self._library(f"llvm.fma.{self.suffix}", *[self.type] * 4), [a, b, c])

    def total(self, start, vector):
        """start plus the numbers of a vector, in any order."""
        f = self._library(f"llvm.vector.reduce.fadd.{self.suffix}", self.number, self.number, self.type)
        return self.b.call(f, [start, vector], fastmath=("reassoc",))

    def between(self, first, count):
        """Mask of the lanes i with first <= i < first + count; ``first`` may be negative."""
        vector = ir.VectorType(I32, self.lanes)
        lane = ir.Constant(vector, list(range(self.lanes)))
        start = self._repeat(self.b.trunc(first, I32), I32)
        # unsigned: a lane before ``first`` is a very large distance after it
        return self.b.icmp_unsigned(
            "<", self.b.sub(lane, start), self._repeat(self.b.trunc(count, I32), I32)
        )

    def first(self, count):
        """Mask of the lanes below ``count``, which may be negative or more than there are lanes."""
        vector = ir.VectorType(I32, self.lanes)
        lane = ir.Constant(vector, list(range(self.lanes)))
        return self.b.icmp_signed("<", lane, self._repeat(self.b.trunc(count, I32), I32))

    def loop(self, count, values, step):
        """values = step(values), ``count`` times, at least once. Each value is a phi: no memory."""
        b, before, body, after = self.b, self.b.block, *(self.b.append_basic_block() for _ in "ba")
        b.branch(body)
        b.position_at_end(body)
        values = [count, *values]
        phis = [b.phi(value.type) for value in values]
        following = [b.sub(phis[0], I64(1)), *step(phis[1:])]
        for phi, start, new in zip(phis, values, following, strict=True):
            phi.add_incoming(start, before)
            phi.add_incoming(new, b.block)
        b.cbranch(b.icmp_signed(">", following[0], I64(0)), body, after)
        b.position_at_end(after)
        return following[1:]

    def loop_if_any(self, count, values, step):
        """``loop`` that a count of 0 passes over."""
        b, before = self.b, self.b.block
        body, after = b.append_basic_block(), b.append_basic_block()
        b.cbranch(b.icmp_signed(">", count, I64(0)), body, after)
        b.position_at_end(body)
        results, last = self.loop(count, values, step), b.block
        b.branch(after)
        b.position_at_end(after)
        phis = [b.phi(value.type) for value in values]
        for phi, old, new in zip(phis, values, results, strict=True):
            phi.add_incoming(old, before)
            phi.add_incoming(new, last)
        return phis

    def leave_unless(self, count, i, end):
        """Go on below if ``count`` > i, else jump to the block ``end``."""
        following = self.b.append_basic_block()
        self.b.cbranch(self.b.icmp_signed(">", count, I64(i)), following, end)
        self.b.position_at_end(following)

    def _shuffle(self, a, b, indices):
        return self.b.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(indices)), indices))

    def _interleave(self, a, b, size):
        """Within each 128 bits: runs of ``size`` numbers of a and b by turns; the low and the high half."""
        block, L = 16 // self.itemsize, self.lanes
        low, high = [], []
        for start in range(0, L, block):
            for out, half in ((low, 0), (high, block // 2)):
                for run in range(start + half, start + half + block // 2, size):
                    out += [*range(run, run + size), *range(L + run, L + run + size)]
        return self._shuffle(a, b, low), self._shuffle(a, b, high)

    def transpose(self, rows):
        """``lanes`` vectors, row i of column j becoming row j of column i; missing rows are undefined."""
        L, block = self.lanes, 16 // self.itemsize
        rows = [*rows, *[ir.Constant(self.type, ir.Undefined)] * (L - len(rows))]
        groups = []  # of 4 float32 or 2 float64 rows, transposed inside each 128 bits
        for i in range(0, L, block):
            r = rows[i : i + block]
            if block == 2:
                groups.append(self._interleave(r[0], r[1], 1))
                continue
            (a, b), (c, d) = self._interleave(r[0], r[1], 1), self._interleave(r[2], r[3], 1)
            groups.append((*self._interleave(a, c, 2), *self._interleave(b, d, 2)))
        columns = [self._gather_blocks([g[j] for g in groups]) for j in range(block)]
        return [columns[i % block][i // block] for i in range(L)]

    def _gather_blocks(self, vectors):
        """n vectors of n blocks of 128 bits: result i holds block i of each. n is 1, 2 or 4."""
        n, block, L = len(vectors), 16 // self.itemsize, self.lanes

        def pick(a, b, *blocks):  # the first half of ``blocks`` from a, the second from b
            numbers = [i * block + j for i in blocks for j in range(block)]
            half = len(numbers) // 2
            return self._shuffle(a, b, numbers[:half] + [L + i for i in numbers[half:]])

        if n == 1:
            return vectors
        if n == 2:
            return [pick(*vectors, i, i) for i in range(2)]
        found = []
        for pair in ((0, 1), (2, 3)):
            a, b = (pick(vectors[i], vectors[i + 1], *pair, *pair) for i in (0, 2))
            found += [pick(a, b, 0, 2, 0, 2), pick(a, b, 1, 3, 1, 3)]
        return found


# --- the routines ------------------------------------------------------------------------------------


def _channel_tile(
    v, U, V, form, x, places, x_step, runs, count, w, ahead, ahead_step, y, parts, pieces, y_step, start,
    start_step, channels,
):  # fmt: skip
    """Sums of U pixels x V vectors of output channels over ``count`` runs of taps, and their store.

    A run is three int64: where its first tap lies in x, where in w, and how many taps follow each other,
    ``x_step`` apart in x and PANEL vectors in w. Pixel u lies at x + places[u]. For each tap a line is asked
    for at ``ahead``, which moves on by ``ahead_step``: what is needed next may lie in memory still.
    The sums begin with the V vectors at ``start``, ``start_step`` on for the next pixel: the bias, or what was
    summed before. Only the first ``channels`` channels are stored. In the form TURNED consecutive pixels are
    consecutive numbers, ``y_step`` is from channel to channel, and each of ``pieces`` parts is three int64:
    offset in y of pixel 0, first pixel, pixels. Else a pixel's channels lie side by side, and ``parts`` are the offsets
    in y of the first ``pieces`` pixels. With STREAMED all channels of a tile go past the caches; then the
    offsets in y are whole vectors.
    """
    turned, streamed = form & TURNED, form & STREAMED

    # lines of y that are in no cache take as long to come as a short sum lasts: ask for them now
    def ask(values):
        [at] = values
        line = v.add(y, v.integer(at))
        for i in range(V * v.lanes if turned else V):
            v.prefetch(v.add(line, v.times(y_step, i) if turned else I64(i * v.bytes)), True)
        return [v.add(at, 24 if turned else 8)]

    if not streamed:
        v.loop(pieces, [parts], ask)
    held = [v.integer(v.add(places, 8 * u)) for u in range(min(U, HELD))]
    sums = [
        v.load(v.add(start, v.times(start_step, u), j * v.bytes)) for u in range(U) for j in range(V)
    ]

    def run(values):
        at, ahead, *sums = values
        origin, weights, taps = (v.integer(v.add(at, 8 * i)) for i in range(3))

        def tap(values):
            at, w, ahead, *sums = values
            v.prefetch(ahead, False)
            weights = [v.load(v.add(w, j * v.bytes)) for j in range(V)]
            for u in range(U):
                place = held[u] if u < HELD else v.integer(v.add(places, 8 * u), again=True)
                pixel = v.broadcast(v.add(at, place))
                for j in range(V):
                    sums[u * V + j] = v.fma(pixel, weights[j], sums[u * V + j])
            return [v.add(at, x_step), v.add(w, PANEL * v.bytes), v.add(ahead, ahead_step), *sums]

        origin, weights = v.add(x, origin), v.add(w, weights)
        _, _, ahead, *sums = v.loop(taps, [origin, weights, ahead, *sums], tap)
        return [v.add(at, 24), ahead, *sums]

    _, _, *sums = v.loop_if_any(count, [runs, ahead, *sums], run)
    tiles = [sums[j::V] for j in range(V)]
    if turned:
        _store_turned(v, tiles, y, parts, pieces, y_step, channels)
    else:
        _store_rows(v, tiles, y, parts, pieces, channels, streamed)


def _store_rows(v, tiles, y, places, count, channels, streamed):
    """tiles[j][u] to y + places[u], the vectors j side by side: whole ones where no channel is missing."""
    b = v.b
    whole, part, end = (b.append_basic_block() for _ in range(3))
    b.cbranch(b.icmp_signed(">=", channels, I64(len(tiles) * v.lanes)), whole, part)
    for block in (whole, part):
        b.position_at_end(block)
        masks = [
            None if block is whole else v.first(v.add(channels, -j * v.lanes))
            for j in range(len(tiles))
        ]
        for u in range(len(tiles[0])):
            v.leave_unless(count, u, end)
            at = v.add(y, v.integer(v.add(places, 8 * u)))
            for j, tile in enumerate(tiles):
                v.store(tile[u], v.add(at, j * v.bytes), masks[j], streamed)
        b.branch(end)
    b.position_at_end(end)


def _store_turned(v, tiles, y, parts, count, step, channels):
    """tiles[j][u] with channels in the lanes, stored with pixels in the lanes: for each part a row a channel."""
    U, L = len(tiles[0]), v.lanes
    turned = [[v.transpose(tile[u : u + L]) for u in range(0, U, L)] for tile in tiles]

    def part(values):
        [at] = values
        offset, first, pixels = (v.integer(v.add(at, 8 * i)) for i in range(3))
        masks = [v.between(v.add(first, -u), pixels) for u in range(0, U, L)]
        to, end = v.add(y, offset), v.b.append_basic_block()
        for j, groups in enumerate(turned):
            for lane in range(L):
                v.leave_unless(channels, j * L + lane, end)
                for i, rows in enumerate(groups):
                    v.store(rows[lane], v.add(to, i * v.bytes), masks[i])
                to = v.add(to, step)
        v.b.branch(end)
        v.b.position_at_end(end)
        return [v.add(at, 24)]

    v.loop(count, [parts], part)


def _pixel_tile(v, U, V, in_place, x, x_step, w, w_step, C, y, y_step, bias, count, channels):
    """Sums of U output channels x V vectors of consecutive pixels over C input channels.

    x_step is from channel to channel of x, y_step of y. Pixels from ``count`` on, all in the last vector,
    are neither read nor stored; of the channels only the first ``channels`` are stored. Weights are packed,
    U channels of a tap side by side; ``in_place`` a channel's taps are, and w_step is from channel to
    channel: those that follow the last one are the last one again, and their bias, too.
    """
    mask = v.first(v.add(count, -(V - 1) * v.lanes))
    masks = [None] * (V - 1) + [mask]
    for u in range(U):  # see _channel_tile
        for j in range(V):
            v.prefetch(v.add(y, v.times(y_step, u), j * v.bytes), True)
    own = [v.least(u, channels) if in_place else I64(u) for u in range(U)]
    rows = [v.times(w_step, i) if in_place else v.times(i, v.itemsize) for i in own]
    sums = [s for i in own for s in [v.broadcast(v.add(bias, v.times(i, v.itemsize)))] * V]

    def tap(values):
        x, w, *sums = values
        pixels = [v.load(v.add(x, j * v.bytes), masks[j]) for j in range(V)]
        for j in range(V):  # the next tile's pixels, which may lie in memory still
            v.prefetch(v.add(x, (V + j) * v.bytes), False)
        for u in range(U):
            weight = v.broadcast(v.add(w, rows[u]))
            for j in range(V):
                sums[u * V + j] = v.fma(pixels[j], weight, sums[u * V + j])
        return [v.add(x, x_step), v.add(w, v.itemsize if in_place else U * v.itemsize), *sums]

    _, _, *sums = v.loop(C, [x, w, *sums], tap)
    end = v.b.append_basic_block()
    for u in range(U):
        v.leave_unless(channels, u, end)
        for j in range(V):
            v.store(sums[u * V + j], v.add(y, j * v.bytes), masks[j])
        y = v.add(y, y_step)
    v.b.branch(end)
    v.b.position_at_end(end)


def _dot_tile(v, U, V, _, a, a_step, b, b_step, taps, y, step, bias, rows, columns):
    """Inner products of U rows of a with V rows of b, whose taps lie side by side: the lanes are taps.

    y[u, j] = bias[u] + a[u] · b[j], rows of y ``step`` bytes apart, for the first ``rows`` and ``columns``.
    """
    first = [v.least(u, rows) for u in range(U)]
    left = [v.add(a, v.times(a_step, i)) for i in first]
    right = [v.add(b, v.times(b_step, v.least(j, columns))) for j in range(V)]

    def product(at, sums, mask):
        others = [v.load(v.add(row, at), mask) for row in right]
        sums = list(sums)
        for u in range(U):
            own = v.load(v.add(left[u], at), mask)
            for j in range(V):
                sums[u * V + j] = v.fma(own, others[j], sums[u * V + j])
        return sums

    def whole(values):
        return [v.add(values[0], v.bytes), *product(values[0], values[1:], None)]

    vectors = v.b.sdiv(taps, I64(v.lanes))
    at, *sums = v.loop_if_any(vectors, [I64(0), *[v.zero] * (U * V)], whole)
    sums = product(at, sums, v.first(v.b.sub(taps, v.times(vectors, v.lanes))))
    end = v.b.append_basic_block()
    for u in range(U):
        v.leave_unless(rows, u, end)
        start, next_row = v.number_at(v.add(bias, u * v.itemsize)), v.b.append_basic_block()
        for j in range(V):
            v.leave_unless(columns, j, next_row)
            v.b.store(v.total(start, sums[u * V + j]), v._pointer(v.add(y, j * v.itemsize), v.number))
        v.b.branch(next_row)
        v.b.position_at_end(next_row)
        y = v.add(y, step)
    v.b.branch(end)
    v.b.position_at_end(end)


def _pack_panel(v, U, _V, _, target, source, source_step, channels, taps, places):
    """target[places[t] + u] = source[u][t] for U output channels, zeros from ``channels`` on.

    ``places`` holds the byte offset of each tap's U numbers: the order in which a tile reads them.
    """
    L, b = v.lanes, v.b

    def block(values):
        at, left, places = values
        done = b.append_basic_block()
        for first in range(0, U, L):
            rows = []
            for u in range(first, min(U, first + L)):
                there = b.icmp_signed(">", channels, I64(u))
                rows.append(
                    v.load(
                        v.add(at, v.times(source_step, b.select(there, I64(u), I64(0)))),
                        v.first(b.select(there, left, I64(0))),
                    )
                )
            turned, end = v.transpose(rows), b.append_basic_block()
            mask = None if U - first >= L else v.first(I64(U - first))
            for lane in range(L):
                v.leave_unless(left, lane, end)
                to = v.add(target, v.integer(v.add(places, 8 * lane)), first * v.itemsize)
                v.store(turned[lane], to, mask)
            b.branch(end)
            b.position_at_end(end)
        b.branch(done)
        b.position_at_end(done)
        return [v.add(at, v.bytes), v.add(left, -L), v.add(places, 8 * L)]

    blocks = b.sdiv(v.add(taps, L - 1), I64(L))
    v.loop(blocks, [source, taps, places], block)


def _placed_tile(
    v, U, V, nhwc, x, places, w, taps, count, y, segments, most, rows, step, bias, channels
):
    """Sums of U output channels x V vectors of pixels over ``count`` taps, and their store.

    Vector j of tap t is read at x + places[j] + taps[t], past the end of a row, too. Its ``most`` segments
    (offset in y of lane 0, first lane, lanes, row) say what is stored: nothing of rows from ``rows`` on.
    ``step`` is from channel to channel of y, with nhwc from pixel to pixel.
    """
    here = [v.integer(v.add(places, 8 * j)) for j in range(V)]
    sums = [s for u in range(U) for s in [v.broadcast(v.add(bias, u * v.itemsize))] * V]

    def tap(values):
        at, w, *sums = values
        origin = v.add(x, v.integer(at))
        pixels = [v.load(v.add(origin, place)) for place in here]
        for u in range(U):
            weight = v.broadcast(v.add(w, u * v.itemsize))
            for j in range(V):
                sums[u * V + j] = v.fma(pixels[j], weight, sums[u * V + j])
        return [v.add(at, 8), v.add(w, U * v.itemsize), *sums]

    _, _, *sums = v.loop_if_any(count, [taps, w, *sums], tap)
    for j in range(V):
        vectors = sums[j::V]
        turned = v.transpose(vectors) if nhwc else []

        def segment(values, vectors=vectors, turned=turned):
            [at] = values
            offset, first, lanes, row = (v.integer(v.add(at, 8 * i)) for i in range(4))
            lanes = v.b.select(v.b.icmp_signed("<", row, rows), lanes, I64(0))
            to = v.add(y, offset)
            if nhwc:
                _store_pixels(v, turned, to, step, first, lanes, v.first(channels))
            else:
                _store_channels(v, vectors, to, step, v.between(first, lanes), channels)
            return [v.add(at, 32)]

        [segments] = v.loop(most, [segments], segment)


def _store_channels(v, vectors, y, step, mask, channels):
    """One vector of pixels a channel, ``step`` apart."""
    end = v.b.append_basic_block()
    for u, vector in enumerate(vectors):
        v.leave_unless(channels, u, end)
        v.store(vector, y, mask)
        y = v.add(y, step)
    v.b.branch(end)
    v.b.position_at_end(end)


def _store_pixels(v, pixels, y, step, first, count, mask):
    """The channels of one pixel after the other, ``step`` apart, for ``count`` lanes from ``first`` on."""
    b = v.b
    for i, pixel in enumerate(pixels):
        store, following = b.append_basic_block(), b.append_basic_block()
        b.cbranch(b.icmp_unsigned("<", b.sub(I64(i), first), count), store, following)
        b.position_at_end(store)
        v.store(pixel, y, mask)
        b.branch(following)
        b.position_at_end(following)
        y = v.add(y, step)


def _copy_every(v, U, _V, _, target, source, lines, target_step, source_step, width, left, count, step):
    """``lines`` times: ``left`` zeros, ``count`` times every U-th number of the source, zeros up to ``width``.

    With U = 0 the numbers are ``step`` bytes apart. Whole vectors are stored: up to a vector after the line is
    overwritten, so the lines must be written in the order of their addresses, and the last one needs room.
    """
    b, L = v.b, v.lanes
    body, end = b.append_basic_block(), b.append_basic_block()
    b.cbranch(b.icmp_signed(">", lines, I64(0)), body, end)
    b.position_at_end(body)
    some = b.icmp_signed(">", count, I64(0))
    reach = b.select(some, v.add(v.times(v.add(count, -1), U), 1), I64(0))

    def number(values):
        to, at, ahead = values
        there = b.icmp_unsigned("<", b.sub(I64(0), ahead), count)
        safe = b.select(there, at, target)  # a number that may be read; it is not used
        value = b.load(v._pointer(safe, v.number), align=v.itemsize)
        zero = ir.Constant(v.number, 0.0)
        b.store(b.select(there, value, zero), v._pointer(to, v.number), align=v.itemsize)
        return [v.add(to, v.itemsize), v.add(at, step), v.add(ahead, -1)]

    def vector(values):
        to, at, ahead = values
        start = v.times(ahead, U)
        parts = [
            v.load(v.add(at, i * v.bytes), v.between(v.add(start, -i * L), reach)) for i in range(U)
        ]
        v.store(v.every(parts, 0), to)
        return [v.add(to, v.bytes), v.add(at, U * v.bytes), v.add(ahead, -L)]

    def line(values):
        target, source = values
        begin = b.sub(source, v.times(step, left))
        if U:
            v.loop(b.sdiv(v.add(width, L - 1), I64(L)), [target, begin, left], vector)
        else:
            v.loop(width, [target, begin, left], number)
        return [v.add(target, target_step), v.add(source, source_step)]

    v.loop(lines, [target, source], line)
    b.branch(end)
    b.position_at_end(end)


def _plane_rows(
    v, U, V, stride, x, w, y, planes, first, tiles, x_plane, y_plane, H, pitch, P, y_row, top, zeros, left,
    columns, masks,
):  # fmt: skip
    """Tiles of V rows of y of ``planes`` planes that follow each other, under filters of U x U taps.

    The weights of a plane are its bias and U*U taps. Rows of x outside of it are read from ``zeros``. For
    each vector of columns ``masks`` holds the lanes that lie in x, for every load, and those in y. The
    tiles from ``first`` on are computed; the last of a plane moves back over its neighbour, so P >= V.
    """
    b, rows, needed = v.b, (V - 1) * stride + U, U * U + V + 4
    hoist = needed <= (32 if many_registers() else 16)  # else each tap loads its weights again
    loads = U if stride == 1 else stride + 1  # of a row; a stride's columns are sorted in registers

    def plane(values):
        x, w, y = values
        # loaded here, for LLVM does not know that y, which is written below, is somewhere else
        bias = v.broadcast(w)
        held = [v.broadcast(v.add(w, (1 + i) * v.itemsize)) for i in range(U * U if hoist else 0)]

        def weight(r, s):
            return (
                held[r * U + s] if hoist else v.broadcast_again(v.add(w, (1 + r * U + s) * v.itemsize))
            )

        def tile(values):
            [i] = values
            p = v.times(i, V)
            last = v.add(P, -V)
            p = b.select(b.icmp_signed("<", p, last), p, last)
            h = b.sub(v.times(p, stride), top)
            lines = []
            for line in range(rows):
                here = v.add(h, line)
                inside = b.icmp_unsigned("<", here, H)
                address = b.select(inside, v.add(x, v.times(here, pitch)), zeros)
                lines.append(b.sub(address, left))
            to = v.add(y, v.times(p, y_row))

            def column(values):
                at, to, masks = values
                sums, lanes = [bias] * V, [v.bits(v.add(masks, 8 * i)) for i in range(loads)]

                def add(i, pixels, weight_of):
                    for u in range(V):
                        if 0 <= i - u * stride < U:
                            sums[u] = v.fma(pixels, weight_of(i - u * stride), sums[u])

                for s in range(U if stride == 1 else 0):
                    column_of_w = [weight(r, s) for r in range(U)]
                    for i, line in enumerate(lines):
                        pixels = v.load(v.add(line, at, s * v.itemsize), lanes[s])
                        add(i, pixels, column_of_w.__getitem__)
                for i, line in enumerate(lines if stride > 1 else []):
                    parts = [v.load(v.add(line, at, j * v.bytes), lanes[j]) for j in range(loads)]
                    for s, pixels in enumerate(v.taps_of(parts, U)):
                        add(i, pixels, lambda r, s=s: weight(r, s))
                mask, row = v.bits(v.add(masks, 8 * loads)), to
                for u in range(V):
                    v.store(sums[u], row, mask)
                    row = v.add(row, y_row)
                return [
                    v.add(at, stride * v.bytes),
                    v.add(to, v.bytes),
                    v.add(masks, 8 * (loads + 1)),
                ]

            v.loop(columns, [I64(0), to, masks], column)
            return [v.add(i, 1)]

        v.loop(tiles, [first], tile)
        return [v.add(x, x_plane), v.add(w, (1 + U * U) * v.itemsize), v.add(y, y_plane)]

    v.loop(planes, [x, w, y], plane)


def _pixel_channels(
    v, U, V, stride, x, pixel, A, outer, B, inner, w, start, skip, taps, y, step, vectors, channels
):
    """Sums of U pixels for one vector of channels after the other, taps A x B of x.

    With V > 0, B must be V, and ``pixel`` the ``stride`` times ``inner``: neighbours then share columns of x.
    The weights of a vector of channels are its bias and ``taps`` vectors: the first to be used lies
    ``start`` bytes on, and ``skip`` bytes are left out after each a. ``pixel``, ``outer`` and ``inner``
    are from pixel to pixel and from tap to tap of x, ``step`` is from pixel to pixel of y.
    """
    width = v.times(v.add(taps, 1), v.bytes)

    def vector(values):
        x, w, y, channels = values
        mask = v.first(channels)
        sums = [v.load(w)] * U

        def window(values):
            start, at, *sums = values
            weights = [v.load(v.add(at, s * v.bytes)) for s in range(V)]
            here = start
            for column in range((U - 1) * stride + V):
                number = v.load(here, mask)
                here = v.add(here, inner)
                for s in range(V):
                    u, rest = divmod(column - s, stride)
                    if rest == 0 and 0 <= u < U:
                        sums[u] = v.fma(number, weights[s], sums[u])
            return [v.add(start, outer), v.add(at, V * v.bytes, skip), *sums]

        def row(values):
            start, at, *sums = values

            def tap(values):
                here, at, *sums = values
                weights = v.load(at)
                for u in range(U):
                    sums[u] = v.fma(v.load(here, mask), weights, sums[u])
                    here = v.add(here, pixel)
                return [v.add(values[0], inner), v.add(at, v.bytes), *sums]

            _, at, *sums = v.loop(B, [start, at, *sums], tap)
            return [v.add(start, outer), v.add(at, skip), *sums]

        _, _, *sums = v.loop_if_any(A, [x, v.add(w, start), *sums], window if V else row)
        to = y
        for u in range(U):
            v.store(sums[u], to, mask)
            to = v.add(to, step)
        return [v.add(x, v.bytes), v.add(w, width), v.add(y, v.bytes), v.add(channels, -v.lanes)]

    v.loop(vectors, [x, w, y, channels], vector)


_ROUTINES = (
    _channel_tile, _pixel_tile, _pack_panel, _placed_tile, _copy_every, _plane_rows,
    _pixel_channels, _dot_tile,
)  # fmt: skip
CHANNEL_TILE, PIXEL_TILE, PACK_PANEL, PLACED_TILE, COPY_EVERY = range(5)
PLANE_ROWS, PIXEL_CHANNELS, DOT_TILE = range(5, 8)
TURNED, STREAMED = 1, 2  # forms of a channel tile: nchw, and past all caches
PANEL = 2  # vectors of output channels that lie side by side for each tap of packed weights
STREAM = 2**24  # bytes of such a y: more than a last-level cache keeps beside x and the weights


# --- compiling and calling them ----------------------------------------------------------------------


def addresses(routines):
    """An intrinsic: the address of one of ``routines``, which is written into the module that asks for it."""

    @intrinsic(prefer_literal=True)
    def address(typing, digest, routine, itemsize, lanes, U, V, flag):
        literals = (routine, itemsize, lanes, U, V, flag)
        which, size, width, *shape = (kind.literal_value for kind in literals)
        write = routines[which]
        number = write.__code__.co_argcount - 4  # all but v, U, V and the flag are its arguments

        def code(context, builder, signature, arguments):
            kind = ir.FunctionType(ir.VoidType(), [I64] * number)
            name = "_".join(["convzoo", write.__name__, *map(str, (size, width, *shape))])
            f = ir.Function(builder.module, kind, name)
            f.linkage = "internal"
            f.attributes.add("noinline")  # inlined, the caller's addresses would compete for registers
            inside = ir.IRBuilder(f.append_basic_block("entry"))
            write(Vectors(inside, size, width), *shape, *f.args)
            inside.ret_void()
            return builder.ptrtoint(f, I64)

        return types.int64(digest, *literals), code

    return address


_address = addresses(_ROUTINES)


@intrinsic
def call(typing, address, arguments):
    """Call the routine at ``address`` with a tuple of int64."""

    def code(context, builder, signature, values):
        pointer, packed = values
        kinds = signature.args[1]
        numbers = [
            context.cast(builder, number, kind, types.int64)
            for number, kind in zip(
                cgutils.unpack_tuple(builder, packed, len(kinds)), kinds, strict=True
            )
        ]
        kind = ir.FunctionType(ir.VoidType(), [I64] * len(numbers))
        builder.call(builder.inttoptr(pointer, kind.as_pointer()), numbers)
        return context.get_dummy_value()

    return types.void(types.int64, arguments), code


@intrinsic
def fence(typing):
    """Wait until all that was stored past the caches can be seen by other threads."""

    def code(context, builder, signature, values):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), code


def streamed(p: Conv2d, lanes: int) -> int:
    """STREAMED where y is so large that no cache keeps it, and its pixels are whole vectors; such a y begins a page."""
    whole = p.layout == "nhwc" and p.K // p.groups % lanes == 0
    return STREAMED * (whole and p.N * p.K * p.P * p.Q * p.itemsize >= STREAM)


def source_of(routine: int, itemsize: int, lanes: int, U: int, V: int, flag: int):
    """The Python function that gives a routine's address once it is compiled."""
    digest = DIGEST

    def routine_address():
        return _address(digest, routine, itemsize, lanes, U, V, flag)

    return routine_address


@cache
def entry(routine: int, itemsize: int, lanes: int, U: int = 1, V: int = 1, flag: int = 0):
    """(address, compiled function) of a routine; the address is good as long as the process lives."""
    f = kept(types.int64())(source_of(routine, itemsize, lanes, U, V, flag))
    return f(), f


@njit
def _pack_block(i, address, target, w, places, sizes, _):
    blocks, outputs, taps, room, U, itemsize = sizes
    first = i % blocks * U
    to, at = target + i * room * U * itemsize, w + (i // blocks * outputs + first) * taps * itemsize
    call(address, (to, at, taps * itemsize, min(U, outputs - first), taps, places))


@cache
def _packing(parallel: bool):
    version = 2 * DIGEST + parallel  # in a closure, hence in the key of Numba's cache on disk

    def pack(panels, address, target, w, places, sizes):
        for i in prange(panels):
            _pack_block(i, address, target, w, places, sizes, version)

    signature = types.void(*[types.int64] * 5, types.UniTuple(types.int64, 6))
    return kept(signature, parallel=parallel, nogil=True)(pack)


def record(names: str) -> np.dtype:
    """A record of int64 of these names: how a kernel tells its compiled code about a problem."""
    return np.dtype([(name, np.int64) for name in names.split()])


def aligned(size: int, dtype):
    """An empty array of ``size`` numbers that begins a cache line."""
    a = np.empty(size + 64, dtype)
    return a[-a.ctypes.data % 64 // a.itemsize :][:size]


def pack_panels(w, G: int, U: int, lanes: int, places, room: int = 0):
    """w[K, C/G, R, S] as [G, ceil(K/G/U), taps, U], zeros after the last; tap t comes to places[t].

    With ``room`` for more taps than w has, those that are no place of any are zeros.
    """
    K, taps = w.shape[0], w[0].size
    blocks, w, room = -(-K // G // U), np.ascontiguousarray(w), max(room, taps)
    packed = aligned(G * blocks * room * U, w.dtype)
    if room > taps:
        packed[:] = 0
    offsets = places * (U * w.itemsize)
    address = entry(PACK_PANEL, w.itemsize, lanes, U)[0]
    pack = _packing(w.size > 2**16)
    sizes = (blocks, K // G, taps, room, U, w.itemsize)
    pack(G * blocks, address, packed.ctypes.data, w.ctypes.data, offsets.ctypes.data, sizes)
    return packed
