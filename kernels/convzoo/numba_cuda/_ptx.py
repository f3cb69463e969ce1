"""Instructions that Python has no words for: 16-byte access, copies that nobody waits for, tensor cores.

Building blocks of the kernels here, to be called inside a kernel. An array is any array of 4-byte values,
global or shared; ``i`` counts values, not bytes.

    load4(a, i)                       a[i], a[i + 1], a[i + 2], a[i + 3] in one instruction (LDG.128, LDS.128)
    store4(a, i, v0, v1, v2, v3)      the reverse (STG.128, STS.128)
    copy1_async(to, i, of, j, valid)  to[i] = of[j], or 0 where not valid, at some time before the wait below
    copy4_async(to, i, of, j, valid)  the same for four values; both in LDGSTS, past the registers
    commit()                          closes a group of the copies that this thread has begun
    wait_for_all_but(n)               returns when all groups but the newest n have landed; n is a constant
    tf32(v)                           v rounded to TF32, 11 bits, ties away from zero (cvt.rna)
    mma_tf32(a0 .. a3, b0, b1, c0 .. c3)  16x8 sums c plus 16x8 times 8x8 products, by a warp (HMMA)

16-byte access needs i (and j) to be a multiple of 4 and arrays that begin at a multiple of 16 bytes: shared
ones with ``alignment=16``; what CUDA allocates does. ``to`` is shared, ``of`` global. A landed copy is seen
by the thread that made it; the others see it after a barrier. Where ``valid`` is false nothing is read.

A warp holds matrices together; lane l, with g = l // 4 and t = l % 4, has of the first a0 = A[g, t],
a1 = A[g + 8, t], a2 = A[g, t + 4], a3 = A[g + 8, t + 4], of the second b0 = B[t, g], b1 = B[t + 4, g], of the
sums c0 = C[g, 2t], c1 = C[g, 2t + 1], c2 = C[g + 8, 2t], c3 = C[g + 8, 2t + 1] (PTX ISA, "Matrix Fragments
for mma.m16n8k8"). What is no TF32 loses its lower 13 bits there. All lanes of a warp must come to it.

In Numba's simulator plain Python stands in, chosen at the end of this file. There a copy spoils its target at
once, with NaN, and lands at its wait and no earlier, so that whoever reads without waiting is found out.
"""

import threading

import numpy as np
from numba import types
from numba.core import cgutils

from ._launch import SIMULATED

ir = cgutils.ir

# Each instruction is written here as code that makes LLVM's: Numba calls it with the types of the arguments
# and gets the signature and a function that writes the code.


def _address(context, builder, array, values, space=None):
    """Where element i of an array lies; in an address space of its own, 3 being shared memory."""
    data = context.make_array(array)(context, builder, values[0]).data
    place = builder.gep(data, [values[1]])
    if space is None:
        return place
    return builder.addrspacecast(place, ir.PointerType(ir.IntType(8), addrspace=space))


def _vector(context, builder, array, values):
    four = ir.VectorType(context.get_value_type(array.dtype), 4)
    return four, builder.bitcast(_address(context, builder, array, values), four.as_pointer())


def _load4(typing, a, i):
    def code(context, builder, signature, values):
        four, place = _vector(context, builder, a, values)
        loaded = builder.load(place, typ=four, align=16)
        lanes = [builder.extract_element(loaded, ir.IntType(32)(lane)) for lane in range(4)]
        return context.make_tuple(builder, signature.return_type, lanes)

    return types.UniTuple(a.dtype, 4)(a, types.uint64), code


def _store4(typing, a, i, v0, v1, v2, v3):
    def code(context, builder, signature, values):
        four, place = _vector(context, builder, a, values)
        vector = ir.Constant(four, ir.Undefined)
        for lane, value in enumerate(values[2:]):
            vector = builder.insert_element(vector, value, ir.IntType(32)(lane))
        builder.store(vector, place, align=16)
        return context.get_dummy_value()

    return types.void(a, types.uint64, *[a.dtype] * 4), code


