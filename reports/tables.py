"""The tables of one scenario, in words and positions: heat map, winners, rankings."""

from __future__ import annotations

import math
from typing import Any

from . import standing
from . import wording as say
from .cells import Cell, Run
from .standing import Race

STEEPEST = math.log(8)  # a speed of 8x or 1/8 has the full colour
WIDE = 1.25  # an interval whose ends are further apart than this is called wide


def scenario(run: Run, name: str) -> dict[str, Any]:
    races = standing.races(run, name)
    notes: dict[str, int] = {}
    rows = [_heat_row(run, races, kernel, notes) for kernel in standing.ordered(run, name)]
    return {
        "name": name,
        "races": [_race(race) for race in races],
        "winners": [_winner(race) for race in races if race.best],
        "rows": [r for r in rows if not r["idle"]],
        "idle": [r for r in rows if r["idle"]],
        "notes": [(n, why) for why, n in notes.items()],
        "least": min((c.confidence for r in races for c in r.ranked if c.confidence), default=None),
    }


def _heat_row(run: Run, races: list[Race], kernel: str, notes: dict[str, int]) -> dict[str, Any]:
    cells = [_heat_cell(run, race, kernel, notes) for race in races]
    shown = standing.overall(run, races[0].scenario, kernel) if races else None
    known = next(c for race in races for c in (*race.ranked, *race.others) if c.kernel == kernel)
    guarantee = next((c.accuracy for c in run.of(kernel=kernel) if c.ran), known.accuracy)
    return {
        "kernel": kernel,
        "guarantee": guarantee if guarantee != "not recorded" else say.NOTHING,
        "baseline": kernel == run.baseline,
        "cells": cells,
        "overall": say.speed_text(shown[0]) if shown else say.NOTHING,
        "overall_interval": say.speed_interval(*shown[1:]) if shown else "did not run on all problems",
        "overall_sort": shown[0] if shown else -1,
        "idle": all(cell["kind"] in ("skipped", "unreached", "absent") for cell in cells),
    }


def _heat_cell(run: Run, race: Race, kernel: str, notes: dict[str, int]) -> dict[str, Any]:
    cell = next((c for c in (*race.ranked, *race.others) if c.kernel == kernel), None)
    if cell is None:
        return {"kind": "absent", "title": "not in this record"}
    if not cell.ran:
        why = standing.reason(cell)
        note = notes.setdefault(why, len(notes) + 1)
        return {
            "kind": cell.group,
            "status": cell.status,
            "title": f"{cell.status}: {why}",
            "note": note,
        }
    tint, deep = "even", 0.0
    if cell.speed:
        deep = min(1.0, abs(math.log(cell.speed[0])) / STEEPEST)
        tint = "quick" if cell.speed[0] > 1 else "slow"
    unsure = standing.verdict(cell) == "cannot tell"
    return {
        "kind": "ran",
        "speed": say.speed_text(cell.speed[0]) if cell.speed else say.NOTHING,
        "time": say.seconds_text(cell.seconds),
        "rate": say.plain(cell.gflops_per_s),
        "sort": cell.speed[0] if cell.speed else -1,
        "tint": tint,
        "deep": f"{deep:.3f}",
        "best": cell is race.best,
        "unsure": unsure and kernel != run.baseline,
        "title": (
            f"{kernel} on {race.layer}: {say.time_interval(cell.low, cell.high)}"
            + (f", {say.speed_interval(*cell.speed[1:])} of {run.baseline}" if cell.speed else "")
            + (" (cannot tell)" if unsure and kernel != run.baseline else "")
        ),
    }


def _winner(race: Race) -> dict[str, Any]:
    best = race.best
    assert best is not None
    return {
        "layer": race.layer, "problem": race.problem, "kernel": best.kernel,
        "guarantee": best.accuracy, "seconds": best.seconds, "time": say.seconds_text(best.seconds),
        "speed": say.speed_text(best.speed[0]) if best.speed else say.NOTHING,
        "speed_sort": best.speed[0] if best.speed else -1,
        "interval": say.speed_interval(*best.speed[1:]) if best.speed else say.NOTHING,
        "verdict": standing.verdict(best),
        "level": [c.kernel for c in race.level],
        "weaker": [f"{c.kernel} ({c.accuracy}, {say.seconds_text(c.seconds)})" for c in race.weaker],
    }  # fmt: skip


def _race(race: Race) -> dict[str, Any]:
    ends = [v for c in race.ranked for v in (c.low, c.high) if v]
    first, last = (min(ends), max(ends)) if ends else (1.0, 1.0)
    span = math.log(last / first) or 1.0

    def place(value: float | None) -> float:
        return 100 * math.log((value or first) / first) / span

    level = race.level
    rows = [_row(c, i, c is race.best or c in level, place)
            for i, c in enumerate(race.ranked)]  # fmt: skip
    return {
        "layer": race.layer, "problem": race.problem, "flops": say.flops_text(race.flops), "rows": rows,
        "others": [{"kernel": c.kernel, "status": c.status, "group": c.group, "why": standing.reason(c)}
                   for c in race.others],
        "best": race.best.kernel if race.best else None,
        "level": [c.kernel for c in level],
        "weaker": [c.kernel for c in race.weaker],
    }  # fmt: skip


def _row(cell: Cell, index: int, leads: bool, place: Any) -> dict[str, Any]:
    n = cell.numbers
    left, right = place(cell.low), place(cell.high)
    return {
        "rank": index + 1,
        "kernel": cell.kernel,
        "leads": leads,
        "time": say.seconds_text(cell.seconds),
        "seconds": cell.seconds,
        "interval": say.time_interval(cell.low, cell.high),
        "low_sort": cell.low or 0,
        "spread_sort": cell.high / cell.low if cell.low and cell.high else 0,
        "wide": bool(cell.low and cell.high and cell.high / cell.low > WIDE),
        "left": f"{left:.2f}",
        "wide_as": f"{max(0.8, right - left):.2f}",
        "middle": f"{place(cell.seconds):.2f}",
        "confidence": f"{cell.confidence:.0%}" if cell.confidence is not None else say.NOTHING,
        "rounds": int(n["rounds"] or 0),
        "rate": say.plain(cell.gflops_per_s),
        "rate_sort": cell.gflops_per_s or 0,
        "effective": cell.effective,
        "speed": say.speed_text(cell.speed[0]) if cell.speed else say.NOTHING,
        "speed_sort": cell.speed[0] if cell.speed else -1,
        "speed_low_sort": cell.speed[1] if cell.speed else -1,
        "speed_interval": say.speed_interval(*cell.speed[1:]) if cell.speed else say.NOTHING,
        "verdict": standing.verdict(cell),
        "score": say.plain(n["score"]),
        "score_sort": n["score"] if n["score"] is not None else -1,
        "guarantee": cell.accuracy,
        "algorithm": cell.algorithm,
        "workspace": say.bytes_text(n["workspace"]),
        "workspace_sort": n["workspace"] or 0,
        "plan": say.seconds_text(n["plan_seconds"]),
        "plan_sort": n["plan_seconds"] or 0,
        "pack": say.seconds_text(n["pack_seconds"]),
        "pack_sort": n["pack_seconds"] or 0,
        "device": say.seconds_text(n["device_seconds"]),
        "device_sort": n["device_seconds"] or 0,
    }
