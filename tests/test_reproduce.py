"""Published times measured again: honest records agree, falsified ones are noticed and named."""

from __future__ import annotations

import itertools
import json
import math
import random
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import ClassVar

import pytest
from invented import HARDWARE, KERNELS, PROBLEMS, written

from benchmarks import __main__ as command
from benchmarks import compare, hardware, machine_file
from benchmarks.reproduce import agreement, published

NAMES = ("numpy/im2col", "numpy/fft", "numpy/shifted", "numpy/windows", "numpy/per_channel")
TIMES = {name: (i + 1.0, "direct", "elementwise") for i, name in enumerate(NAMES)}
HERE = {k: hardware.facts()[k] for k in published.IDENTITY} | {"gpus": []}


@pytest.mark.parametrize(("n", "m"), [(1, 4), (3, 3), (3, 5), (4, 4)])
def test_ranks_against_all_orders(n, m):
    """P(U <= k), counted over every way to deal n + m values into two hands."""
    wrong = []
    for hand in itertools.combinations(range(n + m), n):
        rest = set(range(n + m)) - set(hand)
        wrong.append(sum(a > b for a in hand for b in rest))
    for level in (0.01, 0.05, 0.2, 0.5):
        k = agreement._rank(n, m, level)
        assert k == -1 or sum(u <= k for u in wrong) <= level * len(wrong)
        assert sum(u <= k + 1 for u in wrong) > level * len(wrong)


def test_the_undisturbed_time_is_held_as_often_as_stated():
    rng = random.Random(4)
    for n in (3, 4, 6, 24):
        held = 0
        for _ in range(3000):
            low, best = agreement.undisturbed([1 + rng.expovariate(8) for _ in range(n)])
            held += low <= 1
            assert low <= best
        assert held / 3000 == pytest.approx(1 - agreement.LEVEL, abs=0.015)
    assert agreement.undisturbed([1.0]) == (-math.inf, 1.0)


def rounds(rng, seconds, n, spread=0.06):
    """Rounds as machines give them: a floor, noise that only adds, and now and then another program."""
    return [seconds * math.exp(rng.expovariate(1 / spread) + (0.5 if rng.random() < 0.1 else 0)) for _ in range(n)]


@pytest.mark.parametrize("busy", ["neither", "there", "here"])
def test_honest_cells_are_inside_however_busy_either_machine_was(busy):
    """The noise of the two sessions may differ fourfold; a machine that was busy gave honest times."""
    rng = random.Random(5)
    spread = {"there": 0.06, "here": 0.06} | {busy: 0.25}
    found = {agreement.INSIDE: 0, agreement.FAST: 0, agreement.SLOW: 0}
    for _ in range(1000):
        there = rounds(rng, 1e-3, 4, spread["there"])
        found[agreement.shift(there, rounds(rng, 1e-3, agreement.CONFIRMED, spread["here"])).verdict] += 1
    assert found[agreement.FAST] <= 5 and found[agreement.SLOW] <= 1000 * agreement.LEVEL


def test_falsified_cells_are_found():
    rng = random.Random(6)
    fast = slow = 0
    for _ in range(400):
        here = rounds(rng, 1e-3, agreement.CONFIRMED)
        fast += agreement.shift(rounds(rng, 1e-3 / 1.2, 4), here).verdict == agreement.FAST
        slow += agreement.shift(rounds(rng, 1e-3 * 1.2, 4), here).verdict == agreement.SLOW
    assert fast > 320 and slow > 120  # claiming to be fast is what pays, and is easier to see


def test_visible_is_how_much_must_be_falsified():
    rng = random.Random(7)
    there, here = rounds(rng, 1e-3, 5), rounds(rng, 1e-3, 24)
    faster, slower = agreement.shift(there, here).visible()
    for factor, verdict in ((math.exp(-faster), agreement.FAST), (math.exp(slower), agreement.SLOW)):
        for more, expected in ((0.999, agreement.INSIDE), (1.001, verdict)):
            claimed = [v * factor ** (more if factor != 1 else 1) for v in there]
            assert agreement.shift(claimed, here).verdict == expected


def test_drift_is_what_most_share():
    honest = [0.01 * (i % 3 - 1) for i in range(12)]
    assert agreement.drift(honest) == pytest.approx(0, abs=0.011)
    assert agreement.drift([v + 0.18 for v in honest]) == pytest.approx(0.18, abs=0.011)
    assert agreement.drift(honest + [0.18] * 8) == pytest.approx(0, abs=0.011)  # no mixture of the two
    assert agreement.drift([0.18] * (agreement.ENOUGH - 1)) == 0