def _copy_async(size, cache):
    def copy(typing, to, i, of, j, valid):
        def code(context, builder, signature, values):
            word, long = ir.IntType(32), ir.IntType(64)
            target = builder.ptrtoint(_address(context, builder, to, values[:2], 3), word)
            source = builder.ptrtoint(_address(context, builder, of, values[2:4]), long)
            held = builder.select(values[4], word(size), word(0))  # bytes read; the rest becomes 0
            _assemble(
                builder, f"cp.async.{cache}.shared.global [$0], [$1], {size}, $2;", "r,l,r",
                target, source, held,
            )  # fmt: skip
            return context.get_dummy_value()

        return types.void(to, types.uint64, of, types.uint64, types.boolean), code

    return copy


def _commit(typing):
    def code(context, builder, signature, values):
        _assemble(builder, "cp.async.commit_group;", "")
        return context.get_dummy_value()

    return types.void(), code


def _wait_for_all_but(typing, n):
    if not isinstance(n, types.IntegerLiteral):
        return None  # Numba asks again with the constant's value

    def code(context, builder, signature, values):
        _assemble(builder, f"cp.async.wait_group {n.literal_value};", "")
        return context.get_dummy_value()

    return types.void(n), code


def _assemble(builder, text, registers, *values):
    """One instruction of PTX without a result, which LLVM moves over no access to memory."""
    form = ir.FunctionType(ir.VoidType(), [value.type for value in values])
    clobbers = ",".join(filter(None, (registers, "~{memory}")))
    builder.call(ir.InlineAsm(form, text, clobbers, side_effect=True), values)


def _tf32(typing, v):
    def code(context, builder, signature, values):
        word = ir.IntType(32)
        form = ir.FunctionType(word, [ir.FloatType()])
        rounded = builder.call(ir.InlineAsm(form, "cvt.rna.tf32.f32 $0, $1;", "=r,f"), values)
        return builder.bitcast(rounded, ir.FloatType())

    return types.float32(types.float32), code


def _mma_tf32(typing, a0, a1, a2, a3, b0, b1, c0, c1, c2, c3):
    def code(context, builder, signature, values):
        word, real = ir.IntType(32), ir.FloatType()
        operands = [builder.bitcast(value, word) for value in values[:6]]
        form = ir.FunctionType(ir.LiteralStructType([real] * 4), [word] * 6 + [real] * 4)
        text = (
            "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
            "{$0,$1,$2,$3}, {$4,$5,$6,$7}, {$8,$9}, {$10,$11,$12,$13};"
        )
        registers = ",".join(["=f"] * 4 + ["r"] * 6 + ["f"] * 4)
        sums = builder.call(
            ir.InlineAsm(form, text, registers, side_effect=True), [*operands, *values[6:]]
        )
        lanes = [builder.extract_value(sums, i) for i in range(4)]
        return context.make_tuple(builder, signature.return_type, lanes)

    return types.UniTuple(types.float32, 4)(*[types.float32] * 10), code


# What stands in for them in the simulator.


def _load4_simulated(a, i):
    _must_be_aligned(i)
    return tuple(a[i + lane] for lane in range(4))


def _store4_simulated(a, i, *values):
    _must_be_aligned(i)
    for lane, value in enumerate(values):
        a[i + lane] = value


def _must_be_aligned(i):
    assert i % 4 == 0, f"16-byte access to element {i}, which is not a multiple of 4"


def _copy1_async_simulated(to, i, of, j, valid):
    copies = _copies()
    copies[-1].append((to, i, of[j] if valid else of.dtype.type(0)))
    to[i] = np.nan


def _copy4_async_simulated(to, i, of, j, valid):
    _must_be_aligned(i)
    _must_be_aligned(j)
    for lane in range(4):
        _copy1_async_simulated(to, i + lane, of, j + lane, valid)


def _commit_simulated():
    _copies().append([])


def _wait_for_all_but_simulated(n):
    copies = _copies()
    while len(copies) > n + 1:  # the last group is not closed yet
        for to, i, value in copies.pop(0):
            to[i] = value


def _copies():
    """The groups of copies of this thread of the simulator that have not landed."""
    thread = threading.current_thread()
    if not hasattr(thread, "copies"):
        thread.copies = [[]]
    return thread.copies


def _tf32_simulated(v):
    v = np.float32(v)
    if not np.isfinite(v):
        return v
    return ((v.view(np.uint32) + np.uint32(0x1000)) & TF32).view(np.float32)


TF32 = np.uint32(0xFFFFE000)  # the bits that a tensor core looks at


