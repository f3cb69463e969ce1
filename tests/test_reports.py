"""The reports: what they read, what they say, and that no record can break or deceive a page."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import math
import random
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import many_records
import pytest

from benchmarks import compare, evidence, record
from benchmarks import words as wording
from benchmarks.problems import Layer, resolve
from convzoo import Conv2d
from reports import __main__ as command
from reports import across, answer, build, markdown, timeline, views
from reports import collect as collect_module
from reports.collect import collect
from reports.load import load
from reports.page import embedded
from reports.values import Unreadable

pytest.importorskip("jinja2", reason="the page needs jinja2: pip install 'convzoo[report]'")
pytest.importorskip("matplotlib", reason="the figures need matplotlib: pip install 'convzoo[report]'")

ROOT = Path(__file__).resolve().parent.parent
PROBLEMS = ("n1c4h12w12k4r3s3-p1", "n1c3h128w128k4r5s5", "n1c64h28w28k64r3s3-p1")
KERNELS = {
    "torch_cpu/builtin": (1.0, "direct", "elementwise"),
    "numba/direct": (0.5, "direct", "elementwise"),
    "numpy/im2col": (4.0, "gemm", "elementwise"),
    "numpy/fft": (0.4, "fft", "normwise"),
}
HEADER = {
    "suite": 2,
    "method": "compare",
    "machine": "test-machine",
    "hardware": {"cpu": "a CPU", "gpus": []},
    "started": "2026-11-23T07:50:11+00:00",
    "commit": "0123456789abcdef",
    "dirty": False,
    "command": ["python", "-m", "benchmarks", "compare", "--kernels", "numpy/*"],
    "preset": "quick",
    "threads": 2,
    "scenarios": ["packed"],
    "seed": 7,
    "warnings": [],
}
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{7*7}}<!-- /results -->|`x`$\\a$"


def written(folder: Path, rounds: int = 6, faults: dict | None = None, **header) -> Path:
    """A record as the coordinator writes one, of invented times; ``faults`` by (kernel, problem)."""
    rng = random.Random(3)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "20261123T075011Z-quick.jsonl"
    log = record.Record(path, HEADER | header)
    cells = [
        compare.Cell(kernel, Layer(f"layer{i}", Conv2d.parse(problem)), "packed")
        for kernel in KERNELS
        for i, problem in enumerate(PROBLEMS)
    ]
    sweep = compare.Sweep(cells, compare.PRESETS["quick"], 2, 7, log)
    for i in range(rounds):
        for cell in rng.sample(cells, len(cells)):
            if cell.status != "ok":
                continue
            fault = (faults or {}).get((cell.kernel, str(cell.layer.problem)))
            if fault and fault[0] in ("unsupported", "unavailable"):
                sweep._drop(cell, *fault)
                continue
            seconds = cell.layer.problem.flops * 1e-11 * KERNELS[cell.kernel][0] * rng.uniform(0.98, 1.02)
            reply = {
                "status": "ok",
                "plan_seconds": 1e-3,
                "pack_seconds": 2e-5,
                "workspace": 4096,
                "algorithm": KERNELS[cell.kernel][1],
                "accuracy": KERNELS[cell.kernel][2],
                "error": {"max_error": 1e-7, "mean_error": 1e-8, "score": 1.5 + i, "budget": 0.1},
                "seconds": seconds,
                "q25": seconds,
                "q75": seconds,
                "samples": 9,
                "number": 1,
            }
            if fault:
                reply = {"status": fault[0], "why": fault[1]}
                cell.status, cell.why = fault
            cell.rounds[i] = reply = record.short(reply)
            log.add({"kind": "round", "round": i, **cell.key, **reply})
    sweep.summarize("torch_cpu/builtin")
    log.add(
        {
            "kind": "end",
            "status": "complete",
            "libraries": {"numpy": {"numpy": "2.4"}},
            "sentence": "numba/direct is 2.00x faster.",
        }
    )
    log.close()
    return path


def rewritten(path: Path, change) -> Path:
    """The record with every line passed through ``change``; None leaves a line out."""
    lines = [change(json.loads(text)) for text in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines if line is not None))
    return path


def rendered(*records: Path) -> tuple[str, str]:
    out = records[0].parent / "out"
    assert command.main(["render", *map(str, records), "--out", str(out)]) == 0
    return (out / "report.html").read_text("utf-8"), (out / "README.md").read_text("utf-8")


def data_of(html: str) -> dict:
    """What the page's script works with."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)[1])


