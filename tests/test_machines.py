"""Machines side by side, on two records of invented machines whose truth is known."""

from __future__ import annotations

import re

import pytest
from invented import HARDWARE, KERNELS, PROBLEMS, written

from reports.across import compared, machine_files, markdown
from reports.collect import collect, records_in

pytest.importorskip("jinja2", reason="the page needs jinja2: pip install 'convzoo[report]'")

SMALL, SEED, MIDDLE = PROBLEMS
BIG = HARDWARE | {"cpu": "Bigger CPU", "usable_cpus": 8, "memory_bytes": 2**36}
HIGHER = {"fma_gflops_per_s": {"8": {"float32": 1400.0}}, "read_gb_per_s": {"8": {"L1": 1800.0, "DRAM": 100.0}}}


def two(tmp_path, rounds=6, **second):
    """box-a, and box-b that is four times as fast but for what ``second`` says."""
    for name in ("box-a", "box-b"):
        (tmp_path / name).mkdir()
    written(tmp_path / "box-a", rounds=rounds)
    quick = {k: (v[0] / 4, *v[1:]) for k, v in KERNELS.items()}
    there = {"machine": "box-b", "hardware": BIG, "threads": 8, "ceilings": HIGHER, "kernels": quick} | second
    written(tmp_path / "box-b", rounds=rounds, **there)
    runs = sorted(collect(records_in(tmp_path)).runs, key=lambda run: run.machine)
    return compared(runs, {})


def test_one_machine_is_no_comparison(tmp_path):
    (tmp_path / "box-a").mkdir()
    written(tmp_path / "box-a")
    assert compared(collect(records_in(tmp_path)).runs, {}) is None


def test_facts_and_ceilings(tmp_path):
    table = two(tmp_path)
    facts = {row["name"]: row for row in table["facts"]}
    assert facts["CPU"]["values"] == ["Example CPU", "Bigger CPU"] and facts["CPU"]["differs"]
    assert facts["memory"]["values"] == ["16.0 GiB", "64.0 GiB"]
    assert not facts["system"]["differs"]
    assert facts["threads used"]["values"] == ["2", "8"] and facts["GPUs"]["values"] == ["none", "none"]
    ceilings = {row["name"]: row["cells"] for row in table["ceilings"]}
    assert [c["value"] for c in ceilings["multiply-adds in float32, GFLOP/s"]] == ["350", "1,400"]
    assert ceilings["multiply-adds in float32, GFLOP/s"][1]["note"] == "4.00×"
    assert "multiply-adds in float64, GFLOP/s" not in ceilings  # nobody measured it


def test_absolute_and_as_a_share_of_each_machines_limit(tmp_path):
    """Four times the rate with four times the ceilings is the same share; half the ceilings would double it."""
    (packed,) = two(tmp_path)["scenarios"]
    assert packed["everywhere"] == 3
    rows = {row["kernel"]: row for row in packed["kernels"]}
    assert list(rows) == ["numpy/fft", "numba/direct", "torch_cpu/builtin", "numpy/im2col"]
    here, there = rows["torch_cpu/builtin"]["cells"]
    assert here["rate"] == pytest.approx(100, rel=0.02) and there["rate"] == pytest.approx(400, rel=0.02)
    assert here["share"] == pytest.approx(there["share"], rel=0.2) and here["rank"] == there["rank"] == 3
    assert rows["numpy/fft"]["effective"] and not rows["numba/direct"]["effective"]
    assert [b["against"] for b in packed["best"]] == ["", "4.00×"]
    detail = next(r for r in packed["rows"] if (r["problem"], r["kernel"]) == (MIDDLE, "numba/direct"))
    assert detail["cells"][1]["speed"].startswith(("3.9", "4.0")) and detail["cells"][0]["share"].endswith("%")


def test_share_is_of_the_machines_own_ceilings(tmp_path):
    low = {"fma_gflops_per_s": {"8": {"float32": 700.0}}, "read_gb_per_s": {"8": {"L1": 900.0, "DRAM": 50.0}}}
    (packed,) = two(tmp_path, ceilings=low)["scenarios"]
    here, there = next(r for r in packed["kernels"] if r["kernel"] == "torch_cpu/builtin")["cells"]
    assert there["share"] == pytest.approx(2 * here["share"], rel=0.2)
    (tmp_path / "more").mkdir()
    (packed,) = two(tmp_path / "more", ceilings={})["scenarios"]
    assert packed["kernels"][0]["cells"][1]["share_text"] == "not measured"


