"""The coordinator and its statistics: what a worker that crashes, hangs, lies or skips costs."""

import itertools
import json
import math
import random
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import compare, evidence, processes, record, summary
from benchmarks.problems import resolve
from benchmarks.stopwatch import Effort

ROOT = Path(__file__).resolve().parent.parent
QUICK = compare.Preset(Effort(0.0005, 0.001, 0.005, 3, 5), (2, 2), 60)


def ask(*arguments, **environment):
    import os

    command = [sys.executable, "-m", "benchmarks", *arguments]
    env = os.environ | {"PYTHONPATH": f"{ROOT / 'kernels'}{os.pathsep}{ROOT}"} | environment
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)


def test_interval_has_the_confidence_it_states():
    """Simulated: the interval holds the true median as often as it says, for a skewed distribution."""
    rng = random.Random(1)
    for n in (3, 6, 9, 15):
        held, stated = 0, 0.0
        for _ in range(2000):
            values = [math.exp(rng.gauss(0, 1)) for _ in range(n)]
            low, high, stated = evidence.interval(values)
            held += low <= 1 <= high
        assert held / 2000 == pytest.approx(stated, abs=0.03)
        if n >= 6:
            assert stated >= 0.95


def test_interval_of_few_rounds_is_their_range():
    assert evidence.interval([3.0, 1.0, 2.0]) == (1.0, 3.0, 0.75)
    assert evidence.interval([5.0]) == (5.0, 5.0, 0.0)


