"""The page in a real browser: what a reader can do with it, and that nothing leaves the file."""

from __future__ import annotations

import json
import os
import re
import time

import pytest
from browser import Browser, why_not
from many_records import kernels, record

from benchmarks.evidence import races
from benchmarks.problems import resolve
from reports.build import of_records, written
from reports.collect import collect

if reason := why_not():
    if os.environ.get("CONVZOO_REQUIRE_BROWSER"):
        pytest.fail(f"CONVZOO_REQUIRE_BROWSER is set, and the page {reason}", pytrace=False)
    pytest.skip(f"the page {reason}", allow_module_level=True)
pytest.importorskip("jinja2", reason="the page needs jinja2: pip install 'convzoo[report]'")
pytest.importorskip("matplotlib", reason="the figures need matplotlib: pip install 'convzoo[report]'")

NAMES = kernels(11)  # idea_7 keeps normwise, idea_8 tf32, idea_9 half


@pytest.fixture(scope="module")
def browser():
    one = Browser()
    yield one
    one.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two machines, twelve commits of the first; two kernels become slower in the middle."""
    folder = tmp_path_factory.mktemp("records")
    layers = resolve(["tiny", "ladder"])
    paths = [
        record(
            folder,
            "machine-a",
            NAMES,
            layers[: 3 if commit < 11 else None],
            commit=commit,
            slower=NAMES[3:5] if commit >= 6 else (),
            scenarios=("packed", "eager"),
            raw=9 if commit == 11 else 0,
        )
        for commit in range(12)
    ]
    paths.append(record(folder, "machine-b", NAMES, layers, commit=11))
    out = tmp_path_factory.mktemp("page")
    written(of_records(paths), out)
    return out, paths


@pytest.mark.slow
def test_scale(browser, tmp_path):
    """3 machines, 40 kernels, 60 problems, 30 commits: one small page, that answers at once."""
    names, layers = (kernels(40), resolve(["tiny", "ladder", "resnet50", "vgg16", "tails", "mobilenet"])[:60])
    paths = []
    for machine in ("machine-a", "machine-b", "machine-c"):
        paths.append(record(tmp_path, machine, names, layers, commit=29))
        head, _, rest = paths[-1].read_text().partition("\n")
        for commit in range(29):  # the same numbers at other commits: it is the amount that counts
            header = json.loads(head)
            header |= {"commit": f"{commit:08x}" + "c" * 32, "commit_date": f"2025-12-{commit + 1:02d}T00:00:00+00:00"}
            header["started"] = header["commit_date"]
            paths.append(paths[0].parent.parent / machine / f"{commit:02d}.jsonl")
            paths[-1].write_text(json.dumps(header) + "\n" + rest)
    began = os.times()
    content = of_records(paths)
    took = sum(os.times()[:4]) - sum(began[:4])  # of all cores: other work on the machine does not count
    print(f"built in {took:.1f} s of one core, {len(content['report.html'])} bytes")
    assert len(content["report.html"]) < 3_000_000
    assert took < 60  # 18 to 24, which two quiet cores do in 12 to 15
    written(content, tmp_path / "out")
    browser.open(tmp_path / "out" / "report.html")
    seen(browser, "#heat")
    spent = browser.run(
        "const t = performance.now(); S.need = 2; sayNeed(); update(); render('heat'); return performance.now() - t"
    )
    print(f"a change of the slider is drawn in {spent:.0f} ms")
    assert spent < 2000  # a tenth of that on a quiet machine


@pytest.fixture
def page(browser, made):
    """The page, freshly opened at the size of a laptop; afterwards the console must have stayed silent."""
    browser.size(1366, 900)
    browser.open(made[0] / "report.html")
    yield browser
    assert browser.errors() == []
    asked = browser.requests()
    assert asked == [(made[0] / "report.html").as_uri()], "a request left the file"


def seen(browser, selector: str) -> list[str]:
    """The text of every element, after the section was scrolled to and drawn."""
    return browser.run(
        "const s = arguments[0].split(' ')[0]; document.querySelector(s).scrollIntoView();"
        "if (stale.has(s.slice(1))) render(s.slice(1));"
        "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)",
        selector,
    )


def slide(browser, stop: int) -> None:
    """The accuracy slider by the keyboard: stop 0 is the weakest requirement, 4 the strongest."""
    browser.run("document.getElementById('need').focus()")
    now = int(browser.run("return document.getElementById('need').value"))
    browser.keys(*["Right" if stop > now else "Left"] * abs(stop - now))
    assert int(browser.run("return document.getElementById('need').value")) == stop


def fastest(paths, need: str) -> dict[str, str]:
    """By layer, who wins with that guarantee on machine-a, packed; by the room's own Python."""
    run = next(r for r in collect(paths).runs if r.machine == "machine-a")
    return {race.layer: race.fastest(need).kernel for race in races(run.cells, "packed")}


