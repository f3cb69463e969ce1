"""Every numba_cuda kernel in Numba's CUDA simulator, made stricter than it is.

NUMBA_ENABLE_CUDASIM must be set before numba is imported, and then no real GPU can be used, so these
tests need a process of their own: tests/test_numba_cuda_simulator.py starts it.

What is stricter
    memory     shared and local arrays and every fresh device array start as NaN, anew for each block;
               more than 48 KiB of shared memory is refused, and so are negative indices
    threads    one runs at a time, from one barrier to the next: in the order of their numbers and again
               in the reverse order. A missing barrier, which the simulator's own scheduling hides 19
               times in 20, is then seen every time. Threads at different barriers are refused

What stays invisible: a race inside one statement, bank conflicts, misaligned access, wrap-around of
32-bit indices at real sizes, and whatever the compiler would refuse (the caller compiles for that).
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest

import convzoo
from convzoo import Conv2d, Unsupported
from convzoo.reference import examine, inputs, judge

if os.environ.get("NUMBA_ENABLE_CUDASIM") != "1":
    pytest.skip(
        "needs NUMBA_ENABLE_CUDASIM=1: tests/test_numba_cuda_simulator.py runs it in its own process",
        allow_module_level=True,
    )

from numba import cuda
from numba.cuda.simulator import kernel as simulator
from numba.cuda.simulator import kernelapi
from numba.cuda.simulator.cudadrv import devicearray

from convzoo.numba_cuda import _implicit_gemm

SHARED = 48 * 1024

PROBLEMS = {  # one to six blocks each; a tail in every dimension that is cut
    "tails-of-rows-columns-and-channels": "n1c9h5w9k3r3s3-p1",
    "tail-of-filters": "n1c2h4w5k9r3s2-st2x1-p1_0_2_1-d1x2",
    "batch-stride-dilation": "n2c3h7w6k2r2s3-st3x2-p2_0_1_3-d2x1-nobias",
    "groups-two-tails": "n1c18h3w4k18r2s1-p0_1_2_0-g2",
    "depthwise-f64": "n1c3h6w7k3r3s3-p1-g3-f64",
    "depthwise-multiplier": "n1c2h3w5k6r3s2-p1-g2",
    "1x1": "n1c5h3w4k10r1s1",
    "filter-beyond-the-input": "n1c2h3w2k3r5s4-p2_1_1_2",
    "nhwc": "n1c9h5w9k3r3s2-p1_0_1_2-nhwc",
    "steps-of-whole-channels": "n1c8h4w6k5r2s3-p1_0_1_1",
    "nhwc-four-neighbours": "n1c8h3w5k4r1s2-p0_1_1_0-g2-nhwc",
    "nhwc-patches-of-two-images": "n2c9h4w3k5r3s3-p1_0_1_2-nobias-nhwc",
    "nhwc-all-options-f64": "n2c4h6w7k6r2s3-st1x2-p2_0_1_3-d2x1-g2-nobias-f64-nhwc",
}


def refuse_negative(index) -> None:
    for i in index if isinstance(index, tuple) else (index,):
        if not isinstance(i, slice) and i < 0:
            raise IndexError(f"negative index {index}")


class Checked(dict):
    """Shared or local memory: full of NaN (integers: of -1), and a wrong index is no element.

    Values are kept by their index, which is ten times as fast as an array's element in Python.
    """

    def __init__(self, shape, dtype):
        self.type = np.dtype(getattr(dtype, "name", dtype)).type  # a numba type has a name
        shape = shape if isinstance(shape, tuple) else (shape,)
        indices = range(shape[0]) if len(shape) == 1 else itertools.product(*map(range, shape))
        poison = np.full(1, 0xFFFFFFFFFFFFFFFF, np.uint64).view(self.type)[0]
        super().__init__(dict.fromkeys(indices, poison))
        self.nbytes = len(self) * poison.itemsize

    def __missing__(self, index):
        raise IndexError(f"index {index} of {len(self)} elements")

    def __setitem__(self, index, value):
        if index not in self:
            raise IndexError(f"index {index} of {len(self)} elements")
        # a sum of a tensor core is computed when it is needed
        super().__setitem__(index, value if hasattr(value, "warp") else self.type(value))


def poisoned(shape, dtype) -> np.ndarray:
    """NaN in a fresh array on the device."""
    a = np.empty(shape, dtype)
    a.reshape(-1).view(np.uint8)[:] = 0xFF
    return a


def local_array(self, shape, dtype, alignment=None):
    return Checked(shape, dtype)


def shared_array(self, shape, dtype, alignment=None):
    caller = sys._getframe(1)  # all threads of a block share what one line made
    where = (caller.f_code.co_filename, caller.f_lineno)
    if where not in self._allocations:
        self._allocations[where] = Checked(shape, dtype)
        used = sum(a.nbytes for a in self._allocations.values())
        assert used <= SHARED, f"{used} bytes of shared memory, a block has {SHARED}"
    return self._allocations[where]


class Thread(simulator.BlockThread):
    """A CUDA thread that runs when it is given its turn, as far as the next barrier."""

    def __init__(self, *args):
        super().__init__(*args)
        self.turn, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self.barrier = None  # the line where it waits

    def advance(self) -> None:
        self.barrier = None
        self.turn.release()
        self.done.acquire()
        if self.exception:
            raise self.exception[0].with_traceback(self.exception[1])

    def run(self) -> None:
        self.turn.acquire()
        if not self.abort:
            super().run()
        self.done.release()

    def syncthreads(self) -> None:
        self._wait_at(sys._getframe(2).f_lineno)

    def meet(self) -> None:
        """Where a thread needs what the others of its warp have brought to an instruction."""
        self._wait_at("an instruction of a warp")

    def _wait_at(self, barrier: int | str) -> None:
        self.barrier = barrier
        self.done.release()
        self.turn.acquire()
        if self.abort:
            raise RuntimeError("another thread of the block has failed")


def run_block(order):
    """A replacement for the simulator's scheduler."""

    def run(self, block, *args) -> None:
        simulator._get_kernel_context().shared._allocations.clear()
        where = np.ndindex(*self._block_dim)
        threads = [Thread(lambda: self._f(*args), self, block, at, False) for at in where]
        for thread in threads:
            thread.start()
        every = threads
        try:
            while threads:
                for thread in order(threads):
                    thread.advance()
                threads = [thread for thread in threads if thread.barrier is not None]
                barriers = {thread.barrier for thread in threads}
                assert len(barriers) < 2, f"threads wait in different lines: {barriers}"
        finally:
            for thread in every:
                thread.abort = True
                thread.turn.release()

    return run


