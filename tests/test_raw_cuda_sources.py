"""The CUDA C++ of cupy/raw_naive without a GPU: g++ compiles it, and the CPU plays block after block."""

from __future__ import annotations

import dataclasses
import mmap
import shutil
import subprocess

import numpy as np
import pytest
from cuda_emulator import Emulator, EmulatorError, copied, fence_holds

from convzoo import Conv2d
from convzoo.catalog import find
from convzoo.reference import inputs, judge

SOURCE = find("cupy/raw_naive").path.with_suffix(".cu")

# Blocks have 256 threads: these end inside a block, at its end, and inside the first one.
PROBLEMS = (
    "n1c1h1w1k1r1s1",
    "n1c4h16w16k2r1s1",
    "n2c3h13w17k5r3s2-st2x1-p1_2_0_3",
    "n1c2h9w30k3r2s4-st1x3-p0_3_2_1-d2x3-nobias",
    "n3c6h8w7k4r3s3-p1-g2",
    "n1c7h11w10k14r3s5-st2x3-p2_1_4_0-d1x2-g7",
    "n1c2h3w4k2r3s3-p2_3_1_2-d3x3",
    "n2c6h9w8k4r3s2-st2x3-p1_2_3_0-d2x3-g2-nhwc",
    "n1c5h6w11k9r2s3-p0_1_2_0-nobias-nhwc",
)


@pytest.fixture
def emulator(build_folder):
    return Emulator(build_folder)


@pytest.fixture
def module(monkeypatch, emulator):
    """convzoo.cupy.raw_naive, with a CuPy whose device is this CPU."""
    pytest.importorskip("cupy", reason="needs CuPy, which imports without a GPU")
    found = find("cupy/raw_naive").module()
    emulator.stands_in(monkeypatch, found)
    return found


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("text", PROBLEMS)
def test_is_right(module, text, dtype):
    p = dataclasses.replace(Conv2d.parse(text), dtype=dtype)
    plan = module.plan(p)
    for tier, seed in (("exact", 0), ("exact", 1), ("random", 2)):
        x, w, b = inputs(p, seed, tier)
        weights = plan.pack(copied(w), None if b is None else copied(b))
        y = plan.run(copied(x), weights)
        verdict = judge(y, p, x, w, b, accuracy="elementwise", tier=tier)
        assert verdict.ok, f"{p}, {tier} data, seed {seed}: {verdict.why}"
        assert fence_holds(y), f"{p}: wrote outside of y"


def test_offsets_beyond_32_bits(module, emulator):
    """The last block of 5 * 2**30 outputs; pages that nobody touches take no memory."""
    p = Conv2d(1, 5, 2**15, 2**15, 5, 1, 1, groups=5)

    def sparse(shape, dtype):
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
        try:
            room = mmap.mmap(-1, int(np.prod(shape)) * np.dtype(dtype).itemsize, flags=flags)
        except OSError:
            pytest.skip("needs 40 GiB of address space (not of memory) for two sparse arrays")
        return np.frombuffer(room, dtype).reshape(shape)

    emulator.empty = sparse
    emulator.first_block = p.N * p.K * p.P * p.Q // module.THREADS - 1
    x, pixels = sparse(p.x_shape, p.dtype), np.arange(module.THREADS, dtype=p.dtype)
    x[0, 4, -1, -module.THREADS :] = pixels
    w, b = np.arange(1, 6, dtype=p.dtype).reshape(p.w_shape), np.arange(7, 12, dtype=p.dtype)
    y = module.plan(p).run(x, (w, b))
    assert np.array_equal(y[0, 4, -1, -module.THREADS :], 5 * pixels + 11)
    assert y[0, 4, -1, -module.THREADS - 1] == 0, "an earlier block ran"


def test_steps_beyond_32_bits(module):
    """A stride or dilation that never takes a step may be any number."""
    p = Conv2d(1, 2, 5, 6, 3, 1, 1, stride=2**40, dilation=2**50)
    x, w, b = inputs(p, 0, "exact")
    y = module.plan(p).run(x, (w, b))
    verdict = judge(y, p, x, w, b, accuracy="elementwise", tier="exact")
    assert verdict.ok, verdict.why


def test_stand_in_sees_an_argument_of_the_wrong_size(module, emulator):
    kernel = emulator.RawKernel(SOURCE.read_text(encoding="utf-8"), "raw_naive", ("-DREAL=float",))
    p = Conv2d.parse(PROBLEMS[0])
    arrays = [np.zeros(1, "float32")] * 4
    right = module.sizes(p)
    with pytest.raises(EmulatorError, match="number and the sizes"):
        kernel((1,), (1,), (*arrays, *map(int, right)))  # CuPy would pass 64 bits each
    with pytest.raises(EmulatorError, match="number and the sizes"):
        kernel((1,), (1,), (*arrays, *right[:-1]))
    kernel((1,), (1,), (*arrays, *right))


@pytest.mark.parametrize("real", ["float", "double"])
def test_nvcc_takes_it(real, tmp_path):
    if shutil.which("nvcc") is None:
        pytest.skip("needs nvcc, of the CUDA toolkit; a GPU is not needed")
    command = ["nvcc", "-arch=sm_80", "-cubin", "-Werror", "all-warnings", f"-DREAL={real}"]
    built = subprocess.run(
        [*command, str(SOURCE), "-o", str(tmp_path / "raw_naive.cubin")], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