def winners(browser) -> dict[str, str]:
    rows = browser.run(
        "document.querySelector('#winners').scrollIntoView(); if (stale.has('winners')) render('winners');"
        "return [...document.querySelectorAll('#winners-table tbody tr')].map((r) => [r.cells[0].textContent, "
        "r.cells[1].querySelector('code').textContent])"
    )
    return {problem.split(" ")[0]: kernel for problem, kernel in rows}


def test_every_section_is_drawn(page):
    for name in ("winners", "heat", "cell", "table", "roof", "scaling", "price", "cost", "history"):
        assert "".join(seen(page, f"#{name}")).strip(), name
    assert seen(page, "#roof svg") and len(seen(page, "#scaling svg")) >= 4 and seen(page, "#price svg")


def test_winners_are_those_of_the_records(page, made):
    """The script's ranking is the Python's, for every requirement; a weaker one lets quicker kernels in."""
    for stop, need in ((4, "elementwise"), (2, "normwise"), (1, "tf32"), (0, "half")):
        slide(page, stop)
        assert winners(page) == fastest(made[1], need), need
    assert fastest(made[1], "half") != fastest(made[1], "elementwise")


def test_a_winner_says_among_how_many(page, made):
    """First of forty and first of two are not the same."""
    run = next(r for r in collect(made[1]).runs if r.machine == "machine-a")
    ran = {race.layer: len(race.ranked) for race in races(run.cells, "packed")}
    slide(page, 0)
    rows = page.run(
        "render('winners'); return [...document.querySelectorAll('#winners-table tbody tr')]"
        ".map((r) => [r.cells[0].textContent, r.cells[1].textContent])"
    )
    assert rows
    for problem, fastest in rows:
        assert fastest.endswith(f"of {ran[problem.split(' ')[0]]} kernels"), (problem, fastest)


def test_layouts_and_batches_are_chosen_apart(browser, tmp_path):
    """Of many problems in several layouts and batches, those of one kind are shown first."""
    paths = [
        record(tmp_path, "m", NAMES[:4], resolve(["resnet50"], batch, layout), seed=i)
        for i, (batch, layout) in enumerate(((1, "nchw"), (16, "nchw"), (1, "nhwc"), (16, "nhwc")))
    ]
    written(of_records(paths), tmp_path / "out")
    browser.size(1366, 900)
    browser.open(tmp_path / "out" / "report.html")
    choose = (
        "const n = document.getElementById(arguments[0]); n.value = arguments[1];n.dispatchEvent(new Event('change'))"
    )

    def shown() -> list[str]:
        return seen(browser, "#heat thead .problem code")

    assert len(shown()) == 20 and all(q.startswith("n1c") and "nhwc" not in q for q in shown())
    browser.run(choose, "batch", "16")
    browser.run(choose, "layout", "nhwc, float32")
    assert len(shown()) == 20 and all(q.startswith("n16c") and q.endswith("-nhwc") for q in shown())
    assert "packed, nhwc, float32, batch 16, on m" in "".join(seen(browser, "#winners p"))
    browser.open(tmp_path / "out" / "report.html", browser.run("return location.hash"))
    assert all(q.endswith("-nhwc") for q in shown())  # the address keeps it
    browser.run(choose, "batch", "all")
    assert len(shown()) == 40
    assert browser.errors() == []


def test_slider_dims_kernels_that_guarantee_too_little(page):
    slide(page, 0)
    assert not seen(page, "#heat tr.below th")
    slide(page, 4)
    below = " ".join(seen(page, "#heat tr.below th"))
    assert all(name in below for name in (NAMES[7], NAMES[8], NAMES[9]))
    assert not [row for row in seen(page, "#table tbody tr") if NAMES[9] in row]


