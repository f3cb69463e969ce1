"""Records that chance has poisoned, in any place: every page is built, says nothing it was told to, and works."""

from __future__ import annotations

import json
import random
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, why_not
from many_records import kernels, record

from benchmarks.problems import resolve
from reports import build, markdown

pytest.importorskip("jinja2", reason="the page needs jinja2: pip install 'convzoo[report]'")
pytest.importorskip("matplotlib", reason="the figures need matplotlib: pip install 'convzoo[report]'")

EVIL = "</script><script>window.pwned=1</script><img src=x onerror='window.pwned=2'>\"'`{{7*7}}<!-- /results -->|"
NAMES = (
    "",
    EVIL,
    "NaN",
    "1e5",
    "\u202e\u2066abc\u2069",
    "\ud800",
    "\x00\x07",
    "e\u0301" * 50,
    "👩‍👩‍👧‍👦" * 20,
    "x" * 5000,
    "\u2028\u2029",
    "__proto__",
    "constructor",
    "toString",
    "../../etc/passwd",
    "=cmd|' /C calc'!A0",
    "a/b",
    "/",
    "n1c999999999999h999999999999w9k9r1s1",
    "n1c1h1w1k1r1s1-f64",
    "9999-12-31T23:59:59+23:59",
    "$(reboot)",
)
VALUES = (
    None,
    True,
    0,
    -0.0,
    -1,
    1e-320,
    1e308,
    float("nan"),
    float("inf"),
    float("-inf"),
    10**400,
    2**63,
    1e17,
    [],
    {},
    [[]],
    [None] * 5,
    {"a": {"b": {"c": {"d": {}}}}},
    {"__proto__": {"x": 1}},
    {"": ""},
    {"n": EVIL},
    [["a", "n1c4h12w12k4r3s3-p1", 1]],
    ["packed", "eager"],
)
REGRESS = {
    "schema": "convzoo.regress/1",
    "machine": "m",
    "sentence": "s",
    "command": ["a"],
    "warnings": ["w"],
    "base": {"label": "b"},
    "head": {"label": "h"},
    "summary": {"round_noise": 0.01, "visible": 0.02},
    "cells": [
        {
            "kernel": "a/b",
            "problem": "p",
            "scenario": "packed",
            "verdict": verdict,
            "ratio": 1.1,
            "low": 1.0,
            "high": 1.2,
            "moved": ["x"],
            "base": {"seconds": 1, "status": "ok"},
            "head": {"status": "wrong", "why": "y"},
        }
        for verdict in ("slower", "newly wrong", "faster", "cannot tell")
    ],
}
CODE = {
    "schema": "convzoo.gpu-code/1",
    "columns": {"kernel": "x", "registers": "y"},
    "problems": ["p"],
    "rows": [{"kernel": "a/b", "problem": "p", "registers": 3}],
    "compilers": {"a": "b"},
}


def poisoned(node: Any, rng: random.Random, part: float) -> Any:
    """The same, but about this part of what it holds is gone, renamed or something else."""
    if rng.random() < part:
        return rng.choice((*NAMES, *VALUES))
    if isinstance(node, dict):
        kept = [(k, v) for k, v in node.items() if rng.random() > part / 3]
        return {rng.choice(NAMES) if rng.random() < part / 9 else k: poisoned(v, rng, part) for k, v in kept}
    return [poisoned(v, rng, part) for v in node] if isinstance(node, list) else node


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> list[list[dict[str, Any]]]:
    """The lines of two good records."""
    folder = tmp_path_factory.mktemp("good")
    paths = [
        record(
            folder,
            f"m{i}",
            kernels(4),
            resolve(["tiny", "seed"]),
            commit=i,
            rounds=3,
            scenarios=("packed", "eager"),
            raw=3,
        )
        for i in range(2)
    ]
    return [[json.loads(line) for line in path.read_text().splitlines()] for path in paths]


