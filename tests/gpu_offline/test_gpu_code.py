"""The table of GPU code: what is committed is current and keeps its rules, and a breach is seen.

The tests that compile need the packages of the extra ``gpucheck``, which change what numba.cuda is: they
run in an environment of their own, by ``make gpu-offline-check``. The others read what was committed.
"""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest

from convzoo import Conv2d
from convzoo.catalog import find
from tests.gpu_offline import gpu_code, gpu_launches

REPOSITORY = Path(__file__).resolve().parent.parent.parent
CURE = "to write it again: make gpu-offline"


@lru_cache(maxsize=1)
def why_not_compile() -> str | None:
    try:
        gpu_code.compilers()
        gpu_code.nvidia_folder()
    except (ImportError, LookupError, StopIteration) as error:
        return f"needs the compilers of the extra gpucheck ({error}): make gpu-offline-check"
    return None


@pytest.fixture
def compilers():
    if reason := why_not_compile():
        pytest.skip(reason)


@pytest.fixture
def table():
    return copy.deepcopy(committed())


@lru_cache(maxsize=1)
def committed():
    return gpu_code.load()


# --- what is committed --------------------------------------------------------------------------------


def test_table_is_of_the_kernels_as_they_are():
    now = {name: gpu_code.source_hash(find(name)) for name in gpu_code.kernels()}
    then = committed()["sources"]
    stale = sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))
    assert not stale, f"{gpu_code.TABLE.name} is out of date for {', '.join(stale)}; {CURE}"


def test_table_keeps_the_rules():
    assert list(gpu_code.faults(committed())) == []


def test_table_claims_what_the_docstrings_say():
    now = {name: gpu_code.claims(find(name).doc) for name in gpu_code.kernels()}
    assert committed()["claims"] == now, CURE


def test_rows_are_flat_and_explained(table):
    assert table["problems"] == list(gpu_code.PROBLEMS), CURE
    for row in table["rows"]:
        assert list(row) == list(table["columns"])
        assert row["kernel"] in table["sources"]
        assert row["instructions"] > 0 and 0 < row["registers"] <= 255
        for column, value in row.items():
            assert isinstance(value, (int, float, str)) or column in ("grid", "block")
    for name in table["sources"]:
        archs = {row["arch"] for row in table["rows"] if row["kernel"] == name}
        assert archs == set(gpu_code.architectures(find(name)))


def test_page_is_the_table_s():
    done = subprocess.run(
        [sys.executable, "-m", "reports", "gpu-code", "--check"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_page_names_predictions_as_such(table):
    text = gpu_code.TABLE.with_suffix(".md").read_text(encoding="utf-8")
    assert "**Predictions, not measurements**" in text
    for name in table["sources"]:
        assert re.search(rf"^\| {name} \| (\d+-\d+|none made) \|", text, re.MULTILINE), name


# --- the rules bite -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"spill_bytes": 16}, "spills: 16 bytes"),
        ({"spills": 2}, "spills: 0 bytes, 2 instructions"),
        ({"local_bytes": 64}, "keeps 64 bytes of a thread in local memory"),
        ({"blocks_per_sm": 0, "limited_by": "shared memory"}, "fits on no multiprocessor: shared memory"),
    ],
)
def test_a_row_that_breaks_a_rule_is_named(table, change, says):
    row = table["rows"][-1]
    row |= change
    (fault,) = gpu_code.faults(table)
    assert says in fault and fault.startswith(f"{row['kernel']}: {row['function']} on {row['problem']}")


def test_a_claim_that_no_code_bears_out_is_named(table):
    table["claims"]["numba_cuda/naive"] = ["LDS.128"]
    found = list(gpu_code.faults(table))
    assert len(found) == 2  # one for each architecture
    assert "numba_cuda/naive: its docstring names LDS.128, which its code for sm_80 lacks" in found[0]


@pytest.mark.parametrize(
    ("claim", "counts", "holds"),
    [
        ("LDS.128", {"lds": 40, "lds_128": 32, "lds_64": 0}, True),
        ("LDS.128", {"lds": 10, "lds_128": 2, "lds_64": 0}, False),  # what signed indices leave
        ("LDG.128", {"ldg": 5, "ldg_128": 4}, True),
        ("LDG.128", {"ldg": 20, "ldg_128": 1}, False),
        ("LDGSTS", {"ldgsts": 0}, False),
        ("HMMA", {"mma": 64}, True),
        ("HGMMA", {"hgmma": 0}, False),
    ],
)
def test_claims_are_judged_by_bytes(claim, counts, holds):
    row = dict.fromkeys(gpu_code.COLUMNS, 0) | counts
    assert gpu_code.holds(claim, [row]) is holds


