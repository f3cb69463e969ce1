"""What ``make gpu`` would do, without a GPU: the steps, the budget, and going on where it stopped."""

import json

from benchmarks.verbs import gpu


def names(out):
    return [json.loads(line) for line in (out / "steps.jsonl").read_text().splitlines()]


def test_steps_fail_on_skips_and_name_the_three_gpu_backends(tmp_path):
    found = {s.name: s for s in gpu.steps(tmp_path, "/bin/compute-sanitizer")}
    tests = found["tests"].command
    assert tests[tests.index("--require") + 1] == "numba_cuda,cupy,torch_cuda"
    assert found["memcheck"].command[0] == "/bin/compute-sanitizer" and found["memcheck"].why_not is None
    assert gpu.steps(tmp_path, None)[2].why_not == "compute-sanitizer is not on the PATH"
    for step in ("layers", "resnet50", "host"):
        assert str(tmp_path / "records") in found[step].command


def test_second_call_repeats_only_what_failed(tmp_path):
    ran = []

    def execute(step, seconds):
        ran.append(step.name)
        return 1 if step.name == "layers" and ran.count("layers") == 1 else 0

    assert gpu.run(tmp_path, 500, execute, clock=lambda: 0.0) == 1
    first = list(ran)
    assert gpu.run(tmp_path, 500, execute, clock=lambda: 0.0) == 0
    assert ran[len(first) :] == ["layers"]


def test_budget_ends_the_session_and_is_noted(tmp_path):
    now = [0.0]
    limits = []

    def execute(step, seconds):
        limits.append(seconds)
        now[0] += seconds
        return 0

    gpu.run(tmp_path, 100, execute, clock=lambda: now[0])
    assert now[0] <= 100 and limits[0] == 60 and limits[1] == 40
    left_out = [n for n in names(tmp_path) if n["code"] is None]
    assert any("call again to go on" in n["why"] for n in left_out)


def test_a_command_that_overruns_is_ended(tmp_path, monkeypatch):
    step = gpu.Step("sleeps", ["sleep", "30"], 30)
    assert gpu._execute(step, 0.2, tmp_path) == 124
