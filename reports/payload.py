"""What the page's script works with: every cell, in columns, and the history, thinned and packed.

Strings that repeat are numbers into a list; a round is told by its distance from the cell's median, in steps
of a hundred-thousandth; a history is 16-bit distances from each series' first value, in steps of a
two-thousandth, as base64. So forty kernels on sixty problems of three machines stay below 3 MB.
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.evidence import GUARANTEES, strength
from benchmarks.problems import problem_of

from . import limits, views
from .cells import Cell, Run
from .standing import reason
from .timeline import Step, Track, kept

FINE, COARSE = 1e5, 2e3  # steps of a logarithm
MISSING = -32768
MOST_COMMITS = 60
HASH = 8  # digits of a hash that are shown


class Words:
    """A list of distinct strings; ``at`` gives the place of one."""

    def __init__(self) -> None:
        self.list: list[Any] = []
        self._place: dict[Any, int] = {}

    def at(self, word: Any) -> int:
        if word not in self._place:
            self._place[word] = len(self.list)
            self.list.append(word)
        return self._place[word]


def payload(runs: Sequence[Run], tracks: Sequence[Track], steps: Sequence[Step]) -> dict[str, Any]:
    kernels, problems, reasons, marks = Words(), Words(), Words(), Words()
    machines = []
    for run in runs:
        columns = _columns(run, kernels, problems, reasons, marks)
        machines.append(_machine(run, problems) | {"cells": columns})
    every = [c for run in reversed(runs) for c in run.cells]
    about = {c.kernel: c for c in sorted(every, key=lambda c: c.ran)}  # one that ran says more
    return {
        "guarantees": GUARANTEES,
        "machines": machines,
        "history": [_history(t, i, steps, kernels, problems) for i, t in enumerate(tracks)],
        "steps": [_step(s, kernels, problems) for s in steps],
        "kernels": [_kernel(k, about.get(k)) for k in kernels.list],
        "problems": [_problem(q, runs) for q in problems.list],
        "reasons": reasons.list,
        "fingerprints": marks.list,
    }


def _machine(run: Run, problems: Words) -> dict[str, Any]:
    roofs = limits.roofs(run)
    top = {d: v for d in ("float32", "float64") if (v := limits.arithmetic(run, d)) is not None}
    return {
        "name": run.machine,
        "label": views.label(run),
        "threads": limits.threads(run),
        "baseline": run.baseline,
        "scenarios": run.scenarios,
        "top": top,
        "reads": limits.bandwidths(run),
        "roofs": [[problems.at(q), short(r.gflops_per_s), r.binds] for q, r in roofs.items()],
        "imports": {k: short(v) for k, v in run.imports.items()},
        "families": families(run, problems),
        "sources": [[s.name, views.commit(s), s.said("started")] for s in run.sources],
    }


def _kernel(name: str, cell: Cell | None) -> dict[str, Any]:
    return {
        "name": name,
        "device": cell.device if cell else "cpu",
        "accuracy": cell.accuracy if cell else "not recorded",
        "algorithm": cell.algorithm if cell else "not recorded",
        "effective": bool(cell and cell.effective),
    }


def _problem(name: str, runs: Sequence[Run]) -> dict[str, Any]:
    found = problem_of(name)
    layer = next((c.layer for run in runs for c in run.cells if c.problem == name), name)
    return {
        "name": name,
        "layer": layer,
        "flops": found.flops if found else 0,
        "bytes": found.min_bytes if found else 0,
        "group": f"{found.layout}, {found.dtype}" if found else "other",
        "batch": found.N if found else 1,
    }


COLUMNS = (
    "scenario",
    "kernel",
    "problem",
    "source",
    "why",
    "seconds",
    "low",
    "high",
    "rounds",
    "quartiles",
    "samples",
    "score",
    "error",
    "workspace",
    "plan",
    "pack",
    "transfer",
    "first",
    "device",
    "fingerprint",
    "guarantee",
)


def _columns(run: Run, kernels: Words, problems: Words, reasons: Words, marks: Words) -> dict[str, list[Any]]:
    rows = []
    sources = [s.name for s in run.sources] or [run.name]
    for c in run.cells:
        n = c.numbers
        ran = c.ran
        rows.append(
            (
                run.scenarios.index(c.scenario),
                kernels.at(c.kernel),
                problems.at(c.problem),
                sources.index(c.source) if c.source in sources else 0,
                None if ran else reasons.at((c.group, c.status, reason(c))),
                short(c.seconds if ran else None, 6),
                short(c.low),
                short(c.high),
                _rounds(c) if ran else None,
                _quartiles(c) if ran else None,
                _samples(c) if ran else None,
                short(n.get("score"), 3),
                short(n.get("max_error"), 3),
                short(n.get("workspace"), 6),
                *(short(n.get(f"{k}_seconds"), 3) for k in ("plan", "pack", "transfer", "first", "device")),
                marks.at(_fingerprint(c)) if c.fingerprint else None,
                strength(c.accuracy),
            )
        )
    turned = list(zip(*rows, strict=True)) if rows else [()] * len(COLUMNS)
    return {
        name: list(column)
        for name, column in zip(COLUMNS, turned, strict=True)
        if any(value is not None for value in column)
    }


def short(value: float | None, digits: int = 4) -> float | int | None:
    """So many significant digits, and no ".0"."""
    if value is None or not math.isfinite(value):
        return None
    rounded = float(f"{value:.{digits}g}")
    return int(rounded) if rounded == int(rounded) and abs(rounded) < 1e15 else rounded


def _away(value: float, middle: float) -> int:
    return round(FINE * math.log(value / middle))


def _rounds(cell: Cell) -> list[int | None]:
    """By round; None for one that this cell was not in."""
    last = max(cell.rounds, default=-1)
    return [_away(v, cell.seconds) if (v := cell.rounds.get(i)) else None for i in range(last + 1)]


def _quartiles(cell: Cell) -> list[int | None] | None:
    """Low and high of each round, one after the other, in thousandths."""
    if not cell.spread:
        return None
    found: list[int | None] = []
    for i in range(max(cell.rounds, default=-1) + 1):
        pair = cell.spread.get(i)
        found += [round(1e3 * math.log(v / cell.seconds)) for v in pair] if pair else [None, None]
    return found


def _samples(cell: Cell) -> list[list[int]] | None:
    if not cell.samples:
        return None
    last = max(cell.rounds, default=-1)
    return [[round(1e3 * math.log(v / cell.seconds)) for v in cell.samples.get(i, ())] for i in range(last + 1)]


def _fingerprint(cell: Cell) -> str:
    """One line; a hash keeps its first digits."""
    return "; ".join(f"{k} {v[:HASH] if 'hash' in k else v}" for k, v in cell.fingerprint.items())


def families(run: Run, problems: Words) -> list[dict[str, Any]]:
    """Problems that differ in one letter alone, for the figures of scaling; a filter grows with its padding."""
    found: dict[tuple[str, str], dict[int, str]] = {}
    for name in run.problems:
        p = problem_of(name)
        if p is None:
            continue
        square = p.H == p.W, p.R == p.S
        for knob in "NCKHR":
            if (knob == "H" and not square[0]) or (knob == "R" and not square[1]):
                continue
            parts = {k: getattr(p, k) for k in "NCHWKRS"}
            rest = {k: v for k, v in parts.items() if k not in {"H": "HW", "R": "RS"}.get(knob, knob)}
            pads = None if knob == "R" and len(set(p.padding)) == 1 else p.padding
            kind = (*rest.items(), p.stride, pads, p.dilation, p.groups, p.bias, p.dtype, p.layout)
            found.setdefault((knob, str(kind)), {})[parts[knob]] = name
    return [
        {"knob": knob, "values": sorted(by), "problems": [problems.at(by[v]) for v in sorted(by)]}
        for (knob, _), by in sorted(found.items(), key=lambda kv: ("NCKHR".index(kv[0][0]), -len(kv[1]), kv[0][1]))
        if len(by) >= 3
    ]


def _history(track: Track, index: int, steps: Sequence[Step], kernels: Words, problems: Words) -> dict[str, Any]:
    edges = {c for s in steps if s.track == index for c in (s.last_before, s.first_after)}
    shown = kept(track, edges, MOST_COMMITS)
    scenarios = Words()
    keys, first, packed = [], [], bytearray()
    for (kernel, problem, scenario), values in track.values.items():
        some = [values[i] for i in shown]
        start = next((v for v in some if v is not None), None)
        if start is None or sum(v is not None for v in some) < 2:
            continue
        keys += [kernels.at(kernel), problems.at(problem), scenarios.at(scenario)]
        first.append(short(start))
        packed += _packed(some, start)
    return {
        "machine": track.machine,
        "method": track.method,
        "scenarios": scenarios.list,
        "commits": [[track.commits[i][0][:10], track.commits[i][1]] for i in shown],
        "left_out": len(track.commits) - len(shown),
        "keys": keys,
        "first": first,
        "values": base64.b64encode(packed).decode(),
    }


def _packed(values: Iterable[float | None], start: float) -> bytes:
    found = []
    for v in values:
        step = MISSING if v is None else round(COARSE * math.log(v / start))
        found.append(step if v is None else max(-32767, min(32767, step)))
    return struct.pack(f"<{len(found)}h", *found)


def _step(s: Step, kernels: Words, problems: Words) -> list[Any]:
    kernel, problem, scenario = s.key
    moved = s.moved[:8]
    return [
        s.track,
        kernels.at(kernel),
        problems.at(problem),
        scenario,
        s.last_before[:10],
        s.first_after[:10],
        short(s.before),
        short(s.after),
        moved,
    ]