def test_a_word_is_no_change_and_a_number_is(tmp_path, drop):
    def hashed(text: str) -> str:
        drop("numba_cuda", "dropped_in", text)
        return gpu_code.source_hash(find("numba_cuda/dropped_in"))

    text = '"""One thing."""\nTHREADS = 128  # of a block\n\n\ndef plan(p):\n    """Says so."""\n    return 1\n'
    first = hashed(text)
    assert hashed(text.replace("One thing", "Another").replace("  # of a block", "")) == first
    assert hashed(text.replace("Says", "Tells")) == first
    assert hashed(text.replace("128", "256")) != first
    assert hashed(text.replace("return 1", "return 2")) != first


@pytest.mark.parametrize(
    ("arch", "registers", "threads", "shared", "blocks", "limited_by"),
    [
        ("sm_90", 32, 128, 0, 16, "registers"),
        ("sm_90", 128, 256, 32768, 2, "registers"),
        ("sm_90", 255, 288, 0, 0, "registers"),
        ("sm_80", 64, 256, 49152, 3, "shared memory"),
        ("sm_90", 64, 256, 49152, 4, "registers"),
        ("sm_80", 16, 1024, 0, 2, "warps"),
        ("sm_80", 16, 32, 0, 32, "blocks"),
        ("sm_80", 32, 64, 164 * 1024, 0, "shared memory"),
    ],
)
def test_occupancy(arch, registers, threads, shared, blocks, limited_by):
    found = gpu_code.occupancy(arch, registers, threads, shared)
    assert (found["blocks_per_sm"], found["limited_by"]) == (blocks, limited_by)
    assert found["occupancy"] == round(found["warps_per_sm"] / 64, 3)


# --- with the compilers -------------------------------------------------------------------------------

ORACLE = """
#include <cstdio>
#include "cuda_occupancy.h"
int main() {
    int major, shared, registers, threads, bytes;
    while (scanf("%d %d %d %d %d", &major, &shared, &registers, &threads, &bytes) == 5) {
        cudaOccDeviceProp p;
        p.computeMajor = major; p.computeMinor = 0;
        p.maxThreadsPerBlock = 1024; p.maxThreadsPerMultiprocessor = 2048;
        p.regsPerBlock = p.regsPerMultiprocessor = 65536; p.warpSize = 32; p.numSms = 108;
        p.sharedMemPerBlock = 49152; p.sharedMemPerMultiprocessor = shared;
        p.sharedMemPerBlockOptin = shared - 1024; p.reservedSharedMemPerBlock = 1024;
        cudaOccFuncAttributes f;
        f.maxThreadsPerBlock = 1024; f.numRegs = registers; f.sharedSizeBytes = 0;
        f.partitionedGCConfig = PARTITIONED_GC_OFF;
        f.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN; f.maxDynamicSharedSizeBytes = shared - 1024;
        cudaOccDeviceState s;
        s.carveoutConfig = SHAREDMEM_CARVEOUT_MAX_SHARED;
        cudaOccResult r;
        if (cudaOccMaxActiveBlocksPerMultiprocessor(&r, &p, &f, &s, threads, bytes)) return 1;
        printf("%d\\n", r.activeBlocksPerMultiprocessor);
    }
}
"""