class _Sum:
    """A sum that one lane has of an mma: computed when it is needed, when all lanes have brought their part.

    Most are needed by the next mma alone: so threads of the simulator, slow to take turns, rarely must.
    """

    __array_ufunc__ = None  # a NumPy number to the left leaves the operation to this class

    def __init__(self, warp, number, lane, which):
        self.warp, self.number, self.lane, self.which = warp, number, lane, which

    def __float__(self):
        return float(self.value())

    def __add__(self, other):
        return self.value() + (other.value() if isinstance(other, _Sum) else other)

    def __radd__(self, other):
        return other + self.value()

    def value(self):
        self.warp.compute(self.number)
        return self.known()

    def known(self):
        g, t = divmod(self.lane, 4)
        return self.warp.sums[self.number][g + self.which // 2 * 8, 2 * t + self.which % 2]


class _Warp:
    """What the lanes of a warp have brought to each mma so far, and the sums that were needed."""

    def __init__(self):
        self.brought = [[] for _ in range(32)]
        self.sums, self.news = [], threading.Condition()

    def bring(self, lane, values):
        with self.news:
            self.brought[lane].append(values)
            self.news.notify_all()
        return tuple(_Sum(self, len(self.brought[lane]) - 1, lane, which) for which in range(4))

    def compute(self, number):
        def all_are_here():
            return all(len(values) > number for values in self.brought)

        if not all_are_here() and hasattr(thread := threading.current_thread(), "meet"):
            thread.meet()  # a scheduler of the tests', which runs one thread at a time
            assert all_are_here(), "some lanes of a warp came to an mma and others did not"
        with self.news:
            assert self.news.wait_for(all_are_here, 60), (
                "some lanes of a warp came to an mma, others did not"
            )
            while len(self.sums) <= number:
                self.sums.append(self._product(len(self.sums)))

    def _product(self, number):
        parts = [self.brought[lane][number] for lane in range(32)]
        lanes = np.array([part[:6] for part in parts], np.float32).reshape(8, 4, 6)
        before = [c.known() if isinstance(c, _Sum) else c for part in parts for c in part[6:]]
        before = np.array(before, np.float64).reshape(8, 4, 4)
        cut = (lanes.view(np.uint32) & TF32).view(np.float32).astype(np.float64)
        a, b, c = np.empty((16, 8)), np.empty((8, 8)), np.empty((16, 8))
        a[:8, :4], a[8:, :4], a[:8, 4:], a[8:, 4:] = (cut[:, :, i] for i in range(4))
        b[:4], b[4:] = cut[:, :, 4].T, cut[:, :, 5].T
        c[:8, ::2], c[:8, 1::2], c[8:, ::2], c[8:, 1::2] = (before[:, :, i] for i in range(4))
        with np.errstate(invalid="ignore", over="ignore"):
            exact = a @ b + c
            rounded = exact.astype(np.float32)
            # tensor cores cut their sums: of two neighbours they take the one nearer to zero
            beyond = np.isfinite(exact) & (np.abs(rounded.astype(np.float64)) > np.abs(exact))
            return np.where(beyond, np.nextafter(rounded, np.float32(0)), rounded)


def _mma_tf32_simulated(*values):
    thread = threading.current_thread()
    block = thread._manager
    with _lock:
        warps = block.__dict__.setdefault("warps", {})
        warp, lane = divmod(thread.threadIdx.x, 32)
        mine = warps.setdefault((*thread.blockIdx, warp), _Warp())
    return mine.bring(lane, values)


_lock = threading.Lock()

if SIMULATED:
    load4, store4 = _load4_simulated, _store4_simulated
    copy1_async, copy4_async = _copy1_async_simulated, _copy4_async_simulated
    commit, wait_for_all_but = _commit_simulated, _wait_for_all_but_simulated
    tf32, mma_tf32 = _tf32_simulated, _mma_tf32_simulated
else:
    from numba.cuda.extending import intrinsic

    load4, store4 = intrinsic(_load4), intrinsic(_store4)
    copy1_async, copy4_async = intrinsic(_copy_async(4, "ca")), intrinsic(_copy_async(16, "cg"))
    commit = intrinsic(_commit)
    wait_for_all_but = intrinsic(_wait_for_all_but)
    tf32, mma_tf32 = intrinsic(_tf32), intrinsic(_mma_tf32)