def test_a_drift_that_a_day_may_bring_is_no_reason():
    slower = agreement.Shift(middle=0.08, best=0.08, low=0.06, high=0.1)
    assert agreement.verdict(slower, 0.0) == agreement.FAST
    assert agreement.verdict(slower, 0.07) == agreement.INSIDE
    assert agreement.verdict(slower, 0.2) == agreement.FAST  # the record as a whole does not fit


def test_orders():
    there = {"a": (1.0, 0.9, 1.1), "b": (2.0, 1.9, 2.1), "c": (3.0, 2.0, 3.2)}
    same = agreement.order(there, {k: (v[0] * 7, v[1] * 7, v[2] * 7) for k, v in there.items()})
    assert (same.same, same.reversed, same.untold, same.tau, same.share) == (2, [], 1, 1.0, 1.0)
    here = {"a": (9.0, 8.9, 9.1), "b": (2.0, 1.9, 2.1), "c": (3.0, 2.5, 3.2)}
    turned = agreement.order(there, here)
    assert turned.reversed == [("a", "b"), ("a", "c")] and turned.tau == pytest.approx(-1 / 3)
    assert agreement.order({"a": there["a"]}, here).share is None


class Machine:
    """Stands for the worker processes: replies with the invented times, and noise of its own."""

    rng = random.Random(8)
    times = TIMES
    replies: ClassVar = {}
    asked = 0
    dies_at = -1
    slower = 1.0

    def __init__(self, backend, threads):
        self.about = {"numpy": "2.4"}

    def greet(self, timeout):
        return {"about": self.about, "import_seconds": 0.1}

    def ask(self, request, timeout):
        type(self).asked += 1
        if self.asked == self.dies_at:
            raise KeyboardInterrupt
        if status := self.replies.get(request["kernel"]):
            return {"status": status, "why": "planted"}
        flops = compare.Conv2d.parse(request["problem"]).flops
        seconds = flops * 1e-11 * self.times[request["kernel"]][0] * self.rng.uniform(0.98, 1.05)
        seconds *= self.slower
        return {"status": "ok", "seconds": seconds, "algorithm": "direct"}

    def close(self):
        pass


class Quiet:
    def __init__(self, threads, known=0.0): ...

    now = 1.0

    def share(self):
        return self.now

    def close(self): ...


@pytest.fixture
def machine(monkeypatch):
    """This machine, with invented times; nothing is run."""
    fresh = type("Fresh", (Machine,), {"rng": random.Random(8), "replies": {}, "asked": 0})
    monkeypatch.setattr(compare, "Worker", fresh)
    monkeypatch.setattr(compare.ceilings, "Pulse", Quiet)
    monkeypatch.setattr(compare, "sleep", lambda seconds: None)
    monkeypatch.setattr(machine_file, "ceilings", lambda *_: {})
    monkeypatch.setattr(hardware, "facts", lambda: HERE | {"python": "3.12"})
    return fresh


def publish(folder, kernels=TIMES, rounds=4, **header):
    given = {"hardware": HERE, "commit": "unknown", "scenarios": ["packed", "eager"]} | header
    given["sampling"] = asdict(compare.PRESETS["quick"])
    return written(Path(folder), kernels=kernels, rounds=rounds, **given)


def falsify(path, factor, chosen=lambda kernel, problem: True, **more):
    """Times of the chosen cells times ``factor``, in every place that tells them, with a new seal."""
    from benchmarks.record import Record

    lines = [json.loads(row) for row in path.read_text().splitlines()]
    header = {k: v for k, v in lines.pop(0).items() if k not in ("schema", "kind")}
    path.unlink()
    log = Record(path, header)
    for line in lines:
        if line["kind"] in ("round", "cell") and chosen(line["kernel"], line["problem"]):
            line |= more
            for key in ("seconds", "low", "high", "q25", "q75"):
                line |= {key: line[key] * factor} if key in line else {}
            if "round_seconds" in line:
                line["round_seconds"] = [v * factor for v in line["round_seconds"]]
        line.pop("sha256", None)
        log.add(line)
    log.close()
    return path


