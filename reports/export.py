"""Every cell as a row, for CSV and JSON: numbers in seconds, bytes and plain counts."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from . import limits, views
from .across import share
from .cells import Cell, Run
from .collect import Findings
from .timeline import Step, Track

SCHEMA = "convzoo.report/2"


def rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    return [_row(run, cell) for run in runs for cell in run.cells]


def _row(run: Run, c: Cell) -> dict[str, Any]:
    source = next((s for s in run.sources if s.name == c.source), run)
    n = c.numbers
    speed = c.speed or (None, None, None)
    return {
        "machine": run.machine,
        "threads": limits.threads(run),
        "scenario": c.scenario,
        "kernel": c.kernel,
        "problem": c.problem,
        "layer": c.layer,
        "status": c.status if c.group != "unreached" else "unreached",
        "why": c.why,
        "guarantee": c.accuracy,
        "algorithm": c.algorithm,
        "flops": c.flops,
        "seconds": c.seconds if c.ran else None,
        "low": c.low,
        "high": c.high,
        "confidence": c.confidence,
        "rounds": len(c.rounds) if c.ran else None,
        "gflops_per_s": c.gflops_per_s,
        "effective": c.effective if c.ran else None,
        "of_ceiling": share(run, c) if c.ran else None,
        "baseline": run.baseline if c.speed else None,
        "speed": speed[0],
        "speed_low": speed[1],
        "speed_high": speed[2],
        "score": n.get("score"),
        "max_error": n.get("max_error"),
        "workspace": n.get("workspace"),
        "plan_seconds": n.get("plan_seconds"),
        "pack_seconds": n.get("pack_seconds"),
        "transfer_seconds": n.get("transfer_seconds"),
        "first_seconds": n.get("first_seconds"),
        "device_seconds": n.get("device_seconds"),
        "record": c.source,
        "commit": views.commit(source),
    }


def as_csv(table: Sequence[dict[str, Any]]) -> str:
    """A cell that a spreadsheet would take for a formula is quoted as text."""
    out = io.StringIO()
    names = list(table[0]) if table else ["machine"]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for row in table:
        writer.writerow([_plain(row[name]) for name in names])
    return out.getvalue()


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value


def as_json(
    found: Findings,
    shown: Sequence[dict[str, Any]],
    table: Sequence[dict[str, Any]],
    tracks: Sequence[Track],
    steps: Sequence[Step],
) -> str:
    """One document: ``columns`` names what stands in each row of ``cells``, in this order, null for nothing.

    Seconds, bytes and plain counts, to the six digits that a record keeps; the table is that of cells.csv.
    """
    document = {
        "schema": SCHEMA,
        "left_out": found.left_out,
        "machines": [
            {
                "machine": run.machine,
                "threads": limits.threads(run),
                "records": [{"name": s.name, "commit": views.commit(s)} for s in run.sources],
                "answers": view["headlines"],
                "networks": view["networks"],
                "counts": {group: n for group, n, _ in view["counts"]},
            }
            for run, view in zip(found.runs, shown, strict=True)
        ],
        "steps": [
            {
                "machine": tracks[s.track].machine,
                "method": tracks[s.track].method,
                "kernel": s.key[0],
                "problem": s.key[1],
                "scenario": s.key[2],
                "last_before": s.last_before,
                "first_after": s.first_after,
                "before": s.before,
                "after": s.after,
                "ratio": s.ratio,
                "moved": s.moved,
            }
            for s in steps
        ],
        "columns": list(table[0]) if table else [],
    }
    head = json.dumps(document, indent=1, allow_nan=False)
    rows = ([_short(value) for value in row.values()] for row in table)
    cells = ",\n".join(json.dumps(row, allow_nan=False, separators=(",", ":")) for row in rows)
    return f'{head[:-2]},\n "cells": [\n{cells}\n ]\n}}\n'


def _short(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value
