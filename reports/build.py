"""All files of a report: one HTML page, one Markdown page with its figures, CSV and JSON."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from benchmarks.record import OWN

from . import across, export, figures, markdown, timeline, views
from .collect import MANY, ROOM, Findings, collect, records_in
from .cores import each
from .page import page

BUILT = ("report.html", "cells.csv", "report.json")  # made anew where they are wanted; git keeps the other files
ASV_SITE = ROOM.parent / ".asv" / "html" / "index.html"  # html_dir of asv.conf.json


def committed(room: Path = ROOM, out: Path | None = None) -> tuple[Findings, dict[str, str]]:
    """The report of everything that the room holds: findings, and files by their name below ``out``."""
    found = collect(records_in(room / "records"), room)
    site = Path(os.path.relpath(ASV_SITE, out or room)).as_posix() if room == ROOM else None
    return found, files(found, room / "results", [room], site)


def of_records(records: Iterable[Path]) -> dict[str, str]:
    """The report of these records alone."""
    return of_findings(collect(records))


def of_findings(found: Findings) -> dict[str, str]:
    return files(found, None, [ROOM, OWN], None)


def files(found: Findings, results: Path | None, rooms: Iterable[Path], asv_site: str | None) -> dict[str, str]:
    tracks = timeline.tracks(found.glances, results)
    steps = timeline.steps(tracks)
    beside = across.compared(found.runs, across.machine_files(*(room / "machines" for room in rooms)))
    drawn = each(figures.figures, found.runs, len(found.glances) >= MANY)
    table = export.rows(found.runs)
    shown = [views.page(run, number) for number, run in enumerate(found.runs, 1)]
    return {
        "report.html": page(found, shown, tracks, steps, beside, asv_site),
        "README.md": markdown.report(found, shown, drawn, beside),
        "cells.csv": export.as_csv(table),
        "report.json": export.as_json(found, shown, table, tracks, steps),
        **{f"figures/{one.file}": one.svg for several in drawn for one in several},
    }


def written(content: dict[str, str], out: Path) -> list[Path]:
    paths = []
    for name, words in content.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(words, encoding="utf-8", newline="\n")
        paths.append(path)
    return paths


def stale(content: dict[str, str], out: Path) -> list[str]:
    """Kept files that are missing or differ; figures only by their presence, because fonts draw them."""

    def differs(path: Path, words: str) -> bool:
        return not path.is_file() or (path.suffix != ".svg" and path.read_text(encoding="utf-8") != words)

    return [name for name, words in content.items() if name not in BUILT and differs(out / name, words)]