def test_occupancy_is_nvidia_s(compilers, tmp_path):
    if shutil.which("g++") is None:
        pytest.skip("needs g++ to compile NVIDIA's own calculator")
    (tmp_path / "oracle.cpp").write_text(ORACLE)
    include = gpu_code.nvidia_folder() / "include"
    command = ["g++", "-w", f"-I{include}", str(tmp_path / "oracle.cpp"), "-o", str(tmp_path / "oracle")]
    subprocess.run(command, check=True)
    cases = [
        (arch, registers, threads, shared)
        for arch in ("sm_80", "sm_90")
        for registers in (16, 32, 33, 40, 64, 96, 119, 128, 168, 200, 255)
        for threads in (32, 64, 96, 128, 160, 224, 256, 288, 384, 512, 768, 1024)
        for shared in (0, 1, 1000, 11904, 36864, 49152, 100_000, 166_912)
    ]
    lines = [
        f"{arch[3]} {gpu_code.LIMITS[arch].shared} {registers} {threads} {shared}"
        for arch, registers, threads, shared in cases
    ]
    said = subprocess.run(
        [tmp_path / "oracle"], input="\n".join(lines), capture_output=True, text=True, check=True
    ).stdout.split()
    assert len(said) == len(cases)
    for case, blocks in zip(cases, said, strict=True):
        assert gpu_code.occupancy(*case)["blocks_per_sm"] == int(blocks), case


# A tile of 8 x 8 products for each of 256 threads, the ladder's own arithmetic; INDEX is what decides.
TILE = '''
"""A register tile of a 1x1 convolution, for tests.

Idea     All of the tile is read by LDS.128.
"""

from numba import cuda, float32, int64, uint32

from convzoo.plan import Plan


def build(p):
    C, K, M = p.C, p.K, p.N * p.P * p.Q
    index = INDEX

    def convolve(x, w, y):
        left = cuda.shared.array((8, 132), float32, alignment=16)
        right = cuda.shared.array((8, 132), float32, alignment=16)
        sums = cuda.local.array((8, 8), float32)
        a, b = cuda.local.array(8, float32), cuda.local.array(8, float32)
        t = index(cuda.threadIdx.x)
        row, column = t // index(16) * index(4), t % index(16) * index(4)
        m0, k0 = index(cuda.blockIdx.x) * index(128), index(cuda.blockIdx.y) * index(128)
        for i in range(8):
            for j in range(8):
                sums[i, j] = float32(0)
        for c0 in range(0, C, 8):
            for i in range(4):
                at = t + index(i * 256)
                left[at // index(128), at % index(128)] = x[m0 + at % index(128), index(c0) + at // index(128)]
                right[at // index(128), at % index(128)] = w[k0 + at % index(128), index(c0) + at // index(128)]
            cuda.syncthreads()
            for kk in range(8):
                k = index(kk)
                for i in range(4):
                    a[i], a[4 + i] = left[k, row + index(i)], left[k, index(64) + row + index(i)]
                    b[i], b[4 + i] = right[k, column + index(i)], right[k, index(64) + column + index(i)]
                for i in range(8):
                    for j in range(8):
                        sums[i, j] += a[i] * b[j]
            cuda.syncthreads()
        for i in range(8):
            for j in range(8):
                m = m0 + row + index(i % 4) + index(i // 4 * 64)
                k = k0 + column + index(j % 4) + index(j // 4 * 64)
                if m < index(M) and k < index(K):
                    y[m, k] = sums[i, j]

    return convolve


def plan(p):
    body = cuda.jit("void(float32[:,::1], float32[:,::1], float32[:,::1])", OPTIONS)(build(p))
    grid = -(-p.N * p.P * p.Q // 128), -(-p.K // 128)

    def run(x, weights):
        y = cuda.device_array(p.y_shape, p.dtype)
        body[grid, 256](x, weights[0], y)
        return y

    return Plan(run)
'''


def planted(drop, index="uint32", options="launch_bounds=(256, 2)"):
    """The table of the tile alone, and what its rules say."""
    source = TILE.lstrip().replace("INDEX", index).replace("OPTIONS", options)
    drop("numba_cuda", "planted", source)
    kernel = find("numba_cuda/planted")
    rows, refused = gpu_code.rows(kernel.name)
    assert not refused
    return rows, list(gpu_code.faults({"rows": rows, "claims": {kernel.name: gpu_code.claims(kernel.doc)}}))


@pytest.fixture
def one_problem(monkeypatch):
    monkeypatch.setattr(gpu_code, "PROBLEMS", (gpu_code.REFERENCE + "-nhwc",))


def test_an_honest_tile_breaks_no_rule(compilers, one_problem, drop):
    rows, found = planted(drop)
    assert found == []
    assert [row["arch"] for row in rows] == ["sm_80", "sm_90"]
    for row in rows:
        assert row["grid"] == [784, 2, 1] and row["block"] == [256, 1, 1]
        assert row["shared_bytes"] == 2 * 8 * 132 * 4
        assert row["lds_128"] == row["lds"] == row["ffma"] // 16 > 0  # 64 products from 16 values
        assert row["bar"] == 2