@pytest.fixture
def kernels(tmp_path, monkeypatch):
    """A tree of its own whose numpy folder holds kernels that misbehave in every way."""
    root = tmp_path / "tree"
    for name in ("kernels", "benchmarks"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-r", str(ROOT / name), str(root / name)], check=True)
    folder = root / "kernels" / "convzoo" / "numpy"
    head = '"""Planted."""\nimport os, signal, time\nimport numpy as np\nfrom convzoo.plan import Plan, Unsupported\n'
    bodies = {
        "dies": "os.kill(os.getpid(), signal.SIGKILL)",
        "hangs": "time.sleep(60)",
        "raises": "raise RuntimeError('planted')",
        "zeros": "return np.zeros(p.y_shape, x.dtype)",
    }
    for name, body in bodies.items():
        code = f"def plan(p):\n    def run(x, weights):\n        {body}\n    return Plan(run)\n"
        (folder / f"{name}.py").write_text(head + code)
    (folder / "picky.py").write_text(head + "def plan(p):\n    raise Unsupported('needs a full moon')\n")
    # right in the verdict, wrong once it is being timed: only the verdict on timed outputs sees it
    drift = textwrap.dedent("""
        from convzoo.reference import oracle
        def plan(p):
            calls = [0]
            def run(x, weights):
                calls[0] += 1
                y = oracle(p, x, *weights).astype(x.dtype)
                return y if calls[0] <= 12 else y + 1
            return Plan(run)
    """)
    (folder / "drifts.py").write_text(head + drift)
    monkeypatch.setattr(processes, "ROOT", root)
    return root


open_logs: list = []


@pytest.fixture(autouse=True)
def closed_logs():
    yield
    while open_logs:
        open_logs.pop().close()


def sweep(tmp_path, names, problems=("tiny/square",), timeout=5.0, preset=QUICK):
    log = record.Record(tmp_path / "r.jsonl", {"suite": 1, "machine": "test"})
    cells = [compare.Cell(k, layer, "packed") for k in names for layer in resolve(list(problems))]
    run = compare.Sweep(cells, preset, 1, 0, log, timeout=timeout)
    run.run()
    open_logs.append(log)
    return run, {(c.kernel, str(c.layer.name)): c for c in cells}


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
def test_each_fault_costs_one_cell_and_has_its_status(kernels, tmp_path):
    names = [f"numpy/{n}" for n in ("dies", "hangs", "raises", "zeros", "picky", "drifts", "shifted")]
    run, cells = sweep(tmp_path, names, timeout=4.0)
    status = {kernel.partition("/")[2]: cell.status for (kernel, _), cell in cells.items()}
    assert status == {
        "dies": "crashed",
        "hangs": "timeout",
        "raises": "crashed",
        "zeros": "wrong",
        "picky": "unsupported",
        "drifts": "wrong",
        "shifted": "ok",
    }
    why = {kernel.partition("/")[2]: cell.why for (kernel, _), cell in cells.items()}
    assert "signal 9" in why["dies"] and "planted" in why["raises"] and "full moon" in why["picky"]
    assert "the timed output is wrong" in why["drifts"]
    assert "python -m benchmarks check numpy/zeros" in why["zeros"]
    lines = run.summarize("numpy/shifted")
    timed = [x["kernel"] for x in lines if "seconds" in x]
    assert timed == ["numpy/shifted"], "only a cell that is ok may have a time"


class Halved:
    """A pulse of a host that gives half for the first ``looks`` questions."""

    def __init__(self, looks):
        self.looks, self.closed = looks, False

    def share(self):
        self.looks -= 1
        return 0.5 if self.looks >= 0 else 1.0

    def close(self):
        self.closed = True


def test_a_host_that_stays_busy_is_tried_once_until_it_gives_all_again(tmp_path, monkeypatch):
    asks, answer = [], processes.Worker.ask

    def ask(worker, request, timeout):
        asks.append("effort" in request)
        return answer(worker, request, timeout)

    monkeypatch.setattr(processes.Worker, "ask", ask)
    monkeypatch.setattr(compare, "PATIENCE", 0)
    log = record.Record(tmp_path / "r.jsonl", {"suite": 1})
    open_logs.append(log)
    timed = []
    for looks in (2 * compare.TRIES * compare.BUSY + 2, 99):  # the fifth cell of the first finds it steady
        monkeypatch.setattr(compare.ceilings, "Pulse", lambda threads, known, n=looks: Halved(n))
        cells = [compare.Cell("numpy/shifted", x, "packed") for x in resolve(["resnet50"])[:5]]
        run = compare.Sweep(cells, replace(QUICK, rounds=(1, 1)), 1, 0, log, watch=True)
        asks.clear()
        run.run()
        assert all(cell.status == "ok" for cell in cells)
        timed.append((sum(asks), run.unsteady))
    assert timed == [(3 * compare.TRIES + 2, 0), (3 * compare.TRIES + 2, 5)]


@pytest.mark.parametrize(
    "patience, looks, timed, share", [(0, 0, 1, 1.0), (0, 3, 3, 1.0), (0, 99, 4, 0.5), (60, 3, 1, 1.0)]
)
def test_cell_is_timed_again_where_the_host_gave_less(tmp_path, monkeypatch, patience, looks, timed, share):
    """When the host gives all again, but not for ever; the record says what the time was measured with.

    Only the timing is repeated: the kernel is planned once a round, and looked at once, in the first.
    """
    pulse, asks = Halved(looks), []
    answer = processes.Worker.ask

    def ask(worker, request, timeout):
        reply = answer(worker, request, timeout)
        asks.append((request["again"], "effort" in request, bool(reply["fingerprint"])))
        return reply

    monkeypatch.setattr(processes.Worker, "ask", ask)
    monkeypatch.setattr(compare.ceilings, "Pulse", lambda threads, known: pulse)
    monkeypatch.setattr(compare, "PATIENCE", patience)
    log = record.Record(tmp_path / "r.jsonl", {"suite": 1})
    open_logs.append(log)
    cells = [compare.Cell("numpy/shifted", x, "packed") for x in resolve(["tiny/square"])]
    run = compare.Sweep(cells, replace(QUICK, rounds=(2, 2)), 1, 0, log, watch=True)
    run.run()
    planned, timing, looked = (False, True, False), (True, True, False), (True, False, True)
    first = [planned, *[timing] * (timed - 1), looked]
    later = [planned, *[timing] * (timed - 1 if timed == 4 else 0)]
    assert asks == first + later and pulse.closed
    assert cells[0].rounds[0]["host_share"] == run.summarize(None)[0]["host_share"] == share
    assert cells[0].rounds[0]["fingerprint"] and cells[0].rounds[0]["error"] and cells[0].rounds[0]["seconds"]


def test_a_burst_of_the_pulse_is_long_although_one_call_was_slow(monkeypatch):
    """A burst of microseconds measures how fast threads wake up: every cell would be told the host is busy."""
    clock, slow = [0.0], [0.01]  # seconds; the first call that is timed meets a busy moment
    monkeypatch.setattr(compare.ceilings, "perf_counter", lambda: clock[0])

    def call(n: int) -> None:
        clock[0] += n * 1e-9 + (slow.pop() if calls and slow else 0)
        calls.append(n)

    calls: list[int] = []
    assert compare.ceilings._a_millisecond(call) >= 1_000_000


def test_a_burst_of_the_pulse_is_a_millisecond_of_what_is_known(monkeypatch):
    """Whatever else is running when it begins: the machine at its best takes that long for it."""
    import io

    bursts: list[int] = []
    monkeypatch.setattr(compare.ceilings, "_fma_loop", lambda dtype: (lambda n, out: bursts.append(n), 384))
    monkeypatch.setattr(compare.ceilings, "_round_trips", lambda threads: lambda: 10.0)
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    compare.ceilings._pulse(2, 235.4)
    assert bursts[-1] * 384 * 2 / 235.4e9 == pytest.approx(1e-3, rel=0.01)


def test_pulse_sees_threads_that_no_longer_share_a_cache():
    """All arithmetic was there, and engines took twice their time: a record was made of such times."""
    pulse = compare.ceilings.Pulse(2, 235.0)
    try:
        assert [pulse.of(233.0, 10.0), pulse.of(230.0, 9.0)] == [233 / 235, 230 / 235]
        assert pulse.of(234.0, 5.0) == 0.5, "two cores of two caches"
        assert pulse.of(117.5, 20.0) == 0.5, "the halves of one core hand over fast"
        assert pulse.of(235.0, 10.0) == 1.0, "and do not become what is usual"
        assert pulse.of(200.0, 0.0) == 200 / 235, "one thread hands nothing over"
    finally:
        pulse.close()


@pytest.mark.alone
def test_flag_goes_round_only_where_all_threads_run():
    numba = pytest.importorskip("numba", reason="needs numba: pip install numba")
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("needs two threads to hand something over")
    rate, before = compare.ceilings._round_trips(2), numba.get_num_threads()
    try:
        numba.set_num_threads(2)  # whatever another test has left
        tries = (rate() > 0 for _ in range(500))
        assert any(tries), "a busy machine may have no two processors at once"
        numba.set_num_threads(1)
        assert rate() == 0
    finally:
        numba.set_num_threads(before)


def test_pulse_tells_how_much_of_the_best_there_is_and_survives_its_process():
    pytest.importorskip("numba", reason="needs numba: pip install numba")
    pulse = compare.ceilings.Pulse(1)
    try:
        assert 0 < pulse.share() <= 1
        pulse.best *= 4
        assert pulse.share() < 0.5
        pulse._process.kill()
        pulse._process.wait()
        assert pulse.share() == 1.0
    finally:
        pulse.close()


def test_record_keeps_every_round_and_reads_back(tmp_path):
    run, _ = sweep(tmp_path, ["numpy/shifted", "numpy/windows"], ("tiny",))
    lines = run.summarize("numpy/shifted")
    run.record.add({"kind": "end", "status": "complete"})
    run.record.close()
    kept = list(record.read(tmp_path / "r.jsonl"))
    kinds = [line["kind"] for line in kept]
    assert kinds[0] == "run" and kinds[-1] == "end"
    assert kinds.count("round") == 2 * 2 * 2 and kinds.count("cell") == len(lines) == 4
    baseline = [x for x in lines if x["kernel"] == "numpy/shifted"]
    assert all(x["vs_baseline"] == 1 for x in baseline)


def test_what_a_record_says_of_a_cell_is_what_its_rounds_say_as_recorded(tmp_path):
    """A reader who computes it again gets every digit: nothing was computed from digits that are lost."""
    run, _ = sweep(tmp_path, ["numpy/shifted", "numpy/windows"], ("tiny",))
    run.summarize("numpy/shifted")
    run.record.close()
    kept = list(record.read(tmp_path / "r.jsonl"))
    fresh = {tuple(c.key.values()): replace(c, rounds={}) for c in run.cells}
    for line in kept:
        if line["kind"] == "round":
            fresh[line["kernel"], line["problem"], line["scenario"]].rounds[line["round"]] = line
    for line in kept:
        if line["kind"] == "cell":
            cell = fresh[line["kernel"], line["problem"], line["scenario"]]
            rival = fresh["numpy/shifted", line["problem"], line["scenario"]]
            again = record.short(summary.summary(cell) | summary.speed(rival, cell, "vs_baseline"))
            assert again == {k: v for k, v in line.items() if k not in ("kind", "baseline")}


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (0.00123456789, 0.00123457),
        (123456.789, 123457.0),
        (9.9999996, 10.0),
        (-1 / 3, -0.333333),
        (1.5e-300, 1.5e-300),
        (0.0, 0.0),
        (2**60 + 1, 2**60 + 1),
        (True, True),
        (None, None),
        ("0.123456789",) * 2,
        ({"a": [1 / 3, (2 / 3,)], "n": 1234567890}, {"a": [0.333333, [0.666667]], "n": 1234567890}),
    ],
)
def test_a_record_keeps_six_digits_of_floats_alone(value, kept):
    short = record.short(value)
    assert short == kept and type(short) is type(kept)
    assert record.short(short) == short