def refusal(capsys, *arguments: str) -> str:
    """The one sentence with which a command refuses, exit code 3."""
    with pytest.raises(SystemExit) as stopped:
        command.main(list(arguments))
    said = capsys.readouterr()
    assert stopped.value.code == 3 and said.out == ""
    assert said.err.count("\n") == 1 and "Traceback" not in said.err
    return said.err


class Page(HTMLParser):
    """What a browser would make of a page: tags, attributes, visible text."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data):
        self.text += data


def test_two_rounds_tell_nothing_apart():
    slow, quick = {0: 2.0, 1: 2.0, 2: 2.0}, {0: 1.0, 1: 1.0, 2: 1.0}
    assert evidence.told_apart(slow, quick)
    assert not evidence.told_apart({0: 2.0, 1: 2.0}, quick)
    assert not evidence.told_apart(slow, {7: 1.0})


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0009996, "1 ms"), (0.000812, "812 µs"), (12.34, "12.3 s"), (3e-10, "0.3 ns"), (1234.5, "1,234 s"), (None, "–")],
)
def test_seconds_in_words(seconds, words):
    assert wording.seconds_text(seconds) == words


@pytest.mark.parametrize(
    ("speed", "words"), [(1.0, "1.00×"), (0.0026, "0.0026×"), (12.34, "12.3×"), (99.96, "100×"), (1234.4, "1,234×")]
)
def test_speed_in_words(speed, words):
    assert wording.speed_text(speed) == words


def test_cut_off_record_gives_the_numbers_of_a_whole_one(tmp_path):
    """Without cell lines, medians, intervals and speeds come from the rounds, by the same rules."""
    path = written(tmp_path)
    whole = {(c.kernel, c.problem): c for c in load(path).cells}
    cut = load(rewritten(path, lambda line: None if line["kind"] in ("cell", "end") else line))
    assert cut.ended == "cut off" and cut.baseline == "torch_cpu/builtin"
    assert len(cut.cells) == len(whole) == len(KERNELS) * len(PROBLEMS)
    for c in cut.cells:
        other = whole[c.kernel, c.problem]
        for name in ("seconds", "low", "high", "confidence", "speed", "accuracy", "flops"):
            got, want = getattr(c, name), getattr(other, name)
            # a record keeps six digits, of its summaries too
            assert got == (want if isinstance(want, str) else pytest.approx(want, rel=5.01e-6)), name


def test_last_line_that_was_cut_off_is_left_out(tmp_path):
    path = written(tmp_path)
    text = path.read_text()
    path.write_text(text[: text.index('"kind": "cell"') + 30])
    html, summary = rendered(path)
    assert "The run was cut off before it could say who won; 12 cells" in html
    assert "the run was cut off" in summary


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "no such file"),
        ("", "is empty"),
        ('{"schema": "convzoo.rec', "cut off in its first line"),
        ('{"schema": "convzoo.record/2", "kind": "run"}\n', "newer schema convzoo.record/2"),
        ('{"schema": "other/1", "kind": "run"}\n', "got other/1"),
        ('{"schema": "convzoo.record/1", "kind": "cell"}\n', "not a record"),
        ('{"schema": "convzoo.record/1", "kind": "run"}\nnonsense\n', "no JSON in line 2"),
        ('{"schema": "convzoo.record/1", "kind": "run"}\n[1]\n', "line 2 is not a JSON object"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_unusable_record_is_refused_in_one_sentence(tmp_path, capsys, content, sentence):
    path = tmp_path / "a.jsonl"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert sentence in refusal(capsys, "render", str(path), "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["publish"], ["decompose", "--seed", "-1"]])
def test_wrong_usage_is_exit_code_3(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(arguments)
    assert stopped.value.code == 3
    assert "python -m reports" in capsys.readouterr().err


def test_help_imports_nothing_heavy():
    code = (
        "import sys, contextlib\nfrom reports.__main__ import main\n"
        "with contextlib.suppress(SystemExit): main(['--help'])\n"
        "print(*({'numpy', 'matplotlib', 'jinja2', 'torch', 'convzoo', 'PIL'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "decompose" in done.stdout and done.stderr.strip() == ""


def test_page_says_what_was_measured(tmp_path):
    faults = {("numpy/im2col", PROBLEMS[2]): ("unsupported", "needs a smaller image")}
    html, summary = rendered(written(tmp_path, faults=faults, warnings=["the governor is powersave"], dirty=True))
    page = Page(html)
    for words in (
        "test-machine, 2 threads",
        "0123456789 + uncommitted changes",
        "2026-11-23 07:50 UTC",
        "numba/direct is fastest over",
        "While measuring: the governor is powersave",
        "needs a smaller image",
        "numpy 2.4",
        "a CPU",
        "python -m benchmarks compare --kernels 'numpy/*'",
        "at least elementwise",
        "at least normwise",
        "What this page cannot tell",
        "What is timed, and what is not",
    ):
        assert words in page.text, words
    assert 'role="alert"' not in html
    data = data_of(html)
    cells = data["machines"][0]["cells"]
    assert len(cells["kernel"]) == len(KERNELS) * len(PROBLEMS)
    assert [tuple(data["reasons"][i]) for i in cells["why"] if i is not None] == [
        ("skipped", "unsupported", "needs a smaller image")
    ]
    assert {k["name"] for k in data["kernels"] if k["effective"]} == {"numpy/fft"}
    for group, n in (("ran", 11), ("wrong", 0), ("failed", 0), ("skipped", 1)):
        assert re.search(rf"<b>{n}</b> {group} ", html), group
    for words in ("machine: test-machine", "numba/direct", "**told apart**", "1 unsupported: needs a smaller image"):
        assert words in summary, words


def test_answer_is_by_required_accuracy(tmp_path):
    """numpy/fft is the quickest, and wins only where its guarantee is enough."""
    run = collect([written(tmp_path)]).runs[0]
    (group,) = views.page(run, 1)["headlines"]
    strict, loose = group["lines"]
    assert (strict["need"], strict["kernel"]) == ("elementwise", "numba/direct")
    assert (loose["need"], loose["kernel"]) == ("normwise", "numpy/fft")
    assert strict["sure"] and "ahead of torch_cpu/builtin" in strict["margin"]
    assert strict["speed"].startswith(("1.99×", "2.00×", "2.01×"))


def test_few_rounds_cannot_tell(tmp_path):
    run = collect([written(tmp_path, rounds=2)]).runs[0]
    strict = views.page(run, 1)["headlines"][0]["lines"][0]
    assert strict["kernel"] == "numba/direct" and not strict["sure"]
    assert strict["margin"] == "all of these problems share 2 rounds, too few to tell"


def test_one_round_has_no_interval(tmp_path):
    run = collect([written(tmp_path, rounds=1)]).runs[0]
    strict = views.page(run, 1)["headlines"][0]["lines"][0]
    assert strict["speed"].endswith("(1 round)") and "share 1 round" in strict["margin"]


def test_a_problem_of_few_rounds_does_not_spoil_the_answer(tmp_path):
    """It is named and left out; the others keep their intervals."""

    def shortened(line):
        few = line.get("problem") == PROBLEMS[0]
        if few and line["kind"] == "cell":
            line |= {"rounds": 1, "round_seconds": line["round_seconds"][:1]}
        return None if few and line["kind"] == "round" and line["round"] else line

    run = collect([rewritten(written(tmp_path), shortened)]).runs[0]
    (group,) = views.page(run, 1)["headlines"]
    assert group["problems"] == "2 problems" and group["without"] == "without layer0: too few rounds to tell"
    assert group["lines"][0]["sure"] and "round" not in group["lines"][0]["speed"]


def test_batches_and_layouts_are_ranked_apart(tmp_path):
    """And a network measured at several of them is told for each."""
    layers = resolve(["resnet50"])[:3]
    paths = []
    for i, (batch, layout) in enumerate(((1, "nchw"), (16, "nchw"), (16, "nhwc"))):
        mine = [replace(x, problem=replace(x.problem, N=batch, layout=layout)) for x in layers]
        path = many_records.record(tmp_path, "m", many_records.kernels(4), mine, seed=i)
        network = {"net": [[x.name, str(x.problem), x.count] for x in mine]}
        paths.append(rewritten(path, lambda x, n=network: x | {"networks": n} if x["kind"] == "run" else x))
    view = views.page(collect(paths).runs[0], 1)
    kinds = ["nchw, float32, batch 1", "nchw, float32, batch 16", "nhwc, float32, batch 16"]
    assert sorted(g["name"] for g in view["headlines"]) == [f"cpu, packed, {kind}" for kind in kinds]
    assert [n["name"] for n in view["networks"]] == [f"cpu, packed, {kind}" for kind in kinds]
    assert [n["title"].split(",")[0] for n in view["networks"]] == ["net"] * 3


def test_warnings_that_differ_in_a_number_are_said_once(tmp_path):
    paths = [
        written(
            tmp_path / str(i),
            started=f"2026-11-2{i}T00:00:00",
            warnings=[f"other work: load {i}.5"],
            kernels=list(KERNELS),
            problems=[["a", PROBLEMS[i], 1]],
        )
        for i in range(3)
    ]
    paths = [
        rewritten(p, lambda x, i=i: x if x.get("problem", PROBLEMS[i]) == PROBLEMS[i] else None).rename(
            p.with_name(f"{i}.jsonl")
        )
        for i, p in enumerate(paths)
    ]
    (notice,) = views.notices(collect(paths).runs[0])
    assert notice == "2, 1, 0: While measuring: other work: load 0.5 to 2.5"


def test_network_time_weighs_layers(tmp_path):
    """Two layers, of which one occurs three times: the sum is of counts times seconds."""
    networks = {"net": [["a", PROBLEMS[0], 1], ["b", PROBLEMS[1], 3]], "gone": [["c", "n1c9h9w9k9r1s1", 1]]}
    run = collect([written(tmp_path, networks=networks)]).runs[0]
    found = answer.networks(run)
    assert {n.name for n in found} == {"net"}  # a layer that was not timed leaves no sum
    strict = found[0]
    assert (strict.need, strict.layers) == ("elementwise", 4)
    seconds = {(c.kernel, c.problem): c.seconds for c in run.cells}
    bill = next(b for b in strict.bills if b.kernel == "numpy/im2col")
    parts = [seconds["numpy/im2col", q] for q in PROBLEMS[:2]]
    assert bill.seconds[0] == pytest.approx(parts[0] + 3 * parts[1])
    assert strict.bills[0].seconds[0] <= bill.seconds[0] and "numpy/fft" not in [b.kernel for b in strict.bills]
    assert any("numpy/fft" in b.wins for n in found if n.need == "normwise" for b in n.bills)


def test_wrong_result_stands_above_everything(tmp_path):
    faults = {
        ("numba/direct", PROBLEMS[0]): ("wrong", "3 of 9 outputs outside the elementwise bound"),
        ("numpy/im2col", PROBLEMS[1]): ("crashed", "the process died of signal 11"),
    }
    html, summary = rendered(written(tmp_path, faults=faults))
    assert html.index('role="alert"') < html.index("<header")
    assert "1 wrong result, 1 crashed" in html
    assert html.index("3 of 9 outputs") < html.index("<header") > html.index("signal 11")
    assert summary.index("**WRONG**") < summary.index("## test-machine")
    assert "python -m benchmarks check numba/direct --problems n1c4h12w12k4r3s3-p1 --seed 7" in html
    assert "| **wrong** |" in summary


def test_layers_of_known_networks_come_first_whatever_record_is_the_widest(tmp_path):
    """ResNet-50 packed in NCHW with N = 1 is what a newcomer knows; a set of many layers must not hide it."""
    from benchmarks.problems import NETWORKS, resolve

    assert collect_module.NETWORKS == NETWORKS
    wanted = [("deepbench", None, None, "packed"), ("mobilenet", None, None, "packed")]
    wanted += [("resnet50", 16, None, "packed"), ("resnet50", None, "nhwc", "packed")]
    wanted += [("resnet50", None, None, "eager"), ("resnet50", None, None, "packed")]
    paths = []
    for number, (name, batch, layout, scenario) in enumerate(wanted):
        layers = resolve([name], batch, layout)
        layers += resolve(["ladder"]) if name == "deepbench" else []
        names = many_records.kernels(3)
        like = {"commit": number, "rounds": 2, "scenarios": (scenario,)}
        paths.append(many_records.record(tmp_path, "box", names, layers, **like))
    (run,) = collect(paths).runs
    order = list(dict.fromkeys((c.problem, c.scenario) for c in run.cells))
    expected = []
    for name, batch, layout, scenario in reversed(wanted):
        expected += [(str(layer.problem), scenario) for layer in resolve([name], batch, layout)]
    resnet = [expected[i : i + 20] for i in range(0, 80, 20)]  # packed, eager, nhwc, N = 16
    first = [*resnet[0], *resnet[1], *resnet[3], *resnet[2]]
    assert order[:80] == first and order[80] == (str(resolve(["mobilenet"])[0].problem), "packed")
    assert order[-1] == (str(resolve(["ladder"])[-1].problem), "packed")


def test_json_has_each_name_of_a_column_once_and_says_what_the_csv_says(tmp_path):
    path = written(tmp_path, faults={("numpy/im2col", PROBLEMS[0]): ("unsupported", "no")})
    rendered(path)
    document = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    head, *lines = csv.reader((tmp_path / "out" / "cells.csv").read_text("utf-8").splitlines())
    assert document["schema"] == "convzoo.report/2" and document["columns"] == head
    told = [["" if value is None else value for value in row] for row in document["cells"]]
    assert len(told) == len(lines) > 1
    for row, line in zip(told, lines, strict=True):
        for value, word in zip(row, line, strict=True):
            assert str(value) == word or float(value) == float(word)


def test_same_record_gives_the_same_bytes(tmp_path):
    path = written(tmp_path)
    first = rendered(path)
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "reports", "render", str(path), "--out", str(tmp_path / seed)],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT / "kernels"), "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        files = done.stdout.splitlines()
        assert [Path(f).name for f in files[:4]] == ["report.html", "README.md", "cells.csv", "report.json"]
        assert len(files) > 5 and all(f.endswith(".svg") for f in files[4:])
        assert tuple(Path(f).read_text("utf-8") for f in files[:2]) == first
        for f in files:
            assert (path.parent / "out" / Path(f).relative_to(tmp_path / seed)).read_bytes() == Path(f).read_bytes()


def test_work_shared_among_cores_gives_the_same_bytes(tmp_path, monkeypatch):
    paths = [written(tmp_path / str(i), machine=f"machine-{i}") for i in range(3)]
    alone = build.of_records(paths)
    for module in (build, collect_module):
        monkeypatch.setattr(module, "MANY", 0)
    assert build.of_records(paths) == alone and any("speeds.svg" in name for name in alone)


def test_page_asks_nothing_of_a_network_and_runs_one_script(tmp_path):
    html, _ = rendered(written(tmp_path))
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#|data:,)""", html)
    named = html.replace('"http://www.w3.org/2000/svg"', "")  # the name of a vocabulary, never asked for
    assert "url(http" not in named and "@import" not in named and "://" not in named
    script = re.search(r"<script>(.*?)</script>", html, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1].replace("&#39;", "'")
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy


