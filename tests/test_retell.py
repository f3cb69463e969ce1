"""The page that retells the seed: its code runs, its numbers are those of a record, and it is current."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from invented import written

from reports import __main__ as command
from reports import retell
from reports.load import load
from reports.values import Unreadable

pytest.importorskip("jinja2", reason="the page needs jinja2: pip install 'convzoo[report]'")
ROOM = Path(retell.__file__).parent
PAGE = ROOM / "seed.md"
CLIMB = {k: (3.0**-i, "direct", "elementwise") for i, k in enumerate(retell.CLIMB)}
SEED = (retell.PROBLEM,)


def test_the_committed_page_is_what_its_code_prints_and_its_record_says(tmp_path, capsys, monkeypatch):
    for library in ("torch", "PIL", "matplotlib"):
        pytest.importorskip(library, reason=f"the page needs {library}: pip install 'convzoo[cpu,report]'")
    name = retell.written_from(PAGE.read_text("utf-8"))
    text = retell.page(ROOM / name, name)
    assert text == PAGE.read_text("utf-8"), "out of date; to write it: python -m reports retell"
    assert "below 1e-7: True" in text and text.count("right: True") == len(retell.CLIMB) and "False" not in text
    monkeypatch.setattr(retell, "page", lambda record, called: text)
    copy = Path(shutil.copy(PAGE, tmp_path))
    assert command.main(["retell", "--check", "--out", str(copy)]) == 0
    copy.write_text(text.replace("right: True", "right: 1", 1), "utf-8")
    assert command.main(["retell", "--check", "--out", str(copy)]) == 1
    assert "is out of date" in capsys.readouterr().err
    assert command.main(["retell", "--out", str(copy)]) == 0 and copy.read_text("utf-8") == text


def test_blocks_share_a_namespace_and_show_what_they_print():
    text = "a\n\n```python\nn = 2\n```\n\nb\n\n```python\nprint(n + 1)\n```\nc\n"
    want = "a\n\n```python\nn = 2\n```\n\nb\n\n```python\nprint(n + 1)\n```\n\n```text\n3\n```\nc\n"
    assert retell.executed(text) == want
    with pytest.raises(retell.Failed, match="line 4 fails: ZeroDivisionError"):
        retell.executed("a\n\n```python\n1 / 0\n```\n")
    with pytest.raises(retell.Failed, match="SyntaxError"):
        retell.executed("```python\nif\n```\n")


def test_numbers_come_from_the_record(tmp_path):
    told = retell.numbers(load(written(tmp_path, kernels=CLIMB, problems=SEED, noise=0.001)))
    assert [row["kernel"] for row in told["rows"]] == list(retell.CLIMB)
    assert {row["step"] for row in told["rows"][1:]} == {"3.00×"} and told["rows"][0]["step"] == "–"
    assert told["rows"][-1]["whole"] == "2,187×" and told["first_time"] == "92.3 µs"
    step = told["step"]("numba/naive", "numpy/per_channel")
    assert step.startswith("takes 30.8 µs, 3.00× faster than numpy/per_channel (")
    assert f"{retell.CLIMB[-1]} is the fastest" in told["ending"] and "350 GFLOP/s" in told["limit_words"]


def test_a_step_that_is_slower_or_missing_or_unsure_is_said_to_be(tmp_path):
    kernels = {k: v for k, v in CLIMB.items() if k != "numba/parallel"}
    kernels |= {"numpy/shifted": (9.0, "direct", "elementwise"), "numpy/im2col": (9.0, "gemm", "elementwise")}
    told = retell.numbers(load(written(tmp_path, kernels=kernels, problems=SEED, noise=0.05)))
    assert told["step"]("numba/parallel", "numba/naive") == "was not timed in this record"
    assert re.search(r"here 2[5-9]\.\d× as long as numba/naive", told["step"]("numpy/shifted", "numba/naive"))
    assert "which the rounds cannot tell from numpy/shifted" in told["step"]("numpy/im2col", "numpy/shifted")


def test_refusals(tmp_path, capsys):
    path = written(tmp_path, problems=("n1c4h12w12k4r3s3-p1",))
    with pytest.raises(Unreadable, match="has no time of numpy/per_channel"):
        retell.numbers(load(path))
    with pytest.raises(Unreadable, match="no record below"):
        retell.newest(tmp_path)
    (tmp_path / "old.md").write_text("<!-- Written by x from t and records/box/gone.jsonl; edit the template. -->")
    with pytest.raises(SystemExit) as stopped:
        command.main(["retell", "--check", "--out", str(tmp_path / "old.md")])
    said = capsys.readouterr().err
    assert stopped.value.code == 3 and "gone.jsonl, which is not there" in said and said.count("\n") == 1
