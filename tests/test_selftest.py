"""``selftest``: bad kernels are caught, honest kernels are not refused."""

from __future__ import annotations

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
from benchmarks import bad_kernels, selftest, strain

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
    return "\n".join(cells)


def test_numpy_family():
    done = ask("--kernels", "numpy/*", "--seed", "3", "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 0 and document["passed"], not_as_it_must(document) or done.stderr
    bad = {c["kernel"]: c["status"] for c in document["cells"] if c["bad"]}
    faults = [fault for fault in bad_kernels.FAULTS.values() if not fault.threads and fault.status != "ok"]
    assert bad.keys() == {f"numpy/{fault.name}" for fault in faults}
    for fault in faults:
        assert bad[f"numpy/{fault.name}"] in fault.status.split()
    assert {"wrong", "mistrusted", "crashed", "timeout"} == set(bad.values())


@pytest.mark.slow
def test_every_family():
    """A new kernel that is wrong, and one that is right, come with the caller's own folder."""
    done = ask("--json")
    document = json.loads(done.stdout)
    assert done.returncode == 0, not_as_it_must(document) or done.stderr
    families = {c["kernel"].partition("/")[0] for c in document["cells"] if c["bad"]}
    assert families == set(selftest.usable())


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
    assert not selftest.passed(rows)


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
    path.write_text('"""Mine."""\nfrom convzoo import Plan\ndef plan(p):\n    return Plan(run=str, workspace=42)\n')
    kernel = convzoo.load("numpy/mine", path)
    assert kernel.name == "numpy/mine" and kernel.plan(convzoo.Conv2d(1, 1, 3, 3, 1, 1, 1)).workspace == 42
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
    convzoo.load("numpy/windows").plan(convzoo.Conv2d.parse(selftest.AWKWARD))
    assert watch.reasons() == ""
    try:
        change()
        why = watch.reasons()
    finally:
        back()
    assert f"changed {name}" in why


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
