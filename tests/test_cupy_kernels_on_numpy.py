"""CuPy's array kernels on NumPy arrays: the same files, judged on any machine.

They ask ``cupy.get_array_module`` for the library of their argument. Which kernels do so is read from
their files, so a new one is tested without a change here.
"""

from __future__ import annotations

import dataclasses
import sys
import tracemalloc
from types import ModuleType

import numpy as np
import pytest

from convzoo import Conv2d, names
from convzoo.backends import BACKENDS
from convzoo.catalog import find
from convzoo.reference import examine, inputs

SOURCES = {name: find(name).path.read_text(encoding="utf-8") for name in names("cupy/*")}
ARRAY_KERNELS = [name for name, source in SOURCES.items() if "get_array_module" in source]
LIMITS = (
    "PRODUCT_BYTES",
    "IMAGE_BYTES",
    "PATCH_BYTES",
    "BLOCK_BYTES",
)  # what a kernel may call the memory that it cuts its work to fit
CUTTING = [name for name in ARRAY_KERNELS if any(limit in SOURCES[name] for limit in LIMITS)]
PROBLEMS = (
    "n1c1h1w1k1r1s1",
    "n1c1h4w3k2r1s1-p3_0_2_5",
    "n3c4h9w8k5r3s3-p1",
    "n1c3h20w17k4r5s5-nobias",
    "n2c5h11w14k3r3s4-st2x3-p2_1_0_3",
    "n1c2h12w9k3r2s3-p0_2_4_1-d3x2",
    "n2c2h4w5k3r3s3-st3x2-p3_4_5_2-d3x4",
    "n3c8h7w6k12r3s2-st1x2-p1_0_1_2-g4",
    "n2c7h8w9k7r3s3-p1-g7-nobias",
    "n1c3h6w7k9r2s2-g3-f64",
    "n2c6h7w10k4r3s3-st2x1-p0_3_1_0-d1x2-g2-f64",
    "n1c17h1w13k15r1s3-p0_0_1_1",
    "n4c5h6w5k6r3s3-p1-nhwc",
    "n1c1h9w7k4r4s1-st2x1-p1_2_0_0-nobias-nhwc",
    "n3c6h9w8k4r3s2-st2x3-p1_2_3_0-d2x3-g2-f64-nhwc",
    "n2c9h5w6k9r3s3-p2_0_1_3-g9-nhwc",
)

problems = pytest.mark.parametrize("p", [Conv2d.parse(text) for text in PROBLEMS], ids=PROBLEMS)


@pytest.fixture
def kernel(name):
    """The kernel, with NumPy as the backend that owns its arrays; no GPU is asked for."""
    pytest.importorskip("cupy", reason="needs CuPy, which imports without a GPU")
    return dataclasses.replace(find(name), backend=BACKENDS["numpy"])


def expect_right(kernel, p):
    for seed in (0, 1):  # one puts the wide integers in x, the other in w
        verdict = examine(kernel, p, seed)
        assert verdict.ok, f"{kernel.name} on {p}, seed {seed}: {verdict.why}"


@pytest.mark.parametrize("name", ARRAY_KERNELS)
@problems
def test_is_right(kernel, p):
    expect_right(kernel, p)


@pytest.mark.parametrize("name", ["cupy/im2col"])
@problems
def test_planes_that_count_as_wide(kernel, p, monkeypatch):
    monkeypatch.setattr(kernel.module(), "WIDE", 1)
    expect_right(kernel, p)


@pytest.mark.parametrize("name", CUTTING)
@problems
def test_is_right_in_small_pieces(kernel, p, monkeypatch):
    """Limits that only large problems reach, made so small that each of these reaches them."""
    module = kernel.module()
    for bytes_at_once in (1, 3000):
        for limit in LIMITS:
            if hasattr(module, limit):
                monkeypatch.setattr(module, limit, bytes_at_once)
        expect_right(kernel, p)


WORKSPACES = ("n2c16h40w40k24r3s3-p1", "n4c16h20w20k24r3s3-p1-nhwc", "n2c16h41w40k24r3s3-st2-g2", "n3c32h33w33k16r1s1")


@pytest.mark.parametrize("text", WORKSPACES)
@pytest.mark.parametrize("name", ["cupy/shifted", "cupy/im2col"])
def test_workspace_is_what_a_call_allocates(kernel, text):
    """NumPy's allocations are CuPy's here; in shift_gemm and fft NumPy needs some that CuPy does not."""
    p = Conv2d.parse(text)
    x, w, b = inputs(p, 0)
    plan = kernel.plan(p)
    weights = plan.pack(w, b)
    plan.run(x, weights)
    tracemalloc.start()
    y = plan.run(x, weights)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    small = 60_000 + plan.workspace // 20  # buffers of NumPy's loops, and Python's own objects
    assert plan.workspace - small <= peak - y.nbytes <= plan.workspace + small


@pytest.fixture
def cublas(monkeypatch):
    """A module cupy.cublas whose gemm works on NumPy arrays, and takes only what needs no copy."""
    cupy = pytest.importorskip("cupy", reason="needs CuPy, which imports without a GPU")
    calls = []

    def gemm(transa, transb, a, b, out, alpha=1.0, beta=0.0):
        assert (transa, transb) == ("N", "N")
        assert a.flags.c_contiguous and b.flags.c_contiguous and out.flags.c_contiguous
        calls.append(a.shape)
        out[...] = alpha * (a @ b) + beta * out

    fake = ModuleType("cupy.cublas")
    fake.gemm = gemm
    monkeypatch.setitem(sys.modules, "cupy.cublas", fake)
    monkeypatch.setattr(cupy, "cublas", fake, raising=False)
    fake.calls = calls
    return fake


@pytest.mark.parametrize("name", ["cupy/shift_gemm"])
@problems
def test_shift_gemm_through_cublas(kernel, p, cublas, monkeypatch):
    """As on a GPU: cuBLAS adds into y, R*S*G times for all images together."""

    class LikeCupy:
        def __getattr__(self, name):
            return getattr(np, name)

        def get_array_module(self, *_):
            return self

    monkeypatch.setattr(kernel.module(), "cupy", LikeCupy())
    expect_right(kernel, p)
    x, w, b = inputs(p, 0)
    plan = kernel.plan(p)
    cublas.calls.clear()
    plan.run(x, plan.pack(w, b))
    assert len(cublas.calls) == p.R * p.S * p.groups


def test_there_are_array_kernels():
    every = {"cupy/shifted", "cupy/im2col", "cupy/shift_gemm", "cupy/fft"}
    assert every <= set(ARRAY_KERNELS)
    assert every <= set(CUTTING)
