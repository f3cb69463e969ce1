"""Winograd's transforms from points, and vector code for them.

Numba compiles loops, but decides by itself what stays in a register. The few places where that decides
the time are written in LLVM's own language here, as functions over addresses: the product, the two
transforms, and the turn of planes of pixels into vectors of channels. ``Code`` has the words,
``operations`` the functions, ``matrices`` the transforms. Letters and arrays are those of ``_winograd``,
which has the loops around these functions.
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
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

ir = cgutils.ir  # llvmlite's, as Numba itself imports it
I1, I8, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 32, 64))
CHUNK = 32  # channels summed in registers before the sum goes to M: short chains keep the error small

# Numba's cache keys a function by its bytecode and the cells of its closure, not by the text of what it
# calls. This hash is in a cell, so that no change of these files meets machine code of the old ones.
SOURCE = hashlib.sha256(
    b"".join(
        Path(__file__).with_name(name).read_bytes() for name in ("_winograd.py", "_winograd_code.py")
    )
).hexdigest()


class Recipe(NamedTuple):
    """All that compiled code depends on, but for the files themselves."""

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
        """The text by which compiled code knows it and these files."""
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


class Code:
    """Writes instructions on vectors into one LLVM function; addresses are 64-bit integers."""

    def __init__(self, builder, recipe: Recipe):
        self.b, self.lanes = builder, recipe.lanes
        self.size = recipe.vector // recipe.lanes
        self.number = ir.FloatType() if self.size == 4 else ir.DoubleType()
        self.vector = ir.VectorType(self.number, self.lanes)
        self.mask = ir.VectorType(I1, self.lanes)
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

    def splat(self, number):
        """One number in all lanes."""
        undefined = ir.Constant(ir.VectorType(number.type, self.lanes), ir.Undefined)
        one = self.b.insert_element(undefined, number, I32(0))
        return self.shuffle(one, undefined, [0] * self.lanes)

    def first(self, n):
        """The mask of the first n lanes."""
        numbers = ir.Constant(ir.VectorType(I64, self.lanes), list(range(self.lanes)))
        return self.b.icmp_signed("<", numbers, self.splat(n))

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


def _apart(module, recipe: Recipe, name: str, body: Callable, arguments: int):
    """``body(code, int64, ...)`` as a function of its own, which has all registers for itself.

    Inlined into the loops around it, its registers would be spilled for theirs; hence noinline.
    """
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * arguments), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    inner = ir.IRBuilder(function.append_basic_block())
    body(Code(inner, recipe), *function.args)
    inner.ret_void()
    return function


def _operation(recipe: Recipe, body: Callable):
    """What Numba code calls as op(int64, ...): ``body(code, ...)``, once in a module."""
    arguments = body.__code__.co_argcount - 1
    name = f"winograd_{body.__name__}_{next(_numbers)}"

    def generate(context, builder, signature, values):
        function = builder.module.globals.get(name)
        if function is None:
            function = _apart(builder.module, recipe, name, body, arguments)
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
        """The body of that number, from 1 on."""
        b, exits = c.b, []
        default = b.append_basic_block()
        switch = b.switch(number, default)
        for n, body in enumerate(bodies, start=1):
            block = b.append_basic_block()
            switch.add_case(I64(n), block)
            b.position_at_end(block)
            name = f"{b.function.name}_{n}"
            b.call(_apart(b.module, recipe, name, body, len(values)), values)
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

    def planes(c, address, step, channels):
        """Addresses of L planes; past the last one, that one again."""
        for i in range(L):
            yield address
            more = c.b.icmp_signed("<", I64(i + 1), channels)
            address = c.b.add(address, c.b.select(more, step, I64(0)))

    def read_planes(c, x, step, to, n, channels):
        """n <= L pixels in a row of each plane of nchw, to L vectors of channels, zeros past n.

        Lanes past the last channel get its pixels again: products leave those lanes out.
        """
        mask = c.first(n)
        rows = [c.load_masked(at, mask) for at in planes(c, x, step, channels)]
        for i, v in enumerate(c.transpose(rows)):
            c.store(v, to, i * vector)

    def write_planes(c, source, y, step, n, channels):
        """The way back. Lanes past the last channel go to its plane, too, where its own come last."""
        mask = c.first(n)
        columns = c.transpose([c.load(source, i * vector) for i in range(L)])
        for v, at in reversed([*zip(columns, planes(c, y, step, channels), strict=True)]):
            c.store_masked(v, at, mask)

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

    def product(c, tiles, V, u, M, channels):
        """M[tiles][2L] = V[channels / L][tiles][L] x u[channels][2L], the sum of sums over some channels."""
        bodies = [partial(product_of, n) for n in range(1, recipe.tiles + 1)]
        case(c, tiles, bodies, V, u, M, channels)

    def product_of(tiles, c, V, u, M, channels):
        """One channel a trip: in a longer body LLVM fetches pixels early and spills the sums."""
        b = c.b

        def channel(i, pixel, u, *sums):
            w = [c.load(u, 0), c.load(u, vector)]
            sums = list(sums)
            for t in range(tiles):
                x = c.splat(c.load(pixel, t * vector, c.number))
                for k in range(2):
                    sums[2 * t + k] = c.fma(x, w[k], sums[2 * t + k])
            last = b.icmp_signed("==", b.and_(i, I64(L - 1)), I64(L - 1))
            step = b.select(last, I64(c.size + (tiles - 1) * vector), I64(c.size))
            return b.add(pixel, step), b.add(u, I64(2 * vector)), *sums

        def chunk_of_channels(i, left, V, u, M):
            some = b.select(b.icmp_signed("<", left, I64(recipe.chunk)), left, I64(recipe.chunk))
            V, u, *sums = c.loop(some, channel, V, u, *[c.zeros] * (2 * tiles))
            # The first chunk finds anything in M. LLVM would make a branch of each select, not of an and.
            bits = ir.IntType(8 * c.size)
            again = c.splat(b.sext(b.icmp_signed("!=", i, I64(0)), bits))
            for i, v in enumerate(sums):
                before = b.and_(c.load(M, i * vector, again.type), again)
                c.store(b.fadd(v, b.bitcast(before, c.vector)), M, i * vector)
            return b.sub(left, I64(recipe.chunk)), V, u, b.add(M, nothing)

        # M stays where it is, which LLVM must not know: it would keep M in registers that there are not.
        nothing = b.lshr(channels, I64(62))
        chunks = b.sdiv(b.add(channels, I64(recipe.chunk - 1)), I64(recipe.chunk))
        c.loop(chunks, chunk_of_channels, channels, V, u, M)

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
