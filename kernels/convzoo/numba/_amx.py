"""The matrix unit of a CPU (AMX): its tile instructions as LLVM code, and the same emulated.

Idea     A tile is a register of 16 rows of 64 bytes; there are eight. One instruction, TDPBF16PS, multiplies a
         tile of 16 x 32 bfloat16 numbers with one of 32 x 16 and adds to 16 x 16 float32 sums: 16384 FLOP
         in 16 cycles, sixteen times as many as the vector units do. bfloat16 keeps 8 bits of a float32
         number; a float32 number is exactly the sum of three of them (``parts``), so that six of the nine
         products of parts are float32 arithmetic again.
Tiles    left    16 rows, each 32 numbers that are summed over
         right   16 rows of 16 pairs: row j holds numbers 2j and 2j + 1 of the sum for 16 columns
         sums    16 rows of 16 float32
         What is summed over may come in any order, if both sides agree. Here numbers 2j and 2j + 1 of 32
         channels are channels j and j + 16: two vectors of 16 channels then become 16 pairs by two
         bit operations, without a shuffle.
Sums     One product adds the 16 even numbers of the sum in a row, the 16 odd ones in another, then both
         and the old sum, each to nearest. Numbers below 2**-126, factors as well as results, are zero.
Unit     ``unit()`` is "real" where the CPU has tiles and the system permits them, else "" (Linux asks each
         process to request them). CONVZOO_MATRIX_UNIT=emulated takes vector code that computes the same
         on any CPU, for tests: bit for bit, except that it keeps numbers below 2**-126. It is never timed.
         CONVZOO_MATRIX_UNIT=real is an error where there is no unit; =none does without it.
Use      ``entry(routine, ...)`` as in _simd: the address of a compiled routine. ``configure`` comes first
         in a thread and ``release`` last: afterwards the state of the tiles need not be saved.
Source   Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2: TDPBF16PS, LDTILECFG;
         Linux kernel documentation, x86: dynamically enabled features, for the permission
"""

import ctypes
import hashlib
import os
import platform
from functools import cache
from pathlib import Path

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from convzoo.numba import _simd
from convzoo.numba._simd import I32, I64, Vectors, ir

ROWS = 16  # of a tile; also the columns of a tile of sums
CHANNELS = 32  # that one product sums over
TILE = 1024  # bytes
DIGEST = _simd.DIGEST ^ int(hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:15], 16)
REQUEST, TILE_DATA = 0x1023, 18  # arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)
SYSCALL = 158  # arch_prctl on x86-64


