"""What a kill, a full disk, a second run and an impossible time cost: never a finished cell."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import compare, plausibility, record, roofline
from benchmarks.problems import resolve
from benchmarks.stopwatch import Effort
from convzoo import Conv2d

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")

ARGUMENTS = ("compare", "--kernels", "numpy/shifted", "numpy/windows", "--problems", "tiny", "--rounds", "3", "-q")


def begin(root, *arguments):
    environment = os.environ | {"PYTHONPATH": f"{root / 'kernels'}{os.pathsep}{root}"}
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def rounds(path):
    return {c: x.get("seconds") for c, x in _rounds(record.read(path)).items()}


def workers_of(root):
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().decode().split("\0")
            if "benchmarks.worker" in command and os.readlink(entry / "cwd") == str(root):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def none_left(root):
    """Whether no worker is left, which one that has just been started needs a moment for."""
    ends = time.monotonic() + 10
    while workers_of(root) and time.monotonic() < ends:
        time.sleep(0.05)
    return not workers_of(root)


@pytest.mark.parametrize("seed", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in (1, 2))])
def test_killed_at_any_moment_and_resumed(clean_tree, tmp_path, seed):
    """SIGKILL of the coordinator: every line that was written stays, no worker lives on, resume finishes."""
    rng = random.Random(seed)
    process = begin(clean_tree, *ARGUMENTS, "--records", str(tmp_path))
    deadline = time.monotonic() + 60
    while not (found := list(tmp_path.glob("*/*.jsonl"))) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(rng.uniform(0, 2.5))
    process.kill()
    process.communicate()
    (path,) = found
    before = rounds(path)
    if sys.platform == "linux":
        assert none_left(clean_tree), "a worker outlived its coordinator"
    done = begin(clean_tree, "compare", "--resume", str(path), "--json")
    out, err = done.communicate(timeout=120)
    assert done.returncode == 0, err
    after = rounds(path)
    assert before.items() <= after.items(), "a finished cell was lost or measured again"
    assert len(after) == 2 * 2 * 3
    assert {c["rounds"] for c in json.loads(out)["cells"]} == {3}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
def test_many_kills_at_random_moments(clean_tree, tmp_path, request):
    """SIGKILL of the coordinator loses what was in flight, and resume measures it; of a worker, one cell."""
    rng, path, finished = random.Random(), None, 0
    killed = {"coordinator": 0, "worker": 0}
    while sum(killed.values()) < request.config.getoption("--kills"):
        before, known = rounds(path) if path else {}, set(tmp_path.glob("*/*.jsonl"))
        if path:
            process = begin(clean_tree, "compare", "--resume", str(path), "-q")
        else:
            process = begin(clean_tree, *ARGUMENTS, "--records", str(tmp_path))
        while path is None and process.poll() is None:
            path = next(iter(set(tmp_path.glob("*/*.jsonl")) - known), None)
        time.sleep(rng.uniform(0, 4.0))
        workers, alive = workers_of(clean_tree), process.poll() is None
        victim = rng.choice(("coordinator", "worker")) if workers else "coordinator"
        if alive and victim == "worker":
            os.kill(rng.choice(workers), signal.SIGKILL)
        elif alive:
            process.kill()
        _, said = process.communicate(timeout=120)
        killed[victim] += alive
        assert "Traceback" not in said, said
        if not path.stat().st_size:
            path = None  # killed before the first line: nothing was finished
            continue
        lines, after = list(record.read(path)), rounds(path)
        assert before.items() <= after.items(), "a finished cell was lost or measured again"
        lost = {c[:2] for c, line in _rounds(lines).items() if line["status"] != "ok"}
        if alive and victim == "coordinator":
            assert none_left(clean_tree), "a worker outlived its coordinator"
            assert not lost
            continue
        assert lines[-1]["kind"] == "end" and len(lost) <= (victim == "worker")
        assert len({c for c in after if c[:2] not in lost}) == (4 - len(lost)) * 3
        path, finished = None, finished + 1
    print(f"killed {killed}; {finished} records finished")


def _rounds(lines):
    return {(x["kernel"], x["problem"], x["round"]): x for x in lines if x["kind"] == "round"}


def test_killed_worker_costs_one_cell(tmp_path, monkeypatch):
    cells = [compare.Cell("numpy/shifted", x, "packed") for x in resolve(["tiny"])]
    log = record.Record(tmp_path / "r.jsonl", {"suite": 1})
    preset = compare.Preset(Effort(0.001, 0.0, 0.01, 3, 5), (1, 1), 60)
    sweep = compare.Sweep(cells, preset, 1, 0, log, timeout=20)
    ask = compare.Worker.ask

    def kill_first(worker, request, timeout):
        if not killed:
            killed.append(worker._process.pid)
            os.kill(worker._process.pid, signal.SIGKILL)
        return ask(worker, request, timeout)

    killed: list[int] = []
    monkeypatch.setattr(compare.Worker, "ask", kill_first)
    sweep.run()
    log.close()
    assert sorted(c.status for c in cells) == ["crashed", "ok"]


def test_changed_tree_is_not_resumed(clean_tree, tmp_path):
    done = begin(clean_tree, *ARGUMENTS, "--records", str(tmp_path))
    done.communicate(timeout=120)
    (path,) = tmp_path.glob("*/*.jsonl")
    other = clean_tree / "kernels" / "convzoo" / "numpy" / "new.py"
    other.write_text('"""New."""\n')
    try:
        refused = begin(clean_tree, "compare", "--resume", str(path))
        _, err = refused.communicate(timeout=60)
    finally:
        other.unlink()
    assert refused.returncode == 3 and "begin a new record" in err


def test_record_without_a_whole_line_is_refused_in_one_sentence(clean_tree, tmp_path):
    for text in ("", '{"schema": "convzoo.rec'):
        (tmp_path / "r.jsonl").write_text(text)
        refused = begin(clean_tree, "compare", "--resume", str(tmp_path / "r.jsonl"))
        _, err = refused.communicate(timeout=60)
        assert refused.returncode == 3 and "holds no run: begin a new record" in err, err


def test_two_runs_cannot_write_one_record(tmp_path):
    log = record.Record(tmp_path / "r.jsonl", {"suite": 1})
    with pytest.raises(record.Busy, match="another run is writing it"):
        record.Record(tmp_path / "r.jsonl")
    log.close()
    record.Record(tmp_path / "r.jsonl").close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which always is")
def test_full_disk_is_one_sentence(clean_tree, tmp_path):
    (tmp_path / "box").mkdir()
    code = (
        "from benchmarks import record\n"
        "record.new_path = lambda *a: __import__('pathlib').Path('/dev/full')\n"
        "opened = record.Path.open\n"
        "record.Path.open = lambda self, mode='r', **k: opened(self, 'w' if mode == 'x' else mode, **k)\n"
        f"import sys\nfrom benchmarks.__main__ import main\nsys.exit(main({list(ARGUMENTS)!r}))"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'kernels'}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "No space left on device" in done.stderr and "Traceback" not in done.stderr


CEILINGS = {
    "fma_gflops_per_s": {"2": {"float32": 500.0, "float64": 250.0}},
    "read_gb_per_s": {"2": {"L1": 1000.0, "DRAM": 50.0}},
}


@pytest.mark.parametrize(
    ("problem", "algorithm", "least"),
    [
        ("n1c64h56w56k64r3s3", "direct", 2 * 54 * 54 * 64 * 64 * 9 / 500e9),
        ("n1c64h56w56k64r3s3", "winograd", 2 * 54 * 54 * 64 * 64 * 9 / 500e9 / (36 * 9 / 64)),
        ("n1c1h1000w1000k1r1s1", "direct", 4 * (2_000_000 + 2) / 1000e9),
        ("n1c64h56w56k64r3s3-f64", "gemm", 2 * 54 * 54 * 64 * 64 * 9 / 250e9),
    ],
)
def test_floor_is_the_larger_of_arithmetic_and_bytes(problem, algorithm, least):
    p = Conv2d.parse(problem)
    seconds, _ = plausibility.floor_seconds(p, algorithm, CEILINGS, 2)
    assert seconds == pytest.approx(least, rel=1e-3)
    for share in (1.0, 0.6):  # a neighbour on the host may have held the ceiling down
        assert plausibility.mistrust(share * least, p, algorithm, CEILINGS, 2) is None
    assert "faster than" in plausibility.mistrust(least / 3, p, algorithm, CEILINGS, 2)


def test_useful_flops_leaves_out_the_padding():
    assert roofline.useful_flops(Conv2d.parse("n1c1h3w3k1r3s3-p1")) == 2 * 7 * 7
    p = Conv2d.parse("n2c4h9w8k6r3s2-st2x3-p1_2_0_3-d2x1-g2")
    assert roofline.useful_flops(p) < p.flops


def test_impossible_time_is_mistrusted_and_has_no_time(tmp_path, monkeypatch):
    """Ceilings that are far too low stand in for a kernel that is far too quick."""
    low = {"fma_gflops_per_s": {"1": {"float32": 1e-6}}, "read_gb_per_s": {"1": {"L1": 1e-6}}}
    monkeypatch.setattr(compare.ceilings, "measure", lambda threads: low)
    cells = [compare.Cell("numpy/shifted", x, "packed") for x in resolve(["tiny/square"])]
    log = record.Record(tmp_path / "r.jsonl", {"suite": 1})
    preset = compare.Preset(Effort(0.001, 0.0, 0.01, 3, 5), (1, 1), 60)
    sweep = compare.Sweep(cells, preset, 1, 0, log, timeout=20, ceilings=low)
    sweep.run()
    lines = sweep.summarize(None)
    log.close()
    assert cells[0].status == "mistrusted" and "faster than" in cells[0].why
    assert "seconds" not in lines[0]


def test_ceilings_that_take_too_long_are_one_sentence(monkeypatch, capsys, tmp_path):
    from benchmarks import __main__ as command
    from benchmarks import ceilings

    monkeypatch.setattr(ceilings, "LIMIT", 0.01)
    with pytest.raises(SystemExit) as ended:
        command.main(["machine", "--out", str(tmp_path)])
    assert ended.value.code == 2
    assert "could not be measured within 0.01 s" in capsys.readouterr().err


def test_cell_without_end_of_memory_is_crashed(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVZOO_MEMORY_LIMIT", str(2**29))
    cells = [compare.Cell("numpy/im2col", x, "packed") for x in resolve(["n1c64h512w512k8r7s7"])]
    log = record.Record(tmp_path / "r.jsonl", {"suite": 1})
    preset = compare.Preset(Effort(0.001, 0.0, 0.01, 3, 5), (1, 1), 60)
    compare.Sweep(cells, preset, 1, 0, log, timeout=60).run()
    log.close()
    assert cells[0].status == "crashed" and "0.5 GiB that a worker may use" in cells[0].why


# --- kernels that reach for what is not theirs -------------------------------------------------------


def ended(tmp_path, body, problem="n1c4h12w12k4r3s3-p1", also=(), timeout=20):
    """Cells of a kernel with this run, and then of ``also``, one worker for all."""
    source = (
        '"""Planted."""\nimport mmap, os, sys\nimport numpy as np\nfrom convzoo.catalog import load\n'
        "from convzoo.plan import Plan\ncalls = [0]\n\n\ndef plan(p):\n"
        "    honest = load('numpy/shifted').plan(p)\n\n    def run(x, weights):\n"
        f"        calls[0] += 1\n        {body}\n        return honest.run(x, weights)\n\n"
        "    return Plan(run, pack=honest.pack)\n"
    )
    (tmp_path / "planted.py").write_text(source)
    layers = resolve([problem])
    cells = [compare.Cell("numpy/planted", layers[0], "packed", path=str(tmp_path / "planted.py"))]
    cells += [compare.Cell(name, layers[0], "packed") for name in also]
    log = record.Record(tmp_path / "r.jsonl", {"suite": 1})
    preset = compare.Preset(Effort(0.001, 0.0, 0.01, 3, 5), (1, 1), 60)
    compare.Sweep(cells, preset, 1, 0, log, timeout=timeout).run()
    log.close()
    return cells


def test_forged_answer_is_no_answer(tmp_path):
    """What comes before its time, or is not JSON, ends the worker and costs the cell."""
    forged = 'for fd in range(3, 30):\n            try: os.write(fd, b\'{"status": "ok"}\\n\')\n'
    forged += "            except OSError: pass"
    cells = ended(tmp_path, f"if calls[0] == 2:\n          {forged}", also=["numpy/windows"])
    assert [c.status for c in cells] == ["crashed", "ok"] and "unreadable" in cells[0].why


def test_answer_of_a_forked_copy_is_nobodys(tmp_path):
    """Both processes go on; only one of them answers, and the next cell gets its own answer."""
    cells = ended(tmp_path, "calls[0] == 9 and os.fork()", also=["numpy/windows", "numpy/im2col"])
    assert cells[0].status in ("ok", "mistrusted")
    assert [c.status for c in cells[1:]] == ["ok", "ok"]
    assert not [c for c in cells[1:] if c.rounds[0]["error"] == cells[0].rounds[0].get("error")]


def test_input_of_the_worker_is_not_the_kernels(tmp_path):
    cells = ended(tmp_path, "sys.stdin.readline()", also=["numpy/windows"])
    assert [c.status for c in cells] == ["ok", "ok"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_shared_memory_without_end_is_crashed(tmp_path, monkeypatch):
    """The limit that the system keeps counts private memory only."""
    monkeypatch.setenv("CONVZOO_MEMORY_LIMIT", str(2**29))
    body = "kept = [mmap.mmap(-1, 2**26) for _ in range(20)]\n        [m.write(b'x' * 2**26) for m in kept]"
    (cell,) = ended(tmp_path, body + "\n        __import__('time').sleep(5)")
    assert cell.status == "crashed" and "0.5 GiB that a worker may use" in cell.why


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_leaves_the_workers_group_ends_with_it(tmp_path):
    mark = f"3.14159{os.getpid()}"  # another run of this test may be under way
    body = f"calls[0] == 1 and __import__('subprocess').Popen(['sleep', '{mark}'], start_new_session=True)"
    ended(tmp_path, body)
    commands = [path.read_bytes() for path in _readable(Path("/proc").glob("[0-9]*/cmdline"))]
    assert not [c for c in commands if mark.encode() in c]


def _readable(paths):
    for path in paths:
        try:
            path.read_bytes()
        except OSError:
            continue
        yield path
