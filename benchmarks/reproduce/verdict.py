"""What is measured here, held to what was published: a document, and what of it speaks against the records.

On a machine of the record's class each cell's time must agree (``agreement``). On any other machine times say
nothing, but the ranking of the kernels on a problem may still compare: which pairs, told apart there and here,
stand in the same order.
"""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

from ..compare import STEADY, Cell
from ..evidence import interval
from ..words import seconds_text
from . import agreement
from .again import Again, steady
from .agreement import FAST, INSIDE, SLOW, TOGETHER
from .published import Published, name

INSIDE_SHARE = 0.9  # of the cells must be inside
SIMILAR = 0.75  # of the pairs that both machines tell apart must be in the same order
OUTSIDE = (FAST, SLOW)
BUSY = "busy here"  # slower than the record in rounds during which the host gave less than it can
AGREES, DISAGREES, NOTHING = "agrees", "disagrees", "could not be told"


def document(run: Again) -> dict[str, Any]:
    """What was found: by cell, by record (``drift``) or by problem (``orders``), and the verdict."""
    shared = {id(r): run.drift(r) for r in run.records()}
    lines = [_line(run, r, line, cell, shared[id(r)]) for r, line, cell in run.cells]
    found: dict[str, Any] = {
        "same_class": run.same_class,
        "seed": run.seed,
        "libraries": run.libraries,
        "status": "interrupted" if run.interrupted else "complete",
        "records": [
            {
                "path": str(r.path),
                "machine": r.header["machine"],
                "commit": r.header["commit"],
                "threads": r.threads,
                "threads_here": run.threads_for(r),
                "flaws": r.flaws,
                "drift": math.exp(shared[id(r)]),
                "other_libraries": run.other_libraries(r),
            }
            for r in run.records()
        ],
        "cells": lines,
        "orders": [] if run.same_class else orders(lines),
    }
    found["objections"] = objections(found)
    return found | {"verdict": _verdict(found)}


def _line(run: Again, record: Published, line: dict[str, Any], cell: Cell, shared: float) -> dict[str, Any]:
    """One cell: published, here, and the verdict."""
    there = {k: line[k] for k in ("seconds", "low", "high", "round_seconds")}
    found = cell.key | {"record": str(record.path), "status": cell.status, "why": cell.why, "there": there}
    values = list(cell.medians.values())
    if cell.status != "ok" or not values:
        return found | {"verdict": "never measured" if cell.status == "ok" else cell.status}
    low, high, _ = interval(values)
    middle = statistics.median(values)
    found["here"] = {"seconds": middle, "low": low, "high": high, "round_seconds": values}
    if shares := [r["host_share"] for r in cell.rounds.values() if "host_share" in r]:
        found["host_share"] = statistics.median(shares)
    if not run.same_class:
        return found | {"verdict": "ok"}
    said, shift = _judge(line, cell, shared)
    enough = run.asked[id(cell)] if said == INSIDE else agreement.CONFIRMED
    if len(values) < enough and not cell.settled():
        said = "unfinished"
    faster, slower = shift.visible()
    return found | {
        "verdict": said,
        "ratio": math.exp(shift.middle),
        "best_ratio": math.exp(shift.best),
        "low": _factor(shift.low),
        "high": _factor(shift.high),
        "noticed_if_claimed_faster_by": _factor(faster),
        "noticed_if_claimed_slower_by": _factor(slower),
    }


def _judge(line: dict[str, Any], cell: Cell, shared: float) -> tuple[str, agreement.Shift]:
    """A machine that was busy, here or there, speaks against nobody."""
    shift = agreement.shift(line["round_seconds"], list(cell.medians.values()))
    said = agreement.verdict(shift, shared)
    # half of its rounds, of which a cell with a narrow interval needs few
    if said == FAST and 2 * len(steady(cell)) < min(len(cell.medians), agreement.CONFIRMED):
        return BUSY, shift
    if said == FAST:
        shift = agreement.shift(line["round_seconds"], steady(cell))
        return agreement.verdict(shift, shared), shift
    if line.get("host_share", 1.0) < STEADY:
        return INSIDE, shift
    return said, shift


