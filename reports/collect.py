"""Everything that the room holds, for one report: newest races of each machine, history, regressions, GPU code.

A race is one problem in one scenario: all kernels of a race are taken from one record, in which they were
interleaved. It is the newest record of the machine that has the race, unless that one compared less than half
as many kernels as the widest did, or has too few rounds to tell kernels apart where an older one has enough: a
look at two kernels must not replace a table of forty. Records of an older suite than a machine's newest are left
out: their numbers mean something else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks import evidence
from benchmarks.problems import NETWORKS, order_of_kinds
from benchmarks.record import OWN
from benchmarks.words import listed, plural

from .cells import Cell, Networks, Run, against
from .cores import each
from .load import Glance, glance, load
from .values import Unreadable, mapping, text

ROOM = Path(__file__).resolve().parent
EVERY = (ROOM / "records", OWN / "records")
Race = tuple[str, str]  # problem, scenario
MANY = 16  # records


@dataclass(frozen=True)
class Findings:
    """What a report is made of; it depends on the files alone."""

    runs: list[Run]
    glances: list[Glance]
    regressions: list[dict[str, Any]] = field(default_factory=list)
    gpu_code: Any = None
    left_out: list[str] = field(default_factory=list)  # files that could not be used, and why
    older: list[str] = field(default_factory=list)  # records of an older suite: what became of them


def collect(records: Iterable[Path], room: Path | None = None) -> Findings:
    """The findings of these records and documents of regress; with ``room`` also what lies in it beside them."""
    left_out: list[str] = []
    glances = []
    paths = sorted(records)
    compared = [p for p in paths if p.suffix == ".json"]
    compared += [] if room is None else sorted((room / "regressions").glob("*.json"), reverse=True)
    for path, one in _looks([p for p in paths if p.suffix != ".json"]):
        if isinstance(one, str):
            left_out.append(one.replace(f"{path.parent}/", ""))
        else:
            glances.append(one)
    newest: dict[str, float] = {}
    for g in glances:
        newest[g.machine] = max(newest.get(g.machine, 0), g.suite)
    older = _older([g for g in glances if g.suite < newest[g.machine]], newest)
    glances = [g for g in glances if g.suite == newest[g.machine]]
    regressions = _documents(compared, left_out)
    gpu = room / "gpu_code.json" if room else None
    code = _document(gpu, left_out) if gpu and gpu.exists() else None
    return Findings(_runs(glances), glances, regressions, code, left_out, older)


def _older(glances: Sequence[Glance], newest: dict[str, float]) -> list[str]:
    """One sentence for each machine and suite whose records are left out."""
    groups: dict[tuple[str, float], list[str]] = {}
    for g in glances:
        groups.setdefault((g.machine, g.suite), []).append(g.name)
    return [
        f"{machine}, {plural(len(names), 'record')} of suite {old:g} ({listed(names)}), whose numbers mean "
        f"something else than those of suite {newest[machine]:g}"
        for (machine, old), names in groups.items()
    ]


def _looks(paths: list[Path]) -> list[tuple[Path, Glance | str]]:
    """A glance at each record, or why there is none."""
    return each(_look, paths, len(paths) >= MANY)


def _look(path: Path) -> tuple[Path, Glance | str]:
    try:
        return path, glance(path)
    except Unreadable as error:
        return path, str(error)


def records_in(*folders: Path) -> list[Path]:
    """The records of these folders, each once; where a file is in two, that of the last."""
    found = {(p.parent.name, p.name): p for folder in folders for p in folder.glob("*/*.jsonl")}
    return [found[key] for key in sorted(found)]


def _runs(glances: Sequence[Glance]) -> list[Run]:
    """One run for each machine and number of threads, the one with the newest record first."""
    groups: dict[tuple[str, str], list[Glance]] = {}
    for g in sorted(glances, key=lambda g: (g.started, g.name), reverse=True):
        groups.setdefault((g.machine, g.threads), []).append(g)
    return each(_newest, list(groups.values()), len(glances) >= MANY)


def _newest(group: list[Glance]) -> Run:
    """The races of a machine, each from one record."""
    widest: dict[Race, int] = {}
    for g in group:
        for race in g.races:
            widest[race] = max(widest.get(race, 0), g.width)
    loaded: dict[Path, Run] = {}
    cells: list[Cell] = []
    sources: list[Run] = []
    for race in _in_order(widest, group):
        fit = [g for g in group if race in g.races and 2 * g.width >= widest[race]]
        run = _chosen(race, fit, loaded)
        found = run.of(problem=race[0], scenario=race[1])
        cells += found
        sources += [run] if found and not any(run is s for s in sources) else []
    if not sources:  # a record without a single cell still says who tried
        sources = [load(group[0].path)]
    return _joined(sources, cells)


def _chosen(race: Race, fit: list[Glance], loaded: dict[Path, Run]) -> Run:
    """The newest of these records that can tell kernels apart; else the newest that has a time; else the oldest."""
    timed = None
    for g in fit:
        if g.path not in loaded:
            loaded[g.path] = load(g.path)
        run = loaded[g.path]
        most = max((len(c.rounds) for c in run.of(problem=race[0], scenario=race[1]) if c.ran), default=0)
        if most >= evidence.FEWEST:
            return run
        timed = timed or (run if most else None)
    return timed or loaded[fit[-1].path]


def _in_order(races: Iterable[Race], group: list[Glance]) -> list[Race]:
    """Layers of networks first, those of NETWORKS in its order; NCHW, small batches and packed before the others.

    Within a kind, and for all other races: as the records ask for them, the widest record first and then
    from the oldest on.
    """
    wide = sorted(group, key=lambda g: (-len(g.races), g.started, g.name))
    rest = sorted(wide[1:], key=lambda g: (g.started, g.name))
    place: dict[Race, int] = {}
    network: dict[str, int] = {}  # problem -> place of the network that it is a layer of
    for g in (*wide[:1], *rest):
        for race in g.races:
            place.setdefault(race, len(place))
        for (name, _), layers in g.networks.items():
            rank = NETWORKS.index(name) if name in NETWORKS else len(NETWORKS)
            for _, problem, _ in layers:
                network[problem] = min(rank, network.get(problem, rank))

    def key(race: Race) -> tuple[Any, ...]:
        if race[0] not in network:
            return (len(NETWORKS) + 1, place[race])
        packed_first = race[1] != "packed"
        return (network[race[0]], order_of_kinds(race[0]), packed_first, place[race])

    return sorted(races, key=key)


def _joined(sources: list[Run], cells: list[Cell]) -> Run:
    """Several records of one machine as one run; the newest one speaks for it."""
    if len(sources) == 1:
        return replace(sources[0], cells=cells, sources=sources)
    sources = sorted(sources, key=lambda run: (run.said("started"), run.name), reverse=True)
    newest = sources[0]
    networks: Networks = {}
    libraries: dict[str, dict[str, str]] = {}
    imports: dict[str, float] = {}
    for run in reversed(sources):
        networks |= run.networks
        libraries |= run.libraries
        imports |= run.imports
    baselines = [run.baseline for run in sources if run.baseline]
    baseline = max(baselines, key=baselines.count, default=None)
    other = {run.name: run for run in sources if run.baseline != baseline}
    cells = [_rebased(c, other[c.source], baseline) if c.source in other else c for c in cells]
    return replace(
        newest, cells=cells, sources=sources, networks=networks, libraries=libraries, imports=imports, baseline=baseline
    )


def _rebased(cell: Cell, source: Run, baseline: str | None) -> Cell:
    """The cell against the baseline of all records, where its own had another; no speed where that did not run."""
    rivals = source.of(kernel=baseline, problem=cell.problem, scenario=cell.scenario) if baseline else []
    return against(cell, rivals[0] if rivals else None)


def _documents(paths: Iterable[Path], left_out: list[str]) -> list[dict[str, Any]]:
    """What ``benchmarks regress --json`` wrote."""
    found = []
    for path in paths:
        document = _document(path, left_out)
        if text(mapping(document).get("schema")) == "convzoo.regress/1":
            found.append(document | {"name": path.stem})
        elif document is not None:
            left_out.append(f"{path.name} is no document of benchmarks regress --json")
    return found


def _document(path: Path, left_out: list[str]) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        left_out.append(f"{path.name} cannot be used: {text(str(error))}")
        return None
