"""Several records side by side: who won where, the same cells on each, and what forbids a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import standing, views
from . import wording as say
from .cells import Cell, Run


def table(runs: Sequence[Run]) -> dict[str, Any] | None:
    """None for a single record; its own section says everything about it."""
    if len(runs) < 2:
        return None
    return {
        "heads": [
            {"machine": run.said("machine", "machine not recorded"), "name": run.name} for run in runs
        ],
        "winners": _winners(runs),
        "rows": _same_cells(runs),
        "cautions": cautions(runs),
    }  # fmt: skip


def machines(runs: Sequence[Run], files: Mapping[str, dict[str, Any]]) -> dict[str, Any] | None:
    """Hardware compared, for ``machines.html.j2``; None where all runs are of one machine."""
    from .across import compared

    return compared(runs, files)


def _winners(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """For each problem of two records or more, the fastest kernel of each record."""
    found = [
        {(s, r.problem): r.best for s in run.scenarios for r in standing.races(run, s)} for run in runs
    ]
    rows = []
    for key in _shared(found):
        bests = [won.get(key) for won in found]
        first = next(c for c in bests if c)
        rows.append(_row(key[0], first, "", [(c, c.kernel if c else "") for c in bests]))
    return rows


def _same_cells(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Cells that ran in two records or more, with the speed against the first record that has them."""
    found = [{(c.scenario, c.problem, c.kernel): c for c in run.cells if c.ran} for run in runs]
    rows = []
    for key in _shared(found):
        cells = [ran.get(key) for ran in found]
        first = next(c for c in cells if c)
        notes = [
            (c, say.speed_text(first.seconds / c.seconds) if c and c is not first else "")
            for c in cells
        ]
        rows.append(_row(key[0], first, key[2], notes))
    return rows


def _shared(found: Sequence[Mapping[Any, Any]]) -> list[Any]:
    """Keys of two records or more, packed before eager, else in the order of the records."""
    keys = dict.fromkeys(key for each in found for key, value in each.items() if value)
    several = [key for key in keys if sum(bool(each.get(key)) for each in found) > 1]
    return sorted(several, key=lambda key: key[0], reverse=True)


def _row(
    scenario: str, first: Cell, kernel: str, cells: list[tuple[Cell | None, str]]
) -> dict[str, Any]:
    shown = [
        {"seconds": c.seconds, "time": say.seconds_text(c.seconds), "note": note} if c else None
        for c, note in cells
    ]
    layer, problem = first.layer, first.problem
    return {"scenario": scenario, "layer": layer, "problem": problem, "kernel": kernel, "cells": shown}


def cautions(runs: Sequence[Run]) -> list[str]:
    """Differences other than the machine; they may explain a difference of times."""
    found = [
        "These runs were not interleaved with each other, so no interval is given for their ratios."
    ]
    for what, values in (
        ("commits", {views.commit(run) for run in runs}),
        ("suite versions", {run.said("suite") for run in runs}),
        ("numbers of threads", {run.said("threads") for run in runs}),
        ("presets", {run.said("preset") for run in runs}),
        ("library versions", {str(views.libraries(run)) for run in runs if run.libraries}),
    ):
        if len(values) > 1:
            detail = "" if what == "library versions" else f": {', '.join(sorted(values))}"
            found.append(f"They differ in their {what}{detail}.")
    return found
