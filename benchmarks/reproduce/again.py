"""Cells of published records measured again, as ``compare`` does.

All cells in SCREENED rounds, and on a machine of the record's class those that look different in CONFIRMED.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convzoo import Conv2d

from ..compare import STEADY, Cell, Preset, Sweep
from ..problems import Layer
from ..record import Record
from ..stopwatch import Effort
from . import agreement
from .published import Drawn, Published


def steady(cell: Cell) -> list[float]:
    """Seconds of the rounds during which the host gave what it can: only these tell how fast a call can be."""
    return [s for i, s in cell.medians.items() if cell.rounds[i].get("host_share", 1.0) >= STEADY]


@dataclass
class Again:
    """A run in progress. ``drawn`` holds published cells; what is measured of each is a Cell."""

    drawn: Drawn
    same_class: bool
    threads: int  # usable here; a record that asks for fewer gets fewer
    seed: int
    ceilings: Callable[[int], dict[str, Any]]  # of this machine with so many threads
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
        for record in self.records():
            mine = [(line, cell) for r, line, cell in self.cells if r is record]
            self._measure(record, [cell for _, cell in mine], agreement.SCREENED)
            if self.same_class and not self.interrupted:
                all_off = abs(self.drift(record)) > agreement.MARGIN  # more rounds tell a busy hour
                suspects = [
                    cell for line, cell in mine if cell.status == "ok" and (all_off or self._suspicious(line, cell))
                ]
                self._measure(record, suspects, agreement.CONFIRMED)
            if self.interrupted:
                return

    def records(self) -> list[Published]:
        return list({id(r): r for r, _ in self.drawn}.values())

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
                cells,
                preset,
                threads,
                self.seed,
                log,
                self.timeout,
                progress=self.progress,
                ceilings=self.ceilings(threads),
                watch=True,
            )
            try:
                sweep.run()
            finally:
                log.close()
        self.libraries |= sweep.about
        self.interrupted = self.interrupted or sweep.interrupted

    def threads_for(self, record: Published) -> int:
        return min(record.threads, self.threads)

    def drift(self, record: Published) -> float:
        """What the cells of one record share, as log(here / record)."""
        bests = []
        for r, line, cell in self.cells:
            here = steady(cell)
            if r is record and cell.status == "ok" and here:
                bests.append(agreement.shift(line["round_seconds"], here).best)
        return agreement.drift(bests) if self.same_class else 0.0

    def other_libraries(self, record: Published) -> list[str]:
        """Versions that are others here, as "numpy 2.3, here 2.4"."""
        found = set()
        for backend, about in self.libraries.items():
            there = record.libraries.get(backend, {})
            found |= {f"{k} {there[k]}, here {v}" for k, v in about.items() if there.get(k, v) != v}
        return sorted(found)