def test_a_round_goes_problem_by_problem_in_an_order_of_its_own(tmp_path):
    problems = [layer.problem for layer in resolve(["resnet50"])]
    cells = [
        compare.Cell(f"numpy/k{k}", compare.Layer(f"l{i}", p), scenario)
        for k in range(5)
        for i, p in enumerate(problems)
        for scenario in ("packed", "eager")
    ]
    run = compare.Sweep(cells, QUICK, 1, 7, None)
    orders = [run._shuffled(i, cells) for i in range(3)]
    for order in orders:
        assert sorted(map(id, order)) == sorted(map(id, cells))  # each once
        blocks = [problem for problem, _ in itertools.groupby(c.layer.problem for c in order)]
        assert len(blocks) == len(problems)  # one block a problem, of all its kernels and scenarios
    for what in ("problems", "kernels of the first problem"):
        seen = {
            tuple(dict.fromkeys(c.layer.problem for c in order))
            if what == "problems"
            else tuple((c.kernel, c.scenario) for c in order if c.layer.problem == problems[0])
            for order in orders
        }
        assert len(seen) == 3, f"the {what} come in another order each round"
    assert run._shuffled(1, cells) == orders[1]  # a resumed run goes on as it began


def test_rounds_differ_in_order_and_data(tmp_path):
    run, _ = sweep(tmp_path, ["numpy/shifted", "numpy/windows", "numpy/im2col"], ("tiny",))
    run.record.close()
    rounds = [x for x in record.read(tmp_path / "r.jsonl") if x["kind"] == "round"]
    orders = [[(x["kernel"], x["problem"]) for x in rounds if x["round"] == i] for i in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) and orders[0] != orders[1]
    errors = {(x["kernel"], x["problem"], x["round"]): x["error"]["max_error"] for x in rounds}
    cell = ("numpy/shifted", rounds[0]["problem"])
    assert errors[(*cell, 0)] != errors[(*cell, 1)], "fresh data each round gives another error"


