"""A run of one's own touches nothing that is published, is found by its name, and is published as it was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from invented import CEILINGS, HARDWARE, written

from benchmarks import evidence, hardware, machine_file, record
from reports import __main__ as command
from reports import views
from reports.load import load
from reports.merge import publish
from reports.values import Unreadable

XEON = {"cpu": "Intel Xeon", "microarchitecture": "rocketlake", "cpu_family_model": "6/167", "vector": "avx512f"}


@pytest.fixture
def rooms(tmp_path, monkeypatch):
    """(one's own, the published) reports folders, both empty; the program takes them for its own."""
    found = tmp_path / "reports" / "out", tmp_path / "reports"
    for name, room in zip(("OWN", "PUBLISHED"), found, strict=True):
        (room / "records" / "box-a").mkdir(parents=True)
        for module in (record, machine_file):
            monkeypatch.setattr(module, name, room)
    return found


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        (XEON | {"matrix": "amx", "usable_cpus": 2, "gpus": []}, "intel-xeon-amx-2cpu"),
        (XEON | {"matrix": None, "usable_cpus": 2, "gpus": []}, "intel-xeon-rocketlake-2cpu"),
        (
            {"cpu": "AMD EPYC", "microarchitecture": "znver4", "matrix": None, "usable_cpus": 2, "gpus": []},
            "amd-epyc-znver4-2cpu",
        ),
        (
            {
                "cpu": "Apple M4",
                "microarchitecture": None,
                "arch": "arm64",
                "usable_cpus": 8,
                "gpus": [{"name": "G 1"}],
            },
            "apple-m4-arm64-8cpu-g-1",
        ),
    ],
)
def test_a_machine_is_named_by_what_it_can_do(facts, name):
    assert hardware.machine_name(facts) == name


def test_records_are_found_by_name_and_ones_own_first(rooms, tmp_path):
    own, published = rooms
    mine, old = (
        written(own / "records" / "box-a", name="b.jsonl"),
        written(published / "records" / "box-a", name="a.jsonl"),
    )
    assert record.named("b") == record.named("b.jsonl") == record.named(mine) == [mine]
    assert record.named("box-a") == [mine, old] and record.named(mine.parent) == [mine]
    assert record.one("a") == old
    with pytest.raises(ValueError, match="names 2 records, and one is wanted"):
        record.one("box-a")
    with pytest.raises(FileNotFoundError, match="no record or machine of that name"):
        record.named("box-b")


def test_a_machine_is_known_from_both_folders(rooms):
    own, published = rooms
    machine_file.save("box-a", published / "machines", hardware={"cpu": "X"}, null={"twins": 1}, ceilings=CEILINGS)
    assert machine_file.load("box-a")["ceilings"] == CEILINGS and machine_file.load("box-b") == {}
    higher = {"fma_gflops_per_s": {"2": {"float32": 400.0}}}
    path = machine_file.save("box-a", ceilings=higher)
    assert path == own / "machines" / "box-a.json" and "null" not in json.loads(path.read_text())
    known = machine_file.load("box-a")
    assert known["ceilings"]["fma_gflops_per_s"] == {"1": {"float32": 180.0}, "2": {"float32": 400.0}}
    assert known["null"] == {"twins": 1}


def test_publishing_moves_what_passes_and_leaves_what_does_not(rooms):
    own, published = rooms
    good = written(own / "records" / "box-a", name="good.jsonl")
    bad = written(own / "records" / "box-b", name="bad.jsonl", machine="box-b", dirty=True)
    for name in ("box-a", "box-b"):
        machine_file.save(name, hardware=HARDWARE, ceilings=CEILINGS, null={"twins": 4})
    before, want = sorted(own.rglob("*.json*")), good.read_bytes()
    assert {v.status for v in publish(["good", "bad"], published, True, own)} == {"new", "refused"}
    assert sorted(own.rglob("*.json*")) == before and not list((published / "records").rglob("*.jsonl"))
    found = {v.path.name: v.status for v in publish(["good", "bad"], published, False, own)}
    assert found == {"good.jsonl": "new", "bad.jsonl": "refused", "box-a.json": "new"}
    assert (published / "records" / "box-a" / "good.jsonl").read_bytes() == want
    assert json.loads((published / "machines" / "box-a.json").read_text())["null"] == {"twins": 4}
    assert sorted(own.rglob("*.json*")) == [own / "machines" / "box-b.json", bad]
    kept = published / "records" / "box-a" / "good.jsonl"
    assert [v.status for v in publish(["good"], published, False, own)] == ["here"] and kept.exists()
    with pytest.raises(Unreadable, match="nothing: no such file"):
        publish(["nothing"], published, False, own)


