"""A run and its cells, put together from the lines of a record.

A run that was killed has no ``cell`` lines; its cells are put together from the rounds that reached
the disk, by the rules that would have written those lines.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any

from benchmarks import evidence

from .values import mapping, number, sequence, text

GROUPS = {
    "ok": "ran",
    "wrong": "wrong",
    "mistrusted": "wrong",
    "crashed": "failed",
    "timeout": "failed",
    "unsupported": "skipped",
    "unavailable": "skipped",
}
BELOW = -math.ulp(0)  # what no size, error or time is: 0 itself is fine
SHORTEST = 1e-12  # seconds; no clock here tells less, and a ratio of two times stays finite
MOST_ROUNDS, MOST_SAMPLES = 200, 100  # what is kept of a cell; more says nothing more to a reader
NEVER = "never measured"  # how a run that was interrupted says that a cell's turn did not come


# By name and kind (layout, type, batch): layer, problem, how often it occurs in one pass.
Networks = dict[tuple[str, str], list[tuple[str, str, int]]]


@dataclass(frozen=True)
class Cell:
    """One kernel on one problem in one scenario: a time with its evidence, or why there is none."""

    kernel: str
    problem: str
    scenario: str
    layer: str
    status: str
    why: str
    flops: float | None
    accuracy: str
    algorithm: str
    rounds: dict[int, float] = field(default_factory=dict)
    seconds: float = math.inf  # for a cell without a time
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    numbers: dict[str, float | None] = field(default_factory=dict)
    speed: tuple[float, float, float] | None = None  # against the baseline: median, low, high
    spread: dict[int, tuple[float, float]] = field(default_factory=dict)  # quartiles by round
    samples: dict[int, list[float]] = field(default_factory=dict)  # by round, where they were kept
    fingerprint: dict[str, str] = field(default_factory=dict)
    source: str = ""  # the record

    @property
    def group(self) -> str:
        """ran, wrong, failed, skipped or unreached."""
        if self.why == NEVER:
            return "unreached"
        return GROUPS.get(self.status, "failed")

    @property
    def ran(self) -> bool:
        return self.group == "ran"

    @property
    def backend(self) -> str:
        return self.kernel.partition("/")[0]

    @property
    def device(self) -> str:
        return evidence.device(self.kernel)

    @property
    def gflops_per_s(self) -> float | None:
        return self.flops / self.seconds / 1e9 if self.flops and self.ran else None

    @property
    def effective(self) -> bool:
        """Whether the algorithm does other FLOP than the definition, by which the rate is counted."""
        return self.algorithm in ("fft", "winograd")


@dataclass(frozen=True)
class Run:
    """Who measured what, where, and the cells: one record, or the newest of several of one machine."""

    name: str
    header: dict[str, Any]
    cells: list[Cell]
    baseline: str | None
    ended: str  # complete, interrupted, or cut off where the record has no end
    libraries: dict[str, dict[str, str]]
    imports: dict[str, float] = field(default_factory=dict)  # seconds, by backend
    networks: Networks = field(default_factory=dict)
    sources: list[Run] = field(default_factory=list)  # the records, where there are several

    def said(self, key: str, missing: str = "not recorded") -> str:
        return text(self.header.get(key), missing)

    @property
    def machine(self) -> str:
        return self.said("machine", "machine not recorded")

    @property
    def suite(self) -> float:
        return number(self.header.get("suite")) or 0

    @cached_property
    def problems(self) -> list[str]:
        return list(dict.fromkeys(c.problem for c in self.cells))

    @cached_property
    def scenarios(self) -> list[str]:
        return sorted({c.scenario for c in self.cells}, reverse=True)  # packed before eager

    @cached_property
    def _groups(self) -> dict[tuple[str | None, ...], list[Cell]]:
        """Cells by kernel, problem and scenario, each of them given or None."""
        found: dict[tuple[str | None, ...], list[Cell]] = {}
        for c in self.cells:
            for key in product((c.kernel, None), (c.problem, None), (c.scenario, None)):
                found.setdefault(key, []).append(c)
        return found

    def of(self, *, kernel: str | None = None, problem: str | None = None, scenario: str | None = None) -> list[Cell]:
        """Cells with these values, in the order of the record."""
        return self._groups.get((kernel, problem, scenario), [])


def _key(line: dict[str, Any]) -> tuple[str, str, str]:
    kernel, problem, scenario = (text(line.get(k), "?") for k in ("kernel", "problem", "scenario"))
    return kernel, problem, scenario


def assemble(parts: dict[str, list[dict[str, Any]]]) -> list[Cell]:
    whole = {_key(line): line for line in parts["cell"]}
    skips = {_key(line): line for line in parts["skip"]}
    rounds: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for line in parts["round"]:
        rounds.setdefault(_key(line), []).append(line)
    keys = dict.fromkeys([*whole, *skips, *rounds])
    found = [_cell(k, whole.get(k), skips.get(k), rounds.get(k, [])) for k in keys]
    # The coordinator writes cells in the order of its problems; rounds come shuffled.
    order = {problem: i for i, problem in enumerate(dict.fromkeys(k[1] for k in whole))}
    return sorted(found, key=lambda c: (order.get(c.problem, len(order)), c.flops or 0, c.problem, c.kernel))


def _cell(
    key: tuple[str, str, str], whole: dict[str, Any] | None, skip: dict[str, Any] | None, rounds: list[dict[str, Any]]
) -> Cell:
    good = [r for r in rounds if r.get("status") == "ok" and number(r.get("seconds"), above=SHORTEST)]
    good = good[:MOST_ROUNDS]
    bad = [r for r in rounds if r.get("status") != "ok"]
    last = good[-1] if good else {}
    said = bad[0] if bad else whole or skip or {"status": "ok"}
    status, why = text(said.get("status"), "unknown"), text(said.get("why"))
    medians = {_index(r): float(r["seconds"]) for r in good}
    if not medians and whole:
        kept = sequence(whole.get("round_seconds"))[:MOST_ROUNDS]
        values = [number(v, above=SHORTEST) for v in kept]
        medians = {i: v for i, v in enumerate(values) if v is not None}
    known = whole or {}
    seconds = number(known.get("seconds"), above=SHORTEST)
    if seconds is None and medians:
        seconds = statistics.median(medians.values())
    if status == "ok" and seconds is None:
        status, why = "unknown", "the record holds no time for it"
    cell = Cell(
        *key,
        text(known.get("layer"), key[1]),
        status,
        why,
        number(known.get("flops"), above=0) or _flops(key[1]),
        text(known.get("accuracy", last.get("accuracy")), "not recorded"),
        text(known.get("algorithm", last.get("algorithm")), "not recorded"),
        medians,
    )
    if status != "ok":
        return cell
    low, high, confidence = (number(known.get(k), above=0) for k in ("low", "high", "confidence"))
    if medians and None in (low, high, confidence):
        low, high, confidence = evidence.interval(medians.values())
    worst = max(good, key=lambda r: number(mapping(r.get("error")).get("score")) or 0, default={})
    error = mapping(known.get("error", worst.get("error")))
    numbers = {k: number(error.get(k), above=BELOW) for k in ("score", "max_error", "mean_error", "budget")}
    for k in ("workspace", "plan_seconds", "pack_seconds", "transfer_seconds", "first_seconds", "device_seconds"):
        values = [v for r in good if (v := number(r.get(k), above=BELOW)) is not None]
        numbers[k] = number(known.get(k, statistics.median(values) if values else None), above=BELOW)
    numbers["rounds"] = number(known.get("rounds")) or float(len(medians))
    middle, slow, quick = (number(known.get("vs_baseline" + end), above=SHORTEST) for end in ("", "_low", "_high"))
    speed = (middle, slow, quick) if middle and slow and quick else None
    marks = known.get("fingerprint") or next((r["fingerprint"] for r in good if r.get("fingerprint")), {})
    return replace(
        cell,
        seconds=seconds,
        low=low,
        high=high,
        confidence=confidence,
        numbers=numbers,
        speed=speed,
        spread=_quartiles(good),
        samples=_samples(good),
        fingerprint=flat(mapping(marks)),
    )


def _index(line: dict[str, Any]) -> int:
    return min(max(int(number(line.get("round")) or 0), 0), MOST_ROUNDS)


def _quartiles(good: list[dict[str, Any]]) -> dict[int, tuple[float, float]]:
    found = {}
    for r in good:
        low, high = (number(r.get(k), above=SHORTEST) for k in ("q25", "q75"))
        if low and high:
            found[_index(r)] = (low, high)
    return found


def _samples(good: list[dict[str, Any]]) -> dict[int, list[float]]:
    """The samples of each round that kept them; of very many, evenly spaced ones by size."""
    found = {}
    for r in good:
        values = sorted(v for x in sequence(r.get("raw")) if (v := number(x, above=SHORTEST)))
        step = max(1.0, (len(values) - 1) / (MOST_SAMPLES - 1))
        kept = [values[round(i * step)] for i in range(min(len(values), MOST_SAMPLES))]
        if kept:
            found[_index(r)] = kept
    return found


def flat(fingerprint: dict[str, Any]) -> dict[str, str]:
    """A fingerprint without nesting, of a record that may hold anything: printable words to words."""
    return {text(k): text(v)[:200] for k, v in list(evidence.flat(fingerprint).items())[:200]}


def _flops(problem: str) -> float | None:
    from convzoo.problem import Conv2d

    try:
        return float(Conv2d.parse(problem).flops) or None
    except (ValueError, OverflowError):
        return None


def against(cell: Cell, rival: Cell | None) -> Cell:
    """The cell with its speed against a baseline of the same race, from their rounds."""
    if not cell.ran:
        return cell
    rounds = evidence.speeds(rival.rounds, cell.rounds) if rival and rival.ran else []
    return replace(cell, speed=evidence.summary(rounds))
