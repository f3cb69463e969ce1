"""The vector micro-kernels: other widths of vectors, what LLVM makes of them, and Numba's cache on disk."""

from __future__ import annotations

import dataclasses
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest
import trial
from numba import njit, types

import convzoo
from convzoo import Conv2d
from convzoo.numba import _memory, _pixels, _simd
from convzoo.reference import examine, inputs

WIDTHS = (128, 256, 512)
TILED = pytest.mark.parametrize(
    "name", ["numba/register_tile", "numba/pointwise", "numba/few_channels", "numba/unpacked"]
)
BOTH = pytest.mark.parametrize("dtype", ["float32", "float64"])
X86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="reads x86 assembly")


@njit
def _call(address, arguments):
    _simd.call(address, arguments)


def _compile(*shape: int):
    """The routine compiled afresh: what comes from Numba's cache has no assembly to look at."""
    f = njit(types.int64())(_simd.source_of(*shape))
    return f(), f


def _whole(*values) -> tuple[int, ...]:
    return tuple(int(v.ctypes.data if isinstance(v, np.ndarray) else v) for v in values)


# --- widths ------------------------------------------------------------------------------------------


def test_lanes_follow_the_width(monkeypatch):
    assert [_simd.lanes("float32", bits) for bits in WIDTHS] == [4, 8, 16]
    assert [_simd.lanes("float64", bits) for bits in WIDTHS] == [2, 4, 8]
    monkeypatch.setenv("CONVZOO_VECTOR_BITS", "256")
    assert _simd.lanes("float32") == 8 and _simd.tile_heights()[0] == 6
    assert _simd.lanes("float32", 512) == 16
    monkeypatch.setenv("CONVZOO_VECTOR_BITS", "333")
    with pytest.raises(ValueError, match="got 333"):
        _simd.lanes("float32")


def test_this_cpu_has_the_width_that_is_chosen():
    found = _simd.features()
    assert _simd.vector_bits() == 128 or found & {"avx", "avx512f"}
    assert ("avx512f" in found) == (_simd.vector_bits() == 512)


TAILS = [  # K around one and two vectors of every width, planes that no tile divides
    "n1c3h5w9k17r3s3-p1",
    "n2c5h7w7k33r1s1",
    "n1c6h9w30k22r2s3-p0_2_1_3-st2x1-g2-nhwc",
    "n2c7h1w1k3r1s1-nobias",
    "n1c4h23w25k9r1s1-nhwc",
    "n1c2h24w25k13r1s1",
    "n3c3h11w2k40r1s1-st3x1",
    "n1c512h3w5k5r1s1-nhwc",
    "n1c512h3w5k5r3s1-p1-nhwc",
    "n1c2h9w70k7r2s3-st1x3-p0_1_2_0",
    "n2c9h5w23k4r1s3-st2x1-nhwc",
    "n1c5h6w5k1r3s3-p2-d1x2-nhwc",
    "n2c21h7w7k19r1s1",  # one pixel after the last whole vector
    "n1c10h14w14k18r3s3-p1-st2-g2",
    "n1c35h10w10k11r1s1-st1x6",
]


@TILED
@BOTH
@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("text", TAILS)
def test_every_width_is_right_on_tails(monkeypatch, name, dtype, bits, text):
    """A CPU computes wider vectors than its own in parts, so all widths can be tested everywhere."""
    monkeypatch.setenv("CONVZOO_VECTOR_BITS", str(bits))
    p = Conv2d.parse(text + ("-f64" if dtype == "float64" else ""))
    kernel = convzoo.load(name)
    plan = trial.plan(kernel, p)
    for seed in (0, 1):
        trial.expect(examine(kernel, p, seed, plan), name, p, seed)