ORDERS = {"first-thread-first": list, "last-thread-first": lambda threads: threads[::-1]}


@pytest.fixture
def strict(monkeypatch):
    """The stricter simulator; a call sets the order of the threads, which is the first one until then."""

    def order(name: str) -> None:
        monkeypatch.setattr(simulator.BlockManager, "run", run_block(ORDERS[name]))

    order("first-thread-first")
    monkeypatch.setattr(kernelapi.FakeCUDAShared, "array", shared_array)
    monkeypatch.setattr(kernelapi.FakeCUDALocal, "array", local_array)
    monkeypatch.setattr(cuda, "device_array", lambda shape, dtype: devicearray.FakeCUDAArray(poisoned(shape, dtype)))
    within = devicearray.FakeWithinKernelCUDAArray
    read, write = within.__getitem__, within.__setitem__
    monkeypatch.setattr(within, "__getitem__", lambda a, i: (refuse_negative(i), read(a, i))[1])
    monkeypatch.setattr(within, "__setitem__", lambda a, i, v: (refuse_negative(i), write(a, i, v))[1])
    return order


# On these every kernel is examined: four runs. On the others a kernel whose blocks do much runs once.
EXAMINED = {"1x1", "batch-stride-dilation", "nhwc-patches-of-two-images"}
LIGHT = {f"numba_cuda/{stem}" for stem in ("naive", "coalesced", "shared_tile")}


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("name", convzoo.names("numba_cuda/*"))
def test_kernel(name, problem, strict):
    strict(tuple(ORDERS)[len(name + problem) % 2])  # each kernel meets both
    p, kernel = Conv2d.parse(PROBLEMS[problem]), convzoo.load(name)
    try:
        plan = kernel.plan(p)
    except Unsupported as reason:
        pytest.skip(f"{name} {reason}")
    if name in LIGHT or problem in EXAMINED:
        verdict = examine(kernel, p, seed=len(problem), plan=plan)
        assert verdict.ok, f"{name} on {p}: {verdict.why}"
    else:
        run_once(kernel, plan, p)