def test_sorting_a_table(page):
    def column(i: int) -> list[str]:
        page.run("render('table'); orders.table.most = 1e9; render('table')")
        return page.run(
            "return [...document.querySelectorAll('#table-table tbody tr')]"
            ".map((r) => r.cells[arguments[0]].textContent)",
            i,
        )

    def seconds(words: str) -> float:
        value, unit = words.split(" ")
        return float(value.replace(",", "")) * {"ns": 1e-9, "µs": 1e-6, "ms": 1e-3, "s": 1}[unit]

    seen(page, "#table")
    up = [seconds(w) for w in column(2)]
    assert up == sorted(up) and len(set(up)) > 20  # quickest first, from the start
    page.press("#table-table thead th:nth-child(3) button")
    down = [seconds(w) for w in column(2)]
    assert down == sorted(up, reverse=True)
    assert page.run("return document.querySelector('#table-table th[aria-sort]').ariaSort") == "descending"
    page.press("#table-table thead th:nth-child(1) button")
    names = column(0)
    assert names == sorted(names)


def test_filters(page):
    page.type("#kernels", "numba")
    assert {name.split("/")[0] for name in seen(page, "#heat tbody th code")} == {"numba"}
    page.type("#problems", "c64")
    assert seen(page, "#heat thead .problem") and all(
        "C64" in h or "c64" in h for h in seen(page, "#heat thead .problem")
    )


def test_baseline_and_unit_switch(page):
    def cells(kernel: str) -> list[str]:
        seen(page, "#heat")
        return page.run(
            "const row = [...document.querySelectorAll('#heat tbody tr')]"
            ".find((r) => r.cells[0].textContent.startsWith(arguments[0]));"
            "return [...row.cells].slice(3).map((c) => c.textContent.replace(/[★☆≈]/g, ''))",
            kernel,
        )

    assert set(cells("torch_cpu/builtin")) == {"1.00×"}
    before = [float(w.rstrip("×")) for w in cells(NAMES[1])]
    page.run(
        "const b = document.getElementById('baseline'); b.value = arguments[0];b.dispatchEvent(new Event('change'))",
        NAMES[1],
    )
    assert set(cells(NAMES[1])) == {"1.00×"}
    after = [float(w.rstrip("×")) for w in cells("torch_cpu/builtin")]
    for a, b in zip(before, after, strict=True):
        assert a * b == pytest.approx(1, rel=0.05)
    for unit, words in (
        ("time", r"[µm]?s$"),
        ("rate", r"^[\d.,]+$"),
        ("roof", r" %$"),
        ("error", r"^[\d.]+$"),
        ("workspace", "B$"),
    ):
        page.press(f"[data-unit={unit}]")
        assert all(re.search(words, cell) for cell in cells("torch_cpu/builtin")), unit


def test_keyboard_alone_reaches_a_cell(page):
    """From the unit buttons, Tab goes into the grid, arrows move there, Enter opens the cell."""
    seen(page, "#heat")
    page.run("document.querySelector('[data-unit=workspace]').focus()")
    page.keys("Tab")
    where = "const c = document.activeElement; return [c.tagName, c.cellIndex, c.parentNode.rowIndex]"
    tag, column, row = page.run(where)
    assert tag == "TD"
    page.keys("Right", "Down")
    assert page.run(where) == ["TD", column + 1, row + 1]
    kernel = page.run("return document.activeElement.parentNode.cells[0].querySelector('code').textContent")
    page.keys("Enter")
    told = "".join(seen(page, "#cell"))
    assert kernel in told and "what ran (fingerprint)" in told and "spills" in told
    assert (
        len(
            page.run("return [...document.querySelectorAll('#cell svg')].map((s) => s.querySelectorAll('path').length)")
        )
        >= 1
    )
    assert "To measure it again: python -m benchmarks compare" in told


def test_a_step_is_shown_with_commits_and_the_fingerprint_that_moved(page):
    pytest.importorskip("asv", reason="steps are found by asv: pip install 'convzoo[bench]'")
    rows = seen(page, "#history tbody tr")
    slower = [r for r in rows if NAMES[3] in r or NAMES[4] in r]
    assert slower and all("00000005..00000006" in r and "spills 0 -> 14" in r for r in slower)
    assert "slower" in slower[0]


