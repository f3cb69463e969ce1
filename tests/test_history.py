"""history: steps that were planted in asv's own result files are named with commit, cell and size."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("asv", reason="needs asv: pip install 'convzoo[bench]'")
from benchmarks.verbs import history

ROOT = Path(__file__).resolve().parent.parent
PROBLEM = "n1c4h12w12k4r3s3-p1"
COMMITS = [f"{i:08x}" + "0" * 32 for i in range(0xABCD00, 0xABCD00 + 24)]


def write(results, machine, values, version="1", env="existing-py"):
    """One result file a commit: ``values`` maps a kernel to its level at commit i."""
    from asv.results import Results
    from asv.runner import BenchmarkResult

    folder = results / machine
    folder.mkdir(parents=True, exist_ok=True)
    params = {"machine": machine, "python": "3.11"}
    (folder / "machine.json").write_text(json.dumps({"machine": machine, "version": 1}))
    rng = random.Random(machine)
    for i, commit in enumerate(COMMITS):
        filed = Results(params, {}, commit, 1_700_000_000_000 + 60_000 * i, "3.11", env, {})
        rows = [
            [level(i) * (1 + 0.005 * rng.random()) for _ in range(8)] if level(i) else None for level in values.values()
        ]
        benchmark = {
            "name": "bench_conv2d.kernel_packed",
            "type": "time",
            "params": [[repr(k) for k in values], [repr(PROBLEM)]],
            "version": version if isinstance(version, str) else version(i),
        }
        result = BenchmarkResult(
            result=[bool(r) or None for r in rows],
            samples=rows,
            number=[1 if r else None for r in rows],
            errcode=0,
            stderr="",
            profile=None,
        )
        filed.add_result(benchmark, result, record_samples=True)
        filed.save(str(results))


@pytest.fixture
def results(tmp_path):
    write(
        tmp_path,
        "box",
        {
            "numba/direct": lambda i: 1e-3 if i < 14 else 1.4e-3,
            "numpy/im2col": lambda i: 2e-3,
            "numpy/fft": lambda i: None if i in (9, 10) else 4e-3 if i < 11 else 3e-3,
            "cupy/im2col": lambda i: None,
        },
    )
    return tmp_path


def test_steps_are_named_by_commit_cell_and_size(results):
    every = history.series(results)
    assert {one.cell for one in every} == {f"{k}, {PROBLEM}" for k in ("numba/direct", "numpy/im2col", "numpy/fft")}
    found = {step.series.cell: step for step in history.steps(every, 0.02)}
    assert set(found) == {f"numba/direct, {PROBLEM}", f"numpy/fft, {PROBLEM}"}
    slower = found[f"numba/direct, {PROBLEM}"]
    assert (slower.last_before, slower.first_after) == (COMMITS[13], COMMITS[14])
    assert slower.ratio == pytest.approx(1.4, rel=0.02) and slower.before == pytest.approx(1e-3, rel=0.02)
    faster = found[f"numpy/fft, {PROBLEM}"]
    assert (faster.last_before, faster.first_after) == (COMMITS[8], COMMITS[11])
    assert faster.ratio == pytest.approx(0.75, rel=0.02)
    told = history.sentence(every, list(found.values()))
    assert "2 steps in 3 series" in told and "numba/direct" in told and "00abcd0d..00abcd0e" in told


def test_small_steps_other_machines_and_other_versions_do_not_mix(results, tmp_path):
    other = {"numba/direct": lambda i: 5e-3 if i < 14 else 5.03e-3}
    write(results, "laptop", other, version=lambda i: "1" if i < 8 else "2")
    every = [one for one in history.series(results) if one.machine == "laptop"]
    assert sorted(len(one.points) for one in every) == [8, 16]
    assert history.steps(every, 0.02) == []


def test_order_is_gits_where_git_knows_the_commits(monkeypatch, results):
    order = COMMITS[::-1]
    monkeypatch.setattr(history, "_places", lambda commits: {c: i for i, c in enumerate(order)})
    every = history.series(results)
    assert [commit for commit, *_ in every[0].points] == order


def ask(*arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT / "kernels")}
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", "history", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_command_line(results, tmp_path):
    done = ask("--results", str(results))
    assert done.returncode == 0, done.stderr
    assert "1.40x slower" in done.stdout and "1.33x faster" in done.stdout
    document = json.loads(ask("--results", str(results), "--json").stdout)
    assert document["schema"] == "convzoo.history/1" and len(document["steps"]) == 2
    assert document["steps"][0]["commits"] == "00abcd0d..00abcd0e"
    strict = json.loads(ask("--results", str(results), "--json", "--minimum", "36").stdout)
    assert [step["first_after"] for step in strict["steps"]] == [COMMITS[14]]
    (tmp_path / "none").mkdir()
    assert "no asv results yet" in ask("--results", str(tmp_path / "none")).stdout
    assert ask("--results", str(tmp_path / "missing")).returncode == 3
    assert ask().returncode == 0
