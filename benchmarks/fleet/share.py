"""What the hosts of one machine class measure together, and its record: that of ``compare``.

Each cell is measured by one of them, once. A host is given a slice: problems, and of the kernels that still wait
there all that this host can run, so that what races is measured side by side.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import record, summary
from ..compare import Cell, Preset, Sweep, cell_key, cells_of, replay
from ..problems import Layer
from ..stopwatch import Effort

Estimate = Callable[[str, str], float]  # (kernel, problem) -> seconds of a round
WhyNot = Callable[[str], str | None]  # kernel -> why a host cannot run it


@dataclass
class Slice:
    """What one host was given: kernels on problems. ``received`` counts the lines of its record that arrived."""

    number: int
    layers: list[Layer]
    kernels: list[str]
    lines: list[str] = field(default_factory=list)  # of an earlier record, to go on with
    received: int = 0
    run: str = ""  # which of perhaps several attempts these are from
    complete: bool = False

    def __post_init__(self) -> None:
        self.received = len(self.lines)

    def __str__(self) -> str:
        more = f" and {len(self.layers) - 1} more" if len(self.layers) > 1 else ""
        return f"{len(self.kernels)} kernels on {self.layers[0].problem}{more}"

    def order(self, arguments: list[str]) -> dict[str, Any]:
        """What the host is sent: arguments of ``compare``, and a problem file or a record to go on with."""
        layers = [{"name": x.name, "problem": str(x.problem), "count": x.count} for x in self.layers]
        return {
            "slice": self.number,
            "arguments": [*arguments, "--kernels", *self.kernels],
            "problems": {"problems": layers},
            "lines": self.lines,
        }


class Share:
    """Cells of one machine class: measured, given away, or waiting. The first line of all begins its record."""

    def __init__(self, header: dict[str, Any], folder: Path, path: Path | None = None):
        """``header`` is that of a record; without ``path``, one that lacks what only a host of the class knows."""
        self.header, self.machine, self._folder = header, header["machine"], folder
        self.log = record.Record(path) if path else None
        self.cells = cells_of(header)
        self._by_key = {tuple(c.key.values()): c for c in self.cells}
        self._lines: dict[tuple[str, ...], list[str]] = {}
        self._resumed = path is not None
        self.incomplete: list[str] = []  # slices that a host did not finish, and why
        self.libraries: dict[str, dict[str, str]] = {}
        self.imports: dict[str, float] = {}
        self.waiting: dict[str, list[str]] = {}  # kernels by problem
        self._layers = {str(c.layer.problem): c.layer for c in self.cells}
        self._queue()

    @classmethod
    def resumed(cls, path: Path, header: dict[str, Any], lines: Iterable[dict[str, Any]]) -> Share:
        """What is left of an interrupted record, which goes on. Raises record.Busy where it is being written."""
        share = cls(header, path.parent, path)
        for line in lines:
            share._note(line, json.dumps(line))
        share._queue()
        return share

    def _queue(self) -> None:
        self.waiting = {problem: [] for problem in self._layers}
        for cell in self.cells:
            kernels = self.waiting[str(cell.layer.problem)]
            if cell.kernel not in kernels and not self.finished(cell):
                kernels.append(cell.kernel)

    def finished(self, cell: Cell) -> bool:
        """Refused, failed, settled, or measured in as many rounds as are asked for at least."""
        fewest = self.header["sampling"]["rounds"][0]
        return cell.status != "ok" or len(cell.rounds) >= fewest or cell.settled()

    def rounds_left(self) -> int:
        """Rounds of cells that are still to come, at least."""
        fewest = self.header["sampling"]["rounds"][0]
        return sum(fewest - len(c.rounds) for c in self.cells if not self.finished(c))

    def waits(self) -> bool:
        return any(self.waiting.values())

    def suits(self, why_not: WhyNot) -> bool:
        """Whether anything waits that such a host can run."""
        return any(why_not(k) is None for k in {k for names in self.waiting.values() for k in names})

    def take(self, number: int, why_not: WhyNot, seconds: Estimate, boxes: int) -> Slice | None:
        """A slice for a host, which waits no longer; None where it can run none.

        Half of its part of what waits, if so many boxes share that, but at least the longest problem: few slices,
        each of which must start every library, and short ones at the end, when boxes would wait for the last.
        """
        mine = {q: [k for k in names if why_not(k) is None] for q, names in self.waiting.items()}
        cost = {q: sum(seconds(k, q) for k in names) for q, names in mine.items() if names}
        if not cost:
            return None
        longest, *others = sorted(cost, key=lambda q: -cost[q])
        kernels, chosen, limit = mine[longest], [longest], sum(cost.values()) / (2 * boxes)
        for q in others:
            if mine[q] == kernels and sum(cost[x] for x in [*chosen, q]) <= limit:
                chosen.append(q)
        for q in chosen:
            self.waiting[q] = [k for k in self.waiting[q] if k not in kernels]
        layers = [self._layers[q] for q in chosen]
        return Slice(number, layers, kernels, self._so_far(layers, kernels))

    def _so_far(self, layers: list[Layer], kernels: list[str]) -> list[str]:
        """A record of these cells alone, for the host to go on with; nothing where the record is a new one."""
        if not self._resumed:
            return []
        problems = [[x.name, str(x.problem), x.count] for x in layers]
        asked = {"kernels": kernels, "problems": problems, "networks": {}}
        keys = [(k, q, s) for _, q, _ in problems for k in kernels for s in self.header["scenarios"]]
        return [json.dumps(self.header | asked), *(t for key in keys for t in self._lines.get(key, []))]

    def receive(self, piece: Slice, first: int, lines: list[str]) -> int:
        """Keep the lines of a slice's record that are new; ``first`` is the place of the first. How many rounds."""
        rounds = 0
        if first > piece.received:  # something was lost on the way: all of it comes with the result
            return rounds
        for text in lines[max(0, piece.received - first) :]:
            line = json.loads(text)
            piece.received += 1
            rounds += line["kind"] == "round"
            piece.complete |= line["kind"] == "end" and line["status"] == "complete"
            if line["kind"] == "run" and self.log is None:
                self._open(line)
            elif line["kind"] in ("round", "skip", "ceilings") and self.log:
                self.log.add(line)
            self._note(line, text)
        return rounds

    def _open(self, theirs: dict[str, Any]) -> None:
        """Begin the record: what the first host says of the class, and what is asked of all of them."""
        self.header = {k: v for k, v in theirs.items() if k not in ("schema", "kind")} | self.header
        self.log = record.Record(record.new_path(self._folder, self.machine, self.header["preset"]), self.header)

    def _note(self, line: dict[str, Any], text: str) -> None:
        if line["kind"] in ("round", "skip"):
            key = tuple(line[k] for k in cell_key)
            replay(self._by_key[key], line)
            self._lines.setdefault(key, []).append(text)
        elif line["kind"] == "end":
            self.libraries |= line["libraries"]
            for backend, seconds in line.get("import_seconds", {}).items():
                self.imports[backend] = min(seconds, self.imports.get(backend, seconds))

    def close(self, baseline: str | None, interrupted: bool, why_not: WhyNot) -> dict[str, Any]:
        """Sum up as compare does, and end the record. ``why_not`` says of a kernel why no host can run it."""
        for cell in self.cells:
            reason = why_not(cell.kernel)
            if reason and not cell.rounds and cell.status == "ok":
                cell.status, cell.why = "unavailable", reason
                if self.log:
                    self.log.add({"kind": "skip", **cell.key, "status": cell.status, "why": reason})
        left = [c for c in self.cells if not self.finished(c)]
        ended = "interrupted" if interrupted or left else "complete"
        found = {
            "machine": self.machine,
            "status": ended,
            "incomplete": self.incomplete,
            "unfinished": len(left),
            "record": None,
            "cells": [],
            "sentence": "",
            "baseline": None,
        }
        if self.log is None:
            return found
        sampling = self.header["sampling"]
        preset = Preset(Effort(**sampling["effort"]), tuple(sampling["rounds"]), sampling["seconds"])
        sweep = Sweep(self.cells, preset, self.header["threads"], self.header["seed"], self.log)
        baseline = baseline or summary.default_baseline(self.cells)
        found["cells"] = sweep.summarize(baseline)
        threads = self.header["threads"]
        found["sentence"] = summary.closing(self.cells, baseline, threads, self.machine)
        self.log.add(
            {
                "kind": "end",
                "status": ended,
                "libraries": self.libraries,
                "sentence": found["sentence"],
                "import_seconds": self.imports,
            }
        )
        self.log.close()
        return found | {"record": str(self.log.path), "baseline": baseline, "threads": threads}


def resume(records: Iterable[tuple[Path, dict[str, Any], list[dict[str, Any]]]]) -> list[Share]:
    """Shares of earlier records (path, header, lines). ValueError for two of one class, or one that is in use."""
    found: dict[str, Share] = {}
    for path, header, lines in records:
        if header["machine"] in found:
            raise ValueError(f"{path}: another record of {header['machine']} is resumed with it: one after the other")
        found[header["machine"]] = Share.resumed(path.resolve(), header, lines)
    return list(found.values())