@cache
def permitted() -> bool:
    """Whether the operating system lets this process use tiles; asked once, threads inherit the answer."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return False
    return ctypes.CDLL(None).syscall(SYSCALL, REQUEST, TILE_DATA) == 0


def unit() -> str:
    """ "real", "emulated", or "" where this machine has no matrix unit and none was asked for."""
    asked = os.environ.get("CONVZOO_MATRIX_UNIT", "")
    if asked not in ("", "real", "emulated", "none"):
        raise ValueError(f"CONVZOO_MATRIX_UNIT must be real, emulated or none, got {asked!r}")
    if asked in ("emulated", "none"):
        return asked.replace("none", "")
    if {"amx-tile", "amx-bf16"} <= _simd.features() and permitted():
        return "real"
    if asked:
        raise ValueError(
            "CONVZOO_MATRIX_UNIT=real: this CPU has no matrix unit (AMX), or Linux refuses it"
        )
    return ""


# --- one number as three -----------------------------------------------------------------------------


class Bits:
    """Writes code on the bits of 16 float32 numbers in one vector."""

    def __init__(self, v: Vectors):
        self.v, self.b = v, v.b
        self.kind = ir.VectorType(I32, v.lanes)

    def constant(self, value: int):
        return ir.Constant(self.kind, [value] * self.v.lanes)

    def of(self, vector):
        return self.b.bitcast(vector, self.kind)

    def parts(self, vector, count: int) -> list:
        """Bits of ``count`` vectors whose sum is ``vector``, each with 8 bits: to nearest, ties away from 0."""
        found = []
        for _ in range(count):
            high = self.b.add(self.of(vector), self.constant(0x8000))
            high = self.b.and_(high, self.constant(0xFFFF0000))
            found.append(high)
            vector = self.b.fsub(vector, self.b.bitcast(high, self.v.type))
        return found

    def pairs(self, low, high):
        """16 pairs of bfloat16: the numbers of ``low`` first, as a left or right tile has them in a row."""
        return self.b.or_(self.b.lshr(low, self.constant(16)), high)

    def size(self, vector):
        """The bits without the sign: they are ordered as the sizes of the numbers, infinity and NaN last."""
        return self.b.and_(self.of(vector), self.constant(0x7FFFFFFF))

    def larger(self, a, b):
        return self.b.select(self.b.icmp_unsigned(">", a, b), a, b)


def bfloat16_parts(a: np.ndarray, count: int) -> np.ndarray:
    """[count, *a.shape] of uint16: ``Bits.parts`` in NumPy, for weights."""
    found = np.empty((count, *a.shape), np.uint16)
    rest = a.astype(np.float32)
    for part in found:
        high = (rest.view(np.uint32) + np.uint32(0x8000)) & np.uint32(0xFFFF0000)
        part[...] = high >> 16
        rest -= high.view(np.float32)
    return found


# --- tile instructions -------------------------------------------------------------------------------


class Tiles:
    """Writes tile instructions into the function of ``v``; ``rows[t]`` are those that tile t uses."""

    def __init__(self, v: Vectors, rows: list[int], real: bool):
        self.v, self.b, self.rows, self.real = v, v.b, rows, real
        self.room = []
        if not real:
            kind = ir.ArrayType(v.type, ROWS)
            self.room = [self.b.ptrtoint(self.b.alloca(kind), I64) for _ in rows]

    def _tell(self, name: str, *arguments):
        """An instruction of the unit: numbers of tiles are part of it, addresses are pointers."""
        byte = ir.IntType(8)
        values = [ir.Constant(byte, a) if isinstance(a, int) else a for a in arguments]
        f = self.v._library(f"llvm.x86.{name}", ir.VoidType(), *[value.type for value in values])
        self.b.call(f, values)

    def _address(self, address):
        return self.b.inttoptr(address, ir.IntType(8).as_pointer())

    def load(self, tile: int, address, stride):
        """Rows of 64 bytes, ``stride`` bytes apart."""
        if self.real:
            self._tell("tileloadd64", tile, self._address(address), stride)
            return
        for row in range(self.rows[tile]):
            self.v.store(self.v.load(address), self.v.add(self.room[tile], 64 * row))
            address = self.v.add(address, stride)

    def store(self, tile: int, address, stride):
        if self.real:
            self._tell("tilestored64", tile, self._address(address), stride)
            return
        for row in range(self.rows[tile]):
            self.v.store(self.v.load(self.v.add(self.room[tile], 64 * row)), address)
            address = self.v.add(address, stride)

    def multiply(self, sums: int, left: int, right: int):
        """sums += left x right, 32 products a sum (TDPBF16PS)."""
        if self.real:
            self._tell("tdpbf16ps", sums, left, right)
            return
        name = "convzoo_emulated_product"
        f = self.b.module.globals.get(name) or self._emulated_product(name)
        self.b.call(f, [self.room[sums], self.room[left], self.room[right], I64(self.rows[left])])

    def _emulated_product(self, name: str):
        f = ir.Function(self.b.module, ir.FunctionType(ir.VoidType(), [I64] * 4), name)
        f.linkage = "internal"
        f.attributes.add("noinline")
        v = Vectors(ir.IRBuilder(f.append_basic_block("entry")), 4, ROWS)
        bits, (sums, left, right, rows) = Bits(v), f.args

        def numbers(pairs):  # the first and the second of each pair
            high = v.b.and_(pairs, bits.constant(0xFFFF0000))
            low = v.b.shl(pairs, bits.constant(16))
            return v.b.bitcast(low, v.type), v.b.bitcast(high, v.type)

        def row(values):
            sums, left = values
            even = odd = v.zero
            for j in range(ROWS):
                a_even, a_odd = numbers(bits.of(v.broadcast(v.add(left, 4 * j))))
                b_even, b_odd = numbers(bits.of(v.load(v.add(right, 64 * j))))
                even, odd = v.fma(a_even, b_even, even), v.fma(a_odd, b_odd, odd)
            v.store(v.b.fadd(v.load(sums), v.b.fadd(even, odd)), sums)
            return [v.add(sums, 64), v.add(left, 64)]

        v.loop(rows, [sums, left], row)
        v.b.ret_void()
        return f


def configuration(rows: list[int]) -> np.ndarray:
    """The 64 bytes that LDTILECFG reads: every tile has ``rows[t]`` rows of 64 bytes."""
    text = np.zeros(64, np.uint8)
    text[0] = 1
    text[16 : 16 + 2 * len(rows)].view(np.uint16)[:] = 64
    text[48 : 48 + len(rows)] = rows
    return text


def _told(name: str, real, address=None):
    """Type and code of an intrinsic that is one instruction of the unit, or nothing where it is emulated."""

    def code(context, builder, signature, arguments):
        if real.literal_value:
            values = (
                [] if address is None else [builder.inttoptr(arguments[1], ir.IntType(8).as_pointer())]
            )
            v = Vectors(builder, 4, ROWS)
            f = v._library(f"llvm.x86.{name}", ir.VoidType(), *[value.type for value in values])
            builder.call(f, values)
        return context.get_dummy_value()

    return (types.void(real) if address is None else types.void(real, address)), code


@intrinsic(prefer_literal=True)
def configure(typing, real, address):
    """Tell this thread's matrix unit the shapes of its tiles: the address of a ``configuration``."""
    return _told("ldtilecfg", real, address)


