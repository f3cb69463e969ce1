"""Mutants of the honest kernels are rejected by the verdict, or argued away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import convzoo
from tests.mutation import compiled_mutants, mutants
from tests.mutation.__main__ import main

ROOT = Path(__file__).resolve().parent.parent.parent


def test_a_sample_of_numpy_s(capsys):
    assert main(["--kernels", "numpy/*", "--sample", "30", "--seed", "3", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["passed"] and sum(m["mutants"] for m in document["mutants"]) == 30


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
from tests.mutation.compiled_mutants import _fenced, executed, give, in_a_fork, path_of
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
    argued = mutants.argued_away()
    stale = argued.keys() - {m.change for kernel in {key[0] for key in argued} for m in mutants.mutants_of(kernel)}
    assert not stale, "\n".join(map(str, stale))
    assert all(reason.strip() for reason in argued.values())