GEMMS = ("register_tile", "vector_loads", "async_tile")


def run_once(kernel, plan, p: Conv2d) -> None:
    """One call on integers, for problems on which four would take too long."""
    tier = "exact" if kernel.accuracy == "elementwise" else "integers"
    x, w, b = inputs(p, 2, tier, kernel.accuracy)
    y = plan.run(cuda.to_device(x), plan.pack(cuda.to_device(w), None if b is None else cuda.to_device(b)))
    verdict = judge(y.copy_to_host(), p, x, w, b, accuracy=kernel.accuracy, tier=tier)
    assert verdict.ok, f"{kernel.name} on {p}: {verdict.why}"


@pytest.mark.parametrize("tile", _implicit_gemm.TILES["float32"], ids=lambda t: "x".join(map(str, t)))
@pytest.mark.parametrize("stem", GEMMS)
def test_every_tile(stem, tile, strict, monkeypatch):
    """What a large problem would choose, with a tail of pixels and of filters and a step that is not full."""
    strict(tuple(ORDERS)[tile.threads // 64 % 2])
    monkeypatch.setitem(_implicit_gemm.TILES, "float32", (tile,))
    p = Conv2d(1, 3, 3, tile.pixels // 4 + 2, tile.filters + 1, 1, 3, padding=(1, 0, 0, 1))
    kernel = convzoo.load(f"numba_cuda/{stem}")
    (convolve,) = (launch for launch in kernel.module().launches(p) if launch.name == "convolve")
    assert (convolve.grid, convolve.block) == (4, tile.threads)
    run_once(kernel, kernel.plan(p), p)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("stem", GEMMS)
def test_parts_of_the_taps_are_added(stem, layout, strict):
    p = Conv2d(1, 80, 2, 3, 6, 1, 3, padding=(0, 0, 1, 0), layout=layout)
    kernel = convzoo.load(f"numba_cuda/{stem}")
    launches = {launch.name: launch for launch in kernel.module().launches(p)}
    assert "add" in launches and launches["convolve"].grid > 1
    run_once(kernel, kernel.plan(p), p)


# Kernels wrong on purpose: the source with one place changed. Each is one that this simulator can see.
MUTANTS = {
    "naive: last block": ("if i >= outputs:", "if i > outputs:"),
    "naive: row below the image": ("if top <= h < top + H:", "if top <= h <= top + H:"),
    "naive: column left of the image": ("if left <= v < left + W:", "if v < left + W:"),
    "naive: swapped sides": ("uint32(prob.padding[0])", "uint32(prob.padding[1])"),
    "coalesced: wrong group": ("first = k // filters * C", "first = k // filters * filters"),
    "shared_tile: no barrier after loading": ("cuda.syncthreads()  # 1", "pass  # 1"),
    "shared_tile: no barrier after use": ("cuda.syncthreads()  # all is read", "pass  #"),
    "shared_tile: barrier not for all": ("cuda.syncthreads()  # 1", "if row: cuda.syncthreads()  # 1"),
    "shared_tile: unwritten x": ("while i < channels * high * wide:", "while i < high * wide:"),
    "shared_tile: unwritten w": ("while i < filters * channels * R * S:", "while i < filters * R * S:"),
    "shared_tile: no halo": ("(columns - 1) * p.stride[1] + p.extent[1]", "columns * p.stride[1]"),
    "shared_tile: tail of rows": ("if p < P and q < Q:", "if q < Q:"),
    "shared_tile: tail of columns": ("if p < P and q < Q:", "if p < P:"),
    "shared_tile: tail of filters": ("                if k0 + j < K:\n", "                if True:\n"),
    "shared_tile: tail of channels": ("if c_in < C and top <= h_in", "if top <= h_in"),
    "shared_tile: swapped strides": ("row * stride_h + r * step_h", "row * stride_w + r * step_h"),
    "register_tile: no barrier after loading": ("cuda.syncthreads()  # all is written", "pass  #"),
    "register_tile: no barrier after use": ("cuda.syncthreads()  # all is read", "pass  #"),
    "register_tile: pixels beyond the last": ("if m < M else NOWHERE", "if True else NOWHERE"),
    "register_tile: a lane elsewhere": ("(lane % 2 + lane // 16 * 2) * 4", "(lane % 4) * 4"),
    "register_tile: a tap twice": ("multiply(xs, ws, sums, m, f, 7)", "multiply(xs, ws, sums, m, f, 6)"),
    "register_tile: unset sums": ("sums[i, j] = real(0)", "pass"),
    "register_tile, _implicit_gemm: unwritten filters": ("f + more < F:", "f + more + 1 < F:"),
    "register_tile, _implicit_gemm: unwritten pixels": ("if m < M and", "if m + 1 < M and"),
    "register_tile, _implicit_gemm: taps in another order": (
        "taps // C % p.S, taps // C // p.S",
        "taps // C // p.R, taps // C % p.R",
    ),
    "vector_loads: no barrier after loading": ("cuda.syncthreads()  # all is written", "pass  #"),
    "vector_loads: no barrier after use": ("cuda.syncthreads()  # all is read", "pass  #"),
    "vector_loads: no barrier in the square": ("cuda.syncthreads()\n        for", "pass\n        for"),
    "vector_loads: taps in another order": ("uint32(i * PITCH + e *", "uint32((3 - i) * PITCH + e *"),
    "async_tile: no wait": ("wait_for_all_but(YOUNGER)", "pass"),
    "async_tile: waits for too few": ("YOUNGER = STAGES - 2", "YOUNGER = STAGES - 1"),
    "async_tile: no barrier": ("cuda.syncthreads()  # 1", "pass  # 1"),
    "async_tile: one stage too few": ("AHEAD = STAGES - 1", "AHEAD = STAGES"),
    "async_tile: reads outside": ("uint64(at) + more, inside)", "uint64(at) + more, True)"),
    "async_tile: too few copies of x": ("in range(X_COPIES):\n            more", "in range(1):\n            more"),
    "async_tile: copies in no group": ("            commit()\n        while", "            pass\n        while"),
    "winograd: no wait": ("wait_for_all_but(YOUNGER)", "pass"),
    "winograd: no barrier": ("cuda.syncthreads()  # for all", "pass  #"),
    "winograd, _winograd: rows beyond the last": ("if h < P and v < Q:", "if v < Q:"),
    "winograd, _winograd: channels that are not there": ("if c < C and top", "if top"),
    "shared_tile: unset sums": ("sums[j] = b[g * K + k0 + j] if k0 + j < K else real(0)", "pass"),
}


def changed(file: str, right: str, wrong: str) -> types.ModuleType:
    """The module in a file of this backend's folder, with one place of its source changed."""
    path = Path(_implicit_gemm.__file__).with_name(f"{file}.py")
    source = path.read_text(encoding="utf-8")
    assert source.count(right) == 1, f"update the mutant: {right!r} must stand in {file}.py once"
    module = types.ModuleType(f"convzoo.numba_cuda.wrong_{file}")
    module.__package__ = "convzoo.numba_cuda"  # where its building blocks lie
    sys.modules[module.__name__] = module  # dataclasses look there
    exec(compile(source.replace(right, wrong), f"<wrong {file}>", "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("mutant", MUTANTS)
def test_wrong_kernel_is_rejected(mutant, strict, monkeypatch):
    stem, _, block = mutant.partition(":")[0].partition(", ")
    module = changed(block or stem, *MUTANTS[mutant])
    if block:  # the kernel as it is, with a building block that is wrong
        monkeypatch.setitem(sys.modules, f"convzoo.numba_cuda.{block}", module)
        module = changed(stem, "\nALGORITHM", "\n\nALGORITHM")
    kernel = convzoo.load(f"numba_cuda/{stem}")
    p = Conv2d.parse("n1c9h6w5k3r3s3-p1_0_1_1" if stem == "winograd" else "n1c22h4w17k18r2s3-st1x2-p0_2_2_1-g2")
    for order in ORDERS:
        strict(order)
        try:
            verdict = examine(kernel, p, seed=1, plan=module.plan(p))
        except (IndexError, AssertionError, RuntimeWarning):  # the last: an unsigned index below 0
            return
        if not verdict.ok:
            return
    pytest.fail(f"{mutant} was not seen")
