"""Times over commits: series from the records and from asv's own results, and the steps in them.

Steps are found by asv's detector, as ``python -m benchmarks history`` does; it rarely raises a false alarm, and
for that is deaf to small steps. What the records add is the fingerprint on both sides of a step. A series never
mixes methods: what ``compare`` measured and what asv measured stay apart. Commits are in the order of their
dates, because a report depends on its files alone.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import evidence
from benchmarks.words import plural_of

from .cells import flat
from .cores import each
from .load import Glance
from .values import mapping, number, text

SMALLEST = 0.02  # a smaller change of level is no step
MOST_STEPS = 500
EXPORTED = "convzoo-compare-"  # environments that hold what the records hold already
Key = tuple[str, str, str]  # kernel, problem, scenario


@dataclass
class Track:
    """One machine by one method: its commits, and a value or None at each of them for every cell."""

    machine: str
    method: str
    commits: list[tuple[str, str]]  # commit, date
    values: dict[Key, list[float | None]]
    fingerprints: dict[Key, list[str]] = field(default_factory=dict)
    ends: dict[Key, list[tuple[float, float] | None]] = field(default_factory=dict)  # of intervals
    weights: dict[Key, list[float | None]] = field(default_factory=dict)  # asv's, of its own values


@dataclass(frozen=True)
class Step:
    """A change of level; it came with a commit after ``last_before``, up to ``first_after``."""

    track: int
    key: Key
    last_before: str
    first_after: str
    before: float
    after: float
    moved: list[str]

    @property
    def ratio(self) -> float:
        return self.after / self.before


def tracks(glances: Sequence[Glance], results: Path | None) -> list[Track]:
    """Every track with two commits or more."""
    found = [*_from_records(glances), *(_from_asv(results) if results and results.is_dir() else ())]
    return [t for t in found if len(t.commits) > 1]


def _from_records(glances: Sequence[Glance]) -> list[Track]:
    groups: dict[tuple[str, str], dict[str, list[Glance]]] = {}
    for g in sorted(glances, key=lambda g: (g.started, g.name)):
        commit = text(g.header.get("commit"))
        if commit and commit != "unknown" and not g.header.get("dirty"):
            groups.setdefault((g.machine, g.threads), {}).setdefault(commit, []).append(g)
    found = []
    for (machine, threads), commits in groups.items():
        order = sorted(commits, key=lambda c: (_date(commits[c][0]), c))
        name = f"{machine}, {plural_of(threads, 'thread')}"
        track = Track(name, "compare", [(c, _date(commits[c][0])) for c in order], {})
        for at, commit in enumerate(order):
            for g in commits[commit]:  # the newest of a commit counts
                for key, (seconds, marks, ends) in g.times.items():
                    track.values.setdefault(key, [None] * len(order))[at] = seconds
                    track.fingerprints.setdefault(key, [""] * len(order))[at] = marks
                    track.ends.setdefault(key, [None] * len(order))[at] = ends
        found.append(track)
    return found


def _date(g: Glance) -> str:
    """In UTC, so that dates order as text does."""
    words = text(g.header.get("commit_date")) or g.started
    try:
        moment = datetime.fromisoformat(words)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).isoformat()[:19]
    except (ValueError, OverflowError):
        return words


def _from_asv(results: Path) -> Iterable[Track]:
    """asv's result files, through its own reader; nothing where asv is not installed."""
    try:
        from asv.results import iter_results
    except ImportError:
        return
    groups: dict[tuple[str, str, str], list[tuple[str, str, dict[Key, Any]]]] = {}
    for r in iter_results(str(results)):
        if text(r.env_name).startswith(EXPORTED):
            continue
        for name in r.get_all_result_keys():
            version = text(str(r.benchmark_version.get(name) or ""))
            group = text(r.params.get("machine"), "unknown"), f"asv, {text(r.env_name)}", version
            date = datetime.fromtimestamp(r.date / 1000, UTC).isoformat()[:19]
            groups.setdefault(group, []).append((date, text(r.commit_hash), _asv_cells(r, name)))
    for (machine, method, _), points in groups.items():
        merged: dict[tuple[str, str], dict[Key, Any]] = {}
        for date, commit, cells in sorted(points, key=lambda p: p[:2]):
            merged.setdefault((date, commit), {}).update(cells)
        track = Track(machine, method, [(c, d) for d, c in merged], {})
        for at, cells in enumerate(merged.values()):
            for key, (seconds, weight) in cells.items():
                track.values.setdefault(key, [None] * len(merged))[at] = seconds
                track.weights.setdefault(key, [None] * len(merged))[at] = weight
        yield track


