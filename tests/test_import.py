"""Records from elsewhere: good ones come in once, and whatever would mix questions is refused by name."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest
from invented import CEILINGS, HARDWARE, KERNELS, PROBLEMS, rewritten, written

from benchmarks import record
from reports import __main__ as command
from reports import vet
from reports.merge import ROOM, merge

CELL = ("numba/direct", PROBLEMS[1])


@pytest.fixture
def away(tmp_path):
    """The reports folder of another machine, and ours, which is empty."""
    folder = tmp_path / "away" / "records" / "box-a"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


def statuses(verdicts):
    return [(v.kind, v.status) for v in verdicts]


def why(path: Path, home: Path) -> str:
    """The sentence with which one file is refused; nothing of it may have come in."""
    (verdict,) = merge([path], home, dry=False)
    assert verdict.status == "refused" and not list(home.rglob("*.jsonl")), verdict
    assert "\n" not in verdict.why
    return verdict.why


def unsealed(line):
    """Without its digest: a falsifier who knows of it would leave it out."""
    line.pop("sha256", None)
    return line


def test_a_good_record_comes_in_once(away, home):
    path = written(away)
    assert statuses(merge([away.parent.parent], home, dry=True)) == [("record", "new")]
    assert not home.exists()
    (verdict,) = merge([away.parent.parent], home, dry=False)
    assert verdict.status == "new" and not [n for n in verdict.notes if "SHA" in n]
    kept = home / "records" / "box-a" / path.name
    assert kept.read_bytes() == path.read_bytes()
    machine = json.loads((home / "machines" / "box-a.json").read_text())
    assert machine["hardware"] == HARDWARE and machine["ceilings"] == CEILINGS
    before = sorted((p, p.stat().st_mtime_ns) for p in home.rglob("*"))
    assert statuses(merge([path, kept], home, dry=False)) == [("record", "here")] * 2
    assert before == sorted((p, p.stat().st_mtime_ns) for p in home.rglob("*"))
    renamed = path.rename(path.with_name("again.jsonl"))
    assert statuses(merge([renamed], home, dry=False)) == [("record", "here")]


@pytest.mark.parametrize("path", sorted((ROOM / "records").glob("*/*.jsonl")), ids=lambda p: p.stem)
def test_every_committed_record_would_be_taken(path):
    """What this repository publishes passes its own check."""
    found = vet.record(path, ROOM.parent)
    assert found.lines[-1]["kind"] == "end"
    # another branch may hold it here, but a clone of this one must
    behind = ["git", "-C", str(ROOM), "merge-base", "--is-ancestor", found.header["commit"], "HEAD"]
    if vet.in_history(found.header["commit"], ROOM.parent) is not None:
        assert subprocess.run(behind).returncode == 0, "measured on a commit that is not below this one"


def test_a_time_of_another_sixth_digit_is_seen(away, home):
    seconds = next(
        line["seconds"]
        for line in map(json.loads, written(away).read_text().splitlines())
        if line["kind"] == "cell" and (line["kernel"], line["problem"]) == CELL
    )
    step = 10.0 ** (math.floor(math.log10(seconds)) - 5)
    # Two: the middle of an even number of rounds may end in a 5 that was rounded away.
    path = rewritten(next(away.glob("*.jsonl")), change_cell("cell", seconds=seconds + 2 * step))
    assert "says seconds" in why(path, home)


def test_a_run_that_went_on_replaces_its_beginning(away, home):
    path = written(away, ended="interrupted")
    (verdict,) = merge([path], home, dry=False)
    assert verdict.status == "new" and "the run ended early (interrupted)" in verdict.notes
    short = path.read_bytes()
    log = record.Record(path)  # as compare --resume goes on
    log.add({"kind": "end", "status": "complete", "libraries": {}, "sentence": "So."})
    log.close()
    (verdict,) = merge([path], home, dry=False)
    assert verdict.status == "grown" and verdict.to.read_bytes() == path.read_bytes()
    path.write_bytes(short)
    assert statuses(merge([path], home, dry=False)) == [("record", "here")]
    assert verdict.to.read_bytes() != short


def test_digest_is_of_everything_before_it(away):
    data = written(away).read_bytes()
    end = data.rindex(b"\n", 0, -1) + 1
    assert json.loads(data[end:])["sha256"] == hashlib.sha256(data[:end]).hexdigest()


def test_a_record_without_a_digest_is_taken_with_a_note(away, home):
    (verdict,) = merge([rewritten(written(away), unsealed)], home, dry=False)
    assert verdict.status == "new" and "it carries no SHA-256" in verdict.notes[0]


@pytest.mark.parametrize("at", [0.2, 0.5, 0.9])
def test_one_changed_byte_is_seen(away, home, at):
    path = written(away)
    data = bytearray(path.read_bytes())
    place = next(i for i in range(int(len(data) * at), len(data)) if data[i : i + 1].isdigit())
    data[place] = ord("7") if data[place] != ord("7") else ord("8")
    path.write_bytes(data)
    assert "SHA-256" in why(path, home)


def test_a_commit_that_was_rebased_away_is_not_in_the_history(tmp_path):
    def git(*words: str) -> str:
        who = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "core.hooksPath=/dev/null"]
        return subprocess.run(
            ["git", "-C", str(tmp_path), *who, *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "one")
    first = git("rev-parse", "HEAD")
    git("commit", "-q", "--allow-empty", "--amend", "-m", "another")
    second = git("rev-parse", "HEAD")
    git("checkout", "-q", "-b", "aside")
    git("commit", "-q", "--allow-empty", "-m", "aside")
    aside = git("rev-parse", "HEAD")
    git("checkout", "-q", "-")
    assert git("cat-file", "-t", first) == "commit"
    assert [vet.in_history(c, tmp_path) for c in (first, second, aside)] == [False, True, True]


def change_first(**parts):
    return lambda line: unsealed(line | parts) if line["kind"] == "run" else unsealed(line)


def change_cell(kind, **parts):
    def change(line):
        mine = line["kind"] == kind and (line["kernel"], line["problem"]) == CELL
        return unsealed(line | parts if mine else line)

    return change


def drop(kind):
    return lambda line: None if line["kind"] == kind and (line["kernel"], line["problem"]) == CELL else unsealed(line)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (change_first(suite=999), "measured by suite 999, and this program knows those up to"),
        (change_first(suite="2"), "measured by suite 2, and this"),
        (change_first(method="asv"), "method asv, not by compare"),
        (change_first(dirty=True), "uncommitted changes"),
        (change_first(commit="unknown"), "which commit was measured, got unknown"),
        (change_first(commit="0" * 40), "is not in this repository"),
        (change_first(machine="../../etc"), "got '../../etc'"),
        (change_first(machine=None), "machine's name"),
        (change_first(hardware=None), "on which hardware"),
        (change_first(schema="convzoo.record/2"), "newer schema convzoo.record/2"),
        (change_first(kernels=[*KERNELS, "numba"]), "backend/idea, got 'numba'"),
        (change_first(kernels=[*KERNELS, "numba/other"]), "3 of its 15 cells are missing"),
        (change_first(problems=[["x", "n1c3h8w8k4r3s3-p1_1_1_1", 1]]), "is written n1c3h8w8k4r3s3-p1 in"),
        (change_first(problems=[["x", "n0", 1]]), "problem must look like"),
        (change_first(problems=[["x", PROBLEMS[0], 1]]), "not among the cells that its first line asks for"),
        (change_first(scenarios=["warm"]), "packed or eager, got 'warm'"),
        (change_cell("cell", seconds=1e-9), "says seconds 1e-09, and its rounds say"),
        (change_cell("cell", low=1e-9), "says low"),
        (change_cell("cell", vs_baseline=9.0), "says vs_baseline 9.0"),
        (change_cell("cell", flops=1), "counts 1 FLOP"),
        (change_cell("cell", status="superb"), "has the status superb"),
        (change_cell("round", seconds=float("nan")), "without a time"),
        (change_cell("round", round=0), "has round 0 twice"),
        (change_cell("round", status="wrong"), "is ok, and a round of it is not"),
        (drop("cell"), "1 of its 12 cells are missing, as numba/direct on n1c3h128w128k4r5s5"),
        (drop("round"), "is ok, and a round of it is not"),
        (lambda line: None if line["kind"] == "end" else line, "cut off"),
    ],
)
def test_a_falsified_or_foreign_record_is_refused(away, home, change, sentence):
    if sentence == "is not in this repository" and vet.in_history("0" * 40, ROOM) is None:
        pytest.skip("no full git history to look a commit up in")
    assert sentence in why(rewritten(written(away), change), home)


def test_a_record_cut_in_the_middle_is_refused(away, home):
    path = written(away)
    path.write_bytes(path.read_bytes()[:-40])
    assert "cut off" in why(path, home)


def test_the_same_name_for_other_hardware_is_refused(away, home, tmp_path):
    merge([written(away)], home, dry=False)
    for change, words in (
        ({"usable_cpus": 64}, "usable cpus 2 here and 64 there"),
        ({"gpus": [{"name": "Some GPU"}]}, "GPUs none here and Some GPU there"),
        ({"memory_bytes": 2**36}, "16 GiB of memory here and 64 GiB there"),
    ):
        other = tmp_path / "other.jsonl"
        other.unlink(missing_ok=True)
        written(tmp_path, name="other.jsonl", hardware=HARDWARE | change, started="2026-11-24T00:00:00+00:00")
        (verdict,) = merge([other], home, dry=False)
        assert verdict.status == "refused" and words in verdict.why
    written(tmp_path, name="next.jsonl", hardware=HARDWARE | {"os": "Linux 7"}, started="2026-11-25T00:00:00+00:00")
    assert statuses(merge([tmp_path / "next.jsonl"], home, dry=False)) == [("record", "new")]


def test_one_run_with_two_contents_is_refused(away, home):
    merge([written(away)], home, dry=False)
    shutil.rmtree(away)
    away.mkdir()
    (verdict,) = merge([written(away, noise=0.1)], home, dry=False)
    assert verdict.status == "refused" and "with other content" in verdict.why


def machine_file(folder: Path, **parts) -> Path:
    document = {"schema": "convzoo.machine/1", "machine": "box-a", "hardware": HARDWARE, "ceilings": CEILINGS}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "box-a.json"
    path.write_text(json.dumps(document | parts))
    return path


def test_machine_files_keep_the_higher_ceilings(home, tmp_path):
    merge([machine_file(tmp_path / "one")], home, dry=False)
    higher = {"fma_gflops_per_s": {"2": {"float32": 400.0}}, "read_gb_per_s": {"2": {"DRAM": 10.0}}}
    path = machine_file(tmp_path / "two", ceilings=higher, null={"twins": 20})
    assert statuses(merge([path], home, dry=False)) == [("machine", "grown")]
    assert statuses(merge([path], home, dry=False)) == [("machine", "here")]
    kept = json.loads((home / "machines" / "box-a.json").read_text())
    assert kept["ceilings"]["fma_gflops_per_s"] == {"1": {"float32": 180.0}, "2": {"float32": 400.0}}
    assert kept["ceilings"]["read_gb_per_s"]["2"] == {"L1": 450.0, "DRAM": 48.0} and kept["null"] == {"twins": 20}
    other = machine_file(tmp_path / "three", hardware=HARDWARE | {"cpu": "Another"})
    (verdict,) = merge([other], home, dry=False)
    assert verdict.status == "refused" and "cpu Example CPU here and Another there" in verdict.why
    newer = machine_file(tmp_path / "four", schema="convzoo.machine/2")
    assert "its schema must be convzoo.machine/1" in merge([newer], home, dry=False)[0].why


def test_asv_results_come_through_asvs_own_reader(away, home):
    pytest.importorskip("asv", reason="asv reads its results: pip install 'convzoo[bench]'")
    results = away.parent.parent / "results"
    record.export_to_asv(written(away, commit_date=None, hardware=HARDWARE | {"python": "3.11.7"}), results)
    (results / "box-a" / "machine.json").write_text(json.dumps(record.asv_machine("box-a", HARDWARE) | {"version": 1}))
    want = [("record", "new"), ("asv machine", "new"), ("asv results", "new")]
    assert statuses(merge([away.parent.parent], home, dry=False)) == want
    (kept,) = (home / "results" / "box-a").glob("*-convzoo-compare-*.json")
    assert [status for _, status in statuses(merge([results], home, dry=False))] == ["here", "here"]
    (path,) = (results / "box-a").glob("*-convzoo-compare-*.json")
    text = path.read_text()
    path.write_text(text.replace('"bench_conv2d.kernel_packed": [[', '"bench_conv2d.kernel_packed": [[null, '))
    assert "holds other results of that commit" in merge([path], home, dry=False)[0].why
    path.write_text(text)
    kept.unlink()
    (home / "results" / "benchmarks.json").write_text('{"bench_conv2d.kernel_packed": {"version": "1"}}')
    assert "of version 2 there and of version 1 here" in merge([path], home, dry=False)[0].why
    moved = shutil.copytree(results / "box-a", results / "box-b")
    assert {v.status for v in merge([moved], home, dry=False)} == {"refused"}


def test_command_line(away, home, tmp_path, capsys):
    good = written(away)
    bad = rewritten(written(away, name="bad.jsonl", started="2026-11-24T00:00:00+00:00"), change_first(suite=999))
    (away.parent / "notes.json").write_text("[]")
    assert command.main(["import", str(tmp_path / "away"), "--into", str(home), "--json"]) == 1
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert document["schema"] == "convzoo.import/1"
    assert {f["path"]: f["status"] for f in document["files"]} == {
        str(good): "new",
        str(bad): "refused",
        str(away.parent / "notes.json"): "ignored",
    }
    assert said.err.startswith(f"refused: {bad}: it was measured by suite 999") and said.err.count("\n") == 1
    bad.unlink()
    assert command.main(["import", str(tmp_path / "away"), "--into", str(home)]) == 0
    assert "1 already here, 1 ignored." in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        command.main(["import", str(tmp_path / "gone"), "--into", str(home)])
    assert stopped.value.code == 3 and "no such file or folder" in capsys.readouterr().err
    (tmp_path / "void").mkdir()
    assert command.main(["import", str(tmp_path / "void"), "--into", str(home)]) == 2


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("round", {"q25": "quick"}, "expected `float | null`, got `str`"),
        ("round", {"samples": 2.5}, "expected `int | null`, got `float`"),
        ("round", {"q75": math.nan}, "invalid character"),
        ("cell", {"error": [1.0]}, "expected `object`, got `array`"),
        ("run", {"seed": "7"}, "expected `int`, got `str`"),
        ("end", {"libraries": {"numpy": 2}}, "expected `object`, got `int`"),
    ],
)
def test_a_line_of_another_form_is_refused(away, home, kind, change, words):
    pytest.importorskip("msgspec", reason="the form of records is checked by msgspec: pip install 'convzoo[report]'")
    path = rewritten(written(away), lambda line: unsealed(line) | (change if line["kind"] == kind else {}))
    said = why(path, home)
    assert "its line " in said and words in said.lower().replace("json is malformed: ", "")


@pytest.mark.parametrize("path", sorted((ROOM / "records").glob("*/*.jsonl")), ids=lambda p: p.stem)
def test_every_line_of_our_records_has_its_form(path):
    pytest.importorskip("msgspec", reason="the form of records is checked by msgspec: pip install 'convzoo[report]'")
    kinds = {type(record.decoded(row)) for row in path.read_bytes().splitlines()}
    assert {record.Run, record.Round, record.Cell, record.End} <= kinds <= set(record.LINES.values())


def test_the_page_on_records_names_every_field():
    rows = {
        line.split("`")[1]: line
        for line in (ROOM.parent / "docs" / "record.md").read_text().splitlines()
        if line[:3] == "| `"
    }
    for kind, form in record.LINES.items():
        assert set(re.findall(r"`(\w+)`", rows[kind])) == {kind, *(f.name for f in fields(form))} | {kind}
