"""Somebody published times. Are they so here? Random cells of a record, measured again as ``compare`` does.

On a machine of the record's class each cell's time must agree (``agreement``): all cells in SCREENED rounds,
those that look different in CONFIRMED. On any other machine times say nothing, but the ranking of the
kernels on a problem may still compare: which pairs, told apart there and here, stand in the same order.
"""

from __future__ import annotations

import math
import statistics
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convzoo import Conv2d

from . import agreement, published
from .compare import STEADY, Cell, Preset, Sweep
from .problems import Layer
from .published import Published
from .record import Record
from .stopwatch import Effort
from .summary import interval

INSIDE_SHARE = 0.9  # of the cells must be inside
SIMILAR = 0.75  # of the pairs that both machines tell apart must be in the same order
FALSIFIED = math.log(1.2)  # how large a falsification is that the reader is told about
OUTSIDE = (agreement.FAST, agreement.SLOW)
BUSY = "busy here"  # slower than the record in rounds during which the host gave less than it can


@dataclass
class Reproduction:
    """A run in progress. ``drawn`` holds published cells; what is measured of each is a Cell."""

    drawn: published.Drawn
    same_class: bool
    threads: int  # usable here; a record that asks for fewer gets fewer
    seed: int
    ceilings: Any  # threads -> the ceilings of this machine
    timeout: float = 120.0
    progress: Any = None
    cells: list[tuple[Published, dict[str, Any], Cell]] = field(default_factory=list)
    asked: dict[int, int] = field(default_factory=dict)  # rounds, by id of the cell
    libraries: dict[str, dict[str, str]] = field(default_factory=dict)
    interrupted: bool = False

    def run(self) -> None:
        """Measure, record by record. Ctrl-C keeps what is finished."""
        for record, line in self.drawn:
            layer = Layer(line["layer"], Conv2d.parse(line["problem"]), line["count"])
            self.cells.append((record, line, Cell(line["kernel"], layer, line["scenario"])))
        for record in {id(r): r for r, _ in self.drawn}.values():
            mine = [(line, cell) for r, line, cell in self.cells if r is record]
            self._measure(record, [cell for _, cell in mine], agreement.SCREENED)
            if self.same_class and not self.interrupted:
                all_off = abs(self._drift(record)) > agreement.MARGIN  # more rounds tell a busy hour
                suspects = [
                    cell
                    for line, cell in mine
                    if cell.status == "ok" and (all_off or self._suspicious(line, cell))
                ]
                self._measure(record, suspects, agreement.CONFIRMED)
            if self.interrupted:
                return

    @staticmethod
    def _suspicious(line: dict[str, Any], cell: Cell) -> bool:
        return agreement.suspicious(line["round_seconds"], list(cell.medians.values()))

    def _measure(self, record: Published, cells: list[Cell], rounds: int) -> None:
        """Rounds of these cells up to so many, with the record's own sampling."""
        if not cells:
            return
        self.asked |= {id(cell): rounds for cell in cells}
        threads = self.threads_for(record)
        preset = Preset(Effort(**record.header["sampling"]["effort"]), (rounds, rounds), math.inf)
        with tempfile.TemporaryDirectory() as folder:
            log = Record(Path(folder) / "again.jsonl", {"method": "reproduce"})
            sweep = Sweep(
                cells, preset, threads, self.seed, log, self.timeout, progress=self.progress,
                ceilings=self.ceilings(threads), watch=True,
            )  # fmt: skip
            try:
                sweep.run()
            finally:
                log.close()
        self.libraries |= sweep.about
        self.interrupted = self.interrupted or sweep.interrupted

    def threads_for(self, record: Published) -> int:
        return min(record.threads, self.threads)

    def document(self) -> dict[str, Any]:
        """What was found: by cell, by record (``drift``) or by problem (``orders``), and in one sentence."""
        records = {id(r): r for r, _ in self.drawn}.values()
        shared = {id(r): self._drift(r) for r in records}
        lines = [self._line(r, line, cell, shared[id(r)]) for r, line, cell in self.cells]
        document: dict[str, Any] = {
            "same_class": self.same_class, "seed": self.seed, "libraries": self.libraries,
            "status": "interrupted" if self.interrupted else "complete",
            "records": [
                {
                    "path": str(r.path), "machine": r.header["machine"], "commit": r.header["commit"],
                    "threads": r.threads, "threads_here": self.threads_for(r), "flaws": r.flaws,
                    "drift": math.exp(shared[id(r)]), "other_libraries": self._other_libraries(r),
                }
                for r in records
            ],
            "cells": lines, "orders": [] if self.same_class else orders(lines),
        }  # fmt: skip
        return document

    def _drift(self, record: Published) -> float:
        """What the cells of one record share."""
        bests = []
        for r, line, cell in self.cells:
            here = steady(cell)
            if r is record and cell.status == "ok" and here:
                bests.append(agreement.shift(line["round_seconds"], here).best)
        return agreement.drift(bests) if self.same_class else 0.0

    def _other_libraries(self, record: Published) -> list[str]:
        found = []
        for backend, about in self.libraries.items():
            there = record.libraries.get(backend, {})
            found += [f"{k} {there[k]}, here {v}" for k, v in about.items() if there.get(k, v) != v]
        return sorted(set(found))

    def _line(
        self, record: Published, line: dict[str, Any], cell: Cell, shared: float
    ) -> dict[str, Any]:
        """One cell: published, here, and the verdict."""
        there = {k: line[k] for k in ("seconds", "low", "high", "round_seconds")}
        found = cell.key | {
            "record": str(record.path),
            "status": cell.status,
            "why": cell.why,
            "there": there,
        }
        values = list(cell.medians.values())
        if cell.status != "ok" or not values:
            return found | {"verdict": "never measured" if cell.status == "ok" else cell.status}
        low, high, _ = interval(values)
        found["here"] = {
            "seconds": statistics.median(values),
            "low": low,
            "high": high,
            "round_seconds": values,
        }
        if shares := [r["host_share"] for r in cell.rounds.values() if "host_share" in r]:
            found["host_share"] = statistics.median(shares)
        if not self.same_class:
            return found | {"verdict": "ok"}
        shift = agreement.shift(line["round_seconds"], values)
        verdict = agreement.verdict(shift, shared)
        if verdict == agreement.FAST and len(steady(cell)) < agreement.CONFIRMED // 2:
            done = len(values) >= agreement.CONFIRMED or cell.settled()
            verdict = BUSY if done else "unfinished"
        elif verdict == agreement.FAST:
            shift = agreement.shift(line["round_seconds"], steady(cell))
            verdict = agreement.verdict(shift, shared)
        elif line.get("host_share", 1.0) < STEADY:
            verdict = agreement.INSIDE  # it says itself that its machine was busy
        enough = self.asked[id(cell)] if verdict == agreement.INSIDE else agreement.CONFIRMED
        if len(values) < enough and not cell.settled():
            verdict = "unfinished"
        faster, slower = (math.exp(v) if math.isfinite(v) else None for v in shift.visible())
        limits = {
            k: math.exp(v) if math.isfinite(v) else None
            for k, v in (("low", shift.low), ("high", shift.high))
        }
        return found | {
            "verdict": verdict, "ratio": math.exp(shift.middle), **limits, "best_ratio": math.exp(shift.best),
            "noticed_if_claimed_faster_by": faster, "noticed_if_claimed_slower_by": slower,
        }  # fmt: skip


def steady(cell: Cell) -> list[float]:
    """Seconds of the rounds during which the host gave what it can: only these tell how fast a call can be."""
    return [s for i, s in cell.medians.items() if cell.rounds[i].get("host_share", 1.0) >= STEADY]


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
        )  # fmt: skip
        order = agreement.order(there, here)
        found.append({
            "record": record, "problem": problem, "scenario": scenario, "kernels": len(mine),
            "same": order.same, "reversed": order.reversed, "untold": order.untold, "tau": order.tau,
        })  # fmt: skip
    return found