def _asv_cells(r: Any, name: str) -> dict[Key, tuple[float, float | None]]:
    from asv._stats import get_weight

    params = r.get_result_params(name)
    values = r.get_result_value(name, params) or []
    stats = r.get_result_stats(name, params) or [None] * len(values)
    scenario = name.rpartition(".")[2].removeprefix("kernel_")
    found = {}
    for combination, value, known in zip(itertools.product(*params), values, stats, strict=False):
        words = [text(word).strip("'\"") for word in combination]
        seconds = number(value, above=0)
        if len(words) == 2 and seconds is not None:
            found[words[0], words[1], text(scenario)] = seconds, get_weight(known)
    return found


def steps(found: Sequence[Track]) -> list[Step]:
    """The largest steps of all tracks, largest first; none where asv is not installed."""
    try:
        import asv.step_detect  # noqa: F401
    except ImportError:
        return []
    jobs = [(i, key, values) for i, track in enumerate(found) for key, values in track.values.items() if _moves(values)]
    series = [(values, found[i].weights.get(key)) for i, key, values in jobs]
    every: list[Step] = []
    for (i, key, values), pieces in zip(jobs, each(levels, series, len(series) >= 1000), strict=True):
        track = found[i]
        for one, other in itertools.pairwise(pieces):
            (_, end, before), (start, _, after) = one, other
            if abs(math.log(after / before)) < math.log1p(SMALLEST) or not _seen(track, key, one, other):
                continue
            marks = track.fingerprints.get(key, [""] * len(values))
            first, second = track.commits[end - 1][0], track.commits[start][0]
            every.append(Step(i, key, first, second, before, after, moved(marks[end - 1], marks[start])))
    every.sort(key=lambda s: (-abs(math.log(s.ratio)), s.track, s.key, s.first_after))
    return every[:MOST_STEPS]


def _moves(values: list[float | None]) -> bool:
    """Whether a step can be in them at all: no two levels lie further apart than two values do."""
    known = [v for v in values if v is not None]
    return len(known) > 1 and max(known) >= (1 + SMALLEST) * min(known)


def _seen(track: Track, key: Key, one: tuple[int, int, float], other: tuple[int, int, float]) -> bool:
    """Whether two levels of one cell are more than two measurements that happened to differ.

    Each must have lasted for two commits; where one has not, the intervals on both sides of the step must
    lie apart. asv's own results have no rounds, and are believed as asv does.
    """
    if key not in track.ends:
        return True
    values, ends = track.values[key], track.ends[key]
    if all(sum(v is not None for v in values[a:b]) > 1 for a, b, _ in (one, other)):
        return True
    first, second = ends[one[1] - 1], ends[other[0]]
    return first is not None and second is not None and (first[1] < second[0] or second[1] < first[0])


Series = tuple[list[float | None], list[float | None] | None]  # values, weights
Levels = list[tuple[int, int, float]]  # begin, end, level


def levels(one: Series) -> Levels:
    from asv import step_detect

    return [(begin, end, level) for begin, end, level, *_ in step_detect.detect_steps(*one)]


def moved(before: str, after: str) -> list[str]:
    """What differs between the fingerprints on both sides of a step."""
    a, b = (flat(mapping(json.loads(marks))) if marks else {} for marks in (before, after))
    return evidence.moved(a, b) if evidence.comparable(a, b) else ["no fingerprint to compare"]


def kept(track: Track, edges: set[str], most: int) -> list[int]:
    """Positions of the commits that a page shows: the newest, those beside a step, and evenly spaced ones."""
    n = len(track.commits)
    if n <= most:
        return list(range(n))
    beside = [i for i, (commit, _) in enumerate(track.commits) if commit in edges][-most // 2 :]
    room = most - len(beside)
    even = [round(i * (n - 1) / (room - 1)) for i in range(room)]
    return sorted({*beside, *even})