@intrinsic(prefer_literal=True)
def release(typing, real):
    """This thread is done with its tiles: nothing has to save their 8 KB any more."""
    return _told("tilerelease", real)


# --- sums -------------------------------------------------------------------------------------------

LEFT, REAL = 1, 2  # flags of ``SUMS``
# Products of parts (of w, of x), in the order in which they are added; a group is a pass over all steps.
PRODUCTS = {
    6: (((0, 2), (0, 1), (1, 1), (1, 0), (2, 0)), ((0, 0),)),
    3: (((0, 1), (1, 0)), ((0, 0),)),
    1: (((0, 0),),),
}


def _sums(
    v, count, rows, flag, x0, x1, x_part, x_row, table, w, steps, bias, y, y_row, y_left, y_right
):
    """2 x 2 tiles of sums over ``steps``; y = bias + all products of parts, the small ones first.

    ``left``: x is the left operand (its rows are pixels), else the right one. A step is 32 channels of a
    tap: it lies table[step] bytes after x0 and x1 in x, and in w behind the step before.
    """
    products, left, real = PRODUCTS[count], bool(flag & LEFT), bool(flag & REAL)
    unit = Tiles(v, [rows] * 4 + ([rows] * 2 + [ROWS] * 2 if left else [ROWS] * 4), real)
    most = 1 + max(part for group in products for pair in group for part in pair)
    first = {False: 4, True: 6}  # the first of the two tiles of the left and of the right operand
    for l in range(2):
        for r in range(2):  # the bias of a column of sums is a row that is read again and again
            at = v.add(bias, 64 * r) if left else v.add(bias, TILE * l)
            unit.load(2 * l + r, at, I64(0) if left else I64(64))
    for group in products:

        def step(values, group=group):
            table, w = values
            offset, held = v.integer(table), {}

            def fetch(right, part):
                if held.get(right) == part:
                    return
                held[right] = part
                for i in range(2):
                    if right == left:
                        unit.load(first[right] + i, v.add(w, TILE * (2 * part + i)), I64(64))
                    else:
                        at = v.add((x0, x1)[i], offset, v.times(x_part, part))
                        unit.load(first[right] + i, at, x_row)

            for w_part, x_part_number in group:
                l_part, r_part = (x_part_number, w_part) if left else (w_part, x_part_number)
                fetch(False, l_part)
                fetch(True, r_part)
                for l in range(2):
                    for r in range(2):
                        unit.multiply(2 * l + r, 4 + l, 6 + r)
            return [v.add(table, 8), v.add(w, 2 * TILE * most)]

        v.loop(steps, [table, w], step)
    for l in range(2):
        for r in range(2):
            unit.store(2 * l + r, v.add(y, v.times(y_left, l), v.times(y_right, r)), y_row)