def test_no_folder_of_this_machine_gets_into_a_record(tmp_path, monkeypatch):
    elsewhere = f"--machine={tmp_path / 'deep' / 'x'}"
    words = [
        "compare",
        "--records",
        str(tmp_path / "there"),
        elsewhere,
        "--problems",
        str(record.ROOT / "mine.json"),
        "numpy/*",
    ]
    monkeypatch.setattr(sys, "argv", ["benchmarks", *words])
    told = record.command()
    assert told[3:] == ["compare", "--records", "there", "--machine=x", "--problems", "./mine.json", "numpy/*"]
    why = f"{record.ROOT}/kernels/k.py and {Path.home() / 'data'} and {record.ROOT}2"
    assert record.short({"why": [why]}) == {"why": [f"./kernels/k.py and ~/data and {record.ROOT}2"]}


@pytest.mark.parametrize("word", ["/home/ada/out", "--records=/home/ada", "C:\\ada\\out"])
def test_a_record_that_tells_a_folder_is_not_published(rooms, word):
    own, published = rooms
    written(own / "records" / "box-a", name="a.jsonl", command=["python", "-m", "benchmarks", "compare", word])
    (verdict,) = publish(["a"], published, False, own)
    assert verdict.status == "refused" and "a folder of that machine" in verdict.why


def test_every_reader_finds_ones_own_records(rooms, monkeypatch, capsys):
    own, published = rooms
    written(own / "records" / "box-a", name="mine.jsonl")
    monkeypatch.setattr("reports.collect.EVERY", (published / "records", own / "records"))
    assert command.main(["pick", "n1c3h128w128k4r5s5", "--json"]) == 0
    (machine,) = json.loads(capsys.readouterr().out)["machines"] or [{}]
    assert machine["rests_on"][0]["record"] == "mine"
    assert command.main(["render", "mine", "--out", str(own / "page")]) == 0
    assert (own / "page" / "report.html").is_file()
    assert command.main(["render", "--out", str(own / "all")]) == 0
    assert "box-a" in (own / "all" / "README.md").read_text()
    with pytest.raises(SystemExit) as stopped:
        command.main(["render", "yours"])
    assert stopped.value.code == 3 and "no such file, and no record" in capsys.readouterr().err


def test_a_run_writes_below_reports_out_alone():
    """The whole command, in a process: git has nothing to say afterwards that it had not before."""

    def state():
        done = subprocess.run(["git", "status", "--porcelain"], cwd=record.ROOT, capture_output=True, text=True)
        return done.stdout

    before = state()
    words = ["compare", "--problems", "n1c3h8w8k2r3s3", "--kernels", "numpy/im2col", "numpy/windows", "--rounds", "1"]
    command = [sys.executable, "-m", "benchmarks", *words, "--report", "--json"]
    done = subprocess.run(command, cwd=record.ROOT, capture_output=True, text=True, timeout=120)
    document = json.loads(done.stdout)
    made = [Path(document["record"]), *map(Path, document["report"])]
    assert done.returncode == 0 and all(path.is_relative_to(record.OWN) and path.is_file() for path in made)
    assert state() == before


def test_errata_correct_what_a_record_claims(tmp_path):
    """The kernel of the first entry: no elementwise winner in records of those suites, and the page says why."""
    claims = {"numba/winograd_small": (0.1, "winograd", "elementwise"), "numba/direct": (0.5, "direct", "elementwise")}
    for suite, keeps in ((2, "tilewise"), (record.SUITE + 1, "elementwise")):
        path = written(tmp_path, kernels=claims, name=f"{suite}.jsonl", suite=suite)
        assert {x["accuracy"] for x in record.read(path) if x.get("kernel") == "numba/winograd_small"} == {keeps}
        run = load(path)
        (cell,) = run.of(kernel="numba/winograd_small", problem="n1c3h128w128k4r5s5")
        assert cell.accuracy == keeps
        assert any("claimed elementwise, and keeps tilewise" in words for words in views.notices(run)) == (suite == 2)
        (race,) = (r for r in evidence.races(run.cells, "packed") if r.problem == cell.problem)
        assert race.best.kernel == ("numba/direct" if suite == 2 else "numba/winograd_small")


def test_every_erratum_is_of_a_past_suite_and_weakens():
    for e in record.errata():
        assert evidence.GUARANTEES.index(e["keeps"]) > evidence.GUARANTEES.index(e["claimed"]) and e["why"]
        assert all(1 <= suite <= record.SUITE for suite in e["suites"]) and e["kernel"].count("/") == 1