def _factor(log: float) -> float | None:
    return math.exp(log) if math.isfinite(log) else None


def orders(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How the ranking compares, problem by problem."""
    races: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for x in lines:
        if "here" in x:
            races.setdefault((x["record"], x["problem"], x["scenario"]), []).append(x)
    found = []
    for (record, problem, scenario), mine in races.items():
        there, here = (
            {x["kernel"]: (x[k]["seconds"], x[k]["low"], x[k]["high"]) for x in mine} for k in ("there", "here")
        )
        order = agreement.order(there, here)
        found.append(
            {
                "record": record,
                "problem": problem,
                "scenario": scenario,
                "kernels": len(mine),
                "same": order.same,
                "reversed": order.reversed,
                "untold": order.untold,
                "tau": order.tau,
            }
        )
    return found


def objections(found: dict[str, Any]) -> list[str]:
    """What speaks against the records, a sentence each.

    A machine that was busy makes an honest record slow here and there: too slow counts in more than one cell
    of ten. Nothing makes an honest record fast.
    """
    spoken = [f"{Path(r['path']).name}: {flaw}" for r in found["records"] for flaw in r["flaws"]]
    for r in found["records"]:
        if abs(math.log(r["drift"])) > TOGETHER:
            spoken.append(f"{Path(r['path']).name}: everything takes {r['drift']:.2f} times as long here as it says")
    cells = told(found)
    few = sum(x["verdict"] != INSIDE for x in cells) <= (1 - INSIDE_SHARE) * len(cells)
    for x in found["cells"]:
        if x["verdict"] == "wrong":
            spoken.append(f"{name(x)}: a wrong output here: {x['why']}")
        elif x["verdict"] == FAST or (x["verdict"] == SLOW and not few):
            spoken.append(outside(x))
    same, turned, _ = pairs(found)
    if same + len(turned) and same < SIMILAR * (same + len(turned)):
        spoken.append("the kernels stand in another order here")
    return spoken


def told(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Cells that are inside or outside."""
    return [x for x in found["cells"] if x["verdict"] in (INSIDE, *OUTSIDE)]


def outside(x: dict[str, Any]) -> str:
    """A sentence about a cell that is."""
    here = x["here"]
    return (
        f"{name(x)}: {x['verdict']}: it says {_times(x['there'])}; here {_times(here)} in "
        f"{len(here['round_seconds'])} rounds, the best {x['best_ratio']:.2f} times the best there"
    )


def _times(side: dict[str, Any]) -> str:
    return f"{seconds_text(side['seconds'])} ({seconds_text(side['low'])} - {seconds_text(side['high'])})"


def pairs(found: dict[str, Any]) -> tuple[int, list[str], int]:
    """Pairs in the same order, those in the reverse in words, and how many nobody tells apart."""
    turned = [f"{a} before {b} on {o['problem']}" for o in found["orders"] for a, b in o["reversed"]]
    same, untold = (sum(o[k] for o in found["orders"]) for k in ("same", "untold"))
    return same, turned, untold


def _verdict(found: dict[str, Any]) -> str:
    if found["objections"]:
        return DISAGREES
    same, turned, _ = pairs(found)
    enough = 2 * len(told(found)) >= len(found["cells"])
    return AGREES if enough or same + len(turned) else NOTHING


def failures(found: dict[str, Any]) -> list[str]:
    """Cells of which nothing can be said, because they failed to run here."""
    fine = (INSIDE, *OUTSIDE, BUSY, "wrong", "ok")
    return [f"{name(x)}: {x['verdict']} {x['why']}".strip() for x in found["cells"] if x["verdict"] not in fine]