def test_a_flip_is_told_from_noise(tmp_path):
    (packed,) = two(tmp_path, slower={("numba/direct", SEED): 3.0})["scenarios"]
    found = {row["problem"]: row for row in packed["problems"]}
    assert {p: row["ranking"] for p, row in found.items()} == {SMALL: "holds", SEED: "flips", MIDDLE: "holds"}
    assert [w["kernel"] for w in found[SEED]["winners"]] == ["numba/direct", "torch_cpu/builtin"]
    here, there = (w["lead"] for w in found[SEED]["winners"])
    assert re.match(r"(1\.9\d|2\.0\d)× faster than torch_cpu/builtin \(", here)
    assert re.match(r"1\.[45]\d× faster than numba/direct \(", there)
    assert found[SMALL]["winners"][0]["lead"] == ""
    assert re.match(
        r"box-b is the fastest, each machine with its best kernel: over 3 problems box-a takes", packed["sentence"]
    )
    assert re.search(r" takes (3\.\d\d)× as long \((1\.9\d|2\.0\d)× to [34]\.\d\d× by problem\)", packed["sentence"])
    assert packed["sentence"].endswith(
        "Of 3 problems measured on two machines or more, the winner is the same on 2, another one on 1."
    )
    moved = {row["kernel"]: row["moves"] for row in packed["kernels"]}
    assert not moved["torch_cpu/builtin"]  # over all problems the order is the same


def test_too_few_rounds_make_no_flip(tmp_path):
    (packed,) = two(tmp_path, rounds=2, slower={("numba/direct", SEED): 3.0})["scenarios"]
    seed = next(row for row in packed["problems"] if row["problem"] == SEED)
    assert seed["ranking"] == "cannot tell" and seed["winners"][0]["lead"].endswith(": the rounds cannot tell")
    assert "perhaps another on 1, which the rounds cannot tell" in packed["sentence"]


def test_a_kernel_that_does_not_run_there(tmp_path):
    faults = {("numba/direct", p): ("unavailable", "numba is not installed") for p in PROBLEMS}
    (packed,) = two(tmp_path, faults=faults)["scenarios"]
    assert {row["ranking"] for row in packed["problems"]} == {"flips"}
    assert packed["problems"][0]["winners"][1]["lead"] == "numba/direct did not run here"
    assert next(r for r in packed["kernels"] if r["kernel"] == "numba/direct")["cells"][1] is None


def test_problems_of_one_machine_alone_are_left_out(tmp_path):
    table = two(tmp_path, problems=(SEED, "n1c9h9w9k9r1s1"))
    (packed,) = table["scenarios"]
    assert [row["problem"] for row in packed["problems"]] == [SEED] and packed["everywhere"] == 1
    (tmp_path / "apart").mkdir()
    assert two(tmp_path / "apart", problems=("n1c9h9w9k9r1s1",))["scenarios"] == []


def test_cautions_name_every_other_difference(tmp_path):
    cautions = "\n".join(two(tmp_path, commit="f" * 40, preset="standard")["cautions"])
    assert "no interval is given" in cautions and "ffffffffff" in cautions and "presets: quick, standard" in cautions


EVIL = "<script>alert(1)</script>|`x`"


def test_page_and_markdown(tmp_path):
    from reports.page import environment

    table = two(tmp_path, machine=EVIL, slower={("numba/direct", SEED): 3.0})
    html = environment().get_template("machines.html.j2").render(machines=table)
    for words in ("Bigger CPU", "1,400", "<strong>flips</strong>", "another one on 1", "eff.</abbr>", "8 threads"):
        assert words in html, words
    assert "<script" not in html
    text = "\n\n".join(markdown(table))
    assert "<script" not in text and "numba/direct" in text and "another one on 1" in text
    for block in text.split("\n\n"):
        rows = [row for row in block.splitlines() if row.startswith("| ")]
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) <= 1


def test_machine_files_that_cannot_be_read_are_none(tmp_path):
    (tmp_path / "good.json").write_text('{"hardware": {"cpu": "x"}}')
    (tmp_path / "bad.json").write_text("{")
    assert machine_files(tmp_path) == {"good": {"hardware": {"cpu": "x"}}}
