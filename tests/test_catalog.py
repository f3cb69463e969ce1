"""File names are the registry: one new file in a folder is one more kernel, and nothing else is needed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import convzoo
from convzoo import Conv2d, Unavailable, Unsupported, auto, catalog
from convzoo.backends import BACKENDS, Backend
from convzoo.plan import Plan
from convzoo.reference import ACCURACIES, examine

P = Conv2d.parse("n1c2h5w4k3r3s2-p1")
PER_CHANNEL = catalog.ROOT / "numpy" / "per_channel.py"


def test_a_dropped_file_is_a_kernel(drop):
    assert convzoo.names() == []
    drop("numpy", "dropped_in", PER_CHANNEL.read_text(encoding="utf-8"))
    assert convzoo.names() == ["numpy/dropped_in"]
    kernel = convzoo.load("numpy/dropped_in")
    assert examine(kernel, P).ok
    assert kernel.headline.startswith("The seed's own way") and kernel.max_flops == 3e7
    x, w = np.ones(P.x_shape, np.float32), np.ones(P.w_shape, np.float32)
    assert convzoo.conv2d(x, w, padding=1, kernel="numpy/dropped_in").shape == P.y_shape


def test_a_dropped_file_is_tested_by_the_suite_itself(tmp_path):
    """The whole journey, in a copy of the package: a right kernel passes and a wrong one fails."""
    shutil.copytree(catalog.ROOT, tmp_path / "convzoo", ignore=shutil.ignore_patterns("__pycache__"))
    source = PER_CHANNEL.read_text(encoding="utf-8")
    for stem, text in {
        "dropped_right": source,
        "dropped_wrong": source.replace("(window * kernel)", "(window[::-1] * kernel)"),
    }.items():
        (tmp_path / "convzoo" / "numpy" / f"{stem}.py").write_text(text, encoding="utf-8")
    tests = Path(__file__).with_name("test_kernels.py")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            str(tests),
            "--kernels",
            "numpy/dropped_*",
            "-k",
            "listed_problem and (plain or nhwc-f64)",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tests.parent.parent,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert "test_listed_problem[numpy/dropped_wrong-plain]" in done.stdout
    assert "repeat: python -m benchmarks check numpy/dropped_wrong --problems n1c3h8w9k4r3s3-p1" in done.stdout
    assert "2 failed, 2 passed" in done.stdout, done.stdout[-3000:]


def test_names_take_globs():
    every = convzoo.names()
    assert "numpy/per_channel" in every and len(every) == len(set(every))
    assert convzoo.names("numpy/*", "python/*") == [n for n in every if n.split("/")[0] in ("numpy", "python")]
    assert convzoo.names("nothing*") == []
    every.clear()
    assert convzoo.names(), "the list that names() gives away must be a copy"


def test_building_blocks_are_no_kernels(drop):
    drop("numpy", "_blocks", "raise RuntimeError\n")
    drop("numpy", "dropped_in", PER_CHANNEL.read_text(encoding="utf-8"))
    assert convzoo.names() == ["numpy/dropped_in"]


def test_one_torch_file_is_three_kernels(drop):
    drop("torch", "dropped_in", '"""One."""\nACCURACY = "tf32"\n')
    assert convzoo.names() == ["torch_cpu/dropped_in", "torch_cuda/dropped_in", "torch_mps/dropped_in"]
    kernels = [catalog.find(name) for name in convzoo.names()]
    assert [kernel.backend.device for kernel in kernels] == ["cpu", "cuda", "mps"]
    assert {kernel.accuracy for kernel in kernels} == {"tf32"}
    assert len({kernel.path for kernel in kernels}) == 1


def test_torch_plans_on_the_backends_device(drop):
    torch = pytest.importorskip("torch")
    drop(
        "torch",
        "dropped_in",
        '"""One."""\nimport torch\nfrom convzoo.plan import Plan\n'
        "def plan(p):\n    device = torch.get_default_device()\n    return Plan(lambda x, w: device)\n",
    )
    planned = catalog.find("torch_cpu/dropped_in").plan(P)
    assert planned.run(None, None) == torch.device("cpu")


def test_reading_the_catalog_imports_no_kernel(drop):
    drop("numpy", "dropped_in", '"""One."""\nMAX_FLOPS = 5e6\nraise RuntimeError("imported")\n')
    kernel = convzoo.load("numpy/dropped_in")
    assert kernel.max_flops == 5e6 and kernel.headline == "One."
    with pytest.raises(RuntimeError, match="imported"):
        kernel.plan(P)


def test_unavailable_is_raised_before_the_file_is_imported(drop, monkeypatch):
    drop("numpy", "dropped_in", '"""One."""\nraise RuntimeError("imported")\n')
    sentence = "needs a machine of another kind: buy one"
    monkeypatch.setattr(BACKENDS["numpy"], "why_not", lambda: sentence, raising=False)
    x, w = np.ones(P.x_shape, np.float32), np.ones(P.w_shape, np.float32)
    for use in (
        lambda: convzoo.load("numpy/dropped_in"),
        lambda: convzoo.conv2d(x, w, kernel="numpy/dropped_in"),
        lambda: convzoo.prepare(w, kernel="numpy/dropped_in"),
    ):
        with pytest.raises(Unavailable) as refusal:
            use()
        assert str(refusal.value) == f"numpy/dropped_in {sentence}"
    assert "convzoo.numpy.dropped_in" not in sys.modules


@pytest.mark.parametrize("name", BACKENDS)
def test_backend_says_what_is_missing_in_one_sentence(name):
    reason = BACKENDS[name].why_not()
    assert reason is None or (reason.startswith("needs ") and "\n" not in reason and len(reason) < 200)


def test_a_missing_library_is_named_with_its_cure():
    backend = Backend("absent", needs="no_such_library")
    assert backend.why_not() == "needs no_such_library, which is not installed: pip install no_such_library"


@pytest.mark.parametrize(
    "line",
    [
        'ACCURACY = "element" + "wise"',
        "MAX_FLOPS = int(1e6)",
        "MAX_FLOPS = TILE",
        "ALGORITHM = str()",
        "DTYPES = tuple(['float32'])",
    ],
)
def test_constants_must_be_literals(drop, line):
    drop("numpy", "dropped_in", f'"""One."""\nTILE = 8\n{line}\n')
    with pytest.raises(ValueError, match=f"dropped_in.py: {line.split()[0]} must be a literal constant"):
        convzoo.names()


@pytest.mark.parametrize("line", ['ACCURACY = "sloppy"', 'ALGORITHM = "magic"', "ACCURACY = None"])
def test_constants_must_be_known(drop, line):
    drop("numpy", "dropped_in", f'"""One."""\n{line}\n')
    with pytest.raises(ValueError, match=f"dropped_in.py: {line.split()[0]} must be one of .*, got "):
        convzoo.names()


def test_constants_have_defaults(drop):
    drop("numpy", "dropped_in", '"""One."""\n')
    kernel = catalog.find("numpy/dropped_in")
    assert (kernel.algorithm, kernel.accuracy, kernel.max_flops) == ("direct", "elementwise", None)
    assert kernel.dtypes == ("float32", "float64")


def test_dtypes_are_refused_without_importing(drop):
    drop("numpy", "dropped_in", '"""One."""\nDTYPES = ("float32",)\nraise RuntimeError("imported")\n')
    with pytest.raises(Unsupported, match=r"^needs float32, got float64$"):
        catalog.find("numpy/dropped_in").plan(Conv2d.parse(f"{P}-f64"))


def test_empty_problems_never_reach_plan(drop):
    drop("numpy", "dropped_in", '"""One."""\nraise RuntimeError("imported")\n')
    kernel = catalog.find("numpy/dropped_in")
    for text in ("n0c3h5w6k4r3s3", "n2c0h5w6k4r3s3-nhwc", "n2c3h5w6k0r3s3-f64", "n2c3h0w6k2r1s3-p1-nobias"):
        assert examine(kernel, Conv2d.parse(text)).ok


def test_plan_is_all_that_a_kernel_returns():
    plan = convzoo.load("numpy/per_channel").plan(P)
    assert isinstance(plan, Plan) and plan.workspace > 0
    with pytest.raises(AttributeError):
        plan.workspace = 0


def test_rule_behind_auto_names_kernels_that_exist():
    rule = auto.rule
    for owner in ("numpy", "torch", "cupy", "numba_cuda"):
        for device in ("cpu", "cuda", "mps"):
            for scenario in ("eager", "packed"):
                for text in ("n1c8h5w6k4r3s3", "n1c8h5w6k8r3s3-g8", "n8c64h56w56k64r1s1", "n8c64h56w56k64r3s3-f64"):
                    for accuracy in ACCURACIES:
                        for capability in (None, 70, 80, 86, 90, 100):
                            p = Conv2d.parse(text)
                            found = rule(p, owner, device, scenario, accuracy, capability)
                            assert found and set(found) <= set(convzoo.names()), (owner, device, found)
                            assert len(set(found)) >= len(found) - (owner == "torch")
                            for kernel in map(catalog.find, found):
                                assert ACCURACIES.index(kernel.accuracy) <= ACCURACIES.index(accuracy), found
                            assert p.dtype in catalog.find(found[0]).dtypes


@pytest.mark.parametrize(
    "problem, owner, accuracy, capability, first",
    [
        ("n32c256h56w56k256r3s3-p1", "cupy", "elementwise", 90, "cupy/wgmma_3xtf32"),
        ("n32c256h56w56k256r3s3-p1", "cupy", "elementwise", 100, "cupy/tensor_core_3xtf32"),
        ("n32c256h56w56k256r3s3-p1", "cupy", "elementwise", 80, "cupy/tensor_core_3xtf32"),
        ("n32c256h56w56k256r3s3-p1", "cupy", "elementwise", 70, "cupy/raw_register_tile"),
        ("n32c256h56w56k256r3s3-p1", "cupy", "tf32", 90, "cupy/tensor_core_tf32"),
        ("n32c3h56w56k64r3s3-p1", "cupy", "elementwise", 90, "cupy/raw_register_tile"),  # 27 products
        ("n32c256h56w56k256r3s3-p1-f64", "cupy", "tf32", 90, "cupy/im2col"),
        ("n32c256h56w56k256r3s3-p1-g256", "cupy", "elementwise", 90, "cupy/raw_naive"),
        ("n32c256h56w56k256r3s3-p1", "numba_cuda", "elementwise", 90, "numba_cuda/tensor_core_3xtf32"),
        ("n32c256h56w56k256r3s3-p1", "numba_cuda", "tilewise", 90, "numba_cuda/winograd"),
        ("n32c256h56w56k256r3s3-p1", "numba_cuda", "tf32", 80, "numba_cuda/tensor_core_tf32"),
        ("n32c256h56w56k16r3s3-p1", "numba_cuda", "elementwise", 80, "numba_cuda/async_tile"),
        ("n32c256h56w56k256r3s3-p1", "numba_cuda", "elementwise", 70, "numba_cuda/vector_loads"),
        ("n32c256h56w56k256r3s3-p1-f64", "numba_cuda", "elementwise", 90, "numba_cuda/register_tile"),
        ("n32c256h56w56k256r3s3-p1", "numba_cuda", "elementwise", None, "numba_cuda/shared_tile"),  # simulated
        ("n32c256h56w56k256r3s3-p1-g256", "numba_cuda", "elementwise", 90, "numba_cuda/shared_tile"),
    ],
)
def test_rule_for_gpus_knows_guarantee_capability_and_shape(problem, owner, accuracy, capability, first):
    """Unmeasured: what follows from the kernels' own statements. Nothing here says that it is fastest."""
    for scenario in ("eager", "packed"):
        assert auto.rule(Conv2d.parse(problem), owner, "cuda", scenario, accuracy, capability)[0] == first