def ask(capsys, *arguments):
    given = () if "--seed" in arguments else ("--seed", "5")
    code = command.main(["reproduce", *map(str, arguments), *given, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_an_honest_record(machine, tmp_path, capsys):
    path = publish(tmp_path)
    code, found = ask(capsys, path, "--seed", "3", "--cells", "25")
    assert code == 0 and found["verdict"] == "agrees" and found["same_class"]
    assert len(found["cells"]) == 25 and {x["verdict"] for x in found["cells"]} == {"inside"}
    assert "25 of 25 cells are inside (seed 3)" in found["sentence"]
    assert found["records"][0]["drift"] == pytest.approx(1, abs=0.03)
    assert all(len(x["here"]["round_seconds"]) >= agreement.SCREENED for x in found["cells"])
    _, again = ask(capsys, path, "--seed", "3", "--cells", "25")
    assert [x["kernel"] for x in again["cells"]] == [x["kernel"] for x in found["cells"]]
    command.main(["reproduce", str(path), "--seed", "3", "-q"])  # in words
    assert "20 of 20 cells are inside" in capsys.readouterr().out


@pytest.mark.parametrize("factor", [1.2, 1 / 1.2])
def test_a_record_that_is_falsified_as_a_whole(machine, tmp_path, capsys, factor):
    code, found = ask(capsys, falsify(publish(tmp_path), factor))
    assert code == 1 and found["verdict"] == "disagrees"
    assert any("everything takes" in text for text in found["objections"])
    assert sum(x["verdict"] == "inside" for x in found["cells"]) < 4


@pytest.mark.parametrize("factor", [1.2, 1 / 1.2])
def test_falsified_cells_among_honest_ones_are_named(machine, tmp_path, capsys, factor):
    bad = {("numpy/fft", PROBLEMS[0]), ("numpy/windows", PROBLEMS[2])}
    path = falsify(publish(tmp_path), factor, lambda *cell: cell in bad)
    code, found = ask(capsys, path, "--cells", "30")
    named = {(x["kernel"], x["problem"]) for x in found["cells"] if x["verdict"] != "inside"}
    assert code == 1 and named == bad
    assert len(found["objections"]) == 4 and "numpy/fft on" in " ".join(found["objections"])


def test_one_slow_cell_is_named_but_an_honest_machine_may_have_been_busy(machine, tmp_path, capsys):
    path = falsify(publish(tmp_path), 1.3, lambda *cell: cell == ("numpy/fft", PROBLEMS[0]))
    assert command.main(["reproduce", str(path), "--cells", "30", "--seed", "5", "-q"]) == 0
    said = capsys.readouterr().out
    assert "28 of 30 cells are inside" in said and "record too slow" in said and "busy?" in said


def test_a_machine_that_is_busy_speaks_against_nobody(machine, tmp_path, capsys, monkeypatch):
    """Three times slower, and the host says itself that it has less than it can give."""
    path = publish(tmp_path)
    machine.slower = 3.0
    monkeypatch.setattr(Quiet, "now", 0.3)
    code, found = ask(capsys, path)
    assert code == 2 and found["verdict"] == "could not be told" and not found["objections"]
    assert "too busy to tell of 20 more" in found["sentence"]
    monkeypatch.setattr(Quiet, "now", 0.95)
    code, found = ask(capsys, path)
    assert code == 1 and {x["verdict"] for x in found["cells"]} == {agreement.FAST}


def test_a_record_of_a_busy_machine_is_not_too_slow(machine, tmp_path, capsys):
    path = falsify(publish(tmp_path), 1.5, lambda *cell: cell[0] == "numpy/fft", host_share=0.4)
    code, found = ask(capsys, path, "--cells", "30")
    assert code == 0 and {x["verdict"] for x in found["cells"]} == {"inside"}


def test_a_record_changed_by_hand_shows_it(machine, tmp_path, capsys):
    path = publish(tmp_path)
    text = path.read_text()
    lines = text.splitlines(keepends=True)
    place = next(i for i, row in enumerate(lines) if '"kind": "cell"' in row)
    cell = json.loads(lines[place])
    lines[place] = json.dumps(cell | {"seconds": cell["seconds"] / 1.2}) + "\n"
    path.write_text("".join(lines))
    code, found = ask(capsys, path)
    assert code == 1
    assert "SHA-256" in found["objections"][0]
    assert f"{cell['kernel']} on {cell['problem']}" in found["objections"][1]


def test_another_machine_compares_rankings(machine, tmp_path, capsys):
    path = publish(tmp_path, hardware=HARDWARE | {"cpu": "Another"}, threads=64)
    code, found = ask(capsys, path)
    assert code == 0 and not found["same_class"]
    assert "are of different classes" in found["sentence"] and "tau 1.00" in found["sentence"]
    assert "cpu Another" in found["notes"][0]
    assert found["records"][0]["threads_here"] == hardware.usable_cpus()
    machine.times = dict(zip(NAMES, reversed(TIMES.values()), strict=True))
    code, found = ask(capsys, path)
    assert code == 1 and "another order" in found["objections"][0]
    assert command.main(["reproduce", str(path), "-q"]) == 1
    assert "the other way round here: numpy/im2col before numpy/per_channel" in capsys.readouterr().out


def test_a_folder_of_many_machines_is_held_to_the_one_of_this_class(machine, tmp_path, capsys):
    for name, known in (("mine", HERE), ("theirs", HARDWARE | {"cpu": "Another"})):
        (tmp_path / name).mkdir()
        publish(tmp_path / name, hardware=known, machine=name)
    (tmp_path / "old.jsonl").write_text("{}\n")
    code, found = ask(capsys, tmp_path)
    assert code == 0 and [r["machine"] for r in found["records"]] == ["mine"]
    assert "1 records are of other machines" in found["notes"][-1]
    assert "old.jsonl" in found["notes"][0]


@pytest.mark.parametrize(("status", "code"), [("wrong", 1), ("crashed", 2)])
def test_what_fails_here(machine, tmp_path, capsys, status, code):
    machine.replies = {"numpy/fft": status}
    got, found = ask(capsys, publish(tmp_path), "--cells", "30")
    assert got == code
    assert {x["verdict"] for x in found["cells"] if x["kernel"] == "numpy/fft"} == {status}
    assert bool(found["objections"]) == (status == "wrong")


def test_ctrl_c_keeps_what_is_finished(machine, tmp_path, capsys):
    machine.dies_at = 50
    code, found = ask(capsys, publish(tmp_path), "--cells", "10")
    assert code == 130 and found["status"] == "interrupted"
    assert all(x["verdict"] in ("unfinished", "inside") for x in found["cells"])
    machine.dies_at, machine.asked = 1, 0
    code, found = ask(capsys, publish(tmp_path / "again"), "--cells", "10")
    assert code == 130 and found["verdict"] == "could not be told"


def test_kernels_that_have_changed_since_are_left_out(machine, tmp_path, capsys, monkeypatch):
    path = publish(tmp_path)
    for changed, left in (
        ({"kernels/convzoo/numpy/fft.py"}, set(NAMES) - {"numpy/fft"}),
        ({"kernels/convzoo/numpy/_shared.py"}, set()),
        ({"kernels/convzoo/numba/fft.py", "kernels/convzoo/conv2d.py"}, set(NAMES)),
    ):
        monkeypatch.setattr(published, "_changed_since", lambda commit, changed=changed: changed)
        if not left:
            assert command.main(["reproduce", str(path)]) == 2
            assert "git checkout unknown" in capsys.readouterr().err
            continue
        _, found = ask(capsys, path, "--cells", "30")
        assert {x["kernel"] for x in found["cells"]} == left


def test_git_says_what_has_changed():
    assert published._changed_since("no such commit") is None
    assert published._changed_since("HEAD") is not None


def test_what_cannot_be_reproduced(machine, tmp_path, capsys):
    path = publish(tmp_path, suite=1)
    assert command.main(["reproduce", str(path)]) == 2
    assert "is of suite 1" in capsys.readouterr().err
    (tmp_path / "x.jsonl").write_text('{"schema": "convzoo.record/1", "kind": "run"}\n')
    (tmp_path / "empty").mkdir()
    for named in (tmp_path / "x.jsonl", tmp_path / "none.jsonl", tmp_path / "empty", "--cells=0"):
        with pytest.raises(SystemExit) as end:
            command.main(["reproduce", str(named), *([str(path)] if named == "--cells=0" else [])])
        assert end.value.code == 3
    gone = publish(tmp_path / "gone", kernels={"numpy/gone": KERNELS["numpy/fft"]})
    assert command.main(["reproduce", str(gone)]) == 2
    assert "is no kernel of this tree any more" in capsys.readouterr().err


@pytest.mark.slow
def test_our_own_records(tmp_path, capsys):
    """Measured: the committed records of this machine agree, and fail when a fifth is added or taken away."""
    folder = Path(published.ROOT) / "reports" / "records" / hardware.machine_name()
    if not folder.is_dir():
        pytest.skip(f"no records of {hardware.machine_name()} are committed; compare makes one")
    code, found = ask(capsys, folder, "--seed", "1")
    inside = [x["verdict"] == "inside" for x in found["cells"]]
    assert code == 0 and sum(inside) >= 0.9 * len(inside), found["sentence"]
    for factor in (1.2, 1 / 1.2):
        bests = [x["best_ratio"] / factor for x in found["cells"]]
        assert abs(math.log(statistics.median(bests))) > agreement.TOGETHER
