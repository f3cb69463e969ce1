"""Instructions that Python has no words for: 16-byte access, and copies to shared memory that nobody waits for.

Building blocks of the kernels here, to be called inside a kernel. An array is any array of 4-byte values,
global or shared; ``i`` counts values, not bytes.

    load4(a, i)                       a[i], a[i + 1], a[i + 2], a[i + 3] in one instruction (LDG.128, LDS.128)
    store4(a, i, v0, v1, v2, v3)      the reverse (STG.128, STS.128)
    copy1_async(to, i, of, j, valid)  to[i] = of[j], or 0 where not valid, at some time before the wait below
    copy4_async(to, i, of, j, valid)  the same for four values; both in LDGSTS, past the registers
    commit()                          closes a group of the copies that this thread has begun
    wait_for_all_but(n)               returns when all groups but the newest n have landed; n is a constant

16-byte access needs i (and j) to be a multiple of 4 and arrays that begin at a multiple of 16 bytes: shared
ones with ``alignment=16``; what CUDA allocates does. ``to`` is shared, ``of`` global. A landed copy is seen
by the thread that made it; the others see it after a barrier. Where ``valid`` is false nothing is read.

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


if SIMULATED:
    load4, store4 = _load4_simulated, _store4_simulated
    copy1_async, copy4_async = _copy1_async_simulated, _copy4_async_simulated
    commit, wait_for_all_but = _commit_simulated, _wait_for_all_but_simulated
else:
    from numba.cuda.extending import intrinsic

    load4, store4 = intrinsic(_load4), intrinsic(_store4)
    copy1_async, copy4_async = intrinsic(_copy_async(4, "ca")), intrinsic(_copy_async(16, "cg"))
    commit = intrinsic(_commit)
    wait_for_all_but = intrinsic(_wait_for_all_but)
