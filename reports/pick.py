"""Which kernel for my layers: the fastest that guarantees enough, by how much, how sure, and what it rests on."""

from __future__ import annotations

import difflib
import os.path
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import evidence
from benchmarks import words as say
from benchmarks.evidence import GUARANTEES
from benchmarks.problems import problem_of
from convzoo.problem import Conv2d, read_problems

from . import standing, views
from .cells import Cell, Run
from .values import Unreadable, mapping, number, sequence, text


@dataclass(frozen=True)
class Layer:
    name: str
    problem: str
    count: int


@dataclass(frozen=True)
class Wish:
    """What is asked: the layers, the weakest guarantee that will do, and how the call is made."""

    word: str
    layers: list[Layer]
    accuracy: str = "elementwise"
    scenario: str = "packed"
    flags: tuple[str, ...] = ()  # with which compare would measure the word as it was meant


def wish(word: str, runs: Sequence[Run], accuracy: str, scenario: str, layout: str | None, batch: int | None) -> Wish:
    """The layers that ``word`` names, a problem, a file, or a set that a record holds; layout and N replaced."""
    changes: dict[str, Any] = {"layout": layout} if layout else {}
    changes |= {"N": batch} if batch is not None else {}
    found = [
        replace(layer, problem=str(replace(known, **changes))) if (known := problem_of(layer.problem)) else layer
        for layer in _layers(word, runs)
    ]
    flags = [
        f
        for key, name in (("layout", "--layout"), ("N", "--batch"))
        if key in changes
        for f in (name, str(changes[key]))
    ]
    return Wish(word, found, accuracy, scenario, tuple(flags))


