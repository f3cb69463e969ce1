"""Tables of one scenario in words, for Markdown: who won each problem, and kernels by problems."""

from __future__ import annotations

from typing import Any

from benchmarks import evidence
from benchmarks import words as say
from benchmarks.evidence import Race

from . import standing
from .cells import Run


def winners(run: Run, scenario: str) -> list[dict[str, Any]]:
    """For each problem the fastest of the strongest guarantee, its margin, and how sure that is."""
    rows = []
    for race in evidence.races(run.cells, scenario):
        best = race.best
        if best is None:
            continue
        after = race.runner_up(best.accuracy)
        ahead = evidence.summary(evidence.speeds(after.rounds, best.rounds)) if after else None
        rows.append(
            {
                "layer": race.layer,
                "problem": race.problem,
                "kernel": best.kernel,
                "guarantee": best.accuracy,
                "time": say.seconds_text(best.seconds),
                "speed": say.speed_text(best.speed[0]) if best.speed else say.NOTHING,
                "interval": say.NOTHING
                if not best.speed
                else "1 round"
                if len(best.rounds) == 1
                else say.speed_interval(*best.speed[1:]),
                "ties": [c.kernel for c in race.level],
                "rounds": len(best.rounds),
                "ahead": f"{say.speed_text(ahead[0])} ({say.speed_interval(*ahead[1:])}) of {after.kernel}"
                if after and ahead
                else say.NOTHING,
                "sure": _certainty(race, len(best.rounds), ahead),
                "weaker": [f"{c.kernel} ({c.accuracy}, {say.seconds_text(c.seconds)})" for c in race.weaker],
            }
        )
    return rows


def _certainty(race: Race, rounds: int, ahead: tuple[float, float, float] | None) -> str:
    """One word, as the HTML page says it; a tie's partners are told beside it."""
    if not race.level and ahead is None:
        return "alone"
    if rounds < evidence.FEWEST:
        return "cannot tell"
    if race.level:
        return "tie"
    return "told apart"


def matrix(run: Run, scenario: str, most: int = 8) -> dict[str, Any]:
    """Kernels by the first ``most`` problems; kernels with nothing to run there stand apart."""
    races = evidence.races(run.cells, scenario)
    shown = races[:most]
    rows = [_row(run, shown, kernel) for kernel in standing.ordered(run, scenario)]
    heads = [{"layer": r.layer, "problem": r.problem} for r in shown]
    return {
        "name": scenario,
        "heads": heads,
        "left_out": len(races) - len(shown),
        "rows": [r for r in rows if not r["idle"]],
        "idle": [r["kernel"] for r in rows if r["idle"]],
    }


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