# --- operands: x as parts ----------------------------------------------------------------------------


def _note(v, sizes, largest):
    """Keep the largest size seen so far in the 64 bytes at ``sizes``."""
    bits = Bits(v)
    kept = v.b.bitcast(v.load(sizes), bits.kind)
    v.store(v.b.bitcast(bits.larger(kept, largest), v.type), sizes)


def _right_pairs(v, parts, whole, _, x, plane, channels, pixels, to, pair_step, n, sizes):
    """``n`` pairs of right tiles, ``pair_step`` apart, from 32 planes of x: 32 pixels of 32 channels each.

    Not ``whole``: only the first ``channels`` planes and ``pixels`` of each are there, the others are zeros.
    """
    bits, half = Bits(v), v.times(plane, 16)

    def row(values):
        x, to, left, largest = values

        def tiles(values):
            at, to, largest = values
            for i in range(2):
                masks = [None, None]
                if not whole:
                    there = [v.b.icmp_signed(">", left, I64(16 * k)) for k in range(2)]
                    masks = [v.first(v.b.select(t, v.add(pixels, -16 * i), I64(0))) for t in there]
                low = v.load(v.add(at, 64 * i), masks[0])
                high = v.load(v.add(at, 64 * i, half), masks[1])
                for vector in (low, high):
                    largest = bits.larger(largest, bits.size(vector))
                found = zip(bits.parts(low, parts), bits.parts(high, parts), strict=True)
                for part, (a, b) in enumerate(found):
                    pairs = v.b.bitcast(bits.pairs(a, b), v.type)
                    v.store(pairs, v.add(to, TILE * (2 * part + i)))
            return [v.add(at, 128), v.add(to, pair_step), largest]

        _, _, largest = v.loop(n, [x, to, largest], tiles)
        return [v.add(x, plane), v.add(to, 64), v.add(left, -1), largest]

    *_, largest = v.loop(I64(16), [x, to, channels, bits.constant(0)], row)
    _note(v, sizes, largest)


def _planes(
    v, U, V, flag, planes, plane, source_plane, target, source, lines, target_step, source_step, width, left,
    count, step,
):  # fmt: skip
    """``_simd._copy_every`` for ``planes`` planes, ``plane`` apart in the copy and ``source_plane`` in x."""

    def one(values):
        lengths = (lines, target_step, source_step, width, left, count, step)
        _simd._copy_every(v, U, V, flag, *values, *lengths)
        return [v.add(values[0], plane), v.add(values[1], source_plane)]

    v.loop(planes, [target, source], one)


def _left_lines(v, parts, _, __, x, pixel, channels, to, part_step, n, sizes):
    """``n`` pixels of 32 channels, of which the first ``channels`` are there, as lines of 64 bytes."""
    bits = Bits(v)
    masks = v.first(channels), v.first(v.add(channels, -16))

    def line(values):
        x, to, largest = values
        low, high = v.load(x, masks[0]), v.load(v.add(x, 64), masks[1])
        for vector in (low, high):
            largest = bits.larger(largest, bits.size(vector))
        for part, (a, b) in enumerate(
            zip(bits.parts(low, parts), bits.parts(high, parts), strict=True)
        ):
            v.store(v.b.bitcast(bits.pairs(a, b), v.type), v.add(to, v.times(part_step, part)))
        return [v.add(x, pixel), v.add(to, 64), largest]

    *_, largest = v.loop(n, [x, to, bits.constant(0)], line)
    _note(v, sizes, largest)


