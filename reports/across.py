"""Machines side by side: what they are, what they can do, what kernels make of it, where the ranking flips.

Times of different machines come from different runs, so no interval is given for their ratio. What is
certain is told within a machine: that one kernel beats another there. The ranking of a problem *flips* where
two machines have different winners and each one's rounds tell its winner from the other's.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from math import exp, log
from pathlib import Path
from typing import Any

from benchmarks import evidence
from benchmarks import words as say
from benchmarks.evidence import Race
from benchmarks.problems import problem_of

from . import limits, standing, views
from .cells import Cell, Run
from .values import mapping, number, sequence, text

FACTS = {
    "cpu": "CPU",
    "microarchitecture": "microarchitecture",
    "vector": "vectors",
    "matrix": "matrix unit",
    "usable_cpus": "usable CPUs",
    "caches": "caches",
    "memory_bytes": "memory",
    "gpus": "GPUs",
    "governor": "governor",
    "os": "system",
    "python": "Python",
}
FLIPS, PERHAPS, HOLDS = "flips", "cannot tell", "holds"


def compared(runs: Sequence[Run], files: Mapping[str, dict[str, Any]]) -> dict[str, Any] | None:
    """Everything that a page says about two machines or more; ``files`` are the machine files by name."""
    runs = standing.same_suite(runs)
    if len({run.machine for run in runs}) < 2:
        return None
    scenarios = [s for s in ("packed", "eager") if sum(s in run.scenarios for run in runs) > 1]
    found = [_scenario(runs, s) for s in scenarios]
    return {
        "heads": [
            {
                "machine": run.machine,
                "threads": run.said("threads"),
                "commit": views.commit(run),
                "date": say.date_text(run.said("started")),
            }
            for run in runs
        ],
        "facts": _facts(runs, files),
        "ceilings": _ceilings(runs),
        "scenarios": [s for s in found if s],
        "cautions": _cautions(runs),
    }


def machine_files(*folders: Path) -> dict[str, dict[str, Any]]:
    """The machine files of these folders by name, the last one's first; one that cannot be read is as good as none."""
    found = {}
    for path in (path for folder in folders for path in sorted(folder.glob("*.json"))):
        try:
            found[path.stem] = mapping(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError):
            continue
    return found