@pytest.mark.parametrize(
    "problem, scenario, accuracy, first",
    [
        ("n1c64h56w56k64r3s3-p1", "packed", "elementwise", "numba/register_tile"),
        ("n1c64h56w56k64r3s3-p1", "packed", "tilewise", "numba/winograd"),
        ("n1c64h56w56k64r3s3-p1", "packed", "normwise", "numba/winograd"),
        ("n1c512h7w7k512r3s3-p1", "packed", "normwise", "numba/winograd"),
        ("n16c512h7w7k512r3s3-p1", "packed", "normwise", "numba/winograd"),
        ("n1c512h7w7k512r3s3-p1", "eager", "normwise", "numba/unpacked"),
        ("n1c256h14w14k256r3s3-p1", "eager", "normwise", "numba/winograd"),
        ("n1c512h14w14k512r3s3-p1", "eager", "normwise", "numba/winograd_small"),
        ("n1c64h56w56k256r1s1", "eager", "elementwise", "numba/unpacked"),
        ("n1c64h56w56k256r1s1-nhwc", "eager", "elementwise", "numba/pointwise"),
        ("n1c64h56w56k256r1s1", "packed", "elementwise", "numba/pointwise"),
        ("n16c512h28w28k256r1s1-st2", "packed", "elementwise", "numba/register_tile"),
        ("n1c64h56w56k64r5s5", "eager", "elementwise", "numba/register_tile"),
        ("n1c64h56w56k64r3s3-p1-g64", "packed", "elementwise", "numba/depthwise"),
        ("n1c3h128w128k4r5s5", "packed", "elementwise", "numba/few_channels"),
        ("n1c3h224w224k32r3s3-st2-p1", "packed", "elementwise", "numba/few_channels"),
        ("n1c3h224w224k96r11s11-st4-p2", "packed", "elementwise", "numba/register_tile"),
        ("n1c3h224w224k64r7s7-st2-p3-nhwc", "packed", "elementwise", "numba/register_tile"),
        ("n1c3h224w224k64r7s7-st2-p3", "eager", "normwise", "numba/winograd_decomposed"),
        ("n1c64h28w28k64r5s5-p2", "packed", "normwise", "numba/winograd_decomposed"),
        ("n1c128h56w56k128r3s3-st2-p1", "packed", "normwise", "numba/winograd_decomposed"),
        ("n1c128h56w56k128r3s3-st2-p1", "eager", "normwise", "numba/unpacked"),
        ("n1c256h28w28k256r3s3-st2-p1", "packed", "normwise", "numba/register_tile"),
        ("n1c832h7w7k128r5s5-p2", "packed", "normwise", "numba/register_tile"),
        ("n1c192h17w17k192r1s7-p0_0_3_3", "packed", "normwise", "numba/register_tile"),
        ("n16c64h7w7k64r7s7", "packed", "normwise", "numba/register_tile"),
        ("n1c64h28w28k64r5s5-st3-p2", "packed", "normwise", "numba/register_tile"),
    ],
)
def test_rule_knows_layers_scenarios_and_guarantees(monkeypatch, problem, scenario, accuracy, first):
    """The first that does not refuse; no kernel is offered that guarantees less than was asked."""
    pytest.importorskip("numba", reason="needs numba: pip install numba")
    monkeypatch.setenv("CONVZOO_MATRIX_UNIT", "none")
    p = Conv2d.parse(problem)
    names = auto.rule(p, "numpy", "cpu", scenario, accuracy)
    for name in names:
        asked = ACCURACIES.index(accuracy)
        assert ACCURACIES.index(catalog.find(name).accuracy) <= asked
    for name in names:
        try:
            convzoo.load(name).plan(p)
        except convzoo.Unsupported:
            continue
        assert name == first
        break


@pytest.mark.parametrize(
    "problem, scenario, accuracy, first",
    [
        ("n1c64h56w56k64r1s1", "packed", "elementwise", "numba/amx_6xbf16"),
        ("n1c64h56w56k64r1s1", "packed", "tf32", "numba/amx_3xbf16"),
        ("n1c64h56w56k64r1s1", "packed", "half", "numba/amx_bf16"),
        ("n1c64h56w56k64r1s1", "eager", "elementwise", "numba/unpacked"),
        ("n1c64h56w56k64r3s3-p1", "packed", "normwise", "numba/winograd"),
        ("n1c64h56w56k64r1s1-f64", "packed", "elementwise", "numba/pointwise"),
    ],
)
def test_rule_on_a_cpu_with_a_matrix_unit(monkeypatch, problem, scenario, accuracy, first):
    pytest.importorskip("numba", reason="needs numba: pip install numba")
    monkeypatch.setenv("CONVZOO_MATRIX_UNIT", "emulated")
    p = Conv2d.parse(problem)
    for name in auto.rule(p, "numpy", "cpu", scenario, accuracy):
        try:
            convzoo.load(name).plan(p)
        except convzoo.Unsupported:
            continue
        assert name == first
        break
