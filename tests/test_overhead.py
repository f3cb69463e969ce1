"""The front door must not cost more than the kernels: some take less than 10 microseconds."""

from __future__ import annotations

from time import perf_counter_ns

import numpy as np
import pytest
from cases import CASES

import convzoo

LIMIT = 10_000  # nanoseconds
BATCHES, CALLS = 40, 50
NOTHING = '''"""Nothing."""
from convzoo.plan import Plan


def plan(p):
    return Plan(lambda x, weights: x)
'''


def _least(call, calls: int = CALLS) -> int:
    """The least time of one call, of many: what is left when the machine did nothing else."""
    least = 1 << 62
    for _ in range(calls):
        start = perf_counter_ns()
        call()
        least = min(least, perf_counter_ns() - start)
    return least


def _extra(through, direct) -> int:
    """How much longer the call through the front door takes; the two take turns."""
    for call in (through, direct):
        _least(call, 5)
    pairs = [(_least(through), _least(direct)) for _ in range(BATCHES)]
    return min(a for a, _ in pairs) - min(b for _, b in pairs)


@pytest.fixture
def nothing(drop) -> str:
    """A kernel that does nothing, so that what is left is the way to it."""
    drop("numpy", "nothing", NOTHING)
    return "numpy/nothing"


@pytest.mark.parametrize(
    "options",
    [{}, {"stride": (1, 2), "padding": ((0, 1), (2, 1)), "dilation": (1, 1), "groups": 1, "layout": "nchw"}],
    ids=["defaults", "all-options"],
)
def test_a_cached_call_costs_little(nothing, options):
    x, w, b = (np.ones(shape, np.float32) for shape in ((1, 3, 9, 9), (2, 3, 3, 3), (2,)))
    plan = convzoo.load(nothing).plan(CASES["plain"])
    extra = _extra(lambda: convzoo.conv2d(x, w, b, kernel=nothing, **options), lambda: plan.run(x, plan.pack(w, b)))
    assert extra <= LIMIT, f"conv2d adds {extra / 1000:.1f} microseconds to a call whose plan is cached"


def test_a_layer_costs_little(nothing):
    x, w, b = (np.ones(shape, np.float32) for shape in ((1, 3, 9, 9), (2, 3, 3, 3), (2,)))
    plan = convzoo.load(nothing).plan(CASES["plain"])
    weights = plan.pack(w, b)
    layer = convzoo.prepare(w, b, kernel=nothing)
    extra = _extra(lambda: layer(x), lambda: plan.run(x, weights))
    assert extra <= LIMIT, f"a layer adds {extra / 1000:.1f} microseconds to a call whose plan is cached"


def test_a_real_kernel_through_the_front_door():
    """The same on a kernel that computes: its own time varies, so this is the looser of the tests."""
    p = CASES["one-of-everything"]
    x, w, b = (np.ones(shape, np.float32) for shape in (p.x_shape, p.w_shape, (p.K,)))
    plan = convzoo.load("numpy/per_channel").plan(p)
    extra = _extra(lambda: convzoo.conv2d(x, w, b, kernel="numpy/per_channel"), lambda: plan.run(x, plan.pack(w, b)))
    assert extra <= LIMIT, f"conv2d adds {extra / 1000:.1f} microseconds to a call whose plan is cached"
