"""Start-up costs add up and pay off when they should; the null experiment sees noise and nothing else."""

import random

import pytest

from benchmarks import null
from benchmarks.evidence import interval
from benchmarks.verbs import cost


def line(kernel, start, run):
    steps = dict.fromkeys(cost.STEPS, 0.0) | {"plan": start}
    return {"kernel": kernel, "status": "ok", "run": run, "cold": steps, "warm": steps}


def test_break_even_counts_everything():
    slow, quick = line("a", 0.1, 1e-3), line("b", 1.1, 5e-4)
    calls = cost.break_even(slow, quick, "cold")
    assert calls == 2000
    assert 0.1 + calls * 1e-3 >= 1.1 + calls * 5e-4
    assert cost.break_even(slow, line("c", 1.0, 2e-3), "cold") is None, "slower to start and to run"
    assert cost.break_even(slow, line("d", 0.05, 5e-4), "cold") == 0, "ahead from the start"


def test_pay_offs_name_only_kernels_that_are_best_at_some_count():
    lines = [line("a", 0.1, 1e-3), line("useless", 0.5, 2e-3), line("b", 1.1, 5e-4)]
    assert cost.pay_offs(lines, "warm") == [("a", "b", 2000)]


def test_ladder_of_a_real_kernel():
    found = cost.ladder("numpy/shifted", "n1c4h12w12k4r3s3-p1", 1, 60)
    assert found["status"] == "ok"
    assert all(found["warm"][step] > 0 for step in cost.STEPS)
    refused = cost.ladder("python/naive", "n1c64h56w56k64r3s3-p1", 1, 60)
    assert refused["status"] == "unsupported" and "slow by design" in refused["why"]


def twins(rng, offset, rounds=8):
    pairs = []
    for _ in range(200):
        values = [offset * rng.lognormvariate(0, 0.01) / rng.lognormvariate(0, 0.01) for _ in range(rounds)]
        low, high, confidence = interval(values)
        pairs.append({"low": low, "high": high, "confidence": confidence, "alarm": not low <= 1 <= high})
    return null.summary(pairs, rounds, 2)


def test_noise_alone_gives_the_expected_rate_of_alarms():
    found = twins(random.Random(3), 1.0)
    assert found["false_alarm_rate"] == pytest.approx(found["expected_rate"], abs=0.04)


def test_a_difference_of_the_visible_size_is_seen():
    rng = random.Random(4)
    size = twins(rng, 1.0)["smallest_visible"]
    assert twins(rng, 1 + 2 * size)["false_alarm_rate"] > 0.95


def test_twins_of_a_real_kernel():
    found = null.experiment(1, 2, None, ["numpy/shifted"], 60)
    assert found["twins"] == len(null.PROBLEMS) and found["smallest_visible"] >= 0
