"""Winograd convolution: transforms from points, vector code for them, one thread's work.

Numba compiles loops, but decides by itself what stays in a register. The few places where that decides
the time are written in LLVM's own language here, as functions over addresses: the product, the two
transforms, and the turn of planes of pixels into vectors of channels. ``Code`` has the words,
``operations`` the functions, ``work_of`` the loops around them in plain Numba; ``layer`` makes the plan.

A filter of r x r taps with stride 1 is taken as it is. Others are cut into pieces of at most r x r taps,
which become channels (``layer``): D = C times the pieces. Arrays inside, for vectors of L lanes, tiles of
m x m outputs, A = m + r - 1 and F = A * A frequencies, infinity first:

    u[K/2L][F][D][2L]       transformed filters; a panel is 2L output channels
    V[F][sub][D/L][tb][L]   transformed tiles of a block; a sub-block is what one product takes
    M[F][tiles][2L]         products of the block with one panel
    S[rows][columns][L]     pixels on their way from planes to vectors of channels, or back

A last tile with e < m outputs in a row or a column needs only e + r - 1 of its A frequencies there. Those
are the first ones, so that all tiles share the filters (``matrices``); the others have fewer tiles to
multiply. Of a block, tiles come in this order: those in the last column, those in neither the last column
nor the last row, those in the last row, the one in both. Then each frequency has its tiles side by side:

    in the last column and row   its tiles
    both                         all
    the column alone             those not in the last row: the first and the second kind
    the row alone                those not in the last column: the second kind and what follows
    neither                      the second kind

Code is compiled once for one dtype, layout, number of lanes, r and list of points; shapes are run-time
numbers. Lanes and registers are parameters, so that AVX2 code is tested on a machine with AVX-512.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
from numba import from_dtype, get_num_threads, njit, prange, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from convzoo.numba import _memory, _simd
from convzoo.plan import Plan, Unsupported
from convzoo.problem import Conv2d

ir = cgutils.ir  # llvmlite's, as Numba itself imports it
CHUNK = 32  # channels summed in registers before the sum goes to M: short chains keep the error small
STAGGER = 192  # bytes between the frequencies of V, lest multiples of 4096 evict each other
CACHE = 600e3  # bytes of V that stay in the second-level cache beside M and a panel
SHARED_CACHE = 16e6  # bytes of panels that stay in the last-level cache from one call to the next
CHANNELS = 16  # of which one thread transforms the filters at a time
SERIAL_FLOPS = 4e6  # of the definition: below, waking a second thread costs more than it saves

# Numba's cache keys a function by its bytecode and the cells of its closure, not by the text of what it
# calls. This hash is in a cell, so that no change of this file meets machine code of the old one.
SOURCE = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


class Recipe(NamedTuple):
    """All that compiled code depends on, but for this file."""

    dtype: str
    lanes: int
    tiles: (
        int  # the most of one product: 2 * tiles sums, 2 vectors of weights and pixels fill registers
    )
    layout: str
    points: str
    r: int  # taps of a filter a side, or of a piece of one

    @property
    def A(self) -> int:
        return len(self.points.split(",")) + 1

    @property
    def m(self) -> int:
        """Outputs of a tile a side."""
        return self.A - self.r + 1

    @property
    def chunk(self) -> int:
        """Channels that a product sums; tiles of 2 outputs, whose points are 0 and 1, multiply no errors."""
        return CHUNK if self.m > 2 else 2 * CHUNK

    @property
    def vector(self) -> int:
        """Bytes of one vector."""
        return self.lanes * np.dtype(self.dtype).itemsize

    @property
    def literal(self) -> str:
        """The text by which compiled code knows it, and this file."""
        return " ".join(map(str, (*self, SOURCE)))

    @classmethod
    def of(cls, literal: str) -> Recipe:
        dtype, lanes, tiles, layout, points, r, _ = literal.split()
        return cls(dtype, int(lanes), int(tiles), layout, points, int(r))

    def name(self, function: Callable) -> None:
        """Give the function a name that no function of another recipe has.

        Numba names machine code by function, signature and a running number; the number of code from the
        cache comes from another process, so two recipes of one name are taken for each other: what is
        compiled by the one that was loaded last, and what that calls by the linker, which keeps the first.
        """
        function.__qualname__ += "_" + hashlib.sha256(self.literal.encode()).hexdigest()[:16]


# --- the transforms, exactly -------------------------------------------------------------------------


def matrices(points: str, r: int = 3, outputs: int | None = None) -> tuple[list, list, list]:
    """AT, G and BT of y = AT ((G g GT) * (BT d B)) A, by Toom and Cook, at infinity and ``points``.

    g is an r x r filter, d a tile of A = points + 1 pixels a side; y has A - r + 1 outputs a side. For a
    tile with fewer ``outputs`` the last points are left out, and BT is scaled for the same G: it has as
    many rows less, and where it differs, in a norm, G stays.
    """
    every = [Fraction(point) for point in points.split(",")]
    at = every[: len(every) if outputs is None else outputs + r - 2]
    A = len(at) + 1

    def roots(some: list[Fraction]) -> list[Fraction]:
        """Coefficients of the monic polynomial with these roots, the constant one first."""
        poly = [Fraction(1)]
        for root in some:
            poly = [low - root * high for low, high in zip([0, *poly], [*poly, 0], strict=True)]
        return [*poly, *[Fraction(0)] * (A - len(poly))]

    def norm(a: Fraction, some: list[Fraction]) -> Fraction:
        return math.prod((a - b for b in some if b != a), start=Fraction(1))

    AT = [[Fraction(i == A - r)] + [a**i for a in at] for i in range(A - r + 1)]
    G = [[a**t / norm(a, every) for t in range(r)] for a in at]
    BT = [[norm(a, every[len(at) :]) * c for c in roots([b for b in at if b != a])] for a in at]
    return AT, [[Fraction(t == r - 1) for t in range(r)], *G], [roots(at), *BT]


# --- vector code -------------------------------------------------------------------------------------

I1, I8, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 32, 64))


class Code:
    """Writes instructions on vectors into one LLVM function; addresses are 64-bit integers."""

    def __init__(self, builder, recipe: Recipe):
        self.b, self.lanes = builder, recipe.lanes
        self.size = recipe.vector // recipe.lanes
        self.number = ir.FloatType() if self.size == 4 else ir.DoubleType()
        self.vector = ir.VectorType(self.number, self.lanes)
        self.mask = ir.VectorType(I1, self.lanes)
        self.undefined = ir.Constant(self.vector, ir.Undefined)
        self.zeros = self.constant(0)

    def constant(self, value):
        return ir.Constant(self.vector, [float(value)] * self.lanes)

    def _library(self, name: str, result, *arguments, suffix: str = ""):
        name = f"llvm.{name}.v{self.lanes}f{8 * self.size}{suffix}"
        return cgutils.get_or_insert_function(self.b.module, ir.FunctionType(result, arguments), name)

    # memory

    def pointer(self, address, offset, kind):
        base = self.b.inttoptr(address, I8.as_pointer())
        offset = I64(offset) if isinstance(offset, int) else offset
        return self.b.bitcast(self.b.gep(base, [offset]), kind.as_pointer())

    def load(self, address, offset=0, kind=None):
        value = self.b.load(self.pointer(address, offset, kind or self.vector))
        value.align = self.size
        return value

    def store(self, value, address, offset=0):
        self.b.store(value, self.pointer(address, offset, self.vector)).align = self.size

    def splat(self, address, offset):
        """One number from memory in all lanes."""
        one = self.b.insert_element(self.undefined, self.load(address, offset, self.number), I32(0))
        return self.shuffle(one, self.undefined, [0] * self.lanes)

    def first(self, n):
        """The mask of the first n lanes."""
        kind = ir.VectorType(I64, self.lanes)
        some = self.b.insert_element(ir.Constant(kind, ir.Undefined), n, I32(0))
        some = self.shuffle(some, ir.Constant(kind, ir.Undefined), [0] * self.lanes)
        return self.b.icmp_signed("<", ir.Constant(kind, list(range(self.lanes))), some)

    def load_masked(self, address, mask, instead=None):
        """Zeros or what is ``instead``, and no access, where the mask is not set."""
        pointer = self.vector.as_pointer()
        load = self._library(
            "masked.load", self.vector, pointer, I32, self.mask, self.vector, suffix=".p0"
        )
        return self.b.call(
            load,
            [self.pointer(address, 0, self.vector), I32(self.size), mask, instead or self.zeros],
        )

    def store_masked(self, value, address, mask):
        pointer, nothing = self.vector.as_pointer(), ir.VoidType()
        store = self._library(
            "masked.store", nothing, self.vector, pointer, I32, self.mask, suffix=".p0"
        )
        self.b.call(store, [value, self.pointer(address, 0, self.vector), I32(self.size), mask])

    def prefetch(self, address, offset):
        """Ask for a cache line, to write it: a hint, which never faults."""
        pointer = self.pointer(address, offset, I8)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
        f = cgutils.get_or_insert_function(self.b.module, kind, "llvm.prefetch.p0")
        self.b.call(f, [pointer, I32(1), I32(3), I32(1)])

    # arithmetic

    def fma(self, x, y, z):
        return self.b.call(self._library("fma", self.vector, *[self.vector] * 3), [x, y, z])

    def combine(self, coefficients, values):
        """The sum of the values times their coefficients, in as few instructions as they allow."""
        terms = [(c, v) for c, v in zip(coefficients, values, strict=True) if c]
        terms.sort(key=lambda term: term[0] != 1)  # stable: those that cost nothing come first
        (c, total), *rest = terms
        if c != 1:
            total = self.b.fmul(self.constant(c), total)
        for c, value in rest:
            if abs(c) == 1:
                total = (self.b.fadd if c == 1 else self.b.fsub)(total, value)
            else:
                total = self.fma(self.constant(c), value, total)
        return total

    def input_transform(self, BT, pairs, d):
        """BT d. The rows of points +a and -a are e + o and e - o, and o is computed up to a factor."""
        out = [None] * len(BT)
        for i in pairs:
            even = [(a + b) / 2 for a, b in zip(BT[i], BT[i + 1], strict=True)]
            odd = [(a - b) / 2 for a, b in zip(BT[i], BT[i + 1], strict=True)]
            factor = next(c for c in reversed(odd) if c)
            e, o = self.combine(even, d), self.combine([c / factor for c in odd], d)
            out[i], out[i + 1] = self.combine([1, factor], [e, o]), self.combine([1, -factor], [e, o])
        return [self.combine(row, d) if v is None else v for row, v in zip(BT, out, strict=True)]

    def output_transform(self, AT, pairs, m):
        """AT m. Points +a and -a enter a row through their sum or through their difference."""
        sums = {i: (self.b.fadd(m[i], m[i + 1]), self.b.fsub(m[i], m[i + 1])) for i in pairs}
        out = []
        for row in AT:
            terms = [
                (c, sums[i][row[i] != row[i + 1]] if i in sums else m[i])
                for i, c in enumerate(row)
                if i - 1 not in sums
            ]
            out.append(self.combine(*zip(*terms, strict=True)))
        return out

    # the order of lanes

    def shuffle(self, x, y, lanes):
        return self.b.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, len(lanes)), lanes))

    def transpose(self, rows):
        """Lane i of row j becomes lane j of row i; only shuffles that every x86 has for 128-bit parts."""
        E = 16 // self.size  # lanes of a 128-bit part
        parts = self.lanes // E
        groups = [self._transpose_parts(rows[i : i + E], E, parts) for i in range(0, self.lanes, E)]
        out = [None] * self.lanes
        for m in range(E):
            for part, v in enumerate(self._gather([group[m] for group in groups], E)):
                out[E * part + m] = v
        return out

    def _transpose_parts(self, r, E, parts):
        """E rows, each 128-bit part of them apart."""

        def interleave(x, y, pick):
            picked = [E * p + i + (i >= E) * (self.lanes - E) for p in range(parts) for i in pick]
            return self.shuffle(x, y, picked)

        if E == 2:
            return [interleave(*r, (0, 2)), interleave(*r, (1, 3))]
        low, high = (0, 4, 1, 5), (2, 6, 3, 7)
        halves = [(interleave(r[0], r[1], pick), interleave(r[2], r[3], pick)) for pick in (low, high)]
        return [interleave(x, y, pick) for x, y in halves for pick in ((0, 1, 4, 5), (2, 3, 6, 7))]

    def _gather(self, vs, E):
        """Part i of all vectors, in vector i."""

        def parts(x, y, some):
            lanes = [E * p + i for p in some for i in range(E)]
            return self.shuffle(x, y, lanes + [self.lanes + i for i in lanes])

        if len(vs) == 1:
            return vs
        if len(vs) == 2:
            return [parts(*vs, (0,)), parts(*vs, (1,))]
        pairs = [(parts(vs[0], vs[1], half), parts(vs[2], vs[3], half)) for half in ((0, 1), (2, 3))]
        return [parts(x, y, some) for x, y in pairs for some in ((0, 2), (1, 3))]

    def loop(self, n, step, *starts):
        """step(i, *values) -> next values, for i = 0 ... n - 1 with n >= 1; the last values."""
        before, body, after = self.b.block, self.b.append_basic_block(), self.b.append_basic_block()
        self.b.branch(body)
        self.b.position_at_end(body)
        phis = [self.b.phi(start.type) for start in (I64(0), *starts)]
        nexts = [self.b.add(phis[0], I64(1)), *step(*phis)]
        for phi, start, following in zip(phis, (I64(0), *starts), nexts, strict=True):
            phi.add_incoming(start, before)
            phi.add_incoming(following, self.b.block)
        self.b.cbranch(self.b.icmp_signed("<", nexts[0], n), body, after)
        self.b.position_at_end(after)
        return nexts[1:]


def pitch_of(recipe: Recipe) -> int:
    """Vectors in a row of S: pixels of some tiles on their way in, of one at least with a stride of 2."""
    return max(2 * recipe.lanes, 16)


# --- the functions over addresses --------------------------------------------------------------------

_numbers = itertools.count()


def _operation(recipe: Recipe, body: Callable):
    """What Numba code calls as op(int64, ...): ``body(code, ...)`` as a function of its own.

    Inlined into the loops around it, its registers would be spilled for theirs; hence noinline.
    """
    arguments = body.__code__.co_argcount - 1
    name = f"winograd_{body.__name__}_{next(_numbers)}"

    def generate(context, builder, signature, values):
        function = builder.module.globals.get(name)
        if function is None:
            kind = ir.FunctionType(ir.VoidType(), [I64] * arguments)
            function = ir.Function(builder.module, kind, name)
            function.linkage = "internal"
            function.attributes.add("noinline")
            inner = ir.IRBuilder(function.append_basic_block())
            body(Code(inner, recipe), *function.args)
            inner.ret_void()
        builder.call(function, values)
        return context.get_dummy_value()

    def operation(typingctx, *values):
        return types.void(*[types.int64] * arguments), generate

    operation.__signature__ = inspect.signature(body)  # Numba counts the arguments by it
    return intrinsic(operation)


@cache
def operations(recipe: Recipe) -> SimpleNamespace:
    """The functions for one recipe, each named for what it does; all arguments are int64."""
    A, L, vector, pitch = recipe.A, recipe.lanes, recipe.vector, pitch_of(recipe)
    m, r = recipe.m, recipe.r
    points = [Fraction(point) for point in recipe.points.split(",")]
    pairs = [i for i, (a, b) in enumerate(itertools.pairwise(points), start=1) if a == -b]
    G = matrices(recipe.points, r)[1]
    AT, BT = {}, {}  # by the outputs of a tile in a column or in a row
    for outputs in range(1, m + 1):
        AT[outputs], _, BT[outputs] = matrices(recipe.points, r, outputs)

    def pairs_of(outputs):
        return [i for i in pairs if i + 1 < outputs + r - 1]

    def case(c, number, bodies, *values):
        """The body of that number, from 1 on: functions apart, each with all registers for itself."""
        b, exits = c.b, []
        default = b.append_basic_block()
        switch = b.switch(number, default)
        for n, body in enumerate(bodies, start=1):
            block = b.append_basic_block()
            switch.add_case(I64(n), block)
            b.position_at_end(block)
            kind = ir.FunctionType(ir.VoidType(), [I64] * len(values))
            one = ir.Function(b.module, kind, f"{b.function.name}_{n}")
            one.linkage = "internal"
            one.attributes.add("noinline")
            inner = ir.IRBuilder(one.append_basic_block())
            body(Code(inner, recipe), *one.args)
            inner.ret_void()
            b.call(one, values)
            exits.append(b.block)
        for block in exits:
            b.position_at_end(block)
            b.branch(default)
        b.position_at_end(default)

    def clear(c, to, n):
        """n vectors of zeros."""
        c.loop(n, lambda i, at: (c.store(c.zeros, at), [c.b.add(at, I64(vector))])[1], to)

    def read_pixels(c, x, step, to, n, channels):
        """n pixels of nhwc, ``step`` bytes apart, to vectors of channels."""
        mask = c.first(channels)

        def one(i, source, target):
            c.store(c.load_masked(source, mask), target)
            return c.b.add(source, step), c.b.add(target, I64(vector))

        c.loop(n, one, x, to)

    def write_pixels(c, source, y, step, n, channels):
        """The way back."""
        mask = c.first(channels)

        def one(i, source, target):
            c.store_masked(c.load(source), target, mask)
            return c.b.add(source, I64(vector)), c.b.add(target, step)

        c.loop(n, one, source, y)

    def planes(c, address, step, n, channels):
        """Address and mask for each of L planes; past the last one, that one again and no lane."""
        some, none = c.first(n), ir.Constant(c.mask, [0] * L)
        for i in range(L):
            there = c.b.icmp_signed("<", I64(i), channels)
            yield address, c.b.select(there, some, none)
            more = c.b.icmp_signed("<", I64(i + 1), channels)
            address = c.b.add(address, c.b.select(more, step, I64(0)))

    def read_planes(c, x, step, to, n, channels):
        """n <= L pixels in a row of each plane of nchw, to L vectors of channels, zeros past n."""
        rows = [c.load_masked(*at) for at in planes(c, x, step, n, channels)]
        for i, v in enumerate(c.transpose(rows)):
            c.store(v, to, i * vector)

    def write_planes(c, source, y, step, n, channels):
        """The way back."""
        columns = c.transpose([c.load(source, i * vector) for i in range(L)])
        for v, at in zip(columns, planes(c, y, step, n, channels), strict=True):
            c.store_masked(v, *at)

    def gather_planes(c, x, at, piece, channel, lanes, C, H, W, h, w, right, to, n):
        """n <= L columns of nchw, ``right`` pixels apart, to vectors whose lanes are of several pieces.

        ``at`` has the row and the column of each piece, to which h and w are added. Zeros outside of x.
        """
        b = c.b
        apart = b.icmp_signed("==", right, I64(2))
        wanted = b.select(apart, I64(sum(4**i for i in range(L))), I64(-1))
        width = b.add(b.mul(b.sub(n, I64(1)), right), I64(1))

        def within(number, low, high):
            """low where the number is smaller, high where it is larger."""
            number = b.select(b.icmp_signed("<", number, low), low, number)
            return b.select(b.icmp_signed("<", number, high), number, high)

        def masks(begin, end):
            """Of pixels 0 ... 2L - 1 those that are wanted and lie in [begin, end), for each half."""
            upto = [b.sub(b.shl(I64(1), i), I64(1)) for i in (begin, end)]
            bits = b.and_(wanted, b.and_(upto[1], b.not_(upto[0])))
            for half in (bits, b.lshr(bits, I64(L))):
                yield b.bitcast(b.trunc(half, ir.IntType(L)), c.mask)

        rows = []
        for i in range(L):
            offset = b.mul(piece, I64(16))
            row = b.add(h, c.load(b.add(at, offset), 0, I64))
            column = b.add(w, c.load(b.add(at, offset), 8, I64))
            end = within(b.sub(W, column), I64(0), width)
            more = b.icmp_signed("<", I64(i + 1), lanes)
            for there in (
                b.icmp_signed("<", I64(i), lanes),
                b.icmp_signed(">=", row, I64(0)),
                b.icmp_signed("<", row, H),
            ):
                end = b.select(there, end, I64(0))
            pixel = b.add(b.mul(b.add(b.mul(channel, H), row), W), column)
            source = b.add(x, b.mul(pixel, I64(c.size)))
            of_near, of_far = masks(within(b.neg(column), I64(0), width), end)
            near = c.load_masked(source, of_near)
            far = c.load_masked(b.add(source, I64(vector)), of_far)
            rows.append(b.select(apart, c.shuffle(near, far, list(range(0, 2 * L, 2))), near))
            channel = b.add(channel, I64(1))
            last = b.and_(more, b.icmp_signed("==", channel, C))  # past the last lane is no piece
            piece, channel = b.add(piece, b.zext(last, I64)), b.select(last, I64(0), channel)
        for i, v in enumerate(c.transpose(rows)):
            c.store(v, to, i * vector)

    def merge_pixels(c, x, step, to, n, lane, channels):
        """n pixels of nhwc, ``step`` bytes apart, to the lanes of their vectors from ``lane`` on."""
        before, upto = c.first(lane), c.first(c.b.add(lane, channels))
        mask = c.b.and_(upto, c.b.not_(before))

        def one(i, source, target):
            c.store(c.load_masked(source, mask, c.load(target)), target)
            return c.b.add(source, step), c.b.add(target, I64(vector))

        c.loop(n, one, c.b.sub(x, c.b.mul(lane, I64(c.size))), to)

    def columns(c, x, row, column, to, n, high):
        """BT d for n columns of pixels of tiles with ``high`` outputs; ``to`` may be where they come from."""
        case(c, high, [partial(columns_of, outputs) for outputs in BT], x, row, column, to, n)

    def columns_of(high, c, x, row, column, to, n):
        def one(i, source, target):
            d = [c.load(c.b.add(source, c.b.mul(row, I64(k)))) for k in range(high + r - 1)]
            for k, v in enumerate(c.input_transform(BT[high], pairs_of(high), d)):
                c.store(v, target, k * pitch * vector)
            return c.b.add(source, column), c.b.add(target, I64(vector))

        c.loop(n, one, x, to)

    def rows(c, source, n, V, shared, further, stride, wide):
        """(BT d) B of n rows of a tile with ``wide`` outputs, to vectors that lie ``stride`` bytes apart.

        Those past the first ``shared`` of a row lie ``further`` away. Apart from ``columns``, because A * A
        vectors do not fit in the registers.
        """
        values = source, n, V, shared, further, stride
        case(c, wide, [partial(rows_of, outputs) for outputs in BT], *values)

    def rows_of(wide, c, source, n, V, shared, further, stride):
        b, a = c.b, wide + r - 1
        past = [b.select(b.icmp_signed("<", I64(k), shared), I64(0), further) for k in range(a)]
        steps = [b.add(b.mul(stride, I64(k)), past[k]) for k in range(a)]

        def one(i, source, V):
            d = [c.load(source, k * vector) for k in range(a)]
            for step, v in zip(steps, c.input_transform(BT[wide], pairs_of(wide), d), strict=True):
                c.store(v, b.add(V, step))
            return b.add(source, I64(pitch * vector)), b.add(V, b.mul(stride, I64(A)))

        c.loop(n, one, source, V)

    def outputs(c, M, stride, bias, y, row, column, high, wide):
        """AT M A and the bias, for L channels of one tile with ``high`` x ``wide`` outputs."""
        bodies = [partial(outputs_of, high, wide) for high in AT for wide in AT]
        number = c.b.add(c.b.mul(c.b.sub(high, I64(1)), I64(m)), wide)
        case(c, number, bodies, M, stride, bias, y, row, column)

    def outputs_of(high, wide, c, M, stride, bias, y, row, column):
        b = c.load(bias)
        half = []
        for _ in range(high + r - 1):  # M[i][j] in rows: j runs fastest
            line, at = [], M
            for _ in range(wide + r - 1):
                line.append(c.load(at))
                at = c.b.add(at, stride)
            half.append(c.output_transform(AT[wide], pairs_of(wide), line))
            M = c.b.add(M, c.b.mul(stride, I64(A)))
        for j in range(wide):
            at = c.b.add(y, c.b.mul(column, I64(j)))
            for v in c.output_transform(AT[high], pairs_of(high), [line[j] for line in half]):
                c.store(c.b.fadd(v, b), at)
                at = c.b.add(at, row)

    def product(c, tiles, V, u, M, channels, onto):
        """M[tiles][2L] = V[channels / L][tiles][L] x u[channels][2L], added to M where ``onto`` is 1."""
        bodies = [partial(product_of, n) for n in range(1, recipe.tiles + 1)]
        case(c, tiles, bodies, V, u, M, channels, onto)

    def product_of(tiles, c, V, u, M, channels, onto):
        """One channel a trip: in a longer body LLVM fetches pixels early and spills the sums."""
        b = c.b

        def block_of_channels(i, left, V, u, *sums):
            some = b.select(b.icmp_signed("<", left, I64(L)), left, I64(L))

            def channel(i, pixel, u, *sums):
                w = [c.load(u, 0), c.load(u, vector)]
                sums = list(sums)
                for t in range(tiles):
                    x = c.splat(pixel, t * vector)
                    for k in range(2):
                        sums[2 * t + k] = c.fma(x, w[k], sums[2 * t + k])
                return b.add(pixel, I64(c.size)), b.add(u, I64(2 * vector)), *sums

            _, u, *sums = c.loop(some, channel, V, u, *sums)
            return b.sub(left, I64(L)), b.add(V, I64(tiles * vector)), u, *sums

        blocks = b.sdiv(b.add(channels, I64(L - 1)), I64(L))
        _, _, _, *sums = c.loop(blocks, block_of_channels, channels, V, u, *[c.zeros] * (2 * tiles))
        again = b.icmp_signed("!=", onto, I64(0))
        for i, v in enumerate(sums):
            before = b.select(again, c.load(M, i * vector), c.zeros)
            c.store(b.fadd(v, before), M, i * vector)

    def filters(c, taps, u, stride, channels):
        """u = G g GT of one panel of filters, whose taps lie in the order c, r, s; frequencies lie
        ``stride`` bytes apart. In float64, rounded once."""
        d = Code(c.b, recipe._replace(dtype="float64"))
        widen, narrow = (c.b.fpext, c.b.fptrunc) if c.size == 4 else (lambda v, _: v,) * 2

        def channel(i, taps, u):
            for half in (0, vector):
                g = [widen(c.load(taps, 2 * t * vector + half), d.vector) for t in range(r * r)]
                at = c.b.add(u, I64(half))
                for row in G:
                    line = [d.combine(row, g[s::r]) for s in range(r)]
                    for other in G:
                        c.store(narrow(d.combine(other, line), c.vector), at)
                        c.prefetch(at, 4 * vector)  # of the second next channel
                        at = c.b.add(at, stride)
            return c.b.add(taps, I64(r * r * 2 * vector)), c.b.add(u, I64(2 * vector))

        c.loop(channels, channel, taps, u)

    bodies = (
        filters,
        clear,
        read_pixels,
        write_pixels,
        read_planes,
        write_planes,
        gather_planes,
        merge_pixels,
        columns,
        rows,
        outputs,
        product,
    )
    return SimpleNamespace(**{body.__name__: _operation(recipe, body) for body in bodies})


@intrinsic
def integer(typingctx, pointer):
    """The address that a pointer holds."""

    def generate(context, builder, signature, values):
        return builder.ptrtoint(values[0], I64)

    return types.int64(pointer), generate


# --- one thread's work -------------------------------------------------------------------------------


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
    V_room: int  # tiles of a frequency
    M_room: int
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
    return (q // tb * blocks + cb) * tb + q % tb


@cache
def work_of(recipe: Recipe) -> Callable:
    """The function that does one part of a convolution, as Numba compiles it."""
    do, A, L, vector = operations(recipe), recipe.A, recipe.lanes, recipe.vector
    clear, read_pixels, write_pixels = do.clear, do.read_pixels, do.write_pixels
    read_planes, write_planes = do.read_planes, do.write_planes
    gather_planes, merge_pixels = do.gather_planes, do.merge_pixels
    transform_columns, transform_rows, outputs, product = do.columns, do.rows, do.outputs, do.product
    size, m, r, F, chunk = vector // L, recipe.m, recipe.r, A * A, recipe.chunk
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
            if broad == m and shared_w < A:
                aside = slot_of(numbers, kinds, place, cb, blocks, False, False) * vector
            source += rows * pitch * vector
            at = V + rows * A * stride + to
            transform_rows(source, A - rows, at, shared_w, aside - to, stride, broad)

    @njit(inline="always")
    def read_block(x, V, S, numbers, grid, kinds, shift, stride, begin, end):
        C, H, W, P, Q, down, right = (
            numbers[0], numbers[1], numbers[2], numbers[4], numbers[5], numbers[6], numbers[7],
        )  # fmt: skip
        (high, wide, _, _), D = grid, numbers[17]
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
        D, one, two, three = numbers[17], numbers[18], numbers[19], numbers[20]
        shared_h, shared_w = P - (high - 1) * m + r - 1, Q - (wide - 1) * m + r - 1
        blocks = (D + L - 1) // L
        for f in range(F):
            begin, n = tiles_of(kinds, f // A < shared_h, f % A < shared_w)
            tb = numbers[AT_ONCE + n]
            # at infinity pieces that are not whole have filters of zeros; one channel clears M
            first = one // L * L if f % A == 0 else 0
            last = D
            if f < A:
                last = max(two, first + 1)
            elif f % A == 0:
                last = max(three, first + 1)
            for q in range(0, n, tb):
                for d in range(first, last, chunk):
                    pixels = V + f * V_stride + (q * blocks + d // L * tb) * vector
                    sums = M + f * M_stride + (begin + q) * 2 * vector
                    weights = u + (f * D + d) * 2 * vector
                    product(tb, pixels, weights, sums, min(chunk, last - d), d - first)

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
        blocks, V_room, M_room = numbers[13], numbers[14], numbers[15]
        part_bytes, D = numbers[16], numbers[17]
        V_stride = V_room * ((D + L - 1) // L) * vector + STAGGER
        M_stride = M_room * 2 * vector + vector
        V = scratch + part * part_bytes
        M = V + F * V_stride
        S = M + F * M_stride + 2048
        i, j = part // panel_parts, part % panel_parts
        panels = (K + 2 * L - 1) // (2 * L)
        grid = numbers[8], numbers[9], min(1, numbers[4] % m), min(1, numbers[5] % m)
        for b in range(blocks * i // tile_parts, blocks * (i + 1) // tile_parts):
            begin, end = tiles * b // blocks, tiles * (b + 1) // blocks
            kinds, shift = order_of(grid, begin, end)
            read_block(x, V, S, numbers, grid, kinds, shift, V_stride, begin, end)
            for panel in range(panels * j // panel_parts, panels * (j + 1) // panel_parts):
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
    return njit(signature, parallel=True, cache=True)(transform)


@cache
def compiled(recipe: Recipe):
    """The function of one part, compiled here and never again while running; arrays are addresses."""
    literal = recipe.literal

    def one_part(part, x, u, bias, y, scratch, numbers):
        work(literal, part, x, u, bias, y, scratch, numbers)

    recipe.name(one_part)
    whole = types.int64
    signature = types.void(*[whole] * 6, types.CPointer(whole))
    return njit(signature, nogil=True, cache=True)(one_part)


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
        return njit(signature, parallel=True, cache=True)(on_all_threads)
    return njit(signature, nogil=True, cache=True)(on_one_thread)


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


def numbers_of(p: Conv2d, recipe: Recipe, threads: int) -> Numbers:
    """The split that a small model finds cheapest.

    Cycles of the slowest part: products, two a cycle and at least four cycles a channel (their latency),
    with 50 to begin and end each call; panels, read once a block, from the shared cache or from memory;
    V, read once a panel where it has outgrown the thread's cache; transforms.
    """
    m, A, L, vector = recipe.m, recipe.A, recipe.lanes, recipe.vector
    F, pieces = A**2, pieces_of(p, recipe.r)
    D = len(pieces.at) * p.C
    high, wide = -(-p.P // m), -(-p.Q // m)
    all_tiles, blocks_of_D, panels = p.N * high * wide, -(-D // L), -(-p.K // (2 * L))
    u = panels * F * D * 2 * vector
    # frequencies that the last row and the last column have and have not, and the tiles of both kinds
    kinds = [
        ((n + recipe.r - 1 - (tiles - 1) * m, tiles), (m * tiles - n, tiles - 1))
        for n, tiles in ((p.P, high), (p.Q, wide))
    ]
    of_frequencies = [(a * b, p.N * h * w) for a, h in kinds[0] for b, w in kinds[1] if a * b]

    @cache
    def products(tiles: int) -> tuple[int, int, int]:
        """Cycles of one frequency and panel, the sub-blocks and their tiles, for a block of tiles."""
        return min(
            (-(-tiles // tb) * (D * max(tb, 4) + 50 * -(-D // recipe.chunk)), -(-tiles // tb), tb)
            for tb in range(1, recipe.tiles + 1)
        )

    def room(tiles: int) -> int:
        _, subs, tb = products(tiles)
        return subs * tb

    best = None
    shares = {2**i for i in range(20)} | {min(threads, panels)}
    for panel_parts in sorted(n for n in shares if n <= min(threads, panels)):
        tile_parts = min(threads // panel_parts, all_tiles)
        mine = -(-panels // panel_parts)
        for most in range(1, min(block_of(recipe), -(-all_tiles // tile_parts)) + 1):
            blocks = -(-all_tiles // (most * tile_parts)) * tile_parts
            tiles = -(-all_tiles // blocks)
            some = [(n, -(-of_all // blocks)) for n, of_all in of_frequencies]
            V = sum(n * room(here) for n, here in some) * blocks_of_D * vector
            cycles = mine * sum(n * products(here)[0] for n, here in some)
            cycles += mine * F * D * 2 * vector / (80 if u <= SHARED_CACHE else 16)
            cycles += mine * V / 50 * (V > CACHE)
            cycles += tiles * blocks_of_D * 8 * F + mine * 2 * tiles * 4 * F
            cycles *= blocks // tile_parts
            if best is None or cycles < 0.99 * best[0]:
                best = cycles, tile_parts, panel_parts, blocks, tiles
    assert best is not None
    _, tile_parts, panel_parts, blocks, tiles = best
    V_room = max(room(n) for n in range(1, tiles + 1))
    M_room = max(tiles - n + room(n) for n in range(1, tiles + 1))
    need = F * (V_room * blocks_of_D * vector + STAGGER + (2 * M_room + 1) * vector)
    need += A * pitch_of(recipe) * vector + 2048
    need = -(-need // 4096) * 4096 + 320  # parts begin 320 bytes apart modulo 4096
    offsets = [(h - p.padding[0], w - p.padding[2]) for h, w in pieces.at]
    at_once = (1, *(products(n)[2] for n in range(1, block_of(recipe) + 1)))
    return Numbers(
        p.C, p.H, p.W, p.K, p.P, p.Q, *p.stride, high, wide, all_tiles,
        tile_parts, panel_parts, blocks, V_room, M_room, need,
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
    panels = -(-p.K // wide)

    @cache
    def split(threads):
        numbers = numbers_of(p, recipe, threads)
        parts = numbers.tile_parts * numbers.panel_parts
        return parts, parts * numbers.bytes, numbers.flat, numbers.D

    def pack(w, b):
        u = _memory.empty((panels, recipe.A**2, D, wide), p.dtype)
        if p.C:
            taps = _simd.pack_panels(w, 1, wide, recipe.lanes, places_of(p, r), r * r * D)
            transform(panels, taps.ctypes.data, u.ctypes.data, D)
        bias = np.zeros(panels * wide, p.dtype)
        if b is not None:
            bias[: p.K] = b
        return u, bias

    def run(x, weights):
        u, bias = weights
        y = _memory.empty(p.y_shape, p.dtype)
        parts, need, numbers, _ = split(get_num_threads() if parallel else 1)
        launch(function, parts, x, u, bias, y, _memory.scratch(need), numbers)
        return y

    _, workspace, _, D = split(get_num_threads() if parallel else 1)
    return Plan(run, pack=pack, workspace=workspace, code=(one_part,))
