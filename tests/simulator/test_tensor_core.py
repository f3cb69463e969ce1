"""The tensor-core kernels in the stricter simulator: every tile, and faults that must be seen.

The tiny problems of test_numba_cuda.py reach a block of one warp. Here are the larger ones, one exact run
each, and kernels with one place changed: copies not waited for, a barrier dropped, numbers not rounded.
"""

from __future__ import annotations

import types

import numpy as np
import pytest
from numba import cuda
from simulator.test_numba_cuda import ORDERS, strict  # noqa: F401  the fixture

import convzoo
from convzoo import Conv2d
from convzoo.numba_cuda import _ptx
from convzoo.numba_cuda._launch import Launch
from convzoo.reference import inputs, judge

KERNELS = ("tensor_core_tf32", "tensor_core_3xtf32")
TAIL = "n1c10h4w9k36r3s2-p1_0_0_1-nhwc"  # C no multiple of 4; five steps, the last half empty


def run_once(kernel, plan, p: Conv2d, tier: str):
    x, w, b = inputs(p, 3, tier)
    weights = plan.pack(*(None if a is None else kernel.backend.to_device(a) for a in (w, b)))
    y = kernel.backend.to_host(plan.run(kernel.backend.to_device(x), weights))
    return judge(y, p, x, w, b, accuracy=kernel.accuracy, tier=tier)


def exact(kernel) -> str:
    return "exact" if kernel.accuracy == "elementwise" else "integers"


@pytest.mark.parametrize("tile", [0, 1])
@pytest.mark.parametrize("stem", KERNELS)
def test_every_tile(stem, tile, strict, monkeypatch):  # noqa: F811
    """Blocks of several warps, with tails of pixels, filters and taps in one block each way."""
    strict("last-thread-first")
    kernel = convzoo.load(f"numba_cuda/{stem}")
    module = kernel.module()
    one = module.TILES[tile]
    assert one.threads > 32
    monkeypatch.setattr(module, "TILES", (one,))
    width = one.pixels // 8 - 1  # 7 rows of this: a few pixels less than the block has
    p = Conv2d(1, 17, 7, width, one.filters - 3, 1, 3, padding=(0, 0, 1, 1))
    verdict = run_once(kernel, module.plan(p), p, exact(kernel))
    assert verdict.ok, f"{p}: {verdict.why}"


@pytest.mark.parametrize("stem", KERNELS)
def test_random_numbers_keep_the_guarantee_well(stem, strict):  # noqa: F811
    """By a margin: sums are cut, not rounded, and so err in one direction."""
    strict("first-thread-first")
    kernel = convzoo.load(f"numba_cuda/{stem}")
    p = Conv2d.parse("n1c40h3w4k5r3s3-p1")
    verdict = run_once(kernel, kernel.plan(p), p, "random")
    assert verdict.ok, verdict.why
    if kernel.accuracy == "elementwise":
        assert verdict.score < 12, f"{verdict.score} units of u * A, of {p.taps + 1} that are allowed"


def test_matrices_lie_in_the_lanes_as_the_manual_says():
    """A, B and C with all elements different, put into lanes by the manual's formulas, element by element."""
    a = np.arange(128, dtype=np.float32).reshape(16, 8)
    b = np.arange(64, dtype=np.float32).reshape(8, 8) - 30
    c = np.arange(128, dtype=np.float32).reshape(16, 8) * 3
    y = np.zeros((16, 8), np.float32)

    def body(y):
        lane = cuda.threadIdx.x
        group, t = lane >> 2, lane % 4
        of_a = [a[group + 8 * (i % 2), t + 4 * (i // 2)] for i in range(4)]
        of_b = [b[t + 4 * i, group] for i in range(2)]
        places = [(group + 8 * (i // 2), 2 * t + i % 2) for i in range(4)]
        sums = _ptx.mma_tf32(*of_a, *of_b, *(c[place] for place in places))
        for place, value in zip(places, sums, strict=True):
            y[place] = value

    Launch("test", body, "void()", 1, 32).compiled()[1, 32](y)
    assert np.array_equal(y, a @ b + c)


@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        (1.0, 1.0),
        (1 + 2**-10, 1 + 2**-10),
        (1 + 2**-11, 1 + 2**-10),
        (-1 - 2**-11, -1 - 2**-10),
        (1 + 2**-11 - 2**-23, 1.0),
        (4095.0, 4096.0),
        (np.inf, np.inf),
    ],
)
def test_tf32_has_11_bits_and_ties_go_away_from_zero(value, rounded):
    assert _ptx.tf32(np.float32(value)) == np.float32(rounded)
    assert np.isnan(_ptx.tf32(np.float32(np.nan)))


MUTANTS = {
    "no wait": ("wait_for_all_but(YOUNGER)", "pass"),
    "waits for too little": ("YOUNGER = STAGES - 2", "YOUNGER = STAGES - 1"),
    "no barrier after the wait": ("cuda.syncthreads()  # for all threads", "pass  #"),
    "a stage is overwritten early": ("AHEAD = STAGES - 1", "AHEAD = STAGES"),
    "swapped fragment": ("e % 2, 2 * half + e // 2]", "e // 2, 2 * half + e % 2]"),
    "x not rounded": ("x_big[i, e] = tf32(v)", "x_big[i, e] = v"),
    "w not rounded": ("w_big[e] = tf32(v)", "w_big[e] = v"),
    "the small part of x is lost": ("x_small[i, e] = tf32(v - x_big[i, e])", "x_small[i, e] = float32(0)"),
    "the rest is not added": (" + rest[i, e // 2, 2 * half + e % 2]", ""),
    "tail of pixels": ("if pixel < M:", "if True:"),
    "tail of filters": ("if filter < F:", "if True:"),
    "no bias": ("+ b[k]", ""),
}
# With one warp a thread happens to read just what it has copied itself: these need several.
OF_SEVERAL_WARPS = ("no barrier after the wait",)


def seen(kernel, module, p: Conv2d) -> bool:
    """Whether exact data, with long weights, or random data, with long x as well, show a fault."""
    try:
        return not all(run_once(kernel, module.plan(p), p, tier).ok for tier in ("exact", "random"))
    except (IndexError, AssertionError, RuntimeWarning):
        return True


@pytest.mark.parametrize("mutant", MUTANTS)
def test_wrong_kernel_is_rejected(mutant, strict):  # noqa: F811
    right, wrong = MUTANTS[mutant]
    kernel = convzoo.load("numba_cuda/tensor_core_3xtf32")
    source = kernel.path.read_text(encoding="utf-8")
    assert source.count(right) == 1, f"update the mutant: {right!r} must stand in {kernel.path.name} once"
    module = types.ModuleType("wrong")
    module.__package__ = "convzoo.numba_cuda"  # where its building blocks lie
    exec(compile(source.replace(right, wrong), f"<{mutant}>", "exec"), module.__dict__)
    if mutant in OF_SEVERAL_WARPS:
        module.TILES = module.TILES[1:2]
    for order in ORDERS:
        strict(order)
        if seen(kernel, module, Conv2d.parse(TAIL)):
            return
    pytest.fail(f"{mutant} was not seen")


@pytest.mark.parametrize("tile", [1, 2])
def test_the_honest_kernel_passes_where_the_wrong_ones_fail(tile, strict, monkeypatch):  # noqa: F811
    kernel = convzoo.load("numba_cuda/tensor_core_3xtf32")
    module = kernel.module()
    monkeypatch.setattr(module, "TILES", (module.TILES[tile],))
    strict("first-thread-first")
    assert not seen(kernel, module, Conv2d.parse(TAIL))
