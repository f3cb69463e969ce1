"""The checkers themselves: kernels that are wrong on purpose are rejected, honest ones are not."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
import trial
from wrong_kernels import CROSSED_IN_THREADS, HONEST, SIX_BFLOAT16, TF32, THREE_TF32, WRONG

from convzoo import Conv2d
from convzoo.backends import BACKENDS
from convzoo.reference import examine

PROBLEMS = [
    Conv2d.parse(text)
    for text in (
        "n2c4h7w9k6r3s2-st2x3-p1_2_0_3-d2x1-g2",
        "n1c5h6w7k4r1s1-st2x1",
        "n1c3h5w6k3r3s3-p1",
        "n1c600h3w4k2r3s3",
        "n2c4h5w6k4r2s3-p0_1_2_1-d1x2-g4-nhwc",
        "n1c3h6w5k4r3s3-p1-f64",
        "n1c1h4w5k2r1s1-nobias",
    )
]
SEEDS = (0, 1)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("p", PROBLEMS, ids=str)
def test_honest_kernel_passes(p, seed):
    trial.expect(examine(HONEST, p, seed), "honest", p, seed)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_kernel_is_rejected(name):
    kernel, reason = WRONG[name]
    whys = [examine(kernel, p, seed).why for p in PROBLEMS for seed in SEEDS]
    rejected = [why for why in whys if why]
    assert rejected, f"{name} passed on every problem"
    assert any(re.search(reason, why) for why in rejected), f"not for {reason!r} but: {set(rejected)}"


def test_there_are_many_wrong_kernels():
    assert len(WRONG) >= 16


@pytest.mark.parametrize("p", PROBLEMS, ids=str)
def test_lower_promise_that_is_kept_passes(p):
    """Rounding inputs to TF32 is a fault only in a kernel that promises more."""
    for seed in SEEDS:
        trial.expect(examine(TF32, p, seed), "rounds-inputs-to-tf32", p, seed)


FEWER_BITS = [name for name in WRONG if re.search("bfloat16-prod|of-two|rounded-to-|one-scale", name)]


@pytest.mark.parametrize("text", ["n1c64h6w7k8r3s3-p1", "n2c300h4w5k6r3s3-nhwc", "n1c40h5w5k7r1s1-nobias"])
@pytest.mark.parametrize("name", FEWER_BITS)
def test_fewer_bits_are_seen_at_any_number_of_taps_and_by_either_seed(name, text):
    """The bound alone lets some 17 bits through from 576 taps on: one product an output does not."""
    for seed in SEEDS:
        assert not examine(WRONG[name][0], Conv2d.parse(text), seed).ok, (name, text, seed)


@pytest.mark.parametrize("text", ["n1c64h6w7k8r3s3-p1", "n2c300h4w5k6r3s3-nhwc", "n1c40h5w5k7r1s1-nobias"])
@pytest.mark.parametrize("kernel", [SIX_BFLOAT16, THREE_TF32, HONEST], ids=lambda kernel: kernel.name)
def test_products_of_parts_that_keep_float32_pass(kernel, text):
    for seed in range(4):
        trial.expect(examine(kernel, Conv2d.parse(text), seed), kernel.name, Conv2d.parse(text), seed)


def test_tf32_is_seen_at_any_number_of_taps():
    """At large n the bound alone lets it through; the exact tier must not."""
    wrong = WRONG["tf32-that-promises-elementwise"][0]
    for text in ("n1c1h4w4k1r1s1", "n1c100h3w3k2r3s3", "n1c500h3w3k2r3s3"):
        for seed in SEEDS:
            assert not examine(wrong, Conv2d.parse(text), seed).ok


@pytest.mark.parametrize("channels", [1, 10, 100, 600])
@pytest.mark.parametrize("name", ["elementwise", "normwise"])
def test_tf32_is_seen_on_ordinary_numbers_alone_at_any_number_of_taps(name, channels):
    """gamma_n lets it through from some 100 taps on; the errors of float32 do not grow like that."""
    wrong = WRONG[
        "tf32-where-data-are-no-integers" if name == "elementwise" else "tf32-where-data-are-dense-and-no-integers"
    ][0]
    p = Conv2d.parse(f"n1c{channels}h6w7k4r3s3")
    for seed in SEEDS:
        assert f"outside the {name} bound" in examine(wrong, p, seed).why
        trial.expect(examine(HONEST, p, seed), "honest", p, seed)


def test_shared_workspace_is_seen_from_threads():
    """One thread at a time it is right, so that the verdict passes it: only threads tell."""
    p = PROBLEMS[2]
    assert examine(CROSSED_IN_THREADS, p).ok
    assert _wrong_in_threads(CROSSED_IN_THREADS, p)
    assert not _wrong_in_threads(HONEST, p)


def _wrong_in_threads(kernel, p):
    plan = kernel.plan(p)
    data = [trial.integer_inputs(kernel, p, seed) for seed in (0, 2, 4, 6)]
    calls = [lambda x=x, w=w, b=b: plan.run(x, plan.pack(w, b)) for x, w, b in data]
    wrong = 0
    for mine, y in zip(data, trial.from_threads(calls), strict=True):
        try:
            trial.expect_right(kernel, p, mine, y)
        except pytest.fail.Exception:
            wrong += 1
    return wrong


def test_packed_view_is_seen_when_w_changes():
    view, p = WRONG["packs-a-view-of-w"][0], PROBLEMS[2]
    assert "not exact on integer data" in trial.pack_follows(view, p, view.plan(p))
    plan = dataclasses.replace(HONEST.plan(p), pack=lambda w, b: (w.copy(), None if b is None else b.copy()))
    assert trial.pack_follows(HONEST, p, plan) is None
    assert examine(HONEST, p, 0, plan).ok


@pytest.mark.parametrize("text", ["n1c64h30w30k8r3s3-p1", "n1c3h6w5k4r3s3-p1", "n1c16h56w56k4r3s3-g2-nhwc"])
def test_tf32_that_promises_normwise_is_seen_where_many_channels_add_to_the_bound(text):
    """Random data alone lets it through on the first and the last; a spot in one channel does not."""
    wrong = WRONG["tf32-that-promises-normwise"][0]
    for seed in SEEDS:
        assert "outside the normwise bound" in examine(wrong, Conv2d.parse(text), seed).why


def test_failure_says_how_to_repeat_it():
    kernel, p = WRONG["zeros"][0], PROBLEMS[0]
    with pytest.raises(pytest.fail.Exception) as failure:
        trial.expect(examine(kernel, p, 1), kernel.name, p, 1)
    lines = str(failure.value).splitlines()
    assert lines[-1] == f"repeat: python -m benchmarks check zeros --problems {p} --seed 1"
    assert "outputs not exact on integer data; worst at [" in lines[0]


def test_what_a_kernel_raises_is_raised():
    def plan(p):
        raise ZeroDivisionError("in plan")

    with pytest.raises(ZeroDivisionError, match="in plan"):
        examine(HONEST.__class__("raises", plan), PROBLEMS[0])


# --- the options of the suite ------------------------------------------------------------------------


def suite(*options: str) -> subprocess.CompletedProcess:
    """The suite's own test of one problem, in a process of its own."""
    tests = Path(__file__).with_name("test_kernels.py")
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            str(tests),
            "-k",
            "test_listed_problem and plain",
            *options,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tests.parent.parent,
    )


def test_required_backend_that_is_missing_is_a_failure():
    missing = [name for name, backend in BACKENDS.items() if backend.why_not()]
    if not missing:
        pytest.skip("has every backend")
    only = ("--kernels", f"{missing[0]}/*")
    assert suite(*only).returncode == 0
    done = suite(*only, "--require", f"numpy,{missing[0]}")
    assert done.returncode == 1 and "passed" not in done.stdout
    reason = BACKENDS[missing[0]].why_not()
    assert f"--require {missing[0]}: {missing[0]}/" in done.stdout and reason in done.stdout


def test_required_backend_that_does_not_exist_is_refused():
    done = suite("--require", "numpy,gpu")
    assert done.returncode == 4
    assert "--require must name backends (python, numpy, " in done.stderr and "got gpu" in done.stderr