def _layers(word: str, runs: Sequence[Run]) -> list[Layer]:
    known = sets(runs)
    family, _, name = word.partition("/")
    file = os.path.isfile(word) and ("." in word or family not in known)  # its layers as they are now
    if not file and family in known and (chosen := [x for x in known[family] if name in ("", x.name)]):
        return chosen
    if file:
        try:
            return [Layer(n, str(p), count) for n, p, count in read_problems(Path(word))]
        except ValueError as error:
            raise Unreadable(str(error)) from None
    try:
        return [Layer(word, str(Conv2d.parse(word)), 1)]
    except ValueError as error:
        if re.match(r"n\d+c", word):  # meant as a problem
            raise Unreadable(str(error).removeprefix("conv2d: ")) from None
    near = difflib.get_close_matches(word, [*known, *(f"{s}/{x.name}" for s in known for x in known[s])], n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise Unreadable(
        f"{word} is no file, no problem such as n1c64h56w56k64r3s3-p1, and no set in these records{hint}; they "
        f"hold {', '.join(known) or 'none'}, and python -m benchmarks compare --problems SET adds one"
    )


def sets(runs: Sequence[Run]) -> dict[str, list[Layer]]:
    """The named lists of problems in the records: networks, presets, and a set that was asked for alone."""
    found: dict[str, list[Layer]] = {}
    for run in runs:
        for source in run.sources or [run]:
            for (name, _), rows in source.networks.items():
                found.setdefault(name, [Layer(a, _plain(q), n) for a, q, n in rows])
            words = [text(w) for w in sequence(source.header.get("command"))]
            rows = [row for row in sequence(source.header.get("problems")) if isinstance(row, list) and len(row) == 3]
            if {"--batch", "--layout"} & set(words) or not rows:
                continue
            name = source.said("preset") if "--problems" not in words else _only(words)
            if name and "/" not in name and not name.startswith("n1"):
                listed = [Layer(text(a), text(b), int(number(n, above=0) or 1)) for a, b, n in rows]
                found.setdefault(name, listed)
    return found


def _plain(problem: str) -> str:
    """One image, NCHW: as a set is named, whatever batch and layout a record measured it with."""
    known = problem_of(problem)
    return str(replace(known, N=1, layout="nchw")) if known else problem


def _only(words: list[str]) -> str:
    """The one word after --problems; nothing where there are several."""
    after = words[words.index("--problems") + 1 :]
    named = []
    for word in after:
        if word.startswith("-"):
            break
        named.append(word)
    return named[0] if len(named) == 1 else ""


def answer(run: Run, wanted: Wish) -> dict[str, Any]:
    """The answer of one machine, in plain values."""
    races = {race.problem: race for race in evidence.races(run.cells, wanted.scenario)}
    layers = [_layer(layer, races.get(layer.problem), wanted.accuracy) for layer in wanted.layers]
    measured = [x for x in layers if x["kernel"]]
    missing = [x for x in layers if not x["kernel"]]
    cells = {
        layer.problem: {c.kernel: c for c in races[layer.problem].ranked if evidence.keeps(c, wanted.accuracy)}
        for layer in wanted.layers
        if layer.problem in races
    }
    used = {x["record"] for x in measured}
    sources = [s for s in (run.sources or [run]) if s.name in used]
    return {
        "machine": run.machine,
        "threads": run.said("threads"),
        "suite": run.suite,
        "layers": layers,
        "network": _network(layers, cells, _weaker(wanted, races)) if len(wanted.layers) > 1 and measured else None,
        "rests_on": [
            {
                "record": s.name,
                "started": s.said("started"),
                "commit": s.said("commit"),
                "dirty": bool(s.header.get("dirty")),
            }
            for s in sources
        ],
        "cannot_tell": _doubts(run, wanted, sources, measured, missing, cells),
    }


def _layer(layer: Layer, race: evidence.Race[Cell] | None, need: str) -> dict[str, Any]:
    best = race.fastest(need) if race else None
    found: dict[str, Any] = {
        "layer": layer.name,
        "problem": layer.problem,
        "count": layer.count,
        "kernel": None,
        "tied": [],
        "next": None,
        "weaker": [],
    }
    if not race or not best:
        tried = bool(race and race.others) or bool(race and race.ranked)
        return found | {"why": "no kernel with that guarantee ran" if tried else "not measured on this machine"}
    return found | {
        "kernel": best.kernel,
        "guarantee": best.accuracy,
        "seconds": best.seconds,
        "low": best.low,
        "high": best.high,
        "confidence": best.confidence,
        "rounds": int(best.numbers["rounds"] or 0),
        "contestants": sum(evidence.keeps(c, need) for c in race.ranked),
        "tied": [c.kernel for c in race.ties(need)],
        "next": _margin(best, race.runner_up(need)),
        "weaker": [
            {"kernel": c.kernel, "guarantee": c.accuracy, "seconds": c.seconds}
            for c in race.ranked
            if not evidence.keeps(c, need) and c.seconds < best.seconds
        ],
        "record": best.source,
    }


def _margin(best: Cell, behind: Cell | None) -> dict[str, Any] | None:
    """How many times faster the best is than the first that these rounds tell from it."""
    if behind is None:
        return None
    found = evidence.summary(evidence.speeds(behind.rounds, best.rounds))
    if found is None:
        return None
    shared = len(behind.rounds.keys() & best.rounds.keys())
    return {
        "kernel": behind.kernel,
        "speed": found[0],
        "low": found[1],
        "high": found[2],
        "rounds": shared,
        "confidence": evidence.interval(range(shared))[2],
    }


def _weaker(wanted: Wish, races: dict[str, evidence.Race]) -> list[dict[str, Any]]:
    """What the best of each layer takes together where less accuracy will do, as far as that buys anything."""
    found: list[dict[str, Any]] = []
    before = None
    for weakest in range(GUARANTEES.index(wanted.accuracy), len(GUARANTEES)):
        total = 0.0
        for layer in wanted.layers:
            race = races.get(layer.problem)
            fit = [c for c in race.ranked if evidence.strength(c.accuracy) <= weakest] if race else []
            total += layer.count * fit[0].seconds if fit else 0.0
        if before is not None and total < before:
            found.append({"accuracy": GUARANTEES[weakest], "seconds": total})
        before = total
    return found


def _network(
    layers: list[dict[str, Any]], cells: dict[str, dict[str, Cell]], weaker: list[dict[str, Any]]
) -> dict[str, Any]:
    """What all measured layers cost, each as often as it occurs: with one kernel, and with the best of each."""
    measured = [x for x in layers if x["kernel"]]
    kernels = dict.fromkeys(k for x in measured for k in cells[x["problem"]])
    whole, partial = [], []
    for kernel in kernels:
        mine = [(x["count"], cells[x["problem"]].get(kernel)) for x in measured]
        have = [(n, c) for n, c in mine if c]
        if len(have) == len(mine):
            whole.append(_sum(kernel, have))
        else:
            partial.append({"kernel": kernel, "layers": len(have)})
    whole.sort(key=lambda row: (row["seconds"], row["kernel"]))
    for row in whole[1:]:
        _against(whole[0], row)
    mix = _sum("the best of each layer", [(x["count"], cells[x["problem"]][x["kernel"]]) for x in measured])
    if whole:
        _against(mix, whole[0])
    for row in (*whole, mix):
        row.pop("by_round")
    return {
        "layers": len(measured),
        "of": len(layers),
        "calls": sum(x["count"] for x in measured),
        "kernels": whole,
        "mix": mix,
        "weaker": weaker,
        "partial": sorted(partial, key=lambda row: -row["layers"]),
    }


def _sum(name: str, parts: list[tuple[int, Cell]]) -> dict[str, Any]:
    """Seconds of all parts; the interval, over rounds, only where one record holds them all."""
    row: dict[str, Any] = {
        "kernel": name,
        "seconds": sum(n * c.seconds for n, c in parts),
        "low": None,
        "high": None,
        "by_round": {},
    }
    if len({c.source for _, c in parts}) == 1:
        shared = set.intersection(*(set(c.rounds) for _, c in parts))
        row["by_round"] = {i: sum(n * c.rounds[i] for n, c in parts) for i in sorted(shared)}
        if len(shared) > 1:  # the sum of medians need not lie between the sums of rounds
            low, high, row["confidence"] = evidence.interval(row["by_round"].values())
            row["low"], row["high"] = min(low, row["seconds"]), max(high, row["seconds"])
    return row


def _against(best: dict[str, Any], row: dict[str, Any]) -> None:
    """How many times slower ``row`` is than ``best``, and whether the rounds tell them apart."""
    row["slower"] = {"than": best["kernel"], "times": row["seconds"] / best["seconds"], "told_apart": None}
    found = evidence.summary(evidence.speeds(row["by_round"], best["by_round"]))
    if found:
        row["slower"] |= {
            "low": found[1],
            "high": found[2],
            "told_apart": evidence.told_apart(row["by_round"], best["by_round"]),
        }


def _doubts(
    run: Run,
    wanted: Wish,
    sources: list[Run],
    measured: list[dict[str, Any]],
    missing: list[dict[str, Any]],
    cells: dict[str, dict[str, Cell]],
) -> list[str]:
    """What these records cannot say, one sentence each, with the command that would tell where there is one."""
    found = []
    if missing:
        words = [x["problem"] for x in missing] if len(missing) < len(wanted.layers) else [wanted.word]
        command = ["python", "-m", "benchmarks", "compare", "--problems", *words[:4]]
        command += wanted.flags if words == [wanted.word] else ()
        more = f" (and {len(words) - 4} more)" if len(words) > 4 else ""
        if wanted.scenario != "packed":
            command += ["--scenario", wanted.scenario]
        total = len(wanted.layers)
        many = f"{len(missing)} of {total} layers have" if total > 1 else "This layer has"
        found.append(f"{many} no time on {run.machine}. To measure it there: {shlex.join(command)}{more}")
    found += _near(missing, cells, run, wanted)
    if measured:
        least = min(x["confidence"] or 0 for x in measured)
        if least < 0.95:
            fewest = min(x["rounds"] for x in measured)
            gives = f"give intervals of {least:.0%} confidence" if fewest > 1 else "has no interval"
            found.append(f"{say.plural(fewest, 'round')} {gives}; 95% takes six or more.")
    for source in sources:
        found += [
            f"While {source.name} was measured: {text(w)}." for w in sequence(source.header.get("warnings")) if text(w)
        ]
        if source.header.get("dirty"):
            found.append(f"{source.name} is of a tree with uncommitted changes: no commit gives its kernels back.")
    if len(sources) > 1:
        found.append(
            f"The layers come from {len(sources)} records that were not interleaved: their sum has no interval."
        )
    if len(measured) > 1:
        found.append(
            "The sum is of convolutions alone, each timed by itself: what lies between layers (activations, "
            "changes of layout, caches filled by the layer before) is not in it. The best of each layer is chosen "
            "by these very times, which flatters its sum where kernels are close."
        )
    visible = number(mapping(run.header.get("null")).get("smallest_visible"), above=0)
    if measured and visible:
        found.append(views.noise(run))
    return found + _absent(run, wanted)


def _near(missing: list[dict[str, Any]], cells: dict[str, dict[str, Cell]], run: Run, wanted: Wish) -> list[str]:
    """Layers that were not measured, but are, but for the bias or the batch, one that was."""
    races = {race.problem: race for race in evidence.races(run.cells, wanted.scenario)}
    found = []
    for x in missing:
        known = problem_of(x["problem"])
        alone = known and replace(known, N=1, bias=True)
        for name, race in races.items():
            other = problem_of(name)
            if name in cells or race.best is None or other is None:
                continue
            if replace(other, N=1, bias=True) == alone:
                found.append(f"{x['problem']} is, but for bias or batch, {name}: there {race.best.kernel} was best.")
                break
    return found[:4]


def _absent(run: Run, wanted: Wish) -> list[str]:
    """Libraries that were asked for and could not run on the machine at all."""
    races = [r for r in evidence.races(run.cells, wanted.scenario) if r.problem in {x.problem for x in wanted.layers}]
    ran = {c.backend for race in races for c in race.ranked}
    why: dict[str, str] = {}
    for race in races:
        for c in race.others:
            if c.status == "unavailable" and c.backend not in ran:
                why.setdefault(c.backend, standing.reason(c))
    return [f"{backend} could not run there: {reason}." for backend, reason in sorted(why.items())]
