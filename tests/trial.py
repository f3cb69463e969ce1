"""How a test gives a problem to a kernel: refusals are counted skips, failures say how to repeat them."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import numpy as np
import pytest

import convzoo
from convzoo import Conv2d, Plan, Unsupported
from convzoo.reference import Verdict, inputs, judge

SLOW = 50  # a kernel that is slow by design gets this part of the most that it declares
SIMULATED_OUTPUTS = 200  # the most that the CUDA simulator, one Python thread per GPU thread, is given

refused: Counter[str] = Counter()  # kernel name -> problems that its plan refused in this run


def repeat(name: str, p: Conv2d, seed: int = 0) -> str:
    """The line that repeats a failure outside of pytest."""
    return f"repeat: python -m benchmarks check {name} --problems {p} --seed {seed}"


def fail(name: str, p: Conv2d, seed: int, why: str) -> NoReturn:
    pytest.fail(f"{name} on {p}, seed {seed}: {why}\n{repeat(name, p, seed)}", pytrace=False)


def expect(verdict: Verdict, name: str, p: Conv2d, seed: int = 0) -> None:
    if not verdict.ok:
        fail(name, p, seed, verdict.why)


@contextlib.contextmanager
def repeatable(name: str, p: Conv2d, seed: int = 0) -> Iterator[None]:
    """Whatever a kernel raises inside carries the line that repeats it."""
    try:
        yield
    except Exception as error:
        error.add_note(repeat(name, p, seed))
        raise


def too_much(kernel: Any, p: Conv2d) -> str | None:
    """Why this problem is more than the tests ask of this kernel, or None."""
    if kernel.max_flops is not None and p.flops > kernel.max_flops / SLOW:
        return "is slow by design: the problem is above what the tests give to such kernels"
    if getattr(kernel.backend, "simulated", False) and p.N * p.K * p.P * p.Q > SIMULATED_OUTPUTS:
        return "runs in the CUDA simulator: the problem is above what the tests give to it"
    return None


@contextlib.contextmanager
def refusals(kernel: Any) -> Iterator[None]:
    """Unsupported becomes a skip with its sentence, and is counted."""
    try:
        yield
    except Unsupported as reason:
        refused[kernel.name] += 1
        pytest.skip(f"{kernel.name} {reason}")


def plan(kernel: Any, p: Conv2d, seed: int = 0) -> Plan:
    """The kernel's plan for ``p``; skips where the kernel refuses it or it is more than tests ask."""
    if reason := too_much(kernel, p):
        pytest.skip(f"{kernel.name} {reason}")
    with refusals(kernel), repeatable(kernel.name, p, seed):
        return kernel.plan(p)


def options(p: Conv2d) -> dict[str, Any]:
    """The keyword arguments of conv2d and prepare that make ``p``."""
    top, bottom, left, right = p.padding
    return {
        "stride": p.stride,
        "padding": ((top, bottom), (left, right)),
        "dilation": p.dilation,
        "groups": p.groups,
        "layout": p.layout,
    }


def convolve(kernel: Any, p: Conv2d, x: Any, w: Any, b: Any) -> Any:
    """``p`` through the front door."""
    if reason := too_much(kernel, p):
        pytest.skip(f"{kernel.name} {reason}")
    with refusals(kernel), repeatable(kernel.name, p):
        return convzoo.conv2d(x, w, b, **options(p), kernel=kernel.name)


def tier(kernel: Any) -> str:
    """The integer data on which this kernel is held to the most."""
    return "exact" if kernel.accuracy == "elementwise" else "integers"


def integer_inputs(kernel: Any, p: Conv2d, seed: int = 0) -> tuple[Any, Any, Any]:
    return inputs(p, seed, tier(kernel), kernel.accuracy)


def expect_right(kernel: Any, p: Conv2d, data: tuple, y: Any, seed: int = 0) -> None:
    """``y`` is right for integer ``data``."""
    verdict = judge(y, p, *data, tier=tier(kernel), **kernel.promise)
    expect(verdict, kernel.name, p, seed)


def from_threads(calls: list[Callable[[], Any]]) -> list[Any]:
    """The results of the calls, each made in a thread of its own, all let go at the same moment."""
    gate = threading.Barrier(len(calls))

    def late(call: Callable[[], Any]) -> Any:
        gate.wait(timeout=60)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(late, calls))


def unsafe_in_threads(kernel: Any) -> str | None:
    """None, or why no kernel of this backend may be called from several threads on this machine."""
    if getattr(kernel.backend, "simulated", False):
        return "runs in the CUDA simulator, which is not threadsafe"
    return None


def pack_follows(kernel: Any, p: Conv2d, plan: Plan) -> str | None:
    """None, or what the verdict says after w and b have changed behind the back of packed weights."""
    backend, data = kernel.backend, integer_inputs(kernel, p)
    x, w, b = (None if a is None else backend.to_device(a) for a in data)
    weights = plan.pack(w, b)
    for a in (w, b):
        if a is not None:
            backend.overwrite(a, np.full(a.shape, np.nan, p.dtype))
    y = plan.run(x, weights)
    backend.synchronize()
    verdict = judge(backend.to_host(y), p, *data, tier=tier(kernel), **kernel.promise)
    return verdict.why or None


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True)
