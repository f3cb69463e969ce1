"""What the page says about a machine in words: a run becomes plain dicts for the templates."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any

from benchmarks import evidence
from benchmarks import words as say
from benchmarks.evidence import Group, Winner
from benchmarks.record import errata

from . import answer, standing
from .cells import Cell, Run
from .values import mapping, number, sequence, text


def page(run: Run, number: int) -> dict[str, Any]:
    """Everything that the template says about one machine."""
    alarms = answer.alarms(run)
    return {
        "id": f"run{number}",
        "machine": run.machine,
        "label": label(run),
        "name": ", ".join(r.name for r in run.sources or [run]),
        "facts": facts(run),
        "headlines": [headline(group) for group in evidence.groups(run.cells, run.baseline)],
        "networks": networks(answer.networks(run)),
        "sentences": sentences(run),
        "notices": notices(run),
        "alarms": _grouped(alarms),
        "alarm_words": alarm_words(alarms),
        "counts": answer.counts(run),
        "reasons": _grouped(run.cells),
        "baseline": run.baseline or "none",
        "hardware": hardware(run),
        "libraries": libraries(run),
        "ceilings": ceilings(run),
        "noise": noise(run),
        "records": [record(r, alarms) for r in run.sources or [run]],
    }


def label(run: Run) -> str:
    """A machine with another number of threads is another thing to choose."""
    return f"{run.machine}, {say.plural_of(run.said('threads'), 'thread')}"


def facts(run: Run) -> list[tuple[str, str]]:
    return [
        ("date", say.date_text(run.said("started"))),
        ("commit", ", ".join(dict.fromkeys(commit(r) for r in run.sources or [run]))),
        ("threads", run.said("threads")),
        ("suite", run.said("suite")),
        ("scenario", say.listed(run.scenarios, 4).replace(", ", " and ") or "none"),
        ("preset", ", ".join(dict.fromkeys(r.said("preset") for r in run.sources or [run]))),
        ("rounds", _rounds(run)),
    ]


def _rounds(run: Run) -> str:
    found = sorted({int(c.numbers["rounds"] or 0) for c in run.cells if c.ran})
    return say.NOTHING if not found else f"{found[0]}" if len(found) == 1 else f"{found[0]} to {found[-1]}"


def headline(group: Group) -> dict[str, Any]:
    """Who won a group, by required accuracy; a weaker requirement that changes nothing has no line."""
    lines: list[dict[str, Any]] = []
    for w in group.winners:
        line = _line(w, group)
        if not lines or line["words"] != lines[-1]["words"] or line["choice"] != lines[-1]["choice"]:
            lines.append(line)
    without = say.listed([race.layer for race in group.thin], 4)
    return {
        "name": group.name,
        "problems": say.plural(len(group.races), "problem"),
        "baseline": group.baseline or "no baseline",
        "lines": lines,
        "without": f"without {without}: too few rounds to tell" if without else "",
    }


def _line(w: Winner, group: Group) -> dict[str, Any]:
    sure = w.ahead is not None and not w.ties
    words = "" if w.kernel else "no kernel with this guarantee ran on all of these problems"
    speed = f"{say.speed_text(w.speed[0])} ({evidence.ends(w.speed, w.rounds)})" if w.kernel and w.speed else ""
    if speed and w.kernel == group.baseline:
        speed = "the baseline"
    chosen = ""
    if len(w.wins) > 1 and w.chosen and (w.speed is None or w.chosen[0] > w.speed[0]):
        who = say.listed([f"{k} on {n}" for k, n in w.wins.items()], 4)
        chosen = f"{say.speed_text(w.chosen[0])} ({evidence.ends(w.chosen, w.rounds)}): {who}"
    return {
        "need": w.need,
        "kernel": w.kernel or "",
        "guarantee": w.guarantee,
        "speed": speed,
        "sure": sure,
        "margin": evidence.margin(w) if w.kernel else "",
        "choice": chosen,
        "words": words or w.kernel,
    }


def networks(found: Sequence[answer.Network]) -> list[dict[str, Any]]:
    """A table for each network, scenario and device; a weaker guarantee that buys nothing has no line."""
    tables: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for n in found:
        title = f"{n.name}, {say.plural(n.layers, 'convolution')}"
        rows = tables.setdefault((title, f"{n.device}, {n.scenario}, {n.kind}"), [])
        one, mixed = n.single, n.mixed
        row = {
            "kernel": one.kernel if one else "",
            "time": _bill(one),
            "mixed": _bill(mixed),
            "gain": say.speed_text(one.seconds[0] / mixed.seconds[0]) if one else say.NOTHING,
            "used": say.listed([f"{k} {v}" for k, v in mixed.wins.items()], 5),
        }
        if not rows or row != {k: v for k, v in rows[-1].items() if k != "need"}:
            rows.append({"need": n.need} | row)
    return [{"title": title, "name": name, "rows": rows} for (title, name), rows in tables.items()]


def _bill(bill: answer.Bill | None) -> str:
    if bill is None:
        return say.NOTHING
    middle, low, high = bill.seconds
    ends = f" ({say.time_interval(low, high)})" if low is not None else ""
    return f"{say.seconds_text(middle)}{ends}"


def record(run: Run, alarms: Sequence[Cell]) -> dict[str, Any]:
    """Where numbers came from, and how to get them again."""
    mine = [c for c in alarms if c.source == run.name]
    return {
        "name": run.name,
        "commit": commit(run),
        "command": command(run),
        "schema": run.said("schema"),
        "suite": run.said("suite"),
        "seed": seed(run),
        "check": check(run, mine),
        "failing": bool(mine),
        "date": say.date_text(run.said("started")),
    }


def commit(run: Run) -> str:
    known = run.said("commit", "unknown")
    shown = known[:10] if known != "unknown" else "unknown commit"
    return f"{shown} + uncommitted changes" if run.header.get("dirty") else shown


def sentences(run: Run) -> list[str]:
    """What the rounds of each record say together."""
    found = []
    for r in run.sources or [run]:
        if r.ended == "cut off":
            ran = sum(c.ran for c in r.cells)
            found.append(
                f"The run was cut off before it could say who won; {say.plural(ran, 'cell')} had been timed, and "
                "the medians are computed from the rounds that were kept."
            )
        found.append(evidence.closing(evidence.groups(r.cells, r.baseline), r.said("threads"), r.machine))
    return list(dict.fromkeys(found))


def notices(run: Run) -> list[str]:
    """What a reader must know before believing a number; what several records say alike is said once."""
    sources = run.sources or [run]
    said: dict[str, tuple[list[str], list[str]]] = {}
    for r in sources:
        for words in _notices(r):
            all_words, names = said.setdefault(NUMBER.sub("#", words), ([], []))
            all_words.append(words)
            names.append(r.name)
    found = [(f"{say.listed(names)}: " if len(sources) > 1 else "") + _spanned(words) for words, names in said.values()]
    if len({commit(r) for r in sources}) > 1:
        found.append(
            "These races are from records of several commits; every race is from one record, and is never "
            "mixed with another's."
        )
    return found


NUMBER = re.compile(r"\d+(?:\.\d+)?")


def _spanned(sentences: Sequence[str]) -> str:
    """Sentences that differ in their numbers alone as one, "load average 1.50 to 6.26"."""
    columns = zip(*(NUMBER.findall(words) for words in sentences), strict=True)
    spans = [(min(column, key=float), max(column, key=float)) for column in columns]
    told = iter(low if low == high else f"{low} to {high}" for low, high in spans)
    return NUMBER.sub(lambda _: next(told), sentences[0])


def _notices(run: Run) -> list[str]:
    found = []
    if run.ended == "cut off":
        found.append("The record has no end: the run was cut off. Cells whose turn had not come are missing.")
    elif run.ended != "complete":
        found.append(f"The run ended early ({run.ended}): some cells have fewer rounds than planned or none.")
    if run.header.get("dirty"):
        found.append("The tree had uncommitted changes: the commit alone does not reproduce these numbers.")
    ran = {(c.kernel, c.accuracy) for c in run.cells}
    found += [
        f"{e['kernel']} claimed {e['claimed']}, and keeps {e['keeps']}. {e['why']}"
        for e in errata()
        if run.suite in e["suites"] and (e["kernel"], e["keeps"]) in ran
    ]
    found += [f"While measuring: {text(w)}" for w in sequence(run.header.get("warnings")) if text(w)]
    return found


def alarm_words(alarms: list[Cell]) -> str:
    wrong = sum(c.group == "wrong" for c in alarms)
    parts = [say.plural(wrong, "wrong result")] if wrong else []
    for status in dict.fromkeys(c.status for c in alarms if c.group == "failed"):
        n = sum(c.status == status and c.group == "failed" for c in alarms)
        parts.append(f"{n} {status}")
    return ", ".join(parts)


def _grouped(cells: list[Cell]) -> list[dict[str, Any]]:
    return [
        {
            "group": group,
            "status": status,
            "why": why,
            "count": len(found),
            "kernels": list(dict.fromkeys(c.kernel for c in found)),
            "problems": list(dict.fromkeys(c.problem for c in found)),
        }
        for (group, status, why), found in standing.reasons(cells).items()
    ]


def hardware(run: Run) -> list[tuple[str, str]]:
    """What the record knows about the machine, flat, in its order."""
    rows = []
    for key, value in mapping(run.header.get("hardware")).items():
        name = text(key).replace("_", " ")
        if key == "memory_bytes" and (size := number(value, above=0)) is not None:
            rows.append(("memory", say.bytes_text(size)))
        elif isinstance(value, dict):
            rows.append((name, ", ".join(f"{text(k)} {text(v)}" for k, v in value.items()) or "none"))
        elif isinstance(value, list):
            gpus = [", ".join(f"{text(k)} {text(v)}" for k, v in mapping(g).items()) or text(g) for g in value]
            rows.append((name, "; ".join(gpus) or "none"))
        elif value is not None:
            rows.append((name, text(value)))
    return rows


CEILINGS = {
    "fma_gflops_per_s": "multiply-adds, GFLOP/s",
    "read_gb_per_s": "reading, GB/s",
    "copy_gb_per_s": "copying, GB/s",
}


def ceilings(run: Run) -> list[tuple[str, str]]:
    """What the machine could do at most when the run began, measured."""
    known = mapping(run.header.get("ceilings"))
    rows = []
    for key, name in CEILINGS.items():
        for threads, values in mapping(known.get(key)).items():
            told = [f"{text(k)} {v:g}" for k, x in mapping(values).items() if (v := number(x)) is not None]
            if told:
                rows.append((f"{name}, {text(threads)} threads", ", ".join(told)))
    return rows


def noise(run: Run) -> str:
    """What the null experiment of this machine says about false alarms, and about what ties may hide."""
    null = mapping(run.header.get("null"))
    seen, most, alarms, twins = (
        number(null.get(k)) for k in ("median_visible", "smallest_visible", "false_alarms", "twins")
    )
    if most is None or alarms is None or twins is None:
        return (
            "No null experiment was recorded for this machine: how often equal kernels seem to differ, and how "
            "small a difference it can show, is unknown."
        )
    half = f"a difference of {seen:.1%} shows in half of the cells, and " if seen is not None else ""
    return (
        f"Kernels timed against themselves on this machine: {alarms:.0f} of {twins:.0f} twins seemed to differ. In "
        f"{text(null.get('rounds'))} rounds {half}one of {most:.1%} in nearly all; a tie may hide a smaller one."
    )


def libraries(run: Run) -> list[tuple[str, str]]:
    return [
        (backend, ", ".join(f"{k} {v}" for k, v in about.items()) or "nothing was said")
        for backend, about in sorted(run.libraries.items())
    ]


def command(run: Run) -> str:
    words = [text(word) for word in sequence(run.header.get("command"))]
    return shlex.join(words) if words else "the command was not recorded"


def seed(run: Run) -> str:
    found = number(run.header.get("seed"))
    return "0" if found is None else f"{found:.0f}"


def check(run: Run, alarms: list[Cell]) -> str:
    """The command that judges one cell again without timing it."""
    cell = next(iter((*alarms, *run.cells)), None)
    words = [cell.kernel, cell.problem] if cell else ["KERNEL", "PROBLEM"]
    return shlex.join(["python", "-m", "benchmarks", "check", words[0], "--problems", words[1], "--seed", seed(run)])
