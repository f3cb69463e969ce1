"""What we rely on in asv: one set-up a process, our clock, statistics, n/a cells, failed verdicts."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("asv", reason="needs asv: pip install 'convzoo[bench]'")
ROOT = Path(__file__).resolve().parent.parent

SUITE = """
import os
from . import bench_conv2d as whole

def kernel_eager(kernel, problem):
    return whole._judged

def kernel_packed(kernel, problem):
    return whole._judged

def logged(setup):
    def logging(kernel, problem):
        setup(kernel, problem)
        with open(os.environ["SETUP_LOG"], "a") as log:
            log.write(f"{os.getpid()} {os.environ['OMP_NUM_THREADS']}\\n")
    return logging

for f, original in ((kernel_eager, whole.kernel_eager), (kernel_packed, whole.kernel_packed)):
    f.params = (["numpy/shifted", "numpy/wrong", "torch_mps/builtin"], ["n1c4h12w12k4r3s3-p1"])
    f.setup, f.version, f.rounds = logged(original.setup), original.version, original.rounds
"""
WRONG = '''"""Planted."""
import numpy as np
from convzoo.plan import Plan
def plan(p):
    return Plan(lambda x, weights: np.zeros(p.y_shape, x.dtype))
'''


def test_these_tests_are_not_bound_to_a_core_as_asvs_processes_are():
    """What they start would be, too: half as fast, and another machine by name."""
    assert "asv" in sys.modules and "OMP_PROC_BIND" not in os.environ


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """A repository of two commits with the real suite cut down to three cells, run by asv on both."""
    root = tmp_path_factory.mktemp("asv")
    repo, home = root / "repo", root / "home"
    home.mkdir()
    for name in ("kernels", "benchmarks"):
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, repo / name, ignore=ignore)
    whole = repo / "benchmarks" / "suite" / "bench_conv2d.py"
    whole.write_text(whole.read_text().replace("convzoo.names()", "['numpy/shifted']"))
    (repo / "benchmarks" / "suite" / "bench_small.py").write_text(SUITE)
    (repo / "kernels" / "convzoo" / "numpy" / "wrong.py").write_text(WRONG)
    configuration = {
        "version": 1,
        "project": "convzoo",
        "repo": ".",
        "dvcs": "git",
        "branches": ["main"],
        "environment_type": "existing",
        "pythons": ["same"],
        "benchmark_dir": "benchmarks/suite",
        "results_dir": "results",
        "html_dir": "html",
        "launch_method": "spawn",
    }
    (repo / "asv.conf.json").write_text(json.dumps(configuration))
    log = root / "setup.log"
    environment = os.environ | {
        "HOME": str(home),
        "ASV_PYTHONPATH": str(repo / "kernels"),
        "SETUP_LOG": str(log),
        "CONVZOO_THREADS": "1",
    }

    def run(*command, codes=(0,)):
        done = subprocess.run(command, cwd=repo, env=environment, capture_output=True, text=True)
        assert done.returncode in codes, done.stdout + done.stderr
        return done.stdout.strip()

    identity = ("-c", "user.name=suite", "-c", "user.email=suite@example.org")
    run("git", "init", "-q", "-b", "main")
    commits = []
    asv = (sys.executable, "-m", "asv")
    run(*asv, "machine", "--yes", "--machine", "box")
    for n in (1, 2):
        (repo / "note.txt").write_text(str(n))
        run("git", "add", "-A")
        run("git", *identity, "commit", "-q", "-m", f"commit {n}")
        commits.append(run("git", "rev-parse", "HEAD"))
        log.write_text("")
        run(
            *asv,
            "run",
            "--machine",
            "box",
            "--set-commit-hash",
            commits[-1],
            "-b",
            "bench_small",
            "-a",
            "repeat=4",
            "--record-samples",
            codes=(0, 2),
        )
    return run, asv, commits, repo, log


@pytest.fixture(scope="module")
def cells(suite):
    from asv.config import Config
    from asv.results import iter_results

    _, _, commits, repo, _ = suite
    found = {}
    there = Path.cwd()
    os.chdir(repo)
    try:
        for r in iter_results(Config.load("asv.conf.json").results_dir):
            for name in r.get_all_result_keys():
                p = r.get_result_params(name)
                values, stats = r.get_result_value(name, p), r.get_result_stats(name, p)
                for cell, v, s in zip(itertools.product(*p), values, stats, strict=True):
                    found[(r.commit_hash, name.rpartition(".")[2], cell[0].strip("'"))] = (v, s)
    finally:
        os.chdir(there)
    assert {c for c, _, _ in found} == set(commits)
    return found


def test_one_setup_per_process_with_the_threads_we_asked_for(suite):
    """Two benchmarks x two rounds of the one usable cell: four set-ups in four processes."""
    lines = suite[4].read_text().splitlines()
    assert len(lines) == len({line.split()[0] for line in lines}) == 4
    assert {line.split()[1] for line in lines} == {"1"}


@pytest.mark.parametrize("benchmark", ["kernel_eager", "kernel_packed"])
def test_a_cell_has_a_calibrated_number_and_all_samples(cells, suite, benchmark):
    for commit in suite[2]:
        seconds, stats = cells[(commit, benchmark, "numpy/shifted")]
        assert 1e-6 < seconds < 1e-1
        assert stats["repeat"] == 8, "four samples in each of two rounds"
        assert stats["number"] > 1, "a call this short must be repeated to drown the clock"
        assert stats["ci_99_a"] <= seconds <= stats["ci_99_b"]


def test_what_cannot_run_is_na_and_what_is_wrong_has_failed(cells, suite):
    for commit in suite[2]:
        skipped, _ = cells[(commit, "kernel_packed", "torch_mps/builtin")]
        failed, _ = cells[(commit, "kernel_packed", "numpy/wrong")]
        assert skipped != skipped, "NaN is asv's n/a"
        assert failed is None, "a wrong output must never have a time"


def test_asv_check_compare_and_publish_work(suite):
    run, asv, commits, repo, _ = suite
    run(*asv, "check")
    table = run(*asv, "compare", "--machine", "box", *commits)
    assert "kernel_packed('numpy/shifted'" in table.replace('"', "'")
    run(*asv, "publish")
    assert (repo / "html" / "index.html").is_file()


def test_records_become_asv_results_under_a_name_of_their_own(suite, tmp_path):
    """compare's own measurements reach asv's files, and never join a series that asv measured."""
    from benchmarks import record

    run_line = {
        "schema": record.SCHEMA,
        "kind": "run",
        "machine": "box",
        "commit": suite[2][0],
        "dirty": False,
        "started": "2026-01-02T03:04:05+00:00",
        "commit_date": "2026-01-01T00:00:00+00:00",
        "hardware": {
            "python": "3.11.7",
            "os": "x",
            "arch": "y",
            "cpu": "z",
            "microarchitecture": "m",
            "usable_cpus": 2,
            "memory_bytes": 2**34,
            "gpus": [],
        },
    }
    cell = {
        "kind": "cell",
        "kernel": "numpy/shifted",
        "problem": "n1c4h12w12k4r3s3-p1",
        "scenario": "packed",
        "status": "ok",
        "round_seconds": [1e-3, 2e-3, 3e-3],
    }
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps(run_line) + "\n" + json.dumps(cell) + "\n")
    record.export_to_asv(path, tmp_path / "results")
    (written,) = (tmp_path / "results" / "box").glob("*.json")
    assert "convzoo-compare-py3.11" in written.name
    assert "kernel_packed" in written.read_text()
    path.write_text(json.dumps(run_line | {"dirty": True}) + "\n")
    with pytest.raises(ValueError, match="uncommitted"):
        record.export_to_asv(path, tmp_path / "results")
