"""``selftest``: bad kernels and generated mutants are caught, honest kernels are not refused."""

from __future__ import annotations

import ast
import ctypes.util
import gc
import json
import os
import platform
import subprocess
import sys
import types
from pathlib import Path

import pytest

import convzoo
from benchmarks import bad_kernels, compiled_mutants, mutants, selftest, strain
from benchmarks.equivalent_mutants import EQUIVALENT

ROOT = Path(__file__).resolve().parent.parent


def ask(*arguments):
    command = [sys.executable, "-m", "benchmarks", "selftest", *arguments]
    env = os.environ | {"PYTHONPATH": f"{ROOT / 'kernels'}{os.pathsep}{ROOT}"}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900)


def not_as_it_must(document):
    cells = [
        f"{c['kernel']} on {c['problem']}: must be {c['expected']}, is {c['status']}: {c['why']}"
        for c in document["cells"]
        if not c["as_it_must"]
    ]
    survivors = [f"{s['where']}: {s['change']}" for m in document["mutants"] for s in m["survivors"]]
    return "\n".join(cells + survivors)


def test_numpy_family_and_a_sample_of_mutants():
    done = ask("--kernels", "numpy/*", "--sample", "30", "--seed", "3", "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 0 and document["passed"], not_as_it_must(document) or done.stderr
    bad = {c["kernel"]: c["status"] for c in document["cells"] if c["bad"]}
    faults = [fault for fault in bad_kernels.FAULTS.values() if not fault.threads]
    assert bad.keys() == {f"numpy/{fault.name}" for fault in faults}
    for fault in faults:
        assert bad[f"numpy/{fault.name}"] in fault.status.split()
    assert {"wrong", "mistrusted", "crashed", "timeout"} == set(bad.values())
    assert sum(m["mutants"] for m in document["mutants"]) == 30


@pytest.mark.slow
def test_every_family():
    """A new kernel that is wrong, and one that is right, come with the caller's own folder."""
    done = ask("--json")
    document = json.loads(done.stdout)
    assert done.returncode == 0, not_as_it_must(document) or done.stderr
    families = {c["kernel"].partition("/")[0] for c in document["cells"] if c["bad"]}
    assert families == set(selftest.usable())


@pytest.mark.slow
def test_every_mutant_of_numpy_is_rejected_or_argued_away():
    scores = mutants.run(["numpy/*", "python/*"])
    survivors = [s for score in scores for s in score["survivors"]]
    assert not survivors, "\n".join(f"{s['where']}: {s['change']}" for s in survivors)
    assert not [s for score in scores for s in score["refuted"]], "argued away, and yet rejected"


def test_compiled_mutants_are_rejected_and_the_kernel_passes():
    pytest.importorskip("numba", reason="they are mutants of Numba's kernels: pip install convzoo[numba]")
    [score] = mutants.run(["numba/unpacked"], sample=4, seed=1)
    assert score["mutants"] == 4 < score["places"] and not score["survivors"] + score["refuted"]
    assert score["rejected"] > 1, "those argued away are few"


@pytest.mark.slow
@pytest.mark.parametrize("name", compiled_mutants.FILES)
def test_every_compiled_mutant_that_is_drawn_is_rejected_or_argued_away(name):
    pytest.importorskip("numba", reason="they are mutants of Numba's kernels: pip install convzoo[numba]")
    [score] = mutants.run([name])
    assert not score["survivors"], "\n".join(f"{s['where']}: {s['change']}" for s in score["survivors"])
    assert not score["refuted"], "argued away, and yet rejected"


def test_own_bad_kernels(tmp_path, monkeypatch):
    """A folder of one's own: what is wrong is caught; what is right there is a failure of the folder."""
    monkeypatch.setattr(bad_kernels, "FAULTS", {"zeros": bad_kernels.FAULTS["zeros"]})  # one is enough here
    folder = tmp_path / "python"
    folder.mkdir()
    head = '"""Planted."""\nimport numpy as np\nfrom convzoo.plan import Plan\n'
    (folder / "nothing.py").write_text(
        head + "def plan(p):\n    return Plan(lambda x, weights: np.empty(p.y_shape, p.dtype))\n"
    )
    (folder / "right.py").write_text(
        head + "from convzoo.reference import oracle\n"
        "def plan(p):\n    return Plan(lambda x, weights: oracle(p, x, *weights).astype(p.dtype))\n"
    )
    (folder / "broken.py").write_text("def plan(p:\n")
    rows = selftest.run(["python/*"], tmp_path)
    own = {r["kernel"]: (r["status"], r["as_it_must"]) for r in rows if r["headline"].startswith("your own")}
    assert own == {"python/nothing": ("wrong", True), "python/right": ("ok", False), "python/broken": ("crashed", True)}
    assert not selftest.passed(rows, [])


def test_wrong_usage_is_told():
    done = ask("--bad", str(ROOT / "reports" / "templates"))
    assert done.returncode == 3 and "--bad must hold <backend>/<name>.py" in done.stderr
    done = ask("--kernels", "nmpy/*")
    assert done.returncode == 3 and "no kernel matches" in done.stderr


def test_every_fault_has_a_file_that_declares_what_the_honest_kernel_declares(tmp_path):
    from convzoo.backends import BACKENDS
    from convzoo.catalog import find, read

    for backend in BACKENDS:
        if not convzoo.names(f"{backend}/*"):
            continue
        honest = bad_kernels.honest_kernel(backend)
        for fault in bad_kernels.FAULTS.values():
            kernel = read(bad_kernels.write(tmp_path, backend, fault), BACKENDS[backend])
            assert kernel.name == f"{backend}/{fault.name}" and kernel.headline == fault.headline
            assert kernel.accuracy == find(honest).accuracy


def test_a_kernel_outside_the_catalog_is_loaded_by_its_path(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text('"""Mine."""\ndef plan(p):\n    return 42\n')
    kernel = convzoo.load("numpy/mine", path)
    assert kernel.name == "numpy/mine" and kernel.plan(convzoo.Conv2d(1, 1, 3, 3, 1, 1, 1)) == 42
    assert "numpy/mine" not in convzoo.names()
    with pytest.raises(ValueError, match="must begin with one of"):
        convzoo.load("nmpy/mine", path)


@pytest.mark.parametrize("backend", ["numba", "torch_cpu"])
@pytest.mark.parametrize("threads, said", [(2, "with one thread instead of 2"), (1, "not exact")])
def test_one_thread_is_tried_where_the_timing_has_more(tmp_path, backend, threads, said):
    from dataclasses import asdict

    from benchmarks.processes import Crew
    from convzoo.backends import BACKENDS

    if reason := BACKENDS[backend].why_not():
        pytest.skip(reason)
    fault = bad_kernels.FAULTS["right_with_many_threads"]
    path = bad_kernels.write(tmp_path, backend, fault)
    assert fault.fits(backend) and not fault.fits("numpy")
    crew = Crew(threads, 60.0)
    try:
        reply = crew.ask(
            {
                "kernel": f"{backend}/{fault.name}",
                "problem": selftest.AWKWARD,
                "scenario": "packed",
                "seed": 0,
                "path": str(path),
                "effort": asdict(selftest.EFFORT),
            }
        )
    finally:
        crew.close()
    assert reply["status"] == "wrong" and said in reply["why"], reply


def test_guarded_inputs_are_read_only():
    from dataclasses import replace

    from benchmarks.guard import unguarded
    from convzoo.reference import inputs, magnitude, oracle

    kernel, p = convzoo.load("numpy/windows"), convzoo.Conv2d.parse(selftest.AWKWARD)
    plan, flags, data = kernel.plan(p), [], inputs(p, 0)
    known = oracle(p, *data), magnitude(p, *data)

    def run(x, weights):
        flags.extend(a.flags.writeable for a in (x, *weights))
        return plan.run(x, weights)

    assert unguarded(kernel, replace(plan, run=run), p, data, known, lambda line: None) == ""
    assert flags in ([], [False] * 6), "nothing but Linux has such memory"


def _round_upward():
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    return lambda: libm.fesetround(0x800), lambda: libm.fesetround(0)


@pytest.mark.parametrize(
    "name, change, back",
    [
        ("the garbage collector", lambda: gc.set_threshold(0), lambda: gc.set_threshold(700)),
        ("the interval", lambda: sys.setswitchinterval(1), lambda: sys.setswitchinterval(5e-3)),
        ("the direction of rounding", lambda: _round_upward()[0](), lambda: _round_upward()[1]()),
        (
            "the variable CONVZOO_VECTOR_BITS",  # none that a library reads that is loaded meanwhile
            lambda: os.environ.update(CONVZOO_VECTOR_BITS="128"),
            lambda: None,
        ),
    ],
)
def test_a_setting_that_others_would_find_changed_is_told(monkeypatch, name, change, back):
    from benchmarks.doubts import Watch
    from convzoo.backends import BACKENDS

    if "rounding" in name and platform.machine() != "x86_64":
        pytest.skip("the number of a direction of rounding is known for x86-64 alone")
    monkeypatch.setenv("CONVZOO_VECTOR_BITS", "256")
    watch = Watch(BACKENDS["numpy"])
    assert watch.reasons() == ""
    try:
        change()
        why = watch.reasons()
    finally:
        back()
    assert f"changed {name}" in why


# --- mutants -----------------------------------------------------------------------------------------


def changes(source, monkeypatch, tmp_path):
    from dataclasses import replace

    path = tmp_path / "k.py"
    path.write_text(source)
    kernel = replace(convzoo.catalog.find("numpy/windows"), path=path)
    monkeypatch.setattr(mutants, "find", lambda name: kernel)
    return {m.after for m in mutants.mutants_of("numpy/windows")}


def test_mutations_are_the_mistakes_people_make(monkeypatch, tmp_path):
    source = (
        "def plan(p):\n"
        "    (stride_h, stride_w), top = p.stride, p.padding[0]\n"
        "    def run(x, weights):\n"
        "        for r in range(p.R):\n"
        "            if r * stride_h < top:\n"
        "                y[r] += x[r].copy()\n"
        "        return y\n"
        "    return Plan(run, workspace=4 * p.N)\n"
    )
    found = changes(source, monkeypatch, tmp_path)
    for expected in (
        "(stride_w, stride_h), top = p.stride, p.padding[0]",
        "for r in range(p.R - 1):",
        "for r in range(1, p.R):",
        "for r in range(p.S):",
        "if r * stride_w < top:",
        "if r * stride_h <= top:",
        "y[r] = x[r].copy()",
        "y[r] += x[r + 1].copy()",
        "y[r] += x[r]",
        "pass",
        "(stride_h, stride_w), top = p.stride, p.padding[1]",
    ):
        assert expected in found, found
    assert not any("workspace" in line for line in found), "the workspace is no part of the output"
    swapped = {"y[s] += x[r].copy()", "if r * stride_h < left:"} & found
    assert not swapped, "names that mean nothing there: Python itself refuses them"


def test_an_edit_leaves_other_mutants_drawn():
    every = compiled_mutants.places("numba/unpacked")
    drawn, edited = compiled_mutants.drawn(every), every[20:]
    assert compiled_mutants.DRAWN == len(drawn) < len(every)
    assert {m for m in drawn if m in edited} <= {*compiled_mutants.drawn(edited)}


def test_a_file_is_judged_whose_kernel_takes_few_problems():
    pytest.importorskip("numba", reason="they are mutants of Numba's kernels: pip install convzoo[numba]")
    name = "numba/winograd_small"  # it needs 32 channels
    assert compiled_mutants.files([name]) == [name]


BESIDE = """
import ctypes, sys
from pathlib import Path
from benchmarks.compiled_mutants import _fenced, executed, give, in_a_fork, path_of
from convzoo import Conv2d
y = _fenced((3, 5), "float32")
for place in (0, 15):
    at = y.ctypes.data + 4 * place
    print(in_a_fork(lambda: ctypes.c_float.from_address(at).value and "").partition(":")[0] or "lives")
def hang():
    give(0.1)
    while True: pass
print(in_a_fork(hang).partition(":")[0])
source = path_of("numba/few_channels").read_text()
kernels = executed("numba/few_channels", source, ["numba/few_channels"])
kernels["numba/few_channels"].plan(Conv2d(1, 3, 9, 40, 2, 3, 3))
print([f.name for f in Path(sys.argv[1]).rglob("*few_channels*")])
"""


def test_what_lies_beside_y_is_closed_nobody_hangs_and_no_mutant_comes_into_a_cache(tmp_path):
    pytest.importorskip("numba", reason="they are mutants of Numba's kernels: pip install convzoo[numba]")
    env = os.environ | {"PYTHONPATH": f"{ROOT / 'kernels'}{os.pathsep}{ROOT}", "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", BESIDE, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    said = ["lives", "ends its process", "ends its process", "[]"]
    assert done.stdout.split("\n")[:4] == said, done.stdout + done.stderr


def test_every_argument_fits_a_mutant():
    """An entry whose kernel has changed says nothing any more, and is to be deleted."""
    every = {m.change for kernel in {key[0] for key in EQUIVALENT} for m in mutants.mutants_of(kernel)}
    stale = EQUIVALENT.keys() - every
    assert not stale, "\n".join(map(str, stale))
    assert all(reason.strip() for reason in EQUIVALENT.values())


def test_bad_kernels_import_nothing_but_the_standard_library_at_the_top():
    """asv imports every module of benchmarks."""
    for name in ("bad_kernels", "selftest", "mutants", "compiled_mutants", "doubts", "equivalent_mutants"):
        tree = ast.parse((ROOT / "benchmarks" / f"{name}.py").read_text())
        top = {a.name for n in tree.body if isinstance(n, ast.Import) for a in n.names}
        assert top <= set(sys.stdlib_module_names), name


@pytest.mark.alone
@pytest.mark.parametrize("upto, found", [(250, ""), (10**9, "keeps 1 objects more after each call")])
def test_what_some_hundred_calls_keep_is_no_leak(upto, found):
    """A library that compiles at each call (17 ms) filled tables of its own for 250 calls, and was mistrusted."""
    kept, calls = [], iter(range(10**9))

    def call(x):
        if next(calls) < upto:
            kept.append(object())

    backend = types.SimpleNamespace(synchronize=lambda: None)
    cell = types.SimpleNamespace(
        call=call,
        inputs=[None],
        problem=convzoo.Conv2d.parse("n1c1h9w9k1r3s3"),
        kernel=types.SimpleNamespace(backend=backend),
    )
    assert strain.leaves(cell, 0.017) == found