def test_machine_switch_and_address_keep_the_view(page, made):
    page.run("const m = document.getElementById('machine'); m.value = '1'; m.dispatchEvent(new Event('change'))")
    assert "machine-" in "".join(seen(page, "#winners p"))
    slide(page, 1)
    fragment = page.run("return location.hash")
    label = page.run("return S.machine.label")
    page.open(made[0] / "report.html", fragment)
    assert page.run("return [S.machine.label, DATA.guarantees[S.need]]") == [label, "tf32"]


@pytest.mark.parametrize(
    ("name", "wide", "high"), [("phone", 390, 844), ("laptop", 1366, 768), ("projector", 1920, 1080)]
)
def test_no_width_scrolls_sideways(page, name, wide, high):
    """Wide tables scroll inside of themselves, never the page; text is not smaller than 11 px."""
    page.size(wide, high)
    page.run("[...stale].forEach(render)")
    assert page.run("return document.documentElement.scrollWidth") <= wide
    small = page.run(
        "return [...document.querySelectorAll('main *')].filter((e) => !e.closest('svg') && e.childNodes.length && "
        "[...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) && "
        "parseFloat(getComputedStyle(e).fontSize) < 10.5)"
        ".map((e) => e.outerHTML.slice(0, 80))"
    )
    assert small == []


def test_colours_are_readable_in_light_and_dark(page):
    """Contrast of the text of every heat cell against its background is at least 4.5 to 1."""
    script = """
      function rgb(words) { return words.match(/[\\d.]+/g).map(Number); }
      function light(c) {
        const parts = c.slice(0, 3).map((v) => v / 255);
        const f = parts.map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * f[0] + 0.7152 * f[1] + 0.0722 * f[2]; }
      const under = rgb(getComputedStyle(document.querySelector('section:not(.lead)')).backgroundColor);
      const cells = document.querySelectorAll('#heat tr:not(.below) td.quick, #heat tr:not(.below) td.slow');
      return Math.min(...[...cells].map((td) => {
        const s = getComputedStyle(td), c = rgb(s.backgroundColor), a = c.length > 3 ? c[3] : 1;
        const back = c.slice(0, 3).map((v, i) => a * v + (1 - a) * under[i]);
        const [x, y] = [light(back), light(rgb(s.color))].sort((p, q) => q - p);
        return (x + 0.05) / (y + 0.05); }))"""
    seen(page, "#heat")
    for _ in range(2):
        assert page.run(script) >= 4.5, page.run("return document.documentElement.dataset.theme")
        page.press("#theme")
        time.sleep(0.1)


def test_hostile_record_does_nothing_in_the_browser(browser, tmp_path):
    evil = "</script><script>window.pwned=1</script><img src=x onerror='window.pwned=2'>\"'`"
    path = record(tmp_path, "m", NAMES[:4], resolve(["tiny"]), raw=3)
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    for line in lines:
        if line["kind"] == "run":
            line |= {
                "machine": evil,
                "warnings": [evil],
                "command": [evil],
                "kernels": [evil],
                "hardware": {evil: evil},
            }
        if line.get("kernel") == NAMES[1]:
            line |= {"kernel": evil, "layer": evil, "fingerprint": {evil: evil}}
        if line.get("kernel") == NAMES[2] and line["kind"] == "cell":
            line |= {"seconds": float("nan"), "low": None, "round_seconds": [float("inf")] * 5, "error": evil}
        if line.get("kernel") == NAMES[3] and line["kind"] == "round":
            line |= {"raw": [1e-3 * (1 + i % 7) for i in range(100_000)], "q25": "many"}
    for line in lines:
        line.pop("flops", None)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "out"
    written(of_records([path]), out)
    assert (out / "report.html").stat().st_size < 400_000
    browser.size(1366, 900)
    browser.open(out / "report.html")
    browser.run("[...stale].forEach(render); choose(S.machine.list.find((c) => c.samples.some((v) => v.length)))")
    assert browser.run("return [window.pwned === undefined, document.images.length]") == [True, 0]
    assert "onerror" in "".join(seen(browser, "#heat"))  # as text
    assert browser.errors() == []
    assert browser.requests() == [(out / "report.html").as_uri()]
