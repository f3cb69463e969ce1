"""Writing the report: one HTML file that needs nothing else, and a Markdown summary beside it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import figures, markdown, sides, views
from .cells import Run

ROOM = Path(__file__).resolve().parent
TEMPLATES = ROOM / "templates"


def render(runs: Sequence[Run], out: Path | None) -> list[Path]:
    """Write report.html and report.md under ``out``; the paths, the page first."""
    folder = out or ROOM / "out" / default_name(runs)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, content in (("report.html", page(runs)), ("report.md", markdown.report(runs))):
        path = folder / name
        path.write_text(content, encoding="utf-8", newline="\n")
        written.append(path)
    return written


def default_name(runs: Sequence[Run]) -> str:
    name = "".join(c if c.isalnum() or c in "-_" else "-" for c in runs[0].name) or "record"
    return name if len(runs) == 1 else f"{name}-and-{len(runs) - 1}-more"


def page(runs: Sequence[Run]) -> str:
    """The whole page; it depends on the records alone, so it has no time of its own."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    script = _asset("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    shown: list[dict[str, Any]] = []
    for number, run in enumerate(runs, 1):
        view = views.page(run, number)
        for s, scenario in enumerate(view["scenarios"], 1):
            scenario["figures"] = figures.figures(run, scenario["name"], f"r{number}s{s}")
        shown.append(view)
    return environment.get_template("report.html.j2").render(
        runs=shown, sides=sides.table(runs), style=_asset("report.css"), script=script,
        # Only this very script may run: whatever a record smuggled in would be refused by the browser.
        policy=(
            f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:; "
            "base-uri 'none'; form-action 'none'"
        ),
    )  # fmt: skip


def _asset(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")