def room(folder: Path, whole: list[list[dict[str, Any]]], seed: int) -> Path:
    """A reports room of poisoned records, with a document of regress and a table of GPU code."""
    rng = random.Random(seed)
    for i, lines in enumerate(whole):
        part = rng.choice((0.002, 0.01, 0.05, 0.3))
        path = folder / "records" / "m" / f"{i}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        made = []
        for j, line in enumerate(lines):
            mine = {k: poisoned(v, rng, part) for k, v in line.items() if rng.random() > part / 3}
            fixed = {"schema": "convzoo.record/1", "kind": "run", "suite": 1} if j == 0 else {}
            made.append(mine | ({"kind": line["kind"]} if rng.random() < 0.8 else {}) | fixed)
        path.write_text("".join(json.dumps(line) + "\n" for line in made))
    (folder / "regressions").mkdir()
    document = {k: poisoned(v, rng, 0.1) for k, v in REGRESS.items()} | {"schema": REGRESS["schema"]}
    (folder / "regressions" / "a.json").write_text(json.dumps(document))
    table = {k: poisoned(v, rng, 0.1) for k, v in CODE.items()} | {"schema": CODE["schema"]}
    (folder / "gpu_code.json").write_text(json.dumps(table))
    return folder


class Tags(HTMLParser):
    def __init__(self, html: str):
        super().__init__()
        self.found: list[str] = []
        self.handlers: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


def strict(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


@pytest.mark.parametrize("seed", range(16))
def test_poisoned_records_make_a_harmless_page(whole, tmp_path, monkeypatch, seed):
    if seed % 4:
        monkeypatch.setattr(build.figures, "figures", lambda run: [])  # they take most of the time
    found, content = build.committed(room(tmp_path, whole, seed))
    tags = Tags(content["report.html"])
    assert tags.found.count("script") == 2 and not tags.handlers
    assert not {"img", "iframe", "object", "embed", "base", "form"} & set(tags.found)
    data = re.search(r'id="data">(.*?)</script>', content["report.html"], re.S)
    assert data and json.loads(data[1], parse_constant=strict)
    assert json.loads(content["report.json"], parse_constant=strict)
    for text in (content["README.md"], markdown.readme_table(found.runs)):
        assert not re.search("<script|<img|<!--", text)


# Every machine, scenario, unit and section, and a cell; what went wrong, and how wide the page became.
WORK = """
const bad = [];
try {
  DATA.machines.forEach(function (_, m) {
    setMachine(m);
    for (const scenario of S.machine.scenarios) {
      setScenario(scenario);
      for (const unit of Object.keys(UNITS)) { setUnit(unit); render("heat"); }
      for (const need of [0, 3]) { S.need = need; sayNeed(); Object.keys(SECTIONS).forEach(render); }
      for (const cell of [S.machine.list.find((c) => c.ran), S.machine.list.find((c) => !c.ran)])
        if (cell) { choose(cell); Object.keys(SECTIONS).forEach(render); }
    }
  });
} catch (error) { bad.push(String(error) + error.stack); }
const drawn = [...document.querySelectorAll("svg *")];
return [bad, window.pwned === undefined, document.images.length, document.documentElement.scrollWidth,
  drawn.filter((e) => [...e.attributes].some((a) => /NaN|Infinity|undefined/.test(a.value))).length]"""


@pytest.mark.slow
def test_poisoned_pages_work_in_a_browser(whole, tmp_path):
    if reason := why_not():
        pytest.skip(f"the page {reason}")
    browser = Browser()
    try:
        browser.size(1366, 900)
        for seed in range(20, 32):
            folder = tmp_path / str(seed)
            folder.mkdir()
            _, content = build.committed(room(folder, whole, seed))
            page = folder / "report.html"
            page.write_text(content["report.html"], encoding="utf-8")
            browser.open(page)
            bad, harmless, images, wide, broken = browser.run(WORK)
            assert (bad, harmless, images, broken) == ([], True, 0, 0), f"seed {seed}"
            assert wide <= 1366, f"seed {seed}"
            assert browser.errors() == [] and browser.requests() == [page.as_uri()], f"seed {seed}"
    finally:
        browser.close()