def hostile(line: dict) -> dict:
    """A line with poison in every text, and numbers that are none."""
    for key in ("machine", "preset", "started", "why", "sentence", "layer", "commit"):
        if key in line:
            line[key] = EVIL + "\u202e\ud800\x00"
    if line["kind"] == "run":
        line |= {"hardware": {EVIL: [{EVIL: EVIL}], "cpu": None}, "command": ["python", EVIL], "warnings": [EVIL, 3]}
        line |= {"threads": {"n": EVIL}, "seed": math.nan}
    if line.get("kernel") == "numpy/im2col":
        line["kernel"] = EVIL
    if line["kind"] == "cell" and line["kernel"] == "numpy/fft":
        line |= {"seconds": math.nan, "flops": "many", "error": "NaN", "low": math.inf, "workspace": True}
    if line["kind"] == "end":
        line["libraries"] = {EVIL: {EVIL: EVIL}, "numpy": None}
    return line


def test_hostile_record_neither_runs_nor_breaks_the_page(tmp_path):
    faults = {("numba/direct", PROBLEMS[0]): ("wrong", "x"), ("numba/direct", PROBLEMS[1]): ("unsupported", "x")}
    html, summary = rendered(rewritten(written(tmp_path, faults=faults), hostile))
    page = Page(html)
    assert page.tags.count("script") == 2 and "img" not in page.tags  # the data, and the script itself
    assert not {"iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert not re.search("[\ud800-\udfff\u202e\x00]", html)
    assert EVIL in page.text and "7*7" in page.text
    assert EVIL in [k["name"] for k in data_of(html)["kernels"]]
    assert "<script" not in summary and "<img" not in summary and "<!--" not in summary


def test_data_cannot_end_its_element():
    words = embedded({"a": "</script><!--<script>&\u2028"})
    assert "<" not in words and ">" not in words and json.loads(words) == {"a": "</script><!--<script>&\u2028"}


def test_spreadsheet_takes_no_cell_for_a_formula(tmp_path):
    from reports import export

    path = rewritten(written(tmp_path), lambda line: line | {"kernel": "=cmd|x"} if "kernel" in line else line)
    table = export.as_csv(export.rows(collect([path]).runs))
    assert "'=cmd|x" in table and ",=cmd" not in table


def test_missing_fields_and_foreign_lines_still_render(tmp_path):
    path = tmp_path / "bare.jsonl"
    lines = [
        {"schema": "convzoo.record/1", "kind": "run"},
        {"kind": "cell"},
        {},
        {"kind": ["x"]},
        {"kind": "round"},
        {"kind": "skip", "kernel": "a/b"},
        {"kind": "cell", "kernel": "a/c", "status": "ok"},
        {"kind": "cell", "kernel": "a/d", "problem": "p", "status": "ok", "seconds": 1e-3},
        {"kind": "end"},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    html, summary = rendered(path)
    assert "machine not recorded" in html and "the record holds no time for it" in html
    assert "a/d" in summary
    path.write_text(json.dumps(lines[0]) + "\n")
    assert "Cells: none." in rendered(path)[1]


def test_interrupted_run_tells_unreached_cells_from_failed_ones(tmp_path):
    def interrupted(line):
        if line["kind"] == "end":
            line["status"] = "interrupted"
        if line["kind"] == "cell" and line["kernel"] == "numpy/fft":
            line = {k: line[k] for k in ("kind", "kernel", "problem", "scenario", "layer")}
            line |= {"status": "timeout", "why": "never measured"}
        return None if line["kind"] == "round" and line["kernel"] == "numpy/fft" else line

    html, _ = rendered(rewritten(written(tmp_path), interrupted))
    assert "The run ended early (interrupted)" in html and 'role="alert"' not in html
    assert "<b>3</b> unreached" in html and "<b>0</b> failed" in html


def test_machines_side_by_side(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    first = written(tmp_path / "one")
    second = written(tmp_path / "two", rounds=4, machine="other-machine", threads=8)
    html, summary = rendered(first, second)
    assert "Which machine" in Page(html).text and "## Which machine" in summary
    assert [m["label"] for m in data_of(html)["machines"]] == ["test-machine, 2 threads", "other-machine, 8 threads"]
    assert "## test-machine, 2 threads" in summary and "## other-machine, 8 threads" in summary


def test_newest_record_of_a_race_counts(tmp_path):
    """A later look at two kernels replaces no table of four; a later table does."""
    old = written(tmp_path / "a", machine="m", kernels=list(KERNELS), started="2026-11-01T00:00:00+00:00")
    new = written(tmp_path / "b", machine="m", kernels=list(KERNELS), started="2026-11-02T00:00:00+00:00")
    new = new.rename(new.with_name("new.jsonl"))
    (run,) = collect([old, new]).runs
    assert {c.source for c in run.cells} == {"new"} and len(run.cells) == len(KERNELS) * len(PROBLEMS)
    narrow = rewritten(
        new,
        lambda x: (
            x | {"kernels": ["numpy/fft"]}
            if x["kind"] == "run"
            else None
            if x.get("kernel", "numpy/fft") != "numpy/fft"
            else x
        ),
    )
    (run,) = collect([old, narrow]).runs
    assert {c.source for c in run.cells} == {old.stem} and len(run.cells) == len(KERNELS) * len(PROBLEMS)


def test_speeds_of_all_records_are_against_one_baseline(tmp_path):
    """A record that had another is told anew, and has no speed where that one did not run."""
    layers = resolve(["tiny", "seed"])
    names = many_records.kernels(4)
    paths = [
        many_records.record(tmp_path, "m", names, layers[:1], seed=0),
        many_records.record(tmp_path, "m", names, layers[1:2], seed=1),
        many_records.record(tmp_path, "m", names[::-1], layers[2:], seed=2),
        many_records.record(tmp_path, "m", names[1:], layers[2:], seed=3, scenarios=["eager"]),
    ]
    (run,) = collect(paths).runs
    assert run.baseline == names[0]
    packed = [c.speed for c in run.of(kernel=names[0], scenario="packed")]
    assert packed == [(1.0, 1.0, 1.0)] * len(layers)
    assert all(c.speed for c in run.of(scenario="packed"))
    assert not any(c.speed for c in run.of(scenario="eager"))


def test_a_later_look_of_one_round_replaces_no_evidence(tmp_path):
    old = written(tmp_path / "a", machine="m", started="2026-11-01T00:00:00+00:00")
    new = written(tmp_path / "b", machine="m", rounds=1, started="2026-11-02T00:00:00+00:00")
    (run,) = collect([old, new.rename(new.with_name("new.jsonl"))]).runs
    assert {c.source for c in run.cells} == {old.stem}


@pytest.mark.parametrize(
    ("factors", "rounds", "steps"),
    [
        ((1, 1.5), 6, 1),  # two commits, and intervals far apart
        ((1, 1.5), 2, 0),  # two rounds have no interval: a bad day is no step
        ((1, 1.02), 6, 0),
        ((1,) * 5 + (2,) * 5, 2, 1),  # both levels lasted
    ],
)
def test_a_step_takes_evidence(tmp_path, factors, rounds, steps):
    pytest.importorskip("asv", reason="steps are found by asv: pip install 'convzoo[bench]'")
    layers = resolve(["tiny"])[:1]
    paths = []
    for commit, factor in enumerate(factors):
        path = many_records.record(tmp_path, "m", many_records.kernels(2), layers, commit=commit, rounds=rounds)

        def slowed(line, factor=factor):
            times = {k: line[k] * factor for k in ("seconds", "low", "high") if k in line}
            return line | times if line["kind"] == "cell" else line

        paths.append(rewritten(path, slowed))
    found = timeline.steps(timeline.tracks(collect(paths).glances, None))
    assert len(found) == steps * 2
    assert all(s.moved == [] for s in found)  # the same machine code: it says so


def test_suites_never_mix(tmp_path):
    """A machine's newest suite speaks for it; machines are ranked against each other within the newest alone."""
    paths = [
        written(tmp_path / f"{machine}{suite}", machine=machine, suite=suite)
        for machine, suite in (("old", 1), ("both", 1), ("both", 2), ("new", 2))
    ]
    found = collect(paths)
    assert {(run.machine, run.suite) for run in found.runs} == {("old", 1), ("both", 2), ("new", 2)}
    assert found.older[0].startswith("both, 1 record of suite 1") and len(found.older) == 1
    assert [h["machine"] for h in across.compared(found.runs, {})["heads"]] == ["both", "new"]
    assert across.compared([run for run in found.runs if run.machine != "both"], {}) is None


def test_a_record_that_cannot_be_used_is_told_and_left_out(tmp_path, capsys):
    room = room_with(tmp_path)
    (room / "records" / "m" / "broken.jsonl").write_text("nonsense")
    assert command.main(["build", "--room", str(room), "--out", str(tmp_path / "out")]) == 2
    assert "left out: broken.jsonl" in capsys.readouterr().err
    assert "broken.jsonl" in (tmp_path / "out" / "report.html").read_text("utf-8")


def test_two_versions_are_compared_on_a_page_of_their_own(tmp_path, capsys):
    """What changed, what could not be told apart, and what was amiss while it was measured."""
    time = {"seconds": 1e-3, "status": "ok"}
    cells = [
        {
            "kernel": "numba/direct",
            "problem": PROBLEMS[0],
            "scenario": "packed",
            "verdict": verdict,
            "ratio": ratio,
            "low": ratio - 0.01,
            "high": ratio + 0.01,
            "base": time,
            "head": time,
        }
        for verdict, ratio in (("slower", 1.25), ("cannot tell", 1.005))
    ]
    document = {
        "schema": "convzoo.regress/1",
        "machine": "a-machine",
        "sentence": "1 cell is slower.",
        "base": {"label": "v1"},
        "head": {"label": "v2"},
        "cells": cells,
        "warnings": ["the fan has stopped"],
        "command": ["python", "-m", "benchmarks", "regress", "v1", "v2"],
    }
    path = tmp_path / "v1-v2.json"
    path.write_text(json.dumps(document))
    html, page = rendered(path)
    assert "No record yet" not in html and "There is no record" not in page
    for text in (html, page):
        assert "1.250× slower (1.240 – 1.260)" in text and "1.005× as long (0.995 – 1.015)" in text
        assert "the fan has stopped" in text
    assert "1 cell whose versions cannot be told apart" in " ".join(Page(html).text.split())
    capsys.readouterr()
    for other in ({"schema": "convzoo.regress/9"}, {}, []):
        path.write_text(json.dumps(other))
        assert "v1-v2.json is no document of" in refusal(capsys, "render", str(path))
    path.unlink()
    assert "v1-v2.json: no such file" in refusal(capsys, "render", str(path))


def test_default_folder_is_named_after_the_record():
    path = Path("../../etc/a b.jsonl")
    assert command.folder_of([path]) == "a-b" and command.folder_of([path, path]).endswith("-and-1-more")


README = f"# Title\n\n{markdown.BEGIN}\nstale\n{markdown.END}\n\nmore\n"


def room_with(folder: Path, **header) -> Path:
    """A reports room of one record, below a README."""
    room = folder / "reports"
    written(room / "records" / "m", **header)
    (folder / "README.md").write_text(README)
    return room


def test_build_writes_everything_and_check_finds_what_is_old(tmp_path, capsys):
    room = room_with(tmp_path)
    build = ["build", "--room", str(room)]
    assert command.main([*build, "--check"]) == 1
    assert "README.md is out of date" in capsys.readouterr().err
    assert (tmp_path / "README.md").read_text() == README and not (room / "report.html").exists()
    assert command.main(build) == 0 and command.main([*build, "--check"]) == 0
    text = (tmp_path / "README.md").read_text("utf-8")
    assert text.startswith("# Title\n") and text.endswith(f"{markdown.END}\n\nmore\n") and "stale" not in text
    facts = next(line for line in text.splitlines() if line.startswith("machine: test-machine"))
    for words in ("2026-11-23", "commit: 0123456789", "threads: 2", "scenario: packed"):
        assert words in facts
    rows = {row.split("`")[1]: row for row in text.splitlines() if row.startswith("| `")}
    assert list(rows) == ["numpy/fft", "numba/direct", "torch_cpu/builtin", "numpy/im2col"]
    assert rows["numba/direct"].count("**") == 2 * len(PROBLEMS) and "**" not in rows["numpy/fft"]
    assert "| normwise |" in rows["numpy/fft"] and "(1.00×)" in rows["torch_cpu/builtin"]
    (room / "cells.csv").unlink()
    assert command.main([*build, "--check"]) == 0
    (room / "README.md").write_text("old")
    assert command.main([*build, "--check"]) == 1 and "README.md is out of date" in capsys.readouterr().err


def test_readme_shows_the_most_threads_of_the_newest_machine(tmp_path):
    room = room_with(tmp_path)
    for threads, started in ((1, "2026-11-24T07:50:00Z"), (8, "2026-11-20T07:50:00Z")):
        written(room / "records" / f"m{threads}", started=started, threads=threads)
    assert command.main(["build", "--room", str(room)]) == 0
    text = (tmp_path / "README.md").read_text("utf-8")
    assert "threads: 8" in next(line for line in text.splitlines() if line.startswith("machine: "))


def test_the_committed_report_is_current():
    """README.md, reports/README.md, the page and the numbers say what the committed records say."""
    pytest.importorskip("asv", reason="the history is read by asv: pip install 'convzoo[bench]'")
    done = subprocess.run(
        [sys.executable, "-m", "reports", "build", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_build_needs_no_kernel_library(tmp_path):
    room = room_with(tmp_path)
    code = (
        "import sys\nfor name in ('torch', 'numba', 'cupy', 'scipy', 'onnxruntime', 'openvino', 'ncnn'):\n"
        "    sys.modules[name] = None\n"
        f"from reports.__main__ import main\nsys.exit(main(['build', '--room', {str(room)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_readme_with_hostile_names_keeps_its_markers(tmp_path):
    table = markdown.readme_table(collect([rewritten(written(tmp_path), hostile)]).runs)
    assert markdown.END not in table and markdown.BEGIN not in table and "<script" not in table
    rows = [row for row in table.splitlines() if row.startswith("| ")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1  # no name opens a column


@pytest.mark.parametrize("text", ["no markers", f"{markdown.END} {markdown.BEGIN}", README + README])
def test_readme_without_one_pair_of_markers_is_refused(tmp_path, capsys, text):
    room = room_with(tmp_path)
    path = tmp_path / "README.md"
    path.write_text(text)
    assert "each once" in refusal(capsys, "build", "--room", str(room)) and path.read_text() == text


def test_readme_keeps_windows_line_ends(tmp_path):
    path = tmp_path / "README.md"
    path.write_bytes(README.replace("\n", "\r\n").encode())
    _, after = markdown.replaced(path, "a\n\nb")
    assert after.count(b"\r\n") == after.count(b"\n")
    with pytest.raises(Unreadable):
        markdown.replaced(written(tmp_path), "x")
