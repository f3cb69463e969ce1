"""regress: how often it cries wolf, what it finds, and what it says; simulated, then with real processes."""

import itertools
import json
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import checkout, record, regress, significance
from benchmarks.problems import resolve
from benchmarks.regress import BASE, HEAD, Pair
from benchmarks.verbs import regress as findings

ROOT = Path(__file__).resolve().parent.parent
LAYER = resolve(["tiny/square"])[0]


# --- the statistics ----------------------------------------------------------------------------------


def enumerated_p(values):
    """The same p from its definition: every assignment of signs, counted."""
    sizes = sorted(abs(v) for v in values if v)
    ranks = [statistics.mean(i + 1 for i, s in enumerate(sizes) if s == size) for size in sizes]
    ranks = [min(rank, max(1, len(sizes) // 2)) for rank in ranks]
    told = sorted((v for v in values if v), key=abs)
    extreme = abs(sum(math.copysign(r, v) for r, v in zip(ranks, told, strict=True)))
    hits = [
        abs(sum(r * s for r, s in zip(ranks, signs, strict=True))) >= extreme - 1e-9
        for signs in itertools.product((1, -1), repeat=len(ranks))
    ]
    return sum(hits) / len(hits)


@pytest.mark.parametrize(
    "values",
    [
        [1.0, 2.0, 3.0, 4.0],
        [0.3, -0.1, 0.2, 0.5, -0.7, 0.9],
        [1.0, -1.0, 1.0, 1.0, 2.0],
        [0.0, 0.0],
        [0.0, 0.1, 0.2, -0.05],
        [-5.0] * 8,
        [1e-3, 40.0, -2.0, 7.0, 7.0, 1.0, 3.0, 2.5, -0.1],
    ],
)
def test_p_is_the_share_of_signs_at_least_as_extreme(values):
    assert significance.p_value(values) == pytest.approx(enumerated_p(values))


def test_p_is_exact_under_noise_of_any_shape():
    """P(p <= a) <= a, for symmetric noise with outliers a thousand times its width."""
    rng = random.Random(2)
    for n in (9, 14):
        found = []
        for _ in range(4000):
            wild = [rng.choice((0.01, 0.01, 0.01, 10.0)) * rng.choice((-1, 1)) * rng.random() for _ in range(n)]
            found.append(significance.p_value(wild))
        for level in (0.5, 0.1, 0.02):
            slack = 3 * math.sqrt(level / len(found))
            assert sum(p <= level for p in found) / len(found) <= level + slack


def test_hopeless_never_gives_up_what_could_still_be_found():
    """Against every completion of small cases, and the best completion of larger ones."""
    rng = random.Random(3)
    for _ in range(300):
        n = rng.randint(6, 14)
        begun = [rng.gauss(0.3, 1) for _ in range(rng.randint(0, n - 1))]
        rest = n - len(begun)
        best = min(significance.p_value(begun + [sign * (100.0 + i) for i in range(rest)]) for sign in (1, -1))
        for level in (0.001, 0.01, 0.05):
            assert significance.hopeless(begun, n, level) == (best > level)
        tries = [begun + [rng.gauss(0, 1) for _ in range(rest)] for _ in range(5)]
        assert all(significance.p_value(values) >= best - 1e-12 for values in tries)


def test_holm_counts_the_cells_that_were_no_suspects():
    """Each p counts twice, for the two looks."""
    assert significance.holm([0.001, 0.004], family=10) == [pytest.approx(0.02), pytest.approx(0.072)]
    assert significance.holm([0.02, 0.001, 0.25], family=3) == [pytest.approx(0.08), pytest.approx(0.006), 0.5]
    assert significance.holm([], family=5) == []
    assert significance.mildest_level(2, 10) == pytest.approx(0.01 / 2 / 9)


def test_interval_holds_the_truth_as_often_as_it_says_and_agrees_with_the_test():
    rng = random.Random(4)
    for n in (4, 8, 14):
        held, stated = 0, 0.0
        for _ in range(1500):
            logs = [math.log(1.1) + rng.gauss(0, 0.03) for _ in range(n)]
            e = significance.estimate(logs)
            held, stated = held + (e.low <= 1.1 <= e.high), e.confidence
            if n == 14 and significance.p_value(logs) <= 1 - stated:
                assert not e.low <= 1 <= e.high, "what the test rejects lies outside the interval"
        assert held / 1500 == pytest.approx(stated, abs=0.02)
    assert significance.estimate([0.1]).confidence == 0
    few = significance.estimate([math.log(v) for v in (1.1, 1.3, 1.2, 1.1)])
    assert (few.low, few.high, few.confidence) == (pytest.approx(1.1), pytest.approx(1.3), 0.875)
    wild = significance.estimate([0.05, 0.04, 0.06, 0.05, 0.04, 0.06, 0.05, 0.05, -9.0])
    assert 1 < wild.low <= wild.ratio <= wild.high < 1.07, "one wild round does not move the interval"


def test_rounds_suffice_for_any_number_of_cells_with_one_round_that_disagrees():
    for cells in (1, 4, 60, 400, 5000):
        n = significance.rounds_for(cells)
        agreeing = [1.0 + i for i in range(n - 1)]
        adjusted = significance.holm([significance.p_value([-0.5, *agreeing])], cells)
        assert adjusted[0] <= significance.ALPHA


# --- the procedure on a simulated machine ------------------------------------------------------------


class Machine:
    """Log seconds of one visit: the process's own luck, other programs, and a clock that drifts."""

    def __init__(self, rng, luck, interference, drift):
        self.rng, self.luck, self.interference, self.drift, self.now = rng, luck, interference, drift, 0

    def visit(self, offset):
        self.now += 1
        slow = self.rng.expovariate(1 / 0.2) if self.rng.random() < self.interference else 0.0
        return offset + self.rng.gauss(0, 0.004) + slow + self.drift * self.now

    def answers(self, effects):
        """A stand-in for one round's crew: fresh luck for each side, cell by cell."""
        luck = {}

        def ask(side, backend, request):
            key = (side, request["kernel"])
            own = luck.setdefault(key, self.rng.gauss(0, self.luck))
            effect = effects.get(request["kernel"], 0.0) if side == HEAD else 0.0
            return {"status": "ok", "q25": math.exp(-9 + effect + self.visit(own))}

        return ask


@pytest.fixture
def simulated(monkeypatch):
    def run(machine, cells, effects, seed, **options):
        class Crew:
            def __init__(self, *_):
                self.ask = machine.answers(effects)

            def close(self):
                pass

        monkeypatch.setattr(regress, "_Crew", Crew)
        pairs = [Pair(f"numpy/k{i}", LAYER, "packed") for i in range(cells)]
        one = regress.Regression(pairs, {BASE: None, HEAD: None}, 2, seed, **options)
        one.run()
        return {pair.kernel: one.verdict(pair) for pair in pairs}

    return run


# luck of a process, share of visits that another program disturbs, drift a visit
QUIET, BUSY, DRIFTING = (0.015, 0.02, 0.0), (0.02, 0.3, 0.0), (0.02, 0.1, 0.003)


@pytest.mark.parametrize(
    "kind",
    [QUIET, *(pytest.param(kind, marks=pytest.mark.slow) for kind in (BUSY, DRIFTING))],
    ids=["quiet", "busy", "drifting"],
)
def test_identical_versions_raise_an_alarm_in_at_most_one_run_of_a_hundred(simulated, kind):
    rng, runs, alarms, verdicts = random.Random(5), 1000, 0, 0
    for seed in range(runs):
        found = simulated(Machine(rng, *kind), 8, {}, seed)
        alarms += "slower" in found.values()
        verdicts += any(v != "cannot tell" for v in found.values())
    assert alarms <= runs / 100 and verdicts <= runs / 50


def test_a_slow_down_of_five_percent_is_found_in_nine_of_ten_runs_and_ten_percent_always(simulated):
    rng, runs = random.Random(6), 200
    for effect, share in ((0.05, 0.9), (0.10, 1.0)):
        hits = [simulated(Machine(rng, *QUIET), 8, {"numpy/k3": math.log1p(effect)}, seed) for seed in range(runs)]
        assert sum(found["numpy/k3"] == "slower" for found in hits) >= share * runs
    faster = simulated(Machine(rng, *QUIET), 8, {"numpy/k3": math.log(0.9)}, 0)
    assert faster["numpy/k3"] == "faster" and "slower" not in faster.values()


def test_a_change_below_the_minimum_is_no_verdict(simulated):
    effects = {f"numpy/k{i}": math.log1p(0.015) for i in range(4)}
    found = simulated(Machine(random.Random(7), 0.0, 0.0, 0.0), 4, effects, 0)
    assert set(found.values()) == {"cannot tell"}


def test_the_usual_rule_would_be_noticed(simulated, monkeypatch):
    """Teeth: at the usual 5 % for each cell, uncorrected, one run in ten or more cries wolf."""
    monkeypatch.setattr(significance, "holm", lambda p, family: list(p))
    monkeypatch.setattr(significance, "mildest_level", lambda suspects, family: 0.05)
    monkeypatch.setattr(significance, "verdict", lambda r, p, m: "slower" if p < 0.05 and r > 1 else "-")
    rng = random.Random(8)
    found = [simulated(Machine(rng, *BUSY), 20, {}, seed) for seed in range(60)]
    assert sum("slower" in each.values() for each in found) >= 6


def test_a_failure_now_and_then_costs_neither_an_alarm_nor_the_verdict(simulated):
    """Machines hang and mistrust by accident; only what fails again and again is the version's fault."""

    class Flaky(Machine):
        def answers(self, effects):
            measured = super().answers(effects)

            def ask(side, backend, request):
                if self.rng.random() < 0.03:
                    return {"status": self.rng.choice(("timeout", "mistrusted")), "why": "planted"}
                if side == HEAD and request["kernel"] == "numpy/k5":
                    return {"status": "crashed", "why": "planted"}
                return measured(side, backend, request)

            return ask

    rng, effects = random.Random(9), {"numpy/k2": math.log(1.1)}
    for seed in range(40):
        found = simulated(Flaky(rng, *QUIET), 6, effects, seed)
        assert found.pop("numpy/k5") == "newly failing" and found.pop("numpy/k2") == "slower"
        assert set(found.values()) == {"cannot tell"}


def test_sides_take_turns_by_a_coin_and_share_their_data(monkeypatch):
    asked = []

    class Crew:
        def __init__(self, *_):
            pass

        def ask(self, side, backend, request):
            asked.append((side, request["kernel"], request["seed"]))
            return {"status": "ok", "q25": 1.0 if side == BASE else 1.5}

        def close(self):
            pass

    monkeypatch.setattr(regress, "_Crew", Crew)
    pairs = [Pair(f"numpy/k{i}", LAYER, "packed") for i in range(5)]
    run = regress.Regression(pairs, {BASE: None, HEAD: None}, 2, seed=1)
    run.run()
    screening = asked[: 4 * 5 * 2]
    turns = list(zip(screening[::2], screening[1::2], strict=True))
    assert all(a[1:] == b[1:] and {a[0], b[0]} == {BASE, HEAD} for a, b in turns)
    first = [a[0] for a, _ in turns]
    assert 4 <= first.count(BASE) <= 16, "a coin decides who is first"
    assert len({seed for _, _, seed in asked}) == 4 + run.rounds_to_confirm, "fresh data every round"
    confirming = asked[4 * 5 * 2 :]
    quads = [[s for s, *_ in confirming[i : i + 4]] for i in range(0, len(confirming), 4)]
    assert all(q in ([BASE, HEAD, HEAD, BASE], [HEAD, BASE, BASE, HEAD]) for q in quads)
    assert {run.verdict(p) for p in pairs} == {"slower"}


# --- standings, words --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "head", "state"),
    [
        ("ok ok ok ok", "ok wrong ok ok", "newly wrong"),
        ("wrong", "wrong", "broken on both"),
        ("ok wrong ok", "wrong ok ok", "broken on both"),
        ("wrong", "ok", "mended"),
        ("ok ok", "crashed crashed", "newly failing"),
        ("ok ok ok ok", "ok timeout ok mistrusted", "never measured"),
        ("ok ok ok ok", "mistrusted timeout ok crashed", "newly failing"),
        ("absent", "ok", "new"),
        ("absent", "wrong", "newly wrong"),
        ("absent", "unsupported", "refused"),
        ("ok", "absent", "removed"),
        ("ok", "unsupported", "newly refused"),
        ("unsupported", "ok", "newly supported"),
        ("unavailable", "unavailable", "refused"),
        ("unsupported", "crashed crashed", "newly failing"),
        ("ok", "ok", "never measured"),
    ],
)
def test_standing(base, head, state):
    events = {BASE: [(s, "") for s in base.split()], HEAD: [(s, "") for s in head.split()]}
    assert regress.standing(Pair("numpy/k", LAYER, "packed", events=events)) == state


def test_the_fingerprint_that_moved_is_named():
    base = {"spills": 0, "implementation": "brgemm", "asm_hash": "a1", "vectors": {"width": 16}}
    head = {"spills": 14, "implementation": "reference", "asm_hash": "b2", "vectors": {"width": 1}}
    assert regress.moved(base, head) == [
        "spills 0 -> 14",
        "implementation brgemm -> reference",
        "vectors width 16 -> 1",
    ]
    assert regress.moved(base, base | {"asm_hash": "b2"}) == ["other machine code, with the same counts"]
    assert regress.moved(base, {"fingerprint": "cannot be had: no disassembler"}) == []
    assert regress.moved(base, base) == regress.moved({}, head) == regress.moved(base, {}) == []


def line(verdict="slower", **more):
    side = {"status": "ok", "why": "", "visits": 4, "failures": 0, "seconds": 1e-3}
    return {
        "kernel": "numba/direct",
        "problem": str(LAYER.problem),
        "scenario": "packed",
        "verdict": verdict,
        "base": dict(side),
        "head": dict(side),
        "ratio": 1.3,
        "low": 1.2,
        "high": 1.4,
        "moved": ["spills 0 -> 14"],
        **more,
    }


def document(cells):
    summary = {
        "compared": len(cells),
        "visible": 0.04,
        "screening_rounds": 4,
        "confirming_rounds": 14,
        "suspects": 1,
        "round_noise": 0.01,
    }
    told = findings.sentence(cells, summary, "abc", "def")
    return {
        "cells": cells,
        "summary": summary,
        "threads": 2,
        "machine": "box",
        "command": ["python"],
        "warnings": [],
        "sentence": told,
        "base": {"label": "abc"},
        "head": {"label": "def"},
    }


def test_markdown_has_only_what_changed_and_fits_a_pull_request():
    cells = [line(), line("cannot tell", kernel="numpy/fft"), line("faster", ratio=0.5, low=0.4, high=0.6)]
    text = findings.markdown(document(cells))
    assert "**slower**" in text and "spills 0 -> 14" in text and "1.300x slower (1.200 - 1.400)" in text
    assert "2.000x faster (1.667 - 2.500)" in text and "numpy/fft" not in text
    wrong = line("newly wrong", moved=[])
    wrong["head"] |= {"status": "wrong", "why": "a | b <script> @team", "failures": 1}
    text = findings.markdown(document([wrong]))
    assert "a \\| b &lt;script> &#64;team" in text
    many = findings.markdown(document([line(moved=["x" * 400])] * 1000))
    assert len(many) <= 65_000 and "did not fit" in many
    assert "**Slower" not in findings.markdown(document([line("cannot tell")]))


def test_sentence_says_what_could_not_be_compared():
    told = findings.sentence([line("refused")], {"compared": 0}, "abc", "def")
    assert "nothing could be compared" in told
    told = document([line(), line("cannot tell")])["sentence"]
    assert "1 slower, 1 cannot be told apart" in told and "4.0%" in told
    assert significance.visible(0.01, 4, 5, 10, 0.02) is None, "2^-4 can never pass"
    assert 0.02 < significance.visible(0.01, 4, 16, 10, 0.02) < 0.05
    few = {"compared": 1, "visible": None, "confirming_rounds": 5}
    assert "5 confirming rounds are too few" in findings.sentence([line("cannot tell")], few, "a", "b")


# --- two real commits --------------------------------------------------------------------------------

PLANTED = '''"""Planted."""
import numpy as np
from convzoo.plan import Plan
from convzoo.reference import oracle
def plan(p):
    def run(x, weights):
        {body}
        return oracle(p, x, *weights).astype(x.dtype)
    return Plan(run)
'''
SPIN = "import time; end = time.perf_counter() + 2e-3\n        while time.perf_counter() < end: pass"


def git(root, *arguments):
    identity = ("-c", "user.name=suite", "-c", "user.email=suite@example.org")
    subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True)


def commit(root, tag):
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", tag)
    git(root, "tag", tag)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Commits good and bad: one kernel slower, one newly wrong, one new, one removed, one the same."""
    root = tmp_path_factory.mktemp("regress") / "repository"
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("kernels", "benchmarks"):
        shutil.copytree(ROOT / name, root / name, ignore=ignore)
    (root / ".gitignore").write_text("__pycache__/\n.asv/\n")
    folder = root / "kernels" / "convzoo" / "numpy"

    def write(**bodies):
        for name, body in bodies.items():
            path = folder / f"planted_{name}.py"
            path.unlink() if body is None else path.write_text(PLANTED.format(body=body))

    git(root, "init", "-q")
    write(same="pass", slower="pass", wrong="pass", old="pass")
    commit(root, "good")
    write(slower=SPIN, wrong="return np.zeros(p.y_shape, x.dtype)", old=None, new="pass")
    commit(root, "bad")
    git(root, "checkout", "-q", "good")
    return root


def ask(repository, *arguments):
    environment = os.environ | {"PYTHONPATH": str(repository / "kernels")}
    command = [sys.executable, "-m", "benchmarks", "regress", *arguments, "--threads", "1", "-q"]
    return subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, timeout=180)


def test_a_commit_that_is_slower_and_newly_wrong(repository, tmp_path):
    page = tmp_path / "change.md"
    done = ask(
        repository,
        "good",
        "bad",
        "--kernels",
        "numpy/planted_*",
        "--problems",
        "tiny/square",
        "--markdown",
        str(page),
        "--json",
    )
    assert done.returncode == 1, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["schema"] == "convzoo.regress/1" and told["base"]["commit"] != told["head"]["commit"]
    cells = {c["kernel"].partition("_")[2]: c for c in told["cells"]}
    verdicts = {name: c["verdict"] for name, c in cells.items()}
    expected = {"same": "cannot tell", "slower": "slower", "wrong": "newly wrong", "old": "removed", "new": "new"}
    assert verdicts == expected, told["cells"]
    slower = cells["slower"]
    assert 1 < slower["low"] <= slower["ratio"] <= slower["high"] and slower["adjusted_p"] <= 0.01
    assert cells["wrong"]["head"]["failures"] == cells["wrong"]["head"]["visits"] == 4
    assert "planted_slower" in page.read_text() and "planted_same" not in page.read_text()


@pytest.mark.slow
def test_identical_commits_and_the_working_tree(repository):
    kernel = ("--kernels", "numpy/planted_same", "--problems", "tiny/square")
    done = ask(repository, "good", "good", *kernel)
    assert done.returncode == 0 and "cannot be told apart" in done.stdout, done.stdout + done.stderr
    path = repository / "kernels" / "convzoo" / "numpy" / "planted_same.py"
    before = path.read_text()
    try:
        path.write_text(PLANTED.format(body="return np.ones(p.y_shape, x.dtype)"))
        done = ask(repository, "good", *kernel)
    finally:
        path.write_text(before)
    assert done.returncode == 1 and "uncommitted changes" in done.stdout, done.stdout + done.stderr
    assert "newly wrong" in done.stdout


VECTORS = '''"""Planted."""
import numpy as np
from numba import njit
from convzoo.plan import Plan
@njit(nogil=True, fastmath=True, cache=True)
def rows(x, w, y):
    for k in range(y.shape[0]):
        for p in range(y.shape[1]):
            for c in range(x.shape[0]):
                for r in range(w.shape[2]):
                    for s in range(w.shape[3]):
                        for q in range(y.shape[2]):
                            {body}
                            y[k, p, q] += w[k, c, r, s] * x[c, p + r, q + s]
def plan(p):
    def run(x, weights):
        y = np.zeros(p.y_shape, x.dtype)
        rows(x[0], weights[0], y[0])
        return y
    return Plan(run, code=(rows,))
'''
LEAVES_EARLY = "if x[c, p + r, q + s] > 1e30: break"


@pytest.mark.slow
def test_a_lost_vectorisation_is_named_by_its_fingerprint(repository):
    """A loop that may be left early is a loop of scalars."""
    path = repository / "kernels" / "convzoo" / "numba" / "planted_rows.py"
    kernel = ("--kernels", "numba/planted_rows", "--problems", "n1c16h34w66k16r3s3-nobias")
    try:
        path.write_text(VECTORS.format(body="pass"))
        commit(repository, "vectors")
        path.write_text(VECTORS.format(body=LEAVES_EARLY))
        done = ask(repository, "vectors", *kernel, "--confirm", "9", "--json")
    finally:
        path.unlink()
    assert done.returncode == 1, done.stdout + done.stderr
    (cell,) = json.loads(done.stdout)["cells"]
    assert cell["verdict"] == "slower" and cell["ratio"] > 1.5, cell
    (width,) = [text for text in cell["moved"] if text.startswith("vector bits")]
    before, after = (int(n) for n in width.removeprefix("vector bits ").split(" -> "))
    assert before >= 128 and before > after, cell["moved"]


def test_an_old_core_is_replaced_and_that_is_said(repository, monkeypatch, tmp_path):
    """A side whose convzoo this tree's worker does not know runs its kernels on this tree's core."""
    monkeypatch.setattr(checkout, "ROOT", repository)
    monkeypatch.setattr(record, "ROOT", repository)
    monkeypatch.setattr(checkout, "FOLDER", tmp_path / "sides")
    monkeypatch.setattr(checkout, "CORE", repository / "kernels" / "convzoo")
    assert checkout._fitting(BASE, "good", None).borrowed == ("reference",)
    strange = repository / "kernels" / "convzoo" / "backends.py"
    before = strange.read_text()
    try:
        strange.write_text(before.replace("def synchronize", "def wait_for_it"))
        commit(repository, "strange")
    finally:
        strange.write_text(before)
    side = checkout._fitting(BASE, "strange", None)
    assert {"reference", "backends.py", "plan.py"} <= set(side.borrowed)
    assert "its kernels ran on this tree's" in side.note
    alike = checkout.of_commit(HEAD, "good")
    assert len(str(side.kernels)) == len(str(alike.kernels)) and not alike.note


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 3, "name the commit"),
        (["nonsense"], 3, "git knows no commit 'nonsense'"),
        (["good", "--confirm", "0"], 3, "--confirm: invalid whole number of 1 or more value: '0'"),
        (["good", "--markdown", "/nowhere/at/all.md"], 3, "no such folder"),
        (["good", "bad", "--against", "numba==1", "numba==2"], 3, "at most one commit"),
        (["good", "--kernels", "nmpy/shifted"], 3, "no kernel matches"),
        (["good", "good", "--kernels", "torch_mps/builtin", "--problems", "tiny"], 2, ""),
        (["good", "--against", "numba===none such", "numba"], 2, "could not be installed"),
    ],
)
def test_exit_codes(repository, arguments, code, says):
    if "torch_mps/builtin" in arguments and sys.platform == "darwin":
        pytest.skip("this machine may have an MPS device; the case needs one without")
    done = ask(repository, *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert says in done.stderr