@BOTH
@pytest.mark.parametrize("bits", WIDTHS)
def test_transposed_store(dtype, bits):
    """Every lane of every pixel comes to its place, and nothing is stored beyond the counts."""
    lanes, item = _simd.lanes(dtype, bits), np.dtype(dtype).itemsize
    for U in _simd.tile_heights(bits):
        address, _ = _simd.entry(_simd.CHANNEL_TILE, item, lanes, U, 2, 1)
        for count, channels in ((U, 2 * lanes), (U - 1, lanes + 1), (1, 1)):
            x, w = np.arange(1, U + 1).astype(dtype), np.arange(1, 2 * lanes + 1).astype(dtype)
            y, bias = np.zeros((2 * lanes + 1, U + 3), dtype), np.zeros(2 * lanes, dtype)
            pixels, run = np.arange(U) * item, np.array([0, 0, 1])
            expected = np.zeros_like(y)
            expected[:channels, :count] = np.outer(w, x)[:channels, :count]
            if count > 2:  # the middle pixels lie apart from the first one, and the last one is left out
                parts = np.array([0, 0, 1, item, 1, count - 2])
                expected[:, 2:count] = expected[:, 1 : count - 1]
                expected[:, 1] = 0
            else:
                parts = np.array([0, 0, count])
            sums = (x, pixels, 0, run, 1, w, w, 0)
            _call(address, _whole(*sums, y, parts, len(parts) // 3, y.strides[0], bias, 0, channels))
            assert np.array_equal(y, expected), (U, count, channels)


@BOTH
@pytest.mark.parametrize("bits", WIDTHS)
def test_sums_go_on_where_others_ended(dtype, bits):
    """Runs that lie anywhere, none of them at all, and sums that begin with those of another call."""
    lanes, item = _simd.lanes(dtype, bits), np.dtype(dtype).itemsize
    U, width = _simd.tile_heights(bits)[0], 2 * lanes
    address, _ = _simd.entry(_simd.CHANNEL_TILE, item, lanes, U, 2, 0)
    x, w = np.arange(1, 3 * U + 1).astype(dtype), np.arange(1, 5 * width + 1).astype(dtype).reshape(5, width)
    bias, y = np.arange(width).astype(dtype), np.zeros((U, width), dtype)
    pixels, parts = np.arange(U) * item, np.arange(U) * y.strides[0]
    runs = np.array([2 * item, w.strides[0], 2, U * item, 4 * w.strides[0], 1])
    for count, start, step in ((0, bias, 0), (2, bias, 0), (2, y, y.strides[0])):
        sums = (x, pixels, U * item, runs, count, w, w, 0)
        expected = np.broadcast_to(start, y.shape).copy()
        for at, tap in ((2, 1), (U + 2, 2), (U, 4)) if count else ():
            expected += np.outer(x[at : at + U], w[tap])
        _call(address, _whole(*sums, y, parts, U, 0, start, step, width))
        assert np.array_equal(y, expected), (count, step)


@BOTH
@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("name", ["numba/pointwise", "numba/register_tile"])
def test_large_outputs_go_past_the_caches(monkeypatch, name, bits, dtype):
    """Tiles of all and of some channels and pixels; y does not depend on the way that it takes."""
    monkeypatch.setenv("CONVZOO_VECTOR_BITS", str(bits))
    kernel, lanes, entry, forms = convzoo.load(name), _simd.lanes(dtype, bits), _simd.entry, []

    def noted(routine, *shape):
        forms.extend(shape[4:] * (routine == _simd.CHANNEL_TILE))
        return entry(routine, *shape)

    monkeypatch.setattr(_simd, "entry", noted)
    odd = f"c8h3w5k{4 * lanes}r1s1-g8" if name == "numba/register_tile" else "c5h3w5k35r1s1"
    for text in (f"c5h3w5k{3 * lanes}r1s1", odd):
        p = dataclasses.replace(Conv2d.parse(f"n2{text}-nhwc"), dtype=dtype)
        x, w, b = inputs(p, 0)
        plan = kernel.plan(p)
        usual = plan.run(x, plan.pack(w, b))
        assert not any(form & _simd.STREAMED for form in forms)
        y = _simd.aligned(usual.size, dtype).reshape(p.y_shape)  # what is small may begin anywhere
        y[:] = np.nan
        with monkeypatch.context() as large:
            large.setattr(_simd, "STREAM", 0)
            large.setattr(_memory, "empty", lambda shape, _, y=y: y)
            plan = kernel.plan(p)
            assert np.array_equal(plan.run(x, plan.pack(w, b)), usual), p
        assert any(form & _simd.STREAMED for form in forms) == (text != odd)
        forms.clear()


# --- what LLVM makes of them -------------------------------------------------------------------------


def hot_blocks(assembly: str) -> list[list[str]]:
    """The blocks with fused multiply-adds that end in a jump back: what is left of the taps is done once."""
    blocks: list[list[str]] = [[]]
    labels = set()
    for line in map(str.strip, assembly.splitlines()):
        if label := re.match(r"([.\w]+):", line):
            labels.add(label[1])
            blocks.append([])
        elif line and line[0] not in ".#":
            blocks[-1].append(line)
            if line.startswith("j") and not line.startswith("jmp"):
                if line.split()[-1] not in labels:
                    blocks[-1].append("(a jump ahead)")
                blocks.append([])
    return [b for b in blocks if any("vfmadd" in i for i in b) and b[-1].startswith("j")]


def vectors_on_the_stack(block: list[str], assembly: str = "") -> list[str]:
    """%rbp is an address like any other, unless the function has made it the frame's."""
    frame = r"%rsp|%rbp" if re.search(r"movq\s+%rsp, %rbp", assembly) else "%rsp"
    return [i for i in block if re.search(rf"\(({frame})\)", i) and re.search(r"%[xyz]mm", i)]


def _shapes():
    for bits in (256, 512):
        for dtype in ("float32", "float64"):
            size = (np.dtype(dtype).itemsize, _simd.lanes(dtype, bits))
            for U in _simd.tile_heights(bits):
                for V, flag in ((1, 0), (1, 1), (2, 0), (2, 1), (2, 2)):
                    yield (_simd.CHANNEL_TILE, *size, U, V, flag)
            for V, flag in ((1, 0), (2, 0), (3, 0), (1, 1), (2, 1), (3, 1)):
                yield (_simd.PIXEL_TILE, *size, 8 if _simd.many_registers(bits) else 4, V, flag)
            for U, V in ((8, 1), (8, 2), (4, 4)) if _simd.many_registers(bits) else ((4, 1), (4, 2), (2, 4)):
                yield (_simd.DOT_TILE, *size, U, V, 0)
            for U, V in enumerate(_pixels.tile_vectors(bits), 1):
                yield (_simd.PLACED_TILE, *size, U, V, 0)
            for V, stride in ((7, 1), (4, 1), (4, 2)):  # filters of 3 x 3, rows of a tile
                yield (_simd.PLANE_ROWS, *size, 3, V, stride)
            for stride in (1, 2):  # 8 pixels that share columns of x
                yield (_simd.PIXEL_CHANNELS, *size, 8, 3, stride)


def _is_hot(shape: tuple[int, ...]) -> bool:
    """The best tile of each kind; the others are looked at in the long run."""
    routine, _, _, U, V, _ = shape
    if routine == _simd.PLACED_TILE:
        return U in (4, 8)
    if routine in (_simd.PLANE_ROWS, _simd.PIXEL_CHANNELS):
        return V != 4
    if routine == _simd.DOT_TILE:
        return V == 4
    return (U in (6, 14) and V == 2) or V == 3


@X86
@pytest.mark.skipif("fma" not in _simd.features(), reason="this CPU has no fused multiply-add")
@pytest.mark.parametrize(
    "shape", [s if _is_hot(s) else pytest.param(s, marks=pytest.mark.slow) for s in _shapes()], ids=str
)
def test_sums_stay_in_registers(shape):
    """One fused multiply-add a vector and tap, on whole vectors, and no vector on the stack."""
    _, itemsize, lanes, U, V, _ = shape
    bits = 8 * itemsize * lanes
    if bits > _simd.vector_bits():
        pytest.skip(f"this CPU has no vectors of {bits} bits")
    [assembly] = _compile(*shape)[1].inspect_asm().values()
    loops = hot_blocks(assembly)
    assert loops
    for loop in loops:  # LLVM may peel off one tap, or write several one after the other
        multiply = [i for i in loop if i.startswith("vfmadd")]
        register = {512: "%zmm", 256: "%ymm"}[bits]
        assert len(multiply) % (U * V) == 0 and multiply
        assert all(register in i for i in multiply)
        assert not vectors_on_the_stack(loop, assembly), "\n".join(loop)


SPILLING = """
.LBB0_1:
	vmovups	64(%rsp), %zmm3
	vfmadd231ps	%zmm1, %zmm2, %zmm3
	movq	8(%rsp), %rax
	jne	.LBB0_1
"""


def test_a_spill_is_seen():
    [loop] = hot_blocks(SPILLING)
    assert vectors_on_the_stack(loop) == ["vmovups\t64(%rsp), %zmm3"]
    framed = [i.replace("%rsp", "%rbp") for i in loop]
    assert not vectors_on_the_stack(framed)
    assert vectors_on_the_stack(framed, "\tmovq\t%rsp, %rbp\n") == ["vmovups\t64(%rbp), %zmm3"]


# --- planning and the cache --------------------------------------------------------------------------


@TILED
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_another_shape_needs_no_compilation(name, layout):
    """5 milliseconds are the aim; a busy machine gets twenty times that, which no compilation meets."""
    if (name, layout) == ("numba/unpacked", "nhwc"):
        pytest.skip("numba/unpacked needs layout nchw")
    kernel = convzoo.load(name)
    shapes = [Conv2d(1, 64, 56, 56, 64, 1, 1, layout=layout), Conv2d(2, 32, 28, 28, 96, 1, 1, layout=layout)]
    codes = [kernel.plan(p).code for p in shapes]
    assert codes[0] == codes[1]
    more = [Conv2d(1, 32 + i, 42, 28, 64, 1, 1, layout=layout) for i in range(5)]
    least = min(_seconds(lambda p=p: kernel.plan(p)) for p in more)
    assert least < 0.1


def _seconds(action) -> float:
    start = perf_counter()
    action()
    return perf_counter() - start


PROGRAM = """
import convzoo
from convzoo import Conv2d
from convzoo.reference import examine

p = Conv2d.parse("n1c3h21w20k8r1s1")
for name in ("numba/register_tile", "numba/pointwise", "numba/few_channels"):
    kernel = convzoo.load(name)
    plan = kernel.plan(p)
    hits = sum(sum(f.stats.cache_hits.values()) for f in plan.code)
    misses = sum(sum(f.stats.cache_misses.values()) for f in plan.code)
    print(name, hits, misses, examine(kernel, p, 0, plan).ok)
"""
EDITS = {  # of a micro-kernel, and of an intrinsic that is compiled into the kernel files themselves
    "pixels": ("v.fma(pixels[j], weight, sums[u * V + j])", "v.fma(pixels[j], weight, pixels[j])"),
    "channels": ("v.fma(pixel, weights[j], sums", "v.fma(pixel, pixel, sums"),
    "call": ("[I64] * len(numbers)", "len(numbers) * [I64]"),
}


def _run_copy(home: Path) -> dict[str, tuple[int, int, bool]]:
    environment = os.environ | {
        "PYTHONPATH": str(home),
        "NUMBA_CACHE_DIR": str(home / "cache"),
        "NUMBA_NUM_THREADS": "1",
    }
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    return {name: (int(hits), int(misses), ok == "True") for name, hits, misses, ok in rows}


@pytest.mark.slow
def test_cache_on_disk_is_used_and_is_not_fooled(tmp_path):
    """Kernel files do not change here, and the edits keep the size and the time of _simd.py, too."""
    shutil.copytree(Path(convzoo.__file__).parent, tmp_path / "convzoo", ignore=shutil.ignore_patterns("__pycache__"))
    block = tmp_path / "convzoo" / "numba" / "_simd.py"
    source, stamp = block.read_text(encoding="utf-8"), block.stat()
    first, second = _run_copy(tmp_path), _run_copy(tmp_path)
    assert all(hits == 0 and ok for hits, _, ok in first.values()), first
    assert all(misses == 0 and ok for _, misses, ok in second.values()), second
    for name, (old, new) in EDITS.items():
        assert source.count(old) == 1, name
        changed = source.replace(old, new)
        changed += "#" * (len(source) - len(changed))
        assert len(changed) == len(source)
        block.write_text(changed, encoding="utf-8")
        os.utime(block, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        shutil.rmtree(block.parent / "__pycache__", ignore_errors=True)  # Python's own cache is fooled
        found = _run_copy(tmp_path)
        assert all(hits == 0 for hits, _, _ in found.values()), (name, found)
        wrong = {"pixels": "numba/pointwise", "channels": "numba/register_tile"}.get(name)
        assert wrong is None or not found[wrong][2], f"the edit {name} was not seen"
