"""Markdown: the summary beside the page, and the results table of a README."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import views
from . import wording as say
from .cells import Run
from .values import Unreadable

BEGIN, END = "<!-- results -->", "<!-- /results -->"
LONGEST = 60_000  # characters; a comment on a pull request holds 65,536
MARKED = re.compile(r"([\\`*_\[\]#|~>$])")


def plain(words: str) -> str:
    """Text that Markdown shows as it is: no tag, no emphasis, no new column."""
    return MARKED.sub(r"\\\1", words.replace("&", "&amp;").replace("<", "&lt;")).replace("@", "&#64;")


def code(words: str) -> str:
    """A code span; it cannot end early, open a column or hold a marker of ours."""
    return f"`{words.replace('`', chr(39)).replace('<', '‹').replace('>', '›').replace('|', '¦')}`"


def report(runs: Sequence[Run]) -> str:
    """The summary of a report: what went wrong first, then who won, then the table."""
    shown = [views.page(run, number) for number, run in enumerate(runs, 1)]
    parts = ["# convzoo: kernels compared"]
    for view in shown:
        parts += [*_opening(view), *_winners(view), *_reasons(view), f"Repeat: {code(view['command'])}"]
    tables = [part for view in shown for part in _matrices(view)]
    whole = "\n\n".join(parts + tables) + "\n"
    if len(whole) <= LONGEST:
        return whole
    parts.append("The table of all kernels is too long for this summary; the HTML page has it.")
    return "\n\n".join(parts) + "\n"


def _opening(view: dict[str, Any]) -> list[str]:
    found = [f"## {plain(view['machine'])}"]
    for alarm in view["alarms"]:
        where = ", ".join(code(p) for p in alarm["problems"][:3])
        found.append(
            f"**{alarm['status'].upper()}**: {', '.join(code(k) for k in alarm['kernels'])} on {where}: "
            f"{plain(alarm['why'])}"
        )
    found.append(f"**{plain(view['sentence'])}**")
    found.append(line(view))
    found += [f"> {plain(notice)}" for notice in view["notices"]]
    return found


def line(view: dict[str, Any]) -> str:
    """Machine, threads, scenario, date and commit in one line."""
    shown = [f"{name}: {plain(value)}" for name, value in view["facts"]]
    return f"machine: {plain(view['machine'])} · " + " · ".join(shown)


def _winners(view: dict[str, Any]) -> list[str]:
    found = []
    for scenario in view["scenarios"]:
        head = [
            "problem",
            "fastest",
            "guarantee",
            "time",
            f"speed against {code(view['baseline'])}",
            "interval",
        ]
        rows = []
        for w in scenario["winners"]:
            name = (
                f"{plain(w['layer'])} {code(w['problem'])}"
                if w["layer"] != w["problem"]
                else code(w["problem"])
            )
            also = f" (or {', '.join(code(k) for k in w['level'])})" if w["level"] else ""
            rows.append(
                [
                    name,
                    code(w["kernel"]) + also,
                    plain(w["guarantee"]),
                    w["time"],
                    w["speed"],
                    w["interval"],
                ]
            )
        if rows:
            found += [f"### Fastest, {plain(scenario['name'])}", _table(head, rows)]
    return found


def _reasons(view: dict[str, Any]) -> list[str]:
    total = ", ".join(f"{n} {group}" for group, n, _ in view["counts"] if n)
    found = [f"Cells: {total or 'none'}."]
    lines = []
    for r in view["reasons"]:
        who = ", ".join(code(k) for k in r["kernels"][:4])
        more = f" and {len(r['kernels']) - 4} more" if len(r["kernels"]) > 4 else ""
        lines.append(f"- {r['count']} {plain(r['status'])}: {plain(r['why'])} ({who}{more})")
    return found + (["\n".join(lines)] if lines else [])


def _matrices(view: dict[str, Any]) -> list[str]:
    found = []
    for scenario in view["scenarios"]:
        found += [
            f"### All kernels, {plain(view['machine'])}, {plain(scenario['name'])}",
            _matrix(view, scenario),
        ]
    return found


def _matrix(view: dict[str, Any], scenario: dict[str, Any]) -> str:
    """Kernels by problems: time and speed; the fastest of the strongest guarantee is bold."""
    head = ["kernel", "guarantee"]
    for race in scenario["races"]:
        named = race["layer"] != race["problem"]
        head.append((f"{plain(race['layer'])}<br>" if named else "") + code(race["problem"]))
    rows = []
    for row in scenario["rows"]:
        shown = []
        for cell in row["cells"]:
            if cell["kind"] != "ran":
                shown.append(
                    "–"
                    if cell["kind"] in ("skipped", "absent", "unreached")
                    else f"**{cell['status']}**"
                )
                continue
            text = f"{cell['time']} ({cell['speed']}{' ≈' if cell['unsure'] else ''})"
            shown.append(f"**{text}**" if cell["best"] else text)
        rows.append([code(row["kernel"]), plain(row["guarantee"]), *shown])
    return _table(head, rows, right=2)


def _table(head: list[str], rows: list[list[str]], right: int = 99) -> str:
    rule = ["---" if i < right else "---:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def readme_table(run: Run) -> str:
    """What stands between the markers of a README."""
    view = views.page(run, 1)
    parts = [line(view), *(plain(notice) for notice in view["notices"])]
    for scenario in view["scenarios"]:
        if len(view["scenarios"]) > 1:
            parts.append(f"**{plain(scenario['name'])}**")
        parts.append(_matrix(view, scenario))
        if scenario["idle"]:
            parts.append(_idle(scenario))
    parts.append(
        f"Median time and, in brackets, the speed against {code(view['baseline'])}: above 1 is faster, ≈ means "
        "that the rounds cannot tell. Bold: the fastest of each problem among those with the strongest guarantee. "
        "A dash: refused, or not possible on this machine."
    )
    return "\n\n".join(parts)


def _idle(scenario: dict[str, Any]) -> str:
    """Kernels without a row, a backend's all in one word where none of them ran."""
    idle = [row["kernel"] for row in scenario["idle"]]
    ran = {row["kernel"].partition("/")[0] for row in scenario["rows"]}
    backends = [(kernel, kernel.partition("/")[0]) for kernel in idle]
    shown = dict.fromkeys(kernel if backend in ran else f"{backend}/*" for kernel, backend in backends)
    return f"{say.plural(len(idle), 'kernel')} had nothing to run here: {', '.join(code(name) for name in shown)}."


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
