"""The numba_cuda kernels without a GPU: run in the simulator, compiled for real, launched on paper.

The simulator runs what the compiler would refuse, and the compiler accepts what is wrong, so both are
asked. What neither shows, speed above all, needs a CUDA machine.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest

import convzoo
from convzoo import Conv2d, Unsupported
from convzoo.catalog import find

REPOSITORY = Path(__file__).resolve().parent.parent
SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")
KERNELS = convzoo.names("numba_cuda/*")
SPINE = ("numba_cuda/naive", "numba_cuda/coalesced", "numba_cuda/shared_tile")


@pytest.mark.slow
def test_all_kernels_in_a_strict_simulator():
    """tests/simulator, in a process whose numba was imported with the simulator switched on."""
    command = [sys.executable, "-m", "pytest", "tests/simulator", "-q", "-p", "no:cacheprovider"]
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) >= 120, done.stdout  # a collection that finds nothing is no success


# Launch geometry: problems that no test could run, only laid out.

LARGE = {
    "many-filters-and-images": "n3000c1h8w8k70000r1s1",
    "a-million-channels": "n1c1000000h1w1k1000000r1s1",
    "depthwise": "n4c300000h16w16k300000r3s3-p1-g300000",
    "one-wide-image": "n1c1h9w300000000k1r3s3-p1",
    "above-two-to-the-31-outputs": "n32c3h4096w4096k8r3s3-p1",
    "above-two-to-the-32-outputs": "n512c1h4096w4096k1r1s1",
}


def axes(size: int | tuple[int, ...]) -> tuple[int, int, int]:
    sizes = (size,) if isinstance(size, int) else tuple(size)
    return (*sizes, 1, 1)[:3]


def launches(name: str, p: Conv2d) -> tuple:
    """All that one call of a kernel launches, laid out without a GPU."""
    return find(name).module().launches(p)


@pytest.mark.parametrize("problem", LARGE)
@pytest.mark.parametrize("name", KERNELS)
def test_large_launches_stay_within_the_limits_of_cuda(name, problem):
    p = Conv2d.parse(LARGE[problem])
    try:
        laid_out = launches(name, p)
    except Unsupported as reason:
        assert re.search(r"\d", str(reason)), "a refusal must carry numbers"
        assert name not in SPINE, f"{name} should do {p}: {reason}"
        return
    assert laid_out
    for launch in laid_out:
        (x, y, z), (columns, rows, deep) = axes(launch.grid), axes(launch.block)
        assert 0 < x < 2**31
        assert 0 < y <= 65535
        assert 0 < z <= 65535
        assert 0 < columns * rows * deep <= 1024
        assert deep <= 64


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("n70000c1h256w256k70000r1s1", r"\d+ blocks"),
        ("n1c1h1w1k5000000000r1s1", r"below 2\*\*32"),
        ("n1c5000000000h1w1k1r1s1", r"below 2\*\*32"),
        ("n1c1h1w1k1r1s1-st5000000000", r"below 2\*\*32"),
        ("n1c1h1w1k1r1s2-p0_0_0_5000000000-d5000000000", r"below 2\*\*32"),
    ],
)
@pytest.mark.parametrize("name", SPINE)
def test_what_32_bits_cannot_number_is_refused_with_numbers(name, text, why):
    with pytest.raises(Unsupported, match=why):
        find(name).plan(Conv2d.parse(text))


def test_shared_tile_shrinks_until_it_fits_or_says_what_is_missing():
    module = find("numba_cuda/shared_tile").module()
    for text in (
        "n1c64h56w56k64r3s3-p1",
        "n1c3h224w224k64r11s11-st4-f64",
        "n1c8h300w300k64r31s31",
        "n1c8h300w300k64r41s41-f64",
        "n1c2h400w400k8r3s3-d30x30",
        "n1c2h999w999k8r2s2-st333x333",
    ):
        p = Conv2d.parse(text)
        t = module.tile(p)
        assert t.loads(p) * p.itemsize <= 48 * 1024
        assert t.down * t.rows >= p.P and t.across * t.columns >= p.Q
        assert t.deep * t.filters >= p.K // p.groups
    with pytest.raises(Unsupported, match=r"needs \d+ bytes of shared memory .* has 49152"):
        module.plan(Conv2d.parse("n1c8h300w300k64r110s110"))


# Compilation to PTX needs NVVM, not a GPU.


SIGNED_INDEX = re.compile(r"setp\.lt\.s64\s+%p\d+, %rd\d+, 0;")  # does it count from the end?


def ptx(launch, capability: tuple[int, int]) -> str:
    from numba import cuda

    bounds = {} if cuda.implementation == "Built-in" else {"launch_bounds": launch.bounds}
    code, _ = cuda.compile(
        launch.body, launch.signature, device=False, abi="numba", cc=capability, output="ptx", **bounds
    )
    return code


@lru_cache(maxsize=1)
def why_not_compile() -> str | None:
    if SIMULATED:
        return "needs the real numba.cuda: NUMBA_ENABLE_CUDASIM is set"
    try:
        ptx(launches(SPINE[0], Conv2d.parse("n1c1h1w1k1r1s1"))[0], (8, 0))
    except Exception as error:
        first = (str(error).splitlines() or ["?"])[0]
        return f"needs NVVM, from the CUDA toolkit or pip install 'convzoo[cuda12]' ({first})"
    return None


@pytest.mark.parametrize("text", ["n8c64h56w56k64r3s3-p1", "n2c6h9w8k4r3s2-st2x3-p1_2_3_0-g2-f64-nhwc"])
@pytest.mark.parametrize("name", KERNELS)
def test_compiled_code_is_what_the_docstrings_say(name, text):
    if reason := why_not_compile():
        pytest.skip(reason)
    from numba import cuda

    if name not in SPINE and getattr(cuda, "implementation", "") == "Built-in":
        pytest.skip(f"{name} needs the package numba-cuda: pip install 'convzoo[cuda12]'")
    p = Conv2d.parse(text)
    try:
        laid_out = launches(name, p)
    except Unsupported as reason:
        pytest.skip(f"{name} {reason}")
    for capability in ((8, 0), (9, 0)):
        codes = {launch.name: ptx(launch, capability) for launch in laid_out}
        multiply = f"fma.rn.{'f32' if p.dtype == 'float32' else 'f64'}"
        assert any(multiply in code for code in codes.values())
        for code in codes.values():
            assert not re.search(r"\b(ld|st)\.local", code), "sums must stay in registers"
            assert not re.search(r"\b(div|rem)\.[su]", code), "divisors must be constants"
            assert not SIGNED_INDEX.search(code), "a signed index is compared with 0 at every access"