def test_truncated_record_loses_only_its_last_line(tmp_path):
    path = tmp_path / "r.jsonl"
    log = record.Record(path, {"machine": "test"})
    log.add({"kind": "round", "round": 0})
    log.close()
    path.write_text(path.read_text() + '{"kind": "rou')
    assert [x["kind"] for x in record.read(path)] == ["run", "round"]
    path.write_text('{"schema": "convzoo.record/99", "kind": "run"}\n')
    with pytest.raises(ValueError, match=r"schema must be convzoo\.record/1, got 'convzoo\.record/99'"):
        list(record.read(path))


def test_command_line_exit_codes_and_json(tmp_path):
    done = ask(
        "compare",
        "--kernels",
        "numpy/shifted",
        "numpy/windows",
        "--problems",
        "tiny/square",
        "--rounds",
        "2",
        "--records",
        str(tmp_path),
        "--baseline",
        "numpy/windows",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == "convzoo.compare/1"
    end = list(record.read(Path(document["record"])))[-1]
    assert end["import_seconds"].keys() == {"numpy"} and end["import_seconds"]["numpy"] > 0
    assert {c["kernel"] for c in document["cells"]} == {"numpy/shifted", "numpy/windows"}
    assert "elementwise" in document["sentence"] and Path(document["record"]).is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["compare", "--kernels", "nmpy/shifted"], 3, "did you mean numpy/shifted"),
        (["compare", "--problems", "resnet5"], 3, "did you mean resnet50"),
        (["compare", "--frobnicate"], 3, "unrecognized"),
        (["check", "numpy/shifted", "--problems", "tiny"], 0, ""),
        (["check", "torch_mps/builtin", "--problems", "tiny"], 2, ""),
        (["list", "--json"], 0, ""),
    ],
)
def test_exit_codes(arguments, code, says):
    if arguments[1] == "torch_mps/builtin" and sys.platform == "darwin":
        pytest.skip("this machine may have an MPS device; the case needs one without")
    done = ask(*arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert says in done.stderr


def test_plain_output_has_no_colour_codes(tmp_path):
    done = ask("check", "numpy/shifted", "--problems", "tiny", NO_COLOR="1")
    assert "\x1b" not in done.stdout + done.stderr


def test_problem_sets_parse_and_are_unique():
    from benchmarks.problems import ASV_GRID, PRESETS, SETS

    for words in itertools.chain(([name] for name in SETS), PRESETS.values(), [ASV_GRID]):
        layers = resolve(list(words))
        assert layers and len({x.problem for x in layers}) == len(layers)
    total = sum(x.problem.flops * x.count for x in resolve(["resnet50"]))
    assert total == pytest.approx(7.712e9, rel=1e-3)  # the published sum over its 53 convolutions
    assert [x.problem.N for x in resolve(["resnet50/conv1"], batch=16)] == [16]


def test_record_carries_the_networks_it_holds():
    from benchmarks.problems import networks_in

    found = networks_in(resolve(["tiny", "resnet50", "vgg16/conv1_1"], batch=8))
    assert list(found) == ["resnet50"]  # one layer of a network is no network
    assert sum(count for *_, count in found["resnet50"]) == 53
    assert all(problem.startswith("n8c") for _, problem, _ in found["resnet50"])