def test_signed_indices_that_lose_vector_loads_are_seen(compilers, one_problem, drop):
    _, found = planted(drop, index="int64")
    assert len(found) == 2
    assert "numba_cuda/planted: its docstring names LDS.128, which its code for sm_90 lacks" in found[1]


@pytest.mark.parametrize("options", ["launch_bounds=(256, 5)", "max_registers=48"])
def test_spilled_registers_are_seen(compilers, one_problem, drop, options):
    _, found = planted(drop, options=options)
    assert any(re.search(r"planted: convolve on .* for sm_90 spills: [1-9]\d* bytes", text) for text in found)


SPILLING = """
extern "C" __global__ __launch_bounds__(1024, 2) void tile(const float *x, float *y)
{
    float a[64];
    for (int i = 0; i < 64; ++i) a[i] = x[i * 1024 + threadIdx.x];
    __syncthreads();
    for (int j = 0; j < 64; ++j)
        for (int i = 0; i < 64; ++i) a[i] = a[i] * a[(i + 7) % 64] + a[(i + 31) % 64];
    for (int i = 0; i < 64; ++i) y[i * 1024 + threadIdx.x] = a[i];
}
"""
RAW = '''
"""A tile in C++."""

from pathlib import Path

import cupy

from convzoo.plan import Plan


def plan(p):
    kernel = cupy.RawKernel(SOURCE, "tile", ("-std=c++17",))

    def run(x, weights):
        y = cupy.empty(p.y_shape, p.dtype)
        kernel((7,), (1024,), (x, y))
        return y

    return Plan(run)
'''


@pytest.mark.parametrize(("bound", "spills"), [("1024, 2", True), ("256, 1", False)])
def test_cuda_cpp_is_compiled_and_its_spills_are_seen(compilers, one_problem, drop, bound, spills):
    drop("cupy", "planted", RAW.lstrip().replace("SOURCE", repr(SPILLING.replace("1024, 2", bound))))
    rows, _ = gpu_code.rows("cupy/planted")
    found = list(gpu_code.faults({"rows": rows, "claims": {"cupy/planted": []}}))
    assert any("cupy/planted: tile on" in text and "spills" in text for text in found) is spills
    assert [row["block"] for row in rows] == [[1024, 1, 1]] * 2
    assert "cupy/planted" in gpu_code.kernels()


def test_every_source_in_cpp_has_its_rows(table):
    """A kernel may leave RawModule to a building block; each launch has a stand-in of its own."""
    home = find("cupy/raw_naive").path.parent
    with_source = {f"cupy/{path.stem}" for path in home.glob("*.py") if path.with_suffix(".cu").exists()}
    assert with_source <= set(table["sources"]), CURE


def test_each_problem_has_the_launches_that_the_first_had():
    found = [gpu_launches.launches(find("cupy/wgmma_3xtf32"), Conv2d.parse(gpu_code.REFERENCE), (9, 0)) for _ in "12"]
    names = [[launch.function.name for launch in each] for each in found]
    assert names[0] == names[1] == ["channels_last", "wgmma_3xtf32"]


def test_cpp_that_does_not_compile_is_told_with_the_compiler_s_words(compilers, one_problem, drop):
    drop("cupy", "planted", RAW.lstrip().replace("SOURCE", repr(SPILLING.replace("a[i] * a", "c[i] * a"))))
    with pytest.raises(RuntimeError, match='identifier "c" is undefined'):
        gpu_code.rows("cupy/planted")


def test_check_says_what_is_out_of_date(compilers, table, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_code, "kernels", lambda: ["cupy/raw_naive"])
    path = tmp_path / "gpu_code.json"
    path.write_text(gpu_code.text_of(gpu_code.build(["cupy/raw_naive"])), encoding="utf-8")
    assert gpu_code.update(check=True, path=path) == 0
    assert "is up to date: 8 rows" in capsys.readouterr().out
    path.write_text(re.sub(r'"registers": \d+', '"registers": 7', path.read_text(), count=1))
    assert gpu_code.update(check=True, path=path) == 1
    assert "raw_naive on n32c256h56w56k256r3s3-p1 for sm_80: registers 7 -> " in capsys.readouterr().err
