"""Markdown: the page for those who read a repository, and the results table of a README."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import words as say

from . import regressions, standing, tables, views
from .cells import Run
from .collect import Findings
from .figures import Drawn
from .values import Unreadable

BEGIN, END = "<!-- results -->", "<!-- /results -->"
MOST_ROWS = 80
LONGEST = 60_000  # characters; a comment on a pull request holds 65,536
MARKED = re.compile(r"([\\`*_\[\]#|~>$])")


def plain(words: str) -> str:
    """Text that Markdown shows as it is: no tag, no emphasis, no new column."""
    return MARKED.sub(r"\\\1", words.replace("&", "&amp;").replace("<", "&lt;")).replace("@", "&#64;")


def code(words: str) -> str:
    """A code span; it cannot end early, open a column or hold a marker of ours."""
    return f"`{words.replace('`', chr(39)).replace('<', '‹').replace('>', '›').replace('|', '¦')}`"


def report(
    found: Findings, shown: Sequence[dict[str, Any]], drawn: Sequence[list[Drawn]], machines: dict[str, Any] | None
) -> str:
    """The page for those who read Markdown: what went wrong first, then who won, then figures and tables."""
    parts = ["# convzoo: kernels compared"]
    if found.left_out:
        parts.append("\n".join(f"- **left out**: {plain(words)}" for words in found.left_out))
    for view in shown:
        parts += _alarms(view)
    parts.append(
        "Made by `python -m reports build`, which writes three files more, that git does not keep: report.html is the "
        "same as one offline page with every cell, to sort, filter and rank by the accuracy you need; cells.csv and "
        "report.json hold the numbers."
    )
    for run, view, pictures in zip(found.runs, shown, drawn, strict=True):
        parts += _machine(run, view, pictures)
    if machines:
        from .across import markdown as side_by_side

        parts += side_by_side(machines)
    parts += _regressions(found)
    parts += [f"Not in this report: {plain(words)}." for words in found.older[:20]]
    if not found.runs and not found.regressions:
        parts.append("There is no record yet: `python -m benchmarks compare` writes the first one.")
    whole, length, dropped = [], 0, False
    for part in parts:  # what does not fit is left out, and shorter parts behind it are not
        fits = length + len(part) + 2 <= LONGEST
        length += (len(part) + 2) * fits
        whole += [part] if fits else []
        dropped = dropped or not fits
    if dropped:
        whole.append("Some of it is too long for this page; the HTML page has it.")
    return "\n\n".join(whole) + "\n"


def _alarms(view: dict[str, Any]) -> list[str]:
    found = []
    for alarm in view["alarms"][:20]:
        where = say.listed([code(p) for p in alarm["problems"]])
        who = say.listed([code(k) for k in alarm["kernels"]], 5)
        status = f"**{plain(alarm['status'].upper())}** on {plain(view['label'])}"
        found.append(f"{status}: {who} on {where}: {plain(alarm['why'])}")
    return found


def _machine(run: Run, view: dict[str, Any], drawn: Sequence[Drawn]) -> list[str]:
    parts = [f"## {plain(view['label'])}", line(view)]
    parts += [*_answers(view), *_networks(view)]
    total = ", ".join(f"{n} {group}" for group, n, _ in view["counts"] if n)
    parts += [f"Cells: {total or 'none'}. {plain(view['noise'])}"]
    parts += [f"> {plain(notice)}" for notice in view["notices"]]
    for one in drawn:
        parts.append(f"![{plain(one.title)}](figures/{one.file})\n\n*{plain(one.title)}. {plain(one.caption)}*")
    for scenario in run.scenarios:
        parts += [*_winners(run, view, scenario), *_matrix(run, view, scenario)]
    return parts + _reasons(view)


def _answers(view: dict[str, Any]) -> list[str]:
    head = ["", "accuracy", "fastest over all", "against the baseline", "how sure", "choosing for each problem"]
    rows = []
    for group in view["headlines"]:
        without = f"; {plain(group['without'])}" if group["without"] else ""
        what = f"{plain(group['name'])}: {group['problems']}{without}; baseline {code(group['baseline'])}"
        for i, row in enumerate(group["lines"]):
            rows.append(
                [
                    "" if i else what,
                    f"at least {row['need']}",
                    code(row["kernel"]) if row["kernel"] else plain(row["words"]),
                    row["speed"] or say.NOTHING,
                    _sure(row) if row["kernel"] else "",
                    plain(row["choice"]) or "no gain beyond the intervals",
                ]
            )
    return ["### Fastest over all problems", _table(head, rows)] if rows else []


def _networks(view: dict[str, Any]) -> list[str]:
    head = ["", "accuracy", "fastest on every layer", "one pass", "choosing for each layer", "gain", "made of"]
    rows = [
        [
            "" if i else f"{plain(net['title'])}: {plain(net['name'])}",
            f"at least {r['need']}",
            code(r["kernel"]) if r["kernel"] else say.NOTHING,
            r["time"],
            r["mixed"],
            r["gain"],
            plain(r["used"]),
        ]
        for net in view["networks"]
        for i, r in enumerate(net["rows"])
    ]
    title = "### Networks: one pass, layers weighted by how often they occur"
    return [title, _table(head, rows)] if rows else []


def _sure(row: dict[str, Any]) -> str:
    return f"**{'told apart' if row['sure'] else 'cannot tell'}**: {plain(row['margin'])}"


def line(view: dict[str, Any]) -> str:
    """Machine, threads, scenario, date and commit in one line."""
    shown = [f"{name}: {plain(value)}" for name, value in view["facts"]]
    return f"machine: {plain(view['machine'])} · " + " · ".join(shown)


def _winners(run: Run, view: dict[str, Any], scenario: str) -> list[str]:
    part, what = standing.foremost(run, scenario)
    base = f"against {code(view['baseline'])}"
    head = ["problem", "fastest", "time", base, "ahead of the next", "how sure", "quicker, but weaker"]
    rows = []
    for w in tables.winners(part, scenario):
        name = (f"{plain(w['layer'])} " if w["layer"] != w["problem"] else "") + code(w["problem"])
        sure = f"**{w['sure']}**"
        if w["sure"] == "tie":
            sure += f" with {say.listed([code(k) for k in w['ties']])}"
        elif w["sure"] == "cannot tell":
            sure += f": {say.plural(w['rounds'], 'round')}"
        rows.append(
            [
                name,
                f"{code(w['kernel'])} {plain(w['guarantee'])}",
                w["time"],
                f"{w['speed']} ({w['interval']})",
                plain(w["ahead"]),
                sure,
                plain(say.listed(w["weaker"], 2)) or say.NOTHING,
            ]
        )
    title = f"### Fastest for each problem: {plain(view['label'])}, {plain(what)}, strongest guarantee"
    words = (
        "How sure: **told apart** where the interval of the lead leaves out 1; a **tie** that the rounds cannot "
        "part; **cannot tell** from fewer than three rounds; **alone** where no other kernel ran."
    )
    return [title, words, *_tables(head, rows)] if rows else []


def _tables(head: list[str], rows: list[list[str]], right: int = 99) -> list[str]:
    """One table, or of very many rows the first, and how many more there are."""
    more = len(rows) - MOST_ROWS
    words = [f"{more} more are in cells.csv and on the HTML page."] if more > 0 else []
    return [_table(head, rows[:MOST_ROWS], right), *words]


def _matrix(run: Run, view: dict[str, Any], scenario: str) -> list[str]:
    part, what = standing.foremost(run, scenario)
    found = tables.matrix(part, scenario)
    parts = [f"### All kernels: {plain(view['label'])}, {plain(what)}", _rows(found)]
    if found["left_out"]:
        parts.append(f"{found['left_out']} more problems are in cells.csv and on the HTML page.")
    return parts + ([_idle(found)] if found["idle"] else [])


def _rows(found: dict[str, Any]) -> str:
    """Kernels by problems: time and speed; the fastest of the strongest guarantee is bold."""
    head = ["kernel", "guarantee"]
    for race in found["heads"]:
        named = race["layer"] != race["problem"]
        head.append((f"{plain(race['layer'])}<br>" if named else "") + code(race["problem"]))
    rows = [[code(row["kernel"]), plain(row["guarantee"]), *map(_shown, row["cells"])] for row in found["rows"]]
    return _table(head, rows, right=2)


def _shown(cell: dict[str, Any]) -> str:
    if cell["kind"] != "ran":
        quiet = cell["kind"] in ("skipped", "absent", "unreached")
        return say.NOTHING if quiet else f"**{plain(cell['status'])}**"
    words = f"{cell['time']} ({cell['speed']}{' ≈' if cell['unsure'] else ''})"
    return f"**{words}**" if cell["best"] else words


def _reasons(view: dict[str, Any]) -> list[str]:
    lines = [
        f"- {r['count']} {plain(r['status'])}: {plain(r['why'])} ({say.listed([code(k) for k in r['kernels']], 4)})"
        for r in view["reasons"][:30]
    ]
    return ["### Cells without a time", "\n".join(lines)] if lines else []


def _regressions(found: Findings) -> list[str]:
    head = ["cell", "verdict", "base", "head", "head is", "why"]
    parts = ["## Regressions"] if found.regressions else []
    for document in found.regressions:
        r = regressions.view(document)
        parts += [
            f"### {plain(r['title'])}, {plain(r['machine'])}",
            f"**{r['mark']}** {plain(r['sentence'])}",
            *(f"> While measuring: {plain(words)}" for words in r["warnings"]),
        ]
        rows = [
            [
                f"{code(x['kernel'])} {code(x['problem'])} {plain(x['scenario'])}",
                plain(x["verdict"]),
                x["base"],
                x["head"],
                x["effect"],
                plain(x["why"]),
            ]
            for x in (*r["rows"], *r["quiet"])[:30]
        ]
        parts += [_table(head, rows)] if rows else []
    return parts


def _table(head: list[str], rows: list[list[str]], right: int = 99) -> str:
    rule = ["---" if i < right else "---:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def readme_table(runs: Sequence[Run]) -> str:
    """What stands between the markers of a README: one machine's table, and where the others are.

    The machine is that of which most cells are known by the quick preset, whose problems a README has room for;
    of its runs it is the one with the most threads.
    """
    if not runs:
        return "There is no record yet: `make compare` writes the first one."
    runs = standing.same_suite(runs)
    quick = [r for r in runs if any(s.said("preset") == "quick" for s in r.sources)] or [*runs]
    same = [r for r in quick if r.machine == max(quick, key=lambda r: len(r.cells)).machine]
    run = max(same, key=lambda r: int(r.said("threads")) if r.said("threads").isdigit() else 0)
    view = views.page(run, 1)
    parts = [line(view), *(plain(notice) for notice in view["notices"])]
    for scenario in run.scenarios:
        part, what = standing.foremost(run, scenario)
        found = tables.matrix(part, scenario, most=5)
        parts += [f"**{plain(what)}**"] if len(run.scenarios) > 1 or part is not run else []
        parts.append(_rows(found))
        parts += [_idle(found)] if found["idle"] else []
    parts.append(
        f"Median time and, in brackets, the speed against {code(view['baseline'])}: above 1 is faster, ≈ means "
        "that the rounds cannot tell. Bold: the fastest of each problem among those with the strongest guarantee. "
        "A dash: refused, or not possible on this machine."
    )
    others = [plain(views.label(r)) for r in runs if r is not run]
    more = f" Other machines: {'; '.join(others)}." if others else ""
    parts.append(
        f"[The whole report](reports/README.md): every machine and problem, networks, ceilings, history.{more}"
    )
    return "\n\n".join(parts)


def _idle(found: dict[str, Any]) -> str:
    """Kernels without a row, a backend's all in one word where none of them ran."""
    ran = {row["kernel"].partition("/")[0] for row in found["rows"]}
    backends = [(kernel, kernel.partition("/")[0]) for kernel in found["idle"]]
    shown = dict.fromkeys(kernel if backend in ran else f"{backend}/*" for kernel, backend in backends)
    names = ", ".join(code(name) for name in shown)
    return f"{say.plural(len(found['idle']), 'kernel')} had nothing to run here: {names}."


def replaced(path: Path, table: str) -> tuple[bytes, bytes]:
    """The file as it is and as it should be. Unreadable without exactly one pair of markers."""
    try:
        before = path.read_bytes()
        words = before.decode("utf-8")
    except UnicodeDecodeError:
        raise Unreadable(f"{path} is not UTF-8 text") from None
    if words.count(BEGIN) != 1 or words.count(END) != 1 or words.index(END) < words.index(BEGIN):
        raise Unreadable(f"{path} must hold {BEGIN} and, after it, {END}, each once")
    head, _, rest = words.partition(BEGIN)
    _, _, tail = rest.partition(END)
    middle = f"\n\n{table}\n\n"
    if "\r\n" in words:
        middle = middle.replace("\n", "\r\n")
    return before, f"{head}{BEGIN}{middle}{END}{tail}".encode()
