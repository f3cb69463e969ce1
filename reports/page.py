"""The HTML page: one file that needs nothing else, and depends on the findings alone.

``shown`` are the views of the runs (``views.page``); ``machines`` is what ``across`` says about several.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from . import regressions
from .collect import Findings
from .payload import payload
from .timeline import Step, Track
from .values import mapping, sequence, text

TEMPLATES = Path(__file__).resolve().parent / "templates"
JOINT = re.compile(r"(?<=[/_])|(?=-)")
SCRIPTS = ("data.js", "plot.js", "views.js", "page.js")  # one script, in this order
MOST_ROWS = 400  # of the table of GPU code
PARTS = (
    ("winners", "fastest for each problem"),
    ("heat", "heat map"),
    ("table", "all cells"),
    ("roof", "limits"),
    ("scaling", "scaling"),
    ("price", "price of accuracy"),
    ("cost", "start-up"),
    ("history", "history"),
)
UNITS = (
    ("speed", "speed"),
    ("time", "time"),
    ("rate", "GFLOP/s"),
    ("roof", "% of ceiling"),
    ("error", "error"),
    ("workspace", "workspace"),
)


def environment() -> Any:
    """Jinja with the templates of this room and their filter; what a record says is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    found = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters["breakable"] = breakable
    return found


def page(
    found: Findings,
    shown: list[dict[str, Any]],
    tracks: list[Track],
    steps: list[Step],
    machines: dict[str, Any] | None,
    asv_site: str | None,
) -> str:
    script = "\n".join(_asset(name) for name in SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            runs=shown,
            machines=machines,
            regressions=[regressions.view(r) for r in found.regressions],
            gpu_code=gpu_table(found.gpu_code),
            older=found.older,
            left_out=found.left_out,
            asv_site=asv_site,
            units=UNITS,
            parts=PARTS,
            data=embedded(payload(found.runs, tracks, steps)),
            style=_asset("report.css"),
            script=script,
            # Only this very script may run: whatever a record smuggled in would be refused by the browser.
            policy=(
                f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:; "
                "base-uri 'none'; form-action 'none'"
            ),
        )
    )


def breakable(name: str) -> Any:
    """A kernel's or a problem's name that may go on in the next line at its joints, and not within a word."""
    from markupsafe import Markup, escape

    return Markup("<wbr>").join(escape(part) for part in JOINT.split(name))


def embedded(data: Any) -> str:
    """JSON that cannot end the element it stands in, whatever its strings say."""
    words = json.dumps(data, separators=(",", ":"), allow_nan=False)  # ASCII alone
    return words.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def gpu_table(document: Any) -> dict[str, Any] | None:
    """The rows of gpu_code.json on the layer that it calls the reference; None without such a table."""
    known = mapping(document)
    if not text(known.get("schema")).startswith("convzoo.gpu-code/"):
        return None
    columns = {text(k): text(v) for k, v in mapping(known.get("columns")).items()}
    layers = [text(q) for q in sequence(known.get("problems"))][:2]  # the second is the first as NHWC
    rows = [mapping(row) for row in sequence(known.get("rows"))]
    shown = [row for row in rows if text(row.get("problem")) in layers]
    used = [c for c in columns if any(row.get(c) not in (None, 0, "") for row in shown)]
    return {
        "tools": ", ".join(f"{text(k)} {text(v)}" for k, v in mapping(known.get("compilers")).items()),
        "columns": [(c.replace("_", " "), columns[c]) for c in used],
        "rows": [[_told(row.get(c)) for c in used] for row in shown[:MOST_ROWS]],
        "more": max(0, len(rows) - len(shown[:MOST_ROWS])),
    }


def _told(value: Any) -> str:
    if isinstance(value, list):
        return " × ".join(text(v) for v in value[:4])
    return text(round(value, 3) if isinstance(value, float) else value, "–")[:200]


def _asset(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")
