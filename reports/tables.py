"""Tables of one scenario in words, for Markdown: who won each problem, and kernels by problems."""

from __future__ import annotations

from typing import Any

from . import standing
from . import wording as say
from .cells import Run
from .standing import Race


def winners(run: Run, scenario: str) -> list[dict[str, Any]]:
    """For each problem the fastest of the strongest guarantee, its margin, and how sure that is."""
    rows = []
    for race in standing.races(run, scenario):
        best = race.best
        if best is None:
            continue
        after = race.runner_up(best.accuracy) if best.accuracy in standing.GUARANTEES else None
        rows.append({
            "layer": race.layer, "problem": race.problem, "kernel": best.kernel, "guarantee": best.accuracy,
            "time": say.seconds_text(best.seconds),
            "speed": say.speed_text(best.speed[0]) if best.speed else say.NOTHING,
            "interval": say.speed_interval(*best.speed[1:]) if best.speed else say.NOTHING,
            "ties": [c.kernel for c in race.level],
            "ahead": f"{say.speed_text(after.seconds / best.seconds)} of {after.kernel}" if after else say.NOTHING,
            "weaker": [f"{c.kernel} ({c.accuracy}, {say.seconds_text(c.seconds)})" for c in race.weaker],
        })  # fmt: skip
    return rows


def matrix(run: Run, scenario: str, most: int = 8) -> dict[str, Any]:
    """Kernels by the first ``most`` problems; kernels with nothing to run there stand apart."""
    races = standing.races(run, scenario)
    shown = races[:most]
    rows = [_row(run, shown, kernel) for kernel in standing.ordered(run, scenario)]
    heads = [{"layer": r.layer, "problem": r.problem} for r in shown]
    return {
        "name": scenario, "heads": heads, "left_out": len(races) - len(shown),
        "rows": [r for r in rows if not r["idle"]], "idle": [r["kernel"] for r in rows if r["idle"]],
    }  # fmt: skip


def _row(run: Run, races: list[Race], kernel: str) -> dict[str, Any]:
    cells = [_cell(run, race, kernel) for race in races]
    guarantee = next((c.accuracy for c in run.of(kernel=kernel) if c.ran), "not recorded")
    return {
        "kernel": kernel,
        "guarantee": guarantee if guarantee != "not recorded" else say.NOTHING,
        "cells": cells,
        "idle": all(cell["kind"] in ("skipped", "unreached", "absent") for cell in cells),
    }


def _cell(run: Run, race: Race, kernel: str) -> dict[str, Any]:
    cell = next((c for c in (*race.ranked, *race.others) if c.kernel == kernel), None)
    if cell is None:
        return {"kind": "absent"}
    if not cell.ran:
        return {"kind": cell.group, "status": cell.status}
    return {
        "kind": "ran",
        "time": say.seconds_text(cell.seconds),
        "speed": say.speed_text(cell.speed[0]) if cell.speed else say.NOTHING,
        "best": cell is race.best,
        "unsure": standing.verdict(cell) == "cannot tell" and kernel != run.baseline,
    }