def _facts(runs: Sequence[Run], files: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    known = [mapping(files.get(run.machine, {}).get("hardware")) | mapping(run.header.get("hardware")) for run in runs]
    rows = [_row(name, [_fact(k, hardware.get(k)) for hardware in known]) for k, name in FACTS.items()]
    rows.append(_row("threads used", [run.said("threads") for run in runs]))
    rows.append(_row("difference that shows in nearly all cells", [_visible(run, files) for run in runs]))
    return [row for row in rows if set(row["values"]) != {say.NOTHING}]


def _fact(key: str, value: Any) -> str:
    if key == "memory_bytes":
        return say.bytes_text(number(value, above=0))
    if key == "gpus":
        return ", ".join(text(mapping(gpu).get("name"), "a GPU") for gpu in sequence(value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{text(k)} {text(v)}" for k, v in value.items()) or say.NOTHING
    return text(value, say.NOTHING)


def _visible(run: Run, files: Mapping[str, dict[str, Any]]) -> str:
    null = mapping(run.header.get("null")) or mapping(files.get(run.machine, {}).get("null"))
    seen = number(null.get("smallest_visible"), above=0)
    return say.NOTHING if seen is None else f"{seen:.1%}"


def _row(name: str, values: list[str]) -> dict[str, Any]:
    return {"name": name, "values": values, "differs": len(set(values)) > 1}


def _ceilings(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Measured limits with the threads of each run, and how they stand to those of the first that has one."""
    rates: dict[str, list[float | None]] = {}
    for dtype in ("float32", "float64"):
        rates[f"multiply-adds in {dtype}, GFLOP/s"] = [limits.arithmetic(run, dtype) for run in runs]
    reads = [limits.bandwidths(run) for run in runs]
    for level in dict.fromkeys(level for each in reads for level in each):
        rates[f"reading from {level}, GB/s"] = [each.get(level) for each in reads]
    rows = []
    for name, values in rates.items():
        first = next((v for v in values if v), None)
        if first is None:
            continue
        notes = [say.speed_text(v / first) if v and v is not first else "" for v in values]
        cells = [{"value": say.plain(v), "note": note} for v, note in zip(values, notes, strict=True)]
        rows.append({"name": name, "cells": cells})
    return rows


def _scenario(runs: Sequence[Run], scenario: str) -> dict[str, Any] | None:
    races = [{race.problem: race for race in evidence.races(run.cells, scenario) if race.ranked} for run in runs]
    counted = dict.fromkeys(problem for each in races for problem in each)
    shared = [p for p in counted if sum(p in each for each in races) > 1]
    if not shared:
        return None
    everywhere = [p for p in shared if all(p in each for each in races)]
    problems = [_problem(p, [each.get(p) for each in races]) for p in shared]
    return {
        "name": scenario,
        "everywhere": len(everywhere),
        "kernels": _kernels(runs, races, everywhere) if everywhere else [],
        "best": _best(runs, races, everywhere) if everywhere else [],
        "problems": problems,
        "sentence": f"{_fastest(runs, problems, len(everywhere))}{_sentence(problems)}",
        "rows": _details(runs, races, shared),
    }


def _problem(problem: str, races: list[Race | None]) -> dict[str, Any]:
    """The winner on each machine, how far it leads those that win elsewhere, and whether that is the same one."""
    bests = [r.best if r else None for r in races]
    winners = dict.fromkeys(b.kernel for b in bests if b)
    found, shown = HOLDS, []
    for race, best in zip(races, bests, strict=True):
        if race is None or best is None:
            shown.append(None)
            continue
        leads = {k: _lead(best, k, race) for k in winners if k != best.kernel}
        shown.append(
            {
                "kernel": best.kernel,
                "guarantee": best.accuracy,
                "seconds": best.seconds,
                "time": say.seconds_text(best.seconds),
                "tied": [c.kernel for c in race.level],
                "lead": _least(leads),
                "leads": leads,
            }
        )
    for a, b in combinations([w for w in shown if w], 2):
        if a["kernel"] != b["kernel"]:
            pair = (a["leads"][b["kernel"]], b["leads"][a["kernel"]])
            sure = all(lead is None or lead[1] > 1 for lead in pair)
            found = FLIPS if sure or found == FLIPS else PERHAPS
    for winner in shown:
        (winner or {}).pop("leads", None)
    layer = next(r.layer for r in races if r)
    return {"layer": layer, "problem": problem, "winners": shown, "ranking": found}


def _lead(best: Cell, other: str, race: Race) -> tuple[float, float, float] | None:
    """How many times faster the best is than another kernel on the same machine; None if that did not run."""
    rival = next((c for c in race.ranked if c.kernel == other), None)
    if rival is None:
        return None
    values = evidence.speeds(rival.rounds, best.rounds)
    found = evidence.summary(values) or (rival.seconds / best.seconds, 0.0, 0.0)
    # too few rounds tell nothing, however far apart they lie
    return found if len(values) >= evidence.FEWEST else (found[0], 0.0, found[2])


def _least(leads: dict[str, tuple[float, float, float] | None]) -> str:
    """The smallest lead over a kernel that wins elsewhere, in words; nothing where this one wins everywhere."""
    ran = {k: lead for k, lead in leads.items() if lead}
    if not ran:
        return f"{', '.join(leads)} did not run here" if leads else ""
    other = min(ran, key=lambda k: ran[k][0])
    middle, low, high = ran[other]
    sure = f" ({say.speed_interval(low, high)})" if low > 1 else ": the rounds cannot tell"
    return f"{say.speed_text(middle)} faster than {other}{sure}"


def _sentence(problems: list[dict[str, Any]]) -> str:
    count = {s: sum(p["ranking"] == s for p in problems) for s in (HOLDS, FLIPS, PERHAPS)}
    parts = [f"the winner is the same on {count[HOLDS]}"]
    parts += [f"another one on {count[FLIPS]}"] if count[FLIPS] else []
    parts += [f"perhaps another on {count[PERHAPS]}, which the rounds cannot tell"] if count[PERHAPS] else []
    return f"Of {say.plural(len(problems), 'problem')} measured on two machines or more, {', '.join(parts)}."


def _fastest(runs: Sequence[Run], problems: list[dict[str, Any]], everywhere: int) -> str:
    """Which machine is fastest, each at its best, and how the others stand to it."""
    whole = [p["winners"] for p in problems if all(p["winners"])]
    if not whole:
        return ""
    means = [_geometric([row[i]["seconds"] for row in whole]) for i in range(len(runs))]
    first = min(range(len(runs)), key=means.__getitem__)
    parts = []
    for i, run in enumerate(runs):
        if i != first:
            each = [row[i]["seconds"] / row[first]["seconds"] for row in whole]
            span = f" ({say.speed_text(min(each))} to {say.speed_text(max(each))} by problem)" if everywhere > 1 else ""
            parts.append(f"{run.machine} takes {say.speed_text(means[i] / means[first])} as long{span}")
    return (
        f"{runs[first].machine} is the fastest, each machine with its best kernel: over "
        f"{say.plural(everywhere, 'problem')} {', '.join(parts)}. "
    )


def _means(runs: Sequence[Run], cells: Sequence[Sequence[Cell]]) -> list[dict[str, Any] | None]:
    """For each machine the geometric means of GFLOP/s and of the share of its limit; None without cells."""
    found: list[dict[str, Any] | None] = []
    for run, mine in zip(runs, cells, strict=True):
        rates = [c.gflops_per_s for c in mine]
        if not mine or not all(rates):
            found.append(None)
            continue
        shares = [s for c in mine if (s := share(run, c)) is not None]
        whole = len(shares) == len(mine)
        found.append({"rate": _geometric([r for r in rates if r]), "share": _geometric(shares) if whole else None})
    return found


def share(run: Run, cell: Cell) -> float | None:
    """GFLOP/s over what this machine's measured ceilings allow for the problem; None where none were measured."""
    problem = problem_of(cell.problem)
    roof = limits.roof(run, problem, cell.device) if problem else None
    return cell.gflops_per_s / roof.gflops_per_s if roof and cell.gflops_per_s else None


def _geometric(values: Sequence[float]) -> float:
    return exp(statistics.fmean(log(v) for v in values))


def _kernels(runs: Sequence[Run], races: list[dict[str, Race]], problems: list[str]) -> list[dict[str, Any]]:
    """Kernel by machine over the problems that every machine measured; a kernel must have run on all of them."""
    ran = [
        {k: [c for p in problems for c in each[p].ranked if c.kernel == k] for k in _names(each, problems)}
        for each in races
    ]
    whole = [{k: cells for k, cells in mine.items() if len(cells) == len(problems)} for mine in ran]
    rows = []
    for kernel in dict.fromkeys(k for mine in whole for k in mine):
        cells = [mine.get(kernel, []) for mine in whole]
        one = next(c for each in cells for c in each)
        rows.append(
            {"kernel": kernel, "guarantee": one.accuracy, "effective": one.effective, "cells": _means(runs, cells)}
        )
    for i in range(len(runs)):
        order = sorted((r for r in rows if r["cells"][i]), key=lambda r: -r["cells"][i]["rate"])
        for rank, row in enumerate(order, 1):
            cell = row["cells"][i]
            cell |= {
                "rank": rank,
                "rate_text": say.plain(cell["rate"]),
                "share_text": f"{cell['share']:.0%}" if cell["share"] is not None else "not measured",
            }
    rows = [row for row in rows if any(row["cells"])]  # FLOP of a problem may be unknown, and so its rates
    for row in rows:
        ranks = {cell["rank"] for cell in row["cells"] if cell}
        row["moves"] = len(ranks) > 1
    return sorted(rows, key=lambda r: min(cell["rank"] for cell in r["cells"] if cell))


def _names(races: Mapping[str, Race], problems: list[str]) -> list[str]:
    return list(dict.fromkeys(c.kernel for p in problems for c in races[p].ranked))


def _best(runs: Sequence[Run], races: list[dict[str, Race]], problems: list[str]) -> list[dict[str, Any] | None]:
    """The best kernel of each problem, strongest guarantee: each machine at its best, against the first."""
    cells = [[b for p in problems if (b := each[p].best)] for each in races]
    found = _means(runs, cells)
    first = next((f for f in found if f), None)
    for one in found:
        if one and first:
            ratio = one["rate"] / first["rate"]
            one |= {
                "rate_text": say.plain(one["rate"]),
                "against": say.speed_text(ratio) if one is not first else "",
                "share_text": f"{one['share']:.0%}" if one["share"] is not None else "not measured",
            }
    return found


def _details(runs: Sequence[Run], races: list[dict[str, Race]], shared: list[str]) -> list[dict[str, Any]]:
    """Cells that ran on two machines or more: time, share of the machine's limit, speed against the first."""
    rows = []
    for problem in shared:
        mine = [{c.kernel: c for c in each[problem].ranked} if problem in each else {} for each in races]
        for kernel in dict.fromkeys(k for each in mine for k in each):
            cells = [each.get(kernel) for each in mine]
            if sum(c is not None for c in cells) < 2:
                continue
            first = next(c for c in cells if c)
            shown = [
                {
                    "seconds": c.seconds,
                    "time": say.seconds_text(c.seconds),
                    "share": f"{s:.0%}" if (s := share(run, c)) is not None else "",
                    "speed": say.speed_text(first.seconds / c.seconds) if c is not first else "",
                }
                if c
                else None
                for run, c in zip(runs, cells, strict=True)
            ]
            rows.append({"layer": first.layer, "problem": problem, "kernel": kernel, "cells": shown})
    return rows


def _cautions(runs: Sequence[Run]) -> list[str]:
    """Differences other than the machine, any of which may be what a difference of times comes from."""
    found = ["The machines were measured in different runs: no interval is given for a ratio between them."]
    for what, values in (
        ("commits", {views.commit(run) for run in runs}),
        ("presets", {run.said("preset") for run in runs}),
    ):
        if len(values) > 1:
            found.append(f"They differ in their {what}: {', '.join(sorted(values))}.")
    versions: dict[str, set[str]] = {}
    for run in runs:
        for about in run.libraries.values():
            for name, version in about.items():
                versions.setdefault(name, set()).add(version)
    moved = [f"{name} ({' and '.join(sorted(v))})" for name, v in sorted(versions.items()) if len(v) > 1]
    if moved:
        found.append(f"They differ in versions of libraries: {', '.join(moved)}.")
    return found


def markdown(table: dict[str, Any]) -> list[str]:
    """The same for a Markdown page, less the cells one by one: paragraphs and tables."""
    from .markdown import code, plain

    heads = [plain(f"{h['machine']}, {h['threads']} threads") for h in table["heads"]]
    parts = ["## Which machine"]
    parts += [f"**{plain(s['name'])}**: {plain(s['sentence'])}" for s in table["scenarios"]]
    parts += [f"> {plain(caution)}" for caution in table["cautions"]]
    rows = [[plain(r["name"]), *map(plain, r["values"])] for r in table["facts"]]
    rows += [[plain(r["name"]), *(f"{c['value']} {c['note']}".strip() for c in r["cells"])] for r in table["ceilings"]]
    parts.append(tabulated(["", *heads], rows, right=1))
    for s in table["scenarios"]:
        if s["kernels"]:
            rows = [["the best of each problem", *map(_told, s["best"])]]
            rows += [[code(r["kernel"]), *map(_told, r["cells"])] for r in s["kernels"]]
            parts += [
                f"GFLOP/s over {say.plural(s['everywhere'], 'problem')} that all have measured ({s['name']}, "
                "geometric mean), the place on that machine, and the share of what its measured ceilings allow:",
                tabulated(["kernel", *heads], rows, right=1),
            ]
        rows = [[code(r["problem"]), r["ranking"], *(_winner(w, code) for w in r["winners"])] for r in s["problems"]]
        parts.append(tabulated(["problem", "ranking", *heads], rows, right=2))
    return parts


def tabulated(head: list[str], rows: list[list[str]], right: int) -> str:
    rule = ["---" if i < right else "---:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def _winner(cell: dict[str, Any] | None, code: Callable[[str], str]) -> str:
    return f"{code(cell['kernel'])} {cell['time']}" if cell else say.NOTHING


def _told(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return say.NOTHING
    place = f" #{cell['rank']}" if "rank" in cell else f" {cell['against']}".rstrip()
    return f"{cell['rate_text']}{place} ({cell['share_text']})"