def _turned_lines(v, parts, _, __, x, plane, to, part_step, n, sizes):
    """The same lines from 32 planes of x, ``n`` times 16 pixels."""
    bits = Bits(v)

    def lines(values):
        x, to, largest = values
        halves, at = [], x
        for _ in range(2):
            rows = []
            for _ in range(16):
                rows.append(v.load(at))
                at = v.add(at, plane)
            for row in rows:
                largest = bits.larger(largest, bits.size(row))
            halves.append(v.transpose(rows))
        for i, (low, high) in enumerate(zip(*halves, strict=True)):
            for part, (a, b) in enumerate(
                zip(bits.parts(low, parts), bits.parts(high, parts), strict=True)
            ):
                line = v.b.bitcast(bits.pairs(a, b), v.type)
                v.store(line, v.add(to, 64 * i, v.times(part_step, part)))
        return [v.add(x, 64), v.add(to, TILE), largest]

    *_, largest = v.loop(n, [x, to, bits.constant(0)], lines)
    _note(v, sizes, largest)


# --- results -----------------------------------------------------------------------------------------


def _columns_out(v, _, __, ___, sums, y, y_row, channels, pixels):
    """From 32 channels x 32 pixels at ``sums``: the first ``channels`` rows, ``pixels`` of each."""
    masks = v.first(pixels), v.first(v.add(pixels, -16))

    def row(values):
        sums, y = values
        for i in range(2):
            v.store(v.load(v.add(sums, 64 * i)), v.add(y, 64 * i), masks[i])
        return [v.add(sums, 128), v.add(y, y_row)]

    v.loop(channels, [sums, y], row)


def _segments(v, table, count, store):
    """store(offset of y, first row, rows) for each segment of a tile of pixels; the last may be empty."""

    def segment(values):
        [at] = values
        store(*(v.integer(v.add(at, 8 * i)) for i in range(3)))
        return [v.add(at, 24)]

    v.loop(count, [table], segment)


def _lines_out(v, _, __, ___, sums, y, y_pixel, table, count, channels):
    """From 16 pixels x 32 channels at ``sums`` to y in nhwc."""
    masks = v.first(channels), v.first(v.add(channels, -16))

    def store(offset, first, number):
        def line(values):
            sums, y = values
            for i in range(2):
                v.store(v.load(v.add(sums, 64 * i)), v.add(y, 64 * i), masks[i])
            return [v.add(sums, 128), v.add(y, y_pixel)]

        with v.b.if_then(v.b.icmp_signed(">", number, I64(0))):
            v.loop(number, [v.add(sums, v.times(first, 128)), v.add(y, offset)], line)

    _segments(v, table, count, store)


def _turned_out(v, rows_of_tile, _, __, sums, y, y_channel, table, count, channels):
    """From 16 pixels x 32 channels at ``sums`` to planes of y, in nchw."""
    for half in range(2):
        rows_here = [v.load(v.add(sums, 128 * i + 64 * half)) for i in range(rows_of_tile)]
        turned = v.transpose(rows_here)
        left = v.add(channels, -16 * half)
        start = v.add(y, v.times(y_channel, 16 * half))

        def store(offset, first, number, turned=turned, left=left, start=start):
            to = v.b.sub(v.add(start, offset), v.times(first, 4))
            _simd._store_channels(v, turned, to, y_channel, v.between(first, number), left)

        _segments(v, table, count, store)


_ROUTINES = (
    _sums, _right_pairs, _planes, _left_lines, _turned_lines, _columns_out, _lines_out, _turned_out,
)  # fmt: skip
SUMS, RIGHT_PAIRS, PLANES, LEFT_LINES, TURNED_LINES, COLUMNS_OUT, LINES_OUT, TURNED_OUT = range(8)


_address = _simd.addresses(_ROUTINES)


@cache
def entry(routine: int, U: int = 1, V: int = 1, flag: int = 0):
    """(address, compiled function) of a routine, as ``_simd.entry`` for float32 in vectors of 16."""
    digest = DIGEST

    def routine_address():
        return _address(digest, routine, 4, ROWS, U, V, flag)

    f = njit(types.int64(), cache=True)(routine_address)
    return f(), f
